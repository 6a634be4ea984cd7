/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A real guest is checkpointed again and again while it runs; an image of its RAM is kept up to
 * date by nothing but the reported pages, and compared with all of the RAM while the guest stands.
 * Then a second QEMU goes on from the last checkpoint, on that image and copies of the disks of the
 * same instant; the guest itself (agree.c) finds anything that does not fit together.
 *
 * usage: capture CACHE DIR PRELOAD CAPTURE TRACKING LOAD COUNT QEMU-ARGUMENTS
 *   CACHE: what setup.sh filled; DIR: for disks and logs; CAPTURE: auto, migrate, fifo; TRACKING:
 * auto, uffd, soft-dirty, shadow; LOAD: of agree.c; COUNT: checkpoints Ends with 0, 77 (this kernel
 * cannot; the reason), or 1. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/devstate.h"
#include "guest/track.h"
#include "guest/vm.h"
#include "util/clock.h"
#include "util/file.h"

#define MEMORY (192ull << 20)
#define DISK (16ull << 20)
#define LINES_WANTED 15

static const char *dir, *cache, *preload;
static pid_t servers[2];
static struct vm vms[2];

static void __attribute__((noreturn, format(printf, 2, 3))) die(int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	for (int i = 0; i < 2; i++) {
		if (vms[i].pid > 0)
			kill(vms[i].pid, SIGKILL);
		if (servers[i] > 0)
			kill(servers[i], SIGKILL);
	}
	exit(code);
}

static void nap(unsigned ms)
{
	(void)poll(NULL, 0, (int)ms);
}

static const char *path(const char *side, const char *name)
{
	static char buf[4][512];
	static int at;
	char *p = buf[at++ % 4];

	snprintf(p, 512, "%s/%s%s", dir, side, name);
	return p;
}

static void make_disks(const char *side)
{
	(void)mkdir(path(side, ""), 0700);
	(void)mkdir(path(side, "/disks"), 0700);
	for (int i = 0; i < 2; i++) {
		const char *p = path(side, i ? "/disks/vdb" : "/disks/vda");
		int fd = open(p, O_RDWR | O_CREAT | O_TRUNC, 0600);

		if (fd < 0 || ftruncate(fd, DISK) < 0)
			die(1, "%s: %s", p, strerror(errno));
		close(fd);
		/* the name under which a QEMU that is to go on asks for it */
		if (symlink(i ? "vdb" : "vda",
			    path(side, i ? "/disks/vdb@resume" : "/disks/vda@resume")) < 0)
			die(1, "%s: %s", p, strerror(errno));
	}
}

/* The disks of side a as they are now, as those of side b. */
static void copy_disks(void)
{
	static unsigned char buf[1 << 20];

	for (int i = 0; i < 2; i++) {
		int from = open(path("a", i ? "/disks/vdb" : "/disks/vda"), O_RDONLY);
		int to = open(path("b", i ? "/disks/vdb" : "/disks/vda"), O_WRONLY);

		for (uint64_t at = 0; at < DISK; at += sizeof(buf))
			if (file_pread(from, buf, sizeof(buf), at) < 0 ||
				file_pwrite(to, buf, sizeof(buf), at) < 0)
				die(1, "cannot copy the disks");
		close(from);
		close(to);
	}
}

static pid_t serve(const char *side)
{
	const char *socket = path(side, "/nbd.sock");
	char exports[600];
	struct stat st;
	pid_t pid;

	snprintf(exports, sizeof(exports), "dir=%s", path(side, "/disks"));
	unlink(socket);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execlp("nbdkit", "nbdkit", "-f", "-U", socket, "file", exports, NULL);
		_exit(127);
	}
	for (int i = 0; i < 1000 && stat(socket, &st) < 0; i++)
		nap(10);
	return pid;
}

static void start(int i, const char *side, const struct conf_node *node, int ram_fd,
	const char *machine, const char *extra, const char *load)
{
	struct error err = {0};
	const char *qemu = getenv("TANDEM_TEST_QEMU");
	char line[4096];
	struct vm_spec spec = {.qemu = line,
		.preload = preload,
		.memory = MEMORY,
		.ram_fd = ram_fd,
		.machine = machine,
		.node = node,
		.nbd_socket = path(side, "/nbd.sock"),
		.incoming = machine != NULL};

	snprintf(line, sizeof(line),
		"%s -accel tcg -nodefaults -no-user-config -display none "
		"-no-reboot "
		"-kernel %s/vmlinuz -initrd %s/initrd.img -append 'console=ttyS0 quiet panic=-1 "
		"mitigations=off nokaslr no_timer_check rcupdate.rcu_expedited=1 "
		"random.trust_cpu=on "
		"tandem.mode=agree-raw tandem.load=%s%s' -serial file:%s %s",
		qemu ? qemu : "qemu-system-x86_64", cache, cache, load,
		strstr(extra, "scsi-hd") ? " tandem.disks=sd" : "", path(side, "/console"), extra);
	if (vm_start(&vms[i], &spec, &err) < 0)
		die(1, "side %s: %s", side, err.text);
}

