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

#define STANDBY_LOOK_MS 50 /* for a handover */

/* The blob of the newest committed checkpoint; the caller frees it.  *ret_blob NULL: there is none.
 */
static int standby_state(
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

/* Whether the primary has ended in order, and its last checkpoint says that we are to go on. */
static bool standby_handover(struct agent *a)
{
	struct state_head h = {0};
	struct error err = {0};
	unsigned char *blob;
	const char *reason;
	bool over = false;
	json_t *s;
	size_t len;

	if (repl_run(a->repl, "query-status", NULL, &s, &err) < 0)
		return false;
	reason = json_string_value(json_object_get(s, "reason"));
	over = !json_is_true(json_object_get(json_object_get(s, "link"), "connected")) && reason &&
	       strstr(reason, "it was shut down");
	json_decref(s);
	if (!over || standby_state(a, &blob, &len, &err) < 0 || !blob)
		return false;
	over = state_head_get(&h, blob, len, &err) == 0 && h.handover;
	free(blob);
	return over;
}

int agent_standby_wait(struct agent *a, struct error *err)
{
	int r = agent_replicator(a, "secondary", err);

	while (r == 0 && !a->stop && !a->promoted) {
		r = agent_wait(a, clock_ns() + STANDBY_LOOK_MS * NS_PER_MS, err);
		if (r < 0 || a->promoted || !standby_handover(a))
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

	log_warning("the promotion was without memory: the guest boots from its disks");
	if (r == 0)
		r = agent_vm(a, NULL, err);
	return r == 0 ? vm_cont(&a->vm, err) : r;
}

int agent_standby_resume(struct agent *a, struct error *err)
{
	uint64_t began = clock_ns();
	struct state_head h;
	unsigned char *blob;
	json_t *answer;
	uint64_t epoch = 0;
	size_t len;
	int fd, r;

	fault_point(FAULT_RESUME_BEGIN);
	r = standby_state(a, &blob, &len, err);
	if (r < 0)
		return r;
	if (!blob)
		return standby_boot(a, err);
	r = repl_run(a->repl, "query-memory", NULL, &answer, err);
	if (r == 0) {
		epoch = repl_u64(answer, "epoch", NULL);
		json_decref(answer);
		fd = lines_take_fd(&repl_rpc(a->repl)->lines);
		r = fd < 0 ? error_set(err, ERROR_GENERAL, -EPROTO, "query-memory: no file came")
			   : agent_ram(a, fd, err);
	}
	if (r == 0)
		r = state_head_get(&h, blob, len, err);
	if (r == 0 && h.ram_size != a->conf->guest_memory)
		r = error_set(err, ERROR_CONFIG, -EINVAL,
			"the checkpoint is of a guest with %llu bytes of memory, [guest] memory "
			"says "
			"%llu",
			(unsigned long long)h.ram_size, (unsigned long long)a->conf->guest_memory);
	if (r == 0)
		r = agent_vm(a, h.machine, err);
	if (r == 0)
		fault_point(FAULT_RESUME_QEMU);
	if (r == 0)
		r = vm_resume(&a->vm, blob, len, err);
	free(blob);
	if (r < 0)
		return r;
	log_info("the guest goes on from checkpoint %llu, %llu ms after the promotion was seen",
		(unsigned long long)epoch, (unsigned long long)((clock_ns() - began) / NS_PER_MS));
	/* The file is QEMU's and ours now. */
	return repl_run(a->repl, "release-memory", NULL, NULL, err);
}
