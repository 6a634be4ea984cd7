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
 * that covered it is in the result of the next.  A page may be reported without need. */
#ifndef TANDEM_GUEST_TRACK_H
#define TANDEM_GUEST_TRACK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "guest/kernel.h"
#include "guest/runs.h"
#include "util/error.h"

enum track_way { TRACK_AUTO, TRACK_UFFD, TRACK_SOFT_DIRTY, TRACK_SHADOW };

#define TRACK_PIECES 16

/* Where the RAM file is mapped in QEMU. */
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

struct track_ops {
	const char *name;
	bool live; /* collect is right while the guest runs */
	int (*open)(struct track *t, struct error *err);
	int (*arm)(struct track *t, struct error *err);
	int (*collect)(struct track *t, struct runs *ret, struct error *err);
	void (*close)(struct track *t);
};

struct track {
	const struct track_ops *ops;
	/* Copy pages from here; the RAM itself, except for shadow. */
	const unsigned char *image;
	int image_fd; /* the same as a file */
	struct track_target at;
	void *own; /* of the way */
};

extern const struct track_ops track_uffd, track_soft_dirty, track_shadow;

/* Chooses (auto: the first that the kernel has) and opens.  The reason why a way that was asked for
 * cannot be had is in the error. */
int track_new(enum track_way way, const struct track_target *target, struct track **ret_track,
	struct error *err);
struct track *track_free(struct track *t);
/* From now on; what was written before counts as known. */
int track_arm(struct track *t, struct error *err);
/* Puts into ret, which is empty, what was written since: in growing order, nothing twice. */
int track_collect(struct track *t, struct runs *ret, struct error *err);

#endif