/* The newest whole line "@@ seq N up S pid P"; -1 where the guest says "@@ error". */
static int console(
	const char *side, uint64_t *ret_seq, double *ret_up, int *ret_pid, int *ret_lines)
{
	static char text[1 << 20];
	FILE *f = fopen(path(side, "/console"), "r");
	char *save = NULL;
	size_t n;

	*ret_lines = 0;
	if (!f)
		return 0;
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	while (n > 0 && text[n - 1] != '\n')
		n--;
	text[n] = '\0';
	for (char *l = strtok_r(text, "\r\n", &save); l; l = strtok_r(NULL, "\r\n", &save)) {
		uint64_t seq;
		double up;
		int pid;

		if (!strncmp(l, "@@ error", 8)) {
			printf("side %s: the guest says: %s\n", side, l);
			return -1;
		}
		if (sscanf(l, "@@ seq %" SCNu64 " up %lf pid %d", &seq, &up, &pid) != 3)
			continue;
		*ret_seq = seq;
		*ret_up = up;
		*ret_pid = pid;
		++*ret_lines;
	}
	return 0;
}

static void wait_lines(const char *side, int i, int want, uint64_t *seq, double *up, int *pid)
{
	char how[64];
	int lines;

	for (int t = 0; t < 2400; t++) {
		if (console(side, seq, up, pid, &lines) < 0)
			die(1, "side %s: memory and disks do not agree", side);
		if (lines >= want)
			return;
		if (vm_ended(&vms[i], how, sizeof(how)))
			die(1, "side %s: QEMU ended: %s", side, how);
		nap(50);
	}
	die(1, "side %s: the guest is silent", side);
}

