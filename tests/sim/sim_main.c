/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The simulator's command line: runs seeds, or proves that a fault of the harness is noticed. */
#include "sim.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/units.h"

static const char *const break_names[BREAK_COUNT] = {
	[BREAK_NONE] = "none",
	[BREAK_ACK_EARLY] = "ack-early",
	[BREAK_TAIL_EARLY] = "tail-early",
	[BREAK_HEADER_EARLY] = "header-early",
	[BREAK_NO_MARK] = "no-mark",
	[BREAK_SYNC_NO_FLUSH] = "sync-no-flush",
	[BREAK_DROP_CHANGE] = "drop-change",
	[BREAK_LOCAL_ORDER] = "local-order",
	[BREAK_SYNC_UNLOCKED] = "sync-unlocked",
	[BREAK_LOST_CHUNK] = "lost-chunk",
	[BREAK_MISPLACE] = "misplace",
	[BREAK_LATE_CHANGE] = "late-change",
	[BREAK_FORGET_SENT] = "forget-sent",
	[BREAK_NOT_LOOSE] = "not-loose",
	[BREAK_SYNCED_EARLY] = "synced-early",
	[BREAK_CLONE_EARLY] = "clone-early",
	[BREAK_CLONE_NO_NOTE] = "clone-no-note",
	[BREAK_HELD_EARLY] = "held-early",
	[BREAK_HELD_UNASKED] = "held-unasked",
	[BREAK_MEMORY_LATE] = "memory-late",
	[BREAK_MEMORY_DROP] = "memory-drop",
	[BREAK_DELTA_FORGET] = "delta-forget",
	[BREAK_DELTA_NEWEST] = "delta-newest",
};

static int usage(FILE *f)
{
	fprintf(f,
		"usage: sim [--seeds N] [--first S] [--verbose] [--break NAME]\n"
		"Runs N seeds (1000) from S (0); stops at the first that fails.\n"
		"--break: the harness itself is at fault; succeeds if a seed notices.  One of:\n");
	for (unsigned i = 1; i < BREAK_COUNT; i++)
		fprintf(f, "  %s\n", break_names[i]);
	return f == stdout ? 0 : 2;
}

static void print_stats(const struct sim_stats *st)
{
	const struct {
		const char *name;
		uint64_t n;
	} rows[] = {
		{"seeds", st->seeds},
		{"events", st->events},
		{"writes", st->writes},
		{"zeroes", st->zeros},
		{"cuts", st->cuts},
		{"syncs begun", st->syncs},
		{"of bytes", st->sync_bytes},
		{"where a full one has", st->wanted},
		{"durable parts", st->synced},
		{"ended", st->sync_ends},
		{"committed", st->commits},
		{"batches", st->applied},
		{"direct", st->direct},
		{"without data", st->empty_batches},
		{"pieces read from the journal", st->from_journal},
		{"laps of the ring", st->wraps},
		{"runs with a mapped journal", st->mapped},
		{"crashes of the secondary", st->crashes_s},
		{"of the primary", st->crashes_p},
		{"epochs replayed", st->recovered},
		{"journal errors", st->errors},
		{"link breaks", st->breaks},
		{"flipped bytes", st->flips},
		{"noticed", st->flips_seen},
		{"goodbyes", st->goodbyes},
		{"queue full", st->queue_full},
		{"receiver waits", st->rx_wait},
		{"discards", st->discards},
		{"promotions", st->promotions},
		{"without a state", st->unpromotable},
		{"local changes", st->local},
		{"staged syncs", st->staged},
		{"syncs into clones", st->cloned},
		{"of which failed", st->clones_failed},
		{"clones found at a start", st->clones_resumed},
		{"syncs that went on", st->gone_on},
		{"blocks that they held", st->held},
		{"too big", st->too_big},
		{"pages of memory", st->pages},
		{"pages sent as differences", st->deltas},
		{"checkpoints abandoned", st->abandoned},
		{"looks at the memory", st->memory_checks},
		{"guests resumed", st->resumed},
		{"imagined power cuts", st->shadows},
		{"reads", st->live},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		printf("%s%llu %s", i ? ", " : "", (unsigned long long)rows[i].n, rows[i].name);
	putchar('\n');
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"seeds", required_argument, NULL, 'n'},
		{"first", required_argument, NULL, 'f'},
		{"verbose", no_argument, NULL, 'v'},
		{"break", required_argument, NULL, 'b'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	uint64_t seeds = 1000, first = 0;
	enum sim_break broken = BREAK_NONE;
	struct sim_stats stats = {0};
	bool verbose = false, ok = true;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'n':
			if (units_parse_u64(optarg, &seeds) < 0)
				return usage(stderr);
			break;
		case 'f':
			if (units_parse_u64(optarg, &first) < 0)
				return usage(stderr);
			break;
		case 'v':
			verbose = true;
			break;
		case 'b':
			while (broken < BREAK_COUNT && strcmp(break_names[broken], optarg) != 0)
				broken++;
			if (broken == BREAK_COUNT)
				return usage(stderr);
			break;
		default:
			return usage(c == 'h' ? stdout : stderr);
		}
	}
	for (uint64_t i = 0; i < seeds && ok; i++)
		ok = sim_run(first + i, broken, verbose, false, &stats);
	sim_plan_deinit();
	check_deinit();
	if (broken != BREAK_NONE) {
		printf("--break %s: %s after %llu seeds\n", break_names[broken],
			ok ? "NOT noticed" : "noticed", (unsigned long long)stats.seeds);
		return ok;
	}
	if (ok)
		print_stats(&stats);
	return !ok;
}
