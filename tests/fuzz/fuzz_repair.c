/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Makes bytes into records that pass their checksums; see fuzz.h. */
#include <string.h>

#include "core/record.h"
#include "fuzz.h"
#include "util/bytes.h"
#include "util/crc.h"

uint64_t fuzz_random(struct fuzz_random *r, uint64_t below)
{
	r->state = r->state * 6364136223846793005ull + 1442695040888963407ull;
	return (r->state >> 33) % below;
}

size_t fuzz_repair_record(uint8_t *buf, size_t len)
{
	uint64_t payload;
	size_t size;

	if (len < RECORD_HEADER_SIZE)
		return 0;
	payload = get_le32(buf + 12);
	payload = min_u64(payload, RECORD_MAX_PAYLOAD);
	payload = min_u64(payload, round_down(len - RECORD_HEADER_SIZE, RECORD_ALIGN));
	size = record_size((uint32_t)payload);
	put_le32(buf, RECORD_MAGIC);
	put_le32(buf + 12, (uint32_t)payload);
	if (get_le16(buf + 4) == RECORD_WRITE)
		put_le64(buf + 32, payload);
	put_le32(buf + 48, payload ? crc32c(buf + RECORD_HEADER_SIZE, payload) : 0);
	put_le64(buf + 52, 0);
	put_le32(buf + 60, crc32c(buf, 60));
	memset(buf + RECORD_HEADER_SIZE + payload, 0, size - RECORD_HEADER_SIZE - payload);
	return size;
}
