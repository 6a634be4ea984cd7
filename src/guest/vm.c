/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A QEMU process: start, resume, end; see vm.h. */
#include "guest/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/kernel.h"
#include "guest/qmp.h"
#include "guest/splice.h"
#include "guest/state.h"
#include "guest/vm_check.h"
#include "util/clock.h"
#include "util/fault.h"
#include "util/file.h"

#define VM_RESUME_MS 60000

/* In the child: what is inherited on purpose, then exec. */
static void __attribute__((noreturn))
vm_exec(char **argv, const char *preload, int ram_fd, int qmp_fd, int null_fd, pid_t parent)
{
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setpgid(0, 0); /* an interrupt at the terminal is the agent's */
	/* And so is what is typed there: a background process that reads or sets it is stopped. */
	if (dup2(null_fd, STDIN_FILENO) < 0)
		_exit(127);
	if (ram_fd >= 0)
		(void)fcntl(ram_fd, F_SETFD, 0);
	(void)fcntl(qmp_fd, F_SETFD, 0);
	if (preload)
		setenv("LD_PRELOAD", preload, 1);
	execvp(argv[0], argv);
	(void)!write(STDERR_FILENO, argv[0], strlen(argv[0]));
	(void)!write(STDERR_FILENO, ": cannot be run\n", 16);
	_exit(127);
}

/* Forks and waits for QMP.  sv: the socketpair. */
static int vm_spawn(struct vm *vm, char **argv, const char *preload, int ram_fd, const int sv[2],
	struct error *err)
{
	pid_t parent = getpid();
	int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC), r;

	vm->pid = null_fd < 0 ? -1 : fork();
	if (vm->pid == 0)
		vm_exec(argv, preload, ram_fd, sv[1], null_fd, parent);
	close(sv[1]);
	if (vm->pid < 0) {
		vm->pid = 0;
		(void)error_errno(err, "cannot start QEMU: %s", null_fd < 0 ? "/dev/null" : "fork");
		if (null_fd >= 0)
			close(null_fd);
		close(sv[0]);
		return -EAGAIN;
	}
	close(null_fd);
	vm->pidfd = kernel_pidfd_open(vm->pid);
	r = qmp_begin(&vm->q, sv[0], err);
	if (r < 0) {
		vm->q.lines.fd = -1;
		(void)error_prefix(err, "%s did not start (its own message is above)", argv[0]);
		vm_end(vm);
	}
	return r;
}

static int vm_socketpair(int sv[2], struct error *err)
{
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		return error_errno(err, "cannot make a socket");
	return 0;
}

/* Versioned name of the type `name` (empty: the default one). */
static int vm_find_machine(struct rpc *q, const char *name, char *ret, struct error *err)
{
	json_t *list, *m;
	size_t i;
	bool found = false;
	int r = qmp_run(q, "query-machines", NULL, &list, err);

	if (r < 0)
		return r;
	json_array_foreach(list, i, m)
	{
		const char *n = json_string_value(json_object_get(m, "name"));
		const char *alias = json_string_value(json_object_get(m, "alias"));

		if (!n || (*name ? strcmp(n, name) != 0 && (!alias || strcmp(alias, name) != 0)
				 : !json_is_true(json_object_get(m, "is-default"))))
			continue;
		snprintf(ret, VM_MACHINE, "%s", n);
		found = true;
	}
	json_decref(list);
	return found ? 0
		     : error_set(err, ERROR_CONFIG, -EINVAL,
			       "[guest] qemu: it knows no machine type \"%s\"", name);
}

