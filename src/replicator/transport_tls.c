/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The TLS half of the transport: one GnuTLS session over the non-blocking socket.
 *
 * Invariant: plaintext bytes count as written only when GnuTLS has put the whole record into the
 * socket; until then record_pending says how many of the caller's next bytes it holds already. */
#include <arpa/inet.h>
#include <errno.h>
#include <gnutls/x509.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>

#include "replicator/transport_internal.h"

static bool transport_tls_is_address(const char *host)
{
	unsigned char buf[sizeof(struct in6_addr)];

	return inet_pton(AF_INET, host, buf) == 1 || inet_pton(AF_INET6, host, buf) == 1;
}

/* Who the peer must be: our CA's, for the role it plays, and for a server the host we called. */
static void transport_tls_verify(struct transport *t)
{
	const char *purpose = t->is_server ? GNUTLS_KP_TLS_WWW_CLIENT : GNUTLS_KP_TLS_WWW_SERVER;

	/* An address is compared with the certificate's address entries, a name with its names. */
	t->wanted[0] = (gnutls_typed_vdata_st){
		.type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (unsigned char *)purpose};
	t->wanted[1] = (gnutls_typed_vdata_st){
		.type = GNUTLS_DT_DNS_HOSTNAME, .data = (unsigned char *)t->host};
	gnutls_session_set_verify_cert2(t->session, t->wanted, t->is_server ? 1 : 2, 0);
}

int transport_tls_start(struct transport *t)
{
	const struct transport_security *sec = t->security;
	unsigned flags = (t->is_server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK |
			 GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS;
	int r = gnutls_init(&t->session, flags);

	if (r < 0) {
		t->session = NULL;
		return transport_fail(t, -ENOMEM, "TLS: %s", gnutls_strerror(r));
	}
	gnutls_session_set_ptr(t->session, t);
	gnutls_transport_set_int(t->session, t->fd);
	gnutls_handshake_set_timeout(t->session, GNUTLS_INDEFINITE_TIMEOUT);
	r = gnutls_priority_set(t->session, sec->priority);
	if (r == 0 && sec->is_x509) {
		r = gnutls_credentials_set(t->session, GNUTLS_CRD_CERTIFICATE,
			t->is_server ? sec->x509_server : sec->x509_client);
		if (t->is_server)
			gnutls_certificate_server_set_request(t->session, GNUTLS_CERT_REQUIRE);
		else if (r == 0 && !transport_tls_is_address(t->host))
			r = gnutls_server_name_set(
				t->session, GNUTLS_NAME_DNS, t->host, strlen(t->host));
		transport_tls_verify(t);
	} else if (r == 0) {
		r = gnutls_credentials_set(t->session, GNUTLS_CRD_PSK,
			t->is_server ? (void *)sec->psk_server : (void *)sec->psk_client);
	}
	if (r < 0)
		return transport_fail(t, -EINVAL, "TLS: %s", gnutls_strerror(r));
	return 0;
}

static short transport_tls_direction(const struct transport *t)
{
	return gnutls_record_get_direction(t->session) ? POLLOUT : POLLIN;
}

/* What verification found, as one line. */
static int transport_tls_fail_certificate(struct transport *t)
{
	unsigned status = gnutls_session_get_verify_cert_status(t->session);
	bool other = !t->is_server && (status & GNUTLS_CERT_UNEXPECTED_OWNER);
	gnutls_datum_t text;
	size_t len;
	int r;

	if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) < 0)
		return transport_fail(t, -EACCES, "TLS: the peer's certificate is not valid");
	len = strlen((char *)text.data);
	while (len > 0 && text.data[len - 1] == ' ')
		text.data[--len] = '\0';
	r = transport_fail(t, -EACCES, "TLS: %.160s%s%.60s%s", (char *)text.data,
		other ? " (expected: " : "", other ? t->host : "", other ? ")" : "");
	gnutls_free(text.data);
	return r;
}

/* The reason of a failed handshake, in the words of someone who set this up. */
static int transport_tls_fail_handshake(struct transport *t, int e)
{
	const char *text = gnutls_strerror(e);
	bool psk_server = t->is_server && !t->security->is_x509;

	switch (e) {
	case GNUTLS_E_FATAL_ALERT_RECEIVED:
		return transport_fail(t, -EACCES, "TLS: refused by the peer (alert \"%s\")%s",
			gnutls_alert_get_name(gnutls_alert_get(t->session)),
			t->security->is_x509 ? "" : ": other PSK user or key?");
	case GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR:
	case GNUTLS_E_CERTIFICATE_ERROR:
		return transport_tls_fail_certificate(t);
	case GNUTLS_E_CERTIFICATE_REQUIRED:
	case GNUTLS_E_NO_CERTIFICATE_FOUND:
		return transport_fail(t, -EACCES, "TLS: the peer has shown no certificate");
	case GNUTLS_E_INSUFFICIENT_CREDENTIALS:
	case GNUTLS_E_NO_CIPHER_SUITES:
		return transport_fail(t, -EACCES,
			"TLS: nothing in common with the peer: "
			"is one side with PSK and the other with X.509?");
	case GNUTLS_E_PREMATURE_TERMINATION:
	case GNUTLS_E_PULL_ERROR:
	case GNUTLS_E_PUSH_ERROR:
		return transport_fail(t, -ECONNRESET,
			"TLS: the peer closed the connection in the handshake: "
			"is it without TLS?");
	case GNUTLS_E_UNEXPECTED_PACKET:
	case GNUTLS_E_UNEXPECTED_PACKET_LENGTH:
	case GNUTLS_E_UNSUPPORTED_VERSION_PACKET:
	case GNUTLS_E_RECORD_OVERFLOW:
		return transport_fail(
			t, -EPROTO, "TLS: what the peer sends is not TLS 1.2 or newer (%s)", text);
	}
	if (psk_server && t->unknown_user[0])
		return transport_fail(t, -EACCES, "TLS: unknown PSK user \"%s\"", t->unknown_user);
	if (psk_server && (e == GNUTLS_E_RECEIVED_ILLEGAL_PARAMETER ||
				  e == GNUTLS_E_DECRYPTION_FAILED || e == GNUTLS_E_BAD_COOKIE))
		return transport_fail(t, -EACCES, "TLS: the peer's PSK key is not ours");
	return transport_fail(t, -EPROTO, "TLS: handshake failed: %s", text);
}

