/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What recovery takes for a chunk's records when sectors of it were lost, and what stands there is
 * of an older lap. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/journal.h"
#include "core/record.h"
#include "util/bytes.h"
#include "util/crc.h"

static uint8_t ring[JOURNAL_MIN_RING], buf[JOURNAL_CHUNK_MAX];
static const struct journal_header header = {.ring_size = JOURNAL_MIN_RING, .tail_chain = 7};
static unsigned seen;

static int ring_read(void *ctx, uint64_t pos, void *to, size_t len)
{
	memcpy(to, ring + pos, len);
	return 0;
}

static int note(void *ctx, const struct record *rec, uint64_t payload_pos,
	const struct journal_chunk *chunk)
{
	seen++;
	return 0;
}

static const char *scan(unsigned *ret_seen)
{
	struct journal_end end;

	seen = 0;
	assert_int_equal(journal_scan(&header, ring_read, note, NULL, buf, &end), 0);
	*ret_seen = seen;
	return end.why;
}

/* A ZERO, which is a header alone, or a WRITE of that many bytes, at a place of the first chunk. */
static void put(uint32_t at, uint64_t epoch, uint32_t payload)
{
	struct record rec = {.type = payload ? RECORD_WRITE : RECORD_ZERO,
		.epoch = epoch,
		.length = payload ? payload : 512,
		.payload = payload};

	memset(ring + at + RECORD_HEADER_SIZE, (int)epoch, payload);
	rec.payload_crc = payload ? crc32c(ring + at + RECORD_HEADER_SIZE, payload) : 0;
	record_put_header(ring + at, &rec);
}

/* Of seven ZEROs, up to the end of the first sector, and one more. */
static void chunk(void)
{
	struct journal_chunk c = {
		.used = 512 + 64, .len = JOURNAL_BLOCK, .incarnation = 3, .chain = 7};

	memset(ring, 0, sizeof(ring));
	for (unsigned i = 1; i <= 8; i++)
		put(64 * i, 9, 0);
	c.own = journal_chunk_own(&c);
	journal_chunk_encode(ring, &c);
}

static void lost_sectors(void **state)
{
	unsigned n;

	chunk();
	assert_string_equal(scan(&n), "no chunk"); /* behind it */
	assert_int_equal(n, 8);

	/* the second sector holds a whole record of another lap */
	put(512, 2, 0);
	assert_string_equal(scan(&n), "records that are not the chunk's");
	assert_int_equal(n, 0);

	/* one that goes beyond the chunk's end */
	chunk();
	put(512, 2, 1024);
	assert_string_equal(scan(&n), "record cut off by the chunk's end");
	assert_int_equal(n, 0);

	/* nothing */
	chunk();
	memset(ring + 512, 0, 512);
	assert_string_equal(scan(&n), "bad magic");
	assert_int_equal(n, 0);
}

static void chunks_of_version_1(void **state)
{
	unsigned n;

	chunk();
	put_le64(ring + 48, 0);
	put_le32(ring + 60, crc32c(ring, 60));
	assert_string_equal(scan(&n), "no chunk");
	assert_int_equal(n, 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lost_sectors),
		cmocka_unit_test(chunks_of_version_1),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
