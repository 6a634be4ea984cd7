/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory and state of a guest in core/: tables and compression, the order of checkpoints on the
 * primary, and what the secondary's image holds when; the simulator has the rest. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/pages.h"
#include "core/primary.h"
#include "core/replica.h"
#include "util/bytes.h"
#include "util/crc.h"
#include "util/file.h"

#define RAM (16u * PAGES_PAGE)
#define DISK (1u << 20)
#define QUEUE (4u << 20)

/* --- compression and tables --- */

static void compress_round_trip(void **state)
{
	static uint8_t data[65536], packed[65536], back[65536];
	const unsigned flags[] = {RECORD_FLAG_LZ4, RECORD_FLAG_ZSTD};
	struct compress c = {0};

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i / 100);
	for (unsigned i = 0; i < 2; i++) {
		size_t n = compress_pack(&c, flags[i], data, sizeof(data), packed, sizeof(packed));

		assert_in_range(n, 1, sizeof(data) / 4);
		assert_true(compress_unpack(&c, flags[i], packed, n, back, sizeof(back)));
		assert_memory_equal(data, back, sizeof(data));
		assert_false(compress_unpack(&c, flags[i], packed, n, back, sizeof(back) - 1));
		assert_false(compress_unpack(&c, flags[i], packed, n - 1, back, sizeof(back)));
		packed[n / 2] ^= 0x55;
		/* Whatever it gives, it stays inside. */
		(void)compress_unpack(&c, flags[i], packed, n, back, sizeof(back));
	}
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 2654435761u >> 13);
	assert_int_equal(compress_pack(&c, RECORD_FLAG_LZ4, data, 64, packed, 10), 0);
	compress_deinit(&c);
}

static const char *table_check(
	const struct pages_run *runs, unsigned n, uint32_t data, uint64_t length, unsigned flags)
{
	static uint8_t buf[RECORD_MAX_SIZE];
	struct record rec = {.type = RECORD_PAGES,
		.flags = (uint16_t)flags,
		.volume = 1,
		.epoch = 1,
		.offset = n,
		.length = length,
		.payload = n * PAGES_RUN + data};
	const char *why;
	size_t size;

	memset(buf, 0, sizeof(buf));
	for (unsigned i = 0; runs && i < n; i++)
		pages_put_run(buf + RECORD_HEADER_SIZE, i, &runs[i]);
	rec.payload_crc = crc32c(buf + RECORD_HEADER_SIZE, rec.payload);
	record_put_header(buf, &rec);
	return record_check(buf, sizeof(buf), RECORD_FROM_PRIMARY, false, 0, &rec, &size, &why) ==
			       RECORD_OK
		       ? NULL
		       : why;
}

static void table_limits(void **state)
{
	const struct pages_run page = {0, 4096, false}, zero = {8192, 1ull << 40, true};
	const struct pages_run two[] = {{0, 4096, false}, {4096, 4096, true}};

	assert_null(table_check(&page, 1, 4096, 4096, 0));
	assert_null(table_check(&zero, 1, 0, 1ull << 40, 0));
	assert_null(table_check(two, 2, 4096, 8192, 0));
	assert_null(table_check(&page, 1, 100, 4096, RECORD_FLAG_LZ4));
	assert_null(table_check(&(struct pages_run){0, 4096, false, true}, 1, 4096, 4096, 0));
	assert_string_equal(table_check(&(struct pages_run){0, 4096, true, true}, 1, 0, 4096, 0),
		"bad run in the table");
	assert_string_equal(table_check(&page, 1, 4095, 4096, 0), "data differs from the runs");
	assert_string_equal(
		table_check(&page, 1, 4096, 4096, RECORD_FLAG_ZSTD), "data differs from the runs");
	assert_string_equal(table_check(&zero, 1, 1, 1ull << 40, 0), "data differs from the runs");
	assert_string_equal(table_check(&page, 1, 4096, 8192, 0), "runs differ from the length");
	assert_string_equal(table_check(&page, 1, 100, 4096, RECORD_FLAG_LZ4 | RECORD_FLAG_ZSTD),
		"two kinds of compression");
	assert_string_equal(table_check(NULL, 0, 0, 4096, 0), "number of runs out of range");
	assert_string_equal(table_check(NULL, 257, 0, 4096, 0), "number of runs out of range");
	assert_string_equal(table_check(&(struct pages_run){1, 4096, false}, 1, 4096, 4096, 0),
		"bad run in the table");
	assert_string_equal(table_check(&(struct pages_run){0, 100, false}, 1, 100, 100, 0),
		"bad run in the table");
	assert_string_equal(table_check(&(struct pages_run){0, PAGES_MAX_DATA + 4096, false}, 1,
				    100, PAGES_MAX_DATA + 4096, RECORD_FLAG_LZ4),
		"too much data in one record");
}

