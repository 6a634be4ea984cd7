/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Local barriers: a flush of the guest inside a checkpoint's stop is answered at once
 * (docs/consistency.md, 16).  Its flush of the image starts at that moment in a thread of its own,
 * and no later change, of any disk, is applied to a local image before it has ended.
 *
 * Functions marked (L) are called with node.lock held. */
#ifndef TANDEM_REPLICATOR_BARRIER_H
#define TANDEM_REPLICATOR_BARRIER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

struct node;
struct volume;

struct barrier {
	pthread_t thread;
	bool started, stop;   /* (L) stop */
	pthread_cond_t work;  /* with node.lock: there is something to flush */
	pthread_cond_t ended; /* ... nothing is being flushed any more */
	bool begun;           /* (L) flushes are answered at once */
	const void *owner;    /* (L) who began it */
	uint64_t until;       /* (L) clock_ns: forgotten after that */
	uint64_t wanted;      /* (L) bits of volumes whose flush has been asked for */
	uint64_t failed;      /* (L) bits of those whose flush failed: the next one says so */
	int error;            /* (L) with which error */
	bool busy;            /* (L) changes wait: something is wanted or being flushed */
};

/* Does nothing (and costs nothing) but for a node with a guest. */
int barrier_start(struct node *n, struct error *err);
void barrier_stop(struct node *n);

/* (L) From now on, until barrier_end or some seconds from now. */
void barrier_begin(struct node *n, const void *owner);
/* (L) owner NULL = whoever began it. */
void barrier_end(struct node *n, const void *owner);
/* (L) Between the two. */
bool barrier_begun(struct node *n);
/* A flush of the guest: true = it is taken over, *ret_result is the answer. */
bool barrier_flush(struct volume *v, int *ret_result);
/* (L) Waits until no barrier stands before a change; the lock is let go meanwhile. */
void barrier_wait(struct node *n);

#endif
