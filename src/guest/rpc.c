/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON lines with overlapping requests; see rpc.h. */
#include "guest/rpc.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/clock.h"

static int rpc_lost(struct rpc *c, int code, const char *what, struct error *err)
{
	if (code == -ETIMEDOUT)
		return error_set(
			err, ERROR_TIMEOUT, code, "%s: %s: no answer in time", c->who, what);
	if (code == -EPIPE || code == -ECONNRESET)
		return error_set(err, ERROR_UNREACHABLE, -EPIPE, "%s: %s: it ended the connection",
			c->who, what);
	(void)error_code(err, code, "%s: %s", c->who, what);
	if (err)
		err->kind = ERROR_UNREACHABLE;
	return code;
}

static int rpc_garbage(struct rpc *c, const char *what, const char *why, struct error *err)
{
	return error_set(err, ERROR_GENERAL, -EPROTO,
		"%s: %s: it does not speak the protocol: %.200s", c->who, what, why);
}

/* The next message; an object. */
static int rpc_read(
	struct rpc *c, uint64_t deadline, const char *what, json_t **ret_message, struct error *err)
{
	json_error_t bad;
	json_t *m;
	char *line;
	size_t len;
	int r;

	do {
		r = lines_read(&c->lines, deadline, &line, &len);
		if (r < 0)
			return rpc_lost(c, r, what, err);
	} while (len == 0 || (len == 1 && line[0] == '\r'));
	m = json_loadb(line, len, 0, &bad);
	if (!m)
		return rpc_garbage(c, what, bad.text, err);
	if (!json_is_object(m)) {
		json_decref(m);
		return rpc_garbage(c, what, "not a JSON object", err);
	}
	*ret_message = m;
	return 0;
}

static int rpc_begin(
	struct rpc *c, const char *who, uint64_t deadline, json_t **ret_greeting, struct error *err)
{
	int r;

	snprintf(c->who, sizeof(c->who), "%s", who);
	c->id = 0;
	c->answers = json_array();
	c->events = json_array();
	r = c->answers && c->events ? rpc_read(c, deadline, "greeting", ret_greeting, err)
				    : error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	if (r < 0)
		rpc_deinit(c);
	return r;
}

int rpc_connect(struct rpc *c, const char *who, const char *path, uint64_t deadline,
	json_t **ret_greeting, struct error *err)
{
	int r = lines_connect(&c->lines, path, deadline);

	if (r < 0) {
		(void)error_code(err, r, "%s: cannot connect to %.200s", who, path);
		if (err)
			err->kind = ERROR_UNREACHABLE;
		return r;
	}
	return rpc_begin(c, who, deadline, ret_greeting, err);
}

int rpc_adopt(struct rpc *c, const char *who, int fd, uint64_t deadline, json_t **ret_greeting,
	struct error *err)
{
	int r = lines_adopt(&c->lines, fd);

	if (r < 0)
		return error_code(err, r, "%s: cannot use the socket", who);
	return rpc_begin(c, who, deadline, ret_greeting, err);
}

void rpc_deinit(struct rpc *c)
{
	lines_deinit(&c->lines);
	json_decref(c->answers);
	json_decref(c->events);
	c->answers = c->events = NULL;
}

int rpc_send(struct rpc *c, const char *command, json_t *arguments, int fd, uint64_t deadline,
	json_int_t *ret_id, struct error *err)
{
	return rpc_send_fds(c, command, arguments, &fd, fd >= 0, deadline, ret_id, err);
}

int rpc_send_fds(struct rpc *c, const char *command, json_t *arguments, const int *fds,
	unsigned nfds, uint64_t deadline, json_int_t *ret_id, struct error *err)
{
	json_t *request = json_pack(
		"{s:s, s:o*, s:I}", "execute", command, "arguments", arguments, "id", ++c->id);
	char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	char *line = text ? realloc(text, strlen(text) + 2) : NULL;
	int r;

	json_decref(request);
	if (!line) {
		free(text);
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	}
	strcat(line, "\n");
	r = nfds == 0 ? lines_write(&c->lines, deadline, line, strlen(line))
		      : lines_write_fds(&c->lines, deadline, line, strlen(line), fds, nfds);
	free(line);
	if (r < 0)
		return rpc_lost(c, r, command, err);
	*ret_id = c->id;
	return 0;
}

/* Keeps a message that is not the awaited answer. */
static int rpc_keep(struct rpc *c, json_t *message, struct error *err)
{
	bool event = json_object_get(message, "event") != NULL;

	if (json_array_size(event ? c->events : c->answers) >= RPC_EVENTS) {
		json_decref(message);
		return error_set(
			err, ERROR_GENERAL, -ENOBUFS, "%s: it sends more than is taken in", c->who);
	}
	if (json_array_append_new(event ? c->events : c->answers, message) < 0)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	return 0;
}

