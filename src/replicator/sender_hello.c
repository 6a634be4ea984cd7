/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a session of the sender begins: hello, decision, the secondary's dirty map, and how the sync
 * is to land there. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "core/dirtymap_wire.h"
#include "replicator/sender_internal.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/units.h"

int sender_next(
	struct sender *s, struct record *ret_rec, const uint8_t **ret_payload, struct error *err)
{
	uint64_t end = clock_ns() + SENDER_HANDSHAKE;
	struct link *l = &s->link;
	const char *why;
	int r;

	for (;;) {
		if (link_take(l, RECORD_FROM_SECONDARY, ret_rec, ret_payload, &why))
			break;
		if (why)
			return error_set(
				err, ERROR_PEER, -EPROTO, "the peer sends garbage: %s", why);
		r = link_write(l, clock_ns());
		if (r == 0 || r == -EAGAIN)
			r = link_read(l, clock_ns());
		if (r == 0)
			continue;
		if (r != -EAGAIN)
			return sender_lost(s, err, r);
		if (sender_told_to_stop(s))
			return error_set(err, ERROR_PEER, -ECANCELED, "told to stop");
		if (clock_ns() >= end)
			return error_set(err, ERROR_TIMEOUT, -ETIMEDOUT, "no hello came");
		sender_wait(s, (short)(POLLIN | (link_out_empty(l) ? 0 : POLLOUT)), NS_PER_S / 4);
	}
	if (ret_rec->type == RECORD_GOODBYE)
		return sender_goodbye(s, ret_rec, *ret_payload, err);
	return 0;
}

/* Unites the secondary's dirty map with ours. */
static int sender_take_maps(struct sender *s, struct error *err)
{
	struct node *n = s->n;
	const uint8_t *payload;
	struct record rec;

	pthread_mutex_lock(&n->lock);
	dirtymap_lost(&n->windows); /* what a former secondary held */
	pthread_mutex_unlock(&n->lock);
	for (;;) {
		int r = sender_next(s, &rec, &payload, err);
		const char *why = NULL;

		if (r < 0)
			return r;
		if (rec.type == RECORD_MAP_END) {
			s->held_span = rec.length;
			return 0;
		}
		if (rec.type == RECORD_HEARTBEAT)
			continue;
		pthread_mutex_lock(&n->lock);
		if (rec.type != RECORD_MAP || rec.volume >= n->nvolumes)
			why = "no map where one was expected";
		else
			why = dirtymap_take_map(n->maps[rec.volume], &rec, payload);
		pthread_mutex_unlock(&n->lock);
		if (why)
			return error_set(
				err, ERROR_PEER, -EPROTO, "the peer sends garbage: %s", why);
	}
}

static int sender_refuse(struct sender *s, const char *why, struct error *err)
{
	s->backoff_ns = SENDER_BACKOFF_REFUSED;
	link_goodbye(&s->link, RECORD_GOODBYE_REFUSED, 0, why);
	return error_set(err, ERROR_PEER, -ECONNREFUSED, "refused: %s", why);
}

int sender_hello(struct sender *s, struct hello *ret_peer, struct identity_decision *ret_how,
	struct error *err)
{
	const uint8_t *payload;
	struct record rec;
	struct hello own;
	const char *why;
	int r;

	node_hello(s->n, IDENTITY_PRIMARY, &own);
	s->generation = own.id.current;
	(void)link_put_hello(&s->link, &own); /* the buffer is empty: it fits */
	r = sender_next(s, &rec, &payload, err);
	if (r < 0)
		return r;
	if (rec.type != RECORD_HELLO)
		return error_set(err, ERROR_PEER, -EPROTO,
			"the peer began with %s, not with a hello", record_type_name(rec.type));
	why = hello_decode(payload, rec.payload, ret_peer);
	if (!why) {
		identity_decide(&own.id, &ret_peer->id, ret_how);
		why = identity_refused(ret_how) ? ret_how->text : NULL;
	}
	r = why ? sender_refuse(s, why, err) : sender_take_maps(s, err);
	if (r == 0)
		r = node_note_reconnect(s->n, ret_how, err);
	return r > 0 ? error_set(err, ERROR_PEER, -EAGAIN, "a new generation has begun") : r;
}

