/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The deterministic simulator: both nodes, their disks and the link in one process, in virtual
 * time. One seed decides everything, so that a failure replays exactly.
 *
 *   sim_world.c      random numbers, the event loop, failures and trace
 *   sim_plan.c       what a seed does: sizes, policy, faults; one run from begin to end
 *   sim_disk.c       disks that lose or tear what was not flushed
 *   sim_link.c       the connection: delays, pieces, breaks, flipped bytes
 *   sim_oracle.c     what must be true: the ordered changes and the state at every cut
 *   sim_primary.c    guests' writers, cuts, acknowledgements; sim_sync.c: the full sync
 *   sim_guest.c      a guest with RAM and device state, its checkpoints, the secondary's image
 *   sim_secondary.c  the replica's life: receiving, journal, restart, promotion
 *   sim_apply.c      batches to the images, header, metadata
 *   sim_local.c      writes to a promoted node; the controller of policy manual
 *   sim_check.c      what a power cut at this moment would leave; what a reader sees
 *
 * The model is stricter than a real machine where that finds more: a crash may keep any subset of
 * what was not flushed, by sector. */
#ifndef TANDEM_TESTS_SIM_H
#define TANDEM_TESTS_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/compress.h"
#include "core/dirtymap.h"
#include "core/primary.h"
#include "core/rangelock.h"
#include "core/replica.h"

#define SIM_VOLUMES 3u
#define SIM_SECTOR 512u
#define SIM_WRITERS 8u
#define SIM_US 1000ull
#define SIM_MS 1000000ull
#define SIM_CUT_NONE UINT64_MAX

struct sim;
typedef void (*sim_fn)(struct sim *s, void *arg);

/* An event of a node dies with it. */
enum sim_node { SIM_WORLD, SIM_PRIMARY, SIM_SECONDARY, SIM_NODES };

/* Faults of the harness itself (--break): each must be found, or the checks prove nothing. */
enum sim_break {
	BREAK_NONE,
	BREAK_ACK_EARLY,     /* the journal's flush is reported but not done */
	BREAK_TAIL_EARLY,    /* the tail moves although the images were not flushed */
	BREAK_HEADER_EARLY,  /* space is used again before the new tail is durable */
	BREAK_NO_MARK,       /* a full sync writes without marking the images inconsistent */
	BREAK_SYNC_NO_FLUSH, /* a full sync commits without an image flush */
	BREAK_DROP_CHANGE,   /* one write of the guest never enters the stream */
	BREAK_LOCAL_ORDER,   /* local writes do not wait for their range */
	BREAK_SYNC_UNLOCKED, /* the full sync reads without the range lock */
	BREAK_LOST_CHUNK,    /* a journal write is reported but not done */
	BREAK_MISPLACE,      /* one write to an image lands a sector off */
	BREAK_LATE_CHANGE,   /* a change enters the stream after its reply */
	BREAK_MEMORY_LATE,   /* RAM is copied after the guest went on */
	BREAK_MEMORY_DROP,   /* pages of a checkpoint are not sent */
	BREAK_DELTA_FORGET,  /* differences to what a former session has sent */
	BREAK_DELTA_NEWEST,  /* differences to what RAM holds, not to what was sent */
	BREAK_FORGET_SENT,   /* what was on its way when the link went is not wanted again */
	BREAK_NOT_LOOSE,     /* local writes that no flush covered are forgotten at a power cut */
	BREAK_SYNCED_EARLY,  /* a part of a sync in place is acknowledged before it is durable */
	BREAK_CLONE_EARLY,   /* clones take the images' place although they were not flushed */
	BREAK_CLONE_NO_NOTE, /* ... and the metadata does not say so before */
	BREAK_HELD_EARLY,    /* what an interrupted sync left is forgotten before it is committed */
	BREAK_HELD_UNASKED,  /* ... is taken for equal without a look */
	BREAK_COUNT,
};

struct sim_plan {
	unsigned volumes, writers;
	uint64_t size[SIM_VOLUMES]; /* bytes */
	uint64_t queue_size, ring_size, staging_limit, max_write, batch_bytes;
	uint64_t cut_interval, think, duration;
	unsigned zero_percent;
	bool manual, ack_when_sealed;
	bool kill_only;      /* crashes of processes, not of machines */
	unsigned break_mean; /* ms between link breaks, 0 = none; the others alike */
	unsigned crash_s_mean, crash_p_mean, flip_mean, error_mean, goodbye_mean;
	uint64_t promote_at; /* 0 = never */
	uint64_t memory;     /* bytes of a guest's RAM, 0 = no guest */
	bool mapped;         /* the secondary's journal is mapped */
};

