/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The parts of the guest's side that need no QEMU: command lines, state blobs, splicing. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "guest/splice.h"
#include "guest/crew.h"
#include "guest/staging.h"
#include "guest/state.h"
#include "guest/throttle.h"
#include "guest/vm.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "guest/kernel.h"

static const struct conf_node node = {.ndisks = 2, .disks = {{.name = "vda"}, {.name = "vdb"}}};

static void words_as_a_shell_splits_them(void **state)
{
	struct error err = {0};
	struct words w;

	assert_int_equal(words_split(&w, "  a 'b c'\t\"d \\\" e\"f \\  g='' ", &err), 0);
	assert_int_equal(w.n, 5);
	assert_string_equal(w.v[1], "b c");
	assert_string_equal(w.v[2], "d \" ef");
	assert_string_equal(w.v[3], " ");
	assert_string_equal(w.v[4], "g=");
	assert_null(w.v[5]);
	words_deinit(&w);
	assert_int_equal(words_split(&w, "a 'b", &err), -EINVAL);
	assert_string_equal(err.text, "a quote is not closed");
	assert_int_equal(words_split(&w, " \n ", &err), -EINVAL);
}

/* The words that Tandem adds to the line, joined. */
static char *added(const char *line)
{
	struct vm_spec spec = {.qemu = line,
		.memory = 256u << 20,
		.ram_fd = 7,
		.node = &node,
		.nbd_socket = "/run/a,b/nbd.sock",
		.incoming = true};
	static char text[2048];
	struct error err = {0};
	struct backends b;
	struct words w;

	if (vm_words(&spec, "pc-q35-7.2", 9, &w, &b, &err) < 0) {
		snprintf(text, sizeof(text), "%s", err.text);
		return text;
	}
	text[0] = '\0';
	for (size_t i = 0; i < w.n; i++) {
		strcat(text, w.v[i]);
		strcat(text, i + 1 < w.n ? " " : "");
	}
	words_deinit(&w);
	return text;
}

#define OWN                                                                                        \
	" -machine pc-q35-7.2,memory-backend=tandem-ram -m size=262144k -object "                  \
	"memory-backend-file,id=tandem-ram,share=on,size=268435456,mem-path=/proc/self/fd/7 "      \
	"-chardev socket,id=tandem-qmp,fd=9 -mon chardev=tandem-qmp,mode=control"
#define DISK(name)                                                                                 \
	" -blockdev driver=nbd,node-name=" name                                                    \
	",server.type=unix,server.path=/run/a,,b/nbd.sock,export=" name "@resume"                  \
	",reconnect-delay=30,discard=unmap"

static void what_is_added_to_the_command_line(void **state)
{
	assert_string_equal(added("q -M q35 -m 256"),
		"q -M q35 -m 256" OWN
			DISK("vda") " -device virtio-blk-pci,drive=vda,id=disk-vda" DISK(
				"vdb") " -device virtio-blk-pci,drive=vdb,id=disk-vdb -S -incoming "
				       "defer");
	/* what starts QEMU has options of its own */
	assert_string_equal(added("numactl -m 0 /opt/qemu-9/qemu -S"),
		"[guest] qemu: -S is not possible: Tandem starts the vCPUs");
	assert_string_equal(added("numactl -m 0 -S /opt/qemu-9/qemu"),
		"numactl -m 0 -S /opt/qemu-9/qemu" OWN
			DISK("vda") " -device virtio-blk-pci,drive=vda,id=disk-vda" DISK(
				"vdb") " -device virtio-blk-pci,drive=vdb,id=disk-vdb -S -incoming "
				       "defer");
	/* a disk that the line refers to is not plugged in a second time */
	assert_string_equal(added("q -device ide-hd,drive=vdb -device nvme,drive=vda,serial=x"),
		"q -device ide-hd,drive=vdb -device nvme,drive=vda,serial=x" OWN DISK("vda")
			DISK("vdb") " -S -incoming defer");
}

/* What becomes of the words of the line itself. */
static const char *backends(const char *line)
{
	char *text = added(line), *end = strstr(text, " -machine pc-q35-7.2 -m size=262144k "
						      "-chardev socket,id=tandem-qmp");

	if (end)
		*end = '\0';
	return text;
}

