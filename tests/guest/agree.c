/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs inside the test guest and keeps one sequence of numbers in five places: in memory, on two
 * disks, in a second process behind a pipe, and spread over a table of pages. Before each step it
 * looks at all of them; they must hold the same number, not an older and not a newer one. So when
 * the guest goes on elsewhere from a checkpoint whose memory, device state and disks are not of one
 * and the same instant, it says "@@ error".
 *
 * usage: agree run LOAD FILE-OR-DISK FILE-OR-DISK   LOAD: none, disk, mem, both
 *        agree count LOAD                             without disks; LOAD: none, mem
 * Says "@@ seq N up SECONDS pid PID" a few times a second.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum {
	BLOCK = 4096,
	TABLE_PAGES = 512,     /* 2 MiB of memory that follows the sequence */
	LOAD_AT = 1024 * 1024, /* where the disk load's blocks begin */
	LOAD_BLOCKS = 1024,
	LOAD_PAGES = 4096, /* 16 MiB of the memory load */
	SAY_MS = 100,
};

struct place {
	const char *name;
	int fd;
	unsigned char *buf; /* BLOCK, aligned */
};

static uint64_t *table;
static struct place disks[2];
static int ndisks;

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *fmt, ...)
{
	char text[256];
	va_list ap;

	__builtin_va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	__builtin_va_end(ap);
	printf("@@ error %s\n", text);
	fflush(stdout);
	kill(0, SIGTERM);
	_exit(1);
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static uint32_t next_random(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

static void *pages(size_t count)
{
	void *p = mmap(
		NULL, count * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		fail("no memory");
	return p;
}

/* A block that tells its number, and is right or wrong as a whole. */
static void fill(unsigned char *b, uint64_t n)
{
	uint64_t v[BLOCK / 8];

	for (unsigned i = 0; i < BLOCK / 8; i++)
		v[i] = n * 0x9e3779b97f4a7c15ull + i;
	v[0] = n;
	memcpy(b, v, BLOCK);
}

static void put(struct place *p, off_t at, uint64_t n)
{
	fill(p->buf, n);
	if (pwrite(p->fd, p->buf, BLOCK, at) != BLOCK || fdatasync(p->fd) < 0)
		fail("%s: write: %s", p->name, strerror(errno));
}

static void expect(struct place *p, off_t at, uint64_t n)
{
	unsigned char want[BLOCK];
	uint64_t got;

	fill(want, n);
	if (pread(p->fd, p->buf, BLOCK, at) != BLOCK)
		fail("%s: read: %s", p->name, strerror(errno));
	if (!memcmp(p->buf, want, BLOCK))
		return;
	memcpy(&got, p->buf, sizeof(got));
	fail("%s holds %llu at %lld, memory says %llu", p->name, (unsigned long long)got,
		(long long)at, (unsigned long long)n);
}

static void open_place(const char *name)
{
	struct place *p = &disks[ndisks++];

	p->name = name;
	p->fd = open(name, O_RDWR | O_CREAT | O_DIRECT, 0600);
	p->buf = pages(1);
	if (p->fd < 0)
		fail("%s: %s", name, strerror(errno));
}

/* A process of its own; parents' death ends it. */
static void begin(void (*body)(void))
{
	pid_t pid = fork();

	if (pid < 0)
		fail("fork: %s", strerror(errno));
	if (pid > 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	body();
	_exit(0);
}

/* Random blocks of the first disk; what each holds is known in memory only. */
static void load_disk(void)
{
	uint64_t *version = pages(LOAD_BLOCKS * 8 / BLOCK);
	uint32_t seed = 12345;

	disks[0].buf = pages(1);
	for (uint64_t n = 1;; n++) {
		uint32_t b = next_random(&seed) % LOAD_BLOCKS;
		off_t at = LOAD_AT + (off_t)b * BLOCK;

		if (version[b])
			expect(&disks[0], at, version[b]);
		version[b] = n << 16 | b;
		fill(disks[0].buf, version[b]);
		if (pwrite(disks[0].fd, disks[0].buf, BLOCK, at) != BLOCK)
			fail("%s: load: %s", disks[0].name, strerror(errno));
		if (n % 64 == 0)
			fdatasync(disks[0].fd);
	}
}

static void expect_page(const unsigned char *page, const unsigned char *want, unsigned number)
{
	uint64_t got, right;
	unsigned at = 0, bad = 0;

	if (!memcmp(page, want, BLOCK))
		return;
	for (unsigned i = BLOCK; i-- > 0;) {
		if (page[i] == want[i])
			continue;
		at = i / 8 * 8;
		bad++;
	}
	memcpy(&got, page + at, sizeof(got));
	memcpy(&right, want + at, sizeof(right));
	fail("memory: page %u is not what it was: %u bytes from %u on, %016llx and not %016llx",
		number, bad, at, (unsigned long long)got, (unsigned long long)right);
}

/* Random pages, each checked against a number kept elsewhere before it is written anew. */
static void load_mem(void)
{
	unsigned char *area = pages(LOAD_PAGES), want[BLOCK];
	uint64_t *version = pages(LOAD_PAGES * 8 / BLOCK);
	uint32_t seed = 54321;

	for (uint64_t n = 1;; n++) {
		uint32_t p = next_random(&seed) % LOAD_PAGES;

		fill(want, version[p]);
		if (version[p])
			expect_page(area + (size_t)p * BLOCK, want, p);
		version[p] = n << 16 | p;
		fill(area + (size_t)p * BLOCK, version[p]);
		if (n % 16 == 0)
			usleep(1000);
	}
}

static int to_child[2], from_child[2];

/* Keeps the number; answers with what it had before. */
static void keeper(void)
{
	uint64_t mine = 0, n;

	while (read(to_child[0], &n, sizeof(n)) == sizeof(n)) {
		if (write(from_child[1], &mine, sizeof(mine)) != sizeof(mine))
			break;
		mine = n;
	}
	fail("the pipe broke");
}

static void check_table(uint64_t n)
{
	for (unsigned i = 0; i < TABLE_PAGES; i++) {
		uint64_t last = n < i ? 0 : n - (n - i) % TABLE_PAGES;

		if (table[i * (BLOCK / 8)] != last)
			fail("memory: entry %u is %llu, not %llu", i,
				(unsigned long long)table[i * (BLOCK / 8)],
				(unsigned long long)last);
	}
}

static void step(uint64_t n)
{
	uint64_t old;

	for (int i = 0; i < ndisks; i++)
		if (n > 1)
			expect(&disks[i], 0, n - 1);
	for (int i = 0; i < ndisks; i++)
		put(&disks[i], 0, n);
	if (write(to_child[1], &n, sizeof(n)) != sizeof(n) ||
		read(from_child[0], &old, sizeof(old)) != sizeof(old))
		fail("the pipe broke");
	if (old != n - 1)
		fail("the other process had %llu, not %llu", (unsigned long long)old,
			(unsigned long long)n - 1);
	table[n % TABLE_PAGES * (BLOCK / 8)] = n;
}

int main(int argc, char **argv)
{
	const char *load = argc > 2 ? argv[2] : "";
	uint64_t said = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 5 && !strcmp(argv[1], "run")) {
		open_place(argv[3]);
		open_place(argv[4]);
	} else if (argc != 3 || strcmp(argv[1], "count") != 0) {
		fail("usage");
	}
	table = pages(TABLE_PAGES);
	if (pipe(to_child) < 0 || pipe(from_child) < 0)
		fail("pipe: %s", strerror(errno));
	begin(keeper);
	if (ndisks && (!strcmp(load, "disk") || !strcmp(load, "both")))
		begin(load_disk);
	if (!strcmp(load, "mem") || !strcmp(load, "both"))
		begin(load_mem);
	for (uint64_t n = 1;; n++) {
		uint64_t now;

		step(n);
		if (n % 16 == 0)
			check_table(n);
		if (!ndisks && n % 64 == 0)
			usleep(1000);
		now = now_ms();
		if (now - said < SAY_MS)
			continue;
		said = now;
		printf("@@ seq %llu up %llu.%03llu pid %d\n", (unsigned long long)n,
			(unsigned long long)now / 1000, (unsigned long long)now % 1000,
			(int)getpid());
	}
}
