/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A verify of a group with a guest: both sides keep their disks as they are at one checkpoint, and
 * those are compared while the guest runs on.
 *
 *   verify -> snapshots prepared -> cut n: begun, FREEZE n in the stream -> n commits on the
 *   secondary, whose applier stops there for its own snapshots -> FROZEN -> digests -> THAW
 *
 * Exact because no change is under way at the cut (the guest stands, and QEMU has drained its
 * disks; else the next cut is tried): what the stream has before FREEZE is on the image, what comes
 * behind the cut saves the old content first.  Costs, until a block was compared, a read and a
 * write of 64 KiB with its first change, and that much space in state-dir. */
#include <errno.h>
#include <stdio.h>

#include "replicator/snapshot.h"
#include "replicator/verify_internal.h"
#include "util/log.h"

#define VERIFY_CUTS 32u /* tried */

int verify_frozen_prepare(struct verify *y, struct node *n, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < n->nvolumes; i++) {
		struct volume *v = &n->volumes[i];

		r = snapshot_prepare(
			&v->snapshots, v->backing, v->size, n->own->state_dir, &y->frozen[i], err);
	}
	return r;
}

void verify_frozen_free(struct verify *y)
{
	for (unsigned i = 0; i < CONF_MAX_DISKS; i++)
		y->frozen[i] = snapshot_free(y->frozen[i]);
}

/* --- the cut --- */

bool verify_waits(const struct sender *s)
{
	const struct verify *y = s->verify;

	return y && y->running && y->guest && y->epoch == 0 && verify_wanted(y);
}

bool verify_cut_begin(struct node *n)
{
	bool waits;

	pthread_mutex_lock(&n->lock);
	waits = n->sender && verify_waits(n->sender);
	pthread_mutex_unlock(&n->lock);
	for (unsigned i = 0; waits && i < n->nvolumes; i++)
		snapshots_lock(&n->volumes[i].snapshots);
	return waits;
}

bool verify_cut(struct sender *s, uint64_t epoch)
{
	struct node *n = s->n;
	struct verify *y = s->verify;
	bool changing = false;

	if (!verify_waits(s))
		return false;
	for (unsigned i = 0; i < n->nvolumes; i++)
		changing |= n->volumes[i].changing != 0;
	if (changing || primary_freeze(&s->core, epoch) < 0) {
		if (++y->cuts == VERIFY_CUTS)
			snprintf(y->failure, sizeof(y->failure),
				"the disks were being written to at each of %u cuts", VERIFY_CUTS);
	} else {
		for (unsigned i = 0; i < n->nvolumes; i++)
			snapshot_begin(y->frozen[i]);
		y->epoch = epoch;
	}
	node_changed(n);
	return y->epoch != 0;
}

void verify_cut_end(struct node *n)
{
	for (unsigned i = 0; i < n->nvolumes; i++)
		snapshots_unlock(&n->volumes[i].snapshots);
}

void verify_abandoned(struct sender *s, uint64_t epoch)
{
	struct verify *y = s->verify;

	if (!y || !y->running || !y->guest || y->epoch != epoch || y->failure[0])
		return;
	snprintf(y->failure, sizeof(y->failure), "the checkpoint was abandoned");
	node_changed(s->n);
}

const char *verify_frozen(struct sender *s, const struct record *rec)
{
	struct node *n = s->n;
	struct verify *y;

	if (rec->offset > 1)
		return "frozen disks of an unknown kind";
	pthread_mutex_lock(&n->lock);
	y = s->verify;
	/* It may be over meanwhile. */
	if (y && y->running && y->guest && y->session == s->session && y->epoch == rec->epoch) {
		y->held = rec->offset == 1;
		if (!y->held && !y->failure[0])
			snprintf(y->failure, sizeof(y->failure),
				"the secondary cannot keep its disks as they were at the "
				"checkpoint: its log says why");
		node_changed(n);
	}
	pthread_mutex_unlock(&n->lock);
	return NULL;
}

/* --- the thread --- */

int verify_frozen_wait(struct verify *y)
{
	struct node *n = y->s->n;
	bool held;

	pthread_mutex_lock(&n->lock);
	while (!y->held && verify_wanted(y))
		pthread_cond_wait(&n->changed, &n->lock);
	held = y->held;
	pthread_mutex_unlock(&n->lock);
	return held ? 0 : -ECANCELED;
}

int verify_frozen_read(struct verify *y, unsigned volume, uint64_t off, uint32_t len)
{
	int r = snapshot_pread(y->frozen[volume], y->buf, len, off);

	if (r == 0)
		snapshot_forget(y->frozen[volume], off, len);
	return r < 0 ? -ESTALE : 0;
}

void verify_frozen_thaw(struct verify *y)
{
	struct sender *s = y->s;

	while (y->epoch && sender_session_id(s) == y->session && primary_freeze(&s->core, 0) < 0)
		pthread_cond_wait(&s->room, &s->n->lock);
	wake_up(&s->wake);
}
