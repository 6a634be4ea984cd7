/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One NBD client connection and its thread; see nbdconn.h for who owns what. */
#include "replicator/nbdconn.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "replicator/nbdconn_internal.h"
#include "util/log.h"

static void nbdconn_set_retry(struct nbdconn *c)
{
	uint64_t wait = c->index == 0 ? NBDCONN_RETRY_NS : NBDCONN_RETRY_EXTRA_NS;

	atomic_store(&c->retry_at, clock_ns() + wait);
}

static void nbdconn_reconnect(struct nbdconn *c)
{
	struct error err = {0};

	if (clock_ns() < atomic_load(&c->retry_at))
		return;
	nbdconn_set_retry(c);
	if (nbdconn_connect(c, &err) == 0) {
		c->error.text[0] = '\0';
		log_info("backing %s: connected again", c->shared->uri);
		return;
	}
	/* Once for each reason, not once a second. */
	if (strcmp(err.text, c->error.text) != 0)
		log_line(c->index == 0 ? LOG_LEVEL_WARNING : LOG_LEVEL_DEBUG, "%s", err.text);
	c->error = err;
}

static int nbdconn_renew(struct nbdconn *c)
{
	struct error err = {0};
	int r;

	nbdconn_drain(c);
	if (!c->h)
		return -EIO;
	if (c->shared->writable && c->shared->caps.can_flush) {
		r = nbdconn_flush_alone(c);
		if (r < 0) {
			/* A server may report a failure once only, and this was no flush of the
			 * caller's: the next one tells. */
			atomic_fetch_add(&c->shared->losses, 1);
			return r;
		}
	}
	nbdconn_disconnect(c);
	r = nbdconn_connect(c, &err);
	if (r < 0)
		log_warning("%s", err.text);
	return r;
}

/* Takes the queue; false = the thread is to end. */
static bool nbdconn_take(struct nbdconn *c, struct nbdconn_request **ret_list, bool *ret_revive)
{
	bool stop;

	pthread_mutex_lock(&c->lock);
	*ret_list = c->queue;
	c->queue = NULL;
	c->queue_tail = &c->queue;
	*ret_revive = c->revive;
	c->revive = false;
	/* From here until the next call a submitter must wake us. */
	c->asleep = *ret_list == NULL;
	stop = c->stop;
	pthread_mutex_unlock(&c->lock);
	return !stop;
}

static void *nbdconn_main(void *arg)
{
	struct nbdconn *c = arg;
	struct nbdconn_request *list;
	bool revive;

	(void)pthread_setname_np(pthread_self(), "tandem-backing");
	c->first_result = nbdconn_connect(c, &c->error);
	if (c->first_result < 0 && c->index > 0)
		log_debug("%s", c->error.text);
	nbdwait_complete(&c->started);
	while (nbdconn_take(c, &list, &revive)) {
		bool was_busy = list || revive;

		if (!c->h && (list || revive))
			nbdconn_reconnect(c);
		while (list) {
			struct nbdconn_request *r = list;

			list = r->next;
			if (r->op == NBDCONN_RENEW)
				nbdconn_finish(r, nbdconn_renew(c));
			else if (c->h)
				nbdconn_issue(c, r);
			else
				nbdconn_finish(r, -EIO);
		}
		if (was_busy && !c->h)
			continue;
		/* After anything that may have waited itself, only look: more may have been queued,
		 * and the eventfd read. */
		int step = nbdconn_step(c, was_busy ? 0 : -1);
		if (c->h)
			nbdconn_check_alive(c, step);
	}
	if (c->h)
		nbdconn_disconnect(c);
	return NULL;
}

static void nbdconn_wake(struct nbdconn *c)
{
	uint64_t one = 1;

	(void)!write(c->event_fd, &one, sizeof(one));
}

int nbdconn_new(
	struct nbdconn_shared *shared, unsigned index, struct nbdconn **ret_conn, struct error *err)
{
	struct nbdconn *c = calloc(1, sizeof(*c));
	sigset_t all, old;
	int r;

	if (!c)
		return error_code(err, -ENOMEM, "backing %s", shared->uri);
	c->shared = shared;
	c->index = index;
	c->queue_tail = &c->queue;
	nbdconn_set_retry(c);
	nbdwait_init(&c->started);
	pthread_mutex_init(&c->lock, NULL);
	c->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->event_fd < 0) {
		r = error_errno(err, "backing %s: eventfd", shared->uri);
		goto fail;
	}
	/* Signals are for the program's own threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = -pthread_create(&c->thread, NULL, nbdconn_main, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r < 0) {
		(void)error_code(err, r, "backing %s: cannot start a thread", shared->uri);
		goto fail;
	}
	if (index == 0) {
		nbdwait_for(&c->started, 1);
		if (c->first_result < 0) {
			r = c->first_result;
			if (err)
				*err = c->error;
			nbdconn_free(c);
			return r;
		}
	}
	*ret_conn = c;
	return 0;
fail:
	if (c->event_fd >= 0)
		close(c->event_fd);
	pthread_mutex_destroy(&c->lock);
	free(c);
	return r;
}

struct nbdconn *nbdconn_free(struct nbdconn *c)
{
	if (!c)
		return NULL;
	pthread_mutex_lock(&c->lock);
	c->stop = true;
	pthread_mutex_unlock(&c->lock);
	nbdconn_wake(c);
	pthread_join(c->thread, NULL);
	close(c->event_fd);
	pthread_mutex_destroy(&c->lock);
	free(c);
	return NULL;
}

void nbdconn_submit(struct nbdconn *c, struct nbdconn_request *r)
{
	bool asleep;

	r->conn = c;
	r->next = NULL;
	atomic_store_explicit(&r->done, false, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->in_flight, 1, memory_order_relaxed);
	pthread_mutex_lock(&c->lock);
	*c->queue_tail = r;
	c->queue_tail = &r->next;
	asleep = c->asleep;
	c->asleep = false;
	pthread_mutex_unlock(&c->lock);
	if (asleep)
		nbdconn_wake(c);
}

bool nbdconn_is_ready(const struct nbdconn *c, uint64_t end)
{
	return atomic_load_explicit(&c->ready, memory_order_acquire) &&
	       atomic_load_explicit(&c->size, memory_order_relaxed) >= end;
}

uint64_t nbdconn_size(const struct nbdconn *c)
{
	return atomic_load_explicit(&c->size, memory_order_relaxed);
}

unsigned nbdconn_in_flight(const struct nbdconn *c)
{
	return atomic_load_explicit(&c->in_flight, memory_order_relaxed);
}

void nbdconn_revive(struct nbdconn *c)
{
	bool asleep;

	if (atomic_load(&c->ready) || clock_ns() < atomic_load(&c->retry_at))
		return;
	pthread_mutex_lock(&c->lock);
	c->revive = true;
	asleep = c->asleep;
	c->asleep = false;
	pthread_mutex_unlock(&c->lock);
	if (asleep)
		nbdconn_wake(c);
}
