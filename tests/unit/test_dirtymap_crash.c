/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Invariant I3 under crashes: the real dirty map and activity log over a simulated file, disk and
 * peer.  After every step the machine is imagined to lose power: each write to the map file that
 * was not synced is kept, lost or torn by sector, each write to the local disk that was not flushed
 * may be there or not, and every block that can then differ from what the peer has committed must
 * be in the map that is found.  Real crashes in between go on with what was found.
 *
 * usage: test_dirtymap_crash [--seeds N] [--first S] [--break NAME]
 * --break: a fault is put in; succeeds if a seed notices. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/activity.h"
#include "util/bytes.h"
#include "util/units.h"

#define BLOCK 4096u
#define REGIONS 66u /* of 1024 blocks: three pages */
#define REGION (4ull << 20)
#define SIZE (REGIONS * REGION - 1000)
#define SPOTS 48u  /* blocks that are written */
#define VALUES 32u /* local writes of a block that no flush has covered */
#define WRITERS 6u
#define CHANGES 4096u
#define CAPACITY 8u
#define SECTOR 512u
#define FILE_SIZE (16u * DIRTYFILE_UNIT)
#define UNSYNCED 256u

enum fault {
	FAULT_NONE,
	FAULT_NO_WAIT,     /* writes to cold regions do not wait */
	FAULT_NO_SYNC,     /* pages are not synced before the record */
	FAULT_NO_PAGES,    /* ... not even written */
	FAULT_NOT_LOOSE,   /* local writes that are not flushed are forgotten */
	FAULT_LOOSE_EARLY, /* a flush clears what ended after it began */
	FAULT_ACK_EARLY,   /* acknowledged by what was sent, not by what is committed */
	FAULT_ONE_WINDOW,  /* the window is dropped at the first acknowledgement */
	FAULT_FORGET,      /* the link's end drops what was on its way */
	FAULT_ONE_SLOT,    /* pages overwrite their only copy */
	FAULT_COUNT,
};

static const char *const fault_names[FAULT_COUNT] = {"none", "no-wait", "no-sync", "no-pages",
	"not-loose", "loose-early", "ack-early", "one-window", "forget", "one-slot"};

struct spot {
	uint64_t off;
	uint32_t durable;         /* value that surely is on the local disk */
	uint32_t loose[VALUES];   /* later ones, oldest first */
	unsigned nloose, covered; /* covered: by the flush that runs */
	uint32_t flight;          /* of the write under way, 0 = none */
	uint32_t peer;            /* committed there */
};

struct change {
	unsigned spot;
	uint32_t value;
};

enum stage { IDLE, WAITING, WRITING };

struct writer {
	enum stage stage;
	unsigned spot;
	struct activity_request ask;
};

struct world {
	uint64_t rng;
	enum fault fault;
	struct dirtymap map, *maps[1];
	struct activity act;
	struct dirtymap_windows win;
	struct spot spots[SPOTS];
	struct writer writers[WRITERS];
	uint32_t values;
	/* the session */
	bool up, flushing;
	struct change changes[CHANGES];
	uint64_t sent, committed;
	/* the file */
	uint8_t stable[FILE_SIZE];
	struct {
		uint64_t off;
		uint8_t data[DIRTYFILE_UNIT];
	} unsynced[UNSYNCED];
	unsigned nunsynced;
	unsigned phase, put; /* of the transaction that is out */
	/* statistics */
	uint64_t checks, crashes, transactions, found;
};

static uint64_t mix(uint64_t v)
{
	v ^= v >> 30;
	v *= 0xbf58476d1ce4e5b9ull;
	v ^= v >> 27;
	v *= 0x94d049bb133111ebull;
	return v ^ v >> 31;
}

static uint64_t rng(struct world *w, uint64_t below)
{
	w->rng += 0x9e3779b97f4a7c15ull;
	return mix(w->rng) % below;
}

/* --- the file --- */

static void file_put(struct world *w, uint64_t off, const uint8_t *buf)
{
	if (w->nunsynced == UNSYNCED || off + DIRTYFILE_UNIT > FILE_SIZE)
		abort();
	w->unsynced[w->nunsynced].off = off;
	memcpy(w->unsynced[w->nunsynced++].data, buf, DIRTYFILE_UNIT);
}

