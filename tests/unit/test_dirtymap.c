/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* core/dirtymap, core/activity, core/dirtyfile: against plain models. */
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/activity.h"
#include "core/digest.h"
#include "core/dirtymap_wire.h"
#include "util/bytes.h"

static uint64_t rng_state;

static uint64_t rng(uint64_t below)
{
	rng_state = rng_state * 6364136223846793005ull + 1442695040888963407ull;
	return (rng_state >> 33) % below;
}

/* --- the bitmaps --- */

#define BLOCKS 1000u

/* The last block is short: 100 bytes. */
static uint64_t block_len(unsigned b)
{
	return b == BLOCKS - 1 ? 100 : 4096;
}

static void check_layer(const struct dirtymap *m, enum dirtymap_layer layer, const bool *model)
{
	struct dirtymap_run run;
	uint64_t at = 0, bytes = 0;

	for (unsigned b = 0; b < BLOCKS; b++) {
		assert_int_equal(dirtymap_test(m, layer, b * 4096ull, 1), model[b]);
		bytes += model[b] ? block_len(b) : 0;
	}
	if (layer == DIRTYMAP_WANTED)
		assert_int_equal(dirtymap_wanted_bytes(m), bytes);
	for (unsigned b = 0; b < BLOCKS;) {
		uint64_t len = 0;
		unsigned n = 0;

		if (!model[b]) {
			b++;
			continue;
		}
		while (b + n < BLOCKS && model[b + n] && n < 7)
			len += block_len(b + n++);
		assert_true(dirtymap_next(m, layer, at, 7 * 4096 + 5, &run));
		assert_int_equal(run.off, b * 4096ull);
		assert_int_equal(run.len, len);
		b += n;
		at = run.off + run.len;
	}
	assert_false(dirtymap_next(m, layer, at, 4096, &run));
}

static void test_map_model(void **state)
{
	static bool wanted[BLOCKS], sent[BLOCKS];
	uint64_t size = (BLOCKS - 1) * 4096ull + 100;
	struct dirtymap m;

	(void)state;
	rng_state = 1;
	assert_int_equal(dirtymap_init(&m, size, 4096), 0);
	assert_int_equal(m.blocks, BLOCKS);
	for (unsigned i = 0; i < 4000; i++) {
		uint64_t off = rng(size), len = 1 + rng(rng(10) ? 20000 : size - off);
		unsigned how = (unsigned)rng(20);

		len = min_u64(len, size - off);
		for (unsigned b = 0; b < BLOCKS; b++) {
			uint64_t s = b * 4096ull, e = s + block_len(b);
			bool touches = s < off + len && e > off,
			     inside = s >= off && e <= off + len;

			if (how < 8)
				wanted[b] |= touches;
			else if (how < 14)
				wanted[b] &= !inside;
			else if (how < 17)
				sent[b] |= touches;
			else if (how == 17 && rng(20) == 0)
				break;
			else if (how == 18) {
				wanted[b] |= sent[b];
				sent[b] = false;
			} else if (how == 19)
				wanted[b] = false;
		}
		if (how < 8)
			dirtymap_mark(&m, DIRTYMAP_WANTED, off, len);
		else if (how < 14)
			dirtymap_clear(&m, DIRTYMAP_WANTED, off, len);
		else if (how < 17)
			dirtymap_mark(&m, DIRTYMAP_SENT0, off, len);
		else if (how == 18)
			dirtymap_move(&m, DIRTYMAP_WANTED, DIRTYMAP_SENT0);
		else if (how == 19)
			dirtymap_clear_all(&m, DIRTYMAP_WANTED);
		if (i % 16 == 0) {
			check_layer(&m, DIRTYMAP_WANTED, wanted);
			check_layer(&m, DIRTYMAP_SENT0, sent);
		}
	}
	dirtymap_mark_all(&m, DIRTYMAP_WANTED);
	assert_int_equal(dirtymap_wanted_bytes(&m), size);
	assert_int_equal(dirtymap_unequal_bytes(&m), size);
	dirtymap_deinit(&m);
}

static void test_map_grow(void **state)
{
	struct dirtymap m;

	(void)state;
	assert_int_equal(dirtymap_init(&m, 10 * 65536 - 10, 65536), 0);
	dirtymap_mark(&m, DIRTYMAP_LOOSE0, 65536, 1);
	assert_int_equal(dirtymap_grow(&m, 3000 * 65536ull + 1), 0);
	assert_int_equal(m.blocks, 3001);
	assert_true(dirtymap_test(&m, DIRTYMAP_LOOSE0, 65536, 1));
	/* The old last block was short: it is dirty now, too. */
	assert_int_equal(dirtymap_wanted_bytes(&m), 3000 * 65536ull + 1 - 9 * 65536);
	assert_int_equal(dirtymap_grow(&m, 5), -EINVAL);
	dirtymap_deinit(&m);
}

