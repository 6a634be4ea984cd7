/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A list of ranges of guest RAM, in bytes from its start, in growing order. */
#ifndef TANDEM_GUEST_RUNS_H
#define TANDEM_GUEST_RUNS_H

#include <stddef.h>
#include <stdint.h>

struct run {
	uint64_t offset, length;
};

struct runs {
	struct run *v;
	size_t n, room;
	uint64_t bytes;
};

/* Makes room for that many ahead, so that runs_add need not allocate. */
int runs_reserve(struct runs *r, size_t room);
/* offset is not below the end of the last one; what touches it is joined to it. */
int runs_add(struct runs *r, uint64_t offset, uint64_t length);
/* Of a list that was put together out of order: sorts, and joins what overlaps or touches. */
void runs_normalize(struct runs *r);
void runs_clear(struct runs *r); /* keeps the room */
void runs_deinit(struct runs *r);
/* *ret = a united with b; ret is cleared first and is neither of them. */
int runs_unite(struct runs *ret, const struct runs *a, const struct runs *b);

#endif
