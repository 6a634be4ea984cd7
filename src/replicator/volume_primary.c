/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest's write on the primary: range lock -> place in the stream -> copy -> local image ->
 * reply.
 *
 * The place in the stream is taken while the range is held, and the range is held until the image
 * has the data: overlapping writes have one order on both sides (I6), and a change stands in the
 * stream before its reply.
 * Cost over a plain write: two short holds of node.lock (with a look at the activity log and two
 * bits of the dirty map), one CRC and one copy of the payload.  It waits for an overlapping write,
 * for the activity log where its region is cold, and for room when the queue is full; never for the
 * network. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "replicator/seal.h"
#include "replicator/sender.h"
#include "replicator/verify.h"
#include "replicator/volume.h"
#include "util/bytes.h"

struct volume_change {
	struct rangelock_entry range;
	struct record rec;
	uint8_t *slot; /* NULL: not replicated */
};

/* node.lock is held.  Before the image changes: the change stands in the stream, or is to be copied
 * later. */
static void volume_mark(struct volume *v, bool sent, uint64_t off, uint64_t len)
{
	if (v->node->sender)
		verify_changed(v->node->sender, v->index, off, len);
	if (sent)
		dirtymap_sent(&v->node->windows, v->index, off, len);
	else
		dirtymap_mark_alone(&v->map.map, off, len);
}

/* node.lock is held, and let go where the region is cold (core/activity.h) and for what a first
 * write has to note: once per link loss or promotion (core/identity.h).  0, or negative errno. */
static int volume_change_begin(struct volume *v, struct volume_change *c)
{
	struct node *n = v->node;
	bool entered;
	int r;

	barrier_wait(n);
	/* Handing over: until it is known who goes on.  Who stops the node closes the clients'
	 * connections before it lets go of us. */
	while (!n->ended && (n->stopping || n->handing))
		pthread_cond_wait(&n->changed, &n->lock);
	v->changing++;
	volume_lock_range(v, &c->range, c->rec.offset, c->rec.length);
	r = mapfile_enter(&v->map, c->rec.offset, c->rec.length);
	entered = r == 0;
	for (;;) {
		if (r == 0 && (n->ended || n->access != NODE_ACCESS_PRIMARY))
			r = -ESHUTDOWN;
		c->slot = NULL;
		if (r == 0 && !n->unwritten && n->sender &&
			sender_copies_later(n->sender, v->index, c->rec.offset, c->rec.length))
			break; /* it is wanted, and stays so */
		if (r == 0 && !n->unwritten && n->sender)
			c->slot = sender_change(n->sender, &c->rec);
		if (c->slot || r < 0 || !identity_write_due(n->unwritten, n->shared, true))
			break;
		pthread_mutex_unlock(&n->lock);
		r = node_note_write(n);
		pthread_mutex_lock(&n->lock);
	}
	if (r < 0) {
		if (entered)
			mapfile_leave(&v->map, c->rec.offset, c->rec.length);
		volume_unlock_range(v, &c->range);
		v->changing--;
		return r;
	}
	volume_mark(v, c->slot != NULL, c->rec.offset, c->rec.length);
	return 0;
}

/* A write that failed leaves unknown content: what is there now follows in the stream, so that both
 * sides stay equal.  Where it cannot be read either, the guest's view is undefined as well. */
static void volume_send_actual(struct volume *v, uint64_t off, uint64_t len)
{
	struct node *n = v->node;
	uint8_t *buf = malloc(RECORD_MAX_PAYLOAD);

	while (buf && len > 0) {
		uint32_t part = (uint32_t)min_u64(len, RECORD_MAX_PAYLOAD);
		struct record rec = {.type = RECORD_WRITE,
			.volume = v->index,
			.offset = off,
			.length = part,
			.payload = part};
		uint8_t *slot = NULL;

		if (backing_pread(v->backing, buf, part, off) < 0)
			break;
		pthread_mutex_lock(&n->lock);
		if (n->sender)
			slot = sender_change(n->sender, &rec);
		volume_mark(v, slot != NULL, off, part);
		pthread_mutex_unlock(&n->lock);
		if (slot)
			sender_publish(n->sender, slot, &rec, buf);
		off += part;
		len -= part;
	}
	free(buf);
	if (len > 0) {
		pthread_mutex_lock(&n->lock);
		volume_mark(v, false, off, len);
		pthread_mutex_unlock(&n->lock);
	}
}

static void volume_change_end(struct volume *v, struct volume_change *c, int failed)
{
	if (failed < 0 && c->slot)
		volume_send_actual(v, c->rec.offset, c->rec.length);
	pthread_mutex_lock(&v->node->lock);
	seal_note(v, c->rec.offset);
	dirtymap_mark_loose(&v->map.map, c->rec.offset, c->rec.length);
	mapfile_leave(&v->map, c->rec.offset, c->rec.length);
	volume_unlock_range(v, &c->range);
	v->changing--;
	pthread_mutex_unlock(&v->node->lock);
}

int volume_primary_pwrite(struct volume *v, const void *buf, uint32_t len, uint64_t off)
{
	struct volume_change c = {.rec = {.type = RECORD_WRITE,
					  .volume = v->index,
					  .offset = off,
					  .length = len,
					  .payload = len}};
	struct node *n = v->node;
	int r;

	pthread_mutex_lock(&n->lock);
	r = volume_change_begin(v, &c);
	pthread_mutex_unlock(&n->lock);
	if (r < 0)
		return r;
	if (c.slot)
		sender_publish(n->sender, c.slot, &c.rec, buf);
	snapshots_before_change(&v->snapshots, off, len);
	r = backing_pwrite(v->backing, buf, len, off);
	volume_change_end(v, &c, r);
	return r;
}

/* At most as many regions as can be made hot at once. */
static int volume_primary_zero_one(struct volume *v, uint64_t len, uint64_t off, unsigned flags)
{
	struct volume_change c = {.rec = {.type = RECORD_ZERO,
					  .flags = flags & VOLUME_UNMAP ? RECORD_FLAG_UNMAP : 0,
					  .volume = v->index,
					  .offset = off,
					  .length = len}};
	unsigned how = flags & VOLUME_UNMAP ? BACKING_ZERO_UNMAP : 0;
	struct node *n = v->node;
	int r;

	pthread_mutex_lock(&n->lock);
	r = volume_change_begin(v, &c);
	pthread_mutex_unlock(&n->lock);
	if (r < 0)
		return r;
	if (c.slot)
		sender_publish(n->sender, c.slot, &c.rec, NULL);
	snapshots_before_change(&v->snapshots, off, len);
	r = backing_zero(
		v->backing, len, off, how | (flags & VOLUME_FAST_ZERO ? BACKING_ZERO_FAST : 0));
	/* It is in the stream already: done the slow way rather than refused half-way. */
	if (r == -EOPNOTSUPP)
		r = backing_zero(v->backing, len, off, how);
	volume_change_end(v, &c, r);
	return r;
}

int volume_primary_zero(struct volume *v, uint64_t len, uint64_t off, unsigned flags)
{
	int r = 0;

	while (len > 0 && r == 0) {
		uint64_t part;

		pthread_mutex_lock(&v->node->lock); /* the disk may be growing */
		part = min_u64(len, activity_reach(&v->map.log, off));
		pthread_mutex_unlock(&v->node->lock);
		r = volume_primary_zero_one(v, part, off, flags);
		off += part;
		len -= part;
	}
	return r;
}
