/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The order of overlapping writes. */
#include "core/rangelock.h"

#include <stddef.h>

void rangelock_init(struct rangelock *rl)
{
	rl->first = rl->last = NULL;
}

static bool rangelock_overlap(const struct rangelock_entry *a, const struct rangelock_entry *b)
{
	return a->start < b->end && b->start < a->end;
}

bool rangelock_add(struct rangelock *rl, struct rangelock_entry *e, uint64_t off, uint64_t len)
{
	e->start = off;
	e->end = off + len;
	e->blockers = 0;
	for (struct rangelock_entry *o = rl->first; o; o = o->next)
		e->blockers += rangelock_overlap(o, e);
	e->next = NULL;
	e->prev = rl->last;
	if (rl->last)
		rl->last->next = e;
	else
		rl->first = e;
	rl->last = e;
	return e->blockers == 0;
}

void rangelock_del(struct rangelock *rl, struct rangelock_entry *e,
	void (*granted_fn)(struct rangelock_entry *granted))
{
	struct rangelock_entry *later = e->next;

	if (e->prev)
		e->prev->next = e->next;
	else
		rl->first = e->next;
	if (e->next)
		e->next->prev = e->prev;
	else
		rl->last = e->prev;
	for (; later; later = later->next)
		if (rangelock_overlap(e, later) && --later->blockers == 0 && granted_fn)
			granted_fn(later);
}
