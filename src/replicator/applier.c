/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The applier: committed epochs to the images, coalesced; then the journal's space is free.
 *
 * Order of a batch: images written -> images flushed -> journal header (applied epoch, tail)
 * durable -> space free.  Of a full sync: metadata says "inconsistent" before the first write;
 * after the last piece images flushed -> header -> metadata "consistent" -> acknowledged.  Of one
 * into clones: clones.h, where "inconsistent" comes after the last piece. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replicator/clones.h"
#include "replicator/receiver_internal.h"
#include "replicator/seal.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/fault.h"
#include "util/log.h"

#define APPLIER_BATCH (64u << 20)  /* bytes in one batch, at most about */
#define APPLIER_ENOUGH (16u << 20) /* bytes worth a batch at once */
#define APPLIER_WAIT_MS 200        /* or that old */
#define APPLIER_IOV 64
/* A sync in place is made durable after that time, or that much: a 32nd of it, at least ... */
#define APPLIER_SYNC_EVERY (3 * NS_PER_S)
#define APPLIER_SYNC_PART 32u
#define APPLIER_SYNC_LEAST (16u << 20)
#define APPLIER_RUN (1u << 20)  /* bytes of one write */
#define APPLIER_BACK (8u << 20) /* bytes read back from the journal at once */
#define APPLIER_CANNOT_WRITE ": cannot write to it"
#define APPLIER_CANNOT_FLUSH ": cannot flush it"

struct applier {
	struct receiver *r;
	struct backing_batch *out[CONF_MAX_DISKS]; /* to the images */
	struct backing_batch **to;                 /* of the batch: out, or the clones' */
	struct clones clones;
	uint8_t *back; /* what was read back from the journal, until the next wait */
	size_t back_used;
	uint64_t synced;       /* clock_ns of the last flush of a sync in place */
	uint64_t synced_bytes; /* since then */
};

struct applier_run {
	struct iovec iov[APPLIER_IOV];
	int count;
	uint64_t off, len;
};

/* Keeps the first failure of a batch, with the object that it concerns; returns e. */
static int applier_note(struct applier *a, int e, const char *action, const char *disk)
{
	char *why = a->r->applier_why;

	if (e < 0 && !why[0])
		snprintf(why, sizeof(a->r->applier_why), "%s%s%s", disk ? "disk " : "",
			disk ? disk : "", action);
	return e;
}

/* The range of the volume is about to be written. */
static void applier_before(struct applier *a, struct volume *v, uint64_t off, uint64_t len)
{
	seal_note(v, off);
	if (a->to == a->out)
		snapshots_before_change(&v->snapshots, off, len);
}

static int applier_put_run(struct applier *a, struct volume *v, struct applier_run *run)
{
	int r = 0;

	if (run->count > 0) {
		applier_before(a, v, run->off, run->len);
		r = backing_submit_pwritev(a->to[v->index], run->iov, run->count, run->off);
	}
	run->count = 0;
	run->len = 0;
	return r;
}

/* Everything that was submitted is done: what was read back is not needed any more. */
static int applier_wait(struct applier *a)
{
	struct node *n = a->r->n;
	int r = 0;

	for (unsigned i = 0; i < n->nvolumes; i++) {
		int e = applier_note(
			a, backing_batch_wait(a->to[i]), APPLIER_CANNOT_WRITE, n->volumes[i].name);

		r = r < 0 ? r : e;
	}
	a->back_used = 0;
	return r;
}

/* Content of a range that is only in the journal; at most RECORD_MAX_PAYLOAD bytes. */
static int applier_read_back(struct applier *a, struct volume *v, struct applier_run *run,
	uint64_t pos, uint64_t len, const uint8_t **ret_data)
{
	int r = 0;

	if (!a->back)
		a->back = malloc(APPLIER_BACK);
	if (!a->back)
		return applier_note(a, -ENOMEM, "cannot read the journal", NULL);
	if (a->back_used + len > APPLIER_BACK) {
		r = applier_put_run(a, v, run);
		if (r == 0)
			r = applier_wait(a);
	}
	if (r == 0)
		r = applier_note(a, journal_io_read(a->r, pos, a->back + a->back_used, len),
			"cannot read the journal", NULL);
	*ret_data = a->back + a->back_used;
	a->back_used += len;
	return r;
}

