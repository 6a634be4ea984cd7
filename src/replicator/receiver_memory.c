/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The memory thread of a secondary with a guest: brings the RAM image to the committed epoch, by
 * copies in memory, apart from the applier, which waits for disks. */
#include <errno.h>

#include "replicator/memory.h"
#include "replicator/receiver_internal.h"
#include "util/fault.h"

static void receiver_memory_zero(void *ctx, uint64_t off, uint64_t len)
{
	memory_zero(ctx, off, len);
}

void *receiver_memory_main(void *arg)
{
	struct receiver *r = arg;
	struct node *n = r->n;

	(void)pthread_setname_np(pthread_self(), "tandem-memory");
	pthread_mutex_lock(&n->lock);
	while (!r->stopping) {
		struct replica_memory_job job;

		if (!replica_memory_take(r->core, &job)) {
			pthread_cond_wait(&r->memory_work, &n->lock);
			continue;
		}
		pthread_mutex_unlock(&n->lock);
		replica_memory_apply(r->core, &job, receiver_memory_zero, n->memory);
		if (job.m)
			fault_point(FAULT_STANDBY_APPLIED);
		if (job.release)
			memory_release_second(n->memory);
		pthread_mutex_lock(&n->lock);
		replica_memory_done(r->core, &job);
		pthread_cond_broadcast(&r->memory_done);
		wake_up(&r->wake); /* it may have waited for room, or to begin a session */
	}
	pthread_mutex_unlock(&n->lock);
	return NULL;
}

int receiver_memory_drain(struct receiver *r)
{
	struct replica_status st;

	replica_get_status(r->core, &st);
	while (!r->stopping && !replica_memory_idle(r->core)) {
		pthread_cond_wait(&r->memory_done, &r->n->lock);
		replica_get_status(r->core, &st);
	}
	if (r->stopping)
		return -ESHUTDOWN;
	return st.memory_epoch && st.memory_epoch == st.committed ? 0 : -ENODATA;
}

int receiver_memory_adopt(struct receiver *r)
{
	const uint8_t *state;
	struct replica_status st;
	size_t len;
	int e = receiver_memory_drain(r);

	if (e < 0)
		return e;
	replica_get_status(r->core, &st);
	state = replica_state(r->core, &len);
	return memory_adopt(r->n->memory, st.memory_epoch, state, len);
}

int receiver_state_fd(struct receiver *r, uint64_t *ret_epoch, size_t *ret_len)
{
	struct replica_status st;
	const uint8_t *state = replica_state(r->core, ret_len);

	replica_get_status(r->core, &st);
	*ret_epoch = st.memory_epoch;
	return state ? memory_blob_fd(state, *ret_len) : -ENODATA;
}
