/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The nbdkit plugin: one export per disk of the group.  Parameters: config=FILE node=NAME
 * role=primary|secondary guest=yes|no (given by `tandem primary` and `tandem secondary`). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>
#include <systemd/sd-daemon.h>

#include "replicator/local.h"
#include "replicator/shutdown.h"
#include "replicator/volume.h"
#include "util/fault.h"
#include "util/log.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define PLUGIN_MAX_REQUEST (32u << 20)

/* Export "NAME@committed" of a secondary: its committed state, read-only, also with ingest. */
#define PLUGIN_COMMITTED "@committed"
/* Export "NAME@resume" of a group with a guest: the one that QEMU has.  On a secondary it can be
 * opened ahead of the promotion: it shows the image as it stands, and takes no change until then.
 */
#define PLUGIN_RESUME "@resume"

/* What a connection has of an export. */
struct plugin_handle {
	struct volume *v;
	struct snapshot *snapshot; /* read-only; NULL: served live */
	bool resume;               /* PLUGIN_RESUME */
	bool ingest;               /* writes to a secondary: only in its era */
	unsigned era;
};

static char *plugin_config_path, *plugin_node_name, *plugin_role, *plugin_guest;
static struct conf *plugin_conf;
static unsigned plugin_self;
static struct node *plugin_node;

static int plugin_config(const char *key, const char *value)
{
	char **to = strcmp(key, "config") == 0  ? &plugin_config_path
		    : strcmp(key, "node") == 0  ? &plugin_node_name
		    : strcmp(key, "role") == 0  ? &plugin_role
		    : strcmp(key, "guest") == 0 ? &plugin_guest
						: NULL;

	if (!to) {
		nbdkit_error(
			"unknown parameter \"%s\"; there are config, node, role and guest", key);
		return -1;
	}
	free(*to);
	*to = strcmp(key, "config") == 0 ? nbdkit_realpath(value) : strdup(value);
	return *to ? 0 : -1;
}

static int plugin_config_complete(void)
{
	struct error err = {0};
	int r;

	if (!plugin_config_path || !plugin_role ||
		(strcmp(plugin_role, "primary") != 0 && strcmp(plugin_role, "secondary") != 0)) {
		nbdkit_error("config=FILE and role=primary or role=secondary are needed");
		return -1;
	}
	if (plugin_guest && strcmp(plugin_guest, "yes") != 0 && strcmp(plugin_guest, "no") != 0) {
		nbdkit_error("guest=yes or guest=no, not guest=%s", plugin_guest);
		return -1;
	}
	r = fault_init(&err);
	if (r == 0)
		r = conf_load(plugin_config_path, &plugin_conf, &err);
	if (r == 0)
		r = conf_find_node(plugin_conf, plugin_node_name, &err);
	if (r < 0) {
		nbdkit_error("%s", err.text);
		return -1;
	}
	plugin_self = (unsigned)r;
	log_init(plugin_conf->nodes[plugin_self].name, LOG_LEVEL_INFO);
	return 0;
}

/* The first line of a node's log: what it is, and where its clients and its peer find it. */
static void plugin_log_ready(const struct node *n)
{
	const char *run_dir = n->own->run_dir;

	if (strcmp(plugin_role, "primary") == 0)
		log_info("primary of group %s is ready: exports on %s/nbd.sock", n->conf->group,
			run_dir);
	else
		log_info("secondary of group %s is ready: link on %s:%s, exports on %s/nbd.sock",
			n->conf->group, n->own->link_host, n->own->link_port, run_dir);
}

static int plugin_after_fork(void)
{
	struct error err = {0};
	int r;

	r = node_start(plugin_conf, plugin_self,
		strcmp(plugin_role, "primary") == 0 ? NODE_PRIMARY : NODE_SECONDARY,
		plugin_guest && strcmp(plugin_guest, "yes") == 0, &plugin_node, &err);
	if (r == 0)
		r = shutdown_start(plugin_node, &err);
	if (r < 0) {
		log_error("%s", err.text);
		return -1;
	}
	/* nbdkit has bound its socket before it forks: from here on both sockets take clients. */
	(void)sd_notify(0, "READY=1");
	plugin_log_ready(plugin_node);
	return 0;
}