struct sim_stats {
	uint64_t seeds, events, writes, zeros, flushes, cuts, syncs, sync_ends, commits, applied;
	uint64_t direct, crashes_p, crashes_s, breaks, flips, flips_seen, shadows, live;
	uint64_t recovered, queue_full, rx_wait, from_journal, wraps, discards, promotions, local;
	uint64_t staged, too_big, cloned, clones_failed, clones_resumed, held, gone_on;
	uint64_t pages, deltas, abandoned, memory_checks, resumed;
	uint64_t unpromotable, errors, goodbyes, empty_batches;
	uint64_t synced, wanted, sync_bytes, mapped;
};

/* --- sim_disk.c --- */
struct disk_op {
	struct disk_op *next;
	struct disk *disk;
	uint64_t off, len;
	uint64_t id;      /* of the write; flush: everything completed up to here is covered */
	uint64_t done_id; /* order of completion, 0 = in flight */
	uint8_t *data;    /* NULL: a flush */
	uint8_t *mapped;  /* of a flush: what the mapped part held when it began */
	uint64_t began;   /* order of the flushes */
	sim_fn fn;
	void *arg;
};

struct disk {
	struct sim *s;
	enum sim_node node;
	const char *name;
	uint64_t size;
	uint8_t *cache, *stable; /* what reads see; what surely survives */
	struct disk_op *inflight;
	struct disk_op *dirty_first, *dirty_last; /* completed and not flushed, in order */
	uint64_t ids, done_ids;
	uint64_t slow; /* ns, upper bound of a write's time */
	/* From here to the end it is mapped: what is put into cache there is written back by
	 * itself, each sector at any time, and surely by the next flush. */
	uint64_t map_off, map_began, map_done; /* flushes */
};

void disk_init(struct disk *d, struct sim *s, enum sim_node node, const char *name, uint64_t size);
void disk_free(struct disk *d);
void disk_write(struct disk *d, uint64_t off, const void *buf, uint64_t len, sim_fn fn, void *arg);
void disk_flush(struct disk *d, sim_fn fn, void *arg);
void disk_read(const struct disk *d, uint64_t off, void *buf, uint64_t len);
/* What would be there after a power cut; salt chooses what survives, 0 = only what was flushed. */
void disk_peek(const struct disk *d, uint64_t off, void *buf, uint64_t len, uint64_t salt);
/* The node died: of the machine (power) or of the process only. */
void disk_crash(struct disk *d, bool power);
/* Everything completed becomes durable at once (what a node does when it starts). */
void disk_settle(struct disk *d);

/* --- sim_oracle.c --- */
struct oracle_cut {
	uint64_t epoch;
	uint8_t *data; /* all disks in a row, then the guest's RAM */
};

struct oracle {
	uint64_t base[SIM_VOLUMES + 1]; /* of each volume in a row of all */
	uint64_t total;
	uint8_t *logical; /* every change so far, in order */
	struct oracle_cut *cuts;
	size_t ncuts, capacity;
	uint8_t **spare;
	size_t nspare;
	uint64_t promise; /* newest epoch said to be committed; 0 = none holds */
	uint64_t last_cut;
};

void oracle_init(struct sim *s);
void oracle_free(struct sim *s);
void oracle_change(struct sim *s, unsigned vol, uint64_t off, uint64_t len, const uint8_t *data);
void oracle_cut(struct sim *s, uint64_t epoch);
void oracle_promise(struct sim *s, uint64_t epoch);
/* logical = the state of a cut; false = there is no such cut. */
bool oracle_rebase(struct sim *s, uint64_t epoch);
/* Forgets the cuts after epoch: they were discarded and must not be seen again. */
void oracle_drop_after(struct sim *s, uint64_t epoch);
/* RAM of that cut, or NULL. */
const uint8_t *oracle_memory(struct sim *s, uint64_t epoch);
/* The newest cut with this content, or SIM_CUT_NONE. */
uint64_t oracle_match(struct sim *s, const uint8_t *data);
/* data (all volumes in a row) must be exactly the state of that cut. */
void oracle_check(struct sim *s, const uint8_t *data, uint64_t epoch, const char *where);
void oracle_check_logical(struct sim *s, const uint8_t *data, const char *where);
void sim_pattern(uint8_t *buf, uint64_t off, uint64_t len, uint64_t id);

