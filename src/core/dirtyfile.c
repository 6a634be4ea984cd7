/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The map file's format. */
#include "core/dirtyfile.h"

#include <string.h>

#include "core/dirtymap.h"
#include "util/bytes.h"
#include "util/crc.h"

#define DIRTYFILE_MAGIC 0x3150414d444e5454ull /* "TTNDMAP1" */
#define DIRTYFILE_RECORD_MAGIC 0x4c414454u    /* "TDAL" */
#define DIRTYFILE_PAGE_MAGIC 0x504d4454u      /* "TDMP" */
#define DIRTYFILE_RECORD_HOT 32u
#define DIRTYFILE_PAGE_BITS_AT 64u

uint64_t dirtyfile_region(uint64_t size)
{
	uint64_t region = DIRTYFILE_REGION;

	while (dirtyfile_regions(size, region) > DIRTYFILE_MAX_REGIONS)
		region *= 2;
	return region;
}

void dirtyfile_put_header(uint8_t *buf, const struct dirtyfile_header *h)
{
	memset(buf, 0, DIRTYFILE_UNIT);
	put_le64(buf, DIRTYFILE_MAGIC);
	put_le32(buf + 8, DIRTYFILE_VERSION);
	put_le32(buf + 12, DIRTYFILE_VERSION);
	put_le64(buf + 16, h->serial);
	put_le64(buf + 24, h->id);
	put_le64(buf + 32, h->size);
	put_le64(buf + 40, h->region);
	put_le32(buf + 48, h->block);
	put_le32(buf + DIRTYFILE_UNIT - 4, crc32c(buf, DIRTYFILE_UNIT - 4));
}

const char *dirtyfile_get_header(const uint8_t *buf, struct dirtyfile_header *ret_header)
{
	struct dirtyfile_header h = {0};

	if (get_le64(buf) != DIRTYFILE_MAGIC)
		return "it is not a map file of Tandem";
	if (get_le32(buf + DIRTYFILE_UNIT - 4) != crc32c(buf, DIRTYFILE_UNIT - 4))
		return "checksum error in its header";
	if (get_le32(buf + 12) > DIRTYFILE_VERSION)
		return "it was written by a newer version of Tandem";
	h.serial = get_le64(buf + 16);
	h.id = get_le64(buf + 24);
	h.size = get_le64(buf + 32);
	h.region = get_le64(buf + 40);
	h.block = get_le32(buf + 48);
	if (h.size > DIRTYFILE_MAX_SIZE || h.block < DIRTYMAP_MIN_BLOCK ||
		h.block > DIRTYMAP_MAX_BLOCK || (h.block & (h.block - 1)) ||
		h.region < DIRTYFILE_REGION || (h.region & (h.region - 1)) ||
		dirtyfile_regions(h.size, h.region) > DIRTYFILE_MAX_REGIONS)
		return "field out of range in its header";
	*ret_header = h;
	return NULL;
}

/* Magic at 0, at 4 the CRC of everything behind it, then serial and id. */
static void dirtyfile_seal(uint8_t *buf, uint32_t magic, uint64_t serial, uint64_t id)
{
	put_le32(buf, magic);
	put_le64(buf + 8, serial);
	put_le64(buf + 16, id);
	put_le32(buf + 4, crc32c(buf + 8, DIRTYFILE_UNIT - 8));
}

static const char *dirtyfile_open(const uint8_t *buf, uint32_t magic, uint64_t id)
{
	if (get_le32(buf) != magic)
		return "bad magic";
	if (get_le32(buf + 4) != crc32c(buf + 8, DIRTYFILE_UNIT - 8))
		return "checksum error";
	return get_le64(buf + 16) != id ? "it belongs to another file" : NULL;
}

void dirtyfile_put_record(
	uint8_t *buf, uint64_t id, uint64_t serial, const uint32_t *hot, uint32_t count)
{
	memset(buf, 0, DIRTYFILE_UNIT);
	put_le32(buf + 24, count);
	for (uint32_t i = 0; i < count; i++) {
		uint8_t *p = buf + DIRTYFILE_RECORD_HOT + i * 3;

		p[0] = (uint8_t)hot[i];
		p[1] = (uint8_t)(hot[i] >> 8);
		p[2] = (uint8_t)(hot[i] >> 16);
	}
	dirtyfile_seal(buf, DIRTYFILE_RECORD_MAGIC, serial, id);
}

const char *dirtyfile_get_record(const uint8_t *buf, uint64_t id, uint64_t regions,
	uint64_t *ret_serial, uint32_t *ret_hot, uint32_t *ret_count)
{
	const char *why = dirtyfile_open(buf, DIRTYFILE_RECORD_MAGIC, id);
	uint32_t count = get_le32(buf + 24);

	if (why)
		return why;
	if (count > DIRTYFILE_HOT)
		return "too many regions";
	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *p = buf + DIRTYFILE_RECORD_HOT + i * 3;

		ret_hot[i] = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16;
		if (ret_hot[i] >= regions)
			return "region behind the end of the volume";
	}
	*ret_serial = get_le64(buf + 8);
	*ret_count = count;
	return NULL;
}

void dirtyfile_put_page(
	uint8_t *buf, uint64_t id, uint64_t serial, uint64_t page, const uint64_t *words)
{
	memset(buf, 0, DIRTYFILE_PAGE_BITS_AT);
	put_le64(buf + 24, page);
	for (unsigned w = 0; w < DIRTYFILE_PAGE_WORDS; w++)
		put_le64(buf + DIRTYFILE_PAGE_BITS_AT + w * 8, words[w]);
	dirtyfile_seal(buf, DIRTYFILE_PAGE_MAGIC, serial, id);
}

const char *dirtyfile_get_page(
	const uint8_t *buf, uint64_t id, uint64_t page, uint64_t *ret_serial, uint64_t *ret_words)
{
	const char *why = dirtyfile_open(buf, DIRTYFILE_PAGE_MAGIC, id);

	if (why)
		return why;
	if (get_le64(buf + 24) != page)
		return "it is another page";
	for (unsigned w = 0; w < DIRTYFILE_PAGE_WORDS; w++)
		ret_words[w] = get_le64(buf + DIRTYFILE_PAGE_BITS_AT + w * 8);
	*ret_serial = get_le64(buf + 8);
	return NULL;
}
