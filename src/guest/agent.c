/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The agent: start, the loop that waits, ends; see agent_internal.h. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "guest/agent_internal.h"
#include "guest/qmp.h"
#include "guest/vm_check.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/units.h"

#define AGENT_ROOM 65536        /* runs of a list, without an allocation */
#define AGENT_REPL_END_MS 15000 /* it cuts, commits and says goodbye */
#define AGENT_TROUBLE_MS 1000   /* after a checkpoint that failed */
#define AGENT_LAST_MS 10000     /* for the last checkpoint's commit */

static int agent_new(const struct agent_options *o, struct agent **ret_agent, struct error *err)
{
	struct agent *a = calloc(1, sizeof(*a));
	struct sigaction hup;
	sigset_t set;

	if (!a)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	a->o = o;
	a->conf = o->conf;
	a->node = &o->conf->nodes[o->node];
	a->ram_fd = a->signals = a->server = a->lock = -1;
	a->vm = (struct vm){.pidfd = -1, .q = {.lines = {.fd = -1}}};
	agent_ahead_init(a);
	for (int i = 0; i < AGENT_SLOTS; i++)
		a->slots[i].fd = -1;
	for (int i = 0; i < AGENT_CLIENTS; i++)
		a->clients[i].fd = -1;
	log_init(a->node->name, LOG_LEVEL_INFO);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	/* A terminal that is gone ends the agent in order, unless nohup says otherwise. */
	if (sigaction(SIGHUP, NULL, &hup) == 0 && hup.sa_handler != SIG_IGN)
		sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	a->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	*ret_agent = a;
	return 0;
}

static void agent_ram_end(struct agent *a)
{
	if (a->ram)
		munmap((void *)a->ram, a->conf->guest_memory);
	if (a->ram_fd >= 0)
		close(a->ram_fd);
	a->ram = NULL;
	a->ram_fd = -1;
}

static struct agent *agent_free(struct agent *a)
{
	agent_ahead_end(a);
	agent_vm_end(a);
	a->repl = repl_free(a->repl, AGENT_REPL_END_MS);
	agent_ram_end(a);
	agent_server_end(a);
	agent_verify_end(a);
	a->throttle = throttle_free(a->throttle);
	if (a->signals >= 0)
		close(a->signals);
	free(a);
	return NULL;
}

static int agent_check_conf(const struct conf *conf, struct error *err)
{
	if (!conf->guest_memory)
		return error_set(err, ERROR_CONFIG, -EINVAL,
			"%s: [guest] has no memory: how much RAM the guest has", conf->path);
	if (!conf->guest_qemu)
		return error_set(err, ERROR_CONFIG, -EINVAL,
			"%s: [guest] has no qemu: the command line that runs the guest",
			conf->path);
	return 0;
}

int agent_ram(struct agent *a, int fd, struct error *err)
{
	void *m;

	agent_ram_end(a);
	if (fd < 0) {
		fd = memfd_create("tandem-ram", MFD_CLOEXEC);
		if (fd >= 0 && ftruncate(fd, (off_t)a->conf->guest_memory) < 0) {
			close(fd);
			fd = -1;
		}
	}
	if (fd < 0)
		return error_errno(err, "no memory for the guest");
	a->ram_fd = fd;
	m = mmap(NULL, a->conf->guest_memory, PROT_READ, MAP_SHARED, fd, 0);
	if (m == MAP_FAILED)
		return error_errno(err, "guest RAM: mmap");
	a->ram = m;
	return 0;
}

int agent_vm(struct agent *a, struct vm *vm, int ram_fd, const char *machine, struct error *err)
{
	char nbd[512];
	struct vm_spec spec = {.qemu = a->conf->guest_qemu,
		.preload = a->o->preload,
		.memory = a->conf->guest_memory,
		.ram_fd = ram_fd,
		.machine = machine,
		.node = a->node,
		.nbd_socket = nbd,
		.incoming = machine != NULL};

	snprintf(nbd, sizeof(nbd), "%s/nbd.sock", a->node->run_dir);
	return vm_start(vm, &spec, err);
}

