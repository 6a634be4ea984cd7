/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The secondary's end of the link: its life, the replica's actions, requests of other threads. */
#include "replicator/receiver.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replicator/memory.h"
#include "replicator/receiver_internal.h"
#include "util/bytes.h"
#include "util/fault.h"

/* --- actions of the replica; node.lock is held --- */

/* The link thread looks for itself when it is the caller. */
static _Thread_local const struct receiver *receiver_here; /* whose link thread this is */

void receiver_is_here(const struct receiver *r)
{
	receiver_here = r;
}

static void receiver_kick(struct receiver *r)
{
	if (receiver_here != r)
		wake_up(&r->wake);
}

static void receiver_chunk_write(void *ctx, struct replica_chunk *c)
{
	struct receiver *r = ctx;

	if (r->writes_count == r->writes_size) {
		unsigned n = r->writes_size ? r->writes_size * 2 : 64;
		struct replica_chunk **p = malloc(n * sizeof(*p));

		if (!p) {
			replica_fail(r->core, -ENOMEM, "out of memory");
			return;
		}
		for (unsigned i = 0; i < r->writes_count; i++)
			p[i] = r->writes[(r->writes_first + i) % r->writes_size];
		free(r->writes);
		r->writes = p;
		r->writes_first = 0;
		r->writes_size = n;
	}
	r->writes[(r->writes_first + r->writes_count++) % r->writes_size] = c;
	receiver_kick(r);
}

static void receiver_journal_flush(void *ctx)
{
	struct receiver *r = ctx;

	fault_point(FAULT_STANDBY_COMMIT);
	r->flush_wanted = true;
	receiver_kick(r);
}

static void receiver_send(void *ctx, const struct record *rec)
{
	struct receiver *r = ctx;

	if (rec->type == RECORD_ACK_SYNCED) {
		r->ack_synced = *rec;
		r->have_synced = true;
	} else if (rec->type == RECORD_ACK_COMMITTED) {
		r->ack_committed = *rec;
		r->have_committed = true;
	} else {
		r->ack_received = *rec;
		r->have_received = true;
	}
	receiver_kick(r);
}

static bool receiver_grow(void *ctx, unsigned volume, uint64_t size)
{
	struct receiver *r = ctx;

	if (r->grow_asked)
		return false;
	r->grow_asked = true;
	r->grow_volume = volume;
	r->grow_size = size;
	return true;
}

static void receiver_apply_ready(void *ctx)
{
	struct receiver *r = ctx;

	pthread_cond_signal(&r->apply);
}

static void receiver_changed(void *ctx)
{
	struct receiver *r = ctx;
	const char *why;
	int e;

	why = r->core ? replica_failure(r->core, &e) : NULL;
	if (why && !r->failure[0]) {
		snprintf(r->failure, sizeof(r->failure), "%s: %s", why, strerror(-e));
		node_set_reason(r->n, "%s", r->failure);
		receiver_kick(r);
	}
	node_changed(r->n);
}

static void receiver_memory_ready(void *ctx)
{
	struct receiver *r = ctx;

	pthread_cond_signal(&r->memory_work);
}

static void receiver_memory_zero(void *ctx, uint64_t off, uint64_t len)
{
	struct receiver *r = ctx;

	memory_zero(r->n->memory, off, len);
}

static const struct replica_ops receiver_ops = {
	.chunk_write = receiver_chunk_write,
	.journal_flush = receiver_journal_flush,
	.send = receiver_send,
	.apply_ready = receiver_apply_ready,
	.digest = receiver_digest,
	.grow = receiver_grow,
	.freeze = receiver_freeze,
	.memory_ready = receiver_memory_ready,
	.memory_zero = receiver_memory_zero,
	.changed = receiver_changed,
};

int receiver_new(struct node *n, struct receiver **ret_receiver, struct error *err)
{
	struct receiver *r = calloc(1, sizeof(*r));
	int e;

	if (!r)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	r->n = n;
	r->journal = r->completed.fd = -1;
	pthread_cond_init(&r->apply, NULL);
	pthread_cond_init(&r->applied, NULL);
	pthread_cond_init(&r->memory_work, NULL);
	pthread_cond_init(&r->memory_done, NULL);
	pthread_cond_init(&r->local.room, NULL);
	pthread_cond_init(&r->local.nouse, NULL);
	e = wake_init(&r->wake);
	if (e < 0)
		error_code(err, e, "receiver: cannot make an eventfd");
	if (e == 0)
		e = receiver_load(r, &receiver_ops, err);
	if (e < 0) {
		receiver_free(r);
		return e;
	}
	*ret_receiver = r;
	return 0;
}

int receiver_start(struct receiver *r, bool listen, struct error *err)
{
	const struct conf_node *own = r->n->own;
	int e = 0;

	if (listen)
		e = listener_new(own->link_host, own->link_port,
			!r->n->security && !r->n->conf->unsafe_plaintext, &r->listener, err);
	if (e < 0)
		return e;
	e = pthread_create(&r->applier, NULL, applier_main, r);
	r->applier_started = e == 0;
	if (e == 0 && r->n->guest) {
		e = pthread_create(&r->memory, NULL, receiver_memory_main, r);
		r->memory_started = e == 0;
	}
	if (e == 0) {
		e = pthread_create(&r->thread, NULL, receiver_main, r);
		r->started = e == 0;
	}
	return e ? error_code(err, -e, "receiver: cannot start a thread") : 0;
}

