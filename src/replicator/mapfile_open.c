/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The map file: creation, opening, and what to do about one that does not fit its disk. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "replicator/mapfile.h"
#include "util/bytes.h"
#include "util/file.h"
#include "util/log.h"
#include "util/uuid.h"

static int mapfile_read_at(void *ctx, uint64_t off, void *buf, size_t len)
{
	int r = file_pread(*(int *)ctx, buf, len, off);

	/* What is missing at the end is as good as not written. */
	if (r == -ENODATA)
		memset(buf, 0, len);
	return r == -ENODATA ? 0 : r;
}

static int mapfile_put_unit(int fd, uint64_t off, const uint8_t *unit)
{
	return file_pwrite(fd, unit, DIRTYFILE_UNIT, off);
}

/* A whole file: both slots of everything exist, so that no later write grows it.  map NULL = every
 * block is dirty. */
static int mapfile_fill(int fd, const struct dirtyfile_header *h, const struct dirtymap *map)
{
	uint64_t pages = dirtyfile_pages((h->size + h->block - 1) / h->block);
	uint64_t words[DIRTYFILE_PAGE_WORDS];
	uint8_t unit[DIRTYFILE_UNIT] = {0};
	int r;

	r = -posix_fallocate(fd, 0, (off_t)dirtyfile_size(pages));
	for (uint64_t i = 0; r == 0 && i < dirtyfile_size(pages) / DIRTYFILE_UNIT; i += 2)
		r = mapfile_put_unit(fd, i * DIRTYFILE_UNIT, unit);
	for (uint64_t p = 0; r == 0 && p < pages; p++) {
		for (uint64_t w = 0; w < DIRTYFILE_PAGE_WORDS; w++) {
			uint64_t at = p * DIRTYFILE_PAGE_WORDS + w;

			words[w] = !map ? ~0ull : at < map->words ? dirtymap_word(map, at) : 0;
		}
		dirtyfile_put_page(unit, h->id, 1, p, words);
		r = mapfile_put_unit(fd, dirtyfile_page_at(p, 1), unit);
	}
	if (r == 0) {
		dirtyfile_put_record(unit, h->id, 1, NULL, 0);
		r = mapfile_put_unit(fd, dirtyfile_record_at(1), unit);
	}
	if (r == 0) {
		dirtyfile_put_header(unit, h);
		r = mapfile_put_unit(fd, dirtyfile_header_at(h->serial), unit);
	}
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	return r;
}

/* Under another name until it is whole and durable. */
static int mapfile_create_from(const char *path, uint64_t size, uint32_t block,
	const struct dirtymap *map, struct error *err)
{
	struct dirtyfile_header h = {
		.serial = 1, .size = size, .region = dirtyfile_region(size), .block = block};
	char fresh[512];
	int fd, r;

	snprintf(fresh, sizeof(fresh), "%s.new", path);
	fd = open(fresh, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_errno(err, "dirty map: cannot create %s", fresh);
	r = size > DIRTYFILE_MAX_SIZE ? -EFBIG : uuid_random64(&h.id);
	if (r == 0)
		r = mapfile_fill(fd, &h, map);
	close(fd);
	if (r == 0 && rename(fresh, path) < 0)
		r = -errno;
	if (r == 0)
		r = file_sync_parent(path);
	if (r < 0)
		(void)unlink(fresh);
	return r < 0 ? error_code(err, r, "dirty map: cannot write %s", path) : 0;
}

int mapfile_create(const char *path, uint64_t size, uint32_t block, struct error *err)
{
	return mapfile_create_from(path, size, block, NULL, err);
}

int mapfile_read(const char *path, struct dirtymap *map, struct activity *log,
	struct activity_report *ret_report, struct error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), r;
	const char *why;

	if (fd < 0)
		return error_errno(err, "dirty map: cannot open %s", path);
	r = activity_load(mapfile_read_at, &fd, DIRTYFILE_HOT, map, log, ret_report, &why);
	close(fd);
	return r < 0 ? error_set(err, ERROR_IO, r, "dirty map: cannot use %s: %s", path, why) : 0;
}

/* As it is; what a process that was killed left in the cache is made durable first, else the copy
 * that is overwritten next could be the only durable one.  -EBADMSG: unusable, *err says why. */
