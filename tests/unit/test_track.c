/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dirty tracking of another process's RAM, in every way that this kernel has: what was not reported
 * has not changed, while it writes at random and (for the ways that allow it) never stops. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "guest/track.h"

#define PAGES 16384
#define SIZE (PAGES * KERNEL_PAGE)
#define ROUNDS 60

static int ram_fd;
static struct crew *crew;
static unsigned char *ram, *copy;

/* Writes for ever: single bytes at random, now and then a word in a hot page that changes back at
 * once. */
static void writer_main(void)
{
	volatile unsigned char *m;
	unsigned seed = 1;

	munmap(ram, SIZE); /* a second mapping would be refused */
	m = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)!kernel_uffd_open(); /* what tandem-preload.so does */
	for (;;) {
		unsigned r;

		m[8 * KERNEL_PAGE] = 1;
		r = (unsigned)rand_r(&seed);

		m[r % SIZE] = (unsigned char)(r >> 20);
		if (r % 64 == 0) /* scattered pages, not all of them */
			usleep(10);
		m[7 * KERNEL_PAGE] = 1;
		m[7 * KERNEL_PAGE] = 0;
	}
}

static void stop(pid_t pid)
{
	int status;

	assert_int_equal(kill(pid, SIGSTOP), 0);
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
}

/* The writer has written since this was called. */
static void let_write(void)
{
	assert_int_equal(pwrite(ram_fd, "", 1, 8 * KERNEL_PAGE), 1);
	while (*(volatile unsigned char *)(ram + 8 * KERNEL_PAGE) == 0)
		;
}

/* Stops the writer, and finds what it wrote.  The scan begins before it stands (then it is made
 * again), when it stands (then it is not), or is made afterwards. */
static void track_stopped(struct track *t, pid_t pid, int round, struct runs *runs)
{
	bool early = t->ops->stamp && crew_size(crew) > 1;
	uint64_t again = t->again;
	struct error err = {0};

	if (round % 30 == 9) {
		uint64_t count = 0;
		int processor;

		track_early(t);
		assert_int_equal(t->early, early);
		do /* to a page that was protected */
			let_write();
		while (early && t->ops->stamp(t, &count, &processor) == 0 && count == t->count);
		again += early;
	}
	stop(pid);
	if (round % 30 == 19)
		track_early(t);
	if (track_final(t, runs, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(t->again, again);
}

static void track_all_rounds(enum track_way way)
{
	struct track_target at = {.ram_fd = ram_fd, .ram = ram, .size = SIZE};
	struct error err = {0};
	struct runs runs = {0};
	struct track *t;
	uint64_t reported = 0;
	bool many = false;
	int status;
	pid_t pid;

	/* What the writer before has set. */
	assert_int_equal(pwrite(ram_fd, "", 1, 8 * KERNEL_PAGE), 1);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		writer_main();
	while (*(volatile unsigned char *)(ram + 8 * KERNEL_PAGE) == 0) /* it has begun */
		;
	at.pid = pid;
	if (track_new(way, &at, crew, &t, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(track_arm(t, &err), 0);
	memcpy(copy, t->image, SIZE);
	for (int round = 0; round < ROUNDS; round++) {
		bool exact = round % 10 == 9 || !t->ops->live;

		usleep(30000);
		runs_clear(&runs);
		if (exact)
			track_stopped(t, pid, round, &runs);
		else
			assert_int_equal(track_collect(t, &runs, &err), 0);
		for (size_t i = 1; i < runs.n; i++)
			assert_true(runs.v[i].offset > runs.v[i - 1].offset + runs.v[i - 1].length);
		many |= runs.n > 600; /* more than the kernel's buffer */
		for (size_t i = 0; i < runs.n; i++)
			memcpy(copy + runs.v[i].offset, t->image + runs.v[i].offset,
				runs.v[i].length);
		reported += runs.bytes;
		if (!exact)
			continue;
		assert_memory_equal(copy, ram, SIZE);
		assert_int_equal(kill(pid, SIGCONT), 0);
	}
	assert_true(reported > 0);
	assert_true(many || way != TRACK_UFFD);
	runs_deinit(&runs);
	(void)track_free(t);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
}

static void track_by_uffd(void **state)
{
	struct kernel_caps caps;

	kernel_probe(&caps);
	if (!caps.uffd) {
		print_message("skipped: %s\n", caps.uffd_why);
		skip();
	}
	track_all_rounds(TRACK_UFFD);
}

static void track_by_soft_dirty(void **state)
{
	struct kernel_caps caps;

	kernel_probe(&caps);
	if (!caps.soft_dirty) {
		print_message("skipped: %s\n", caps.soft_dirty_why);
		skip();
	}
	track_all_rounds(TRACK_SOFT_DIRTY);
}

static void track_by_shadow(void **state)
{
	track_all_rounds(TRACK_SHADOW);
}

static void runs_join_and_unite(void **state)
{
	struct runs a = {0}, b = {0}, u = {0};

	assert_int_equal(runs_add(&a, 0, 10), 0);
	assert_int_equal(runs_add(&a, 10, 10), 0);
	assert_int_equal(runs_add(&a, 50, 10), 0);
	assert_int_equal(a.n, 2);
	assert_int_equal(runs_add(&b, 15, 20), 0);
	assert_int_equal(runs_add(&b, 40, 40), 0);
	assert_int_equal(runs_unite(&u, &a, &b), 0);
	assert_int_equal(u.n, 2);
	assert_int_equal(u.v[0].offset, 0);
	assert_int_equal(u.v[0].length, 35);
	assert_int_equal(u.v[1].offset, 40);
	assert_int_equal(u.v[1].length, 40);
	assert_int_equal(u.bytes, 75);
	runs_clear(&u);
	assert_int_equal(runs_add(&u, 40, 10), 0);
	assert_int_equal(runs_add(&u, 80, 10), 0);
	assert_int_equal(runs_add(&u, 45, 10), 0);
	assert_int_equal(runs_add(&u, 10, 10), 0);
	assert_int_equal(runs_add(&u, 85, 1), 0);
	runs_normalize(&u);
	assert_int_equal(u.n, 3);
	assert_int_equal(u.v[1].offset, 40);
	assert_int_equal(u.v[1].length, 15);
	assert_int_equal(u.bytes, 35);
	runs_deinit(&a);
	runs_deinit(&b);
	runs_deinit(&u);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(runs_join_and_unite),
		cmocka_unit_test(track_by_uffd),
		cmocka_unit_test(track_by_soft_dirty),
		cmocka_unit_test(track_by_shadow),
	};

	ram_fd = memfd_create("test-ram", 0);
	if (ram_fd < 0 || ftruncate(ram_fd, SIZE) < 0)
		return 1;
	ram = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, ram_fd, 0);
	copy = malloc(SIZE);
	crew = crew_new(CREW_THREADS);
	if (ram == MAP_FAILED || !copy || !crew)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
