/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An NBD server that goes away, as by a power cut, and comes back: what was in flight fails, a lost
 * write is told by the next flush, once, and nothing ever hangs. */
#include "nbd_server.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "contract.h"
#include "util/clock.h"

#define HANG_SECONDS 100 /* then SIGALRM ends the program */

static struct nbd_server server;
static char image[SUPPORT_PATH];

static int make_dir(void **state)
{
	nbd_server_init(&server);
	snprintf(image, sizeof(image), "%.200s/disk.img", server.dir);
	alarm(HANG_SECONDS);
	return 0;
}

static int remove_dir(void **state)
{
	nbd_server_deinit(&server);
	return 0;
}

static int make_image(void **state)
{
	unlink(image);
	return support_run(server.dir, (const char *const[]){"truncate", "-s", "16M", image, NULL});
}

static int stop_server(void **state)
{
	nbd_server_stop(&server);
	return 0;
}

static void start_file(void)
{
	nbd_server_start(&server, (const char *const[]){"nbdkit", "file", image, NULL});
}

/* The backing tries at most once a second, and nothing tells when: so ask until it works. */
static void wait_until_back(struct backing *b)
{
	struct timespec pause = {.tv_nsec = 5000000};
	uint64_t end = clock_ns() + 10 * NS_PER_S;
	unsigned char byte;
	int r;

	while ((r = backing_pread(b, &byte, 1, 0)) != 0) {
		assert_int_equal(r, -EIO);
		if (clock_ns() > end)
			fail_msg("not connected again within 10 seconds");
		nanosleep(&pause, NULL);
	}
}

static void restart(struct backing *b)
{
	nbd_server_stop(&server);
	start_file();
	wait_until_back(b);
}

static void test_requests_fail_until_back(void **state)
{
	unsigned char buf[100];
	struct backing *b;

	start_file();
	b = nbd_server_open(&server, true);
	contract_write(b, 0, 1u << 20, 1);
	assert_int_equal(backing_flush(b), 0);
	nbd_server_stop(&server);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(backing_pread(b, buf, sizeof(buf), 0), -EIO);
		assert_int_equal(backing_pwrite(b, buf, sizeof(buf), 0), -EIO);
		assert_int_equal(backing_zero(b, 1u << 20, 0, BACKING_ZERO_UNMAP), -EIO);
		assert_int_equal(backing_flush(b), -EIO);
	}
	start_file();
	wait_until_back(b);
	contract_expect(b, 0, 1u << 20, 1);
	/* Everything that was acknowledged had been flushed. */
	assert_int_equal(backing_flush(b), 0);
	contract_check_random(b, 100, 4);
	backing_free(b);
}

static void test_flush_tells_loss_once(void **state)
{
	struct backing *b;

	start_file();
	b = nbd_server_open(&server, true);
	contract_write(b, 0, 100000, 1);
	restart(b);
	assert_int_equal(backing_flush(b), -EIO);
	assert_int_equal(backing_flush(b), 0);
	/* Nothing new was written: nothing new is lost. */
	restart(b);
	assert_int_equal(backing_flush(b), 0);
	/* Flushed in time. */
	contract_write(b, 0, 100000, 2);
	assert_int_equal(backing_flush(b), 0);
	restart(b);
	assert_int_equal(backing_flush(b), 0);
	/* A zero is a write. */
	assert_int_equal(backing_zero(b, 4096, 0, 0), 0);
	restart(b);
	assert_int_equal(backing_flush(b), -EIO);
	assert_int_equal(backing_flush(b), 0);
	/* Several losses before anybody asks are told together. */
	contract_write(b, 0, 10, 3);
	restart(b);
	contract_write(b, 0, 10, 4);
	restart(b);
	assert_int_equal(backing_flush(b), -EIO);
	assert_int_equal(backing_flush(b), 0);
	backing_free(b);
}

/* A flush that fails at the server while the size is asked for must not be forgotten. */
static void test_refresh_tells_failed_flush(void **state)
{
	char trigger[SUPPORT_PATH + 16], pread[3 * SUPPORT_PATH], pwrite[3 * SUPPORT_PATH];
	char flush[3 * SUPPORT_PATH];
	struct backing *b;

	snprintf(trigger, sizeof(trigger), "%s.fail", image);
	snprintf(pread, sizeof(pread),
		"pread=dd if=%s iflag=count_bytes,skip_bytes count=$3 skip=$4 status=none", image);
	snprintf(pwrite, sizeof(pwrite),
		"pwrite=dd of=%s oflag=seek_bytes seek=$4 conv=notrunc status=none", image);
	snprintf(
		flush, sizeof(flush), "flush=if [ -e %s ]; then echo EIO >&2; exit 1; fi", trigger);
	nbd_server_start(&server,
		(const char *const[]){"nbdkit", "eval", "get_size=echo 16M", "can_write=exit 0",
			"can_flush=exit 0", pread, pwrite, flush, NULL});
	b = nbd_server_open(&server, true);
	contract_write(b, 0, 100000, 1);
	support_write_file(trigger, "", 0);
	assert_int_equal(backing_refresh_size(b), -EIO);
	unlink(trigger);
	assert_int_equal(backing_flush(b), -EIO);
	assert_int_equal(backing_flush(b), 0);
	assert_int_equal(backing_refresh_size(b), 0);
	backing_free(b);
}

