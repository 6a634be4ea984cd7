/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem resolve: after a split brain or another refusal, says whose data stays. Asks before a node
 * gives data up, and says what. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "replicator/resolve.h"
#include "replicator/seal.h"
#include "util/units.h"

static int resolve_find(const struct cli *cli, unsigned *ret_keep, struct error *err)
{
	if (!cli->args.keep)
		return error_set(err, ERROR_USAGE, -EINVAL,
			"resolve: option --keep is missing: the node whose data stays");
	for (unsigned i = 0; i < cli->conf->nnodes; i++) {
		if (strcmp(cli->conf->nodes[i].name, cli->args.keep) != 0)
			continue;
		*ret_keep = i;
		return 0;
	}
	return error_set(err, ERROR_USAGE, -ENOENT, "resolve: there is no node \"%.64s\" in %s",
		cli->args.keep, cli->conf->path);
}

static void resolve_print(const struct cli *cli, const struct resolve_loss *loss)
{
	const struct identity *id = &loss->id;
	char size[32];

	printf("node %s gives up what only it has:\n", cli->node->name);
	if (identity_is_none(&id->current)) {
		printf("  no data of its own is known (it holds a part of a sync, or nothing)\n");
		return;
	}
	printf("  generation %" PRIu64, id->current.number);
	for (uint32_t i = 0; i < id->nhistory && !identity_same(&id->history[i], &id->base); i++)
		printf(", %" PRIu64, id->history[i].number);
	if (identity_is_none(&id->base))
		printf(", which was never replicated");
	else
		printf(", written since generation %" PRIu64, id->base.number);
	printf("%s\n", id->unwritten ? " (the newest was not written to)" : "");
	for (unsigned i = 0; i < cli->node->ndisks; i++) {
		printf("  disk %s: ", cli->node->disks[i].name);
		if (loss->dirty[i] == UINT64_MAX)
			printf("not known how much\n");
		else
			printf("up to %s\n", units_format_size(loss->dirty[i], size, sizeof(size)));
	}
}

static int resolve_confirm(const struct cli *cli, struct error *err)
{
	char line[256];

	if (cli->args.yes)
		return 0;
	if (!isatty(STDIN_FILENO))
		return error_set(err, ERROR_USAGE, -ENOTTY,
			"resolve: nothing was changed: there is no terminal to ask on; --yes "
			"discards without a question");
	printf("Type the node's name to discard it: ");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		line[0] = '\0';
	line[strcspn(line, "\n")] = '\0';
	if (strcmp(line, cli->node->name) != 0)
		return error_set(err, ERROR_GENERAL, -ECANCELED,
			"resolve: not confirmed, nothing was changed");
	return 0;
}

static int resolve_apply(struct cli *cli, bool yield, struct error *err)
{
	json_t *reply;
	int r = client_command(
		cli, "resolve", json_pack("{s:b}", "yield", yield), CLIENT_ANSWER_MS, &reply, err);

	if (r == 0)
		json_decref(reply);
	else if (err->kind == ERROR_UNREACHABLE)
		r = resolve_stopped(cli->conf, cli->node_index, yield, err);
	return r;
}

/* Disks of a node that does not run, which others have changed. */
static int resolve_changed(struct cli *cli, struct error *err)
{
	int r;

	if (cli->args.keep)
		return error_set(err, ERROR_USAGE, -EINVAL,
			"resolve: --keep and --changed are for different things");
	printf("the disks of node %s count as they are now, whoever wrote to them:\n"
	       "  its dirty maps are void: a full sync follows; as the secondary it has no state "
	       "to "
	       "promote before that\n",
		cli->node->name);
	r = resolve_confirm(cli, err);
	if (r == 0)
		r = seal_accept(cli->conf, cli->node_index, err);
	if (r == 0)
		printf("node %s takes its disks as they are\n", cli->node->name);
	return r;
}

int cmd_resolve(struct cli *cli, struct error *err)
{
	const char *other = cli->conf->nnodes > 1 ? cli->conf->nodes[1 - cli->node_index].name : "";
	struct resolve_loss loss;
	bool yield;
	unsigned keep = 0;
	int r;

	if (cli->args.changed)
		return resolve_changed(cli, err);
	r = resolve_find(cli, &keep, err);
	if (r < 0)
		return r;
	yield = keep != cli->node_index;
	if (yield) {
		r = resolve_look(cli->conf, cli->node_index, &loss, err);
		if (r < 0)
			return r;
		resolve_print(cli, &loss);
		r = resolve_confirm(cli, err);
		if (r < 0)
			return r;
	}
	r = resolve_apply(cli, yield, err);
	if (r < 0)
		return r;
	if (yield)
		printf("node %s takes %s's data over when it runs as the secondary\n",
			cli->node->name, other);
	else
		printf("node %s keeps its data; on %s, run: tandem resolve %s --keep %s\n",
			cli->node->name, other, cli->args.conf_path, cli->node->name);
	return 0;
}
