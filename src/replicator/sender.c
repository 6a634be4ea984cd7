/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The primary's end of the link: its life, the writers' side, questions. */
#include "replicator/sender.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "replicator/grow.h"
#include "replicator/sender_internal.h"
#include "replicator/verify.h"
#include "util/clock.h"
#include "util/crc.h"
#include "util/file.h"
#include "util/log.h"

int sender_new(struct node *n, struct sender **ret_sender, struct error *err)
{
	struct sender *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	s->n = n;
	s->wake.fd = -1;
	s->wake_at = UINT64_MAX;
	s->link.transport = NULL;
	r = file_map_mirrored(n->conf->queue_limit, &s->ring);
	if (r < 0) {
		error_code(err, r, "queue: cannot map %llu bytes",
			(unsigned long long)n->conf->queue_limit);
		free(s);
		return r;
	}
	primary_init(&s->core, s->ring, n->conf->queue_limit);
	s->core.guest = n->guest;
	pthread_cond_init(&s->room, NULL);
	r = wake_init(&s->wake);
	if (r < 0) {
		error_code(err, r, "sender: cannot make an eventfd");
		sender_free(s);
		return r;
	}
	*ret_sender = s;
	return 0;
}

void sender_set_base(struct sender *s, uint64_t committed)
{
	s->core.committed = s->core.received = committed;
	s->core.open = committed + 1;
}

int sender_start(struct sender *s, struct error *err)
{
	int r;

	if (!s->n->peer) {
		pthread_mutex_lock(&s->n->lock);
		node_set_reason(s->n, "the configuration names no other node");
		pthread_mutex_unlock(&s->n->lock);
		return 0;
	}
	r = pthread_create(&s->thread, NULL, sender_main, s);
	if (r)
		return error_code(err, -r, "sender: cannot start a thread");
	s->started = true;
	return 0;
}

/* The last cut, and its way to the secondary's journal. */
static void sender_drain(struct sender *s, unsigned wait_ms)
{
	uint64_t end = clock_ns() + wait_ms * NS_PER_MS, epoch = 0;
	struct node *n = s->n;

	pthread_mutex_lock(&n->lock);
	/* A checkpoint is the controller's. */
	if (s->core.state == PRIMARY_PROTECTED && !n->guest && sender_cut(s, &epoch) == 0) {
		while (primary_replicating(&s->core) && s->core.committed < epoch &&
			clock_ns() < end) {
			struct timespec ts;

			clock_gettime(CLOCK_REALTIME, &ts);
			ts.tv_nsec += 20 * (long)NS_PER_MS;
			if (ts.tv_nsec >= (long)NS_PER_S) {
				ts.tv_nsec -= (long)NS_PER_S;
				ts.tv_sec++;
			}
			pthread_cond_timedwait(&n->changed, &n->lock, &ts);
		}
		if (s->core.committed < epoch)
			log_warning("shutdown: the last epoch (%llu) was not committed by the "
				    "secondary in time",
				(unsigned long long)epoch);
	}
	pthread_mutex_unlock(&n->lock);
}

void sender_stop(struct sender *s, unsigned wait_ms)
{
	if (!s->started)
		return;
	if (wait_ms)
		sender_drain(s, wait_ms);
	pthread_mutex_lock(&s->n->lock);
	s->stopping = true;
	pthread_mutex_unlock(&s->n->lock);
	wake_up(&s->wake);
	pthread_join(s->thread, NULL);
	verify_end(s); /* the session is over: so is it, or soon */
	grow_end(s);
	s->started = false;
}

struct sender *sender_free(struct sender *s)
{
	if (!s)
		return NULL;
	sender_stop(s, 0);
	file_unmap_mirrored(s->ring, s->n->conf->queue_limit);
	pthread_cond_destroy(&s->room);
	wake_deinit(&s->wake);
	free(s);
	return NULL;
}

