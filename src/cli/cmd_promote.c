/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem promote: makes a secondary take over. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/reply.h"
#include "cli/text.h"
#include "util/units.h"

int cmd_promote(struct cli *cli, struct error *err)
{
	char count[TEXT_SIZE], size[TEXT_SIZE];
	uint64_t epoch, generation, epochs, bytes;
	json_t *arguments = NULL, *reply;
	int r;

	if (cli->args.force || cli->args.disks_only)
		arguments = json_object();
	if (cli->args.force)
		json_object_set_new(arguments, "force", json_true());
	if (cli->args.disks_only)
		json_object_set_new(arguments, "disks-only", json_true());
	r = client_command(cli, "promote", arguments, CLIENT_ANSWER_MS, &reply, err);
	if (r < 0)
		return r;
	r = reply_need_u64(cli, reply, "epoch", &epoch, err);
	if (r == 0)
		r = reply_need_u64(cli, reply, "generation", &generation, err);
	if (r == 0)
		r = reply_need_u64(cli, reply, "discarded.epochs", &epochs, err);
	if (r == 0)
		r = reply_need_u64(cli, reply, "discarded.bytes", &bytes, err);
	json_decref(reply);
	if (r == 0)
		printf("node %s is promoted at epoch %" PRIu64 ", generation %" PRIu64
		       "; discarded %s (%s)\n",
			cli->node->name, epoch, generation,
			text_count(epochs, "epoch", count, sizeof(count)),
			units_format_size(bytes, size, sizeof(size)));
	return r;
}
