/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An unprivileged process opens a userfaultfd; another takes it over by pidfd_getfd, protects
 * memory of the first with it and scans its pagemap, while the first one's threads write.  No write
 * is lost. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "kernel_test.h"

#define PAGES 64
#define ROUNDS 200

/* Each page holds a number that only grows; the scanner takes a copy of each page reported. */
static void *writer(void *arg)
{
	_Atomic uint64_t *m = arg;
	unsigned seed = (unsigned)(uintptr_t)&seed;

	for (uint64_t n = 1;; n++) {
		unsigned p = (unsigned)rand_r(&seed) % PAGES;

		m[p * KERNEL_PAGE / 8] += 1;
	}
	return NULL;
}

static uint64_t sum(const _Atomic uint64_t *m)
{
	uint64_t s = 0;

	for (int p = 0; p < PAGES; p++)
		s += m[p * KERNEL_PAGE / 8];
	return s;
}

int main(void)
{
	int fd, to[2], pidfd, uffd, pagemap, status;
	uint64_t copy[PAGES] = {0}, addr;
	_Atomic uint64_t *m;
	char path[64], c = 0;
	pid_t child;
	struct {
		uint64_t addr;
		int uffd;
	} told;

	need_uffd();
	m = (_Atomic uint64_t *)shared_pages(PAGES, &fd);
	addr = (uintptr_t)m;
	CHECK(pipe(to) == 0);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		pthread_t t;

		if (getuid() == 0)
			CHECK(setresgid(65534, 65534, 65534) == 0 &&
				setresuid(65534, 65534, 65534) == 0);
		prctl(PR_SET_DUMPABLE, 1);
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed check leaves nobody behind */
		told.addr = addr;
		told.uffd = kernel_uffd_open();
		CHECK(told.uffd >= 0);
		CHECK(write(to[1], &told, sizeof(told)) == sizeof(told));
		CHECK(pthread_create(&t, NULL, writer, (void *)m) == 0);
		writer((void *)m);
	}
	CHECK(read(to[0], &told, sizeof(told)) == sizeof(told));
	pidfd = kernel_pidfd_open(child);
	CHECK(pidfd >= 0);
	uffd = kernel_pidfd_getfd(pidfd, told.uffd);
	CHECK(uffd >= 0);
	CHECK(kernel_uffd_enable(uffd) == 0);
	CHECK(kernel_uffd_protect(uffd, told.addr, PAGES * KERNEL_PAGE) == 0);
	for (int p = 0; p < PAGES; p++)
		copy[p] = m[p * KERNEL_PAGE / 8];
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)child);
	pagemap = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(pagemap >= 0);
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t bits;

		/* On a busy machine they may not have run yet. */
		for (uint64_t before = sum(m); round == ROUNDS / 2 && sum(m) == before;)
			sched_yield();

		if (round == ROUNDS - 1) { /* stopped: the copy must be exact */
			CHECK(kill(child, SIGSTOP) == 0);
			CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
		}
		bits = written_pages(pagemap, (void *)(uintptr_t)told.addr, PAGES);
		for (int p = 0; p < PAGES; p++)
			if (bits >> p & 1)
				copy[p] = m[p * KERNEL_PAGE / 8];
	}
	for (int p = 0; p < PAGES; p++) {
		c |= copy[p] > 0;
		CHECK(copy[p] == m[p * KERNEL_PAGE / 8]);
	}
	CHECK(c);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	return 0;
}
