/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One NBD client connection and its thread; see nbdconn.h for who owns what. */
#include "replicator/nbdconn.h"

#include <errno.h>
#include <libnbd.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "replicator/nbdconn_internal.h"
#include "util/clock.h"
#include "util/log.h"

#define NBDWAIT_ASLEEP 0x80000000u

void nbdwait_complete(struct nbdwait *w)
{
	uint32_t *address = (uint32_t *)&w->word;
	uint32_t old = atomic_fetch_add_explicit(&w->word, 1, memory_order_acq_rel);

	/* w may be gone from here on; a wake-up at a stranger's address is harmless. */
	if (old & NBDWAIT_ASLEEP)
		syscall(SYS_futex, address, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void nbdwait_for(struct nbdwait *w, uint32_t count)
{
	for (;;) {
		uint32_t v = atomic_load_explicit(&w->word, memory_order_acquire);

		if ((v & ~NBDWAIT_ASLEEP) >= count)
			break;
		if (!(v & NBDWAIT_ASLEEP) &&
			!atomic_compare_exchange_strong(&w->word, &v, v | NBDWAIT_ASLEEP))
			continue;
		syscall(SYS_futex, &w->word, FUTEX_WAIT_PRIVATE, v | NBDWAIT_ASLEEP, NULL, NULL, 0);
	}
	atomic_fetch_and(&w->word, ~NBDWAIT_ASLEEP);
}

void nbdconn_note_flushed(struct nbdconn_shared *shared, uint64_t writes)
{
	uint64_t old = atomic_load(&shared->flushed);

	while (old < writes && !atomic_compare_exchange_weak(&shared->flushed, &old, writes))
		;
}

/* Must come before the first request is failed for it: whoever sees that failure and flushes
 * must see the loss as well. */
static void nbdconn_note_loss(struct nbdconn *c)
{
	struct nbdconn_shared *s = c->shared;

	if (c->lost)
		return;
	c->lost = true;
	atomic_store(&c->ready, false);
	if (atomic_load(&s->writes) != atomic_load(&s->flushed))
		atomic_fetch_add(&s->losses, 1);
}

static int nbdconn_errno(int e)
{
	switch (e) {
	case 0:
	case ENOTCONN:
	case ESHUTDOWN:
	case EPIPE:
	case ECONNRESET:
		return -EIO;
	}
	return -e;
}

static void nbdconn_finish(struct nbdconn_request *r, int result)
{
	struct nbdconn *c = r->conn;
	struct nbdwait *w = r->wait;

	if ((r->op == NBDCONN_WRITE || r->op == NBDCONN_ZERO) && result == 0)
		atomic_fetch_add(&c->shared->writes, 1);
	atomic_fetch_sub_explicit(&c->in_flight, 1, memory_order_relaxed);
	r->result = result;
	atomic_store_explicit(&r->done, true, memory_order_release);
	nbdwait_complete(w);
}

static void nbdconn_link(struct nbdconn *c, struct nbdconn_request *r)
{
	r->prev = NULL;
	r->next = c->issued;
	if (r->next)
		r->next->prev = r;
	c->issued = r;
}

static void nbdconn_unlink(struct nbdconn *c, struct nbdconn_request *r)
{
	if (r->prev)
		r->prev->next = r->next;
	else
		c->issued = r->next;
	if (r->next)
		r->next->prev = r->prev;
}

/* Called by libnbd in the connection's thread, with the handle locked. */
static int nbdconn_completed(void *user, int *error)
{
	struct nbdconn_request *r = user;

	if (*error == ENOTCONN)
		nbdconn_note_loss(r->conn);
	nbdconn_unlink(r->conn, r);
	nbdconn_finish(r, *error ? nbdconn_errno(*error) : 0);
	return 1; /* libnbd forgets the command */
}

static int nbdconn_got_extents(
	void *user, const char *context, uint64_t off, uint32_t *entries, size_t count, int *error)
{
	struct nbdconn_request *r = user;

	if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0)
		return 0;
	if (count > 2 * NBDCONN_EXTENTS)
		count = 2 * NBDCONN_EXTENTS;
	memcpy(r->extents, entries, count * sizeof(*entries));
	r->nextents = (uint32_t)(count / 2);
	return 0;
}

static void nbdconn_issue(struct nbdconn *c, struct nbdconn_request *r)
{
	nbd_completion_callback done = {.callback = nbdconn_completed, .user_data = r};
	nbd_extent_callback got = {.callback = nbdconn_got_extents, .user_data = r};
	int64_t cookie = -1;

	nbdconn_link(c, r);
	switch (r->op) {
	case NBDCONN_READ:
		cookie = nbd_aio_pread(c->h, r->buf, r->len, r->off, done, r->flags);
		break;
	case NBDCONN_WRITE:
		cookie = nbd_aio_pwrite(c->h, r->buf, r->len, r->off, done, r->flags);
		break;
	case NBDCONN_ZERO:
		cookie = nbd_aio_zero(c->h, r->len, r->off, done, r->flags);
		break;
	case NBDCONN_FLUSH:
		cookie = nbd_aio_flush(c->h, done, r->flags);
		break;
	case NBDCONN_STATUS:
		r->nextents = 0;
		cookie = nbd_aio_block_status(c->h, r->len, r->off, got, done, r->flags);
		break;
	case NBDCONN_RENEW:
		break;
	}
	/* Refused by libnbd itself; then it does not call back. */
	if (cookie < 0) {
		int e = nbd_get_errno();

		nbdconn_unlink(c, r);
		nbdconn_finish(r, nbdconn_errno(e));
	}
}

/* Waits for the socket or the eventfd, and lets libnbd do what there is to do.  1 = something
 * happened, 0 = the time is over, -1 = the handle failed (nbd_get_error). */
int nbdconn_step(struct nbdconn *c, int timeout_ms)
{
	struct pollfd fds[2] = {{.fd = c->event_fd, .events = POLLIN}, {.fd = -1}};
	unsigned direction = 0;
	uint64_t count;
	int n;

	if (c->h) {
		fds[1].fd = nbd_aio_get_fd(c->h);
		direction = nbd_aio_get_direction(c->h);
		if (direction & LIBNBD_AIO_DIRECTION_READ)
			fds[1].events |= POLLIN;
		if (direction & LIBNBD_AIO_DIRECTION_WRITE)
			fds[1].events |= POLLOUT;
	}
	n = poll(fds, 2, timeout_ms);
	if (n == 0)
		return 0;
	if (n < 0)
		return 1; /* EINTR; nothing else can be cured here */
	if (fds[0].revents)
		(void)!read(c->event_fd, &count, sizeof(count));
	if (fds[1].revents & (POLLIN | POLLHUP | POLLERR | POLLNVAL) &&
		direction & LIBNBD_AIO_DIRECTION_READ)
		return nbd_aio_notify_read(c->h) < 0 ? -1 : 1;
	if (fds[1].revents)
		return nbd_aio_notify_write(c->h) < 0 ? -1 : 1;
	return 1;
}

/* Ends the session: what libnbd has not completed yet fails now. */
static void nbdconn_drop(struct nbdconn *c)
{
	nbd_close(c->h);
	c->h = NULL;
	atomic_store(&c->ready, false);
	while (c->issued) {
		struct nbdconn_request *r = c->issued;

		nbdconn_unlink(c, r);
		nbdconn_finish(r, -EIO);
	}
}

static void nbdconn_check_alive(struct nbdconn *c, int step)
{
	char reason[256] = "closed by the server";

	if (step >= 0 && !nbd_aio_is_dead(c->h) && !nbd_aio_is_closed(c->h))
		return;
	/* Without a failed step the text may be an older one. */
	if (step < 0 && nbd_get_error())
		snprintf(reason, sizeof(reason), "%s", nbd_get_error());
	nbdconn_note_loss(c);
	nbdconn_drop(c);
	log_warning("backing %s: connection lost: %s; requests fail until the server is back",
		c->shared->uri, reason);
}

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

/* Until nothing is in flight or the handle is dead; new requests stay in the queue. */
static void nbdconn_drain(struct nbdconn *c)
{
	while (c->h && c->issued) {
		nbdconn_check_alive(c, 0); /* a dead handle would never wake poll */
		if (c->h && c->issued)
			nbdconn_check_alive(c, nbdconn_step(c, -1));
	}
}

static void nbdconn_disconnect(struct nbdconn *c)
{
	uint64_t end = clock_ns() + NBDCONN_BYE_NS;

	if (nbd_aio_disconnect(c->h, 0) == 0)
		while (!nbd_aio_is_dead(c->h) && !nbd_aio_is_closed(c->h) && clock_ns() < end)
			if (nbdconn_step(c, 100) < 0)
				break;
	nbdconn_drop(c);
}

static int nbdconn_flush_alone(struct nbdconn *c)
{
	struct nbdconn_request r = {.op = NBDCONN_FLUSH, .conn = c};
	uint64_t writes = atomic_load(&c->shared->writes);
	struct nbdwait wait;

	nbdwait_init(&wait);
	r.wait = &wait;
	atomic_fetch_add_explicit(&c->in_flight, 1, memory_order_relaxed);
	nbdconn_issue(c, &r);
	nbdconn_drain(c);
	if (r.result == 0)
		nbdconn_note_flushed(c->shared, writes);
	return r.result;
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
		if (r < 0)
			return r;
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

	c->first_result = nbdconn_connect(c, &c->error);
	if (c->first_result < 0 && c->index > 0)
		log_debug("%s", c->error.text);
	nbdwait_complete(&c->started);
	while (nbdconn_take(c, &list, &revive)) {
		bool had_work = list != NULL;

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
		if (had_work && !c->h)
			continue;
		/* With work just done, only look: more may have been queued. */
		int step = nbdconn_step(c, had_work ? 0 : -1);
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
