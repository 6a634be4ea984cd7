/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A few threads that share work with their owner where there are processors for them: the scan for
 * dirty pages and their copy, in the pause of a checkpoint.  Work is cut into parts; whoever is
 * free takes the next one.  On a machine of one processor there are no threads, and the owner does
 * all.
 *
 * One owner, one piece of work at a time.  Starting costs a system call for each thread, nothing
 * is allocated; between two pieces of work the threads sleep. */
#ifndef TANDEM_GUEST_CREW_H
#define TANDEM_GUEST_CREW_H

#include <stdint.h>

#define CREW_THREADS 3
#define CREW_MOST (CREW_THREADS + 1) /* who share the work, with the owner */

struct crew;

/* who: 0 is the owner, below crew_size; each does one part at a time. */
typedef void crew_fn(void *arg, unsigned who, uint64_t part);

/* NULL: out of memory.  threads: at most that many, and one less than there are processors. */
struct crew *crew_new(unsigned threads);
struct crew *crew_free(struct crew *c);
unsigned crew_size(const struct crew *c);
/* The threads keep off this processor: somebody works there whom the owner waits for. */
void crew_avoid(struct crew *c, int processor);
/* The threads begin; the owner goes on with something else. */
void crew_start(struct crew *c, crew_fn *fn, void *arg, uint64_t parts);
/* The owner helps; all parts are done. */
void crew_finish(struct crew *c);

#endif
