/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The link with TLS: who gets in, who does not and what both sides are told, and that nothing is
 * lost or stuck in a session whose socket is always full. */
#include "credentials.h"
#include "pair.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char dir[SUPPORT_PATH];
static struct pair l;

enum key { ALICE, ALICE_OTHER_KEY, CAROL, GOOD, OTHER_CA, EXPIRED, OTHER_HOST, SWAPPED, KEYS };
static struct transport_security *keys[KEYS];

static int make_keys(void **state)
{
	support_dir_make(dir, sizeof(dir));
	credentials_make_psk(dir, "alice.psk", "alice");
	credentials_make_psk(dir, "alice.psk", "bob");
	credentials_make_psk(dir, "alice2.psk", "alice");
	credentials_make_psk(dir, "carol.psk", "carol");
	credentials_make_x509(dir, "good", "ca1", CREDENTIALS_GOOD);
	credentials_make_x509(dir, "other-ca", "ca2", CREDENTIALS_GOOD);
	credentials_make_x509(dir, "expired", "ca1", CREDENTIALS_EXPIRED);
	credentials_make_x509(dir, "other-host", "ca1", CREDENTIALS_OTHER_HOST);
	credentials_make_x509(dir, "swapped", "ca1", CREDENTIALS_SWAPPED);
	keys[ALICE] = credentials_psk(dir, "alice.psk", "alice");
	keys[ALICE_OTHER_KEY] = credentials_psk(dir, "alice2.psk", "alice");
	keys[CAROL] = credentials_psk(dir, "carol.psk", "carol");
	keys[GOOD] = credentials_x509(dir, "good");
	keys[OTHER_CA] = credentials_x509(dir, "other-ca");
	keys[EXPIRED] = credentials_x509(dir, "expired");
	keys[OTHER_HOST] = credentials_x509(dir, "other-host");
	keys[SWAPPED] = credentials_x509(dir, "swapped");
	return 0;
}

static int free_keys(void **state)
{
	for (int i = 0; i < KEYS; i++)
		transport_security_free(keys[i]);
	assert_null(transport_security_free(NULL));
	support_dir_remove(dir);
	return 0;
}

static int close_pair(void **state)
{
	pair_close(&l);
	return 0;
}