static int rpc_refused(struct rpc *c, const char *command, const json_t *message, struct error *err)
{
	static const struct {
		const char *name;
		enum error_kind kind;
	} kinds[] = {{"usage", ERROR_USAGE}, {"state", ERROR_STATE}, {"io", ERROR_IO},
		{"peer", ERROR_PEER}, {"timeout", ERROR_TIMEOUT}};
	const json_t *e = json_object_get(message, "error");
	const char *desc = json_string_value(json_object_get(e, "desc"));
	const char *kind = json_string_value(json_object_get(e, "kind"));
	enum error_kind found = ERROR_GENERAL;

	for (size_t i = 0; kind && i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(kinds[i].name, kind))
			found = kinds[i].kind;
	if (!desc)
		desc = "refused without a reason";
	/* The replicator names the command itself where that tells something; QEMU does not. */
	if (!strncmp(desc, command, strlen(command)) && desc[strlen(command)] == ':')
		return error_set(err, found, -EREMOTEIO, "%s: %s", c->who, desc);
	return error_set(err, found, -EREMOTEIO, "%s: %s: %s", c->who, command, desc);
}

/* Consumes the message. */
static int rpc_take(
	struct rpc *c, const char *command, json_t *message, json_t **ret_return, struct error *err)
{
	json_t *value = json_object_get(message, "return");
	int r = 0;

	if (json_object_get(message, "error"))
		r = rpc_refused(c, command, message, err);
	else if (!value)
		r = rpc_garbage(c, command, "an answer without \"return\"", err);
	else if (ret_return)
		*ret_return = json_incref(value);
	json_decref(message);
	return r;
}

int rpc_wait(struct rpc *c, const char *command, json_int_t id, uint64_t deadline,
	json_t **ret_return, struct error *err)
{
	json_t *message;
	size_t i;
	int r;

	json_array_foreach(c->answers, i, message)
	{
		if (json_integer_value(json_object_get(message, "id")) != id)
			continue;
		json_incref(message);
		json_array_remove(c->answers, i);
		return rpc_take(c, command, message, ret_return, err);
	}
	for (;;) {
		json_t *got;

		r = rpc_read(c, deadline, command, &message, err);
		if (r < 0)
			return r;
		got = json_object_get(message, "id");
		if (!json_object_get(message, "event") && (!got || json_integer_value(got) == id))
			return rpc_take(c, command, message, ret_return, err);
		r = rpc_keep(c, message, err);
		if (r < 0)
			return r;
	}
}

int rpc_execute(struct rpc *c, const char *command, json_t *arguments, int fd, uint64_t deadline,
	json_t **ret_return, struct error *err)
{
	json_int_t id = 0;
	int r = rpc_send(c, command, arguments, fd, deadline, &id, err);

	return r < 0 ? r : rpc_wait(c, command, id, deadline, ret_return, err);
}

int rpc_pump(struct rpc *c, struct error *err)
{
	for (;;) {
		json_t *message;
		struct error e;
		int r = rpc_read(c, 0, "events", &message, &e);

		if (r == -ETIMEDOUT)
			return 0;
		if (r == 0)
			r = rpc_keep(c, message, &e);
		if (r < 0) {
			if (err)
				*err = e;
			return r;
		}
	}
}

bool rpc_answered(const struct rpc *c, json_int_t id)
{
	for (size_t i = 0; i < json_array_size(c->answers); i++)
		if (json_integer_value(json_object_get(json_array_get(c->answers, i), "id")) == id)
			return true;
	return false;
}

bool rpc_has_event(const struct rpc *c, const char *name, size_t seen)
{
	for (size_t i = seen; i < json_array_size(c->events); i++) {
		const json_t *e = json_array_get(c->events, i);
		const char *n = json_string_value(json_object_get(e, "event"));

		if (n && !strcmp(n, name))
			return true;
	}
	return false;
}

int rpc_wait_event_or_answer(struct rpc *c, const char *name, size_t seen, json_int_t id,
	uint64_t deadline, struct error *err)
{
	while (!rpc_has_event(c, name, seen) && !rpc_answered(c, id)) {
		json_t *message;
		int r = rpc_read(c, deadline, name, &message, err);

		if (r == 0)
			r = rpc_keep(c, message, err);
		if (r < 0)
			return r;
	}
	return 0;
}

json_t *rpc_event(struct rpc *c)
{
	json_t *e = json_array_get(c->events, 0);

	if (!e)
		return NULL;
	json_incref(e);
	json_array_remove(c->events, 0);
	return e;
}

int rpc_wait_event(
	struct rpc *c, const char *name, uint64_t deadline, json_t **ret_event, struct error *err)
{
	size_t seen = 0;

	for (;;) {
		json_t *message;
		int r;

		for (; seen < json_array_size(c->events); seen++) {
			json_t *e = json_array_get(c->events, seen);
			const char *n = json_string_value(json_object_get(e, "event"));

			if (!n || strcmp(n, name) != 0)
				continue;
			json_incref(e);
			json_array_remove(c->events, seen);
			*ret_event = e;
			return 0;
		}
		r = rpc_read(c, deadline, name, &message, err);
		if (r == 0)
			r = rpc_keep(c, message, err);
		if (r < 0)
			return r;
	}
}