void sender_session_over(struct sender *s)
{
	primary_session_end(&s->core);
	dirtymap_lost(&s->n->windows);
	s->unready[0] = '\0';
}

/* (L) on-congestion = detach: the guest goes first. */
static void sender_congested(struct sender *s)
{
	sender_session_over(s);
	s->end_session = true;
	s->disconnected = true;
	node_set_reason(s->n, "the queue was full (on-congestion = detach); `tandem connect` "
			      "begins again");
	log_warning("the queue to the secondary is full: replication ended (on-congestion = "
		    "detach), going on solo");
	node_changed(s->n);
	wake_up(&s->wake);
}

uint8_t *sender_change(struct sender *s, struct record *rec)
{
	uint8_t *slot;

	while (primary_replicating(&s->core)) {
		slot = primary_change(&s->core, rec,
			s->core.changes ? 0 : clock_ns()); /* the time is that of the first */
		if (slot) {
			atomic_fetch_add_explicit(&s->publishing, 1, memory_order_relaxed);
			return slot;
		}
		if (s->n->conf->on_congestion == CONF_CONGESTION_DETACH) {
			sender_congested(s);
			return NULL;
		}
		wake_up(&s->wake);
		pthread_cond_wait(&s->room, &s->n->lock);
	}
	return NULL;
}

void sender_publish(struct sender *s, uint8_t *slot, struct record *rec, const void *payload)
{
	rec->payload_crc =
		rec->payload ? crc32c_copy(slot + RECORD_HEADER_SIZE, payload, rec->payload) : 0;
	queue_publish_summed(slot, rec);
	atomic_fetch_sub_explicit(&s->publishing, 1, memory_order_release);
	/* Many writers may look at once: one of them wakes. */
	if (atomic_load_explicit(&s->core.queue.head, memory_order_relaxed) >=
			atomic_load_explicit(&s->wake_at, memory_order_relaxed) &&
		atomic_exchange(&s->wake_at, UINT64_MAX) != UINT64_MAX)
		wake_up(&s->wake);
}

bool sender_replicating(const struct sender *s)
{
	return primary_replicating(&s->core);
}

bool sender_copies_later(const struct sender *s, unsigned volume, uint64_t off, uint64_t len)
{
	return s->core.state == PRIMARY_SYNCING && !s->sync_ended &&
	       dirtymap_covers(s->n->maps[volume], DIRTYMAP_WANTED, off, len);
}

int sender_cut(struct sender *s, uint64_t *ret_epoch)
{
	int r = s->handed ? -ENOTCONN : primary_cut(&s->core, clock_ns(), ret_epoch);

	if (r == 0)
		wake_up(&s->wake);
	return r;
}

int sender_hand_over(struct sender *s, uint64_t epoch)
{
	int r = -ENOTCONN;

	if (!s->handed && !s->stopping && sender_session_id(s) &&
		s->core.state == PRIMARY_PROTECTED)
		r = primary_say(&s->core, RECORD_GOODBYE, RECORD_GOODBYE_HANDOVER, epoch, NULL);
	if (r < 0)
		return r;
	s->handed = clock_ns();
	wake_up(&s->wake);
	return 0;
}

void sender_handed_blindly(struct sender *s)
{
	if (!s->handed || s->core.state == PRIMARY_FAILED)
		return;
	atomic_store(&s->n->access, NODE_ACCESS_NONE);
	s->n->handing = false;
	sender_fail(s);
	node_set_reason(s->n,
		"the role was handed over and the other node's answer is missing: see "
		"`tandem status` there; if it is the primary, start this node with "
		"tandem secondary, else promote it, or start this one with tandem "
		"primary");
	log_error("%s", s->n->reason);
}

void sender_checkpoint_begin(struct sender *s)
{
	s->core.begun = true;
	pthread_cond_broadcast(&s->room);
}

void sender_checkpoint_failed(struct sender *s)
{
	primary_checkpoint_failed(&s->core);
}

