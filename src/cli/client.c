/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Client of a node's control socket; see client.h. */
#include "cli/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/lines.h"
#include "cli/reply.h"
#include "util/clock.h"

#define CLIENT_CONTROL_VERSION 1
#define CLIENT_GREETING_MS 5000

struct client {
	const struct cli *cli;
	struct lines lines;
	char path[CLIENT_PATH_SIZE];
	json_int_t id; /* of the newest request */
	int process;   /* pidfd of the node, or -1 where there is none to be had */
};

static uint64_t client_deadline(uint64_t ms)
{
	return clock_ns() + ms * NS_PER_MS;
}

const char *client_socket(
	const struct conf_node *node, const char *name, char *buf, struct error *err)
{
	if (snprintf(buf, CLIENT_PATH_SIZE, "%s/%s", node->run_dir, name) < CLIENT_PATH_SIZE)
		return buf;
	(void)error_set(err, ERROR_CONFIG, -ENAMETOOLONG,
		"socket %s in run-dir %.300s of node %s: the path is longer than %d bytes", name,
		node->run_dir, node->name, CLIENT_PATH_SIZE - 1);
	return NULL;
}

/* The error of lines_read or lines_write, while doing what. */
static int client_lost(struct client *c, int code, const char *what, struct error *err)
{
	const char *node = c->cli->node->name;

	switch (code) {
	case -ETIMEDOUT:
		return error_set(
			err, ERROR_TIMEOUT, code, "node %s: %s: no answer in time", node, what);
	case -EMSGSIZE:
		return error_set(err, ERROR_GENERAL, code,
			"node %s: %s: the answer on %s is longer than %u bytes", node, what,
			c->path, LINES_MAX);
	case -EPIPE:
		return error_set(err, ERROR_UNREACHABLE, code,
			"node %s: %s: it ended the connection without an answer", node, what);
	default:
		(void)error_code(err, code, "node %s: %s: %s", node, what, c->path);
		err->kind = ERROR_UNREACHABLE;
		return code;
	}
}

/* The error of lines_connect: no node runs, or it cannot be asked. */
static int client_not_connected(struct client *c, int code, struct error *err)
{
	const char *node = c->cli->node->name, *group = c->cli->conf->group;

	switch (code) {
	case -ENOENT:
		return error_set(err, ERROR_UNREACHABLE, code,
			"node %s of group %s is not running: there is no socket %s", node, group,
			c->path);
	case -ECONNREFUSED:
		return error_set(err, ERROR_UNREACHABLE, code,
			"node %s of group %s is not running: nobody listens on %s", node, group,
			c->path);
	case -EACCES:
	case -EPERM:
		return error_set(err, ERROR_UNREACHABLE, code,
			"node %s of group %s: cannot connect to %s: %s; only root and the user "
			"that runs the node can",
			node, group, c->path, strerror(-code));
	case -ETIMEDOUT:
		return error_set(err, ERROR_UNREACHABLE, code,
			"node %s of group %s: it does not accept a connection on %s", node, group,
			c->path);
	default:
		return error_set(err, ERROR_UNREACHABLE, code,
			"node %s of group %s: cannot connect to %s: %s", node, group, c->path,
			strerror(-code));
	}
}

static int client_garbage(struct client *c, const char *what, const char *why, struct error *err)
{
	return error_set(err, ERROR_GENERAL, -EPROTO,
		"node %s: %s: what answers on %s does not speak the control protocol: %.200s",
		c->cli->node->name, what, c->path, why);
}

/* The next message; an object. */
static int client_read(struct client *c, uint64_t deadline, const char *what, json_t **ret_message,
	struct error *err)
{
	json_error_t bad;
	json_t *m;
	char *line;
	size_t len;
	int r = lines_read(&c->lines, deadline, &line, &len);

