/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The control server: its socket, its thread, whom events go to. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "replicator/control_internal.h"
#include "replicator/promote.h"
#include "util/clock.h"
#include "util/log.h"

static void control_event(void *ctx, const char *name, json_t *data)
{
	struct control *ctl = ctx;

	for (unsigned i = 0; i < CONTROL_CLIENTS; i++)
		if (ctl->clients[i].fd >= 0 && ctl->clients[i].events)
			control_send(ctl, &ctl->clients[i],
				json_pack("{s:s,s:O}", "event", name, "data", data), -1);
	json_decref(data);
}

static void control_accept(struct control *ctl)
{
	int fd = accept4(ctl->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++) {
		if (ctl->clients[i].fd >= 0)
			continue;
		ctl->clients[i].fd = fd;
		control_send(ctl, &ctl->clients[i],
			json_pack("{s:{s:s,s:i,s:s,s:s}}", "tandem", "version", TANDEM_VERSION,
				"control", 1, "group", ctl->n->conf->group, "node",
				ctl->n->own->name),
			-1);
		return;
	}
	close(fd); /* the limit of connections */
}

/* Poll slots: wake, listener, clients. */
static bool control_poll(struct control *ctl, struct pollfd *fds)
{
	bool watched = false, was;

	fds[0] = (struct pollfd){.fd = ctl->wake.fd, .events = POLLIN};
	fds[1] = (struct pollfd){.fd = ctl->listener, .events = POLLIN};
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++) {
		struct control_client *c = &ctl->clients[i];

		fds[2 + i] = (struct pollfd){
			.fd = c->fd, .events = (short)(POLLIN | (c->out_len ? POLLOUT : 0))};
		watched |= c->fd >= 0 && c->events;
		for (unsigned w = 0; w < CONTROL_WAITS; w++)
			watched |= c->waits[w].wait.kind != WAIT_NONE;
	}
	/* What happened just before somebody began to watch woke nobody: look once more. */
	was = atomic_exchange(&ctl->watched, watched);
	(void)poll(fds, 2 + CONTROL_CLIENTS, watched && !was ? 0 : watched ? 100 : 1000);
	if (fds[0].revents)
		wake_clear(&ctl->wake);
	return watched;
}

/* The primary has handed over (switchover.c), at an epoch that is committed here. */
static void control_promote(struct control *ctl)
{
	struct node *n = ctl->n;
	struct promotion p;
	struct error err;
	bool due;

	pthread_mutex_lock(&n->lock);
	due = n->taking_over;
	n->taking_over = false;
	pthread_mutex_unlock(&n->lock);
	if (!due)
		return;
	log_info("the primary hands its role over");
	if (promote(n, true, false, &p, &err) < 0)
		log_error("cannot take over: %s", err.text);
}

static void *control_main(void *arg)
{
	struct pollfd fds[2 + CONTROL_CLIENTS];
	struct control *ctl = arg;

	(void)pthread_setname_np(pthread_self(), "tandem-control");
	while (!atomic_load(&ctl->stopping)) {
		bool watched = control_poll(ctl, fds);

		control_promote(ctl);
		if (fds[1].revents)
			control_accept(ctl);
		for (unsigned i = 0; i < CONTROL_CLIENTS; i++) {
			struct control_client *c = &ctl->clients[i];

			if (c->fd >= 0 && fds[2 + i].fd == c->fd && fds[2 + i].revents & POLLOUT)
				control_flush(ctl, c);
			if (c->fd >= 0 && fds[2 + i].fd == c->fd &&
				fds[2 + i].revents & (POLLIN | POLLHUP | POLLERR))
				control_read(ctl, c);
			control_check_waits(ctl, c);
		}
		if (watched)
			events_look(&ctl->news);
		else
			events_skip(&ctl->news);
	}
	return NULL;
}

int control_new(struct node *n, struct control **ret_control, struct error *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct control *ctl = calloc(1, sizeof(*ctl));
	char path[512];
	int r;

	if (!ctl)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	ctl->n = n;
	ctl->news = (struct events){.n = n, .say = control_event, .ctx = ctl};
	ctl->listener = ctl->wake.fd = -1;
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++)
		ctl->clients[i].fd = ctl->clients[i].out_fd = -1;
	node_path(n->own->run_dir, "control.sock", path, sizeof(path));
	if (strlen(path) + 1 >= sizeof(a.sun_path)) {
		free(ctl);
		return error_set(err, ERROR_CONFIG, -ENAMETOOLONG,
			"control socket: the path %.200s is too long", path);
	}
	/* Under another name until it listens: who sees the socket can connect to it. */
	memcpy(ctl->path, path, strlen(path) + 1);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s~", ctl->path);
	r = wake_init(&ctl->wake);
	ctl->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* of a node that was killed; the node's lock says that none runs */
	unlink(path);
	unlink(a.sun_path);
	if (r < 0 || ctl->listener < 0 ||
		bind(ctl->listener, (struct sockaddr *)&a, sizeof(a)) < 0 ||
		chmod(a.sun_path, 0600) < 0 || listen(ctl->listener, CONTROL_CLIENTS) < 0 ||
		rename(a.sun_path, path) < 0) {
		r = error_errno(err, "control socket: cannot listen on %.200s", path);
		control_free(ctl);
		return r;
	}
	r = pthread_create(&ctl->thread, NULL, control_main, ctl);
	if (r) {
		control_free(ctl);
		return error_code(err, -r, "control: cannot start a thread");
	}
	ctl->started = true;
	*ret_control = ctl;
	return 0;
}

struct control *control_free(struct control *ctl)
{
	if (!ctl)
		return NULL;
	atomic_store(&ctl->stopping, true);
	wake_up(&ctl->wake);
	if (ctl->started)
		pthread_join(ctl->thread, NULL);
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++)
		if (ctl->clients[i].fd >= 0)
			control_drop(ctl, &ctl->clients[i]);
	if (ctl->listener >= 0) {
		close(ctl->listener);
		unlink(ctl->path);
	}
	wake_deinit(&ctl->wake);
	free(ctl);
	return NULL;
}

void control_wake(struct control *ctl)
{
	if (atomic_load_explicit(&ctl->watched, memory_order_relaxed))
		wake_up(&ctl->wake);
}

void control_take_over(struct control *ctl)
{
	wake_up(&ctl->wake);
}
