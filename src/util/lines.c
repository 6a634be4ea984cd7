/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lines over a Unix socket.  The socket does not block: every wait is a poll with the deadline. */
#include "util/lines.h"

#include <errno.h>
#include <fcntl.h>
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

int lines_adopt(struct lines *l, int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	*l = (struct lines){.fd = fd};
	return 0;
}

void lines_deinit(struct lines *l)
{
	if (l->fd >= 0)
		close(l->fd);
	for (unsigned i = 0; i < l->nfds; i++)
		close(l->fds[i]);
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

/* Keeps the descriptors that came with a message. */
static void lines_keep_fds(struct lines *l, struct msghdr *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			if (l->nfds < LINES_FDS)
				l->fds[l->nfds++] = fd;
			else
				close(fd);
		}
	}
}

static ssize_t lines_receive(struct lines *l)
{
	char control[CMSG_SPACE(LINES_FDS * sizeof(int))];
	struct iovec iov = {.iov_base = l->buf + l->used, .iov_len = l->size - l->used};
	struct msghdr m = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(l->fd, &m, MSG_CMSG_CLOEXEC);

	if (n >= 0)
		lines_keep_fds(l, &m);
	return n;
}

static int lines_fill(struct lines *l, uint64_t deadline)
{
	int r = lines_grow(l);

	while (r == 0) {
		ssize_t n = lines_receive(l);

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

int lines_write_fds(struct lines *l, uint64_t deadline, const char *bytes, size_t len,
	const int *fds, unsigned n)
{
	char control[CMSG_SPACE(LINES_FDS * sizeof(int))] = {0};
	struct iovec iov = {.iov_base = (void *)bytes, .iov_len = len};
	struct msghdr m = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = CMSG_SPACE(n * sizeof(int))};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	for (;;) {
		ssize_t sent = sendmsg(l->fd, &m, MSG_NOSIGNAL);
		int r;

		if (sent >= 0)
			return lines_write(l, deadline, bytes + sent, len - (size_t)sent);
		if (errno == EAGAIN) {
			r = lines_poll(l, POLLOUT, deadline);
			if (r < 0)
				return r;
		} else if (errno != EINTR) {
			return -errno;
		}
	}
}

bool lines_pending(const struct lines *l)
{
	return l->used > l->taken && memchr(l->buf + l->taken, '\n', l->used - l->taken);
}

int lines_take_fd(struct lines *l)
{
	int fd;

	if (l->nfds == 0)
		return -1;
	fd = l->fds[0];
	memmove(l->fds, l->fds + 1, --l->nfds * sizeof(fd));
	return fd;
}
