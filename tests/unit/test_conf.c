/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The configuration parser: what it accepts, and for each kind of error the whole message, because
 * the message is the contract: file, line, key, and what was expected. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conf/conf.h"
#include "conf/conf_keys.h"

#define GROUP "[group]\nname = vm1\n" /* lines 1-2 */
#define ALPHA                                                                                      \
	"[node alpha]\nlink = 127.0.0.1:7800\nstate-dir = /s/a\nrun-dir = /r/a\n" /* lines 3-6 */
#define ALPHA_DISK "disk.vda = /d/a.img\n"                                        /* line 7 */
#define BETA                                                                                       \
	"[node beta]\nlink = 127.0.0.1:7801\nstate-dir = /s/b\nrun-dir = /r/b\n" /* lines 8-11 */
#define BETA_DISK "disk.vda = nbd+unix:///?socket=/b.sock\n"                     /* line 12 */
#define NODES ALPHA ALPHA_DISK BETA BETA_DISK
#define WHOLE GROUP NODES /* 12 lines */

static char test_path[64];

/* Loads text as the file "vm1.conf"; err->text has the directory cut off. */
static int test_load_bytes(const char *text, size_t len, struct conf **ret, struct error *err)
{
	FILE *f = fopen(test_path, "w");
	int r;

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
	memset(err, 0, sizeof(*err));
	r = conf_load(test_path, ret, err);
	if (r < 0)
		assert_int_equal(err->code, r);
	return r;
}

static struct conf *test_good(const char *text)
{
	struct conf *conf = NULL;
	struct error err;

	if (test_load_bytes(text, strlen(text), &conf, &err) < 0)
		fail_msg("%s", err.text);
	assert_non_null(conf);
	return conf;
}

/* expected: the message after the directory of the file */
static void test_bad_bytes(const char *text, size_t len, const char *expected)
{
	struct conf *conf = (struct conf *)&test_path;
	char whole[600];
	struct error err;

	if (test_load_bytes(text, len, &conf, &err) == 0)
		fail_msg("accepted, but expected: %s", expected);
	snprintf(whole, sizeof(whole), "%.*s%s", (int)(strlen(test_path) - strlen("vm1.conf")),
		test_path, expected);
	assert_string_equal(err.text, whole);
	assert_int_equal(err.kind, ERROR_CONFIG);
	assert_ptr_equal(conf, &test_path); /* written only on success */
}

static void test_bad(const char *text, const char *expected)
{
	test_bad_bytes(text, strlen(text), expected);
}

static void conf_defaults(void **state)
{
	struct conf *c = test_good(WHOLE);
	char buf[64];

	assert_string_equal(c->path, test_path);
	assert_string_equal(c->group, "vm1");
	assert_int_equal(c->epoch_ms, 50);
	assert_int_equal(c->commit_policy, CONF_COMMIT_AUTO);
	assert_int_equal(c->on_congestion, CONF_CONGESTION_BLOCK);
	assert_int_equal(c->queue_limit, 256u << 20);
	assert_int_equal(c->staging_limit, 256u << 20);
	assert_int_equal(c->journal_size, 1u << 30);
	assert_int_equal(c->sync_rate, 0);
	assert_int_equal(c->sync_min_rate, 16u << 20);
	assert_int_equal(c->dirty_block, 65536);
	assert_int_equal(c->heartbeat_ms, 250);
	assert_int_equal(c->peer_timeout_ms, 3000);
	assert_int_equal(c->threads, 8);
	assert_int_equal(c->nnodes, 2);
	assert_string_equal(c->nodes[1].name, "beta");
	assert_string_equal(c->nodes[1].link_host, "127.0.0.1");
	assert_string_equal(c->nodes[1].link_port, "7801");
	assert_string_equal(c->nodes[1].state_dir, "/s/b");
	assert_string_equal(c->nodes[1].run_dir, "/r/b");
	assert_int_equal(c->nodes[1].ndisks, 1);
	assert_string_equal(c->nodes[1].disks[0].name, "vda");
	assert_string_equal(c->nodes[1].disks[0].backing, "nbd+unix:///?socket=/b.sock");
	assert_int_equal(c->nodes[1].ingest, CONF_INGEST_NONE);
	assert_int_equal(c->nodes[1].line, 8);
	assert_int_equal(c->nodes[1].link_line, 9);
	assert_null(c->tls_psk);
	assert_null(c->tls_x509);
	assert_string_equal(c->tls_psk_user, "tandem");
	assert_string_equal(conf_unsafe_names(c, buf, sizeof(buf)), "");
	assert_null(conf_free(c));
	assert_null(conf_free(NULL));
}

