/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What bench/checkpoint compares with, on a guest without a replicator: captures of the device
 * state and nothing else, by the way and the code that the agent uses (floor); and a migration of
 * all RAM for each checkpoint, thrown away (naive).
 *
 * usage: checkpoint_floor DIR MEMORY QEMU-COMMAND-LINE     DIR/nbd.sock serves the disk vda
 * Commands on standard input, each answered by one line, numbers in nanoseconds:
 *   floor COUNT MS    COUNT pauses, MS apart
 *   naive COUNT       COUNT pauses, then the bytes of the last migration */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "guest/devstate.h"
#include "guest/qmp.h"
#include "guest/vm.h"
#include "util/clock.h"
#include "util/units.h"

#define NAIVE_MS 120000

struct sink {
	int listener;
	uint64_t bytes;
};

static struct vm vm = {.pidfd = -1};

static void __attribute__((noreturn)) die(const char *why)
{
	fprintf(stderr, "checkpoint_floor: %s\n", why);
	vm_end(&vm);
	exit(1);
}

static void must(int r, const struct error *err)
{
	if (r < 0)
		die(err->text);
}

/* Takes one migration and throws it away. */
static void *sink_main(void *arg)
{
	static char buf[1 << 20];
	struct sink *s = arg;
	int fd = accept(s->listener, NULL, NULL);
	ssize_t n;

	s->bytes = 0;
	while (fd >= 0 && (n = read(fd, buf, sizeof(buf))) > 0)
		s->bytes += (uint64_t)n;
	if (fd >= 0)
		close(fd);
	return NULL;
}

static void capability(bool ignore_shared, struct error *err)
{
	must(qmp_run(&vm.q, "migrate-set-capabilities",
		     json_pack("{s:[{s:s,s:b}]}", "capabilities", "capability", "x-ignore-shared",
			     "state", ignore_shared),
		     NULL, err),
		err);
}

static void migrated(struct error *err)
{
	uint64_t deadline = clock_ns() + NAIVE_MS * NS_PER_MS;

	for (;;) {
		json_t *event;
		const char *s;
		bool done, failed;

		must(rpc_wait_event(&vm.q, "MIGRATION", deadline, &event, err), err);
		s = json_string_value(json_object_get(json_object_get(event, "data"), "status"));
		done = s && !strcmp(s, "completed");
		failed = s && !strcmp(s, "failed");
		json_decref(event);
		if (failed)
			die("a migration failed");
		if (done)
			return;
	}
}

static void naive(const char *dir, unsigned count, struct error *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct sink s = {.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	char uri[128];

	snprintf(a.sun_path, sizeof(a.sun_path), "%s/naive", dir);
	snprintf(uri, sizeof(uri), "unix:%s", a.sun_path);
	unlink(a.sun_path);
	if (bind(s.listener, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(s.listener, 1) < 0)
		die("cannot listen");
	capability(false, err);
	for (unsigned i = 0; i < count; i++) {
		pthread_t thread;
		uint64_t began;

		pthread_create(&thread, NULL, sink_main, &s);
		began = clock_ns();
		must(qmp_run(&vm.q, "stop", NULL, NULL, err), err);
		must(qmp_run(&vm.q, "migrate", json_pack("{s:s}", "uri", uri), NULL, err), err);
		migrated(err);
		must(qmp_cont(&vm.q, err), err);
		printf("%" PRIu64 " ", clock_ns() - began);
		pthread_join(thread, NULL);
	}
	close(s.listener);
	capability(true, err);
	printf("%" PRIu64 "\n", s.bytes);
}

static void capture_floor(struct devstate *ds, unsigned count, unsigned ms, struct error *err)
{
	for (unsigned i = 0; i < count; i++) {
		uint64_t began;

		(void)poll(NULL, 0, (int)ms);
		began = clock_ns();
		must(devstate_begin(ds, err), err);
		must(devstate_quiet(ds, err), err);
		must(devstate_finish(ds, err), err);
		printf("%" PRIu64 " ", clock_ns() - began);
	}
	printf("\n");
}

int main(int argc, char **argv)
{
	struct conf_node node = {.ndisks = 1, .disks = {{.name = "vda"}}};
	char socket_path[100], line[128];
	struct devstate ds = {.fd = -1};
	struct error err = {0};
	struct vm_spec spec = {.node = &node, .nbd_socket = socket_path};
	bool based = false;

	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc != 4 || units_parse_size(argv[2], &spec.memory) < 0)
		die("usage: checkpoint_floor DIR MEMORY QEMU-COMMAND-LINE");
	snprintf(socket_path, sizeof(socket_path), "%s/nbd.sock", argv[1]);
	spec.qemu = argv[3];
	spec.ram_fd = memfd_create("ram", MFD_CLOEXEC);
	if (spec.ram_fd < 0 || ftruncate(spec.ram_fd, (off_t)spec.memory) < 0)
		die("no memory");
	must(vm_start(&vm, &spec, &err), &err);
	must(devstate_init(&ds, DEVSTATE_AUTO, &vm.q, argv[1], spec.memory, vm.machine, &err),
		&err);
	must(qmp_run(&vm.q, "migrate-set-parameters",
		     json_pack("{s:I}", "max-bandwidth", (json_int_t)1 << 40), NULL, &err),
		&err);
	must(vm_cont(&vm, &err), &err);
	printf("%s\n", devstate_name(&ds));
	while (fgets(line, sizeof(line), stdin)) {
		unsigned count = 0, ms = 0;

		if (!based)
			must(devstate_base(&ds, &err), &err);
		based = true;
		if (sscanf(line, "floor %u %u", &count, &ms) == 2)
			capture_floor(&ds, count, ms, &err);
		else if (sscanf(line, "naive %u", &count) == 1)
			naive(argv[1], count, &err);
		else
			die("unknown command");
	}
	devstate_deinit(&ds);
	vm_end(&vm);
	return 0;
}