/* --- both sides --- */

struct pair {
	struct primary p;
	void *ring;
	struct replica *r;
	uint8_t *image, *second;
	struct replica_chunk *writes[64];
	unsigned nwrites;
	bool flush;
	uint64_t acked;
};

static void pair_chunk_write(void *ctx, struct replica_chunk *c)
{
	struct pair *w = ctx;

	w->writes[w->nwrites++] = c;
}

static void pair_flush(void *ctx)
{
	((struct pair *)ctx)->flush = true;
}

static void pair_send(void *ctx, const struct record *rec)
{
	struct pair *w = ctx;

	assert_null(primary_ack(&w->p, rec));
	if (rec->type == RECORD_ACK_COMMITTED)
		w->acked = rec->epoch;
}

static void pair_note(void *ctx)
{
}

static void pair_zero(void *ctx, uint64_t off, uint64_t len)
{
	memset(((struct pair *)ctx)->image + off, 0, len);
}

static const struct replica_ops pair_ops = {.chunk_write = pair_chunk_write,
	.journal_flush = pair_flush,
	.send = pair_send,
	.apply_ready = pair_note,
	.memory_ready = pair_note,
	.memory_zero = pair_zero,
	.changed = pair_note};

static struct pair *pair_new(void)
{
	struct replica_config cfg = {.volumes = 3,
		.sizes = {DISK, RAM, 1 << 20},
		.staging_limit = 16 << 20,
		.memory = 1,
		.state = 2};
	const struct journal_header h = {
		.serial = 1, .ring_size = JOURNAL_MIN_RING, .tail_chain = 7};
	struct pair *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	assert_int_equal(file_map_mirrored(QUEUE, &w->ring), 0);
	primary_init(&w->p, w->ring, QUEUE);
	w->p.guest = true;
	cfg.image = w->image = calloc(1, RAM);
	cfg.second = w->second = malloc(RAM);
	w->r = replica_new(&cfg, &h, 0, &pair_ops, w);
	assert_non_null(w->r);
	return w;
}

static void pair_free(struct pair *w)
{
	replica_free(w->r);
	file_unmap_mirrored(w->ring, QUEUE);
	free(w->image);
	free(w->second);
	free(w);
}

/* Everything in the queue to the replica. */
static void pair_link(struct pair *w)
{
	const uint8_t *data;
	uint64_t n;
	bool more;

	while ((n = queue_ready(&w->p.queue, &data, &more)) > 0) {
		unsigned goodbye;
		const char *why = NULL;
		uint8_t *at;
		size_t room;
		int e;

		assert_true(replica_rx_buffer(w->r, &at, &room));
		n = min_u64(n, room);
		memcpy(at, data, n);
		e = replica_rx_done(w->r, n, &goodbye, &why);
		if (e < 0)
			fail_msg("the replica refuses: %s", why);
		queue_consume(&w->p.queue, n);
	}
	replica_rx_idle(w->r);
}

