/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The link's byte pipe: TCP, with TLS (GnuTLS, PSK or X.509) where configured.  Non-blocking, one
 * owner thread per transport; nothing here knows of records.
 *
 * TLS files are those of nbdkit and QEMU: a PSK file of "name:hexkey" lines; or a directory with
 * ca-cert.pem, server-cert.pem, server-key.pem, client-cert.pem, client-key.pem.  With X.509 both
 * sides verify the other's certificate against the CA and for its role (a client certificate is
 * required), and the connecting side that it is the one of the host it called (name or address).
 * TLS 1.2 at least.  All I/O calls return bytes, 0 or negative errno; -EAGAIN = wait for
 * transport_poll_events; reading 0 = orderly end. */
#ifndef TANDEM_REPLICATOR_TRANSPORT_H
#define TANDEM_REPLICATOR_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "util/error.h"

struct transport_security; /* loaded credentials, or none = plaintext; immutable, shared */
struct transport;
struct listener;

/* Both NULL: plaintext.  Reads and checks the files at once. */
int transport_security_load(const char *psk_file, const char *psk_user, const char *x509_dir,
	struct transport_security **ret_sec, struct error *err);
struct transport_security *transport_security_free(struct transport_security *sec);

/* Binds and listens (SO_REUSEADDR); every address that host resolves to.  loopback_only: what will
 * be spoken is clear text that must not leave this host; any other address is refused
 * (ERROR_CONFIG, -EPERM), whatever its name promised. */
int listener_new(const char *host, const char *port, bool loopback_only,
	struct listener **ret_listener, struct error *err);
struct listener *listener_free(struct listener *l);
/* File descriptors to poll for POLLIN (at most 8); returns the count. */
int listener_fds(const struct listener *l, int *fds, int max);
/* -EAGAIN when nobody is there.  The new transport is still to be handshaken. */
int listener_accept(struct listener *l, int fd, const struct transport_security *sec,
	struct transport **ret_transport, struct error *err);

/* Starts a connection without waiting (name resolution may take its time). */
int transport_connect(const char *host, const char *port, const struct transport_security *sec,
	struct transport **ret_transport, struct error *err);
struct transport *transport_free(struct transport *t);

/* Goes on with TCP connect and TLS handshake; 0 = established, -EAGAIN = poll and call again,
 * else failed, with the reason (also for an unauthenticated peer).  transport_fd may change from
 * call to call: a host can have several addresses.  There is no time limit here: a peer that says
 * nothing is for the caller to give up.
 * With TLS 1.3 the connecting side is done before the other has looked at its certificate; a
 * refusal then comes out of the first transport_read, and transport_reason tells it. */
int transport_handshake(struct transport *t, struct error *err);

int transport_fd(const struct transport *t);
/* POLLIN/POLLOUT that the last -EAGAIN of transport_handshake, or of read and of writev together,
 * waits for (a TLS read may need POLLOUT); a success of either clears its part. */
short transport_poll_events(const struct transport *t);
/* Bytes already decrypted and not read: poll would not tell of them. */
bool transport_has_pending(const struct transport *t);
const char *transport_peer(const struct transport *t); /* "10.0.0.2:41234" */
bool transport_is_tls(const struct transport *t);
/* Why the last handshake, read or write failed, in a line without the peer's name; "" = it did not.
 * After a failure the transport stays dead: reads and writes return -EIO; but what came before a
 * write failed can still be read. */
const char *transport_reason(const struct transport *t);

ssize_t transport_read(struct transport *t, void *buf, size_t len);
/* May write less than asked.  After -EAGAIN with TLS the same bytes must be offered again first
 * (more may follow them). */
ssize_t transport_writev(struct transport *t, const struct iovec *iov, int count);
/* Orderly end: TLS bye, shutdown(SHUT_WR); best effort, never blocks. */
void transport_shutdown(struct transport *t);
/* After it: throws away what has come, as it is; buf is room for that.  1 = the peer has ended its
 * direction, 0 = not yet, negative errno = lost. */
int transport_discard(struct transport *t, void *buf, size_t len);

#endif
