/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Backing storage behind an NBD server: splits requests by what the server takes, makes unaligned
 * ones whole blocks, and spreads them over the connections (nbdconn.h).
 *
 * Invariant: a server that may have lost acknowledged writes makes the next flush fail. */
#include <errno.h>
#include <libnbd.h>
#include <stdlib.h>
#include <string.h>

#include "replicator/backing_nbd.h"
#include "util/bytes.h"

/* The connection with the least to do; of idle ones always the same, which keeps caches warm. */
static struct nbdconn *backing_nbd_pick(struct backing_nbd *nb, uint64_t end)
{
	struct nbdconn *best = NULL;
	unsigned least = 0;

	for (unsigned i = 0; i < nb->nconns; i++) {
		struct nbdconn *c = nb->conns[i];
		unsigned n = nbdconn_in_flight(c);

		if (!nbdconn_is_ready(c, end)) {
			if (nb->nconns > 1)
				nbdconn_revive(c);
			continue;
		}
		if (!best || n < least) {
			best = c;
			least = n;
		}
		if (n == 0)
			break;
	}
	/* The first one connects again, or says that it cannot. */
	return best ? best : nb->conns[0];
}

void backing_nbd_submit(struct backing_nbd *nb, struct nbdconn_request *r, struct nbdwait *wait)
{
	r->wait = wait;
	nbdconn_submit(backing_nbd_pick(nb, r->off + r->len), r);
}

static int backing_nbd_one(struct backing_nbd *nb, struct nbdconn_request *r)
{
	struct nbdwait wait;

	nbdwait_init(&wait);
	backing_nbd_submit(nb, r, &wait);
	nbdwait_for(&wait, 1);
	return r->result;
}

/* Sends the n requests and waits for them all; the first error by position. */
static int backing_nbd_many(struct backing_nbd *nb, struct nbdconn_request *r, unsigned n)
{
	struct nbdwait wait;

	nbdwait_init(&wait);
	for (unsigned i = 0; i < n; i++)
		backing_nbd_submit(nb, &r[i], &wait);
	nbdwait_for(&wait, n);
	for (unsigned i = 0; i < n; i++)
		if (r[i].result < 0)
			return r[i].result;
	return 0;
}

/* The vector in pieces that the server takes; all boundaries are aligned. */
static int backing_nbd_transfer(struct backing_nbd *nb, enum nbdconn_op op, const struct iovec *iov,
	int count, uint64_t off)
{
	struct nbdconn_request r[BACKING_NBD_WINDOW];
	size_t skip = 0;

	while (count > 0) {
		unsigned n = 0;
		int e;

		while (count > 0 && n < BACKING_NBD_WINDOW) {
			uint64_t len = min_u64(iov->iov_len - skip, nb->shared.caps.block_max);

			if (len > 0) {
				r[n++] = (struct nbdconn_request){
					.op = op,
					.buf = (char *)iov->iov_base + skip,
					.len = len,
					.off = off,
				};
				off += len;
				skip += len;
			}
			if (skip == iov->iov_len) {
				iov++;
				count--;
				skip = 0;
			}
		}
		e = n == 1 ? backing_nbd_one(nb, r) : backing_nbd_many(nb, r, n);
		if (e < 0)
			return e;
	}
	return 0;
}

static int backing_nbd_transfer_one(
	struct backing_nbd *nb, enum nbdconn_op op, void *buf, uint64_t len, uint64_t off)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};

	return backing_nbd_transfer(nb, op, &iov, 1, off);
}

/* A part of one block.  The lock keeps two such writes in one block from undoing each other; a
 * write of the whole block at the same time would overlap this one, which the caller prevents. */
static int backing_nbd_partial(
	struct backing_nbd *nb, enum nbdconn_op op, void *buf, uint32_t len, uint64_t off)
{
	uint32_t block = nb->shared.caps.block_min;
	uint64_t start = round_down(off, block);
	struct backing_nbd_bounce *bounce = &nb->bounces[start / block % BACKING_NBD_BOUNCES];
	uint32_t size = (uint32_t)min_u64(block, atomic_load(&nb->base.info.size) - start);
	int r;

