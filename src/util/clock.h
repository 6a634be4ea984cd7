/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Monotonic time in nanoseconds.  core/ never calls this: time comes in as an argument there. */
#ifndef TANDEM_UTIL_CLOCK_H
#define TANDEM_UTIL_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull

static inline uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

#endif
