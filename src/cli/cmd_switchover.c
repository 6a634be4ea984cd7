/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem switchover: the running guest, or the role of a primary of disks only, moves to the other
 * node.  A primary that handed over ends: this waits until its process is gone. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/reply.h"

#define SWITCHOVER_WAIT_MS 30000
#define SWITCHOVER_ANSWER_MS 20000 /* the other node has 15 s to say that it took over */
#define SWITCHOVER_END_MS 30000    /* flushes */

static int switchover_disks(struct cli *cli, struct error *err)
{
	uint64_t epoch, ms = cli->args.timeout_ms ? cli->args.timeout_ms : SWITCHOVER_WAIT_MS;
	struct client *client;
	json_t *reply;
	int r = client_connect(cli, &client, err);

	if (r < 0)
		return r;
	r = client_execute(client, "switchover", json_pack("{s:I}", "timeout-ms", (json_int_t)ms),
		ms + SWITCHOVER_ANSWER_MS, &reply, err);
	if (r == 0) {
		r = reply_need_u64(cli, reply, "epoch", &epoch, err);
		json_decref(reply);
	}
	if (r == 0)
		r = client_wait_end(client, SWITCHOVER_END_MS, err);
	(void)client_free(client);
	if (r == 0)
		printf("node %s has handed over at epoch %" PRIu64
		       " and ended; start it with tandem secondary\n",
			cli->node->name, epoch);
	return r;
}

int cmd_switchover(struct cli *cli, struct error *err)
{
	struct client *client;
	json_t *reply;
	int r = client_connect_socket(cli, CLIENT_AGENT, &client, NULL);

	if (r < 0)
		return switchover_disks(cli, err);
	r = client_execute(client, "switchover", NULL, CLIENT_ANSWER_MS, &reply, err);
	(void)client_free(client);
	if (r < 0)
		return r;
	json_decref(reply);
	printf("node %s has handed the guest over\n", cli->node->name);
	return 0;
}
