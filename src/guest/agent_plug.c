/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A machine that is not what its command line says any more: somebody has plugged a device in, or
 * out (QMP, the monitor).  A checkpoint of it could not be resumed on the standby, whose QEMU has
 * the command line only, so protection ends, with the reason, until the machine is as it was.  It
 * is not where a device was plugged out and in again: its place (port, slot) is another one.
 *
 * QEMU tells nobody of a device that is plugged in, so it is asked, behind the capture of each
 * checkpoint and before that is sent: what was there when the state was saved is there then.  Costs
 * two questions to QEMU (0.1 ms), not in the pause. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "guest/agent_internal.h"
#include "guest/vm_shape.h"
#include "util/clock.h"
#include "util/log.h"

#define PLUG_LOOK_MS 1000 /* between looks while something is plugged */

static void plug_name(const char *name, const json_t *type, char *what, size_t len)
{
	const char *t = json_string_value(type);
	int end = (int)strcspn(t, ">");

	if (strchr(name, '[')) /* "device[3]": it has no id */
		snprintf(what, len, "%.*s", end, t);
	else
		snprintf(what, len, "%.*s, id \"%.64s\",", end, t, name);
}

/* What one has and the other has not. */
static bool plug_missing(json_t *list, const json_t *other, char *what, size_t len)
{
	const char *name;
	json_t *type;

	json_object_foreach(list, name, type)
	{
		if (json_equal(type, json_object_get(other, name)))
			continue;
		plug_name(name, type, what, len);
		return true;
	}
	return false;
}

void agent_plug_deleted(struct agent *a, const char *path)
{
	const char *name = path ? strrchr(path, '/') : NULL;
	const json_t *type = name ? json_object_get(a->plug, name + 1) : NULL;

	if (type && !a->plug_out[0])
		plug_name(name + 1, type, a->plug_out, sizeof(a->plug_out));
}

int agent_plug_init(struct agent *a, struct error *err)
{
	agent_plug_end(a);
	return vm_devices(&a->vm.q, &a->plug, err);
}

void agent_plug_end(struct agent *a)
{
	json_decref(a->plug);
	a->plug = NULL;
	a->plugged[0] = a->plug_out[0] = '\0';
}

int agent_plug_check(struct agent *a, struct error *err)
{
	char what[160];
	json_t *now;
	bool in;
	int r = vm_devices(&a->vm.q, &now, err);

	if (r < 0)
		return r;
	(void)agent_vm_events(a, NULL); /* what QEMU said before its answer: agent_plug_deleted */
	in = plug_missing(now, a->plug, what, sizeof(what));
	if (!in && plug_missing(a->plug, now, what, sizeof(what)))
		snprintf(a->plug_out, sizeof(a->plug_out), "%s", what);
	if (in || a->plug_out[0])
		r = error_set(err, ERROR_STATE, -EXDEV,
			"device %s was plugged %s while the guest runs: the standby's QEMU, which "
			"has [guest] qemu only, could not go on from a checkpoint",
			a->plug_out[0] ? a->plug_out : what, a->plug_out[0] ? "out" : "in");
	json_decref(now);
	return r;
}

void agent_plug_stop(struct agent *a, const struct error *err)
{
	struct error e = {0};

	if (repl_run(a->repl, "disconnect", json_pack("{s:s}", "reason", err->text), NULL, &e) < 0)
		log_warning("%s, ignoring", e.text);
	if (strcmp(a->plugged, err->text) != 0)
		log_error("protection ends: %s; it begins again when %s", err->text,
			a->plug_out[0] ? "the guest is started anew" : "it is plugged out");
	snprintf(a->plugged, sizeof(a->plugged), "%s", err->text);
	a->plug_look = clock_ns() + PLUG_LOOK_MS * NS_PER_MS;
	agent_session_lost(a);
}

/* Whether the link is closed because of us, and by nobody else since. */
static bool plug_ours(struct agent *a, struct error *err)
{
	const char *reason;
	json_t *s;
	bool ours;

	if (repl_run(a->repl, "query-status", NULL, &s, err) < 0)
		return false;
	reason = json_string_value(json_object_get(s, "reason"));
	ours = reason && !strncmp(reason, a->plugged, strlen(a->plugged));
	json_decref(s);
	return ours;
}

int agent_plug_again(struct agent *a, uint64_t *ret_until, struct error *err)
{
	struct error still = {0};
	int r;

	if (!a->plugged[0])
		return 0;
	*ret_until = a->plug_look;
	if (!a->session && clock_ns() < a->plug_look)
		return 0;
	r = agent_plug_check(a, &still);
	if (r == -EXDEV && a->session) { /* somebody has made the link again */
		agent_plug_stop(a, &still);
	} else if (r == -EXDEV) {
		a->plug_look = *ret_until = clock_ns() + PLUG_LOOK_MS * NS_PER_MS;
	} else if (r < 0) {
		*err = still;
		return r;
	} else {
		log_info("the machine is as its command line says again");
		if (plug_ours(a, err))
			r = repl_run(a->repl, "connect", NULL, NULL, err);
		a->plugged[0] = '\0';
	}
	return r == -EXDEV ? 0 : r;
}
