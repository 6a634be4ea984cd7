/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The applier's batches of a sync that is not staged in the journal: in place, made durable part
 * by part; or into clones of the disks (clones.h). */
#include <stdio.h>

#include "replicator/applier_internal.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/fault.h"
#include "util/log.h"

/* A sync in place is made durable after that time, or that much: a 32nd of it, at least ... */
#define APPLIER_SYNC_EVERY (3 * NS_PER_S)
#define APPLIER_SYNC_PART 32u
#define APPLIER_SYNC_LEAST (16u << 20)

bool applier_sync_due(struct applier *a, const struct replica_batch *b)
{
	uint64_t now = clock_ns(), enough;
	struct replica_status st;

	if (!b->direct || b->cloned || b->final)
		return false;
	pthread_mutex_lock(&a->r->n->lock);
	replica_get_status(a->r->core, &st);
	pthread_mutex_unlock(&a->r->n->lock);
	enough = max_u64(st.sync_total / APPLIER_SYNC_PART, APPLIER_SYNC_LEAST);
	a->synced_bytes += b->bytes;
	if (now - a->synced < APPLIER_SYNC_EVERY && a->synced_bytes < enough)
		return false;
	a->synced = now;
	a->synced_bytes = 0;
	return true;
}

/* (L) A run that a sync in place has brought to one disk: its whole blocks are not wanted any more
 * by this node's own map, once they are durable. */
static void applier_brought_run(struct dirtymap *map, uint64_t start, uint64_t end)
{
	uint64_t block = dirtymap_block(map);

	start = round_up(start, block);
	end = end == map->size ? end : round_down(end, block);
	if (start >= end)
		return;
	dirtymap_clear(map, DIRTYMAP_WANTED, start, end - start);
	dirtymap_mark(map, DIRTYMAP_SENT0, start, end - start);
}

static void applier_brought(struct dirtymap *map, const struct imap *m)
{
	uint64_t start = 0, end = 0;
	struct imap_range g;

	for (uint64_t at = 0; imap_find(m, at, &g); at = g.end) {
		if (g.start != end) {
			applier_brought_run(map, start, end);
			start = g.start;
		}
		end = g.end;
	}
	applier_brought_run(map, start, end);
}

void applier_let_go(struct applier *a, const struct replica_batch *b, bool durable)
{
	struct node *n = a->r->n;

	if (b->cloned || !replica_direct_current(a->r->core, b) ||
		n->own->ingest == CONF_INGEST_NBD)
		return;
	for (unsigned i = 0; i < n->nvolumes; i++) {
		if (b->maps[i])
			applier_brought(n->maps[i], b->maps[i]);
		if (durable)
			dirtymap_clear_all(n->maps[i], DIRTYMAP_SENT0);
	}
}

/* The sync is over, and the images are what they were. */
static void applier_give_up_clones(struct applier *a, struct replica_batch *b, const char *why)
{
	struct receiver *r = a->r;

	log_error("the sync into clones of the disks is given up: %s", why);
	pthread_mutex_lock(&r->n->lock);
	snprintf(r->clone_failure, sizeof(r->clone_failure), "%s", why);
	replica_clone_failed(r->core, b);
	pthread_mutex_unlock(&r->n->lock);
	clones_free(r->n, &a->clones);
	clones_forget(r->n);
	r->applier_why[0] = '\0'; /* the next batch has failures of its own */
	wake_up(&r->wake);
}

int applier_clones(struct applier *a, struct replica_batch *b)
{
	struct receiver *r = a->r;
	struct node *n = r->n;
	struct error err;
	int e = 0;

	if (a->clones.session != b->session) {
		clones_free(n, &a->clones);
		e = clones_new(n, b->session, &a->clones, &err);
		if (e == 0)
			fault_point(FAULT_CLONE_MADE);
	}
	if (e == 0) {
		a->to = a->clones.out;
		e = applier_images(a, b, b->final);
		a->to = a->out;
		if (e < 0)
			error_code(&err, e, "%s", r->applier_why);
	}
	if (e == 0 && b->final)
		e = clones_keep(n, &a->clones, &err);
	if (e < 0) {
		applier_give_up_clones(a, b, err.text);
		return 0;
	}
	if (!b->final)
		return 1;
	fault_point(FAULT_CLONE_KEPT);
	e = node_meta_update(n, clones_note_whole, &b->epoch, &err);
	if (e < 0) {
		applier_fail(r, e, "cannot write the metadata");
		return e;
	}
	fault_point(FAULT_CLONE_NOTED);
	e = clones_replace(n, &a->clones, &err);
	if (e < 0) {
		log_error("%s", err.text);
		applier_fail(r, e, "cannot replace a disk by its clone");
		return e;
	}
	return 1;
}