/* A bit goes only once every change that was sent before it was set twice over is committed. */
static void test_windows(void **state)
{
	struct dirtymap m[2];
	struct dirtymap *maps[2] = {&m[0], &m[1]};
	struct dirtymap_windows w = {.maps = maps, .count = 2};
	uint64_t sent = 0, done = 0, last[2][64] = {{0}};

	(void)state;
	rng_state = 2;
	assert_int_equal(dirtymap_init(&m[0], 64 * 4096, 4096), 0);
	assert_int_equal(dirtymap_init(&m[1], 64 * 4096, 4096), 0);
	for (unsigned i = 0; i < 20000; i++) {
		unsigned v = (unsigned)rng(2), b = (unsigned)rng(64);

		if (rng(3)) {
			dirtymap_sent(&w, v, b * 4096ull, 1);
			last[v][b] = ++sent;
		} else {
			done += rng(sent - done + 1);
			dirtymap_acknowledged(&w, done, sent);
		}
		for (v = 0; v < 2; v++)
			for (b = 0; b < 64; b++)
				if (last[v][b] > done)
					assert_true(dirtymap_test(&m[v], DIRTYMAP_SENT0,
							    b * 4096ull, 1) ||
						    dirtymap_test(
							    &m[v], DIRTYMAP_SENT1, b * 4096ull, 1));
		if (rng(500) == 0) {
			dirtymap_lost(&w);
			for (v = 0; v < 2; v++) {
				for (b = 0; b < 64; b++)
					if (last[v][b] > done)
						assert_true(dirtymap_test(
							&m[v], DIRTYMAP_WANTED, b * 4096ull, 1));
				dirtymap_clear_all(&m[v], DIRTYMAP_WANTED);
			}
			memset(last, 0, sizeof(last));
			sent = done = 0;
		}
	}
	/* Everything acknowledged: nothing is left after at most two acknowledgements. */
	dirtymap_acknowledged(&w, sent, sent);
	dirtymap_acknowledged(&w, sent, sent);
	for (unsigned v = 0; v < 2; v++) {
		assert_int_equal(dirtymap_unequal_bytes(&m[v]), dirtymap_wanted_bytes(&m[v]));
		dirtymap_deinit(&m[v]);
	}
}

static void test_flush(void **state)
{
	struct dirtymap m;

	(void)state;
	assert_int_equal(dirtymap_init(&m, 64 * 4096, 4096), 0);
	dirtymap_mark_loose(&m, 0, 1);
	assert_true(dirtymap_flush_begin(&m));
	assert_false(dirtymap_flush_begin(&m));
	dirtymap_mark_loose(&m, 4096, 1);
	dirtymap_flush_end(&m, true);
	assert_int_equal(dirtymap_word(&m, 0), 2);
	assert_true(dirtymap_flush_begin(&m));
	dirtymap_mark_loose(&m, 8192, 1);
	dirtymap_flush_end(&m, false); /* it failed: nothing is cleared */
	assert_int_equal(dirtymap_word(&m, 0), 6);
	assert_true(dirtymap_flush_begin(&m));
	dirtymap_flush_end(&m, true);
	assert_int_equal(dirtymap_word(&m, 0), 0);
	dirtymap_deinit(&m);
}

/* --- the format --- */

static void test_header(void **state)
{
	struct dirtyfile_header h = {.serial = 7,
					.id = 8,
					.size = 1ull << 40,
					.region = dirtyfile_region(1ull << 40),
					.block = 65536},
				got;
	uint8_t buf[DIRTYFILE_UNIT], old;

	(void)state;
	dirtyfile_put_header(buf, &h);
	assert_null(dirtyfile_get_header(buf, &got));
	assert_int_equal(got.serial, h.serial);
	assert_int_equal(got.id, h.id);
	assert_int_equal(got.size, h.size);
	assert_int_equal(got.region, h.region);
	assert_int_equal(got.block, h.block);
	for (unsigned i = 0; i < DIRTYFILE_UNIT; i += 37) {
		old = buf[i];
		buf[i] ^= 0x10;
		assert_non_null(dirtyfile_get_header(buf, &got));
		buf[i] = old;
	}
	/* From 64 TiB on regions are larger. */
	assert_int_equal(dirtyfile_region(64ull << 40), 4 << 20);
	assert_int_equal(dirtyfile_region((64ull << 40) + 1), 8 << 20);
	h.block = 2048;
	dirtyfile_put_header(buf, &h);
	assert_non_null(dirtyfile_get_header(buf, &got));
}

