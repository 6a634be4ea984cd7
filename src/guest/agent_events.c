/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What QEMU and the replicator say, turned into the agent's fields; nothing is decided here. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "guest/agent_internal.h"
#include "guest/qmp.h"
#include "util/log.h"

static void repl_session(struct agent *a, bool connected)
{
	if (a->session || !connected)
		agent_session_lost(a);
	a->session = connected;
	a->arm = connected;
}

static void repl_committed(struct agent *a, uint64_t epoch)
{
	if (epoch <= a->committed)
		return;
	a->committed = epoch;
	agent_lag_committed(a, epoch);
	if (a->phase != AGENT_CHECKPOINT || a->announced || epoch + AGENT_WINDOW < a->sealed)
		return;
	a->announced = true;
	log_info("the guest is protected: checkpoint %llu is committed on the secondary",
		(unsigned long long)epoch);
}

static void repl_event(struct agent *a, const json_t *event)
{
	const char *name = json_string_value(json_object_get(event, "event"));
	const json_t *data = json_object_get(event, "data");
	const char *role, *reason;

	if (!name)
		return;
	if (!strcmp(name, "SESSION")) {
		if (!json_is_true(json_object_get(data, "connected")))
			repl_session(a, false);
		a->look = true; /* its number tells whether it is a new one */
	} else if (!strcmp(name, "DISKS_IN_SYNC")) {
		a->disks_in_sync = true;
	} else if (!strcmp(name, "CHECKPOINT_DUE")) {
		a->due = true;
	} else if (!strcmp(name, "EPOCH_COMMITTED")) {
		repl_committed(a, repl_u64(data, "epoch", NULL));
	} else if (!strcmp(name, "CHECKPOINT_COMPARED")) {
		agent_verify_compared(a, data);
	} else if (!strcmp(name, "STATE")) {
		role = json_string_value(json_object_get(data, "role"));
		reason = json_string_value(json_object_get(data, "reason"));
		a->look |= !strcmp(a->role, "secondary"); /* has the primary ended? */
		a->superseded |= reason && !strncmp(reason, "superseded", 10);
		if (role && !strcmp(role, "primary") && !strcmp(a->role, "secondary"))
			a->promoted = true;
	}
}

int agent_repl_events(struct agent *a, struct error *err)
{
	int r = rpc_pump(repl_rpc(a->repl), err);
	json_t *e;

	while ((e = rpc_event(repl_rpc(a->repl)))) {
		repl_event(a, e);
		a->heard = true;
		json_decref(e);
	}
	return r;
}

int agent_repl_catch_up(struct agent *a, struct error *err)
{
	json_t *s, *c;
	uint64_t number;
	const char *role;
	bool connected, doubt = a->doubt;
	int r = repl_run(a->repl, "query-status", NULL, &s, err);

	if (r < 0)
		return r;
	a->doubt = a->look = false;
	c = json_object_get(s, "checkpoint");
	role = json_string_value(json_object_get(s, "role"));
	if (role && !strcmp(role, "primary") && !strcmp(a->role, "secondary"))
		a->promoted = true;
	number = repl_u64(c, "session", NULL);
	connected = number > 0 &&
		    json_is_true(json_object_get(json_object_get(s, "link"), "connected"));
	a->committed = repl_u64(s, "epoch", "committed");
	if (doubt && connected && number == a->session_number) {
		/* The same session, and something of it was refused: nothing less than a new one is
		 * right. */
		log_warning("the replicator refused a checkpoint: beginning anew");
		r = repl_run(a->repl, "connect", json_pack("{s:I}", "session", (json_int_t)number),
			NULL, err);
		connected = false;
	}
	if (connected != a->session || number != a->session_number)
		repl_session(a, connected);
	a->session_number = number;
	a->disks_in_sync |= connected && json_is_true(json_object_get(c, "disks-in-sync"));
	json_decref(s);
	return r;
}

static void vm_event(struct agent *a, const json_t *event)
{
	const char *name = json_string_value(json_object_get(event, "event"));
	const json_t *data = json_object_get(event, "data");
	const char *reason = json_string_value(json_object_get(data, "reason"));

	if (!name)
		return;
	if (!strcmp(name, "SHUTDOWN")) {
		a->ended = true;
		snprintf(a->how, sizeof(a->how), "%s",
			!reason                             ? "it was shut down"
			: !strcmp(reason, "guest-shutdown") ? "it powered off"
			: !strcmp(reason, "guest-reset") ? "it was reset, and QEMU has -no-reboot"
			: !strcmp(reason, "guest-panic") ? "it panicked"
							 : reason);
	} else if (!strcmp(name, "RESET")) {
		log_info("the guest was reset");
		a->rebase = true;
	} else if (!strcmp(name, "DEVICE_DELETED")) {
		agent_plug_deleted(a, json_string_value(json_object_get(data, "path")));
	} else if (!strcmp(name, "GUEST_PANICKED")) {
		log_error("the guest has panicked");
		a->ended = true;
		snprintf(a->how, sizeof(a->how), "it panicked");
	} else if (!strcmp(name, "BLOCK_IO_ERROR")) {
		log_warning("QEMU: an I/O error on disk %s",
			json_string_value(json_object_get(data, "node-name")));
	}
}

int agent_vm_events(struct agent *a, struct error *err)
{
	int r = rpc_pump(&a->vm.q, err);
	json_t *e;

	while ((e = rpc_event(&a->vm.q))) {
		vm_event(a, e);
		a->heard = true;
		json_decref(e);
	}
	return r;
}
