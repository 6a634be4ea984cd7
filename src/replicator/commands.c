/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The commands of the control interface. */
#include "replicator/commands.h"

#include <errno.h>
#include <string.h>

#include "replicator/grow.h"
#include "replicator/local.h"
#include "replicator/promote.h"
#include "replicator/receiver.h"
#include "replicator/resolve.h"
#include "replicator/sender.h"
#include "replicator/shutdown.h"
#include "replicator/verify.h"
#include "util/clock.h"

#define COMMAND_TIMEOUT_MS 30000

const char *command_kind_name(enum error_kind kind)
{
	switch (kind) {
	case ERROR_USAGE:
		return "usage";
	case ERROR_STATE:
		return "state";
	case ERROR_IO:
		return "io";
	case ERROR_PEER:
		return "peer";
	case ERROR_TIMEOUT:
		return "timeout";
	default:
		return "general";
	}
}

static int command_wrong_role(struct error *err, const char *what)
{
	return error_set(err, ERROR_STATE, -EINVAL, "%s", what);
}

static int command_query_status(struct command_call *c, json_t **ret, struct error *err)
{
	*ret = answer_status(c->n);
	return 0;
}

static int command_query_pending(struct command_call *c, json_t **ret, struct error *err)
{
	*ret = answer_pending(c->n);
	return 0;
}

int command_get_wait(struct command_call *c, const char *what, int *ret_kind, uint64_t *ret_ms,
	struct error *err)
{
	json_t *wait = json_object_get(c->arguments, "wait");
	json_t *timeout = json_object_get(c->arguments, "timeout-ms");
	const char *how = wait ? json_string_value(wait) : "none";
	json_int_t ms = timeout ? json_integer_value(timeout) : COMMAND_TIMEOUT_MS;

	if (strcmp(how, "none") != 0 && strcmp(how, "received") != 0 &&
		strcmp(how, "committed") != 0)
		return error_set(err, ERROR_USAGE, -EINVAL,
			"%s: wait is none, received or committed, not \"%.64s\"", what, how);
	if (ms < 0 || ms > 86400000)
		return error_set(
			err, ERROR_USAGE, -ERANGE, "%s: timeout-ms is 0 to 86400000", what);
	*ret_kind = how[0] == 'n' ? WAIT_NONE : how[0] == 'r' ? WAIT_RECEIVED : WAIT_COMMITTED;
	*ret_ms = (uint64_t)ms;
	return 0;
}

static int command_cut(struct command_call *c, json_t **ret, struct error *err)
{
	struct node *n = c->n;
	uint64_t epoch = 0, ms;
	int r, kind;

	r = command_get_wait(c, "cut", &kind, &ms, err);
	if (r < 0)
		return r;
	if (n->guest && kind != WAIT_NONE)
		return error_set(err, ERROR_USAGE, -EINVAL,
			"cut: with a guest it does not seal: give wait to seal");
	if (n->guest)
		return command_checkpoint_cut(c, ret, err);
	pthread_mutex_lock(&n->lock);
	r = n->sender                             ? sender_cut(n->sender, &epoch)
	    : local_is(n->receiver, LOCAL_INGEST) ? local_cut(n->receiver, &epoch)
						  : -ENOENT;
	pthread_mutex_unlock(&n->lock);
	if (r == -ENOENT)
		return command_wrong_role(err,
			"cut: this node is a secondary without ingest = nbd; cut on the primary");
	if (r == -EAGAIN && !n->sender)
		return error_set(err, ERROR_STATE, r,
			"cut: there is no room for one more empty epoch: the journal or the "
			"staging is full of what is not committed; commit or discard first");
	if (r < 0 && !n->sender)
		return error_set(err, ERROR_IO, r, "cut: this secondary has failed: %s", n->reason);
	if (r == -EBUSY)
		return error_set(err, ERROR_STATE, r,
			"cut: a full sync is under way, there is no epoch to end yet");
	if (r < 0)
		return error_set(err, ERROR_STATE, r, "cut: this primary is not replicating: %s",
			r == -EAGAIN ? "the queue is full" : n->reason);
	if (kind == WAIT_NONE) {
		*ret = json_pack("{s:I}", "epoch", (json_int_t)epoch);
		return 0;
	}
	c->wait.kind = kind;
	c->wait.epoch = epoch;
	c->wait.deadline = clock_ns() + ms * NS_PER_MS;
	return 0;
}

