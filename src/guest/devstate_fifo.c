/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Device state by xen-save-devices-state into a FIFO.  QEMU stops the vCPUs, writes about 0.1 MB
 * and starts them again when it has written all; a FIFO smaller than the state holds it until
 * finish.
 *
 * Only for machines whose RAM blocks other than the guest's RAM never change while it runs: the
 * base stream holds them as they were.  Known as such by their names: what firmware and devices
 * have as ROM.  ACPI tables change at a reset only (then the base is taken anew) and while the
 * firmware first reads them, after which nobody does. */
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/devstate.h"
#include "guest/qmp.h"
#include "util/clock.h"
#include "util/fault.h"

#define FIFO_SMALL 4096
#define FIFO_MARGIN 16384    /* that much smaller than before a state may be, and still hold QEMU */
#define FIFO_LARGE (1 << 20) /* lets QEMU write all at once */

/* Whether a RAM block is one of the machine's memory backends, all of which are in the RAM file
 * (vm_check.h): it is called as that, or by its path. */
static bool devstate_is_backend(const json_t *memdevs, const char *block)
{
	const char *slash = strrchr(block, '/');
	const json_t *m;
	size_t i;

	json_array_foreach(memdevs, i, m)
	{
		const char *id = json_string_value(json_object_get(m, "id"));

		if (id && (!strcmp(id, block) || (!strncmp(block, "/objects/", 9) && slash &&
							 !strcmp(id, slash + 1))))
			return true;
	}
	return false;
}

/* A block that never changes, or is captured otherwise. */
static bool devstate_block_known(const json_t *memdevs, const char *block)
{
	static const char *const constant[] = {"pc.bios", "pc.rom", "isa-bios", "/rom@*", "*.rom"};

	for (size_t i = 0; i < sizeof(constant) / sizeof(constant[0]); i++)
		if (fnmatch(constant[i], block, 0) == 0)
			return true;
	return devstate_is_backend(memdevs, block);
}

int devstate_fifo_possible(struct rpc *q, struct error *err)
{
	char *text, *line, *save = NULL, name[256];
	json_t *memdevs;
	int r = 0;

	if (!qmp_has_command(q, "xen-save-devices-state"))
		return error_set(
			err, ERROR_STATE, -EOPNOTSUPP, "this QEMU has no xen-save-devices-state");
	r = qmp_run(q, "query-memdev", NULL, &memdevs, err);
	if (r < 0)
		return r;
	if (qmp_human(q, "info ramblock", &text, err) < 0) {
		json_decref(memdevs);
		return err ? err->code : -EIO;
	}
	for (line = strtok_r(text, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save)) {
		/* "NAME  4 KiB  0x... 0x... 0x..."; the header has no number */
		if (sscanf(line, " %255s %*u KiB 0x%*x", name) != 1 || !strstr(line, " 0x") ||
			devstate_block_known(memdevs, name))
			continue;
		r = error_set(err, ERROR_STATE, -EOPNOTSUPP,
			"the machine has other RAM that may change: %.80s", name);
		break;
	}
	free(text);
	json_decref(memdevs);
	return r;
}

/* The largest one that surely holds QEMU: it cannot go on before all but that much was taken, and
 * prepares what it can meanwhile. */
static int devstate_fifo_size(size_t expected)
{
	int size = FIFO_SMALL;

	while (size < FIFO_LARGE && 2 * (size_t)size + FIFO_MARGIN <= expected)
		size *= 2;
	return size;
}