static void file_sync(struct world *w)
{
	for (unsigned i = 0; i < w->nunsynced; i++)
		memcpy(w->stable + w->unsynced[i].off, w->unsynced[i].data, DIRTYFILE_UNIT);
	w->nunsynced = 0;
}

/* What a power cut leaves. */
static void file_survive(const struct world *w, uint64_t salt, uint8_t *ret_file)
{
	memcpy(ret_file, w->stable, FILE_SIZE);
	for (unsigned i = 0; i < w->nunsynced; i++) {
		uint64_t fate = mix(salt ^ mix(i + 1));

		for (unsigned s = 0; s < DIRTYFILE_UNIT / SECTOR; s++)
			if (fate % 3 == 1 || (fate % 3 == 2 && mix(fate ^ mix(s)) & 1))
				memcpy(ret_file + w->unsynced[i].off + s * SECTOR,
					w->unsynced[i].data + s * SECTOR, SECTOR);
	}
}

static int file_read(void *ctx, uint64_t off, void *buf, size_t len)
{
	memcpy(buf, (const uint8_t *)ctx + off, len);
	return 0;
}

/* --- what must hold --- */

static bool spot_may_differ(const struct spot *s)
{
	bool differs = s->durable != s->peer || (s->flight && s->flight != s->peer);

	for (unsigned i = 0; i < s->nloose; i++)
		differs |= s->loose[i] != s->peer;
	return differs;
}

static bool world_check(struct world *w, const char *what)
{
	static uint8_t file[FILE_SIZE];
	struct activity_report rep;
	struct dirtymap map;
	struct activity act;
	const char *why;
	bool ok = true;

	w->checks++;
	file_survive(w, rng(w, UINT64_MAX), file);
	if (activity_load(file_read, file, CAPACITY, &map, &act, &rep, &why) < 0) {
		printf("%s: the map file cannot be used: %s\n", what, why);
		return false;
	}
	if (rep.lost_pages || rep.lost_log) {
		printf("%s: %llu pages are lost, the log %s\n", what,
			(unsigned long long)rep.lost_pages, rep.lost_log ? "is lost" : "is not");
		ok = false;
	}
	for (unsigned i = 0; i < SPOTS && ok; i++) {
		const struct spot *s = &w->spots[i];
		bool marked = dirtymap_test(&map, DIRTYMAP_WANTED, s->off, 1);

		w->found += marked;
		if (spot_may_differ(s) && !marked) {
			printf("I3, %s: block at %llu may differ (here %u or later, there %u), "
			       "the map does not know\n",
				what, (unsigned long long)s->off, s->durable, s->peer);
			ok = false;
		}
	}
	activity_deinit(&act);
	dirtymap_deinit(&map);
	return ok;
}

/* --- transactions --- */

static void world_transaction_step(struct world *w)
{
	struct activity_io io[ACTIVITY_PAGES];
	unsigned n = activity_writes(&w->act, w->phase, io);

	if (w->phase == 0 && w->fault == FAULT_NO_PAGES)
		n = 0;
	if (w->put < n) {
		if (w->fault == FAULT_ONE_SLOT && w->phase == 0)
			io[w->put].off = dirtyfile_page_at(w->act.page[w->put], 1);
		file_put(w, io[w->put].off, io[w->put].buf);
		w->put++;
		return;
	}
	if (n && !(w->fault == FAULT_NO_SYNC && w->phase == 0))
		file_sync(w);
	w->put = 0;
	if (++w->phase < 2)
		return;
	w->transactions++;
	activity_done(&w->act, true);
}

static void world_transaction(struct world *w)
{
	bool out;

	if (w->act.busy) {
		world_transaction_step(w);
		return;
	}
	w->phase = w->put = 0;
	out = w->act.first ? activity_begin(&w->act)
			   : rng(w, 4) == 0 && activity_begin_pages(&w->act, true, rng(w, 3));
	if (out)
		world_transaction_step(w);
}

/* --- writers --- */

