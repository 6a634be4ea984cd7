/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promotion: discard -> drain the journal -> metadata (generation, role) -> serve -> replicate. */
#include "replicator/promote.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "replicator/memory.h"
#include "replicator/receiver.h"
#include "replicator/sender.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/log.h"

struct promote_meta {
	uint64_t committed, fresh;
	uint64_t generation; /* result */
};

static void promote_note(struct metadata *m, void *ctx)
{
	struct promote_meta *p = ctx;

	(void)identity_settle(&m->id, p->committed);
	identity_promote(&m->id, p->fresh);
	p->generation = m->id.current.number;
	m->committed = p->committed;
	m->seen = max_u64(m->seen, p->committed);
}

/* A link on which something is heard from now on refuses; one that is silent gets peer-timeout-ms
 * to be given up. What was heard before tells nothing: a primary that has just died was heard too.
 */
static int promote_check(struct node *n, bool force, bool memory, struct error *err)
{
	uint64_t began = clock_ns(), end = began + n->conf->peer_timeout_ms * NS_PER_MS;
	struct receiver_status st;

	for (;;) {
		const struct timespec ts = {0, 20 * (long)NS_PER_MS};

		pthread_mutex_lock(&n->lock);
		if (!n->receiver) {
			pthread_mutex_unlock(&n->lock);
			return error_set(err, ERROR_STATE, -EALREADY, "this node is the primary");
		}
		receiver_get_status(n->receiver, &st);
		pthread_mutex_unlock(&n->lock);
		if (st.core.mode == REPLICA_EMPTY)
			return error_set(err, ERROR_STATE, -ENODATA,
				"there is no committed state to promote: no full sync was "
				"committed "
				"yet");
		if (st.core.mode == REPLICA_DIRECT)
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
		if (st.heard_ns > began || clock_ns() >= end)
			return error_set(err, ERROR_STATE, -EBUSY,
				"the primary is alive on the link (%s): shut it down first, or use "
				"--force, which takes its disks away from it",
				st.peer);
		nanosleep(&ts, NULL);
	}
}

int promote(struct node *n, bool force, bool disks_only, struct promotion *ret_promotion,
	struct error *err)
{
	bool memory = n->guest && !disks_only;
	struct promotion p = {0};
	struct receiver *old;
	struct receiver_status st;
	struct promote_meta note;
	struct sender *s;
	int r;

	r = promote_check(n, force, memory, err);
	if (r < 0)
		return r;
	r = uuid_random64(&note.fresh);
	if (r < 0)
		return error_code(err, r, "cannot make an identifier");
	r = sender_new(n, &s, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&n->meta_lock);
	note.generation = n->meta.now.id.top + 1; /* nothing is accepted from here on */
	pthread_mutex_unlock(&n->meta_lock);
	pthread_mutex_lock(&n->lock);
	receiver_discard(
		n->receiver, true, note.generation, &p.discarded_epochs, &p.discarded_bytes);
	r = receiver_drain(n->receiver);
	receiver_get_status(n->receiver, &st);
	note.committed = st.core.committed;
	if (r < 0)
		error_code(err, r, "cannot bring the disks to the committed epoch");
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
		r = node_meta_update(n, promote_note, &note, err);
	if (r < 0) {
		sender_free(s);
		return r;
	}
	pthread_mutex_lock(&n->lock);
	old = n->receiver;
	n->receiver = NULL;
	n->sender = s;
	n->role = NODE_PRIMARY;
	s = NULL;
	node_set_reason(n, "promoted");
	atomic_store(&n->access, NODE_ACCESS_PRIMARY);
	node_changed(n);
	pthread_mutex_unlock(&n->lock);
	receiver_free(old);
	if (n->guest && disks_only) {
		pthread_mutex_lock(&n->lock);
		n->memory = memory_free(n->memory);
		pthread_mutex_unlock(&n->lock);
	}
	r = sender_start(n->sender, err);
	if (r < 0)
		log_error("%s; running solo", err->text);
	log_info("promoted at epoch %llu, generation %llu; %llu epochs (%llu bytes) that were not "
		 "committed are discarded",
		(unsigned long long)note.committed, (unsigned long long)note.generation,
		(unsigned long long)p.discarded_epochs, (unsigned long long)p.discarded_bytes);
	p.epoch = note.committed;
	p.generation = note.generation;
	*ret_promotion = p;
	return 0;
}