static void test_record(void **state)
{
	static uint32_t hot[DIRTYFILE_HOT], got[DIRTYFILE_HOT];
	uint8_t buf[DIRTYFILE_UNIT];
	uint64_t serial;
	uint32_t n;

	(void)state;
	for (uint32_t i = 0; i < DIRTYFILE_HOT; i++)
		hot[i] = i * 12345 % DIRTYFILE_MAX_REGIONS;
	dirtyfile_put_record(buf, 9, 5, hot, DIRTYFILE_HOT);
	assert_null(dirtyfile_get_record(buf, 9, DIRTYFILE_MAX_REGIONS, &serial, got, &n));
	assert_int_equal(n, DIRTYFILE_HOT);
	assert_int_equal(serial, 5);
	assert_memory_equal(hot, got, sizeof(hot));
	assert_non_null(dirtyfile_get_record(buf, 8, DIRTYFILE_MAX_REGIONS, &serial, got, &n));
	assert_non_null(dirtyfile_get_record(buf, 9, 1000, &serial, got, &n));
	buf[4095] ^= 1;
	assert_non_null(dirtyfile_get_record(buf, 9, DIRTYFILE_MAX_REGIONS, &serial, got, &n));
}

/* --- in the stream --- */

/* A map that crosses the stream, into one with blocks of another size. */
static void test_wire_map(void **state)
{
	uint8_t payload[RECORD_MAX_MAP];
	struct dirtymap from, to;
	uint64_t size = (3ull << 30) + 5000, word = 0;
	struct dirtymap_run run;
	struct record rec;
	unsigned n = 0;

	(void)state;
	rng_state = 3;
	assert_int_equal(dirtymap_init(&from, size, 4096), 0);
	assert_int_equal(dirtymap_init(&to, size - 70000, 65536), 0);
	for (unsigned i = 0; i < 500; i++)
		dirtymap_mark(&from, DIRTYMAP_WANTED, rng(size), 1);
	dirtymap_mark(&from, DIRTYMAP_WANTED, size - 1, 1); /* behind the end of the other */
	for (; dirtymap_put_map(&from, DIRTYMAP_WANTED, 0, &word, &rec, payload); n++) {
		assert_null(dirtymap_take_map(&to, &rec, payload));
		rec.length += 64 * 4096;
		assert_non_null(dirtymap_take_map(&to, &rec, payload));
		rec.length -= 64 * 4096;
	}
	assert_true(n >= 8); /* of 65536 blocks each, at most */
	for (uint64_t at = 0; dirtymap_next(&from, DIRTYMAP_WANTED, at, 4096, &run);
		at = run.off + run.len)
		if (run.off < to.size)
			assert_true(dirtymap_test(&to, DIRTYMAP_WANTED, run.off, 1));
	assert_true(to.wanted <= 501);
	payload[1] = 0x18;
	assert_non_null(dirtymap_take_map(&to, &rec, payload));
	dirtymap_deinit(&from);
	dirtymap_deinit(&to);
}

/* What an interrupted sync has left: wanted until a digest says that it is equal, in the map until
 * the next sync commits it, wanted again where that does not happen. */
static void test_wire_held(void **state)
{
	struct dirtymap from, to, *maps[] = {&to};
	struct dirtymap_windows w = {.maps = maps, .count = 1};
	uint8_t payload[RECORD_MAX_MAP];
	struct record rec;
	uint64_t word = 0;

	(void)state;
	assert_int_equal(dirtymap_init(&from, 1 << 20, 4096), 0);
	assert_int_equal(dirtymap_init(&to, 1 << 20, 65536), 0);
	dirtymap_mark(&from, DIRTYMAP_ASKED, 70000, 1);
	assert_true(
		dirtymap_put_map(&from, DIRTYMAP_ASKED, RECORD_FLAG_HELD, &word, &rec, payload));
	assert_int_equal(rec.flags, RECORD_FLAG_HELD);
	assert_null(dirtymap_take_map(&to, &rec, payload));
	assert_int_equal(dirtymap_wanted_bytes(&to), 65536);
	assert_int_equal(dirtymap_unequal_bytes(&to), 65536);
	dirtymap_clear(&to, DIRTYMAP_WANTED, 65536, 65536); /* equal */
	assert_int_equal(dirtymap_word(&to, 0), 2);
	assert_int_equal(dirtymap_unequal_bytes(&to), 65536);
	dirtymap_acknowledged(&w, 0, 0); /* of what came, which says nothing of it */
	assert_int_equal(dirtymap_word(&to, 0), 2);
	dirtymap_lost(&w);
	assert_true(dirtymap_test(&to, DIRTYMAP_WANTED, 65536, 1));
	assert_false(dirtymap_test(&to, DIRTYMAP_HELD, 65536, 1));
	dirtymap_mark(&to, DIRTYMAP_HELD, 65536, 1);
	dirtymap_clear(&to, DIRTYMAP_WANTED, 65536, 65536);
	dirtymap_held_committed(&w);
	assert_int_equal(dirtymap_word(&to, 0), 0);
	dirtymap_deinit(&from);
	dirtymap_deinit(&to);
}

