/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem verify: compares the disks of both nodes while they are written to; with a guest, its
 * memory, device state and disks at one checkpoint: memory and state through the agent, which asks
 * the replicator to compare the disks as of the same checkpoint, and then the disks' result. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/reply.h"
#include "cli/text.h"
#include "util/clock.h"
#include "util/units.h"

static void verify_print_range(const json_t *range)
{
	const char *volume = json_string_value(json_object_get(range, "volume"));
	json_int_t off = json_integer_value(json_object_get(range, "offset"));

	printf("%s differs: bytes %" JSON_INTEGER_FORMAT " to %" JSON_INTEGER_FORMAT "\n",
		volume && !strcmp(volume, "ram") ? "memory" : "device state", off,
		off + json_integer_value(json_object_get(range, "length")) - 1);
}

static int verify_print(
	struct cli *cli, const json_t *reply, uint64_t *ret_epoch, struct error *err)
{
	uint64_t bytes, differ;
	char size[32];
	json_t *range;
	size_t i;
	int r;

	r = reply_need_u64(cli, reply, "epoch", ret_epoch, err);
	if (r == 0)
		r = reply_need_u64(cli, reply, "bytes", &bytes, err);
	if (r == 0)
		r = reply_need_u64(cli, reply, "differ", &differ, err);
	if (r < 0)
		return r;
	json_array_foreach(json_object_get(reply, "ranges"), i, range) verify_print_range(range);
	if (differ)
		return error_set(err, ERROR_DIFFER, -EILSEQ,
			"checkpoint %" PRIu64
			": the other node's memory or device state differs (%" PRIu64
			" bytes in blocks that differ); they are sent again with the next "
			"checkpoint",
			*ret_epoch, differ);
	printf("checkpoint %" PRIu64 ": memory and device state (%s) are equal on both nodes\n",
		*ret_epoch, units_format_size(bytes, size, sizeof(size)));
	return 0;
}

/* --- disks --- */

static void verify_progress(const json_t *reply)
{
	uint64_t done = 0, total = 0, rate = 0, eta;
	char d[32], t[32], s[32];

	if (!reply_u64(reply, "done", &done) || !reply_u64(reply, "total", &total) ||
		!reply_u64(reply, "rate", &rate))
		return;
	fprintf(stderr, "\r%s of %s compared, %s/s", units_format_size(done, d, sizeof(d)),
		units_format_size(total, t, sizeof(t)), units_format_size(rate, s, sizeof(s)));
	if (reply_u64(reply, "eta", &eta))
		fprintf(stderr, ", %" PRIu64 " s left", eta);
	fprintf(stderr, "\033[K");
}

static int verify_disks_print(struct cli *cli, const json_t *reply, struct error *err)
{
	uint64_t done, differ, unsettled;
	char size[32];
	json_t *range;
	size_t i;
	int r;

	r = reply_need_u64(cli, reply, "done", &done, err);
	if (r == 0)
		r = reply_need_u64(cli, reply, "differ", &differ, err);
	if (r == 0)
		r = reply_need_u64(cli, reply, "unsettled", &unsettled, err);
	if (r < 0)
		return r;
	json_array_foreach(json_object_get(reply, "ranges"), i, range)
	{
		const char *disk = json_string_value(json_object_get(range, "disk"));

		printf("disk %s differs: offset %" JSON_INTEGER_FORMAT
		       ", length %" JSON_INTEGER_FORMAT "\n",
			disk ? disk : "?", json_integer_value(json_object_get(range, "offset")),
			json_integer_value(json_object_get(range, "length")));
	}
	if (reply_true(reply, "more"))
		printf("and more ranges, which the node's log names\n");
	if (unsettled)
		printf("%" PRIu64 " bytes were written to each time they were asked about, and "
		       "are not compared\n",
			unsettled);
	if (strcmp(reply_text(reply, "state"), "failed") == 0) {
		const char *why = reply_text(reply, "reason");

		return error_set(err, ERROR_PEER, -ECANCELED, "verify ended early: %s",
			why ? why : "no reason is given");
	}
	if (differ)
		return error_set(err, ERROR_DIFFER, -EILSEQ,
			"the disks differ in blocks of %" PRIu64 " bytes; %s", differ,
			reply_true(reply, "repair")
				? "they were sent again, and are committed"
				: "they are marked to be copied at the next connection, or now "
				  "with --repair");
	printf("the %s (%s) %s equal on both nodes\n", unsettled ? "rest" : "disks",
		units_format_size(done, size, sizeof(size)), unsettled ? "is" : "are");
	return 0;
}

