/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copy-before-write snapshots of an image. */
#include "replicator/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replicator/backing_clone.h"
#include "util/bytes.h"
#include "util/file.h"
#include "util/log.h"

#define SNAPSHOT_BLOCK 65536u

struct snapshot {
	struct snapshots *all;
	struct snapshot *next;
	struct backing *image;
	struct backing *own; /* image is a clone, which nothing changes; else NULL */
	uint64_t size;
	int fd;         /* saved blocks, at their own offsets; sparse */
	uint8_t *saved; /* a bit per block; changed with the lock taken for writing */
	_Atomic bool broken;
	bool begun; /* it is in the list */
};

int snapshots_init(struct snapshots *s)
{
	s->first = NULL;
	atomic_store(&s->count, 0);
	return -pthread_rwlock_init(&s->lock, NULL);
}

void snapshots_deinit(struct snapshots *s)
{
	pthread_rwlock_destroy(&s->lock);
}

int snapshot_prepare(struct snapshots *s, struct backing *image, uint64_t size, const char *dir,
	struct snapshot **ret_snapshot, struct error *err)
{
	struct snapshot *snap = calloc(1, sizeof(*snap));

	if (!snap)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	snap->all = s;
	snap->image = image;
	snap->size = size;
	snap->saved = calloc(size / SNAPSHOT_BLOCK / 8 + 1, 1);
	snap->fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (!snap->saved || snap->fd < 0) {
		int r = snap->fd < 0 ? -errno : -ENOMEM;

		free(snap->saved);
		free(snap);
		return error_code(err, r, "snapshot: cannot make an unnamed file in %s", dir);
	}
	*ret_snapshot = snap;
	return 0;
}

void snapshots_lock(struct snapshots *s)
{
	pthread_rwlock_wrlock(&s->lock);
}

void snapshots_unlock(struct snapshots *s)
{
	pthread_rwlock_unlock(&s->lock);
}

void snapshot_begin(struct snapshot *snap)
{
	snap->next = snap->all->first;
	snap->all->first = snap;
	snap->begun = true;
	atomic_fetch_add(&snap->all->count, 1);
}

int snapshot_new(struct snapshots *s, struct backing *image, uint64_t size, const char *dir,
	struct snapshot **ret_snapshot, struct error *err)
{
	int r = snapshot_prepare(s, image, size, dir, ret_snapshot, err);

	if (r < 0)
		return r;
	snapshots_lock(s);
	snapshot_begin(*ret_snapshot);
	snapshots_unlock(s);
	return 0;
}

struct snapshot *snapshot_free(struct snapshot *snap)
{
	struct snapshot **at;

	if (!snap)
		return NULL;
	snapshots_lock(snap->all);
	for (at = &snap->all->first; snap->begun && *at != snap; at = &(*at)->next)
		;
	if (snap->begun) {
		*at = snap->next;
		atomic_fetch_sub(&snap->all->count, 1);
	}
	snapshots_unlock(snap->all);
	backing_free(snap->own);
	close(snap->fd);
	free(snap->saved);
	free(snap);
	return NULL;
}

static bool snapshot_has(const struct snapshot *snap, uint64_t block)
{
	return snap->saved[block / 8] >> (block % 8) & 1;
}

uint64_t snapshot_size(const struct snapshot *snap)
{
	return snap->size;
}

int snapshot_pread(struct snapshot *snap, void *buf, uint32_t len, uint64_t off)
{
	uint8_t *p = buf;
	int r = 0;

	while (len > 0 && r == 0) {
		uint64_t block = off / SNAPSHOT_BLOCK;
		uint32_t n = (uint32_t)min_u64(len, (block + 1) * SNAPSHOT_BLOCK - off);

		pthread_rwlock_rdlock(&snap->all->lock);
		if (atomic_load(&snap->broken))
			r = -EIO;
		else if (snapshot_has(snap, block))
			r = file_pread(snap->fd, p, n, off);
		else
			r = backing_pread(snap->image, p, n, off);
		pthread_rwlock_unlock(&snap->all->lock);
		p += n;
		off += n;
		len -= n;
	}
	return r;
}

void snapshot_forget(struct snapshot *snap, uint64_t off, uint64_t len)
{
	uint64_t end = off + len == snap->size ? snap->size + SNAPSHOT_BLOCK - 1 : off + len;
	uint64_t first = (off + SNAPSHOT_BLOCK - 1) / SNAPSHOT_BLOCK;

	snapshots_lock(snap->all);
	for (uint64_t b = first; b < end / SNAPSHOT_BLOCK; b++)
		snap->saved[b / 8] |= (uint8_t)(1u << (b % 8));
	snapshots_unlock(snap->all);
	/* What was kept: its space is free again where the file system can do that. */
	if (end / SNAPSHOT_BLOCK > first)
		(void)fallocate(snap->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			(off_t)(first * SNAPSHOT_BLOCK),
			(off_t)((end / SNAPSHOT_BLOCK - first) * SNAPSHOT_BLOCK));
}

static void snapshot_break(struct snapshot *snap, int err)
{
	atomic_store(&snap->broken, true);
	log_warning("read-only view: cannot keep the old content of %s (%s); its reads fail from "
		    "now on",
		backing_target(snap->image), strerror(-err));
}

void snapshots_detach(struct snapshots *s)
{
	pthread_rwlock_wrlock(&s->lock);
	for (struct snapshot *snap = s->first; snap; snap = snap->next) {
		int r;

		if (snap->own || atomic_load(&snap->broken))
			continue;
		r = backing_clone_new(snap->image, &snap->own);
		if (r < 0)
			snapshot_break(snap, r);
		else
			snap->image = snap->own;
	}
	pthread_rwlock_unlock(&s->lock);
}

/* One block, for every snapshot that lacks it. Only one thread changes a block at a time (its range
 * lock, or the applier), so it is read once and nobody saves it meanwhile. */
static void snapshots_save_block(struct snapshots *s, uint64_t block)
{
	uint8_t *buf = NULL;
	int r = 0;

	pthread_rwlock_wrlock(&s->lock);
	for (struct snapshot *snap = s->first; snap; snap = snap->next) {
		uint64_t off = block * SNAPSHOT_BLOCK;
		uint32_t len;

		if (off >= snap->size || snapshot_has(snap, block) || snap->own ||
			atomic_load(&snap->broken))
			continue;
		len = (uint32_t)min_u64(SNAPSHOT_BLOCK, snap->size - off);
		if (!buf) {
			buf = malloc(SNAPSHOT_BLOCK);
			r = buf ? backing_pread(snap->image, buf, len, off) : -ENOMEM;
		}
		if (r == 0)
			r = file_pwrite(snap->fd, buf, len, off);
		if (r < 0) {
			snapshot_break(snap, r);
			r = 0;
			continue;
		}
		snap->saved[block / 8] |= (uint8_t)(1u << (block % 8));
	}
	pthread_rwlock_unlock(&s->lock);
	free(buf);
}

void snapshots_save(struct snapshots *s, uint64_t off, uint64_t len)
{
	for (uint64_t b = off / SNAPSHOT_BLOCK; b <= (off + len - 1) / SNAPSHOT_BLOCK; b++)
		snapshots_save_block(s, b);
}
