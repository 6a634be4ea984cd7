/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the submitter share: submit.c (life, queue of jobs), submit_pack.c (a
 * descriptor's memory and state to records). */
#ifndef TANDEM_REPLICATOR_SUBMIT_INTERNAL_H
#define TANDEM_REPLICATOR_SUBMIT_INTERNAL_H

#include <pthread.h>

#include "core/compress.h"
#include "core/memcheck.h"
#include "core/pages.h"
#include "replicator/node.h"
#include "replicator/sender.h"
#include "replicator/sent_pages.h"
#include "replicator/submit.h"

#define SUBMIT_TABLE 4096u               /* entries read at once */
#define SUBMIT_WINDOW RECORD_MAX_PAYLOAD /* bytes of data read at once */

struct submitter {
	struct node *n;
	pthread_t thread;
	bool started, stop;              /* (L) stop */
	pthread_cond_t work;             /* with node.lock */
	struct submit_job *first, *last; /* (L) waiting */
	struct submit_job *current;      /* (L) */

	/* the thread's own */
	struct compress compress;
	unsigned flag;   /* how data is compressed: RECORD_FLAG_*, 0 = not */
	uint8_t *table;  /* SUBMIT_TABLE entries of the descriptor's table */
	uint8_t *window; /* what was read of the data */
	uint64_t window_at, window_len;
	/* The record that is being gathered: its table, and its data behind the place of the table.
	 */
	uint8_t *raw, *packed;
	unsigned runs;
	struct pages_run run[PAGES_MAX_RUNS];
	uint32_t data;   /* bytes of data in raw, behind SUBMIT_ROOM */
	uint64_t length; /* of all runs */
	/* delta-cache; NULL = off */
	struct sent_pages *sent;
	uint64_t sent_session; /* whose pages it has; 0 = none's */
	bool distrust;         /* (L) it is to be emptied */
	bool remember;         /* in this job: what is sent is kept, and differences may be sent */
};

#define SUBMIT_ROOM (PAGES_MAX_RUNS * PAGES_RUN) /* before the data, for the table */

/* Everything of a SUBMIT_MEMORY job into the stream; fills its result. */
void submit_pack(struct submitter *s, struct submit_job *job);

#endif
