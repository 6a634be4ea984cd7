/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The replicator as a child, and its commands; see repl.h. */
#include "guest/repl.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/clock.h"
#include "util/log.h"

#define REPL_START_MS 60000
#define REPL_RETRY_MS 5
#define REPL_FAILURES 5 /* in a row, each sooner than REPL_SHORT_S after its start */
#define REPL_SHORT_S 10

struct repl {
	struct repl_spec spec;
	struct rpc c; /* the agent's thread only */
	pthread_t nanny;
	pthread_mutex_t lock; /* over what follows */
	pthread_cond_t over_cond;
	pid_t pid; /* 0 = none */
	const char *role;
	bool connected;    /* once: from then on it is started again */
	bool ending;       /* by us */
	bool over;         /* no process any more, and there will be none */
	unsigned failures; /* in a row */
	char how[64];      /* the last one ended */
};

static void __attribute__((noreturn))
repl_exec(const struct repl_spec *s, const char *role, pid_t parent)
{
	char *argv[] = {(char *)s->program, (char *)role, (char *)s->conf_path, (char[]){"--node"},
		(char *)s->node, (char[]){"--guest"}, NULL};
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setpgid(0, 0); /* an interrupt at the terminal is the agent's */
	execv(argv[0], argv);
	_exit(127);
}

/* Under lock. */
static int repl_fork(struct repl *p)
{
	pid_t parent = getpid(), pid = fork();

	if (pid == 0)
		repl_exec(&p->spec, p->role, parent);
	p->pid = pid > 0 ? pid : 0;
	return pid > 0 ? 0 : -errno;
}

/* Under lock: whether the one that ended is to be followed by another. */
static bool repl_again(struct repl *p, int status, uint64_t lived)
{
	if (WIFSIGNALED(status))
		snprintf(p->how, sizeof(p->how), "signal %d", WTERMSIG(status));
	else
		snprintf(p->how, sizeof(p->how), "exit code %d", WEXITSTATUS(status));
	p->pid = 0;
	p->failures = lived < REPL_SHORT_S * NS_PER_S ? p->failures + 1 : 1;
	if (p->ending || !p->connected || p->failures >= REPL_FAILURES)
		return false;
	log_error("the replicator has ended (%s); starting it again", p->how);
	return repl_fork(p) == 0;
}

static void *repl_nanny(void *arg)
{
	struct repl *p = arg;
	bool again = true;

	while (again) {
		uint64_t began = clock_ns();
		pid_t pid;
		int status;

		pthread_mutex_lock(&p->lock);
		pid = p->pid;
		pthread_mutex_unlock(&p->lock);
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		pthread_mutex_lock(&p->lock);
		again = repl_again(p, status, clock_ns() - began);
		p->over = !again;
		pthread_cond_broadcast(&p->over_cond);
		pthread_mutex_unlock(&p->lock);
	}
	return NULL;
}

static bool repl_is_over(struct repl *p, struct error *err)
{
	bool over;

	pthread_mutex_lock(&p->lock);
	over = p->over;
	if (over)
		(void)error_set(err, p->connected ? ERROR_GENERAL : ERROR_STATE, -ECHILD,
			p->connected ? "the replicator ends again and again (%s)"
				     : "the replicator has not started (%s; its own message is "
				       "above)",
			p->how);
	pthread_mutex_unlock(&p->lock);
	return over;
}

int repl_reconnect(struct repl *p, struct error *err)
{
	uint64_t deadline = clock_ns() + REPL_START_MS * NS_PER_MS;
	char path[512], who[48];
	json_t *greeting;
	int r;

	if (p->c.lines.fd >= 0)
		rpc_deinit(&p->c);
	p->c.lines.fd = -1;
	snprintf(path, sizeof(path), "%s/control.sock", p->spec.run_dir);
	snprintf(who, sizeof(who), "replicator %.32s", p->spec.node);
	for (;;) {
		r = rpc_connect(&p->c, who, path, deadline, &greeting, err);
		if (r == 0) {
			json_decref(greeting);
			r = repl_run(p, "events", json_pack("{s:b}", "enable", 1), NULL, err);
			if (r == 0)
				break;
			rpc_deinit(&p->c);
		}
		p->c.lines.fd = -1;
		if (repl_is_over(p, err))
			return -ECHILD;
		if (clock_ns() >= deadline)
			return r;
		(void)poll(NULL, 0, REPL_RETRY_MS);
	}
	pthread_mutex_lock(&p->lock);
	p->connected = true;
	pthread_mutex_unlock(&p->lock);
	return 0;
}

