/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An operator's word on whose data stays: flags in the metadata, nothing else.  The data itself
 * goes when the node accepts the next primary. */
#include "replicator/resolve.h"

#include <errno.h>
#include <limits.h>
#include <unistd.h>

#include "replicator/init.h"
#include "replicator/mapfile.h"
#include "replicator/receiver.h"
#include "util/log.h"

static uint64_t resolve_dirty_bytes(const struct conf_node *node, unsigned disk)
{
	struct activity_report report;
	char path[PATH_MAX];
	struct activity log;
	struct dirtymap map;
	struct error err;
	uint64_t bytes;

	if (mapfile_read(node_map_path(node, disk, path, sizeof(path)), &map, &log, &report, &err) <
		0)
		return UINT64_MAX;
	bytes = dirtymap_wanted_bytes(&map);
	dirtymap_deinit(&map);
	activity_deinit(&log);
	return bytes;
}

int resolve_look(
	const struct conf *conf, unsigned index, struct resolve_loss *ret_loss, struct error *err)
{
	const struct conf_node *node = &conf->nodes[index];
	char path[PATH_MAX];
	struct metafile f;
	int r = metafile_open(
		&f, node_path(node->state_dir, "group.meta", path, sizeof(path)), err);

	if (r < 0)
		return r;
	ret_loss->id = f.now.id;
	metafile_close(&f);
	for (unsigned i = 0; i < node->ndisks; i++)
		ret_loss->dirty[i] = resolve_dirty_bytes(node, i);
	return 0;
}

int resolve_stopped(const struct conf *conf, unsigned index, bool yield, struct error *err)
{
	const struct conf_node *node = &conf->nodes[index];
	char path[PATH_MAX];
	struct metadata m;
	struct metafile f;
	int lock, r;

	r = init_lock(conf, index, &lock, err);
	if (r < 0)
		return r;
	r = metafile_open(&f, node_path(node->state_dir, "group.meta", path, sizeof(path)), err);
	if (r == 0) {
		m = f.now;
		if (yield)
			identity_yield(&m.id);
		else
			identity_keep(&m.id);
		r = metafile_write(&f, &m, err);
		metafile_close(&f);
	}
	close(lock);
	return r;
}

static void resolve_note(struct metadata *m, void *ctx)
{
	if (*(bool *)ctx)
		identity_yield(&m->id);
	else
		identity_keep(&m->id);
}

int resolve_running(struct node *n, bool yield, struct error *err)
{
	struct receiver_status st = {0};
	bool primary;
	int r;

	pthread_mutex_lock(&n->lock);
	primary = !n->receiver;
	if (n->receiver)
		receiver_get_status(n->receiver, &st);
	pthread_mutex_unlock(&n->lock);
	if (primary && !yield)
		return 0; /* it serves its data, and goes on */
	if (primary)
		return error_set(err, ERROR_STATE, -EBUSY,
			"this node is the primary: end its guest and run tandem shutdown first, "
			"then start it with tandem secondary");
	if (st.connected)
		return error_set(err, ERROR_STATE, -EISCONN,
			"this node has accepted the primary already: there is nothing to resolve");
	r = node_meta_update(n, resolve_note, &yield, err);
	if (r < 0)
		return r;
	log_info("resolved by command: this node's own data %s",
		yield ? "goes when it accepts a primary" : "is kept");
	pthread_mutex_lock(&n->lock);
	node_set_reason(n, yield ? "resolved; waiting for the primary, which asks every ten seconds"
				 : "resolved: its data is kept");
	node_changed(n);
	pthread_mutex_unlock(&n->lock);
	return 0;
}
