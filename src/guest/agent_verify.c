/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* `verify`: digests of all memory and device state at one checkpoint go to the secondary, which
 * compares what it has then, and what differs is owed to it anew.  The replicator compares the
 * disks as of the same checkpoint, and is asked about them itself.
 *
 * Memory is read in the pause of that checkpoint, from the guest's RAM itself and not from what the
 * tracking copied of it: the pause is longer by that (0.1 to 0.3 s per GiB). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/memcheck.h"
#include "guest/agent_internal.h"
#include "util/bytes.h"
#include "util/log.h"

#define VERIFY_TRIES 16u            /* checkpoints at which the disks may be busy */
#define VERIFY_RESEND (64ull << 20) /* bytes with one checkpoint */

int agent_verify_begin(struct agent *a, struct agent_client *c, bool repair, struct error *err)
{
	struct agent_verify *v = &a->verify;
	uint64_t most = memcheck_blocks(a->conf->guest_memory) + memcheck_blocks(DEVSTATE_MAX);

	if (a->phase != AGENT_CHECKPOINT || !a->announced || v->client)
		return error_set(err, ERROR_STATE, -EBUSY, "verify: %s",
			v->client ? "one is under way" : "the guest is not protected here");
	if (!v->digests)
		v->digests = calloc(most, MEMCHECK_DIGEST);
	if (!v->buf)
		v->buf = malloc(MEMCHECK_BLOCK);
	if (!v->digests || !v->buf)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "verify: out of memory");
	v->client = c;
	v->wanted = true;
	v->repair = repair;
	v->armed = false;
	v->epoch = v->tries = 0;
	return 0;
}

void agent_verify_arm(struct agent *a)
{
	struct agent_verify *v = &a->verify;
	struct error err;

	if (!v->wanted || v->armed)
		return;
	if (repl_run(a->repl, "verify", json_pack("{s:b}", "repair", v->repair), NULL, &err) < 0)
		agent_verify_failed(a, err.kind, err.text);
	else
		v->armed = true;
}

void agent_verify_cut(struct agent *a, const json_t *answer)
{
	struct agent_verify *v = &a->verify;

	if (v->count == 0 || json_is_true(json_object_get(answer, "frozen")))
		return;
	if (!json_object_get(answer, "frozen")) { /* it does not wait for a cut any more */
		v->count = 0;
		agent_verify_failed(a, ERROR_STATE,
			"the comparison of the disks has ended: it was cancelled, or has failed");
		return;
	}
	/* All of one checkpoint, or nothing. */
	v->count = 0;
	if (++v->tries == VERIFY_TRIES)
		agent_verify_failed(
			a, ERROR_STATE, "the disks were being written to at each checkpoint");
}

