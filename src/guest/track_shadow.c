/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dirty pages by comparing all RAM with a copy: needs nothing of the kernel, but as much memory as
 * the guest has, and 0.2 s per GiB.  A page that changes while it is copied differs again next
 * time. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/track.h"

static int track_shadow_open(struct track *t, struct error *err)
{
	int fd = memfd_create("tandem-shadow", MFD_CLOEXEC);
	void *m = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, (off_t)t->at.size) == 0)
		m = mmap(NULL, t->at.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (m == MAP_FAILED) {
		(void)error_errno(err, "dirty tracking: no memory for a copy of the guest's RAM");
		if (fd >= 0)
			close(fd);
		return err->code;
	}
	t->own = m;
	t->image = m;
	t->image_fd = fd;
	return 0;
}

static void track_shadow_close(struct track *t)
{
	munmap(t->own, t->at.size);
	close(t->image_fd);
}

/* part NULL: the copy only. */
static int track_shadow_chunk(struct track *t, struct track_part *part, const struct track_chunk *c)
{
	unsigned char *copy = t->own;

	for (uint64_t at = c->offset; at < c->offset + c->length; at += KERNEL_PAGE) {
		int r;

		if (!memcmp(copy + at, t->at.ram + at, KERNEL_PAGE))
			continue;
		memcpy(copy + at, t->at.ram + at, KERNEL_PAGE);
		r = part ? track_found(part, at, KERNEL_PAGE) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

static int track_shadow_scan(struct track *t, unsigned who, const struct track_chunk *c)
{
	return track_shadow_chunk(t, &t->parts[who], c);
}

static int track_shadow_arm(struct track *t, struct error *err)
{
	(void)err;
	for (uint64_t i = 0; i < t->nchunks; i++)
		(void)track_shadow_chunk(t, NULL, &t->chunks[i]);
	return 0;
}

const struct track_ops track_shadow = {
	.name = "shadow",
	.live = true,
	.open = track_shadow_open,
	.arm = track_shadow_arm,
	.scan = track_shadow_scan,
	.close = track_shadow_close,
};
