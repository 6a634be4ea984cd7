/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One checkpoint: announced, pages copied ahead, vCPUs stopped, scan begun, devices quiet, cut,
 * scan, copy, device state, on; then, while the guest runs, the table of pages, submit and seal.
 *
 * Nothing in the pause allocates (the lists of runs keep their room) or waits for the network: it
 * waits for QEMU, and for the replicator's answer to the cut, which is one short lock there.
 *
 * Invariant: pages that the tracking has reported are in a submitted checkpoint or in a->carry. */
#include <errno.h>
#include <string.h>

#include "core/memcheck.h"
#include "guest/agent_internal.h"
#include "guest/qmp.h"
#include "util/clock.h"
#include "util/fault.h"
#include "util/log.h"

#define CHECKPOINT_AHEAD 256 /* pages of the last one from which copying ahead pays */

/* What was taken from the tracking stays owed. */
void checkpoint_owe(struct agent *a, const struct runs *more)
{
	struct runs u = a->scratch;

	if (runs_unite(&u, &a->carry, more) < 0) {
		/* no memory for a list: then everything is owed */
		runs_clear(&u);
		(void)runs_add(&u, 0, a->conf->guest_memory);
	}
	a->scratch = a->carry;
	a->carry = u;
}

/* Ahead of the stop: what is owed, and what is dirty by now where the tracking allows to ask a
 * running guest. */
static int checkpoint_ahead(
	struct agent *a, struct staging *s, uint64_t *ret_data, struct error *err)
{
	int r = 0;

	runs_clear(&a->ahead);
	runs_clear(&a->pause);
	if (a->track->ops->live && a->last_pages >= CHECKPOINT_AHEAD)
		r = track_collect(a->track, &a->pause, err);
	if (r == 0 && runs_unite(&a->ahead, &a->carry, &a->pause) < 0)
		r = error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	checkpoint_owe(a, &a->pause);
	if (r == 0)
		*ret_data = staging_copy(s, a->track->image, &a->ahead, NULL);
	return r;
}

/* In the pause: the vCPUs stand, then the devices too.  The scan has begun in between. */
static int checkpoint_stop(struct agent *a, struct error *err)
{
	int r = devstate_begin(&a->ds, err);

	if (r < 0)
		return r;
	track_early(a->track);
	r = devstate_quiet(&a->ds, err);
	if (r == 0)
		return 0;
	runs_clear(&a->pause);
	(void)track_final(a->track, &a->pause, NULL);
	checkpoint_owe(a, &a->pause);
	return r;
}

/* In the pause: cut, scan, copy.  Not before all is quiet: a write whose completion the guest will
 * see in its memory belongs before the cut. */
static int checkpoint_stopped(struct agent *a, struct staging *s, struct checkpoint_times *t,
	uint64_t *ret_data, uint64_t *ret_epoch, struct error *err)
{
	uint64_t began = clock_ns(), now;
	json_int_t id;
	json_t *answer;
	int r, e;

	r = rpc_send(
		repl_rpc(a->repl), "cut", NULL, -1, began + REPL_COMMAND_MS * NS_PER_MS, &id, err);
	if (r < 0)
		return r;
	fault_point(FAULT_AGENT_CUT_SENT);
	runs_clear(&a->pause);
	e = track_final(a->track, &a->pause, err);
	fault_point(FAULT_AGENT_SCAN);
	now = clock_ns();
	t->scan = now - began;
	began = now;
	if (e == 0)
		*ret_data = staging_copy(s, a->track->image, &a->pause, a->crew);
	if (e == 0)
		fault_point(FAULT_AGENT_COPY);
	if (e == 0)
		e = agent_verify_memory(a, err);
	now = clock_ns();
	t->copy = now - began;
	began = now;
	r = rpc_wait(repl_rpc(a->repl), "cut", id, began + REPL_COMMAND_MS * NS_PER_MS, &answer,
		e < 0 ? NULL : err);
	t->cut = clock_ns() - began;
	if (r < 0)
		return e < 0 ? e : r;
	*ret_epoch = repl_u64(answer, "epoch", NULL);
	agent_verify_cut(a, answer);
	json_decref(answer);
	fault_point(FAULT_AGENT_CUT);
	return e;
}

