/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The replicator of this node: a child process (`tandem primary|secondary --guest`, which becomes
 * nbdkit with the plugin), and what the agent asks of its control interface (docs/control.md).  It
 * dies with the agent. */
#ifndef TANDEM_GUEST_REPL_H
#define TANDEM_GUEST_REPL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "guest/rpc.h"

#define REPL_COMMAND_MS 20000
#define REPL_NO_DATA UINT64_MAX /* in a table: the run is zero */

struct repl_spec {
	const char *program; /* tandem */
	const char *conf_path;
	const char *node; /* name */
	const char *run_dir;
};

struct repl;

/* Starts it, connects; events are on.  A thread of its own starts it again whenever it ends by
 * itself: the agent may be waiting for QEMU then, which waits for its disks. */
int repl_new(
	const struct repl_spec *spec, const char *role, struct repl **ret_repl, struct error *err);
/* Orderly: it cuts, commits, says goodbye (or is killed after wait_ms).  NULL is fine; returns
 * NULL. */
struct repl *repl_free(struct repl *p, unsigned wait_ms);
/* After the connection was lost: to the process that runs now.  ERROR_GENERAL where it ends again
 * and again. */
int repl_reconnect(struct repl *p, struct error *err);
/* What it is to be started as from now on. */
void repl_set_role(struct repl *p, const char *role);
/* The connection; lost where a call returned -EPIPE. */
struct rpc *repl_rpc(struct repl *p);

int repl_run(struct repl *p, const char *command, json_t *arguments, json_t **ret_return,
	struct error *err);

struct repl_submit {
	uint64_t epoch; /* 0 = the lowest that is not sealed, or the open one */
	uint64_t runs, table;
	uint64_t state_bytes, state_data, state_offset;
	uint64_t digests, digest_data; /* count (0 = none), and where they are */
	int fds[2];
	unsigned nfds;
};
int repl_submit(struct repl *p, const struct repl_submit *s, json_int_t *ret_id, struct error *err);

/* Of an event or status: member at "a.b", or 0. */
uint64_t repl_u64(const json_t *object, const char *member, const char *inner);

#endif
