/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The secondary's part of comparing disks: answers digests (docs/stream.md, DIGEST, FREEZE).
 *
 *   FREEZE n -> the applier stops at n, makes snapshots of the images, goes on -> FROZEN
 *            -> DIGESTs are answered from the snapshots, by the link thread -> THAW
 *
 * A snapshot that cannot be made or kept (no space) ends the comparison, not the replication. */
#include <errno.h>
#include <stdlib.h>

#include "replicator/compare.h"
#include "replicator/receiver_internal.h"
#include "replicator/snapshot.h"
#include "util/log.h"

struct receiver_frozen {
	struct receiver_frozen *next;
	struct snapshot *disks[CONF_MAX_DISKS];
};

static void receiver_frozen_free(struct receiver_frozen *f)
{
	while (f) {
		struct receiver_frozen *next = f->next;

		for (unsigned i = 0; i < CONF_MAX_DISKS; i++)
			snapshot_free(f->disks[i]);
		free(f);
		f = next;
	}
}

/* --- actions of the replica; node.lock is held --- */

bool receiver_digest(void *ctx, const struct record *rec, const uint8_t *payload)
{
	struct receiver *r = ctx;
	unsigned at = (r->digests_first + r->digests_count) % RECEIVER_DIGESTS;
	bool frozen = rec->flags & RECORD_FLAG_FROZEN;

	if (frozen && r->freeze_over && !r->frozen)
		return true; /* FROZEN says, or has said, that there will be no answer */
	if (!r->digests)
		r->digests = calloc(RECEIVER_DIGESTS, sizeof(*r->digests));
	if (!r->digests || r->digests_count == RECEIVER_DIGESTS || (frozen && !r->frozen) ||
		digest_take(rec, payload, &r->digests[at]))
		return false;
	r->digests_count++;
	return true;
}

/* (L) The snapshots are wanted no more, and those who wait for them get no answer. */
static void receiver_thaw(struct receiver *r)
{
	if (r->frozen) {
		r->frozen->next = r->thawed; /* not under this lock: freed by the link thread */
		r->thawed = r->frozen;
	}
	r->frozen = NULL;
	while (r->digests_count && r->digests[r->digests_first].frozen) {
		r->digests_first = (r->digests_first + 1) % RECEIVER_DIGESTS;
		r->digests_count--;
	}
}

/* (L) The primary is told whether it may ask. */
static void receiver_say_frozen(struct receiver *r, bool held)
{
	r->freeze_over = true;
	r->say_frozen = (struct record){
		.type = RECORD_FROZEN, .epoch = r->freeze_epoch, .offset = held ? 1 : 0};
	r->have_frozen = r->connected;
	wake_up(&r->wake);
}

void receiver_freeze(void *ctx, uint64_t epoch)
{
	struct receiver *r = ctx;

	receiver_thaw(r);
	r->freeze_epoch = epoch;
	r->freeze_over = r->have_frozen = false;
}

/* --- the applier --- */

bool receiver_freeze_due(const struct receiver *r)
{
	struct replica_status st;

	if (!r->freeze_epoch || r->freeze_over)
		return false;
	replica_get_status(r->core, &st);
	return st.applied >= r->freeze_epoch;
}

void receiver_freeze_take(struct receiver *r)
{
	struct receiver_frozen *f = calloc(1, sizeof(*f));
	struct node *n = r->n;
	struct error err = {0};
	uint64_t epoch = r->freeze_epoch;
	int e = f ? 0 : error_set(&err, ERROR_GENERAL, -ENOMEM, "out of memory");

	pthread_mutex_unlock(&n->lock);
	for (unsigned i = 0; e == 0 && i < n->nvolumes; i++) {
		struct volume *v = &n->volumes[i];

		e = snapshot_new(
			&v->snapshots, v->backing, v->size, n->own->state_dir, &f->disks[i], &err);
	}
	if (e < 0) {
		log_warning("verify: the disks cannot be kept as of epoch %llu: %s",
			(unsigned long long)epoch, err.text);
		receiver_frozen_free(f);
		f = NULL;
	}
	pthread_mutex_lock(&n->lock);
	if (r->freeze_epoch == epoch) {
		r->frozen = f;
		receiver_say_frozen(r, f != NULL);
		replica_frozen(r->core);
		return;
	}
	pthread_mutex_unlock(&n->lock); /* thawed meanwhile */
	receiver_frozen_free(f);
	pthread_mutex_lock(&n->lock);
}

