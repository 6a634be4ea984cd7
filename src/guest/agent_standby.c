/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The standby's side: its replicator holds the RAM image, the device state and the disks at the
 * last committed checkpoint; a promotion (or the primary's handover) makes QEMU go on from there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/agent_internal.h"
#include "guest/state.h"
#include "util/clock.h"
#include "util/fault.h"
#include "util/file.h"
#include "util/log.h"

#define STANDBY_LOOK_MS 200 /* at the QEMU that waits, without an event */

int agent_standby_state(
	struct agent *a, unsigned char **ret_blob, size_t *ret_len, struct error *err)
{
	struct stat st;
	json_t *answer;
	int fd, r;

	*ret_blob = NULL;
	r = repl_run(a->repl, "query-state", NULL, &answer, err);
	if (r == -EREMOTEIO && err->kind == ERROR_STATE)
		return 0;
	if (r < 0)
		return r;
	*ret_len = repl_u64(answer, "bytes", NULL);
	json_decref(answer);
	fd = lines_take_fd(&repl_rpc(a->repl)->lines);
	if (fd < 0 || fstat(fd, &st) < 0 || (uint64_t)st.st_size < *ret_len || *ret_len == 0) {
		r = error_set(err, ERROR_GENERAL, -EPROTO, "query-state: no state came along");
	} else {
		*ret_blob = malloc(*ret_len);
		r = *ret_blob ? file_pread(fd, *ret_blob, *ret_len, 0) : -ENOMEM;
		if (r < 0) {
			(void)error_code(err, r, "query-state");
			free(*ret_blob);
			*ret_blob = NULL;
		}
	}
	if (fd >= 0)
		close(fd);
	return r;
}

int agent_standby_memory(struct agent *a, int *ret_fd, uint64_t *ret_epoch, struct error *err)
{
	json_t *answer;
	int fd, r = repl_run(a->repl, "query-memory", NULL, &answer, err);

	if (r < 0)
		return r;
	*ret_epoch = repl_u64(answer, "epoch", NULL);
	json_decref(answer);
	fd = lines_take_fd(&repl_rpc(a->repl)->lines);
	if (fd < 0)
		return error_set(err, ERROR_GENERAL, -EPROTO, "query-memory: no file came");
	*ret_fd = fd;
	return 0;
}

/* Whether its last checkpoint says that we are to go on. */
static bool standby_handover(struct agent *a)
{
	struct state_head h = {0};
	struct error err = {0};
	unsigned char *blob;
	bool over;
	size_t len;

	if (agent_standby_state(a, &blob, &len, &err) < 0 || !blob)
		return false;
	over = state_head_get(&h, blob, len, &err) == 0 && h.handover;
	free(blob);
	return over;
}

static uint64_t standby_disks(const json_t *status)
{
	const json_t *disk;
	const char *name;
	uint64_t sum = 0;

	json_object_foreach(json_object_get(status, "disks"), name, disk) sum +=
		(uint64_t)json_integer_value(json_object_get(disk, "size"));
	return sum;
}

/* Whether the primary has ended in order, and has handed the guest over.  Otherwise QEMU is made
 * ready for the day. */
static bool standby_look(struct agent *a)
{
	struct error err = {0};
	const char *reason;
	bool connected, over;
	uint64_t epoch, disks;
	json_t *s;

	if (repl_run(a->repl, "query-status", NULL, &s, &err) < 0)
		return false;
	reason = json_string_value(json_object_get(s, "reason"));
	connected = json_is_true(json_object_get(json_object_get(s, "link"), "connected"));
	over = !connected && reason && strstr(reason, "it was shut down");
	epoch = repl_u64(s, "checkpoint", "memory-epoch");
	disks = standby_disks(s);
	json_decref(s);
	if (over && standby_handover(a))
		return true;
	agent_ahead_look(a, connected, epoch, disks);
	/* The primary is told; the replicator keeps it, and passes on what has changed. */
	(void)repl_run(
		a->repl, "standby-state", json_pack("{s:s}", "unready", a->ready.why), NULL, &err);
	return false;
}

int agent_standby_wait(struct agent *a, struct error *err)
{
	int r = agent_replicator(a, "secondary", err);
	uint64_t next = 0;

	while (r == 0 && !a->stop && !a->promoted) {
		r = agent_wait(a, next, err);
		if (r < 0 || a->stop || a->promoted || (!a->look && clock_ns() < next))
			continue;
		a->look = false;
		next = clock_ns() + STANDBY_LOOK_MS * NS_PER_MS;
		if (!standby_look(a))
			continue;
		log_info("the primary has handed the guest over");
		r = repl_run(a->repl, "promote", NULL, NULL, err);
		a->promoted = r == 0;
	}
	return r;
}

/* Memory was not there: the guest starts from its disks, as after a power cut. */
static int standby_boot(struct agent *a, struct error *err)
{
	int r = agent_ram(a, -1, err);

	agent_ahead_end(a);
	log_warning("the promotion was without memory: the guest boots from its disks");
	if (r == 0)
		r = agent_vm(a, &a->vm, a->ram_fd, NULL, err);
	return r == 0 ? vm_cont(&a->vm, err) : r;
}

/* QEMU with the state loaded: the one that waits, or, where that fails, another one. No vCPU has
 * run before this returns 0. */
static int standby_load(struct agent *a, const char *machine, const unsigned char *blob, size_t len,
	struct error *err)
{
	struct error first = {0};
	int r;

	if (agent_ahead_take(a, &a->vm, a->ram_fd, machine)) {
		fault_point(FAULT_RESUME_QEMU);
		if (vm_load(&a->vm, blob, len, &first) == 0)
			return 0;
		log_warning("the QEMU that was ready: %s; starting another one", first.text);
		vm_end(&a->vm);
	}
	r = agent_vm(a, &a->vm, a->ram_fd, machine, err);
	if (r < 0)
		return r;
	fault_point(FAULT_RESUME_QEMU);
	return vm_load(&a->vm, blob, len, err);
}

int agent_standby_resume(struct agent *a, struct error *err)
{
	uint64_t began = clock_ns();
	struct state_head h;
	unsigned char *blob;
	uint64_t epoch = 0;
	size_t len;
	int fd, r;

	fault_point(FAULT_RESUME_BEGIN);
	r = agent_standby_state(a, &blob, &len, err);
	if (r < 0)
		return r;
	if (!blob)
		return standby_boot(a, err);
	r = agent_standby_memory(a, &fd, &epoch, err);
	if (r == 0)
		r = agent_ram(a, fd, err);
	if (r == 0)
		r = state_head_get(&h, blob, len, err);
	if (r == 0 && h.ram_size != a->conf->guest_memory)
		r = error_set(err, ERROR_CONFIG, -EINVAL,
			"the checkpoint is of a guest with %llu bytes of memory, [guest] memory "
			"says "
			"%llu",
			(unsigned long long)h.ram_size, (unsigned long long)a->conf->guest_memory);
	if (r == 0)
		r = standby_load(a, h.machine, blob, len, err);
	if (r == 0)
		r = vm_cont(&a->vm, err);
	if (r == 0)
		fault_point(FAULT_RESUME_CONT);
	free(blob);
	if (r < 0)
		return r;
	log_info("the guest goes on from checkpoint %llu, %llu ms after the promotion was seen",
		(unsigned long long)epoch, (unsigned long long)((clock_ns() - began) / NS_PER_MS));
	/* The file is QEMU's and ours now. */
	return repl_run(a->repl, "release-memory", NULL, NULL, err);
}
