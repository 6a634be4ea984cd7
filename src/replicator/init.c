/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creation of a node's own files, and the lock that one process holds. */
#include "replicator/init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "replicator/backing.h"
#include "replicator/metafile.h"
#include "replicator/node.h"
#include "replicator/receiver_internal.h"
#include "replicator/seal.h"
#include "util/file.h"

static int init_take_lock(const struct conf_node *node, int *ret_fd, struct error *err)
{
	char path[512];
	int fd, r;

	/* No close-on-exec: nbdkit goes on holding it. */
	fd = open(node_path(node->state_dir, "lock", path, sizeof(path)), O_RDWR | O_CREAT, 0600);
	if (fd < 0)
		return error_errno(err, "node %s: cannot open %s", node->name, path);
	r = file_lock(fd);
	if (r < 0) {
		close(fd);
		if (r != -EBUSY)
			return error_code(err, r, "node %s: cannot lock %s", node->name, path);
		return error_set(err, ERROR_BUSY, -EBUSY,
			"node %s: another process runs it (it holds %s)", node->name, path);
	}
	*ret_fd = fd;
	return 0;
}

static int init_volumes(const struct conf *conf, const struct conf_node *node, struct metadata *m,
	struct error *err)
{
	char path[512];

	m->id.volumes = node->ndisks;
	for (unsigned i = 0; i < node->ndisks; i++) {
		struct backing *b;
		int r = backing_open(node->disks[i].backing, false, &b, err);

		if (r < 0)
			return error_prefix(err, "disk %s", node->disks[i].name);
		if (backing_get_info(b)->size == 0) {
			backing_free(b);
			return error_set(err, ERROR_IO, -ENODATA,
				"disk %s: %s is empty; expected a disk of the size that the guest "
				"sees",
				node->disks[i].name, node->disks[i].backing);
		}
		m->id.volume[i].kind = IDENTITY_KIND_DISK;
		m->id.volume[i].size = backing_get_info(b)->size;
		snprintf(m->id.volume[i].name, sizeof(m->id.volume[i].name), "%s",
			node->disks[i].name);
		backing_free(b);
		r = mapfile_create(node_map_path(node, i, path, sizeof(path)), m->id.volume[i].size,
			(uint32_t)conf->dirty_block, err);
		if (r == 0 && unlink(seal_path(node, i, path, sizeof(path))) < 0 && errno != ENOENT)
			r = error_errno(
				err, "disk %s: cannot remove %s", node->disks[i].name, path);
		if (r < 0)
			return r;
	}
	return 0;
}

int init_node(const struct conf *conf, unsigned index, bool force, struct error *err)
{
	const struct conf_node *node = &conf->nodes[index];
	struct metadata m = {0};
	char path[512], journal[512];
	int lock, r;

	r = file_mkdirs(node->state_dir, 0700);
	if (r < 0)
		return error_code(
			err, r, "node %s: cannot create state-dir %s", node->name, node->state_dir);
	r = file_mkdirs(node->run_dir, 0755);
	if (r < 0)
		return error_code(
			err, r, "node %s: cannot create run-dir %s", node->name, node->run_dir);
	r = init_take_lock(node, &lock, err);
	if (r < 0)
		return r;
	node_path(node->state_dir, "group.meta", path, sizeof(path));
	node_path(node->state_dir, "journal", journal, sizeof(journal));
	if (!force && access(path, F_OK) == 0)
		r = error_set(err, ERROR_STATE, -EEXIST,
			"node %s: it is initialised already (%s exists); --force forgets what it "
			"knows",
			node->name, path);
	if (r == 0)
		r = init_volumes(conf, node, &m, err);
	/* The metadata last: its presence says that the node is whole. A journal without it is the
	 * remains of an init that did not end. */
	if (r == 0)
		r = journal_io_create(journal, conf->journal_size, true, err);
	if (r == 0)
		r = metafile_create(path, &m, force, err);
	close(lock);
	return r;
}

int init_lock(const struct conf *conf, unsigned index, int *ret_fd, struct error *err)
{
	const struct conf_node *node = &conf->nodes[index];
	char path[512];

	node_path(node->state_dir, "group.meta", path, sizeof(path));
	if (access(path, F_OK) < 0 && errno != ENOENT)
		return error_errno(err, "node %s: cannot look at %s", node->name, path);
	if (access(path, F_OK) < 0)
		return error_set(err, ERROR_STATE, -ENOENT,
			"node %s: it is not initialised (there is no %s): run tandem init first",
			node->name, path);
	return init_take_lock(node, ret_fd, err);
}

int init_may_start(const struct conf *conf, unsigned index, bool primary, struct error *err)
{
	const struct conf_node *node = &conf->nodes[index];
	const char *why = NULL;
	char path[512];
	struct metafile f;
	int r = metafile_open(
		&f, node_path(node->state_dir, "group.meta", path, sizeof(path)), err);

	if (r < 0)
		return error_prefix(err, "node %s", node->name);
	if (primary)
		why = identity_refuse_primary(&f.now.id);
	metafile_close(&f);
	return why ? error_set(err, ERROR_STATE, -EPERM, "node %s: %s", node->name, why) : 0;
}
