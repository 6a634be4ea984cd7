/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Backing storage on a raw file or a block device, through the page cache.
 *
 * Invariants: a successful zero reads back as zeroes, whichever way was taken; a refused fast zero
 * has changed nothing; without UNMAP no space is given up; nothing here ever discards (the content
 * would be undefined). */
#include "replicator/backing_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/bytes.h"
#include "util/file.h"

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

int backing_file_get_size(int fd, bool is_device, uint64_t *ret_size)
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
	while (count > 0) {
		int n = count < IOV_MAX ? count : IOV_MAX;
		uint64_t len = 0;
		int r;

		for (int i = 0; i < n; i++)
			len += iov[i].iov_len;
		r = file_pwritev(backing_file_of(b)->fd, iov, n, off);
		if (r < 0)
			return r;
		iov += n;
		count -= n;
		off += len;
	}
	return 0;
}

static int backing_file_flush(struct backing *b)
{
	return fdatasync(backing_file_of(b)->fd) < 0 ? -errno : 0;
}

int backing_file_fallocate(int fd, int mode, uint64_t off, uint64_t len)
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

/* Zeroes the aligned range by the file system's or the device's own means.  Without UNMAP the space
 * stays allocated: a later write there must not meet a full file system. */
static int backing_file_zero_range(
	struct backing_file *f, uint64_t len, uint64_t off, unsigned flags)
{
	int r;

	if (flags & BACKING_ZERO_UNMAP) {
		r = backing_file_try_mode(f, BACKING_FILE_PUNCH, &f->can_punch, off, len);
		if (r < 0)
			r = backing_file_try_mode(
				f, BACKING_FILE_ZERO, &f->can_zero_range, off, len);
		return r;
	}
	r = backing_file_try_mode(f, BACKING_FILE_ZERO, &f->can_zero_range, off, len);
	if (r != -EOPNOTSUPP || f->is_device)
		return r;
	r = backing_file_try_mode(f, BACKING_FILE_PUNCH, &f->can_punch, off, len);
	if (r < 0)
		return r;
	/* The hole reads as zeroes already; fill it in, by writing if nothing else does. */
	r = backing_file_fallocate(f->fd, FALLOC_FL_KEEP_SIZE, off, len);
	return r < 0 ? backing_write_zeroes(&f->base, len, off) : 0;
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

const struct backing_ops backing_file_ops = {
	.free = backing_file_free,
	.refresh_size = backing_file_refresh_size,
	.identify = backing_file_identify,
	.pread = backing_file_pread,
	.pwritev = backing_file_pwritev,
	.zero = backing_file_zero,
	.flush = backing_file_flush,
	.extents = backing_file_extents,
};
