/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The QEMU of a standby, ahead of time: started on the replicator's RAM image and on its disks, it
 * waits for the state of whichever checkpoint is promoted (docs/guest.md).
 *
 * Invariant: it does not write to RAM before it has loaded a state (with -incoming QEMU leaves its
 * ROMs out), and the replicator takes no change of the disks from it before the promotion. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/agent_internal.h"
#include "guest/state.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/log.h"

#define AHEAD_PAUSE_MS 1000 /* after an attempt that failed; doubled up to */
#define AHEAD_PAUSE_MAX 6   /* 64 s */

void agent_ahead_init(struct agent *a)
{
	a->ready =
		(struct agent_ahead){.ram_fd = -1, .vm = {.pidfd = -1, .q = {.lines = {.fd = -1}}}};
}

void agent_ahead_end(struct agent *a)
{
	vm_end(&a->ready.vm);
	if (a->ready.ram_fd >= 0)
		close(a->ready.ram_fd);
	a->ready.ram_fd = -1;
}

bool agent_ahead_ready(const struct agent *a)
{
	return a->ready.vm.pid > 0;
}

/* One line for the first of several failures in a row. */
static void ahead_failed(struct agent *a, const char *why)
{
	struct agent_ahead *h = &a->ready;
	unsigned pause = (unsigned)min_u64(h->failures, AHEAD_PAUSE_MAX);

	agent_ahead_end(a);
	snprintf(h->why, sizeof(h->why), "%s", why);
	if (h->failures++ == 0)
		log_warning("no QEMU is ready for a promotion: %s; trying again", why);
	h->again = clock_ns() + ((uint64_t)AHEAD_PAUSE_MS << pause) * NS_PER_MS;
}

/* The machine that the newest checkpoint is of. */
static int ahead_machine(struct agent *a, struct state_head *ret_head, struct error *err)
{
	unsigned char *blob;
	size_t len;
	int r = agent_standby_state(a, &blob, &len, err);

	if (r == 0 && !blob)
		r = error_set(err, ERROR_STATE, -ENODATA, "there is no checkpoint");
	if (r < 0)
		return r;
	r = state_head_get(ret_head, blob, len, err);
	free(blob);
	return r;
}

static int ahead_start(struct agent *a, struct error *err)
{
	struct agent_ahead *h = &a->ready;
	struct state_head head;
	uint64_t ignored;
	int r = ahead_machine(a, &head, err);

	if (r == 0 && head.ram_size != a->conf->guest_memory)
		r = error_set(err, ERROR_CONFIG, -EINVAL,
			"the guest has %llu bytes of memory, [guest] memory says %llu",
			(unsigned long long)head.ram_size,
			(unsigned long long)a->conf->guest_memory);
	if (r == 0)
		r = agent_standby_memory(a, &h->ram_fd, &ignored, err);
	if (r == 0)
		r = agent_vm(a, &h->vm, h->ram_fd, head.machine, err);
	if (r == 0)
		r = vm_fits(&h->vm, &head, err);
	if (r == 0)
		log_info("QEMU is ready for a promotion: machine %s", head.machine);
	return r;
}

/* It has said nothing that matters; whether it lives. */
static bool ahead_alive(struct agent_ahead *h, char *how, size_t len)
{
	json_t *e;

	if (vm_ended(&h->vm, how, len))
		return false;
	(void)rpc_pump(&h->vm.q, NULL);
	while ((e = rpc_event(&h->vm.q)))
		json_decref(e);
	return true;
}

/* A primary that has begun anew may run another machine. */
static void ahead_doubt(struct agent *a, bool connected, uint64_t epoch)
{
	struct agent_ahead *h = &a->ready;
	struct state_head head;
	struct error err = {0};

	if (!connected && !h->doubt) {
		h->doubt = true;
		h->doubt_epoch = epoch;
	}
	if (!h->doubt || epoch <= h->doubt_epoch || ahead_machine(a, &head, &err) < 0)
		return;
	h->doubt = false;
	if (h->vm.pid > 0 && strcmp(head.machine, h->vm.machine) != 0)
		agent_ahead_end(a);
	h->again = 0; /* what has failed with the former one may not fail now */
}

void agent_ahead_look(struct agent *a, bool connected, uint64_t epoch, uint64_t disks)
{
	struct agent_ahead *h = &a->ready;
	struct error err = {0};
	char how[64], text[128];

	if (!a->conf->guest_ahead)
		return;
	if (h->vm.pid > 0 && !ahead_alive(h, how, sizeof(how))) {
		snprintf(text, sizeof(text), "it has ended: %s", how);
		ahead_failed(a, text);
	}
	ahead_doubt(a, connected, epoch);
	/* One has grown: this QEMU's connections keep the former size. */
	if (h->vm.pid > 0 && disks != h->disks)
		agent_ahead_end(a);
	h->disks = disks;
	if (h->vm.pid > 0 || epoch == 0 || clock_ns() < h->again)
		return;
	if (ahead_start(a, &err) < 0)
		ahead_failed(a, err.text);
	else {
		h->failures = 0;
		h->why[0] = '\0';
	}
}

static bool ahead_same_file(int x, int y)
{
	struct stat a, b;

	return fstat(x, &a) == 0 && fstat(y, &b) == 0 && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

bool agent_ahead_take(struct agent *a, struct vm *vm, int ram_fd, const char *machine)
{
	struct agent_ahead *h = &a->ready;
	char how[64];

	if (h->vm.pid <= 0)
		return false;
	if (!ahead_alive(h, how, sizeof(how)) || strcmp(h->vm.machine, machine) != 0 ||
		!ahead_same_file(h->ram_fd, ram_fd)) {
		agent_ahead_end(a);
		return false;
	}
	*vm = h->vm;
	h->vm = (struct vm){.pidfd = -1, .q = {.lines = {.fd = -1}}};
	agent_ahead_end(a);
	return true;
}
