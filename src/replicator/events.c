/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the events of the control interface are made of. */
#include "replicator/events.h"

#include <stdio.h>
#include <string.h>

#include "replicator/commands.h"
#include "replicator/sender.h"

/* What the controller of a guest must know. */
static void events_guest(struct events *e)
{
	struct node *n = e->n;
	struct sender_status st = {0};
	bool copied, connected, due;

	pthread_mutex_lock(&n->lock);
	if (n->sender)
		sender_get_status(n->sender, &st);
	connected = n->sender && sender_session_id(n->sender);
	pthread_mutex_unlock(&n->lock);
	copied = connected && st.disks_copied;
	due = connected && copied && st.max_bytes && st.open_bytes >= st.max_bytes;
	if (e->connected && (!connected || st.session != e->session)) {
		e->connected = e->copied = e->due = false;
		e->say(e->ctx, "SESSION", json_pack("{s:b}", "connected", false));
	}
	if (connected && !e->connected)
		e->say(e->ctx, "SESSION",
			json_pack("{s:b,s:I}", "connected", true, "epoch", (json_int_t)st.open));
	if (copied && !e->copied)
		e->say(e->ctx, "DISKS_IN_SYNC", json_pack("{s:I}", "epoch", (json_int_t)st.open));
	if (due && !e->due)
		e->say(e->ctx, "CHECKPOINT_DUE",
			json_pack("{s:I,s:I}", "epoch", (json_int_t)st.open, "bytes",
				(json_int_t)st.open_bytes));
	e->session = st.session;
	e->connected = connected;
	e->copied = copied;
	e->due = due;
}

/* A checkpoint was compared with the secondary's memory and state. */
static void events_compared(struct events *e)
{
	const struct memcheck_result *res;
	struct node *n = e->n;
	json_t *data = NULL, *ranges;
	uint64_t checks;

	pthread_mutex_lock(&n->lock);
	checks = n->sender ? sender_checked(n->sender, &res) : 0;
	if (checks > e->checks) {
		ranges = json_array();
		for (unsigned i = 0; i < res->nranges; i++)
			json_array_append_new(ranges,
				json_pack("{s:s,s:I,s:I}", "volume",
					res->ranges[i].volume == n->nvolumes ? "ram" : "state",
					"offset", (json_int_t)res->ranges[i].offset, "length",
					(json_int_t)res->ranges[i].length));
		data = json_pack("{s:I,s:I,s:I,s:o}", "epoch", (json_int_t)res->epoch, "bytes",
			(json_int_t)res->bytes, "differ", (json_int_t)res->differ, "ranges",
			ranges);
	}
	pthread_mutex_unlock(&n->lock);
	e->checks = checks;
	if (data)
		e->say(e->ctx, "CHECKPOINT_COMPARED", data);
}

static void events_status(struct events *e)
{
	json_t *s = answer_status(e->n);
	const char *state = json_string_value(json_object_get(s, "state"));
	const char *reason = json_string_value(json_object_get(s, "reason"));
	uint64_t committed = (uint64_t)json_integer_value(
		json_object_get(json_object_get(s, "epoch"), "committed"));

	if (strcmp(state, e->state) != 0 || strcmp(reason, e->reason) != 0) {
		snprintf(e->state, sizeof(e->state), "%s", state);
		snprintf(e->reason, sizeof(e->reason), "%s", reason);
		e->say(e->ctx, "STATE",
			json_pack("{s:s,s:O,s:O}", "state", state, "reason",
				json_object_get(s, "reason"), "role", json_object_get(s, "role")));
	}
	if (committed != e->committed) {
		e->committed = committed;
		e->say(e->ctx, "EPOCH_COMMITTED",
			json_pack("{s:I}", "epoch", (json_int_t)committed));
	}
	if (e->n->guest) {
		events_guest(e);
		events_compared(e);
	}
	json_decref(s);
}

static void events_counters(struct events *e)
{
	struct node_counters c;

	status_counters(e->n, &c);
	if (c.discards != e->counters.discards)
		e->say(e->ctx, "EPOCH_DISCARDED",
			json_pack("{s:I,s:I}", "epoch", (json_int_t)c.discarded, "epochs",
				(json_int_t)(c.discards - e->counters.discards)));
	if (c.syncs != e->counters.syncs)
		e->say(e->ctx, "SYNC_COMPLETED",
			json_pack("{s:I}", "bytes", (json_int_t)c.sync_bytes));
	if (c.fulls != e->counters.fulls)
		e->say(e->ctx, "JOURNAL_FULL", json_object());
	e->counters = c;
}

void events_look(struct events *e)
{
	events_status(e);
	events_counters(e);
}

void events_skip(struct events *e)
{
	const struct memcheck_result *ignored;
	struct node *n = e->n;

	status_counters(n, &e->counters);
	pthread_mutex_lock(&n->lock);
	e->checks = n->sender ? sender_checked(n->sender, &ignored) : 0;
	pthread_mutex_unlock(&n->lock);
}