struct sender_session_note {
	const struct identity *peer;
	bool full;
	uint64_t seen;
};

static void sender_note_session(struct metadata *m, void *ctx)
{
	const struct sender_session_note *note = ctx;

	identity_session(&m->id, note->peer, note->full);
	m->id.tracked = true;
	m->seen = note->seen;
}

/* A full sync is one of a map that says "all", durably: interrupted, it goes on from there. */
static int sender_want_all(struct sender *s, struct error *err)
{
	struct node *n = s->n;
	int r = 0;

	pthread_mutex_lock(&n->lock);
	for (unsigned i = 0; i < n->nvolumes && r == 0; i++) {
		dirtymap_mark_all(n->maps[i], DIRTYMAP_WANTED);
		r = mapfile_save(&n->volumes[i].map, false);
	}
	pthread_mutex_unlock(&n->lock);
	return r < 0 ? error_code(err, r, "cannot write the dirty map") : 0;
}

/* Whether the sync goes on from what an interrupted one has left with the secondary: what is equal
 * with it need not come again.  1, 0, or negative errno. */
static int sender_choose_held(struct sender *s, uint64_t limit, struct error *err)
{
	enum dirtymap_layer layer = s->n->conf->resync_digest ? DIRTYMAP_WANTED : DIRTYMAP_HELD;
	int r = 0;

	if (!s->held_span)
		return 0;
	if (s->held_span < limit)
		r = sender_compare(s, layer, true, err);
	if (r < 0)
		return r;
	if (s->held_span < limit && sync_estimate(s->n, limit) <= limit - s->held_span)
		return 1;
	pthread_mutex_lock(&s->n->lock);
	dirtymap_lost(&s->n->windows);
	pthread_mutex_unlock(&s->n->lock);
	return 0;
}

static int sender_choose(struct sender *s, const struct hello *peer,
	const struct identity_decision *how, enum record_sync *ret_kind, struct error *err)
{
	uint64_t need, limit = peer->journal > SENDER_JOURNAL_ROOM
				       ? (peer->journal - SENDER_JOURNAL_ROOM) / 16 * 15
				       : 0;
	char have[32], want[32], why[512];
	int r;

	*ret_kind = RECORD_SYNC_IN_PLACE;
	if (!how->keeps_state)
		return 0; /* there is nothing to keep */
	r = sender_choose_held(s, limit, err);
	if (r != 0) {
		*ret_kind = RECORD_SYNC_RESUMED;
		return r < 0 ? r : 0;
	}
	need = sync_estimate(s->n, limit);
	/* Hot regions of a crash are mostly equal: looked at before it is called too large. */
	if (need > limit || s->n->conf->resync_digest) {
		r = sender_compare(s, DIRTYMAP_WANTED, false, err);
		if (r < 0)
			return r;
		need = sync_estimate(s->n, limit);
	}
	if (need <= limit) {
		*ret_kind = RECORD_SYNC_STAGED;
		return 0;
	}
	if (how->discards)
		return 0;
	if (peer->clones) {
		*ret_kind = RECORD_SYNC_CLONED;
		return 0;
	}
	if (s->n->conf->unsafe_resync_in_place)
		return 0;
	units_format_size(need, want, sizeof(want));
	units_format_size(peer->journal, have, sizeof(have));
	snprintf(why, sizeof(why),
		"the sync of %s%s does not fit into the secondary's journal of %s, which keeps its "
		"state usable meanwhile, and the secondary offers no clones of its disks (if it "
		"gave one up, its status says why): have them on a file system that makes clones "
		"(XFS, Btrfs), or make journal-size larger (tandem init --force on it), or give "
		"that state up with resync = in-place in [unsafe]",
		need > limit * 2 ? "more than " : "", want, have);
	return sender_refuse(s, why, err);
}

