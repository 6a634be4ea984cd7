/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dirty pages by the soft-dirty bits of QEMU's pagemap.  They are read and then cleared: what is
 * written in between would be lost, so collect is for a stopped guest only. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "guest/track.h"
#include "util/bytes.h"

#define SOFT_DIRTY_ENTRIES 4096 /* of one pread: 16 MiB of RAM */

struct track_soft_dirty_own {
	int pagemap;
	uint64_t entries[CREW_MOST][SOFT_DIRTY_ENTRIES];
};

static int track_soft_dirty_open(struct track *t, struct error *err)
{
	struct track_soft_dirty_own *o = malloc(sizeof(*o));
	char path[64];

	if (!o)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)t->at.pid);
	o->pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (o->pagemap < 0) {
		free(o);
		return error_errno(err, "dirty tracking: cannot open %s", path);
	}
	t->own = o;
	return 0;
}

static void track_soft_dirty_close(struct track *t)
{
	struct track_soft_dirty_own *o = t->own;

	close(o->pagemap);
	free(o);
}

static int track_soft_dirty_arm(struct track *t, struct error *err)
{
	int r = kernel_soft_dirty_clear(t->at.pid);

	return r < 0 ? error_code(err, r, "dirty tracking: cannot clear soft-dirty bits") : 0;
}

static int track_soft_dirty_scan(struct track *t, unsigned who, const struct track_chunk *c)
{
	struct track_soft_dirty_own *o = t->own;
	uint64_t page = c->addr / KERNEL_PAGE, pages = c->length / KERNEL_PAGE;

	for (uint64_t done = 0; done < pages;) {
		size_t n = (size_t)min_u64(SOFT_DIRTY_ENTRIES, pages - done);
		ssize_t got = pread(o->pagemap, o->entries[who], n * sizeof(uint64_t),
			(off_t)((page + done) * sizeof(uint64_t)));

		if (got <= 0)
			return got < 0 ? -errno : -EIO;
		n = (size_t)got / sizeof(uint64_t);
		for (size_t i = 0; i < n; i++) {
			int r;

			if (!(o->entries[who][i] & KERNEL_PAGEMAP_SOFT_DIRTY))
				continue;
			r = track_found(
				&t->parts[who], c->offset + (done + i) * KERNEL_PAGE, KERNEL_PAGE);
			if (r < 0)
				return r;
		}
		done += n;
	}
	return 0;
}

static int track_soft_dirty_scanned(struct track *t)
{
	return kernel_soft_dirty_clear(t->at.pid);
}

const struct track_ops track_soft_dirty = {
	.name = "soft-dirty",
	.live = false,
	.open = track_soft_dirty_open,
	.arm = track_soft_dirty_arm,
	.scan = track_soft_dirty_scan,
	.scanned = track_soft_dirty_scanned,
	.close = track_soft_dirty_close,
};
