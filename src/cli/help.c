/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --help, printed from the tables.  The completion script reads it: two spaces before each word of
 * a list, two or more after it. */
#include <stdio.h>

#include "cli/cli.h"
#include "cli/options.h"

static void help_option(const struct option_spec *o)
{
	const char *value = o->value ? o->value : "";
	char left[64];

	if (o->type == OPTION_CHOICE)
		snprintf(left, sizeof(left), "--%s[=%s]", o->name, value);
	else
		snprintf(left, sizeof(left), "--%s%s%s", o->name, o->value ? " " : "", value);
	printf("  %-28s  %s\n", left, o->help);
}

void help_program(void)
{
	printf("usage: tandem COMMAND CONF [OPTION...]\n\n"
	       "Keeps a running virtual machine, or its disks, alive when its host dies: "
	       "everything\n"
	       "travels to a second host, epoch by epoch.\n"
	       "CONF is the configuration file of the group, the same on both hosts.\n\n"
	       "commands:\n");
	for (const struct command *c = commands; c->name; c++)
		printf("  %-12s  %s\n", c->name, c->summary);
	printf("\noptions:\n"
	       "  --help        print this; after a command: what that command does\n"
	       "  --version     print the version\n\n"
	       "Manual pages: tandem(1), tandem.conf(5).\n");
}

void help_command(const struct command *command)
{
	const struct option_spec *o;

	printf("usage: tandem %s %s%sCONF [OPTION...]\n\n%s\n\noptions:\n", command->name,
		command->words ? command->words : "", command->words ? " " : "", command->details);
	for (unsigned i = 0; (o = options_at(command, i)); i++)
		help_option(o);
}
