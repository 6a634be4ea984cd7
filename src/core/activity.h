/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The activity log of one disk, and when its map file is written: which regions are hot, which
 * transaction must be durable before a write may go to the local disk, which region is evicted.
 * Pure: the caller serialises all calls (under its one short lock), does the writes and waits.
 *
 *   enter (hot: goes at once) ... else ask -> begin -> phase 0: pages, sync -> phase 1: record,
 * sync
 *   -> done -> granted -> the local write -> leave
 *
 * Invariants: a write is under way only in a region that the newest durable record calls hot; a
 * region leaves the record only when no write is under way in it and the durable pages hold every
 * bit that the map has of it.  So after any crash (pages + regions of the record) is a superset of
 * the map (I3).  Of what exists twice, only the copy that is not the newest durable one is written.
 * Cost of a write to a hot region: two array look-ups, a list move. */
#ifndef TANDEM_CORE_ACTIVITY_H
#define TANDEM_CORE_ACTIVITY_H

#include "core/dirtyfile.h"
#include "core/dirtymap.h"

#define ACTIVITY_PAGES 16u        /* bitmap pages in one transaction */
#define ACTIVITY_SPARE 16u        /* regions evicted ahead of need */
#define ACTIVITY_REQUEST_MAX 128u /* regions of one request */
#define ACTIVITY_NONE UINT16_MAX

/* A write that waits; owned by the waiter, linked while it is not granted. */
struct activity_request {
	struct activity_request *next;
	uint32_t first, count; /* regions */
	bool granted;          /* its regions are entered */
	bool failed;           /* the map file cannot be written: the write must not go */
};

struct activity_slot {
	uint32_t region, refs; /* refs: writes under way, or granted */
	uint16_t newer, older;
	bool pending; /* its record is not durable yet */
};

struct activity {
	struct dirtymap *map;
	struct dirtyfile_header header;
	unsigned region_shift;
	uint32_t regions, capacity, used;
	uint16_t *slot_of; /* by region; ACTIVITY_NONE = cold */
	struct activity_slot *slots;
	uint16_t newest, oldest, free; /* free: a list through older */
	struct activity_request *first, **last;
	struct activity_request *admitted; /* in the transaction */
	bool busy;                         /* a transaction is out */
	bool broken;                       /* a write of the file failed */
	uint64_t record_serial;            /* of the newest durable one */
	uint64_t pages, cursor;
	uint64_t *page_serial;
	/* the transaction */
	bool record;
	unsigned npages;
	uint64_t page[ACTIVITY_PAGES];
	uint8_t *buf;                   /* the pages, then the record */
	uint64_t transactions, answers; /* statistics; requests granted or failed */
};

struct activity_io {
	uint64_t off;
	const uint8_t *buf; /* DIRTYFILE_UNIT bytes */
};

/* map: as h says, and the caller's.  capacity: ACTIVITY_REQUEST_MAX (tests: 4)..DIRTYFILE_HOT. */
int activity_init(struct activity *a, struct dirtymap *map, const struct dirtyfile_header *h,
	uint32_t capacity);
void activity_deinit(struct activity *a);
/* The map has grown (dirtymap_grow): 0 or -ENOMEM. Not while busy. */
int activity_grow(struct activity *a, uint64_t size);

/* [off, off+len): false = it touches a cold region, nothing has changed. */
bool activity_enter(struct activity *a, uint64_t off, uint64_t len);
/* Queues q; at most ACTIVITY_REQUEST_MAX regions. */
void activity_ask(struct activity *a, struct activity_request *q, uint64_t off, uint64_t len);
void activity_leave(struct activity *a, uint64_t off, uint64_t len);
/* Bytes from off to the end of the last region that one request may reach. */
uint64_t activity_reach(const struct activity *a, uint64_t off);

/* A transaction: true = one is out now, to be written and then reported by done.  Not while busy.
 * begin: admits waiting requests.  begin_pages: pages that lack bits of the map, with exact also
 * those that have too many; limit: looks at so many from the cursor on (0 = to the end).
 * begin_close: the same, exact, and no region stays hot: for the orderly end (no write is under
 * way). */
bool activity_begin(struct activity *a);
bool activity_begin_pages(struct activity *a, bool exact, uint64_t limit);
bool activity_begin_close(struct activity *a);
/* The writes of phase 0 (all pages) and 1 (the record), each followed by a sync; returns how many,
 * 0 = skip the phase.  io: ACTIVITY_PAGES. */
unsigned activity_writes(const struct activity *a, unsigned phase, struct activity_io *io);
/* Both phases are durable, or one failed. Requests are granted (or failed). */
void activity_done(struct activity *a, bool durable);

/* A region that the newest record names; -EBADMSG: twice, or too many. While loading only. */
int activity_restore(struct activity *a, uint32_t region);

/* --- core/activity_load.c --- */
/* len bytes at off; 0 or negative errno. */
typedef int (*activity_read_fn)(void *ctx, uint64_t off, void *buf, size_t len);

struct activity_report {
	uint64_t pages, lost_pages; /* lost: no copy is valid; all its blocks count as dirty */
	uint64_t torn_pages; /* one copy of two is valid, the other one neither valid nor zero */
	bool lost_log;       /* no record is valid: every block counts as dirty */
	uint32_t hot;
};

/* Reads a file: map and activity are initialised as it says (pages and hot regions are WANTED).
 * Negative errno with *ret_why: unusable. */
int activity_load(activity_read_fn read_fn, void *ctx, uint32_t capacity, struct dirtymap *map,
	struct activity *a, struct activity_report *ret_report, const char **ret_why);

#endif
