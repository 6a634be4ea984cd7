/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the generations ask of a running node: start as a primary, the first write alone, the end.
 * The rules are in core/identity.h; here they are made durable. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "replicator/node.h"
#include "replicator/sender.h"
#include "replicator/volume.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/log.h"

struct node_fresh {
	uint64_t id, epoch;
	bool alone;
	struct uuid group, volume[RECORD_MAX_VOLUMES];
};

static int node_fresh_uuid(struct uuid *u, struct error *err)
{
	int r = uuid_generate(u);

	return r < 0 ? error_code(err, r, "cannot make an identifier") : 0;
}

static void node_note_primary(struct metadata *m, void *ctx)
{
	const struct node_fresh *f = ctx;

	identity_name(&m->id, &f->group, f->volume);
	identity_start_primary(&m->id, f->id);
}

int node_fresh_names(
	struct uuid *ret_group, struct uuid *ret_volumes, unsigned n, struct error *err)
{
	int r = node_fresh_uuid(ret_group, err);

	for (unsigned i = 0; r == 0 && i < n; i++)
		r = node_fresh_uuid(&ret_volumes[i], err);
	return r;
}

int node_become_primary(struct node *n, struct error *err)
{
	const struct identity *id = &n->meta.now.id;
	const char *why = identity_refuse_primary(id);
	struct node_fresh f = {.alone = true};
	int r;

	if (why)
		return error_set(err, ERROR_STATE, -EPERM, "%s", why);
	n->crashed = id->role == IDENTITY_PRIMARY && !id->clean;
	if (n->crashed)
		log_warning("the last run as the primary did not end in order");
	r = uuid_random64(&f.id);
	if (r < 0)
		return error_code(err, r, "cannot make an identifier");
	r = node_fresh_names(&f.group, f.volume, id->volumes, err);
	return r < 0 ? r : node_meta_update(n, node_note_primary, &f, err);
}

static void node_note_written(struct metadata *m, void *ctx)
{
	const struct node_fresh *f = ctx;

	identity_write(&m->id, f->alone, f->id);
}

int node_note_write(struct node *n)
{
	struct node_fresh f = {0};
	struct error err;
	uint64_t before;
	bool due;
	int r;

	/* sender_begin holds meta_lock too: a session does not begin in between. */
	pthread_mutex_lock(&n->meta_lock);
	pthread_mutex_lock(&n->lock);
	f.alone = !n->sender || !sender_replicating(n->sender);
	due = identity_write_due(n->unwritten, n->shared, f.alone);
	pthread_mutex_unlock(&n->lock);
	before = n->meta.now.id.current.number;
	r = due ? uuid_random64(&f.id) : 0;
	if (r == 0 && due) {
		r = node_meta_update_locked(n, node_note_written, &f, &err);
		if (r < 0)
			log_error("%s; the write fails", err.text);
	}
	if (r == 0 && n->meta.now.id.current.number != before)
		log_info("generation %llu begins: written to without the secondary",
			(unsigned long long)n->meta.now.id.current.number);
	pthread_mutex_unlock(&n->meta_lock);
	return r;
}

static void node_note_reconnected(struct metadata *m, void *ctx)
{
	const struct node_fresh *f = ctx;

	identity_reconnect(&m->id, f->id);
}

int node_note_reconnect(struct node *n, const struct identity_decision *how, struct error *err)
{
	bool due = how->action == IDENTITY_SYNC_FULL;
	struct node_fresh f = {0};
	int r = 0;

	pthread_mutex_lock(&n->lock);
	for (unsigned i = 0; i < n->nvolumes; i++)
		due |= n->maps[i]->wanted != 0;
	pthread_mutex_unlock(&n->lock);
	if (!due)
		return 0;
	pthread_mutex_lock(&n->meta_lock);
	due = identity_reconnect_due(&n->meta.now.id, how);
	if (due) {
		r = uuid_random64(&f.id);
		r = r < 0 ? error_code(err, r, "cannot make an identifier")
			  : node_meta_update_locked(n, node_note_reconnected, &f, err);
	}
	if (due && r == 0)
		log_info("generation %llu begins: for what is written until the secondary is up to "
			 "date",
			(unsigned long long)n->meta.now.id.current.number);
	pthread_mutex_unlock(&n->meta_lock);
	return r < 0 ? r : due;
}

static void node_note_filling(struct metadata *m, void *ctx)
{
	identity_fill(&m->id);
}

static void node_note_ingested(struct metadata *m, void *ctx)
{
	const struct node_fresh *f = ctx;

	identity_ingest(&m->id, f->id);
	if (f->epoch) {
		m->committed = f->epoch;
		m->seen = max_u64(m->seen, f->epoch);
	}
}

int node_note_fill(struct node *n, struct error *err)
{
	bool due;

	pthread_mutex_lock(&n->meta_lock);
	due = identity_fill_due(&n->meta.now.id);
	pthread_mutex_unlock(&n->meta_lock);
	return due ? node_meta_update(n, node_note_filling, NULL, err) : 0;
}

int node_note_ingest(struct node *n, uint64_t first, struct error *err)
{
	struct node_fresh f = {.epoch = first};
	bool due;
	int r;

	pthread_mutex_lock(&n->meta_lock);
	due = first || identity_ingest_due(&n->meta.now.id);
	pthread_mutex_unlock(&n->meta_lock);
	if (!due)
		return 0;
	r = uuid_random64(&f.id);
	return r < 0 ? error_code(err, r, "cannot make an identifier")
		     : node_meta_update(n, node_note_ingested, &f, err);
}

static void node_note_stopped(struct metadata *m, void *ctx)
{
	identity_stop(&m->id);
}

/* Changes that were begun before the node was told to stop. */
static void node_wait_changes(struct node *n)
{
	const struct timespec ts = {0, (long)NS_PER_MS};
	bool any = true;

	while (any) {
		any = false;
		pthread_mutex_lock(&n->lock);
		for (unsigned i = 0; i < n->nvolumes; i++)
			any |= n->volumes[i].changing != 0;
		pthread_mutex_unlock(&n->lock);
		if (any)
			nanosleep(&ts, NULL);
	}
}

void node_note_clean(struct node *n)
{
	struct error err;
	int r = 0;

	node_wait_changes(n);
	for (unsigned i = 0; i < n->nvolumes; i++) {
		r = volume_flush_image(&n->volumes[i]);
		if (r == 0)
			continue;
		log_error("disk %s cannot be flushed (%s): the end of this run is not in order",
			n->volumes[i].name, strerror(-r));
		return;
	}
	pthread_mutex_lock(&n->lock);
	for (unsigned i = 0; r == 0 && i < n->nvolumes; i++)
		r = mapfile_settle(&n->volumes[i].map);
	pthread_mutex_unlock(&n->lock);
	if (r < 0)
		return; /* logged */
	if (node_meta_update(n, node_note_stopped, NULL, &err) < 0)
		log_error("%s", err.text);
}
