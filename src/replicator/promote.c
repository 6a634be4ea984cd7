/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promotion: discard -> metadata (generation, role, "draining") -> serve through the journal; then
 * drain.c goes on: drain -> serve straight on the images -> replicate. */
#include "replicator/promote.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "replicator/local.h"
#include "replicator/memory.h"
#include "replicator/receiver_internal.h"
#include "replicator/sender.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/fault.h"
#include "util/log.h"

struct promote_meta {
	uint64_t committed, fresh;
	uint64_t generation;                           /* result */
	struct uuid group, volume[RECORD_MAX_VOLUMES]; /* where there are none (ingest) */
};

static void promote_note(struct metadata *m, void *ctx)
{
	struct promote_meta *p = ctx;

	(void)identity_settle(&m->id, p->committed);
	identity_promote(&m->id, p->fresh);
	p->generation = m->id.current.number;
	m->committed = p->committed;
	m->seen = max_u64(m->seen, p->committed);
	m->draining = true;
	identity_name(&m->id, &p->group, p->volume);
}

static int promote_refuse_empty(struct node *n, struct error *err)
{
	const char *why;

	pthread_mutex_lock(&n->meta_lock);
	why = identity_refuse_promotion(&n->meta.now.id);
	pthread_mutex_unlock(&n->meta_lock);
	return error_set(err, ERROR_STATE, -ENODATA, "%s",
		why ? why
		    : "there is no committed state to promote: what this node wrote as the primary "
		      "belongs to no epoch; start it with tandem primary");
}

/* A primary that is heard two heartbeats from now, or later, is alive: refused.  What is heard
 * sooner tells nothing, it may have been on its way when the primary died.  A link that is silent
 * gets peer-timeout-ms to be given up. */
static int promote_check(struct node *n, bool force, bool memory, struct error *err)
{
	uint64_t began = clock_ns(), alive = began + 2 * n->conf->heartbeat_ms * NS_PER_MS;
	uint64_t end = began + n->conf->peer_timeout_ms * NS_PER_MS;
	struct receiver_status st;

	for (;;) {
		const struct timespec ts = {0, 20 * (long)NS_PER_MS};

		pthread_mutex_lock(&n->lock);
		if (n->role == NODE_PRIMARY) {
			pthread_mutex_unlock(&n->lock);
			return error_set(err, ERROR_STATE, -EALREADY, "this node is the primary");
		}
		receiver_get_status(n->receiver, &st);
		pthread_mutex_unlock(&n->lock);
		if (st.core.mode == REPLICA_EMPTY)
			return promote_refuse_empty(n, err);
		if (st.core.mode == REPLICA_DIRECT && !st.core.cloned)
			return error_set(err, ERROR_STATE, -ENODATA,
				"a full sync is under way: until it is committed there is no state "
				"to promote");
		if (memory && !st.core.memory_epoch)
			return error_set(err, ERROR_STATE, -ENODATA,
				"this node holds the disks of epoch %llu but no memory of the "
				"guest "
				"(it was started anew since): disks-only promotes those",
				(unsigned long long)st.core.committed);
		if (!st.connected || force)
			return 0;
		if (st.heard_ns > alive || clock_ns() >= end)
			return error_set(err, ERROR_STATE, -EBUSY,
				"the primary is alive on the link (%s): shut it down first, or use "
				"--force, which takes its disks away from it",
				st.peer);
		nanosleep(&ts, NULL);
	}
}

/* Nobody who wrote to the secondary (ingest) writes any more. */
static void promote_fence(struct node *n)
{
	if (n->own->ingest != CONF_INGEST_NBD)
		return;
	atomic_fetch_add(&n->era, 1);
	pthread_mutex_lock(&n->lock);
	atomic_store(&n->access, NODE_ACCESS_NONE);
	local_kick(n->receiver); /* who waits for room gives up */
	while (atomic_load(&n->ingest_requests) > 0) {
		struct timespec ts;

		clock_gettime(CLOCK_REALTIME, &ts);
		ts.tv_nsec += 5 * (long)NS_PER_MS;
		if (ts.tv_nsec >= (long)NS_PER_S) {
			ts.tv_nsec -= (long)NS_PER_S;
			ts.tv_sec++;
		}
		(void)pthread_cond_timedwait(&n->changed, &n->lock, &ts);
	}
	pthread_mutex_unlock(&n->lock);
}

