/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The receiver's link thread: listen, receive, acknowledge, journal. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "core/dirtymap_wire.h"
#include "replicator/control.h"
#include "replicator/grow.h"
#include "replicator/receiver_internal.h"
#include "util/clock.h"
#include "util/log.h"

#define RECEIVER_ACK_EVERY (2 * NS_PER_MS)
#define RECEIVER_SLICE (20 * NS_PER_MS) /* ... or time: the peer waits for a word of ours */
#define RECEIVER_BUDGET 64              /* reads before the journal is looked after again */

/* --- the session --- */

/* (L) The next piece of the map that is under way; false = there is no more. */
static bool receiver_next_map(struct receiver *r, struct record *rec, uint8_t *payload)
{
	enum dirtymap_layer layer = r->map_held ? DIRTYMAP_ASKED : DIRTYMAP_WANTED;
	uint16_t flags = r->map_held ? RECORD_FLAG_HELD : 0;
	struct node *n = r->n;

	for (; r->map_volume < n->nvolumes; r->map_volume++) {
		if (dirtymap_put_map(
			    n->maps[r->map_volume], layer, flags, &r->map_word, rec, payload))
			return true;
		r->map_word = 0;
	}
	return false;
}

/* Our dirty map, as far as it goes out; it does not change before the session's sync is committed.
 * 0, or negative errno. */
static int receiver_say_maps(struct receiver *r, uint64_t now)
{
	struct record rec = {.type = RECORD_MAP_END};
	uint8_t payload[RECORD_MAX_MAP];
	struct node *n = r->n;
	int e = 0;

	while (e == 0 && r->maps_due) {
		bool map;

		pthread_mutex_lock(&n->lock);
		map = receiver_next_map(r, &rec, payload);
		if (!map && r->held_due) {
			r->map_held = true;
			r->held_due = false;
			r->map_volume = 0;
			map = receiver_next_map(r, &rec, payload);
		}
		pthread_mutex_unlock(&n->lock);
		rec.volume = map ? r->map_volume : 0;
		if (!map)
			rec = (struct record){.type = RECORD_MAP_END, .length = r->held_span};
		(void)link_put_data(&r->link, &rec, payload); /* the buffer is empty: it fits */
		r->maps_due = map;
		e = link_write(&r->link, now);
	}
	return e == -EAGAIN ? 0 : e;
}

/* (L) What the digests of a checkpoint said; the buffer has at most acknowledgements. */
static void receiver_say_checked(struct receiver *r)
{
	uint8_t payload[MEMCHECK_RANGES * MEMCHECK_RANGE];
	struct record rec;

	memcheck_put_result(&r->checked, &rec, payload);
	(void)link_put_data(&r->link, &rec, payload);
	r->have_checked = false;
}

/* (L) Whether this node could take the guest. */
static void receiver_say_unready(struct receiver *r)
{
	struct record rec = {.type = RECORD_STANDBY, .payload = (uint32_t)strlen(r->unready)};

	if (link_put_data(&r->link, &rec, (const uint8_t *)r->unready))
		r->have_unready = false;
}

/* Acknowledgements and heartbeats. */
static int receiver_say(struct receiver *r, uint64_t now)
{
	struct record beat = {.type = RECORD_HEARTBEAT};
	struct link *l = &r->link;
	int e;

	if (r->maps_due) {
		e = link_write(l, now); /* the hello, or the last piece of a map */
		return e == -EAGAIN ? 0 : e < 0 ? e : receiver_say_maps(r, now);
	}
	if (link_out_empty(l)) {
		pthread_mutex_lock(&r->n->lock);
		if (r->have_received)
			(void)link_put(l, &r->ack_received, NULL); /* empty: it fits */
		if (r->have_synced) /* before the commit, which ends the sync */
			(void)link_put(l, &r->ack_synced, NULL);
		if (r->have_committed)
			(void)link_put(l, &r->ack_committed, NULL);
		r->have_received = r->have_committed = r->have_synced = false;
		if (r->have_checked)
			receiver_say_checked(r);
		if (r->have_frozen)
			(void)link_put(l, &r->say_frozen, NULL);
		r->have_frozen = false;
		if (r->have_unready)
			receiver_say_unready(r);
		pthread_mutex_unlock(&r->n->lock);
		if (link_out_empty(l)) {
			e = receiver_answer(r, now);
			if (e < 0 && e != -EAGAIN)
				return e;
		}
		if (link_out_empty(l) && r->grow_asked) /* only this thread changes it */
			grow_answer_primary(r);
		if (link_out_empty(l) && now - l->said >= r->n->conf->heartbeat_ms * NS_PER_MS)
			(void)link_put(l, &beat, NULL);
	}
	e = link_write(l, now);
	return e == -EAGAIN ? 0 : e;
}

