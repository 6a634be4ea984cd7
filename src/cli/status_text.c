/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A node's status as text; see status_text.h. */
#include "cli/status_text.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include "cli/reply.h"
#include "cli/text.h"
#include "util/units.h"

static void status_row(FILE *out, const char *label, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void status_row(FILE *out, const char *label, const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	fprintf(out, "  %-12s %s\n", label, text_clean(line));
}

/* A member as a size, or "?" */
static const char *status_size(const json_t *status, const char *path, char buf[TEXT_SIZE])
{
	uint64_t n;

	if (!reply_u64(status, path, &n))
		return "?";
	return units_format_size(n, buf, TEXT_SIZE);
}

static const char *status_words(const char *role, const char *state)
{
	static const struct {
		const char *role, *state, *words;
	} table[] = {
		{"primary", "protected", "epochs are committing on the secondary"},
		{"primary", "syncing",
			"the secondary is being brought up to date and cannot take over yet"},
		{"primary", "solo", "runs alone, nothing is replicated"},
		{"primary", "failed", "does not serve writes"},
		{"secondary", "standby", "holds a committed state, can be promoted"},
		{"secondary", "syncing", "is being brought up to date, cannot be promoted"},
		{"secondary", "stopped", "has no committed state, and no sync runs"},
		{"secondary", "failed", "commits have stopped, the last committed state is kept"},
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (!strcmp(table[i].role, role) && !strcmp(table[i].state, state))
			return table[i].words;
	return NULL;
}

static const char *status_member(const json_t *status, const char *path)
{
	const char *text = reply_text(status, path);

	return text ? text : "?";
}

static void status_head(FILE *out, const json_t *status, bool absent)
{
	const char *role = status_member(status, "role"), *state = status_member(status, "state");
	const char *words = status_words(role, state), *reason = reply_text(status, "reason");
	char line[512];

	if (absent)
		snprintf(line, sizeof(line), "%s on node %s: %s (%s)",
			status_member(status, "group"), status_member(status, "node"), state,
			!strcmp(state, "stopped") ? "no node runs" : "it does not answer");
	else
		snprintf(line, sizeof(line), "%s on node %s: %s, %s%s%s%s",
			status_member(status, "group"), status_member(status, "node"), role, state,
			words ? " (" : "", words ? words : "", words ? ")" : "");
	fprintf(out, "%s\n", text_clean(line));
	if (reason && *reason)
		status_row(out, "reason", "%s", reason);
}

static void status_epochs(FILE *out, const json_t *status)
{
	char size[TEXT_SIZE], count[TEXT_SIZE], age[TEXT_SIZE];
	uint64_t open, received, committed, epochs, ms;

	if (reply_u64(status, "generation", &open))
		status_row(out, "generation", "%" PRIu64 "%s", open, open ? "" : " (none yet)");
	if (reply_u64(status, "epoch.open", &open) &&
		reply_u64(status, "epoch.received", &received) &&
		reply_u64(status, "epoch.committed", &committed))
		status_row(out, "epoch",
			"committed %" PRIu64 ", received %" PRIu64 ", open %" PRIu64, committed,
			received, open);
	/* Without replication there is none: the difference is in the disks' dirty blocks. */
	if (json_is_false(reply_get(status, "pending.replicating")))
		return;
	if (reply_u64(status, "lag.epochs", &epochs) && reply_u64(status, "lag.ms", &ms))
		status_row(out, "lag", "%s, %s, %s", status_size(status, "lag.bytes", size),
			text_count(epochs, "epoch", count, sizeof(count)),
			text_duration(ms, age, sizeof(age)));
}

bool status_pending(const json_t *pending, char text[STATUS_PENDING_SIZE])
{
	char size[TEXT_SIZE], count[TEXT_SIZE], in[TEXT_SIZE];
	uint64_t bytes, requests, epochs;

	if (!reply_u64(pending, "bytes", &bytes) || !reply_u64(pending, "requests", &requests) ||
		!reply_u64(pending, "epochs", &epochs))
		return false;
	snprintf(text, STATUS_PENDING_SIZE, "%s in %s, %s",
		units_format_size(bytes, size, sizeof(size)),
		text_count(requests, "request", in, sizeof(in)),
		text_count(epochs, "epoch", count, sizeof(count)));
	return true;
}

static void status_pendings(FILE *out, const json_t *status)
{
	char text[STATUS_PENDING_SIZE];

	if (json_is_false(reply_get(status, "pending.replicating")))
		return;
	if (status_pending(reply_get(status, "pending.not-received"), text))
		status_row(out, "not received", "%s", text);
	if (status_pending(reply_get(status, "pending.not-committed"), text))
		status_row(out, "uncommitted", "%s", text);
}

/* "512.0 MiB of 2.0 GiB (25.0 %), 100.0 MiB/s, 15 s left"; false where none (sync, verify) runs.
 * Only the primary knows the rate. */
static bool status_progress(const json_t *status, const char *what, char *buf, size_t len)
{
	char is[TEXT_SIZE], all[TEXT_SIZE], rate[TEXT_SIZE], left[TEXT_SIZE];
	const json_t *progress = reply_get(status, what);
	uint64_t done, total, eta, per_second;
	size_t n;

	if (!reply_u64(progress, "done", &done) || !reply_u64(progress, "total", &total))
		return false;
	n = (size_t)snprintf(buf, len, "%s of %s (%.1f %%)",
		units_format_size(done, is, sizeof(is)), units_format_size(total, all, sizeof(all)),
		total ? 100.0 * (double)done / (double)total : 100.0);
	if (!reply_u64(progress, "rate", &per_second) || per_second == 0)
		return true;
	/* eta is -1 while it is unknown */
	if (!reply_u64(progress, "eta", &eta))
		snprintf(left, sizeof(left), "time left unknown");
	else if (eta < 60)
		snprintf(left, sizeof(left), "%" PRIu64 " s left", eta);
	else
		strcat(strcpy(left, text_duration(eta * 1000, all, sizeof(all))), " left");
	if (n < len)
		snprintf(buf + n, len - n, ", %s/s, %s",
			units_format_size(per_second, rate, sizeof(rate)), left);
	return true;
}

/* What becomes of the secondary's state of before. */
static const char *status_sync_kind(const json_t *status)
{
	static const char *const kinds[][2] = {
		{"in-place", "; in place"},
		{"staged", "; staged: the secondary keeps its state until it commits"},
		{"clones", "; into clones: the secondary keeps its state until it commits"},
	};
	const char *kind = reply_text(reply_get(status, "sync"), "kind");

	for (size_t i = 0; kind && i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(kind, kinds[i][0]))
			return kinds[i][1];
	return "";
}

static void status_storage(FILE *out, const json_t *status)
{
	char size[TEXT_SIZE], other[TEXT_SIZE], third[TEXT_SIZE], label[TEXT_SIZE];
	const json_t *disk;
	const char *name;
	uint64_t dirty;

	/* jansson's iteration takes no const object */
	json_object_foreach((json_t *)reply_get(status, "disks"), name, disk)
	{
		snprintf(label, sizeof(label), "disk %s", name);
		if (reply_u64(disk, "dirty", &dirty))
			status_row(out, label, "%s, %s not known to be equal on the peer",
				status_size(disk, "size", size),
				units_format_size(dirty, other, sizeof(other)));
		else
			status_row(out, label, "%s", status_size(disk, "size", size));
	}
	if (json_is_object(reply_get(status, "journal")))
		status_row(out, "journal", "%s, %s used; %s staged in memory",
			status_size(status, "journal.size", size),
			status_size(status, "journal.used", other),
			status_size(status, "journal.staged", third));
}

static void status_link(FILE *out, const json_t *status)
{
	const char *peer = reply_text(status, "link.peer");
	char heard[TEXT_SIZE] = "never", age[TEXT_SIZE];
	uint64_t ms;

	if (!json_is_object(reply_get(status, "link")))
		return;
	if (reply_u64(status, "link.heard-ms", &ms))
		snprintf(heard, sizeof(heard), "%s ago", text_duration(ms, age, sizeof(age)));
	if (reply_true(status, "link.connected"))
		status_row(out, "link", "connected to %s, %s, peer heard %s", peer ? peer : "?",
			reply_true(status, "link.tls") ? "TLS" : "clear text", heard);
	else
		status_row(out, "link", "not connected%s%s, peer heard %s",
			peer && *peer ? ", last to " : "", peer ? peer : "", heard);
}

/* What the secondary's host has said. */
static void status_standby(FILE *out, const json_t *status)
{
	const char *why = reply_text(status, "checkpoint.unready");

	if (why && why[0])
		status_row(out, "standby", "has no QEMU that could take the guest: %s", why);
}

/* Of a node with [guest], where its agent has answered. */
static void status_guest(FILE *out, const json_t *status)
{
	const json_t *guest = reply_get(status, "guest");
	const char *phase = reply_text(guest, "phase");
	char age[TEXT_SIZE], lag[TEXT_SIZE + 32] = "", less[48] = "";
	uint64_t ms, slowed;

	if (!phase)
		return;
	if (!reply_true(guest, "running")) {
		const char *why = reply_text(guest, "unready");
		bool ready = reply_true(guest, "ready");

		status_row(out, "guest", "does not run here%s%s",
			ready           ? "; QEMU is ready for a promotion"
			: why && why[0] ? "; no QEMU is ready for a promotion: "
					: "",
			!ready && why ? why : "");
		return;
	}
	if (reply_u64(guest, "lag-ms", &ms))
		snprintf(lag, sizeof(lag), ", newest committed checkpoint %s old",
			text_duration(ms, age, sizeof(age)));
	if (reply_u64(guest, "slowed", &slowed) && slowed > 0)
		snprintf(less, sizeof(less), "; slowed by %" PRIu64 " %%", slowed);
	status_row(out, "guest", "%s%s%s", phase, lag, less);
}

static void status_unsafe(FILE *out, const json_t *status)
{
	const json_t *names = reply_get(status, "unsafe"), *name;
	char line[256];
	size_t i, at = 0;

	line[0] = '\0';
	json_array_foreach(names, i, name)
	{
		const char *text = json_string_value(name);

		if (at < sizeof(line))
			at += (size_t)snprintf(line + at, sizeof(line) - at, "%s%s", at ? ", " : "",
				text ? text : "?");
	}
	for (char *p = line; *p; p++)
		*p = (char)toupper((unsigned char)*p);
	if (*line)
		status_row(out, "UNSAFE", "%s", line);
}

void status_text(FILE *out, const json_t *status, bool absent)
{
	char line[512], sent[TEXT_SIZE];

	status_head(out, status, absent);
	if (absent)
		return;
	status_epochs(out, status);
	status_pendings(out, status);
	if (status_progress(status, "sync", line, sizeof(line)))
		status_row(out, "sync", "%s; %s sent%s", line,
			status_size(status, "sync.sent", sent), status_sync_kind(status));
	if (status_progress(status, "verify", line, sizeof(line)))
		status_row(out, "verify", "%s", line);
	status_storage(out, status);
	status_link(out, status);
	status_guest(out, status);
	status_standby(out, status);
	status_unsafe(out, status);
	if (reply_text(status, "version"))
		status_row(out, "version", "%s", reply_text(status, "version"));
}

void status_line(FILE *out, const json_t *status)
{
	char progress[256], lag[TEXT_SIZE], age[TEXT_SIZE], line[1024];
	static const char *const runs[] = {"sync", "verify"};
	const char *reason = reply_text(status, "reason");
	time_t now = time(NULL);
	uint64_t committed, ms;
	struct tm tm;
	size_t n;

	n = strftime(line, sizeof(line), "%F %T ", localtime_r(&now, &tm));
	n += (size_t)snprintf(line + n, sizeof(line) - n, "%.63s/%.63s %.16s %.16s",
		status_member(status, "group"), status_member(status, "node"),
		status_member(status, "role"), status_member(status, "state"));
	if (reply_u64(status, "epoch.committed", &committed))
		n += (size_t)snprintf(
			line + n, sizeof(line) - n, ", committed %" PRIu64, committed);
	if (reply_u64(status, "lag.ms", &ms))
		n += (size_t)snprintf(line + n, sizeof(line) - n, ", lag %s %s",
			status_size(status, "lag.bytes", lag), text_duration(ms, age, sizeof(age)));
	for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++)
		if (status_progress(status, runs[i], progress, sizeof(progress)))
			n += (size_t)snprintf(
				line + n, sizeof(line) - n, ", %s %s", runs[i], progress);
	if (reason && *reason)
		snprintf(line + n, sizeof(line) - n, ", %s", reason);
	fprintf(out, "%s\n", text_clean(line));
}
