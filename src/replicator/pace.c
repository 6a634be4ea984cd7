/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "replicator/pace.h"

#include <time.h>

#include "util/bytes.h"
#include "util/clock.h"

static unsigned pace_requests(struct node *n)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < n->nvolumes; i++)
		sum += atomic_load_explicit(&n->volumes[i].requests, memory_order_relaxed);
	return sum;
}

static uint64_t pace_time(uint64_t bytes, uint64_t rate)
{
	return (uint64_t)((double)bytes / (double)rate * (double)NS_PER_S);
}

void pace_init(struct pace *p, struct node *n, uint64_t limit)
{
	*p = (struct pace){.n = n, .limit = limit, .requests = pace_requests(n)};
	pace_begin(p);
}

void pace_begin(struct pace *p)
{
	p->began = clock_ns();
}

void pace_end(struct pace *p, uint64_t bytes)
{
	uint64_t least = p->n->conf->sync_min_rate, now = clock_ns();
	unsigned requests = pace_requests(p->n);

	if (p->limit) {
		uint64_t from = max_u64(p->due, now > PACE_CREDIT ? now - PACE_CREDIT : 0);

		p->due = from + pace_time(bytes, p->limit);
	}
	if (requests != p->requests)
		p->active_until = now + PACE_QUIET;
	p->requests = requests;
	p->rest = 0;
	if (least && now < p->active_until)
		p->rest = now + min_u64((now - p->began) * PACE_REST, pace_time(bytes, least));
}

bool pace_sleep(const struct pace *p)
{
	uint64_t now = clock_ns(), until = max_u64(p->due, p->rest);
	struct timespec ts = {0};

	if (until <= now)
		return false;
	ts.tv_nsec = (long)min_u64(until - now, PACE_SLICE);
	nanosleep(&ts, NULL);
	return true;
}