static void test_wire_digest(void **state)
{
	struct digest d = {
		.off = 8192, .len = 2 * 4096 + 10, .volume = 3, .block = 4096, .count = 3};
	uint8_t payload[RECORD_MAX_DIGEST];
	struct digest got;
	struct record rec;
	uint64_t differ;

	(void)state;
	for (unsigned i = 0; i < d.count; i++)
		memset(d.sum[i], (int)i + 1, DIGEST_SIZE);
	digest_put(&d, &rec, payload);
	assert_null(digest_take(&rec, payload, &got));
	assert_int_equal(got.count, 3);
	assert_memory_equal(got.sum, d.sum, 3 * DIGEST_SIZE);
	rec.payload -= DIGEST_SIZE;
	assert_non_null(digest_take(&rec, payload, &got));
	digest_put_answer(&d, 5, &rec, payload);
	assert_null(digest_take_answer(&rec, payload, &got, &differ));
	assert_int_equal(differ, 5);
	digest_put_answer(&d, 8, &rec, payload);
	assert_non_null(digest_take_answer(&rec, payload, &got, &differ));
	rec.offset = 100;
	assert_non_null(digest_take_answer(&rec, payload, &got, &differ));
}

/* What is written to after its digest was made stays wanted. */
static void test_written_after_its_digest(void **state)
{
	struct dirtymap m;

	(void)state;
	assert_int_equal(dirtymap_init(&m, 64 * 4096, 4096), 0);
	dirtymap_mark(&m, DIRTYMAP_WANTED, 0, 8 * 4096);
	dirtymap_mark(&m, DIRTYMAP_ASKED, 0, 8 * 4096);
	dirtymap_mark_alone(&m, 2 * 4096 + 5, 4096);
	assert_true(dirtymap_test(&m, DIRTYMAP_ASKED, 4096, 1));
	assert_false(dirtymap_test(&m, DIRTYMAP_ASKED, 2 * 4096, 2 * 4096));
	assert_true(dirtymap_covers(&m, DIRTYMAP_WANTED, 0, 8 * 4096));
	assert_false(dirtymap_covers(&m, DIRTYMAP_WANTED, 0, 8 * 4096 + 1));
	dirtymap_deinit(&m);
}

/* --- the activity log --- */

#define REGION (4ull << 20)

static void log_init(struct dirtymap *m, struct activity *a, uint64_t regions, uint32_t capacity)
{
	struct dirtyfile_header h = {
		.serial = 1, .id = 3, .size = regions * REGION, .region = REGION, .block = 65536};

	assert_int_equal(dirtymap_init(m, h.size, h.block), 0);
	assert_int_equal(activity_init(a, m, &h, capacity), 0);
}

static void log_grant(struct activity *a, struct activity_request *q)
{
	while (!q->granted) {
		assert_true(activity_begin(a));
		activity_done(a, true);
	}
}

static void test_least_recently_used_is_evicted(void **state)
{
	struct activity_request q[8];
	struct dirtymap m;
	struct activity a;

	(void)state;
	log_init(&m, &a, 100, 64);
	for (uint64_t r = 0; r < 64; r++) {
		activity_ask(&a, &q[0], r * REGION, 1);
		log_grant(&a, &q[0]);
		activity_leave(&a, r * REGION, 1);
	}
	/* 0 is in use again, 1 is held, 2 is the oldest. */
	assert_true(activity_enter(&a, 0, 1));
	activity_leave(&a, 0, 1);
	assert_true(activity_enter(&a, REGION, 1));
	activity_ask(&a, &q[1], 70 * REGION, 1);
	assert_false(activity_enter(&a, 70 * REGION, 1));
	assert_true(activity_begin(&a));
	assert_false(activity_enter(&a, 70 * REGION, 1)); /* its record is not durable */
	assert_false(activity_enter(&a, 2 * REGION, 1));
	activity_done(&a, true);
	assert_true(q[1].granted);
	assert_true(activity_enter(&a, 70 * REGION, 1));
	assert_true(activity_enter(&a, 0, 1));
	assert_true(activity_enter(&a, REGION, 1));
	activity_deinit(&a);
	dirtymap_deinit(&m);
}

