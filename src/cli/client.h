/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Client of a node's control socket (docs/control.md): one request at a time.
 *
 * Kinds of errors: ERROR_UNREACHABLE where no node answers, or it ends the connection;
 * ERROR_TIMEOUT where it does not answer in time; ERROR_GENERAL where what it says is not the
 * protocol; else the kind that the node gave. */
#ifndef TANDEM_CLI_CLIENT_H
#define TANDEM_CLI_CLIENT_H

#include <jansson.h>

#include "cli/cli.h"

#define CLIENT_ANSWER_MS 60000 /* for commands that make something durable */
#define CLIENT_QUERY_MS 10000  /* for questions */
#define CLIENT_GRACE_MS 5000   /* beyond a time that the node watches itself */

struct client;

/* Where the node's sockets are: NAME in its run-dir; returns buf (of CLIENT_PATH_SIZE), or NULL
 * with an error of kind ERROR_CONFIG where that is longer than a socket's path may be. */
#define CLIENT_PATH_SIZE 108 /* sizeof(sun_path) */
const char *client_socket(
	const struct conf_node *node, const char *name, char *buf, struct error *err);

#define CLIENT_NODE "control.sock" /* of the replicator */
#define CLIENT_AGENT "agent.sock"  /* of the agent, where the node runs a guest */

/* Connects to the node and checks the greeting: that it is the node of this command. */
int client_connect(const struct cli *cli, struct client **ret_client, struct error *err);
int client_connect_socket(
	const struct cli *cli, const char *socket, struct client **ret_client, struct error *err);
struct client *client_free(struct client *client);

/* One request and its answer; arguments may be NULL, and is consumed.  Events that come in between
 * are dropped: the answer is newer. */
int client_execute(struct client *client, const char *command, json_t *arguments, uint64_t wait_ms,
	json_t **ret_return, struct error *err);
/* The next event until then (clock_ns()); *ret_event is NULL where none came. */
int client_wait_event(struct client *client, uint64_t until, json_t **ret_event, struct error *err);
/* Of the control interface; one that is not known is ERROR_GENERAL. */
enum error_kind client_kind(const char *name);
/* Waits until the node's process is gone. */
int client_wait_end(struct client *client, uint64_t wait_ms, struct error *err);

/* Connection, one request, end. */
int client_command(const struct cli *cli, const char *command, json_t *arguments, uint64_t wait_ms,
	json_t **ret_return, struct error *err);

#endif
