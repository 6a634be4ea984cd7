/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Waiting for completions on a futex; see nbdwait.h. */
#include "replicator/nbdwait.h"

#include <limits.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NBDWAIT_ASLEEP 0x80000000u

void nbdwait_complete(struct nbdwait *w)
{
	uint32_t *address = (uint32_t *)&w->word;
	uint32_t old = atomic_fetch_add_explicit(&w->word, 1, memory_order_acq_rel);

	/* w may be gone from here on; a wake-up at a stranger's address is harmless. */
	if (old & NBDWAIT_ASLEEP)
		syscall(SYS_futex, address, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void nbdwait_for(struct nbdwait *w, uint32_t count)
{
	for (;;) {
		uint32_t v = atomic_load_explicit(&w->word, memory_order_acquire);

		if ((v & ~NBDWAIT_ASLEEP) >= count)
			break;
		if (!(v & NBDWAIT_ASLEEP) &&
			!atomic_compare_exchange_strong(&w->word, &v, v | NBDWAIT_ASLEEP))
			continue;
		syscall(SYS_futex, &w->word, FUTEX_WAIT_PRIVATE, v | NBDWAIT_ASLEEP, NULL, NULL, 0);
	}
	atomic_fetch_and(&w->word, ~NBDWAIT_ASLEEP);
}
