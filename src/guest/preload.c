/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem-preload.so, given to QEMU by LD_PRELOAD: opens a userfaultfd in QEMU's own address space
 * at its start, which the agent takes over with pidfd_getfd(2) (only the process itself can open
 * one). It stands alone, does nothing else, and fails silently: the agent then finds no descriptor
 * and says so. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PRELOAD_USER_MODE_ONLY 1 /* UFFD_USER_MODE_ONLY: allowed for every user */

__attribute__((constructor)) static void preload_open(void)
{
	/* Helpers that QEMU starts must not have it. */
	(void)unsetenv("LD_PRELOAD");
	(void)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | PRELOAD_USER_MODE_ONLY);
}
