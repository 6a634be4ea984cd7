/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Backing storage: chooses the kind by the target's form and dispatches to it.
 *
 * Keeps for all kinds: an empty request does nothing and succeeds; a read-only backing is never
 * written; extents come out merged and cover the range exactly. */
#include "replicator/backing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "replicator/backing_internal.h"
#include "util/bytes.h"

#define BACKING_ZERO_IOVS 16 /* x 64 KiB: 1 MiB of zeroes in one write */

const unsigned char backing_zeroes[BACKING_ZERO_CHUNK] __attribute__((aligned(4096)));

static bool backing_is_nbd_uri(const char *target)
{
	static const char *const schemes[] = {"nbd://", "nbds://", "nbd+unix://", "nbds+unix://"};

	for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
		if (strncmp(target, schemes[i], strlen(schemes[i])) == 0)
			return true;
	return false;
}

int backing_open(const char *target, bool writable, struct backing **ret_backing, struct error *err)
{
	struct backing *b;
	char *copy;
	int r;

	if (target[0] != '/' && !backing_is_nbd_uri(target))
		return error_set(err, ERROR_CONFIG, -EINVAL,
			"backing \"%s\" is neither an absolute path nor an NBD URI "
			"(nbd:// nbds:// nbd+unix:// nbds+unix://)",
			target);
	copy = strdup(target);
	if (!copy)
		return error_code(err, -ENOMEM, "backing %s", target);
	if (target[0] == '/')
		r = backing_file_open(target, writable, &b, err);
	else
		r = backing_nbd_open(target, writable, &b, err);
	if (r < 0) {
		free(copy);
		return r;
	}
	b->target = copy;
	b->writable = writable;
	*ret_backing = b;
	return 0;
}

struct backing *backing_free(struct backing *b)
{
	if (b) {
		char *target = b->target;

		b->ops->free(b);
		free(target);
	}
	return NULL;
}

const struct backing_info *backing_get_info(const struct backing *b)
{
	return &b->info;
}

const char *backing_target(const struct backing *b)
{
	return b->target;
}

int backing_refresh_size(struct backing *b)
{
	return b->ops->refresh_size(b);
}

void backing_identify(const struct backing *b, struct backing_identity *ret_identity)
{
	memset(ret_identity, 0, sizeof(*ret_identity));
	b->ops->identify(b, ret_identity);
}

int backing_pread(struct backing *b, void *buf, uint32_t len, uint64_t off)
{
	if (len == 0)
		return 0;
	return b->ops->pread(b, buf, len, off);
}

int backing_pwrite(struct backing *b, const void *buf, uint32_t len, uint64_t off)
{
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};

	return backing_pwritev(b, &iov, 1, off);
}

static bool backing_iov_is_empty(const struct iovec *iov, int count)
{
	for (int i = 0; i < count; i++)
		if (iov[i].iov_len > 0)
			return false;
	return true;
}

int backing_pwritev(struct backing *b, struct iovec *iov, int count, uint64_t off)
{
	if (!b->writable)
		return -EROFS;
	if (backing_iov_is_empty(iov, count))
		return 0;
	return b->ops->pwritev(b, iov, count, off);
}

int backing_zero(struct backing *b, uint64_t len, uint64_t off, unsigned flags)
{
	if (!b->writable)
		return -EROFS;
	if (len == 0)
		return 0;
	return b->ops->zero(b, len, off, flags);
}

int backing_write_zeroes(struct backing *b, uint64_t len, uint64_t off)
{
	struct iovec iov[BACKING_ZERO_IOVS];

	while (len > 0) {
		uint64_t done = 0;
		int n = 0, r;

		while (n < BACKING_ZERO_IOVS && done < len) {
			iov[n].iov_base = (void *)backing_zeroes;
			iov[n].iov_len = min_u64(len - done, BACKING_ZERO_CHUNK);
			done += iov[n].iov_len;
			n++;
		}
		r = b->ops->pwritev(b, iov, n, off);
		if (r < 0)
			return r;
		off += done;
		len -= done;
	}
	return 0;
}

int backing_flush(struct backing *b)
{
	/* A reader has nothing to make durable. */
	if (!b->writable)
		return 0;
	return b->ops->flush(b);
}

/* Holds back the last extent until it is known where it ends. */
struct backing_merge {
	backing_extent_fn fn;
	void *ctx;
	uint64_t off, len;
	bool zero;
};

static int backing_merge_add(void *ctx, uint64_t off, uint64_t len, bool zero)
{
	struct backing_merge *m = ctx;

	if (m->len > 0 && m->zero == zero) {
		m->len += len;
		return 0;
	}
	if (m->len > 0) {
		int r = m->fn(m->ctx, m->off, m->len, m->zero);

		if (r < 0)
			return r;
	}
	m->off = off;
	m->len = len;
	m->zero = zero;
	return 0;
}

int backing_extents(struct backing *b, uint64_t off, uint64_t len, backing_extent_fn fn, void *ctx)
{
	struct backing_merge m = {.fn = fn, .ctx = ctx};
	int r;

	if (len == 0)
		return 0;
	if (!b->info.can_extents)
		return fn(ctx, off, len, false);
	r = b->ops->extents(b, off, len, backing_merge_add, &m);
	if (r < 0)
		return r;
	return fn(ctx, m.off, m.len, m.zero);
}

int backing_batch_new(struct backing *b, struct backing_batch **ret_batch)
{
	struct backing_batch *batch;

	if (b->ops->batch_new)
		return b->ops->batch_new(b, ret_batch);
	batch = calloc(1, sizeof(*batch));
	if (!batch)
		return -ENOMEM;
	batch->b = b;
	*ret_batch = batch;
	return 0;
}

struct backing_batch *backing_batch_free(struct backing_batch *batch)
{
	if (batch && batch->b->ops->batch_free)
		batch->b->ops->batch_free(batch);
	else
		free(batch);
	return NULL;
}

int backing_submit_pwritev(struct backing_batch *batch, struct iovec *iov, int count, uint64_t off)
{
	if (batch->error == 0 && !batch->b->writable)
		batch->error = -EROFS;
	if (batch->error < 0 || backing_iov_is_empty(iov, count))
		return batch->error;
	if (batch->b->ops->submit_pwritev)
		return batch->b->ops->submit_pwritev(batch, iov, count, off);
	batch->error = batch->b->ops->pwritev(batch->b, iov, count, off);
	return batch->error;
}

int backing_submit_zero(struct backing_batch *batch, uint64_t len, uint64_t off, unsigned flags)
{
	int r;

	if (batch->error == 0 && !batch->b->writable)
		batch->error = -EROFS;
	if (batch->error < 0 || len == 0)
		return batch->error;
	if (batch->b->ops->submit_zero)
		r = batch->b->ops->submit_zero(batch, len, off, flags);
	else
		r = batch->b->ops->zero(batch->b, len, off, flags);
	/* A refusal is an answer, not a failure of the batch. */
	if (r < 0 && batch->error == 0 && !(r == -EOPNOTSUPP && (flags & BACKING_ZERO_FAST)))
		batch->error = r;
	return r;
}

int backing_batch_wait(struct backing_batch *batch)
{
	int r;

	if (batch->b->ops->batch_wait)
		return batch->b->ops->batch_wait(batch);
	r = batch->error;
	batch->error = 0;
	return r;
}