int repl_new(
	const struct repl_spec *spec, const char *role, struct repl **ret_repl, struct error *err)
{
	struct repl *p = calloc(1, sizeof(*p));
	pthread_condattr_t attr;
	int r;

	if (!p)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	p->spec = *spec;
	p->role = role;
	p->c.lines.fd = -1;
	pthread_mutex_init(&p->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->over_cond, &attr);
	pthread_condattr_destroy(&attr);
	/* The agent's main thread forks the first one, and outlives the nanny. */
	r = repl_fork(p);
	if (r == 0)
		r = -pthread_create(&p->nanny, NULL, repl_nanny, p);
	if (r < 0) {
		if (p->pid > 0)
			kill(p->pid, SIGKILL);
		free(p);
		return error_code(err, r, "cannot start the replicator");
	}
	r = repl_reconnect(p, err);
	if (r < 0) {
		(void)repl_free(p, 0);
		return r;
	}
	*ret_repl = p;
	return 0;
}

struct repl *repl_free(struct repl *p, unsigned wait_ms)
{
	struct timespec until;

	if (!p)
		return NULL;
	if (p->c.lines.fd >= 0)
		rpc_deinit(&p->c);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += wait_ms / 1000;
	pthread_mutex_lock(&p->lock);
	p->ending = true;
	if (p->pid > 0 && wait_ms > 0)
		kill(p->pid, SIGTERM);
	while (!p->over && wait_ms > 0 &&
		pthread_cond_timedwait(&p->over_cond, &p->lock, &until) != ETIMEDOUT)
		;
	if (p->pid > 0)
		kill(p->pid, SIGKILL);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->nanny, NULL);
	pthread_cond_destroy(&p->over_cond);
	pthread_mutex_destroy(&p->lock);
	free(p);
	return NULL;
}

void repl_set_role(struct repl *p, const char *role)
{
	pthread_mutex_lock(&p->lock);
	p->role = role;
	pthread_mutex_unlock(&p->lock);
}

struct rpc *repl_rpc(struct repl *p)
{
	return &p->c;
}

int repl_run(struct repl *p, const char *command, json_t *arguments, json_t **ret_return,
	struct error *err)
{
	return rpc_execute(&p->c, command, arguments, -1, clock_ns() + REPL_COMMAND_MS * NS_PER_MS,
		ret_return, err);
}

int repl_submit(struct repl *p, const struct repl_submit *s, json_int_t *ret_id, struct error *err)
{
	json_t *a =
		json_pack("{s:I,s:I}", "runs", (json_int_t)s->runs, "table", (json_int_t)s->table);

	if (s->epoch)
		json_object_set_new(a, "epoch", json_integer((json_int_t)s->epoch));
	if (s->state_bytes) {
		json_object_set_new(a, "state-bytes", json_integer((json_int_t)s->state_bytes));
		json_object_set_new(a, "state-data", json_integer((json_int_t)s->state_data));
		json_object_set_new(a, "state-offset", json_integer((json_int_t)s->state_offset));
	}
	if (s->digests) {
		json_object_set_new(a, "digests", json_integer((json_int_t)s->digests));
		json_object_set_new(a, "digest-data", json_integer((json_int_t)s->digest_data));
	}
	return rpc_send_fds(&p->c, "submit", a, s->fds, s->nfds,
		clock_ns() + REPL_COMMAND_MS * NS_PER_MS, ret_id, err);
}

uint64_t repl_u64(const json_t *object, const char *member, const char *inner)
{
	const json_t *v = json_object_get(object, member);

	if (inner)
		v = json_object_get(v, inner);
	return json_is_integer(v) && json_integer_value(v) > 0 ? (uint64_t)json_integer_value(v)
							       : 0;
}
