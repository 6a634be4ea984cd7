/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/follow.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/reply.h"
#include "util/clock.h"

#define FOLLOW_LOOK (200 * NS_PER_MS) /* sooner where the node sends an event */

int follow(struct client *client, const char *query, void (*progress)(const json_t *reply),
	json_t **ret_reply, struct error *err)
{
	bool terminal = isatty(STDERR_FILENO);
	json_t *reply = NULL, *event = NULL;
	const char *state;
	int r;

	for (;;) {
		r = client_execute(client, query, NULL, CLIENT_QUERY_MS, &reply, err);
		if (r < 0)
			return r;
		state = reply_text(reply, "state");
		if (!state || strcmp(state, "running") != 0)
			break;
		if (terminal)
			progress(reply);
		json_decref(reply);
		r = client_wait_event(client, clock_ns() + FOLLOW_LOOK, &event, err);
		json_decref(event);
		event = NULL;
		if (r < 0)
			return r;
	}
	if (terminal)
		fprintf(stderr, "\r\033[K");
	if (!state) {
		json_decref(reply);
		return error_set(err, ERROR_GENERAL, -EPROTO, "%s: the answer has no state", query);
	}
	*ret_reply = reply;
	return 0;
}
