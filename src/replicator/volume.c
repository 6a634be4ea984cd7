/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests to a volume, given to the way in which it is served now. */
#include "replicator/volume.h"

#include <errno.h>

#include "replicator/local.h"
#include "util/bytes.h"

int volume_open(struct node *n, unsigned index, bool writable, struct error *err)
{
	struct volume *v = &n->volumes[index];
	int r;

	v->node = n;
	v->index = index;
	v->name = n->own->disks[index].name;
	rangelock_init(&v->ranges);
	r = backing_open(n->own->disks[index].backing, writable, &v->backing, err);
	if (r < 0)
		return error_prefix(err, "disk %s", v->name);
	v->size = v->shown = backing_get_info(v->backing)->size;
	v->map.fd = -1;
	pthread_cond_init(&v->granted, NULL);
	r = snapshots_init(&v->snapshots);
	if (r < 0)
		return error_code(err, r, "disk %s: cannot make a lock", v->name);
	return 0;
}

void volume_close(struct volume *v)
{
	if (!v->backing)
		return;
	v->backing = backing_free(v->backing);
	mapfile_close(&v->map);
	snapshots_deinit(&v->snapshots);
	pthread_cond_destroy(&v->granted);
}

void volume_lock_range(struct volume *v, struct rangelock_entry *e, uint64_t off, uint64_t len)
{
	rangelock_add(&v->ranges, e, off, len);
	while (!rangelock_granted(e))
		pthread_cond_wait(&v->granted, &v->node->lock);
}

static _Thread_local bool volume_granted_any;

static void volume_on_grant(struct rangelock_entry *granted)
{
	volume_granted_any = true;
}

void volume_unlock_range(struct volume *v, struct rangelock_entry *e)
{
	volume_granted_any = false;
	rangelock_del(&v->ranges, e, volume_on_grant);
	if (volume_granted_any)
		pthread_cond_broadcast(&v->granted);
}

static enum node_access volume_access(struct volume *v)
{
	return atomic_load_explicit(&v->node->access, memory_order_acquire);
}

static void volume_count(struct volume *v)
{
	atomic_fetch_add_explicit(&v->requests, 1, memory_order_relaxed);
}

int volume_pread(struct volume *v, void *buf, uint32_t len, uint64_t off)
{
	int r = -EAGAIN;

	volume_count(v);
	while (r == -EAGAIN) {
		enum node_access a = volume_access(v);

		r = a == NODE_ACCESS_PRIMARY ? backing_pread(v->backing, buf, len, off)
		    : a == NODE_ACCESS_LOCAL ? volume_local_pread(v, buf, len, off)
					     : -ESHUTDOWN;
	}
	return r;
}

int volume_pwrite(struct volume *v, const void *buf, uint32_t len, uint64_t off, unsigned flags)
{
	const uint8_t *p = buf;
	int r = 0;

	volume_count(v);
	/* A longer request is several changes: a power cut may tear it anywhere on a plain disk
	 * too. */
	while (len > 0 && r == 0) {
		uint32_t part = (uint32_t)min_u64(len, RECORD_MAX_PAYLOAD);

		r = volume_access(v) == NODE_ACCESS_LOCAL ? volume_local_pwrite(v, p, part, off)
							  : volume_primary_pwrite(v, p, part, off);
		if (r == -EAGAIN) {
			r = 0;
			continue;
		}
		p += part;
		off += part;
		len -= part;
	}
	return r == 0 && flags & VOLUME_FUA ? volume_flush(v) : r;
}

int volume_zero(struct volume *v, uint64_t len, uint64_t off, unsigned flags)
{
	int r;

	volume_count(v);
	/* Before it enters the stream: refused with nothing changed. */
	if (flags & VOLUME_FAST_ZERO && !backing_get_info(v->backing)->can_fast_zero)
		return -EOPNOTSUPP;
	do
		r = volume_access(v) == NODE_ACCESS_LOCAL ? volume_local_zero(v, len, off, flags)
							  : volume_primary_zero(v, len, off, flags);
	while (r == -EAGAIN);
	return r == 0 && flags & VOLUME_FUA ? volume_flush(v) : r;
}

static int volume_primary_flush(struct volume *v)
{
	int r;

	if (barrier_flush(v, &r))
		return r;
	return v->node->conf->unsafe_no_flush ? 0 : volume_flush_image(v);
}

int volume_flush_image(struct volume *v)
{
	pthread_mutex_t *lock = &v->node->lock;
	bool covers;
	int r;

	pthread_mutex_lock(lock);
	covers = dirtymap_flush_begin(&v->map.map);
	pthread_mutex_unlock(lock);
	r = backing_flush(v->backing);
	if (covers) {
		pthread_mutex_lock(lock);
		dirtymap_flush_end(&v->map.map, r == 0);
		pthread_mutex_unlock(lock);
	}
	return r;
}

int volume_flush(struct volume *v)
{
	int r = -EAGAIN;

	volume_count(v);
	while (r == -EAGAIN) {
		enum node_access a = volume_access(v);

		if (a == NODE_ACCESS_LOCAL)
			r = volume_local_flush(v);
		else if (a == NODE_ACCESS_PRIMARY)
			r = volume_primary_flush(v);
		else
			r = -ESHUTDOWN;
	}
	return r;
}

int volume_extents(struct volume *v, uint64_t off, uint64_t len, backing_extent_fn fn, void *ctx)
{
	int r = -EAGAIN;

	while (r == -EAGAIN)
		r = volume_access(v) == NODE_ACCESS_LOCAL
			    ? volume_local_extents(v, off, len, fn, ctx)
			    : backing_extents(v->backing, off, len, fn, ctx);
	return r;
}
