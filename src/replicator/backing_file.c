/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Backing storage on a raw file or a block device, through the page cache.
 *
 * Invariants: a successful zero reads back as zeroes, whichever way was taken; a refused fast zero
 * has changed nothing; nothing here ever discards (the content would be undefined).
 *
 * Block sizes: the page cache takes any offset and length, so block_min is 1 for files and devices
 * alike; block_preferred, at least the page, is what saves its read-modify-write. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "replicator/backing_internal.h"
#include "util/bytes.h"
#include "util/file.h"

#define BACKING_FILE_PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define BACKING_FILE_ZERO (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)

struct backing_file {
	struct backing base;
	int fd;
	bool is_device;
	uint32_t align; /* of what fallocate gets on a device; 1 for a file */
	/* Cleared when the kernel says that it cannot, so that it is not asked again. */
	atomic_bool can_punch;
	atomic_bool can_zero_range;
};

static struct backing_file *backing_file_of(struct backing *b)
{
	return (struct backing_file *)b;
}

static void backing_file_free(struct backing *b)
{
	struct backing_file *f = backing_file_of(b);

	close(f->fd); /* gives up the lock as well */
	free(f);
}

static int backing_file_get_size(int fd, bool is_device, uint64_t *ret_size)
{
	struct stat st;

	if (is_device)
		return ioctl(fd, BLKGETSIZE64, ret_size) < 0 ? -errno : 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	*ret_size = (uint64_t)st.st_size;
	return 0;
}

static int backing_file_refresh_size(struct backing *b)
{
	struct backing_file *f = backing_file_of(b);
	uint64_t size;
	int r = backing_file_get_size(f->fd, f->is_device, &size);

	if (r < 0)
		return r;
	b->info.size = size;
	return 0;
}

static int backing_file_pread(struct backing *b, void *buf, uint32_t len, uint64_t off)
{
	int r = file_pread(backing_file_of(b)->fd, buf, len, off);

	/* The caller stayed inside the size: somebody cut the file short under us. */
	return r == -ENODATA ? -EIO : r;
}

static int backing_file_pwritev(struct backing *b, struct iovec *iov, int count, uint64_t off)
{
	return file_pwritev(backing_file_of(b)->fd, iov, count, off);
}

static int backing_file_flush(struct backing *b)
{
	return fdatasync(backing_file_of(b)->fd) < 0 ? -errno : 0;
}

