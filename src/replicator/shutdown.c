/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SIGTERM: cut, commit, goodbye; then the clients' connections. */
#include "replicator/shutdown.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "replicator/wake.h"
#include "util/log.h"

#define SHUTDOWN_WAIT_MS 10000
#define SHUTDOWN_MAX_FD 65536

static struct node *shutdown_node;
static struct wake shutdown_wake = {-1};
static pthread_t shutdown_thread;
static struct sigaction shutdown_old[2]; /* nbdkit's, for TERM and INT */
static atomic_bool shutdown_over;        /* nbdkit ends by itself: its clients are gone */

static void shutdown_on_signal(int sig)
{
	int saved = errno;
	const struct sigaction *old = &shutdown_old[sig == SIGTERM ? 0 : 1];

	wake_up(&shutdown_wake);
	if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN)
		old->sa_handler(sig);
	errno = saved;
}

/* The ends of the NBD socket that belong to clients: connected, bound to our path. */
static void shutdown_clients(const struct node *n)
{
	char path[512];

	node_path(n->own->run_dir, "nbd.sock", path, sizeof(path));
	for (int fd = 3; fd < SHUTDOWN_MAX_FD; fd++) {
		struct sockaddr_un a = {0}, peer;
		socklen_t len = sizeof(a), plen = sizeof(peer);

		if (getsockname(fd, (struct sockaddr *)&a, &len) < 0) {
			if (errno == EBADF && fd > 4096)
				break;
			continue;
		}
		if (a.sun_family == AF_UNIX && strcmp(a.sun_path, path) == 0 &&
			getpeername(fd, (struct sockaddr *)&peer, &plen) == 0)
			shutdown(fd, SHUT_RDWR);
	}
}

static void *shutdown_main(void *arg)
{
	struct node *n = arg;
	uint64_t v;

	(void)pthread_setname_np(pthread_self(), "tandem-stop");
	while (read(shutdown_wake.fd, &v, sizeof(v)) < 0 && errno == EINTR)
		;
	(void)sd_notify(0, "STOPPING=1");
	node_stop(n, SHUTDOWN_WAIT_MS);
	if (!atomic_load(&shutdown_over))
		shutdown_clients(n);
	node_end(n);
	return NULL;
}

int shutdown_start(struct node *n, struct error *err)
{
	struct sigaction sa = {.sa_handler = shutdown_on_signal, .sa_flags = SA_RESTART};
	int r;

	shutdown_node = n;
	shutdown_wake.fd = eventfd(0, EFD_CLOEXEC); /* blocking: its reader only waits */
	if (shutdown_wake.fd < 0)
		return error_errno(err, "cannot make an eventfd");
	r = pthread_create(&shutdown_thread, NULL, shutdown_main, n);
	if (r)
		return error_code(err, -r, "cannot start a thread");
	sigaction(SIGTERM, &sa, &shutdown_old[0]);
	sigaction(SIGINT, &sa, &shutdown_old[1]);
	return 0;
}

void shutdown_request(void)
{
	kill(getpid(), SIGTERM);
}

void shutdown_finish(void)
{
	if (shutdown_wake.fd < 0)
		return;
	atomic_store(&shutdown_over, true);
	wake_up(&shutdown_wake);
	pthread_join(shutdown_thread, NULL);
	wake_deinit(&shutdown_wake);
}