/* The same program without a machine, to be asked. */
static int vm_words_idle(struct words *w, int qmp_fd)
{
	static const char *const idle[] = {
		"-M", "none", "-nodefaults", "-display", "none", "-S", "-chardev"};
	int r = 0;

	while (w->n > w->program + 1)
		free(w->v[--w->n]);
	w->v[w->n] = NULL;
	for (size_t i = 0; r == 0 && i < sizeof(idle) / sizeof(idle[0]); i++)
		r = words_add(w, "%s", idle[i]);
	if (r == 0)
		r = words_add(w, "socket,id=q,fd=%d", qmp_fd);
	if (r == 0)
		r = words_add(w, "-mon");
	return r == 0 ? words_add(w, "chardev=q,mode=control") : r;
}

int vm_machine(const char *qemu, char ret_machine[VM_MACHINE], struct error *err)
{
	struct vm vm = {.pidfd = -1, .q = {.lines = {.fd = -1}}};
	char name[VM_MACHINE] = "";
	struct words w;
	const char *o;
	int sv[2], r = words_split(&w, qemu, err);

	if (r < 0)
		return error_prefix(err, "[guest] qemu");
	for (size_t i = w.program + 1; i + 1 < w.n; i++) {
		o = w.v[i][0] == '-' ? w.v[i] + 1 + (w.v[i][1] == '-') : "";
		if (!strcmp(o, "M") || !strcmp(o, "machine"))
			(void)words_part(w.v[i + 1], "type", true, name, sizeof(name));
	}
	r = vm_socketpair(sv, err);
	if (r == 0) {
		r = vm_words_idle(&w, sv[1]);
		if (r == 0) {
			r = vm_spawn(&vm, w.v, NULL, -1, sv, err);
		} else {
			close(sv[0]);
			close(sv[1]);
			(void)error_set(err, ERROR_GENERAL, r, "out of memory");
		}
	}
	if (r == 0) {
		r = vm_find_machine(&vm.q, name, ret_machine, err);
		vm_end(&vm);
	}
	words_deinit(&w);
	return r;
}

/* What can be told before there is a state to load. */
static int vm_prepare(struct vm *vm, struct error *err)
{
	return qmp_run(&vm->q, "migrate-set-capabilities",
		json_pack("{s:[{s:s,s:b},{s:s,s:b}]}", "capabilities", "capability",
			"x-ignore-shared", "state", 1, "capability", "events", "state", 1),
		NULL, err);
}

int vm_start(struct vm *vm, const struct vm_spec *spec, struct error *err)
{
	struct backends backends;
	struct words w;
	int sv[2], r = 0;

	*vm = (struct vm){.pidfd = -1, .q = {.lines = {.fd = -1}}};
	if (spec->machine)
		snprintf(vm->machine, sizeof(vm->machine), "%s", spec->machine);
	else
		r = vm_machine(spec->qemu, vm->machine, err);
	if (r == 0)
		r = vm_socketpair(sv, err);
	if (r < 0)
		return r;
	r = vm_words(spec, vm->machine, sv[1], &w, &backends, err);
	if (r < 0) {
		close(sv[0]);
		close(sv[1]);
		return r;
	}
	r = vm_spawn(vm, w.v, spec->preload, spec->ram_fd, sv, err);
	words_deinit(&w);
	if (r == 0) {
		r = vm_check(&vm->q, spec->node, &backends, err);
		if (r == 0 && spec->incoming)
			r = vm_prepare(vm, err);
		if (r < 0)
			vm_end(vm);
	}
	return r;
}

int vm_cont(struct vm *vm, struct error *err)
{
	return qmp_cont(&vm->q, err);
}

/* QEMU's section of type 6: an empty description. */
static const unsigned char vm_description[] = {0x06, 0, 0, 0, 2, '{', '}'};

