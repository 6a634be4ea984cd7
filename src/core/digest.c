/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Digests in the stream. */
#include "core/digest.h"

#include <string.h>

#include "core/dirtymap.h"
#include "util/bytes.h"

#define DIGEST_FIXED 8u

void digest_put(const struct digest *d, struct record *rec, uint8_t *payload)
{
	*rec = (struct record){.type = RECORD_DIGEST,
		.flags = d->frozen ? RECORD_FLAG_FROZEN
			 : d->held ? RECORD_FLAG_HELD
				   : 0,
		.epoch = d->epoch,
		.volume = d->volume,
		.payload = DIGEST_FIXED + d->count * DIGEST_SIZE,
		.offset = d->off,
		.length = d->len};
	put_le32(payload, d->block);
	put_le32(payload + 4, 0);
	memcpy(payload + DIGEST_FIXED, d->sum, d->count * (size_t)DIGEST_SIZE);
}

/* Range and block size; both records have them. */
static const char *digest_range(const struct record *rec, const uint8_t *payload, struct digest *d)
{
	d->off = rec->offset;
	d->len = rec->length;
	d->epoch = rec->epoch;
	d->frozen = rec->flags & RECORD_FLAG_FROZEN;
	d->held = rec->flags & RECORD_FLAG_HELD;
	d->volume = rec->volume;
	d->block = rec->payload < DIGEST_FIXED ? 0 : get_le32(payload);
	if (d->block < DIRTYMAP_MIN_BLOCK || d->block > DIRTYMAP_MAX_BLOCK ||
		(d->block & (d->block - 1)) || get_le32(payload + 4) != 0)
		return "digests with a wrong block size";
	if (d->off % d->block || d->len > (uint64_t)DIGEST_BLOCKS * d->block)
		return "digests of a wrong range";
	d->count = (unsigned)((d->len + d->block - 1) / d->block);
	return NULL;
}

const char *digest_take(const struct record *rec, const uint8_t *payload, struct digest *ret_d)
{
	const char *why = digest_range(rec, payload, ret_d);

	if (why)
		return why;
	if (rec->payload != DIGEST_FIXED + ret_d->count * DIGEST_SIZE)
		return "digests of a wrong length";
	memcpy(ret_d->sum, payload + DIGEST_FIXED, ret_d->count * (size_t)DIGEST_SIZE);
	return NULL;
}

void digest_put_answer(
	const struct digest *d, uint64_t differ, struct record *rec, uint8_t *payload)
{
	*rec = (struct record){.type = RECORD_DIFFER,
		.volume = d->volume,
		.payload = DIGEST_FIXED + 8,
		.offset = d->off,
		.length = d->len};
	put_le32(payload, d->block);
	put_le32(payload + 4, 0);
	put_le64(payload + DIGEST_FIXED, differ);
}

const char *digest_take_answer(const struct record *rec, const uint8_t *payload,
	struct digest *ret_d, uint64_t *ret_differ)
{
	const char *why = digest_range(rec, payload, ret_d);

	if (why)
		return why;
	if (rec->payload != DIGEST_FIXED + 8)
		return "answer to digests of a wrong length";
	*ret_differ = get_le64(payload + DIGEST_FIXED);
	return ret_d->count < 64 && *ret_differ >> ret_d->count ? "answer for blocks not asked for"
								: NULL;
}