/* Receives what is there.  0, or negative with *ret_why. */
static int receiver_receive(struct receiver *r, const char **ret_why)
{
	struct node *n = r->n;

	uint64_t end = clock_ns() + RECEIVER_SLICE;

	for (unsigned i = 0; i < RECEIVER_BUDGET && r->link.heard < end; i++) {
		unsigned goodbye = 0;
		uint8_t *buf;
		size_t len;
		ssize_t got;
		bool room;
		int e;

		pthread_mutex_lock(&n->lock);
		room = replica_rx_buffer(r->core, &buf, &len);
		pthread_mutex_unlock(&n->lock);
		r->blocked = !room;
		if (!room)
			return 0;
		got = transport_read(r->link.transport, buf, len);
		if (got == -EAGAIN)
			return 0;
		if (got <= 0) {
			const char *why = transport_reason(r->link.transport);

			*ret_why = got == 0 ? "it closed the connection"
				   : why[0] ? why
					    : strerror((int)-got);
			return -ECONNRESET;
		}
		link_trace(r->link.trace_in, buf, (size_t)got);
		r->link.heard = clock_ns();
		pthread_mutex_lock(&n->lock);
		r->heard = r->link.heard;
		e = replica_rx_done(r->core, (size_t)got, &goodbye, ret_why);
		pthread_mutex_unlock(&n->lock);
		if (e == -ENOMEM)
			*ret_why = "out of memory";
		if (e < 0)
			return e;
		if (goodbye == RECORD_GOODBYE_HANDOVER && !n->guest) {
			/* The link stays: its answer is the promotion's goodbye. */
			pthread_mutex_lock(&n->lock);
			n->taking_over = true;
			if (n->control)
				control_take_over(n->control);
			pthread_mutex_unlock(&n->lock);
			return 0;
		}
		if (goodbye) {
			*ret_why = goodbye == RECORD_GOODBYE_SHUTDOWN ? "it was shut down"
				   : goodbye == RECORD_GOODBYE_DISCONNECTED
					   ? "it was disconnected by command"
					   : "it ended replication";
			return -ESHUTDOWN;
		}
	}
	return 0;
}

static void receiver_session(struct receiver *r, uint64_t now)
{
	struct node *n = r->n;
	const char *why = NULL;
	bool stuck, failed, broken;
	char text[600];
	int e;

	e = receiver_receive(r, &why);
	pthread_mutex_lock(&n->lock);
	broken = r->clone_failure[0] && replica_cloning(r->core);
	snprintf(text, sizeof(text), "the sync into clones of the disks was given up: %s",
		r->clone_failure);
	if (e == 0 && now - r->link.said >= RECEIVER_ACK_EVERY)
		replica_rx_idle(r->core);
	stuck = r->blocked && replica_rx_stuck(r->core);
	failed = r->failure[0];
	pthread_mutex_unlock(&n->lock);
	if (broken) {
		receiver_say_goodbye(r, RECORD_GOODBYE_FAILED, 0, text, "its sync cannot go on");
		return;
	}
	if (e == 0)
		e = receiver_say(r, now);
	if (e < 0) {
		receiver_end(r, why ? why : "it is gone");
		return;
	}
	if (r->blocked)
		r->link.heard = now; /* it is we who do not listen */
	if (stuck || failed) {
		why = stuck ? "one epoch alone fills the journal: make journal-size larger, or cut "
			      "more often"
			    : r->failure;
		receiver_say_goodbye(r, RECORD_GOODBYE_FAILED, 0, why, why);
		return;
	}
	if (now > r->link.heard && now - r->link.heard > n->conf->peer_timeout_ms * NS_PER_MS)
		receiver_end(r, "nothing was heard of it for peer-timeout-ms");
}

