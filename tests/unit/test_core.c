/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* core/: records against the specification, range lock and interval map against plain models. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/imap.h"
#include "core/rangelock.h"
#include "core/record.h"
#include "util/bytes.h"
#include "util/crc.h"

static uint64_t rng_state;

static uint64_t rng(uint64_t below)
{
	rng_state = rng_state * 6364136223846793005ull + 1442695040888963407ull;
	return (rng_state >> 33) % below;
}

static size_t make_write(uint8_t *buf, uint32_t payload, uint64_t seq)
{
	struct record rec = {.type = RECORD_WRITE,
		.volume = 1,
		.payload = payload,
		.epoch = 7,
		.offset = 4096,
		.length = payload,
		.seq = seq};

	memset(buf, 0, record_size(payload));
	for (uint32_t i = 0; i < payload; i++)
		buf[RECORD_HEADER_SIZE + i] = (uint8_t)(i % 251);
	rec.payload_crc = crc32c(buf + RECORD_HEADER_SIZE, payload);
	record_put_header(buf, &rec);
	return record_size(payload);
}

static void test_record_roundtrip(void **state)
{
	uint8_t buf[8192];
	struct record rec;
	const char *why;
	size_t size, n = make_write(buf, 1003, 5);

	(void)state;
	for (size_t len = 0; len < n; len++) {
		assert_int_equal(
			record_check(buf, len, RECORD_FROM_PRIMARY, true, 5, &rec, &size, &why),
			RECORD_SHORT);
		assert_true(size > len && size <= n);
	}
	assert_int_equal(
		record_check(buf, n, RECORD_FROM_PRIMARY, true, 5, &rec, &size, &why), RECORD_OK);
	assert_int_equal(size, n);
	assert_int_equal(rec.offset, 4096);
	assert_int_equal(rec.payload, 1003);
	assert_int_equal(
		record_check(buf, n, RECORD_FROM_PRIMARY, true, 6, &rec, &size, &why), RECORD_BAD);
	assert_string_equal(why, "sequence number is not the next one");
	assert_int_equal(record_check(buf, n, RECORD_FROM_SECONDARY, true, 5, &rec, &size, &why),
		RECORD_BAD);
}

