/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The simulated world: random numbers, the event loop in virtual time, failures and trace. */
#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct sim_event {
	uint64_t at, order; /* equal times: first scheduled, first served */
	sim_fn fn;
	void *arg;
	enum sim_node node;
	unsigned boot;
};

/* The finalizer of SplitMix64 (Steele, Lea, Flood 2014). */
uint64_t sim_mix(uint64_t v)
{
	v ^= v >> 30;
	v *= 0xbf58476d1ce4e5b9ull;
	v ^= v >> 27;
	v *= 0x94d049bb133111ebull;
	return v ^ v >> 31;
}

uint64_t sim_rng(struct sim *s, uint64_t below)
{
	s->rng += 0x9e3779b97f4a7c15ull;
	return below ? sim_mix(s->rng) % below : 0;
}

bool sim_chance(struct sim *s, unsigned percent)
{
	return sim_rng(s, 100) < percent;
}

uint64_t sim_delay(struct sim *s, uint64_t min, uint64_t max)
{
	uint64_t d = min + sim_rng(s, max - min + 1);

	return sim_rng(s, 50) == 0 ? d * 20 : d;
}

static bool sim_event_before(const struct sim_event *a, const struct sim_event *b)
{
	return a->at < b->at || (a->at == b->at && a->order < b->order);
}

void sim_after(struct sim *s, enum sim_node node, uint64_t delay, sim_fn fn, void *arg)
{
	struct sim_event e = {s->now + delay, s->order++, fn, arg, node, s->boots[node]};
	size_t i;

	if (s->nheap == s->capacity) {
		s->capacity = s->capacity ? s->capacity * 2 : 256;
		s->heap = realloc(s->heap, s->capacity * sizeof(*s->heap));
		if (!s->heap)
			abort();
	}
	for (i = s->nheap++; i > 0 && sim_event_before(&e, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
		s->heap[i] = s->heap[(i - 1) / 2];
	s->heap[i] = e;
}

static struct sim_event sim_pop(struct sim *s)
{
	struct sim_event top = s->heap[0], last = s->heap[--s->nheap];
	size_t i = 0;

	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= s->nheap)
			break;
		if (child + 1 < s->nheap && sim_event_before(&s->heap[child + 1], &s->heap[child]))
			child++;
		if (!sim_event_before(&s->heap[child], &last))
			break;
		s->heap[i] = s->heap[child];
		i = child;
	}
	if (s->nheap)
		s->heap[i] = last;
	return top;
}

bool sim_step(struct sim *s)
{
	struct sim_event e;

	if (s->nheap == 0)
		return false;
	e = sim_pop(s);
	s->now = e.at;
	s->stats->events++;
	if (e.boot == s->boots[e.node])
		e.fn(s, e.arg);
	return true;
}

void sim_events_free(struct sim *s)
{
	free(s->heap);
	s->heap = NULL;
	s->nheap = s->capacity = 0;
}

void sim_trace_line(struct sim *s, const char *fmt, ...)
{
	va_list ap;

	printf("%10.3f ms  ", (double)s->now / (double)SIM_MS);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

void sim_fail(struct sim *s, const char *fmt, ...)
{
	va_list ap;

	if (s->failed)
		return; /* the first one is the cause */
	s->failed = true;
	va_start(ap, fmt);
	vsnprintf(s->why, sizeof(s->why), fmt, ap);
	va_end(ap);
	if (!s->quiet)
		printf("seed %llu: at %.3f ms: %s\n", (unsigned long long)s->seed,
			(double)s->now / (double)SIM_MS, s->why);
}
