/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Two transports over loopback in one thread, both non-blocking, moved on by poll alone: what hangs
 * here would hang in the replicator. */
#ifndef TANDEM_TESTS_EDGE_PAIR_H
#define TANDEM_TESTS_EDGE_PAIR_H

#include "replicator/transport.h"
#include "support.h"

struct pair_end {
	struct transport *t;
	int result; /* of the handshake: -EAGAIN while it goes on */
	struct error err;
};

struct pair {
	struct listener *listener;
	char port[16];
	struct pair_end client, server;
};

/* A listener on 127.0.0.1 with a port of its own. */
void pair_listen(struct pair *l);
/* The transport of a connection that is known to be coming. */
void pair_accept(struct pair *l, const struct transport_security *sec);
/* A plain socket connected to the listener, for peers that misbehave. */
int pair_connect_raw(struct pair *l);

/* Connects (to host, which must be a name of 127.0.0.1) and goes on until both ends have a result.
 */
void pair_open(struct pair *l, const char *host, const struct transport_security *client,
	const struct transport_security *server);
/* pair_open that must succeed. */
void pair_open_ok(struct pair *l, const char *host, const struct transport_security *client,
	const struct transport_security *server);
/* The handshake of one end until it has a result. */
void pair_handshake(struct pair_end *e);
/* Frees both ends and the listener. */
void pair_close(struct pair *l);

/* Waits until one of the ends can go on; ends that are NULL are left out. */
void pair_poll(struct transport *a, struct transport *b);
/* Reads until an error or the end, which it returns, after *ret_bytes bytes. */
ssize_t pair_read_end(struct transport *t, size_t *ret_bytes);
void pair_send(struct transport *t, const void *data, size_t len);
void pair_receive(struct transport *t, void *data, size_t len);

/* Moves to_server and to_client bytes at the same time, in pieces of all sizes, and compares. */
void pair_exchange(struct pair *l, size_t to_server, size_t to_client, uint64_t seed);

#endif
