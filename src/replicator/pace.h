/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The speed of work in the background that reads whole disks: a sync, a comparison, a verify.
 *
 * It keeps to a limit in bytes a second, if there is one, and gives way to the clients of the
 * disks: while they send requests, and PACE_QUIET after the newest one, it works a part of the time
 * only, and rests PACE_REST times as long as each piece took it.  So it takes the same part of a
 * slow disk and of a fast one.  But it is never slower than sync-min-rate for that reason. */
#ifndef TANDEM_REPLICATOR_PACE_H
#define TANDEM_REPLICATOR_PACE_H

#include <stdint.h>

#include "replicator/node.h"

#define PACE_REST 15u                 /* times the work: a sixteenth of the time */
#define PACE_QUIET (NS_PER_S / 4)     /* without a request: nobody is in the way */
#define PACE_SLICE (50 * NS_PER_MS)   /* of a rest; then its owner looks whether to go on */
#define PACE_CREDIT (100 * NS_PER_MS) /* of a limit, that may be made up for after a delay */

struct pace {
	struct node *n;
	uint64_t limit;        /* bytes per second, 0 = none */
	uint64_t began;        /* ns: of this piece */
	uint64_t due, rest;    /* ns: the next piece not before; by the limit, for the clients */
	uint64_t active_until; /* ns: a client was seen */
	unsigned requests;     /* of clients, when it was looked at */
};

void pace_init(struct pace *p, struct node *n, uint64_t limit);
/* A piece of work begins. */
void pace_begin(struct pace *p);
/* It has ended. */
void pace_end(struct pace *p, uint64_t bytes);
/* Sleeps for a slice of what is left to wait.  False: nothing was left, the next piece may begin.
 */
bool pace_sleep(const struct pace *p);

#endif
