/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What tracking costs a guest's write: CPU ns of the calls that volume_primary.c makes to the
 * activity log and the dirty map, for random writes of 4 KiB within 4 GiB, all regions hot (they
 * fit in the log). Its own memory is in the cache here, as it is not always beside a guest; prints
 * one number. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/activity.h"

#define TRACKING_DISK (4ull << 30)
#define TRACKING_REGION (4ull << 20)
#define TRACKING_WRITES 4000000u

static uint64_t tracking_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t tracking_next(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return (*seed >> 20) % (TRACKING_DISK / 4096) * 4096;
}

/* CPU of the same loop with (or without) the calls; a write that is not tracked exits with 1. */
static uint64_t tracking_run(struct activity *a, struct dirtymap_windows *w, bool tracked)
{
	uint64_t began = tracking_cpu_ns(), seed = 1, sum = 0;

	for (unsigned i = 0; i < TRACKING_WRITES; i++) {
		uint64_t off = tracking_next(&seed);

		sum += off;
		if (!tracked)
			continue;
		if (!activity_enter(a, off, 4096))
			exit(1);
		dirtymap_sent(w, 0, off, 4096);
		dirtymap_mark_loose(a->map, off, 4096);
		activity_leave(a, off, 4096);
	}
	return tracking_cpu_ns() - began + (sum == 1);
}

int main(void)
{
	struct dirtyfile_header h = {.serial = 1,
		.id = 1,
		.size = TRACKING_DISK,
		.region = TRACKING_REGION,
		.block = 65536};
	struct dirtymap m, *maps[1] = {&m};
	struct dirtymap_windows w = {.maps = maps, .count = 1};
	struct activity a;

	if (dirtymap_init(&m, h.size, h.block) < 0 || activity_init(&a, &m, &h, DIRTYFILE_HOT) < 0)
		return 1;
	for (uint64_t off = 0; off < TRACKING_DISK; off += TRACKING_REGION) {
		struct activity_request q;

		activity_ask(&a, &q, off, 1);
		while (!q.granted && activity_begin(&a))
			activity_done(&a, true);
		activity_leave(&a, off, 1);
	}
	(void)tracking_run(&a, &w, true);

	uint64_t with = tracking_run(&a, &w, true), without = tracking_run(&a, &w, false);

	printf("%.1f\n", (double)(with - without) / TRACKING_WRITES);
	activity_deinit(&a);
	dirtymap_deinit(&m);
	return 0;
}
