/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Members of a node's answer, by dotted path ("lag.bytes"). */
#ifndef TANDEM_CLI_REPLY_H
#define TANDEM_CLI_REPLY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "cli/cli.h"

/* NULL where a part of the path is missing. */
const json_t *reply_get(const json_t *reply, const char *path);
/* NULL where it is not a string. */
const char *reply_text(const json_t *reply, const char *path);
/* false, and nothing is set, where it is not an integer >= 0. */
bool reply_u64(const json_t *reply, const char *path, uint64_t *ret_value);
/* Missing is false. */
bool reply_true(const json_t *reply, const char *path);

/* The answer of a command that must have this number: ERROR_GENERAL names what is missing. */
int reply_need_u64(const struct cli *cli, const json_t *reply, const char *path,
	uint64_t *ret_value, struct error *err);

/* Prints the answer as JSON, in several lines or (compact) in one. */
int reply_print_json(const json_t *reply, bool compact, struct error *err);

#endif