/* Bits of an evicted region reach their page before the record that forgets it. */
static void test_eviction_writes_pages_first(void **state)
{
	struct activity_io io[ACTIVITY_PAGES];
	struct activity_request q;
	struct dirtymap m;
	struct activity a;

	(void)state;
	log_init(&m, &a, 10, 4);
	for (uint64_t r = 0; r < 4; r++) {
		activity_ask(&a, &q, r * REGION, 1);
		log_grant(&a, &q);
		dirtymap_mark(&m, DIRTYMAP_WANTED, r * REGION, 1);
		activity_leave(&a, r * REGION, 1);
	}
	activity_ask(&a, &q, 8 * REGION, 1);
	assert_true(activity_begin(&a));
	assert_int_equal(activity_writes(&a, 0, io), 1);
	assert_int_equal(activity_writes(&a, 1, io), 1);
	activity_done(&a, true);
	assert_true(q.granted);
	/* The page says it already: nothing but the record the next time. */
	activity_ask(&a, &q, 0, 1);
	assert_true(activity_begin(&a));
	assert_int_equal(activity_writes(&a, 0, io), 0);
	activity_done(&a, true);
	activity_deinit(&a);
	dirtymap_deinit(&m);
}

static void test_all_or_nothing_and_first_come(void **state)
{
	struct activity_request a3, b3, c1;
	struct dirtymap m;
	struct activity a;

	(void)state;
	log_init(&m, &a, 20, 4);
	activity_ask(&a, &a3, 0, 3 * REGION);
	activity_ask(&a, &b3, 4 * REGION, 3 * REGION);
	activity_ask(&a, &c1, 0, 1);
	assert_true(activity_begin(&a));
	activity_done(&a, true);
	assert_true(a3.granted && !b3.granted && !c1.granted);
	assert_false(activity_begin(&a)); /* everything is held: who waits must wait */
	activity_leave(&a, 0, 3 * REGION);
	assert_true(activity_begin(&a));
	activity_done(&a, true);
	assert_true(b3.granted);
	activity_leave(&a, 4 * REGION, 3 * REGION);
	log_grant(&a, &c1);
	activity_deinit(&a);
	dirtymap_deinit(&m);
}

static void test_failed_write_fails_who_waits(void **state)
{
	struct activity_request q, late;
	struct dirtymap m;
	struct activity a;

	(void)state;
	log_init(&m, &a, 20, 8);
	activity_ask(&a, &q, 0, 1);
	log_grant(&a, &q);
	activity_ask(&a, &q, 5 * REGION, 1);
	assert_true(activity_begin(&a));
	activity_ask(&a, &late, 6 * REGION, 1);
	activity_done(&a, false);
	assert_true(q.failed && !q.granted && late.failed);
	activity_ask(&a, &q, 7 * REGION, 1);
	assert_false(activity_begin(&a));
	assert_true(q.failed);
	assert_true(activity_enter(&a, 0, 1)); /* what is hot stays hot */
	activity_deinit(&a);
	dirtymap_deinit(&m);
}

static int no_file(void *ctx, uint64_t off, void *buf, size_t len)
{
	(void)ctx;
	(void)off;
	memset(buf, 0, len);
	return 0;
}

static void test_load_refuses_what_is_none(void **state)
{
	struct activity_report rep;
	struct dirtymap m;
	struct activity a;
	const char *why;

	(void)state;
	assert_int_equal(activity_load(no_file, NULL, 64, &m, &a, &rep, &why), -EBADMSG);
	assert_string_equal(why, "it is not a map file of Tandem");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_map_model),
		cmocka_unit_test(test_map_grow),
		cmocka_unit_test(test_windows),
		cmocka_unit_test(test_flush),
		cmocka_unit_test(test_header),
		cmocka_unit_test(test_record),
		cmocka_unit_test(test_wire_map),
		cmocka_unit_test(test_wire_held),
		cmocka_unit_test(test_wire_digest),
		cmocka_unit_test(test_written_after_its_digest),
		cmocka_unit_test(test_least_recently_used_is_evicted),
		cmocka_unit_test(test_eviction_writes_pages_first),
		cmocka_unit_test(test_all_or_nothing_and_first_come),
		cmocka_unit_test(test_failed_write_fails_who_waits),
		cmocka_unit_test(test_load_refuses_what_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
