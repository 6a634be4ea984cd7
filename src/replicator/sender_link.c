/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sender's link thread: connect, hello, session, and again after a pause.
 *
 * While writes come it wakes once per SENDER_TICK, or when SENDER_BATCH bytes wait, and sends what
 * has gathered, in one call: a writer of small blocks hardly ever pays a wake-up, nor loses the
 * processor to this thread. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "replicator/sender_internal.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/log.h"

#define SENDER_TICK (2 * NS_PER_MS)     /* between two sends under load */
#define SENDER_TICK_MIN (NS_PER_MS / 4) /* the same where the next cut is near */
#define SENDER_BATCH (256u << 10)       /* bytes that are sent without waiting for the tick */
#define SENDER_IDLE (20 * NS_PER_MS)    /* without a write for that long: sleep until woken */
#define SENDER_SEND_MAX (1u << 20)      /* bytes in one call */
#define SENDER_LAST NS_PER_S            /* for what is left at an orderly end */
#define SENDER_LAST_READS 16            /* of what has come before the link broke */
#define SENDER_PART (NS_PER_S / 2)      /* for a goodbye to arrive */
#define SENDER_BACKOFF_MIN (100 * NS_PER_MS)
#define SENDER_BACKOFF_MAX (5 * NS_PER_S)

/* Waits for the transport or a wake-up, at most ns. */
void sender_wait(struct sender *s, short events, uint64_t ns)
{
	struct pollfd fds[2] = {{.fd = s->wake.fd, .events = POLLIN},
		{.fd = s->link.transport ? transport_fd(s->link.transport) : -1, .events = events}};
	struct timespec ts = {(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)};

	(void)ppoll(fds, 2, &ts, NULL); /* EINTR: the caller looks again anyway */
	if (fds[0].revents)
		wake_clear(&s->wake);
}

bool sender_told_to_stop(struct sender *s)
{
	bool stop;

	pthread_mutex_lock(&s->n->lock);
	stop = s->stopping || s->end_session || s->disconnected;
	pthread_mutex_unlock(&s->n->lock);
	return stop;
}

/* Says why there is no link: in status always, in the log when it is news. */
static void sender_report(struct sender *s, const char *what, const char *why)
{
	char text[600];
	bool failed;

	snprintf(text, sizeof(text), "%s%s%s", what, why[0] ? ": " : "", why);
	pthread_mutex_lock(&s->n->lock);
	failed = s->core.state == PRIMARY_FAILED; /* superseded: that was said, and is the reason */
	if (!s->disconnected && !failed)
		node_set_reason(s->n, "%s", text);
	node_changed(s->n);
	pthread_mutex_unlock(&s->n->lock);
	if (!failed && strcmp(text, s->last_error) != 0)
		log_warning("%s; running solo", text);
	snprintf(s->last_error, sizeof(s->last_error), "%s", text);
}

static int sender_open(struct sender *s, struct error *err)
{
	const struct conf_node *peer = s->n->peer;
	uint64_t end = clock_ns() + SENDER_HANDSHAKE;
	struct transport *t;
	int r;

	r = transport_connect(peer->link_host, peer->link_port, s->n->security, &t, err);
	if (r < 0)
		return r;
	link_init(&s->link, t, clock_ns());
	while ((r = transport_handshake(t, err)) == -EAGAIN) {
		if (sender_told_to_stop(s))
			return error_set(err, ERROR_PEER, -ECANCELED, "told to stop");
		if (clock_ns() >= end)
			return error_set(err, ERROR_TIMEOUT, -ETIMEDOUT, "no answer");
		sender_wait(s, transport_poll_events(t), NS_PER_S / 4);
	}
	if (r == 0)
		link_trace_start(&s->link, s->n->own->name);
	return r;
}

int sender_lost(struct sender *s, struct error *err, int r)
{
	const char *why = transport_reason(s->link.transport);

	return error_set(err, ERROR_PEER, r, "%s",
		why[0]             ? why
		: r == -ECONNRESET ? "the peer closed the connection"
				   : strerror(-r));
}

/* Sends what the queue has; *ret_sent bytes.  *ret_more: there is more that need not gather. */
static int sender_send(
	struct sender *s, uint64_t *ret_sent, bool *ret_blocked, bool *ret_more, struct error *err)
{
	struct node *n = s->n;
	const uint8_t *data;
	uint64_t len;
	ssize_t w;
	bool more;

	*ret_sent = 0;
	*ret_blocked = *ret_more = false;
	pthread_mutex_lock(&n->lock);
	len = min_u64(queue_ready(&s->core.queue, &data, &more), SENDER_SEND_MAX);
	pthread_mutex_unlock(&n->lock);
	if (len == 0)
		return 0;

	struct iovec iov = {(void *)(uintptr_t)data, len};

