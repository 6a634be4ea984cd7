/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Local writers: room, cuts, commits and discards.  The data path is in volume_local.c. */
#include "replicator/local.h"

#include <errno.h>

#include "replicator/receiver_internal.h"
#include "util/log.h"

int local_begin(struct receiver *r, enum local_kind kind)
{
	struct replica_status st;
	int e = replica_index_begin(r->core);

	if (e < 0)
		return e;
	replica_get_status(r->core, &st);
	r->local.kind = kind;
	r->local.fill = kind == LOCAL_INGEST && st.mode == REPLICA_EMPTY;
	r->local.damaged = 0;
	r->local.full = false;
	r->local.head = st.log_head;
	r->local.tail = st.log_tail;
	if (kind == LOCAL_DRAIN)
		r->hurry++; /* until it ends */
	pthread_cond_signal(&r->apply);
	return 0;
}

bool local_is(const struct receiver *r, enum local_kind kind)
{
	return r && r->local.kind == kind;
}

const char *local_filling(const struct receiver *r, const char **ret_reason)
{
	struct replica_status st;

	replica_get_status(r->core, &st);
	if (r->local.kind != LOCAL_INGEST || st.mode == REPLICA_READY || st.mode == REPLICA_FAILED)
		return NULL;
	*ret_reason = st.mode == REPLICA_DIRECT ? "the initial fill is ended; its commit makes it "
						  "the committed state"
		      : r->local.filled ? "initial fill over NBD; a cut and its commit make it the "
					  "committed state"
					: "nothing was written over NBD yet";
	return r->local.filled || st.mode == REPLICA_DIRECT ? "syncing" : "stopped";
}

void local_kick(struct receiver *r)
{
	if (r->local.kind == LOCAL_NONE)
		return;
	if (r->local.full && !replica_local_stuck(r->core)) {
		r->local.full = false;
		if (!r->local.damaged)
			node_set_reason(r->n, "%s", "");
	}
	pthread_cond_broadcast(&r->local.room);
}

void local_use(struct receiver *r)
{
	r->local.users++;
}

void local_unuse(struct receiver *r)
{
	if (--r->local.users == 0)
		pthread_cond_broadcast(&r->local.nouse);
}

/* The fill is an epoch when no write to the images is under way. */
static int local_fill_end(struct receiver *r, uint64_t *ret_epoch)
{
	int e;

	r->local.fill = false; /* new writes wait: see volume_local.c */
	while (r->local.fill_writes > 0)
		pthread_cond_wait(&r->n->changed, &r->n->lock);
	e = replica_local_fill_end(r->core, ret_epoch);
	r->local.fill = e < 0;
	local_kick(r);
	return e;
}

int local_cut(struct receiver *r, uint64_t *ret_epoch)
{
	int e;

	local_use(r);
	e = r->local.fill ? local_fill_end(r, ret_epoch) : replica_local_cut(r->core, ret_epoch);
	local_unuse(r);
	node_changed(r->n);
	return e;
}

int local_commit(struct receiver *r, uint64_t epoch)
{
	int e;

	if (r->local.damaged && epoch >= r->local.damaged)
		return -EILSEQ;
	e = replica_commit(r->core, epoch);
	local_kick(r);
	return e;
}

void local_discard(struct receiver *r, uint64_t *ret_epochs, uint64_t *ret_bytes)
{
	struct replica_status st;

	replica_discard(r->core, ret_epochs, ret_bytes);
	replica_get_status(r->core, &st);
	if (r->local.kind == LOCAL_INGEST && st.mode == REPLICA_EMPTY) {
		r->local.fill = true;
		r->local.filled = false;
	}
	if (st.mode != REPLICA_FAILED) {
		r->local.damaged = 0;
		node_set_reason(r->n, "%s", "");
	}
	local_kick(r);
	node_changed(r->n);
}

int local_flush(struct receiver *r)
{
	struct replica_status st;
	uint64_t epoch = 0;
	int e = 0;

	local_use(r);
	if (replica_local_open(r->core)) {
		e = replica_local_cut(r->core, &epoch);
		if (e == 0)
			e = replica_commit(r->core, epoch);
		if (e == -EALREADY)
			e = 0;
	}
	replica_get_status(r->core, &st);
	/* An abandoned checkpoint was received and never commits by itself: where it was dropped
	 * with the epoch that took it over, nothing waits for a commit. */
	epoch = st.pending_epochs ? st.received : st.committed;
	while (e == 0 && st.committed < epoch) {
		if (st.mode == REPLICA_FAILED)
			e = st.error ? st.error : -EIO;
		else if (r->stopping)
			e = -ESHUTDOWN;
		if (e < 0)
			break;
		pthread_cond_wait(&r->n->changed, &r->n->lock);
		replica_get_status(r->core, &st);
	}
	local_unuse(r);
	return e;
}
