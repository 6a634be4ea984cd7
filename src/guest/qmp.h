/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* QMP of one QEMU over a socket that it inherited: the connection, and the few questions that more
 * than one file asks.  Everything else goes through rpc_execute. */
#ifndef TANDEM_GUEST_QMP_H
#define TANDEM_GUEST_QMP_H

#include <stdbool.h>

#include "guest/rpc.h"

#define QMP_COMMAND_MS                                                                             \
	90000 /* a command; "stop" waits for the disks, which may wait for a replicator */
#define QMP_START_MS 60000 /* from exec to the greeting */

/* Takes fd over; negotiates the capabilities. */
int qmp_begin(struct rpc *q, int fd, struct error *err);
/* One command with QMP_COMMAND_MS; arguments as rpc_send, ret_return may be NULL. */
int qmp_run(struct rpc *q, const char *command, json_t *arguments, json_t **ret_return,
	struct error *err);
/* The text of a command of the human monitor; the caller frees it. */
int qmp_human(struct rpc *q, const char *line, char **ret_text, struct error *err);
/* Gives QEMU a descriptor under a name; the caller keeps its own. */
int qmp_getfd(struct rpc *q, const char *name, int fd, struct error *err);
bool qmp_has_command(struct rpc *q, const char *name);
/* "running", "paused", ... */
int qmp_status(struct rpc *q, char *buf, size_t len, struct error *err);
/* The vCPUs go on.  Also right behind a migration: when QEMU says "completed" it may be some
 * microseconds from being through with it, and refuses "cont" until then. */
int qmp_cont(struct rpc *q, struct error *err);

#endif
