/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the primary hears of its peer in a session: acknowledgements, answers, its goodbye. */
#include <errno.h>
#include <string.h>

#include "replicator/grow.h"
#include "replicator/sender_internal.h"
#include "replicator/submit.h"
#include "replicator/verify.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/fault.h"
#include "util/log.h"

/* The peer's goodbye: why the session ends; sets how long to stay away. */
int sender_goodbye(
	struct sender *s, const struct record *rec, const uint8_t *payload, struct error *err)
{
	struct node *n = s->n;

	s->goodbye_heard = true;
	switch (rec->offset) {
	case RECORD_GOODBYE_PROMOTED:
		pthread_mutex_lock(&n->lock);
		s->promoted = true;
		pthread_mutex_unlock(&n->lock);
		node_supersede(n, rec->length);
		return error_set(err, ERROR_PEER, -ESHUTDOWN, "the peer was promoted");
	case RECORD_GOODBYE_DISCARDED:
		pthread_mutex_lock(&n->lock);
		sender_disconnect(s, "the secondary's controller discarded epochs; `tandem "
				     "connect` begins again");
		pthread_mutex_unlock(&n->lock);
		return error_set(err, ERROR_PEER, -ECANCELED, "epochs were discarded");
	case RECORD_GOODBYE_SHUTDOWN:
		return error_set(err, ERROR_PEER, -ECONNRESET, "the secondary was shut down");
	default:
		s->backoff_ns = SENDER_BACKOFF_REFUSED;
		return error_set(err, ERROR_PEER, -ECONNREFUSED, "the secondary %s: %.*s",
			rec->offset == RECORD_GOODBYE_REFUSED ? "refuses" : "failed",
			(int)min_u64(rec->payload, RECORD_MAX_TEXT), (const char *)payload);
	}
}

static void sender_note_synced(struct metadata *m, void *ctx)
{
	identity_synced(&m->id);
}

/* A checkpoint was compared there.  NULL, or what is wrong. */
static const char *sender_take_checked(
	struct sender *s, const struct record *rec, const uint8_t *payload)
{
	struct node *n = s->n;
	struct memcheck_result res;
	const char *why = memcheck_take_result(rec, payload, &res);

	for (unsigned i = 0; !why && i < res.nranges; i++)
		if (res.ranges[i].volume != n->nvolumes && res.ranges[i].volume != n->nvolumes + 1)
			why = "names a volume that has no digests";
	if (why)
		return why;
	pthread_mutex_lock(&n->lock);
	s->checked = res;
	if (res.nranges && n->submitter)
		submit_distrust(n->submitter);
	s->checks++;
	node_changed(n);
	pthread_mutex_unlock(&n->lock);
	return NULL;
}

/* Whether its host could take the guest: a line of text, or none where it could. */
static void sender_take_standby(struct sender *s, const struct record *rec, const uint8_t *payload)
{
	size_t len = min_u64(rec->payload, sizeof(s->unready) - 1);

	pthread_mutex_lock(&s->n->lock);
	for (size_t i = 0; i < len; i++)
		s->unready[i] = payload[i] < ' ' || payload[i] > '~' ? '?' : (char)payload[i];
	s->unready[len] = '\0';
	node_changed(s->n);
	pthread_mutex_unlock(&s->n->lock);
}

/* (L) What the peer says: acknowledgements. */
int sender_hear(struct sender *s, struct error *err)
{
	struct node *n = s->n;
	const uint8_t *payload;
	struct record rec;
	const char *why;
	bool done = false;
	int r;

	r = link_read(&s->link, clock_ns());
	if (r < 0 && r != -EAGAIN)
		return sender_lost(s, err, r);
	if (r == 0) {
		pthread_mutex_lock(&n->lock);
		s->heard = s->link.heard;
		pthread_mutex_unlock(&n->lock);
	}
	while (link_take(&s->link, RECORD_FROM_SECONDARY, &rec, &payload, &why)) {
		enum primary_state before;

		if (rec.type == RECORD_GOODBYE)
			return sender_goodbye(s, &rec, payload, err);
		if (rec.type == RECORD_CHECKED) {
			why = sender_take_checked(s, &rec, payload);
			if (why)
				break;
			continue;
		}
		if (rec.type == RECORD_STANDBY) {
			sender_take_standby(s, &rec, payload);
			continue;
		}
		if (rec.type == RECORD_DIFFER || rec.type == RECORD_GROWN ||
			rec.type == RECORD_FROZEN) {
			why = rec.type == RECORD_DIFFER  ? verify_answered(s, &rec, payload)
			      : rec.type == RECORD_GROWN ? grow_answered(s, &rec)
							 : verify_frozen(s, &rec);
			if (why)
				break;
			continue;
		}
		if (rec.type != RECORD_ACK_RECEIVED && rec.type != RECORD_ACK_COMMITTED &&
			rec.type != RECORD_ACK_SYNCED)
			continue;
		pthread_mutex_lock(&n->lock);
		before = s->core.state;
		why = primary_replicating(&s->core) ? primary_ack(&s->core, &rec) : NULL;
		if (!why && rec.type == RECORD_ACK_COMMITTED)
			s->acknowledged = rec.epoch;
		if (!why && primary_replicating(&s->core))
			dirtymap_acknowledged(&n->windows, s->core.settled, s->core.total_changes);
		if (!why && rec.type == RECORD_ACK_COMMITTED && primary_replicating(&s->core))
			dirtymap_held_committed(&n->windows);
		done = before == PRIMARY_SYNCING && s->core.state == PRIMARY_PROTECTED;
		if (done) {
			node_set_reason(n, "%s", "");
			n->counters.syncs++;
			n->counters.sync_bytes = s->sync_total;
		}
		node_changed(n);
		pthread_mutex_unlock(&n->lock);
		if (rec.type == RECORD_ACK_COMMITTED)
			fault_point(FAULT_PRIMARY_COMMITTED);
		if (why)
			break;
		if (!done)
			continue;
		r = node_meta_update(n, sender_note_synced, NULL, err);
		if (r < 0)
			return r;
		log_info("the sync is committed: the group is protected");
	}
	if (why)
		return error_set(err, ERROR_PEER, -EPROTO, "the peer sends garbage: %s", why);
	return 0;
}