/* What checkpoints need of a QEMU that is there. */
static int agent_checkpoints(struct agent *a, struct error *err)
{
	struct track_target at = {.pid = a->vm.pid,
		.ram_fd = a->ram_fd,
		.ram = a->ram,
		.size = a->conf->guest_memory};
	int r = 0;

	a->crew = crew_new(CREW_THREADS);
	if (!a->crew)
		r = error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	if (r == 0)
		r = track_new(
			(enum track_way)a->conf->guest_tracking, &at, a->crew, &a->track, err);
	if (r == 0)
		r = devstate_init(&a->ds, (enum devstate_way)a->conf->guest_capture, &a->vm.q,
			a->node->run_dir, a->conf->guest_memory, a->vm.machine, err);
	for (int i = 0; r == 0 && i < AGENT_SLOTS; i++)
		r = staging_init(&a->slots[i], a->conf->guest_memory, err);
	if (r == 0 && (runs_reserve(&a->pause, AGENT_ROOM) < 0 ||
			      runs_reserve(&a->ahead, AGENT_ROOM) < 0 ||
			      runs_reserve(&a->carry, AGENT_ROOM) < 0 ||
			      runs_reserve(&a->scratch, AGENT_ROOM) < 0))
		r = error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	if (r == 0)
		log_info("machine %s; device state by %s%s%s%s; dirty pages by %s", a->vm.machine,
			devstate_name(&a->ds), a->ds.why[0] ? " (" : "", a->ds.why,
			a->ds.why[0] ? ")" : "", a->track->ops->name);
	if (r == 0)
		vm_advise(&a->vm.q, a->conf->epoch_ms);
	if (r == 0)
		r = agent_plug_init(a, err);
	if (r == 0)
		throttle_target(a->throttle, a->vm.pidfd);
	a->rebase = true;
	return r;
}

/* Before the guest runs: whether QEMU can capture this machine.  Some devices tell only when it is
 * tried. */
static int agent_trial(struct agent *a, struct error *err)
{
	int r = devstate_base(&a->ds, err);

	if (r == -EREMOTEIO) {
		(void)error_prefix(err, "QEMU cannot checkpoint this guest");
		err->kind = ERROR_STATE;
	}
	return r;
}

void agent_vm_end(struct agent *a)
{
	a->track = track_free(a->track);
	a->crew = crew_free(a->crew);
	if (a->ds.path[0])
		devstate_deinit(&a->ds);
	for (int i = 0; i < AGENT_SLOTS; i++)
		staging_deinit(&a->slots[i]);
	runs_deinit(&a->pause);
	runs_deinit(&a->ahead);
	runs_deinit(&a->carry);
	runs_deinit(&a->scratch);
	runs_deinit(&a->todo);
	agent_plug_end(a);
	agent_lag_end(a);
	throttle_target(a->throttle, -1);
	vm_end(&a->vm);
	a->phase = AGENT_SOLO;
	a->ended = false;
}

int agent_replicator(struct agent *a, const char *role, struct error *err)
{
	struct repl_spec spec = {.program = a->o->program,
		.conf_path = a->o->conf_path,
		.node = a->node->name,
		.run_dir = a->node->run_dir};
	int r;

	a->role = role;
	a->session = a->disks_in_sync = a->promoted = a->doubt = a->superseded = false;
	a->session_number = 0;
	r = repl_new(&spec, role, &a->repl, err);
	return r == 0 ? agent_repl_catch_up(a, err) : r;
}

/* The connection is lost: its process has ended, and another one is being started.  The guest's
 * requests wait in QEMU meanwhile. */
static int agent_replicator_again(struct agent *a, struct error *err)
{
	int r;

	agent_session_lost(a);
	agent_ahead_end(a); /* the RAM that it has is no longer the replicator's */
	for (int i = 0; i < AGENT_SLOTS; i++)
		if (a->slots[i].busy)
			staging_reset(&a->slots[i]);
	a->session_number = 0;
	a->doubt = false;
	r = repl_reconnect(a->repl, err);
	if (r == 0)
		r = agent_repl_catch_up(a, err);
	return r == -EPIPE ? 0 : r;
}

