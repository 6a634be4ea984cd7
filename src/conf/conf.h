/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The configuration file of one group (man page tandem.conf(5)): read by inih, checked whole before
 * anything acts on it.  Every error names file, line, key and what was expected.
 * The result is immutable; strings are owned by it.  Not thread-safe while loading. */
#ifndef TANDEM_CONF_CONF_H
#define TANDEM_CONF_CONF_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

#define CONF_MAX_DISKS 64
#define CONF_MAX_NODES 2
#define CONF_MAX_NAME 63 /* bytes of a group, node or disk name: [A-Za-z0-9._-]+ */

enum conf_commit_policy { CONF_COMMIT_AUTO, CONF_COMMIT_MANUAL };
enum conf_congestion { CONF_CONGESTION_BLOCK, CONF_CONGESTION_DETACH };
enum conf_compression { CONF_COMPRESSION_LZ4, CONF_COMPRESSION_ZSTD, CONF_COMPRESSION_NONE };
enum conf_ingest { CONF_INGEST_NONE, CONF_INGEST_NBD };
/* How device state is captured and dirty pages are found (docs/guest.md). */
enum conf_capture { CONF_CAPTURE_AUTO, CONF_CAPTURE_MIGRATE, CONF_CAPTURE_FIFO };
enum conf_tracking {
	CONF_TRACKING_AUTO,
	CONF_TRACKING_UFFD,
	CONF_TRACKING_SOFT_DIRTY,
	CONF_TRACKING_SHADOW
};

struct conf_disk {
	char name[CONF_MAX_NAME + 1];
	char *backing; /* absolute path (raw file, block device) or NBD URI */
};

struct conf_node {
	char name[CONF_MAX_NAME + 1];
	char *link_host; /* numeric address or name; IPv6 in brackets in the file, bare here */
	char *link_port;
	char *state_dir;                        /* absolute */
	char *run_dir;                          /* absolute */
	struct conf_disk disks[CONF_MAX_DISKS]; /* in the order of [group]'s first node: the same
						 * index is the same volume on both nodes */
	unsigned ndisks;
	enum conf_ingest ingest; /* ingest = nbd (default none): exports of a secondary without a
				  * primary are writable, the controller commits (DESIGN 3.1) */
	int line;                /* of the section, for messages */
	int link_line;           /* of the key "link" */
};

struct conf {
	char *path;
	char group[CONF_MAX_NAME + 1];

	/* [group]; sizes in bytes, times in milliseconds */
	uint64_t epoch_ms;                     /* 0..60000, default 50; 0 = cuts only on command */
	enum conf_commit_policy commit_policy; /* commit-policy = auto|manual, default auto */
	enum conf_congestion on_congestion;    /* on-congestion = block|detach, default block */
	uint64_t queue_limit;                  /* queue-limit, default 256M; 8M..64G */
	uint64_t staging_limit;                /* staging-limit, default 256M; 16M..64G */
	uint64_t journal_size;  /* journal-size, default 1G; 64M..1T, rounded down to 4M segments */
	uint64_t dirty_block;   /* dirty-block, default 64K; 4K..1M, a power of two */
	int resync_digest;      /* resync = copy|digest, default copy: 0, 1 */
	uint64_t sync_rate;     /* sync-rate, bytes per second, default 0 = unlimited */
	uint64_t sync_min_rate; /* sync-min-rate, the same, default 16M; 0 = does not give way */
	uint64_t heartbeat_ms;  /* heartbeat-ms, default 250; 10..60000 */
	uint64_t peer_timeout_ms; /* peer-timeout-ms, default 3000; >= 2 x heartbeat-ms, ..600000 */
	uint64_t threads; /* threads: NBD worker threads per connection, default 8; 1..256 */

	/* compression = lz4|zstd|none, default lz4: of guest memory and device state on the link */
	enum conf_compression compression;

	struct conf_node nodes[CONF_MAX_NODES];
	unsigned nnodes;

	/* [guest] */
	uint64_t guest_memory; /* memory: bytes of guest RAM, whole pages; 0 = not set */
	char *guest_qemu;      /* qemu: the command line, its lines joined by spaces; or NULL */
	enum conf_capture guest_capture; /* capture = auto|migrate|fifo, default auto */
	enum conf_tracking
		guest_tracking; /* tracking = auto|uffd|soft-dirty|shadow, default auto */
	bool guest_ahead;       /* standby-qemu = promotion|ahead, default ahead */
	/* delta-cache: bytes of pages sent last that the primary keeps, default 0 = none; ..1T */
	uint64_t guest_delta_cache;
	uint64_t guest_max_lag_ms; /* max-lag-ms, default 2000; 0 = never slowed, ..600000 */

	/* [security] */
	char *tls_psk;  /* tls-psk = FILE of "name:hexkey" lines (as nbdkit and QEMU), or NULL */
	char *tls_x509; /* tls-x509 = DIR with ca-cert.pem, server-cert.pem, server-key.pem,
			 * client-cert.pem, client-key.pem (as nbdkit and QEMU), or NULL */
	char *tls_psk_user; /* tls-psk-user, default "tandem" */

	/* [unsafe]: each weakens a guarantee and is shown by `status` */
	bool unsafe_plaintext;       /* plaintext-link = yes: no TLS off loopback */
	bool unsafe_commit_received; /* commit = received: acknowledged when in memory */
	bool unsafe_resync_in_place; /* resync = in-place: the secondary may lose its state
					meanwhile */
	bool unsafe_no_flush;        /* ignore-guest-flush = yes: not used by default */
};

/* Loads and checks path.  *ret_conf is set on success only and freed with conf_free (NULL is fine,
 * returns NULL).  Errors are of kind ERROR_CONFIG (ERROR_IO where the file cannot be read):
 *   vm1.conf:7: key "epoch-ms" in [group]: "fast" is not a number of milliseconds from 0 to 60000
 */
int conf_load(const char *path, struct conf **ret_conf, struct error *err);
struct conf *conf_free(struct conf *conf);

/* The one place that refuses a link in clear text; conf_load calls it last.  An error of kind
 * ERROR_CONFIG, naming plaintext-link in [unsafe], when [security] sets neither tls-psk nor
 * tls-x509, some node's link is not loopback, and plaintext-link is not yes. */
int conf_check_plaintext(const struct conf *conf, struct error *err);

/* The node called name; NULL name = the one named like this host (short host name).  Returns the
 * index in conf->nodes or a negative errno with the reason and the names that there are. */
int conf_find_node(const struct conf *conf, const char *name, struct error *err);

/* Whether host is a loopback address or name (127.0.0.0/8, ::1, localhost). */
bool conf_is_loopback(const char *host);

/* Names of the [unsafe] switches that are on, as "a, b", or "" if none; returns buf. */
const char *conf_unsafe_names(const struct conf *conf, char *buf, unsigned long len);

#endif
