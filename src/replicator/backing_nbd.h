/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared by the parts of the NBD backing: its life (backing_nbd_open.c), single requests
 * (backing_nbd.c) and batches (backing_nbd_batch.c). */
#ifndef TANDEM_REPLICATOR_BACKING_NBD_H
#define TANDEM_REPLICATOR_BACKING_NBD_H

#include <pthread.h>

#include "replicator/backing_internal.h"
#include "replicator/nbdconn.h"

#define BACKING_NBD_CONNECTIONS 4
#define BACKING_NBD_WINDOW 16  /* pieces of one request in flight */
#define BACKING_NBD_BOUNCES 16 /* locks of blocks that are written in part */
/* Both far below 4 GiB, so that one command never keeps a server for long. */
#define BACKING_NBD_ZERO_CHUNK (128ull << 20)
#define BACKING_NBD_STATUS_CHUNK (1ull << 30)

struct backing_nbd_bounce {
	pthread_mutex_t lock;
	unsigned char *block; /* of block_min bytes; NULL where that is 1 */
};

struct backing_nbd {
	struct backing base;
	char *uri;
	struct nbdconn_shared shared;
	struct nbdconn *conns[BACKING_NBD_CONNECTIONS];
	unsigned nconns;
	_Atomic uint64_t losses_told; /* of shared.losses, by a failed flush */
	/* By number of the block.  Never two at a time; nbdconn's lock is taken inside. */
	struct backing_nbd_bounce bounces[BACKING_NBD_BOUNCES];
};

static inline struct backing_nbd *backing_nbd_of(struct backing *b)
{
	return (struct backing_nbd *)b;
}

/* Hands r to the best connection; its end is told to wait. */
void backing_nbd_submit(struct backing_nbd *nb, struct nbdconn_request *r, struct nbdwait *wait);
bool backing_nbd_is_aligned(
	const struct backing_nbd *nb, const struct iovec *iov, int count, uint64_t off);

int backing_nbd_pread(struct backing *b, void *buf, uint32_t len, uint64_t off);
int backing_nbd_pwritev(struct backing *b, struct iovec *iov, int count, uint64_t off);
int backing_nbd_flush(struct backing *b);
int backing_nbd_extents(
	struct backing *b, uint64_t off, uint64_t len, backing_extent_fn fn, void *ctx);
int backing_nbd_zero(struct backing *b, uint64_t len, uint64_t off, unsigned flags);

int backing_nbd_batch_new(struct backing *b, struct backing_batch **ret_batch);
void backing_nbd_batch_free(struct backing_batch *batch);
int backing_nbd_batch_pwritev(
	struct backing_batch *batch, struct iovec *iov, int count, uint64_t off);
int backing_nbd_batch_zero(struct backing_batch *batch, uint64_t len, uint64_t off, unsigned flags);
int backing_nbd_batch_wait(struct backing_batch *batch);

#endif