static void conf_every_key(void **state)
{
	struct conf *c = test_good(
		"\xEF\xBB\xBF; a byte order mark, a comment\n"
		"[group]\n"
		"name = a.b-c_9\nepoch-ms = 0\ncommit-policy = manual\non-congestion = detach\n"
		"queue-limit = 8M\nstaging-limit = 1GiB\njournal-size = 67108865\n"
		"sync-rate = 100M\nsync-min-rate = 0\nheartbeat-ms = 10\npeer-timeout-ms = "
		"20\nthreads = 1\n"
		"compression = zstd\n"
		"# a comment of more than inih's 200 bytes: ...................................."
		"...............................................................................\n"
		"[node a]\nlink = [fd00::1]:1\nstate-dir = /s\nrun-dir = /r ; a comment\n"
		"  \t\n"
		"disk.x = /x\ndisk.y = nbd://h/y\ndisk.z = nbds+unix:///z?socket=/z\n"
		"ingest = nbd\n"
		"[node b]\ndisk.z = /x\ndisk.x = /y\ndisk.y = /z\n"
		"link = host-b.example:65535\nstate-dir = /s\nrun-dir = /r\n"
		"[security]\ntls-x509 = /etc/tls\ntls-psk-user = vm\n"
		"[guest]\nmemory = 2G\nqemu = qemu-system-x86_64 -M q35\n  -smp 2\n\t-m 2G\n"
		"capture = fifo\ntracking = soft-dirty\nstandby-qemu = promotion\ndelta-cache = "
		"64M\nmax-lag-ms = 0\n"
		"[arbiter]\netcd = http://h:1\ndirectory = /d\ncommand = fence\n"
		"[unsafe]\nplaintext-link = yes\ncommit = received\nresync = "
		"in-place\nignore-guest-flush = yes");
	char buf[64], small[10];

	assert_string_equal(c->group, "a.b-c_9");
	assert_int_equal(c->epoch_ms, 0);
	assert_int_equal(c->commit_policy, CONF_COMMIT_MANUAL);
	assert_int_equal(c->on_congestion, CONF_CONGESTION_DETACH);
	assert_int_equal(c->queue_limit, 8u << 20);
	assert_int_equal(c->staging_limit, 1u << 30);
	assert_int_equal(c->journal_size, 64u << 20); /* whole segments */
	assert_int_equal(c->sync_rate, 100u << 20);
	assert_int_equal(c->sync_min_rate, 0);
	assert_int_equal(c->heartbeat_ms, 10);
	assert_int_equal(c->peer_timeout_ms, 20);
	assert_int_equal(c->threads, 1);
	assert_int_equal(c->compression, CONF_COMPRESSION_ZSTD);
	assert_int_equal(c->guest_memory, 2ull << 30);
	assert_string_equal(c->guest_qemu, "qemu-system-x86_64 -M q35 -smp 2 -m 2G");
	assert_string_equal(c->nodes[0].link_host, "fd00::1");
	assert_string_equal(c->nodes[0].link_port, "1");
	assert_string_equal(c->nodes[0].run_dir, "/r");
	assert_int_equal(c->nodes[0].ingest, CONF_INGEST_NBD);
	assert_int_equal(c->nodes[1].ndisks, 3);
	assert_string_equal(c->nodes[1].disks[0].name, "x"); /* in the order of node a */
	assert_string_equal(c->nodes[1].disks[0].backing, "/y");
	assert_string_equal(c->nodes[1].disks[1].name, "y");
	assert_string_equal(c->nodes[1].disks[1].backing, "/z");
	assert_string_equal(c->nodes[1].disks[2].name, "z");
	assert_string_equal(c->nodes[1].disks[2].backing, "/x");
	assert_int_equal(c->guest_capture, CONF_CAPTURE_FIFO);
	assert_int_equal(c->guest_tracking, CONF_TRACKING_SOFT_DIRTY);
	assert_false(c->guest_ahead);
	assert_int_equal(c->guest_max_lag_ms, 0);
	assert_int_equal(c->guest_delta_cache, 64 << 20);
	assert_string_equal(c->tls_x509, "/etc/tls");
	assert_string_equal(c->tls_psk_user, "vm");
	assert_true(c->unsafe_plaintext && c->unsafe_commit_received && c->unsafe_no_flush);
	assert_string_equal(conf_unsafe_names(c, buf, sizeof(buf)),
		"plaintext-link, commit, resync, ignore-guest-flush");
	assert_string_equal(conf_unsafe_names(c, small, sizeof(small)), "plaintext");
	(void)conf_free(c);
}

