/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tiny programs share: each proves one behaviour of the kernel that Tandem relies on, ends
 * with 0, with 77 and a reason where this kernel lacks the interface, or with 1 and the line that
 * failed. */
#ifndef TANDEM_TESTS_KERNEL_TEST_H
#define TANDEM_TESTS_KERNEL_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/kernel.h"

#define CHECK(what)                                                                                \
	do {                                                                                       \
		if (!(what)) {                                                                     \
			printf("%s:%d: %s (%s)\n", __FILE__, __LINE__, #what, strerror(errno));    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* Ends the program with "skipped" where the interface is not there. */
static inline void need_uffd(void)
{
	struct kernel_caps caps;

	kernel_probe(&caps);
	if (!caps.uffd) {
		printf("skipped: %s\n", caps.uffd_why);
		exit(77);
	}
}

/* A shared file of that many pages, mapped. */
static inline unsigned char *shared_pages(size_t pages, int *ret_fd)
{
	int fd = memfd_create("kernel-test", MFD_CLOEXEC);
	void *m;

	CHECK(fd >= 0 && ftruncate(fd, (off_t)(pages * KERNEL_PAGE)) == 0);
	m = mmap(NULL, pages * KERNEL_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(m != MAP_FAILED);
	*ret_fd = fd;
	return m;
}

/* Bit i: page i (of at most 64) was written since the last call. */
static inline uint64_t written_pages(int pagemap, const void *mem, size_t pages)
{
	uint64_t start = (uintptr_t)mem, end = start + pages * KERNEL_PAGE, at = start, bits = 0;
	struct kernel_region r[8];

	while (at < end) {
		int n = kernel_scan_written(pagemap, at, end, r, 8, &at);

		CHECK(n >= 0);
		for (int i = 0; i < n; i++)
			for (uint64_t a = r[i].start; a < r[i].end; a += KERNEL_PAGE)
				bits |= 1ull << (a - start) / KERNEL_PAGE;
	}
	return bits;
}

static inline int own_pagemap(void)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	CHECK(fd >= 0);
	return fd;
}

#endif
