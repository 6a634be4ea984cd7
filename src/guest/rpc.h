/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A connection that speaks JSON lines in the manner of QMP: {"execute", "arguments", "id"} out,
 * {"return" | "error", "id"} and {"event"} in.  QEMU's QMP (qmp.h) and a node's control socket
 * (repl.h) are both such.  Requests may overlap: each has an id, answers are matched by it, events
 * that come in between are kept in their order.
 *
 * Every wait has a deadline (clock_ns()).  Errors: ERROR_UNREACHABLE where the peer is gone,
 * ERROR_TIMEOUT, ERROR_GENERAL where it speaks something else; what it refuses has code -EREMOTEIO,
 * its own text, and the kind that it names (QEMU names none: ERROR_GENERAL).
 * One thread at a time. */
#ifndef TANDEM_GUEST_RPC_H
#define TANDEM_GUEST_RPC_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"
#include "util/lines.h"

#define RPC_EVENTS 4096 /* kept while nobody takes them; more end the connection */

struct rpc {
	struct lines lines;
	char who[48]; /* for messages: "QEMU", "node alpha" */
	json_int_t id;
	json_t *answers; /* array: came while another was awaited */
	json_t *events;  /* array: not taken yet */
};

/* Both read the peer's first message, the greeting. */
int rpc_connect(struct rpc *c, const char *who, const char *path, uint64_t deadline,
	json_t **ret_greeting, struct error *err);
int rpc_adopt(struct rpc *c, const char *who, int fd, uint64_t deadline, json_t **ret_greeting,
	struct error *err);
void rpc_deinit(struct rpc *c);

/* arguments may be NULL, and is consumed; fd goes with the request (-1 = none). */
int rpc_send(struct rpc *c, const char *command, json_t *arguments, int fd, uint64_t deadline,
	json_int_t *ret_id, struct error *err);
/* The same with several descriptors. */
int rpc_send_fds(struct rpc *c, const char *command, json_t *arguments, const int *fds,
	unsigned nfds, uint64_t deadline, json_int_t *ret_id, struct error *err);
/* The answer to a request that was sent; ret_return may be NULL. */
int rpc_wait(struct rpc *c, const char *command, json_int_t id, uint64_t deadline,
	json_t **ret_return, struct error *err);
int rpc_execute(struct rpc *c, const char *command, json_t *arguments, int fd, uint64_t deadline,
	json_t **ret_return, struct error *err);

/* Takes in what has arrived, without a wait. */
int rpc_pump(struct rpc *c, struct error *err);
/* Whether the answer is among what rpc_pump took in. */
bool rpc_answered(const struct rpc *c, json_int_t id);
/* The oldest event, now the caller's; NULL = none. */
json_t *rpc_event(struct rpc *c);
/* Whether an event of this name is kept, beyond the first `seen`. */
bool rpc_has_event(const struct rpc *c, const char *name, size_t seen);
/* Waits until there is such an event, or the answer; neither is taken. */
int rpc_wait_event_or_answer(struct rpc *c, const char *name, size_t seen, json_int_t id,
	uint64_t deadline, struct error *err);
/* Waits for an event of this name; others stay kept. */
int rpc_wait_event(
	struct rpc *c, const char *name, uint64_t deadline, json_t **ret_event, struct error *err);

#endif
