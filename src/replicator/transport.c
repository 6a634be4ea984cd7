/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The link's byte pipe: non-blocking TCP sockets, and the plaintext half of the transport.
 *
 * Socket buffers are left to the kernel's autotuning; a dead peer is found by the heartbeats of the
 * stream, keepalive only ends connections that nobody watches. */
#include "replicator/transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "replicator/transport_internal.h"

#define TRANSPORT_DISCARD_READS 64u /* in one call */
#define TRANSPORT_NEAR_US 5000      /* round trip of a peer in the same building, on a busy day */

int transport_fail(struct transport *t, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(t->reason, sizeof(t->reason), fmt, ap);
	va_end(ap);
	t->state = TRANSPORT_DEAD;
	return code;
}

static void transport_format_address(
	const struct sockaddr *addr, socklen_t len, char *text, size_t size)
{
	char host[NI_MAXHOST], port[NI_MAXSERV];

	if (getnameinfo(addr, len, host, sizeof(host), port, sizeof(port),
		    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		snprintf(text, size, "unknown address");
	else if (strchr(host, ':'))
		snprintf(text, size, "[%.60s]:%.8s", host, port);
	else
		snprintf(text, size, "%.60s:%.8s", host, port);
}

static void transport_tune_socket(int fd)
{
	int one = 1;

	/* Neither is worth refusing a connection for. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
}

/* A system whose default is BBR paces every connection: a timer for each 64 KiB.  That finds its
 * way on long or shared paths; between near hosts it buys nothing, and costs a fifth of both nodes'
 * CPU (docs/performance.md).  A socket that has paced once goes on doing so, so it begins without,
 * and gets the system's way back when the handshake has shown a peer that is far. */
static void transport_begin_unpaced(struct transport *t)
{
	/* Every kernel has reno, and lets every user choose it; cubic mostly. */
	static const char *const near[] = {"cubic", "reno"};
	socklen_t len = sizeof(t->paced) - 1;
	int r = -1;

	memset(t->paced, 0, sizeof(t->paced));
	if (getsockopt(t->fd, IPPROTO_TCP, TCP_CONGESTION, t->paced, &len) < 0 ||
		strncmp(t->paced, "bbr", 3) != 0) {
		t->paced[0] = '\0';
		return;
	}
	for (unsigned i = 0; r < 0 && i < 2; i++)
		r = setsockopt(
			t->fd, IPPROTO_TCP, TCP_CONGESTION, near[i], (socklen_t)strlen(near[i]));
	if (r < 0)
		t->paced[0] = '\0'; /* as it is, then */
}

static void transport_pace_far(struct transport *t)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	if (t->paced[0] && (getsockopt(t->fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
				   info.tcpi_rtt >= TRANSPORT_NEAR_US))
		(void)setsockopt(
			t->fd, IPPROTO_TCP, TCP_CONGESTION, t->paced, (socklen_t)strlen(t->paced));
}

static struct transport *transport_new(const struct transport_security *sec, bool is_server)
{
	struct transport *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->fd = -1;
	t->security = sec;
	t->is_server = is_server;
	return t;
}

struct transport *transport_free(struct transport *t)
{
	if (!t)
		return NULL;
	transport_tls_free(t);
	if (t->fd >= 0)
		close(t->fd);
	if (t->addresses)
		freeaddrinfo(t->addresses);
	free(t->host);
	free(t->port);
	free(t);
	return NULL;
}

struct transport *transport_from_accepted(
	int fd, const struct transport_security *sec, struct error *err)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);
	struct transport *t = transport_new(sec, true);

	if (!t) {
		(void)error_set(err, ERROR_PEER, -ENOMEM, "incoming connection: out of memory");
		close(fd);
		return NULL;
	}
	t->fd = fd;
	if (getpeername(fd, (struct sockaddr *)&addr, &len) == 0)
		transport_format_address((struct sockaddr *)&addr, len, t->peer, sizeof(t->peer));
	else
		snprintf(t->peer, sizeof(t->peer), "unknown address");
	transport_tune_socket(fd);
	t->state = TRANSPORT_HANDSHAKING;
	return t;
}

/* Starts the TCP connect to t->address, or to the first after it that lets us.  0 when one is
 * connected or under way. */
static int transport_try_address(struct transport *t)
{
	int code = -EHOSTUNREACH;

	if (t->fd >= 0)
		close(t->fd);
	t->fd = -1;
	for (; t->address; t->address = t->address->ai_next) {
		struct addrinfo *a = t->address;

		transport_format_address(a->ai_addr, a->ai_addrlen, t->peer, sizeof(t->peer));
		t->fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (t->fd >= 0) {
			transport_tune_socket(t->fd);
			transport_begin_unpaced(t);
			if (connect(t->fd, a->ai_addr, a->ai_addrlen) == 0 ||
				errno == EINPROGRESS || errno == EINTR) {
				t->state = TRANSPORT_CONNECTING;
				return 0;
			}
		}
		code = -errno;
		transport_fail(t, code, "cannot connect: %s", strerror(-code));
		if (t->fd >= 0)
			close(t->fd);
		t->fd = -1;
	}
	return code;
}

int transport_connect(const char *host, const char *port, const struct transport_security *sec,
	struct transport **ret_transport, struct error *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct transport *t = transport_new(sec, false);
	int r;

	if (!t)
		goto oom;
	t->host = strdup(host);
	t->port = strdup(port);
	if (!t->host || !t->port)
		goto oom;
	r = getaddrinfo(host, port, &hints, &t->addresses);
	if (r != 0) {
		t->addresses = NULL;
		transport_free(t);
		return error_set(err, ERROR_PEER, -EHOSTUNREACH,
			"peer %s port %s: cannot resolve the address: %s", host, port,
			gai_strerror(r));
	}
	t->address = t->addresses;
	r = transport_try_address(t);
	if (r < 0) {
		r = error_set(err, ERROR_PEER, r, "peer %s: %s", t->peer, t->reason);
		transport_free(t);
		return r;
	}
	*ret_transport = t;
	return 0;
oom:
	transport_free(t);
	return error_set(err, ERROR_PEER, -ENOMEM, "peer %s port %s: out of memory", host, port);
}

/* A connect to a free local port of the ephemeral range can meet itself (TCP simultaneous open),
 * and would then keep the listener that we look for from its port. */
static bool transport_is_self_connected(int fd)
{
	struct sockaddr_storage a = {0}, b = {0};
	socklen_t alen = sizeof(a), blen = sizeof(b);

	return getsockname(fd, (struct sockaddr *)&a, &alen) == 0 &&
	       getpeername(fd, (struct sockaddr *)&b, &blen) == 0 && alen == blen &&
	       memcmp(&a, &b, alen) == 0;
}

/* 0 = connected, -EAGAIN = not yet. */
static int transport_finish_connect(struct transport *t)
{
	for (;;) {
		struct pollfd p = {.fd = t->fd, .events = POLLOUT};
		int e = 0;
		socklen_t len = sizeof(e);

		if (poll(&p, 1, 0) <= 0)
			return -EAGAIN;
		if (getsockopt(t->fd, SOL_SOCKET, SO_ERROR, &e, &len) < 0)
			e = errno;
		if (e == 0 && transport_is_self_connected(t->fd))
			e = ECONNREFUSED;
		if (e == 0) {
			transport_pace_far(t);
			return 0;
		}
		/* The last address that was tried gives the reason. */
		if (!t->address->ai_next)
			return transport_fail(t, -e, "cannot connect: %s", strerror(e));
		t->address = t->address->ai_next;
		e = transport_try_address(t);
		if (e < 0)
			return e;
	}
}

int transport_handshake(struct transport *t, struct error *err)
{
	int r = 0;

	switch (t->state) {
	case TRANSPORT_ESTABLISHED:
	case TRANSPORT_READABLE:
		return 0;
	case TRANSPORT_DEAD:
		r = -EIO;
		break;
	case TRANSPORT_CONNECTING:
		r = transport_finish_connect(t);
		t->read_events = 0;
		t->write_events = r == -EAGAIN ? POLLOUT : 0;
		if (r < 0)
			break;
		t->reason[0] = '\0'; /* of addresses tried before this one */
		t->state = TRANSPORT_HANDSHAKING;
		/* fall through */
	case TRANSPORT_HANDSHAKING:
		if (t->security && !t->session)
			r = transport_tls_start(t);
		if (r == 0 && t->session)
			r = transport_tls_handshake(t);
		break;
	}
	if (r == 0)
		t->state = TRANSPORT_ESTABLISHED;
	else if (r != -EAGAIN)
		(void)error_set(err, ERROR_PEER, r, "peer %s: %s", t->peer, t->reason);
	return r;
}

int transport_fd(const struct transport *t)
{
	return t->fd;
}

short transport_poll_events(const struct transport *t)
{
	return t->read_events | t->write_events;
}

bool transport_has_pending(const struct transport *t)
{
	return t->session && transport_tls_has_pending(t);
}

const char *transport_peer(const struct transport *t)
{
	return t->peer;
}

bool transport_is_tls(const struct transport *t)
{
	return t->security != NULL;
}

const char *transport_reason(const struct transport *t)
{
	return t->reason;
}

static ssize_t transport_plain_read(struct transport *t, void *buf, size_t len)
{
	ssize_t n;

	do
		n = recv(t->fd, buf, len, 0);
	while (n < 0 && errno == EINTR);
	if (n >= 0)
		return n;
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		return -EAGAIN;
	n = -errno;
	return transport_fail(t, (int)n, "cannot receive: %s", strerror((int)-n));
}

static ssize_t transport_plain_writev(struct transport *t, const struct iovec *iov, int count)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count};
	ssize_t n;

	if (count > IOV_MAX)
		msg.msg_iovlen = IOV_MAX;
	do
		n = sendmsg(t->fd, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n >= 0)
		return n;
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		return -EAGAIN;
	n = -errno;
	return transport_fail(t, (int)n, "cannot send: %s", strerror((int)-n));
}