/* Everything is decided: from here on changes go into the stream. */
static void sender_session_start(struct sender *s, const struct hello *peer, enum record_sync kind,
	uint64_t floor, const char *what)
{
	struct node *n = s->n;
	uint64_t total = 0, rest = 0;

	pthread_mutex_lock(&n->lock);
	for (unsigned i = 0; i < n->nvolumes; i++) {
		rest += dirtymap_wanted_bytes(n->maps[i]);
		total += dirtymap_unequal_bytes(n->maps[i]);
	}
	s->core.first_seq = s->link.out_seq;
	primary_session_begin(&s->core, floor, kind, rest, peer->journal / 4);
	s->session++;
	s->sync_done = total - rest; /* what the secondary holds */
	s->sync_sent = s->sync_rate = 0;
	s->sync_total = total;
	s->sync_kind = kind;
	s->connected = true;
	s->tls = transport_is_tls(s->link.transport);
	snprintf(s->peer, sizeof(s->peer), "%s", transport_peer(s->link.transport));
	node_set_reason(n, "%s", what);
	node_changed(n);
	pthread_mutex_unlock(&n->lock);
}

int sender_begin(struct sender *s, const struct hello *peer, const struct identity_decision *how,
	struct error *err)
{
	/* A disk that lied, a copy of before that was put back, commit = received: what this map
	 * let go of is not there. */
	bool lost = peer->committed < s->acknowledged && how->keeps_state;
	bool full = how->action == IDENTITY_SYNC_FULL || lost;
	struct sender_session_note note = {.peer = &peer->id, .full = full};
	enum record_sync kind = RECORD_SYNC_IN_PLACE;
	struct node *n = s->n;
	uint64_t floor;
	char what[128];
	int r;

	/* No writer is between change and publish while solo, but for the last ones of before. */
	while (atomic_load_explicit(&s->publishing, memory_order_acquire))
		sender_wait(s, 0, NS_PER_MS / 10);
	if (lost)
		log_warning("%s holds epoch %llu, but had acknowledged epoch %llu as committed: "
			    "everything is copied",
			n->peer->name, (unsigned long long)peer->committed,
			(unsigned long long)s->acknowledged);
	r = full ? sender_want_all(s, err) : 0;
	if (r == 0)
		r = sender_choose(s, peer, how, &kind, err);
	if (r < 0)
		return r;
	snprintf(what, sizeof(what), "%s sync%s%s", full ? "full" : "incremental",
		kind == RECORD_SYNC_STAGED || kind == RECORD_SYNC_RESUMED
			? ", staged: the secondary keeps its last state until it commits"
		: kind == RECORD_SYNC_CLONED
			? ", into clones: the secondary keeps its last state until it commits"
			: "",
		kind == RECORD_SYNC_RESUMED ? "; it goes on where one was interrupted" : "");
	/* Held until the session has begun: node_note_write must not come in between. */
	pthread_mutex_lock(&n->meta_lock);
	floor = max_u64(max_u64(peer->seen, peer->committed), n->meta.now.seen);
	/* Epoch numbers only grow, also over a restart: a bound is noted, not each one. */
	note.seen = max_u64(floor, s->core.open) + 1 + (1ull << 20);
	if (!identity_same(&n->meta.now.id.current, &s->generation))
		r = error_set(err, ERROR_PEER, -EAGAIN, "a new generation has begun meanwhile");
	else
		r = node_meta_update_locked(n, sender_note_session, &note, err);
	if (r == 0)
		sender_session_start(s, peer, kind, floor, what);
	pthread_mutex_unlock(&n->meta_lock);
	if (r < 0)
		return r;
	r = sync_start(s);
	if (r < 0)
		error_code(err, r, "sync: cannot start a thread");
	log_info("link to %s (%s%s) is up, %s of %llu bytes begins: %s", n->peer->name, s->peer,
		s->tls ? ", TLS" : "", what, (unsigned long long)s->sync_total, how->text);
	return r;
}
