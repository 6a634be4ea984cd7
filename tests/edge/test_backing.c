/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Backing storage on raw files and on block devices (loop), and what is refused. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <unistd.h>

#include "contract.h"

static char dir[SUPPORT_PATH];

static int make_dir(void **state)
{
	support_dir_make(dir, sizeof(dir));
	return 0;
}

static int remove_dir(void **state)
{
	support_dir_remove(dir);
	return 0;
}

static void make_image(char *ret_path, size_t size, const char *name, off_t bytes)
{
	int fd;

	snprintf(ret_path, size, "%.200s/%.40s", dir, name);
	fd = open(ret_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, bytes), 0);
	close(fd);
}

static struct backing *open_ok(const char *target, bool writable)
{
	struct error err = {0};
	struct backing *b = NULL;

	if (backing_open(target, writable, &b, &err) < 0)
		fail_msg("%s", err.text);
	assert_string_equal(backing_target(b), target);
	return b;
}

static void expect_refused(
	const char *target, bool writable, int code, enum error_kind kind, const char *text)
{
	struct backing *b = NULL;
	struct error err = {0};

	assert_int_equal(backing_open(target, writable, &b, &err), code);
	assert_null(b);
	assert_int_equal(err.code, code);
	assert_int_equal(err.kind, kind);
	assert_string_equal(err.text, text);
	/* Without somebody to tell it is the same. */
	assert_int_equal(backing_open(target, writable, &b, NULL), code);
}

static void test_file_contract(void **state)
{
	char path[SUPPORT_PATH];
	struct backing *b;

	make_image(path, sizeof(path), "contract.img", CONTRACT_SIZE);
	b = open_ok(path, true);
	contract_check(b);
	assert_int_equal(backing_get_info(b)->block_min, 1);
	assert_null(backing_free(b));
	assert_null(backing_free(NULL));
}

static uint64_t allocated(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* Space is given back with UNMAP only; what UNMAP did not allow stays allocated. */
static void check_zero_space(const char *path)
{
	struct backing *b = open_ok(path, true);
	uint64_t full;

	contract_write(b, 0, CONTRACT_SIZE, 3);
	assert_int_equal(backing_flush(b), 0);
	full = allocated(path);
	assert_true(full >= CONTRACT_SIZE);
	assert_int_equal(backing_zero(b, 4u << 20, 0, 0), 0);
	assert_int_equal(backing_flush(b), 0);
	assert_true(allocated(path) >= CONTRACT_SIZE);
	contract_expect(b, 0, 4u << 20, 0);
	if (backing_get_info(b)->can_unmap) {
		assert_int_equal(backing_zero(b, 4u << 20, 0, BACKING_ZERO_UNMAP), 0);
		assert_int_equal(backing_flush(b), 0);
		assert_true(allocated(path) <= full - (4u << 20) + 65536);
		contract_expect(b, 0, 4u << 20, 0);
	}
	backing_free(b);
}

static void test_file_zero_space(void **state)
{
	char path[SUPPORT_PATH];

	make_image(path, sizeof(path), "space.img", CONTRACT_SIZE);
	check_zero_space(path);
}

/* tmpfs can punch holes and cannot zero ranges: the other way through the same code. */
static void test_file_zero_space_tmpfs(void **state)
{
	char path[] = "/dev/shm/tandem-edge.XXXXXX";
	struct backing *b;
	struct statfs fs;
	int fd;

	if (statfs("/dev/shm", &fs) < 0 || fs.f_type != TMPFS_MAGIC)
		support_skip("/dev/shm is no tmpfs");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, CONTRACT_SIZE), 0);
	close(fd);
	check_zero_space(path);
	b = open_ok(path, true);
	contract_check(b);
	backing_free(b);
	unlink(path);
}

static void test_file_size(void **state)
{
	char path[SUPPORT_PATH];
	struct backing *b;
	unsigned char buf[16];

	make_image(path, sizeof(path), "size.img", 1000);
	b = open_ok(path, true);
	assert_int_equal(backing_get_info(b)->size, 1000);
	contract_write(b, 990, 10, 1);
	assert_int_equal(truncate(path, 5000), 0);
	assert_int_equal(backing_get_info(b)->size, 1000);
	assert_int_equal(backing_refresh_size(b), 0);
	assert_int_equal(backing_get_info(b)->size, 5000);
	contract_write(b, 4990, 10, 2);
	/* Cut short under us: an error, not zeroes from nowhere. */
	assert_int_equal(truncate(path, 4000), 0);
	assert_int_equal(backing_pread(b, buf, sizeof(buf), 4500), -EIO);
	backing_free(b);
}

static void test_file_read_only(void **state)
{
	char path[SUPPORT_PATH];
	struct backing *b, *second;
	struct backing_batch *batch;
	struct iovec iov = {path, 10};

	make_image(path, sizeof(path), "ro.img", CONTRACT_SIZE);
	b = open_ok(path, true);
	contract_write(b, 0, 10000, 1);
	/* Readers do not lock, and a writer does not lock them out. */
	second = open_ok(path, false);
	contract_expect(second, 0, 10000, 1);
	backing_free(b);
	assert_int_equal(backing_pwrite(second, path, 10, 0), -EROFS);
	assert_int_equal(backing_pwritev(second, &iov, 1, 0), -EROFS);
	assert_int_equal(backing_zero(second, 4096, 0, BACKING_ZERO_UNMAP), -EROFS);
	assert_int_equal(backing_flush(second), 0);
	assert_int_equal(backing_batch_new(second, &batch), 0);
	assert_int_equal(backing_submit_pwritev(batch, &iov, 1, 0), -EROFS);
	assert_int_equal(backing_batch_wait(batch), -EROFS);
	assert_int_equal(backing_submit_zero(batch, 4096, 0, 0), -EROFS);
	assert_int_equal(backing_batch_wait(batch), -EROFS);
	assert_int_equal(backing_batch_wait(batch), 0);
	backing_batch_free(batch);
	contract_expect(second, 0, 10000, 1);
	backing_free(second);
}

