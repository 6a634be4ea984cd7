/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Soft-dirty bits of shared memory: set by writes of the processor and of the kernel, cleared by
 * clear_refs. */
#include "kernel_test.h"

static uint64_t dirty(int pagemap, const unsigned char *m, int pages)
{
	uint64_t e, bits = 0;

	for (int i = 0; i < pages; i++) {
		off_t at = (off_t)(((uintptr_t)m / KERNEL_PAGE + (unsigned)i) * sizeof(e));

		CHECK(pread(pagemap, &e, sizeof(e), at) == sizeof(e));
		bits |= (e & KERNEL_PAGEMAP_SOFT_DIRTY ? 1ull : 0) << i;
	}
	return bits;
}

int main(void)
{
	struct kernel_caps caps;
	unsigned char *m;
	int fd, pagemap, zero;

	kernel_probe(&caps);
	if (!caps.soft_dirty) {
		printf("skipped: %s\n", caps.soft_dirty_why);
		return 77;
	}
	m = shared_pages(8, &fd);
	memset(m, 1, 8 * KERNEL_PAGE);
	pagemap = own_pagemap();
	CHECK(kernel_soft_dirty_clear(getpid()) == 0);
	CHECK(dirty(pagemap, m, 8) == 0);
	m[2 * KERNEL_PAGE] = 3;
	zero = open("/dev/zero", O_RDONLY);
	CHECK(read(zero, m + 5 * KERNEL_PAGE, 1) == 1);
	CHECK(dirty(pagemap, m, 8) == (1 << 2 | 1 << 5));
	return 0;
}