/* --- requests of other threads --- */

/* A promoted node is nobody's secondary any more. */
static void receiver_close_door(struct receiver *r)
{
	bool drain;

	pthread_mutex_lock(&r->n->lock);
	drain = r->local.kind == LOCAL_DRAIN;
	pthread_mutex_unlock(&r->n->lock);
	if (!drain || !r->listener)
		return;
	r->listener = listener_free(r->listener);
	for (unsigned i = 0; i < RECEIVER_CANDIDATES; i++)
		link_close(&r->candidates[i].link);
}

static void receiver_carry_out(struct receiver *r)
{
	struct receiver_request *q;
	struct node *n = r->n;

	pthread_mutex_lock(&n->lock);
	q = r->request;
	if (!q) {
		pthread_mutex_unlock(&n->lock);
		return;
	}
	if (q->kind == REQUEST_COMMIT)
		q->result = replica_commit(r->core, q->epoch);
	if (q->kind == REQUEST_DISCARD) {
		struct replica_status st;

		replica_get_status(r->core, &st);
		/* A full sync that did not end is no epoch of its own; its session ends here. */
		if (st.mode != REPLICA_DIRECT || st.cloned)
			replica_discard(r->core, &q->epochs, &q->bytes);
	}
	pthread_mutex_unlock(&n->lock);
	if (q->kind == REQUEST_CLOSE)
		receiver_say_goodbye(r, RECORD_GOODBYE_SHUTDOWN, 0, "", "closed by command");
	else if (q->kind == REQUEST_DISCARD)
		receiver_say_goodbye(r,
			q->promoted ? RECORD_GOODBYE_PROMOTED : RECORD_GOODBYE_DISCARDED,
			q->promoted ? q->epoch : 0, "", "epochs were discarded");
	pthread_mutex_lock(&n->lock);
	r->request = NULL;
	q->done = true;
	node_changed(n);
	pthread_mutex_unlock(&n->lock);
}

/* --- the loop --- */

struct receiver_poll {
	struct pollfd fds[2 + 8 + RECEIVER_CANDIDATES + 2];
	unsigned count, listeners;
};

static void receiver_wait(struct receiver *r, struct receiver_poll *p)
{
	struct timespec ts = {0, (long)(50 * NS_PER_MS)};
	bool unsaid, pending = false;
	int fds[8], n;

	p->count = 0;
	p->fds[p->count++] = (struct pollfd){.fd = r->wake.fd, .events = POLLIN};
	p->fds[p->count++] = (struct pollfd){.fd = r->completed.fd, .events = POLLIN};
	n = r->listener ? listener_fds(r->listener, fds, 8) : 0;
	p->listeners = (unsigned)n;
	for (int i = 0; i < n; i++)
		p->fds[p->count++] = (struct pollfd){.fd = fds[i], .events = POLLIN};
	for (unsigned i = 0; i < RECEIVER_CANDIDATES; i++) {
		struct candidate *c = &r->candidates[i];

		if (!c->link.transport)
			continue;
		pending |= c->established && transport_has_pending(c->link.transport);
		p->fds[p->count++] = (struct pollfd){.fd = transport_fd(c->link.transport),
			.events =
				c->established ? POLLIN : transport_poll_events(c->link.transport)};
	}
	if (r->leaving.link.transport) {
		p->fds[p->count++] = (struct pollfd){.fd = transport_fd(r->leaving.link.transport),
			.events = link_part_events(&r->leaving.link)};
	}
	if (r->link.transport) {
		short events = r->blocked ? 0 : POLLIN;

		if (!link_out_empty(&r->link))
			events |= POLLOUT;
		pending |= !r->blocked && transport_has_pending(r->link.transport);
		p->fds[p->count++] =
			(struct pollfd){.fd = transport_fd(r->link.transport), .events = events};
		pthread_mutex_lock(&r->n->lock);
		unsaid = replica_unacknowledged(r->core);
		pthread_mutex_unlock(&r->n->lock);
		if (unsaid && !r->blocked)
			ts.tv_nsec = (long)RECEIVER_ACK_EVERY;
	}
	if (pending)
		ts.tv_nsec = 0;
	(void)ppoll(p->fds, p->count, &ts, NULL); /* EINTR: everything is looked at anyway */
	if (p->fds[0].revents)
		wake_clear(&r->wake);
	if (p->fds[1].revents)
		wake_clear(&r->completed);
}