static void memory_backends_of_the_line(void **state)
{
	/* one */
	assert_string_equal(
		backends(
			"q -machine pc,memory-backend=m -object memory-backend-ram,size=256M,id=m"),
		"q -machine pc,memory-backend=m -object "
		"memory-backend-file,id=m,share=on,size=268435456,mem-path=/proc/self/fd/7");
	/* several: in the file by id, and what else they say stays */
	assert_string_equal(
		backends("q -object memory-backend-memfd,id=y,size=64M,share=off,policy=bind,"
			 "host-nodes=0-1,seal=on -object iothread,id=memory-backend-x -object "
			 "qom-type=memory-backend-ram,id=x,size=192M,prealloc=on"),
		"q -object memory-backend-file,id=y,share=on,size=67108864,mem-path=/proc/self/fd/"
		"7@201326592,policy=bind,host-nodes=0-1 -object iothread,id=memory-backend-x "
		"-object memory-backend-file,id=x,share=on,size=201326592,mem-path=/proc/self/fd/"
		"7@0"); /* prealloc: of a guest that waits, the memory is there */
	assert_string_equal(
		backends("q -object '{\"qom-type\":\"memory-backend-ram\",\"id\":\"x\","
			 "\"size\":268435456,\"host-nodes\":[0,2],\"policy\":\"bind\"}'"),
		"q -object {\"qom-type\":\"memory-backend-file\",\"id\":\"x\",\"size\":268435456,"
		"\"host-nodes\":[0,2],\"policy\":\"bind\",\"share\":true,\"mem-path\":\"/proc/self/"
		"fd/7\"}");
}

static void memory_backends_that_are_refused(void **state)
{
#define SAYS(line, text) assert_string_equal(added("q -object " line), "[guest] qemu: " text)
	SAYS("memory-backend-ram,id=a,size=128M", "its memory backends have 134217728 bytes in "
						  "all, memory in [guest] says 268435456");
	SAYS("memory-backend-ram,id=a,size=128M -object memory-backend-ram,id=a,size=128M",
		"two memory backends are called \"a\"");
	SAYS("memory-backend-file,id=a,size=256M,mem-path=/dev/hugepages/a",
		"memory backend \"a\": mem-path is not possible: Tandem gives the guest its "
		"memory");
	SAYS("memory-backend-memfd,id=a,size=256M,hugetlb=on",
		"memory backend \"a\": hugetlb is not possible: Tandem gives the guest its memory");
	SAYS("hugetlb=on,qom-type=memory-backend-memfd,id=a,size=256M",
		"memory backend \"a\": hugetlb is not possible: Tandem gives the guest its memory");
	SAYS("memory-backend-epc,id=a,size=256M",
		"memory backend \"a\": a memory-backend-epc is not replicated");
	SAYS("memory-backend-ram,id=a", "memory backend \"a\": \"\" is not a size");
	SAYS("memory-backend-ram,id=a,size=300M",
		"memory backend \"a\": a size of 314572800 bytes is not possible: whole pages, at "
		"most memory in [guest]");
	SAYS("\"{'qom-type':'memory-backend-memfd','id':'a','size':268435456}\"",
		"-object {'qom-type':'memory-backend-memfd','id':'a','size':268435456}: it is not "
		"JSON");
	SAYS("memory-backend-ram,size=256M", "-object memory-backend-ram,size=256M: it has no id");
	SAYS("'{\"qom-type\":\"memory-backend-ram\",\"id\":\"x\",\"size\":\"256M\"}'",
		"memory backend \"x\": size is not a number of bytes");
	SAYS("'{\"qom-type\":\"memory-backend-ram\",\"size\":268435456}'",
		"a memory backend has no id, or a very long one");
#undef SAYS
}

static void command_lines_that_are_refused(void **state)
{
	assert_string_equal(added("q -m 512"),
		"[guest] qemu: -m 512 is not what memory in [guest] says: leave it out");
	assert_string_equal(added("q -m size=256M,slots=2,maxmem=1G"),
		"[guest] qemu: -m size=256M,slots=2,maxmem=1G: memory that is plugged later is not "
		"replicated");
	assert_string_equal(added("q --daemonize"),
		"[guest] qemu: -daemonize is not possible: the agent is QEMU's parent");
	assert_string_equal(added("q -runas nobody"),
		"[guest] qemu: -runas is not possible: QEMU would outlive the agent, which could "
		"not look at its memory: run tandem as that user");
	assert_string_equal(added("q -run-with chroot=/x,user=nobody"),
		"[guest] qemu: -run-with user=nobody is not possible: QEMU would outlive the "
		"agent, which could not look at its memory: run tandem as that user");
	assert_string_equal(added("q 'x"), "[guest] qemu: a quote is not closed");
}