static void writer_write(struct world *w, struct writer *wr)
{
	struct spot *s = &w->spots[wr->spot];

	wr->stage = WRITING;
	s->flight = ++w->values;
	if (w->up && w->sent < CHANGES) {
		w->changes[w->sent++] = (struct change){wr->spot, s->flight};
		dirtymap_sent(&w->win, 0, s->off, 1);
	} else {
		dirtymap_mark(&w->map, DIRTYMAP_WANTED, s->off, 1);
	}
}

static void writer_step(struct world *w)
{
	struct writer *wr = &w->writers[rng(w, WRITERS)];
	struct spot *s = &w->spots[wr->spot];

	switch (wr->stage) {
	case IDLE:
		wr->spot = (unsigned)rng(w, rng(w, 2) ? SPOTS : SPOTS / 4);
		s = &w->spots[wr->spot];
		for (unsigned i = 0; i < WRITERS; i++) /* the range lock */
			if (&w->writers[i] != wr && w->writers[i].stage != IDLE &&
				w->writers[i].spot == wr->spot)
				return;
		if (s->nloose == VALUES)
			return;
		if (activity_enter(&w->act, s->off, 1)) {
			writer_write(w, wr);
			return;
		}
		activity_ask(&w->act, &wr->ask, s->off, 1);
		wr->stage = WAITING;
		return;
	case WAITING:
		if (wr->ask.granted)
			writer_write(w, wr);
		return;
	case WRITING:
		s->loose[s->nloose++] = s->flight;
		s->flight = 0;
		if (w->fault != FAULT_NOT_LOOSE)
			dirtymap_mark_loose(&w->map, s->off, 1);
		activity_leave(&w->act, s->off, 1);
		wr->stage = IDLE;
		return;
	}
}

/* --- the local disk's flush --- */

static void flush_step(struct world *w)
{
	if (!w->flushing) {
		if (!dirtymap_flush_begin(&w->map))
			abort();
		for (unsigned i = 0; i < SPOTS; i++)
			w->spots[i].covered = w->spots[i].nloose;
		w->flushing = true;
		return;
	}
	w->flushing = false;
	if (rng(w, 8) == 0) {
		dirtymap_flush_end(&w->map, false);
		return;
	}
	for (unsigned i = 0; i < SPOTS; i++) {
		struct spot *s = &w->spots[i];

		if (!s->covered)
			continue;
		s->durable = s->loose[s->covered - 1];
		s->nloose -= s->covered;
		memmove(s->loose, s->loose + s->covered, s->nloose * sizeof(s->loose[0]));
	}
	if (w->fault == FAULT_LOOSE_EARLY) {
		dirtymap_clear_all(&w->map, DIRTYMAP_LOOSE0);
		dirtymap_clear_all(&w->map, DIRTYMAP_LOOSE1);
	}
	dirtymap_flush_end(&w->map, true);
}

/* --- the peer --- */

static void peer_commit(struct world *w, uint64_t until)
{
	for (; w->committed < until; w->committed++)
		w->spots[w->changes[w->committed].spot].peer = w->changes[w->committed].value;
}

static void session_end(struct world *w)
{
	if (!w->up)
		return;
	peer_commit(w, w->committed + rng(w, w->sent - w->committed + 1));
	w->up = false;
	if (w->fault == FAULT_FORGET) {
		dirtymap_clear_all(&w->map, DIRTYMAP_SENT0);
		dirtymap_clear_all(&w->map, DIRTYMAP_SENT1);
	}
	dirtymap_lost(&w->win);
}

