/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem verify: compares the disks of both nodes while they are written to; with a guest, its
 * memory and device state at one checkpoint. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/reply.h"
#include "util/clock.h"
#include "util/units.h"

#define VERIFY_LOOK (200 * NS_PER_MS)

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
	return error_set(err, ERROR_DIFFER, -EILSEQ,
		"checkpoint %" PRIu64 ": the other node's memory or device state differs (%" PRIu64
		" bytes in blocks that differ); they are sent again with the next checkpoint",
		epoch, differ);
}

/* --- disks --- */

static void verify_progress(const json_t *reply)
{
	uint64_t done = 0, total = 0, rate = 0, eta;
	char d[32], t[32], s[32];

	if (!isatty(STDERR_FILENO) || !reply_u64(reply, "done", &done) ||
		!reply_u64(reply, "total", &total) || !reply_u64(reply, "rate", &rate))
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

static int verify_disks_wait(struct cli *cli, struct client *client, struct error *err)
{
	json_t *reply = NULL, *event = NULL;
	const char *state;
	int r;

	for (;;) {
		r = client_execute(client, "query-verify", NULL, CLIENT_QUERY_MS, &reply, err);
		if (r < 0)
			return r;
		state = reply_text(reply, "state");
		if (!state || strcmp(state, "running") != 0)
			break;
		verify_progress(reply);
		json_decref(reply);
		r = client_wait_event(client, clock_ns() + VERIFY_LOOK, &event, err);
		json_decref(event);
		event = NULL;
		if (r < 0)
			return r;
	}
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r\033[K");
	r = state ? verify_disks_print(cli, reply, err)
		  : error_set(err, ERROR_GENERAL, -EPROTO, "the answer has no state");
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
		r = verify_disks_wait(cli, client, err);
	}
	(void)client_free(client);
	return r;
}

int cmd_verify(struct cli *cli, struct error *err)
{
	struct client *client;
	json_t *reply;
	int r;

	if (!cli->conf->guest_memory)
		return verify_disks(cli, err);
	if (cli->args.repair)
		return error_set(err, ERROR_USAGE, -EINVAL,
			"--repair is for disks; a guest's memory is repaired always");
	r = client_connect_socket(cli, CLIENT_AGENT, &client, err);

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
