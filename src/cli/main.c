/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The program's edge: finds the command, loads the configuration, runs it, and reports an error
 * once, on standard error; its kind is the exit code (docs/errors.md). */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/text.h"
#include "util/fault.h"

static const struct command *main_find(const char *name)
{
	for (const struct command *c = commands; c->name; c++)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}

static int main_command(struct cli *cli, struct error *err)
{
	int r = conf_load(cli->args.conf_path, &cli->conf, err);

	if (r < 0)
		return r;
	r = conf_find_node(cli->conf, cli->args.node, err);
	if (r < 0)
		return r;
	cli->node_index = (unsigned)r;
	cli->node = &cli->conf->nodes[r];
	return cli->command->run(cli, err);
}

static int main_run(int argc, char **argv, struct cli *cli, struct error *err)
{
	bool help;
	int r;

	if (argc < 2)
		return error_set(err, ERROR_USAGE, -EINVAL, "no command; see tandem --help");
	if (!strcmp(argv[1], "--help")) {
		help_program();
		return 0;
	}
	if (!strcmp(argv[1], "--version")) {
		printf("tandem %s\n", TANDEM_VERSION);
		return 0;
	}
	cli->command = main_find(argv[1]);
	if (!cli->command)
		return error_set(err, ERROR_USAGE, -EINVAL,
			"unknown %s \"%.64s\"; see tandem --help",
			*argv[1] == '-' ? "option" : "command", argv[1]);
	r = options_parse(cli->command, argc - 1, argv + 1, &cli->args, &help, err);
	if (r < 0)
		return r;
	if (help) {
		help_command(cli->command);
		return 0;
	}
	r = fault_init(err);
	return r < 0 ? r : main_command(cli, err);
}

int main(int argc, char **argv)
{
	struct error err = {.kind = ERROR_NONE};
	struct cli cli = {.command = NULL};
	int r = main_run(argc, argv, &cli, &err);

	/* A full disk behind standard output must not look like success. */
	if (fflush(stdout) != 0 && r == 0)
		r = error_errno(&err, "cannot write to standard output");
	cli.conf = conf_free(cli.conf);
	if (r == 0)
		return 0;
	/* Parts of it may come from a node or a file: nothing in it commands the terminal.  No
	 * text: the command has said it on standard output. */
	if (err.text[0])
		fprintf(stderr, "tandem: %s\n", text_clean(err.text));
	return err.kind == ERROR_NONE ? ERROR_GENERAL : (int)err.kind;
}
