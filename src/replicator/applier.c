/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The applier: committed epochs to the images, coalesced; then the journal's space is free.
 *
 * Order of a batch: images written -> images flushed -> journal header (applied epoch, tail)
 * durable -> space free.  Of a full sync: metadata says "inconsistent" before the first write;
 * after the last piece images flushed -> header -> metadata "consistent" -> acknowledged.  Of one
 * into clones: clones.h, where "inconsistent" comes after the last piece. */
#include <errno.h>
#include <stdlib.h>

#include "replicator/applier_internal.h"
#include "replicator/clones.h"
#include "util/clock.h"
#include "util/fault.h"
#include "util/log.h"

#define APPLIER_BATCH (64u << 20)  /* bytes in one batch, at most about */
#define APPLIER_ENOUGH (16u << 20) /* bytes worth a batch at once */
#define APPLIER_WAIT_MS 200        /* or that old */

static void applier_mark_inconsistent(struct metadata *m, void *ctx)
{
	identity_touch(&m->id);
}

void applier_fail(struct receiver *r, int err, const char *why)
{
	pthread_mutex_lock(&r->n->lock);
	replica_fail(r->core, err, why);
	pthread_cond_broadcast(&r->applied);
	pthread_mutex_unlock(&r->n->lock);
	wake_up(&r->wake);
}

/* To the images themselves. */
static int applier_direct(struct applier *a, struct replica_batch *b, bool ingest, bool flush)
{
	struct receiver *r = a->r;
	struct node *n = r->n;
	struct error err;
	bool touch;
	int e;

	pthread_mutex_lock(&n->meta_lock);
	touch = identity_touch_due(&n->meta.now.id);
	pthread_mutex_unlock(&n->meta_lock);
	if (b->direct && touch && !ingest) { /* an ingest has noted it before its first write */
		e = node_meta_update(n, applier_mark_inconsistent, NULL, &err);
		if (e < 0) {
			applier_fail(r, e, "cannot write the metadata");
			return e;
		}
	}
	e = applier_images(a, b, flush);
	if (e < 0)
		applier_fail(r, e, r->applier_why);
	return e;
}

/* One batch, from the images to the freed space. */
static int applier_batch(struct applier *a, struct replica_batch *b)
{
	struct receiver *r = a->r;
	struct node *n = r->n;
	struct journal_header h;
	bool header, ingest = n->own->ingest == CONF_INGEST_NBD, durable = applier_sync_due(a, b);
	struct error err;
	int e;

	if (b->cloned) {
		e = applier_clones(a, b);
		if (e <= 0)
			return e;
	} else {
		e = applier_direct(a, b, ingest, !b->direct || b->final || durable);
		if (e < 0)
			return e;
	}
	pthread_mutex_lock(&n->lock);
	applier_let_go(a, b, durable);
	header = replica_batch_done(r->core, b, &h);
	if (durable)
		replica_direct_durable(r->core, b);
	pthread_mutex_unlock(&n->lock);
	if (durable || !header)
		wake_up(&r->wake); /* a peer to be told, or a receiver that waits for staging */
	if (!header)
		return 0;
	e = journal_io_write_header(r, &h);
	if (e < 0) {
		applier_fail(r, e, "cannot write the journal's header");
		return e;
	}
	if (b->cloned)
		fault_point(FAULT_CLONE_HEADER);
	if (b->direct) {
		e = ingest ? node_note_ingest(n, b->epoch, &err)
			   : node_meta_update(n, clones_note_done, &b->epoch, &err);
		if (e == 0 && !ingest)
			e = receiver_clear_maps(r, &err);
		if (e < 0) {
			applier_fail(r, e, "cannot write the metadata");
			return e;
		}
	}
	pthread_mutex_lock(&n->lock);
	replica_tail_durable(r->core, &h);
	if (b->direct) {
		struct replica_status st;

		replica_get_status(r->core, &st);
		n->counters.syncs += !ingest;
		n->counters.sync_bytes = st.sync_total;
		replica_direct_committed(r->core, b->epoch);
	}
	pthread_mutex_unlock(&n->lock);
	/* Of a staged sync. */
	if (!b->direct)
		e = receiver_settle(r, b->epoch, &err);
	if (e < 0) {
		applier_fail(r, e, "cannot write the metadata");
		return e;
	}
	if (b->cloned) {
		fault_point(FAULT_CLONE_DONE);
		clones_free(n, &a->clones);
		clones_forget(n);
	}
	if (b->direct)
		log_info("%s is complete and committed: epoch %llu",
			ingest      ? "the initial fill"
			: b->cloned ? "the sync into clones of the disks"
				    : "the sync in place",
			(unsigned long long)b->epoch);
	wake_up(&r->wake);
	return 0;
}

