/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem grow: disks whose files, devices or exports were enlarged on both nodes become larger for
 * their clients. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/reply.h"
#include "util/units.h"

static void grow_progress(const json_t *reply)
{
	uint64_t done = 0, total = 0;
	char d[32], t[32];

	if (!reply_u64(reply, "done", &done) || !reply_u64(reply, "total", &total))
		return;
	fprintf(stderr, "\r%s of %s of new parts are on the secondary\033[K",
		units_format_size(done, d, sizeof(d)), units_format_size(total, t, sizeof(t)));
}

static int grow_print(const json_t *reply, struct error *err)
{
	const char *why = reply_text(reply, "reason"), *kind = reply_text(reply, "kind"), *name;
	const json_t *disk;

	json_object_foreach((json_t *)reply_get(reply, "disks"), name, disk)
	{
		uint64_t from = 0, to = 0;

		(void)reply_u64(disk, "from", &from);
		(void)reply_u64(disk, "to", &to);
		printf("disk %s has grown from %" PRIu64 " to %" PRIu64 " bytes\n", name, from, to);
	}
	if (strcmp(reply_text(reply, "state"), "failed") == 0)
		return error_set(err, client_kind(kind ? kind : ""), -ECANCELED, "grow: %s",
			why ? why : "no reason is given");
	printf("clients that connect from now on see it; for those of before see tandem(1)\n");
	return 0;
}

int cmd_grow(struct cli *cli, struct error *err)
{
	json_t *arguments = json_pack("{s:b}", "alone", cli->args.alone), *reply;
	struct client *client;
	int r = client_connect(cli, &client, err);

	if (cli->args.disk)
		json_object_set_new(arguments, "disk", json_string(cli->args.disk));
	if (r < 0) {
		json_decref(arguments);
		return r;
	}
	r = client_execute(client, "grow", arguments, CLIENT_ANSWER_MS, &reply, err);
	if (r == 0) {
		json_decref(reply);
		r = follow(client, "query-grow", grow_progress, &reply, err);
	}
	if (r == 0) {
		r = grow_print(reply, err);
		json_decref(reply);
	}
	(void)client_free(client);
	return r;
}
