/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A client's requests on a node whose changes go into its own journal (local.h).
 *
 * A change is copied into the journal's chunk under node.lock, at most 1 MiB at a time: about 0.1
 * ms for that much, 1 us for 4 KiB.  It has no place to wait in but this lock, hence needs no range
 * lock: the order of the journal is the order of the changes.  A read looks the pieces up under the
 * lock, pins them, and copies without it.
 *
 * Initial fill (ingest without a committed state): straight to and from the images. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "replicator/local.h"
#include "replicator/receiver_internal.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/log.h"

#define VOLUME_LOCAL_PIECES 16u
/* A promoted node's guest may add this much, and half of what was drained, before it has to wait:
 * so the drain ends whatever the guest does. */
#define VOLUME_LOCAL_CREDIT (64u << 20)

/* (L) The receiver, if its journal takes the node's changes now. */
static struct receiver *volume_local_receiver(struct volume *v)
{
	return v->node->access == NODE_ACCESS_LOCAL ? v->node->receiver : NULL;
}

/* (L) The journal cannot take a change that nothing but the controller can make room for. */
static void volume_local_full(struct receiver *r)
{
	struct replica_status st;

	if (r->local.full)
		return;
	replica_get_status(r->core, &st);
	r->local.full = true;
	r->local.fulls++;
	node_set_reason(r->n,
		"the epochs that are not committed fill the journal: commit or discard them, "
		"commit more often, or make journal-size larger");
	log_warning("%llu bytes that are not committed fill the journal; writes wait for a commit "
		    "or discard, and fail with ENOSPC after peer-timeout-ms",
		(unsigned long long)st.pending_bytes);
	node_changed(r->n);
}

/* (L) A write failed, so the open epoch lacks it. */
static void volume_local_damage(struct receiver *r, int err)
{
	struct replica_status st;

	replica_get_status(r->core, &st);
	if (r->local.damaged)
		return;
	r->local.damaged = max_u64(st.received + 1, 1);
	node_set_reason(r->n,
		"a write after epoch %llu failed (%s): what was written since can only be "
		"discarded",
		(unsigned long long)st.received, strerror(-err));
	log_error("a write after epoch %llu failed (%s): what was written since can only be "
		  "discarded",
		(unsigned long long)st.received, strerror(-err));
	node_changed(r->n);
}

/* (L) Waits for room; -ENOSPC, or -EINPROGRESS = look again at everything.  *end: when to give up,
 * 0 = not known yet. */
static int volume_local_wait(struct receiver *r, uint64_t *end)
{
	struct node *n = r->n;
	struct timespec ts;
	uint64_t now = clock_ns();

	if (r->local.kind == LOCAL_INGEST && replica_local_stuck(r->core)) {
		volume_local_full(r);
		if (*end == 0)
			*end = now + n->conf->peer_timeout_ms * NS_PER_MS;
		if (r->local.damaged || now >= *end) {
			volume_local_damage(r, -ENOSPC);
			return -ENOSPC;
		}
	}
	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_nsec += 100 * (long)NS_PER_MS; /* the look at the clock; room itself wakes at once */
	if (ts.tv_nsec >= (long)NS_PER_S) {
		ts.tv_nsec -= (long)NS_PER_S;
		ts.tv_sec++;
	}
	local_use(r);
	pthread_cond_signal(&r->apply);
	(void)pthread_cond_timedwait(&r->local.room, &n->lock, &ts);
	local_unuse(r);
	return -EINPROGRESS;
}

/* (L) Whether a promoted node's guest has to let the drain go first. */
static bool volume_local_behind(const struct receiver *r)
{
	struct replica_status st;

	if (r->local.kind != LOCAL_DRAIN)
		return false;
	if (r->local.gate)
		return true;
	replica_get_status(r->core, &st);
	return st.log_head - r->local.head >
	       VOLUME_LOCAL_CREDIT + (st.log_tail - r->local.tail) / 2;
}

/* (L) One attempt; 1 = there is no room just now. */
static int volume_local_try(struct receiver *r, struct volume *v, const void *buf, uint64_t len,
	uint64_t off, unsigned flags)
{
	int e = 1;

	if (!volume_local_behind(r))
		e = replica_local_change(r->core, v->index, off, len, buf, flags & VOLUME_UNMAP);
	if (e == -EAGAIN)
		return 1;
	if (e < 0 && r->local.kind == LOCAL_INGEST)
		volume_local_damage(r, e);
	if (e == 0 && r->local.kind == LOCAL_DRAIN)
		dirtymap_mark_alone(&v->map.map, off, len);
	return e;
}

