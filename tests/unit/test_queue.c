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

		pthread_mutex_lock(&ring_lock);
		n = queue_ready(&ring, &data);
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
	assert_int_equal(queue_ready(&ring, &data), RING);
	queue_consume(&ring, 100);
	assert_non_null(queue_reserve(&ring, 0, &seq));
	assert_int_equal(seq, RING / 4096);
	assert_null(queue_reserve(&ring, 0, &seq));
	/* What is reserved and not published is not ready. */
	assert_int_equal(queue_ready(&ring, &data), RING - 100);
	file_unmap_mirrored(mem, RING);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_queue_threads),
		cmocka_unit_test(test_queue_full),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