/* Lines longer than inih takes: the value comes whole, comments and blanks are cut as in short
 * ones. */
static void conf_long_lines(void **state)
{
	char text[4096], options[1501], value[1600];
	struct conf *c;

	memset(options, 'x', sizeof(options) - 1);
	options[sizeof(options) - 1] = '\0';
	snprintf(text, sizeof(text),
		WHOLE
		"[guest]\nmemory = 1G\nqemu = qemu -a %s;b   ; a comment\n  -c   %s \t\n -d\n",
		options, options);
	c = test_good(text);
	snprintf(value, sizeof(value), "qemu -a %s;b -c   ", options);
	assert_int_equal(strncmp(c->guest_qemu, value, strlen(value)), 0);
	snprintf(value, sizeof(value), "%s -d", options);
	assert_string_equal(strstr(c->guest_qemu, "-c   ") + 5, value);
	(void)conf_free(c);
	/* the numbers of the lines behind it are right */
	snprintf(text, sizeof(text), WHOLE "[guest]\nqemu = qemu %s\n%s\nfoo = 1\n", options,
		"memory = 1G");
	test_bad(text, "vm1.conf:16: key \"foo\" in [guest]: unknown key; expected one of memory, "
		       "qemu, capture, tracking, standby-qemu, delta-cache, max-lag-ms");
}

static void conf_bad_numbers(void **state)
{
#define BAD_GROUP(key, value, expected)                                                            \
	test_bad(GROUP key " = " value "\n" NODES,                                                 \
		"vm1.conf:3: key \"" key "\" in [group]: \"" value "\" is not " expected)
	BAD_GROUP("epoch-ms", "fast", "a number of milliseconds from 0 to 60000");
	BAD_GROUP("epoch-ms", "60001", "a number of milliseconds from 0 to 60000");
	BAD_GROUP("epoch-ms", "-1", "a number of milliseconds from 0 to 60000");
	BAD_GROUP("epoch-ms", "", "a number of milliseconds from 0 to 60000");
	BAD_GROUP("epoch-ms", "99999999999999999999", "a number of milliseconds from 0 to 60000");
	BAD_GROUP("heartbeat-ms", "9", "a number of milliseconds from 10 to 60000");
	BAD_GROUP("peer-timeout-ms", "600001", "a number of milliseconds from 20 to 600000");
	BAD_GROUP("threads", "0", "a number from 1 to 256");
	BAD_GROUP("threads", "4K", "a number from 1 to 256");
	BAD_GROUP("queue-limit", "7M", "a size from 8.0 MiB to 64.0 GiB, such as 256M");
	BAD_GROUP("queue-limit", "65G", "a size from 8.0 MiB to 64.0 GiB, such as 256M");
	BAD_GROUP("staging-limit", "8M", "a size from 16.0 MiB to 64.0 GiB, such as 256M");
	BAD_GROUP("staging-limit", "1X", "a size from 16.0 MiB to 64.0 GiB, such as 256M");
	BAD_GROUP("journal-size", "63M", "a size from 64.0 MiB to 1.0 TiB, such as 256M");
	BAD_GROUP("journal-size", "99999999T", "a size from 64.0 MiB to 1.0 TiB, such as 256M");
	BAD_GROUP("dirty-block", "2K", "a power of two from 4.0 KiB to 1.0 MiB, such as 64K");
	BAD_GROUP("dirty-block", "96K", "a power of two from 4.0 KiB to 1.0 MiB, such as 64K");
	BAD_GROUP("sync-rate", "1",
		"a size per second from 64.0 KiB to 1.0 TiB, such as 100M, or 0 for no limit");
	BAD_GROUP("sync-min-rate", "2T",
		"a size per second from 64.0 KiB to 1.0 TiB, such as 100M, or 0 for no limit");
	BAD_GROUP("commit-policy", "Auto", "\"auto\" or \"manual\"");
	BAD_GROUP("on-congestion", "drop", "\"block\" or \"detach\"");
#undef BAD_GROUP
	test_bad(GROUP "heartbeat-ms = 1000\npeer-timeout-ms = 1999\n" NODES,
		"vm1.conf:4: key \"peer-timeout-ms\" in [group]: 1999 is not at least twice "
		"heartbeat-ms, which is 1000");
	test_bad(GROUP "heartbeat-ms = 1501\n" NODES,
		"vm1.conf:3: key \"peer-timeout-ms\" in [group]: 3000 is not at least twice "
		"heartbeat-ms, which is 1501");
}

