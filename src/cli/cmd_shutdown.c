/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem shutdown: ends a node, and waits until its process is gone, so that what follows in a
 * script may use its disks. */
#include <stdio.h>

#include "cli/cli.h"
#include "cli/client.h"

#define SHUTDOWN_WAIT_MS 30000 /* a primary may take 10 s for the last commit, then flushes */

int cmd_shutdown(struct cli *cli, struct error *err)
{
	struct client *client;
	json_t *reply;
	int r;

	/* Where an agent runs the node, it is what ends; with it go the guest and the replicator.
	 */
	r = client_connect_socket(cli, CLIENT_AGENT, &client, NULL);
	if (r < 0)
		r = client_connect(cli, &client, err);
	if (r < 0)
		return r;
	r = client_execute(client, "shutdown", NULL, CLIENT_ANSWER_MS, &reply, err);
	if (r == 0) {
		json_decref(reply);
		r = client_wait_end(client, SHUTDOWN_WAIT_MS, err);
	}
	(void)client_free(client);
	if (r == 0)
		printf("node %s has ended\n", cli->node->name);
	return r;
}