ssize_t transport_read(struct transport *t, void *buf, size_t len)
{
	ssize_t n;

	if (t->state != TRANSPORT_ESTABLISHED && t->state != TRANSPORT_READABLE)
		return -EIO;
	if (t->session)
		return transport_tls_read(t, buf, len);
	n = transport_plain_read(t, buf, len);
	t->read_events = n == -EAGAIN ? POLLIN : 0;
	return n;
}

ssize_t transport_writev(struct transport *t, const struct iovec *iov, int count)
{
	ssize_t n;

	if (t->state != TRANSPORT_ESTABLISHED)
		return -EIO;
	if (t->session) {
		n = transport_tls_writev(t, iov, count);
	} else {
		n = transport_plain_writev(t, iov, count);
		t->write_events = n == -EAGAIN ? POLLOUT : 0;
	}
	if (t->state == TRANSPORT_DEAD)
		t->state = TRANSPORT_READABLE;
	return n;
}

void transport_shutdown(struct transport *t)
{
	if (t->fd < 0)
		return;
	if (t->session && t->state == TRANSPORT_ESTABLISHED)
		transport_tls_bye(t);
	(void)shutdown(t->fd, SHUT_WR);
}

int transport_discard(struct transport *t, void *buf, size_t len)
{
	for (unsigned i = 0; i < TRANSPORT_DISCARD_READS; i++) {
		ssize_t n = recv(t->fd, buf, len, 0);

		if (n == 0)
			return 1;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
	return 0;
}