static void conf_bad_names(void **state)
{
#define NAME63 "123456789012345678901234567890123456789012345678901234567890123"
#define IS_NOT "is not a name of 1 to 63 letters, digits, '.', '_' or '-'"
	test_bad("[group]\nname = a b\n" NODES,
		"vm1.conf:2: key \"name\" in [group]: \"a b\" " IS_NOT);
	test_bad("[group]\nname = " NAME63 "4\n" NODES,
		"vm1.conf:2: key \"name\" in [group]: \"" NAME63 "4\" " IS_NOT);
	test_bad(GROUP "[node a/b]\n", "vm1.conf:3: section [node a/b]: \"a/b\" " IS_NOT);
	test_bad(GROUP "[node  ]\n",
		"vm1.conf:3: section [node]: without a name; expected [node NAME]");
	test_bad(GROUP "[node]\n",
		"vm1.conf:3: section [node]: without a name; expected [node NAME]");
	test_bad(GROUP ALPHA "disk. = /x\n",
		"vm1.conf:7: key \"disk.\" in [node alpha]: \"\" " IS_NOT);
	test_bad(GROUP ALPHA "disk.a*b = /x\n",
		"vm1.conf:7: key \"disk.a*b\" in [node alpha]: \"a*b\" " IS_NOT);
	/* longer than inih keeps: nothing is cut */
	(void)conf_free(test_good("[group]\nname = " NAME63 "\n[node " NAME63
				  "]\nlink = 127.1.2.3:1\nstate-dir = /s\nrun-dir = /r\n"
				  "disk." NAME63 " = /x\ningest = nbd\n"));
	test_bad("[group]\nname = x\n[node " NAME63 "]\nlink = :\n",
		"vm1.conf:4: key \"link\" in [node " NAME63
		"]: \":\" is not ADDRESS:PORT (an IPv6 address in brackets)");
}

static void conf_bad_node_values(void **state)
{
	static const char *const links[] = {"", "host", "host:", ":1", "h:0", "h:65536", "h:1x",
		"::1:7800", "[::1]", "[::1]7800", "[x]:1", "h_h:1", "[127.0.0.1]:1"};
	char text[200], expected[200];

	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++) {
		snprintf(text, sizeof(text), GROUP "[node alpha]\nlink = %s\n", links[i]);
		snprintf(expected, sizeof(expected),
			"vm1.conf:4: key \"link\" in [node alpha]: \"%s\" is not ADDRESS:PORT (an "
			"IPv6 address in brackets)",
			links[i]);
		test_bad(text, expected);
	}
	test_bad(GROUP "[node alpha]\nstate-dir = s\n",
		"vm1.conf:4: key \"state-dir\" in [node alpha]: \"s\" is not an absolute path");
	test_bad(GROUP "[node alpha]\nrun-dir = ./r\n",
		"vm1.conf:4: key \"run-dir\" in [node alpha]: \"./r\" is not an absolute path");
	test_bad(GROUP "[node alpha]\ndisk.vda = a.img\n",
		"vm1.conf:4: key \"disk.vda\" in [node alpha]: \"a.img\" is not an absolute path "
		"or "
		"an NBD URI");
	test_bad(GROUP "[node alpha]\ndisk.vda = http://x\n",
		"vm1.conf:4: key \"disk.vda\" in [node alpha]: \"http://x\" is not an absolute "
		"path "
		"or an NBD URI");
	test_bad(GROUP "[node alpha]\ningest = yes\n",
		"vm1.conf:4: key \"ingest\" in [node alpha]: \"yes\" is not \"none\" or \"nbd\"");
	test_bad(GROUP ALPHA ALPHA_DISK "disk.vdb = /d/a.img\n",
		"vm1.conf:8: key \"disk.vdb\" in [node alpha]: \"/d/a.img\" is disk.vda already "
		"(line "
		"7); expected another");
	test_bad(GROUP
		"[node a]\nlink = 127.0.0.1:1\nstate-dir = /s\ndisk.x = /x\nrun-dir = "
		"/2345678901234567890123456789012345678901234567890123456789012345678901234567"
		"8901234567890123456\n",
		"vm1.conf:7: key \"run-dir\" in [node a]: the path is too long for the sockets in "
		"it; "
		"expected at most 94 bytes");
}

