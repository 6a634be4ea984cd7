/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The submitter: its thread and the jobs that wait for it. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "replicator/submit_internal.h"
#include "util/fault.h"
#include "util/log.h"

struct submit_job *submit_job_new(enum submit_kind kind)
{
	struct submit_job *job = calloc(1, sizeof(*job));

	if (job) {
		job->kind = kind;
		job->table_fd = job->data_fd = -1;
	}
	return job;
}

static void submit_job_close(struct submit_job *job)
{
	if (job->data_fd >= 0 && job->data_fd != job->table_fd)
		close(job->data_fd);
	if (job->table_fd >= 0)
		close(job->table_fd);
	job->table_fd = job->data_fd = -1;
}

void submit_job_unref(struct submit_job *job)
{
	job->orphan = true;
	if (job->done || job->session == 0) {
		submit_job_close(job);
		free(job);
	}
}

int submit_put(struct submitter *s, struct submit_job *job)
{
	uint64_t session = s->n->sender ? sender_session_id(s->n->sender) : 0;

	if (!session || s->stop)
		return -ENOTCONN;
	job->session = session;
	if (s->last)
		s->last->next = job;
	else
		s->first = job;
	s->last = job;
	pthread_cond_signal(&s->work);
	return 0;
}

void submit_distrust(struct submitter *s)
{
	s->distrust = true;
}

/* (L) */
static void submit_end(struct submitter *s, struct submit_job *job)
{
	struct node *n = s->n;
	int r;

	if (job->epoch == 0)
		job->epoch = primary_memory_epoch(sender_core(n->sender));
	r = sender_checkpoint_seal(
		n->sender, job->session, job->epoch, job->kind == SUBMIT_ABANDON);
	if (r == 0)
		fault_point(FAULT_PRIMARY_SEAL);
	job->into = job->epoch + 1;
	if (r == -EPERM) {
		sender_restart(n->sender, job->session, "the first checkpoint was abandoned");
		job->into = 0;
		r = 0;
	}
	job->result = r;
	if (r == -ENOENT)
		error_set(&job->err, ERROR_STATE, r,
			"epoch %llu is not the lowest one that was cut and not sealed",
			(unsigned long long)job->epoch);
	else if (r == -ENODATA)
		error_set(&job->err, ERROR_STATE, r, "no device state was submitted for epoch %llu",
			(unsigned long long)job->epoch);
	else if (r < 0)
		error_set(&job->err, ERROR_PEER, r, "the link to the secondary was lost");
}

static void *submit_main(void *arg)
{
	struct submitter *s = arg;
	struct node *n = s->n;

	(void)pthread_setname_np(pthread_self(), "tandem-submit");
	pthread_mutex_lock(&n->lock);
	while (!s->stop) {
		struct submit_job *job = s->first;

		if (!job) {
			pthread_cond_wait(&s->work, &n->lock);
			continue;
		}
		s->first = job->next;
		if (!s->first)
			s->last = NULL;
		if (job->kind == SUBMIT_MEMORY) {
			pthread_mutex_unlock(&n->lock);
			submit_pack(s, job);
			submit_job_close(job);
			pthread_mutex_lock(&n->lock);
		} else {
			submit_end(s, job);
		}
		job->done = true;
		if (job->orphan)
			submit_job_unref(job);
		node_changed(n);
	}
	while (s->first) {
		struct submit_job *job = s->first;

		s->first = job->next;
		job->done = true;
		job->result = error_set(&job->err, ERROR_STATE, -ESHUTDOWN, "this node ends");
		if (job->orphan)
			submit_job_unref(job);
	}
	pthread_mutex_unlock(&n->lock);
	return NULL;
}

int submit_start(struct node *n, struct submitter **ret_submitter, struct error *err)
{
	static const unsigned flags[] = {[CONF_COMPRESSION_LZ4] = RECORD_FLAG_LZ4,
		[CONF_COMPRESSION_ZSTD] = RECORD_FLAG_ZSTD,
		[CONF_COMPRESSION_NONE] = 0};
	struct submitter *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	s->n = n;
	s->flag = flags[n->conf->compression];
	pthread_cond_init(&s->work, NULL);
	s->table = malloc((size_t)SUBMIT_TABLE * SUBMIT_RUN);
	s->window = malloc(SUBMIT_WINDOW);
	s->raw = malloc(SUBMIT_ROOM + RECORD_MAX_PAYLOAD);
	s->packed = malloc(SUBMIT_ROOM + RECORD_MAX_PAYLOAD);
	if (n->conf->guest_delta_cache && s->flag)
		s->sent = sent_pages_new(n->conf->guest_delta_cache, n->conf->guest_memory);
	r = s->table && s->window && s->raw && s->packed &&
			    (s->sent || !n->conf->guest_delta_cache || !s->flag)
		    ? pthread_create(&s->thread, NULL, submit_main, s)
		    : ENOMEM;
	if (r) {
		submit_stop(s);
		return error_code(err, -r, "submit: cannot start its thread");
	}
	s->started = true;
	*ret_submitter = s;
	return 0;
}

struct submitter *submit_stop(struct submitter *s)
{
	if (!s)
		return NULL;
	if (s->started) {
		pthread_mutex_lock(&s->n->lock);
		s->stop = true;
		pthread_cond_signal(&s->work);
		pthread_mutex_unlock(&s->n->lock);
		pthread_join(s->thread, NULL);
	}
	compress_deinit(&s->compress);
	pthread_cond_destroy(&s->work);
	free(s->table);
	free(s->window);
	free(s->raw);
	free(s->packed);
	sent_pages_free(s->sent);
	free(s);
	return NULL;
}
