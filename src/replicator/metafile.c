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
#define METAFILE_SLOT 8192u
#define METAFILE_VOLUMES 256u
#define METAFILE_CONSISTENT 1u
#define METAFILE_SUPERSEDED 2u

static void metafile_encode(uint8_t *buf, const struct metadata *m)
{
	uint8_t *v = buf + METAFILE_VOLUMES;

	memset(buf, 0, METAFILE_SLOT);
	put_le64(buf, METAFILE_MAGIC);
	put_le32(buf + 8, 1);
	put_le32(buf + 12, 1);
	put_le64(buf + 16, m->serial);
	memcpy(buf + 24, m->group.b, 16);
	put_le64(buf + 40, m->generation);
	put_le32(buf + 48, m->role);
	put_le32(buf + 52, (m->consistent ? METAFILE_CONSISTENT : 0) |
				   (m->superseded ? METAFILE_SUPERSEDED : 0));
	put_le64(buf + 56, m->committed);
	put_le64(buf + 64, m->seen);
	put_le32(buf + 72, m->volumes);
	for (uint32_t i = 0; i < m->volumes; i++, v += HELLO_VOLUME) {
		put_le32(v, m->volume[i].kind);
		put_le64(v + 8, m->volume[i].size);
		memcpy(v + 16, m->volume[i].name, strnlen(m->volume[i].name, HELLO_NAME - 1));
	}
	put_le32(buf + METAFILE_SLOT - 4, crc32c(buf, METAFILE_SLOT - 4));
}

/* NULL = valid. */
static const char *metafile_decode(const uint8_t *buf, struct metadata *ret_m)
{
	struct metadata m = {0};
	const uint8_t *v = buf + METAFILE_VOLUMES;
	uint32_t flags = get_le32(buf + 52);

	if (get_le64(buf) != METAFILE_MAGIC)
		return "it is not a metadata file of Tandem";
	if (get_le32(buf + METAFILE_SLOT - 4) != crc32c(buf, METAFILE_SLOT - 4))
		return "checksum error";
	if (get_le32(buf + 12) > 1)
		return "it was written by a newer version of Tandem";
	m.serial = get_le64(buf + 16);
	memcpy(m.group.b, buf + 24, 16);
	m.generation = get_le64(buf + 40);
	m.role = get_le32(buf + 48);
	m.consistent = flags & METAFILE_CONSISTENT;
	m.superseded = flags & METAFILE_SUPERSEDED;
	m.committed = get_le64(buf + 56);
	m.seen = get_le64(buf + 64);
	m.volumes = get_le32(buf + 72);
	if (m.volumes < 1 || m.volumes > RECORD_MAX_VOLUMES || m.role > METAFILE_SECONDARY ||
		(flags & ~(METAFILE_CONSISTENT | METAFILE_SUPERSEDED)))
		return "field out of range";
	for (uint32_t i = 0; i < m.volumes; i++, v += HELLO_VOLUME) {
		m.volume[i].kind = get_le32(v);
		m.volume[i].size = get_le64(v + 8);
		memcpy(m.volume[i].name, v + 16, HELLO_NAME);
		m.volume[i].name[HELLO_NAME - 1] = '\0';
	}
	*ret_m = m;
	return NULL;
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
	bool found = false;

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
			if (get_le64(buf) != 0)
				why = wrong;
			continue;
		}
		if (!found || m.serial > f->now.serial)
			f->now = m;
		found = true;
	}
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
