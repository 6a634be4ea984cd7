/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The map file of a disk that becomes larger (docs/metadata.md, map file): at rest, with another
 * block size too; while it is open; and after a crash at each step of that, each write to the file
 * that was not flushed kept, lost or torn.  What was dirty stays dirty, and all of the new part is.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

#include "replicator/mapfile.h"
#include "util/bytes.h"

#define MIB (1ull << 20)
#define BLOCK 65536u
#define OLD (5 * MIB + 4096) /* ends within a block, a word and a page */
#define STEPS 64

static char path[] = "/tmp/tandem-mapfile.XXXXXX";
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* What is written while the file grows; a step with len 0 is a flush. */
static struct step {
	off_t off;
	size_t len;
	uint8_t data[DIRTYFILE_UNIT];
} steps[STEPS];
static unsigned nsteps;
static bool recording;

ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
	if (recording) {
		assert_true(nsteps < STEPS && len <= DIRTYFILE_UNIT);
		steps[nsteps].off = off;
		steps[nsteps].len = len;
		memcpy(steps[nsteps++].data, buf, len);
	}
	return syscall(SYS_pwrite64, fd, buf, len, off);
}

int fdatasync(int fd)
{
	if (recording) {
		assert_true(nsteps < STEPS);
		steps[nsteps++].len = 0;
	}
	return (int)syscall(SYS_fdatasync, fd);
}

static void open_it(struct mapfile *f, uint64_t size, uint32_t block)
{
	struct error err = {0};

	if (mapfile_open(f, path, size, block, &lock, &err) != MAPFILE_VALID)
		fail_msg("%s", err.text);
	assert_int_equal(f->map.size, size);
}

/* A file of OLD bytes in which these blocks are dirty and no other. */
static void make(struct mapfile *f)
{
	struct error err;

	assert_int_equal(mapfile_create(path, OLD, BLOCK, &err), 0);
	open_it(f, OLD, BLOCK);
	pthread_mutex_lock(&lock);
	dirtymap_clear_all(&f->map, DIRTYMAP_WANTED);
	dirtymap_mark(&f->map, DIRTYMAP_WANTED, 3 * BLOCK, 1);
	dirtymap_mark(&f->map, DIRTYMAP_WANTED, 64 * BLOCK, 2 * BLOCK);
	assert_int_equal(mapfile_settle(f), 0);
	pthread_mutex_unlock(&lock);
}

/* exact: nothing of the old part is dirty that was not, but for the block in which it ends. */
static void check(const struct mapfile *f, uint64_t size, bool exact)
{
	const struct dirtymap *m = &f->map;

	assert_true(dirtymap_covers(m, DIRTYMAP_WANTED, 3 * BLOCK, BLOCK));
	assert_true(dirtymap_covers(m, DIRTYMAP_WANTED, 64 * BLOCK, 2 * BLOCK));
	assert_true(dirtymap_covers(m, DIRTYMAP_WANTED, OLD, size - OLD));
	if (!exact)
		return;
	assert_false(dirtymap_test(m, DIRTYMAP_WANTED, 0, 3 * BLOCK));
	assert_false(dirtymap_test(m, DIRTYMAP_WANTED, 4 * BLOCK, 60 * BLOCK));
	assert_false(dirtymap_test(m, DIRTYMAP_WANTED, 66 * BLOCK, 14 * BLOCK));
}

static void test_at_rest(void **state)
{
	static const uint32_t blocks[] = {4096, BLOCK, 1 << 20};

	(void)state;
	for (unsigned i = 0; i < 3; i++)
		for (uint64_t size = OLD; size < 6000 * MIB; size = size * 3 + 512) {
			struct mapfile f;

			make(&f);
			mapfile_close(&f);
			open_it(&f, size, blocks[i]);
			assert_int_equal(dirtymap_block(&f.map), blocks[i]);
			if (size == OLD) {
				assert_true(dirtymap_covers(
					&f.map, DIRTYMAP_WANTED, 64 * BLOCK, 2 * BLOCK));
				assert_false(dirtymap_test(&f.map, DIRTYMAP_WANTED, 50 * BLOCK, 1));
			} else {
				check(&f, size, blocks[i] <= BLOCK);
			}
			mapfile_close(&f);
			/* and so it stays */
			open_it(&f, size, blocks[i]);
			if (size > OLD)
				check(&f, size, blocks[i] <= BLOCK);
			mapfile_close(&f);
		}
}

static void test_smaller_is_made_anew(void **state)
{
	struct error err = {0};
	struct mapfile f;

	(void)state;
	make(&f);
	mapfile_close(&f);
	assert_int_equal(mapfile_open(&f, path, OLD - 4096, BLOCK, &lock, &err), MAPFILE_UNUSABLE);
	assert_non_null(strstr(err.text, "is of a disk of"));
	assert_true(dirtymap_covers(&f.map, DIRTYMAP_WANTED, 0, OLD - 4096));
	mapfile_close(&f);
}