/* What a staged sync has brought becomes this node's own before its commit is acknowledged: until
 * the metadata says so, a former primary that starts again takes its own disks for the state, not
 * the journal.  One write per sync. */
static void receiver_settle_committed(struct receiver *r)
{
	struct node *n = r->n;
	struct replica_status st;
	struct error err;
	int e = 0;

	if (!r->settle_due)
		return;
	pthread_mutex_lock(&n->lock);
	replica_get_status(r->core, &st);
	pthread_mutex_unlock(&n->lock);
	if (st.mode == REPLICA_READY)
		e = receiver_settle(r, st.committed, &err);
	if (e < 0) {
		log_error("%s", err.text);
		pthread_mutex_lock(&n->lock);
		r->have_committed = false;
		replica_fail(r->core, e, "cannot write the metadata");
		pthread_mutex_unlock(&n->lock);
	}
	pthread_mutex_lock(&n->meta_lock);
	r->settle_due = e == 0 && !identity_is_none(&n->meta.now.id.next.generation);
	pthread_mutex_unlock(&n->meta_lock);
}

void *receiver_main(void *arg)
{
	struct receiver *r = arg;
	struct receiver_poll p;
	bool stop = false, failed;

	(void)pthread_setname_np(pthread_self(), "tandem-receive");
	receiver_is_here(r);
	while (!stop) {
		uint64_t now;

		journal_io_submit(r);
		receiver_wait(r, &p);
		now = clock_ns();
		journal_io_reap(r);
		receiver_settle_committed(r);
		receiver_carry_out(r);
		receiver_close_door(r);
		for (unsigned i = 0; r->listener && i < p.listeners; i++)
			if (p.fds[2 + i].revents)
				receiver_listen(r, p.fds[2 + i].fd, now);
		for (unsigned i = 0; i < RECEIVER_CANDIDATES; i++)
			if (r->candidates[i].link.transport)
				receiver_candidate(r, &r->candidates[i], now);
		if (r->leaving.link.transport)
			receiver_leaves(r, now);
		if (r->link.transport)
			receiver_session(r, now);
		pthread_mutex_lock(&r->n->lock);
		stop = r->stopping;
		r->gone = stop && !r->request;
		stop = r->gone;
		if (stop)
			node_changed(r->n);
		failed = r->failure[0];
		pthread_mutex_unlock(&r->n->lock);
		if (failed && !r->failure_said) {
			r->failure_said = true;
			log_error("%s; commits have stopped, the last committed state is kept",
				r->failure);
		}
	}
	receiver_say_goodbye(r, RECORD_GOODBYE_SHUTDOWN, 0, "", NULL);
	receiver_leaves_last(r);
	for (unsigned i = 0; i < RECEIVER_CANDIDATES; i++)
		link_close(&r->candidates[i].link);
	/* Sealed epochs that are on their way are finished: completions of what was submitted. */
	while (r->in_flight) {
		struct io_uring_cqe *cqe;

		if (io_uring_wait_cqe(&r->uring, &cqe) < 0)
			break;
		journal_io_reap(r);
		journal_io_submit(r);
	}
	return NULL;
}
