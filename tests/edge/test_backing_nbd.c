/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Backing storage behind live NBD servers (qemu-nbd with qcow2, nbdkit with memory) on Unix
 * sockets: the same contract as for files, whatever the server can and cannot do. */
#include "nbd_server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "contract.h"

static struct nbd_server server;

static int make_dir(void **state)
{
	nbd_server_init(&server);
	return 0;
}

static int remove_dir(void **state)
{
	nbd_server_deinit(&server);
	return 0;
}

/* A failed test must not leave its server to the next one. */
static int stop_server(void **state)
{
	nbd_server_stop(&server);
	return 0;
}

#define START(...) nbd_server_start(&server, (const char *const[]){__VA_ARGS__, NULL})

static void test_nbdkit_memory(void **state)
{
	struct backing *b;

	START("nbdkit", "memory", "16M");
	b = nbd_server_open(&server, true);
	assert_int_equal(backing_get_info(b)->size, 16u << 20);
	assert_true(backing_get_info(b)->can_extents);
	assert_true(backing_get_info(b)->can_unmap);
	contract_check(b);
	backing_free(b);
}

static void test_qemu_nbd_qcow2(void **state)
{
	char image[SUPPORT_PATH];
	struct backing *b;

	nbd_server_qcow2(&server, image, sizeof(image), "16M");
	START("qemu-nbd", "-t", "-e", "8", "--discard=unmap", "-f", "qcow2", image);
	b = nbd_server_open(&server, true);
	contract_check(b);
	contract_write(b, 12345, 100000, 9);
	assert_int_equal(backing_flush(b), 0);
	backing_free(b);
	/* What was flushed is in the image, also after a kill. */
	nbd_server_stop(&server);
	START("qemu-nbd", "-t", "-r", "-f", "qcow2", image);
	b = nbd_server_open(&server, false);
	contract_expect(b, 12345, 100000, 9);
	backing_free(b);
}

/* qemu-nbd takes one client by default and leaves the others in the backlog. */
static void test_one_connection(void **state)
{
	char image[SUPPORT_PATH];
	struct backing *b;

	nbd_server_qcow2(&server, image, sizeof(image), "16M");
	START("qemu-nbd", "-t", "-f", "qcow2", image);
	b = nbd_server_open(&server, true);
	contract_check_batch(b);
	contract_check_random(b, 200, 2);
	backing_free(b);
}

static void test_large_blocks(void **state)
{
	struct backing *b;

	START("nbdkit", "--filter=blocksize-policy", "memory", "16M", "blocksize-minimum=4096",
		"blocksize-preferred=65536", "blocksize-maximum=1M",
		"blocksize-error-policy=error");
	b = nbd_server_open(&server, true);
	assert_int_equal(backing_get_info(b)->block_min, 4096);
	assert_int_equal(backing_get_info(b)->block_preferred, 65536);
	contract_check(b);
	backing_free(b);
}

/* The last block is no whole one; the server takes it all the same, and so do we. */
static void test_odd_size(void **state)
{
	struct backing *b;

	START("nbdkit", "--filter=blocksize-policy", "memory", "8389000", "blocksize-minimum=4096",
		"blocksize-preferred=4096", "blocksize-maximum=1M");
	b = nbd_server_open(&server, true);
	assert_int_equal(backing_get_info(b)->size, 8389000);
	contract_check_random(b, 100, 3);
	contract_write(b, 8388000, 1000, 4);
	contract_expect(b, 8388000, 1000, 4);
	contract_write(b, 8388608, 392, 5);
	contract_expect(b, 8388608, 392, 5);
	assert_int_equal(backing_zero(b, 5000, 8384000, BACKING_ZERO_UNMAP), 0);
	contract_expect(b, 8384000, 5000, 0);
	backing_free(b);
}

static void test_few_abilities(void **state)
{
	struct backing *b;

	START("nbdkit", "--no-sr", "--filter=nozero", "--filter=multi-conn", "memory", "16M",
		"multi-conn-mode=disable");
	b = nbd_server_open(&server, true);
	assert_false(backing_get_info(b)->can_unmap);
	assert_false(backing_get_info(b)->can_fast_zero);
	assert_false(backing_get_info(b)->can_extents);
	contract_check(b);
	backing_free(b);
}

/* qemu-nbd refuses this one after it has zeroed the second cluster: so it must not be asked. */
static void test_fast_zero_refused(void **state)
{
	char image[SUPPORT_PATH];
	struct backing *b;

	nbd_server_qcow2(&server, image, sizeof(image), "16M");
	START("qemu-nbd", "-t", "--discard=unmap", "-f", "qcow2", image);
	b = nbd_server_open(&server, true);
	contract_write(b, 0, 3 * 65536, 6);
	assert_int_equal(backing_zero(b, 65536 + 4096, 65536, BACKING_ZERO_FAST), -EOPNOTSUPP);
	contract_expect(b, 0, 3 * 65536, 6);
	backing_free(b);
}

/* A server that offers zeroes and then does not take one: they are written. */
static void test_zero_not_taken(void **state)
{
	struct backing *b;

	START("nbdkit", "--filter=error", "memory", "16M", "error-zero=EINVAL",
		"error-zero-rate=100%");
	b = nbd_server_open(&server, true);
	contract_write(b, 0, 1u << 20, 6);
	assert_int_equal(backing_zero(b, 1u << 20, 0, BACKING_ZERO_UNMAP), 0);
	contract_expect(b, 0, 1u << 20, 0);
	contract_check_batch(b);
	backing_free(b);
}

