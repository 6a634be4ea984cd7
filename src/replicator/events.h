/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Events of the control interface (docs/control.md): found by comparing what the node is now with
 * what the newest events told.  One thread; takes node.lock for short. */
#ifndef TANDEM_REPLICATOR_EVENTS_H
#define TANDEM_REPLICATOR_EVENTS_H

#include <jansson.h>

#include "replicator/node.h"

struct events {
	struct node *n;
	void (*say)(void *ctx, const char *name, json_t *data); /* takes data */
	void *ctx;
	/* what the newest events told; "" and 0 before */
	char state[32], reason[NODE_REASON_SIZE];
	uint64_t committed;
	struct node_counters counters;
	/* of a primary with a guest */
	uint64_t session, checks;
	bool connected, copied, due;
};

/* Says what has changed since the last look. */
void events_look(struct events *e);
/* Nobody listens: what happens only once is not told later. */
void events_skip(struct events *e);

#endif
