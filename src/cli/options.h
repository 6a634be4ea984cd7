/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The options of a command as one list: its own, then those of every command. */
#ifndef TANDEM_CLI_OPTIONS_H
#define TANDEM_CLI_OPTIONS_H

#include "cli/cli.h"

#define OPTIONS_COMMON 2
#define OPTIONS_HELP 1 /* index in options_common */

extern const struct option_spec options_common[OPTIONS_COMMON + 1];

/* The option number i of the command, or NULL behind the last. */
const struct option_spec *options_at(const struct command *command, unsigned i);

#endif