static void state_blobs(void **state)
{
	struct state_head h = {.spliced = true,
				  .base_len = 5,
				  .ram_size = 1 << 20,
				  .shape = {2, 7, 9}},
			  got;
	unsigned char blob[STATE_HEADER + 5 + 20] = {0};
	struct error err = {0};

	strcpy(h.machine, "pc-q35-7.2");
	memcpy(blob + STATE_HEADER, "base!", 5);
	state_head_put(&h, blob + STATE_HEADER, blob);
	assert_int_equal(state_head_get(&got, blob, sizeof(blob), &err), 0);
	assert_true(got.spliced);
	assert_int_equal(got.base_len, 5);
	assert_int_equal(got.ram_size, 1 << 20);
	assert_string_equal(got.machine, "pc-q35-7.2");
	assert_int_equal(got.shape.cpus, 2);
	assert_int_equal(got.shape.devices, 7);
	assert_int_equal(got.shape.memory, 9);
	assert_int_equal(state_head_get(&got, blob, STATE_HEADER + 4, &err), -EPROTO);
	blob[STATE_HEADER + 1] ^= 1;
	assert_int_equal(state_head_get(&got, blob, sizeof(blob), &err), -EPROTO);
	assert_string_equal(err.text, "device state: it is damaged");
	blob[STATE_HEADER + 1] ^= 1;
	blob[70] ^= 1;
	assert_int_equal(state_head_get(&got, blob, sizeof(blob), &err), -EPROTO);
	blob[70] ^= 1;
	blob[8] = 2;
	assert_int_equal(state_head_get(&got, blob, sizeof(blob), &err), -EPROTO);
	blob[0] = 0;
	assert_int_equal(state_head_get(&got, blob, sizeof(blob), &err), -EPROTO);
}

static void a_machine_of_another_shape_is_told(void **state)
{
	const struct vm_shape guest = {2, 7}, fewer = {1, 7}, other = {2, 8}, unknown = {0, 0};
	struct error err = {0};

	assert_int_equal(vm_shape_same(&guest, &guest, &err), 0);
	assert_int_equal(vm_shape_same(&unknown, &guest, &err), 0);
	assert_int_equal(vm_shape_same(&guest, &fewer, &err), -ENXIO);
	assert_string_equal(
		err.text, "vCPUs: the guest has 2, [guest] qemu gives it 1 on this node");
	assert_int_equal(vm_shape_same(&guest, &other, &err), -ENXIO);
	assert_non_null(strstr(err.text, "devices are not those"));
}

static void the_base_ends_where_the_saved_file_begins(void **state)
{
	unsigned char full[256] = {'Q', 'E', 'V', 'M', 0, 0, 0, 3};
	unsigned char saved[128] = {'Q', 'E', 'V', 'M', 0, 0, 0, 3};
	static const unsigned char first[] = {4, 0, 0, 0, 5, 5, 't', 'i', 'm', 'e', 'r', 0};
	size_t len;

	memcpy(saved + 8, first, sizeof(first));
	memcpy(full + 100, first, sizeof(first)); /* in RAM: no footer before it */
	assert_int_equal(splice_base(full, sizeof(full), saved, sizeof(saved), &len), -EPROTO);
	full[195] = 0x7e;
	memcpy(full + 200, first, sizeof(first));
	assert_int_equal(splice_base(full, sizeof(full), saved, sizeof(saved), &len), 0);
	assert_int_equal(len, 200);
	memcpy(full + 200, first, sizeof(first) - 1); /* another name */
	full[200 + 7] = 'x';
	assert_int_equal(splice_base(full, sizeof(full), saved, sizeof(saved), &len), -EPROTO);
	saved[0] = 'q';
	assert_int_equal(splice_base(full, sizeof(full), saved, sizeof(saved), &len), -EPROTO);
}

