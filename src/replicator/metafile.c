/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The node's metadata file: two slots, written alternately. */
#include "replicator/metafile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/bytes.h"
#include "util/crc.h"
#include "util/file.h"

#define METAFILE_MAGIC 0x3154454d444e5454ull
#define METAFILE_VERSION 2u
#define METAFILE_SLOT 8192u
#define METAFILE_AT_HISTORY 256u
#define METAFILE_AT_NEXT_HISTORY 512u
#define METAFILE_AT_VOLUMES 1024u

enum metafile_flags {
	METAFILE_CONSISTENT = 1,
	METAFILE_SUPERSEDED = 2,
	METAFILE_CLEAN = 4,
	METAFILE_SYNCING = 8,
	METAFILE_UNWRITTEN = 16,
	METAFILE_YIELDED = 32,
	METAFILE_SHARED = 64,
	METAFILE_NEXT_FULL = 128,
	METAFILE_DRAINING = 256,
	METAFILE_FLAGS = 511,
};

static uint32_t metafile_flags(const struct identity *id)
{
	return (id->consistent ? METAFILE_CONSISTENT : 0) |
	       (id->superseded ? METAFILE_SUPERSEDED : 0) | (id->clean ? METAFILE_CLEAN : 0) |
	       (id->syncing ? METAFILE_SYNCING : 0) | (id->unwritten ? METAFILE_UNWRITTEN : 0) |
	       (id->yielded ? METAFILE_YIELDED : 0) | (id->shared ? METAFILE_SHARED : 0) |
	       (id->next.full ? METAFILE_NEXT_FULL : 0);
}

static void metafile_set_flags(struct identity *id, uint32_t flags)
{
	id->consistent = flags & METAFILE_CONSISTENT;
	id->superseded = flags & METAFILE_SUPERSEDED;
	id->clean = flags & METAFILE_CLEAN;
	id->syncing = flags & METAFILE_SYNCING;
	id->unwritten = flags & METAFILE_UNWRITTEN;
	id->yielded = flags & METAFILE_YIELDED;
	id->shared = flags & METAFILE_SHARED;
	id->next.full = flags & METAFILE_NEXT_FULL;
}

static void metafile_encode(uint8_t *buf, const struct metadata *m)
{
	const struct identity *id = &m->id;

	memset(buf, 0, METAFILE_SLOT);
	put_le64(buf, METAFILE_MAGIC);
	put_le32(buf + 8, METAFILE_VERSION);
	put_le32(buf + 12, METAFILE_VERSION);
	put_le64(buf + 16, m->serial);
	memcpy(buf + 24, id->group.b, 16);
	hello_put_generation(buf + 40, &id->current);
	hello_put_generation(buf + 56, &id->base);
	put_le64(buf + 72, id->top);
	put_le32(buf + 80, id->role);
	put_le32(buf + 84, metafile_flags(id) | (m->draining ? METAFILE_DRAINING : 0));
	put_le64(buf + 88, m->committed);
	put_le64(buf + 96, m->seen);
	hello_put_generation(buf + 104, &id->next.generation);
	put_le64(buf + 120, id->next.floor);
	put_le32(buf + 128, id->volumes);
	put_le32(buf + 132, id->nhistory);
	put_le32(buf + 136, id->next.nhistory);
	put_le32(buf + 140, id->unwritten_history);
	put_le32(buf + 144, id->next.unwritten_history);
	put_le64(buf + 152, m->cloned);
	hello_put_history(buf + METAFILE_AT_HISTORY, id->history, id->nhistory);
	hello_put_history(buf + METAFILE_AT_NEXT_HISTORY, id->next.history, id->next.nhistory);
	for (uint32_t i = 0; i < id->volumes; i++)
		hello_put_volume(buf + METAFILE_AT_VOLUMES + i * HELLO_VOLUME, &id->volume[i]);
	put_le32(buf + METAFILE_SLOT - 4, crc32c(buf, METAFILE_SLOT - 4));
}

