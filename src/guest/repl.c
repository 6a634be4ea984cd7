/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The replicator as a child, and its commands; see repl.h. */
#include "guest/repl.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/kernel.h"
#include "util/clock.h"

#define REPL_START_MS 60000
#define REPL_RETRY_MS 5

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

bool repl_ended(struct repl *p, char *how, size_t len)
{
	int status;

	if (p->pid <= 0 || waitpid(p->pid, &status, WNOHANG) != p->pid)
		return false;
	p->pid = 0;
	if (WIFSIGNALED(status))
		snprintf(how, len, "signal %d", WTERMSIG(status));
	else
		snprintf(how, len, "exit code %d", WEXITSTATUS(status));
	return true;
}

/* Until it listens: it reads its disks' sizes and its journal first. */
static int repl_connect(struct repl *p, const struct repl_spec *s, struct error *err)
{
	uint64_t deadline = clock_ns() + REPL_START_MS * NS_PER_MS;
	char path[512], who[48], how[64];
	json_t *greeting;
	int r;

	snprintf(path, sizeof(path), "%s/control.sock", s->run_dir);
	snprintf(who, sizeof(who), "replicator %.32s", s->node);
	for (;;) {
		r = rpc_connect(&p->c, who, path, deadline, &greeting, err);
		if (r == 0)
			break;
		if (repl_ended(p, how, sizeof(how)))
			return error_set(err, ERROR_STATE, -ECHILD,
				"the replicator has not started (%s; its own message is above)",
				how);
		if (clock_ns() >= deadline)
			return r;
		(void)poll(NULL, 0, REPL_RETRY_MS);
	}
	json_decref(greeting);
	r = repl_run(p, "events", json_pack("{s:b}", "enable", 1), NULL, err);
	if (r < 0)
		rpc_deinit(&p->c);
	return r;
}

int repl_start(struct repl *p, const struct repl_spec *spec, const char *role, struct error *err)
{
	pid_t parent = getpid();
	int r;

	*p = (struct repl){.pidfd = -1, .c = {.lines = {.fd = -1}}};
	p->pid = fork();
	if (p->pid == 0)
		repl_exec(spec, role, parent);
	if (p->pid < 0) {
		p->pid = 0;
		return error_errno(err, "cannot start the replicator: fork");
	}
	p->pidfd = kernel_pidfd_open(p->pid);
	r = repl_connect(p, spec, err);
	if (r < 0) {
		p->c.lines.fd = -1;
		repl_end(p, 0);
	}
	return r;
}

void repl_end(struct repl *p, unsigned wait_ms)
{
	struct pollfd w = {.fd = p->pidfd, .events = POLLIN};

	if (p->c.lines.fd >= 0)
		rpc_deinit(&p->c);
	p->c.lines.fd = -1;
	if (p->pid > 0) {
		if (wait_ms > 0)
			kill(p->pid, SIGTERM);
		if (wait_ms == 0 || poll(&w, 1, (int)wait_ms) != 1)
			kill(p->pid, SIGKILL);
		while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR)
			;
		p->pid = 0;
	}
	if (p->pidfd >= 0)
		close(p->pidfd);
	p->pidfd = -1;
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
