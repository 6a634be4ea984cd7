/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A verify: its begin and end, and what is said of it. */
#include <errno.h>
#include <stdlib.h>

#include "replicator/grow.h"
#include "replicator/verify_internal.h"
#include "util/clock.h"

static void verify_free(struct verify *y)
{
	if (!y)
		return;
	pthread_join(y->thread, NULL);
	free(y->buf);
	free(y);
}

void verify_end(struct sender *s)
{
	struct verify *y;

	pthread_mutex_lock(&s->n->lock);
	y = s->verify;
	pthread_mutex_unlock(&s->n->lock);
	if (!y)
		return;
	pthread_join(y->thread, NULL);
	pthread_mutex_lock(&s->n->lock);
	s->verify = NULL;
	pthread_mutex_unlock(&s->n->lock);
	free(y->buf);
	free(y);
}

bool verify_running(const struct sender *s)
{
	return s->verify && s->verify->running;
}

/* (L) Why not now; NULL = it can begin. */
static const char *verify_refused(const struct node *n)
{
	if (!n->sender)
		return "only on the primary";
	if (n->sender->core.state != PRIMARY_PROTECTED || !sender_session_id(n->sender))
		return "this primary is not protected";
	if (n->handing)
		return "the role is being handed over";
	if (grow_running(n->sender))
		return "a disk is being grown; wait for its end";
	return verify_running(n->sender) ? "one is under way" : NULL;
}

int verify_start(struct node *n, bool repair, struct error *err)
{
	struct verify *y = calloc(1, sizeof(*y)), *old = NULL;
	const char *why;
	bool again;
	int r;

	if (y)
		y->buf = malloc(RECORD_MAX_PAYLOAD);
	if (!y || !y->buf) {
		free(y);
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	}
	y->guest = n->guest;
	r = n->guest ? verify_frozen_prepare(y, n, err) : 0;
	if (r < 0) {
		verify_frozen_free(y);
		free(y->buf);
		free(y);
		return r;
	}
	r = -EINVAL;
	y->repair = repair;
	y->running = true;
	y->began = clock_ns();
	pthread_mutex_lock(&n->lock);
	again = n->sender && verify_waits(n->sender);
	if (again)
		n->sender->verify->repair = repair;
	why = again ? NULL : verify_refused(n);
	if (!why && !again) {
		y->s = n->sender;
		y->session = sender_session_id(n->sender);
		for (unsigned i = 0; i < n->nvolumes; i++) {
			dirtymap_mark_all(n->maps[i], DIRTYMAP_ASKED);
			y->total += n->maps[i]->size;
		}
		old = n->sender->verify;
		r = -pthread_create(&y->thread, NULL, verify_main, y);
		n->sender->verify = r == 0 ? y : old;
	}
	pthread_mutex_unlock(&n->lock);
	if (why)
		error_set(err, ERROR_STATE, -EINVAL, "%s", why);
	else if (r < 0 && !again)
		error_code(err, r, "cannot start a thread");
	if (r < 0) {
		verify_frozen_free(y);
		free(y->buf);
		free(y);
		return again ? 0 : r;
	}
	verify_free(old);
	return 0;
}

int verify_cancel(struct node *n, struct error *err)
{
	bool runs;

	pthread_mutex_lock(&n->lock);
	runs = n->sender && verify_running(n->sender);
	if (runs) {
		n->sender->verify->cancelled = true;
		pthread_cond_broadcast(&n->sender->room);
		node_changed(n);
	}
	pthread_mutex_unlock(&n->lock);
	return runs ? 0 : error_set(err, ERROR_STATE, -EINVAL, "none is under way");
}

static uint64_t verify_rate(const struct verify *y)
{
	uint64_t ns = (y->running ? clock_ns() : y->ended) - y->began;

	return ns ? (uint64_t)((double)y->done * (double)NS_PER_S / (double)ns) : 0;
}

bool verify_progress(
	const struct sender *s, uint64_t *ret_done, uint64_t *ret_total, uint64_t *ret_rate)
{
	if (!verify_running(s))
		return false;
	*ret_done = s->verify->done;
	*ret_total = s->verify->total;
	*ret_rate = verify_rate(s->verify);
	return true;
}

json_t *verify_answer(struct node *n)
{
	json_t *ranges = json_array(), *o;
	const struct verify *y;
	uint64_t rate;

	pthread_mutex_lock(&n->lock);
	y = n->sender ? n->sender->verify : NULL;
	if (!y) {
		pthread_mutex_unlock(&n->lock);
		json_decref(ranges);
		return json_pack("{s:s}", "state", "none");
	}
	rate = verify_rate(y);
	for (unsigned i = 0; i < y->nranges; i++)
		json_array_append_new(ranges,
			json_pack("{s:s,s:I,s:I}", "disk", n->volumes[y->ranges[i].volume].name,
				"offset", (json_int_t)y->ranges[i].off, "length",
				(json_int_t)y->ranges[i].len));
	o = json_pack("{s:s,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:o,s:s}", "state",
		y->running      ? "running"
		: y->failure[0] ? "failed"
				: "done",
		"repair", y->repair, "done", (json_int_t)y->done, "total", (json_int_t)y->total,
		"rate", (json_int_t)rate, "eta",
		rate ? (json_int_t)((y->total - y->done) / rate) : (json_int_t)-1, "differ",
		(json_int_t)y->differ, "repaired", (json_int_t)y->repaired, "unsettled",
		(json_int_t)y->unsettled, "more", y->more, "ranges", ranges, "reason", y->failure);
	if (y->guest)
		json_object_set_new(o, "epoch", json_integer((json_int_t)y->epoch));
	pthread_mutex_unlock(&n->lock);
	return o;
}
