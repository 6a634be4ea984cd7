/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The stream's ring: many writers and one reader at once; every record arrives whole, in the order
 * of its reservation, through a ring that is full most of the time. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdbool.h>
#include <pthread.h>
#include <string.h>
#include <cmocka.h>

#include "core/queue.h"
#include "util/file.h"

enum { RING = 64 * 1024, WRITERS = 4, RECORDS = 5000 };

static struct queue ring;
static pthread_mutex_t ring_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ring_space = PTHREAD_COND_INITIALIZER;

/* Even the base of the ring is under the lock: a writer that finds it empty moves it. */
static void *writer_main(void *arg)
{
	uint64_t id = (uint64_t)(uintptr_t)arg;

	for (uint64_t i = 0; i < RECORDS; i++) {
		uint32_t payload = 1 + (uint32_t)((i * 251 + id * 97) % 9000);
		struct record rec = {.type = RECORD_WRITE,
			.payload = payload,
			.epoch = 1 + i,
			.offset = id,
			.length = payload};
		uint8_t *slot;

		pthread_mutex_lock(&ring_lock);
		while (!(slot = queue_reserve(&ring, payload, &rec.seq)))
			pthread_cond_wait(&ring_space, &ring_lock);
		pthread_mutex_unlock(&ring_lock);
		memset(slot + RECORD_HEADER_SIZE, (int)(rec.seq % 251), payload);
		queue_publish(slot, &rec);
	}
	return NULL;
}