/* --- sim_link.c --- */
struct segment {
	struct segment *next;
	unsigned conn;
	size_t len;
	uint8_t data[];
};

struct pipe {
	struct segment *first, *last; /* in flight, in order */
	size_t bytes;                 /* in flight */
	uint64_t last_at;             /* arrival of the newest */
};

struct sim_link {
	unsigned conn;   /* number of the present connection */
	bool cut;        /* it is broken; the ends may not know */
	bool p_up, s_up; /* what the ends believe */
	struct pipe to_s, to_p;
	uint8_t *s_sock; /* received by the kernel, not by the node */
	size_t s_have;
	uint64_t sent, taken; /* bytes of this connection, by the primary and by the secondary */
	uint64_t flip;        /* position of a flipped byte, or 0 */
	bool flip_next;
	uint64_t ack_seq, ack_expected;
	uint8_t ack_buf[8 * RECORD_HEADER_SIZE];
	size_t ack_have;
};

#define SIM_SOCKET (128u << 10) /* bytes on the way to the secondary */

void link_free(struct sim *s);
void link_try_connect(struct sim *s, void *arg);
void link_break(struct sim *s);
size_t link_room(const struct sim *s);
void link_send(struct sim *s, const uint8_t *data, size_t len);
void link_send_ack(struct sim *s, const struct record *rec);
void link_close_s(struct sim *s);

/* --- sim_primary.c, sim_sync.c --- */
struct writer {
	struct rangelock_entry range;
	struct sim *s;
	unsigned vol;
	struct record rec;
	uint8_t *slot, *data; /* data: max_write bytes */
	uint64_t id;
	bool busy;
};

struct sim_sync {
	struct writer range; /* range lock and record of the piece under way */
	uint64_t off, len, at;
	unsigned vol;
	bool running;
	uint8_t *buf;
};

struct sim_guest {
	uint8_t *ram;
	bool *dirty; /* by page */
	struct sim_job *jobs;
	bool whole_sent, base_sent; /* in this session */
	uint8_t *sent;              /* pages as the stream has them ... */
	bool *known;                /* ... since the first checkpoint of the session, by page */
	struct compress compress;
};

struct sim_primary {
	struct sim_guest guest;
	bool alive;
	struct primary core;
	void *ring;
	struct disk image[SIM_VOLUMES];
	struct rangelock ranges[SIM_VOLUMES];
	struct writer writers[SIM_WRITERS];
	struct sim_sync sync;
	unsigned publishing;
	unsigned session;
	uint64_t ids;
	struct dirtymap map[SIM_VOLUMES], *maps[SIM_VOLUMES];
	struct dirtymap_windows windows;
	bool flushing[SIM_VOLUMES]; /* a flush that the map follows */
};

void primary_node_start(struct sim *s);
void primary_node_crash(struct sim *s);
void primary_node_free(struct sim *s);
void primary_node_init(struct sim *s);
void primary_node_session(struct sim *s, uint64_t floor, const struct replica_status *st);
void primary_node_lost(struct sim *s);
void primary_node_ack(struct sim *s, const struct record *rec);
void primary_node_goodbye(struct sim *s, void *arg);
void primary_try_cut(struct sim *s, bool now);
void writer_granted(struct rangelock_entry *e);
void sync_begin(struct sim *s);
void sync_granted(struct sim *s, void *arg);

/* --- sim_guest.c --- */
void guest_start(struct sim *s);
void guest_lost(struct sim *s);
void guest_free(struct sim *s);
/* Something is not in a committed checkpoint, or about to be cut. */
bool guest_busy(const struct sim *s);
void memory_start(struct sim *s);
void memory_kick(struct sim *s, void *arg);
void memory_zeroed(void *ctx, uint64_t off, uint64_t len);
/* RAM image and state are those of one cut, that which the replica names. */
void memory_check(struct sim *s, const char *where);
void memory_promote(struct sim *s);

/* --- sim_secondary.c, sim_apply.c, sim_local.c --- */
struct sim_meta {
	uint64_t serial, committed;
	bool consistent;
	uint64_t cloned; /* epoch that the clones hold, which replace the images; 0 = none */
};

