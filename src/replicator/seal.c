/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Seal files: written at an orderly end, looked at and opened at the next start.
 *
 * A closed one holds digests of the blocks that were written last and of some from the beginning to
 * the end: they decide, wherever the image is now, so a copy of it on another host is the same
 * disk. An older copy differs in what was written last.  An open one (the last run was killed) has
 * no digests, since any block may have been written; then the storage must be the same. */
#include "replicator/seal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "replicator/init.h"
#include "util/bytes.h"
#include "util/file.h"
#include "util/log.h"
#include "util/uuid.h"

const char *seal_path(const struct conf_node *node, unsigned disk, char *buf, size_t len)
{
	snprintf(buf, len, "%s/%s.seal", node->state_dir, node->disks[disk].name);
	return buf;
}

static int seal_write(const char *path, const struct seal *s)
{
	uint8_t buf[SEAL_SIZE];
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), r;

	if (fd < 0)
		return -errno;
	seal_put(buf, s);
	r = file_pwrite(fd, buf, sizeof(buf), 0);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	close(fd);
	return r < 0 ? r : file_sync_parent(path);
}

int seal_load(const struct conf_node *node, unsigned disk, struct seal *ret_seal, struct error *err)
{
	uint8_t buf[SEAL_SIZE];
	const char *why;
	char path[512];
	bool newer = false;
	int fd = open(seal_path(node, disk, path, sizeof(path)), O_RDONLY | O_CLOEXEC), r;

	err->text[0] = '\0';
	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0)
		return error_errno(err, "cannot open %s", path);
	r = file_pread(fd, buf, sizeof(buf), 0);
	close(fd);
	if (r < 0 && r != -ENODATA)
		return error_code(err, r, "cannot read %s", path);
	why = r < 0 ? "it is too short" : seal_get(buf, ret_seal, &newer);
	if (!why)
		return 1;
	error_set(err, ERROR_IO, -EBADMSG, "cannot use %s: %s", path, why);
	return newer ? -EBADMSG : 0;
}

static int seal_sample(struct volume *v, const struct seal_sample *a, uint8_t *ret_digest)
{
	uint8_t buf[SEAL_BLOCK];
	int r = backing_pread(v->backing, buf, a->len, a->off);

	if (r == 0)
		seal_digest(buf, a->len, ret_digest);
	return r;
}

static int seal_refuse(struct volume *v, struct error *err, const char *what, uint64_t off)
{
	char where[64] = "";

	if (off != UINT64_MAX)
		snprintf(where, sizeof(where), " (at byte %llu)", (unsigned long long)off);
	return error_set(err, ERROR_STATE, -ESTALE,
		"disk %s: %s %s%s; the dirty map does not cover that. Put the right one back, or, "
		"if what it holds now is to stay, run tandem resolve CONF --changed on this node: "
		"a full sync follows",
		v->name, backing_target(v->backing), what, where);
}

/* What the disk is now, against what it was. */
static int seal_compare(struct volume *v, const struct seal *was, struct error *err)
{
	struct backing_identity now;

	backing_identify(v->backing, &now);
	if (was->state == SEAL_OPEN) {
		static const uint8_t none[SEAL_IDENTITY];

		if (was->kind != now.kind)
			return seal_refuse(v, err,
				"is storage of another kind than in the last run", UINT64_MAX);
		if (memcmp(was->identity, none, sizeof(none)) != 0 &&
			memcmp(was->identity, now.bytes, SEAL_IDENTITY) != 0)
			return seal_refuse(v, err,
				"is not the file or device of the last run, which did not end in "
				"order",
				UINT64_MAX);
		return 0;
	}
	for (uint32_t i = 0; i < was->nsamples; i++) {
		uint8_t digest[SEAL_DIGEST];
		int r = seal_sample(v, &was->samples[i], digest);

		if (r < 0)
			return error_code(err, r, "disk %s: cannot read %s", v->name,
				backing_target(v->backing));
		if (memcmp(digest, was->samples[i].digest, SEAL_DIGEST) != 0)
			return seal_refuse(v, err,
				was->samples[i].recent ? "was changed by others since the last "
							 "run: it lacks what was "
							 "written last"
						       : "was changed by others since the last run",
				was->samples[i].off);
	}
	if (was->kind != now.kind || memcmp(was->identity, now.bytes, SEAL_IDENTITY) != 0)
		log_info("disk %s: %s is other storage than in the last run, with the content that "
			 "was "
			 "left there",
			v->name, backing_target(v->backing));
	return 0;
}

