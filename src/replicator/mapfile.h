/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The map file of one disk (docs/metadata.md): the dirty map and activity log of core/, and the
 * writes and syncs that they ask for.
 *
 * Functions marked (L) are called with the lock given to mapfile_open held, and let it go while
 * they wait or write: several writers that wait share one transaction, which the first of them
 * carries out. */
#ifndef TANDEM_REPLICATOR_MAPFILE_H
#define TANDEM_REPLICATOR_MAPFILE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/activity.h"
#include "util/error.h"

struct mapfile {
	int fd;     /* -1 = not open */
	char *path; /* owned */
	pthread_mutex_t *lock;
	pthread_cond_t changed; /* with lock: a transaction is over, or a region was let go */
	struct dirtymap map;    /* (L) */
	struct activity log;    /* (L) */
};

/* What mapfile_open found; each makes every block of the disk dirty, and no incremental sync can
 * be made from it. */
enum mapfile_found {
	MAPFILE_VALID = 0,
	MAPFILE_MISSING = 1,
	MAPFILE_UNUSABLE = 2, /* damaged, or of a larger disk */
};

/* Creates path durably for a disk of size bytes; every block is dirty. Replaces what is there. */
int mapfile_create(const char *path, uint64_t size, uint32_t block, struct error *err);
/* Opens it; makes it anew where it is missing or unusable, grown where the disk has grown, and with
 * another block size where that was changed.  A positive result is one of enum mapfile_found, *err
 * says what is wrong.  Negative: an error; a file of a newer version is one. */
int mapfile_open(struct mapfile *f, const char *path, uint64_t size, uint32_t block,
	pthread_mutex_t *lock, struct error *err);
void mapfile_close(struct mapfile *f);

/* (L) Before a local write: returns when its regions are hot, durably.  -EIO: the file cannot be
 * written, the write must not happen. At most activity_reach bytes.  Cost in a hot region: see
 * core/activity.h; no wait. */
int mapfile_enter(struct mapfile *f, uint64_t off, uint64_t len);
/* (L) After it; whether it was done or not. */
void mapfile_leave(struct mapfile *f, uint64_t off, uint64_t len);
/* (L) Every bit of the map is durable in the pages (with exact: and no other). */
int mapfile_save(struct mapfile *f, bool exact);
/* (L) The orderly end: the pages are exact, no region is hot.  No write is under way. */
int mapfile_settle(struct mapfile *f);
/* (L) The disk has become larger, the dirty map with it; mark: its new part is wanted, durably. Not
 * two at a time.  Negative, with nothing changed: -EFBIG (not while it is open: its regions would
 * become larger), -ENOMEM, no space.  A file of the old size beside a disk of the new one is safe
 * at any time: whoever opens it takes the new part for dirty.  Holds the lock while the bitmaps are
 * copied: some 100 us per TiB of 64 KiB blocks. */
int mapfile_grow(struct mapfile *f, uint64_t size, bool mark);
/* (L) Brings some pages up to date that say too much; false = there were none among them. */
bool mapfile_tidy(struct mapfile *f);

/* For reading a file that may be in use: as activity_load, from path. */
int mapfile_read(const char *path, struct dirtymap *map, struct activity *log,
	struct activity_report *ret_report, struct error *err);

#endif
