/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Listening sockets of the link: one for each address that the host name stands for. */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "replicator/transport_internal.h"

#define LISTENER_MAX 8
#define LISTENER_BACKLOG 16

struct listener {
	int fds[LISTENER_MAX];
	int count;
};

static int listener_open(const struct addrinfo *a)
{
	int one = 1;
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int r;

	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	/* The wildcard addresses of both families must not claim the same port. */
	if (a->ai_family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, LISTENER_BACKLOG) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

static bool listener_is_loopback(const struct addrinfo *a)
{
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a->ai_addr;
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)a->ai_addr;

	if (a->ai_family == AF_INET)
		return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
	if (a->ai_family != AF_INET6)
		return false;
	return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr) ||
	       (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr) && v6->sin6_addr.s6_addr[12] == 127);
}

/* Before anything is bound. */
static int listener_check_loopback(
	const char *host, const char *port, const struct addrinfo *list, struct error *err)
{
	for (const struct addrinfo *a = list; a; a = a->ai_next)
		if (!listener_is_loopback(a))
			return error_set(err, ERROR_CONFIG, -EPERM,
				"cannot listen on %s port %s: it is not a loopback address and "
				"nothing encrypts the link; expected tls-psk or tls-x509 in "
				"[security], or plaintext-link = yes in [unsafe]",
				host, port);
	return 0;
}

int listener_new(const char *host, const char *port, bool loopback_only,
	struct listener **ret_listener, struct error *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
	struct addrinfo *list;
	struct listener *l;
	int r, absent = -EADDRNOTAVAIL;

	r = getaddrinfo(host, port, &hints, &list);
	if (r != 0)
		return error_set(err, ERROR_PEER, -EADDRNOTAVAIL,
			"cannot listen on %s port %s: cannot resolve the address: %s", host, port,
			gai_strerror(r));
	r = loopback_only ? listener_check_loopback(host, port, list, err) : 0;
	if (r < 0) {
		freeaddrinfo(list);
		return r;
	}
	l = calloc(1, sizeof(*l));
	if (!l) {
		freeaddrinfo(list);
		return error_set(
			err, ERROR_GENERAL, -ENOMEM, "cannot listen on %s port %s", host, port);
	}
	for (const struct addrinfo *a = list; a && l->count < LISTENER_MAX; a = a->ai_next) {
		r = listener_open(a);
		if (r >= 0) {
			l->fds[l->count++] = r;
			continue;
		}
		/* "localhost" names ::1 also where IPv6 is off: no fault while another works. */
		if (r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL) {
			absent = r;
			continue;
		}
		freeaddrinfo(list);
		listener_free(l);
		return error_set(err, r == -EADDRINUSE ? ERROR_BUSY : ERROR_PEER, r,
			"cannot listen on %s port %s: %s", host, port, strerror(-r));
	}
	freeaddrinfo(list);
	if (l->count == 0) {
		listener_free(l);
		return error_set(err, ERROR_PEER, absent, "cannot listen on %s port %s: %s", host,
			port, strerror(-absent));
	}
	*ret_listener = l;
	return 0;
}

struct listener *listener_free(struct listener *l)
{
	if (l) {
		for (int i = 0; i < l->count; i++)
			close(l->fds[i]);
		free(l);
	}
	return NULL;
}

int listener_fds(const struct listener *l, int *fds, int max)
{
	int n = l->count < max ? l->count : max;

	memcpy(fds, l->fds, sizeof(*fds) * (size_t)n);
	return n;
}

/* Errors of a connection that died before we took it, which Linux reports here (accept(2)). */
static bool listener_error_is_the_peers(int e)
{
	switch (e) {
	case EAGAIN:
	case EINTR:
	case ECONNABORTED:
	case ENETDOWN:
	case EPROTO:
	case ENOPROTOOPT:
	case EHOSTDOWN:
	case ENONET:
	case EHOSTUNREACH:
	case EOPNOTSUPP:
	case ENETUNREACH:
		return true;
	}
	return false;
}

int listener_accept(struct listener *l, int fd, const struct transport_security *sec,
	struct transport **ret_transport, struct error *err)
{
	struct transport *t;
	int c = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (c < 0 && listener_error_is_the_peers(errno))
		return -EAGAIN;
	if (c < 0)
		return error_set(
			err, ERROR_PEER, -errno, "cannot accept a connection: %s", strerror(errno));
	t = transport_from_accepted(c, sec, err);
	if (!t)
		return -ENOMEM;
	*ret_transport = t;
	return 0;
}