static int devstate_fifo_open(struct devstate *d, struct error *err)
{
	struct stat st;
	int size = devstate_fifo_size(d->expected);

	if (lstat(d->path, &st) < 0 || !S_ISFIFO(st.st_mode)) {
		unlink(d->path);
		if (mkfifo(d->path, 0600) < 0)
			return error_errno(err, "device state: cannot make %s", d->path);
	}
	d->fd = open(d->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (d->fd < 0 || fcntl(d->fd, F_SETPIPE_SZ, size) < 0)
		return error_errno(err, "device state: %s", d->path);
	return 0;
}

static void devstate_fifo_close(struct devstate *d)
{
	if (d->fd >= 0)
		close(d->fd); /* a QEMU that still writes gets an error, and goes on */
	d->fd = -1;
}

/* Until QEMU has begun to write; or, where that is asked for, has said that the vCPUs stand. */
static int devstate_fifo_wait(
	struct devstate *d, bool stopped, uint64_t deadline, struct error *err)
{
	for (;;) {
		struct pollfd p[2] = {
			{.fd = d->fd, .events = POLLIN}, {.fd = d->q->lines.fd, .events = POLLIN}};
		int r = 0;

		if (poll(p, 2, QMP_COMMAND_MS) <= 0)
			return error_set(err, ERROR_TIMEOUT, -ETIMEDOUT,
				"device state: QEMU did not stop in time");
		if (p[0].revents & POLLIN)
			return 0;
		if (p[0].revents & POLLHUP) /* it failed at once: the answer tells */
			return rpc_wait(d->q, "xen-save-devices-state", d->id, deadline, NULL,
				       err) < 0
				       ? -EIO
				       : error_set(err, ERROR_GENERAL, -EPROTO,
						 "device state: QEMU wrote nothing");
		if (p[1].revents) {
			/* events, or a refusal */
			r = rpc_pump(d->q, err);
			if (r == 0 && rpc_answered(d->q, d->id))
				r = rpc_wait(
					d->q, "xen-save-devices-state", d->id, deadline, NULL, err);
		}
		if (r < 0)
			return r;
		if (stopped && rpc_has_event(d->q, "STOP", d->seen))
			return 0;
	}
}

static int devstate_fifo_begin(struct devstate *d, struct error *err)
{
	uint64_t deadline = clock_ns() + QMP_COMMAND_MS * NS_PER_MS;
	int r = devstate_fifo_open(d, err);

	d->running = true;
	d->seen = json_array_size(d->q->events);
	if (r == 0)
		r = rpc_send(d->q, "xen-save-devices-state",
			json_pack("{s:s,s:b}", "filename", d->path, "live", 0), -1, deadline,
			&d->id, err);
	if (r == 0)
		r = devstate_fifo_wait(d, true, deadline, err);
	if (r < 0)
		devstate_fifo_close(d);
	return r;
}

static int devstate_fifo_quiet(struct devstate *d, struct error *err)
{
	uint64_t deadline = clock_ns() + QMP_COMMAND_MS * NS_PER_MS;
	int r = devstate_fifo_wait(d, false, deadline, err);

	if (r < 0)
		devstate_fifo_close(d);
	return r;
}

static int devstate_fifo_finish(struct devstate *d, struct error *err)
{
	uint64_t deadline = clock_ns() + QMP_COMMAND_MS * NS_PER_MS;
	struct pollfd p = {.fd = d->fd, .events = POLLIN};
	bool gone = poll(&p, 1, 0) == 1 && (p.revents & POLLHUP);
	int r, e;

	(void)fcntl(d->fd, F_SETPIPE_SZ, FIFO_LARGE);
	r = devstate_read(&d->dev, d->fd, deadline);
	if (r < 0)
		(void)error_code(err, r, "device state: reading %s", d->path);
	if (r == 0)
		fault_point(FAULT_AGENT_STATE);
	devstate_fifo_close(d);
	e = rpc_wait(d->q, "xen-save-devices-state", d->id, deadline, NULL, r < 0 ? NULL : err);
	d->id = 0;
	if (r == 0)
		r = e;
	/* The smallest one counts: a disk controller in the middle of a transfer adds its buffer.
	 */
	if (r == 0 && d->dev.len < d->expected)
		d->expected = d->dev.len;
	if (r == 0 && gone)
		r = error_set(err, ERROR_GENERAL, -ESTALE,
			"device state: it was smaller than expected and did not hold QEMU");
	return r;
}

const struct devstate_ops devstate_fifo = {
	.begin = devstate_fifo_begin,
	.quiet = devstate_fifo_quiet,
	.finish = devstate_fifo_finish,
};
