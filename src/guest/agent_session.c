/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From a link to protection: all memory, rounds until little is left, the first checkpoint, then
 * one every epoch-ms, as far as the replicator keeps up: a slot must be free and the window of
 * uncommitted checkpoints open.  When they are not, the guest runs on and its epoch grows. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "guest/agent_internal.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/fault.h"
#include "util/log.h"
#include "util/units.h"

#define SESSION_CHUNK (64ull << 20) /* of a round, in one submit */
#define SESSION_SMALL (8ull << 20)  /* left for the first checkpoint */
#define SESSION_ROUNDS 30           /* then the first checkpoint takes what there is */
#define SESSION_ROUND_MS 50         /* between rounds while the disks are being synced */

void agent_session_lost(struct agent *a)
{
	if (a->phase != AGENT_SOLO)
		log_warning("the guest runs without protection: the link was lost");
	a->phase = AGENT_SOLO;
	agent_lag_end(a);
	a->session = a->disks_in_sync = a->announced = false;
	a->arm = false;
	runs_clear(&a->todo);
	a->todo_at = 0;
	if (a->verify.client)
		agent_verify_failed(a, ERROR_PEER, "the link was lost");
	/* What the replicator was reading is void; it answers what it was asked all the same. */
}

/* Takes the answers that have come, and lets go what they were about. */
static void session_answers(struct agent *a)
{
	for (int i = 0; i < AGENT_SLOTS; i++) {
		struct staging *s = &a->slots[i];
		struct error e = {0};
		int r = 0;

		if (!s->busy || (s->submit && !rpc_answered(repl_rpc(a->repl), s->submit)) ||
			(s->seal && !rpc_answered(repl_rpc(a->repl), s->seal)))
			continue;
		if (s->submit)
			r = rpc_wait(repl_rpc(a->repl), "submit", s->submit, 0, NULL, &e);
		if (s->seal) {
			int r2 = rpc_wait(
				repl_rpc(a->repl), "seal", s->seal, 0, NULL, r < 0 ? NULL : &e);

			r = r < 0 ? r : r2;
		}
		staging_reset(s);
		if (r == 0 || !a->session)
			continue;
		/* A link that is lost is told by its event, which may come after this. */
		if (e.kind != ERROR_PEER)
			log_warning("%s", e.text);
		a->doubt = true;
	}
}

struct staging *agent_slot(struct agent *a)
{
	for (int i = 0; i < AGENT_SLOTS; i++)
		if (!a->slots[i].busy)
			return &a->slots[i];
	return NULL;
}

static bool session_idle(const struct agent *a)
{
	for (int i = 0; i < AGENT_SLOTS; i++)
		if (a->slots[i].busy)
			return false;
	return true;
}

/* All memory that is there: holes of the file are zero, and what is not sent is zero. */
static int session_everything(struct agent *a)
{
	off_t end = (off_t)a->conf->guest_memory, at = 0, to;
	int r = 0;

	runs_clear(&a->todo);
	while (r == 0 && at < end) {
		at = lseek(a->track->image_fd, at, SEEK_DATA);
		if (at < 0 && errno == ENXIO)
			break;
		to = at < 0 ? -1 : lseek(a->track->image_fd, at, SEEK_HOLE);
		if (to < 0) /* no such question to this file: all of it */
			at = 0, to = end, runs_clear(&a->todo);
		at = (off_t)round_down((uint64_t)at, KERNEL_PAGE);
		to = (off_t)min_u64(round_up((uint64_t)to, KERNEL_PAGE), (uint64_t)end);
		r = runs_add(&a->todo, (uint64_t)at, (uint64_t)(to - at));
		at = to;
	}
	return r;
}

static int session_begin(struct agent *a, struct error *err)
{
	char size[32];
	int r;

	a->arm = false;
	a->head_due = true;
	a->resend = 0;
	a->rounds = 0;
	a->todo_at = 0;
	a->phase = AGENT_ROUNDS;
	runs_clear(&a->carry);
	r = track_arm(a->track, err);
	if (r == 0 && session_everything(a) < 0)
		r = error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	if (r == 0)
		log_info("bringing the secondary up to date: %s of memory, and the disks",
			units_format_size(a->todo.bytes, size, sizeof(size)));
	return r;
}