/* Random sets of pages copied ahead of a stop and in it: the table names each once, with the newest
 * copy. */
static void a_table_names_each_page_once(void **state)
{
	enum { PAGES = 64 };
	static unsigned char older[PAGES * 4096], newer[PAGES * 4096];
	struct error err = {0};
	struct staging s;

	memset(older, 1, sizeof(older));
	memset(newer, 2, sizeof(newer));
	assert_int_equal(staging_init(&s, sizeof(older), &err), 0);
	for (unsigned seed = 1; seed <= 2000; seed++) {
		unsigned char want[PAGES] = {0}, got[PAGES] = {0};
		struct runs a = {0}, b = {0};
		uint64_t a_data, b_data, table, n;

		srand(seed);
		for (unsigned i = 0; i < PAGES; i++) {
			if (rand() % 3 == 0) {
				assert_int_equal(runs_add(&a, i * 4096, 4096), 0);
				want[i] = 1;
			}
			if (rand() % 3 == 0) {
				assert_int_equal(runs_add(&b, i * 4096, 4096), 0);
				want[i] = 2;
			}
		}
		staging_reset(&s);
		a_data = staging_copy(&s, older, &a, NULL);
		b_data = staging_copy(&s, newer, &b, NULL);
		n = staging_table(&s, &a, a_data, &b, b_data, &table);
		for (uint64_t e = 0; e < n; e++) {
			const unsigned char *p = s.map + table + 24 * e;
			uint64_t first = get_le64(p) / 4096, count = get_le64(p + 8) / 4096;

			for (uint64_t i = 0; i < count; i++) {
				assert_int_equal(got[first + i], 0);
				got[first + i] = s.map[get_le64(p + 16) + i * 4096];
			}
		}
		assert_memory_equal(got, want, PAGES);
		runs_deinit(&a);
		runs_deinit(&b);
	}
	staging_deinit(&s);
}

struct crew_count {
	_Atomic unsigned done[1000];
	_Atomic unsigned by[CREW_MOST];
};

static void crew_count_part(void *arg, unsigned who, uint64_t part)
{
	struct crew_count *n = arg;

	n->done[part]++;
	n->by[who]++;
}

/* Again and again, with and without a pause between start and finish: each part once, by a member.
 */
static void crew_does_each_part_once(void **state)
{
	static struct crew_count n;
	struct crew *c = crew_new(CREW_THREADS);
	unsigned total = 0;

	assert_non_null(c);
	assert_in_range(crew_size(c), 1, CREW_MOST);
	for (unsigned round = 0; round < 900; round++) {
		uint64_t parts = round % 1000;

		memset(&n, 0, sizeof(n));
		crew_avoid(c, (int)(round / 100) % 3 - 1);
		crew_start(c, crew_count_part, &n, parts);
		if (round % 4 == 0)
			usleep(50);
		crew_finish(c);
		for (uint64_t i = 0; i < 1000; i++)
			assert_int_equal(n.done[i], i < parts);
		total = 0;
		for (unsigned i = 0; i < CREW_MOST; i++) {
			assert_true(n.by[i] == 0 || i < crew_size(c));
			total += n.by[i];
		}
		assert_int_equal(total, parts);
	}
	assert_null(crew_free(c));
	assert_null(crew_free(NULL));
}

/* A copy large enough to be shared, of runs of all lengths: as one of the caller alone. */
static void staging_copies_with_a_crew(void **state)
{
	enum { PAGES = 8192 };
	unsigned char *image = malloc((size_t)PAGES * 4096);
	struct crew *c = crew_new(CREW_THREADS);
	struct error err = {0};
	struct staging s;

	assert_non_null(image);
	assert_int_equal(staging_init(&s, (uint64_t)PAGES * 4096, &err), 0);
	for (unsigned i = 0; i < PAGES; i++)
		memset(image + (size_t)i * 4096, (int)(i % 251 + 1), 4096);
	for (unsigned seed = 1; seed <= 12; seed++) {
		struct runs runs = {0};
		unsigned long at = 0;

		srand(seed);
		for (unsigned i = (unsigned)rand() % 8; i < PAGES; i += 1 + (unsigned)rand() % 8) {
			unsigned n = (unsigned)rand() % (seed % 3 ? 16 : 900) + 1;

			n = i + n > PAGES ? PAGES - i : n;
			assert_int_equal(runs_add(&runs, i * 4096, n * 4096), 0);
			i += n;
		}
		staging_reset(&s);
		(void)staging_bytes(&s, "x", 1);
		at = staging_copy(&s, image, &runs, c);
		assert_int_equal(at, 1);
		assert_int_equal(s.used, 1 + runs.bytes);
		for (size_t i = 0; i < runs.n; i++) {
			assert_memory_equal(s.map + at, image + runs.v[i].offset, runs.v[i].length);
			at += runs.v[i].length;
		}
		runs_deinit(&runs);
	}
	staging_deinit(&s);
	(void)crew_free(c);
	free(image);
}

