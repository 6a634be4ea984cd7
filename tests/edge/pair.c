/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Two transports over loopback in one thread; see pair.h. */
#include "pair.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAIR_TIMEOUT_MS 30000
#define PAIR_PIECES 7

void pair_listen(struct pair *l)
{
	struct sockaddr_in addr;
	socklen_t len = sizeof(addr);
	struct error err = {0};
	int fd;

	memset(l, 0, sizeof(*l));
	if (listener_new("127.0.0.1", "0", true, &l->listener, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(listener_fds(l->listener, &fd, 1), 1);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
	snprintf(l->port, sizeof(l->port), "%u", ntohs(addr.sin_port));
}

void pair_accept(struct pair *l, const struct transport_security *sec)
{
	struct pollfd p = {.events = POLLIN};

	assert_int_equal(listener_fds(l->listener, &p.fd, 1), 1);
	assert_int_equal(poll(&p, 1, PAIR_TIMEOUT_MS), 1);
	assert_int_equal(listener_accept(l->listener, p.fd, sec, &l->server.t, &l->server.err), 0);
	l->server.result = -EAGAIN;
}

int pair_connect_raw(struct pair *l)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)atoi(l->port)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

void pair_poll(struct transport *a, struct transport *b)
{
	struct pollfd p[2] = {{.fd = -1}, {.fd = -1}};

	if (a) {
		p[0].fd = transport_fd(a);
		p[0].events = transport_poll_events(a);
	}
	if (b) {
		p[1].fd = transport_fd(b);
		p[1].events = transport_poll_events(b);
	}
	if (poll(p, 2, PAIR_TIMEOUT_MS) <= 0)
		fail_msg("nothing happens: events %d and %d", p[0].events, p[1].events);
}

static void pair_step(struct pair_end *e)
{
	if (e->result != -EAGAIN)
		return;
	e->result = transport_handshake(e->t, &e->err);
	if (e->result < 0 && e->result != -EAGAIN) {
		/* The same again from a dead transport, and no I/O. */
		struct error again = {0};
		char byte = 0;

		assert_true(transport_handshake(e->t, &again) < 0);
		assert_string_equal(again.text, e->err.text);
		assert_int_equal(transport_read(e->t, &byte, 1), -EIO);
		assert_int_equal(e->err.kind, ERROR_PEER);
		assert_int_equal(e->err.code, e->result);
	}
}

void pair_open(struct pair *l, const char *host, const struct transport_security *client,
	const struct transport_security *server)
{
	struct error err = {0};

	pair_listen(l);
	if (transport_connect(host, l->port, client, &l->client.t, &err) < 0)
		fail_msg("%s", err.text);
	l->client.result = -EAGAIN;
	/* "localhost" may be ::1 as well, where nobody listens: that comes first then. */
	while (!l->server.t) {
		struct pollfd p[2] = {{.events = POLLIN}, {.fd = transport_fd(l->client.t)}};

		pair_step(&l->client);
		assert_int_equal(l->client.result, client || l->client.result ? -EAGAIN : 0);
		p[1].fd = transport_fd(l->client.t);
		p[1].events = transport_poll_events(l->client.t);
		assert_int_equal(listener_fds(l->listener, &p[0].fd, 1), 1);
		assert_true(poll(p, 2, PAIR_TIMEOUT_MS) > 0);
		if (p[0].revents)
			pair_accept(l, server);
	}
	for (;;) {
		pair_step(&l->client);
		pair_step(&l->server);
		if (l->client.result != -EAGAIN && l->server.result != -EAGAIN)
			return;
		pair_poll(l->client.result == -EAGAIN ? l->client.t : NULL,
			l->server.result == -EAGAIN ? l->server.t : NULL);
	}
}

void pair_open_ok(struct pair *l, const char *host, const struct transport_security *client,
	const struct transport_security *server)
{
	pair_open(l, host, client, server);
	if (l->client.result < 0)
		fail_msg("client: %s", l->client.err.text);
	if (l->server.result < 0)
		fail_msg("server: %s", l->server.err.text);
	assert_string_equal(transport_reason(l->client.t), "");
	assert_string_equal(transport_reason(l->server.t), "");
}

void pair_handshake(struct pair_end *e)
{
	for (;;) {
		pair_step(e);
		if (e->result != -EAGAIN)
			return;
		pair_poll(e->t, NULL);
	}
}

void pair_close(struct pair *l)
{
	l->client.t = transport_free(l->client.t);
	l->server.t = transport_free(l->server.t);
	l->listener = listener_free(l->listener);
}

ssize_t pair_read_end(struct transport *t, size_t *ret_bytes)
{
	char buf[65536];
	ssize_t n;

	*ret_bytes = 0;
	for (;;) {
		n = transport_read(t, buf, sizeof(buf));
		if (n == -EAGAIN)
			pair_poll(t, NULL);
		else if (n <= 0)
			return n;
		else
			*ret_bytes += (size_t)n;
	}
}

void pair_send(struct transport *t, const void *data, size_t len)
{
	while (len > 0) {
		struct iovec iov = {(void *)(uintptr_t)data, len};
		ssize_t n = transport_writev(t, &iov, 1);

		if (n == -EAGAIN) {
			pair_poll(t, NULL);
			continue;
		}
		if (n <= 0)
			fail_msg("sending ended: %s", transport_reason(t));
		data = (const char *)data + n;
		len -= (size_t)n;
	}
}

void pair_receive(struct transport *t, void *data, size_t len)
{
	while (len > 0) {
		ssize_t n = transport_read(t, data, len);

		if (n == -EAGAIN) {
			pair_poll(t, NULL);
			continue;
		}
		if (n <= 0)
			fail_msg("receiving ended: %s", transport_reason(t));
		data = (char *)data + n;
		len -= (size_t)n;
	}
}

/* One direction of an exchange. */
struct pair_flow {
	unsigned char *data;
	size_t size, sent, received;
	uint64_t rng;
};

static uint64_t pair_random(struct pair_flow *f, uint64_t below)
{
	f->rng = f->rng * 6364136223846793005ull + 1442695040888963407ull;
	return (f->rng >> 33) % below;
}

/* true = to be called again at once, false = waits. */
static bool pair_flow_send(struct pair_flow *f, struct transport *t)
{
	struct iovec iov[PAIR_PIECES];
	size_t at = f->sent;
	int count = 0;
	ssize_t n;

	if (f->sent == f->size)
		return false;
	/* Always a beginning of the same bytes, but cut anew each time, with empty pieces. */
	while (count < PAIR_PIECES && at < f->size) {
		size_t len = pair_random(f, pair_random(f, 3) ? 9000 : 200000);

		if (len > f->size - at)
			len = f->size - at;
		iov[count++] = (struct iovec){f->data + at, len};
		at += len;
	}
	/* After -EAGAIN at least what was offered then must be offered again. */
	iov[count - 1].iov_len += f->size - at;
	n = transport_writev(t, iov, count);
	if (n == -EAGAIN)
		return false;
	if (n <= 0)
		fail_msg("sending ended (%zd): %s", n, transport_reason(t));
	f->sent += (size_t)n;
	return true;
}

static bool pair_flow_receive(struct pair_flow *f, struct transport *t)
{
	static unsigned char buf[300000];
	size_t len = 1 + pair_random(f, pair_random(f, 2) ? sizeof(buf) : 100);
	ssize_t n;

	if (f->received == f->size)
		return false;
	n = transport_read(t, buf, len);
	if (n == -EAGAIN) {
		assert_false(transport_has_pending(t));
		return false;
	}
	if (n <= 0)
		fail_msg("receiving ended (%zd): %s", n, transport_reason(t));
	assert_true((size_t)n <= f->size - f->received);
	assert_memory_equal(buf, f->data + f->received, n);
	f->received += (size_t)n;
	return true;
}

static void pair_flow_init(struct pair_flow *f, size_t size, uint64_t seed)
{
	*f = (struct pair_flow){.size = size, .rng = seed};
	f->data = malloc(size + 1);
	support_fill(f->data, size, seed);
}

void pair_exchange(struct pair *l, size_t to_server, size_t to_client, uint64_t seed)
{
	struct pair_flow up, down;

	pair_flow_init(&up, to_server, seed);
	pair_flow_init(&down, to_client, seed + 1);
	while (up.received < up.size || down.received < down.size) {
		bool busy = pair_flow_send(&up, l->client.t);

		busy |= pair_flow_receive(&down, l->client.t);
		busy |= pair_flow_send(&down, l->server.t);
		busy |= pair_flow_receive(&up, l->server.t);
		if (!busy && (up.received < up.size || down.received < down.size))
			pair_poll(l->client.t, l->server.t);
	}
	free(up.data);
	free(down.data);
}
