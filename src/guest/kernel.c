/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Kernel interfaces of the RAM tracking and their probes; see kernel.h. */
#include "guest/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/userfaultfd.h of 6.7 */
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

/* linux/fs.h of 6.7 */
#ifndef PAGEMAP_SCAN
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#define PAGE_IS_WRITTEN (1 << 1)
#define PM_SCAN_WP_MATCHING (1 << 0)
#define PM_SCAN_CHECK_WPASYNC (1 << 1)
struct pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#endif

#define KERNEL_FEATURES                                                                            \
	(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |   \
		UFFD_FEATURE_PAGEFAULT_FLAG_WP)

int kernel_pidfd_open(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	return fd < 0 ? -errno : fd;
}

int kernel_pidfd_getfd(int pidfd, int fd)
{
	int got = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);

	return got < 0 ? -errno : got;
}

int kernel_pidfd_signal(int pidfd, int signal)
{
	return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) < 0 ? -errno : 0;
}

int kernel_uffd_open(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	return fd < 0 ? -errno : fd;
}

int kernel_uffd_enable(int uffd)
{
	struct uffdio_api api = {.api = UFFD_API, .features = KERNEL_FEATURES};

	return ioctl(uffd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

int kernel_uffd_protect(int uffd, uint64_t addr, uint64_t len)
{
	struct uffdio_register reg = {
		.range = {.start = addr, .len = len}, .mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_writeprotect wp = {
		.range = {.start = addr, .len = len}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};

	if (ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
		return -errno;
	return ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) < 0 ? -errno : 0;
}

int kernel_scan_written(int pagemap, uint64_t start, uint64_t end, struct kernel_region *ret,
	size_t max, uint64_t *ret_next)
{
	struct pm_scan_arg arg = {.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = start,
		.end = end,
		.vec = (uintptr_t)ret,
		.vec_len = max,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN};
	int n = ioctl(pagemap, PAGEMAP_SCAN, &arg);

	if (n < 0)
		return -errno;
	*ret_next = arg.walk_end;
	return n;
}

int kernel_faults(int stat, uint64_t *ret_faults, int *ret_processor)
{
	char buf[1024], *p, *save = NULL;
	uint64_t faults = 0;
	ssize_t n = pread(stat, buf, sizeof(buf) - 1, 0);

	if (n < 0)
		return -errno;
	buf[n] = '\0';
	p = strrchr(buf, ')'); /* the name before may have any characters */
	p = p ? strtok_r(p + 1, " ", &save) : NULL;
	/* field 3 follows the name; 10 and 12: minor and major faults, 39: processor (proc(5)) */
	for (int field = 3; p && field < 39; field++) {
		if (field == 10 || field == 12)
			faults += strtoull(p, NULL, 10);
		p = strtok_r(NULL, " ", &save);
	}
	if (!p)
		return -EPROTO;
	*ret_faults = faults;
	*ret_processor = atoi(p);
	return 0;
}

int kernel_soft_dirty_clear(pid_t pid)
{
	char path[64];
	int fd, r = 0;

	snprintf(path, sizeof(path), "/proc/%d/clear_refs", (int)pid);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, "4", 1) != 1)
		r = -errno;
	close(fd);
	return r;
}

/* Page 0 is written by the processor, page 2 by the kernel (read(2) into it), page 1 not. */
static int kernel_probe_uffd(char *mem, const char **ret_step)
{
	int uffd = kernel_uffd_open(), zero = -1, pagemap = -1, r;
	struct kernel_region found[4];
	uint64_t at = (uintptr_t)mem, next;

	*ret_step = "userfaultfd(2)";
	if (uffd < 0)
		return uffd;
	*ret_step = "UFFDIO_API with WP_ASYNC";
	r = kernel_uffd_enable(uffd);
	if (r == 0) {
		*ret_step = "UFFDIO_WRITEPROTECT of shared memory";
		r = kernel_uffd_protect(uffd, at, 3 * KERNEL_PAGE);
	}
	zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (r == 0) {
		*ret_step = "a write by the kernel into protected memory";
		mem[0] = 1;
		if (zero < 0 || read(zero, mem + 2 * KERNEL_PAGE, 1) != 1)
			r = -errno;
	}
	if (r == 0) {
		*ret_step = "PAGEMAP_SCAN";
		r = kernel_scan_written(pagemap, at, at + 3 * KERNEL_PAGE, found, 4, &next);
	}
	if (r >= 0 && (r != 2 || found[0].start != at || found[1].start != at + 2 * KERNEL_PAGE ||
			      kernel_scan_written(
				      pagemap, at, at + 3 * KERNEL_PAGE, found, 4, &next) != 0)) {
		*ret_step = "PAGEMAP_SCAN does not report what was written";
		r = -ENOSYS;
	}
	if (zero >= 0)
		close(zero);
	if (pagemap >= 0)
		close(pagemap);
	close(uffd);
	return r < 0 ? r : 0;
}

static int kernel_probe_soft_dirty(char *mem, const char **ret_step)
{
	uint64_t before = 0, after = 0;
	off_t at = (off_t)((uintptr_t)mem / KERNEL_PAGE * sizeof(uint64_t));
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), r;

	mem[0] = 1;
	*ret_step = "/proc/self/clear_refs";
	r = kernel_soft_dirty_clear(getpid());
	if (fd < 0 || pread(fd, &before, sizeof(before), at) != sizeof(before))
		r = -EIO;
	mem[0] = 2;
	if (fd < 0 || pread(fd, &after, sizeof(after), at) != sizeof(after))
		r = -EIO;
	if (fd >= 0)
		close(fd);
	if (r == 0 &&
		((before & KERNEL_PAGEMAP_SOFT_DIRTY) || !(after & KERNEL_PAGEMAP_SOFT_DIRTY))) {
		*ret_step = "the kernel is built without CONFIG_MEM_SOFT_DIRTY";
		r = -ENOSYS;
	}
	return r;
}

static bool kernel_try(int (*probe)(char *mem, const char **step), char *why, size_t len)
{
	const char *step = "memory";
	int fd = memfd_create("tandem-probe", MFD_CLOEXEC), r = -ENOMEM;
	char *mem = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, 3 * KERNEL_PAGE) == 0)
		mem = mmap(NULL, 3 * KERNEL_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mem != MAP_FAILED) {
		r = probe(mem, &step);
		munmap(mem, 3 * KERNEL_PAGE);
	}
	if (fd >= 0)
		close(fd);
	if (r < 0)
		snprintf(why, len, "%s: %s", step, strerror(-r));
	return r == 0;
}

void kernel_probe(struct kernel_caps *ret_caps)
{
	memset(ret_caps, 0, sizeof(*ret_caps));
	ret_caps->uffd =
		kernel_try(kernel_probe_uffd, ret_caps->uffd_why, sizeof(ret_caps->uffd_why));
	ret_caps->soft_dirty = kernel_try(kernel_probe_soft_dirty, ret_caps->soft_dirty_why,
		sizeof(ret_caps->soft_dirty_why));
}
