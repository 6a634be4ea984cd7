/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the fuzzers share.  Each fuzz_*.c is a libFuzzer target; linked with fuzz_main.c it replays
 * a corpus and seeded mutations of it, so that the test suite needs no fuzzing engine.
 *
 * Checksums would keep nearly every mutation out of the code behind them, so each target also
 * repairs what it is given: the same bytes, with the checksums (and numbers) made right. */
#ifndef TANDEM_TESTS_FUZZ_FUZZ_H
#define TANDEM_TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As assert, whatever the build says. */
#define FUZZ_REQUIRE(condition)                                                                    \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: %s is not so\n", __FILE__, __LINE__, #condition);  \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

struct fuzz_random {
	uint64_t state;
};

uint64_t fuzz_random(struct fuzz_random *r, uint64_t below);

/* Makes a valid frame of the record at the start of buf, of len bytes: magic, reserved field,
 * length of the payload, padding and checksums.  Returns its size, or 0 if len is too small for
 * one. */
size_t fuzz_repair_record(uint8_t *buf, size_t len);

#endif
