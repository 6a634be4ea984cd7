/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory that passes a checkpoint (or a round before it) to the replicator: a memfd with copied
 * pages, device state and the table of runs, read by the replicator while the guest runs on.  A few
 * of them let checkpoints overlap.
 *
 * The pages dirtied ahead of the stop are copied first, those of the stop after them; the table
 * names each page once, with its newest copy.  Copying costs a memcpy; pages once touched stay, so
 * that the pause pays no page faults. */
#ifndef TANDEM_GUEST_STAGING_H
#define TANDEM_GUEST_STAGING_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "guest/crew.h"
#include "guest/runs.h"
#include "util/error.h"

struct staging {
	int fd;
	unsigned char *map;
	uint64_t size, used;        /* bytes; used grows from 0 with each checkpoint */
	uint64_t high;              /* most that was ever touched */
	struct staging_part *parts; /* of one copy: where each part begins */
	bool busy;                  /* the replicator may still read it */
	json_int_t submit, seal;    /* requests under way, 0 = none */
	uint64_t epoch;             /* of the seal */
};

/* For guests of that much RAM. */
int staging_init(struct staging *s, uint64_t ram_size, struct error *err);
void staging_deinit(struct staging *s);
/* Begins anew; gives memory back that a large checkpoint left. */
void staging_reset(struct staging *s);
/* Appends the runs' bytes of image; where they begin.  -ENOSPC cannot be: each page is copied twice
 * at most.  What is large is shared with the crew (NULL: by the caller alone). */
uint64_t staging_copy(
	struct staging *s, const unsigned char *image, const struct runs *runs, struct crew *crew);
uint64_t staging_bytes(struct staging *s, const void *bytes, uint64_t len);
/* Appends the table: runs `first`, whose data begin at first_data, without what `newer`
 * (newer_data) has too, and newer.  The number of entries; *ret_table where they stand. */
uint64_t staging_table(struct staging *s, const struct runs *first, uint64_t first_data,
	const struct runs *newer, uint64_t newer_data, uint64_t *ret_table);
/* Appends a table of runs whose data stand in another file, at the same offset. */
uint64_t staging_table_direct(
	struct staging *s, const struct run *runs, uint64_t n, uint64_t *ret_table);

#endif
