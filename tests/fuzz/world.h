/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A replica with a journal in memory: carries out what the replica asks for, at once or later, and
 * may lose power.  For fuzz_replica.c. */
#ifndef TANDEM_TESTS_FUZZ_WORLD_H
#define TANDEM_TESTS_FUZZ_WORLD_H

#include "core/replica.h"
#include "fuzz.h"

#define WORLD_VOLUMES 2u
#define WORLD_SIZE (1ull << 21) /* bytes of each volume */
#define WORLD_WRITES 512

struct world {
	struct replica *r;
	struct replica_config cfg;
	uint8_t *ring;
	struct journal_header header; /* on disk */
	uint64_t metadata;            /* committed epoch that is noted on disk */
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
	struct imap *map;
};

void world_init(struct world *w, unsigned volumes, uint64_t staging, bool manual, bool early,
	uint64_t committed);
void world_deinit(struct world *w);
/* Carries out one thing that is due, the nth of them; false = nothing is. */
bool world_complete(struct world *w, uint64_t n);
void world_complete_all(struct world *w);
/* All that was not durable is gone, and the journal is read again. */
void world_power_cut(struct world *w);
/* What must be so at any time. */
void world_check(struct world *w);
struct replica_status world_status(const struct world *w);

#endif
