/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A planned move of the role, of a group of disks: changes are held -> those under way end -> last
 * cut -> its commit -> goodbye "handover" -> the other node promotes itself and says so -> this one
 * is superseded and ends.
 *
 * Until the goodbye stands in the stream everything can be taken back: the held changes go on here.
 * After it this node writes no more, whether an answer comes or not (sender_handed_blindly): never
 * do both serve.  A change that is held was not acknowledged, and is refused in the end.
 * Runs in the control thread, which looks at it after each commit; nothing here waits. */
#include <errno.h>

#include "core/primary.h"
#include "replicator/commands.h"
#include "replicator/grow.h"
#include "replicator/sender.h"
#include "replicator/sender_internal.h"
#include "replicator/shutdown.h"
#include "replicator/verify.h"
#include "util/clock.h"

#define SWITCHOVER_TIMEOUT_MS 30000
#define SWITCHOVER_MAX_MS 86400000

/* (L) */
static void switchover_take_back(struct node *n)
{
	if (n->sender && n->sender->handed)
		return;
	n->handing = false;
	node_changed(n);
}

int command_switchover(struct command_call *c, json_t **ret, struct error *err)
{
	json_t *timeout = json_object_get(c->arguments, "timeout-ms");
	json_int_t ms = timeout ? json_integer_value(timeout) : SWITCHOVER_TIMEOUT_MS;
	struct node *n = c->n;
	int r = 0;

	if (ms < 0 || ms > SWITCHOVER_MAX_MS)
		return error_set(err, ERROR_USAGE, -ERANGE, "switchover: timeout-ms is 0 to %d",
			SWITCHOVER_MAX_MS);
	pthread_mutex_lock(&n->lock);
	if (n->guest)
		r = error_set(err, ERROR_STATE, -ENOTSUP,
			"switchover: this node has a guest: its controller moves it");
	else if (n->role != NODE_PRIMARY || !n->sender)
		r = error_set(err, ERROR_STATE, -EINVAL,
			"switchover: this node is the secondary; it is the primary that hands "
			"over");
	else if (n->handing || n->stopping)
		r = error_set(err, ERROR_STATE, -EALREADY, "switchover: it %s already",
			n->handing ? "hands over" : "ends");
	else if (!sender_session_id(n->sender) ||
		 sender_core(n->sender)->state != PRIMARY_PROTECTED)
		r = error_set(err, ERROR_STATE, -ENOTCONN,
			"switchover: the group is not protected: %s",
			sender_replicating(n->sender) ? "the secondary is being brought up to date"
						      : n->reason);
	else if (verify_running(n->sender))
		r = error_set(err, ERROR_STATE, -EBUSY,
			"switchover: tandem verify is under way; wait for its end");
	else if (grow_running(n->sender))
		r = error_set(err, ERROR_STATE, -EBUSY,
			"switchover: a disk is being grown; wait for its end");
	if (r == 0) {
		n->handing = true;
		c->wait.kind = WAIT_SWITCHOVER;
		c->wait.session = sender_session_id(n->sender);
		c->wait.epoch = 0;
		c->wait.deadline = clock_ns() + (uint64_t)ms * NS_PER_MS;
	}
	pthread_mutex_unlock(&n->lock);
	return r;
}

/* (L) 0: goes on; negative: lost, or late. */
static int switchover_step(struct node *n, struct command_wait *w, struct error *err)
{
	const struct primary *core = sender_core(n->sender);
	uint64_t changing = 0;

	if (n->stopping || sender_session_id(n->sender) != w->session ||
		core->state != PRIMARY_PROTECTED)
		return error_set(err, ERROR_PEER, -ECONNRESET,
			"switchover: the link was lost before the last commit; nothing has moved");
	if (clock_ns() >= w->deadline)
		return error_set(err, ERROR_TIMEOUT, -ETIMEDOUT,
			"switchover: the last epoch was not committed in time; nothing has moved");
	for (unsigned i = 0; i < n->nvolumes; i++)
		changing += n->volumes[i].changing;
	if (changing)
		return 0;
	/* Nothing changes any more.  Somebody else may have cut meanwhile: his epoch is the last.
	 */
	if (!w->epoch && sender_cut(n->sender, &w->epoch) < 0)
		w->epoch = 0;
	else if (w->epoch && core->open - 1 > w->epoch)
		w->epoch = core->open - 1;
	if (w->epoch && core->committed >= w->epoch)
		(void)sender_hand_over(n->sender, w->epoch); /* no room: at the next look */
	return 0;
}

int switchover_over(struct node *n, struct command_wait *w, json_t **ret, struct error *err)
{
	bool over = false;
	int r = 0;

	pthread_mutex_lock(&n->lock);
	if (!n->sender->handed) {
		r = switchover_step(n, w, err);
		if (r < 0)
			switchover_take_back(n);
	} else if (sender_core(n->sender)->state == PRIMARY_FAILED) {
		over = n->sender->promoted;
		if (!over)
			r = error_set(err, ERROR_PEER, -ECONNRESET, "switchover: %s", n->reason);
	}
	pthread_mutex_unlock(&n->lock);
	if (!over)
		return r;
	*ret = json_pack("{s:I}", "epoch", (json_int_t)w->epoch);
	shutdown_request();
	return 1;
}

void switchover_drop(struct node *n, struct command_wait *w)
{
	pthread_mutex_lock(&n->lock);
	switchover_take_back(n);
	pthread_mutex_unlock(&n->lock);
	w->kind = WAIT_NONE;
}
