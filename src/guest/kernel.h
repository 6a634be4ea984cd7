/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Everything that the RAM tracking asks of the kernel beyond POSIX, and the probes that tell
 * whether it is there.  Constants that the headers of Debian 12 lack are defined in kernel.c and
 * nowhere else.  tests/kernel/ proves each behaviour that is relied on. */
#ifndef TANDEM_GUEST_KERNEL_H
#define TANDEM_GUEST_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

#define KERNEL_PAGE 4096u

/* As the kernel's struct page_region. */
struct kernel_region {
	uint64_t start, end; /* addresses */
	uint64_t categories;
};

struct kernel_caps {
	bool uffd; /* asynchronous write-protection and PAGEMAP_SCAN (Linux 6.7) */
	bool soft_dirty;
	char uffd_why[160], soft_dirty_why[160]; /* why not */
};

/* Tries each on memory of its own; a few system calls. */
void kernel_probe(struct kernel_caps *ret_caps);

int kernel_pidfd_open(pid_t pid);
int kernel_pidfd_getfd(int pidfd, int fd);
int kernel_pidfd_signal(int pidfd, int signal);
/* A userfaultfd of this process that any user may have. */
int kernel_uffd_open(void);
/* Asks for asynchronous write-protection; once per descriptor. */
int kernel_uffd_enable(int uffd);
/* Registers the range and protects all of it, pages that do not exist yet too. */
int kernel_uffd_protect(int uffd, uint64_t addr, uint64_t len);
/* The number of regions in [start, end) that were written since they were protected, each protected
 * again in the same step; *ret_next is where to go on (end: done). */
int kernel_scan_written(int pagemap, uint64_t start, uint64_t end, struct kernel_region *ret,
	size_t max, uint64_t *ret_next);
/* From an open /proc/PID/stat: page faults of all threads of the process since its start, whoever
 * caused them there (user mode or the kernel on a thread's behalf); and the processor that its
 * first thread is, or was last, on.  10-20 us. */
int kernel_faults(int stat, uint64_t *ret_faults, int *ret_processor);
/* Soft-dirty: forgets all marks of the process. */
int kernel_soft_dirty_clear(pid_t pid);
#define KERNEL_PAGEMAP_SOFT_DIRTY (1ull << 55) /* in an entry of /proc/PID/pagemap */

#endif