/* epoch: the checkpoint as of which they are compared, 0 = without a guest. */
static int verify_disks_wait(
	struct cli *cli, struct client *client, uint64_t epoch, struct error *err)
{
	json_t *reply;
	uint64_t at = 0;
	int r = follow(client, "query-verify", verify_progress, &reply, err);

	if (r < 0)
		return r;
	if (epoch && (!reply_u64(reply, "epoch", &at) || at != epoch)) {
		json_decref(reply);
		return error_set(err, ERROR_STATE, -ECANCELED,
			"another verify has begun: the disks of checkpoint %" PRIu64
			" are not known to be equal",
			epoch);
	}
	r = verify_disks_print(cli, reply, err);
	json_decref(reply);
	return r;
}

static int verify_disks(struct cli *cli, struct error *err)
{
	json_t *arguments = json_pack("{s:b}", "repair", cli->args.repair), *reply;
	struct client *client;
	int r = client_connect(cli, &client, err);

	if (r < 0) {
		json_decref(arguments);
		return r;
	}
	r = client_execute(client, "verify", arguments, CLIENT_ANSWER_MS, &reply, err);
	if (r == 0) {
		json_decref(reply);
		r = verify_disks_wait(cli, client, 0, err);
	}
	(void)client_free(client);
	return r;
}

/* The replicator's own answer; both sides have kept the disks of that checkpoint. */
static int verify_frozen_disks(struct cli *cli, uint64_t epoch, struct error *err)
{
	struct client *client;
	int r = client_connect(cli, &client, err);

	if (r < 0)
		return r;
	r = verify_disks_wait(cli, client, epoch, err);
	(void)client_free(client);
	return r;
}

static int verify_guest(struct cli *cli, struct error *err)
{
	json_t *arguments = json_pack("{s:b}", "repair", cli->args.repair), *reply;
	struct error memory = {0};
	struct client *client;
	uint64_t epoch = 0;
	int m, r = client_connect_socket(cli, CLIENT_AGENT, &client, err);

	if (r < 0) {
		json_decref(arguments);
		return r;
	}
	r = client_execute(client, "verify", arguments, CLIENT_ANSWER_MS, &reply, err);
	(void)client_free(client);
	if (r < 0)
		return r;
	m = verify_print(cli, reply, &epoch, &memory);
	json_decref(reply);
	if (m < 0 && memory.kind != ERROR_DIFFER) {
		*err = memory;
		return m;
	}
	r = verify_frozen_disks(cli, epoch, err);
	if (m == 0)
		return r;
	if (r < 0) /* both: each says what it is */
		fprintf(stderr, "tandem: %s\n", text_clean(err->text));
	*err = memory;
	return m;
}

static int verify_cancel(struct cli *cli, struct error *err)
{
	json_t *reply;
	int r;

	if (cli->args.repair)
		return error_set(err, ERROR_USAGE, -EINVAL, "--cancel goes without --repair");
	r = client_command(cli, "verify-cancel", NULL, CLIENT_ANSWER_MS, &reply, err);
	if (r < 0)
		return r;
	json_decref(reply);
	printf("the comparison of the disks is cancelled\n");
	return 0;
}

int cmd_verify(struct cli *cli, struct error *err)
{
	if (cli->args.cancel)
		return verify_cancel(cli, err);
	return cli->conf->guest_memory ? verify_guest(cli, err) : verify_disks(cli, err);
}
