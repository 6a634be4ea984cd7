/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The commands of a group with a guest (docs/control.md, "VM groups"). */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "core/pages.h"
#include "replicator/commands.h"
#include "replicator/memory.h"
#include "replicator/receiver.h"
#include "replicator/sender.h"
#include "replicator/submit.h"
#include "replicator/verify.h"
#include "util/clock.h"
#include "util/fault.h"

static int command_no_guest(const struct node *n, const char *what, struct error *err)
{
	return n->guest ? 0
			: error_set(err, ERROR_STATE, -EINVAL,
				  "%s: this node was not started with a guest", what);
}

static int command_not_replicating(const struct node *n, const char *what, struct error *err)
{
	/* A primary: the session has ended, of which an event tells. */
	return error_set(err, n->sender ? ERROR_PEER : ERROR_STATE, -ENOTCONN,
		"%s: this node is not replicating: %s", what,
		n->reason[0] ? n->reason : "it is no primary with a link");
}

/* A number from 0 to max; -ERANGE. */
static int command_number(struct command_call *c, const char *what, const char *name, uint64_t max,
	uint64_t *ret_value, struct error *err)
{
	json_t *arg = json_object_get(c->arguments, name);
	json_int_t v = arg ? json_integer_value(arg) : 0;

	if (v < 0 || (uint64_t)v > max)
		return error_set(err, ERROR_USAGE, -ERANGE, "%s: %s is 0 to %llu", what, name,
			(unsigned long long)max);
	*ret_value = (uint64_t)v;
	return 0;
}

int command_checkpoint_begin(struct command_call *c, json_t **ret, struct error *err)
{
	struct node *n = c->n;
	int r = command_no_guest(n, "checkpoint-begin", err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&n->lock);
	if (n->sender && sender_session_id(n->sender)) {
		barrier_begin(n, c->client);
		sender_checkpoint_begin(n->sender);
		*ret = json_pack("{s:I}", "epoch", (json_int_t)sender_core(n->sender)->open);
	} else {
		r = command_not_replicating(n, "checkpoint-begin", err);
	}
	pthread_mutex_unlock(&n->lock);
	return r;
}

int command_checkpoint_cut(struct command_call *c, json_t **ret, struct error *err)
{
	struct node *n = c->n;
	bool verify = verify_cut_begin(n), frozen = false;
	uint64_t epoch = 0;
	int r;

	pthread_mutex_lock(&n->lock);
	barrier_end(n, NULL);
	r = n->sender ? sender_checkpoint_cut(n->sender, &epoch) : -ENOTCONN;
	if (r == 0 && verify)
		frozen = verify_cut(n->sender, epoch);
	if (r == -EBUSY)
		error_set(err, ERROR_STATE, r,
			"cut: the disks are still being copied to the secondary");
	else if (r == -EMFILE)
		error_set(err, ERROR_STATE, r,
			"cut: too many epochs are cut and not sealed; seal the lowest first");
	else if (r == -EAGAIN)
		error_set(err, ERROR_STATE, r, "cut: the queue is full");
	else if (r < 0)
		command_not_replicating(n, "cut", err);
	pthread_mutex_unlock(&n->lock);
	if (verify)
		verify_cut_end(n);
	if (r == 0)
		fault_point(FAULT_PRIMARY_CUT);
	if (r == 0)
		*ret = json_pack("{s:I}", "epoch", (json_int_t)epoch);
	if (r == 0 && verify)
		json_object_set_new(*ret, "frozen", json_boolean(frozen));
	return r;
}

/* Takes job over in every case. */
static int command_put_job(
	struct command_call *c, const char *what, struct submit_job *job, struct error *err)
{
	struct node *n = c->n;
	int r;

	pthread_mutex_lock(&n->lock);
	r = submit_put(n->submitter, job);
	if (r < 0) {
		submit_job_unref(job);
		r = command_not_replicating(n, what, err);
	} else {
		c->wait.kind = WAIT_JOB;
		c->wait.job = job;
	}
	pthread_mutex_unlock(&n->lock);
	return r;
}

static int command_submit_arguments(
	struct command_call *c, struct submit_job *job, struct error *err)
{
	const uint64_t far = RECORD_MAX_LENGTH;
	int r = command_number(c, "submit", "epoch", far, &job->epoch, err);