/* (L) The same for a promoted node's guest: what it writes is its peer's to get, and a crash must
 * not forget that (as in volume_primary.c).  The lock may be let go; -EINPROGRESS = look again. */
static int volume_local_track(
	struct volume *v, const void *buf, uint64_t len, uint64_t off, unsigned flags)
{
	struct node *n = v->node;
	int e;

	v->changing++;
	e = mapfile_enter(&v->map, off, len);
	if (e == 0) {
		struct receiver *r = volume_local_receiver(v);

		if (!r || n->stopping) {
			e = -EINPROGRESS;
		} else if (identity_write_due(n->unwritten, n->shared, true)) {
			pthread_mutex_unlock(&n->lock);
			e = node_note_write(n);
			pthread_mutex_lock(&n->lock);
			e = e < 0 ? e : -EINPROGRESS;
		} else {
			e = volume_local_try(r, v, buf, len, off, flags);
		}
		mapfile_leave(&v->map, off, len);
	}
	v->changing--;
	return e;
}

/* One change of at most 1 MiB, or a zero of at most activity_reach. */
static int volume_local_change(
	struct volume *v, const void *buf, uint64_t len, uint64_t off, unsigned flags)
{
	struct node *n = v->node;
	struct receiver *r;
	uint64_t end = 0;
	int e = -EINPROGRESS;

	pthread_mutex_lock(&n->lock);
	while (e == -EINPROGRESS) {
		/* As in volume_primary.c. */
		while (n->stopping && !n->ended)
			pthread_cond_wait(&n->changed, &n->lock);
		r = volume_local_receiver(v);
		if (n->ended)
			e = -ESHUTDOWN;
		else if (!r)
			e = -EAGAIN;
		else if (r->local.fill || r->local.fill_writes)
			e = -EXDEV;
		else if (r->local.kind == LOCAL_DRAIN)
			e = volume_local_track(v, buf, len, off, flags);
		else
			e = volume_local_try(r, v, buf, len, off, flags);
		if (e == 1)
			e = volume_local_wait(volume_local_receiver(v), &end);
	}
	pthread_mutex_unlock(&n->lock);
	return e;
}

/* -EXDEV: there is no fill (any more). */
static int volume_local_fill(
	struct volume *v, const void *buf, uint64_t len, uint64_t off, unsigned flags)
{
	struct node *n = v->node;
	struct error err = {0};
	struct receiver *r;
	bool filled;
	int e;

	pthread_mutex_lock(&n->lock);
	r = volume_local_receiver(v);
	if (!r || !r->local.fill) {
		/* Writes to the images that began before the cut end first. */
		while (r && !r->local.fill && r->local.fill_writes) {
			local_use(r);
			pthread_cond_wait(&n->changed, &n->lock);
			local_unuse(r);
			r = volume_local_receiver(v);
		}
		pthread_mutex_unlock(&n->lock);
		return -EXDEV;
	}
	r->local.fill_writes++;
	filled = r->local.filled;
	pthread_mutex_unlock(&n->lock);
	if (!filled) {
		/* Durably first: what the disks held before is no committed state any more. */
		e = node_note_fill(n, &err);
		if (e < 0)
			log_error("%s; the write fails", err.text);
		pthread_mutex_lock(&n->lock);
		r->local.filled = e == 0;
		if (e < 0)
			r->local.fill_writes--;
		node_changed(n);
		pthread_mutex_unlock(&n->lock);
		if (e < 0)
			return e;
	}
	if (buf) {
		e = backing_pwrite(v->backing, buf, (uint32_t)len, off);
	} else {
		unsigned how = flags & VOLUME_UNMAP ? BACKING_ZERO_UNMAP : 0;

		e = backing_zero(v->backing, len, off,
			how | (flags & VOLUME_FAST_ZERO ? BACKING_ZERO_FAST : 0));
	}
	pthread_mutex_lock(&n->lock);
	if (e < 0 && e != -EOPNOTSUPP)
		volume_local_damage(r, e);
	if (--r->local.fill_writes == 0)
		node_changed(n);
	pthread_mutex_unlock(&n->lock);
	return e;
}

static int volume_local_put(
	struct volume *v, const void *buf, uint64_t len, uint64_t off, unsigned flags)
{
	int e;

	for (;;) {
		e = volume_local_change(v, buf, len, off, flags);
		if (e == -EXDEV)
			e = volume_local_fill(v, buf, len, off, flags);
		if (e != -EXDEV)
			return e;
	}
}

