/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem switchover: the running guest moves to the other node. */
#include <stdio.h>

#include "cli/cli.h"
#include "cli/client.h"

int cmd_switchover(struct cli *cli, struct error *err)
{
	struct client *client;
	json_t *reply;
	int r = client_connect_socket(cli, CLIENT_AGENT, &client, err);

	if (r < 0)
		return r;
	r = client_execute(client, "switchover", NULL, CLIENT_ANSWER_MS, &reply, err);
	(void)client_free(client);
	if (r < 0)
		return r;
	json_decref(reply);
	printf("node %s has handed the guest over\n", cli->node->name);
	return 0;
}
