/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What query-status and query-pending answer: one look under the lock, then JSON. */
#include <stdio.h>
#include <string.h>

#include "replicator/commands.h"
#include "replicator/local.h"
#include "replicator/memory.h"
#include "replicator/receiver.h"
#include "replicator/sender.h"
#include "replicator/verify.h"
#include "util/clock.h"

struct status_look {
	enum node_role role;
	bool primary;
	struct sender_status s;
	struct receiver_status r;
	bool journal; /* r is filled in */
	bool verifying;
	uint64_t verify_done, verify_total, verify_rate; /* bytes, bytes per second */
	const char *filling;
	char reason[NODE_REASON_SIZE];
	bool begun;                     /* with a guest: between checkpoint-begin and cut */
	uint64_t memory_epoch;          /* of a promoted node */
	uint64_t dirty[CONF_MAX_DISKS]; /* bytes */
};

static void status_look(struct node *n, struct status_look *l)
{
	const char *reason = "";

	memset(l, 0, sizeof(*l));
	pthread_mutex_lock(&n->lock);
	l->role = n->role;
	l->primary = n->sender != NULL;
	if (n->sender) {
		sender_get_status(n->sender, &l->s);
		l->verifying = verify_progress(
			n->sender, &l->verify_done, &l->verify_total, &l->verify_rate);
	}
	if (n->receiver)
		receiver_get_status(n->receiver, &l->r);
	for (unsigned i = 0; i < n->nvolumes; i++)
		l->dirty[i] = dirtymap_unequal_bytes(n->maps[i]);
	l->journal = n->receiver != NULL;
	memcpy(l->reason, n->reason, sizeof(l->reason));
	l->begun = n->barrier.begun;
	l->memory_epoch = n->memory ? n->memory->epoch : 0;
	if (!n->sender && n->receiver)
		l->filling = local_filling(n->receiver, &reason);
	if (l->filling && !l->reason[0])
		snprintf(l->reason, sizeof(l->reason), "%s", reason);
	pthread_mutex_unlock(&n->lock);
}

static const char *status_state(const struct status_look *l)
{
	static const char *const primary[] = {"solo", "syncing", "protected", "failed"};
	static const char *const secondary[] = {"stopped", "syncing", "standby", "failed"};

	/* Of a promoted node whose journal is not drained: it cannot go on. */
	if (l->primary && l->journal && l->r.core.mode == REPLICA_FAILED)
		return "failed";
	if (l->filling)
		return l->filling;
	if (!l->primary && l->r.core.mode == REPLICA_DIRECT && l->r.core.cloned)
		return "standby"; /* beside the sync, as while a staged one runs */
	return l->primary ? primary[l->s.state] : secondary[l->r.core.mode];
}

static json_t *status_counts(uint64_t bytes, uint64_t requests, uint64_t epochs)
{
	return json_pack("{s:I,s:I,s:I}", "bytes", (json_int_t)bytes, "requests",
		(json_int_t)requests, "epochs", (json_int_t)epochs);
}

static json_t *status_pending_of(const struct status_look *l)
{
	const struct primary_pending *p = &l->s.pending;
	const struct replica_status *c = &l->r.core;

	if (!l->primary)
		return json_pack("{s:o,s:o}", "not-received", status_counts(0, 0, 0),
			"not-committed",
			status_counts(c->pending_bytes, c->pending_changes, c->pending_epochs));
	return json_pack("{s:b,s:o,s:o}", "replicating",
		l->s.state == PRIMARY_SYNCING || l->s.state == PRIMARY_PROTECTED, "not-received",
		status_counts(p->got_bytes, p->got_changes, p->got_epochs), "not-committed",
		status_counts(p->done_bytes, p->done_changes, p->done_epochs));
}

json_t *answer_pending(struct node *n)
{
	struct status_look l;

	status_look(n, &l);
	return status_pending_of(&l);
}

/* Seconds, -1 = unknown. */
static json_int_t status_eta(uint64_t done, uint64_t total, uint64_t rate)
{
	return rate && total > done ? (json_int_t)((total - done) / rate) : -1;
}

static void status_set_verify(json_t *o, const struct status_look *l)
{
	if (l->verifying)
		json_object_set_new(o, "verify",
			json_pack("{s:I,s:I,s:I,s:I}", "done", (json_int_t)l->verify_done, "total",
				(json_int_t)l->verify_total, "rate", (json_int_t)l->verify_rate,
				"eta",
				status_eta(l->verify_done, l->verify_total, l->verify_rate)));
}

static void status_set_sync(json_t *o, const struct status_look *l)
{
	uint64_t done = l->primary ? l->s.sync_done : l->r.core.sync_done;
	uint64_t total = l->primary ? l->s.sync_total : l->r.core.sync_total;
	uint64_t rate = l->primary ? l->s.sync_rate : 0;
	enum record_sync kind = l->primary          ? l->s.sync_kind
				: l->r.core.staging ? RECORD_SYNC_STAGED
				: l->r.core.cloned  ? RECORD_SYNC_CLONED
						    : RECORD_SYNC_IN_PLACE;

	if (!(l->primary ? l->s.syncing
			 : (l->r.core.mode == REPLICA_DIRECT && !l->filling) || l->r.core.staging))
		return;
	json_object_set_new(o, "sync",
		json_pack("{s:s,s:I,s:I,s:I,s:I,s:I}", "kind", record_sync_name(kind), "done",
			(json_int_t)done, "total", (json_int_t)total, "rate", (json_int_t)rate,
			"eta", status_eta(done, total, rate), "sent", (json_int_t)l->s.sync_sent));
}

