/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared by nbdconn.c (requests, the thread) and nbdconn_connect.c (making the connection). */
#ifndef TANDEM_REPLICATOR_NBDCONN_INTERNAL_H
#define TANDEM_REPLICATOR_NBDCONN_INTERNAL_H

#include <libnbd.h>
#include <pthread.h>

#include "replicator/nbdconn.h"
#include "util/clock.h"

#define NBDCONN_CONNECT_NS (5 * NS_PER_S)
#define NBDCONN_RETRY_NS (1 * NS_PER_S)
/* An extra connection that the server does not want (qemu-nbd leaves it in the backlog) costs
 * nothing but its attempts. */
#define NBDCONN_RETRY_EXTRA_NS (30 * NS_PER_S)
#define NBDCONN_BYE_NS (1 * NS_PER_S)

struct nbdconn {
	struct nbdconn_shared *shared;
	unsigned index;
	pthread_t thread;
	int event_fd;

	/* Of the thread alone. */
	struct nbd_handle *h; /* NULL = not connected */
	struct nbdconn_request *issued;
	bool lost;          /* this session's loss has been noted */
	struct error error; /* why the last attempt to connect failed */

	/* Written by the thread, read by anyone. */
	atomic_bool ready;
	_Atomic uint64_t size;
	_Atomic uint64_t retry_at;
	_Atomic uint64_t writes, flushed; /* as in nbdconn_shared, of this connection */

	_Atomic unsigned in_flight; /* submitted and not completed */

	/* Under lock. */
	pthread_mutex_t lock;
	struct nbdconn_request *queue, **queue_tail;
	bool asleep; /* the thread sees the queue only when woken */
	bool revive, stop;

	/* Of the first attempt; error and first_result are set before started is completed. */
	struct nbdwait started;
	int first_result;
};

/* Makes the connection and checks what is offered; c->h is set on success only. */
int nbdconn_connect(struct nbdconn *c, struct error *err);

/* nbdconn_session.c; c->h is set, except in nbdconn_step and nbdconn_drain. */
/* Waits for the socket or the eventfd, and lets libnbd do what there is to do.  1 = something
 * happened, 0 = the time is over, -1 = the handle failed (nbd_get_error).  What was written to the
 * eventfd is gone then: look at the queue before the next wait. */
int nbdconn_step(struct nbdconn *c, int timeout_ms);
void nbdconn_issue(struct nbdconn *c, struct nbdconn_request *r);
void nbdconn_finish(struct nbdconn_request *r, int result);
/* Ends the session if it is dead, or if step says so. */
void nbdconn_check_alive(struct nbdconn *c, int step);
/* Until nothing is in flight or the handle is dead; new requests stay in the queue. */
void nbdconn_drain(struct nbdconn *c);
int nbdconn_flush_alone(struct nbdconn *c);
void nbdconn_disconnect(struct nbdconn *c);

#endif
