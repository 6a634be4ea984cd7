/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem commit: makes sealed epochs the committed state. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/reply.h"

int cmd_commit(struct cli *cli, struct error *err)
{
	json_t *arguments = NULL, *reply;
	uint64_t epoch;
	int r;

	if (cli->args.epoch)
		arguments = json_pack("{s:I}", "epoch", (json_int_t)cli->args.epoch);
	r = client_command(cli, "commit", arguments, CLIENT_ANSWER_MS, &reply, err);
	if (r < 0)
		return r;
	r = reply_need_u64(cli, reply, "epoch", &epoch, err);
	json_decref(reply);
	if (r == 0)
		printf("epoch %" PRIu64 " is committed\n", epoch);
	return r;
}