/* Disks: journal, images. */
static void pair_disks(struct pair *w)
{
	struct replica_batch b;

	while (w->nwrites || w->flush) {
		if (w->nwrites)
			replica_chunk_written(w->r, w->writes[--w->nwrites], 0);
		else {
			w->flush = false;
			replica_flushed(w->r, 0);
		}
	}
	while (replica_batch_take(w->r, UINT64_MAX, &b)) {
		struct replica_batch done = b;
		struct journal_header h;

		if (!replica_batch_done(w->r, &b, &h))
			continue;
		replica_tail_durable(w->r, &h);
		if (done.direct)
			replica_direct_committed(w->r, done.epoch);
	}
}

static void pair_memory(struct pair *w)
{
	struct replica_memory_job job;

	while (replica_memory_take(w->r, &job)) {
		replica_memory_apply(w->r, &job, pair_zero, w);
		replica_memory_done(w->r, &job);
	}
}

static void pair_session(struct pair *w, enum record_sync kind)
{
	struct replica_status st;

	assert_true(replica_memory_idle(w->r));
	replica_session_begin(w->r);
	replica_get_status(w->r, &st);
	primary_session_begin(
		&w->p, max_u64(st.open, st.committed), kind, DISK, st.journal_size / 4);
}

static void pair_write(struct pair *w, uint64_t off)
{
	struct record rec = {.type = RECORD_WRITE, .offset = off, .length = 512, .payload = 512};
	uint8_t *slot = primary_change(&w->p, &rec, 1);

	assert_non_null(slot);
	memset(slot + RECORD_HEADER_SIZE, 1, 512);
	queue_publish(slot, &rec);
}

static void pair_page(struct pair *w, unsigned page, uint8_t value)
{
	struct record rec = {.type = RECORD_PAGES,
		.volume = 1,
		.offset = 1,
		.length = PAGES_PAGE,
		.payload = PAGES_RUN + PAGES_PAGE};
	const struct pages_run run = {(uint64_t)page * PAGES_PAGE, PAGES_PAGE, false};
	uint8_t *slot = primary_memory(&w->p, &rec, 1);

	assert_non_null(slot);
	pages_put_run(slot + RECORD_HEADER_SIZE, 0, &run);
	memset(slot + RECORD_HEADER_SIZE + PAGES_RUN, value, PAGES_PAGE);
	queue_publish(slot, &rec);
}

static void pair_state(struct pair *w, uint64_t off, const char *text)
{
	struct record rec = {.type = RECORD_STATE,
		.volume = 2,
		.offset = off,
		.length = strlen(text),
		.payload = (uint32_t)strlen(text)};
	uint8_t *slot = primary_memory(&w->p, &rec, 1);

	assert_non_null(slot);
	memcpy(slot + RECORD_HEADER_SIZE, text, rec.payload);
	queue_publish(slot, &rec);
}

static void pair_expect(struct pair *w, uint64_t epoch, int page0, int page1, const char *state)
{
	struct replica_status st;
	const uint8_t *bytes;
	size_t len;

	replica_get_status(w->r, &st);
	assert_int_equal(st.memory_epoch, epoch);
	assert_int_equal(w->image[0], page0);
	assert_int_equal(w->image[PAGES_PAGE], page1);
	bytes = replica_state(w->r, &len);
	if (!state) {
		assert_null(bytes);
		return;
	}
	assert_int_equal(len, strlen(state));
	assert_memory_equal(bytes, state, len);
}

/* The first checkpoint of a session. */
static void pair_first(
	struct pair *w, enum record_sync kind, uint8_t page0, uint8_t page1, const char *state)
{
	uint64_t epoch;

	pair_session(w, kind);
	pair_write(w, 0);
	pair_page(w, 0, page0); /* a round while the disks are copied */
	assert_int_equal(primary_checkpoint_cut(&w->p, 1, &epoch), -EBUSY);
	assert_int_equal(primary_sync_end(&w->p, 1), 0);
	assert_int_equal(primary_checkpoint_cut(&w->p, 1, &epoch), 0);
	pair_write(w, 512); /* of the next one already */
	if (page1)
		pair_page(w, 1, page1);
	assert_int_equal(primary_checkpoint_seal(&w->p, epoch, false, 1), -ENODATA);
	pair_state(w, 0, state);
	assert_int_equal(primary_checkpoint_seal(&w->p, epoch + 1, false, 1), -ENOENT);
	assert_int_equal(primary_checkpoint_seal(&w->p, epoch, true, 1), -EPERM);
	assert_int_equal(primary_checkpoint_seal(&w->p, epoch, false, 1), 0);
}

