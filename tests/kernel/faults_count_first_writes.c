/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The first write to a protected page is a page fault of the process in /proc/PID/stat, whoever
 * makes it: the processor, in any thread, also one that has ended since, or the kernel in read(2)
 * and recvmsg(2).  Where nothing was written the count stays. */
#include <pthread.h>
#include <sys/socket.h>

#include "kernel_test.h"

#define PAGES 64
#define ROUNDS 50

static int zero, stat_fd, sv[2];

static uint64_t faults(void)
{
	uint64_t n;
	int processor;

	CHECK(kernel_faults(stat_fd, &n, &processor) == 0 && processor >= 0);
	return n;
}

static void *by_thread(void *page)
{
	*(volatile unsigned char *)page = 1;
	return NULL;
}

static void by_processor(unsigned char *page)
{
	(void)by_thread(page);
}

static void by_another_thread(unsigned char *page)
{
	pthread_t t;

	CHECK(pthread_create(&t, NULL, by_thread, page) == 0);
	CHECK(pthread_join(t, NULL) == 0);
}

static void by_read(unsigned char *page)
{
	CHECK(read(zero, page, KERNEL_PAGE) == KERNEL_PAGE);
}

static void by_recv(unsigned char *page)
{
	CHECK(send(sv[0], "x", 1, 0) == 1);
	CHECK(recv(sv[1], page, KERNEL_PAGE, 0) == 1);
}

int main(void)
{
	static void (*const ways[])(unsigned char *page) = {
		by_processor, by_another_thread, by_read, by_recv};
	int fd, uffd, pagemap;
	unsigned char *m;
	uint64_t same = 0;

	need_uffd();
	m = shared_pages(PAGES, &fd);
	uffd = kernel_uffd_open();
	CHECK(uffd >= 0 && kernel_uffd_enable(uffd) == 0);
	CHECK(kernel_uffd_protect(uffd, (uintptr_t)m, PAGES * KERNEL_PAGE) == 0);
	pagemap = own_pagemap();
	zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	stat_fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	CHECK(zero >= 0 && stat_fd >= 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, sv) == 0);
	for (int round = 0; round < ROUNDS; round++)
		for (size_t way = 0; way < sizeof(ways) / sizeof(ways[0]); way++) {
			size_t page = (size_t)(round * 7 + (int)way * 13) % PAGES;
			uint64_t before;

			(void)written_pages(pagemap, m, PAGES);
			before = faults();
			same += faults() == before;
			ways[way](m + page * KERNEL_PAGE);
			CHECK(faults() > before);
			CHECK(written_pages(pagemap, m, PAGES) >> page & 1);
		}
	/* but for a page of its own now and then */
	CHECK(same > 150);
	return 0;
}