	pthread_mutex_lock(&bounce->lock);
	r = backing_nbd_transfer_one(nb, NBDCONN_READ, bounce->block, size, start);
	if (r == 0 && op == NBDCONN_READ)
		memcpy(buf, bounce->block + (off - start), len);
	if (r == 0 && op == NBDCONN_WRITE) {
		memcpy(bounce->block + (off - start), buf, len);
		r = backing_nbd_transfer_one(nb, NBDCONN_WRITE, bounce->block, size, start);
	}
	pthread_mutex_unlock(&bounce->lock);
	return r;
}

static int backing_nbd_any(
	struct backing_nbd *nb, enum nbdconn_op op, void *buf, uint64_t len, uint64_t off)
{
	uint32_t block = nb->shared.caps.block_min;
	char *p = buf;
	int r;

	while (len > 0) {
		uint64_t n = round_down(len, block);

		if (off % block != 0 || n == 0) {
			n = min_u64(len, block - off % block);
			r = backing_nbd_partial(nb, op, p, (uint32_t)n, off);
		} else {
			r = backing_nbd_transfer_one(nb, op, p, n, off);
		}
		if (r < 0)
			return r;
		p += n;
		off += n;
		len -= n;
	}
	return 0;
}

bool backing_nbd_is_aligned(
	const struct backing_nbd *nb, const struct iovec *iov, int count, uint64_t off)
{
	uint64_t bits = off;

	for (int i = 0; i < count; i++)
		bits |= iov[i].iov_len;
	return (bits & (nb->shared.caps.block_min - 1)) == 0;
}

int backing_nbd_pread(struct backing *b, void *buf, uint32_t len, uint64_t off)
{
	return backing_nbd_any(backing_nbd_of(b), NBDCONN_READ, buf, len, off);
}

int backing_nbd_pwritev(struct backing *b, struct iovec *iov, int count, uint64_t off)
{
	struct backing_nbd *nb = backing_nbd_of(b);

	if (backing_nbd_is_aligned(nb, iov, count, off))
		return backing_nbd_transfer(nb, NBDCONN_WRITE, iov, count, off);
	for (int i = 0; i < count; i++) {
		int r = backing_nbd_any(nb, NBDCONN_WRITE, iov[i].iov_base, iov[i].iov_len, off);

		if (r < 0)
			return r;
		off += iov[i].iov_len;
	}
	return 0;
}

static int backing_nbd_zero_blocks(
	struct backing_nbd *nb, uint64_t len, uint64_t off, unsigned flags)
{
	while (len > 0) {
		struct nbdconn_request r = {
			.op = NBDCONN_ZERO,
			.flags = flags & BACKING_ZERO_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE,
			.len = min_u64(len, BACKING_NBD_ZERO_CHUNK),
			.off = off,
		};
		int e = backing_nbd_one(nb, &r);

		if (e == -EOPNOTSUPP || e == -EINVAL)
			e = backing_write_zeroes(&nb->base, r.len, r.off);
		if (e < 0)
			return e;
		off += r.len;
		len -= r.len;
	}
	return 0;
}

int backing_nbd_zero(struct backing *b, uint64_t len, uint64_t off, unsigned flags)
{
	struct backing_nbd *nb = backing_nbd_of(b);
	uint64_t start = round_up(off, nb->shared.caps.block_min);
	uint64_t end = round_down(off + len, nb->shared.caps.block_min);
	int r;

	/* Never passed on: qemu-nbd has zeroed a part of the range when it refuses (seen with 7.2
	 * and qcow2), and a refused one must not have changed anything. */
	if (flags & BACKING_ZERO_FAST)
		return -EOPNOTSUPP;
	if (!nb->shared.caps.can_zero || start >= end)
		return backing_write_zeroes(b, len, off);
	r = backing_nbd_zero_blocks(nb, end - start, start, flags);
	if (r == 0 && start > off)
		r = backing_write_zeroes(b, start - off, off);
	if (r == 0 && off + len > end)
		r = backing_write_zeroes(b, off + len - end, end);
	return r;
}

/* Each connection that carried writes is asked, although the server said that a flush of one covers
 * all: the others may be to a server that is no longer there, which nobody has noticed yet (a host
 * that lost power says nothing), while this one is to its successor. */
