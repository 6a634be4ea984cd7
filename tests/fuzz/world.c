/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The replica's surroundings for fuzz_replica.c: journal, images and metadata in memory. */
#include "world.h"

#include <errno.h>
#include <string.h>

#include "util/bytes.h"

#define WORLD_RING JOURNAL_MIN_RING
#define WORLD_BATCH (256u << 10)

static void world_chunk_write(void *ctx, struct replica_chunk *c)
{
	struct world *w = ctx;

	FUZZ_REQUIRE(w->nwrites < WORLD_WRITES);
	FUZZ_REQUIRE(c->head.pos + c->head.len - w->header.tail <= WORLD_RING);
	FUZZ_REQUIRE(c->head.pos % JOURNAL_SEGMENT + c->head.len <= JOURNAL_SEGMENT);
	w->writes[w->nwrites++] = c;
}

static void world_journal_flush(void *ctx)
{
	struct world *w = ctx;

	FUZZ_REQUIRE(!w->flush_due);
	w->flush_due = true;
}

static void world_send(void *ctx, const struct record *rec)
{
	struct world *w = ctx;

	if (rec->type != RECORD_ACK_COMMITTED)
		return;
	FUZZ_REQUIRE(rec->epoch >= w->acked);
	w->acked = rec->epoch;
}

static void world_note(void *ctx)
{
}

static void world_freeze(void *ctx, uint64_t epoch)
{
	struct world *w = ctx;

	w->freeze = epoch;
}

static void world_zero(void *ctx, uint64_t off, uint64_t len)
{
	struct world *w = ctx;

	FUZZ_REQUIRE(off + len <= WORLD_MEMORY);
	memset(w->image + off, 0, len);
}

static const struct replica_ops world_ops = {.chunk_write = world_chunk_write,
	.journal_flush = world_journal_flush,
	.send = world_send,
	.apply_ready = world_note,
	.memory_ready = world_note,
	.memory_zero = world_zero,
	.freeze = world_freeze,
	.changed = world_note};

struct replica_status world_status(const struct world *w)
{
	struct replica_status s;

	replica_get_status(w->r, &s);
	return s;
}

static int world_read(void *ctx, uint64_t pos, void *buf, size_t len)
{
	struct world *w = ctx;

	FUZZ_REQUIRE(pos % JOURNAL_SEGMENT + len <= JOURNAL_SEGMENT);
	memcpy(buf, w->ring + pos % WORLD_RING, len);
	return 0;
}

static void world_start(struct world *w)
{
	const char *why = NULL;

	if (w->image)
		memset(w->image, 0, WORLD_MEMORY); /* a process begins without it */
	w->r = replica_new(&w->cfg, &w->header, w->metadata, &world_ops, w);
	FUZZ_REQUIRE(w->r);
	if (replica_recover(w->r, ++w->incarnations, world_read, w, &why) < 0) {
		fprintf(stderr, "recovery failed: %s\n", why);
		abort();
	}
}

void world_init(
	struct world *w, const struct replica_config *cfg, uint64_t committed, uint64_t tail)
{
	memset(w, 0, sizeof(*w));
	w->cfg = *cfg;
	w->ring = calloc(1, WORLD_RING);
	w->map = imap_new();
	FUZZ_REQUIRE(w->ring && w->map);
	if (cfg->memory) {
		w->cfg.image = w->image = calloc(1, WORLD_MEMORY);
		w->cfg.second = w->second = malloc(WORLD_MEMORY); /* holds anything */
		w->known = calloc(1, WORLD_MEMORY);
		FUZZ_REQUIRE(w->image && w->second && w->known);
	}
	w->header = (struct journal_header){.serial = 1,
		.ring_size = WORLD_RING,
		.tail = tail,
		.tail_chain = 7,
		.applied = committed};
	w->metadata = committed;
	world_start(w);
}