	w = transport_writev(s->link.transport, &iov, 1);
	if (w == -EAGAIN) {
		*ret_blocked = true;
		return 0;
	}
	if (w < 0)
		return sender_lost(s, err, (int)w);
	link_trace(s->link.trace_out, data, (size_t)w);
	pthread_mutex_lock(&n->lock);
	queue_consume(&s->core.queue, (uint64_t)w);
	pthread_cond_broadcast(&s->room);
	pthread_mutex_unlock(&n->lock);
	*ret_sent = (uint64_t)w;
	*ret_more = w >= SENDER_SEND_MAX / 2 || (more && (uint64_t)w == len);
	return 0;
}

/* (L) Timers: cuts and heartbeats.  False = the session is to end. */
static bool sender_timers(struct sender *s, uint64_t now, uint64_t said)
{
	const struct conf *conf = s->n->conf;
	uint64_t epoch;

	if (s->stopping || s->end_session || s->sync_error)
		return false;
	if (s->handed)
		return now < s->handed || now - s->handed < SENDER_HANDED;
	if (primary_cut_due(&s->core, now, conf->epoch_ms * NS_PER_MS))
		(void)primary_cut(&s->core, now, &epoch); /* queue full: at the next tick */
	if (now - said >= conf->heartbeat_ms * NS_PER_MS && queue_used(&s->core.queue) == 0)
		(void)primary_say(
			&s->core, RECORD_HEARTBEAT, 0, 0, NULL); /* it is empty: it fits */
	return true;
}

/* (L) With a guest: its writes may wait for a checkpoint, but not for ever. */
static int sender_checkpoint_late(struct sender *s, uint64_t now, struct error *err)
{
	uint64_t limit = s->n->conf->peer_timeout_ms;

	/* Who began one and then gave it up, or is gone, lets no more writes pass. */
	if (s->core.begun && !barrier_begun(s->n))
		s->core.begun = false;
	if (primary_waits_for(&s->core, now) < limit * NS_PER_MS)
		return 0;
	s->backoff_ns = SENDER_BACKOFF_MAX;
	return error_set(err, ERROR_TIMEOUT, -ETIME,
		"no checkpoint was made in time: the guest's writes waited for one for %llu ms",
		(unsigned long long)limit);
}

/* (L) How long the link thread may wait now; says from which position on writers wake it. */
static uint64_t sender_rest(struct sender *s, uint64_t now, uint64_t said, bool idle, bool blocked)
{
	const struct conf *conf = s->n->conf;
	uint64_t beat =
		min_u64(conf->heartbeat_ms * NS_PER_MS, conf->peer_timeout_ms * NS_PER_MS / 4);

	if (idle && queue_used(&s->core.queue) == 0 && s->core.changes == 0) {
		atomic_store(&s->wake_at, 0); /* any write */
		return now - said < beat ? beat - (now - said) : beat;
	}
	/* While the socket takes nothing there is no use in waking. */
	atomic_store(&s->wake_at, blocked ? UINT64_MAX : s->core.queue.tail + SENDER_BATCH);
	return max_u64(SENDER_TICK_MIN,
		min_u64(SENDER_TICK, primary_cut_in(&s->core, now, conf->epoch_ms * NS_PER_MS)));
}

/* Nothing can be sent any more; what the peer said last may still tell why. */
static int sender_hear_last(struct sender *s, int lost, struct error *err)
{
	struct error said;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < SENDER_LAST_READS; i++)
		r = sender_hear(s, &said);
	if (!s->goodbye_heard)
		return lost;
	*err = said;
	return r;
}

static int sender_session(struct sender *s, struct error *err)
{
	const struct conf *conf = s->n->conf;
	uint64_t said = clock_ns(), active = said;
	struct node *n = s->n;
	int r;

	for (;;) {
		uint64_t now = clock_ns(), sent, wait;
		bool blocked, more, go_on;

		pthread_mutex_lock(&n->lock);
		go_on = sender_timers(s, now, said);
		r = go_on ? sender_checkpoint_late(s, now, err) : 0;
		pthread_mutex_unlock(&n->lock);
		if (!go_on)
			return 0;
		if (r < 0)
			return r;
		r = sender_hear(s, err); /* first: after a goodbye nothing can be sent */
		if (r < 0)
			return r;
		r = sender_send(s, &sent, &blocked, &more, err);
		if (r < 0)
			return sender_hear_last(s, r, err);
		if (sent)
			said = active = now;
		if (now > s->link.heard && now - s->link.heard > conf->peer_timeout_ms * NS_PER_MS)
			return error_set(err, ERROR_TIMEOUT, -ETIMEDOUT,
				"nothing was heard of the secondary for %llu ms",
				(unsigned long long)conf->peer_timeout_ms);
		if (more)
			continue;
		pthread_mutex_lock(&n->lock);
		wait = sender_rest(s, now, said, now - active > SENDER_IDLE, blocked);
		pthread_mutex_unlock(&n->lock);
		if (transport_has_pending(s->link.transport))
			wait = 0;
		sender_wait(s,
			(short)(POLLIN | (blocked ? transport_poll_events(s->link.transport) : 0)),
			wait);
		atomic_store(&s->wake_at, UINT64_MAX);
	}
}