int command_wait_over(struct node *n, struct command_wait *w, json_t **ret, struct error *err)
{
	struct sender_status s = {0};
	struct receiver_status r = {0};
	uint64_t committed, received;
	bool sender;

	if (w->kind == WAIT_JOB)
		return command_job_over(n, w, ret, err);
	if (w->kind == WAIT_SWITCHOVER)
		return switchover_over(n, w, ret, err);
	pthread_mutex_lock(&n->lock);
	sender = n->sender != NULL;
	if (sender)
		sender_get_status(n->sender, &s);
	else if (n->receiver)
		receiver_get_status(n->receiver, &r);
	pthread_mutex_unlock(&n->lock);
	committed = sender ? s.committed : r.core.committed;
	received = sender ? s.received : r.core.received;
	if (committed >= w->epoch || (w->kind == WAIT_RECEIVED && received >= w->epoch)) {
		*ret = json_pack("{s:I}", "epoch", (json_int_t)w->epoch);
		return 1;
	}
	if (sender && s.state != PRIMARY_SYNCING && s.state != PRIMARY_PROTECTED)
		return error_set(err, ERROR_PEER, -ECONNRESET,
			"epoch %llu was not committed: the link was lost",
			(unsigned long long)w->epoch);
	if (!sender && r.core.mode == REPLICA_FAILED)
		return error_set(err, ERROR_IO, -EIO, "epoch %llu was not committed: %s",
			(unsigned long long)w->epoch, r.core.why);
	if (clock_ns() >= w->deadline)
		return error_set(err, ERROR_TIMEOUT, -ETIMEDOUT,
			"epoch %llu was cut, but not %s in time", (unsigned long long)w->epoch,
			w->kind == WAIT_RECEIVED ? "received" : "committed");
	return 0;
}

/* (L) A controller decides what commits here. */
static bool command_controlled(const struct node *n)
{
	return n->role == NODE_SECONDARY && n->receiver &&
	       (n->conf->commit_policy == CONF_COMMIT_MANUAL ||
		       local_is(n->receiver, LOCAL_INGEST));
}

static int command_commit(struct command_call *c, json_t **ret, struct error *err)
{
	json_t *arg = json_object_get(c->arguments, "epoch");
	struct node *n = c->n;
	struct receiver_status st;
	uint64_t epoch;
	bool ingest = false;
	int r = -ENOTSUP;

	pthread_mutex_lock(&n->lock);
	epoch = arg ? (uint64_t)json_integer_value(arg) : 0;
	if (command_controlled(n)) {
		receiver_get_status(n->receiver, &st);
		if (!arg)
			epoch = st.core.received;
		ingest = local_is(n->receiver, LOCAL_INGEST);
		r = ingest ? 0 : receiver_commit(n->receiver, epoch);
	}
	pthread_mutex_unlock(&n->lock);
	if (ingest) {
		/* Whose data it is, before it is committed; the fill notes it when it is. */
		if (st.core.mode == REPLICA_READY)
			r = node_note_ingest(n, 0, err);
		if (r < 0)
			return r;
		pthread_mutex_lock(&n->lock);
		r = local_commit(n->receiver, epoch);
		pthread_mutex_unlock(&n->lock);
	}
	if (r == -ENOTSUP)
		return command_wrong_role(err,
			"commit: only on a secondary with commit-policy = manual or ingest = nbd");
	if (r == -EILSEQ)
		return error_set(err, ERROR_STATE, r, "commit: epoch %llu lacks a write: %s",
			(unsigned long long)epoch, n->reason);
	if (r == -ENOENT)
		return error_set(err, ERROR_STATE, r,
			"commit: epoch %llu is not sealed here, or was discarded",
			(unsigned long long)epoch);
	if (r < 0 && r != -EALREADY)
		return error_code(err, r, "commit: epoch %llu", (unsigned long long)epoch);
	c->wait.kind = WAIT_COMMITTED;
	c->wait.epoch = epoch;
	c->wait.deadline = clock_ns() + COMMAND_TIMEOUT_MS * NS_PER_MS;
	return 0;
}

static int command_discard(struct command_call *c, json_t **ret, struct error *err)
{
	uint64_t epochs = 0, bytes = 0;
	struct node *n = c->n;
	struct receiver_status st;
	bool allowed;

	pthread_mutex_lock(&n->lock);
	allowed = command_controlled(n);
	if (allowed && local_is(n->receiver, LOCAL_INGEST)) {
		local_discard(n->receiver, &epochs, &bytes);
	} else if (allowed) {
		receiver_discard(n->receiver, false, 0, &epochs, &bytes);
		node_set_reason(n, "epochs were discarded; `tandem connect` begins again");
	}
	if (allowed)
		receiver_get_status(n->receiver, &st);
	pthread_mutex_unlock(&n->lock);
	if (!allowed)
		return command_wrong_role(err,
			"discard: only on a secondary with commit-policy = manual or ingest = nbd");
	*ret = json_pack("{s:I,s:I,s:I}", "epochs", (json_int_t)epochs, "bytes", (json_int_t)bytes,
		"committed", (json_int_t)st.core.committed);
	return 0;
}