int sender_checkpoint_cut(struct sender *s, uint64_t *ret_epoch)
{
	int r = primary_checkpoint_cut(&s->core, clock_ns(), ret_epoch);

	if (r == 0)
		wake_up(&s->wake);
	return r;
}

uint64_t sender_session_id(const struct sender *s)
{
	return primary_replicating(&s->core) && s->connected ? s->session : 0;
}

uint64_t sender_checked(const struct sender *s, const struct memcheck_result **ret_result)
{
	*ret_result = &s->checked;
	return s->checks;
}

const struct primary *sender_core(const struct sender *s)
{
	return &s->core;
}

uint8_t *sender_memory(struct sender *s, struct record *rec, uint64_t session)
{
	while (sender_session_id(s) == session) {
		uint8_t *slot = primary_memory(&s->core, rec, clock_ns());

		if (slot) {
			atomic_fetch_add_explicit(&s->publishing, 1, memory_order_relaxed);
			return slot;
		}
		wake_up(&s->wake);
		pthread_cond_wait(&s->room, &s->n->lock);
	}
	return NULL;
}

int sender_checkpoint_seal(struct sender *s, uint64_t session, uint64_t epoch, bool merge)
{
	int r = -ENOTCONN;

	while (sender_session_id(s) == session) {
		r = primary_checkpoint_seal(&s->core, epoch, merge, clock_ns());
		wake_up(&s->wake);
		if (r == 0)
			pthread_cond_broadcast(&s->room); /* for changes that waited for it */
		if (r == 0 && merge)
			verify_abandoned(s, epoch);
		if (r != -EAGAIN)
			return r;
		pthread_cond_wait(&s->room, &s->n->lock);
	}
	return -ENOTCONN;
}

void sender_restart(struct sender *s, uint64_t session, const char *why)
{
	if (sender_session_id(s) != session)
		return;
	s->end_session = s->retry_now = true;
	primary_session_end(&s->core);
	pthread_cond_broadcast(&s->room);
	node_set_reason(s->n, "%s", why);
	node_changed(s->n);
	wake_up(&s->wake);
}

void sender_connect(struct sender *s)
{
	s->disconnected = s->commanded = false;
	s->retry_now = true;
	node_set_reason(s->n, "connecting");
	wake_up(&s->wake);
}

void sender_disconnect(struct sender *s, const char *why)
{
	s->disconnected = s->commanded = true;
	s->end_session = true;
	sender_session_over(s);
	pthread_cond_broadcast(&s->room);
	node_set_reason(s->n, "%s", why);
	node_changed(s->n);
	wake_up(&s->wake);
}

void sender_fail(struct sender *s)
{
	sender_session_over(s);
	s->core.state = PRIMARY_FAILED;
	s->end_session = true;
	pthread_cond_broadcast(&s->room);
}

void sender_get_status(struct sender *s, struct sender_status *ret_status)
{
	struct sender_status st = {
		.state = s->core.state,
		.connected = s->connected,
		.tls = s->tls,
		.disconnected = s->disconnected,
		.heard_ns = s->heard,
		.open = s->core.open,
		.received = s->core.received,
		.committed = s->core.committed,
		.syncing = s->core.state == PRIMARY_SYNCING,
		.sync_kind = s->sync_kind,
		.sync_done = s->sync_done,
		.sync_total = s->sync_total,
		.sync_sent = s->sync_sent,
		.sync_rate = s->sync_rate,
		.session = sender_session_id(s),
		.disks_copied = s->core.disks_copied && primary_replicating(&s->core),
		.unsealed = s->core.cuts_count,
		.open_bytes = s->core.open_space,
		.max_bytes = s->core.max_epoch_bytes / 2,
	};

	memcpy(st.peer, s->peer, sizeof(st.peer));
	memcpy(st.unready, s->unready, sizeof(st.unready));
	primary_get_pending(&s->core, clock_ns(), &st.pending);
	*ret_status = st;
}