static void test_file_locked(void **state)
{
	char path[SUPPORT_PATH], text[2 * SUPPORT_PATH];
	struct backing *b;

	make_image(path, sizeof(path), "locked.img", 4096);
	b = open_ok(path, true);
	snprintf(text, sizeof(text), "backing %s is in use: another process has locked it", path);
	expect_refused(path, true, -EBUSY, ERROR_BUSY, text);
	backing_free(b);
	backing_free(open_ok(path, true));
}

static void test_refused_targets(void **state)
{
	char path[SUPPORT_PATH], text[2 * SUPPORT_PATH];

	expect_refused("disk.img", true, -EINVAL, ERROR_CONFIG,
		"backing \"disk.img\" is neither an absolute path nor an NBD URI "
		"(nbd:// nbds:// nbd+unix:// nbds+unix://)");
	expect_refused("nbd+ssh://host/", true, -EINVAL, ERROR_CONFIG,
		"backing \"nbd+ssh://host/\" is neither an absolute path nor an NBD URI "
		"(nbd:// nbds:// nbd+unix:// nbds+unix://)");
	snprintf(path, sizeof(path), "%.200s/absent", dir);
	snprintf(text, sizeof(text), "cannot open backing %s: No such file or directory", path);
	expect_refused(path, true, -ENOENT, ERROR_IO, text);
	snprintf(
		text, sizeof(text), "backing %s is neither a regular file nor a block device", dir);
	expect_refused(dir, false, -EINVAL, ERROR_CONFIG, text);
	expect_refused("/dev/null", true, -EINVAL, ERROR_CONFIG,
		"backing /dev/null is neither a regular file nor a block device");
	snprintf(path, sizeof(path), "%.200s/fifo", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	snprintf(text, sizeof(text), "backing %s is neither a regular file nor a block device",
		path);
	expect_refused(path, false, -EINVAL, ERROR_CONFIG, text);
}

/* A loop device over a new file; skips where there is none to have. */
static int attach_loop(const char *path, char *ret_device, size_t size)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), device, backing, n;
	struct loop_config config = {.info.lo_flags = LO_FLAGS_AUTOCLEAR};

	if (control < 0)
		support_skip("no loop devices here: %s", strerror(errno));
	backing = open(path, O_RDWR | O_CLOEXEC);
	assert_true(backing >= 0);
	config.fd = (uint32_t)backing;
	for (int attempt = 0;; attempt++) {
		n = ioctl(control, LOOP_CTL_GET_FREE);
		if (n < 0)
			support_skip("no free loop device: %s", strerror(errno));
		snprintf(ret_device, size, "/dev/loop%d", n);
		device = open(ret_device, O_RDWR | O_CLOEXEC);
		if (device >= 0 && ioctl(device, LOOP_CONFIGURE, &config) == 0)
			break;
		/* Somebody else was faster. */
		if (errno != EBUSY || attempt == 16)
			support_skip("cannot set up %s: %s", ret_device, strerror(errno));
		close(device);
	}
	close(control);
	close(backing);
	return device; /* autoclear: the device goes when the last descriptor does */
}

static void test_device(void **state)
{
	char path[SUPPORT_PATH], device[64], text[256];
	struct backing *b, *reader;
	int fd;

	make_image(path, sizeof(path), "device.img", CONTRACT_SIZE);
	fd = attach_loop(path, device, sizeof(device));
	b = open_ok(device, true);
	assert_int_equal(backing_get_info(b)->size, CONTRACT_SIZE);
	assert_int_equal(backing_get_info(b)->block_min, 1);
	contract_check(b);
	reader = open_ok(device, false);
	contract_write(b, 4096, 4096, 77);
	contract_expect(reader, 4096, 4096, 77);
	snprintf(text, sizeof(text), "backing %s is in use: mounted, or held by another program",
		device);
	expect_refused(device, true, -EBUSY, ERROR_BUSY, text);
	/* Online growth. */
	assert_int_equal(truncate(path, 2 * CONTRACT_SIZE), 0);
	assert_int_equal(ioctl(fd, LOOP_SET_CAPACITY), 0);
	assert_int_equal(backing_refresh_size(b), 0);
	assert_int_equal(backing_get_info(b)->size, 2 * CONTRACT_SIZE);
	contract_write(b, 2 * CONTRACT_SIZE - 5000, 5000, 8);
	assert_int_equal(backing_flush(b), 0);
	backing_free(b);
	backing_free(reader);
	close(fd);
	b = open_ok(path, false);
	contract_expect(b, 2 * CONTRACT_SIZE - 5000, 5000, 8);
	backing_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_file_contract),
		cmocka_unit_test(test_file_zero_space),
		cmocka_unit_test(test_file_zero_space_tmpfs),
		cmocka_unit_test(test_file_size),
		cmocka_unit_test(test_file_read_only),
		cmocka_unit_test(test_file_locked),
		cmocka_unit_test(test_refused_targets),
		cmocka_unit_test(test_device),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