static void conf_bad_other_values(void **state)
{
	test_bad(WHOLE "[security]\ntls-psk = keys\n",
		"vm1.conf:14: key \"tls-psk\" in [security]: \"keys\" is not an absolute path");
	test_bad(WHOLE "[security]\ntls-x509 = x\n",
		"vm1.conf:14: key \"tls-x509\" in [security]: \"x\" is not an absolute path");
	test_bad(WHOLE "[security]\ntls-psk-user =\n",
		"vm1.conf:14: key \"tls-psk-user\" in [security]: \"\" is not text");
	test_bad(WHOLE "[security]\ntls-x509 = /x\ntls-psk = /p\n",
		"vm1.conf:14: key \"tls-x509\" in [security]: tls-psk is set too; expected one of "
		"them");
	test_bad(WHOLE "[guest]\nmemory = 1234567\n",
		"vm1.conf:14: key \"memory\" in [guest]: "
		"\"1234567\" is not a size from 1.0 MiB to 16.0 TiB in "
		"whole pages of 4 KiB, such as 2G");
	test_bad(WHOLE "[guest]\nqemu =\n",
		"vm1.conf:14: key \"qemu\" in [guest]: \"\" is not text");
	test_bad(WHOLE "[unsafe]\nplaintext-link = true\n",
		"vm1.conf:14: key \"plaintext-link\" in [unsafe]: \"true\" is not \"no\" or "
		"\"yes\"");
	test_bad(WHOLE "[unsafe]\ncommit = never\n",
		"vm1.conf:14: key \"commit\" in [unsafe]: \"never\" is not \"durable\" or "
		"\"received\"");
	test_bad(WHOLE "[unsafe]\nignore-guest-flush = 1\n",
		"vm1.conf:14: key \"ignore-guest-flush\" in [unsafe]: \"1\" is not \"no\" or "
		"\"yes\"");
}

static void conf_unknown_and_repeated(void **state)
{
	test_bad(GROUP "epochms = 5\n" NODES,
		"vm1.conf:3: key \"epochms\" in [group]: unknown "
		"key; expected one of name, epoch-ms, "
		"commit-policy, on-congestion, queue-limit, "
		"staging-limit, journal-size, dirty-block, resync, sync-rate, "
		"sync-min-rate, heartbeat-ms, peer-timeout-ms, threads, "
		"compression");
	test_bad(GROUP "[node alpha]\ndisk = /x\n",
		"vm1.conf:4: key \"disk\" in [node alpha]: unknown key; expected one of link, "
		"state-dir, run-dir, disk.NAME, ingest");
	test_bad(WHOLE "[guest]\nkvm = on\n",
		"vm1.conf:14: key \"kvm\" in [guest]: unknown key; expected one of memory, qemu, "
		"capture, tracking, standby-qemu, delta-cache, max-lag-ms");
	test_bad(WHOLE "[arbiter]\nzookeeper = x\n",
		"vm1.conf:14: key \"zookeeper\" in [arbiter]: unknown key; expected one of etcd, "
		"directory, command");
	test_bad(WHOLE "[unsafe]\neverything = yes\n",
		"vm1.conf:14: key \"everything\" in [unsafe]: unknown key; expected one of "
		"plaintext-link, commit, resync, ignore-guest-flush");
	test_bad(WHOLE "[securty]\n",
		"vm1.conf:13: section [securty]: unknown section; expected [group], [node NAME], "
		"[guest], [security], [arbiter] or [unsafe]");
	test_bad("name = x\n",
		"vm1.conf:1: key \"name\" outside a section; expected [group] or another section "
		"first");
	test_bad(GROUP "epoch-ms = 1\nepoch-ms = 1\n",
		"vm1.conf:4: key \"epoch-ms\" in [group]: already set on line 3");
	test_bad(GROUP ALPHA ALPHA_DISK "disk.vda = /y\n",
		"vm1.conf:8: key \"disk.vda\" in [node alpha]: already set on line 7");
	test_bad(WHOLE "[guest]\nqemu = a\n b\nqemu = c\n",
		"vm1.conf:16: key \"qemu\" in [guest]: already set on line 14");
	test_bad(WHOLE "[group]\n", "vm1.conf:13: section [group]: already begun on line 1");
	test_bad(GROUP ALPHA "[node alpha]\n",
		"vm1.conf:7: section [node alpha]: already begun on line 3");
	test_bad(WHOLE "[node gamma]\n",
		"vm1.conf:13: section [node gamma]: expected at most 2 nodes");
}

