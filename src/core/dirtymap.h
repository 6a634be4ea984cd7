/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which blocks of one volume may differ from the peer: bitmaps in memory.  Pure; the caller
 * serialises all calls under its one short lock.
 *
 *   WANTED        is to be copied: written without the peer, or not acknowledged when the link went
 *   SENT 0, 1     is on its way: two windows, one filled while the other waits for its last commit;
 *                 0 of a secondary: a sync in place has brought it, and it is not durable yet
 *   LOOSE 0, 1    was written here and perhaps not flushed: a power cut may undo it here, while the
 *                 peer keeps it
 *   DISK          what the newest valid pages of the file say (core/activity.h)
 *   ASKED         wanted, its digest is with the peer, and it was not written to since; of a
 *                 secondary: what it tells the primary to be HELD
 *   HELD          touched by what an interrupted sync has left with the secondary, which the sync
 *                 goes on from: equal, where it is not WANTED too, once that is committed
 *
 * Invariant I3: (WANTED + SENT + HELD + LOOSE, or the regions that the activity log calls hot) is a
 * superset of the blocks in which the local disk, as it is or as a power cut would leave it,
 * differs from the peer's committed state.  A bit of SENT goes only with the acknowledged, durable
 * commit of its data; one of LOOSE only with a flush that began after the write had ended.
 * Memory: eight bits a block. Cost of a mark: one or two words; of dropping a window: what was
 * marked. */
#ifndef TANDEM_CORE_DIRTYMAP_H
#define TANDEM_CORE_DIRTYMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DIRTYMAP_MIN_BLOCK 4096u
#define DIRTYMAP_MAX_BLOCK (1u << 20)

enum dirtymap_layer {
	DIRTYMAP_WANTED,
	DIRTYMAP_SENT0,
	DIRTYMAP_SENT1,
	DIRTYMAP_LOOSE0,
	DIRTYMAP_LOOSE1,
	DIRTYMAP_DISK,
	DIRTYMAP_ASKED,
	DIRTYMAP_HELD,
	DIRTYMAP_LAYERS,
};

struct dirtymap {
	uint64_t size;   /* bytes of the volume */
	unsigned shift;  /* a block is 1 << shift bytes */
	uint64_t blocks; /* the last one may be short */
	uint64_t words;
	uint64_t *bits[DIRTYMAP_LAYERS];
	uint64_t *touched[DIRTYMAP_LAYERS]; /* a bit per word that may be non-zero; not for DISK */
	uint64_t wanted;                    /* bits in WANTED */
	unsigned loose;                     /* 0, 1: the layer that is filled */
	bool flushing;                      /* the other one waits for the end of a flush */
};

/* A run of blocks as bytes; the end of the volume cuts the last block short. */
struct dirtymap_run {
	uint64_t off, len;
};

/* block: a power of two. 0, -EINVAL, -ENOMEM. All bits are clear. */
int dirtymap_init(struct dirtymap *m, uint64_t size, uint32_t block);
void dirtymap_deinit(struct dirtymap *m);
/* The volume has become larger: the new part is WANTED. 0, or -ENOMEM with nothing changed. */
int dirtymap_grow(struct dirtymap *m, uint64_t size);
static inline uint64_t dirtymap_block(const struct dirtymap *m)
{
	return 1ull << m->shift;
}

/* Every block that [off, off+len) touches; len > 0, inside the volume. */
void dirtymap_mark(struct dirtymap *m, enum dirtymap_layer layer, uint64_t off, uint64_t len);
/* Blocks 64 * w and up; bits behind the last block are ignored. */
void dirtymap_mark_word(struct dirtymap *m, enum dirtymap_layer layer, uint64_t w, uint64_t bits);
void dirtymap_mark_all(struct dirtymap *m, enum dirtymap_layer layer);
/* Every block that lies wholly in [off, off+len) (the last one of the volume counts as whole). */
void dirtymap_clear(struct dirtymap *m, enum dirtymap_layer layer, uint64_t off, uint64_t len);
void dirtymap_clear_all(struct dirtymap *m, enum dirtymap_layer layer);
/* into |= from; from is empty afterwards. */
void dirtymap_move(struct dirtymap *m, enum dirtymap_layer into, enum dirtymap_layer from);
bool dirtymap_test(const struct dirtymap *m, enum dirtymap_layer layer, uint64_t off, uint64_t len);
/* Whether every block that [off, off+len) touches is set. */
bool dirtymap_covers(
	const struct dirtymap *m, enum dirtymap_layer layer, uint64_t off, uint64_t len);
/* The next run of set bits at or behind byte from, at most max bytes (whole blocks). */
bool dirtymap_next(const struct dirtymap *m, enum dirtymap_layer layer, uint64_t from, uint64_t max,
	struct dirtymap_run *ret_run);
/* Bytes of the blocks that are in WANTED, or also in SENT and HELD. */
uint64_t dirtymap_wanted_bytes(const struct dirtymap *m);
uint64_t dirtymap_unequal_bytes(const struct dirtymap *m);
/* One word of everything that must be found again after a crash. */
static inline uint64_t dirtymap_word(const struct dirtymap *m, uint64_t w)
{
	return m->bits[DIRTYMAP_WANTED][w] | m->bits[DIRTYMAP_SENT0][w] |
	       m->bits[DIRTYMAP_SENT1][w] | m->bits[DIRTYMAP_LOOSE0][w] |
	       m->bits[DIRTYMAP_LOOSE1][w] | m->bits[DIRTYMAP_HELD][w];
}

/* A change without the peer: it is wanted, and an answer about what was there before is void. */
void dirtymap_mark_alone(struct dirtymap *m, uint64_t off, uint64_t len);

/* A local write has ended: until a flush, a power cut may undo it. */
static inline void dirtymap_mark_loose(struct dirtymap *m, uint64_t off, uint64_t len)
{
	dirtymap_mark(m, m->loose ? DIRTYMAP_LOOSE1 : DIRTYMAP_LOOSE0, off, len);
}
/* Around a flush of the local disk.  begin: true = this flush will clear what ended before it (one
 * at a time does), and end must be called. */
bool dirtymap_flush_begin(struct dirtymap *m);
void dirtymap_flush_end(struct dirtymap *m, bool durable);

/* The windows of a group: one state for all its volumes, since commits are of the group. */
struct dirtymap_windows {
	struct dirtymap **maps; /* count of them, the caller's */
	unsigned count;
	unsigned current; /* 0, 1: the layer that is filled */
	bool used;        /* something is in it */
	bool waiting;     /* the other one waits ... */
	uint64_t mark;    /* ... until so many changes of the session are committed */
};

/* A change of a volume has entered the stream. */
static inline void dirtymap_sent(
	struct dirtymap_windows *w, unsigned volume, uint64_t off, uint64_t len)
{
	w->used = true;
	dirtymap_mark(w->maps[volume], w->current ? DIRTYMAP_SENT1 : DIRTYMAP_SENT0, off, len);
}
/* The first done of the session's changes, in the order of the stream, are durable on the peer;
 * sent are in the stream. */
void dirtymap_acknowledged(struct dirtymap_windows *w, uint64_t done, uint64_t sent);
/* The session's first commit: it holds what an interrupted sync had left. */
void dirtymap_held_committed(struct dirtymap_windows *w);
/* The session has ended, or the sync goes on from nothing: what was on its way, or held, is wanted
 * again. */
void dirtymap_lost(struct dirtymap_windows *w);

#endif
