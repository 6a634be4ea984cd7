/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A replica with a journal in memory: carries out what the replica asks for, at once or later, and
 * may lose power.  For fuzz_replica.c. */
#ifndef TANDEM_TESTS_FUZZ_WORLD_H
#define TANDEM_TESTS_FUZZ_WORLD_H

#include "core/replica.h"
#include "fuzz.h"

#define WORLD_VOLUMES 2u
#define WORLD_SIZE (1ull << 21)   /* bytes of each volume */
#define WORLD_MEMORY (1ull << 20) /* bytes of a guest's memory */
#define WORLD_WRITES 512

struct world {
	struct replica *r;
	struct replica_config cfg;
	uint8_t *ring;
	struct journal_header header; /* on disk */
	uint64_t metadata;            /* committed epoch that is noted on disk */
	uint64_t freeze;              /* images are to be seen at exactly this epoch; 0 = none */
	struct replica_chunk *writes[WORLD_WRITES];
	unsigned nwrites;
	bool flush_due, flushing;
	uint64_t flushing_commit;
	struct replica_batch batch;
	bool batch_out;
	struct journal_header next; /* to be made durable */
	bool next_due, final_due;
	uint64_t final_epoch;
	uint64_t acked; /* epoch, by ACK_COMMITTED */
	uint64_t incarnations;
	bool failed; /* a write was made to fail */
	bool hold;   /* images wait until the journal is half full */
	struct imap *map;
	struct replica_chunk *pinned; /* by a reader */
	/* of a group with a guest */
	uint8_t *image, *second, *known; /* known: what the image must be, if it holds an epoch */
	struct replica_memory_job job;
	bool job_out;
};

/* With cfg->memory set there is a guest.  tail: where the log begins, a multiple of JOURNAL_BLOCK.
 */
void world_init(
	struct world *w, const struct replica_config *cfg, uint64_t committed, uint64_t tail);
void world_deinit(struct world *w);
/* Carries out one thing that is due, the nth of them; false = nothing is. */
bool world_complete(struct world *w, uint64_t n);
void world_complete_all(struct world *w);
/* The oldest write fails, if there is one: no more commits until the next start. */
void world_fail(struct world *w);
/* Looks up a source of the read map, and keeps its chunk until the next call. */
void world_read_source(struct world *w, uint64_t n);
/* Writes the journal as a file, for the decoder, to DIR/journal-NUMBER-COMMITTED. */
void world_save(struct world *w, const char *dir, unsigned number);
/* All that was not durable is gone, and the journal is read again. */
void world_power_cut(struct world *w);
/* What must be so at any time. */
void world_check(struct world *w);
struct replica_status world_status(const struct world *w);

#endif