/* --- the link thread --- */

/* (L) The oldest one that can be answered now: once the images hold what is committed, or what came
 * before it, or at once where they are frozen. */
static struct digest *receiver_answerable(struct receiver *r)
{
	struct replica_status st;
	struct digest *d;

	if (r->digests_count == 0)
		return NULL;
	d = &r->digests[r->digests_first];
	if (d->frozen)
		return d;
	replica_get_status(r->core, &st);
	if (st.applied >= (d->epoch ? d->epoch : st.committed))
		return d;
	pthread_cond_signal(&r->apply);
	return NULL;
}

/* What a digest is compared with. */
struct receiver_source {
	struct receiver *r;
	unsigned volume;
	struct snapshot *snap; /* or NULL: the image ... */
	bool held;             /* ... with what an interrupted sync has left over it */
};

static int receiver_source_read(void *ctx, uint64_t off, uint32_t len, uint8_t *buf)
{
	const struct receiver_source *src = ctx;
	int e;

	if (src->snap)
		return snapshot_pread(src->snap, buf, len, off);
	e = backing_pread(src->r->n->volumes[src->volume].backing, buf, len, off);
	return e == 0 && src->held ? receiver_held_overlay(src->r, src->volume, off, len, buf) : e;
}

static int receiver_compare(
	struct receiver *r, const struct digest *d, struct snapshot *snap, uint64_t *ret_differ)
{
	struct receiver_source src = {r, d->volume, snap, d->held};
	int e;

	if (!r->digest_buf)
		r->digest_buf = malloc(RECORD_MAX_PAYLOAD);
	if (!r->digest_buf)
		return -ENOMEM;
	e = compare_image(d, receiver_source_read, &src, r->digest_buf, ret_differ);
	if (e == 0 && snap)
		snapshot_forget(snap, d->off, d->len);
	return e;
}

void receiver_free_thawed(struct receiver *r)
{
	struct receiver_frozen *thawed;

	pthread_mutex_lock(&r->n->lock);
	thawed = r->thawed;
	r->thawed = NULL;
	pthread_mutex_unlock(&r->n->lock);
	receiver_frozen_free(thawed);
}

int receiver_answer(struct receiver *r, uint64_t now)
{
	uint8_t payload[RECORD_MAX_DIGEST];
	struct snapshot *snap = NULL;
	struct node *n = r->n;
	struct record rec;
	struct digest *d;
	uint64_t differ;
	int e;

	receiver_free_thawed(r);
	pthread_mutex_lock(&n->lock);
	d = receiver_answerable(r);
	if (d && d->frozen)
		snap = r->frozen->disks[d->volume];
	pthread_mutex_unlock(&n->lock);
	if (!d)
		return 0;
	e = receiver_compare(r, d, snap, &differ);
	if (e < 0 && snap) { /* it could not be kept, which was logged */
		pthread_mutex_lock(&n->lock);
		receiver_thaw(r);
		receiver_say_frozen(r, false);
		pthread_mutex_unlock(&n->lock);
		return 0;
	}
	if (e < 0)
		return e;
	digest_put_answer(d, differ, &rec, payload);
	(void)link_put_data(&r->link, &rec, payload); /* the buffer is empty: it fits */
	pthread_mutex_lock(&n->lock);
	r->digests_first = (r->digests_first + 1) % RECEIVER_DIGESTS;
	r->digests_count--;
	pthread_mutex_unlock(&n->lock);
	wake_up(&r->wake); /* there may be more */
	return link_write(&r->link, now);
}

void receiver_compare_deinit(struct receiver *r)
{
	receiver_frozen_free(r->frozen);
	receiver_frozen_free(r->thawed);
	r->frozen = r->thawed = NULL;
	free(r->digests);
	free(r->digest_buf);
	receiver_held_forget(r);
}
