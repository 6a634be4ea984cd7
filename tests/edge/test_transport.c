/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The link without TLS: connecting, partial transfers in both directions at once, the ends that a
 * connection can come to, and what names and files are refused. */
#include "pair.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct pair l;

static int close_pair(void **state)
{
	pair_close(&l);
	return 0;
}

static void shrink_buffers(struct transport *t)
{
	int size = 4096;

	assert_int_equal(
		setsockopt(transport_fd(t), SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
	assert_int_equal(
		setsockopt(transport_fd(t), SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)), 0);
}

static void test_exchange(void **state)
{
	char want[64];

	pair_open_ok(&l, "127.0.0.1", NULL, NULL);
	assert_false(transport_is_tls(l.client.t));
	assert_false(transport_has_pending(l.client.t));
	snprintf(want, sizeof(want), "127.0.0.1:%s", l.port);
	assert_string_equal(transport_peer(l.client.t), want);
	assert_memory_equal(transport_peer(l.server.t), "127.0.0.1:", 10);
	pair_exchange(&l, 1, 0, 1);
	pair_exchange(&l, 20u << 20, 20u << 20, 2);
	pair_exchange(&l, 0, 5u << 20, 3);
}

/* Tells something only where the system's default is one that paces; elsewhere nothing is changed.
 */
static void test_no_pacing(void **state)
{
	char name[16] = "", system[16] = "";
	socklen_t len = sizeof(name) - 1;
	FILE *f = fopen("/proc/sys/net/ipv4/tcp_congestion_control", "r");

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%15s", system), 1);
	fclose(f);
	pair_open_ok(&l, "127.0.0.1", NULL, NULL);
	assert_int_equal(
		getsockopt(transport_fd(l.client.t), IPPROTO_TCP, TCP_CONGESTION, name, &len), 0);
	if (strncmp(system, "bbr", 3) != 0)
		assert_string_equal(name, system);
	else
		assert_true(strcmp(name, "cubic") == 0 || strcmp(name, "reno") == 0);
}

static void test_small_buffers(void **state)
{
	pair_open_ok(&l, "localhost", NULL, NULL);
	shrink_buffers(l.client.t);
	shrink_buffers(l.server.t);
	pair_exchange(&l, 1u << 20, 1u << 20, 4);
}

/* poll events follow what each direction waits for, and go with its success. */
static void test_poll_events(void **state)
{
	static char data[1 << 20];
	struct iovec iov = {data, sizeof(data)};
	ssize_t n;

	pair_open_ok(&l, "127.0.0.1", NULL, NULL);
	assert_int_equal(transport_poll_events(l.client.t), 0);
	assert_int_equal(transport_read(l.client.t, data, 10), -EAGAIN);
	assert_int_equal(transport_poll_events(l.client.t), POLLIN);
	do
		n = transport_writev(l.client.t, &iov, 1);
	while (n > 0);
	assert_int_equal(n, -EAGAIN);
	assert_int_equal(transport_poll_events(l.client.t), POLLIN | POLLOUT);
	pair_send(l.server.t, "x", 1);
	while (transport_read(l.client.t, data, 10) == -EAGAIN)
		;
	assert_int_equal(transport_poll_events(l.client.t), POLLOUT);
}

static void test_many_pieces(void **state)
{
	enum { COUNT = 3000 };
	static struct iovec iov[COUNT];
	static char data[COUNT], got[COUNT];
	ssize_t n;

	support_fill(data, COUNT, 5);
	for (int i = 0; i < COUNT; i++)
		iov[i] = (struct iovec){data + i, 1};
	pair_open_ok(&l, "127.0.0.1", NULL, NULL);
	/* More than one system call takes: some of it. */
	n = transport_writev(l.client.t, iov, COUNT);
	assert_true(n > 0 && n <= COUNT);
	pair_receive(l.server.t, got, (size_t)n);
	assert_memory_equal(got, data, n);
	assert_int_equal(transport_writev(l.client.t, iov, 0), 0);
}

static void test_orderly_end(void **state)
{
	char buf[10];
	size_t n;

	pair_open_ok(&l, "127.0.0.1", NULL, NULL);
	pair_send(l.client.t, "goodbye", 7);
	transport_shutdown(l.client.t);
	assert_int_equal(pair_read_end(l.server.t, &n), 0);
	assert_int_equal(n, 7);
	assert_int_equal(transport_read(l.server.t, buf, sizeof(buf)), 0);
	assert_string_equal(transport_reason(l.server.t), "");
	/* The other direction is still open. */
	pair_send(l.server.t, "answer", 6);
	pair_receive(l.client.t, buf, 6);
	transport_shutdown(l.server.t);
	assert_int_equal(pair_read_end(l.client.t, &n), 0);
}

static void test_reset(void **state)
{
	struct linger now = {.l_onoff = 1};
	struct iovec iov = {(void *)"x", 1};
	size_t n;

	pair_open_ok(&l, "127.0.0.1", NULL, NULL);
	setsockopt(transport_fd(l.server.t), SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	l.server.t = transport_free(l.server.t);
	assert_int_equal(pair_read_end(l.client.t, &n), -ECONNRESET);
	assert_string_equal(
		transport_reason(l.client.t), "cannot receive: Connection reset by peer");
	/* Dead from then on, and the reason stays. */
	assert_int_equal(transport_writev(l.client.t, &iov, 1), -EIO);
	assert_string_equal(
		transport_reason(l.client.t), "cannot receive: Connection reset by peer");
	transport_shutdown(l.client.t);
}

static void test_send_to_nobody(void **state)
{
	struct iovec iov = {(void *)"x", 1};
	ssize_t n;

	pair_open_ok(&l, "127.0.0.1", NULL, NULL);
	l.server.t = transport_free(l.server.t);
	/* The first may still go out; SIGPIPE would end this program. */
	while ((n = transport_writev(l.client.t, &iov, 1)) > 0)
		;
	assert_true(n == -EPIPE || n == -ECONNRESET);
	assert_memory_equal(transport_reason(l.client.t), "cannot send: ", 13);
}

/* The peer closes with bytes that it has not read, which resets the connection. */
static void test_last_words(void **state)
{
	struct iovec iov = {(void *)"x", 1};
	char buf[7];

	pair_open_ok(&l, "127.0.0.1", NULL, NULL);
	pair_send(l.client.t, "unread", 6);
	pair_send(l.server.t, "goodbye", 7);
	l.server.t = transport_free(l.server.t);
	while (transport_writev(l.client.t, &iov, 1) > 0)
		;
	assert_int_equal(transport_writev(l.client.t, &iov, 1), -EIO);
	pair_receive(l.client.t, buf, 7);
	assert_memory_equal(buf, "goodbye", 7);
}

/* With an orderly end of its own, the peer's close is seen by who throws the rest away. */
static void test_discard(void **state)
{
	char buf[3];
	int r;

	pair_open_ok(&l, "127.0.0.1", NULL, NULL);
	transport_shutdown(l.server.t);
	assert_int_equal(transport_discard(l.server.t, buf, sizeof(buf)), 0);
	pair_send(l.client.t, "nobody reads this", 17);
	transport_shutdown(l.client.t);
	while ((r = transport_discard(l.server.t, buf, sizeof(buf))) == 0)
		;
	assert_int_equal(r, 1);
}

static void test_connection_refused(void **state)
{
	char want[128], port[16];
	struct pair_end e = {.result = -EAGAIN};

	pair_listen(&l);
	memcpy(port, l.port, sizeof(port));
	l.listener = listener_free(l.listener);
	e.result = transport_connect("127.0.0.1", port, NULL, &e.t, &e.err);
	if (e.result == 0) {
		e.result = -EAGAIN;
		pair_handshake(&e);
	}
	assert_int_equal(e.result, -ECONNREFUSED);
	snprintf(want, sizeof(want), "peer 127.0.0.1:%s: cannot connect: Connection refused", port);
	assert_string_equal(e.err.text, want);
	assert_int_equal(e.err.kind, ERROR_PEER);
	transport_free(e.t);
	assert_null(transport_free(NULL));
}

static void test_names(void **state)
{
	struct transport *t = NULL;
	struct listener *listener = NULL;
	struct error err = {0};
	char text[256], want[128];

	assert_int_equal(transport_connect("host.invalid", "7800", NULL, &t, &err), -EHOSTUNREACH);
	snprintf(text, sizeof(text), "%.45s", err.text);
	assert_string_equal(text, "peer host.invalid port 7800: cannot resolve t");
	assert_null(t);
	assert_int_equal(
		transport_connect("127.0.0.1", "no-such-port", NULL, &t, &err), -EHOSTUNREACH);
	assert_int_equal(listener_new("host.invalid", "0", false, &listener, &err), -EADDRNOTAVAIL);
	snprintf(text, sizeof(text), "%.50s", err.text);
	assert_string_equal(text, "cannot listen on host.invalid port 0: cannot resol");
	/* 192.0.2.0/24 is for documentation: nobody's. */
	assert_int_equal(listener_new("192.0.2.1", "0", false, &listener, &err), -EADDRNOTAVAIL);
	assert_string_equal(
		err.text, "cannot listen on 192.0.2.1 port 0: Cannot assign requested address");
	assert_int_equal(err.kind, ERROR_PEER);
	pair_listen(&l);
	assert_int_equal(listener_new("127.0.0.1", l.port, false, &listener, &err), -EADDRINUSE);
	assert_int_equal(err.kind, ERROR_BUSY);
	snprintf(want, sizeof(want), "cannot listen on 127.0.0.1 port %s: Address already in use",
		l.port);
	assert_string_equal(err.text, want);
	assert_null(listener);
	assert_null(listener_free(NULL));
}

/* Clear text: whatever a name resolves to, nothing is bound beyond this host. */
static void test_loopback_only(void **state)
{
	static const char *const beyond[] = {"0.0.0.0", "::", "192.0.2.1", "2001:db8::1"};
	static const char *const here[] = {"127.0.0.1", "127.3.2.1", "localhost"};
	struct listener *listener = NULL;
	struct error err = {0};
	char want[256];

	for (size_t i = 0; i < sizeof(beyond) / sizeof(beyond[0]); i++) {
		assert_int_equal(listener_new(beyond[i], "0", true, &listener, &err), -EPERM);
		assert_null(listener);
		assert_int_equal(err.kind, ERROR_CONFIG);
		snprintf(want, sizeof(want),
			"cannot listen on %s port 0: it is not a loopback address and nothing "
			"encrypts the link; expected tls-psk or tls-x509 in [security], or "
			"plaintext-link = yes in [unsafe]",
			beyond[i]);
		assert_string_equal(err.text, want);
	}
	for (size_t i = 0; i < sizeof(here) / sizeof(here[0]); i++) {
		assert_int_equal(listener_new(here[i], "0", true, &listener, &err), 0);
		listener = listener_free(listener);
	}
}

static void test_nobody_there(void **state)
{
	struct transport *t = NULL;
	struct error err = {0};
	int fds[8];

	pair_listen(&l);
	assert_int_equal(listener_fds(l.listener, fds, 8), 1);
	assert_int_equal(listener_fds(l.listener, fds, 0), 0);
	assert_int_equal(listener_accept(l.listener, fds[0], NULL, &t, &err), -EAGAIN);
	assert_null(t);
	/* A host name with several addresses is listened for on all of them. */
	l.listener = listener_free(l.listener);
	assert_int_equal(listener_new("localhost", "0", false, &l.listener, &err), 0);
	assert_in_range(listener_fds(l.listener, fds, 8), 1, 8);
}

/* One that is gone again before it is taken must not look like a failure of the listener. */
static void test_gone_before_accept(void **state)
{
	struct linger now = {.l_onoff = 1};
	size_t n;
	int fd;

	pair_listen(&l);
	fd = pair_connect_raw(&l);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
	pair_accept(&l, NULL);
	pair_handshake(&l.server);
	if (l.server.result == 0)
		assert_true(pair_read_end(l.server.t, &n) < 0);
}

static void expect_load_fails(
	const char *psk, const char *user, const char *x509, const char *text, int code)
{
	struct transport_security *sec = NULL;
	struct error err = {0};

	assert_int_equal(transport_security_load(psk, user, x509, &sec, &err), code);
	assert_null(sec);
	assert_string_equal(err.text, text);
}

static void test_bad_psk_files(void **state)
{
	static const struct {
		const char *content, *after_path;
		int code;
	} rows[] = {
		{"alice:00112233445566778899aabbccddeeff\n", NULL, 0},
		{"# note\n\nalice:00112233445566778899AABBCCDDEEFF\r\n", NULL, 0},
		{"bob:00112233445566778899aabbccddeeff\nalice\n",
			":2: expected a line of the form name:hexkey", -EINVAL},
		{":00112233445566778899aabbccddeeff\n",
			":1: expected a line of the form name:hexkey", -EINVAL},
		{"alice:0011\n",
			":1: expected a key of 16 to 512 bytes in hexadecimal digits "
			"(psktool makes one)",
			-EINVAL},
		{"alice:00112233445566778899aabbccddeefg\n",
			":1: expected a key of 16 to 512 bytes in hexadecimal digits "
			"(psktool makes one)",
			-EINVAL},
		{"alice:00112233445566778899aabbccddeeff0\n",
			":1: expected a key of 16 to 512 bytes in hexadecimal digits "
			"(psktool makes one)",
			-EINVAL},
	};
	char dir[SUPPORT_PATH], path[SUPPORT_PATH + 16], text[2 * SUPPORT_PATH];
	struct transport_security *sec = NULL;

	support_dir_make(dir, sizeof(dir));
	snprintf(path, sizeof(path), "%s/keys.psk", dir);
	snprintf(
		text, sizeof(text), "cannot read the PSK file %s: No such file or directory", path);
	expect_load_fails(path, "alice", NULL, text, -ENOENT);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		support_write_file(path, rows[i].content, strlen(rows[i].content));
		if (rows[i].code == 0) {
			assert_int_equal(
				transport_security_load(path, "alice", NULL, &sec, NULL), 0);
			sec = transport_security_free(sec);
			continue;
		}
		snprintf(text, sizeof(text), "%s%s", path, rows[i].after_path);
		expect_load_fails(path, "alice", NULL, text, rows[i].code);
	}
	support_write_file(path, rows[0].content, strlen(rows[0].content));
	snprintf(text, sizeof(text), "PSK file %s has no key for the user \"tandem\"", path);
	expect_load_fails(path, NULL, NULL, text, -ENOENT);
	snprintf(text, sizeof(text),
		"the link has both a PSK file (%s) and an X.509 directory (/x): expected one of "
		"them",
		path);
	expect_load_fails(path, "alice", "/x", text, -EINVAL);
	expect_load_fails(NULL, NULL, "/nonexistent-tandem",
		"cannot read /nonexistent-tandem/ca-cert.pem: No such file or directory", -ENOENT);
	assert_int_equal(transport_security_load(NULL, NULL, NULL, &sec, NULL), 0);
	assert_null(sec);
	support_dir_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_exchange, close_pair),
		cmocka_unit_test_teardown(test_no_pacing, close_pair),
		cmocka_unit_test_teardown(test_small_buffers, close_pair),
		cmocka_unit_test_teardown(test_poll_events, close_pair),
		cmocka_unit_test_teardown(test_many_pieces, close_pair),
		cmocka_unit_test_teardown(test_orderly_end, close_pair),
		cmocka_unit_test_teardown(test_reset, close_pair),
		cmocka_unit_test_teardown(test_last_words, close_pair),
		cmocka_unit_test_teardown(test_discard, close_pair),
		cmocka_unit_test_teardown(test_send_to_nobody, close_pair),
		cmocka_unit_test_teardown(test_connection_refused, close_pair),
		cmocka_unit_test_teardown(test_names, close_pair),
		cmocka_unit_test_teardown(test_loopback_only, close_pair),
		cmocka_unit_test_teardown(test_nobody_there, close_pair),
		cmocka_unit_test_teardown(test_gone_before_accept, close_pair),
		cmocka_unit_test(test_bad_psk_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