static void test_open(void **state)
{
	(void)state;
	for (uint64_t size = OLD + 512; size < 6000 * MIB; size = size * 3) {
		struct mapfile f;

		make(&f);
		pthread_mutex_lock(&lock);
		assert_int_equal(mapfile_grow(&f, OLD - 1, true), -EINVAL);
		assert_int_equal(mapfile_grow(&f, 1ull << 61, true), -EFBIG);
		assert_int_equal(mapfile_grow(&f, OLD, true), 0);
		assert_false(dirtymap_test(&f.map, DIRTYMAP_WANTED, OLD - 1, 1));
		assert_int_equal(mapfile_grow(&f, size, true), 0);
		check(&f, size, true);
		/* a write to its end, which is let go of */
		assert_int_equal(mapfile_enter(&f, size - 512, 512), 0);
		mapfile_leave(&f, size - 512, 512);
		dirtymap_clear_all(&f.map, DIRTYMAP_WANTED);
		assert_int_equal(mapfile_settle(&f), 0);
		pthread_mutex_unlock(&lock);
		mapfile_close(&f);
		open_it(&f, size, BLOCK);
		assert_int_equal(f.map.wanted, 0);
		mapfile_close(&f);
	}
}

/* Who is asked by its primary marks nothing; its file is whole all the same. */
static void test_unmarked(void **state)
{
	struct activity_report report;
	struct dirtymap map;
	struct activity log;
	struct error err;
	struct mapfile f;

	(void)state;
	make(&f);
	pthread_mutex_lock(&lock);
	assert_int_equal(mapfile_grow(&f, 5000 * MIB, false), 0);
	assert_false(dirtymap_test(&f.map, DIRTYMAP_WANTED, OLD + BLOCK, 5000 * MIB - OLD - BLOCK));
	pthread_mutex_unlock(&lock);
	mapfile_close(&f);
	assert_int_equal(mapfile_read(path, &map, &log, &report, &err), 0);
	assert_int_equal(map.size, 5000 * MIB);
	assert_int_equal(report.lost_pages, 0);
	assert_false(dirtymap_test(&map, DIRTYMAP_WANTED, OLD + BLOCK, 5000 * MIB - OLD - BLOCK));
	activity_deinit(&log);
	dirtymap_deinit(&map);
}

static void put(const uint8_t *data, size_t len)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(syscall(SYS_pwrite64, fd, data, len, (off_t)0), len);
	close(fd);
}

/* The file as it was, and of the steps before end those that a flush covers, of the others what the
 * dice say. */
static void crash(const uint8_t *before, size_t len, unsigned end, uint64_t size)
{
	unsigned flushed = 0;
	struct mapfile f;
	int fd;

	for (unsigned i = 0; i < end; i++)
		if (steps[i].len == 0)
			flushed = i;
	put(before, len);
	fd = open(path, O_RDWR);
	for (unsigned i = 0; i < end; i++) {
		unsigned dice = i < flushed ? 0 : (unsigned)rand() % 3;
		size_t n = dice == 0 ? steps[i].len : dice == 1 ? 0 : steps[i].len / 2;

		(void)syscall(SYS_pwrite64, fd, steps[i].data, n, steps[i].off);
	}
	close(fd);
	open_it(&f, size, BLOCK);
	check(&f, size, false);
	mapfile_close(&f);
	open_it(&f, size, BLOCK);
	check(&f, size, false);
	mapfile_close(&f);
}

static void test_crash(void **state)
{
	(void)state;
	srand(7);
	for (uint64_t size = OLD + 512; size < 6000 * MIB; size = size * 3) {
		uint8_t before[1 << 20];
		struct mapfile f;
		struct stat st;
		int fd;

		make(&f);
		fd = open(path, O_RDONLY);
		assert_int_equal(fstat(fd, &st), 0);
		assert_int_equal(pread(fd, before, sizeof(before), 0), st.st_size);
		close(fd);
		nsteps = 0;
		recording = true;
		pthread_mutex_lock(&lock);
		assert_int_equal(mapfile_grow(&f, size, true), 0);
		pthread_mutex_unlock(&lock);
		recording = false;
		mapfile_close(&f);
		assert_true(nsteps >= 4); /* pages, flush, header, flush */
		for (unsigned end = 0; end <= nsteps; end++)
			for (unsigned i = 0; i < 20; i++)
				crash(before, (size_t)st.st_size, end, size);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_at_rest),
		cmocka_unit_test(test_smaller_is_made_anew),
		cmocka_unit_test(test_open),
		cmocka_unit_test(test_unmarked),
		cmocka_unit_test(test_crash),
	};
	int fd = mkstemp(path), failed;

	if (fd < 0)
		return 1;
	close(fd);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	return failed;
}