/* At an orderly end: what the queue still has goes out, so that the goodbye stands behind a whole
 * record.  The dirty map has all of it already. */
static void sender_last(struct sender *s)
{
	uint64_t end = clock_ns() + SENDER_LAST, sent;
	bool blocked, more, left = true;
	struct error err;

	while (left && clock_ns() < end) {
		if (sender_send(s, &sent, &blocked, &more, &err) < 0)
			return;
		pthread_mutex_lock(&s->n->lock);
		left = queue_used(&s->core.queue) != 0;
		pthread_mutex_unlock(&s->n->lock);
		if (left && !sent) /* or somebody is still copying into his place */
			sender_wait(s, blocked ? transport_poll_events(s->link.transport) : 0,
				NS_PER_MS);
	}
}

/* A goodbye was said, by one of both: it is to arrive. */
static void sender_part(struct sender *s)
{
	uint64_t end = clock_ns() + SENDER_PART;

	while (link_part(&s->link) == 0 && clock_ns() < end)
		sender_wait(s, link_part_events(&s->link), SENDER_PART / 16);
}

/* The end of a session, whatever ended it; r < 0: lost. */
static void sender_end(struct sender *s, int r, const struct error *err)
{
	struct node *n = s->n;
	bool failed = false, said;
	unsigned reason;
	char what[256];

	snprintf(what, sizeof(what),
		r == -ETIME ? "replication to %s has ended" : "link to %s is lost", n->peer->name);
	pthread_mutex_lock(&n->lock);
	/* Together with the state: whoever hears of that is told why. */
	if (r < 0 && !s->disconnected && s->core.state != PRIMARY_FAILED)
		node_set_reason(n, "%s: %s", what, err->text);
	sender_handed_blindly(s);
	said = s->handed != 0;
	sender_session_over(s);
	barrier_end(n, NULL);
	s->connected = false;
	failed = s->sync_error != 0;
	pthread_cond_broadcast(&s->room);
	node_changed(n);
	pthread_mutex_unlock(&n->lock);
	sync_stop(s);
	if (r == 0) {
		if (!failed && !said)
			sender_last(s);
		/* The stream may stop in the middle of a record: no goodbye fits then. */
		pthread_mutex_lock(&n->lock);
		s->link.out_seq = s->core.queue.seq;
		failed = failed || queue_used(&s->core.queue) != 0;
		/* "Shutdown" promises that nothing is written here any more. */
		reason = s->stopping    ? RECORD_GOODBYE_SHUTDOWN
			 : s->commanded ? RECORD_GOODBYE_DISCONNECTED
					: RECORD_GOODBYE_FAILED;
		pthread_mutex_unlock(&n->lock);
		if (!failed && !said)
			link_goodbye(&s->link, reason, 0, "");
		if (!failed)
			sender_part(s);
	} else {
		sender_report(s, what, err->text);
		if (s->goodbye_heard)
			sender_part(s);
	}
	link_close(&s->link);
}

static void sender_try(struct sender *s)
{
	struct error err = {0};
	struct identity_decision how;
	struct hello peer;
	char what[256];
	int r;

	r = sender_open(s, &err);
	if (r == 0)
		r = sender_hello(s, &peer, &how, &err);
	if (r == -EAGAIN) { /* once more: it knows us by a former generation */
		link_close(&s->link);
		r = sender_open(s, &err);
		if (r == 0)
			r = sender_hello(s, &peer, &how, &err);
	}
	if (r < 0) {
		link_close(&s->link);
		/* The error begins with the address where that is news. */
		snprintf(what, sizeof(what), "no link to %s", s->n->peer->name);
		sender_report(s, what, err.text);
		return;
	}
	s->backoff_ns = SENDER_BACKOFF_MIN;
	s->last_error[0] = '\0';
	s->goodbye_heard = false;
	r = sender_begin(s, &peer, &how, &err);
	if (r == 0)
		r = sender_session(s, &err);
	sender_end(s, r, &err);
}

void *sender_main(void *arg)
{
	struct sender *s = arg;
	struct node *n = s->n;
	uint64_t next = 0;

	(void)pthread_setname_np(pthread_self(), "tandem-send");
	s->backoff_ns = SENDER_BACKOFF_MIN;
	for (;;) {
		bool try, stop;

		pthread_mutex_lock(&n->lock);
		stop = s->stopping;
		if (s->retry_now)
			next = 0;
		s->end_session = s->retry_now = false;
		try = !s->disconnected && s->core.state != PRIMARY_FAILED;
		pthread_mutex_unlock(&n->lock);
		if (stop)
			return NULL;
		if (!try || clock_ns() < next) {
			uint64_t now = clock_ns();

			sender_wait(s, 0, try && next > now ? next - now : NS_PER_S);
			continue;
		}
		sender_try(s);
		next = clock_ns() + s->backoff_ns;
		s->backoff_ns =
			min_u64(s->backoff_ns * 2, max_u64(s->backoff_ns, SENDER_BACKOFF_MAX));
	}
}
