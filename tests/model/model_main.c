/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Breadth first over all states, up to a depth and a number of states.
 * usage: model [--depth N] [--states N] [--strict 1] [--break FAULT]
 * FAULT: a name of the list below, or row:NAME of the table.  With --break the run must find
 * something wrong: it is the check of the checks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model.h"

static const char *const break_names[] = {"", "", "no-reconnect", "no-mint", "unwritten",
	"never-written", "one-map", "own-map", "clear-early", "clear-equal", "settle-early",
	"no-settle", "not-shared", "base-early", "no-touch", "no-full-map", "yield-deaf",
	"keep-deaf", "changed-deaf"};
_Static_assert(sizeof(break_names) / sizeof(break_names[0]) == BREAK_KINDS, "a name each");

struct stored {
	uint8_t packed[MODEL_PACKED];
	uint32_t from; /* index, or itself: a root */
	struct model_event event;
	uint8_t swapped; /* against what the event made of `from` */
	uint8_t depth;
};

struct explorer {
	struct stored *states;
	uint32_t count, limit;
	uint32_t *table; /* index + 1 */
	uint32_t mask;
	unsigned depth;
	uint64_t transitions, by_resolve, seen[EVENT_KINDS];
};

static uint64_t hash(const uint8_t *p)
{
	uint64_t h = 0x9e3779b97f4a7c15ull, w;

	for (unsigned i = 0; i < MODEL_PACKED; i += 8) {
		memcpy(&w, p + i, 8);
		h = (h ^ w) * 0xff51afd7ed558ccdull;
		h ^= h >> 32;
	}
	return h;
}

/* false: there is no room for more. */
static bool explorer_add(struct explorer *x, const struct model *m, uint32_t from,
	const struct model_event *e, unsigned depth)
{
	struct stored s = {.from = from, .event = *e, .depth = (uint8_t)depth};
	uint32_t at;

	s.swapped = model_pack(m, s.packed);
	for (at = (uint32_t)hash(s.packed) & x->mask; x->table[at]; at = (at + 1) & x->mask)
		if (memcmp(x->states[x->table[at] - 1].packed, s.packed, MODEL_PACKED) == 0)
			return true;
	if (x->count == x->limit)
		return false;
	if (from == UINT32_MAX)
		s.from = x->count;
	x->states[x->count++] = s;
	x->table[at] = x->count;
	return true;
}

/* The way there, with the nodes' names kept from the beginning on. */
static void explorer_trace(
	const struct explorer *x, uint32_t at, const struct model_event *last, const char *why)
{
	uint32_t path[64];
	unsigned n = 0, names;
	struct model m;
	char text[80];
	const char *ignored;

	while (n < 64 && x->states[at].from != at) {
		path[n++] = at;
		at = x->states[at].from;
	}
	printf("%s:\n", why);
	model_unpack(x->states[at].packed, &m);
	names = 0;
	model_print(&m);
	while (n > 0) {
		struct model_event e = x->states[path[--n]].event;

		e.node ^= e.kind >= EVENT_TOUCH && e.kind <= EVENT_LINK_LOSS ? 0 : names;
		model_event_print(&e, text, sizeof(text));
		printf("%s\n", text);
		(void)model_step(&m, &e, &ignored);
		model_print(&m);
		names ^= x->states[path[n]].swapped;
	}
	if (last) {
		struct model_event e = *last;

		e.node ^= e.kind >= EVENT_TOUCH && e.kind <= EVENT_LINK_LOSS ? 0 : names;
		model_event_print(&e, text, sizeof(text));
		printf("%s   <-- here\n", text);
	}
}

