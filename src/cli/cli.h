/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the commands of the program share: the parsed command line, the loaded configuration, and
 * the table of commands.  The man page tandem(1) is the contract. */
#ifndef TANDEM_CLI_CLI_H
#define TANDEM_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "conf/conf.h"
#include "util/error.h"

enum cli_wait { CLI_WAIT_NONE, CLI_WAIT_RECEIVED, CLI_WAIT_COMMITTED };

/* The values of the options; what a command's table does not have stays 0. */
struct cli_args {
	const char *conf_path;
	uint64_t word;    /* number of the command's word, from 1 */
	const char *node; /* NULL = the one named as this host */
	const char *keep; /* NULL = not given */
	const char *disk; /* NULL = not given */
	bool force, yes;
	bool guest, disks_only;
	bool repair, cancel;
	bool alone, changed;
	bool json;
	bool watch;
	uint64_t wait;        /* enum cli_wait */
	uint64_t timeout_ms;  /* 0 = not given */
	uint64_t interval_ms; /* 0 = not given */
	uint64_t epoch;       /* 0 = not given: epochs begin at 1 */
};

enum option_type {
	OPTION_FLAG,    /* bool */
	OPTION_TEXT,    /* const char * */
	OPTION_NUMBER,  /* uint64_t, from min to max */
	OPTION_SECONDS, /* uint64_t in milliseconds, from min to max; decimals are allowed */
	OPTION_CHOICE,  /* uint64_t: number of the word in value, from 1; the last one where the
			 * value  is left out, which it may be */
};

struct option_spec {
	const char *name; /* without the dashes; NULL ends a table */
	enum option_type type;
	const char *value; /* as --help calls it; CHOICE: the words, separated by '|' */
	uint64_t min, max;
	size_t offset; /* in struct cli_args */
	const char *help;
};

struct command;

struct cli {
	const struct command *command;
	struct cli_args args;
	struct conf *conf;
	unsigned node_index;
	const struct conf_node *node;
};

struct command {
	const char *name;
	const char *summary;               /* one line of `tandem --help` */
	const char *details;               /* of `tandem COMMAND --help` */
	const struct option_spec *options; /* besides --node and --help */
	int (*run)(struct cli *cli, struct error *err);
	const char *words; /* one of these stands before CONF; separated by '|'; NULL = none */
};

/* commands.c: ends with name == NULL. */
extern const struct command commands[];

/* options.c.  args: what follows "tandem" on the command line.  *ret_help: --help was given, and
 * nothing else counts.  Errors are of kind ERROR_USAGE. */
int options_parse(const struct command *command, int argc, char **argv, struct cli_args *ret_args,
	bool *ret_help, struct error *err);
/* help.c */
void help_program(void);
void help_command(const struct command *command);

/* The commands: cmd_NAME.c each; what is alike shares a file. */
int cmd_init(struct cli *cli, struct error *err);
int cmd_primary(struct cli *cli, struct error *err);
int cmd_secondary(struct cli *cli, struct error *err);
int cmd_run(struct cli *cli, struct error *err);
int cmd_standby(struct cli *cli, struct error *err);
int cmd_switchover(struct cli *cli, struct error *err);
int cmd_grow(struct cli *cli, struct error *err);
int cmd_verify(struct cli *cli, struct error *err);
int cmd_status(struct cli *cli, struct error *err);
int cmd_pending(struct cli *cli, struct error *err);
int cmd_cut(struct cli *cli, struct error *err);
int cmd_meta(struct cli *cli, struct error *err);
int cmd_commit(struct cli *cli, struct error *err);
int cmd_discard(struct cli *cli, struct error *err);
int cmd_promote(struct cli *cli, struct error *err);
int cmd_resolve(struct cli *cli, struct error *err);
int cmd_connect(struct cli *cli, struct error *err);
int cmd_disconnect(struct cli *cli, struct error *err);
int cmd_shutdown(struct cli *cli, struct error *err);

#endif
