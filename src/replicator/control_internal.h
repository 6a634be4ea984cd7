/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the control server share: control.c (its life and its thread), control_client.c
 * (a connection: lines in, answers and events out). */
#ifndef TANDEM_REPLICATOR_CONTROL_INTERNAL_H
#define TANDEM_REPLICATOR_CONTROL_INTERNAL_H

#include "replicator/commands.h"
#include "replicator/control.h"
#include "replicator/events.h"
#include "replicator/wake.h"

#define CONTROL_CLIENTS 32
#define CONTROL_LINE (1u << 20)
#define CONTROL_OUT (4u << 20) /* a client that does not read is dropped beyond that */
#define CONTROL_FDS 8          /* descriptors that came and were not taken */
#define CONTROL_WAITS 16       /* answers outstanding per client */

struct control_wait {
	struct command_wait wait; /* WAIT_NONE = free */
	json_t *id;
};

struct control_client {
	int fd; /* -1 = free */
	char *in, *out;
	size_t in_len, out_len;
	bool events;
	int fds[CONTROL_FDS];
	unsigned nfds;
	int out_fd; /* to be sent with the byte out[out_fd_at]; -1 = none */
	size_t out_fd_at;
	struct control_wait waits[CONTROL_WAITS];
};

struct control {
	struct node *n;
	struct wake wake;
	pthread_t thread;
	bool started;
	_Atomic bool stopping;
	_Atomic bool watched; /* somebody waits or gets events: changes wake the thread */
	int listener;
	char path[108];
	struct control_client clients[CONTROL_CLIENTS];
	struct events news;
};

/* control_client.c.  Any of them may drop the client. */
void control_drop(struct control *ctl, struct control_client *c);
/* Takes o over, and fd (-1 = none), which goes with its first byte. */
void control_send(struct control *ctl, struct control_client *c, json_t *o, int fd);
void control_flush(struct control *ctl, struct control_client *c);
void control_read(struct control *ctl, struct control_client *c);
/* Answers what was waited for. */
void control_check_waits(struct control *ctl, struct control_client *c);

#endif
