/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Waiting for a number of completions, of any threads, without a lock. */
#ifndef TANDEM_REPLICATOR_NBDWAIT_H
#define TANDEM_REPLICATOR_NBDWAIT_H

#include <stdatomic.h>
#include <stdint.h>

/* Counts completions; one thread waits, any complete.  The completer touches nothing after the
 * count but its address, so the waiter may live on a stack that is gone by then. */
struct nbdwait {
	_Atomic uint32_t word; /* completions, and the top bit: somebody sleeps */
};

static inline void nbdwait_init(struct nbdwait *w)
{
	atomic_init(&w->word, 0);
}

void nbdwait_complete(struct nbdwait *w);
/* Until count completions since nbdwait_init. */
void nbdwait_for(struct nbdwait *w, uint32_t count);

#endif
