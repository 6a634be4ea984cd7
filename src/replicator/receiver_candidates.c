/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who connects to the receiver: taken in as the session, or refused; on its link thread.
 *
 * Who has not said a valid hello is a candidate: at most RECEIVER_CANDIDATES of them, each with a
 * deadline, beside the running session, which none of them can disturb. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "replicator/clones.h"
#include "replicator/grow.h"
#include "replicator/receiver_internal.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/log.h"

#define RECEIVER_HANDSHAKE (5 * NS_PER_S)

static void receiver_reject(struct receiver *r, struct candidate *c, const char *why, bool say)
{
	/* A storm of refusals is one line per second. */
	if (clock_ns() - r->refused_said >= NS_PER_S) {
		log_warning(
			"connection from %s refused: %s", transport_peer(c->link.transport), why);
		r->refused_said = clock_ns();
	}
	if (say)
		link_goodbye(&c->link, RECORD_GOODBYE_REFUSED, 0, why);
	link_close(&c->link);
}

struct receiver_accepted {
	const struct hello *peer, *own;
	bool full;
};

static void receiver_note_accepted(struct metadata *m, void *ctx)
{
	const struct receiver_accepted *a = ctx;

	(void)identity_settle(&m->id, a->own->committed);
	/* What was written as a primary is a state below every epoch that comes (receiver_load). */
	if (m->id.role == IDENTITY_PRIMARY)
		m->committed = a->own->committed;
	identity_accept(&m->id, &a->peer->id, a->full, max_u64(a->own->seen, a->own->committed));
}

/* The candidate becomes the session. */
static void receiver_accept(struct receiver *r, struct candidate *c, const struct hello *peer,
	const struct hello *own, const struct identity_decision *how)
{
	struct receiver_accepted a = {peer, own, how->action == IDENTITY_SYNC_FULL};
	struct node *n = r->n;
	struct error err;

	if (node_meta_update(n, receiver_note_accepted, &a, &err) < 0) {
		receiver_reject(r, c, err.text, true);
		return;
	}
	receiver_end(r, r->link.transport ? "it connected anew" : NULL);
	r->link = c->link;
	r->settle_due = true;
	c->link.transport = NULL;
	(void)link_put_hello(&r->link, own); /* the first: it fits */
	pthread_mutex_lock(&n->lock);
	replica_session_begin(r->core);
	/* What a sync in place had brought, and not made durable. */
	for (unsigned i = 0; i < n->nvolumes; i++)
		dirtymap_move(n->maps[i], DIRTYMAP_WANTED, DIRTYMAP_SENT0);
	receiver_held_offer(r, peer);
	r->have_unready = r->unready[0];
	r->maps_due = true;
	r->map_held = false;
	/* Where every block comes, the map is not asked. */
	r->map_volume = a.full ? n->nvolumes : 0;
	r->map_word = 0;
	r->connected = true;
	r->tls = transport_is_tls(r->link.transport);
	snprintf(r->peer, sizeof(r->peer), "%s", transport_peer(r->link.transport));
	r->heard = r->link.heard;
	node_set_reason(n, "%s", "");
	node_changed(n);
	pthread_mutex_unlock(&n->lock);
	log_info("primary at %s accepted%s, generation %llu: %s", r->peer, r->tls ? " (TLS)" : "",
		(unsigned long long)peer->id.current.number, how->text);
}

/* A secondary that cannot commit takes nobody in: NULL, or the refusal. */
static const char *receiver_failed(struct receiver *r, char *buf, size_t len)
{
	bool failed;

	pthread_mutex_lock(&r->n->lock);
	failed = r->failure[0];
	pthread_mutex_unlock(&r->n->lock);
	if (!failed)
		return NULL;
	snprintf(buf, len, "this secondary has failed (%s): repair it and start it again",
		r->failure);
	return buf;
}

static void receiver_hear_candidate(struct receiver *r, struct candidate *c)
{
	char text[256];
	struct identity_decision how;
	struct hello own, peer;
	const uint8_t *payload;
	struct record rec;
	const char *why;
	bool closed;
	int e;

	e = link_read(&c->link, clock_ns());
	if (e < 0 && e != -EAGAIN) {
		why = transport_reason(c->link.transport);
		receiver_reject(r, c, why[0] ? why : "it closed the connection", false);
		return;
	}
	if (!link_take(&c->link, RECORD_FROM_PRIMARY, &rec, &payload, &why)) {
		if (why)
			receiver_reject(r, c, why, false);
		return;
	}
	why = rec.type != RECORD_HELLO ? "it did not begin with a hello"
	      : c->link.in_len         ? "it went on before it was accepted"
				       : hello_decode(payload, rec.payload, &peer);
	if (!why) {
		node_hello(r->n, IDENTITY_SECONDARY, &own);
		if (grow_for_primary(r->n, &peer.id))
			node_hello(r->n, IDENTITY_SECONDARY, &own);
		identity_decide(&peer.id, &own.id, &how);
		why = identity_refused(&how) ? how.text : NULL;
	}
	pthread_mutex_lock(&r->n->lock);
	closed = r->disconnected;
	if (why && !closed && !r->connected && !r->failure[0])
		node_set_reason(r->n, "a primary was refused: %s", why);
	pthread_mutex_unlock(&r->n->lock);
	if (!why && closed)
		why = "this secondary was disconnected by command";
	if (!why)
		why = receiver_failed(r, text, sizeof(text));
	if (why) {
		receiver_reject(r, c, why, true);
		return;
	}
	/* What sealed epochs of the former session brought of a guest's memory goes first. */
	receiver_end(r, r->link.transport ? "it connected anew" : NULL);
	c->waiting = true;
	c->peer = peer;
}

