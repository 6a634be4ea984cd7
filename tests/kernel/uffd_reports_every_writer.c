/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writes by the processor, by the kernel on the process's behalf (read, recv: QEMU's disk and
 * network input into guest RAM) and by another process (process_vm_writev) are reported once; reads
 * are not, nor are writes of the same process through another mapping of the file that is not
 * protected. */
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "kernel_test.h"

int main(void)
{
	int fd, uffd, pagemap, zero, sv[2], status;
	unsigned char *m, *other, byte = 7;
	struct iovec local, remote;
	pid_t parent = getpid(), child;

	need_uffd();
	m = shared_pages(16, &fd);
	pagemap = own_pagemap();
	m[1 * KERNEL_PAGE] = 1; /* exists before the protection */
	uffd = kernel_uffd_open();
	CHECK(kernel_uffd_enable(uffd) == 0);
	CHECK(kernel_uffd_protect(uffd, (uintptr_t)m, 16 * KERNEL_PAGE) == 0);
	CHECK(written_pages(pagemap, m, 16) == 0);

	m[1 * KERNEL_PAGE] = 2;
	m[3 * KERNEL_PAGE + 5] = 1; /* a page that did not exist */
	CHECK(written_pages(pagemap, m, 16) == (1 << 1 | 1 << 3));
	CHECK(written_pages(pagemap, m, 16) == 0);

	zero = open("/dev/zero", O_RDONLY);
	CHECK(read(zero, m + 4 * KERNEL_PAGE, 10) == 10);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sv) == 0);
	CHECK(write(sv[0], "x", 1) == 1);
	CHECK(recv(sv[1], m + 6 * KERNEL_PAGE, 1, 0) == 1);
	CHECK(written_pages(pagemap, m, 16) == (1 << 4 | 1 << 6));

	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		local = (struct iovec){&byte, 1};
		remote = (struct iovec){m + 8 * KERNEL_PAGE, 1};
		_exit(process_vm_writev(parent, &local, 1, &remote, 1, 0) == 1 ? 0 : 1);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(m[8 * KERNEL_PAGE] == 7);
	CHECK(written_pages(pagemap, m, 16) == 1 << 8);

	other = mmap(NULL, 16 * KERNEL_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(other != MAP_FAILED);
	for (int i = 0; i < 16; i++)
		byte |= (unsigned char)(other[i * KERNEL_PAGE] | m[i * KERNEL_PAGE]);
	CHECK(written_pages(pagemap, m, 16) == 0);
	other[2 * KERNEL_PAGE] = 1;
	CHECK(written_pages(pagemap, m, 16) == 0);
	return 0;
}