static int backing_file_fallocate(int fd, int mode, uint64_t off, uint64_t len)
{
	int r;

	do
		r = fallocate(fd, mode, (off_t)off, (off_t)len);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

static int backing_file_try_mode(
	struct backing_file *f, int mode, atomic_bool *can, uint64_t off, uint64_t len)
{
	int r;

	if (!atomic_load_explicit(can, memory_order_relaxed))
		return -EOPNOTSUPP;
	r = backing_file_fallocate(f->fd, mode, off, len);
	if (r == -EOPNOTSUPP || r == -ENOSYS || r == -ENODEV) {
		atomic_store_explicit(can, false, memory_order_relaxed);
		r = -EOPNOTSUPP;
	}
	return r;
}

/* Zeroes the aligned range by the file system's or the device's own means. */
static int backing_file_zero_range(
	struct backing_file *f, uint64_t len, uint64_t off, unsigned flags)
{
	int r;

	if (flags & BACKING_ZERO_UNMAP) {
		r = backing_file_try_mode(f, BACKING_FILE_PUNCH, &f->can_punch, off, len);
		if (r < 0)
			r = backing_file_try_mode(
				f, BACKING_FILE_ZERO, &f->can_zero_range, off, len);
	} else {
		r = backing_file_try_mode(f, BACKING_FILE_ZERO, &f->can_zero_range, off, len);
		if (r < 0)
			r = backing_file_try_mode(f, BACKING_FILE_PUNCH, &f->can_punch, off, len);
	}
	return r;
}

/* A device drops the range from its page cache, dirty pages too, before it finds out that it
 * cannot punch.  What is refused must stay as it was, so dirty pages go to the device first: a
 * refusal then costs cached copies only. */
static int backing_file_zero_fast(
	struct backing_file *f, uint64_t len, uint64_t off, unsigned flags)
{
	if (!f->base.info.can_fast_zero)
		return -EOPNOTSUPP;
	if (!f->is_device)
		return backing_file_zero_range(f, len, off, flags);
	if (!atomic_load_explicit(&f->can_punch, memory_order_relaxed))
		return -EOPNOTSUPP;
	/* The kernel writes zeroes for ZERO_RANGE where a device refuses, but this one said at open
	 * that it does not. */
	if (!(flags & BACKING_ZERO_UNMAP))
		return backing_file_fallocate(f->fd, BACKING_FILE_ZERO, off, len);
	if (sync_file_range(f->fd, (off_t)off, (off_t)len,
		    SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
			    SYNC_FILE_RANGE_WAIT_AFTER) < 0)
		return -errno;
	return backing_file_try_mode(f, BACKING_FILE_PUNCH, &f->can_punch, off, len);
}

static int backing_file_zero(struct backing *b, uint64_t len, uint64_t off, unsigned flags)
{
	struct backing_file *f = backing_file_of(b);
	/* The part that is aligned; for a file all of it. */
	uint64_t start = round_up(off, f->align);
	uint64_t end = round_down(off + len, f->align);
	int r;

	if (start >= end)
		/* Less than a page or two: writing is as fast as anything. */
		return backing_write_zeroes(b, len, off);

	if (flags & BACKING_ZERO_FAST) {
		r = backing_file_zero_fast(f, end - start, start, flags);
		if (r < 0)
			return r;
	} else {
		r = backing_file_zero_range(f, end - start, start, flags);
		/* Whatever the reason was: if the storage is broken, writing says so as well. */
		if (r < 0)
			return backing_write_zeroes(b, len, off);
	}
	if (start > off) {
		r = backing_write_zeroes(b, start - off, off);
		if (r < 0)
			return r;
	}
	if (off + len > end)
		return backing_write_zeroes(b, off + len - end, end);
	return 0;
}

static int backing_file_extents(
	struct backing *b, uint64_t off, uint64_t len, backing_extent_fn fn, void *ctx)
{
	struct backing_file *f = backing_file_of(b);
	uint64_t end = off + len;

	/* SEEK_DATA moves the position of the description, which nothing else here uses. */
	while (off < end) {
		off_t data = lseek(f->fd, (off_t)off, SEEK_DATA);
		off_t hole;
		int r;

		if (data < 0 && errno != ENXIO)
			return -errno;
		if (data < 0 || (uint64_t)data > end)
			data = (off_t)end;
		if ((uint64_t)data > off) {
			r = fn(ctx, off, (uint64_t)data - off, true);
			if (r < 0)
				return r;
			off = (uint64_t)data;
			continue;
		}
		hole = lseek(f->fd, (off_t)off, SEEK_HOLE);
		if (hole < 0 && errno != ENXIO)
			return -errno;
		/* ENXIO, or no progress: the file changed in between.  Data is never wrong. */
		if (hole <= (off_t)off || (uint64_t)hole > end)
			hole = (off_t)end;
		r = fn(ctx, off, (uint64_t)hole - off, false);
		if (r < 0)
			return r;
		off = (uint64_t)hole;
	}
	return 0;
}

static const struct backing_ops backing_file_ops = {
	.free = backing_file_free,
	.refresh_size = backing_file_refresh_size,
	.pread = backing_file_pread,
	.pwritev = backing_file_pwritev,
	.zero = backing_file_zero,
	.flush = backing_file_flush,
	.extents = backing_file_extents,
};

/* A number from the request queue of dev (for a partition: of its disk); 0 where there is none. */
static uint64_t backing_file_queue_limit(dev_t dev, const char *name)
{
	static const char *const up[] = {"", "/.."};
	unsigned long long v = 0;

	for (size_t i = 0; i < 2; i++) {
		char path[128];
		FILE *fp;
		int n;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u%s/queue/%s", major(dev),
			minor(dev), up[i], name);
		fp = fopen(path, "re");
		if (!fp)
			continue;
		n = fscanf(fp, "%llu", &v);
		fclose(fp);
		return n == 1 ? v : 0;
	}
	return 0;
}

/* What the file system can do is tried on an unnamed file beside ours. */
static void backing_file_probe_file(struct backing_file *f, const char *path)
{
	char dir[PATH_MAX];
	char *slash;
	int fd = -1;

	f->align = 1;
	f->can_punch = f->can_zero_range = false;
	if (realpath(path, dir)) {
		slash = strrchr(dir, '/');
		slash[slash == dir ? 1 : 0] = '\0';
		fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	}
	if (fd >= 0) {
		if (file_pwrite(fd, backing_zeroes, BACKING_ZERO_CHUNK, 0) == 0) {
			f->can_punch =
				backing_file_fallocate(fd, BACKING_FILE_PUNCH, 4096, 4096) == 0;
			f->can_zero_range =
				backing_file_fallocate(fd, BACKING_FILE_ZERO, 16384, 4096) == 0;
		}
		close(fd);
	} else {
		/* The directory is closed to us.  Behind the end there is nothing to lose. */
		f->can_punch = backing_file_fallocate(f->fd, BACKING_FILE_PUNCH,
				       round_up(f->base.info.size, 4096), 4096) == 0;
	}
	f->base.info.can_unmap = f->can_punch;
	f->base.info.can_fast_zero = f->can_punch || f->can_zero_range;
	f->base.info.can_extents = lseek(f->fd, 0, SEEK_HOLE) >= 0 || errno == ENXIO;
}