static void seal_identify(struct volume *v, struct seal *s)
{
	struct backing_identity now;

	backing_identify(v->backing, &now);
	s->kind = now.kind;
	s->size = v->size;
	memcpy(s->identity, now.bytes, SEAL_IDENTITY);
}

int seal_check(struct node *n, struct error *err)
{
	struct seal was = {0};
	int r;

	for (unsigned i = 0; i < n->nvolumes; i++) {
		struct volume *v = &n->volumes[i];

		for (unsigned k = 0; k < SEAL_RECENT; k++)
			v->recent[k] = UINT64_MAX;
		r = seal_load(n->own, i, &was, err);
		if (r == 0 && err->text[0])
			log_warning("%s; whether others have changed disk %s is not known",
				err->text, v->name);
		if (r > 0)
			r = seal_compare(v, &was, err) < 0 ? -1 : 1;
		if (r < 0)
			return r;
		for (uint32_t k = 0; r > 0 && k < was.nsamples; k++)
			if (was.samples[k].recent)
				seal_note(v, was.samples[k].off);
	}
	return 0;
}

int seal_open(struct node *n, struct error *err)
{
	struct seal open = {.state = SEAL_OPEN};
	char path[512];
	int r;

	for (unsigned i = 0; i < n->nvolumes; i++) {
		seal_identify(&n->volumes[i], &open);
		r = seal_write(seal_path(n->own, i, path, sizeof(path)), &open);
		if (r < 0)
			return error_code(err, r, "cannot write %s", path);
	}
	return 0;
}

static int seal_close(struct volume *v, const char *path)
{
	struct seal s = {.state = SEAL_CLOSED};
	uint64_t recent[SEAL_RECENT];
	int r = 0;

	seal_identify(v, &s);
	for (unsigned k = 0; k < SEAL_RECENT; k++)
		recent[k] = v->recent[k];
	seal_choose(&s, v->size, recent, SEAL_RECENT);
	for (uint32_t i = 0; i < s.nsamples && r == 0; i++)
		r = seal_sample(v, &s.samples[i], s.samples[i].digest);
	/* What the digests are of must not be lost where they are not. */
	if (r == 0)
		r = backing_flush(v->backing);
	return r < 0 ? r : seal_write(path, &s);
}

void seal_end(struct node *n)
{
	char path[512];

	if (n->own->ingest == CONF_INGEST_NBD) /* a client may write yet */
		return;
	for (unsigned i = 0; i < n->nvolumes; i++) {
		struct volume *v = &n->volumes[i];
		int r = seal_close(v, seal_path(n->own, i, path, sizeof(path)));

		if (r < 0)
			log_warning("disk %s: cannot note in %s what it holds (%s), ignoring",
				v->name, path, strerror(-r));
	}
}

/* The maps first: a run that sees none makes a full sync, whatever else was noted. */
int seal_accept(const struct conf *conf, unsigned index, struct error *err)
{
	const struct conf_node *node = &conf->nodes[index];
	char path[512];
	struct metadata m;
	struct metafile f;
	uint64_t fresh;
	int lock, r;

	r = init_lock(conf, index, &lock, err);
	if (r < 0)
		return r;
	r = metafile_open(&f, node_path(node->state_dir, "group.meta", path, sizeof(path)), err);
	if (r < 0) {
		close(lock);
		return r;
	}
	m = f.now;
	if (m.draining)
		r = error_set(err, ERROR_STATE, -EBUSY,
			"this node was promoted and its journal holds what its disks lack: put the "
			"right disks back, or begin anew with tandem init --force");
	for (unsigned i = 0; r == 0 && i < node->ndisks; i++)
		if (unlink(node_map_path(node, i, path, sizeof(path))) < 0 && errno != ENOENT)
			r = error_errno(err, "cannot remove %s", path);
	if (r == 0)
		r = file_sync_parent(path);
	m.cloned = 0; /* of disks that are no more */
	if (r == 0) {
		r = uuid_random64(&fresh);
		if (r == 0)
			identity_changed(&m.id, fresh);
		r = r < 0 ? error_code(err, r, "cannot make an identifier")
			  : metafile_write(&f, &m, err);
	}
	for (unsigned i = 0; r == 0 && i < node->ndisks; i++)
		if (unlink(seal_path(node, i, path, sizeof(path))) < 0 && errno != ENOENT)
			r = error_errno(err, "cannot remove %s", path);
	if (r == 0)
		r = file_sync_parent(path);
	metafile_close(&f);
	close(lock);
	return r;
}
