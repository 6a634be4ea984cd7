/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem primary, tandem secondary: this process becomes nbdkit with the Tandem plugin, so that who
 * supervises it (a shell, systemd) sees the node's own exit and signals.
 *
 * The locks on STATE_DIR and RUN_DIR are taken here and go over to nbdkit: whoever holds them may
 * remove sockets that a killed node left behind, because nobody can be listening on them. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/locate.h"
#include "replicator/init.h"
#include "util/file.h"

/* The sockets of one run-dir belong to one node: those of another group would go unnoticed, and its
 * clients find our disks.  *ret_fd keeps the lock, also across exec. */
static int start_lock_run_dir(struct cli *cli, int *ret_fd, struct error *err)
{
	const char *dir = cli->node->run_dir;
	int r = file_mkdirs(dir, 0755); /* the sockets in it have modes of their own */
	int fd;

	if (r < 0)
		return error_code(err, r, "cannot create run-dir %.300s", dir);
	fd = open(dir, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return error_errno(err, "cannot open run-dir %.300s", dir);
	r = file_lock(fd);
	if (r < 0) {
		r = r == -EBUSY
			    ? error_set(err, ERROR_BUSY, -EBUSY,
				      "node %s: run-dir %.300s is in use by another node, perhaps "
				      "of another group; expected a run-dir of its own",
				      cli->node->name, dir)
			    : error_code(err, r, "cannot lock run-dir %.300s", dir);
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

/* Fills path, and removes what a node that was killed left there. */
static int start_clear_socket(struct cli *cli, const char *name, char *path, struct error *err)
{
	if (!client_socket(cli->node, name, path, err))
		return err->code;
	if (unlink(path) < 0 && errno != ENOENT)
		return error_errno(err, "cannot remove the old socket %s", path);
	return 0;
}

static int start_exec(
	struct cli *cli, const char *role, char *socket, char *plugin, struct error *err)
{
	char threads[24], config[PATH_MAX + 8], node[CONF_MAX_NAME + 8], as[24];
	char resolved[PATH_MAX];
	char *argv[] = {(char[]){"nbdkit"}, (char[]){"-f"}, (char[]){"-U"}, socket, (char[]){"-t"},
		threads, plugin, config, node, as, cli->args.guest ? (char[]){"guest=yes"} : NULL,
		NULL};

	/* absolute: what follows must not depend on the working directory */
	if (!realpath(cli->conf->path, resolved))
		return error_errno(err, "configuration %.300s", cli->conf->path);
	snprintf(threads, sizeof(threads), "%llu", (unsigned long long)cli->conf->threads);
	snprintf(config, sizeof(config), "config=%s", resolved);
	snprintf(node, sizeof(node), "node=%s", cli->node->name);
	snprintf(as, sizeof(as), "role=%s", role);
	execvp(argv[0], argv);
	(void)error_errno(err, "cannot run nbdkit");
	err->kind = ERROR_GENERAL;
	return err->code;
}

static int start_node(struct cli *cli, const char *role, struct error *err)
{
	char plugin[PATH_MAX], control[CLIENT_PATH_SIZE], nbd[CLIENT_PATH_SIZE];
	int lock, run_lock = -1, r;

	r = locate(LOCATE_PLUGIN, plugin, err);
	if (r < 0)
		return r;
	r = init_lock(cli->conf, cli->node_index, &lock, err);
	if (r < 0)
		return r;
	r = init_may_start(cli->conf, cli->node_index, strcmp(role, "primary") == 0, err);
	if (r < 0) {
		close(lock);
		return r;
	}
	r = start_lock_run_dir(cli, &run_lock, err);
	if (r == 0)
		r = start_clear_socket(cli, "control.sock", control, err);
	if (r == 0)
		r = start_clear_socket(cli, "nbd.sock", nbd, err);
	if (r == 0)
		r = start_exec(cli, role, nbd, plugin, err);
	if (run_lock >= 0)
		close(run_lock);
	close(lock);
	return r;
}

int cmd_primary(struct cli *cli, struct error *err)
{
	return start_node(cli, "primary", err);
}

int cmd_secondary(struct cli *cli, struct error *err)
{
	return start_node(cli, "secondary", err);
}