/* It is durable: serves. */
static int promote_serve(struct node *n, struct sender *s, const struct promote_meta *note)
{
	int r;

	pthread_mutex_lock(&n->lock);
	r = local_begin(n->receiver, LOCAL_DRAIN);
	if (r == 0) {
		sender_set_base(s, note->committed);
		n->sender = s;
		n->role = NODE_PRIMARY;
		n->draining = true;
		node_set_reason(n, "promoted; the journal is being brought to the disks");
		atomic_store(&n->access, NODE_ACCESS_LOCAL);
	}
	node_changed(n);
	pthread_mutex_unlock(&n->lock);
	return r;
}

int promote(struct node *n, bool force, bool disks_only, struct promotion *ret_promotion,
	struct error *err)
{
	bool memory = n->guest && !disks_only;
	struct promotion p = {0};
	struct receiver_status st;
	struct promote_meta note;
	struct sender *s;
	int r;

	r = promote_check(n, force, memory, err);
	if (r < 0)
		return r;
	r = uuid_random64(&note.fresh);
	if (r == 0)
		r = node_fresh_names(&note.group, note.volume, n->nvolumes, err);
	if (r < 0)
		return error_code(err, r, "cannot make an identifier");
	r = sender_new(n, &s, err);
	if (r < 0)
		return r;
	promote_fence(n);
	pthread_mutex_lock(&n->meta_lock);
	note.generation = n->meta.now.id.top + 1; /* nothing is accepted from here on */
	pthread_mutex_unlock(&n->meta_lock);
	pthread_mutex_lock(&n->lock);
	receiver_discard(
		n->receiver, true, note.generation, &p.discarded_epochs, &p.discarded_bytes);
	fault_point(FAULT_PROMOTE_DISCARD);
	receiver_get_status(n->receiver, &st);
	/* COMMITs on their way to the journal are part of the state, and so is a sync that came
	 * whole into clones; after this nothing is. */
	while (((st.core.mode == REPLICA_READY && st.core.pending_epochs > 0) ||
		       (st.core.mode != REPLICA_FAILED && st.core.cloned)) &&
		!n->stopping) {
		pthread_cond_wait(&n->changed, &n->lock);
		receiver_get_status(n->receiver, &st);
	}
	note.committed = st.core.committed;
	if (r == 0 && st.core.mode != REPLICA_READY)
		r = error_set(err, ERROR_IO, st.core.error ? st.core.error : -EIO,
			"the secondary has failed: %s: %s", st.core.why ? st.core.why : "no state",
			strerror(st.core.error ? -st.core.error : EIO));
	if (r == 0 && n->guest && disks_only)
		(void)receiver_memory_drain(n->receiver); /* whatever it is: it goes */
	if (r == 0 && memory) {
		r = receiver_memory_adopt(n->receiver);
		if (r < 0)
			error_set(err, ERROR_STATE, r,
				"the guest's memory is not that of the committed epoch %llu: "
				"disks-only promotes the disks",
				(unsigned long long)note.committed);
		else
			p.state_bytes = n->memory->state_len;
		p.memory = r == 0;
	}
	pthread_mutex_unlock(&n->lock);
	if (r == 0)
		fault_point(FAULT_PROMOTE_MEMORY);
	if (r == 0)
		r = receiver_settle(n->receiver, note.committed, err);
	if (r == 0)
		r = node_meta_update(n, promote_note, &note, err);
	if (r == 0)
		fault_point(FAULT_PROMOTE_METADATA);
	if (r < 0) {
		sender_free(s);
		if (n->own->ingest == CONF_INGEST_NBD)
			atomic_store(
				&n->access, NODE_ACCESS_LOCAL); /* as before, for new clients */
		return r;
	}
	r = promote_serve(n, s, &note);
	if (r == 0)
		fault_point(FAULT_PROMOTE_WRITABLE);
	if (r == 0 && n->guest && disks_only) {
		pthread_mutex_lock(&n->lock);
		n->memory = memory_free(n->memory);
		pthread_mutex_unlock(&n->lock);
	}
	if (r == 0)
		r = drain_start(n, err);
	else
		error_code(err, r, "cannot index the journal; start this node with tandem primary");
	if (r < 0)
		return r;
	log_info("promoted at epoch %llu, generation %llu; %llu epochs (%llu bytes) that were not "
		 "committed are discarded",
		(unsigned long long)note.committed, (unsigned long long)note.generation,
		(unsigned long long)p.discarded_epochs, (unsigned long long)p.discarded_bytes);
	p.epoch = note.committed;
	p.generation = note.generation;
	*ret_promotion = p;
	return 0;
}