void receiver_stop(struct receiver *r)
{
	pthread_mutex_lock(&r->n->lock);
	r->stopping = true;
	pthread_cond_broadcast(&r->apply);
	pthread_cond_broadcast(&r->applied);
	pthread_cond_broadcast(&r->memory_work);
	pthread_cond_broadcast(&r->memory_done);
	pthread_cond_broadcast(&r->n->changed);
	local_kick(r);
	pthread_mutex_unlock(&r->n->lock);
	wake_up(&r->wake);
	if (r->started)
		pthread_join(r->thread, NULL);
	if (r->applier_started)
		pthread_join(r->applier, NULL);
	if (r->memory_started)
		pthread_join(r->memory, NULL);
	r->started = r->applier_started = r->memory_started = false;
}

struct receiver *receiver_free(struct receiver *r)
{
	if (!r)
		return NULL;
	if (r->started || r->applier_started || r->memory_started)
		receiver_stop(r);
	listener_free(r->listener);
	receiver_compare_deinit(r);
	journal_io_close(r);
	replica_free(r->core); /* looks into no mapped chunk */
	wake_deinit(&r->wake);
	pthread_cond_destroy(&r->apply);
	pthread_cond_destroy(&r->applied);
	pthread_cond_destroy(&r->memory_work);
	pthread_cond_destroy(&r->memory_done);
	pthread_cond_destroy(&r->local.room);
	pthread_cond_destroy(&r->local.nouse);
	free(r);
	return NULL;
}

int receiver_drain(struct receiver *r)
{
	struct replica_status st;
	uint64_t want;

	replica_get_status(r->core, &st);
	want = st.committed;
	r->hurry++;
	pthread_cond_signal(&r->apply);
	while (!r->stopping && st.mode != REPLICA_FAILED && (st.applied < want || r->applying)) {
		pthread_cond_wait(&r->applied, &r->n->lock);
		replica_get_status(r->core, &st);
	}
	r->hurry--;
	if (st.mode == REPLICA_FAILED)
		return st.error ? st.error : -EIO;
	return r->stopping ? -ESHUTDOWN : 0;
}

int receiver_drain_and_hold(struct receiver *r)
{
	struct replica_status st;
	uint64_t want;

	/* From that epoch on the applier takes no new batch: see applier_main. */
	replica_get_status(r->core, &st);
	want = st.committed;
	r->hold_at = r->holding ? max_u64(r->hold_at, want) : want;
	r->holding++;
	r->hurry++;
	pthread_cond_signal(&r->apply);
	while (!r->stopping && st.mode != REPLICA_FAILED && (st.applied < want || r->applying)) {
		pthread_cond_wait(&r->applied, &r->n->lock);
		replica_get_status(r->core, &st);
	}
	r->hurry--;
	r->holding--;
	if (r->stopping)
		return -ESHUTDOWN;
	if (st.mode == REPLICA_FAILED)
		return st.error ? st.error : -EIO;
	r->hold++;
	return 0;
}

void receiver_resume(struct receiver *r)
{
	r->hold--;
	pthread_cond_signal(&r->apply);
}

/* (L) Gives the link thread something to do, and waits for it. */
static void receiver_ask(struct receiver *r, struct receiver_request *q)
{
	while (r->request && !r->gone)
		pthread_cond_wait(&r->n->changed, &r->n->lock);
	q->result = -ESHUTDOWN;
	if (r->gone)
		return;
	r->request = q;
	wake_up(&r->wake);
	while (!q->done)
		pthread_cond_wait(&r->n->changed, &r->n->lock);
}

int receiver_commit(struct receiver *r, uint64_t epoch)
{
	struct receiver_request q = {.kind = REQUEST_COMMIT, .epoch = epoch};

	receiver_ask(r, &q);
	return q.result;
}

void receiver_discard(struct receiver *r, bool promoted, uint64_t generation, uint64_t *ret_epochs,
	uint64_t *ret_bytes)
{
	struct receiver_request q = {
		.kind = REQUEST_DISCARD, .promoted = promoted, .epoch = generation};

	r->disconnected = true;
	receiver_ask(r, &q);
	*ret_epochs = q.epochs;
	*ret_bytes = q.bytes;
}

void receiver_connect(struct receiver *r)
{
	r->disconnected = false;
	r->clone_failure[0] = '\0';
	node_set_reason(r->n, "%s", "");
}

void receiver_unready(struct receiver *r, const char *why)
{
	if (!strncmp(r->unready, why, sizeof(r->unready) - 1))
		return;
	snprintf(r->unready, sizeof(r->unready), "%s", why);
	r->have_unready = r->connected;
	node_changed(r->n);
	wake_up(&r->wake);
}

void receiver_disconnect(struct receiver *r)
{
	struct receiver_request q = {.kind = REQUEST_CLOSE};

	r->disconnected = true;
	receiver_ask(r, &q);
	node_set_reason(r->n, "disconnected by command");
}

void receiver_count(const struct receiver *r, uint64_t *ret_discards, uint64_t *ret_discarded,
	uint64_t *ret_fulls)
{
	*ret_discards = replica_discards(r->core, ret_discarded);
	*ret_fulls = r->local.fulls;
}

void receiver_get_status(struct receiver *r, struct receiver_status *ret_status)
{
	struct receiver_status st = {.connected = r->connected,
		.tls = r->tls,
		.disconnected = r->disconnected,
		.heard_ns = r->heard};

	memcpy(st.peer, r->peer, sizeof(st.peer));
	replica_get_status(r->core, &st.core);
	*ret_status = st;
}
