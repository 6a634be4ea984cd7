/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The commands of the control interface: a table.  Each takes checked arguments and gives a JSON
 * object, an error, or something to wait for. */
#ifndef TANDEM_REPLICATOR_COMMANDS_H
#define TANDEM_REPLICATOR_COMMANDS_H

#include <jansson.h>

#include "replicator/node.h"

/* An answer that comes later. */
struct command_wait {
	enum { WAIT_NONE, WAIT_RECEIVED, WAIT_COMMITTED } kind;
	uint64_t epoch;
	uint64_t deadline; /* clock_ns */
};

struct command_call {
	struct node *n;
	json_t *arguments; /* an object, or NULL */
	struct command_wait wait;
	bool events_set, events; /* "events" was called */
};

/* 0 with *ret_answer (a new reference; NULL when call->wait is set), or negative with *err. */
int command_execute(
	const char *name, struct command_call *call, json_t **ret_answer, struct error *err);
/* Whether the wait is over: 1 with *ret_answer, 0 = not yet, negative with *err. */
int command_wait_over(
	struct node *n, const struct command_wait *w, json_t **ret_answer, struct error *err);
const char *command_kind_name(enum error_kind kind);

/* status.c: the answers of query-status and query-pending; new references. */
json_t *answer_status(struct node *n);
json_t *answer_pending(struct node *n);

#endif