static int mapfile_load(struct mapfile *f, const char *path, struct error *err)
{
	struct activity_report report;
	const char *why;
	int r;

	f->fd = open(path, O_RDWR | O_CLOEXEC);
	if (f->fd < 0)
		return error_errno(err, "dirty map: cannot open %s", path);
	r = fdatasync(f->fd) < 0 ? -errno : 0;
	if (r < 0)
		return error_code(err, r, "dirty map: cannot flush %s", path);
	r = activity_load(mapfile_read_at, &f->fd, DIRTYFILE_HOT, &f->map, &f->log, &report, &why);
	if (r < 0)
		return error_set(err, r == -EBADMSG ? ERROR_IO : ERROR_GENERAL, r,
			"dirty map: cannot use %s: %s", path, why);
	if (report.lost_pages || report.lost_log)
		log_warning("dirty map: %s is damaged (%llu of %llu pages%s): what they covered "
			    "counts as dirty",
			path, (unsigned long long)report.lost_pages,
			(unsigned long long)report.pages,
			report.lost_log ? ", the activity log" : "");
	return 0;
}

static void mapfile_unload(struct mapfile *f)
{
	activity_deinit(&f->log);
	dirtymap_deinit(&f->map);
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
}

/* The same map in blocks of another size, for a disk that may have grown. */
static int mapfile_convert(
	struct mapfile *f, const char *path, uint64_t size, uint32_t block, struct error *err)
{
	struct dirtymap other;
	struct dirtymap_run run;
	uint64_t at = 0;
	int r = dirtymap_init(&other, size, block);

	if (r < 0)
		return error_code(err, r, "dirty map: %s", path);
	for (; dirtymap_next(&f->map, DIRTYMAP_WANTED, at, UINT64_MAX, &run);
		at = run.off + run.len)
		dirtymap_mark(&other, DIRTYMAP_WANTED, run.off, run.len);
	if (size > f->map.size)
		dirtymap_mark(&other, DIRTYMAP_WANTED, f->map.size, size - f->map.size);
	r = mapfile_create_from(path, size, block, &other, err);
	dirtymap_deinit(&other);
	if (r < 0)
		return r;
	mapfile_unload(f);
	return mapfile_load(f, path, err);
}

/* A copy of a version that this program does not know is not thrown away. */
static bool mapfile_is_newer(const char *path)
{
	uint8_t unit[DIRTYFILE_UNIT];
	struct dirtyfile_header h;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool newer = false;

	for (unsigned slot = 0; fd >= 0 && slot < 2; slot++) {
		const char *why;

		if (mapfile_read_at(&fd, slot * DIRTYFILE_UNIT, unit, sizeof(unit)) < 0)
			continue;
		why = dirtyfile_get_header(unit, &h);
		newer |= why && strstr(why, "newer");
	}
	if (fd >= 0)
		close(fd);
	return newer;
}

int mapfile_open(struct mapfile *f, const char *path, uint64_t size, uint32_t block,
	pthread_mutex_t *lock, struct error *err)
{
	enum mapfile_found found = MAPFILE_VALID;
	struct error ignored;
	int r;

	memset(f, 0, sizeof(*f));
	f->lock = lock;
	f->path = strdup(path);
	pthread_cond_init(&f->changed, NULL);
	r = f->path ? mapfile_load(f, path, err)
		    : error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	/* Its older copy may be valid, and is not the truth. */
	if (r == 0 && mapfile_is_newer(path))
		r = error_set(err, ERROR_IO, -EBADMSG,
			"dirty map: cannot use %s: it was written by a newer version of Tandem",
			path);
	if (r == -ENOENT) {
		found = MAPFILE_MISSING;
		error_set(err, ERROR_STATE, found, "its dirty map %s is missing", path);
	} else if (r == -EBADMSG && !mapfile_is_newer(path)) {
		found = MAPFILE_UNUSABLE;
	} else if (r == 0 && size < f->map.size) {
		found = MAPFILE_UNUSABLE;
		error_set(err, ERROR_STATE, found,
			"its dirty map is of a disk of %llu bytes, but it has %llu",
			(unsigned long long)f->map.size, (unsigned long long)size);
	}
	if (found != MAPFILE_VALID) {
		mapfile_unload(f);
		r = mapfile_create(path, size, block, err ? &ignored : NULL);
		if (r < 0 && err)
			*err = ignored;
		if (r == 0)
			r = mapfile_load(f, path, &ignored);
	} else if (r == 0 && (size > f->map.size || block != dirtymap_block(&f->map))) {
		r = mapfile_convert(f, path, size, block, err);
	}
	if (r < 0)
		mapfile_close(f);
	return r < 0 ? r : (int)found;
}

void mapfile_close(struct mapfile *f)
{
	if (!f->path && f->fd <= 0)
		return;
	mapfile_unload(f);
	pthread_cond_destroy(&f->changed);
	free(f->path);
	f->path = NULL;
}
