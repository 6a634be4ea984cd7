/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Work that a node does in the background (verify, grow), watched until it has ended. */
#ifndef TANDEM_CLI_FOLLOW_H
#define TANDEM_CLI_FOLLOW_H

#include "cli/client.h"

/* Asks with this command until "state" is not "running"; the last answer, whose state is a string,
 * is the caller's.  Each answer before goes to progress, where standard error is a terminal: it
 * writes a line without an end, which is wiped out afterwards. */
int follow(struct client *client, const char *query, void (*progress)(const json_t *reply),
	json_t **ret_reply, struct error *err);

#endif
