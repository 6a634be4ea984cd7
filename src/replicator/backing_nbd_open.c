/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opens and closes the NBD backing with its connections, and asks for a new size. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "replicator/backing_nbd.h"

static int backing_nbd_refresh_size(struct backing *b)
{
	struct backing_nbd *nb = backing_nbd_of(b);

	/* A connection keeps the size that it was told first. */
	for (unsigned i = 0; i < nb->nconns; i++) {
		struct nbdconn_request r = {.op = NBDCONN_RENEW};
		struct nbdwait wait;

		if (i > 0 && !nbdconn_is_ready(nb->conns[i], 0))
			continue;
		nbdwait_init(&wait);
		r.wait = &wait;
		nbdconn_submit(nb->conns[i], &r);
		nbdwait_for(&wait, 1);
		if (i == 0 && r.result < 0)
			return r.result;
	}
	atomic_store(&nb->shared.size, nbdconn_size(nb->conns[0]));
	b->info.size = nbdconn_size(nb->conns[0]);
	return 0;
}

static void backing_nbd_identify(const struct backing *b, struct backing_identity *ret_identity)
{
	ret_identity->kind = 3;
}

static void backing_nbd_free(struct backing *b)
{
	struct backing_nbd *nb = backing_nbd_of(b);

	for (unsigned i = 0; i < nb->nconns; i++)
		nbdconn_free(nb->conns[i]);
	for (unsigned i = 0; i < BACKING_NBD_BOUNCES; i++) {
		pthread_mutex_destroy(&nb->bounces[i].lock);
		free(nb->bounces[i].block);
	}
	free(nb->uri);
	free(nb);
}

static const struct backing_ops backing_nbd_ops = {
	.free = backing_nbd_free,
	.refresh_size = backing_nbd_refresh_size,
	.identify = backing_nbd_identify,
	.pread = backing_nbd_pread,
	.pwritev = backing_nbd_pwritev,
	.zero = backing_nbd_zero,
	.flush = backing_nbd_flush,
	.extents = backing_nbd_extents,
	.batch_new = backing_nbd_batch_new,
	.batch_free = backing_nbd_batch_free,
	.submit_pwritev = backing_nbd_batch_pwritev,
	.submit_zero = backing_nbd_batch_zero,
	.batch_wait = backing_nbd_batch_wait,
};

static int backing_nbd_fill_info(struct backing_nbd *nb)
{
	const struct nbdconn_caps *caps = &nb->shared.caps;
	struct backing_info *info = &nb->base.info;

	info->size = caps->size;
	info->block_min = caps->block_min;
	info->block_preferred = caps->block_preferred;
	info->rotational = caps->rotational;
	info->can_unmap = caps->can_zero; /* whether it frees space, no server says */
	info->can_extents = caps->can_extents;
	if (caps->block_min == 1)
		return 0;
	for (unsigned i = 0; i < BACKING_NBD_BOUNCES; i++) {
		nb->bounces[i].block = malloc(caps->block_min);
		if (!nb->bounces[i].block)
			return -ENOMEM;
	}
	return 0;
}

int backing_nbd_open(
	const char *uri, bool writable, struct backing **ret_backing, struct error *err)
{
	struct backing_nbd *nb = calloc(1, sizeof(*nb));
	int r;

	if (!nb)
		return error_code(err, -ENOMEM, "backing %s", uri);
	for (unsigned i = 0; i < BACKING_NBD_BOUNCES; i++)
		pthread_mutex_init(&nb->bounces[i].lock, NULL);
	nb->base.ops = &backing_nbd_ops;
	nb->uri = strdup(uri);
	nb->shared.uri = nb->uri;
	nb->shared.writable = writable;
	if (!nb->uri) {
		r = error_code(err, -ENOMEM, "backing %s", uri);
		goto fail;
	}
	r = nbdconn_new(&nb->shared, 0, &nb->conns[0], err);
	if (r < 0)
		goto fail;
	nb->nconns = 1;
	r = backing_nbd_fill_info(nb);
	if (r < 0) {
		(void)error_code(err, r, "backing %s", uri);
		goto fail;
	}
	while (nb->shared.caps.multi_conn && nb->nconns < BACKING_NBD_CONNECTIONS) {
		r = nbdconn_new(&nb->shared, nb->nconns, &nb->conns[nb->nconns], err);
		if (r < 0)
			goto fail;
		nb->nconns++;
	}
	*ret_backing = &nb->base;
	return 0;
fail:
	backing_nbd_free(&nb->base);
	return r;
}
