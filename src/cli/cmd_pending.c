/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem pending: what a failover now would lose. */
#include <stdio.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/reply.h"
#include "cli/status_text.h"

static int pending_print(const struct cli *cli, const json_t *reply, struct error *err)
{
	const json_t *replicating = json_object_get(reply, "replicating");
	char text[STATUS_PENDING_SIZE];
	static const struct {
		const char *member, *label;
	} rows[] = {{"not-received", "not received"}, {"not-committed", "not committed"}};

	if (json_is_false(replicating)) {
		printf("not replicating: nothing is queued; `tandem status` tells how far the "
		       "disks differ\n");
		return 0;
	}
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (!status_pending(json_object_get(reply, rows[i].member), text))
			return error_set(err, ERROR_GENERAL, -1,
				"node %s: pending: its answer lacks %s", cli->node->name,
				rows[i].member);
		printf("%-14s %s\n", rows[i].label, text);
	}
	return 0;
}

int cmd_pending(struct cli *cli, struct error *err)
{
	json_t *reply;
	int r = client_command(cli, "query-pending", NULL, CLIENT_QUERY_MS, &reply, err);

	if (r < 0)
		return r;
	r = cli->args.json ? reply_print_json(reply, false, err) : pending_print(cli, reply, err);
	json_decref(reply);
	return r;
}
