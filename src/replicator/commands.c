/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The commands of the control interface. */
#include "replicator/commands.h"

#include <errno.h>
#include <string.h>

#include "replicator/promote.h"
#include "replicator/receiver.h"
#include "replicator/sender.h"
#include "replicator/shutdown.h"
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

static int command_cut(struct command_call *c, json_t **ret, struct error *err)
{
	json_t *wait = json_object_get(c->arguments, "wait");
	json_t *timeout = json_object_get(c->arguments, "timeout-ms");
	const char *how = wait ? json_string_value(wait) : "none";
	struct node *n = c->n;
	uint64_t epoch = 0;
	json_int_t ms = timeout ? json_integer_value(timeout) : COMMAND_TIMEOUT_MS;
	int r;

	if (strcmp(how, "none") != 0 && strcmp(how, "received") != 0 &&
		strcmp(how, "committed") != 0)
		return error_set(err, ERROR_USAGE, -EINVAL,
			"cut: wait is none, received or committed, not \"%s\"", how);
	if (ms < 0 || ms > 86400000)
		return error_set(err, ERROR_USAGE, -ERANGE, "cut: timeout-ms is 0 to 86400000");
	pthread_mutex_lock(&n->lock);
	r = n->sender ? sender_cut(n->sender, &epoch) : -ENOENT;
	pthread_mutex_unlock(&n->lock);
	if (r == -ENOENT)
		return command_wrong_role(err, "cut: this node is a secondary; cut on the primary");
	if (r == -EBUSY)
		return error_set(err, ERROR_STATE, r,
			"cut: a full sync is under way, there is no epoch to end yet");
	if (r < 0)
		return error_set(err, ERROR_STATE, r, "cut: this primary is not replicating: %s",
			r == -EAGAIN ? "the queue is full" : n->reason);
	if (strcmp(how, "none") == 0) {
		*ret = json_pack("{s:I}", "epoch", (json_int_t)epoch);
		return 0;
	}
	c->wait.kind = how[0] == 'r' ? WAIT_RECEIVED : WAIT_COMMITTED;
	c->wait.epoch = epoch;
	c->wait.deadline = clock_ns() + (uint64_t)ms * NS_PER_MS;
	return 0;
}

int command_wait_over(struct node *n, const struct command_wait *w, json_t **ret, struct error *err)
{
	struct sender_status s = {0};
	struct receiver_status r = {0};
	uint64_t committed, received;
	bool sender;

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

static int command_commit(struct command_call *c, json_t **ret, struct error *err)
{
	json_t *arg = json_object_get(c->arguments, "epoch");
	struct node *n = c->n;
	struct receiver_status st;
	uint64_t epoch;
	int r = -ENOTSUP;

	pthread_mutex_lock(&n->lock);
	epoch = arg ? (uint64_t)json_integer_value(arg) : 0;
	if (n->receiver && n->conf->commit_policy == CONF_COMMIT_MANUAL) {
		receiver_get_status(n->receiver, &st);
		if (!arg)
			epoch = st.core.received;
		r = receiver_commit(n->receiver, epoch);
	}
	pthread_mutex_unlock(&n->lock);
	if (r == -ENOTSUP)
		return command_wrong_role(
			err, "commit: only on a secondary with commit-policy = manual");
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
	allowed = n->receiver && n->conf->commit_policy == CONF_COMMIT_MANUAL;
	if (allowed) {
		receiver_discard(n->receiver, false, 0, &epochs, &bytes);
		receiver_get_status(n->receiver, &st);
		node_set_reason(n, "epochs were discarded; `tandem connect` begins again");
	}
	pthread_mutex_unlock(&n->lock);
	if (!allowed)
		return command_wrong_role(
			err, "discard: only on a secondary with commit-policy = manual");
	*ret = json_pack("{s:I,s:I,s:I}", "epochs", (json_int_t)epochs, "bytes", (json_int_t)bytes,
		"committed", (json_int_t)st.core.committed);
	return 0;
}

static int command_promote(struct command_call *c, json_t **ret, struct error *err)
{
	bool force = json_is_true(json_object_get(c->arguments, "force"));
	struct promotion p;
	int r = promote(c->n, force, &p, err);

	if (r < 0)
		return error_prefix(err, "promote");
	*ret = json_pack("{s:I,s:I,s:{s:I,s:I}}", "epoch", (json_int_t)p.epoch, "generation",
		(json_int_t)p.generation, "discarded", "epochs", (json_int_t)p.discarded_epochs,
		"bytes", (json_int_t)p.discarded_bytes);
	return 0;
}

static int command_connect(struct command_call *c, json_t **ret, struct error *err)
{
	struct node *n = c->n;

	pthread_mutex_lock(&n->lock);
	if (n->sender)
		sender_connect(n->sender);
	else if (n->receiver)
		receiver_connect(n->receiver);
	pthread_mutex_unlock(&n->lock);
	*ret = json_object();
	return 0;
}

static int command_disconnect(struct command_call *c, json_t **ret, struct error *err)
{
	struct node *n = c->n;

	pthread_mutex_lock(&n->lock);
	if (n->sender)
		sender_disconnect(n->sender, "disconnected by command");
	else if (n->receiver)
		receiver_disconnect(n->receiver);
	pthread_mutex_unlock(&n->lock);
	*ret = json_object();
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
	struct command_argument arguments[3];
} commands[] = {
	{"query-commands", command_query_commands, {{0}}},
	{"query-status", command_query_status, {{0}}},
	{"query-pending", command_query_pending, {{0}}},
	{"cut", command_cut, {{"wait", JSON_STRING}, {"timeout-ms", JSON_INTEGER}}},
	{"commit", command_commit, {{"epoch", JSON_INTEGER}}},
	{"discard", command_discard, {{0}}},
	{"promote", command_promote, {{"force", JSON_TRUE}}},
	{"connect", command_connect, {{0}}},
	{"disconnect", command_disconnect, {{0}}},
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