	if (r < 0)
		return client_lost(c, r, what, err);
	m = json_loadb(line, len, JSON_REJECT_DUPLICATES, &bad);
	if (!m)
		return client_garbage(c, what, bad.text, err);
	if (!json_is_object(m)) {
		json_decref(m);
		return client_garbage(c, what, "not a JSON object", err);
	}
	*ret_message = m;
	return 0;
}

static int client_check_greeting(struct client *c, const json_t *greeting, struct error *err)
{
	const struct cli *cli = c->cli;
	const char *group = reply_text(greeting, "tandem.group");
	const char *node = reply_text(greeting, "tandem.node");
	uint64_t version;

	if (!group || !node || !reply_u64(greeting, "tandem.control", &version))
		return client_garbage(c, "greeting", "it lacks group, node or control", err);
	if (version != CLIENT_CONTROL_VERSION)
		return error_set(err, ERROR_GENERAL, -EPROTO,
			"node %s: it speaks version %llu of the control interface, this program "
			"version %d",
			cli->node->name, (unsigned long long)version, CLIENT_CONTROL_VERSION);
	if (strcmp(group, cli->conf->group) != 0 || strcmp(node, cli->node->name) != 0)
		return error_set(err, ERROR_GENERAL, -EPROTO,
			"node %s of group %s: on %s answers node %.64s of group %.64s",
			cli->node->name, cli->conf->group, c->path, node, group);
	return 0;
}

/* Who listens there, to see its end; without a pidfd, the end of the connection must do. */
static void client_find_process(struct client *c)
{
	struct ucred peer = {.pid = 0};
	socklen_t len = sizeof(peer);

	if (getsockopt(c->lines.fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid > 0)
		c->process = (int)syscall(SYS_pidfd_open, peer.pid, 0);
}

int client_connect(const struct cli *cli, struct client **ret_client, struct error *err)
{
	return client_connect_socket(cli, CLIENT_NODE, ret_client, err);
}

int client_connect_socket(
	const struct cli *cli, const char *socket, struct client **ret_client, struct error *err)
{
	uint64_t deadline = client_deadline(CLIENT_GREETING_MS);
	struct client *c = calloc(1, sizeof(*c));
	json_t *greeting;
	int r;

	if (!c)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	*c = (struct client){.cli = cli, .lines = {.fd = -1}, .process = -1};
	r = -ENAMETOOLONG;
	if (!client_socket(cli->node, socket, c->path, err))
		goto fail;
	r = lines_connect(&c->lines, c->path, deadline);
	if (r < 0) {
		(void)client_not_connected(c, r, err);
		goto fail;
	}
	r = client_read(c, deadline, "greeting", &greeting, err);
	if (r < 0) {
		if (err->kind == ERROR_TIMEOUT)
			err->kind = ERROR_UNREACHABLE; /* it was not asked anything yet */
		goto fail;
	}
	r = client_check_greeting(c, greeting, err);
	json_decref(greeting);
	if (r < 0)
		goto fail;
	client_find_process(c);
	*ret_client = c;
	return 0;
fail:
	(void)client_free(c);
	return r;
}

struct client *client_free(struct client *c)
{
	if (!c)
		return NULL;
	if (c->process >= 0)
		close(c->process);
	lines_deinit(&c->lines);
	free(c);
	return NULL;
}

static int client_send(struct client *c, const char *command, json_t *arguments, uint64_t deadline,
	struct error *err)
{
	json_t *request = json_pack(
		"{s:s, s:o*, s:I}", "execute", command, "arguments", arguments, "id", ++c->id);
	char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	int r;

	json_decref(request);
	if (!text)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	r = lines_write(&c->lines, deadline, text, strlen(text));
	if (r == 0)
		r = lines_write(&c->lines, deadline, "\n", 1);
	free(text);
	return r < 0 ? client_lost(c, r, command, err) : 0;
}

enum error_kind client_kind(const char *name)
{
	static const struct {
		const char *name;
		enum error_kind kind;
	} kinds[] = {{"usage", ERROR_USAGE}, {"state", ERROR_STATE}, {"io", ERROR_IO},
		{"peer", ERROR_PEER}, {"timeout", ERROR_TIMEOUT}};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(kinds[i].name, name))
			return kinds[i].kind;
	return ERROR_GENERAL;
}

