/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A planned move: the guest stops, its last checkpoint says so and is committed, the primary ends
 * in order, and the standby goes on.  Whoever sees less than that does not: without the commit's
 * acknowledgement the guest goes on here, and without the orderly end of the primary the standby
 * waits for an operator. */
#include <errno.h>

#include "guest/agent_internal.h"
#include "guest/qmp.h"
#include "util/clock.h"
#include "util/log.h"

#define SWITCHOVER_MS 10000

/* Until all that was sealed is committed, and no slot is in use. */
static int switchover_drain(struct agent *a, struct error *err)
{
	uint64_t end = clock_ns() + SWITCHOVER_MS * NS_PER_MS, ignored;
	int r = 0;

	while (r == 0 && (a->committed < a->sealed || !agent_slot(a))) {
		if (!a->session)
			return error_set(err, ERROR_PEER, -EPIPE, "switchover: the link was lost");
		if (clock_ns() >= end)
			return error_set(err, ERROR_TIMEOUT, -ETIMEDOUT,
				"switchover: the secondary has not committed in time");
		r = agent_wait(a, end, err);
		a->last_began =
			clock_ns() + SWITCHOVER_MS * NS_PER_MS; /* no checkpoint of its own */
		a->due = false;
		if (r == 0)
			r = agent_session_step(a, &ignored, err);
	}
	return r;
}

/* Whether the standby has said that its QEMU cannot take the guest. */
static int switchover_ask(struct agent *a, struct error *err)
{
	const char *why;
	json_t *s;
	int r = repl_run(a->repl, "query-status", NULL, &s, err);

	if (r < 0)
		return r;
	why = json_string_value(json_object_get(json_object_get(s, "checkpoint"), "unready"));
	if (why && why[0])
		r = error_set(err, ERROR_STATE, -EBUSY,
			"switchover: the standby has no QEMU that could take the guest: %s", why);
	json_decref(s);
	return r;
}

static int switchover_try(struct agent *a, struct error *err)
{
	struct staging *slot;
	int r;

	if (a->phase != AGENT_CHECKPOINT || !a->announced)
		return error_set(err, ERROR_STATE, -EBUSY,
			"switchover: the guest is not protected: there is no standby to go on");
	r = switchover_ask(a, err);
	if (r == 0)
		r = switchover_drain(a, err);
	if (r == 0)
		r = qmp_run(&a->vm.q, "stop", NULL, NULL, err);
	if (r < 0)
		return r;
	devstate_handover(&a->ds, true);
	a->head_due = true;
	slot = agent_slot(a);
	r = checkpoint(a, slot, err);
	if (r == 0)
		r = switchover_drain(a, err);
	return r;
}

int agent_switchover(struct agent *a, struct error *err)
{
	struct agent_client *client = a->switchover;
	struct error why = {0};
	int r = switchover_try(a, &why);

	a->switchover = NULL;
	if (r == 0) {
		log_info("switchover: checkpoint %llu is committed; the other node goes on",
			(unsigned long long)a->sealed);
		a->switching = true;
		vm_kill(&a->vm); /* to wait for its end would be part of the guest's pause */
	} else {
		/* The standby goes on only after our orderly end, which does not come. */
		log_error("%s", why.text);
		devstate_handover(&a->ds, false);
		a->head_due = true;
		if (a->phase != AGENT_SOLO || a->vm.pid > 0)
			r = qmp_run(&a->vm.q, "cont", NULL, NULL, err);
		agent_server_answer(client, -1, &why);
		return r;
	}
	agent_server_answer(client, 0, NULL);
	return 0;
}
