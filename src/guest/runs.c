/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lists of ranges; see runs.h. */
#include "guest/runs.h"

#include <errno.h>
#include <stdlib.h>

#include "util/bytes.h"

int runs_reserve(struct runs *r, size_t room)
{
	struct run *v;

	if (room <= r->room)
		return 0;
	v = realloc(r->v, room * sizeof(*v));
	if (!v)
		return -ENOMEM;
	r->v = v;
	r->room = room;
	return 0;
}

int runs_add(struct runs *r, uint64_t offset, uint64_t length)
{
	if (length == 0)
		return 0;
	if (r->n > 0 && r->v[r->n - 1].offset + r->v[r->n - 1].length == offset) {
		r->v[r->n - 1].length += length;
		r->bytes += length;
		return 0;
	}
	if (r->n == r->room) {
		int e = runs_reserve(r, r->room ? 2 * r->room : 1024);

		if (e < 0)
			return e;
	}
	r->v[r->n++] = (struct run){offset, length};
	r->bytes += length;
	return 0;
}

static int runs_compare(const void *a, const void *b)
{
	const struct run *x = a, *y = b;

	return (x->offset > y->offset) - (x->offset < y->offset);
}

void runs_normalize(struct runs *r)
{
	size_t n = 0;

	qsort(r->v, r->n, sizeof(r->v[0]), runs_compare);
	r->bytes = 0;
	for (size_t i = 0; i < r->n; i++) {
		struct run *last = n ? &r->v[n - 1] : NULL;
		uint64_t end = r->v[i].offset + r->v[i].length;

		if (last && r->v[i].offset <= last->offset + last->length)
			last->length = max_u64(last->length, end - last->offset);
		else
			r->v[n++] = r->v[i];
	}
	r->n = n;
	for (size_t i = 0; i < n; i++)
		r->bytes += r->v[i].length;
}

void runs_clear(struct runs *r)
{
	r->n = 0;
	r->bytes = 0;
}

void runs_deinit(struct runs *r)
{
	free(r->v);
	*r = (struct runs){0};
}

int runs_unite(struct runs *ret, const struct runs *a, const struct runs *b)
{
	size_t i = 0, j = 0;
	uint64_t end = 0;

	runs_clear(ret);
	while (i < a->n || j < b->n) {
		bool first = j == b->n || (i < a->n && a->v[i].offset <= b->v[j].offset);
		const struct run *u = first ? &a->v[i++] : &b->v[j++];
		uint64_t from = max_u64(u->offset, end), to = u->offset + u->length;
		int e;

		if (to <= from)
			continue;
		e = runs_add(ret, from, to - from);
		if (e < 0)
			return e;
		end = to;
	}
	return 0;
}