static void plugin_cleanup(void)
{
	if (!plugin_node)
		return;
	shutdown_finish();
	plugin_node = node_free(plugin_node);
	log_info("stopped");
}

static void plugin_unload(void)
{
	plugin_conf = conf_free(plugin_conf);
	free(plugin_config_path);
	free(plugin_node_name);
	free(plugin_role);
	free(plugin_guest);
}

static bool plugin_is_primary(void)
{
	bool primary;

	pthread_mutex_lock(&plugin_node->lock);
	primary = plugin_node->role == NODE_PRIMARY;
	pthread_mutex_unlock(&plugin_node->lock);
	return primary;
}

static int plugin_list_exports(int readonly, int is_tls, struct nbdkit_exports *exports)
{
	struct node *n = plugin_node;
	char name[CONF_MAX_NAME + sizeof(PLUGIN_COMMITTED)];

	for (unsigned i = 0; i < n->nvolumes; i++)
		if (nbdkit_add_export(exports, n->volumes[i].name, NULL) == -1)
			return -1;
	for (unsigned i = 0; !plugin_is_primary() && i < n->nvolumes; i++) {
		snprintf(name, sizeof(name), "%s%s", n->volumes[i].name, PLUGIN_COMMITTED);
		if (nbdkit_add_export(exports, name, "committed state, read-only") == -1)
			return -1;
	}
	return 0;
}

static const char *plugin_default_export(int readonly, int is_tls)
{
	return plugin_node->nvolumes == 1 ? plugin_node->volumes[0].name : "";
}

/* NAME, or NAME and a suffix, which *ret_suffix then is. */
static struct volume *plugin_find(const char *name, const char **ret_suffix)
{
	struct node *n = plugin_node;
	size_t len = strcspn(name, "@");

	*ret_suffix = name + len;
	if (name[len] && strcmp(name + len, PLUGIN_COMMITTED) != 0 &&
		(strcmp(name + len, PLUGIN_RESUME) != 0 || !n->guest))
		return NULL;
	if (len == 0 && n->nvolumes == 1)
		return &n->volumes[0];
	for (unsigned i = 0; i < n->nvolumes; i++)
		if (strlen(n->volumes[i].name) == len && memcmp(n->volumes[i].name, name, len) == 0)
			return &n->volumes[i];
	return NULL;
}

/* On a secondary: its committed state, in h frozen for this connection, or (resume) as the image
 * has it from then on. */
static int plugin_open_committed(struct plugin_handle *h, struct error *err)
{
	struct node *n = plugin_node;
	struct receiver *receiver;
	struct receiver_status st;
	bool held;
	int r;

	pthread_mutex_lock(&n->lock);
	receiver = n->receiver;
	if (!receiver || n->role == NODE_PRIMARY) {
		r = error_set(
			err, ERROR_STATE, -ESHUTDOWN, "this node is no secondary: %s", n->reason);
		pthread_mutex_unlock(&n->lock);
		return r;
	}
	receiver_get_status(receiver, &st);
	if (st.core.mode == REPLICA_EMPTY || (st.core.mode == REPLICA_DIRECT && !st.core.cloned)) {
		pthread_mutex_unlock(&n->lock);
		return error_set(err, ERROR_STATE, -ENODATA,
			"this secondary has no committed state to show yet");
	}
	local_use(receiver); /* a promotion may drain meanwhile, but not free it */
	r = receiver_drain_and_hold(receiver);
	held = r == 0;
	pthread_mutex_unlock(&n->lock);
	if (held && !h->resume)
		r = snapshot_new(&h->v->snapshots, h->v->backing, h->v->shown, n->own->state_dir,
			&h->snapshot, err);
	else if (!held)
		error_code(err, r, "cannot bring the disks to the committed epoch");
	pthread_mutex_lock(&n->lock);
	if (held)
		receiver_resume(receiver);
	local_unuse(receiver);
	pthread_mutex_unlock(&n->lock);
	return r;
}