static void agent_signals(struct agent *a)
{
	struct signalfd_siginfo si;

	while (read(a->signals, &si, sizeof(si)) == sizeof(si))
		a->stop = true;
}

static void agent_poll_set(struct agent *a, struct pollfd *p, int *ret_count)
{
	int n = 0;

	p[n++] = (struct pollfd){.fd = a->signals, .events = POLLIN};
	p[n++] = (struct pollfd){.fd = a->server, .events = POLLIN};
	p[n++] =
		(struct pollfd){.fd = a->repl ? repl_rpc(a->repl)->lines.fd : -1, .events = POLLIN};
	p[n++] = (struct pollfd){.fd = a->vm.q.lines.fd, .events = POLLIN};
	p[n++] = (struct pollfd){.fd = a->vm.pidfd, .events = POLLIN};
	for (int i = 0; i < AGENT_CLIENTS; i++)
		p[n++] = (struct pollfd){.fd = a->clients[i].fd, .events = POLLIN};
	*ret_count = n;
}

/* Milliseconds until then, rounded up; times that are near are polled for exactly. */
static struct timespec agent_left(uint64_t deadline)
{
	uint64_t now = clock_ns(), left = deadline > now ? deadline - now : 0;

	left = min_u64(left, 3600 * NS_PER_S);
	return (struct timespec){
		.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};
}

/* What has arrived, also behind an answer that was waited for: poll would not tell of that. */
static int agent_pump(struct agent *a, struct error *err)
{
	int r = 0;

	if (a->vm.q.lines.fd >= 0)
		r = agent_vm_events(a, err);
	if (r == -EPIPE)
		r = 0; /* its end is told by the process */
	if (r == 0 && a->repl)
		r = agent_repl_events(a, err);
	return r == -EPIPE ? agent_replicator_again(a, err) : r;
}

int agent_wait(struct agent *a, uint64_t deadline, struct error *err)
{
	struct pollfd p[5 + AGENT_CLIENTS];
	struct timespec left;
	char how[64];
	int n, r;

	a->heard = false;
	r = agent_pump(a, err);
	if (r < 0)
		return r;
	/* Also then signals and clients are looked at: checkpoints that take longer than epoch-ms
	 * bring an event each. */
	if (a->heard || (a->repl && json_array_size(repl_rpc(a->repl)->answers) > 0))
		deadline = 0;
	agent_poll_set(a, p, &n);
	left = agent_left(deadline);
	if (ppoll(p, (nfds_t)n, &left, NULL) <= 0)
		return 0;
	if (p[0].revents)
		agent_signals(a);
	if (p[2].revents || p[3].revents)
		r = agent_pump(a, err);
	if (r == 0 && p[4].revents && vm_ended(&a->vm, how, sizeof(how))) {
		(void)agent_vm_events(a, NULL);
		throttle_target(a->throttle, -1);
		vm_end(&a->vm);
		if (!a->ended)
			return error_set(err, ERROR_GENERAL, -ECHILD, "QEMU has ended: %s", how);
	}
	if (r == 0 && p[1].revents)
		agent_server_accept(a);
	for (int i = 0; r == 0 && i < AGENT_CLIENTS; i++)
		if (p[5 + i].fd >= 0 && p[5 + i].revents && a->clients[i].fd == p[5 + i].fd)
			agent_server_read(a, &a->clients[i]);
	return r;
}

/* The guest has stopped for good: its last checkpoint, if there is a secondary. */
static void agent_last_checkpoint(struct agent *a)
{
	uint64_t end = clock_ns() + AGENT_LAST_MS * NS_PER_MS;
	struct staging *slot = agent_slot(a);
	struct error err = {0};
	int r = qmp_run(&a->vm.q, "stop", NULL, NULL, &err);

	if (r == 0 && a->phase == AGENT_CHECKPOINT && slot)
		r = checkpoint(a, slot, &err);
	while (r == 0 && a->session && a->phase == AGENT_CHECKPOINT && a->committed < a->sealed &&
		clock_ns() < end) {
		uint64_t ignored;

		r = agent_wait(a, end, &err);
		if (r == 0)
			r = agent_session_step(a, &ignored, &err);
		a->last_began = clock_ns() + AGENT_LAST_MS * NS_PER_MS; /* no further one */
	}
	if (r < 0)
		log_warning("the last checkpoint: %s", err.text);
}