/* The guest runs again: what was copied goes to the replicator. */
static int checkpoint_send(struct agent *a, struct staging *s, uint64_t ahead_data,
	uint64_t pause_data, uint64_t epoch, struct error *err)
{
	struct repl_submit u = {.epoch = epoch, .fds = {s->fd}, .nfds = 1};
	int r;

	u.runs = staging_table(s, &a->ahead, ahead_data, &a->pause, pause_data, &u.table);
	u.state_data = s->used;
	if (a->head_due)
		(void)staging_bytes(s, a->ds.head.p, a->ds.head.len);
	else
		u.state_offset = a->ds.head.len;
	(void)staging_bytes(s, a->ds.dev.p, a->ds.dev.len);
	u.state_bytes = s->used - u.state_data;
	u.digests = agent_verify_state(a);
	u.digest_data =
		u.digests ? staging_bytes(s, a->verify.digests, u.digests * MEMCHECK_DIGEST) : 0;
	s->busy = true;
	s->epoch = epoch;
	r = repl_submit(a->repl, &u, &s->submit, err);
	if (r == 0)
		fault_point(FAULT_AGENT_SUBMIT);
	if (r == 0)
		r = rpc_send(repl_rpc(a->repl), "seal",
			json_pack("{s:I}", "epoch", (json_int_t)epoch), -1,
			clock_ns() + REPL_COMMAND_MS * NS_PER_MS, &s->seal, err);
	if (r == 0)
		fault_point(FAULT_AGENT_SEAL);
	return r;
}

/* Between checkpoint-begin and cut nothing of the guest's flushes may wait for us any longer. */
static void checkpoint_abandon(struct agent *a, uint64_t epoch)
{
	json_t *arguments = epoch ? json_pack("{s:I}", "epoch", (json_int_t)epoch) : NULL;
	struct error err = {0};

	if (repl_run(a->repl, "abandon", arguments, NULL, &err) < 0)
		log_warning("%s, ignoring", err.text);
}

static void checkpoint_note(struct agent *a, const struct checkpoint_times *t)
{
	a->samples[a->checkpoints++ % AGENT_SAMPLES] = *t;
	a->last_pages = t->pages + t->ahead;
}

int checkpoint(struct agent *a, struct staging *s, struct error *err)
{
	uint64_t ahead_data = 0, pause_data = 0, epoch = 0, began, mark, stood;
	struct checkpoint_times t = {0};
	int r, e;

	staging_reset(s);
	agent_verify_arm(a);
	agent_verify_resend(a);
	r = repl_run(a->repl, "checkpoint-begin", NULL, NULL, err);
	if (r < 0)
		return r;
	fault_point(FAULT_AGENT_BEGIN);
	r = checkpoint_ahead(a, s, &ahead_data, err);
	throttle_hold(a->throttle);
	began = clock_ns();
	if (r == 0)
		r = checkpoint_stop(a, err);
	if (r < 0) {
		throttle_release(a->throttle);
		agent_verify_sent(a, 0);
		checkpoint_abandon(a, 0);
		return r;
	}
	stood = mark = clock_ns();
	t.stop = mark - began;
	fault_point(FAULT_AGENT_STOP);
	r = checkpoint_stopped(a, s, &t, &pause_data, &epoch, err);
	mark = clock_ns();
	e = devstate_finish(&a->ds, r < 0 ? NULL : err);
	t.state = clock_ns() - mark;
	fault_point(FAULT_AGENT_CONT);
	t.pause = clock_ns() - began;
	if (r == 0)
		r = e;
	t.pages = a->pause.bytes / KERNEL_PAGE;
	t.ahead = a->ahead.bytes / KERNEL_PAGE;
	if (r == 0)
		r = agent_plug_check(a, err);
	throttle_release(a->throttle); /* QEMU is asked nothing more */
	if (r == 0)
		r = checkpoint_send(a, s, ahead_data, pause_data, epoch, err);
	if (r < 0) {
		agent_verify_sent(a, 0);
		checkpoint_owe(a, &a->pause);
		if (r != -EPIPE)
			checkpoint_abandon(a, epoch);
		return r;
	}
	runs_clear(&a->carry);
	a->head_due = false;
	a->sealed = epoch;
	agent_lag_made(a, epoch, stood);
	agent_verify_sent(a, epoch);
	checkpoint_note(a, &t);
	return 0;
}
