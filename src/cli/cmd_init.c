/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem init: creates a node's own files. */
#include <stdio.h>

#include "cli/cli.h"
#include "replicator/init.h"

int cmd_init(struct cli *cli, struct error *err)
{
	int r = init_node(cli->conf, cli->node_index, cli->args.force, err);

	if (r < 0)
		return r;
	printf("node %s of group %s is initialised in %s\n", cli->node->name, cli->conf->group,
		cli->node->state_dir);
	return 0;
}