struct sim_secondary {
	bool alive;
	struct replica *r;
	struct disk journal, meta, image[SIM_VOLUMES], clone[SIM_VOLUMES];
	struct sim_meta meta_now;
	uint64_t clone_session; /* whose sync the clones are of; 0 = none */
	bool replacing;         /* the images become what the clones are */
	bool marking;           /* "inconsistent" is on its way to the metadata */
	/* receiving */
	bool lent, rx_scheduled;
	uint8_t *lent_buf;
	size_t lent_len;
	unsigned lent_session, session;
	/* applying */
	bool applying, apply_scheduled, batch_out;
	struct replica_batch batch;
	struct journal_header header;
	bool header_due;
	unsigned pending;
	/* promoted */
	bool promoted, local;
	bool local_dirty; /* changes since the last local cut */
	uint64_t local_ids;
	uint8_t *local_data; /* max_write bytes */
	bool discarded;      /* the link is to be closed: nothing more of it may be taken */
	/* memory of a guest */
	uint8_t *memory, *second;
	struct replica_memory_job job;
	bool job_out;
	bool error_next; /* the next journal write or flush fails */
};

extern const struct replica_ops secondary_ops;
void secondary_config(const struct sim *s, struct replica_config *cfg);
void secondary_start(struct sim *s, void *arg);
void secondary_crash(struct sim *s, bool power);
void secondary_free(struct sim *s);
void secondary_session(struct sim *s);
void secondary_lost(struct sim *s);
void secondary_rx(struct sim *s, void *arg);
void secondary_kick(struct sim *s);
void secondary_promote(struct sim *s, void *arg);
void meta_write(struct sim *s, const struct sim_meta *m, sim_fn fn);
/* SIM_SECTOR bytes. */
void meta_encode(const struct sim_meta *m, uint8_t *buf);
void apply_flushed(struct sim *s, void *arg);
void apply_kick(struct sim *s);
void local_start(struct sim *s);
void controller_start(struct sim *s);
bool local_cut(struct sim *s);

/* --- sim_clones.c --- */
/* For the batch, which is of a sync into them. */
void clones_make(struct sim *s);
/* Now and then the batch fails, and with it the sync. */
bool clones_fail(struct sim *s);
/* Ends in apply_flushed, with the images durable. */
void clones_replace(struct sim *s);
void clones_resume(struct sim *s);

/* --- sim_check.c --- */
/* Metadata and header slots as they would be found with this salt; false = none is valid. */
bool check_slots(
	struct sim *s, uint64_t salt, struct sim_meta *ret_meta, struct journal_header *ret_header);
/* A power cut now, on copies: recovery must find one committed cut, not older than promised. */
void check_shadow(struct sim *s, uint64_t salt, const char *where);
/* What readers of the secondary see must be the committed cut (with open: the local state). */
void check_live(struct sim *s, bool open, const char *where);
/* The state as read through the index; all volumes in a row, valid until the next check. */
const uint8_t *check_read(struct sim *s, struct replica *r, bool open, uint64_t salt, bool peek);
/* As that, with what interrupted syncs have left over it. */
const uint8_t *check_held(struct sim *s);
void check_deinit(void);

/* --- sim_world.c, sim_plan.c --- */
struct sim_event;

struct sim {
	uint64_t seed, rng, now, order;
	struct sim_event *heap;
	size_t nheap, capacity;
	unsigned boots[SIM_NODES];
	enum sim_break broken;
	bool verbose, failed, quiet;
	bool calm;   /* no more faults */
	bool guests; /* somebody writes */
	char why[512];
	struct sim_plan plan;
	struct sim_stats *stats;
	struct oracle oracle;
	struct sim_link link;
	struct sim_primary p;
	struct sim_secondary sec;
};

uint64_t sim_mix(uint64_t v);
uint64_t sim_rng(struct sim *s, uint64_t below);
bool sim_chance(struct sim *s, unsigned percent);
/* min..max, now and then much longer. */
uint64_t sim_delay(struct sim *s, uint64_t min, uint64_t max);
void sim_after(struct sim *s, enum sim_node node, uint64_t delay, sim_fn fn, void *arg);
bool sim_step(struct sim *s);
void sim_events_free(struct sim *s);
void sim_fail(struct sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void sim_trace_line(struct sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define sim_trace(s, ...)                                                                          \
	do {                                                                                       \
		if ((s)->verbose)                                                                  \
			sim_trace_line((s), __VA_ARGS__);                                          \
	} while (0)

/* Runs one seed; true = every invariant held. */
bool sim_run(
	uint64_t seed, enum sim_break broken, bool verbose, bool quiet, struct sim_stats *stats);
void sim_plan_deinit(void);

#endif