static void memory_follows_commit(void **state)
{
	struct pair *w = pair_new();
	uint64_t first, epoch;

	pair_first(w, RECORD_SYNC_IN_PLACE, 1, 2, "base and one");
	pair_link(w);
	first = w->p.sync_epoch;
	pair_expect(w, 0, 1, 2, NULL); /* there is none to keep: it stands in the image already */
	pair_disks(w);
	assert_int_equal(w->acked, first);
	assert_int_equal(w->p.state, PRIMARY_PROTECTED);
	pair_memory(w);
	pair_expect(w, first, 1, 2, "base and one");

	/* Received and sealed is not committed. */
	assert_int_equal(primary_checkpoint_cut(&w->p, 1, &epoch), 0);
	pair_page(w, 0, 3);
	pair_state(w, 5, "two");
	assert_int_equal(primary_checkpoint_seal(&w->p, epoch, false, 1), 0);
	pair_link(w);
	pair_memory(w);
	pair_expect(w, first, 1, 2, "base and one");
	pair_disks(w);
	assert_int_equal(w->acked, epoch);
	pair_expect(w, first, 1, 2, "base and one");
	pair_memory(w);
	pair_expect(w, epoch, 3, 2, "base two");

	/* Lost without its seal. */
	first = epoch;
	assert_int_equal(primary_checkpoint_cut(&w->p, 1, &epoch), 0);
	pair_page(w, 0, 9);
	pair_state(w, 0, "lost");
	pair_link(w);
	primary_session_end(&w->p);
	replica_session_end(w->r);
	pair_disks(w);
	pair_memory(w);
	pair_expect(w, first, 3, 2, "base two");
	pair_free(w);
}

static void second_session(enum record_sync kind)
{
	struct pair *w = pair_new();
	struct replica_status st;
	uint64_t first;

	pair_first(w, RECORD_SYNC_IN_PLACE, 1, 2, "first");
	pair_link(w);
	pair_disks(w);
	pair_memory(w);
	first = w->p.sync_epoch;
	primary_session_end(&w->p);
	replica_session_end(w->r);

	/* Lost before its first checkpoint was sealed. */
	pair_session(w, kind);
	pair_page(w, 0, 8);
	pair_link(w);
	primary_session_end(&w->p);
	replica_session_end(w->r);
	pair_disks(w);
	pair_memory(w);
	pair_expect(w, first, 1, 2, "first");

	/* All memory again: page 1 is zero now, and so it is not named. */
	pair_first(w, kind, 7, 0, "second");
	pair_link(w);
	replica_get_status(w->r, &st);
	assert_int_equal(st.mode, kind == RECORD_SYNC_STAGED ? REPLICA_READY : REPLICA_DIRECT);
	pair_expect(w, first, 1, 2, "first");
	pair_disks(w);
	pair_memory(w);
	assert_int_equal(w->acked, w->p.sync_epoch);
	pair_expect(w, w->p.sync_epoch, 7, 0, "second");
	assert_true(replica_memory_idle(w->r));
	pair_free(w);
}

static void second_session_staged(void **state)
{
	second_session(RECORD_SYNC_STAGED);
}

static void second_session_into_clones(void **state)
{
	second_session(RECORD_SYNC_CLONED);
}

static void second_session_in_place(void **state)
{
	second_session(RECORD_SYNC_IN_PLACE);
}

