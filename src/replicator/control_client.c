/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A connection of the control server: lines and descriptors in, answers, also those that wait, and
 * events out. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "replicator/control_internal.h"

void control_drop(struct control *ctl, struct control_client *c)
{
	for (unsigned i = 0; i < CONTROL_WAITS; i++)
		if (c->waits[i].wait.kind != WAIT_NONE)
			json_decref(c->waits[i].id);
	for (unsigned i = 0; i < CONTROL_WAITS; i++)
		command_wait_drop(ctl->n, &c->waits[i].wait);
	command_client_gone(ctl->n, c);
	while (c->nfds)
		close(c->fds[--c->nfds]);
	if (c->out_fd >= 0)
		close(c->out_fd);
	close(c->fd);
	free(c->in);
	free(c->out);
	memset(c, 0, sizeof(*c));
	c->fd = c->out_fd = -1;
}

/* One call; a descriptor goes with the first byte of its answer. */
static ssize_t control_write(struct control_client *c)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} u = {0};
	struct iovec iov = {c->out, c->out_len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (c->out_fd >= 0 && c->out_fd_at > 0)
		iov.iov_len = c->out_fd_at;
	if (c->out_fd >= 0 && c->out_fd_at == 0) {
		msg.msg_control = u.buf;
		msg.msg_controllen = sizeof(u.buf);
		*CMSG_FIRSTHDR(&msg) = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)),
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &c->out_fd, sizeof(int));
	}
	n = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n > 0 && msg.msg_control) {
		close(c->out_fd);
		c->out_fd = -1;
	} else if (n > 0 && c->out_fd >= 0) {
		c->out_fd_at -= (size_t)n;
	}
	return n;
}

void control_flush(struct control *ctl, struct control_client *c)
{
	while (c->out_len > 0) {
		ssize_t n = control_write(c);

		if (n < 0) {
			if (errno != EAGAIN && errno != EINTR)
				control_drop(ctl, c);
			return;
		}
		c->out_len -= (size_t)n;
		memmove(c->out, c->out + n, c->out_len);
	}
}

/* Takes o, and fd if it is not -1. */
void control_send(struct control *ctl, struct control_client *c, json_t *o, int fd)
{
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) : 0;
	char *p;

	json_decref(o);
	if (c->fd < 0 || !text) {
		free(text);
		if (fd >= 0)
			close(fd);
		return;
	}
	if (fd >= 0 && c->out_fd >= 0) { /* it asks for more than it takes */
		close(fd);
		free(text);
		control_drop(ctl, c);
		return;
	}
	if (fd >= 0) {
		c->out_fd = fd;
		c->out_fd_at = c->out_len;
	}
	p = c->out_len + len + 1 > CONTROL_OUT ? NULL : realloc(c->out, c->out_len + len + 1);
	if (!p) {
		free(text);
		control_drop(ctl, c);
		return;
	}
	c->out = p;
	memcpy(p + c->out_len, text, len);
	p[c->out_len + len] = '\n';
	c->out_len += len + 1;
	free(text);
	control_flush(ctl, c);
}

/* Takes answer and fd; id may be NULL and is not taken. */
static void control_answer(struct control *ctl, struct control_client *c, json_t *id, int r,
	json_t *answer, int fd, const struct error *err)
{
	json_t *o = json_object();

	if (r < 0)
		json_object_set_new(o, "error",
			json_pack("{s:s,s:s}", "kind", command_kind_name(err->kind), "desc",
				err->text));
	else
		json_object_set_new(o, "return", answer);
	if (id)
		json_object_set(o, "id", id);
	control_send(ctl, c, o, fd);
}

static void control_remember(
	struct control *ctl, struct control_client *c, struct command_wait *w, json_t *id)
{
	struct error err;

	for (unsigned i = 0; i < CONTROL_WAITS; i++) {
		if (c->waits[i].wait.kind != WAIT_NONE)
			continue;
		c->waits[i].wait = *w;
		c->waits[i].id = json_incref(id);
		return;
	}
	error_set(&err, ERROR_USAGE, -EBUSY, "too many requests wait on this connection");
	command_wait_drop(ctl->n, w);
	control_answer(ctl, c, id, -EBUSY, NULL, -1, &err);
}

