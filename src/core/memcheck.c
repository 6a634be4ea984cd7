/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Digests of memory and state; the records that carry them. */
#include "core/memcheck.h"

#define XXH_INLINE_ALL /* nothing to link to, and as fast as it can be compiled */
#include <string.h>
#include <xxhash.h>

#include "util/bytes.h"

void memcheck_digest(const void *data, size_t len, const void *more, size_t more_len,
	uint8_t ret_digest[MEMCHECK_DIGEST])
{
	XXH128_canonical_t out;
	XXH3_state_t state;

	XXH3_INITSTATE(&state);
	(void)XXH3_128bits_reset(&state);
	(void)XXH3_128bits_update(&state, data, len);
	if (more_len)
		(void)XXH3_128bits_update(&state, more, more_len);
	XXH128_canonicalFromHash(&out, XXH3_128bits_digest(&state));
	memcpy(ret_digest, out.digest, MEMCHECK_DIGEST);
}

void memcheck_add(struct memcheck_result *res, uint32_t volume, uint64_t offset, uint64_t length)
{
	struct memcheck_range *last = res->nranges ? &res->ranges[res->nranges - 1] : NULL;

	res->differ += length;
	if (last && last->volume == volume && last->offset + last->length == offset)
		last->length += length;
	else if (res->nranges < MEMCHECK_RANGES)
		res->ranges[res->nranges++] = (struct memcheck_range){volume, offset, length};
}

const char *memcheck_check_record(const struct record *rec)
{
	if (rec->offset % MEMCHECK_BLOCK)
		return "digests do not begin at a block";
	if (rec->length > (uint64_t)MEMCHECK_RECORD * MEMCHECK_BLOCK ||
		rec->payload != memcheck_blocks(rec->length) * MEMCHECK_DIGEST)
		return "not as many digests as blocks";
	return NULL;
}

void memcheck_put_result(const struct memcheck_result *res, struct record *rec, uint8_t *payload)
{
	*rec = (struct record){.type = RECORD_CHECKED,
		.epoch = res->epoch,
		.offset = res->bytes,
		.length = res->differ,
		.payload = res->nranges * MEMCHECK_RANGE};
	for (unsigned i = 0; i < res->nranges; i++) {
		uint8_t *at = payload + (size_t)i * MEMCHECK_RANGE;

		put_le32(at, res->ranges[i].volume);
		put_le32(at + 4, 0);
		put_le64(at + 8, res->ranges[i].offset);
		put_le64(at + 16, res->ranges[i].length);
	}
}

const char *memcheck_take_result(
	const struct record *rec, const uint8_t *payload, struct memcheck_result *ret_res)
{
	struct memcheck_result res = {.epoch = rec->epoch, .bytes = rec->offset};

	if (rec->payload % MEMCHECK_RANGE || rec->length > rec->offset)
		return "not the result of a comparison";
	for (unsigned i = 0; i < rec->payload / MEMCHECK_RANGE; i++) {
		const uint8_t *at = payload + (size_t)i * MEMCHECK_RANGE;
		struct memcheck_range g = {get_le32(at), get_le64(at + 8), get_le64(at + 16)};

		if (get_le32(at + 4) || g.volume >= RECORD_MAX_VOLUMES || g.length == 0 ||
			g.offset > RECORD_MAX_LENGTH || g.length > rec->length - res.differ)
			return "not a range that a comparison can find";
		memcheck_add(&res, g.volume, g.offset, g.length);
	}
	if ((rec->length != 0) != (res.nranges != 0))
		return "what differs is not named";
	res.differ = rec->length;
	*ret_res = res;
	return NULL;
}