static int by_name(const char *const *names, const char *name)
{
	for (int i = 0; names[i]; i++)
		if (!strcmp(names[i], name))
			return i;
	die(1, "there is no \"%s\"", name);
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void copy_runs(unsigned char *image, const struct track *t, const struct runs *r)
{
	for (size_t i = 0; i < r->n; i++)
		memcpy(image + r->v[i].offset, t->image + r->v[i].offset, r->v[i].length);
}

int main(int argc, char **argv)
{
	static const char *const ways[] = {"auto", "migrate", "fifo", NULL};
	static const char *const tracks[] = {"auto", "uffd", "soft-dirty", "shadow", NULL};
	struct conf_node node = {.ndisks = 2, .disks = {{.name = "vda"}, {.name = "vdb"}}};
	int ram_fd = memfd_create("ram-a", MFD_CLOEXEC),
	    image_fd = memfd_create("ram-b", MFD_CLOEXEC);
	uint64_t *pauses, seq, seq_at = 0, dirty = 0;
	unsigned char *ram, *image;
	struct track_target at;
	struct devstate ds;
	struct error err = {0};
	struct crew *crew = crew_new(CREW_THREADS);
	struct track *track;
	struct runs runs = {0};
	unsigned char *blob;
	double up, up_at = 0;
	int count, pid, pid_at = 0, lines, r;

	if (argc != 9)
		die(1, "usage: capture CACHE DIR PRELOAD CAPTURE TRACKING LOAD COUNT "
		       "QEMU-ARGUMENTS");
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	cache = argv[1];
	dir = argv[2];
	preload = argv[3];
	count = atoi(argv[7]);
	pauses = calloc((size_t)count + 1, sizeof(*pauses));
	if (ftruncate(ram_fd, MEMORY) < 0 || ftruncate(image_fd, MEMORY) < 0)
		die(1, "no memory");
	ram = mmap(NULL, MEMORY, PROT_READ, MAP_SHARED, ram_fd, 0);
	image = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, image_fd, 0);
	make_disks("a");
	make_disks("b");
	servers[0] = serve("a");
	servers[1] = serve("b");
	start(0, "a", &node, ram_fd, NULL, argv[8], argv[6]);
	if (vm_cont(&vms[0], &err) < 0)
		die(1, "%s", err.text);
	wait_lines("a", 0, 3, &seq, &up, &pid);

	at = (struct track_target){.pid = vms[0].pid, .ram_fd = ram_fd, .ram = ram, .size = MEMORY};
	r = track_new((enum track_way)by_name(tracks, argv[5]), &at, crew, &track, &err);
	if (r < 0)
		die(r == -EOPNOTSUPP ? 77 : 1, "%s", err.text);
	if (devstate_init(&ds, (enum devstate_way)by_name(ways, argv[4]), &vms[0].q, path("a", ""),
		    MEMORY, vms[0].machine, &err) < 0 ||
		devstate_base(&ds, &err) < 0 || track_arm(track, &err) < 0)
		die(1, "%s", err.text);
	printf("capture %s%s%s, tracking %s, machine %s\n", devstate_name(&ds),
		ds.why[0] ? ": " : "", ds.why, track->ops->name, vms[0].machine);
	memcpy(image, track->image, MEMORY);
	for (int i = 0; i < count; i++) {
		bool last = i == count - 1;
		uint64_t began, n;

		nap(20 + (unsigned)i * 7 % 30);
		if (track->ops->live && i % 2) { /* ahead of the stop */
			runs_clear(&runs);
			if (track_collect(track, &runs, &err) < 0)
				die(1, "%s", err.text);
			copy_runs(image, track, &runs);
		}
		began = clock_ns();
		if (devstate_begin(&ds, &err) < 0)
			die(1, "checkpoint %d: %s", i, err.text);
		if (i % 4) /* as the agent does; now and then as it would on one processor */
			track_early(track);
		if (devstate_quiet(&ds, &err) < 0)
			die(1, "checkpoint %d: %s", i, err.text);
		runs_clear(&runs);
		if (track_final(track, &runs, &err) < 0)
			die(1, "checkpoint %d: %s", i, err.text);
		copy_runs(image, track, &runs);
		dirty += runs.bytes;
		n = clock_ns();
		if (last || i % 7 == 3) {
			nap(20); /* QEMU has written what it can write */
			if (memcmp(image, ram, MEMORY) != 0) {
				for (uint64_t o = 0; o < MEMORY; o += KERNEL_PAGE)
					if (memcmp(image + o, ram + o, KERNEL_PAGE) != 0)
						printf("page %#" PRIx64 " differs\n", o);
				die(1, "checkpoint %d: the tracking missed pages", i);
			}
			if (last) {
				copy_disks();
				console("a", &seq_at, &up_at, &pid_at, &lines);
			}
		}
		began += clock_ns() - n; /* not part of the pause */
		if (devstate_finish(&ds, &err) < 0)
			die(1, "checkpoint %d: %s", i, err.text);
		pauses[i] = clock_ns() - began;
	}
	qsort(pauses, (size_t)count, sizeof(*pauses), compare_u64);
	printf("pause ms: p50 %.2f p90 %.2f max %.2f; state %zu + %zu bytes; %" PRIu64
	       " pages dirty at a checkpoint; %" PRIu64 " early scans made again\n",
		(double)pauses[count / 2] / 1e6, (double)pauses[count * 9 / 10] / 1e6,
		(double)pauses[count - 1] / 1e6, ds.head.len, ds.dev.len,
		dirty / KERNEL_PAGE / (uint64_t)count, track->again);

	blob = malloc(ds.head.len + ds.dev.len);
	memcpy(blob, ds.head.p, ds.head.len);
	memcpy(blob + ds.head.len, ds.dev.p, ds.dev.len);
	start(1, "b", &node, image_fd, vms[0].machine, argv[8], argv[6]);
	if (vm_resume(&vms[1], blob, ds.head.len + ds.dev.len, &err) < 0)
		die(1, "%s", err.text);
	wait_lines("b", 1, 1, &seq, &up, &pid);
	printf("at the checkpoint the guest had said %" PRIu64
	       " (up %.3f); it went on with %" PRIu64 " (up %.3f)\n",
		seq_at, up_at, seq, up);
	if (pid != pid_at || seq < seq_at || up < up_at || up > up_at + 60)
		die(1, "that is not the same guest");
	wait_lines("b", 1, LINES_WANTED, &seq, &up, &pid);
	wait_lines("a", 0, 10, &seq, &up, &pid);
	for (int i = 0; i < 2; i++)
		vm_end(&vms[i]);
	runs_deinit(&runs);
	devstate_deinit(&ds);
	(void)track_free(track);
	for (int i = 0; i < 2; i++)
		kill(servers[i], SIGKILL);
	printf("ok\n");
	return 0;
}