static void test_queue_threads(void **state)
{
	uint64_t next[WRITERS] = {0}, seq = 0;
	pthread_t t[WRITERS];
	void *mem;

	(void)state;
	assert_int_equal(file_map_mirrored(RING, &mem), 0);
	queue_init(&ring, mem, RING);
	for (uintptr_t i = 0; i < WRITERS; i++)
		pthread_create(&t[i], NULL, writer_main, (void *)i);
	while (seq < WRITERS * RECORDS) {
		const uint8_t *data;
		uint64_t n, at = 0;
		bool more;

		pthread_mutex_lock(&ring_lock);
		n = queue_ready(&ring, &data, &more);
		pthread_mutex_unlock(&ring_lock);
		while (at < n) {
			struct record rec;
			const char *why;
			size_t size;

			assert_int_equal(record_check(data + at, n - at, RECORD_FROM_PRIMARY, true,
						 seq, &rec, &size, &why),
				RECORD_OK);
			for (uint32_t i = 0; i < rec.payload; i++)
				assert_int_equal(data[at + RECORD_HEADER_SIZE + i], seq % 251);
			assert_int_equal(rec.epoch, ++next[rec.offset]);
			seq++;
			at += size;
		}
		pthread_mutex_lock(&ring_lock);
		queue_consume(&ring, n);
		pthread_cond_broadcast(&ring_space);
		pthread_mutex_unlock(&ring_lock);
	}
	for (int i = 0; i < WRITERS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(queue_used(&ring), 0);
	file_unmap_mirrored(mem, RING);
}

/* A ring that is full refuses, and takes the record again once there is room. */
static void test_queue_full(void **state)
{
	const uint8_t *data;
	uint64_t seq;
	void *mem;
	bool more;

	(void)state;
	assert_int_equal(file_map_mirrored(RING, &mem), 0);
	queue_init(&ring, mem, RING);
	for (int i = 0; i < RING / 4096; i++) {
		struct record rec = {.type = RECORD_WRITE,
			.payload = 4096 - RECORD_HEADER_SIZE,
			.epoch = 1,
			.length = 4096 - RECORD_HEADER_SIZE};
		uint8_t *slot = queue_reserve(&ring, rec.payload, &rec.seq);

		assert_non_null(slot);
		queue_publish(slot, &rec);
	}
	assert_null(queue_reserve(&ring, 0, &seq));
	assert_int_equal(queue_ready(&ring, &data, &more), RING);
	queue_consume(&ring, 100);
	assert_non_null(queue_reserve(&ring, 0, &seq));
	assert_int_equal(seq, RING / 4096);
	assert_null(queue_reserve(&ring, 0, &seq));
	/* What is reserved and not published is not ready. */
	assert_int_equal(queue_ready(&ring, &data, &more), RING - 100);
	file_unmap_mirrored(mem, RING);
}

enum { WAITING = 2048 };

/* One writer and one link that take turns, so that the test knows every byte of the ring: records
 * are made of their place in the stream, and are written some time after they were reserved. */
static struct {
	struct queue q;
	uint64_t rng, used, taken, farthest;
	struct {
		uint8_t *slot;
		struct record rec;
	} open[WAITING]; /* reserved, not published; in order */
	unsigned first, count;
	unsigned most_runs;
} turns;

static uint64_t turns_random(uint64_t limit)
{
	turns.rng = turns.rng * 6364136223846793005u + 1442695040888963407u;
	return (turns.rng >> 33) % limit;
}

static bool turns_reserve(uint32_t payload)
{
	struct record rec = {
		.type = RECORD_WRITE, .payload = payload, .epoch = 1, .length = payload};
	uint64_t room = queue_room(&turns.q), size = record_size(payload), now;
	uint8_t *slot;

	if (turns.count == WAITING)
		return false;
	slot = queue_reserve(&turns.q, payload, &rec.seq);
	assert_int_equal(slot != NULL, room >= size);
	if (!slot)
		return false;
	now = queue_room(&turns.q);
	assert_true(now + size >= room || now >= RING / 8 * 3);
	turns.used += size;
	assert_int_equal(queue_used(&turns.q), turns.used);
	turns.farthest = (uint64_t)(slot - turns.q.mem) > turns.farthest
				 ? (uint64_t)(slot - turns.q.mem)
				 : turns.farthest;
	turns.most_runs = turns.q.count > turns.most_runs ? turns.q.count : turns.most_runs;
	/* A byte of another record that changes from here on is one that both have. */
	memset(slot + RECORD_HEADER_SIZE, (int)(rec.seq % 251), payload);
	turns.open[(turns.first + turns.count) % WAITING].slot = slot;
	turns.open[(turns.first + turns.count++) % WAITING].rec = rec;
	return true;
}

static void turns_publish(void)
{
	if (turns.count == 0)
		return;
	queue_publish(turns.open[turns.first].slot, &turns.open[turns.first].rec);
	turns.first = (turns.first + 1) % WAITING;
	turns.count--;
}

/* Takes at most limit bytes, in whole records. */
static void turns_take(uint64_t limit)
{
	const uint8_t *data;
	bool more;
	uint64_t n = queue_ready(&turns.q, &data, &more), at = 0;

	while (at < n) {
		struct record rec;
		const char *why;
		size_t size;

		assert_int_equal(record_check(data + at, n - at, RECORD_FROM_PRIMARY, true,
					 turns.taken, &rec, &size, &why),
			RECORD_OK);
		if (at + size > limit)
			break;
		for (uint32_t i = 0; i < rec.payload; i++)
			assert_int_equal(data[at + RECORD_HEADER_SIZE + i], turns.taken % 251);
		turns.taken++;
		at += size;
	}
	queue_consume(&turns.q, at);
	turns.used -= at;
	assert_int_equal(queue_used(&turns.q), turns.used);
}

static void turns_begin(void **ret_mem)
{
	memset(&turns, 0, sizeof(turns));
	assert_int_equal(file_map_mirrored(RING, ret_mem), 0);
	queue_init(&turns.q, *ret_mem, RING);
}

/* A link that keeps up: the same memory again and again, though the ring is never empty. */
static void test_queue_laps(void **state)
{
	void *mem;

	(void)state;
	turns_begin(&mem);
	assert_true(turns_reserve(1000));
	for (int i = 0; i < 2000; i++) {
		assert_true(turns_reserve(1000));
		turns_publish();
		turns_take(RING);
		assert_true(turns.used > 0);
	}
	assert_true(turns.farthest < RING / 8 + 3 * 1064);
	file_unmap_mirrored(mem, RING);
}

/* A link that is fast, slow, or stands still. */
static void test_queue_turns(void **state)
{
	void *mem;

	(void)state;
	turns_begin(&mem);
	for (int phase = 0; phase < 3000; phase++) {
		uint64_t speed = turns_random(4), largest = turns_random(5) ? 600 : 9000;

		for (int i = 0; i < 40; i++) {
			(void)turns_reserve((uint32_t)turns_random(largest) + 1);
			for (uint64_t k = turns_random(4); k > 0; k--)
				turns_publish();
			for (uint64_t k = 0; k < speed; k++)
				turns_take(turns_random(turns_random(2) ? 1500 : 12000));
		}
		if (phase % 7 == 0) {
			/* It stands still until nothing fits: most of the ring is taken then. */
			while (turns_reserve(400))
				turns_publish();
			assert_true(turns.used >= RING / 8 * 7 - 9064 - 464);
		}
	}
	assert_int_equal(turns.most_runs, 3);
	while (turns.used) {
		turns_publish();
		turns_take(RING);
	}
	file_unmap_mirrored(mem, RING);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_queue_threads),
		cmocka_unit_test(test_queue_full),
		cmocka_unit_test(test_queue_laps),
		cmocka_unit_test(test_queue_turns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