static void conf_missing(void **state)
{
	test_bad("", "vm1.conf:1: section [group]: missing");
	test_bad(NODES, "vm1.conf:10: section [group]: missing");
	test_bad("\n[group]\n" NODES,
		"vm1.conf:2: key \"name\" in [group]: missing; expected a name of 1 to 63 letters, "
		"digits, '.', '_' or '-'");
	test_bad(GROUP, "vm1.conf:2: section [node NAME]: missing; expected two of them");
	test_bad(GROUP ALPHA ALPHA_DISK, "vm1.conf:7: section [node NAME]: there is only [node "
					 "alpha]; expected two of them");
	(void)conf_free(test_good(GROUP ALPHA ALPHA_DISK "ingest = nbd\n"));
	test_bad(GROUP "[node a]\n", "vm1.conf:3: key \"link\" in [node a]: missing; expected "
				     "ADDRESS:PORT (an IPv6 address "
				     "in brackets)");
	test_bad(GROUP "[node a]\nlink = 127.0.0.1:1\nrun-dir = /r\n",
		"vm1.conf:3: key \"state-dir\" in [node a]: missing; expected an absolute path");
	test_bad(GROUP "[node a]\nlink = 127.0.0.1:1\nstate-dir = /s\n",
		"vm1.conf:3: key \"run-dir\" in [node a]: missing; expected an absolute path");
	test_bad(GROUP ALPHA BETA BETA_DISK,
		"vm1.conf:3: section [node alpha]: no disk; expected at least one key disk.NAME");
}

static void conf_nodes_that_differ(void **state)
{
	test_bad(GROUP ALPHA ALPHA_DISK "disk.vdb = /y\n" BETA BETA_DISK,
		"vm1.conf:9: section [node beta]: no disk.vdb, which node alpha has (line 8); "
		"expected "
		"the same disks on both nodes");
	test_bad(GROUP NODES "disk.vdc = /y\n", "vm1.conf:13: key \"disk.vdc\" in [node beta]: "
						"node alpha has no disk of this name; "
						"expected the same disks on both nodes");
	test_bad(GROUP ALPHA ALPHA_DISK "[node beta]\nlink = 127.0.0.1:7800\nstate-dir = /s/b\n"
					"run-dir = /r/b\n" BETA_DISK,
		"vm1.conf:9: key \"link\" in [node beta]: \"127.0.0.1:7800\" is node alpha's too "
		"(line "
		"4); expected another");
#define SAME "is node alpha's too, and both run on this machine (loopback links); expected another"
	test_bad(GROUP ALPHA ALPHA_DISK "[node beta]\nlink = [::1]:7800\nstate-dir = /s/a\n"
					"run-dir = /r/b\n" BETA_DISK,
		"vm1.conf:10: key \"state-dir\" in [node beta]: " SAME);
	test_bad(GROUP ALPHA ALPHA_DISK "[node beta]\nlink = localhost:1\nstate-dir = /s/b\n"
					"run-dir = /r/a\n" BETA_DISK,
		"vm1.conf:11: key \"run-dir\" in [node beta]: " SAME);
	test_bad(GROUP ALPHA ALPHA_DISK BETA "disk.vda = /d/a.img\n",
		"vm1.conf:12: key \"disk.vda\" in [node beta]: " SAME);
}

