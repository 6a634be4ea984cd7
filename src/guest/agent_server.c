/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* RUN_DIR/agent.sock: what only the agent can do or knows, as JSON lines like the replicator's
 * control socket: query-guest, switchover, verify, shutdown (docs/guest.md).  A line at a time,
 * small answers. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "guest/agent_internal.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/file.h"

static const char *server_path(const struct agent *a, char *buf, size_t len)
{
	return snprintf(buf, len, "%s/agent.sock", a->node->run_dir) < (int)len ? buf : NULL;
}

/* One agent a node: who holds this lock has the socket. */
static int server_lock(struct agent *a, struct error *err)
{
	char path[512];
	int fd, r;

	snprintf(path, sizeof(path), "%s/agent.lock", a->node->run_dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	r = fd < 0 ? -errno : file_lock(fd);
	if (r == 0) {
		a->lock = fd;
		return 0;
	}
	if (fd >= 0)
		close(fd);
	return r == -EBUSY ? error_set(err, ERROR_BUSY, r, "an agent of node %s runs already",
				     a->node->name)
			   : error_code(err, r, "agent: cannot lock %s", path);
}

int agent_server_start(struct agent *a, struct error *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd, r;

	r = file_mkdirs(a->node->run_dir, 0755);
	if (r < 0)
		return error_code(err, r, "cannot create run-dir %.300s", a->node->run_dir);
	if (!server_path(a, addr.sun_path, sizeof(addr.sun_path)))
		return error_set(err, ERROR_CONFIG, -ENAMETOOLONG,
			"run-dir %.200s is too long for a socket", a->node->run_dir);
	r = server_lock(a, err);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	unlink(addr.sun_path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
		chmod(addr.sun_path, 0600) < 0 || listen(fd, AGENT_CLIENTS) < 0) {
		(void)error_errno(err, "agent socket: cannot listen on %s", addr.sun_path);
		if (fd >= 0)
			close(fd);
		return -EIO;
	}
	a->server = fd;
	return 0;
}

static void server_drop(struct agent *a, struct agent_client *c)
{
	if (a->switchover == c)
		a->switchover = NULL;
	agent_verify_gone(a, c);
	close(c->fd);
	c->fd = -1;
	c->len = 0;
}

void agent_server_end(struct agent *a)
{
	char path[128];

	for (int i = 0; i < AGENT_CLIENTS; i++)
		if (a->clients[i].fd >= 0)
			server_drop(a, &a->clients[i]);
	if (a->server < 0)
		return;
	close(a->server);
	a->server = -1;
	if (server_path(a, path, sizeof(path)))
		unlink(path);
	close(a->lock); /* the file stays: who opens it meanwhile must lock the same one */
	a->lock = -1;
}

static void server_say(struct agent_client *c, json_t *o)
{
	char *text = json_dumps(o, JSON_COMPACT);

	json_decref(o);
	if (text && c->fd >= 0) {
		/* Small answers into an empty socket buffer; a client that is gone is found by
		 * read. */
		(void)send(c->fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
		(void)send(c->fd, "\n", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	free(text);
}

void agent_server_accept(struct agent *a)
{
	int fd = accept4(a->server, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	for (int i = 0; fd >= 0 && i < AGENT_CLIENTS; i++) {
		if (a->clients[i].fd >= 0)
			continue;
		a->clients[i] = (struct agent_client){.fd = fd};
		server_say(&a->clients[i],
			json_pack("{s:{s:s,s:i,s:s,s:s}}", "tandem", "version", TANDEM_VERSION,
				"control", 1, "group", a->conf->group, "node", a->node->name));
		return;
	}
	if (fd >= 0)
		close(fd);
}

void agent_server_answer(struct agent_client *c, int r, const struct error *err)
{
	static const char *const kinds[] = {[ERROR_USAGE] = "usage",
		[ERROR_STATE] = "state",
		[ERROR_IO] = "io",
		[ERROR_PEER] = "peer",
		[ERROR_TIMEOUT] = "timeout"};
	const char *kind = NULL;

	if (!c)
		return;
	if (r == 0) {
		server_say(c, json_pack("{s:{},s:I}", "return", "id", c->id));
		return;
	}
	if (err->kind < sizeof(kinds) / sizeof(kinds[0]))
		kind = kinds[err->kind];
	server_say(c, json_pack("{s:{s:s,s:s},s:I}", "error", "kind", kind ? kind : "general",
			      "desc", err->text, "id", c->id));
}

static int server_compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

void agent_server_return(struct agent_client *c, json_t *answer)
{
	server_say(c, json_pack("{s:o,s:I}", "return", answer, "id", c->id));
}

/* The i-th last checkpoint, from 0. */
static const struct checkpoint_times *server_sample(const struct agent *a, uint64_t i)
{
	return &a->samples[(a->checkpoints - 1 - i) % AGENT_SAMPLES];
}

/* p50, p90, p99 in microseconds of one part of the last n checkpoints. */
static json_t *server_part(const struct agent *a, uint64_t n, size_t offset)
{
	uint64_t v[AGENT_SAMPLES];

	for (uint64_t i = 0; i < n; i++)
		v[i] = *(const uint64_t *)((const char *)server_sample(a, i) + offset);
	qsort(v, n, sizeof(v[0]), server_compare);
	if (n == 0)
		return json_null();
	return json_pack("{s:I,s:I,s:I,s:I}", "p50", (json_int_t)(v[n / 2] / 1000), "p90",
		(json_int_t)(v[n * 9 / 10] / 1000), "p99", (json_int_t)(v[n * 99 / 100] / 1000),
		"max", (json_int_t)(v[n - 1] / 1000));
}

/* last: of that many checkpoints at most. */
static json_t *server_guest(const struct agent *a, uint64_t last)
{
	static const char *const phases[] = {[AGENT_SOLO] = "solo",
		[AGENT_ROUNDS] = "syncing",
		[AGENT_CHECKPOINT] = "protected"};
	uint64_t n = min_u64(min_u64(a->checkpoints, AGENT_SAMPLES), last), pages = 0;
	bool vm = a->vm.pid > 0;

	uint64_t now = clock_ns();
	json_t *lag = a->committed_at
			      ? json_integer((json_int_t)((now - a->committed_at) / NS_PER_MS))
			      : json_null();

	for (uint64_t i = 0; i < n; i++)
		pages += server_sample(a, i)->pages + server_sample(a, i)->ahead;
	return json_pack(
		"{s:b,s:b,s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:o,s:I,s:{s:o,s:o,s:o,s:o,s:o,s:o}}",
		"running", vm, "ready", agent_ahead_ready(a), "unready", vm ? "" : a->ready.why,
		"phase", vm ? phases[a->phase] : "standby", "machine", vm ? a->vm.machine : "",
		"capture", vm && a->ds.q ? devstate_name(&a->ds) : "", "tracking",
		a->track ? a->track->ops->name : "", "checkpoints", (json_int_t)a->checkpoints,
		"sealed", (json_int_t)a->sealed, "committed", (json_int_t)a->committed, "pages",
		(json_int_t)(n ? pages / n : 0), "lag-ms", lag, "slowed",
		(json_int_t)throttle_percent(a->throttle), "pause-us", "all",
		server_part(a, n, offsetof(struct checkpoint_times, pause)), "stop",
		server_part(a, n, offsetof(struct checkpoint_times, stop)), "scan",
		server_part(a, n, offsetof(struct checkpoint_times, scan)), "copy",
		server_part(a, n, offsetof(struct checkpoint_times, copy)), "cut",
		server_part(a, n, offsetof(struct checkpoint_times, cut)), "state",
		server_part(a, n, offsetof(struct checkpoint_times, state)));
}

static void server_line(struct agent *a, struct agent_client *c, const char *line)
{
	json_t *request = json_loads(line, 0, NULL);
	const char *what = json_string_value(json_object_get(request, "execute"));
	json_int_t last =
		json_integer_value(json_object_get(json_object_get(request, "arguments"), "last"));
	struct error err = {0};

	c->id = json_integer_value(json_object_get(request, "id"));
	if (what && !strcmp(what, "query-guest")) {
		server_say(c, json_pack("{s:o,s:I}", "return",
				      server_guest(a, last > 0 ? (uint64_t)last : AGENT_SAMPLES),
				      "id", c->id));
	} else if (what && !strcmp(what, "switchover") && a->vm.pid > 0 && !a->switchover) {
		a->switchover = c; /* answered when it is over */
	} else if (what && !strcmp(what, "switchover")) {
		(void)error_set(&err, ERROR_STATE, -EINVAL, "switchover: %s",
			a->switchover ? "one is under way"
				      : "the guest does not run here: ask the primary");
		agent_server_answer(c, -1, &err);
	} else if (what && !strcmp(what, "verify")) {
		/* answered when the secondary has */
		if (agent_verify_begin(a, c,
			    json_is_true(json_object_get(
				    json_object_get(request, "arguments"), "repair")),
			    &err) < 0)
			agent_server_answer(c, -1, &err);
	} else if (what && !strcmp(what, "shutdown")) {
		a->stop = true;
		agent_server_answer(c, 0, NULL);
	} else {
		(void)error_set(
			&err, ERROR_USAGE, -EINVAL, "unknown command \"%.64s\"", what ? what : "");
		agent_server_answer(c, -1, &err);
	}
	json_decref(request);
}

void agent_server_read(struct agent *a, struct agent_client *c)
{
	ssize_t n = recv(c->fd, c->in + c->len, sizeof(c->in) - 1 - c->len, MSG_DONTWAIT);
	char *end;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || c->len + (size_t)n == sizeof(c->in) - 1) {
		server_drop(a, c);
		return;
	}
	c->len += (size_t)n;
	c->in[c->len] = '\0';
	while (c->fd >= 0 && (end = strchr(c->in, '\n'))) {
		*end = '\0';
		server_line(a, c, c->in);
		c->len -= (size_t)(end + 1 - c->in);
		memmove(c->in, end + 1, c->len + 1);
	}
}
