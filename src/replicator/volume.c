/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests to a volume, given to the way in which it is served now. */
#include "replicator/volume.h"

#include <errno.h>

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
	v->size = backing_get_info(v->backing)->size;
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

static bool volume_served(struct volume *v)
{
	return atomic_load_explicit(&v->node->access, memory_order_acquire) == NODE_ACCESS_PRIMARY;
}

int volume_pread(struct volume *v, void *buf, uint32_t len, uint64_t off)
{
	return volume_served(v) ? backing_pread(v->backing, buf, len, off) : -ESHUTDOWN;
}

int volume_pwrite(struct volume *v, const void *buf, uint32_t len, uint64_t off, unsigned flags)
{
	int r = volume_primary_pwrite(v, buf, len, off);

	return r == 0 && flags & VOLUME_FUA ? volume_flush(v) : r;
}

int volume_zero(struct volume *v, uint64_t len, uint64_t off, unsigned flags)
{
	int r;

	/* Before it enters the stream: refused with nothing changed. */
	if (flags & VOLUME_FAST_ZERO && !backing_get_info(v->backing)->can_fast_zero)
		return -EOPNOTSUPP;
	r = volume_primary_zero(v, len, off, flags);
	return r == 0 && flags & VOLUME_FUA ? volume_flush(v) : r;
}

int volume_flush(struct volume *v)
{
	int r;

	if (!volume_served(v))
		return -ESHUTDOWN;
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

int volume_extents(struct volume *v, uint64_t off, uint64_t len, backing_extent_fn fn, void *ctx)
{
	return backing_extents(v->backing, off, len, fn, ctx);
}
