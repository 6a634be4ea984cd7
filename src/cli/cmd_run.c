/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem run, tandem standby: this process becomes the agent, which runs the replicator and QEMU
 * (docs/guest.md). */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/locate.h"
#include "guest/agent.h"

static int run_agent(struct cli *cli, bool standby, struct error *err)
{
	char program[PATH_MAX], conf_path[PATH_MAX], preload[PATH_MAX];
	struct agent_options o = {.conf = cli->conf,
		.node = cli->node_index,
		.program = program,
		.conf_path = conf_path,
		.preload = preload};
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
	int r;

	if (n < 0)
		return error_errno(err, "cannot read /proc/self/exe");
	program[n] = '\0';
	if (!realpath(cli->conf->path, conf_path))
		return error_errno(err, "configuration %.300s", cli->conf->path);
	r = locate(LOCATE_PRELOAD, preload, err);
	if (r < 0)
		return r;
	return standby ? agent_standby(&o, err) : agent_run(&o, err);
}

int cmd_run(struct cli *cli, struct error *err)
{
	return run_agent(cli, false, err);
}

int cmd_standby(struct cli *cli, struct error *err)
{
	return run_agent(cli, true, err);
}