/* Reads all that the batch refers to, as the images would. */
static void world_apply(struct world *w)
{
	volatile uint8_t byte;

	for (unsigned v = 0; v < w->cfg.volumes; v++) {
		uint64_t at = 0;
		struct imap_range x;

		while (w->batch.maps[v] && imap_find(w->batch.maps[v], at, &x)) {
			FUZZ_REQUIRE(x.end > x.start && x.end <= WORLD_SIZE);
			at = x.end;
			if (x.source == IMAP_ZERO)
				continue;
			if (x.source & REPLICA_SOURCE_JOURNAL) {
				uint64_t pos = x.source & ~REPLICA_SOURCE_JOURNAL;

				FUZZ_REQUIRE(pos - w->header.tail < WORLD_RING);
				byte = w->ring[pos % WORLD_RING];
			} else {
				const uint8_t *p = (const uint8_t *)(uintptr_t)x.source;

				byte = p[0];
				byte = p[x.end - x.start - 1];
			}
		}
	}
	for (unsigned v = w->cfg.volumes; v < RECORD_MAX_VOLUMES; v++)
		FUZZ_REQUIRE(!w->batch.maps[v]);
	(void)byte;
}

static void world_written(struct world *w, unsigned i)
{
	struct replica_chunk *c = w->writes[i];

	memcpy(w->ring + c->head.pos % WORLD_RING, c->buf, c->head.len);
	memmove(w->writes + i, w->writes + i + 1, (w->nwrites - i - 1) * sizeof(w->writes[0]));
	w->nwrites--;
	replica_chunk_written(w->r, c, 0);
}

void world_fail(struct world *w)
{
	if (w->nwrites == 0)
		return;
	w->failed = true;
	replica_chunk_written(w->r, w->writes[0], -EIO);
	memmove(w->writes, w->writes + 1, --w->nwrites * sizeof(w->writes[0]));
}

static void world_unpin(struct world *w)
{
	if (w->pinned)
		replica_chunk_unpin(w->r, w->pinned);
	w->pinned = NULL;
}

void world_read_source(struct world *w, uint64_t n)
{
	struct imap_range x;
	uint64_t pos;
	int e = replica_read_map(w->r, 0, n & 1, w->map);

	FUZZ_REQUIRE(e == 0 || e == -EBUSY);
	world_unpin(w);
	if (e || !imap_find(w->map, n / 2 % WORLD_SIZE, &x) || x.source == IMAP_ZERO)
		return;
	FUZZ_REQUIRE(x.source & REPLICA_SOURCE_JOURNAL);
	pos = x.source & ~REPLICA_SOURCE_JOURNAL;
	w->pinned = replica_chunk_pin(w->r, pos);
	if (w->pinned) {
		FUZZ_REQUIRE(w->pinned->buf);
		FUZZ_REQUIRE(pos - w->pinned->head.pos < w->pinned->head.used);
	}
}

void world_save(struct world *w, const char *dir, unsigned number)
{
	uint8_t block[JOURNAL_BLOCK];
	char path[512];
	FILE *fp;

	snprintf(path, sizeof(path), "%s/journal-%u-%llu", dir, number,
		(unsigned long long)world_status(w).committed);
	fp = fopen(path, "we");
	FUZZ_REQUIRE(fp);
	journal_header_encode(block, &w->header);
	FUZZ_REQUIRE(fwrite(block, 1, sizeof(block), fp) == sizeof(block));
	FUZZ_REQUIRE(fseek(fp, JOURNAL_RING_OFFSET, SEEK_SET) == 0);
	FUZZ_REQUIRE(fwrite(w->ring, 1, WORLD_RING, fp) == WORLD_RING);
	FUZZ_REQUIRE(fclose(fp) == 0);
}

static void world_batch_done(struct world *w)
{
	struct replica_batch b = w->batch;

	world_apply(w);
	w->batch_out = false;
	w->final_due = b.direct && b.final;
	w->final_epoch = b.epoch;
	if (replica_batch_done(w->r, &w->batch, &w->next))
		w->next_due = true;
}

static void world_next_durable(struct world *w)
{
	FUZZ_REQUIRE(w->next.tail - w->header.tail <= WORLD_RING);
	w->header = w->next;
	w->next_due = false;
	replica_tail_durable(w->r, &w->header);
	if (w->final_due) {
		w->final_due = false;
		w->metadata = max_u64(w->metadata, w->final_epoch);
		replica_direct_committed(w->r, w->final_epoch);
	}
}

static bool world_images_wait(const struct world *w)
{
	struct replica_status s = world_status(w);

	return w->hold && s.mode == REPLICA_READY && s.journal_used < WORLD_RING / 2;
}