int volume_local_pwrite(struct volume *v, const void *buf, uint32_t len, uint64_t off)
{
	return volume_local_put(v, buf, len, off, 0);
}

int volume_local_zero(struct volume *v, uint64_t len, uint64_t off, unsigned flags)
{
	int e = 0;

	/* At most as many regions as can be made hot at once. */
	while (len > 0 && e == 0) {
		uint64_t part = min_u64(len, activity_reach(&v->map.log, off));

		e = volume_local_put(v, NULL, part, off, flags);
		off += part;
		len -= part;
	}
	return e;
}

int volume_local_flush(struct volume *v)
{
	struct node *n = v->node;
	struct replica_status st;
	struct receiver *r;
	int e = 0;

	pthread_mutex_lock(&n->lock);
	r = volume_local_receiver(v);
	if (!r) {
		e = -EAGAIN;
	} else if (r->local.kind == LOCAL_DRAIN) {
		e = n->conf->unsafe_no_flush ? 0 : local_flush(r);
		while (e == -ESHUTDOWN && n->stopping && !n->ended)
			pthread_cond_wait(&n->changed, &n->lock);
	} else {
		/* Durability comes with the commit: what is not committed is dropped by a restart,
		 * however durable its bytes are. */
		replica_get_status(r->core, &st);
		if (st.mode == REPLICA_FAILED || r->local.damaged)
			e = -EIO;
	}
	pthread_mutex_unlock(&n->lock);
	return e;
}

/* Pieces of the range, pinned; 0 = ask again another way. */
static unsigned volume_local_get(struct volume *v, uint64_t off, uint64_t len,
	struct replica_piece *p, struct receiver **ret_receiver)
{
	struct node *n = v->node;
	unsigned count = 0;

	pthread_mutex_lock(&n->lock);
	*ret_receiver = volume_local_receiver(v);
	if (*ret_receiver) {
		local_use(*ret_receiver);
		count = replica_index_get(
			(*ret_receiver)->core, v->index, off, len, p, VOLUME_LOCAL_PIECES);
	}
	pthread_mutex_unlock(&n->lock);
	return count;
}

static void volume_local_release(struct receiver *r, const struct replica_piece *p, unsigned count)
{
	pthread_mutex_lock(&r->n->lock);
	replica_index_put(r->core, p, count);
	local_unuse(r);
	pthread_mutex_unlock(&r->n->lock);
}

int volume_local_pread(struct volume *v, void *buf, uint32_t len, uint64_t off)
{
	struct replica_piece p[VOLUME_LOCAL_PIECES];
	uint8_t *to = buf;
	struct receiver *r;
	int e = 0;

	while (len > 0 && e == 0) {
		unsigned count = volume_local_get(v, off, len, p, &r);

		if (count == 0)
			return -EAGAIN; /* what was read stays right, but reading again is simpler
					 */
		for (unsigned i = 0; i < count && e == 0; i++) {
			uint32_t n = (uint32_t)p[i].len;

			if (p[i].where == REPLICA_IN_IMAGE)
				e = backing_pread(v->backing, to, n, off);
			else if (p[i].where == REPLICA_IN_ZERO)
				memset(to, 0, n);
			else if (p[i].where == REPLICA_IN_MEMORY)
				memcpy(to, p[i].data, n);
			else
				e = journal_io_read(r, p[i].pos, to, n);
			to += n;
			off += n;
			len -= n;
		}
		volume_local_release(r, p, count);
	}
	return e;
}

int volume_local_extents(
	struct volume *v, uint64_t off, uint64_t len, backing_extent_fn fn, void *ctx)
{
	struct replica_piece p[VOLUME_LOCAL_PIECES];
	struct receiver *r;
	bool any = false;
	int e = 0;

	while (len > 0 && e == 0) {
		unsigned count = volume_local_get(v, off, len, p, &r);

		if (count == 0)
			return any ? 0 : -EAGAIN; /* fewer than asked for are enough */
		any = true;
		/* Only where they are is asked: nothing has to stay pinned. */
		volume_local_release(r, p, count);
		for (unsigned i = 0; i < count && e == 0; i++) {
			if (p[i].where == REPLICA_IN_IMAGE)
				e = backing_extents(v->backing, off, p[i].len, fn, ctx);
			else
				e = fn(ctx, off, p[i].len, p[i].where == REPLICA_IN_ZERO);
			off += p[i].len;
			len -= p[i].len;
		}
	}
	return e;
}
