/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Digests of blocks, made and compared. */
#include "replicator/compare.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <string.h>

#include "util/bytes.h"

int compare_digest(struct digest *d, unsigned first, const uint8_t *data, uint64_t len)
{
	for (uint64_t at = 0; at < len; at += d->block, first++) {
		uint8_t sum[32];

		if (gnutls_hash_fast(
			    GNUTLS_DIG_SHA256, data + at, min_u64(d->block, len - at), sum) < 0)
			return -EIO;
		memcpy(d->sum[first], sum, DIGEST_SIZE);
	}
	return 0;
}

int compare_image(const struct digest *d,
	int (*read_fn)(void *ctx, uint64_t off, uint32_t len, uint8_t *buf), void *ctx,
	uint8_t *buf, uint64_t *ret_differ)
{
	struct digest own = *d;
	int r = 0;

	for (uint64_t at = 0; r == 0 && at < d->len; at += RECORD_MAX_PAYLOAD) {
		uint64_t n = min_u64(RECORD_MAX_PAYLOAD, d->len - at);

		r = read_fn(ctx, d->off + at, (uint32_t)n, buf);
		if (r == 0)
			r = compare_digest(&own, (unsigned)(at / d->block), buf, n);
	}
	*ret_differ = 0;
	for (unsigned i = 0; i < d->count; i++)
		if (memcmp(own.sum[i], d->sum[i], DIGEST_SIZE) != 0)
			*ret_differ |= 1ull << i;
	return r;
}