static void conf_syntax(void **state)
{
	char text[600];

#define NOT_UNDERSTOOD ": not understood; expected \"[SECTION]\" or \"KEY = VALUE\""
	test_bad(GROUP "nonsense\n" NODES, "vm1.conf:3" NOT_UNDERSTOOD);
	test_bad(GROUP "[node alpha\n", "vm1.conf:3" NOT_UNDERSTOOD);
	test_bad(WHOLE "[guest]\nmemory\n", "vm1.conf:14" NOT_UNDERSTOOD);
	/* the first error is the one that is told */
	test_bad(GROUP "nonsense\nunknown = 1\n", "vm1.conf:3" NOT_UNDERSTOOD);
	test_bad(GROUP "unknown-section\n[what]\n", "vm1.conf:3" NOT_UNDERSTOOD);
	test_bad(GROUP "epoch-ms = x\nnonsense\n", "vm1.conf:3: key \"epoch-ms\" in [group]: \"x\" "
						   "is not a number of milliseconds from 0 "
						   "to 60000");
	test_bad("[group] name = vm1\n", "vm1.conf:1: section [group]: text follows the bracket; "
					 "expected it on the next line");
	test_bad("[group]\n  name = vm1\n  epoch-ms = 1\n",
		"vm1.conf:3: the line begins with white space, so it would continue \"name\", "
		"which "
		"takes one line; expected no white space before a key");
	snprintf(text, sizeof(text), GROUP "%0300d = 1\n", 0);
	test_bad(text, "vm1.conf:3: the line is too long; expected at most 198 bytes");
	snprintf(text, sizeof(text), GROUP "[node %0200d]\n", 0);
	test_bad(text, "vm1.conf:3: the line is too long; expected at most 198 bytes");
	snprintf(text, sizeof(text), GROUP "[node %0150d]\n", 0);
	test_bad(text, "vm1.conf:3: section [node 000000000000000000000000000...]: its name is too "
		       "long");
	test_bad_bytes(
		"[group]\nname = v\0m\n", 18, "vm1.conf:2: a control character; expected text");
	test_bad("[group]\n\001 = group\n", "vm1.conf:2: a control character; expected text");
	strcpy(text, "");
	for (int i = 0; i < 40; i++)
		strcat(text, "[group]\n");
	test_bad(text, "vm1.conf:2: section [group]: already begun on line 1");
}

static void conf_unreadable(void **state)
{
	struct conf *c = NULL;
	struct error err = {0};

	assert_int_equal(conf_load("/nonexistent/vm1.conf", &c, &err), -ENOENT);
	assert_int_equal(err.kind, ERROR_IO);
	assert_string_equal(err.text,
		"cannot read configuration /nonexistent/vm1.conf: No such file "
		"or directory");
	assert_int_equal(conf_load("/", &c, &err), -EISDIR);
	assert_string_equal(err.text, "cannot read configuration /: Is a directory");
	assert_int_equal(conf_load("/nonexistent/vm1.conf", &c, NULL), -ENOENT);
	assert_null(c);
}

static void conf_plaintext(void **state)
{
#define FAR ALPHA ALPHA_DISK "[node beta]\nlink = 10.0.0.2:7800\nstate-dir = /s\nrun-dir = /r\n"
	struct conf *c;
	struct error err = {0};

	test_bad(GROUP FAR BETA_DISK,
		"vm1.conf:9: key \"link\" in [node beta]: 10.0.0.2 is not a loopback address and "
		"nothing encrypts the link; expected tls-psk or tls-x509 in [security], or "
		"plaintext-link = yes in [unsafe]");
	test_bad(GROUP FAR BETA_DISK "[unsafe]\nplaintext-link = no\n",
		"vm1.conf:9: key \"link\" in [node beta]: 10.0.0.2 is not a loopback address and "
		"nothing encrypts the link; expected tls-psk or tls-x509 in [security], or "
		"plaintext-link = yes in [unsafe]");
	(void)conf_free(test_good(GROUP FAR BETA_DISK "[security]\ntls-psk = /k\n"));
	(void)conf_free(test_good(GROUP FAR BETA_DISK "[security]\ntls-x509 = /k\n"));
	c = test_good(GROUP FAR BETA_DISK "[unsafe]\nplaintext-link = yes\n");
	assert_int_equal(conf_check_plaintext(c, &err), 0);
	c->unsafe_plaintext = false;
	assert_int_equal(conf_check_plaintext(c, &err), -EINVAL);
	assert_int_equal(err.kind, ERROR_CONFIG);
	(void)conf_free(c);
}

