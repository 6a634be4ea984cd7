/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Growth of a disk: what both sides do, and the secondary's answers. */
#include "replicator/grow.h"

#include <errno.h>
#include <string.h>

#include "replicator/receiver_internal.h"
#include "util/fault.h"
#include "util/log.h"

int grow_look(struct volume *v, uint64_t *ret_size, struct error *err)
{
	int r = backing_refresh_size(v->backing);
	uint64_t size;

	if (r < 0)
		return error_code(err, r, "disk %s: cannot look at the size of %s", v->name,
			backing_target(v->backing));
	size = backing_get_info(v->backing)->size;
	if (size < v->size)
		return error_set(err, ERROR_STATE, -ERANGE,
			"disk %s: %s has shrunk from %llu to %llu bytes; a disk cannot become "
			"smaller: give it back what was cut off",
			v->name, backing_target(v->backing), (unsigned long long)v->size,
			(unsigned long long)size);
	*ret_size = size;
	return 0;
}

struct grow_note {
	unsigned volume;
	uint64_t size;
};

static void grow_note(struct metadata *m, void *ctx)
{
	const struct grow_note *note = ctx;

	m->id.volume[note->volume].size = note->size;
}

int grow_volume(struct volume *v, uint64_t size, bool mark, struct error *err)
{
	struct grow_note note = {v->index, size};
	struct node *n = v->node;
	struct error ignored;
	int r;

	pthread_mutex_lock(&n->lock);
	r = mapfile_grow(&v->map, size, mark);
	pthread_mutex_unlock(&n->lock);
	if (r == -EFBIG)
		return error_set(err, ERROR_STATE, r,
			"disk %s: its dirty map cannot grow so far while it is open: start this "
			"node anew, which takes the new size",
			v->name);
	if (r < 0)
		return error_code(err, r, "disk %s: its dirty map cannot grow", v->name);
	/* What it is for: that a later shrinking is noticed. */
	if (node_meta_update(n, grow_note, &note, &ignored) < 0)
		log_error("%s, ignoring", ignored.text);
	fault_point(FAULT_GROW_METADATA);
	pthread_mutex_lock(&n->lock);
	v->size = size;
	if (n->receiver)
		replica_grow(n->receiver->core, v->index, size);
	node_changed(n);
	pthread_mutex_unlock(&n->lock);
	return 0;
}

/* The whole of what the backing is now. */
static void grow_take(struct volume *v, bool mark)
{
	uint64_t before = v->size, size = 0;
	struct error err;
	int r = grow_look(v, &size, &err);

	if (r == 0 && size > before)
		r = grow_volume(v, size, mark, &err);
	if (r < 0)
		log_error("%s", err.text);
	else if (size > before)
		log_info("disk %s has grown from %llu to %llu bytes", v->name,
			(unsigned long long)before, (unsigned long long)size);
	v->shown = v->size;
}

bool grow_for_primary(struct node *n, const struct identity *primary)
{
	bool any = false;

	for (unsigned i = 0; i < n->nvolumes && i < primary->volumes; i++) {
		struct volume *v = &n->volumes[i];
		uint64_t before = v->size;

		if (primary->volume[i].size <= before ||
			strcmp(primary->volume[i].name, v->name) != 0)
			continue;
		grow_take(v, true);
		any |= v->size > before;
	}
	return any;
}

void grow_answer_primary(struct receiver *r)
{
	struct volume *v = &r->n->volumes[r->grow_volume];
	struct record rec = {.type = RECORD_GROWN, .volume = v->index};

	if (v->size < r->grow_size)
		grow_take(v, false);
	rec.length = v->size;
	(void)link_put(&r->link, &rec, NULL); /* the buffer is empty: it fits */
	fault_point(FAULT_GROW_ANSWERED);
	pthread_mutex_lock(&r->n->lock);
	r->grow_asked = false;
	pthread_mutex_unlock(&r->n->lock);
}