/* A file with the stream that -incoming reads. */
static int vm_stream_file(
	const struct state_head *h, const unsigned char *blob, size_t len, struct error *err)
{
	size_t skip = STATE_HEADER + h->base_len, drop = h->spliced ? SPLICE_SAVED_HEADER : 0;
	int fd = memfd_create("tandem-state", MFD_CLOEXEC), r;

	if (fd < 0)
		return error_errno(err, "device state: memfd");
	r = file_pwrite(fd, blob + STATE_HEADER, h->base_len, 0);
	if (r == 0)
		r = file_pwrite(fd, blob + skip + drop, len - skip - drop, h->base_len);
	/* A saved file ends where a migration goes on with a description of itself. */
	if (r == 0 && h->spliced)
		r = file_pwrite(fd, vm_description, sizeof(vm_description),
			h->base_len + len - skip - drop);
	if (r < 0) {
		close(fd);
		return error_code(err, r, "device state");
	}
	return fd;
}

static int vm_incoming(struct vm *vm, int fd, struct error *err)
{
	uint64_t deadline = clock_ns() + VM_RESUME_MS * NS_PER_MS;
	int r = qmp_getfd(&vm->q, "tandem-state", fd, err);

	if (r == 0)
		r = qmp_run(&vm->q, "migrate-incoming",
			json_pack("{s:s}", "uri", "fd:tandem-state"), NULL, err);
	while (r == 0) {
		json_t *event;
		const char *s;
		bool done, failed;

		r = rpc_wait_event(&vm->q, "MIGRATION", deadline, &event, err);
		if (r < 0)
			break;
		s = json_string_value(json_object_get(json_object_get(event, "data"), "status"));
		done = s && !strcmp(s, "completed");
		failed = s && !strcmp(s, "failed");
		json_decref(event);
		if (failed)
			r = error_set(err, ERROR_GENERAL, -EIO,
				"QEMU cannot load the checkpoint's device state (its own message "
				"is above)");
		if (done)
			return 0;
	}
	return r;
}

int vm_fits(struct vm *vm, const struct state_head *h, struct error *err)
{
	struct vm_shape here;
	int r = vm_shape(&vm->q, &here, err);

	return r == 0 ? vm_shape_same(&h->shape, &here, err) : r;
}

int vm_load(struct vm *vm, const unsigned char *blob, size_t len, struct error *err)
{
	struct error why = {0};
	struct state_head h;
	int fd, r = state_head_get(&h, blob, len, err);

	if (r < 0)
		return r;
	fd = vm_stream_file(&h, blob, len, err);
	if (fd < 0)
		return fd;
	(void)vm_fits(vm, &h, &why); /* QEMU decides; where it does not load it, this is why */
	r = vm_incoming(vm, fd, err);
	close(fd);
	if (r < 0 && why.text[0])
		(void)error_prefix(err, "%s", why.text);
	if (r == 0)
		fault_point(FAULT_RESUME_LOADED);
	return r;
}

int vm_resume(struct vm *vm, const unsigned char *blob, size_t len, struct error *err)
{
	int r = vm_load(vm, blob, len, err);

	if (r == 0)
		r = vm_cont(vm, err);
	if (r == 0)
		fault_point(FAULT_RESUME_CONT);
	return r;
}

void vm_kill(const struct vm *vm)
{
	if (vm->pid > 0)
		kill(vm->pid, SIGKILL);
}

void vm_end(struct vm *vm)
{
	if (vm->pid > 0) {
		vm_kill(vm);
		while (waitpid(vm->pid, NULL, 0) < 0 && errno == EINTR)
			;
		vm->pid = 0;
	}
	if (vm->q.lines.fd >= 0)
		rpc_deinit(&vm->q);
	vm->q.lines.fd = -1;
	if (vm->pidfd >= 0)
		close(vm->pidfd);
	vm->pidfd = -1;
}

bool vm_ended(struct vm *vm, char *how, size_t len)
{
	int status;

	if (vm->pid <= 0 || waitpid(vm->pid, &status, WNOHANG) != vm->pid)
		return false;
	vm->pid = 0;
	if (WIFSIGNALED(status))
		snprintf(how, len, "signal %d", WTERMSIG(status));
	else
		snprintf(how, len, "exit code %d", WEXITSTATUS(status));
	return true;
}