/* The next piece of todo, read by the replicator from the guest's RAM itself. */
static int session_send(struct agent *a, struct staging *s, struct error *err)
{
	struct repl_submit u = {.fds = {s->fd, a->track->image_fd}, .nfds = 2};
	uint64_t bytes = 0;
	size_t n = 0;
	struct run rest = {0};
	int e;

	staging_reset(s);
	while (a->todo_at + n < a->todo.n && bytes < SESSION_CHUNK) {
		struct run *r = &a->todo.v[a->todo_at + n];

		if (r->length > SESSION_CHUNK) { /* a part of it */
			rest = (struct run){r->offset + SESSION_CHUNK, r->length - SESSION_CHUNK};
			r->length = SESSION_CHUNK;
		}
		bytes += r->length;
		n++;
		if (rest.length)
			break;
	}
	u.runs = staging_table_direct(s, a->todo.v + a->todo_at, n, &u.table);
	a->todo_at += n;
	if (rest.length)
		a->todo.v[--a->todo_at] = rest;
	s->busy = true;
	e = repl_submit(a->repl, &u, &s->submit, err);
	fault_point(FAULT_AGENT_ROUND);
	return e;
}

/* What was dirtied since the last round becomes owed; and the next round where that pays. */
static int session_next_round(struct agent *a, uint64_t *ret_until, struct error *err)
{
	struct runs swap;
	int r;

	runs_clear(&a->pause);
	if (a->track->ops->live) {
		r = track_collect(a->track, &a->pause, err);
		if (r < 0)
			return r;
	}
	if (runs_unite(&a->scratch, &a->carry, &a->pause) < 0)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	swap = a->carry;
	a->carry = a->scratch;
	a->scratch = swap;
	if (a->disks_in_sync && (a->carry.bytes <= SESSION_SMALL || a->rounds >= SESSION_ROUNDS ||
					!a->track->ops->live))
		return 1; /* the first checkpoint */
	if (a->carry.bytes > SESSION_SMALL) {
		swap = a->todo;
		a->todo = a->carry;
		a->carry = swap;
		runs_clear(&a->carry);
		a->todo_at = 0;
		a->rounds++;
		return 0;
	}
	*ret_until = clock_ns() + SESSION_ROUND_MS * NS_PER_MS;
	return 0;
}

static int session_checkpoint(struct agent *a, struct staging *slot, struct error *err)
{
	int r = 0;

	if (a->rebase) {
		r = devstate_base(&a->ds, err);
		a->head_due = true;
		if (r < 0)
			return r;
		a->rebase = false;
	}
	a->due = false;
	a->last_began = clock_ns();
	r = checkpoint(a, slot, err);
	if (r == -ESTALE) { /* no instant of the guest: abandoned, the next one is */
		log_warning("%s; this checkpoint is left out", err->text);
		staging_reset(slot);
		r = 0;
	}
	return r;
}

static int session_rounds(struct agent *a, uint64_t *ret_until, struct error *err)
{
	struct staging *slot = agent_slot(a);
	int r;

	*ret_until = UINT64_MAX;
	if (!slot)
		return 0; /* an answer wakes us */
	if (a->todo_at < a->todo.n) {
		*ret_until = 0;
		return session_send(a, slot, err);
	}
	if (!session_idle(a))
		return 0;
	*ret_until = 0;
	r = session_next_round(a, ret_until, err);
	if (r <= 0)
		return r;
	r = session_checkpoint(a, slot, err);
	if (r == 0)
		a->phase = AGENT_CHECKPOINT;
	return r;
}

static int session_protect(struct agent *a, uint64_t *ret_until, struct error *err)
{
	uint64_t next = a->last_began + a->conf->epoch_ms * NS_PER_MS;
	struct staging *slot = agent_slot(a);

	*ret_until = UINT64_MAX;
	if (!slot || a->sealed >= a->committed + agent_lag_window(a))
		return 0; /* an answer or a commit wakes us */
	if (a->due)
		next = 0;
	*ret_until = next;
	if (clock_ns() < next)
		return 0;
	return session_checkpoint(a, slot, err);
}

int agent_session_step(struct agent *a, uint64_t *ret_until, struct error *err)
{
	int r = 0;

	*ret_until = UINT64_MAX;
	session_answers(a);
	if (a->doubt || a->look)
		r = agent_repl_catch_up(a, err);
	if (r == 0)
		r = agent_plug_again(a, ret_until, err);
	if (r < 0 || !a->session || a->plugged[0])
		return r;
	if (a->arm && session_idle(a))
		r = session_begin(a, err);
	if (r == 0 && a->phase == AGENT_ROUNDS)
		r = session_rounds(a, ret_until, err);
	else if (r == 0 && a->phase == AGENT_CHECKPOINT)
		r = session_protect(a, ret_until, err);
	return r;
}
