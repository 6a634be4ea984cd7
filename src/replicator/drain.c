/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From a promotion until the journal is empty: the node serves at once, its guest's changes go to
 * the journal behind what is still to be applied, and the applier brings all of it to the images in
 * that order.  When little is left, new changes wait (the gate) for the last batch; then the node
 * serves straight on its images, and replication to a new secondary may begin.
 *
 * Durable order: promotion noted ("draining") -> exports writable -> ... -> images flushed and the
 * journal's header names everything as applied -> "draining" cleared -> first write straight to an
 * image.  So a restart at any moment replays either all that is missing on the images, or nothing.
 */
#include <errno.h>
#include <time.h>

#include "replicator/local.h"
#include "replicator/receiver_internal.h"
#include "replicator/sender.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/log.h"

#define DRAIN_CUT_BYTES                                                                            \
	(4u << 20) /* the guest's changes are committed that often by themselves                   \
		    */
#define DRAIN_CUT_NS (100 * NS_PER_MS)
#define DRAIN_LOOK_MS 20
#define DRAIN_LITTLE (4u << 20) /* bytes that the guest may be kept waiting for */

static void drain_note_done(struct metadata *m, void *ctx)
{
	const uint64_t *newest = ctx;

	m->draining = false;
	m->committed = max_u64(m->committed, *newest);
	m->seen = max_u64(m->seen, *newest);
}

/* (L) */
static void drain_wait(struct node *n)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_nsec += DRAIN_LOOK_MS * (long)NS_PER_MS;
	if (ts.tv_nsec >= (long)NS_PER_S) {
		ts.tv_nsec -= (long)NS_PER_S;
		ts.tv_sec++;
	}
	(void)pthread_cond_timedwait(&n->changed, &n->lock, &ts);
}

/* (L) */
static void drain_commit_open(struct receiver *r)
{
	uint64_t epoch;
	int e = replica_local_cut(r->core, &epoch);

	if (e == 0)
		e = replica_commit(r->core, epoch);
	/* EAGAIN: there is nothing, and no room; EIO: it has failed and said so. */
	if (e < 0 && e != -EALREADY && e != -EAGAIN && e != -EIO)
		log_error("drain: cannot commit the guest's changes: error %d", e);
}

/* (L) The images and the journal's header hold everything. */
static bool drain_is_empty(struct receiver *r, const struct replica_status *st)
{
	return st->mode == REPLICA_READY && !replica_local_open(r->core) && !st->pending_epochs &&
	       st->unapplied == 0 && st->applied >= st->committed && !r->applying;
}

/* (L) Until little is left and then nothing; false: the node stops first. */
static bool drain_run(struct node *n, struct receiver *r)
{
	uint64_t cut = clock_ns();

	while (!n->stopping) {
		struct replica_status st;
		bool open = replica_local_open(r->core);

		replica_get_status(r->core, &st);
		if (st.unapplied_bytes + st.pending_bytes <= DRAIN_LITTLE && !r->applying)
			r->local.gate = true;
		if (open && (r->local.gate || st.pending_bytes >= DRAIN_CUT_BYTES ||
				    clock_ns() - cut >= DRAIN_CUT_NS)) {
			drain_commit_open(r);
			cut = clock_ns();
		} else if (r->local.gate && drain_is_empty(r, &st)) {
			return true;
		}
		if (!open)
			cut = clock_ns();
		drain_wait(n);
	}
	return false;
}

/* (L) The way to the images is changed; the gate is shut. */
static struct receiver *drain_switch(struct node *n, struct receiver *r)
{
	atomic_store(&n->access, NODE_ACCESS_PRIMARY);
	local_kick(r);
	while (r->local.users > 0)
		pthread_cond_wait(&r->local.nouse, &n->lock);
	receiver_count(r, &n->counters.discards, &n->counters.discarded, &n->counters.fulls);
	n->receiver = NULL;
	n->draining = false;
	node_set_reason(n, "promoted");
	node_changed(n);
	return r;
}

static void *drain_main(void *arg)
{
	struct node *n = arg;
	struct replica_status st;
	struct error err = {0};
	struct receiver *r;
	bool done;
	int e;

	(void)pthread_setname_np(pthread_self(), "tandem-drain");
	pthread_mutex_lock(&n->lock);
	r = n->receiver;
	done = drain_run(n, r);
	if (!done) {
		/* An orderly end keeps what the guest wrote without a flush; what it writes now
		 * waits, and is refused when its connection is gone. */
		local_kick(r);
		if (local_flush(r) < 0)
			log_warning("drain: what the guest wrote since its last flush is lost");
		pthread_mutex_unlock(&n->lock);
		return NULL;
	}
	replica_get_status(r->core, &st);
	pthread_mutex_unlock(&n->lock);
	e = node_meta_update(n, drain_note_done, &st.committed, &err);
	pthread_mutex_lock(&n->lock);
	if (e < 0 || n->stopping) {
		if (e < 0) {
			/* The guest's writes wait no longer than for an error. */
			atomic_store(&n->access, NODE_ACCESS_NONE);
			sender_fail(n->sender);
			node_set_reason(n, "%s", err.text);
			log_error("%s", err.text);
		}
		local_kick(r);
		node_changed(n);
		pthread_mutex_unlock(&n->lock);
		return NULL;
	}
	r = drain_switch(n, r);
	pthread_mutex_unlock(&n->lock);
	receiver_free(r);
	log_info("the journal is drained: serving straight on the disks");
	if (sender_start(n->sender, &err) < 0)
		log_error("%s; running solo", err.text);
	return NULL;
}

int drain_start(struct node *n, struct error *err)
{
	int r = 0;

	/* Who stops the node meanwhile either joins the thread or prevents it. */
	pthread_mutex_lock(&n->lock);
	if (!n->stopping)
		r = pthread_create(&n->drainer, NULL, drain_main, n);
	n->drainer_started = r == 0 && !n->stopping;
	pthread_mutex_unlock(&n->lock);
	return r ? error_code(err, -r, "cannot start a thread") : 0;
}

void drain_stop(struct node *n)
{
	bool started;

	pthread_mutex_lock(&n->lock);
	started = n->drainer_started;
	n->drainer_started = false;
	pthread_cond_broadcast(&n->changed);
	pthread_mutex_unlock(&n->lock);
	if (started)
		pthread_join(n->drainer, NULL);
}

int drain_now(struct node *n, struct error *err)
{
	struct replica_status st;
	struct receiver *r;
	int e = receiver_new(n, &r, err);

	if (e < 0)
		return e;
	e = receiver_start(r, false, err);
	if (e == 0) {
		log_info("the journal of the promotion is brought to the disks first");
		pthread_mutex_lock(&n->lock);
		e = receiver_drain(r);
		replica_get_status(r->core, &st);
		pthread_mutex_unlock(&n->lock);
		if (e < 0)
			error_code(err, e, "cannot bring the journal to the disks");
	}
	receiver_free(r);
	return e < 0 ? e : node_meta_update(n, drain_note_done, &st.committed, err);
}
