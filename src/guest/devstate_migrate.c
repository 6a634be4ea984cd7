/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Device state by a migration to a Unix socket.  QEMU writes while the caller scans and copies RAM;
 * finish takes what it has written.  Cost: stop, 0.3 MB through a socket, cont: 5-8 ms. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "guest/devstate.h"
#include "guest/qmp.h"
#include "util/clock.h"
#include "util/fault.h"

static int devstate_migrate_listen(struct devstate *d, struct error *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	memcpy(a.sun_path, d->path, strlen(d->path) + 1);
	if (fd < 0)
		return error_errno(err, "device state: socket");
	unlink(d->path);
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 1) < 0) {
		(void)error_errno(err, "device state: cannot listen on %s", d->path);
		close(fd);
		return err ? err->code : -EIO;
	}
	d->fd = fd;
	return 0;
}

static void devstate_migrate_close(struct devstate *d)
{
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
	unlink(d->path);
}

static int devstate_migrate_begin(struct devstate *d, struct error *err)
{
	uint64_t deadline = clock_ns() + QMP_COMMAND_MS * NS_PER_MS;
	char status[32];
	int r = devstate_migrate_listen(d, err);

	if (r < 0)
		return r;
	r = qmp_status(d->q, status, sizeof(status), err);
	d->running = r == 0 && !strcmp(status, "running");
	d->seen = json_array_size(d->q->events);
	d->id = 0;
	if (r == 0 && d->running)
		r = rpc_send(d->q, "stop", NULL, -1, deadline, &d->id, err);
	if (r == 0 && d->running)
		r = rpc_wait_event_or_answer(d->q, "STOP", d->seen, d->id, deadline, err);
	if (r < 0)
		devstate_migrate_close(d);
	return r;
}

static int devstate_migrate_quiet(struct devstate *d, struct error *err)
{
	uint64_t deadline = clock_ns() + QMP_COMMAND_MS * NS_PER_MS;
	char uri[sizeof(d->path) + 8];
	int r = 0;

	if (d->running)
		r = rpc_wait(d->q, "stop", d->id, deadline, NULL, err);
	strcpy(uri, "unix:");
	strcat(uri, d->path);
	if (r == 0)
		r = qmp_run(d->q, "migrate", json_pack("{s:s}", "uri", uri), NULL, err);
	if (r < 0 && d->running)
		(void)qmp_cont(d->q, NULL);
	if (r < 0)
		devstate_migrate_close(d);
	return r;
}

/* Until QEMU says that the migration is over. */
static int devstate_migrate_completed(struct devstate *d, uint64_t deadline, struct error *err)
{
	for (;;) {
		json_t *event;
		char status[32] = "";
		const char *s;
		int r = rpc_wait_event(d->q, "MIGRATION", deadline, &event, err);

		if (r < 0)
			return r;
		s = json_string_value(json_object_get(json_object_get(event, "data"), "status"));
		strncat(status, s ? s : "", sizeof(status) - 1);
		json_decref(event);
		if (!strcmp(status, "completed"))
			return 0;
		if (!strcmp(status, "failed") || !strcmp(status, "cancelled"))
			return error_set(err, ERROR_GENERAL, -EIO,
				"device state: QEMU's migration %s", status);
	}
}

static int devstate_migrate_finish(struct devstate *d, struct error *err)
{
	uint64_t deadline = clock_ns() + QMP_COMMAND_MS * NS_PER_MS;
	struct pollfd p = {.fd = d->fd, .events = POLLIN};
	int fd = -1, r = 0;

	if (poll(&p, 1, QMP_COMMAND_MS) == 1)
		fd = accept4(d->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		r = error_set(err, ERROR_TIMEOUT, -ETIMEDOUT,
			"device state: QEMU did not connect to %s", d->path);
	if (r == 0) {
		r = devstate_read(&d->dev, fd, deadline);
		if (r < 0)
			(void)error_code(err, r, "device state: reading QEMU's migration");
	}
	if (fd >= 0)
		close(fd);
	devstate_migrate_close(d);
	if (r == 0)
		r = devstate_migrate_completed(d, deadline, err);
	if (r == 0)
		fault_point(FAULT_AGENT_STATE);
	if (r == 0 && d->running)
		r = qmp_cont(d->q, err);
	return r;
}

const struct devstate_ops devstate_migrate = {
	.begin = devstate_migrate_begin,
	.quiet = devstate_migrate_quiet,
	.finish = devstate_migrate_finish,
};