static const char *metafile_decode_identity(const uint8_t *buf, struct identity *id)
{
	uint32_t role = get_le32(buf + 80), flags = get_le32(buf + 84);
	const char *why;

	memcpy(id->group.b, buf + 24, 16);
	id->top = get_le64(buf + 72);
	id->role = role;
	id->next.floor = get_le64(buf + 120);
	id->volumes = get_le32(buf + 128);
	id->nhistory = get_le32(buf + 132);
	id->next.nhistory = get_le32(buf + 136);
	id->unwritten_history = get_le32(buf + 140);
	id->next.unwritten_history = get_le32(buf + 144);
	if (role > IDENTITY_SECONDARY || flags & ~METAFILE_FLAGS || id->volumes < 1 ||
		id->volumes > RECORD_MAX_VOLUMES)
		return "field out of range";
	metafile_set_flags(id, flags);
	if (!hello_get_generation(buf + 40, &id->current) ||
		!hello_get_generation(buf + 56, &id->base) ||
		!hello_get_generation(buf + 104, &id->next.generation) ||
		!hello_get_history(
			buf + METAFILE_AT_HISTORY, id->history, id->nhistory, id->current.number) ||
		!hello_get_history(buf + METAFILE_AT_NEXT_HISTORY, id->next.history,
			id->next.nhistory, id->next.generation.number))
		return "bad generation";
	for (uint32_t i = 0; i < id->volumes; i++) {
		why = hello_get_volume(
			buf + METAFILE_AT_VOLUMES + i * HELLO_VOLUME, &id->volume[i]);
		if (why)
			return why;
	}
	return NULL;
}

/* NULL = valid. */
static const char *metafile_decode(const uint8_t *buf, struct metadata *ret_m)
{
	struct metadata m = {0};
	const char *why;

	if (get_le64(buf) != METAFILE_MAGIC)
		return "it is not a metadata file of Tandem";
	if (get_le32(buf + METAFILE_SLOT - 4) != crc32c(buf, METAFILE_SLOT - 4))
		return "checksum error";
	if (get_le32(buf + 12) > METAFILE_VERSION)
		return "it was written by a newer version of Tandem";
	if (get_le32(buf + 8) < METAFILE_VERSION)
		return "it is of version 1, which did not know whose data is whose: tandem init "
		       "--force begins anew (the disks keep their content; a full sync follows)";
	m.serial = get_le64(buf + 16);
	m.committed = get_le64(buf + 88);
	m.seen = get_le64(buf + 96);
	m.draining = get_le32(buf + 84) & METAFILE_DRAINING;
	m.cloned = get_le64(buf + 152);
	why = metafile_decode_identity(buf, &m.id);
	if (!why)
		*ret_m = m;
	return why;
}

static int metafile_put(int fd, const struct metadata *m)
{
	uint8_t buf[METAFILE_SLOT];
	int r;

	metafile_encode(buf, m);
	r = file_pwrite(fd, buf, sizeof(buf), m->serial % 2 * METAFILE_SLOT);
	if (r == 0 && fdatasync(fd) < 0)
		r = -errno;
	return r;
}

int metafile_create(const char *path, const struct metadata *m, bool force, struct error *err)
{
	struct metadata first = *m;
	int fd, r;

	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | (force ? O_TRUNC : O_EXCL), 0600);
	if (fd < 0)
		return error_errno(err, "metadata: cannot create %s", path);
	first.serial = 1;
	/* Both slots exist from the beginning, so that no later write grows the file. */
	r = ftruncate(fd, 2 * METAFILE_SLOT) < 0 ? -errno : metafile_put(fd, &first);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	close(fd);
	if (r == 0)
		r = file_sync_parent(path);
	return r < 0 ? error_code(err, r, "metadata: cannot write %s", path) : 0;
}

int metafile_open(struct metafile *f, const char *path, struct error *err)
{
	const char *why = "it is not a metadata file of Tandem";
	uint8_t buf[METAFILE_SLOT];
	bool found = false, newer = false;

	f->fd = open(path, O_RDWR | O_CLOEXEC);
	if (f->fd < 0)
		return error_errno(err, "metadata: cannot open %s", path);
	for (unsigned i = 0; i < 2; i++) {
		struct metadata m;
		const char *wrong;

		if (file_pread(f->fd, buf, sizeof(buf), i * METAFILE_SLOT) < 0)
			continue;
		wrong = metafile_decode(buf, &m);
		if (wrong) {
			if (get_le64(buf) != 0 && !newer)
				why = wrong;
			newer |= strstr(wrong, "newer") != NULL;
			continue;
		}
		if (!found || m.serial > f->now.serial)
			f->now = m;
		found = true;
	}
	/* What the other slot says is older than what a later version has noted. */
	found = found && !newer;
	if (found)
		f->path = strdup(path);
	if (found && f->path)
		return 0;
	close(f->fd);
	f->fd = -1;
	if (found)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	return error_set(err, ERROR_IO, -EBADMSG, "metadata: cannot use %s: %s", path, why);
}

int metafile_write(struct metafile *f, const struct metadata *m, struct error *err)
{
	struct metadata next = *m;
	int r;

	next.serial = f->now.serial + 1;
	r = metafile_put(f->fd, &next);
	if (r < 0)
		return error_code(err, r, "metadata: cannot write %s", f->path);
	f->now = next;
	return 0;
}

void metafile_close(struct metafile *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
	free(f->path);
	f->path = NULL;
}