static int command_promote(struct command_call *c, json_t **ret, struct error *err)
{
	bool force = json_is_true(json_object_get(c->arguments, "force"));
	bool disks_only = json_is_true(json_object_get(c->arguments, "disks-only"));
	struct promotion p;
	int r = promote(c->n, force, disks_only, &p, err);

	if (r < 0)
		return error_prefix(err, "promote");
	*ret = json_pack("{s:I,s:I,s:{s:I,s:I}}", "epoch", (json_int_t)p.epoch, "generation",
		(json_int_t)p.generation, "discarded", "epochs", (json_int_t)p.discarded_epochs,
		"bytes", (json_int_t)p.discarded_bytes);
	if (p.memory)
		json_object_set_new(*ret, "memory",
			json_pack("{s:I,s:I}", "epoch", (json_int_t)p.epoch, "state-bytes",
				(json_int_t)p.state_bytes));
	return 0;
}

static int command_connect(struct command_call *c, json_t **ret, struct error *err)
{
	json_t *session = json_object_get(c->arguments, "session");
	struct node *n = c->n;

	pthread_mutex_lock(&n->lock);
	if (session) {
		if (n->sender && json_integer_value(session) > 0)
			sender_restart(n->sender, (uint64_t)json_integer_value(session),
				"a new session was asked for");
	} else if (n->sender)
		sender_connect(n->sender);
	else if (n->receiver)
		receiver_connect(n->receiver);
	pthread_mutex_unlock(&n->lock);
	*ret = json_object();
	return 0;
}

static int command_disconnect(struct command_call *c, json_t **ret, struct error *err)
{
	const char *reason = json_string_value(json_object_get(c->arguments, "reason"));
	struct node *n = c->n;

	pthread_mutex_lock(&n->lock);
	if (n->sender)
		sender_disconnect(
			n->sender, reason && reason[0] ? reason : "disconnected by command");
	else if (n->receiver)
		receiver_disconnect(n->receiver);
	pthread_mutex_unlock(&n->lock);
	*ret = json_object();
	return 0;
}

static int command_resolve(struct command_call *c, json_t **ret, struct error *err)
{
	json_t *yield = json_object_get(c->arguments, "yield");
	int r;

	if (!yield)
		return error_set(err, ERROR_USAGE, -EINVAL, "resolve: argument yield is missing");
	r = resolve_running(c->n, json_is_true(yield), err);
	if (r < 0)
		return error_prefix(err, "resolve");
	*ret = json_object();
	return 0;
}

static int command_verify(struct command_call *c, json_t **ret, struct error *err)
{
	int r = verify_start(c->n, json_is_true(json_object_get(c->arguments, "repair")), err);

	if (r < 0)
		return error_prefix(err, "verify");
	*ret = json_object();
	return 0;
}

static int command_verify_cancel(struct command_call *c, json_t **ret, struct error *err)
{
	int r = verify_cancel(c->n, err);

	if (r < 0)
		return error_prefix(err, "verify");
	*ret = json_object();
	return 0;
}

static int command_query_verify(struct command_call *c, json_t **ret, struct error *err)
{
	*ret = verify_answer(c->n);
	return 0;
}

static int command_grow(struct command_call *c, json_t **ret, struct error *err)
{
	int r = grow_start(c->n, json_string_value(json_object_get(c->arguments, "disk")),
		json_is_true(json_object_get(c->arguments, "alone")), err);

	if (r < 0)
		return error_prefix(err, "grow");
	*ret = json_object();
	return 0;
}

static int command_query_grow(struct command_call *c, json_t **ret, struct error *err)
{
	*ret = grow_status(c->n);
	return 0;
}

static int command_shutdown(struct command_call *c, json_t **ret, struct error *err)
{
	shutdown_request();
	*ret = json_object();
	return 0;
}

static int command_events(struct command_call *c, json_t **ret, struct error *err)
{
	json_t *enable = json_object_get(c->arguments, "enable");

	if (!enable)
		return error_set(err, ERROR_USAGE, -EINVAL, "events: argument enable is missing");
	c->events_set = true;
	c->events = json_is_true(enable);
	*ret = json_object();
	return 0;
}

