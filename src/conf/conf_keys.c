/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of keys; see conf_keys.h. */
#include "conf/conf_keys.h"

#include <stdio.h>
#include <string.h>

#include "conf/conf.h"
#include "util/units.h"

#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define TIB (1ull << 40)

#define GROUP(key, kind, field, ...)                                                               \
	{                                                                                          \
		.section = CONF_SECTION_GROUP, .name = key, .type = CONF_TYPE_##kind,              \
		.offset = offsetof(struct conf, field), __VA_ARGS__                                \
	}
#define NODE(key, kind, field, ...)                                                                \
	{                                                                                          \
		.section = CONF_SECTION_NODE, .name = key, .type = CONF_TYPE_##kind,               \
		.offset = offsetof(struct conf_node, field), __VA_ARGS__                           \
	}
#define GUEST(key, kind, field, ...)                                                               \
	{                                                                                          \
		.section = CONF_SECTION_GUEST, .name = key, .type = CONF_TYPE_##kind,              \
		.offset = offsetof(struct conf, field), __VA_ARGS__                                \
	}
#define SECURITY(key, kind, field, ...)                                                            \
	{                                                                                          \
		.section = CONF_SECTION_SECURITY, .name = key, .type = CONF_TYPE_##kind,           \
		.offset = offsetof(struct conf, field), __VA_ARGS__                                \
	}
#define UNSAFE(key, field, words, first)                                                           \
	{                                                                                          \
		.section = CONF_SECTION_UNSAFE, .name = key, .type = CONF_TYPE_SWITCH,             \
		.offset = offsetof(struct conf, field), .choices = words, .initial = first         \
	}
#define IGNORED(in, key)                                                                           \
	{                                                                                          \
		.section = CONF_SECTION_##in, .name = key, .type = CONF_TYPE_IGNORED               \
	}

const struct conf_key conf_keys[CONF_KEY_COUNT] = {
	GROUP("name", NAME, group, .mandatory = true),
	GROUP("epoch-ms", MS, epoch_ms, .min = 0, .max = 60000, .initial = "50"),
	GROUP("commit-policy", CHOICE, commit_policy, .choices = "auto manual", .initial = "auto"),
	GROUP("on-congestion", CHOICE, on_congestion, .choices = "block detach",
		.initial = "block"),
	GROUP("queue-limit", SIZE, queue_limit, .min = 8 * MIB, .max = 64 * GIB, .initial = "256M"),
	GROUP("staging-limit", SIZE, staging_limit, .min = 16 * MIB, .max = 64 * GIB,
		.initial = "256M"),
	GROUP("journal-size", SIZE, journal_size, .min = 64 * MIB, .max = TIB, .initial = "1G"),
	GROUP("dirty-block", BLOCK, dirty_block, .min = 4 * KIB, .max = MIB, .initial = "64K"),
	GROUP("resync", CHOICE, resync_digest, .choices = "copy digest", .initial = "copy"),
	GROUP("sync-rate", RATE, sync_rate, .min = 64 * KIB, .max = TIB, .initial = "0"),
	GROUP("sync-min-rate", RATE, sync_min_rate, .min = 64 * KIB, .max = TIB, .initial = "16M"),
	GROUP("heartbeat-ms", MS, heartbeat_ms, .min = 10, .max = 60000, .initial = "250"),
	GROUP("peer-timeout-ms", MS, peer_timeout_ms, .min = 20, .max = 600000, .initial = "3000"),
	GROUP("threads", COUNT, threads, .min = 1, .max = 256, .initial = "8"),
	GROUP("compression", CHOICE, compression, .choices = "lz4 zstd none", .initial = "lz4"),
	NODE("link", LINK, link_host, .mandatory = true),
	NODE("state-dir", PATH, state_dir, .mandatory = true),
	NODE("run-dir", PATH, run_dir, .mandatory = true),
	NODE("disk.", BACKING, disks),
	NODE("ingest", CHOICE, ingest, .choices = "none nbd", .initial = "none"),
	GUEST("memory", PAGES, guest_memory, .min = MIB, .max = 16 * TIB),
	GUEST("qemu", LINES, guest_qemu),
	GUEST("capture", CHOICE, guest_capture, .choices = "auto migrate fifo", .initial = "auto"),
	GUEST("tracking", CHOICE, guest_tracking, .choices = "auto uffd soft-dirty shadow",
		.initial = "auto"),
	GUEST("standby-qemu", SWITCH, guest_ahead, .choices = "promotion ahead",
		.initial = "ahead"),
	GUEST("delta-cache", SIZE, guest_delta_cache, .min = 0, .max = TIB, .initial = "0"),
	GUEST("max-lag-ms", MS, guest_max_lag_ms, .min = 0, .max = 600000, .initial = "2000"),
	SECURITY("tls-psk", PATH, tls_psk),
	SECURITY("tls-psk-user", TEXT, tls_psk_user, .initial = "tandem"),
	SECURITY("tls-x509", PATH, tls_x509),
	IGNORED(ARBITER, "etcd"),
	IGNORED(ARBITER, "directory"),
	IGNORED(ARBITER, "command"),
	UNSAFE("plaintext-link", unsafe_plaintext, "no yes", "no"),
	UNSAFE("commit", unsafe_commit_received, "durable received", "durable"),
	UNSAFE("resync", unsafe_resync_in_place, "staged in-place", "staged"),
	UNSAFE("ignore-guest-flush", unsafe_no_flush, "no yes", "no"),
};

