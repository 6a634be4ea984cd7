/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What both ways share: set-up, the head of the blob, reading; see devstate.h. */
#include "guest/devstate.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/qmp.h"
#include "guest/splice.h"
#include "guest/state.h"
#include "util/clock.h"

#define DEVSTATE_FIRST (2u << 20) /* room for a state before the first is known */
#define DEVSTATE_BANDWIDTH (1ll << 40)

static const struct devstate_ops *devstate_ops(const struct devstate *d)
{
	return d->way == DEVSTATE_FIFO ? &devstate_fifo : &devstate_migrate;
}

const char *devstate_name(const struct devstate *d)
{
	return d->way == DEVSTATE_FIFO ? "fifo" : "migrate";
}

int devstate_room(struct devstate_buf *b, size_t room)
{
	unsigned char *p;

	if (room <= b->room)
		return 0;
	if (room > DEVSTATE_MAX)
		return -E2BIG;
	p = realloc(b->p, room);
	if (!p)
		return -ENOMEM;
	b->p = p;
	b->room = room;
	return 0;
}

int devstate_read(struct devstate_buf *b, int fd, uint64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	for (;;) {
		uint64_t now = clock_ns();
		ssize_t n;
		int r = b->len == b->room ? devstate_room(b, 2 * b->room) : 0;

		if (r < 0)
			return r;
		if (poll(&p, 1, now < deadline ? (int)((deadline - now) / NS_PER_MS) + 1 : 0) == 0)
			return -ETIMEDOUT;
		n = read(fd, b->p + b->len, b->room - b->len);
		if (n > 0)
			b->len += (size_t)n;
		else if (n == 0)
			return 0;
		else if (errno != EAGAIN && errno != EINTR)
			return -errno;
	}
}

/* Migration as both ways need it: shared RAM left out, events, no limit of its speed. */
static int devstate_prepare(struct rpc *q, struct error *err)
{
	int r = qmp_run(q, "migrate-set-capabilities",
		json_pack("{s:[{s:s,s:b},{s:s,s:b}]}", "capabilities", "capability",
			"x-ignore-shared", "state", 1, "capability", "events", "state", 1),
		NULL, err);

	if (r == 0)
		r = qmp_run(q, "migrate-set-parameters",
			json_pack("{s:I}", "max-bandwidth", (json_int_t)DEVSTATE_BANDWIDTH), NULL,
			err);
	return r;
}

int devstate_init(struct devstate *d, enum devstate_way way, struct rpc *q, const char *run_dir,
	uint64_t ram_size, const char *machine, struct error *err)
{
	struct error why = {0};
	int r;

	*d = (struct devstate){.way = way, .q = q, .fd = -1, .ram_size = ram_size};
	snprintf(d->machine, sizeof(d->machine), "%s", machine);
	if (snprintf(d->path, sizeof(d->path), "%s/qemu-state", run_dir) >= (int)sizeof(d->path))
		return error_set(err, ERROR_CONFIG, -ENAMETOOLONG,
			"run-dir %.200s is too long for a socket", run_dir);
	r = devstate_prepare(q, err);
	if (r == 0)
		r = vm_shape(q, &d->shape, err);
	if (r < 0)
		return r;
	if (devstate_room(&d->head, DEVSTATE_FIRST) < 0 ||
		devstate_room(&d->dev, DEVSTATE_FIRST) < 0) {
		devstate_deinit(d);
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	}
	if (way == DEVSTATE_MIGRATE)
		return 0;
	r = devstate_fifo_possible(q, &why);
	d->way = r == 0 ? DEVSTATE_FIFO : DEVSTATE_MIGRATE;
	snprintf(d->why, sizeof(d->why), "%.*s", (int)sizeof(d->why) - 1, why.text);
	if (r < 0 && way == DEVSTATE_FIFO) {
		devstate_deinit(d);
		return error_set(err, ERROR_STATE, r, "capture = fifo: %s", why.text);
	}
	return 0;
}

void devstate_deinit(struct devstate *d)
{
	if (d->fd >= 0)
		close(d->fd);
	if (d->path[0])
		unlink(d->path);
	free(d->head.p);
	free(d->dev.p);
	*d = (struct devstate){.fd = -1};
}

int devstate_begin(struct devstate *d, struct error *err)
{
	d->dev.len = 0;
	return devstate_ops(d)->begin(d, err);
}

/* After a failure: the vCPUs run again, if QEMU still answers. */
static int devstate_over(struct devstate *d, int r)
{
	if (r < 0 && d->running)
		(void)qmp_cont(d->q, NULL);
	return r;
}

int devstate_quiet(struct devstate *d, struct error *err)
{
	return devstate_ops(d)->quiet(d, err);
}

int devstate_finish(struct devstate *d, struct error *err)
{
	return devstate_over(d, devstate_ops(d)->finish(d, err));
}

/* One capture by the other way: its bytes in d->dev. */
static int devstate_capture(struct devstate *d, const struct devstate_ops *ops, struct error *err)
{
	int r;

	d->dev.len = 0;
	r = ops->begin(d, err);
	if (r == 0)
		r = ops->quiet(d, err);
	return r == 0 ? devstate_over(d, ops->finish(d, err)) : r;
}

void devstate_handover(struct devstate *d, bool handover)
{
	struct state_head h = {.ram_size = d->ram_size,
		.spliced = d->way == DEVSTATE_FIFO,
		.handover = handover,
		.base_len = d->base_len,
		.shape = d->shape};

	snprintf(h.machine, sizeof(h.machine), "%s", d->machine);
	state_head_put(&h, d->head.p + DEVSTATE_HEAD, d->head.p);
}

int devstate_base(struct devstate *d, struct error *err)
{
	size_t base = 0;
	int r;

	d->head.len = DEVSTATE_HEAD;
	if (d->way == DEVSTATE_FIFO) {
		r = devstate_capture(d, &devstate_migrate, err);
		if (r == 0)
			r = devstate_room(&d->head, DEVSTATE_HEAD + d->dev.len);
		if (r < 0)
			return r;
		memcpy(d->head.p + DEVSTATE_HEAD, d->dev.p, d->dev.len);
		base = d->dev.len;
		d->expected = 0;
		r = devstate_capture(d, &devstate_fifo, err);
		if (r < 0)
			return r;
		d->expected = d->dev.len;
		if (splice_base(d->head.p + DEVSTATE_HEAD, base, d->dev.p, d->dev.len, &base) < 0)
			return error_set(err, ERROR_GENERAL, -EPROTO,
				"device state: QEMU's saved state does not fit its migration "
				"stream: "
				"use capture = migrate");
		d->head.len += base;
	}
	d->base_len = base;
	devstate_handover(d, false);
	return 0;
}