/* All events of one state.  false: something is wrong. */
static bool explorer_expand(struct explorer *x, uint32_t at, bool *ret_full)
{
	const unsigned depth = x->states[at].depth;
	enum model_recovery recovery;
	struct model before;
	const char *why;

	model_unpack(x->states[at].packed, &before);
	recovery = model_recovers(&before, &why);
	if (recovery == MODEL_BY_NEEDLESS_RESOLVE)
		why = "an operator is asked, though one side has nothing of its own";
	x->by_resolve += recovery != MODEL_BY_ITSELF;
	if (why) {
		explorer_trace(x, at, NULL, why);
		return false;
	}
	if (depth == x->depth)
		return true;
	for (unsigned kind = 0; kind < EVENT_KINDS; kind++) {
		for (unsigned i = 0; i < 2 * MODEL_BLOCKS; i++) {
			struct model_event e = {kind, i & 1, (uint8_t)(i / 2)};
			struct model m = before;
			bool done;

			if (e.block && kind != EVENT_WRITE && kind != EVENT_PART)
				continue;
			done = model_step(&m, &e, &why);
			if (why) {
				explorer_trace(x, at, &e, why);
				return false;
			}
			if (!done)
				continue;
			x->transitions++;
			x->seen[kind]++;
			if (!explorer_add(x, &m, at, &e, depth + 1))
				*ret_full = true;
		}
	}
	return true;
}

/* false: something is wrong. */
static bool explore(struct explorer *x, bool *ret_full)
{
	const struct model_event none = {0};
	struct model m;

	model_init(&m);
	(void)explorer_add(x, &m, UINT32_MAX, &none, 0);
	for (uint32_t at = 0; at < x->count; at++)
		if (!explorer_expand(x, at, ret_full))
			return false;
	return true;
}

static bool set_break(const char *name)
{
	if (strncmp(name, "row:", 4) == 0) {
		model_broken = BREAK_ROW;
		model_broken_row = name + 4;
		return true;
	}
	for (unsigned i = BREAK_ROW + 1; i < BREAK_KINDS; i++)
		if (strcmp(break_names[i], name) == 0)
			model_broken = i;
	return model_broken != BREAK_NONE;
}

static uint64_t number(const char *text)
{
	return text ? strtoull(text, NULL, 10) : 0;
}

int main(int argc, char **argv)
{
	struct explorer x = {.depth = 12, .limit = 1u << 20};
	struct timespec began, ended;
	bool fine, full = false;

	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;

		if (strcmp(argv[i], "--depth") == 0 && number(value) && number(value) < 60)
			x.depth = (unsigned)number(value);
		else if (strcmp(argv[i], "--states") == 0 && number(value))
			x.limit = (uint32_t)number(value);
		else if (strcmp(argv[i], "--strict") == 0 && number(value))
			model_strict = true;
		else if (strcmp(argv[i], "--break") != 0 || !value || !set_break(value)) {
			fprintf(stderr, "usage: model [--depth N] [--states N] [--strict 1] "
					"[--break FAULT]\n");
			return 2;
		}
		i++;
	}
	for (x.mask = 1024; x.mask < 2 * (uint64_t)x.limit; x.mask *= 2)
		;
	x.mask--;
	x.states = malloc((size_t)x.limit * sizeof(*x.states));
	x.table = calloc((size_t)x.mask + 1, sizeof(*x.table));
	if (!x.states || !x.table)
		return 2;
	clock_gettime(CLOCK_MONOTONIC, &began);
	fine = explore(&x, &full);
	clock_gettime(CLOCK_MONOTONIC, &ended);
	printf("%u states, %llu transitions, depth %u%s, %llu of them need an operator's word; "
	       "%.1f s\n",
		x.count, (unsigned long long)x.transitions, x.states[x.count - 1].depth,
		full ? " (not all: the limit of states was reached)" : "",
		(unsigned long long)x.by_resolve,
		(double)(ended.tv_sec - began.tv_sec) +
			(double)(ended.tv_nsec - began.tv_nsec) / 1e9);
	for (unsigned i = 0; i < EVENT_KINDS; i++)
		if (fine && !model_broken && !x.seen[i]) {
			printf("event %u never happened\n", i);
			fine = false;
		}
	free(x.states);
	free(x.table);
	if (model_broken)
		printf(fine ? "the fault was NOT noticed\n" : "the fault was noticed\n");
	return fine == (model_broken != BREAK_NONE);
}
