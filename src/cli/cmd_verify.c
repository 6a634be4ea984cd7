/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem verify: compares a guest's memory and device state on both nodes at one checkpoint. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/reply.h"
#include "util/units.h"

static void verify_print_range(const json_t *range)
{
	const char *volume = json_string_value(json_object_get(range, "volume"));
	json_int_t off = json_integer_value(json_object_get(range, "offset"));

	printf("%s differs: bytes %" JSON_INTEGER_FORMAT " to %" JSON_INTEGER_FORMAT "\n",
		volume && !strcmp(volume, "ram") ? "memory" : "device state", off,
		off + json_integer_value(json_object_get(range, "length")) - 1);
}

static int verify_print(struct cli *cli, const json_t *reply, struct error *err)
{
	uint64_t epoch, bytes, differ;
	char size[32];
	json_t *range;
	size_t i;
	int r;

	r = reply_need_u64(cli, reply, "epoch", &epoch, err);
	if (r == 0)
		r = reply_need_u64(cli, reply, "bytes", &bytes, err);
	if (r == 0)
		r = reply_need_u64(cli, reply, "differ", &differ, err);
	if (r < 0)
		return r;
	if (differ == 0) {
		printf("checkpoint %" PRIu64
		       ": memory and device state (%s) are equal on both nodes\n",
			epoch, units_format_size(bytes, size, sizeof(size)));
		return 0;
	}
	json_array_foreach(json_object_get(reply, "ranges"), i, range) verify_print_range(range);
	return error_set(err, ERROR_GENERAL, -EILSEQ,
		"checkpoint %" PRIu64 ": the other node's memory or device state differs (%" PRIu64
		" bytes in blocks that differ); they are sent again with the next checkpoint",
		epoch, differ);
}

int cmd_verify(struct cli *cli, struct error *err)
{
	struct client *client;
	json_t *reply;
	int r = client_connect_socket(cli, CLIENT_AGENT, &client, err);

	if (r < 0)
		return r;
	r = client_execute(client, "verify", NULL, CLIENT_ANSWER_MS, &reply, err);
	(void)client_free(client);
	if (r < 0)
		return r;
	r = verify_print(cli, reply, err);
	json_decref(reply);
	return r;
}