/* The descriptors that a request takes: the oldest that came. */
static void control_take_fds(struct control_client *c, const char *name, struct command_call *call)
{
	unsigned n = command_takes_fds(name);

	for (unsigned i = 0; i < n && c->nfds; i++) {
		call->fds[i] = c->fds[0];
		memmove(c->fds, c->fds + 1, --c->nfds * sizeof(c->fds[0]));
	}
}

static void control_line(
	struct control *ctl, struct control_client *c, const char *line, size_t len)
{
	struct command_call call = {.n = ctl->n, .client = c, .fds = {-1, -1}, .answer_fd = -1};
	struct error err = {0};
	json_t *request, *id, *answer = NULL, *name;
	const char *key;
	json_t *value;
	json_error_t je;
	int r = 0;

	request = json_loadb(line, len, JSON_REJECT_DUPLICATES, &je);
	id = json_object_get(request, "id");
	name = json_object_get(request, "execute");
	call.arguments = json_object_get(request, "arguments");
	if (!request)
		r = error_set(&err, ERROR_USAGE, -EINVAL, "this is not JSON: %s", je.text);
	else if (!json_is_string(name))
		r = error_set(&err, ERROR_USAGE, -EINVAL, "\"execute\" is missing");
	else if (call.arguments && !json_is_object(call.arguments))
		r = error_set(&err, ERROR_USAGE, -EINVAL, "\"arguments\" is not an object");
	json_object_foreach(request, key, value) if (r == 0 && strcmp(key, "execute") != 0 &&
						     strcmp(key, "arguments") != 0 &&
						     strcmp(key, "id") != 0) r =
		error_set(&err, ERROR_USAGE, -EINVAL, "unknown member \"%.64s\"", key);
	control_take_fds(c, json_string_value(name), &call);
	if (r == 0)
		r = command_execute(json_string_value(name), &call, &answer, &err);
	for (unsigned i = 0; i < 2; i++)
		if (call.fds[i] >= 0)
			close(call.fds[i]);
	if (r == 0 && call.wait.kind != WAIT_NONE)
		control_remember(ctl, c, &call.wait, id);
	else
		control_answer(ctl, c, id, r, answer, call.answer_fd, &err);
	if (call.events_set && c->fd >= 0)
		c->events = call.events;
	json_decref(request);
}

/* As recv; descriptors go to the client's list.  -EMSGSIZE: too many. */
static ssize_t control_recv(struct control_client *c)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(CONTROL_FDS * sizeof(int))];
	} u;
	struct iovec iov = {c->in + c->in_len, CONTROL_LINE - c->in_len};
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = u.buf,
		.msg_controllen = sizeof(u.buf)};
	ssize_t n = recvmsg(c->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	bool over = n >= 0 && (msg.msg_flags & MSG_CTRUNC);

	if (n < 0)
		return -errno;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&msg); h; h = CMSG_NXTHDR(&msg, h)) {
		size_t count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(int));
			if (c->nfds < CONTROL_FDS) {
				c->fds[c->nfds++] = fd;
			} else {
				close(fd);
				over = true;
			}
		}
	}
	return over ? -EMSGSIZE : n;
}

void control_read(struct control *ctl, struct control_client *c)
{
	char *nl;
	ssize_t n;

	if (!c->in)
		c->in = malloc(CONTROL_LINE);
	if (!c->in || c->in_len == CONTROL_LINE) {
		control_drop(ctl, c);
		return;
	}
	n = control_recv(c);
	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n <= 0) {
		control_drop(ctl, c);
		return;
	}
	c->in_len += (size_t)n;
	while (c->fd >= 0 && (nl = memchr(c->in, '\n', c->in_len))) {
		size_t len = (size_t)(nl - c->in);

		control_line(ctl, c, c->in, len);
		if (c->fd < 0)
			return;
		c->in_len -= len + 1;
		memmove(c->in, nl + 1, c->in_len);
	}
}

void control_check_waits(struct control *ctl, struct control_client *c)
{
	for (unsigned i = 0; c->fd >= 0 && i < CONTROL_WAITS; i++) {
		struct control_wait *w = &c->waits[i];
		json_t *answer = NULL, *id = w->id;
		struct error err;
		int r;

		if (w->wait.kind == WAIT_NONE)
			continue;
		r = command_wait_over(ctl->n, &w->wait, &answer, &err);
		if (r == 0)
			continue;
		w->wait.kind = WAIT_NONE;
		control_answer(ctl, c, id, r, answer, -1, &err);
		json_decref(id);
	}
}
