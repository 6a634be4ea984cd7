/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Makes a connection to an NBD server, in a bounded time, and decides whether what the server
 * offers will do: a server that came back must offer at least what it did when the backing was
 * opened. */
#include <errno.h>
#include <string.h>

#include "replicator/nbdconn_internal.h"
#include "util/bytes.h"

#define NBDCONN_BLOCK_LIMIT 65536       /* of the smallest block, by the NBD specification */
#define NBDCONN_MAX_REQUEST (32u << 20) /* what every server takes; more gains nothing */

static uint32_t nbdconn_block_size(struct nbd_handle *h, int kind, uint32_t fallback)
{
	int64_t v = nbd_get_block_size(h, kind);

	if (v <= 0)
		return fallback;
	return v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
}

static int nbdconn_read_caps(
	struct nbdconn *c, struct nbd_handle *h, struct nbdconn_caps *ret_caps, struct error *err)
{
	struct nbdconn_caps caps = {
		.block_min = nbdconn_block_size(h, LIBNBD_SIZE_MINIMUM, 1),
		.block_preferred = nbdconn_block_size(h, LIBNBD_SIZE_PREFERRED, 4096),
		.block_max = nbdconn_block_size(h, LIBNBD_SIZE_MAXIMUM, NBDCONN_MAX_REQUEST),
		.read_only = nbd_is_read_only(h) > 0,
		.rotational = nbd_is_rotational(h) > 0,
		.multi_conn = nbd_can_multi_conn(h) > 0,
		.can_zero = nbd_can_zero(h) > 0,
		.can_flush = nbd_can_flush(h) > 0,
		.can_extents = nbd_can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0,
	};
	int64_t size = nbd_get_size(h);

	if (size < 0)
		return error_set(
			err, ERROR_IO, -EIO, "backing %s: %s", c->shared->uri, nbd_get_error());
	caps.size = (uint64_t)size;
	if (caps.block_min > NBDCONN_BLOCK_LIMIT || (caps.block_min & (caps.block_min - 1)) != 0 ||
		caps.block_max < caps.block_min)
		return error_set(err, ERROR_IO, -EPROTO,
			"backing %s: the server's block sizes make no sense (smallest %u, largest "
			"%u)",
			c->shared->uri, caps.block_min, caps.block_max);
	if (caps.block_max > NBDCONN_MAX_REQUEST)
		caps.block_max = NBDCONN_MAX_REQUEST;
	caps.block_max = (uint32_t)round_down(caps.block_max, caps.block_min);
	caps.block_preferred = (uint32_t)max_u64(caps.block_preferred, caps.block_min);
	*ret_caps = caps;
	return 0;
}

/* What the server offers less than it did, or NULL. */
static const char *nbdconn_missing(const struct nbdconn_caps *was, const struct nbdconn_caps *now)
{
	if (now->block_min > was->block_min)
		return "its smallest block has grown";
	if (now->block_max < was->block_max)
		return "its largest request has shrunk";
	if (was->can_zero && !now->can_zero)
		return "it can no longer write zeroes";
	if (was->can_flush && !now->can_flush)
		return "it can no longer flush";
	if (was->can_extents && !now->can_extents)
		return "it no longer tells extents";
	if (was->multi_conn && !now->multi_conn)
		return "it no longer takes several connections";
	return NULL;
}

static int nbdconn_check(struct nbdconn *c, struct nbd_handle *h, struct error *err)
{
	struct nbdconn_shared *s = c->shared;
	struct nbdconn_caps caps;
	const char *missing;
	int r = nbdconn_read_caps(c, h, &caps, err);

	if (r < 0)
		return r;
	if (s->writable && caps.read_only)
		return error_set(
			err, ERROR_IO, -EROFS, "backing %s: the export is read-only", s->uri);
	if (s->caps.block_max == 0) {
		/* The first connection, with no other thread yet. */
		s->caps = caps;
		atomic_store(&s->size, caps.size);
	}
	missing = nbdconn_missing(&s->caps, &caps);
	if (missing)
		return error_set(err, ERROR_IO, -EIO, "backing %s: the server has changed: %s",
			s->uri, missing);
	if (caps.size < atomic_load(&s->size))
		return error_set(err, ERROR_IO, -EIO,
			"backing %s: the export has shrunk from %llu to %llu bytes", s->uri,
			(unsigned long long)atomic_load(&s->size), (unsigned long long)caps.size);
	atomic_store(&c->size, caps.size);
	return 0;
}

static bool nbdconn_is_stopping(struct nbdconn *c)
{
	bool stop;

	pthread_mutex_lock(&c->lock);
	stop = c->stop;
	pthread_mutex_unlock(&c->lock);
	return stop;
}

static int nbdconn_negotiate(struct nbdconn *c, struct error *err)
{
	uint64_t end = clock_ns() + NBDCONN_CONNECT_NS;

	while (nbd_aio_is_connecting(c->h) || nbd_aio_is_negotiating(c->h)) {
		uint64_t now = clock_ns();

		if (now >= end)
			return error_set(err, ERROR_IO, -ETIMEDOUT,
				"backing %s: cannot connect: no answer in %llu seconds",
				c->shared->uri, NBDCONN_CONNECT_NS / NS_PER_S);
		if (nbdconn_is_stopping(c))
			return error_set(
				err, ERROR_IO, -ECANCELED, "backing %s: closed", c->shared->uri);
		if (nbdconn_step(c, (int)((end - now) / NS_PER_MS) + 1) < 0)
			break;
	}
	if (!nbd_aio_is_ready(c->h)) {
		int e = nbd_get_errno();

		return error_set(err, ERROR_IO, e ? -e : -EIO, "backing %s: cannot connect: %s",
			c->shared->uri, nbd_get_error() ? nbd_get_error() : "the server hung up");
	}
	return nbdconn_check(c, c->h, err);
}

int nbdconn_connect(struct nbdconn *c, struct error *err)
{
	struct nbd_handle *h = nbd_create();
	int r;

	if (!h)
		return error_set(
			err, ERROR_IO, -ENOMEM, "backing %s: %s", c->shared->uri, nbd_get_error());
	/* The URI may name a file of TLS keys; it comes from the configuration, not from a peer. */
	(void)nbd_set_uri_allow_local_file(h, true);
	(void)nbd_set_uri_allow_transports(
		h, LIBNBD_ALLOW_TRANSPORT_TCP | LIBNBD_ALLOW_TRANSPORT_UNIX);
	(void)nbd_add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION);
	/* The end of an export that is no whole block: whether it can be reached, the server knows.
	 */
	(void)nbd_set_strict_mode(h, nbd_get_strict_mode(h) & ~LIBNBD_STRICT_ALIGN);
	/* Read buffers are the caller's and are not looked at after an error. */
	(void)nbd_set_pread_initialize(h, false);
	if (nbd_aio_connect_uri(h, c->shared->uri) < 0) {
		int e = nbd_get_errno();

		r = error_set(err, ERROR_IO, e ? -e : -EIO, "backing %s: cannot connect: %s",
			c->shared->uri, nbd_get_error());
		nbd_close(h);
		return r;
	}
	c->h = h;
	c->lost = false;
	r = nbdconn_negotiate(c, err);
	if (r < 0) {
		nbd_close(h);
		c->h = NULL;
		return r;
	}
	atomic_store(&c->ready, true);
	return 0;
}
