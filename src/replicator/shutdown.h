/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An orderly end on SIGTERM and SIGINT.  nbdkit waits until every client has gone, and QEMU never
 * goes: so a thread of ours ends replication in order, and then closes the clients' connections. */
#ifndef TANDEM_REPLICATOR_SHUTDOWN_H
#define TANDEM_REPLICATOR_SHUTDOWN_H

#include "replicator/node.h"

/* Once, after nbdkit has installed its handlers; ours go before them. */
int shutdown_start(struct node *n, struct error *err);
/* As SIGTERM. */
void shutdown_request(void);
/* The last part of the end: waits until replication has ended (it does that itself if no signal
 * came). */
void shutdown_finish(void);

#endif