/* Reads rather than looks at a mapping: holes of the file stay holes. */
static int verify_read(int fd, uint8_t *buf, uint64_t off, size_t len)
{
	while (len > 0) {
		ssize_t n = pread(fd, buf, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		buf += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int agent_verify_memory(struct agent *a, struct error *err)
{
	struct agent_verify *v = &a->verify;
	uint64_t size = a->conf->guest_memory;

	v->count = 0;
	for (uint64_t at = 0; v->wanted && at < size; at += MEMCHECK_BLOCK) {
		size_t len = (size_t)min_u64(size - at, MEMCHECK_BLOCK);
		int r = verify_read(a->ram_fd, v->buf, at, len);

		if (r < 0)
			return error_code(err, r, "verify: cannot read the guest's memory");
		memcheck_digest(v->buf, len, NULL, 0, v->digests + v->count++ * MEMCHECK_DIGEST);
	}
	return 0;
}

uint64_t agent_verify_state(struct agent *a)
{
	const struct devstate_buf *head = &a->ds.head, *dev = &a->ds.dev;
	struct agent_verify *v = &a->verify;
	uint64_t size = head->len + dev->len;

	if (v->count == 0)
		return 0;
	for (uint64_t at = 0; at < size; at += MEMCHECK_BLOCK) {
		uint64_t end = min_u64(at + MEMCHECK_BLOCK, size);
		uint64_t mid = min_u64(max_u64(at, head->len), end);

		memcheck_digest(head->p + (mid > at ? at : 0), mid - at,
			dev->p + (end > mid ? mid - head->len : 0), end - mid,
			v->digests + v->count++ * MEMCHECK_DIGEST);
	}
	return v->count;
}

void agent_verify_sent(struct agent *a, uint64_t epoch)
{
	struct agent_verify *v = &a->verify;

	if (epoch && v->count) {
		v->wanted = false;
		v->epoch = epoch;
	}
	if (!epoch)
		v->armed = false; /* or it still is, which the replicator knows */
	v->count = 0;
}

void agent_verify_failed(struct agent *a, enum error_kind kind, const char *why)
{
	struct agent_client *c = a->verify.client;
	struct error err;

	a->verify.client = NULL;
	a->verify.wanted = false;
	(void)error_set(
		&err, kind, -EPIPE, "%s%s", strncmp(why, "verify: ", 8) ? "verify: " : "", why);
	agent_server_answer(c, -EPIPE, &err);
}

void agent_verify_gone(struct agent *a, const struct agent_client *c)
{
	if (a->verify.client != c)
		return;
	a->verify.client = NULL;
	a->verify.wanted = false;
}

void agent_verify_resend(struct agent *a)
{
	uint64_t len = min_u64(a->resend, VERIFY_RESEND);
	struct runs one = {0};

	if (len && runs_add(&one, a->conf->guest_memory - a->resend, len) == 0) {
		checkpoint_owe(a, &one);
		a->resend -= len;
	}
	runs_deinit(&one);
}

/* What differs is sent again with the next checkpoint; all other memory with those that follow, so
 * that whatever the tracking or the link did wrong, and no digest has shown yet, has an end. */
static void verify_repair(struct agent *a, const json_t *data)
{
	const json_t *ranges = json_object_get(data, "ranges"), *g;
	uint64_t named = 0;
	struct runs one = {0};
	size_t i;

	if (repl_u64(data, "differ", NULL))
		a->resend = a->conf->guest_memory;
	json_array_foreach(ranges, i, g)
	{
		const char *volume = json_string_value(json_object_get(g, "volume"));
		uint64_t off = repl_u64(g, "offset", NULL), len = repl_u64(g, "length", NULL);

		named += len;
		log_error("verify: %s differs on the secondary in %llu bytes from byte %llu; they "
			  "are "
			  "sent again",
			volume && !strcmp(volume, "ram") ? "memory" : "device state",
			(unsigned long long)len, (unsigned long long)off);
		if (!volume || strcmp(volume, "ram") != 0) {
			a->rebase = true; /* the rest of the state comes with each checkpoint */
			continue;
		}
		runs_clear(&one);
		if (runs_add(&one, off, len) == 0)
			checkpoint_owe(a, &one);
		else
			named = 0;
	}
	if (named == repl_u64(data, "differ", NULL)) {
		runs_deinit(&one);
		return;
	}
	runs_clear(&one);
	if (runs_add(&one, 0, a->conf->guest_memory) == 0)
		checkpoint_owe(a, &one);
	runs_deinit(&one);
}

void agent_verify_compared(struct agent *a, const json_t *data)
{
	struct agent_verify *v = &a->verify;
	struct agent_client *c = v->client;

	/* Whoever asked for it: what is wrong is put right. */
	verify_repair(a, data);
	if (!c || v->wanted || repl_u64(data, "epoch", NULL) != v->epoch)
		return;
	v->client = NULL;
	agent_server_return(c, json_deep_copy(data));
}

void agent_verify_end(struct agent *a)
{
	free(a->verify.digests);
	free(a->verify.buf);
	a->verify = (struct agent_verify){.client = NULL};
}