static void world_memory_done(struct world *w)
{
	/* Only what has committed changes an image that holds an epoch. */
	if (world_status(w).memory_epoch)
		FUZZ_REQUIRE(memcmp(w->image, w->known, WORLD_MEMORY) == 0);
	replica_memory_apply(w->r, &w->job, world_zero, w);
	memcpy(w->known, w->image, WORLD_MEMORY);
	w->job_out = false;
	replica_memory_done(w->r, &w->job);
}

bool world_complete(struct world *w, uint64_t n)
{
	/* What is due, in turn; n picks one of the writes too. */
	for (unsigned i = 0; i < 5; i++) {
		switch ((n + i) % 5) {
		case 4:
			if (w->job_out) {
				world_memory_done(w);
				return true;
			}
			if (!w->cfg.image || !replica_memory_take(w->r, &w->job))
				continue;
			w->job_out = true;
			return true;
		case 0:
			if (w->nwrites == 0)
				continue;
			world_written(w, (unsigned)(n / 5 % w->nwrites));
			return true;
		case 1:
			if (!w->flush_due)
				continue;
			w->flush_due = false;
			replica_flushed(w->r, 0);
			/* The metadata follows, as a file of its own that is written now and then.
			 */
			if (n & 8)
				w->metadata = max_u64(w->metadata, world_status(w).committed);
			return true;
		case 2:
			if (w->next_due) {
				world_next_durable(w);
				return true;
			}
			continue;
		case 3:
			if (w->batch_out) {
				world_batch_done(w);
				return true;
			}
			if (w->freeze && world_status(w).applied >= w->freeze) {
				FUZZ_REQUIRE(world_status(w).applied == w->freeze);
				w->freeze = 0;
				replica_frozen(w->r);
				return true;
			}
			/* One batch at a time, and its header before the next one. */
			if (w->next_due || world_images_wait(w) ||
				!replica_batch_take(w->r, WORLD_BATCH, &w->batch))
				continue;
			w->batch_out = true;
			return true;
		}
	}
	return false;
}

void world_complete_all(struct world *w)
{
	for (uint64_t n = 0; world_complete(w, n); n++)
		FUZZ_REQUIRE(n < 1000000);
}

static void world_stop(struct world *w)
{
	struct journal_header ignored;

	world_unpin(w);
	w->failed = false;
	/* The batch is the caller's to give back. */
	if (w->batch_out)
		(void)replica_batch_done(w->r, &w->batch, &ignored);
	w->job_out = false;
	w->freeze = 0;
	w->batch_out = w->next_due = w->final_due = w->flush_due = false;
	w->nwrites = 0;
	w->r = replica_free(w->r);
}

void world_power_cut(struct world *w)
{
	uint64_t acked = w->acked;

	world_stop(w);
	/* Chunks that were not flushed are in the ring here: the disk was kind.  Those that were
	 * not written are not. */
	world_start(w);
	if (!w->cfg.ack_when_sealed)
		FUZZ_REQUIRE(world_status(w).committed >= acked || acked == 0);
}

void world_check(struct world *w)
{
	struct replica_status s = world_status(w);

	FUZZ_REQUIRE(s.applied <= s.committed || s.mode == REPLICA_EMPTY ||
		     s.mode == REPLICA_DIRECT || s.mode == REPLICA_FAILED);
	FUZZ_REQUIRE(s.memory_epoch <= s.committed || s.mode != REPLICA_READY);
	/* One record, and the state of each epoch, may come on top. */
	FUZZ_REQUIRE(s.held <= w->cfg.staging_limit + (64ull << 20));
	FUZZ_REQUIRE(s.committed <= s.received || s.mode != REPLICA_READY);
	FUZZ_REQUIRE(s.journal_used <= 2 * WORLD_RING);
	/* Chunks of the limit, one that is being filled, and the skips and rests of two closings.
	 */
	FUZZ_REQUIRE(s.staged <= w->cfg.staging_limit + 8ull * JOURNAL_CHUNK_MAX);
	FUZZ_REQUIRE(s.mode != REPLICA_FAILED || w->failed);
}

void world_deinit(struct world *w)
{
	world_stop(w);
	imap_free(w->map);
	free(w->ring);
	free(w->image);
	free(w->second);
	free(w->known);
}
