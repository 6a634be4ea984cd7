/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The map file: transactions. */
#include "replicator/mapfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/fault.h"
#include "util/file.h"
#include "util/log.h"

#define MAPFILE_TIDY 64u /* pages that are looked at in one hold of the lock */

/* The transaction that has begun. Its buffers are nobody else's until activity_done. */
static int mapfile_write(struct mapfile *f)
{
	struct activity_io io[ACTIVITY_PAGES];
	int r = 0;

	for (unsigned phase = 0; phase < 2 && r == 0; phase++) {
		unsigned n = activity_writes(&f->log, phase, io);

		for (unsigned i = 0; i < n && r == 0; i++)
			r = file_pwrite(f->fd, io[i].buf, DIRTYFILE_UNIT, io[i].off);
		if (n && r == 0 && fdatasync(f->fd) < 0)
			r = -errno;
	}
	return r;
}

/* (L) */
static int mapfile_transact(struct mapfile *f)
{
	int r;

	pthread_mutex_unlock(f->lock);
	r = mapfile_write(f);
	if (r < 0)
		log_error("dirty map: cannot write %s: %s; writes to regions that are not in it "
			  "fail from now on",
			f->path, strerror(-r));
	pthread_mutex_lock(f->lock);
	activity_done(&f->log, r == 0);
	pthread_cond_broadcast(&f->changed);
	return r;
}

int mapfile_enter(struct mapfile *f, uint64_t off, uint64_t len)
{
	struct activity_request q;

	if (activity_enter(&f->log, off, len))
		return 0;
	activity_ask(&f->log, &q, off, len);
	while (!q.granted && !q.failed) {
		uint64_t answers = f->log.answers;

		if (!f->log.busy && activity_begin(&f->log)) {
			(void)mapfile_transact(f); /* q tells */
			continue;
		}
		if (f->log.answers != answers)
			pthread_cond_broadcast(&f->changed);
		else
			pthread_cond_wait(&f->changed, f->lock);
	}
	return q.failed ? -EIO : 0;
}

void mapfile_leave(struct mapfile *f, uint64_t off, uint64_t len)
{
	activity_leave(&f->log, off, len);
	/* Who waits may have waited for this. */
	if (f->log.first && !f->log.busy)
		pthread_cond_broadcast(&f->changed);
}

/* (L) Until no transaction is out. */
static void mapfile_wait(struct mapfile *f)
{
	while (f->log.busy)
		pthread_cond_wait(&f->changed, f->lock);
}

int mapfile_save(struct mapfile *f, bool exact)
{
	int r = 0;

	mapfile_wait(f);
	f->log.cursor = 0;
	while (r == 0 && activity_begin_pages(&f->log, exact, 0)) {
		r = mapfile_transact(f);
		mapfile_wait(f);
		if (f->log.cursor == 0)
			break; /* it went through to the end */
	}
	return f->log.broken ? -EIO : r;
}

int mapfile_settle(struct mapfile *f)
{
	int r = 0;

	mapfile_wait(f);
	while (r == 0 && activity_begin_close(&f->log)) {
		r = mapfile_transact(f);
		mapfile_wait(f);
	}
	return f->log.broken ? -EIO : r;
}

/* The header that says so comes last: what it covers is in the pages then. */
static int mapfile_put_size(struct mapfile *f)
{
	struct dirtyfile_header h = f->log.header;
	uint8_t unit[DIRTYFILE_UNIT];
	int r;

	h.serial++;
	dirtyfile_put_header(unit, &h);
	pthread_mutex_unlock(f->lock);
	r = file_pwrite(f->fd, unit, sizeof(unit), dirtyfile_header_at(h.serial));
	if (r == 0 && fdatasync(f->fd) < 0)
		r = -errno;
	pthread_mutex_lock(f->lock);
	if (r == 0)
		f->log.header.serial = h.serial;
	return r;
}

/* Pages and header of a map that has grown. */
static int mapfile_put_grown(struct mapfile *f)
{
	int r = mapfile_save(f, false);

	/* One that was never written counts as dirty: those that say nothing else. */
	for (uint64_t p = 0; r == 0 && p < f->log.pages; p++)
		if (f->log.page_serial[p] == 0)
			r = mapfile_save(f, true);
	fault_point(FAULT_GROW_MAP);
	if (r == 0)
		r = mapfile_put_size(f);
	fault_point(FAULT_GROW_HEADER);
	return r;
}

int mapfile_grow(struct mapfile *f, uint64_t size, bool mark)
{
	uint64_t old = f->log.header.size, block = dirtymap_block(&f->map);
	uint64_t pages = dirtyfile_pages((size + block - 1) / block);
	int r;

	if (size <= old)
		return size < old ? -EINVAL : 0;
	if (size > DIRTYFILE_MAX_SIZE || dirtyfile_region(size) > f->log.header.region)
		return -EFBIG;
	pthread_mutex_unlock(f->lock);
	r = -posix_fallocate(f->fd, 0, (off_t)dirtyfile_size(pages));
	pthread_mutex_lock(f->lock);
	if (r < 0)
		return r;
	mapfile_wait(f);
	r = dirtymap_grow(&f->map, size); /* does nothing after a try that stopped behind it */
	if (r == 0)
		r = activity_grow(&f->log, size);
	if (r == 0 && mark)
		dirtymap_mark(&f->map, DIRTYMAP_WANTED, old, size - old);
	else if (f->map.size == size)
		dirtymap_clear(&f->map, DIRTYMAP_WANTED, old, size - old);
	if (r < 0)
		return r;
	/* From here on the map is what counts; a file that lags is as it was before. */
	r = mapfile_put_grown(f);
	if (r < 0)
		log_error("dirty map: cannot write the new size to %s: %s; all of the new part is "
			  "dirty for the next start",
			f->path, strerror(-r));
	return 0;
}

bool mapfile_tidy(struct mapfile *f)
{
	if (f->log.busy || !activity_begin_pages(&f->log, true, MAPFILE_TIDY))
		return false;
	(void)mapfile_transact(f); /* logged; the log is broken then, and says so to the writers */
	return true;
}