static void session_step(struct world *w)
{
	struct dirtymap_run run;
	unsigned how = (unsigned)rng(w, 100);

	if (!w->up) {
		if (how < 10) {
			w->up = true;
			w->sent = w->committed = 0;
		}
	} else if (how < 3 || w->sent == CHANGES) {
		session_end(w);
	} else if (how < 40) {
		peer_commit(w, w->committed + rng(w, w->sent - w->committed + 1));
	} else if (how < 60) {
		if (w->fault == FAULT_ACK_EARLY)
			dirtymap_acknowledged(&w->win, w->sent, w->sent);
		else if (w->fault == FAULT_ONE_WINDOW && w->committed && rng(w, 3) == 0)
			dirtymap_acknowledged(&w->win, w->win.mark, w->sent);
		else
			dirtymap_acknowledged(&w->win, w->committed, w->sent);
	} else if (dirtymap_next(&w->map, DIRTYMAP_WANTED, rng(w, SIZE), 64 * BLOCK, &run) ||
		   dirtymap_next(&w->map, DIRTYMAP_WANTED, 0, 64 * BLOCK, &run)) {
		/* The resync takes a run; what is being written there keeps it away. */
		for (unsigned i = 0; i < SPOTS; i++)
			if (w->spots[i].off >= run.off && w->spots[i].off < run.off + run.len &&
				(w->spots[i].flight || w->sent + SPOTS > CHANGES))
				return;
		for (unsigned i = 0; i < SPOTS; i++) {
			const struct spot *s = &w->spots[i];

			if (s->off >= run.off && s->off < run.off + run.len)
				w->changes[w->sent++] = (struct change){
					i, s->nloose ? s->loose[s->nloose - 1] : s->durable};
		}
		dirtymap_clear(&w->map, DIRTYMAP_WANTED, run.off, run.len);
		dirtymap_sent(&w->win, 0, run.off, run.len);
	}
}

/* --- life --- */

static bool world_load(struct world *w)
{
	struct activity_report rep;
	const char *why;

	if (activity_load(file_read, w->stable, CAPACITY, &w->map, &w->act, &rep, &why) < 0) {
		printf("the map file cannot be used: %s\n", why);
		return false;
	}
	memset(&w->win, 0, sizeof(w->win));
	w->maps[0] = &w->map;
	w->win.maps = w->maps;
	w->win.count = 1;
	return true;
}

/* Power, or (file and disk keep what they took) the process alone. */
static bool world_crash(struct world *w)
{
	static uint8_t file[FILE_SIZE];
	bool power = rng(w, 3) != 0;

	w->crashes++;
	session_end(w);
	if (power) {
		file_survive(w, rng(w, UINT64_MAX), file);
		memcpy(w->stable, file, FILE_SIZE);
	}
	file_sync(w); /* what a process left in the cache is synced before it is read */
	if (power)
		w->nunsynced = 0;
	for (unsigned i = 0; i < SPOTS; i++) {
		struct spot *s = &w->spots[i];
		unsigned n = power ? (unsigned)rng(w, s->nloose + 1) : s->nloose;

		if (n)
			s->durable = s->loose[n - 1];
		if (s->flight && rng(w, 2))
			s->durable = s->flight;
		s->nloose = s->covered = 0;
		s->flight = 0;
	}
	memset(w->writers, 0, sizeof(w->writers));
	w->flushing = false;
	activity_deinit(&w->act);
	dirtymap_deinit(&w->map);
	return world_load(w);
}

/* An orderly end: exact pages, an empty log. */
static bool world_close(struct world *w)
{
	struct activity_report rep;
	const char *why;
	bool exact = true;

	for (unsigned i = 0; i < WRITERS; i++)
		if (w->writers[i].stage != IDLE)
			return true;
	if (w->act.busy || w->act.first)
		return true;
	session_end(w);
	while (activity_begin_close(&w->act)) {
		w->phase = w->put = 0;
		while (w->act.busy) {
			world_transaction_step(w);
			if (!world_check(w, "orderly end"))
				return false;
		}
	}
	for (uint64_t i = 0; i < w->map.words; i++)
		exact &= dirtymap_word(&w->map, i) == w->map.bits[DIRTYMAP_DISK][i];
	activity_deinit(&w->act);
	dirtymap_deinit(&w->map);
	if (activity_load(file_read, w->stable, CAPACITY, &w->map, &w->act, &rep, &why) < 0 ||
		rep.hot || !exact) {
		printf("orderly end: the file is not exact, or %u regions are hot\n", rep.hot);
		return false;
	}
	w->win.waiting = w->win.used = false;
	/* A start flushes the local disk. */
	for (unsigned i = 0; i < SPOTS; i++) {
		struct spot *s = &w->spots[i];

		if (s->nloose)
			s->durable = s->loose[s->nloose - 1];
		s->nloose = s->covered = 0;
	}
	w->flushing = false;
	return true;
}

