/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem status: once, or (--watch) again at each interval and at once when the node's state
 * changes. A watch goes on when the node stops, and finds it again when it comes back. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/reply.h"
#include "cli/status_text.h"
#include "util/clock.h"

#define STATUS_INTERVAL_MS 1000
#define STATUS_HOME "\033[H"        /* cursor to the top left */
#define STATUS_CLEAR "\033[H\033[J" /* and nothing below */

/* What is shown of a node that does not run: its role is not known then, and "secondary" stands for
 * "is certainly no primary now". */
static json_t *status_stopped(const struct cli *cli, const struct error *why)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:s}", "group", cli->conf->group, "node",
		cli->node->name, "role", "secondary", "state", "stopped", "reason", why->text);
}

static bool status_is_absence(const struct error *err)
{
	return err->kind == ERROR_UNREACHABLE || err->kind == ERROR_TIMEOUT;
}

/* On a terminal: over what is there, each line cleared to its end, so that nothing flickers. */
static void status_redraw(const json_t *status, bool stopped)
{
	char *text = NULL, *line, *rest;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return;
	status_text(f, status, stopped);
	if (fclose(f) == 0) {
		fputs(STATUS_HOME, stdout);
		for (rest = text; (line = strsep(&rest, "\n")) && rest;)
			printf("%s\033[K\n", line);
		fputs("\033[J", stdout);
	}
	free(text);
}

static int status_show(
	const struct cli *cli, const json_t *status, bool stopped, bool terminal, struct error *err)
{
	int r = 0;

	if (cli->args.json)
		r = reply_print_json(status, cli->args.watch, err);
	else if (!cli->args.watch)
		status_text(stdout, status, stopped);
	else if (terminal)
		status_redraw(status, stopped);
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
		bool stopped;

		r = client ? 0 : status_open(cli, &client, err);
		if (r == 0)
			r = client_execute(
				client, "query-status", NULL, CLIENT_QUERY_MS, &status, err);
		stopped = r < 0 && status_is_absence(err);
		if (stopped) {
			client = client_free(client);
			status = status_stopped(cli, err);
			r = 0;
		}
		if (r == 0)
			r = status_show(cli, status, stopped, terminal, err);
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
		r = status_show(cli, status, false, false, err);
	} else if (err->kind == ERROR_UNREACHABLE && cli->args.json) {
		struct error ignored;

		status = status_stopped(cli, err);
		(void)reply_print_json(status, false, &ignored); /* r says why already */
	}
	json_decref(status);
	return r;
}
