/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The choice of the way, and where the RAM file is mapped in QEMU; see track.h. */
#include "guest/track.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* One line of /proc/PID/maps; pieces that continue the last one are joined to it. */
static int track_map_line(struct track_target *t, const struct stat *ram, const char *line)
{
	struct track_piece *last = t->npieces ? &t->pieces[t->npieces - 1] : NULL;
	uint64_t start, end, offset, inode;
	unsigned dmajor, dminor;
	char perms[8];

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %" SCNx64 " %x:%x %" SCNu64, &start, &end,
		    perms, &offset, &dmajor, &dminor, &inode) != 7)
		return 0;
	if (inode != ram->st_ino || makedev(dmajor, dminor) != ram->st_dev)
		return 0;
	if (perms[3] != 's')
		return -EMEDIUMTYPE;
	if (last && last->addr + last->length == start && last->offset + last->length == offset) {
		last->length += end - start;
		return 0;
	}
	if (t->npieces == TRACK_PIECES)
		return -E2BIG;
	t->pieces[t->npieces++] = (struct track_piece){start, offset, end - start};
	return 0;
}

static int track_find(struct track_target *t, struct error *err)
{
	char path[64], line[1024];
	struct stat ram;
	uint64_t covered = 0;
	bool once = true;
	int r = 0;
	FILE *f;

	if (fstat(t->ram_fd, &ram) < 0)
		return error_errno(err, "guest RAM: fstat");
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)t->pid);
	f = fopen(path, "re");
	if (!f)
		return error_errno(err, "guest RAM: cannot read %s", path);
	t->npieces = 0;
	while (r == 0 && fgets(line, sizeof(line), f))
		r = track_map_line(t, &ram, line);
	fclose(f);
	if (r == -EMEDIUMTYPE)
		return error_set(err, ERROR_STATE, r,
			"guest RAM: QEMU has mapped it privately: changes do not reach the file");
	if (r < 0)
		return error_set(err, ERROR_STATE, r,
			"guest RAM: QEMU has mapped it in more than %d pieces", TRACK_PIECES);
	for (unsigned i = 0; i < t->npieces; i++) {
		once &= t->pieces[i].offset == covered;
		covered += t->pieces[i].length;
	}
	/* What is written through a second mapping would not be seen. */
	if (covered != t->size || !once)
		return error_set(err, ERROR_STATE, -EINVAL,
			"guest RAM: QEMU maps %" PRIu64 " of its %" PRIu64
			" bytes, in %u pieces: expected all, each once",
			covered, t->size, t->npieces);
	return 0;
}

static int track_open(const struct track_ops *ops, const struct track_target *at,
	struct track **ret_track, struct error *err)
{
	struct track *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	t->ops = ops;
	t->at = *at;
	t->image = at->ram;
	t->image_fd = at->ram_fd;
	r = ops->open(t, err);
	if (r < 0) {
		free(t);
		return r;
	}
	*ret_track = t;
	return 0;
}

int track_new(enum track_way way, const struct track_target *target, struct track **ret_track,
	struct error *err)
{
	struct track_target at = *target;
	struct kernel_caps caps;
	int r = track_find(&at, err);

	if (r < 0)
		return r;
	kernel_probe(&caps);
	if (way == TRACK_UFFD && !caps.uffd)
		return error_set(err, ERROR_STATE, -EOPNOTSUPP,
			"tracking = uffd: this kernel cannot: %s", caps.uffd_why);
	if (way == TRACK_SOFT_DIRTY && !caps.soft_dirty)
		return error_set(err, ERROR_STATE, -EOPNOTSUPP,
			"tracking = soft-dirty: this kernel cannot: %s", caps.soft_dirty_why);
	if (way == TRACK_UFFD || (way == TRACK_AUTO && caps.uffd)) {
		r = track_open(&track_uffd, &at, ret_track, err);
		if (r == 0 || way == TRACK_UFFD)
			return r;
	}
	if (way == TRACK_SOFT_DIRTY || (way == TRACK_AUTO && caps.soft_dirty))
		return track_open(&track_soft_dirty, &at, ret_track, err);
	return track_open(&track_shadow, &at, ret_track, err);
}

struct track *track_free(struct track *t)
{
	if (!t)
		return NULL;
	t->ops->close(t);
	free(t);
	return NULL;
}

int track_arm(struct track *t, struct error *err)
{
	return t->ops->arm(t, err);
}

int track_collect(struct track *t, struct runs *ret, struct error *err)
{
	return t->ops->collect(t, ret, err);
}
