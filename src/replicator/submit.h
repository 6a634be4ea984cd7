/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest's controller hands over on the primary (docs/control.md, "VM groups"): memory and
 * device state from a file descriptor, seals and abandoned checkpoints; carried out one after the
 * other by a thread of its own, so that neither the controller nor the disks wait for it.
 *
 *   memfd -> pread -> zero pages left out -> differences to what was sent last (sent_pages.h)
 *     -> compressed -> the stream's queue
 *
 * Cost: nothing on a guest's way; memory of three records, and delta-cache.  Functions marked (L)
 * are called with node.lock held. */
#ifndef TANDEM_REPLICATOR_SUBMIT_H
#define TANDEM_REPLICATOR_SUBMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

#define SUBMIT_RUN 24u /* bytes of a table entry: offset, length, data */
#define SUBMIT_MAX_RUNS (4u << 20)
#define SUBMIT_ZERO UINT64_MAX /* data: the run is zero */

struct node;
struct submitter;

struct submit_job {
	struct submit_job *next;
	enum submit_kind { SUBMIT_MEMORY, SUBMIT_SEAL, SUBMIT_ABANDON } kind;
	uint64_t session;      /* of the sender, when it was asked for */
	uint64_t epoch;        /* 0 = the lowest that is not sealed */
	int table_fd, data_fd; /* owned, -1 = none; may be the same number */
	uint64_t runs, table, state_bytes, state_data, state_offset;
	uint64_t digests, digest_data; /* of memory and state at this checkpoint; 0 = none */

	/* when done */
	int result;
	struct error err;
	uint64_t bytes, zero, equal, delta, sent, into;
	bool done, orphan; /* (L) orphan: nobody asks for the result */
};

int submit_start(struct node *n, struct submitter **ret_submitter, struct error *err);
struct submitter *submit_stop(struct submitter *s);

/* A job with no descriptors; NULL = out of memory. */
struct submit_job *submit_job_new(enum submit_kind kind);
/* (L) Takes the job over; node_changed when it is done. -ENOTCONN (not taken): nothing replicates.
 */
int submit_put(struct submitter *s, struct submit_job *job);
/* (L) The secondary's memory is not what was sent: pages that are submitted from here on are sent
 * whole. */
void submit_distrust(struct submitter *s);
/* (L) The result was read, or nobody wants it: freed now or when it is done. */
void submit_job_unref(struct submit_job *job);

#endif