static void test_exchange(void **state)
{
	static const struct {
		const char *host;
		enum key key;
	} rows[] = {{"127.0.0.1", ALICE}, {"127.0.0.1", GOOD}, {"localhost", GOOD}};

	for (size_t i = 0; i < 3; i++) {
		int size = 4096;

		pair_open_ok(&l, rows[i].host, keys[rows[i].key], keys[rows[i].key]);
		assert_true(transport_is_tls(l.client.t));
		pair_exchange(&l, 8u << 20, 8u << 20, 1 + i);
		/* With hardly any room in the sockets every record is cut. */
		setsockopt(transport_fd(l.client.t), SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
		setsockopt(transport_fd(l.server.t), SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
		pair_exchange(&l, 1u << 20, 1u << 20, 7 + i);
		pair_close(&l);
	}
}

/* What TLS has decrypted beyond what was asked for, poll does not know of. */
static void test_pending(void **state)
{
	char buf[16];

	pair_open_ok(&l, "127.0.0.1", keys[ALICE], keys[ALICE]);
	pair_send(l.client.t, "0123456789", 10);
	pair_receive(l.server.t, buf, 4);
	assert_true(transport_has_pending(l.server.t));
	pair_receive(l.server.t, buf + 4, 6);
	assert_false(transport_has_pending(l.server.t));
	assert_memory_equal(buf, "0123456789", 10);
	assert_int_equal(transport_read(l.server.t, buf, 1), -EAGAIN);
	assert_int_equal(transport_poll_events(l.server.t), POLLIN);
}

struct refusal {
	const char *host;
	enum key client, server;
	const char *client_says, *server_says; /* after "peer ADDRESS: "; NULL = no failure */
};

#define NOT_TRUSTED "TLS: The certificate is NOT trusted. "
#define BAD_CERTIFICATE "TLS: refused by the peer (alert \"Certificate is bad\")"
#define NOT_FOR "The name in the certificate does not match the expected. (expected: "
#define PURPOSE "The certificate chain does not match the intended purpose."

static const struct refusal refusals[] = {
	{"127.0.0.1", ALICE, ALICE_OTHER_KEY,
		"TLS: refused by the peer (alert \"Illegal parameter\"): other PSK user or key?",
		"TLS: the peer's PSK key is not ours"},
	{"127.0.0.1", CAROL, ALICE,
		"TLS: refused by the peer (alert \"Illegal parameter\"): other PSK user or key?",
		"TLS: unknown PSK user \"carol\""},
	{"127.0.0.1", ALICE, GOOD,
		"TLS: nothing in common with the peer: is one side with PSK and the other with "
		"X.509?",
		"TLS: refused by the peer (alert \"Handshake failed\")"},
	{"127.0.0.1", GOOD, ALICE, "TLS: refused by the peer (alert \"Handshake failed\")",
		"TLS: nothing in common with the peer: is one side with PSK and the other with "
		"X.509?"},
	{"127.0.0.1", OTHER_CA, GOOD, NOT_TRUSTED "The certificate issuer is unknown.",
		BAD_CERTIFICATE},
	{"127.0.0.1", GOOD, EXPIRED, NOT_TRUSTED "The certificate chain uses expired certificate.",
		BAD_CERTIFICATE},
	{"127.0.0.1", GOOD, OTHER_HOST, NOT_TRUSTED NOT_FOR "127.0.0.1)", BAD_CERTIFICATE},
	{"localhost", GOOD, OTHER_HOST, NOT_TRUSTED NOT_FOR "localhost)", BAD_CERTIFICATE},
	{"127.0.0.1", GOOD, SWAPPED, NOT_TRUSTED PURPOSE, BAD_CERTIFICATE},
	/* TLS 1.3: here the client is done before the server looks. */
	{"127.0.0.1", EXPIRED, GOOD, NULL,
		NOT_TRUSTED "The certificate chain uses expired certificate."},
	{"127.0.0.1", SWAPPED, GOOD, NULL, NOT_TRUSTED PURPOSE},
};

static void expect_end(const struct pair_end *e, const char *says, int row, const char *name)
{
	char want[512];

	snprintf(want, sizeof(want), "peer %s: %s", transport_peer(e->t), says ? says : "");
	if (says && strcmp(e->err.text, want) != 0)
		fail_msg("row %d: the %s says \"%s\", not \"%s\"", row, name, e->err.text, want);
	assert_int_equal(e->result, says ? -EACCES : 0);
	assert_string_equal(transport_reason(e->t), says ? says : "");
}

static void test_refusals(void **state)
{
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		const struct refusal *r = &refusals[i];
		size_t n;

		pair_open(&l, r->host, keys[r->client], keys[r->server]);
		expect_end(&l.client, r->client_says, (int)i, "client");
		expect_end(&l.server, r->server_says, (int)i, "server");
		if (!r->client_says) {
			/* As documented: it comes out of the first read, after a first write too.
			 */
			pair_send(l.client.t, "hello", 5);
			l.server.t = transport_free(l.server.t);
			assert_int_equal(pair_read_end(l.client.t, &n), -EACCES);
			assert_string_equal(transport_reason(l.client.t), BAD_CERTIFICATE);
		}
		pair_close(&l);
	}
}

/* Any user of the file gets in, by the key that stands there for it. */
static void test_second_user(void **state)
{
	struct transport_security *bob = credentials_psk(dir, "alice.psk", "bob");

	pair_open_ok(&l, "127.0.0.1", bob, keys[ALICE]);
	pair_exchange(&l, 1000, 1000, 3);
	pair_close(&l);
	transport_security_free(bob);
}

/* A client made by hand: what transport.h would not let us do. */
struct raw_client {
	gnutls_session_t session;
	gnutls_psk_client_credentials_t psk;
	gnutls_certificate_credentials_t x509;
	int fd;
};

static void raw_start(struct raw_client *c, const char *priority, const char *psk_user)
{
	gnutls_datum_t key = {(unsigned char *)"0123456789abcdef0123456789abcdef", 32};
	const char *where;

	c->fd = pair_connect_raw(&l);
	assert_int_equal(fcntl(c->fd, F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(gnutls_init(&c->session, GNUTLS_CLIENT | GNUTLS_NONBLOCK), 0);
	assert_int_equal(gnutls_priority_set_direct(c->session, priority, &where), 0);
	gnutls_psk_allocate_client_credentials(&c->psk);
	gnutls_psk_set_client_credentials(
		c->psk, psk_user ? psk_user : "nobody", &key, GNUTLS_PSK_KEY_HEX);
	gnutls_certificate_allocate_credentials(&c->x509); /* without a certificate in it */
	if (psk_user)
		gnutls_credentials_set(c->session, GNUTLS_CRD_PSK, c->psk);
	else
		gnutls_credentials_set(c->session, GNUTLS_CRD_CERTIFICATE, c->x509);
	gnutls_transport_set_int(c->session, c->fd);
}

static void raw_end(struct raw_client *c)
{
	gnutls_deinit(c->session);
	gnutls_psk_free_client_credentials(c->psk);
	gnutls_certificate_free_credentials(c->x509);
	close(c->fd);
}

static void test_refused_clients(void **state)
{
	static const struct {
		const char *priority, *psk_user;
		enum key server;
		const char *reason;
	} rows[] = {
		{"NORMAL", NULL, GOOD, "TLS: the peer has shown no certificate"},
		{"NORMAL:-VERS-ALL:+VERS-TLS1.2", NULL, GOOD,
			"TLS: the peer has shown no certificate"},
		{"NORMAL:-VERS-ALL:+VERS-TLS1.1", NULL, GOOD,
			"TLS: what the peer sends is not TLS 1.2 or newer (A packet with illegal "
			"or unsupported version was received.)"},
		{"NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+ECDHE-PSK", "alice", ALICE,
			"TLS: the peer's PSK key is not ours"},
		{"NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+ECDHE-PSK", "mallory", ALICE,
			"TLS: unknown PSK user \"mallory\""},
		{"NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:+ECDHE-PSK", "mal\nlory", ALICE,
			"TLS: unknown PSK user \"mal?lory\""},
		/* Without forward secrecy: not taken, with the right key neither. */
		{"NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+PSK", "alice", ALICE,
			"TLS: nothing in common with the peer: "
			"is one side with PSK and the other with X.509?"},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct raw_client c;

		pair_listen(&l);
		raw_start(&c, rows[i].priority, rows[i].psk_user);
		pair_accept(&l, keys[rows[i].server]);
		while (l.server.result == -EAGAIN) {
			struct pollfd p[2] = {
				{c.fd, POLLIN, 0}, {transport_fd(l.server.t), POLLIN, 0}};

			(void)gnutls_handshake(c.session);
			l.server.result = transport_handshake(l.server.t, &l.server.err);
			if (l.server.result == -EAGAIN && poll(p, 2, 10000) <= 0)
				fail_msg("row %zu hangs", i);
		}
		if (strcmp(transport_reason(l.server.t), rows[i].reason) != 0)
			fail_msg("row %zu: %s", i, transport_reason(l.server.t));
		raw_end(&c);
		pair_close(&l);
	}
}

static void send_raw(int fd, const void *data, size_t len)
{
	assert_int_equal(send(fd, data, len, MSG_NOSIGNAL), len);
}

/* A peer without TLS, a port scanner, line noise. */
static void test_garbage(void **state)
{
	static const enum key both[] = {ALICE, GOOD};
	unsigned char noise[2000];
	char hello[64] = "TDRC\1"; /* begins as a HELLO record does */

	for (unsigned i = 0; i < 40; i++) {
		int fd;

		pair_listen(&l);
		fd = pair_connect_raw(&l);
		pair_accept(&l, keys[both[i % 2]]);
		if (i < 4) {
			send_raw(fd, i < 2 ? hello : "GET / HTTP/1.1\r\n\r\n", i < 2 ? 64 : 18);
		} else {
			support_fill(noise, sizeof(noise), i);
			if (i >= 20)
				memcpy(noise, "\x16\x03\x01\x02\x00\x01", 6); /* a ClientHello? */
			send_raw(fd, noise, sizeof(noise));
			shutdown(fd, SHUT_WR);
		}
		pair_handshake(&l.server);
		assert_true(l.server.result == -EPROTO || l.server.result == -ECONNRESET);
		if (i < 4) {
			const char *want = "TLS: what the peer sends is not TLS 1.2 or newer (";

			if (strncmp(transport_reason(l.server.t), want, strlen(want)) != 0)
				fail_msg("case %u: %s", i, transport_reason(l.server.t));
			assert_int_equal(l.server.result, -EPROTO);
		}
		close(fd);
		pair_close(&l);
	}
}

/* The other way around: the server that we call has no TLS and answers as such. */
static void test_server_without_tls(void **state)
{
	struct pair_end *c = &l.client;
	char hello[64] = "TDRC\1";

	pair_listen(&l);
	assert_int_equal(transport_connect("127.0.0.1", l.port, keys[ALICE], &c->t, &c->err), 0);
	pair_accept(&l, NULL);
	assert_int_equal(transport_handshake(l.server.t, &l.server.err), 0);
	pair_send(l.server.t, hello, sizeof(hello));
	c->result = -EAGAIN;
	pair_handshake(c);
	assert_int_equal(c->result, -EPROTO);
	assert_non_null(strstr(c->err.text, "TLS: what the peer sends is not TLS 1.2 or newer ("));
}

static void test_closed_in_handshake(void **state)
{
	const char *want =
		"TLS: the peer closed the connection in the handshake: is it without TLS?";
	struct pair_end *c = &l.client;
	int fd;

	/* The client, before it has said anything. */
	pair_listen(&l);
	fd = pair_connect_raw(&l);
	pair_accept(&l, keys[GOOD]);
	assert_int_equal(transport_handshake(l.server.t, &l.server.err), -EAGAIN);
	assert_int_equal(transport_poll_events(l.server.t), POLLIN);
	close(fd);
	pair_handshake(&l.server);
	assert_int_equal(l.server.result, -ECONNRESET);
	assert_string_equal(transport_reason(l.server.t), want);
	pair_close(&l);
	/* The server, after the client's first message; not read, so the client sees a reset. */
	for (int reset = 0; reset < 2; reset++) {
		struct pollfd p = {.events = POLLIN};
		char buf[4096];
		size_t n;

		pair_listen(&l);
		assert_int_equal(
			transport_connect("127.0.0.1", l.port, keys[GOOD], &c->t, &c->err), 0);
		pair_accept(&l, NULL);
		assert_int_equal(transport_handshake(l.server.t, &l.server.err), 0);
		while (transport_handshake(c->t, &c->err) == -EAGAIN &&
			transport_poll_events(c->t) != POLLIN)
			pair_poll(c->t, NULL);
		p.fd = transport_fd(l.server.t);
		assert_int_equal(poll(&p, 1, 10000), 1);
		while (!reset && transport_read(l.server.t, buf, sizeof(buf)) > 0)
			;
		l.server.t = transport_free(l.server.t);
		c->result = -EAGAIN;
		pair_handshake(c);
		assert_int_equal(c->result, -ECONNRESET);
		assert_string_equal(transport_reason(c->t), want);
		assert_true(pair_read_end(c->t, &n) < 0);
		pair_close(&l);
	}
}

/* An end without a goodbye of TLS may be an attacker's cut: not orderly. */
static void test_ends(void **state)
{
	size_t n;

	pair_open_ok(&l, "127.0.0.1", keys[GOOD], keys[GOOD]);
	pair_send(l.client.t, "last words", 10);
	transport_shutdown(l.client.t);
	assert_int_equal(pair_read_end(l.server.t, &n), 0);
	assert_int_equal(n, 10);
	pair_send(l.server.t, "answer", 6);
	shutdown(transport_fd(l.server.t), SHUT_WR);
	assert_int_equal(pair_read_end(l.client.t, &n), -ECONNRESET);
	assert_int_equal(n, 6);
	assert_string_equal(transport_reason(l.client.t), "cannot receive: the connection broke");
	transport_shutdown(l.client.t);
}

/* What is not of the session ends it. */
static void test_garbage_later(void **state)
{
	char noise[200];
	size_t n;

	pair_open_ok(&l, "127.0.0.1", keys[ALICE], keys[ALICE]);
	support_fill(noise, sizeof(noise), 1);
	send_raw(transport_fd(l.client.t), noise, sizeof(noise));
	assert_int_equal(pair_read_end(l.server.t, &n), -EPROTO);
	assert_memory_equal(transport_reason(l.server.t), "cannot receive: TLS: ", 21);
	assert_int_equal(n, 0);
	/* A whole TLS record with a wrong seal. */
	pair_close(&l);
	pair_open_ok(&l, "127.0.0.1", keys[ALICE], keys[ALICE]);
	memcpy(noise, "\x17\x03\x03\x00\x40", 5);
	send_raw(transport_fd(l.client.t), noise, 69);
	assert_int_equal(pair_read_end(l.server.t, &n), -EPROTO);
	assert_string_equal(
		transport_reason(l.server.t), "cannot receive: TLS: Decryption has failed.");
}

static void test_bad_x509_directories(void **state)
{
	char path[SUPPORT_PATH + 32], text[3 * SUPPORT_PATH];
	struct transport_security *sec = NULL;
	struct error err = {0};

	credentials_make_x509(dir, "spoilt", "ca1", CREDENTIALS_GOOD);
	snprintf(path, sizeof(path), "%s/spoilt/client-key.pem", dir);
	support_write_file(path, "nothing\n", 8);
	snprintf(text, sizeof(text), "%s/spoilt", dir);
	assert_int_equal(transport_security_load(NULL, NULL, text, &sec, &err), -EINVAL);
	snprintf(text, sizeof(text), "%s/spoilt/client-cert.pem with %s: ", dir, path);
	assert_memory_equal(err.text, text, strlen(text));
	assert_int_equal(err.kind, ERROR_CONFIG);
	unlink(path);
	snprintf(text, sizeof(text), "%s/spoilt", dir);
	assert_int_equal(transport_security_load(NULL, NULL, text, &sec, &err), -ENOENT);
	snprintf(text, sizeof(text), "cannot read %s: No such file or directory", path);
	assert_string_equal(err.text, text);
	assert_null(sec);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_exchange, close_pair),
		cmocka_unit_test_teardown(test_pending, close_pair),
		cmocka_unit_test_teardown(test_refusals, close_pair),
		cmocka_unit_test_teardown(test_second_user, close_pair),
		cmocka_unit_test_teardown(test_refused_clients, close_pair),
		cmocka_unit_test_teardown(test_garbage, close_pair),
		cmocka_unit_test_teardown(test_server_without_tls, close_pair),
		cmocka_unit_test_teardown(test_closed_in_handshake, close_pair),
		cmocka_unit_test_teardown(test_ends, close_pair),
		cmocka_unit_test_teardown(test_garbage_later, close_pair),
		cmocka_unit_test_teardown(test_bad_x509_directories, close_pair),
	};

	return cmocka_run_group_tests(tests, make_keys, free_keys);
}
