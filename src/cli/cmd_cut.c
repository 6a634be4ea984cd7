/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem cut: ends the open epoch. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/reply.h"

#define CUT_WAIT_MS 30000

int cmd_cut(struct cli *cli, struct error *err)
{
	static const char *const waits[] = {NULL, "received", "committed"};
	static const char *const done[] = {"is ended", "is received", "is committed"};
	uint64_t wait_ms = cli->args.timeout_ms ? cli->args.timeout_ms : CUT_WAIT_MS;
	json_t *arguments = NULL, *reply;
	uint64_t epoch;
	int r;

	if (cli->args.wait)
		arguments = json_pack("{s:s, s:I}", "wait", waits[cli->args.wait], "timeout-ms",
			(json_int_t)wait_ms);
	/* the node watches the time; our own limit is for a node that hangs */
	r = client_command(cli, "cut", arguments,
		cli->args.wait ? wait_ms + CLIENT_GRACE_MS : CLIENT_ANSWER_MS, &reply, err);
	if (r < 0)
		return r;
	r = reply_need_u64(cli, reply, "epoch", &epoch, err);
	json_decref(reply);
	if (r == 0)
		printf("epoch %" PRIu64 " %s\n", epoch, done[cli->args.wait]);
	return r;
}
