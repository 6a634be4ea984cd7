/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A node's status (the answer to query-status) as text.  What an answer lacks is left out: a newer
 * or older node may say more or less. */
#ifndef TANDEM_CLI_STATUS_TEXT_H
#define TANDEM_CLI_STATUS_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

/* Several lines; absent: no node answered, and only group, node, state and reason are known. */
void status_text(FILE *out, const json_t *status, bool absent);
/* One line, with the time of day. */
void status_line(FILE *out, const json_t *status);

/* "8.0 KiB in 2 requests, 1 epoch" of a member of query-pending; false where it is not one. */
#define STATUS_PENDING_SIZE 128
bool status_pending(const json_t *pending, char text[STATUS_PENDING_SIZE]);

#endif