static void test_server_errors(void **state)
{
	struct backing_batch *batch;
	struct backing *b;
	struct iovec iov = {server.path, 100};

	START("nbdkit", "--filter=error", "memory", "16M", "error-pwrite=ENOSPC",
		"error-pwrite-rate=100%", "error-pread=EIO", "error-pread-rate=100%");
	b = nbd_server_open(&server, true);
	assert_int_equal(backing_pwrite(b, server.path, 100, 0), -ENOSPC);
	assert_int_equal(backing_pread(b, server.path, 100, 0), -EIO);
	assert_int_equal(backing_batch_new(b, &batch), 0);
	(void)backing_submit_pwritev(batch, &iov, 1, 0);
	assert_int_equal(backing_batch_wait(batch), -ENOSPC);
	assert_int_equal(backing_batch_wait(batch), 0);
	backing_batch_free(batch);
	/* Nothing was acknowledged, so nothing is lost by a flush. */
	assert_int_equal(backing_flush(b), 0);
	backing_free(b);
}

static void test_read_only(void **state)
{
	char want[3 * SUPPORT_PATH];
	struct error err = {0};
	struct backing *b = NULL;

	START("nbdkit", "-r", "memory", "16M");
	assert_int_equal(backing_open(server.uri, true, &b, &err), -EROFS);
	snprintf(want, sizeof(want), "backing %s: the export is read-only", server.uri);
	assert_string_equal(err.text, want);
	assert_int_equal(err.kind, ERROR_IO);
	b = nbd_server_open(&server, false);
	contract_expect(b, 1000, 100000, 0);
	assert_int_equal(backing_pwrite(b, want, 10, 0), -EROFS);
	assert_int_equal(backing_zero(b, 10, 0, 0), -EROFS);
	assert_int_equal(backing_flush(b), 0);
	backing_free(b);
}

/* The text names the object and why; it is libnbd's own where libnbd knows better. */
static void expect_open_fails(const char *uri, const char *begin, const char *within)
{
	struct error err = {0};
	struct backing *b = NULL;

	assert_true(backing_open(uri, true, &b, &err) < 0);
	assert_int_equal(err.kind, ERROR_IO);
	if (strncmp(err.text, begin, strlen(begin)) != 0 || !strstr(err.text, within))
		fail_msg("\"%s\" does not begin with \"%s\" or has no \"%s\"", err.text, begin,
			within);
}

static void test_open_errors(void **state)
{
	char begin[3 * SUPPORT_PATH], uri[2 * SUPPORT_PATH];

	snprintf(begin, sizeof(begin), "backing %s: cannot connect: ", server.uri);
	expect_open_fails(server.uri, begin, "No such file or directory");
	snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s&nonsense=%%zz", server.path);
	snprintf(begin, sizeof(begin), "backing %s: cannot connect: ", uri);
	expect_open_fails(uri, begin, "");
	START("nbdkit", "sh", "-", "--run", "true"); /* ends at once: hangs up */
	snprintf(begin, sizeof(begin), "backing %s: cannot connect: ", server.uri);
	expect_open_fails(server.uri, begin, "");
	nbd_server_stop(&server);
	/* Listening, but nobody answers. */
	START("sleep", "60");
	expect_open_fails(server.uri, begin, "no answer in 5 seconds");
}

static void test_growth(void **state)
{
	char image[SUPPORT_PATH];
	struct backing *b;
	unsigned char byte = 7;

	snprintf(image, sizeof(image), "%.200s/grow.img", server.dir);
	support_must_run(server.dir, (const char *const[]){"truncate", "-s", "9M", image, NULL});
	START("nbdkit", "file", image);
	b = nbd_server_open(&server, true);
	assert_int_equal(backing_get_info(b)->size, 9u << 20);
	support_must_run(server.dir, (const char *const[]){"truncate", "-s", "10M", image, NULL});
	assert_int_equal(backing_refresh_size(b), 0);
	assert_int_equal(backing_get_info(b)->size, 10u << 20);
	assert_int_equal(backing_pwrite(b, &byte, 1, (10u << 20) - 1), 0);
	contract_check_batch(b);
	assert_int_equal(backing_flush(b), 0);
	/* A file that shrank is no longer this backing. */
	support_must_run(server.dir, (const char *const[]){"truncate", "-s", "9M", image, NULL});
	assert_true(backing_refresh_size(b) < 0);
	assert_int_equal(backing_get_info(b)->size, 10u << 20);
	backing_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_nbdkit_memory, stop_server),
		cmocka_unit_test_teardown(test_qemu_nbd_qcow2, stop_server),
		cmocka_unit_test_teardown(test_one_connection, stop_server),
		cmocka_unit_test_teardown(test_large_blocks, stop_server),
		cmocka_unit_test_teardown(test_odd_size, stop_server),
		cmocka_unit_test_teardown(test_few_abilities, stop_server),
		cmocka_unit_test_teardown(test_fast_zero_refused, stop_server),
		cmocka_unit_test_teardown(test_zero_not_taken, stop_server),
		cmocka_unit_test_teardown(test_server_errors, stop_server),
		cmocka_unit_test_teardown(test_read_only, stop_server),
		cmocka_unit_test_teardown(test_open_errors, stop_server),
		cmocka_unit_test_teardown(test_growth, stop_server),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