/* Every single flipped bit of a record is noticed. */
static void test_record_any_bit(void **state)
{
	uint8_t buf[512];
	struct record rec;
	const char *why;
	size_t size, n = make_write(buf, 101, 5);

	(void)state;
	for (size_t bit = 0; bit < n * 8; bit++) {
		buf[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_int_equal(
			record_check(buf, n, RECORD_FROM_PRIMARY, true, 5, &rec, &size, &why),
			RECORD_BAD);
		buf[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
}

/* In pieces of that many bytes, each time at another place: the verdict on the whole record.  The
 * sum is one of what has come, whatever the pieces are. */
static enum record_verdict check_in_pieces(
	const uint8_t *buf, size_t n, size_t piece, const char **ret_why)
{
	enum record_verdict v = RECORD_SHORT;
	struct record_sum sum = {0};
	uint8_t copies[2][1200];

	for (size_t len = 0, i = 0; v == RECORD_SHORT && len < n; i++) {
		uint8_t *copy = copies[i % 2] + i % 3 * RECORD_ALIGN;
		struct record rec;
		size_t size;

		len = min_u64(len + piece, n);
		memset(copies, 0xee, sizeof(copies));
		memcpy(copy, buf, len);
		v = record_check_piece(
			copy, len, RECORD_FROM_PRIMARY, true, 5, &sum, &rec, &size, ret_why);
		if (v == RECORD_SHORT && len > RECORD_HEADER_SIZE) {
			size_t have = min_u64(len - RECORD_HEADER_SIZE, 1003);

			assert_int_equal(sum.len, have);
			assert_int_equal(sum.crc, crc32c(buf + RECORD_HEADER_SIZE, have));
		}
	}
	if (v == RECORD_OK)
		assert_true(sum.len == 0 && sum.crc == 0);
	return v;
}

static void test_record_pieces(void **state)
{
	uint8_t buf[8192];
	const char *why;
	size_t n = make_write(buf, 1003, 5);

	(void)state;
	for (size_t piece = 1; piece <= n; piece++) {
		size_t flip = RECORD_HEADER_SIZE + piece * 7919 % 1003;

		assert_int_equal(check_in_pieces(buf, n, piece, &why), RECORD_OK);
		buf[flip] ^= 1;
		assert_int_equal(check_in_pieces(buf, n, piece, &why), RECORD_BAD);
		assert_string_equal(why, "bad payload checksum");
		buf[flip] ^= 1;
	}
}

static void test_record_rules(void **state)
{
	static const struct {
		struct record rec;
		enum record_verdict want;
		const char *why;
	} rows[] = {
		{{.type = RECORD_ZERO, .epoch = 1, .length = 1, .flags = RECORD_FLAG_UNMAP},
			RECORD_OK, NULL},
		{{.type = RECORD_ZERO, .epoch = 1, .length = 0}, RECORD_BAD,
			"offset or length out of range"},
		{{.type = RECORD_ZERO, .epoch = 1, .length = UINT64_MAX}, RECORD_BAD,
			"offset or length out of range"},
		{{.type = RECORD_ZERO, .epoch = 1, .length = 1, .volume = 64}, RECORD_BAD,
			"volume out of range"},
		{{.type = RECORD_ZERO, .epoch = 0, .length = 1}, RECORD_BAD,
			"epoch missing or not expected"},
		{{.type = RECORD_ZERO, .epoch = 1, .length = 1, .flags = 4}, RECORD_BAD,
			"unknown flags"},
		{{.type = RECORD_COMMIT, .epoch = 1}, RECORD_BAD, "type not allowed here"},
		{{.type = 99}, RECORD_BAD, "unknown mandatory record type"},
		{{.type = RECORD_OPTIONAL | 99}, RECORD_UNKNOWN, NULL},
	};
	uint8_t buf[RECORD_HEADER_SIZE];

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct record rec;
		const char *why = NULL;
		size_t size;

		record_put_header(buf, &rows[i].rec);
		assert_int_equal(record_check(buf, sizeof(buf), RECORD_FROM_PRIMARY, false, 0, &rec,
					 &size, &why),
			rows[i].want);
		if (rows[i].why)
			assert_string_equal(why, rows[i].why);
	}
}

static unsigned granted_count;

static void count_granted(struct rangelock_entry *e)
{
	(void)e;
	granted_count++;
}

/* Against the definition: granted if and only if no earlier entry overlaps. */
static void test_rangelock_random(void **state)
{
	enum { SLOTS = 24 };
	struct rangelock_entry e[SLOTS];
	unsigned order[SLOTS], n = 0;
	struct rangelock rl;

	(void)state;
	rng_state = 1;
	rangelock_init(&rl);
	for (int step = 0; step < 20000; step++) {
		bool used[SLOTS] = {false};

		for (unsigned i = 0; i < n; i++)
			used[order[i]] = true;
		if (n < SLOTS && (n == 0 || rng(2))) {
			unsigned s = 0;

			while (used[s])
				s++;
			rangelock_add(&rl, &e[s], rng(64), 1 + rng(16));
			order[n++] = s;
		} else {
			unsigned i = (unsigned)rng(n), before = 0, after = 0;

			for (unsigned k = 0; k < n; k++)
				before += k != i && rangelock_granted(&e[order[k]]);
			granted_count = 0;
			rangelock_del(&rl, &e[order[i]], count_granted);
			memmove(order + i, order + i + 1, (n - i - 1) * sizeof(order[0]));
			n--;
			for (unsigned k = 0; k < n; k++)
				after += rangelock_granted(&e[order[k]]);
			assert_int_equal(after - before, granted_count);
		}
		for (unsigned i = 0; i < n; i++) {
			bool blocked = false;

			for (unsigned k = 0; k < i; k++)
				blocked |= e[order[k]].start < e[order[i]].end &&
					   e[order[i]].start < e[order[k]].end;
			assert_int_equal(rangelock_granted(&e[order[i]]), !blocked);
		}
	}
}

/* Against a plain array of bytes. */
static void test_imap_random(void **state)
{
	enum { SIZE = 512 };
	struct {
		uint64_t source, tag;
		bool set;
	} model[SIZE] = {0};
	struct imap *m = imap_new();

	(void)state;
	rng_state = 2;
	for (uint64_t step = 1; step < 5000; step++) {
		uint64_t off = rng(SIZE), len = 1 + rng(min_u64(40, SIZE - off));
		bool zero = rng(4) == 0;
		uint64_t at = 0, ranges = 0, last_end = 0;
		struct imap_range r;

		assert_int_equal(
			imap_insert(m, off, len, zero ? IMAP_ZERO : step * 10000, step), 0);
		for (uint64_t i = 0; i < len; i++) {
			model[off + i].set = true;
			model[off + i].tag = step;
			model[off + i].source = zero ? IMAP_ZERO : step * 10000 + i;
		}
		if (rng(100) == 0) {
			uint64_t until = step - rng(50) % step;

			imap_drop_until(m, until);
			for (int i = 0; i < SIZE; i++)
				model[i].set &= model[i].tag > until;
		}
		if (rng(20) == 0 && imap_find(m, rng(SIZE), &r)) {
			struct imap_range other = r;

			other.source--;
			imap_remove(m, &other); /* is not there */
			imap_remove(m, &r);
			for (uint64_t i = r.start; i < r.end; i++)
				model[i].set = false;
		}
		while (imap_find(m, at, &r)) {
			assert_true(r.start >= last_end && r.end > r.start);
			for (; at < r.start; at++)
				assert_false(model[at].set);
			for (; at < r.end; at++) {
				assert_true(model[at].set);
				assert_int_equal(model[at].tag, r.tag);
				assert_int_equal(model[at].source,
					r.source == IMAP_ZERO ? IMAP_ZERO
							      : r.source + (at - r.start));
			}
			last_end = r.end;
			ranges++;
		}
		for (; at < SIZE; at++)
			assert_false(model[at].set);
		assert_int_equal(ranges, imap_count(m));
	}
	imap_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_record_roundtrip),
		cmocka_unit_test(test_record_any_bit),
		cmocka_unit_test(test_record_pieces),
		cmocka_unit_test(test_record_rules),
		cmocka_unit_test(test_rangelock_random),
		cmocka_unit_test(test_imap_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
