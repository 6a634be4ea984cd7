/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The choice of the way, and where the RAM file is mapped in QEMU; see track.h. */
#include "guest/track.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "util/bytes.h"

#define TRACK_CHUNK (64ull << 20) /* of RAM, of one piece of a scan: 40 us by uffd */
#define TRACK_ROOM 65536          /* runs, without an allocation */

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

/* By the place in the file; memory backends may stand anywhere in QEMU. */
static int track_order(const void *a, const void *b)
{
	uint64_t x = ((const struct track_piece *)a)->offset;
	uint64_t y = ((const struct track_piece *)b)->offset;

	return x < y ? -1 : x > y;
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
	qsort(t->pieces, t->npieces, sizeof(t->pieces[0]), track_order);
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

static int track_prepare(struct track *t)
{
	for (unsigned i = 0; i < t->at.npieces; i++)
		t->nchunks += (t->at.pieces[i].length + TRACK_CHUNK - 1) / TRACK_CHUNK;
	t->chunks = calloc(t->nchunks, sizeof(*t->chunks));
	if (!t->chunks)
		return -ENOMEM;
	t->nchunks = 0;
	for (unsigned i = 0; i < t->at.npieces; i++) {
		const struct track_piece *p = &t->at.pieces[i];

		for (uint64_t at = 0; at < p->length; at += TRACK_CHUNK)
			t->chunks[t->nchunks++] = (struct track_chunk){
				p->addr + at, p->offset + at, min_u64(TRACK_CHUNK, p->length - at)};
	}
	for (unsigned i = 0; i < crew_size(t->crew); i++)
		if (runs_reserve(&t->parts[i].runs, TRACK_ROOM) < 0)
			return -ENOMEM;
	return runs_reserve(&t->scratch, TRACK_ROOM);
}

static void track_forget(struct track *t)
{
	for (unsigned i = 0; i < CREW_MOST; i++)
		runs_deinit(&t->parts[i].runs);
	runs_deinit(&t->scratch);
	free(t->chunks);
	free(t);
}

static int track_open(const struct track_ops *ops, const struct track_target *at, struct crew *crew,
	struct track **ret_track, struct error *err)
{
	struct track *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	t->ops = ops;
	t->at = *at;
	t->crew = crew;
	t->image = at->ram;
	t->image_fd = at->ram_fd;
	r = track_prepare(t);
	if (r < 0)
		(void)error_set(err, ERROR_GENERAL, r, "out of memory");
	else
		r = ops->open(t, err);
	if (r < 0) {
		track_forget(t);
		return r;
	}
	*ret_track = t;
	return 0;
}

int track_new(enum track_way way, const struct track_target *target, struct crew *crew,
	struct track **ret_track, struct error *err)
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
		r = track_open(&track_uffd, &at, crew, ret_track, err);
		if (r == 0 || way == TRACK_UFFD)
			return r;
	}
	if (way == TRACK_SOFT_DIRTY || (way == TRACK_AUTO && caps.soft_dirty))
		return track_open(&track_soft_dirty, &at, crew, ret_track, err);
	return track_open(&track_shadow, &at, crew, ret_track, err);
}

/* A scan under way: the threads may have reported and protected pages. */
static void track_early_end(struct track *t)
{
	if (t->early)
		crew_finish(t->crew);
	t->early = false;
}

struct track *track_free(struct track *t)
{
	if (!t)
		return NULL;
	track_early_end(t);
	t->ops->close(t);
	track_forget(t);
	return NULL;
}

int track_arm(struct track *t, struct error *err)
{
	return t->ops->arm(t, err);
}

int track_found(struct track_part *p, uint64_t offset, uint64_t length)
{
	const struct run *last = p->runs.n ? &p->runs.v[p->runs.n - 1] : NULL;

	p->order &= !last || offset >= last->offset + last->length;
	return runs_add(&p->runs, offset, length);
}

static void track_scan(void *arg, unsigned who, uint64_t i)
{
	struct track *t = arg;

	if (t->parts[who].r == 0)
		t->parts[who].r = t->ops->scan(t, who, &t->chunks[i]);
}

static void track_clear(struct track *t)
{
	for (unsigned i = 0; i < crew_size(t->crew); i++) {
		runs_clear(&t->parts[i].runs);
		t->parts[i].order = true;
		t->parts[i].r = 0;
	}
}

/* What all have found, as one list. */
static int track_gather(struct track *t, struct runs *ret)
{
	static const struct runs none;
	unsigned n = crew_size(t->crew);
	int r = 0;

	for (unsigned i = 0; i < n; i++) {
		if (t->parts[i].r < 0)
			r = t->parts[i].r;
		if (!t->parts[i].order)
			runs_normalize(&t->parts[i].runs);
	}
	if (r == 0)
		r = runs_unite(ret, &t->parts[0].runs, n > 1 ? &t->parts[1].runs : &none);
	for (unsigned i = 2; r == 0 && i < n; i++) {
		struct runs u;

		r = runs_unite(&t->scratch, ret, &t->parts[i].runs);
		u = *ret;
		*ret = t->scratch;
		t->scratch = u;
	}
	if (r == 0 && t->ops->scanned)
		r = t->ops->scanned(t);
	if (r == 0)
		return 0;
	runs_clear(ret);
	(void)runs_add(ret, 0, t->at.size);
	return r;
}

static int track_result(struct track *t, struct runs *ret, struct error *err)
{
	int r = track_gather(t, ret);

	return r < 0 ? error_code(err, r, "dirty tracking: cannot find what was written (%s)",
			       t->ops->name)
		     : 0;
}

int track_collect(struct track *t, struct runs *ret, struct error *err)
{
	track_early_end(t);
	track_clear(t);
	for (uint64_t i = 0; i < t->nchunks; i++)
		track_scan(t, 0, i);
	return track_result(t, ret, err);
}

void track_early(struct track *t)
{
	int processor;

	/* The stamp comes first: what is written from here on, to a page that the scan has passed,
	 * changes it. */
	if (crew_size(t->crew) == 1 || !t->ops->stamp || t->early ||
		t->ops->stamp(t, &t->count, &processor) < 0)
		return;
	track_clear(t);
	/* QEMU's main thread is at work: the vCPUs' processors are free, its own is not. */
	crew_avoid(t->crew, processor);
	crew_start(t->crew, track_scan, t, t->nchunks);
	t->early = true;
}

int track_final(struct track *t, struct runs *ret, struct error *err)
{
	bool whole = !t->early; /* nothing is known by now */
	uint64_t count;
	int processor;

	if (whole)
		track_clear(t);
	if (t->early && (t->ops->stamp(t, &count, &processor) < 0 || count != t->count)) {
		t->again++;
		whole = true;
	}
	track_early_end(t);
	if (whole) { /* onto what an early scan has found */
		crew_start(t->crew, track_scan, t, t->nchunks);
		crew_finish(t->crew);
	}
	return track_result(t, ret, err);
}
