/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem status: once, or (--watch) again at each interval and at once when the node's state
 * changes. A watch goes on when the node stops, and finds it again when it comes back. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/reply.h"
#include "cli/status_text.h"
#include "replicator/metafile.h"
#include "replicator/node.h"
#include "util/bytes.h"
#include "util/clock.h"

#define STATUS_INTERVAL_MS 1000
#define STATUS_GUEST_MS 2000        /* an agent in the middle of a checkpoint answers after it */
#define STATUS_HOME "\033[H"        /* cursor to the top left */
#define STATUS_CLEAR "\033[H\033[J" /* and nothing below */

/* No process runs, as opposed to one that cannot be asked. */
static bool status_is_stopped(const struct error *err)
{
	return err->kind == ERROR_UNREACHABLE &&
	       (err->code == -ENOENT || err->code == -ECONNREFUSED);
}

/* The role of a node that does not run is that of its last run; where that cannot be read it is
 * "secondary": it certainly is no primary now. */
static const char *status_last_role(const struct cli *cli, bool *ret_initialised)
{
	char path[PATH_MAX];
	struct error ignored;
	struct metafile f;
	bool primary;

	(void)node_path(cli->node->state_dir, "group.meta", path, sizeof(path));
	*ret_initialised = access(path, F_OK) == 0 || errno != ENOENT;
	if (!*ret_initialised || metafile_open(&f, path, &ignored) < 0)
		return "secondary";
	primary = f.now.id.role == IDENTITY_PRIMARY;
	metafile_close(&f);
	return primary ? "primary" : "secondary";
}

/* What is shown in place of an answer: of a node that does not run, and (--watch only) of one that
 * runs and does not answer. */
static json_t *status_without_answer(const struct cli *cli, const struct error *why)
{
	bool stopped = why->code != -ETIMEDOUT, initialised;
	const char *role = status_last_role(cli, &initialised);
	char reason[PATH_MAX + 128];

	snprintf(reason, sizeof(reason), "%s", why->text);
	if (stopped && !initialised)
		snprintf(reason, sizeof(reason),
			"it is not initialised: there is no %s/group.meta; run tandem init first",
			cli->node->state_dir);
	return json_pack("{s:s, s:s, s:s, s:s, s:s}", "group", cli->conf->group, "node",
		cli->node->name, "role", role, "state", stopped ? "stopped" : "failed", "reason",
		reason);
}

/* A watch goes on then; else (no permission, no protocol) there is nothing to wait for. */
static bool status_may_come_back(const struct error *err)
{
	return status_is_stopped(err) || err->code == -ETIMEDOUT ||
	       (err->kind == ERROR_UNREACHABLE && err->code == -EPIPE);
}

/* Rows that a line takes on a terminal of that width (0: unknown). */
static size_t status_rows(const char *line, size_t columns)
{
	size_t len = strlen(line);

	return columns > 0 && len > columns ? (len + columns - 1) / columns : 1;
}

/* On a terminal: over what is there, each line cleared to its end, so that nothing flickers; and no
 * more than it has rows for, or the first lines, which matter most, would be scrolled away. */
static void status_redraw(const json_t *status, bool absent)
{
	struct winsize w = {0};
	char *text = NULL, *line, *rest;
	size_t len, left = SIZE_MAX;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return;
	status_text(f, status, absent);
	if (fclose(f) == 0) {
		if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_row > 1)
			left = w.ws_row - 1u; /* the last row is the cursor's */
		fputs(STATUS_HOME, stdout);
		for (rest = text; (line = strsep(&rest, "\n")) && rest;) {
			size_t rows = status_rows(line, w.ws_col);

			if (rows > left && line != text) {
				fputs("...", stdout);
				break;
			}
			printf("%s\033[K\n", line);
			left -= min_u64(rows, left);
		}
		fputs("\033[J", stdout);
	}
	free(text);
}

static int status_show(
	const struct cli *cli, const json_t *status, bool absent, bool terminal, struct error *err)
{
	int r = 0;

	if (cli->args.json)
		r = reply_print_json(status, cli->args.watch, err);
	else if (!cli->args.watch)
		status_text(stdout, status, absent);
	else if (terminal)
		status_redraw(status, absent);
	else
		status_line(stdout, status);
	if (r == 0 && fflush(stdout) != 0)
		r = error_errno(err, "cannot write to standard output");
	return r;
}