static int command_query_commands(struct command_call *c, json_t **ret, struct error *err);

struct command_argument {
	const char *name;
	json_type type; /* JSON_TRUE: a boolean */
};

static const struct command {
	const char *name;
	int (*fn)(struct command_call *c, json_t **ret, struct error *err);
	struct command_argument arguments[9];
	unsigned fds;
} commands[] = {
	{"query-commands", command_query_commands, {{0}}},
	{"query-status", command_query_status, {{0}}},
	{"query-pending", command_query_pending, {{0}}},
	{"cut", command_cut, {{"wait", JSON_STRING}, {"timeout-ms", JSON_INTEGER}}},
	{"commit", command_commit, {{"epoch", JSON_INTEGER}}},
	{"discard", command_discard, {{0}}},
	{"promote", command_promote, {{"force", JSON_TRUE}, {"disks-only", JSON_TRUE}}},
	{"checkpoint-begin", command_checkpoint_begin, {{0}}},
	{"submit", command_submit,
		{{"epoch", JSON_INTEGER}, {"runs", JSON_INTEGER}, {"table", JSON_INTEGER},
			{"state-bytes", JSON_INTEGER}, {"state-data", JSON_INTEGER},
			{"state-offset", JSON_INTEGER}, {"digests", JSON_INTEGER},
			{"digest-data", JSON_INTEGER}},
		2},
	{"seal", command_seal,
		{{"epoch", JSON_INTEGER}, {"wait", JSON_STRING}, {"timeout-ms", JSON_INTEGER}}},
	{"abandon", command_abandon, {{"epoch", JSON_INTEGER}}},
	{"standby-state", command_standby_state, {{"unready", JSON_STRING}}},
	{"query-memory", command_query_memory, {{0}}},
	{"query-state", command_query_state, {{0}}},
	{"release-memory", command_release_memory, {{0}}},
	{"switchover", command_switchover, {{"timeout-ms", JSON_INTEGER}}},
	{"resolve", command_resolve, {{"yield", JSON_TRUE}}},
	{"verify", command_verify, {{"repair", JSON_TRUE}}},
	{"verify-cancel", command_verify_cancel, {{0}}},
	{"query-verify", command_query_verify, {{0}}},
	{"grow", command_grow, {{"disk", JSON_STRING}, {"alone", JSON_TRUE}}},
	{"query-grow", command_query_grow, {{0}}},
	{"connect", command_connect, {{"session", JSON_INTEGER}}},
	{"disconnect", command_disconnect, {{"reason", JSON_STRING}}},
	{"shutdown", command_shutdown, {{0}}},
	{"events", command_events, {{"enable", JSON_TRUE}}},
};

static int command_query_commands(struct command_call *c, json_t **ret, struct error *err)
{
	json_t *list = json_object();

	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		json_t *arguments = json_object();

		for (const struct command_argument *a = commands[i].arguments; a->name; a++)
			json_object_set_new(arguments, a->name,
				json_string(a->type == JSON_STRING    ? "string"
					    : a->type == JSON_INTEGER ? "integer"
								      : "boolean"));
		json_object_set_new(list, commands[i].name, arguments);
	}
	*ret = json_pack("{s:o}", "commands", list);
	return 0;
}

static int command_check_arguments(const struct command *cmd, json_t *args, struct error *err)
{
	const char *key;
	json_t *value;

	json_object_foreach(args, key, value)
	{
		const struct command_argument *a = cmd->arguments;

		while (a->name && strcmp(a->name, key) != 0)
			a++;
		if (!a->name)
			return error_set(err, ERROR_USAGE, -EINVAL,
				"%s: unknown argument \"%.64s\"", cmd->name, key);
		if (a->type == JSON_TRUE ? !json_is_boolean(value) : json_typeof(value) != a->type)
			return error_set(err, ERROR_USAGE, -EINVAL,
				"%s: argument \"%s\" is of the wrong type", cmd->name, key);
	}
	return 0;
}

unsigned command_takes_fds(const char *name)
{
	for (size_t i = 0; name && i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(commands[i].name, name) == 0)
			return commands[i].fds;
	return 0;
}

int command_execute(const char *name, struct command_call *call, json_t **ret, struct error *err)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		int r;

		if (strcmp(commands[i].name, name) != 0)
			continue;
		r = command_check_arguments(&commands[i], call->arguments, err);
		return r < 0 ? r : commands[i].fn(call, ret, err);
	}
	return error_set(err, ERROR_USAGE, -ENOSYS, "unknown command \"%.64s\"", name);
}
