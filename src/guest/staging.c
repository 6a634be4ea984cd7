/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See staging.h. */
#include "guest/staging.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/kernel.h"
#include "util/bytes.h"

#define STAGING_EXTRA (512ull << 20) /* device state and tables */
#define STAGING_KEEP (32ull << 20)   /* touched ahead, and kept when a checkpoint needed more */
#define STAGING_ENTRY 24
#define STAGING_PART (256ull << 10) /* of a copy that is shared: some 50 us */
#define STAGING_SHARED 4            /* parts from which sharing pays */

struct staging_part {
	size_t run;    /* its first one */
	uint64_t from; /* in that run */
};

int staging_init(struct staging *s, uint64_t ram_size, struct error *err)
{
	int fd = memfd_create("tandem-staging", MFD_CLOEXEC);
	uint64_t size = 2 * ram_size + STAGING_EXTRA;
	void *m = MAP_FAILED;

	*s = (struct staging){.fd = -1};
	if (fd >= 0 && ftruncate(fd, (off_t)size) == 0)
		m = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (m == MAP_FAILED) {
		(void)error_errno(err, "no memory for staging a checkpoint");
		if (fd >= 0)
			close(fd);
		return -ENOMEM;
	}
	*s = (struct staging){.fd = fd, .map = m, .size = size};
	s->parts = malloc((ram_size / STAGING_PART + 1) * sizeof(*s->parts));
	if (!s->parts) {
		staging_deinit(s);
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	}
	s->high = min_u64(STAGING_KEEP, ram_size);
	memset(s->map, 0, s->high);
	return 0;
}

void staging_deinit(struct staging *s)
{
	if (s->map)
		munmap(s->map, s->size);
	if (s->map && s->fd >= 0)
		close(s->fd);
	free(s->parts);
	*s = (struct staging){.fd = -1};
}

void staging_reset(struct staging *s)
{
	if (s->high > STAGING_KEEP) {
		(void)fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, STAGING_KEEP,
			(off_t)(s->size - STAGING_KEEP));
		s->high = STAGING_KEEP;
	}
	s->used = 0;
	s->busy = false;
	s->submit = s->seal = 0;
	s->epoch = 0;
}

static void staging_took(struct staging *s, uint64_t len)
{
	s->used += len;
	s->high = max_u64(s->high, s->used);
}

/* A copy that is shared. */
struct staging_work {
	const struct staging *s;
	const unsigned char *image;
	const struct runs *runs;
};

static void staging_copy_part(void *arg, unsigned who, uint64_t i)
{
	const struct staging_work *w = arg;
	const struct staging_part *p = &w->s->parts[i];
	unsigned char *to = w->s->map + w->s->used + i * STAGING_PART;
	uint64_t left = min_u64(STAGING_PART, w->runs->bytes - i * STAGING_PART), from = p->from;

	(void)who;
	for (size_t run = p->run; left > 0; run++) {
		const struct run *r = &w->runs->v[run];
		uint64_t n = min_u64(r->length - from, left);

		memcpy(to, w->image + r->offset + from, n);
		to += n;
		left -= n;
		from = 0;
	}
}

/* Notes where the parts begin; their number. */
static uint64_t staging_cut(struct staging *s, const struct runs *runs)
{
	uint64_t parts = 0, before = 0; /* bytes of the runs before */

	for (size_t i = 0; i < runs->n; i++) {
		for (; parts * STAGING_PART < before + runs->v[i].length; parts++)
			s->parts[parts] = (struct staging_part){i, parts * STAGING_PART - before};
		before += runs->v[i].length;
	}
	return parts;
}

uint64_t staging_copy(
	struct staging *s, const unsigned char *image, const struct runs *runs, struct crew *crew)
{
	uint64_t at = s->used;
	struct staging_work w = {s, image, runs};
	uint64_t parts = staging_cut(s, runs);

	if (crew && parts >= STAGING_SHARED) {
		crew_start(crew, staging_copy_part, &w, parts);
		crew_finish(crew);
	} else {
		for (uint64_t i = 0; i < parts; i++)
			staging_copy_part(&w, 0, i);
	}
	staging_took(s, runs->bytes);
	return at;
}

uint64_t staging_bytes(struct staging *s, const void *bytes, uint64_t len)
{
	uint64_t at = s->used;

	memcpy(s->map + at, bytes, len);
	staging_took(s, len);
	return at;
}

static void staging_entry(struct staging *s, uint64_t offset, uint64_t length, uint64_t data)
{
	unsigned char *e = s->map + s->used;

	put_le64(e, offset);
	put_le64(e + 8, length);
	put_le64(e + 16, data);
	s->used += STAGING_ENTRY;
}

/* What of [offset, offset + length) no run of newer, from *at on, covers. */
static uint64_t staging_rest(
	struct staging *s, const struct run *r, uint64_t data, const struct runs *newer, size_t *at)
{
	uint64_t from = r->offset, end = r->offset + r->length, n = 0;

	while (*at < newer->n && newer->v[*at].offset + newer->v[*at].length <= from)
		++*at;
	for (size_t i = *at; from < end; i++) {
		uint64_t stop = i < newer->n ? min_u64(newer->v[i].offset, end) : end;

		if (stop > from) {
			staging_entry(s, from, stop - from, data + (from - r->offset));
			n++;
		}
		if (i >= newer->n || newer->v[i].offset >= end)
			break;
		from = max_u64(from, newer->v[i].offset + newer->v[i].length);
	}
	return n;
}

uint64_t staging_table(struct staging *s, const struct runs *first, uint64_t first_data,
	const struct runs *newer, uint64_t newer_data, uint64_t *ret_table)
{
	uint64_t n = 0;
	size_t at = 0;

	s->used = round_up(s->used, 8);
	*ret_table = s->used;
	for (size_t i = 0; i < first->n; i++) {
		n += staging_rest(s, &first->v[i], first_data, newer, &at);
		first_data += first->v[i].length;
	}
	for (size_t i = 0; i < newer->n; i++) {
		staging_entry(s, newer->v[i].offset, newer->v[i].length, newer_data);
		newer_data += newer->v[i].length;
		n++;
	}
	staging_took(s, 0);
	return n;
}

uint64_t staging_table_direct(
	struct staging *s, const struct run *runs, uint64_t n, uint64_t *ret_table)
{
	s->used = round_up(s->used, 8);
	*ret_table = s->used;
	for (uint64_t i = 0; i < n; i++)
		staging_entry(s, runs[i].offset, runs[i].length, runs[i].offset);
	staging_took(s, 0);
	return n;
}
