/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of a verify share: verify.c (its thread), verify_control.c (begin, end, what is
 * said of it), verify_frozen.c (with a guest: the disks as of one checkpoint). */
#ifndef TANDEM_REPLICATOR_VERIFY_INTERNAL_H
#define TANDEM_REPLICATOR_VERIFY_INTERNAL_H

#include "replicator/pace.h"
#include "replicator/sender_internal.h"
#include "replicator/verify.h"

#define VERIFY_AHEAD 32u    /* digests without an answer; the secondary takes more */
#define VERIFY_RANGES 1024u /* that are named */
#define VERIFY_PASSES 16u   /* over blocks that are written to all the time */

struct verify_range {
	unsigned volume;
	uint64_t off, len;
};

struct verify_question {
	uint64_t off, len;
	uint32_t volume, block;
	unsigned count;
	uint64_t differ, written; /* a bit a block */
};

struct verify {
	struct sender *s;
	pthread_t thread;
	uint64_t session;
	bool repair;
	uint8_t *buf;     /* RECORD_MAX_PAYLOAD; the thread's */
	struct pace pace; /* the thread's */

	/* (L) a ring: heard of asked have their answer */
	struct verify_question questions[VERIFY_AHEAD];
	unsigned first, asked, heard;

	bool running, cancelled;                   /* (L) */
	uint64_t done, total, began, ended;        /* (L) */
	uint64_t differ, repaired;                 /* (L) bytes of blocks */
	uint64_t unsettled;                        /* (L) never compared: always rewritten */
	uint64_t repairs;                          /* newest epoch with one */
	struct verify_range ranges[VERIFY_RANGES]; /* (L) */
	unsigned nranges;
	bool more;
	char failure[200]; /* (L) "" = none */

	/* of a group with a guest: verify_frozen.c */
	bool guest;
	uint64_t epoch;                          /* (L) the checkpoint; 0 = it waits for a cut */
	unsigned cuts;                           /* (L) at which it could not begin */
	bool held;                               /* (L) the secondary keeps its disks too */
	struct snapshot *frozen[CONF_MAX_DISKS]; /* begun with epoch */
};

/* verify.c: the thread. */
void *verify_main(void *arg);
/* (L) Its session is there, and nothing has gone wrong. */
bool verify_goes_on(const struct verify *y);
/* (L) And nobody has cancelled it.  Answers to what it has asked already are waited for all the
 * same. */
bool verify_wanted(const struct verify *y);

/* verify_frozen.c */
int verify_frozen_prepare(struct verify *y, struct node *n, struct error *err);
/* (L) It waits for a cut. */
bool verify_waits(const struct sender *s);
/* The thread: until both sides have their disks as of the checkpoint. */
int verify_frozen_wait(struct verify *y);
int verify_frozen_read(struct verify *y, unsigned volume, uint64_t off, uint32_t len);
/* (L), let go while there is no room: the secondary need not keep them any longer. */
void verify_frozen_thaw(struct verify *y);
void verify_frozen_free(struct verify *y);

#endif