static int backing_nbd_flush_all(struct backing_nbd *nb)
{
	struct nbdconn_request r[BACKING_NBD_CONNECTIONS];
	uint64_t writes[BACKING_NBD_CONNECTIONS];
	struct nbdconn *conns[BACKING_NBD_CONNECTIONS];
	struct nbdwait wait;
	unsigned n = 0;
	int e = 0;

	nbdwait_init(&wait);
	for (unsigned i = 0; i < nb->nconns; i++) {
		if (!nbdconn_get_unflushed(nb->conns[i], &writes[n]))
			continue;
		conns[n] = nb->conns[i];
		r[n] = (struct nbdconn_request){.op = NBDCONN_FLUSH, .wait = &wait};
		nbdconn_submit(conns[n], &r[n]);
		n++;
	}
	nbdwait_for(&wait, n);
	for (unsigned i = 0; i < n; i++) {
		if (r[i].result == 0)
			nbdconn_set_flushed(conns[i], writes[i]);
		else if (e == 0)
			e = r[i].result;
	}
	if (n > 0)
		return e;
	/* What an earlier owner of the image left volatile is flushed as well. */
	r[0] = (struct nbdconn_request){.op = NBDCONN_FLUSH};
	return backing_nbd_one(nb, &r[0]);
}

int backing_nbd_flush(struct backing *b)
{
	struct backing_nbd *nb = backing_nbd_of(b);
	uint64_t losses = atomic_load(&nb->shared.losses);
	uint64_t writes = atomic_load(&nb->shared.writes);
	int e = 0;

	if (losses != atomic_load(&nb->losses_told)) {
		e = -EIO;
	} else {
		/* A server without flush has nothing volatile. */
		if (nb->shared.caps.can_flush)
			e = backing_nbd_flush_all(nb);
		/* Lost and found again in between: what we flushed may be another's cache.  A
		 * connection counts its loss before it forgets its writes, so it is seen here. */
		if (e == 0 && losses != atomic_load(&nb->shared.losses))
			e = -EIO;
	}
	if (e < 0)
		atomic_store(&nb->losses_told, atomic_load(&nb->shared.losses));
	/* After a failure too: it has been told that those are not to be relied on. */
	nbdconn_note_flushed(&nb->shared, writes);
	return e;
}

/* One answer of the server, cut to [off, end); ret_next is where it ended. */
static int backing_nbd_tell_extents(const struct nbdconn_request *r, uint64_t off, uint64_t end,
	backing_extent_fn fn, void *ctx, uint64_t *ret_next)
{
	uint64_t at = r->off;

	for (uint32_t i = 0; i < r->nextents && at < end; i++) {
		uint64_t stop = min_u64(at + r->extents[2 * i], end);

		if (stop > off) {
			uint64_t from = max_u64(at, off);
			bool zero = r->extents[2 * i + 1] & LIBNBD_STATE_ZERO;
			int e = fn(ctx, from, stop - from, zero);

			if (e < 0)
				return e;
		}
		at = stop;
	}
	*ret_next = at;
	return 0;
}

int backing_nbd_extents(
	struct backing *b, uint64_t off, uint64_t len, backing_extent_fn fn, void *ctx)
{
	struct backing_nbd *nb = backing_nbd_of(b);
	uint32_t extents[2 * NBDCONN_EXTENTS];
	uint32_t block = nb->shared.caps.block_min;
	uint64_t end = off + len;

	while (off < end) {
		struct nbdconn_request r = {
			.op = NBDCONN_STATUS, .off = round_down(off, block), .extents = extents};
		uint64_t next = 0;
		int e;

		r.len = round_up(min_u64(end - r.off, BACKING_NBD_STATUS_CHUNK), block);
		r.len = min_u64(r.len, atomic_load(&b->info.size) - r.off);
		e = backing_nbd_one(nb, &r);
		if (e == 0)
			e = backing_nbd_tell_extents(&r, off, end, fn, ctx, &next);
		if (e < 0)
			return e;
		if (next <= off)
			return -EPROTO; /* an answer that tells nothing */
		off = next;
	}
	return 0;
}