/* The letter of /proc/PID/stat: T while it is stopped. */
static char process_state(pid_t pid)
{
	char path[64], state = '?';
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "r");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%*d %*s %c", &state), 1);
	fclose(f);
	return state;
}

/* Whether it is seen stopped within that time. */
static bool seen_stopped(pid_t pid, unsigned ms)
{
	uint64_t end = clock_ns() + ms * NS_PER_MS;

	while (clock_ns() < end) {
		if (process_state(pid) == 'T')
			return true;
		(void)poll(NULL, 0, 1);
	}
	return false;
}

static void until_percent(struct throttle *t, unsigned percent)
{
	for (int i = 0; i < 6000 && throttle_percent(t) != percent; i++)
		(void)poll(NULL, 0, 10);
	assert_int_equal(throttle_percent(t), percent);
}

static void a_guest_is_slowed_while_its_checkpoint_is_old(void **state)
{
	struct throttle *t;
	struct error err;
	pid_t pid = fork();
	int pidfd;

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	pidfd = kernel_pidfd_open(pid);
	assert_true(pidfd >= 0);
	assert_int_equal(throttle_new(NS_PER_S, &t, &err), 0);
	throttle_target(t, pidfd);
	assert_false(seen_stopped(pid, 300)); /* nobody has said how old anything is */
	assert_int_equal(throttle_percent(t), 0);

	throttle_since(t, clock_ns() - 2 * NS_PER_S);
	until_percent(t, 90); /* and no more */
	assert_true(seen_stopped(pid, 10000));
	assert_int_equal(throttle_percent(t), 90);
	throttle_hold(t); /* at once, and as long as it lasts */
	assert_false(seen_stopped(pid, 300));
	throttle_release(t);
	assert_true(seen_stopped(pid, 10000));

	throttle_since(t, clock_ns() + 600 * NS_PER_S); /* young for the rest of this test */
	until_percent(t, 0);
	assert_false(seen_stopped(pid, 300));

	throttle_since(t, clock_ns() - 2 * NS_PER_S);
	assert_true(seen_stopped(pid, 10000));
	throttle_since(t, 0); /* no session any more */
	until_percent(t, 0);
	assert_false(seen_stopped(pid, 300));

	throttle_since(t, clock_ns() - 2 * NS_PER_S);
	assert_true(seen_stopped(pid, 10000));
	throttle_target(t, -1); /* it is let go of */
	assert_false(seen_stopped(pid, 300));
	throttle_target(t, pidfd);
	throttle_since(t, clock_ns() - 2 * NS_PER_S);
	assert_true(seen_stopped(pid, 10000));
	assert_null(throttle_free(t));
	assert_false(seen_stopped(pid, 300));
	assert_null(throttle_free(NULL));
	throttle_hold(NULL);
	throttle_since(NULL, 1);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(pidfd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crew_does_each_part_once),
		cmocka_unit_test(staging_copies_with_a_crew),
		cmocka_unit_test(words_as_a_shell_splits_them),
		cmocka_unit_test(what_is_added_to_the_command_line),
		cmocka_unit_test(command_lines_that_are_refused),
		cmocka_unit_test(memory_backends_of_the_line),
		cmocka_unit_test(memory_backends_that_are_refused),
		cmocka_unit_test(state_blobs),
		cmocka_unit_test(a_table_names_each_page_once),
		cmocka_unit_test(a_machine_of_another_shape_is_told),
		cmocka_unit_test(the_base_ends_where_the_saved_file_begins),
		cmocka_unit_test(a_guest_is_slowed_while_its_checkpoint_is_old),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
