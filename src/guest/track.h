/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which pages of the guest's RAM were written: one interface over three ways.
 *
 *   uffd        userfaultfd write-protection and PAGEMAP_SCAN (Linux 6.7); reports and protects
 * again in one step, hence also while the guest runs soft-dirty  bit 55 of /proc/PID/pagemap;
 * reading and clearing are two steps: only while it is stopped shadow      comparison with a copy
 * of the RAM, anywhere; costs the RAM once more and 0.2 s per GiB. What is sent must be that copy:
 * a page that changes behind the comparison and back before the next would go out with the passing
 * content and never again
 *
 * Invariant: a page whose content differs from what it was at the last track_arm or track_collect
 * (track_final) that covered it is in the result of the next.  A page may be reported without need.
 *
 * In the pause of a checkpoint the scan begins early: when the vCPUs stand, while devices still
 * complete what they had begun.  That is right where it can be told afterwards that nothing was
 * written meanwhile (uffd: every first write to a protected page is a page fault of QEMU's, and the
 * kernel counts those); where something was, all is scanned once more. */
#ifndef TANDEM_GUEST_TRACK_H
#define TANDEM_GUEST_TRACK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "guest/crew.h"
#include "guest/kernel.h"
#include "guest/runs.h"
#include "util/error.h"

enum track_way { TRACK_AUTO, TRACK_UFFD, TRACK_SOFT_DIRTY, TRACK_SHADOW };

#define TRACK_PIECES 64

/* Where the RAM file is mapped in QEMU: by offset, without a gap. */
struct track_piece {
	uint64_t addr, offset, length;
};

struct track_target {
	pid_t pid;
	int ram_fd;
	const unsigned char *ram; /* this process's mapping of it, read only */
	uint64_t size;
	struct track_piece pieces[TRACK_PIECES]; /* filled by track_new */
	unsigned npieces;
};

struct track;

/* What one scan gives to whoever shares the work. */
struct track_chunk {
	uint64_t addr, offset, length; /* in QEMU; in the RAM */
};

/* What one of the crew has found. */
struct track_part {
	struct runs runs;
	bool order; /* in growing order, nothing twice */
	int r;
};

struct track_ops {
	const char *name;
	bool live; /* collect is right while the guest runs */
	int (*open)(struct track *t, struct error *err);
	int (*arm)(struct track *t, struct error *err);
	/* Adds to the part what was written in the chunk; several at a time, each with another
	 * number. */
	int (*scan)(struct track *t, unsigned who, const struct track_chunk *c);
	/* All chunks were scanned; NULL = nothing to do then. */
	int (*scanned)(struct track *t);
	/* A count that grows with every first write to a page that is protected, and the processor
	 * that QEMU's main thread is on; NULL: it has no such count. */
	int (*stamp)(struct track *t, uint64_t *ret_count, int *ret_processor);
	void (*close)(struct track *t);
};

struct track {
	const struct track_ops *ops;
	/* Copy pages from here; the RAM itself, except for shadow. */
	const unsigned char *image;
	int image_fd; /* the same as a file */
	struct track_target at;
	struct crew *crew; /* of the caller */
	struct track_chunk *chunks;
	uint64_t nchunks;
	struct track_part parts[CREW_MOST];
	struct runs scratch;
	bool early;     /* a scan is under way in the crew's threads */
	uint64_t count; /* stamp of its beginning */
	uint64_t again; /* early scans that had to be made once more */
	void *own;      /* of the way */
};

extern const struct track_ops track_uffd, track_soft_dirty, track_shadow;

/* Chooses (auto: the first that the kernel has) and opens.  The reason why a way that was asked for
 * cannot be had is in the error.  The crew is used by track_early and track_final, and stays the
 * caller's. */
int track_new(enum track_way way, const struct track_target *target, struct crew *crew,
	struct track **ret_track, struct error *err);
struct track *track_free(struct track *t);
/* From now on; what was written before counts as known. */
int track_arm(struct track *t, struct error *err);
/* Puts into ret, which is empty, what was written since: in growing order, nothing twice.  Where it
 * fails, ret has all RAM, since some of what was reported may be lost.  By the caller alone: while
 * the guest runs, its processors are not ours. */
int track_collect(struct track *t, struct runs *ret, struct error *err);
/* The vCPUs stand, the devices may not: the crew's threads begin.  Then track_final, whatever
 * happens. */
void track_early(struct track *t);
/* Nothing writes any more: as track_collect, with the crew. */
int track_final(struct track *t, struct runs *ret, struct error *err);
/* For the ways: adds to a part. */
int track_found(struct track_part *p, uint64_t offset, uint64_t length);

#endif
