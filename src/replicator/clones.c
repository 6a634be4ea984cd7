/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See clones.h. */
#include "replicator/clones.h"

#include <errno.h>
#include <string.h>

#include "replicator/backing_clone.h"
#include "util/bytes.h"
#include "util/fault.h"
#include "util/log.h"

bool clones_possible(struct node *n)
{
	for (unsigned i = 0; i < n->nvolumes; i++)
		if (backing_clone_probe(n->volumes[i].backing) < 0)
			return false;
	return true;
}

static int clones_error(struct error *err, int r, const struct volume *v, const char *what)
{
	return error_code(
		err, r, "disk %s: cannot %s of %s", v->name, what, backing_target(v->backing));
}

int clones_new(struct node *n, uint64_t session, struct clones *c, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < n->nvolumes; i++) {
		struct volume *v = &n->volumes[i];

		r = backing_clone_new(v->backing, &c->backing[i]);
		if (r == 0)
			r = backing_batch_new(c->backing[i], &c->out[i]);
		if (r < 0)
			clones_error(err, r, v, "make a clone");
	}
	c->session = session;
	if (r < 0)
		clones_free(n, c);
	return r;
}

void clones_free(struct node *n, struct clones *c)
{
	for (unsigned i = 0; i < n->nvolumes; i++) {
		if (c->out[i])
			backing_batch_free(c->out[i]);
		backing_free(c->backing[i]);
	}
	*c = (struct clones){0};
}

int clones_keep(struct node *n, struct clones *c, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < n->nvolumes; i++) {
		r = backing_clone_name(n->volumes[i].backing, c->backing[i]);
		if (r < 0)
			clones_error(err, r, &n->volumes[i], "keep the clone");
	}
	return r;
}

int clones_replace(struct node *n, struct clones *c, struct error *err)
{
	for (unsigned i = 0; i < n->nvolumes; i++) {
		struct volume *v = &n->volumes[i];
		int r;

		snapshots_detach(&v->snapshots);
		r = backing_clone_replace(v->backing, c->backing[i]);
		if (r < 0)
			return clones_error(err, r, v, "replace the content");
		fault_point(FAULT_CLONE_DISK);
	}
	return 0;
}

void clones_forget(struct node *n)
{
	for (unsigned i = 0; i < n->nvolumes; i++) {
		int r = backing_clone_remove(n->volumes[i].backing);

		if (r < 0)
			log_warning("disk %s: cannot remove the clone of %s (%s), ignoring",
				n->volumes[i].name, backing_target(n->volumes[i].backing),
				strerror(-r));
	}
}

void clones_note_whole(struct metadata *m, void *ctx)
{
	identity_touch(&m->id);
	m->cloned = *(uint64_t *)ctx;
}

void clones_note_done(struct metadata *m, void *ctx)
{
	const uint64_t *epoch = ctx;

	m->cloned = 0;
	m->committed = *epoch;
	m->seen = max_u64(m->seen, *epoch);
	(void)identity_settle(&m->id, *epoch);
}

static void clones_note_lost(struct metadata *m, void *ctx)
{
	m->cloned = 0;
}

int clones_resume(struct node *n, uint64_t *ret_epoch, struct error *err)
{
	uint64_t epoch = n->meta.now.cloned;
	struct clones c = {0};
	int r = 0;

	for (unsigned i = 0; r == 0 && i < n->nvolumes; i++) {
		r = backing_clone_open(n->volumes[i].backing, &c.backing[i]);
		if (r == -ENOENT)
			log_warning("disk %s: the clone of %s that holds the sync is not there any "
				    "more: the disks hold a part of it only",
				n->volumes[i].name, backing_target(n->volumes[i].backing));
		else if (r < 0)
			clones_error(err, r, &n->volumes[i], "open the clone");
	}
	if (r == -ENOENT) {
		epoch = 0;
		r = node_meta_update(n, clones_note_lost, NULL, err);
		if (r == 0)
			clones_forget(n);
	} else if (r == 0) {
		r = clones_replace(n, &c, err);
	}
	clones_free(n, &c);
	*ret_epoch = epoch;
	return r;
}
