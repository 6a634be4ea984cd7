/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The agent of one node: runs the replicator and the guest's QEMU, makes checkpoints, goes on with
 * the guest where it is promoted.  docs/guest.md is the contract.
 *
 * One thread.  It waits in agent_wait for whichever of its sources speaks: QEMU (QMP, end), the
 * replicator (control socket, end), signals, clients of its own socket, a deadline. */
#ifndef TANDEM_GUEST_AGENT_H
#define TANDEM_GUEST_AGENT_H

#include "conf/conf.h"
#include "util/error.h"

struct agent_options {
	const struct conf *conf;
	unsigned node;         /* index */
	const char *program;   /* tandem, absolute */
	const char *conf_path; /* absolute */
	const char *preload;   /* tandem-preload.so, absolute, or NULL */
};

/* Both run until the guest or the node ends; 0 = orderly. */
int agent_run(const struct agent_options *o, struct error *err);
int agent_standby(const struct agent_options *o, struct error *err);

#endif
