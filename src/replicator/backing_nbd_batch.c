/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Many NBD requests in flight from one thread.
 *
 * A slot is free, or holds a request that is the connection's until its `done` is set.  A vector of
 * small pieces is gathered in the slot's buffer and sent as one request: a server's cost is per
 * request. */
#include <errno.h>
#include <libnbd.h>
#include <stdlib.h>
#include <string.h>

#include "replicator/backing_nbd.h"
#include "util/bytes.h"

#define BATCH_SLOTS 64
#define BATCH_GATHER (256u << 10)

struct batch_slot {
	struct nbdconn_request r;
	bool used;
	unsigned char *gather; /* BATCH_GATHER bytes once needed, kept until the batch is freed */
};

struct batch {
	struct backing_batch base;
	struct nbdwait wait;
	uint32_t submitted; /* since the last wait */
	unsigned next;      /* slot to look at first: the oldest */
	struct batch_slot slots[BATCH_SLOTS];
};

static struct backing_nbd *batch_backing(struct batch *batch)
{
	return (struct backing_nbd *)batch->base.b;
}

int backing_nbd_batch_new(struct backing *b, struct backing_batch **ret_batch)
{
	struct batch *batch = calloc(1, sizeof(*batch));

	if (!batch)
		return -ENOMEM;
	batch->base.b = b;
	nbdwait_init(&batch->wait);
	*ret_batch = &batch->base;
	return 0;
}

/* Takes the result of a request that is done. */
static void batch_reap(struct batch *batch, struct batch_slot *slot)
{
	int r = slot->r.result;

	slot->used = false;
	/* The server says that it can zero, but not this. */
	if (slot->r.op == NBDCONN_ZERO && (r == -EOPNOTSUPP || r == -EINVAL))
		r = backing_write_zeroes(batch->base.b, slot->r.len, slot->r.off);
	if (r < 0 && batch->base.error == 0)
		batch->base.error = r;
}

static struct batch_slot *batch_get_slot(struct batch *batch)
{
	for (;;) {
		for (unsigned i = 0; i < BATCH_SLOTS; i++) {
			struct batch_slot *slot = &batch->slots[(batch->next + i) % BATCH_SLOTS];

			if (slot->used &&
				!atomic_load_explicit(&slot->r.done, memory_order_acquire))
				continue;
			if (slot->used)
				batch_reap(batch, slot);
			batch->next = (batch->next + i + 1) % BATCH_SLOTS;
			return slot;
		}
		/* All are in flight, so one more completion frees one. */
		nbdwait_for(&batch->wait, batch->submitted - BATCH_SLOTS + 1);
	}
}

static void batch_submit(struct batch *batch, struct batch_slot *slot, enum nbdconn_op op,
	unsigned flags, void *buf, uint64_t len, uint64_t off)
{
	slot->r = (struct nbdconn_request){
		.op = op, .flags = flags, .buf = buf, .len = len, .off = off};
	slot->used = true;
	batch->submitted++;
	backing_nbd_submit(batch_backing(batch), &slot->r, &batch->wait);
}

/* True if the vector was small enough to be sent as one. */
static bool batch_gather(
	struct batch *batch, const struct iovec *iov, int count, uint64_t total, uint64_t off)
{
	struct batch_slot *slot;
	unsigned char *p;

	if (count == 1 || total > BATCH_GATHER ||
		total > batch_backing(batch)->shared.caps.block_max)
		return false;
	slot = batch_get_slot(batch);
	if (!slot->gather)
		slot->gather = malloc(BATCH_GATHER);
	if (!slot->gather)
		return false;
	p = slot->gather;
	for (int i = 0; i < count; i++) {
		memcpy(p, iov[i].iov_base, iov[i].iov_len);
		p += iov[i].iov_len;
	}
	batch_submit(batch, slot, NBDCONN_WRITE, 0, slot->gather, total, off);
	return true;
}

int backing_nbd_batch_pwritev(
	struct backing_batch *base, struct iovec *iov, int count, uint64_t off)
{
	struct batch *batch = (struct batch *)base;
	struct backing_nbd *nb = batch_backing(batch);
	uint64_t total = 0;

	for (int i = 0; i < count; i++)
		total += iov[i].iov_len;
	if (((off | total) & (nb->shared.caps.block_min - 1)) == 0 &&
		batch_gather(batch, iov, count, total, off))
		return base->error;
	if (!backing_nbd_is_aligned(nb, iov, count, off)) {
		int r = base->b->ops->pwritev(base->b, iov, count, off);

		if (r < 0 && base->error == 0)
			base->error = r;
		return base->error;
	}
	for (int i = 0; i < count && base->error == 0; i++) {
		char *p = iov[i].iov_base;
		uint64_t left = iov[i].iov_len;

		while (left > 0) {
			uint64_t n = min_u64(left, nb->shared.caps.block_max);

			batch_submit(batch, batch_get_slot(batch), NBDCONN_WRITE, 0, p, n, off);
			p += n;
			off += n;
			left -= n;
		}
	}
	return base->error;
}

int backing_nbd_batch_zero(struct backing_batch *base, uint64_t len, uint64_t off, unsigned flags)
{
	struct batch *batch = (struct batch *)base;
	struct backing_nbd *nb = batch_backing(batch);
	unsigned hole = flags & BACKING_ZERO_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE;

	/* A refusal must come at once, and parts of blocks are rare. */
	if (!nb->shared.caps.can_zero || (flags & BACKING_ZERO_FAST) ||
		((off | len) & (nb->shared.caps.block_min - 1)) != 0)
		return backing_nbd_zero(base->b, len, off, flags);
	while (len > 0 && base->error == 0) {
		uint64_t n = min_u64(len, BACKING_NBD_ZERO_CHUNK);

		batch_submit(batch, batch_get_slot(batch), NBDCONN_ZERO, hole, NULL, n, off);
		off += n;
		len -= n;
	}
	return base->error;
}

int backing_nbd_batch_wait(struct backing_batch *base)
{
	struct batch *batch = (struct batch *)base;
	int r;

	nbdwait_for(&batch->wait, batch->submitted);
	for (unsigned i = 0; i < BATCH_SLOTS; i++)
		if (batch->slots[i].used)
			batch_reap(batch, &batch->slots[i]);
	nbdwait_init(&batch->wait);
	batch->submitted = 0;
	r = base->error;
	base->error = 0;
	return r;
}

void backing_nbd_batch_free(struct backing_batch *base)
{
	struct batch *batch = (struct batch *)base;

	(void)backing_nbd_batch_wait(base);
	for (unsigned i = 0; i < BATCH_SLOTS; i++)
		free(batch->slots[i].gather);
	free(batch);
}
