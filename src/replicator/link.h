/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Records over a transport: what both sides of the link need.  One owner thread each. */
#ifndef TANDEM_REPLICATOR_LINK_H
#define TANDEM_REPLICATOR_LINK_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/hello.h"
#include "core/record.h"
#include "replicator/transport.h"

#define LINK_IN_SIZE 16384u /* holds the longest record but WRITE: a HELLO */
#define LINK_OUT_SIZE 16384u

/* A connection with small buffers: for the hello, acknowledgements, heartbeats, goodbye. */
struct link {
	struct transport *transport; /* owned; NULL = no connection */
	uint8_t in[LINK_IN_SIZE];
	size_t in_len;
	uint64_t in_seq; /* of the next record */
	uint8_t out[LINK_OUT_SIZE];
	size_t out_at, out_len;
	uint64_t out_seq;
	uint64_t heard, said;    /* clock_ns of the last bytes */
	bool parting;            /* our direction has ended */
	int trace_in, trace_out; /* files of a recording, -1 = none */
};

void link_init(struct link *l, struct transport *t, uint64_t now);
void link_close(struct link *l);

/* Reads what is there.  0, -EAGAIN (nothing), negative errno (lost; transport_reason has the text).
 * End of the connection is -ECONNRESET. */
int link_read(struct link *l, uint64_t now);
/* The next whole record in what was read, checked; it stays valid until the next link_take.  false
 * = not yet, or *ret_why is set: protocol error. */
bool link_take(struct link *l, enum record_place place, struct record *ret_rec,
	const uint8_t **ret_payload, const char **ret_why);

/* Queues one record behind what is still to go out; false = no room (the peer does not read). */
bool link_put(struct link *l, const struct record *rec, const char *text);
/* The same with rec->payload bytes at data. */
bool link_put_data(struct link *l, const struct record *rec, const void *data);
bool link_put_hello(struct link *l, const struct hello *h);
static inline bool link_out_empty(const struct link *l)
{
	return l->out_at == l->out_len;
}
/* Sends what is queued, as far as it goes. 0, -EAGAIN or negative errno. */
int link_write(struct link *l, uint64_t now);
/* Says goodbye: queued, and as much as goes at once is sent. */
void link_goodbye(
	struct link *l, enum record_goodbye reason, uint64_t generation, const char *text);
/* After a goodbye of either side, each time that something may have come: sends what is left, ends
 * our direction, and throws away what comes.  Without it the close would find bytes that nobody has
 * read, and reset the connection: a peer that just then writes hears of the reset, and never reads
 * the goodbye.  1 = the peer has read everything and closed its side, 0 = not yet, negative errno =
 * lost. */
int link_part(struct link *l);
/* What to poll for meanwhile. */
static inline short link_part_events(const struct link *l)
{
	return l->parting ? POLLIN : POLLIN | POLLOUT;
}

/* Records what crosses the connection, when TANDEM_RECORD names a directory (docs/stream.md). */
void link_trace_start(struct link *l, const char *node);
void link_trace(int fd, const void *buf, size_t len);

#endif
