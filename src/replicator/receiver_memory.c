/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The memory thread of a secondary with a guest: brings the RAM image to the committed epoch, by
 * copies in memory, apart from the applier, which waits for disks. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replicator/memory.h"
#include "replicator/receiver_internal.h"
#include "util/bytes.h"
#include "util/fault.h"
#include "util/log.h"

static void receiver_memory_zero(void *ctx, uint64_t off, uint64_t len)
{
	memory_zero(ctx, off, len);
}

/* Reads rather than looks: a hole of the image stays one. */
static int receiver_memory_block(
	const struct memory *m, uint8_t *buf, uint64_t off, size_t len, uint8_t *ret_digest)
{
	size_t have = 0;

	while (have < len) {
		ssize_t n = pread(m->fd, buf + have, len - have, (off_t)(off + have));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		have += (size_t)n;
	}
	memcheck_digest(buf, len, NULL, 0, ret_digest);
	return 0;
}

/* The job is applied: image and state of exactly its epoch against the primary's digests.  Not
 * under the lock; epochs that commit meanwhile wait. */
static int receiver_memory_compare(
	struct receiver *r, const struct replica_memory_job *job, struct memcheck_result *res)
{
	uint8_t *buf = malloc(MEMCHECK_BLOCK), digest[MEMCHECK_DIGEST];
	struct node *n = r->n;
	int e = buf ? 0 : -ENOMEM;

	*res = (struct memcheck_result){.epoch = job->epoch};
	for (const struct memcheck *c = job->checks; e == 0 && c; c = c->next) {
		bool state = c->volume != n->nvolumes;

		for (uint64_t at = 0; e == 0 && at < c->length; at += MEMCHECK_BLOCK) {
			uint64_t off = c->offset + at,
				 len = min_u64(c->length - at, MEMCHECK_BLOCK);
			const uint8_t *want =
				c->digests + at / MEMCHECK_BLOCK * (size_t)MEMCHECK_DIGEST;

			if (!state)
				e = receiver_memory_block(n->memory, buf, off, len, digest);
			else if (off + len <= job->state_len)
				memcheck_digest(job->state + off, len, NULL, 0, digest);
			res->bytes += len;
			if ((state && (off + len > job->state_len ||
					      c->offset + c->length != job->state_len)) ||
				memcmp(digest, want, MEMCHECK_DIGEST) != 0)
				memcheck_add(res, c->volume, off, len);
		}
	}
	free(buf);
	return e;
}

/* Says what was found, also here: it is the memory of this node that is wrong. */
static void receiver_memory_checked(struct receiver *r, const struct replica_memory_job *job)
{
	struct memcheck_result res;
	struct node *n = r->n;
	int e = receiver_memory_compare(r, job, &res);

	if (e < 0) {
		log_error("checkpoint %llu: its memory cannot be compared: error %d",
			(unsigned long long)job->epoch, -e);
		return;
	}
	for (unsigned i = 0; i < res.nranges; i++)
		log_error("checkpoint %llu: %s differs from the primary's in %llu bytes from byte "
			  "%llu",
			(unsigned long long)job->epoch,
			res.ranges[i].volume == n->nvolumes ? "memory" : "device state",
			(unsigned long long)res.ranges[i].length,
			(unsigned long long)res.ranges[i].offset);
	pthread_mutex_lock(&n->lock);
	r->checked = res;
	r->have_checked = r->connected;
	pthread_mutex_unlock(&n->lock);
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
		if (job.checks)
			receiver_memory_checked(r, &job);
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
