/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs inside the test guest and does what its console tells, one line at a time; for
 * bench/checkpoint.
 *
 *   idle                   nothing
 *   mem KIB_PER_S MIB      writes to one page after the other of MIB, so many KiB a second; a unit
 * is a page disk PER_S             writes 4 KiB blocks anywhere on vda, a flush after every eighth;
 * 0: as fast as it can; a unit is a block mixed KIB_PER_S MIB PER_S cpu                    a unit
 * is a loop of a fixed length say                    "@@ work NAME UNITS": done since the last
 * other command
 *
 * Each but "say" is answered by "@@ doing NAME".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, TICK_MS = 10, FLUSH_EVERY = 8, LOOP = 20000 };

static char name[16] = "idle";
static uint64_t units, pages, blocks; /* since the last command */
static uint64_t page_rate, page_count, block_rate;
static int disk = -1;
static uint64_t disk_blocks;
static unsigned char *memory, *block;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void say(const char *what)
{
	printf("@@ %s %s %llu\n", what, name, (unsigned long long)units);
	fflush(stdout);
}

static uint64_t noise(void)
{
	static uint64_t seed = 88172645463325252ull;

	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* So that it cannot be compressed. */
static void fill(uint64_t words)
{
	for (uint64_t i = 0; i < words; i++)
		((uint64_t *)memory)[i] = noise();
}

static void command(const char *line)
{
	unsigned long long a = 0, b = 0, c = 0;
	char word[16];

	if (sscanf(line, "%15s %llu %llu %llu", word, &a, &b, &c) < 1)
		return;
	if (!strcmp(word, "say")) {
		say("work");
		return;
	}
	memcpy(name, word, sizeof(name));
	units = pages = blocks = page_rate = page_count = block_rate = 0;
	if (memory)
		munmap(memory, 1ull << 30);
	memory = NULL;
	if (!strcmp(name, "mem") || !strcmp(name, "mixed")) {
		page_rate = a / 4;
		page_count = b * 256;
		block_rate = c;
		memory = mmap(NULL, 1ull << 30, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		fill(page_count * (PAGE / sizeof(uint64_t)));
	} else if (!strcmp(name, "disk")) {
		block_rate = a;
	}
	say("doing");
}

static void do_memory(double since)
{
	uint64_t want = (uint64_t)((now() - since) * (double)page_rate);

	for (; page_count && pages < want; pages++, units++) {
		uint64_t *p = (uint64_t *)(memory + pages % page_count * PAGE);

		for (int i = 0; i < 8; i++) /* here and there in it */
			p[i * 64] = pages * 0x9e3779b97f4a7c15ull + (uint64_t)i;
	}
}

static void do_block(void)
{
	uint64_t where = noise();
	off_t at = (off_t)(where % disk_blocks * PAGE);

	memcpy(block, &where, sizeof(where));
	if (pwrite(disk, block, PAGE, at) != PAGE ||
		(++blocks % FLUSH_EVERY == 0 && fdatasync(disk) < 0)) {
		printf("@@ error the disk fails: %s\n", strerror(errno));
		fflush(stdout);
		exit(1);
	}
	units++;
}

/* What is due; 0: more at once, otherwise milliseconds to wait, -1 for ever. */
static int work(double since)
{
	if (!strcmp(name, "cpu")) {
		for (volatile int i = 0; i < LOOP; i++)
			;
		units++;
		return 0;
	}
	if (!strcmp(name, "disk") && !block_rate) {
		do_block();
		return 0;
	}
	if (!page_rate && !block_rate)
		return -1;
	do_memory(since);
	while (block_rate && blocks < (uint64_t)((now() - since) * (double)block_rate))
		do_block();
	return TICK_MS;
}

int main(void)
{
	struct pollfd in = {.fd = 0, .events = POLLIN};
	double since = now();
	char line[128];
	int wait;

	disk = open("/dev/vda", O_RDWR | O_DIRECT);
	disk_blocks = disk < 0 ? 0 : (uint64_t)lseek(disk, 0, SEEK_END) / PAGE;
	if (!disk_blocks || posix_memalign((void **)&block, PAGE, PAGE) != 0) {
		printf("@@ error no disk\n");
		return 1;
	}
	memset(block, 0x5a, PAGE);
	say("doing");
	for (;;) {
		wait = work(since);
		if (poll(&in, 1, wait) != 1)
			continue;
		ssize_t n = read(0, line, sizeof(line) - 1); /* the console gives one line */

		if (n <= 0)
			return 0;
		line[n] = '\0';
		command(line);
		if (strncmp(line, "say", 3) != 0)
			since = now();
	}
}
