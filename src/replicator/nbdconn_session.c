/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What happens on a connection that is there: requests go out, answers come in, and its end is
 * noticed.  All of it runs in the connection's own thread. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "replicator/nbdconn_internal.h"
#include "util/log.h"

void nbdconn_note_flushed(struct nbdconn_shared *shared, uint64_t writes)
{
	uint64_t old = atomic_load(&shared->flushed);

	while (old < writes && !atomic_compare_exchange_weak(&shared->flushed, &old, writes))
		;
}

void nbdconn_set_flushed(struct nbdconn *c, uint64_t writes)
{
	uint64_t old = atomic_load(&c->flushed);

	while (old < writes && !atomic_compare_exchange_weak(&c->flushed, &old, writes))
		;
}

bool nbdconn_get_unflushed(const struct nbdconn *c, uint64_t *ret_writes)
{
	*ret_writes = atomic_load(&c->writes);
	return *ret_writes != atomic_load(&c->flushed);
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
	/* Counted as lost, so that no flush waits for them; in this order, see backing_nbd_flush.
	 */
	nbdconn_set_flushed(c, atomic_load(&c->writes));
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

void nbdconn_finish(struct nbdconn_request *r, int result)
{
	struct nbdconn *c = r->conn;
	struct nbdwait *w = r->wait;

	if ((r->op == NBDCONN_WRITE || r->op == NBDCONN_ZERO) && result == 0) {
		atomic_fetch_add(&c->writes, 1);
		atomic_fetch_add(&c->shared->writes, 1);
	}
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

void nbdconn_issue(struct nbdconn *c, struct nbdconn_request *r)
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
		int e = nbdconn_errno(nbd_get_errno());

		/* To libnbd a request on a dead connection is an invalid one. */
		if (nbd_aio_is_dead(c->h) || nbd_aio_is_closed(c->h)) {
			nbdconn_note_loss(c);
			e = -EIO;
		}
		nbdconn_unlink(c, r);
		nbdconn_finish(r, e);
	}
}

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

void nbdconn_check_alive(struct nbdconn *c, int step)
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

void nbdconn_drain(struct nbdconn *c)
{
	while (c->h && c->issued) {
		nbdconn_check_alive(c, 0); /* a dead handle would never wake poll */
		if (c->h && c->issued)
			nbdconn_check_alive(c, nbdconn_step(c, -1));
	}
}

void nbdconn_disconnect(struct nbdconn *c)
{
	uint64_t end = clock_ns() + NBDCONN_BYE_NS;

	if (nbd_aio_disconnect(c->h, 0) == 0)
		while (!nbd_aio_is_dead(c->h) && !nbd_aio_is_closed(c->h) && clock_ns() < end)
			if (nbdconn_step(c, 100) < 0)
				break;
	nbdconn_drop(c);
}

int nbdconn_flush_alone(struct nbdconn *c)
{
	struct nbdconn_request r = {.op = NBDCONN_FLUSH, .conn = c};
	uint64_t writes = atomic_load(&c->writes);
	struct nbdwait wait;

	nbdwait_init(&wait);
	r.wait = &wait;
	atomic_fetch_add_explicit(&c->in_flight, 1, memory_order_relaxed);
	nbdconn_issue(c, &r);
	nbdconn_drain(c);
	if (r.result == 0)
		nbdconn_set_flushed(c, writes);
	return r.result;
}
