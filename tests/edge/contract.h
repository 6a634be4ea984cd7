/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The contract of backing.h, tried on a backing of any kind.  Each function takes a writable
 * backing of at least CONTRACT_SIZE bytes and fails the test by cmocka's asserts. */
#ifndef TANDEM_TESTS_EDGE_CONTRACT_H
#define TANDEM_TESTS_EDGE_CONTRACT_H

#include "replicator/backing.h"

#define CONTRACT_SIZE (8u << 20)

/* All of the below. */
void contract_check(struct backing *b);
void contract_check_transfers(struct backing *b);
void contract_check_zero(struct backing *b);
void contract_check_extents(struct backing *b);
void contract_check_batch(struct backing *b);
/* Random reads, writes and zeroes of any alignment, compared with a model in memory. */
void contract_check_random(struct backing *b, unsigned steps, uint64_t seed);

/* Fails unless [off, off+len) holds what support_fill(seed) made, or zeroes for seed 0. */
void contract_expect(struct backing *b, uint64_t off, size_t len, uint64_t seed);
void contract_write(struct backing *b, uint64_t off, size_t len, uint64_t seed);

#endif
