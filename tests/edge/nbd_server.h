/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One live NBD server on a Unix socket in a temporary directory, started and killed at will. */
#ifndef TANDEM_TESTS_EDGE_NBD_SERVER_H
#define TANDEM_TESTS_EDGE_NBD_SERVER_H

#include "replicator/backing.h"
#include "support.h"

struct nbd_server {
	char dir[SUPPORT_PATH];
	char path[SUPPORT_PATH]; /* of the socket */
	char uri[2 * SUPPORT_PATH];
	pid_t pid; /* 0 = not running */
};

void nbd_server_init(struct nbd_server *s);
void nbd_server_deinit(struct nbd_server *s);
/* Skips the test where the program is not installed. */
void nbd_server_start(struct nbd_server *s, const char *const *argv);
/* Kills it as a power cut would; does nothing if none runs. */
void nbd_server_stop(struct nbd_server *s);
/* A new qcow2 image. */
void nbd_server_qcow2(struct nbd_server *s, char *ret_path, size_t size, const char *bytes);
struct backing *nbd_server_open(struct nbd_server *s, bool writable);

#endif
