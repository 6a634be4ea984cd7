/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whole reads and writes, durable creation, mirrored memory. */
#include "util/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "util/clock.h"

int file_pread(int fd, void *buf, size_t len, uint64_t off)
{
	char *p = buf;

	while (len > 0) {
		ssize_t n = pread(fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		p += n;
		len -= (size_t)n;
		off += (uint64_t)n;
	}
	return 0;
}

int file_pwrite(int fd, const void *buf, size_t len, uint64_t off)
{
	const char *p = buf;

	while (len > 0) {
		ssize_t n = pwrite(fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
		off += (uint64_t)n;
	}
	return 0;
}

int file_pwritev(int fd, struct iovec *iov, int count, uint64_t off)
{
	while (count > 0) {
		ssize_t n = pwritev(fd, iov, count, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		off += (uint64_t)n;
		while (count > 0 && (size_t)n >= iov->iov_len) {
			n -= (ssize_t)iov->iov_len;
			iov++;
			count--;
		}
		if (count > 0) {
			iov->iov_base = (char *)iov->iov_base + n;
			iov->iov_len -= (size_t)n;
		}
	}
	return 0;
}

int file_sync_parent(const char *path)
{
	char dir[PATH_MAX];
	char *slash;
	int fd, r = 0;

	if (snprintf(dir, sizeof(dir), "%s", path) >= (int)sizeof(dir))
		return -ENAMETOOLONG;
	slash = strrchr(dir, '/');
	if (!slash)
		strcpy(dir, ".");
	else if (slash == dir)
		dir[1] = '\0';
	else
		*slash = '\0';
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fsync(fd) < 0)
		r = -errno;
	close(fd);
	return r;
}

int file_mkdirs(const char *path, mode_t mode)
{
	char p[PATH_MAX];

	if (snprintf(p, sizeof(p), "%s", path) >= (int)sizeof(p))
		return -ENAMETOOLONG;
	for (char *s = p + 1; *s; s++) {
		if (*s != '/')
			continue;
		*s = '\0';
		if (mkdir(p, mode) < 0 && errno != EEXIST)
			return -errno;
		*s = '/';
	}
	if (mkdir(p, mode) < 0 && errno != EEXIST)
		return -errno;
	return 0;
}

static int file_try_lock(int fd, bool bytes)
{
	struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int r = bytes ? fcntl(fd, F_OFD_SETLK, &all) : flock(fd, LOCK_EX | LOCK_NB);

	if (r == 0)
		return 0;
	return errno == EWOULDBLOCK || errno == EACCES ? -EBUSY : -errno;
}

static int file_lock_patiently(int fd, bool bytes)
{
	const struct timespec pause = {0, 20 * (long)NS_PER_MS};
	int r = file_try_lock(fd, bytes);

	for (int ms = 0; r == -EBUSY && ms < FILE_LOCK_MS; ms += 20) {
		(void)nanosleep(&pause, NULL);
		r = file_try_lock(fd, bytes);
	}
	return r;
}

int file_lock(int fd)
{
	return file_lock_patiently(fd, false);
}

int file_lock_bytes(int fd)
{
	return file_lock_patiently(fd, true);
}

int file_map_mirrored(size_t size, void **ret_mem)
{
	int fd = memfd_create("tandem-ring", MFD_CLOEXEC);
	char *base;
	int r;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) < 0)
		goto fail;
	base = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		goto fail;
	for (int i = 0; i < 2; i++) {
		if (mmap(base + (size_t)i * size, size, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
			r = -errno;
			munmap(base, 2 * size);
			close(fd);
			return r;
		}
	}
	close(fd);
	*ret_mem = base;
	return 0;
fail:
	r = -errno;
	close(fd);
	return r;
}

void file_unmap_mirrored(void *mem, size_t size)
{
	if (mem)
		munmap(mem, 2 * size);
}
