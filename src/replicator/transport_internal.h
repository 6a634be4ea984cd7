/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared by the parts of the transport: sockets (transport.c), TLS sessions (transport_tls.c) and
 * credentials (transport_security.c). */
#ifndef TANDEM_REPLICATOR_TRANSPORT_INTERNAL_H
#define TANDEM_REPLICATOR_TRANSPORT_INTERNAL_H

#include <gnutls/gnutls.h>
#include <netdb.h>

#include "replicator/transport.h"

/* One TLS record's plaintext at most: larger writes are sent record by record. */
#define TRANSPORT_RECORD_SIZE 16384

struct transport_psk_key {
	char *user;
	gnutls_datum_t key; /* binary */
};

struct transport_security {
	bool is_x509;
	/* PSK: the file's lines; psk_user is the one that a connecting side presents. */
	char *psk_file;
	char *psk_user;
	struct transport_psk_key *keys;
	size_t nkeys;
	/* Only those of the kind in use are set. */
	gnutls_psk_server_credentials_t psk_server;
	gnutls_psk_client_credentials_t psk_client;
	gnutls_certificate_credentials_t x509_server;
	gnutls_certificate_credentials_t x509_client;
	gnutls_priority_t priority;
};

enum transport_state {
	TRANSPORT_CONNECTING,  /* TCP connect under way; only transport_handshake may be called */
	TRANSPORT_HANDSHAKING, /* TLS handshake under way; the same */
	TRANSPORT_ESTABLISHED,
	TRANSPORT_READABLE, /* a write failed; what has come before can still be read */
	TRANSPORT_DEAD, /* failed: every call answers -EIO, or the reason of the handshake again */
};

struct transport {
	enum transport_state state;
	int fd;
	bool is_server;
	char peer[80];    /* numeric address and port */
	char reason[256]; /* of the last failure, "" if none */

	/* What the last -EAGAIN of each direction waits for; 0 after a success. */
	short read_events;
	short write_events;

	/* Connecting side: the addresses, and the one that is tried now. */
	char *host;
	char *port;
	struct addrinfo *addresses;
	struct addrinfo *address;

	/* TLS; session is NULL for plaintext. */
	const struct transport_security *security; /* not owned; outlives the transport */
	gnutls_session_t session;
	gnutls_typed_vdata_st wanted[2]; /* of the peer's certificate; the session points here */
	char unknown_user[64]; /* PSK identity that the peer presented and the file has not */
	/* Plaintext bytes of a record that GnuTLS has taken and not yet got rid of. */
	size_t record_pending;
	unsigned char record[TRANSPORT_RECORD_SIZE];
	char paced[16]; /* congestion control for a peer that is far; "" = as it is */
};

int transport_fail(struct transport *t, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Takes fd over, also when it returns NULL (out of memory). */
struct transport *transport_from_accepted(
	int fd, const struct transport_security *sec, struct error *err);

/* Makes the session of a transport with security; the socket is connected. */
int transport_tls_start(struct transport *t);
/* 0, -EAGAIN or an error with t->reason set. */
int transport_tls_handshake(struct transport *t);
ssize_t transport_tls_read(struct transport *t, void *buf, size_t len);
ssize_t transport_tls_writev(struct transport *t, const struct iovec *iov, int count);
bool transport_tls_has_pending(const struct transport *t);
void transport_tls_bye(struct transport *t);
void transport_tls_free(struct transport *t);

#endif