static void abandoned_goes_with_the_next(void **state)
{
	struct pair *w = pair_new();
	uint64_t first, failed, epoch;

	pair_first(w, RECORD_SYNC_IN_PLACE, 1, 2, "one");
	pair_link(w);
	pair_disks(w);
	pair_memory(w);
	first = w->p.sync_epoch;
	assert_int_equal(primary_checkpoint_cut(&w->p, 1, &failed), 0);
	pair_page(w, 1, 5);
	assert_int_equal(primary_checkpoint_seal(&w->p, failed, true, 1), 0);
	pair_link(w);
	pair_disks(w);
	pair_memory(w);
	assert_int_equal(w->acked, first);
	pair_expect(w, first, 1, 2, "one");
	assert_int_equal(primary_checkpoint_cut(&w->p, 1, &epoch), 0);
	pair_page(w, 0, 6);
	pair_state(w, 0, "three");
	assert_int_equal(primary_checkpoint_seal(&w->p, epoch, false, 1), 0);
	pair_link(w);
	pair_disks(w);
	pair_memory(w);
	assert_int_equal(w->acked, epoch);
	pair_expect(w, epoch, 6, 5, "three");
	pair_free(w);
}

static void checkpoints_have_a_limit(void **state)
{
	struct pair *w = pair_new();
	struct record rec = {.type = RECORD_WRITE, .length = 512, .payload = 512};
	uint64_t epoch;
	uint8_t *slot;

	pair_first(w, RECORD_SYNC_IN_PLACE, 1, 2, "one");
	for (unsigned i = 0; i < PRIMARY_CUTS_MAX; i++)
		assert_int_equal(primary_checkpoint_cut(&w->p, 1, &epoch), 0);
	assert_int_equal(primary_checkpoint_cut(&w->p, 1, &epoch), -EMFILE);
	assert_int_equal(primary_memory_epoch(&w->p), epoch - PRIMARY_CUTS_MAX + 1);
	/* Overdue: changes wait, but for those of a guest that is being stopped. */
	w->p.open_space = w->p.max_epoch_bytes;
	assert_null(primary_change(&w->p, &rec, 1));
	w->p.begun = true;
	slot = primary_change(&w->p, &rec, 1);
	assert_non_null(slot);
	pair_free(w);
}

static void waits_for_checkpoints_have_an_end(void **state)
{
	struct pair *w = pair_new();
	struct record rec = {.type = RECORD_WRITE, .length = 512, .payload = 512};
	uint64_t epoch;

	pair_first(w, RECORD_SYNC_IN_PLACE, 1, 2, "one");
	w->p.open_space = w->p.max_epoch_bytes;
	assert_int_equal(primary_waits_for(&w->p, 10), 0); /* late, but nobody waits */
	assert_null(primary_change(&w->p, &rec, 1));
	assert_int_equal(primary_waits_for(&w->p, 20), 0);
	assert_int_equal(primary_waits_for(&w->p, 25), 5);
	/* A cut alone frees nothing; memory that comes is a checkpoint on its way. */
	assert_int_equal(primary_checkpoint_cut(&w->p, 26, &epoch), 0);
	assert_int_equal(primary_waits_for(&w->p, 30), 10);
	pair_page(w, 0, 3);
	assert_int_equal(primary_waits_for(&w->p, 40), 0);
	assert_int_equal(primary_waits_for(&w->p, 41), 1);
	/* One that failed, and tries after it, are none. */
	assert_int_equal(primary_checkpoint_seal(&w->p, epoch, true, 42), 0);
	assert_int_equal(primary_checkpoint_cut(&w->p, 43, &epoch), 0);
	pair_page(w, 0, 4);
	assert_int_equal(primary_waits_for(&w->p, 50), 10);
	pair_state(w, 0, "two");
	assert_int_equal(primary_checkpoint_seal(&w->p, epoch, false, 51), 0);
	assert_int_equal(primary_waits_for(&w->p, 60), 0);
	assert_int_equal(primary_waits_for(&w->p, 70), 0);
	pair_free(w);
}

