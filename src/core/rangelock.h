/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The order of overlapping writes: a write may go on once no earlier one that overlaps it is still
 * there.  Pure; the caller serialises all calls (under its short lock) and does the waiting.
 *
 * Invariant I6 rests on it: a write holds its range from before it enters the stream until the
 * local image has it, so that overlapping writes have one order on both sides.  First come, first
 * served: a later overlapping write never overtakes a waiting one.  Cost: one walk over the writes
 * in flight (at most connections x threads). */
#ifndef TANDEM_CORE_RANGELOCK_H
#define TANDEM_CORE_RANGELOCK_H

#include <stdbool.h>
#include <stdint.h>

/* One write in flight; owned by the caller (on its stack), linked while it is in the lock. */
struct rangelock_entry {
	uint64_t start, end; /* bytes, [start, end) */
	unsigned blockers;   /* earlier overlapping entries; 0 = granted */
	struct rangelock_entry *prev, *next;
	void *owner; /* the caller's */
};

struct rangelock {
	struct rangelock_entry *first, *last; /* in order of arrival */
};

void rangelock_init(struct rangelock *rl);
/* Adds e for [off, off+len), len > 0; true = granted at once. */
bool rangelock_add(struct rangelock *rl, struct rangelock_entry *e, uint64_t off, uint64_t len);
/* Removes e, granted or not; granted_fn is called for each entry that is granted by it. */
void rangelock_del(struct rangelock *rl, struct rangelock_entry *e,
	void (*granted_fn)(struct rangelock_entry *granted));
static inline bool rangelock_granted(const struct rangelock_entry *e)
{
	return e->blockers == 0;
}

#endif