	if (r == 0)
		r = command_number(c, "submit", "runs", SUBMIT_MAX_RUNS, &job->runs, err);
	if (r == 0)
		r = command_number(c, "submit", "table", far, &job->table, err);
	if (r == 0)
		r = command_number(
			c, "submit", "state-bytes", PAGES_STATE_MAX, &job->state_bytes, err);
	if (r == 0)
		r = command_number(c, "submit", "state-data", far, &job->state_data, err);
	if (r == 0)
		r = command_number(
			c, "submit", "state-offset", PAGES_STATE_MAX, &job->state_offset, err);
	if (r == 0)
		r = command_number(c, "submit", "digests", far, &job->digests, err);
	if (r == 0)
		r = command_number(c, "submit", "digest-data", far, &job->digest_data, err);
	if (r == 0 && job->state_offset + job->state_bytes > PAGES_STATE_MAX)
		r = error_set(err, ERROR_USAGE, -ERANGE,
			"submit: device state has at most %llu bytes",
			(unsigned long long)PAGES_STATE_MAX);
	if (r == 0 && c->fds[0] < 0 && (job->runs || job->state_bytes))
		r = error_set(err, ERROR_USAGE, -EBADF, "submit: no descriptor came with it");
	return r;
}

int command_submit(struct command_call *c, json_t **ret, struct error *err)
{
	int r = command_no_guest(c->n, "submit", err);
	struct submit_job *job;

	if (r < 0)
		return r;
	job = submit_job_new(SUBMIT_MEMORY);
	if (!job)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "submit: out of memory");
	r = command_submit_arguments(c, job, err);
	if (r < 0) {
		submit_job_unref(job);
		return r;
	}
	job->table_fd = c->fds[0];
	job->data_fd = c->fds[1] >= 0 ? c->fds[1] : c->fds[0];
	c->fds[0] = c->fds[1] = -1;
	return command_put_job(c, "submit", job, err);
}

int command_seal(struct command_call *c, json_t **ret, struct error *err)
{
	int kind, r = command_no_guest(c->n, "seal", err);
	struct submit_job *job;
	uint64_t ms, epoch = 0;

	if (r == 0)
		r = command_get_wait(c, "seal", &kind, &ms, err);
	if (r == 0)
		r = command_number(c, "seal", "epoch", RECORD_MAX_LENGTH, &epoch, err);
	if (r < 0)
		return r;
	job = submit_job_new(SUBMIT_SEAL);
	if (!job)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "seal: out of memory");
	job->epoch = epoch;
	c->wait.after = kind;
	c->wait.after_ms = ms;
	return command_put_job(c, "seal", job, err);
}

int command_abandon(struct command_call *c, json_t **ret, struct error *err)
{
	int r = command_no_guest(c->n, "abandon", err);
	struct submit_job *job;
	uint64_t epoch = 0, open = 0;
	struct node *n = c->n;
	unsigned cuts = 0;

	if (r == 0)
		r = command_number(c, "abandon", "epoch", RECORD_MAX_LENGTH, &epoch, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&n->lock);
	barrier_end(n, NULL);
	if (n->sender && sender_session_id(n->sender)) {
		sender_checkpoint_failed(n->sender);
		open = sender_core(n->sender)->open;
		cuts = sender_core(n->sender)->cuts_count;
	}
	pthread_mutex_unlock(&n->lock);
	if (cuts == 0 && epoch == 0) {
		*ret = json_pack("{s:I}", "epoch", (json_int_t)open);
		return 0;
	}
	job = submit_job_new(SUBMIT_ABANDON);
	if (!job)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "abandon: out of memory");
	job->epoch = epoch;
	return command_put_job(c, "abandon", job, err);
}

int command_job_over(struct node *n, struct command_wait *w, json_t **ret, struct error *err)
{
	struct submit_job *job = w->job;
	int r;

	pthread_mutex_lock(&n->lock);
	if (!job->done) {
		pthread_mutex_unlock(&n->lock);
		return 0;
	}
	r = job->result;
	*err = job->err;
	if (r == 0 && job->kind == SUBMIT_MEMORY)
		*ret = json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "epoch", (json_int_t)job->epoch,
			"bytes", (json_int_t)job->bytes, "zero", (json_int_t)job->zero, "equal",
			(json_int_t)job->equal, "delta", (json_int_t)job->delta, "sent",
			(json_int_t)job->sent);
	else if (r == 0 && job->kind == SUBMIT_ABANDON && job->into)
		*ret = json_pack("{s:I,s:I}", "epoch", (json_int_t)job->epoch, "into",
			(json_int_t)job->into);
	else if (r == 0 && w->after == WAIT_NONE)
		*ret = json_pack("{s:I}", "epoch", (json_int_t)job->epoch);
	w->epoch = job->epoch;
	w->job = NULL;
	submit_job_unref(job);
	pthread_mutex_unlock(&n->lock);
	if (r < 0)
		return r;
	if (w->after == WAIT_NONE)
		return 1;
	w->kind = w->after;
	w->deadline = clock_ns() + w->after_ms * NS_PER_MS;
	return command_wait_over(n, w, ret, err);
}