/* Everything of one volume, ascending, neighbours in one write. */
static int applier_volume(struct applier *a, struct volume *v, struct imap *m)
{
	struct applier_run run = {.count = 0};
	struct imap_range g;
	uint64_t at = 0;
	int r = 0;

	while (r == 0 && imap_find(m, at, &g)) {
		uint64_t len = g.end - g.start;
		const uint8_t *data;

		at = g.end;
		if (run.count == APPLIER_IOV || run.len >= APPLIER_RUN ||
			(run.count && (run.off + run.len != g.start || g.source == IMAP_ZERO)))
			r = applier_put_run(a, v, &run);
		if (r < 0)
			break;
		if (g.source == IMAP_ZERO) {
			applier_before(a, v, g.start, len);
			r = backing_submit_zero(
				a->to[v->index], len, g.start, g.tag & 1 ? BACKING_ZERO_UNMAP : 0);
			continue;
		}
		if (g.source & REPLICA_SOURCE_JOURNAL)
			r = applier_read_back(
				a, v, &run, g.source & ~REPLICA_SOURCE_JOURNAL, len, &data);
		else
			data = (const uint8_t *)(uintptr_t)g.source;
		if (r < 0)
			break;
		if (run.count == 0)
			run.off = g.start;
		run.iov[run.count++] = (struct iovec){(void *)(uintptr_t)data, len};
		run.len += len;
	}
	return r < 0 ? r : applier_put_run(a, v, &run);
}

static int applier_images(struct applier *a, struct replica_batch *b, bool flush)
{
	struct node *n = a->r->n;
	int r = 0;

	for (unsigned i = 0; i < n->nvolumes; i++) {
		int e = 0;

		if (b->maps[i] && imap_count(b->maps[i]) > 0)
			e = applier_note(a, applier_volume(a, &n->volumes[i], b->maps[i]),
				APPLIER_CANNOT_WRITE, n->volumes[i].name);
		r = r < 0 ? r : e;
	}
	int e = applier_wait(a);

	r = r < 0 ? r : e;
	for (unsigned i = 0; flush && r == 0 && i < n->nvolumes; i++)
		r = applier_note(a,
			backing_flush(b->cloned ? a->clones.backing[i] : n->volumes[i].backing),
			APPLIER_CANNOT_FLUSH, n->volumes[i].name);
	return r;
}

/* Whether a sync in place is to be made durable as far as it came: what is lost if it is
 * interrupted is then no more than that. */
static bool applier_sync_due(struct applier *a, const struct replica_batch *b)
{
	uint64_t now = clock_ns(), enough;
	struct replica_status st;

	if (!b->direct || b->cloned || b->final)
		return false;
	pthread_mutex_lock(&a->r->n->lock);
	replica_get_status(a->r->core, &st);
	pthread_mutex_unlock(&a->r->n->lock);
	enough = max_u64(st.sync_total / APPLIER_SYNC_PART, APPLIER_SYNC_LEAST);
	a->synced_bytes += b->bytes;
	if (now - a->synced < APPLIER_SYNC_EVERY && a->synced_bytes < enough)
		return false;
	a->synced = now;
	a->synced_bytes = 0;
	return true;
}

/* (L) A run that a sync in place has brought to one disk: its whole blocks are not wanted any more
 * by this node's own map, once they are durable. */
static void applier_brought_run(struct dirtymap *map, uint64_t start, uint64_t end)
{
	uint64_t block = dirtymap_block(map);

	start = round_up(start, block);
	end = end == map->size ? end : round_down(end, block);
	if (start >= end)
		return;
	dirtymap_clear(map, DIRTYMAP_WANTED, start, end - start);
	dirtymap_mark(map, DIRTYMAP_SENT0, start, end - start);
}