static void conf_loopback(void **state)
{
	static const char *const near[] = {
		"127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1", "localhost", "LocalHost"};
	static const char *const far[] = {"10.0.0.1", "128.0.0.1", "::2", "::ffff:10.0.0.1",
		"localhost.example", "127.0.0.1.example", "127.1", "0.0.0.0", "::", ""};

	for (size_t i = 0; i < sizeof(near) / sizeof(near[0]); i++)
		assert_true(conf_is_loopback(near[i]));
	for (size_t i = 0; i < sizeof(far) / sizeof(far[0]); i++)
		assert_false(conf_is_loopback(far[i]));
}

static void conf_find(void **state)
{
	struct conf *c = test_good(WHOLE);
	char host[256], expected[600];
	struct error err = {0};

	assert_int_equal(conf_find_node(c, "alpha", &err), 0);
	assert_int_equal(conf_find_node(c, "beta", &err), 1);
	assert_int_equal(conf_find_node(c, "gamma", &err), -ENOENT);
	snprintf(expected, sizeof(expected),
		"%s has no node \"gamma\"; expected one of: alpha, beta", test_path);
	assert_string_equal(err.text, expected);
	assert_int_equal(err.kind, ERROR_USAGE);
	assert_int_equal(gethostname(host, sizeof(host)), 0);
	host[strcspn(host, ".")] = '\0';
	assert_int_equal(conf_find_node(c, NULL, &err), -ENOENT);
	snprintf(expected, sizeof(expected),
		"%s has no node named as this host, \"%.64s\"; say which one it is with --node: "
		"alpha, beta",
		test_path, host);
	assert_string_equal(err.text, expected);
	snprintf(c->nodes[1].name, sizeof(c->nodes[1].name), "%.63s", host);
	assert_int_equal(conf_find_node(c, NULL, &err), 1);
	(void)conf_free(c);
}

static void conf_table(void **state)
{
	for (unsigned i = 0; i < CONF_KEY_COUNT; i++) {
		char buf[160];

		assert_non_null(conf_keys[i].name); /* the count fits the table */
		assert_ptr_equal(
			conf_key_find(conf_keys[i].section, conf_keys[i].name), &conf_keys[i]);
		assert_true(strlen(conf_key_expected(&conf_keys[i], buf, sizeof(buf))) > 3);
	}
}

static int test_setup(void **state)
{
	static char dir[] = "/tmp/tandem-conf-XXXXXX";

	if (!mkdtemp(dir))
		return -1;
	snprintf(test_path, sizeof(test_path), "%s/vm1.conf", dir);
	*state = dir;
	return 0;
}

static int test_teardown(void **state)
{
	(void)unlink(test_path);
	return rmdir(*state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(conf_defaults),
		cmocka_unit_test(conf_every_key),
		cmocka_unit_test(conf_long_lines),
		cmocka_unit_test(conf_bad_numbers),
		cmocka_unit_test(conf_bad_names),
		cmocka_unit_test(conf_bad_node_values),
		cmocka_unit_test(conf_bad_other_values),
		cmocka_unit_test(conf_unknown_and_repeated),
		cmocka_unit_test(conf_missing),
		cmocka_unit_test(conf_nodes_that_differ),
		cmocka_unit_test(conf_syntax),
		cmocka_unit_test(conf_unreadable),
		cmocka_unit_test(conf_plaintext),
		cmocka_unit_test(conf_loopback),
		cmocka_unit_test(conf_find),
		cmocka_unit_test(conf_table),
	};

	return cmocka_run_group_tests(tests, test_setup, test_teardown);
}