static void receiver_try_accept(struct receiver *r, struct candidate *c)
{
	struct identity_decision how;
	struct hello own;
	bool idle, closed, may_clone;

	pthread_mutex_lock(&r->n->lock);
	may_clone = !r->clone_failure[0];
	idle = replica_memory_idle(r->core);
	closed = r->disconnected;
	pthread_mutex_unlock(&r->n->lock);
	if (closed) {
		receiver_reject(r, c, "this secondary was disconnected by command", true);
		return;
	}
	if (!idle)
		return;
	/* What the former session has committed meanwhile counts. */
	node_hello(r->n, IDENTITY_SECONDARY, &own);
	own.clones = may_clone && clones_possible(r->n);
	identity_decide(&c->peer.id, &own.id, &how);
	if (identity_refused(&how))
		receiver_reject(r, c, how.text, true);
	else
		receiver_accept(r, c, &c->peer, &own, &how);
}

void receiver_candidate(struct receiver *r, struct candidate *c, uint64_t now)
{
	struct error err = {0};
	const char *why;
	int e;

	if (!c->established) {
		e = transport_handshake(c->link.transport, &err);
		if (e == 0) {
			c->established = true;
			link_trace_start(&c->link, r->n->own->name);
		} else if (e != -EAGAIN) {
			/* without the peer's name, which the line begins with */
			why = transport_reason(c->link.transport);
			receiver_reject(r, c, why[0] ? why : err.text, false);
			return;
		}
	}
	if (c->established && !c->waiting)
		receiver_hear_candidate(r, c);
	if (c->link.transport && c->waiting)
		receiver_try_accept(r, c);
	if (c->link.transport && now >= c->deadline)
		receiver_reject(r, c, "it said nothing", false);
}

/* Somebody who could be anybody: no credentials of TLS, no valid hello. */
static bool receiver_is_stranger(const struct candidate *c)
{
	return c->link.transport && !c->waiting &&
	       !(c->established && transport_is_tls(c->link.transport));
}

/* The same address, on whatever port. */
static bool receiver_same_host(const struct candidate *a, const struct candidate *b)
{
	const char *x = transport_peer(a->link.transport), *y = transport_peer(b->link.transport);
	const char *xport = strrchr(x, ':'), *yport = strrchr(y, ':');

	return xport && yport && xport - x == yport - y && !strncmp(x, y, (size_t)(xport - x));
}

/* All places are taken: of the host that holds the most of them, the oldest stranger gives way.  So
 * nobody keeps the peer out by saying nothing, and who connects often displaces himself. */
static void receiver_make_room(struct receiver *r)
{
	struct candidate *victim = NULL;
	unsigned most = 0;

	for (unsigned i = 0; i < RECEIVER_CANDIDATES; i++) {
		struct candidate *c = &r->candidates[i];
		unsigned held = 0;

		if (!c->link.transport)
			return;
		if (!receiver_is_stranger(c))
			continue;
		for (unsigned k = 0; k < RECEIVER_CANDIDATES; k++)
			held += r->candidates[k].link.transport &&
				receiver_same_host(c, &r->candidates[k]);
		if (held > most || (held == most && victim && c->deadline < victim->deadline)) {
			victim = c;
			most = held;
		}
	}
	if (victim)
		receiver_reject(r, victim, "it said nothing, and others wait", false);
}

void receiver_listen(struct receiver *r, int fd, uint64_t now)
{
	struct error err = {0};

	receiver_make_room(r);
	for (unsigned i = 0; i < RECEIVER_CANDIDATES; i++) {
		struct candidate *c = &r->candidates[i];
		struct transport *t;

		if (c->link.transport)
			continue;
		if (listener_accept(r->listener, fd, r->n->security, &t, &err) < 0)
			return;
		link_init(&c->link, t, now);
		c->established = c->waiting = false;
		c->deadline = now + RECEIVER_HANDSHAKE;
	}
}
