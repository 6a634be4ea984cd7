/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Why balloon and free-page reporting are refused: a page that is dropped (fallocate, MADV_REMOVE)
 * reads as zero afterwards, and the scan does not report it.  Should a kernel report it one day,
 * this test fails, and the refusal can go for that kernel. */
#include "kernel_test.h"

int main(void)
{
	int fd, uffd, pagemap;
	unsigned char *m;

	need_uffd();
	m = shared_pages(8, &fd);
	memset(m, 1, 8 * KERNEL_PAGE);
	pagemap = own_pagemap();
	uffd = kernel_uffd_open();
	CHECK(kernel_uffd_enable(uffd) == 0);
	CHECK(kernel_uffd_protect(uffd, (uintptr_t)m, 8 * KERNEL_PAGE) == 0);
	CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, KERNEL_PAGE, KERNEL_PAGE) ==
		0);
	CHECK(madvise(m + 3 * KERNEL_PAGE, KERNEL_PAGE, MADV_REMOVE) == 0);
	CHECK(m[KERNEL_PAGE] == 0 && m[3 * KERNEL_PAGE] == 0);
	CHECK(written_pages(pagemap, m, 8) == 0);
	m[KERNEL_PAGE] = 2; /* a later write is reported */
	CHECK(written_pages(pagemap, m, 8) == 1 << 1);
	return 0;
}