static void backing_file_probe_device(struct backing_file *f, dev_t dev)
{
	int sector = 512;

	(void)ioctl(f->fd, BLKSSZGET, &sector);
	/* Whole pages of the page cache, so that it never has to zero a part of one. */
	f->align = (uint32_t)max_u64((uint64_t)sector, (uint64_t)sysconf(_SC_PAGESIZE));
	f->can_punch = backing_file_queue_limit(dev, "write_zeroes_max_bytes") > 0;
	f->can_zero_range = true;
	f->base.info.can_unmap = f->can_punch;
	f->base.info.can_fast_zero = f->can_punch;
	f->base.info.rotational = backing_file_queue_limit(dev, "rotational") != 0;
}

static uint32_t backing_file_preferred(uint64_t v)
{
	uint32_t p = 4096;

	while (p < v && p < 65536)
		p *= 2;
	return p;
}

static int backing_file_lock(int fd, const char *path, struct error *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return error_set(err, ERROR_BUSY, -EBUSY,
			"backing %s is in use: another process has locked it", path);
	return error_errno(err, "cannot lock backing %s", path);
}

/* Opens path, which must be a regular file or a block device, and locks it when writable. */
static int backing_file_open_fd(
	const char *path, bool writable, struct stat *ret_st, struct error *err)
{
	int flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY;
	int fd, r;

	/* Before the open, which would wait in a FIFO and act on some character devices. */
	if (stat(path, ret_st) < 0)
		return error_errno(err, "cannot open backing %s", path);
	if (!S_ISREG(ret_st->st_mode) && !S_ISBLK(ret_st->st_mode))
		return error_set(err, ERROR_CONFIG, -EINVAL,
			"backing %s is neither a regular file nor a block device", path);
	/* Exclusive is how the kernel refuses a device that is mounted or part of another. */
	if (S_ISBLK(ret_st->st_mode) && writable)
		flags |= O_EXCL;
	fd = open(path, flags);
	if (fd < 0 && errno == EBUSY)
		return error_set(err, ERROR_BUSY, -EBUSY,
			"backing %s is in use: mounted, or held by another program", path);
	if (fd < 0)
		return error_errno(err, "cannot open backing %s", path);
	r = fstat(fd, ret_st) < 0 ? error_errno(err, "cannot look at backing %s", path) : 0;
	if (r == 0 && writable)
		r = backing_file_lock(fd, path, err);
	if (r < 0) {
		close(fd);
		return r;
	}
	return fd;
}

int backing_file_open(
	const char *path, bool writable, struct backing **ret_backing, struct error *err)
{
	struct backing_file *f;
	struct stat st;
	uint64_t size;
	int fd, r;

	fd = backing_file_open_fd(path, writable, &st, err);
	if (fd < 0)
		return fd;
	r = backing_file_get_size(fd, S_ISBLK(st.st_mode), &size);
	if (r < 0) {
		close(fd);
		return error_code(err, r, "cannot read the size of backing %s", path);
	}
	f = calloc(1, sizeof(*f));
	if (!f) {
		close(fd);
		return error_code(err, -ENOMEM, "backing %s", path);
	}
	f->fd = fd;
	f->is_device = S_ISBLK(st.st_mode);
	f->base.ops = &backing_file_ops;
	f->base.info.size = size;
	f->base.info.block_min = 1;
	if (f->is_device) {
		unsigned physical = 512;

		(void)ioctl(fd, BLKPBSZGET, &physical);
		f->base.info.block_preferred = backing_file_preferred(physical);
		backing_file_probe_device(f, st.st_rdev);
	} else {
		f->base.info.block_preferred = backing_file_preferred((uint64_t)st.st_blksize);
		f->base.info.rotational = backing_file_queue_limit(st.st_dev, "rotational") != 0;
		backing_file_probe_file(f, path);
	}
	*ret_backing = &f->base;
	return 0;
}