static void status_set_checkpoint(json_t *o, const struct node *n, const struct status_look *l)
{
	json_t *c;

	if (!n->guest)
		return;
	if (l->primary)
		c = json_pack("{s:I,s:I,s:b,s:b,s:i,s:I,s:s}", "memory",
			(json_int_t)n->conf->guest_memory, "session", (json_int_t)l->s.session,
			"disks-in-sync", l->s.disks_copied, "begun", l->begun, "unsealed",
			(int)l->s.unsealed, "memory-epoch", (json_int_t)l->memory_epoch, "unready",
			l->s.unready);
	else
		c = json_pack("{s:I,s:I,s:I}", "memory", (json_int_t)n->conf->guest_memory,
			"memory-epoch", (json_int_t)l->r.core.memory_epoch, "held",
			(json_int_t)l->r.core.held);
	json_object_set_new(o, "checkpoint", c);
}

void status_counters(struct node *n, struct node_counters *ret_counters)
{
	pthread_mutex_lock(&n->lock);
	if (n->receiver)
		receiver_count(n->receiver, &n->counters.discards, &n->counters.discarded,
			&n->counters.fulls);
	*ret_counters = n->counters;
	pthread_mutex_unlock(&n->lock);
}

json_t *answer_status(struct node *n)
{
	json_t *o = json_object(), *disks = json_object(), *unsafe = json_array();
	struct status_look l;
	char names[256];
	uint64_t heard;
	char *save, *name;
	uint64_t generation;

	status_look(n, &l);
	pthread_mutex_lock(&n->meta_lock);
	generation = n->meta.now.id.current.number;
	pthread_mutex_unlock(&n->meta_lock);
	heard = l.primary ? l.s.heard_ns : l.r.heard_ns;
	json_object_set_new(o, "group", json_string(n->conf->group));
	json_object_set_new(o, "node", json_string(n->own->name));
	json_object_set_new(o, "role", json_string(l.primary ? "primary" : "secondary"));
	json_object_set_new(o, "state", json_string(status_state(&l)));
	json_object_set_new(o, "reason", json_string(l.reason));
	json_object_set_new(o, "generation", json_integer((json_int_t)generation));
	json_object_set_new(o, "epoch",
		json_pack("{s:I,s:I,s:I}", "open",
			(json_int_t)(l.primary ? l.s.open : l.r.core.open), "received",
			(json_int_t)(l.primary ? l.s.received : l.r.core.received), "committed",
			(json_int_t)(l.primary ? l.s.committed : l.r.core.committed)));
	json_object_set_new(o, "lag",
		json_pack("{s:I,s:I,s:I}", "bytes",
			(json_int_t)(l.primary ? l.s.pending.done_bytes : l.r.core.pending_bytes),
			"epochs",
			(json_int_t)(l.primary ? l.s.pending.done_epochs : l.r.core.pending_epochs),
			"ms", (json_int_t)(l.s.pending.age_ns / NS_PER_MS)));
	json_object_set_new(o, "pending", status_pending_of(&l));
	status_set_sync(o, &l);
	status_set_verify(o, &l);
	status_set_checkpoint(o, n, &l);
	for (unsigned i = 0; i < n->nvolumes; i++)
		json_object_set_new(disks, n->volumes[i].name,
			json_pack("{s:I,s:I}", "size", (json_int_t)n->volumes[i].size, "dirty",
				(json_int_t)l.dirty[i]));
	json_object_set_new(o, "disks", disks);
	json_object_set_new(o, "link",
		json_pack("{s:b,s:s,s:b,s:I}", "connected",
			l.primary ? l.s.connected : l.r.connected, "peer",
			l.primary ? l.s.peer : l.r.peer, "tls", l.primary ? l.s.tls : l.r.tls,
			"heard-ms",
			heard ? (json_int_t)((clock_ns() - heard) / NS_PER_MS) : (json_int_t)-1));
	if (l.journal)
		json_object_set_new(o, "journal",
			json_pack("{s:I,s:I,s:I,s:I}", "size", (json_int_t)l.r.core.journal_size,
				"used", (json_int_t)l.r.core.journal_used, "staged",
				(json_int_t)l.r.core.staged, "unapplied",
				(json_int_t)l.r.core.unapplied));
	(void)conf_unsafe_names(n->conf, names, sizeof(names));
	for (name = strtok_r(names, ", ", &save); name; name = strtok_r(NULL, ", ", &save))
		json_array_append_new(unsafe, json_string(name));
	json_object_set_new(o, "unsafe", unsafe);
	json_object_set_new(o, "version", json_string(TANDEM_VERSION));
	return o;
}