/* Digests of an epoch come out with its job, are no changes, and go with an abandoned one. */
static void digests_go_with_their_epoch(void **state)
{
	struct pair *w = pair_new();
	struct record rec = {.type = RECORD_CHECK,
		.volume = 1,
		.length = RAM,
		.payload = memcheck_blocks(RAM) * MEMCHECK_DIGEST};
	struct replica_memory_job job;
	uint64_t epoch;
	uint8_t *slot;

	pair_first(w, RECORD_SYNC_IN_PLACE, 1, 2, "one");
	pair_link(w);
	pair_disks(w);
	pair_memory(w);
	for (int merge = 1; merge >= 0; merge--) {
		assert_int_equal(primary_checkpoint_cut(&w->p, 1, &epoch), 0);
		pair_page(w, 0, 3);
		if (merge) {
			slot = primary_memory(&w->p, &rec, 1);
			assert_non_null(slot);
			memset(slot + RECORD_HEADER_SIZE, 7, rec.payload);
			queue_publish(slot, &rec);
		}
		pair_state(w, 0, "two");
		assert_int_equal(primary_checkpoint_seal(&w->p, epoch, merge, 2), 0);
	}
	pair_link(w);
	pair_disks(w);
	assert_true(replica_memory_take(w->r, &job));
	assert_null(job.checks);
	replica_memory_apply(w->r, &job, pair_zero, w);
	replica_memory_done(w->r, &job);

	assert_int_equal(primary_checkpoint_cut(&w->p, 3, &epoch), 0);
	pair_state(w, 0, "three");
	slot = primary_memory(&w->p, &rec, 3);
	assert_non_null(slot);
	memset(slot + RECORD_HEADER_SIZE, 8, rec.payload);
	queue_publish(slot, &rec);
	assert_int_equal(primary_checkpoint_seal(&w->p, epoch, false, 4), 0);
	pair_link(w);
	pair_disks(w);
	assert_true(replica_memory_take(w->r, &job));
	assert_non_null(job.checks);
	assert_null(job.checks->next);
	assert_int_equal(job.epoch, epoch);
	assert_int_equal(job.checks->length, RAM);
	assert_int_equal(job.checks->digests[0], 8);
	assert_int_equal(job.state_len, strlen("three"));
	replica_memory_apply(w->r, &job, pair_zero, w);
	replica_memory_done(w->r, &job);
	pair_free(w);
}

static void comparison_round_trip(void **state)
{
	uint8_t payload[MEMCHECK_RANGES * MEMCHECK_RANGE], whole[16], parts[16];
	struct memcheck_result a = {.epoch = 5, .bytes = 1ull << 40}, b;
	struct record rec;

	memcheck_digest("abcdef", 6, NULL, 0, whole);
	memcheck_digest("abc", 3, "def", 3, parts);
	assert_memory_equal(whole, parts, sizeof(whole));
	memcheck_add(&a, 1, 0, 10);
	memcheck_add(&a, 1, 10, 10); /* joins */
	memcheck_add(&a, 2, 20, 10);
	assert_int_equal(a.nranges, 2);
	for (unsigned i = 0; i < MEMCHECK_RANGES; i++)
		memcheck_add(&a, 1, 100 * (i + 1), 10);
	assert_int_equal(a.nranges, MEMCHECK_RANGES);
	memcheck_put_result(&a, &rec, payload);
	assert_null(memcheck_take_result(&rec, payload, &b));
	assert_int_equal(b.differ, 30 + 10 * MEMCHECK_RANGES);
	assert_int_equal(b.nranges, a.nranges);
	assert_int_equal(b.ranges[1].volume, 2);
	rec.length = 5; /* less than is named */
	assert_non_null(memcheck_take_result(&rec, payload, &b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(compress_round_trip),
		cmocka_unit_test(table_limits),
		cmocka_unit_test(memory_follows_commit),
		cmocka_unit_test(second_session_staged),
		cmocka_unit_test(second_session_into_clones),
		cmocka_unit_test(second_session_in_place),
		cmocka_unit_test(abandoned_goes_with_the_next),
		cmocka_unit_test(checkpoints_have_a_limit),
		cmocka_unit_test(waits_for_checkpoints_have_an_end),
		cmocka_unit_test(digests_go_with_their_epoch),
		cmocka_unit_test(comparison_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