/* Sixty-four in flight at a slow server when it dies; all of them, and those after, fail with EIO.
 */
static void check_batch_dies(bool zeroes)
{
	unsigned char *data = malloc(1u << 20);
	struct backing_batch *batch;
	struct iovec iov;
	struct backing *b;

	support_fill(data, 1u << 20, 1);
	nbd_server_start(&server, (const char *const[]){"nbdkit", "--filter=delay", "file", image,
					  "delay-write=60", "delay-zero=60", NULL});
	b = nbd_server_open(&server, true);
	assert_int_equal(backing_batch_new(b, &batch), 0);
	for (unsigned i = 0; i < 60; i++) {
		iov = (struct iovec){data, 1u << 17};
		assert_int_equal(zeroes ? backing_submit_zero(batch, 4096, i * 4096, 0)
					: backing_submit_pwritev(batch, &iov, 1, i << 17),
			0);
	}
	nbd_server_stop(&server);
	for (unsigned i = 60; i < 120; i++) {
		int r;

		iov = (struct iovec){data, 4096};
		r = zeroes ? backing_submit_zero(batch, 4096, i * 4096, 0)
			   : backing_submit_pwritev(batch, &iov, 1, i << 17);
		assert_true(r == 0 || r == -EIO);
	}
	assert_int_equal(backing_batch_wait(batch), -EIO);
	start_file();
	wait_until_back(b);
	iov = (struct iovec){data, 4096};
	assert_int_equal(backing_submit_pwritev(batch, &iov, 1, 0), 0);
	assert_int_equal(backing_batch_wait(batch), 0);
	backing_batch_free(batch);
	backing_free(b);
	free(data);
}

static void test_batch_dies(void **state)
{
	check_batch_dies(false);
}

static void test_batch_of_zeroes_dies(void **state)
{
	check_batch_dies(true);
}

struct worker {
	struct backing *b;
	pthread_t thread;
	atomic_bool stop;
	atomic_uint done; /* successful requests */
	int wrong;        /* an error that should not be */
	uint64_t off;
};

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	unsigned char buf[4096];

	for (unsigned i = 0; !atomic_load(&w->stop); i++) {
		int r = i % 2 ? backing_pread(w->b, buf, sizeof(buf), w->off)
			      : backing_pwrite(w->b, buf, sizeof(buf), w->off);

		if (r == 0)
			atomic_fetch_add(&w->done, 1);
		else if (r != -EIO)
			w->wrong = r;
		if (i % 16 == 0)
			(void)backing_flush(w->b);
	}
	return NULL;
}

/* Many threads ask while the server dies and comes back: each gets through again. */
static void test_nobody_hangs(void **state)
{
	enum { WORKERS = 6 };
	struct timespec pause = {.tv_nsec = 1000000};
	struct worker w[WORKERS] = {0};
	struct backing *b;

	start_file();
	b = nbd_server_open(&server, true);
	for (unsigned i = 0; i < WORKERS; i++) {
		w[i].b = b;
		w[i].off = i * 65536;
		assert_int_equal(pthread_create(&w[i].thread, NULL, worker_main, &w[i]), 0);
	}
	for (int round = 0; round < 4; round++) {
		nbd_server_stop(&server);
		start_file();
		for (unsigned i = 0; i < WORKERS; i++) {
			unsigned before = atomic_load(&w[i].done);

			while (atomic_load(&w[i].done) < before + 20)
				nanosleep(&pause, NULL); /* a hang ends in SIGALRM */
		}
	}
	for (unsigned i = 0; i < WORKERS; i++)
		atomic_store(&w[i].stop, true);
	for (unsigned i = 0; i < WORKERS; i++) {
		pthread_join(w[i].thread, NULL);
		assert_int_equal(w[i].wrong, 0);
	}
	backing_free(b);
}

/* A server that comes back as less than it was is not the same disk. */
static void test_changed_server(void **state)
{
	unsigned char byte;
	struct backing *b;

	start_file();
	b = nbd_server_open(&server, true);
	nbd_server_stop(&server);
	nbd_server_start(&server, (const char *const[]){"nbdkit", "-r", "file", image, NULL});
	assert_int_equal(backing_pread(b, &byte, 1, 0), -EIO);
	nbd_server_stop(&server);
	support_must_run(server.dir, (const char *const[]){"truncate", "-s", "15M", image, NULL});
	start_file();
	for (uint64_t end = clock_ns() + 3 * NS_PER_S / 2; clock_ns() < end;)
		assert_int_equal(backing_pread(b, &byte, 1, 0), -EIO);
	support_must_run(server.dir, (const char *const[]){"truncate", "-s", "16M", image, NULL});
	wait_until_back(b);
	backing_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_requests_fail_until_back, make_image, stop_server),
		cmocka_unit_test_setup_teardown(
			test_flush_tells_loss_once, make_image, stop_server),
		cmocka_unit_test_setup_teardown(
			test_refresh_tells_failed_flush, make_image, stop_server),
		cmocka_unit_test_setup_teardown(test_batch_dies, make_image, stop_server),
		cmocka_unit_test_setup_teardown(test_batch_of_zeroes_dies, make_image, stop_server),
		cmocka_unit_test_setup_teardown(test_nobody_hangs, make_image, stop_server),
		cmocka_unit_test_setup_teardown(test_changed_server, make_image, stop_server),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
