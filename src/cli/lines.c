/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lines over a Unix socket.  The socket does not block: every wait is a poll with the deadline. */
#include "cli/lines.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/bytes.h"
#include "util/clock.h"

#define LINES_RETRY_MS 20 /* a full backlog cannot be polled for */

/* Milliseconds left, rounded up; 0 = none. */
static int lines_left(uint64_t deadline)
{
	uint64_t now = clock_ns();

	if (now >= deadline)
		return 0;
	return (int)min_u64((deadline - now + NS_PER_MS - 1) / NS_PER_MS, 1 << 30);
}

static int lines_poll(struct lines *l, short events, uint64_t deadline)
{
	struct pollfd p = {.fd = l->fd, .events = events};

	for (;;) {
		int n = poll(&p, 1, lines_left(deadline));

		if (n > 0)
			return 0;
		if (n == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

int lines_connect(struct lines *l, const char *path, uint64_t deadline)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int r;

	*l = (struct lines){.fd = -1};
	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0)
		return -errno;
	while (connect(l->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		r = -errno;
		if (r == -EINTR)
			continue;
		if (r == -EAGAIN && lines_left(deadline) > 0) {
			(void)poll(NULL, 0, LINES_RETRY_MS);
			continue;
		}
		lines_deinit(l);
		return r == -EAGAIN ? -ETIMEDOUT : r;
	}
	return 0;
}

void lines_deinit(struct lines *l)
{
	if (l->fd >= 0)
		close(l->fd);
	free(l->buf);
	*l = (struct lines){.fd = -1};
}

/* Makes room for at least one more byte. */
static int lines_grow(struct lines *l)
{
	size_t size = min_u64(l->size ? 2 * l->size : 4096, LINES_MAX + 1);
	char *buf;

	if (l->used < l->size)
		return 0;
	if (l->size == LINES_MAX + 1)
		return -EMSGSIZE;
	buf = realloc(l->buf, size);
	if (!buf)
		return -ENOMEM;
	l->buf = buf;
	l->size = size;
	return 0;
}

static int lines_fill(struct lines *l, uint64_t deadline)
{
	int r = lines_grow(l);

	while (r == 0) {
		ssize_t n = read(l->fd, l->buf + l->used, l->size - l->used);

		if (n > 0) {
			l->used += (size_t)n;
			return 0;
		}
		if (n == 0 || errno == ECONNRESET)
			return -EPIPE;
		if (errno == EAGAIN)
			r = lines_poll(l, POLLIN, deadline);
		else if (errno != EINTR)
			r = -errno;
	}
	return r;
}

int lines_read(struct lines *l, uint64_t deadline, char **ret_line, size_t *ret_len)
{
	size_t searched = 0;

	if (l->taken) {
		memmove(l->buf, l->buf + l->taken, l->used - l->taken);
		l->used -= l->taken;
		l->taken = 0;
	}
	for (;;) {
		char *end = NULL;
		int r;

		if (l->used > searched)
			end = memchr(l->buf + searched, '\n', l->used - searched);
		if (end) {
			*end = '\0';
			l->taken = (size_t)(end - l->buf) + 1;
			*ret_line = l->buf;
			*ret_len = l->taken - 1;
			return 0;
		}
		searched = l->used;
		r = lines_fill(l, deadline);
		if (r < 0)
			return r;
	}
}

int lines_write(struct lines *l, uint64_t deadline, const char *bytes, size_t len)
{
	int r = 0;

	while (len > 0 && r == 0) {
		ssize_t n = send(l->fd, bytes, len, MSG_NOSIGNAL);

		if (n >= 0) {
			bytes += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			r = lines_poll(l, POLLOUT, deadline);
		} else if (errno != EINTR) {
			r = -errno;
		}
	}
	return r;
}