static void *plugin_open(int readonly)
{
	const char *name = nbdkit_export_name(), *suffix;
	struct plugin_handle *h = calloc(1, sizeof(*h));
	struct error err = {0};

	if (!h)
		return NULL;
	h->v = plugin_find(name ? name : "", &suffix);
	if (!h->v) {
		nbdkit_error("there is no disk \"%s\" in group %s", name ? name : "",
			plugin_conf->group);
		free(h);
		return NULL;
	}
	h->resume = !strcmp(suffix, PLUGIN_RESUME);
	h->era = atomic_load(&plugin_node->era);
	h->ingest = !plugin_is_primary() && plugin_node->own->ingest == CONF_INGEST_NBD;
	if ((!strcmp(suffix, PLUGIN_COMMITTED) || plugin_node->access == NODE_ACCESS_NONE) &&
		plugin_open_committed(h, &err) < 0) {
		nbdkit_error("export %s: %s", h->v->name, err.text);
		free(h);
		return NULL;
	}
	return h;
}

static void plugin_close(void *handle)
{
	struct plugin_handle *h = handle;

	snapshot_free(h->snapshot);
	free(h);
}

static int64_t plugin_get_size(void *handle)
{
	struct plugin_handle *h = handle;

	return (int64_t)(h->snapshot ? snapshot_size(h->snapshot) : h->v->shown);
}

static int plugin_writable(void *handle)
{
	return !((struct plugin_handle *)handle)->snapshot;
}

/* A flush on one connection covers what was completed on all. */
static int plugin_can_multi_conn(void *handle)
{
	return plugin_writable(handle);
}

static int plugin_can_fua(void *handle)
{
	return NBDKIT_FUA_NATIVE;
}

static int plugin_can_trim(void *handle)
{
	struct plugin_handle *h = handle;

	return !h->snapshot && backing_get_info(h->v->backing)->can_unmap;
}

static int plugin_can_extents(void *handle)
{
	struct plugin_handle *h = handle;

	return !h->snapshot && backing_get_info(h->v->backing)->can_extents;
}

static int plugin_rotational(void *handle)
{
	return backing_get_info(((struct plugin_handle *)handle)->v->backing)->rotational;
}

static int plugin_block_size(void *handle, uint32_t *min, uint32_t *preferred, uint32_t *max)
{
	const struct backing_info *i =
		backing_get_info(((struct plugin_handle *)handle)->v->backing);

	*min = i->block_min;
	*preferred = i->block_preferred;
	*max = PLUGIN_MAX_REQUEST;
	return 0;
}

/* Whether this connection was opened ahead of a promotion that has not come. */
static bool plugin_ahead(const struct plugin_handle *h)
{
	return h->resume && atomic_load(&plugin_node->access) == NODE_ACCESS_NONE &&
	       !plugin_is_primary();
}

/* Before and after each request. Who writes to a secondary is counted, so that a promotion can wait
 * for the last of them; false: there was one since this connection began. */
static bool plugin_begin(struct plugin_handle *h)
{
	if (plugin_ahead(h))
		return false;
	if (!h->ingest)
		return true;
	atomic_fetch_add(&plugin_node->ingest_requests, 1);
	if (h->era == atomic_load(&plugin_node->era))
		return true;
	atomic_fetch_sub(&plugin_node->ingest_requests, 1);
	return false;
}

/* nbdkit takes the error number apart. */
static int plugin_result(int r)
{
	if (r == 0)
		return 0;
	nbdkit_set_error(-r);
	return -1;
}

static int plugin_end(struct plugin_handle *h, int r)
{
	if (h->ingest)
		atomic_fetch_sub(&plugin_node->ingest_requests, 1);
	return plugin_result(r);
}

static int plugin_refuse(void)
{
	return plugin_result(-ESHUTDOWN);
}

