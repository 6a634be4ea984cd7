/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The commands of the control interface: a table.  Each takes checked arguments and gives a JSON
 * object, an error, or something to wait for. */
#ifndef TANDEM_REPLICATOR_COMMANDS_H
#define TANDEM_REPLICATOR_COMMANDS_H

#include <jansson.h>

#include "replicator/node.h"

/* An answer that comes later. */
struct command_wait {
	enum { WAIT_NONE, WAIT_RECEIVED, WAIT_COMMITTED, WAIT_JOB, WAIT_SWITCHOVER } kind;
	uint64_t epoch;
	uint64_t deadline;      /* clock_ns */
	struct submit_job *job; /* WAIT_JOB: owned */
	uint64_t session;       /* WAIT_SWITCHOVER: of the link; epoch: the last cut, 0 = not yet */
	int after;              /* ... and then this kind of wait, for the job's epoch */
	uint64_t after_ms;
};

struct command_call {
	struct node *n;
	json_t *arguments; /* an object, or NULL */
	struct command_wait wait;
	bool events_set, events; /* "events" was called */
	const void *client;      /* who asks, as an identity */
	int fds[2]; /* descriptors that came with it, in order, -1 = none; who takes one sets -1 */
	int answer_fd; /* goes with the answer, owned; -1 = none */
};

/* 0 with *ret_answer (a new reference; NULL when call->wait is set), or negative with *err. */
int command_execute(
	const char *name, struct command_call *call, json_t **ret_answer, struct error *err);
/* How many descriptors the command takes. */
unsigned command_takes_fds(const char *name);
/* Whether the wait is over: 1 with *ret_answer, 0 = not yet, negative with *err. */
int command_wait_over(
	struct node *n, struct command_wait *w, json_t **ret_answer, struct error *err);
/* Nobody waits any more. */
void command_wait_drop(struct node *n, struct command_wait *w);
/* A client's connection ended. */
void command_client_gone(struct node *n, const void *client);
const char *command_kind_name(enum error_kind kind);

/* switchover.c; over, drop: as command_wait_over, command_wait_drop. */
int command_switchover(struct command_call *c, json_t **ret, struct error *err);
int switchover_over(struct node *n, struct command_wait *w, json_t **ret_answer, struct error *err);
void switchover_drop(struct node *n, struct command_wait *w);

/* commands_guest.c */
int command_checkpoint_begin(struct command_call *c, json_t **ret, struct error *err);
int command_submit(struct command_call *c, json_t **ret, struct error *err);
int command_seal(struct command_call *c, json_t **ret, struct error *err);
int command_abandon(struct command_call *c, json_t **ret, struct error *err);
int command_standby_state(struct command_call *c, json_t **ret, struct error *err);
int command_query_memory(struct command_call *c, json_t **ret, struct error *err);
int command_query_state(struct command_call *c, json_t **ret, struct error *err);
int command_release_memory(struct command_call *c, json_t **ret, struct error *err);
/* The cut of a group with a guest. */
int command_checkpoint_cut(struct command_call *c, json_t **ret, struct error *err);
/* WAIT_JOB, as command_wait_over; may turn into another kind of wait. */
int command_job_over(
	struct node *n, struct command_wait *w, json_t **ret_answer, struct error *err);
/* "wait" and "timeout-ms" of cut and seal. */
int command_get_wait(struct command_call *c, const char *what, int *ret_kind, uint64_t *ret_ms,
	struct error *err);

/* status.c */
void status_counters(struct node *n, struct node_counters *ret_counters);
/* The answers of query-status and query-pending; new references. */
json_t *answer_status(struct node *n);
json_t *answer_pending(struct node *n);

#endif