/* (L) Waits until a batch is worth taking. */
static void applier_gather(struct receiver *r)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_nsec += APPLIER_WAIT_MS * (long)NS_PER_MS;
	if (ts.tv_nsec >= (long)NS_PER_S) {
		ts.tv_nsec -= (long)NS_PER_S;
		ts.tv_sec++;
	}
	while (!r->stopping && !r->hurry) {
		struct replica_status st;

		replica_get_status(r->core, &st);
		if (st.unapplied == 0 || st.unapplied_bytes >= APPLIER_ENOUGH ||
			st.journal_used > st.journal_size / 4)
			return;
		if (pthread_cond_timedwait(&r->apply, &r->n->lock, &ts) == ETIMEDOUT)
			return;
	}
}

/* (L) Somebody has the images stand still, or they stand where somebody waits for it. */
static bool applier_held(struct receiver *r)
{
	struct replica_status st;

	if (r->hold || !r->holding)
		return r->hold;
	replica_get_status(r->core, &st);
	return st.applied >= r->hold_at;
}

void *applier_main(void *arg)
{
	struct applier a = {.r = arg, .to = a.out};
	struct receiver *r = a.r;
	struct node *n = r->n;
	bool present = false; /* all of the journal's ring */
	int e = 0;

	(void)pthread_setname_np(pthread_self(), "tandem-apply");
	for (unsigned i = 0; e == 0 && i < n->nvolumes; i++)
		e = backing_batch_new(n->volumes[i].backing, &a.out[i]);
	if (e < 0)
		applier_fail(r, e, "cannot prepare the writes to a disk");
	pthread_mutex_lock(&n->lock);
	while (e == 0 && !r->stopping) {
		struct replica_batch b;

		if (receiver_freeze_due(r)) {
			receiver_freeze_take(r);
			continue;
		}
		if (a.clones.session && !replica_cloning(r->core)) { /* its sync is over */
			pthread_mutex_unlock(&n->lock);
			clones_free(n, &a.clones);
			pthread_mutex_lock(&n->lock);
			continue;
		}
		applier_gather(r);
		if (r->stopping || applier_held(r) ||
			!replica_batch_take(r->core, APPLIER_BATCH, &b)) {
			pthread_cond_broadcast(&r->applied);
			if (!present) {
				pthread_mutex_unlock(&n->lock);
				present = !journal_io_populate(r);
				pthread_mutex_lock(&n->lock);
			} else if (!r->stopping) {
				pthread_cond_wait(&r->apply, &n->lock);
			}
			continue;
		}
		r->applying = true;
		pthread_mutex_unlock(&n->lock);
		e = applier_batch(&a, &b);
		pthread_mutex_lock(&n->lock);
		r->applying = false;
		pthread_cond_broadcast(&r->applied);
		local_kick(r);
		node_changed(n);
	}
	pthread_mutex_unlock(&n->lock);
	for (unsigned i = 0; i < n->nvolumes; i++)
		if (a.out[i])
			backing_batch_free(a.out[i]);
	clones_free(n, &a.clones);
	free(a.back);
	return NULL;
}
