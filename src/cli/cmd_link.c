/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem connect, tandem disconnect: the link to the other node. */
#include <stdio.h>

#include "cli/cli.h"
#include "cli/client.h"

static int link_command(struct cli *cli, const char *done, struct error *err)
{
	json_t *reply;
	int r = client_command(cli, cli->command->name, NULL, CLIENT_ANSWER_MS, &reply, err);

	if (r < 0)
		return r;
	json_decref(reply);
	printf("node %s: %s\n", cli->node->name, done);
	return 0;
}

int cmd_connect(struct cli *cli, struct error *err)
{
	return link_command(cli, "the link is allowed", err);
}

int cmd_disconnect(struct cli *cli, struct error *err)
{
	return link_command(cli, "the link is closed, and stays closed until `connect`", err);
}
