/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Members of a node's answer. */
#include "cli/reply.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const json_t *reply_get(const json_t *reply, const char *path)
{
	while (reply && *path) {
		size_t n = strcspn(path, ".");

		reply = json_object_getn(reply, path, n);
		path += n + (path[n] == '.');
	}
	return reply;
}

const char *reply_text(const json_t *reply, const char *path)
{
	return json_string_value(reply_get(reply, path));
}

bool reply_u64(const json_t *reply, const char *path, uint64_t *ret_value)
{
	const json_t *v = reply_get(reply, path);

	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return false;
	*ret_value = (uint64_t)json_integer_value(v);
	return true;
}

bool reply_true(const json_t *reply, const char *path)
{
	return json_is_true(reply_get(reply, path));
}

int reply_need_u64(const struct cli *cli, const json_t *reply, const char *path,
	uint64_t *ret_value, struct error *err)
{
	if (reply_u64(reply, path, ret_value))
		return 0;
	return error_set(err, ERROR_GENERAL, -EPROTO, "node %s: %s: its answer lacks the number %s",
		cli->node->name, cli->command->name, path);
}

int reply_print_json(const json_t *reply, bool compact, struct error *err)
{
	if (json_dumpf(reply, stdout, compact ? JSON_COMPACT : JSON_INDENT(2)) < 0)
		return error_errno(err, "cannot write to standard output");
	putchar('\n');
	return 0;
}
