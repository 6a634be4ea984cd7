/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opens, locks and probes a raw file or a block device: what it can do is asked once, here.
 *
 * Block sizes: the page cache takes any offset and length, so block_min is 1 for files and devices
 * alike; block_preferred, at least the page, is what saves its read-modify-write. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "replicator/backing_file.h"
#include "util/bytes.h"
#include "util/crc.h"
#include "util/file.h"

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
static void backing_file_probe_zero(struct backing_file *f, const char *path)
{
	char dir[PATH_MAX];
	char *slash;
	int fd = -1;

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
}

static void backing_file_probe_file(struct backing_file *f, const char *path, bool writable)
{
	f->align = 1;
	/* A reader leaves no trace, and zeroes nothing. */
	if (writable)
		backing_file_probe_zero(f, path);
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

/* A name that the kernel keeps for a device, wherever it is numbered: of a volume of the device
 * mapper, a disk, a partition of one. */
static void backing_file_identify_device(dev_t dev, struct backing_identity *ret_identity)
{
	static const char *const names[] = {
		"dm/uuid", "wwid", "device/wwid", "../wwid", "../device/wwid"};
	char text[512] = "";

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && !text[0]; i++) {
		char path[128], part[32] = "";
		FILE *fp;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s", major(dev), minor(dev),
			names[i]);
		fp = fopen(path, "re");
		if (!fp)
			continue;
		if (!fgets(text, sizeof(text) - sizeof(part), fp))
			text[0] = '\0';
		fclose(fp);
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/partition", major(dev),
			minor(dev));
		fp = text[0] ? fopen(path, "re") : NULL;
		if (!fp)
			continue;
		if (fgets(part, sizeof(part), fp))
			strcat(text, part);
		fclose(fp);
	}
	for (size_t i = 0; text[0] && i < BACKING_IDENTITY / 4; i++) {
		uint32_t crc;

		text[sizeof(text) - 1] = (char)i; /* behind its end */
		crc = crc32c(text, sizeof(text));
		memcpy(ret_identity->bytes + 4 * i, &crc, 4);
	}
}

void backing_file_identify(const struct backing *b, struct backing_identity *ret_identity)
{
	const struct backing_file *f = (const struct backing_file *)b;
	struct statx st;

	ret_identity->kind = f->is_device ? 2 : 1;
	if (statx(f->fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &st) < 0)
		return;
	if (f->is_device) {
		backing_file_identify_device(
			makedev(st.stx_rdev_major, st.stx_rdev_minor), ret_identity);
		return;
	}
	put_le64(ret_identity->bytes, st.stx_ino);
	if (st.stx_mask & STATX_BTIME) {
		put_le64(ret_identity->bytes + 8, (uint64_t)st.stx_btime.tv_sec);
		put_le64(ret_identity->bytes + 16, st.stx_btime.tv_nsec);
	}
}

static int backing_file_lock(int fd, const char *path, struct error *err)
{
	int r = file_lock_bytes(fd);

	if (r == -EBUSY)
		return error_set(err, ERROR_BUSY, r,
			"backing %s is in use: another process has locked it", path);
	return r < 0 ? error_code(err, r, "cannot lock backing %s", path) : 0;
}

static int backing_file_check_type(const struct stat *st, const char *path, struct error *err)
{
	if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
		return 0;
	return error_set(err, ERROR_CONFIG, -EINVAL,
		"backing %s is neither a regular file nor a block device", path);
}

/* Opens path, which must be a regular file or a block device, and locks it when writable. */
static int backing_file_open_fd(
	const char *path, bool writable, struct stat *ret_st, struct error *err)
{
	int flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY;
	int fd, r;

	/* Before the open, which would act on some character devices. */
	if (stat(path, ret_st) < 0)
		return error_errno(err, "cannot open backing %s", path);
	r = backing_file_check_type(ret_st, path, err);
	if (r < 0)
		return r;
	/* Exclusive is how the kernel refuses a device that is mounted or part of another. */
	if (S_ISBLK(ret_st->st_mode) && writable)
		flags |= O_EXCL;
	/* Should a FIFO stand there by now, do not wait for its other end. */
	if (S_ISREG(ret_st->st_mode))
		flags |= O_NONBLOCK;
	fd = open(path, flags);
	if (fd < 0 && errno == EBUSY)
		return error_set(err, ERROR_BUSY, -EBUSY,
			"backing %s is in use: mounted, or held by another program", path);
	if (fd < 0)
		return error_errno(err, "cannot open backing %s", path);
	r = fstat(fd, ret_st) < 0 ? error_errno(err, "cannot look at backing %s", path) : 0;
	if (r == 0) /* again: what the path names may have been replaced */
		r = backing_file_check_type(ret_st, path, err);
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
		backing_file_probe_file(f, path, writable);
	}
	*ret_backing = &f->base;
	return 0;
}
