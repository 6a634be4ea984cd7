/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See backing_clone.h. */
#include "replicator/backing_clone.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "replicator/backing_file.h"
#include "util/file.h"

#define BACKING_CLONE_SUFFIX ".tandem-sync"
#define BACKING_CLONE_TRIED (64u << 10) /* whole blocks of every file system */

static const struct backing_file *backing_clone_file(const struct backing *b)
{
	const struct backing_file *f = (const struct backing_file *)b;

	return b->ops == &backing_file_ops && !f->is_device ? f : NULL;
}

/* PATH_MAX bytes; where the image is, whatever links lead to it. */
static int backing_clone_path(const struct backing *image, char *ret_path)
{
	size_t n;

	if (!realpath(backing_target(image), ret_path))
		return -errno;
	n = strlen(ret_path);
	if (n + sizeof(BACKING_CLONE_SUFFIX) > PATH_MAX)
		return -ENAMETOOLONG;
	memcpy(ret_path + n, BACKING_CLONE_SUFFIX, sizeof(BACKING_CLONE_SUFFIX));
	return 0;
}

/* An empty file without a name in the image's directory. */
static int backing_clone_unnamed(const struct backing *image)
{
	char dir[PATH_MAX], *slash;
	int fd;

	if (!realpath(backing_target(image), dir))
		return -errno;
	slash = strrchr(dir, '/');
	slash[slash == dir ? 1 : 0] = '\0';
	fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0)
		return fd;
	/* Kernels and file systems without such files say so in several ways. */
	return errno == EISDIR || errno == EINVAL || errno == EOPNOTSUPP ? -ENOTSUP : -errno;
}

static int backing_clone_errno(void)
{
	return errno == EOPNOTSUPP || errno == ENOTTY || errno == EXDEV || errno == EINVAL ||
			       errno == ENOSYS
		       ? -ENOTSUP
		       : -errno;
}

int backing_clone_probe(const struct backing *image)
{
	const struct backing_file *f = backing_clone_file(image);
	struct file_clone_range range = {.src_length = BACKING_CLONE_TRIED};
	int fd = f ? backing_clone_unnamed(image) : -ENOTSUP, r;

	if (fd < 0)
		return fd;
	range.src_fd = f->fd;
	if (image->info.size <= BACKING_CLONE_TRIED)
		range.src_length = 0; /* up to its end */
	r = ioctl(fd, FICLONERANGE, &range) < 0 ? backing_clone_errno() : 0;
	close(fd);
	return r;
}

/* The backing of an open file, which it takes over. */
static int backing_clone_backing(const struct backing *image, int fd, struct backing **ret_clone)
{
	const struct backing_file *f = backing_clone_file(image);
	struct error err;
	char path[64];
	int r;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = backing_open(path, true, ret_clone, &err);
	close(fd);
	if (r == 0) { /* it has no directory to find that out in */
		struct backing_file *c = (struct backing_file *)*ret_clone;

		atomic_store(&c->can_punch, atomic_load(&f->can_punch));
		atomic_store(&c->can_zero_range, atomic_load(&f->can_zero_range));
	}
	return r;
}

int backing_clone_new(const struct backing *image, struct backing **ret_clone)
{
	const struct backing_file *f = backing_clone_file(image);
	int fd = f ? backing_clone_unnamed(image) : -ENOTSUP, r;

	if (fd < 0)
		return fd;
	if (ioctl(fd, FICLONE, f->fd) < 0) {
		r = backing_clone_errno();
		close(fd);
		return r;
	}
	return backing_clone_backing(image, fd, ret_clone);
}

int backing_clone_name(const struct backing *image, struct backing *clone)
{
	int fd = backing_clone_file(clone)->fd;
	char path[PATH_MAX], from[64];
	int r = backing_clone_path(image, path);

	if (r == 0)
		r = backing_clone_remove(image);
	if (r < 0)
		return r;
	snprintf(from, sizeof(from), "/proc/self/fd/%d", fd);
	if (linkat(AT_FDCWD, from, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0 || fsync(fd) < 0)
		return -errno;
	return file_sync_parent(path);
}

int backing_clone_open(const struct backing *image, struct backing **ret_clone)
{
	char path[PATH_MAX];
	int fd, r = backing_clone_file(image) ? backing_clone_path(image, path) : -ENOENT;

	if (r < 0)
		return r;
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	return fd < 0 ? -errno : backing_clone_backing(image, fd, ret_clone);
}

int backing_clone_replace(struct backing *image, struct backing *clone)
{
	int to = backing_clone_file(image)->fd, from = backing_clone_file(clone)->fd;
	struct stat a, b;

	if (fstat(to, &a) < 0 || fstat(from, &b) < 0)
		return -errno;
	/* It was enlarged meanwhile; an end within a block can only go where the file ends. */
	if (a.st_size > b.st_size && ftruncate(from, a.st_size) < 0)
		return -errno;
	return ioctl(to, FICLONE, from) < 0 || fsync(to) < 0 ? -errno : 0;
}

int backing_clone_remove(const struct backing *image)
{
	char path[PATH_MAX];
	struct stat st;
	int r = backing_clone_file(image) ? backing_clone_path(image, path) : -ENOENT;

	if (r == 0 && lstat(path, &st) < 0)
		r = -errno;
	if (r == 0 && !S_ISREG(st.st_mode))
		return -EEXIST; /* none of ours */
	if (r == 0 && unlink(path) < 0)
		r = -errno;
	return r == -ENOENT ? 0 : r;
}