int transport_tls_handshake(struct transport *t)
{
	int r;

	do
		r = gnutls_handshake(t->session);
	while (r == GNUTLS_E_INTERRUPTED || r == GNUTLS_E_WARNING_ALERT_RECEIVED);
	t->read_events = t->write_events = 0;
	if (r == 0)
		return 0;
	if (r == GNUTLS_E_AGAIN) {
		t->read_events = transport_tls_direction(t);
		return -EAGAIN;
	}
	/* Tells the peer why, if the socket takes it at once. */
	if (r != GNUTLS_E_FATAL_ALERT_RECEIVED)
		(void)gnutls_alert_send_appropriate(t->session, r);
	return transport_tls_fail_handshake(t, r);
}

static ssize_t transport_tls_fail_io(struct transport *t, ssize_t e, const char *action)
{
	switch (e) {
	case GNUTLS_E_FATAL_ALERT_RECEIVED:
		return transport_fail(t, -EACCES, "TLS: refused by the peer (alert \"%s\")",
			gnutls_alert_get_name(gnutls_alert_get(t->session)));
	case GNUTLS_E_PREMATURE_TERMINATION:
	case GNUTLS_E_PULL_ERROR:
	case GNUTLS_E_PUSH_ERROR:
		return transport_fail(t, -ECONNRESET, "%s: the connection broke", action);
	}
	return transport_fail(t, -EPROTO, "%s: TLS: %s", action, gnutls_strerror((int)e));
}

ssize_t transport_tls_read(struct transport *t, void *buf, size_t len)
{
	ssize_t n;

	do
		n = gnutls_record_recv(t->session, buf, len);
	while (n == GNUTLS_E_INTERRUPTED || n == GNUTLS_E_WARNING_ALERT_RECEIVED);
	t->read_events = 0;
	if (n >= 0)
		return n;
	if (n == GNUTLS_E_AGAIN) {
		t->read_events = transport_tls_direction(t);
		return -EAGAIN;
	}
	return transport_tls_fail_io(t, n, "cannot receive");
}

/* The next record's bytes: from the caller's buffer where one holds a whole record, else gathered.
 * skip bytes of the vector are done already. */
static size_t transport_tls_gather(
	struct transport *t, const struct iovec *iov, int count, size_t skip, const void **ret_data)
{
	size_t n = 0;

	for (int i = 0; i < count && n < TRANSPORT_RECORD_SIZE; i++) {
		const unsigned char *p = iov[i].iov_base;
		size_t len = iov[i].iov_len;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		p += skip;
		len -= skip;
		skip = 0;
		if (n == 0 && (len >= TRANSPORT_RECORD_SIZE || i == count - 1)) {
			*ret_data = p;
			return len < TRANSPORT_RECORD_SIZE ? len : TRANSPORT_RECORD_SIZE;
		}
		if (len > TRANSPORT_RECORD_SIZE - n)
			len = TRANSPORT_RECORD_SIZE - n;
		memcpy(t->record + n, p, len);
		n += len;
	}
	*ret_data = t->record;
	return n;
}

ssize_t transport_tls_writev(struct transport *t, const struct iovec *iov, int count)
{
	size_t done = 0;

	t->write_events = 0;
	for (;;) {
		const void *data = NULL;
		size_t len;
		ssize_t n;

		if (t->record_pending > 0) {
			len = t->record_pending;
			do
				n = gnutls_record_send(t->session, NULL, 0);
			while (n == GNUTLS_E_INTERRUPTED);
		} else {
			len = transport_tls_gather(t, iov, count, done, &data);
			if (len == 0)
				return (ssize_t)done;
			do
				n = gnutls_record_send(t->session, data, len);
			while (n == GNUTLS_E_INTERRUPTED);
		}
		if (n == GNUTLS_E_AGAIN) {
			t->record_pending = len;
			t->write_events = POLLOUT;
			return done > 0 ? (ssize_t)done : -EAGAIN;
		}
		if (n < 0)
			return transport_tls_fail_io(t, n, "cannot send");
		t->record_pending = 0;
		done += (size_t)n; /* less than len where the peer takes smaller records only */
	}
}

bool transport_tls_has_pending(const struct transport *t)
{
	return gnutls_record_check_pending(t->session) > 0;
}

void transport_tls_bye(struct transport *t)
{
	(void)gnutls_bye(t->session, GNUTLS_SHUT_WR);
}

void transport_tls_free(struct transport *t)
{
	if (t->session)
		gnutls_deinit(t->session);
	t->session = NULL;
}