const char *conf_section_name(enum conf_section section)
{
	static const char *const names[CONF_SECTION_COUNT] = {
		[CONF_SECTION_GROUP] = "group",
		[CONF_SECTION_NODE] = "node",
		[CONF_SECTION_GUEST] = "guest",
		[CONF_SECTION_SECURITY] = "security",
		[CONF_SECTION_ARBITER] = "arbiter",
		[CONF_SECTION_UNSAFE] = "unsafe",
	};

	return names[section];
}

const struct conf_key *conf_key_find(enum conf_section section, const char *name)
{
	for (unsigned i = 0; i < CONF_KEY_COUNT; i++) {
		const struct conf_key *k = &conf_keys[i];
		size_t n = strlen(k->name);

		if (k->section != section)
			continue;
		if (k->name[n - 1] == '.' ? !strncmp(k->name, name, n) : !strcmp(k->name, name))
			return k;
	}
	return NULL;
}

/* "a b c" as "a", "b" or "c" in quotes */
static const char *conf_key_words(const char *choices, char *buf, size_t len)
{
	size_t at = 0;

	buf[0] = '\0';
	while (*choices && at < len) {
		size_t n = strcspn(choices, " ");
		const char *after = choices[n] ? choices + n + 1 : choices + n;
		const char *sep = !at ? "" : *after ? ", " : " or ";

		at += (size_t)snprintf(buf + at, len - at, "%s\"%.*s\"", sep, (int)n, choices);
		choices = after;
	}
	return buf;
}

const char *conf_key_expected(const struct conf_key *key, char *buf, size_t len)
{
	char min[32], max[32];

	units_format_size(key->min, min, sizeof(min));
	units_format_size(key->max, max, sizeof(max));
	switch (key->type) {
	case CONF_TYPE_NAME:
		snprintf(buf, len, "a name of 1 to %d letters, digits, '.', '_' or '-'",
			CONF_MAX_NAME);
		break;
	case CONF_TYPE_MS:
		snprintf(buf, len, "a number of milliseconds from %llu to %llu",
			(unsigned long long)key->min, (unsigned long long)key->max);
		break;
	case CONF_TYPE_COUNT:
		snprintf(buf, len, "a number from %llu to %llu", (unsigned long long)key->min,
			(unsigned long long)key->max);
		break;
	case CONF_TYPE_SIZE:
		snprintf(buf, len, "a size from %s to %s, such as 256M", min, max);
		break;
	case CONF_TYPE_PAGES:
		snprintf(buf, len, "a size from %s to %s in whole pages of 4 KiB, such as 2G", min,
			max);
		break;
	case CONF_TYPE_BLOCK:
		snprintf(buf, len, "a power of two from %s to %s, such as 64K", min, max);
		break;
	case CONF_TYPE_RATE:
		snprintf(buf, len,
			"a size per second from %s to %s, such as 100M, or 0 for no limit", min,
			max);
		break;
	case CONF_TYPE_CHOICE:
	case CONF_TYPE_SWITCH:
		conf_key_words(key->choices, buf, len);
		break;
	case CONF_TYPE_PATH:
		snprintf(buf, len, "an absolute path");
		break;
	case CONF_TYPE_LINK:
		snprintf(buf, len, "ADDRESS:PORT (an IPv6 address in brackets)");
		break;
	case CONF_TYPE_BACKING:
		snprintf(buf, len, "an absolute path or an NBD URI");
		break;
	case CONF_TYPE_TEXT:
	case CONF_TYPE_LINES:
	case CONF_TYPE_IGNORED:
		snprintf(buf, len, "text");
		break;
	}
	return buf;
}
