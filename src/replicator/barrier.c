/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Local barriers. */
#include "replicator/barrier.h"

#include <errno.h>

#include "replicator/volume.h"
#include "util/clock.h"
#include "util/log.h"

#define BARRIER_MAX (10 * NS_PER_S) /* of a controller that began and was not heard of again */

static void barrier_flush_all(struct node *n, uint64_t wanted)
{
	uint64_t failed = 0;
	int error = 0;

	for (unsigned i = 0; i < n->nvolumes; i++) {
		int r;

		if (!(wanted >> i & 1))
			continue;
		r = volume_flush_image(&n->volumes[i]);
		if (r < 0) {
			log_error("disk %s: a flush that was answered ahead failed: error %d; the "
				  "next one reports it",
				n->volumes[i].name, -r);
			failed |= 1ull << i;
			error = r;
		}
	}
	pthread_mutex_lock(&n->lock);
	n->barrier.failed |= failed;
	if (error)
		n->barrier.error = error;
	pthread_mutex_unlock(&n->lock);
}

static void *barrier_main(void *arg)
{
	struct node *n = arg;
	struct barrier *b = &n->barrier;

	(void)pthread_setname_np(pthread_self(), "tandem-barrier");
	pthread_mutex_lock(&n->lock);
	while (!b->stop || b->wanted) {
		uint64_t wanted = b->wanted;

		if (!wanted) {
			if (b->busy) {
				b->busy = false;
				pthread_cond_broadcast(&b->ended);
			}
			pthread_cond_wait(&b->work, &n->lock);
			continue;
		}
		b->wanted = 0;
		pthread_mutex_unlock(&n->lock);
		barrier_flush_all(n, wanted);
		pthread_mutex_lock(&n->lock);
	}
	b->busy = false;
	pthread_cond_broadcast(&b->ended);
	pthread_mutex_unlock(&n->lock);
	return NULL;
}

int barrier_start(struct node *n, struct error *err)
{
	struct barrier *b = &n->barrier;
	int r;

	if (!n->guest)
		return 0;
	_Static_assert(CONF_MAX_DISKS <= 64, "bits of a word");
	pthread_cond_init(&b->work, NULL);
	pthread_cond_init(&b->ended, NULL);
	r = pthread_create(&b->thread, NULL, barrier_main, n);
	if (r)
		return error_code(err, -r, "flush barrier: cannot start a thread");
	b->started = true;
	return 0;
}

void barrier_stop(struct node *n)
{
	struct barrier *b = &n->barrier;

	if (!b->started)
		return;
	pthread_mutex_lock(&n->lock);
	b->stop = true;
	b->begun = false;
	pthread_cond_signal(&b->work);
	pthread_mutex_unlock(&n->lock);
	pthread_join(b->thread, NULL);
	pthread_cond_destroy(&b->work);
	pthread_cond_destroy(&b->ended);
	b->started = false;
}

void barrier_begin(struct node *n, const void *owner)
{
	n->barrier.begun = n->barrier.started;
	n->barrier.owner = owner;
	n->barrier.until = clock_ns() + BARRIER_MAX;
}

void barrier_end(struct node *n, const void *owner)
{
	if (!owner || n->barrier.owner == owner)
		n->barrier.begun = false;
}

bool barrier_begun(struct node *n)
{
	if (n->barrier.begun && clock_ns() >= n->barrier.until)
		n->barrier.begun = false;
	return n->barrier.begun;
}

bool barrier_flush(struct volume *v, int *ret_result)
{
	struct node *n = v->node;
	struct barrier *b = &n->barrier;
	uint64_t bit = 1ull << v->index;
	bool taken;

	if (!b->started)
		return false;
	pthread_mutex_lock(&n->lock);
	taken = barrier_begun(n) || (b->failed & bit);
	*ret_result = b->failed & bit ? b->error : 0;
	if (b->failed & bit) {
		b->failed &= ~bit;
	} else if (b->begun) {
		b->wanted |= bit;
		b->busy = true;
		pthread_cond_signal(&b->work);
	}
	pthread_mutex_unlock(&n->lock);
	return taken;
}

void barrier_wait(struct node *n)
{
	while (n->barrier.busy)
		pthread_cond_wait(&n->barrier.ended, &n->lock);
}