static bool world_create(struct world *w)
{
	struct dirtyfile_header h = {
		.serial = 1, .id = 77, .size = SIZE, .region = REGION, .block = BLOCK};
	uint8_t buf[DIRTYFILE_UNIT];
	uint64_t words[DIRTYFILE_PAGE_WORDS] = {0};

	dirtyfile_put_header(buf, &h);
	file_put(w, dirtyfile_header_at(1), buf);
	dirtyfile_put_record(buf, h.id, 1, NULL, 0);
	file_put(w, dirtyfile_record_at(1), buf);
	for (uint64_t p = 0; p < dirtyfile_pages((SIZE + BLOCK - 1) / BLOCK); p++) {
		dirtyfile_put_page(buf, h.id, 1, p, words);
		file_put(w, dirtyfile_page_at(p, 1), buf);
	}
	file_sync(w);
	return world_load(w);
}

/* A block of its own: the ends of regions and pages among them, several in one region. */
static uint64_t world_place(struct world *w, unsigned i)
{
	for (unsigned try = i % 3;; try = 2) {
		uint64_t block = try == 0   ? (i + 1) * (uint64_t)DIRTYFILE_PAGE_BITS / 16
				 : try == 1 ? rng(w, REGIONS) * 1024 + (rng(w, 2) ? 1023 : 0)
					    : rng(w, SIZE / BLOCK + 1);
		uint64_t off = min_u64(block, (SIZE - 1) / BLOCK) * BLOCK;
		bool taken = false;

		for (unsigned k = 0; k < i; k++)
			taken |= w->spots[k].off == off;
		if (!taken)
			return off;
	}
}

static bool world_run(struct world *w, uint64_t seed)
{
	bool ok;

	w->rng = seed;
	for (unsigned i = 0; i < SPOTS; i++)
		w->spots[i].off = world_place(w, i);
	ok = world_create(w);
	for (unsigned step = 0; ok && step < 600; step++) {
		unsigned how = (unsigned)rng(w, 1000);

		if (how < 450)
			writer_step(w);
		else if (how < 700)
			world_transaction(w);
		else if (how < 920)
			session_step(w);
		else if (how < 990)
			flush_step(w);
		else if (how < 997)
			ok = world_crash(w);
		else
			ok = world_close(w);
		if (w->fault == FAULT_NO_WAIT)
			for (uint32_t i = 0; i < w->act.used; i++)
				for (uint16_t s = w->act.newest; s != ACTIVITY_NONE;
					s = w->act.slots[s].older)
					w->act.slots[s].pending = false;
		ok = ok && world_check(w, "power cut");
	}
	if (!ok)
		printf("seed %llu failed\n", (unsigned long long)seed);
	activity_deinit(&w->act);
	dirtymap_deinit(&w->map);
	return ok;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"seeds", required_argument, NULL, 'n'},
		{"first", required_argument, NULL, 'f'}, {"break", required_argument, NULL, 'b'},
		{0}};
	static struct world w;
	uint64_t seeds = 1000, first = 0, checks = 0, crashes = 0, transactions = 0, found = 0, i;
	unsigned fault = FAULT_NONE;
	bool ok = true;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'n' && units_parse_u64(optarg, &seeds) == 0)
			continue;
		if (c == 'f' && units_parse_u64(optarg, &first) == 0)
			continue;
		for (fault = 0; c == 'b' && fault < FAULT_COUNT; fault++)
			if (strcmp(fault_names[fault], optarg) == 0)
				break;
		if (c != 'b' || fault == FAULT_COUNT)
			return 2;
	}
	for (i = 0; i < seeds && ok; i++) {
		memset(&w, 0, sizeof(w));
		w.fault = fault;
		ok = world_run(&w, first + i);
		checks += w.checks;
		crashes += w.crashes;
		transactions += w.transactions;
		found += w.found;
	}
	if (fault != FAULT_NONE) {
		printf("--break %s: %s after %llu seeds\n", fault_names[fault],
			ok ? "NOT noticed" : "noticed", (unsigned long long)i);
		return ok;
	}
	printf("%llu seeds, %llu imagined power cuts, %llu crashes, %llu transactions, %.1f %% of "
	       "the blocks looked at were dirty\n",
		(unsigned long long)i, (unsigned long long)checks, (unsigned long long)crashes,
		(unsigned long long)transactions,
		checks ? 100.0 * (double)found / (double)(checks * SPOTS) : 0.0);
	return !ok;
}