static void applier_brought(struct dirtymap *map, const struct imap *m)
{
	uint64_t start = 0, end = 0;
	struct imap_range g;

	for (uint64_t at = 0; imap_find(m, at, &g); at = g.end) {
		if (g.start != end) {
			applier_brought_run(map, start, end);
			start = g.start;
		}
		end = g.end;
	}
	applier_brought_run(map, start, end);
}

/* (L) The images of this batch are written, and with durable flushed: what an interruption from
 * here on need not bring again. */
static void applier_let_go(struct applier *a, const struct replica_batch *b, bool durable)
{
	struct node *n = a->r->n;

	if (b->cloned || !replica_direct_current(a->r->core, b) ||
		n->own->ingest == CONF_INGEST_NBD)
		return;
	for (unsigned i = 0; i < n->nvolumes; i++) {
		if (b->maps[i])
			applier_brought(n->maps[i], b->maps[i]);
		if (durable)
			dirtymap_clear_all(n->maps[i], DIRTYMAP_SENT0);
	}
}

static void applier_mark_inconsistent(struct metadata *m, void *ctx)
{
	identity_touch(&m->id);
}

static void applier_fail(struct receiver *r, int err, const char *why)
{
	pthread_mutex_lock(&r->n->lock);
	replica_fail(r->core, err, why);
	pthread_cond_broadcast(&r->applied);
	pthread_mutex_unlock(&r->n->lock);
	wake_up(&r->wake);
}

/* The sync is over, and the images are what they were. */
static void applier_give_up_clones(struct applier *a, struct replica_batch *b, const char *why)
{
	struct receiver *r = a->r;

	log_error("the sync into clones of the disks is given up: %s", why);
	pthread_mutex_lock(&r->n->lock);
	snprintf(r->clone_failure, sizeof(r->clone_failure), "%s", why);
	replica_clone_failed(r->core, b);
	pthread_mutex_unlock(&r->n->lock);
	clones_free(r->n, &a->clones);
	clones_forget(r->n);
	r->applier_why[0] = '\0'; /* the next batch has failures of its own */
	wake_up(&r->wake);
}

/* A batch for the clones, made with the first one; with the last one the images become what they
 * are.  1 = carried out; 0 = the sync is given up, that is all; negative: commits have stopped. */
static int applier_clones(struct applier *a, struct replica_batch *b)
{
	struct receiver *r = a->r;
	struct node *n = r->n;
	struct error err;
	int e = 0;

	if (a->clones.session != b->session) {
		clones_free(n, &a->clones);
		e = clones_new(n, b->session, &a->clones, &err);
		if (e == 0)
			fault_point(FAULT_CLONE_MADE);
	}
	if (e == 0) {
		a->to = a->clones.out;
		e = applier_images(a, b, b->final);
		a->to = a->out;
		if (e < 0)
			error_code(&err, e, "%s", r->applier_why);
	}
	if (e == 0 && b->final)
		e = clones_keep(n, &a->clones, &err);
	if (e < 0) {
		applier_give_up_clones(a, b, err.text);
		return 0;
	}
	if (!b->final)
		return 1;
	fault_point(FAULT_CLONE_KEPT);
	e = node_meta_update(n, clones_note_whole, &b->epoch, &err);
	if (e < 0) {
		applier_fail(r, e, "cannot write the metadata");
		return e;
	}
	fault_point(FAULT_CLONE_NOTED);
	e = clones_replace(n, &a->clones, &err);
	if (e < 0) {
		log_error("%s", err.text);
		applier_fail(r, e, "cannot replace a disk by its clone");
		return e;
	}
	return 1;
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
	int e = 0;

	(void)pthread_setname_np(pthread_self(), "tandem-apply");
	journal_io_populate(r);
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
			if (!r->stopping)
				pthread_cond_wait(&r->apply, &n->lock);
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
