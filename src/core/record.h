/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Records of the stream and the journal: docs/stream.md and docs/journal.md are the contract.
 * Pure: bytes in, struct out.  One function, record_check, validates a whole record before anything
 * acts on it. */
#ifndef TANDEM_CORE_RECORD_H
#define TANDEM_CORE_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECORD_MAGIC 0x43524454u /* "TDRC" */
#define RECORD_HEADER_SIZE 64u
#ifdef TANDEM_SMALL_SIZES /* tests/sim: the same code, with sizes that a short run fills */
#define RECORD_MAX_PAYLOAD (16u << 10)
#else
#define RECORD_MAX_PAYLOAD (1u << 20)
#endif
#define RECORD_MAX_SIZE (RECORD_HEADER_SIZE + RECORD_MAX_PAYLOAD)
#define RECORD_ALIGN 8u
#ifndef RECORD_MAX_VOLUMES /* a model of the identity rules needs one only */
#define RECORD_MAX_VOLUMES 64u
#endif
#define RECORD_MAX_TEXT 512u           /* bytes of a GOODBYE's text */
#define RECORD_MAX_DIGEST 1032u        /* bytes of a DIGEST's payload */
#define RECORD_MAX_MAP 8200u           /* bytes of a MAP's payload */
#define RECORD_MAX_LENGTH (1ull << 62) /* offset + length stays below 2^63 */
#define RECORD_OPTIONAL 0x8000u        /* bit of the type */

enum record_type {
	RECORD_HELLO = 1,
	RECORD_WRITE = 2,
	RECORD_ZERO = 3,
	RECORD_SEAL = 4,
	RECORD_SYNC_BEGIN = 5,
	RECORD_SYNC_END = 6,
	RECORD_ACK_RECEIVED = 7,
	RECORD_ACK_COMMITTED = 8,
	RECORD_HEARTBEAT = 9,
	RECORD_GOODBYE = 10,
	RECORD_PAGES = 11, /* core/pages.h */
	RECORD_STATE = 12,
	RECORD_MAP = 13, /* core/dirtymap_wire.h */
	RECORD_MAP_END = 14,
	RECORD_ACK_SYNCED = 15,
	RECORD_DIGEST = 16, /* core/digest.h */
	RECORD_DIFFER = 17,
	RECORD_CHECK = 18, /* core/memcheck.h */
	RECORD_CHECKED = 19,
	RECORD_GROW = 20,
	RECORD_GROWN = 21,
	RECORD_FREEZE = 22,
	RECORD_THAW = 23,
	RECORD_FROZEN = 24,
	RECORD_STANDBY = 25,
	/* only in journals */
	RECORD_COMMIT = 256,
	RECORD_DISCARD = 257,
};

enum record_flags {
	RECORD_FLAG_SYNC = 1,  /* data of the full sync, not a new change of the guest */
	RECORD_FLAG_UNMAP = 2, /* ZERO: the receiver may free the space */
	RECORD_FLAG_LZ4 = 4,   /* PAGES, STATE: how the data is compressed */
	RECORD_FLAG_ZSTD = 8,
	RECORD_FLAG_MERGE = 16,  /* SEAL: no state of the group, joined to the next epoch */
	RECORD_FLAG_FROZEN = 32, /* DIGEST: of the disks as of the epoch of the FREEZE */
	RECORD_FLAG_HELD = 64,   /* MAP, DIGEST: of what an interrupted sync has left */
};

/* How a sync lands on the secondary: offset of SYNC_BEGIN. */
enum record_sync {
	RECORD_SYNC_IN_PLACE = 0, /* straight on the images: nothing to promote until it commits */
	RECORD_SYNC_STAGED = 1,   /* through the journal, as one epoch */
	RECORD_SYNC_CLONED = 2,  /* into clones of the images, which replace them when it commits */
	RECORD_SYNC_RESUMED = 3, /* staged, with what an interrupted one has left there */
	RECORD_SYNC_KINDS,
};

/* As the control interface has it (docs/control.md). */
const char *record_sync_name(enum record_sync kind);

enum record_goodbye {
	RECORD_GOODBYE_SHUTDOWN = 1,
	RECORD_GOODBYE_REFUSED = 2,
	RECORD_GOODBYE_PROMOTED = 3,
	RECORD_GOODBYE_FAILED = 4,
	RECORD_GOODBYE_DISCARDED = 5,
	RECORD_GOODBYE_HANDOVER = 6, /* length: the epoch at which the receiver takes over */
	RECORD_GOODBYE_DISCONNECTED = 7,
};

/* Where a record may stand: each type is known in some of these only. */
enum record_place {
	RECORD_FROM_PRIMARY = 1,
	RECORD_FROM_SECONDARY = 2,
	RECORD_IN_JOURNAL = 4,
};

struct record {
	uint16_t type; /* with RECORD_OPTIONAL */
	uint16_t flags;
	uint32_t volume;
	uint32_t payload; /* bytes, without padding */
	uint64_t epoch;
	uint64_t offset;
	uint64_t length;
	uint64_t seq;
	uint32_t payload_crc;
};

/* Outcomes of record_check that the caller must tell apart. */
enum record_verdict {
	RECORD_OK = 0,
	RECORD_SHORT = 1,   /* more bytes are needed: *ret_size in all (header first) */
	RECORD_UNKNOWN = 2, /* a whole record of an unknown optional type: skip it */
	RECORD_BAD = 3,     /* *ret_why says what is wrong */
};

/* Bytes of a whole record with this much payload. */
static inline size_t record_size(uint32_t payload)
{
	return RECORD_HEADER_SIZE + ((payload + RECORD_ALIGN - 1) & ~(size_t)(RECORD_ALIGN - 1));
}

/* Writes the 64 header bytes; payload_crc must be set where payload > 0. */
void record_put_header(uint8_t *buf, const struct record *rec);

/* Looks at the record at the start of buf, of which len bytes are there.  place: one of
 * enum record_place, what may stand there.  check_seq: rec.seq must be seq.  RECORD_OK: *ret_rec
 * and *ret_size are set, the payload stands at buf + RECORD_HEADER_SIZE. Costs one CRC over the
 * payload (about 0.1 us per KiB or less), no copy. */
enum record_verdict record_check(const uint8_t *buf, size_t len, enum record_place place,
	bool check_seq, uint64_t seq, struct record *ret_rec, size_t *ret_size,
	const char **ret_why);

/* Of a disk. */
static inline bool record_is_change(const struct record *rec)
{
	return rec->type == RECORD_WRITE || rec->type == RECORD_ZERO;
}

/* Memory or device state of a guest: a change too, but never in the journal. */
static inline bool record_is_memory(const struct record *rec)
{
	return rec->type == RECORD_PAGES || rec->type == RECORD_STATE;
}

/* The checksum of the payload of a record that comes in pieces, as far as it came; {0} before each.
 */
struct record_sum {
	uint32_t len, crc;
};

/* The same, and sums what is there of the payload while it is still in the processor's cache. buf
 * may move between the calls, what stands in it may not change.  sum is {0} again behind a whole
 * record; NULL: the payload is summed when it is whole. */
enum record_verdict record_check_piece(const uint8_t *buf, size_t len, enum record_place place,
	bool check_seq, uint64_t seq, struct record_sum *sum, struct record *ret_rec,
	size_t *ret_size, const char **ret_why);

const char *record_type_name(uint16_t type);

#endif