void command_wait_drop(struct node *n, struct command_wait *w)
{
	if (w->kind == WAIT_SWITCHOVER)
		switchover_drop(n, w);
	if (w->kind != WAIT_JOB)
		return;
	pthread_mutex_lock(&n->lock);
	submit_job_unref(w->job);
	pthread_mutex_unlock(&n->lock);
	w->job = NULL;
}

void command_client_gone(struct node *n, const void *client)
{
	pthread_mutex_lock(&n->lock);
	barrier_end(n, client);
	pthread_mutex_unlock(&n->lock);
}

/* The memory of a secondary, or of a promoted node; (L). */
static uint64_t command_memory_epoch(struct node *n)
{
	struct receiver_status st;

	if (!n->memory || n->role == NODE_PRIMARY)
		return n->memory ? n->memory->epoch : 0;
	receiver_get_status(n->receiver, &st);
	return st.core.memory_epoch;
}

int command_standby_state(struct command_call *c, json_t **ret, struct error *err)
{
	const char *why = json_string_value(json_object_get(c->arguments, "unready"));
	struct node *n = c->n;
	int r = command_no_guest(n, "standby-state", err);

	if (r < 0)
		return r;
	if (!n->receiver || n->sender)
		return error_set(
			err, ERROR_STATE, -EINVAL, "standby-state: this node is a primary");
	pthread_mutex_lock(&n->lock);
	receiver_unready(n->receiver, why ? why : "");
	pthread_mutex_unlock(&n->lock);
	*ret = json_object();
	return 0;
}

int command_query_memory(struct command_call *c, json_t **ret, struct error *err)
{
	struct node *n = c->n;
	int fd = -1, r = command_no_guest(n, "query-memory", err);
	uint64_t epoch = 0;

	if (r < 0)
		return r;
	pthread_mutex_lock(&n->lock);
	if (n->memory) {
		epoch = command_memory_epoch(n);
		fd = dup(n->memory->fd);
	}
	pthread_mutex_unlock(&n->lock);
	if (fd < 0)
		return error_set(err, ERROR_STATE, -ENODATA,
			"query-memory: this node holds no memory of a guest");
	c->answer_fd = fd;
	*ret = json_pack(
		"{s:I,s:I}", "size", (json_int_t)n->conf->guest_memory, "epoch", (json_int_t)epoch);
	return 0;
}

int command_query_state(struct command_call *c, json_t **ret, struct error *err)
{
	struct node *n = c->n;
	int fd = -ENODATA, r = command_no_guest(n, "query-state", err);
	uint64_t epoch = 0;
	size_t len = 0;

	if (r < 0)
		return r;
	pthread_mutex_lock(&n->lock);
	if (n->receiver && n->role == NODE_SECONDARY) {
		fd = receiver_state_fd(n->receiver, &epoch, &len);
	} else if (n->memory && n->memory->epoch) {
		epoch = n->memory->epoch;
		len = n->memory->state_len;
		fd = memory_blob_fd(n->memory->state, len);
	}
	pthread_mutex_unlock(&n->lock);
	if (fd == -ENODATA)
		return error_set(err, ERROR_STATE, fd,
			"query-state: this node holds no committed state of a guest");
	if (fd < 0)
		return error_code(err, fd, "query-state: cannot make a memfd");
	c->answer_fd = fd;
	*ret = json_pack("{s:I,s:I}", "bytes", (json_int_t)len, "epoch", (json_int_t)epoch);
	return 0;
}

int command_release_memory(struct command_call *c, json_t **ret, struct error *err)
{
	struct node *n = c->n;
	int r = command_no_guest(n, "release-memory", err);
	struct memory *m = NULL;

	if (r < 0)
		return r;
	pthread_mutex_lock(&n->lock);
	if (n->memory && n->memory->epoch) { /* adopted: nobody here changes it any more */
		m = n->memory;
		n->memory = NULL;
	}
	pthread_mutex_unlock(&n->lock);
	if (!m)
		return error_set(err, ERROR_STATE, -EINVAL,
			"release-memory: only on a node that was promoted");
	memory_free(m);
	*ret = json_object();
	return 0;
}
