/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening the dirty maps, and their upkeep: correctness never needs it (a page that says too much
 * costs traffic after a crash, not data), so it may be late and goes in small steps. */
#include "replicator/keeper.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "replicator/volume.h"
#include "util/log.h"

#define KEEPER_PAUSE_S 1

struct keeper {
	struct node *n;
	pthread_t thread;
	pthread_cond_t wake; /* with node.lock */
	bool stopping;       /* (L) */
};

int keeper_open_maps(struct node *n, struct error *err)
{
	char path[512];

	n->meta.now.id.tracked = true;
	n->windows = (struct dirtymap_windows){.maps = n->maps, .count = n->nvolumes};
	for (unsigned i = 0; i < n->nvolumes; i++) {
		struct volume *v = &n->volumes[i];
		struct error what = {0};
		int r = mapfile_open(&v->map, node_map_path(n->own, i, path, sizeof(path)), v->size,
			(uint32_t)n->conf->dirty_block, &n->lock, &what);

		if (r < 0) {
			if (err)
				*err = what;
			return error_prefix(err, "disk %s", v->name);
		}
		if (r > 0) {
			n->meta.now.id.tracked = false;
			log_warning("disk %s: %s; it is made anew, and the next sync is a full one",
				v->name, what.text);
		}
		n->maps[i] = &v->map.map;
		r = backing_flush(v->backing);
		if (r < 0)
			return error_code(err, r, "disk %s: cannot flush it", v->name);
	}
	return 0;
}

/* (L) One look at the maps of all disks. */
static void keeper_tidy(struct keeper *k)
{
	struct node *n = k->n;

	for (unsigned i = 0; i < n->nvolumes && !k->stopping; i++) {
		struct mapfile *f = &n->volumes[i].map;

		do {
			(void)mapfile_tidy(f);
			/* Guests first. */
			pthread_mutex_unlock(&n->lock);
			pthread_mutex_lock(&n->lock);
		} while (f->log.cursor != 0 && !k->stopping && !f->log.broken);
	}
}

static void *keeper_main(void *arg)
{
	struct keeper *k = arg;
	struct node *n = k->n;

	pthread_mutex_lock(&n->lock);
	while (!k->stopping) {
		struct timespec ts;

		clock_gettime(CLOCK_REALTIME, &ts);
		ts.tv_sec += KEEPER_PAUSE_S;
		if (pthread_cond_timedwait(&k->wake, &n->lock, &ts) == ETIMEDOUT)
			keeper_tidy(k);
	}
	pthread_mutex_unlock(&n->lock);
	return NULL;
}

int keeper_start(struct node *n, struct error *err)
{
	struct keeper *k = calloc(1, sizeof(*k));
	int r;

	if (!k)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	k->n = n;
	pthread_cond_init(&k->wake, NULL);
	r = pthread_create(&k->thread, NULL, keeper_main, k);
	if (r) {
		pthread_cond_destroy(&k->wake);
		free(k);
		return error_code(err, -r, "dirty map: cannot start a thread");
	}
	n->keeper = k;
	return 0;
}

void keeper_stop(struct node *n)
{
	struct keeper *k = n->keeper;

	if (!k)
		return;
	pthread_mutex_lock(&n->lock);
	k->stopping = true;
	pthread_cond_signal(&k->wake);
	pthread_mutex_unlock(&n->lock);
	pthread_join(k->thread, NULL);
	pthread_cond_destroy(&k->wake);
	free(k);
	n->keeper = NULL;
}