/* What went wrong in a step ends protection, not the guest: processes that have ended are found by
 * agent_wait, refusals by asking; the rest is tried again, with one line a second. */
static uint64_t agent_trouble(struct agent *a, int r, const struct error *err)
{
	a->doubt = true;
	if (r == -EPIPE || r == -ECONNRESET)
		return 0;
	log_error("no checkpoint: %s", err->text);
	return clock_ns() + AGENT_TROUBLE_MS * NS_PER_MS;
}

int agent_primary(struct agent *a, struct error *err)
{
	uint64_t hold = 0;
	int r = 0;

	repl_set_role(a->repl, "primary");
	while (r == 0 && !a->stop && !a->ended) {
		uint64_t until = hold;

		if (clock_ns() >= hold) {
			r = agent_session_step(a, &until, err);
			if (r == -EXDEV)
				agent_plug_stop(a, err);
			else if (r < 0)
				until = hold = agent_trouble(a, r, err);
		}
		r = agent_wait(a, until, err);
		if (a->superseded) {
			throttle_target(a->throttle, -1);
			vm_end(&a->vm); /* at once: the guest runs on the other node now */
			return error_set(err, ERROR_STATE, -ESHUTDOWN,
				"the other node was promoted by force: the guest was stopped here; "
				"this node can be its standby (tandem standby)");
		}
		if (r == 0 && a->switchover)
			r = agent_switchover(a, err);
		if (a->switching)
			return r;
	}
	if (r == 0 && a->stop && !a->ended) {
		log_info("stopping");
		agent_last_checkpoint(a);
	} else if (r == 0) {
		log_info("the guest has ended: %s", a->how);
	}
	return r;
}

/* One life of a guest here: as the primary, and after a switchover as the standby, and so on. */
static int agent_lives(struct agent *a, bool standby, struct error *err)
{
	int r = 0;

	for (;;) {
		if (standby) {
			r = agent_standby_wait(a, err);
			if (r == 0 && !a->stop)
				r = agent_standby_resume(a, err);
			if (r == 0 && !a->stop)
				r = agent_checkpoints(a, err);
		} else {
			r = agent_replicator(a, "primary", err);
			if (r == 0)
				r = agent_ram(a, -1, err);
			if (r == 0)
				r = agent_vm(a, &a->vm, a->ram_fd, NULL, err);
			if (r == 0)
				r = agent_checkpoints(a, err);
			if (r == 0)
				r = agent_trial(a, err);
			if (r == 0)
				r = vm_cont(&a->vm, err);
		}
		if (r == 0 && !a->stop)
			r = agent_primary(a, err);
		if (r < 0 || !a->switching)
			return r;
		a->switching = false;
		/* The other node goes on when the replicator has ended in order. */
		a->repl = repl_free(a->repl, AGENT_REPL_END_MS);
		agent_vm_end(a);
		agent_ram_end(a);
		standby = true;
	}
}

static int agent_main(const struct agent_options *o, bool standby, struct error *err)
{
	struct agent *a = NULL;
	int r = agent_check_conf(o->conf, err);

	if (r == 0)
		r = agent_new(o, &a, err);
	if (r < 0)
		return r;
	r = agent_server_start(a, err);
	if (r == 0)
		r = agent_lag_init(a, err);
	if (r == 0)
		r = agent_lives(a, standby, err);
	(void)agent_free(a);
	return r;
}

int agent_run(const struct agent_options *o, struct error *err)
{
	return agent_main(o, false, err);
}

int agent_standby(const struct agent_options *o, struct error *err)
{
	return agent_main(o, true, err);
}