/* Until then, or until the node says that its state changed. */
static int status_wait(struct client *client, uint64_t until, struct error *err)
{
	for (;;) {
		const char *name;
		json_t *event;
		bool changed;
		int r = client_wait_event(client, until, &event, err);

		if (r < 0 || !event)
			return r;
		name = reply_text(event, "event");
		changed = name && (!strcmp(name, "STATE") || !strcmp(name, "SYNC_COMPLETED"));
		json_decref(event);
		if (changed)
			return 0;
	}
}

static void status_sleep(uint64_t until)
{
	uint64_t now;

	while ((now = clock_ns()) < until)
		(void)poll(NULL, 0, (int)((until - now) / NS_PER_MS) + 1);
}

static int status_open(const struct cli *cli, struct client **client, struct error *err)
{
	json_t *reply;
	int r = client_connect(cli, client, err);

	if (r < 0)
		return r;
	r = client_execute(
		*client, "events", json_pack("{s:b}", "enable", 1), CLIENT_QUERY_MS, &reply, err);
	if (r == 0)
		json_decref(reply);
	else
		*client = client_free(*client);
	return r;
}

/* What the agent says of its guest, where the node has one; nothing where it does not answer. */
static void status_add_guest(const struct cli *cli, json_t *status)
{
	static const char *const members[] = {
		"running", "ready", "unready", "phase", "lag-ms", "slowed"};
	struct client *client = NULL;
	json_t *guest = NULL, *shown;
	struct error ignored;

	if (!cli->conf->guest_memory ||
		client_connect_socket(cli, CLIENT_AGENT, &client, &ignored) < 0)
		return;
	if (client_execute(client, "query-guest", json_pack("{s:i}", "last", 1), STATUS_GUEST_MS,
		    &guest, &ignored) == 0) {
		shown = json_object();
		for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
			(void)json_object_set(
				shown, members[i], json_object_get(guest, members[i]));
		(void)json_object_set_new(status, "guest", shown);
		json_decref(guest);
	}
	(void)client_free(client);
}

static int status_watch(struct cli *cli, struct error *err)
{
	uint64_t interval = cli->args.interval_ms ? cli->args.interval_ms : STATUS_INTERVAL_MS;
	bool terminal = isatty(STDOUT_FILENO) == 1;
	struct client *client = NULL;
	int r;

	if (terminal && !cli->args.json)
		fputs(STATUS_CLEAR, stdout);
	do {
		uint64_t until = clock_ns() + interval * NS_PER_MS;
		json_t *status = NULL;
		bool absent;

		r = client ? 0 : status_open(cli, &client, err);
		if (r == 0)
			r = client_execute(
				client, "query-status", NULL, CLIENT_QUERY_MS, &status, err);
		if (r == 0)
			status_add_guest(cli, status);
		absent = r < 0 && status_may_come_back(err);
		if (absent) {
			client = client_free(client);
			status = status_without_answer(cli, err);
			r = 0;
		}
		if (r == 0)
			r = status_show(cli, status, absent, terminal, err);
		json_decref(status);
		if (r == 0 && client && status_wait(client, until, err) < 0)
			client = client_free(client); /* the next round tells */
		if (r == 0 && !client)
			status_sleep(until);
	} while (r == 0);
	(void)client_free(client);
	return r;
}

int cmd_status(struct cli *cli, struct error *err)
{
	json_t *status = NULL;
	int r;

	if (cli->args.watch)
		return status_watch(cli, err);
	r = client_command(cli, "query-status", NULL, CLIENT_QUERY_MS, &status, err);
	if (r == 0) {
		status_add_guest(cli, status);
		r = status_show(cli, status, false, false, err);
	} else if (status_is_stopped(err)) {
		/* An answer like any other, hence no message beside it; but scripts can tell. */
		struct error failed;

		status = status_without_answer(cli, err);
		err->text[0] = '\0';
		if (status_show(cli, status, true, false, &failed) < 0) {
			*err = failed;
			r = err->code;
		}
	}
	json_decref(status);
	return r;
}
