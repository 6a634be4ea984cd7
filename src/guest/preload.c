/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem-preload.so, given to QEMU by LD_PRELOAD.  It stands alone, and fails silently: the agent
 * then finds out, and says so (track.c).  It does two things.
 *
 * It opens a userfaultfd in QEMU's own address space at its start, which the agent takes over with
 * pidfd_getfd(2) (only the process itself can open one).
 *
 * Where the command line has several memory backends, each is a part of one file, and QEMU before
 * 8.1 can map a file from its beginning only.  So a path "/proc/self/fd/N@OFFSET" (backends.h) is
 * opened as what stands before the @, and what is mapped of it is mapped from the offset on.
 * Everything else is passed on as it came. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PRELOAD_USER_MODE_ONLY 1 /* UFFD_USER_MODE_ONLY: allowed for every user */
#define PRELOAD_PARTS 32         /* BACKENDS_MAX */

/* Filled by QEMU's main thread while it makes the backends. */
static struct {
	int fd;
	dev_t dev;
	ino_t ino;
	off_t offset;
} preload_parts[PRELOAD_PARTS];
static unsigned preload_count;

/* A program that only starts QEMU (numactl, taskset) must leave everything to it. */
static bool preload_is_qemu(void)
{
	char exe[4096];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	const char *name;

	if (n < 0)
		return true;
	exe[n] = '\0';
	name = strrchr(exe, '/');
	return strstr(name ? name : exe, "qemu");
}

__attribute__((constructor)) static void preload_start(void)
{
	if (!preload_is_qemu())
		return;
	/* Helpers that QEMU starts must not have it. */
	(void)unsetenv("LD_PRELOAD");
	(void)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | PRELOAD_USER_MODE_ONLY);
}

/* The part that the path names. */
static int preload_part(const char *path, int flags, const char *at)
{
	struct stat st;
	char file[64];
	int fd;

	if ((size_t)(at - path) >= sizeof(file) || preload_count == PRELOAD_PARTS) {
		errno = EINVAL;
		return -1;
	}
	memcpy(file, path, (size_t)(at - path));
	file[at - path] = '\0';
	fd = (int)syscall(SYS_openat, AT_FDCWD, file, flags & ~O_CREAT, 0);
	if (fd < 0 || fstat(fd, &st) < 0)
		return fd;
	preload_parts[preload_count].fd = fd;
	preload_parts[preload_count].dev = st.st_dev;
	preload_parts[preload_count].ino = st.st_ino;
	preload_parts[preload_count++].offset = (off_t)strtoull(at + 1, NULL, 10);
	return fd;
}

/* open, as the C library calls it, with and without its own checks.  A mode is there only where a
 * file may be made. */
static int preload_open_any(const char *path, int flags, ...)
{
	static const char begin[] = "/proc/self/fd/";
	const char *at = strncmp(path, begin, sizeof(begin) - 1) ? NULL : strchr(path, '@');
	mode_t mode = 0;
	va_list ap;

	if (at)
		return preload_part(path, flags, at);
	if (flags & (O_CREAT | __O_TMPFILE)) {
		va_start(ap, flags);
		mode = va_arg(ap, mode_t);
		va_end(ap);
	}
	return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static void *preload_map(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	struct stat st;

	/* The newest: a number may have been used before. */
	for (unsigned i = flags & MAP_ANONYMOUS ? 0 : preload_count; i-- > 0;)
		if (preload_parts[i].fd == fd && fstat(fd, &st) == 0 &&
			st.st_dev == preload_parts[i].dev && st.st_ino == preload_parts[i].ino) {
			offset += preload_parts[i].offset;
			break;
		}
	return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, offset);
}

#define PRELOAD_AS(symbol, target)                                                                 \
	__asm__(symbol) __attribute__((visibility("default"), alias(#target), used))

extern int preload_open_1(const char *path, int flags, ...) PRELOAD_AS("open", preload_open_any);
extern int preload_open_2(const char *path, int flags, ...) PRELOAD_AS("open64", preload_open_any);
extern int preload_open_3(const char *path, int flags, ...)
	PRELOAD_AS("__open_2", preload_open_any);
extern int preload_open_4(const char *path, int flags, ...)
	PRELOAD_AS("__open64_2", preload_open_any);
extern void *preload_map_1(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
	PRELOAD_AS("mmap", preload_map);
extern void *preload_map_2(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
	PRELOAD_AS("mmap64", preload_map);
