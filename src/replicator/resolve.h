/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* `tandem resolve`: a node gives its own data up, or keeps it (docs/identity.md). */
#ifndef TANDEM_REPLICATOR_RESOLVE_H
#define TANDEM_REPLICATOR_RESOLVE_H

#include "conf/conf.h"
#include "replicator/node.h"

/* What a node holds, as its files say; it may be running. */
struct resolve_loss {
	struct identity id;
	uint64_t dirty[CONF_MAX_DISKS]; /* bytes; UINT64_MAX = not known */
};

int resolve_look(
	const struct conf *conf, unsigned node, struct resolve_loss *ret_loss, struct error *err);
/* Of a node that does not run; ERROR_BUSY while it does. */
int resolve_stopped(const struct conf *conf, unsigned node, bool yield, struct error *err);
/* Of this node, which runs.  ERROR_STATE: it is a primary, or is connected to one. */
int resolve_running(struct node *n, bool yield, struct error *err);

#endif