static int client_refused(
	struct client *c, const char *command, const json_t *message, struct error *err)
{
	const char *kind = reply_text(message, "error.kind");
	const char *desc = reply_text(message, "error.desc");

	if (!kind || !desc)
		return client_garbage(c, command, "an error without kind or desc", err);
	/* many begin with the command's name, for those who read them without this line */
	if (!strncmp(desc, command, strlen(command)) && !strncmp(desc + strlen(command), ": ", 2))
		desc += strlen(command) + 2;
	return error_set(err, client_kind(kind), -EREMOTEIO, "node %s: %s: %s", c->cli->node->name,
		command, desc);
}

/* What to do with a message while an answer is awaited: 1 = go on waiting. */
static int client_take(struct client *c, const char *command, json_t *message, json_t **ret_return,
	struct error *err)
{
	const json_t *id = json_object_get(message, "id");
	json_t *value = json_object_get(message, "return");

	if (json_object_get(message, "event"))
		return 1;
	/* An error without an id: the node could not read the request, and there is only one. */
	if (json_object_get(message, "error") && (!id || json_integer_value(id) == c->id))
		return client_refused(c, command, message, err);
	if (!json_is_integer(id) || json_integer_value(id) != c->id)
		return client_garbage(c, command, "an answer to another request", err);
	if (!json_is_object(value))
		return client_garbage(c, command, "an answer without \"return\"", err);
	*ret_return = json_incref(value);
	return 0;
}

int client_execute(struct client *c, const char *command, json_t *arguments, uint64_t wait_ms,
	json_t **ret_return, struct error *err)
{
	uint64_t deadline = client_deadline(wait_ms);
	int r = client_send(c, command, arguments, deadline, err);

	if (r < 0)
		return r;
	do {
		json_t *message;

		r = client_read(c, deadline, command, &message, err);
		if (r < 0)
			return r;
		r = client_take(c, command, message, ret_return, err);
		json_decref(message);
	} while (r > 0);
	return r;
}

int client_wait_event(struct client *c, uint64_t until, json_t **ret_event, struct error *err)
{
	int r = client_read(c, until, "events", ret_event, err);

	if (r != -ETIMEDOUT)
		return r;
	*ret_event = NULL;
	return 0;
}

int client_wait_end(struct client *c, uint64_t wait_ms, struct error *err)
{
	uint64_t deadline = client_deadline(wait_ms);
	struct pollfd p = {.fd = c->process, .events = POLLIN};
	size_t len;
	char *line;
	int r;

	do {
		r = lines_read(&c->lines, deadline, &line, &len); /* events */
	} while (r == 0);
	while (r == -EPIPE && c->process >= 0) {
		uint64_t now = clock_ns();
		int left = now < deadline ? (int)((deadline - now) / NS_PER_MS) : 0;
		int n = poll(&p, 1, left);

		if (n > 0)
			break;
		if (n == 0)
			r = -ETIMEDOUT;
		else if (errno != EINTR)
			r = -errno;
	}
	if (r == -EPIPE)
		return 0;
	if (r == -ETIMEDOUT)
		return error_set(err, ERROR_TIMEOUT, r, "node %s: it has not ended within %llu s",
			c->cli->node->name, (unsigned long long)wait_ms / 1000);
	return client_lost(c, r, "shutdown", err);
}

int client_command(const struct cli *cli, const char *command, json_t *arguments, uint64_t wait_ms,
	json_t **ret_return, struct error *err)
{
	struct client *c;
	int r = client_connect(cli, &c, err);

	if (r < 0) {
		json_decref(arguments);
		return r;
	}
	r = client_execute(c, command, arguments, wait_ms, ret_return, err);
	(void)client_free(c);
	return r;
}