static int plugin_pread(void *handle, void *buf, uint32_t count, uint64_t off, uint32_t flags)
{
	struct plugin_handle *h = handle;

	/* A snapshot outlives a promotion. */
	if (h->snapshot)
		return plugin_result(snapshot_pread(h->snapshot, buf, count, off));
	if (plugin_ahead(h))
		return plugin_result(backing_pread(h->v->backing, buf, count, off));
	if (!plugin_begin(h))
		return plugin_refuse();
	return plugin_end(h, volume_pread(h->v, buf, count, off));
}

static int plugin_pwrite(
	void *handle, const void *buf, uint32_t count, uint64_t off, uint32_t flags)
{
	struct plugin_handle *h = handle;

	if (!plugin_begin(h))
		return plugin_refuse();
	return plugin_end(
		h, volume_pwrite(h->v, buf, count, off, flags & NBDKIT_FLAG_FUA ? VOLUME_FUA : 0));
}

static int plugin_flush(void *handle, uint32_t flags)
{
	struct plugin_handle *h = handle;

	if (!plugin_begin(h))
		return plugin_refuse();
	return plugin_end(h, volume_flush(h->v));
}

static int plugin_zero(void *handle, uint32_t count, uint64_t off, uint32_t flags)
{
	unsigned f = (flags & NBDKIT_FLAG_FUA ? VOLUME_FUA : 0u) |
		     (flags & NBDKIT_FLAG_MAY_TRIM ? VOLUME_UNMAP : 0u) |
		     (flags & NBDKIT_FLAG_FAST_ZERO ? VOLUME_FAST_ZERO : 0u);
	struct plugin_handle *h = handle;

	if (!plugin_begin(h))
		return plugin_refuse();
	return plugin_end(h, volume_zero(h->v, count, off, f));
}

static int plugin_trim(void *handle, uint32_t count, uint64_t off, uint32_t flags)
{
	unsigned f = VOLUME_UNMAP | (flags & NBDKIT_FLAG_FUA ? VOLUME_FUA : 0u);
	struct plugin_handle *h = handle;

	if (!plugin_begin(h))
		return plugin_refuse();
	return plugin_end(h, volume_zero(h->v, count, off, f));
}

static int plugin_add_extent(void *ctx, uint64_t off, uint64_t len, bool zero)
{
	return nbdkit_add_extent(
		       ctx, off, len, zero ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0) == -1
		       ? -EIO
		       : 0;
}

static int plugin_extents(
	void *handle, uint32_t count, uint64_t off, uint32_t flags, struct nbdkit_extents *extents)
{
	struct plugin_handle *h = handle;

	if (!plugin_begin(h))
		return plugin_refuse();
	return plugin_end(h, volume_extents(h->v, off, count, plugin_add_extent, extents));
}

static struct nbdkit_plugin plugin = {
	.name = "tandem",
	.longname = "Tandem replicator",
	.description = "disks of a group, replicated in epochs",
	.version = TANDEM_VERSION,
	.config = plugin_config,
	.config_complete = plugin_config_complete,
	.config_help =
		"config=FILE  configuration of the group\nnode=NAME    which node this is\n"
		"role=ROLE    primary or secondary\nguest=yes    memory and state of a guest too",
	.after_fork = plugin_after_fork,
	.cleanup = plugin_cleanup,
	.unload = plugin_unload,
	.list_exports = plugin_list_exports,
	.default_export = plugin_default_export,
	.open = plugin_open,
	.close = plugin_close,
	.get_size = plugin_get_size,
	.can_write = plugin_writable,
	.can_flush = plugin_writable,
	.can_multi_conn = plugin_can_multi_conn,
	.can_fua = plugin_can_fua,
	.can_zero = plugin_writable,
	.can_fast_zero = plugin_writable,
	.can_trim = plugin_can_trim,
	.can_extents = plugin_can_extents,
	.is_rotational = plugin_rotational,
	.block_size = plugin_block_size,
	.pread = plugin_pread,
	.pwrite = plugin_pwrite,
	.flush = plugin_flush,
	.zero = plugin_zero,
	.trim = plugin_trim,
	.extents = plugin_extents,
	.errno_is_preserved = 0,
};

NBDKIT_REGISTER_PLUGIN(plugin)
