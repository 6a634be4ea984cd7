/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The last resort when the guest dirties more than the link carries: it gets less time.
 *
 * The pipeline is bounded, so a link that is slower than the guest makes epochs longer (see
 * agent_session.c), and the newest committed checkpoint gets older without a bound.  When it is
 * older than the limit, a thread stops QEMU's process for a part of each period of 100 ms: 10 %
 * more in each period, up to 90 %, and less again once the age is below half of the limit.  What
 * counts is the age, not a rate: it needs no model of link, secondary or guest.
 *
 * The signals are SIGSTOP and SIGCONT through a pidfd: no other process can be hit.  QEMU dies with
 * the agent (vm.h), so that it is not left standing.  QEMU does not answer while it stands, hence
 * throttle_hold around a checkpoint; other commands wait for at most a period.
 *
 * All functions may be called from any thread; none of them waits for the guest. */
#ifndef TANDEM_GUEST_THROTTLE_H
#define TANDEM_GUEST_THROTTLE_H

#include <stdint.h>

#include "util/error.h"

struct throttle;

/* Starts the thread.  limit: nanoseconds, > 0. */
int throttle_new(uint64_t limit, struct throttle **ret_throttle, struct error *err);
/* Lets the guest run; NULL-safe.  Returns NULL. */
struct throttle *throttle_free(struct throttle *t);

/* The process: a pidfd of the caller's, which stays open until the next call; -1 = none. NULL-safe,
 * as all that follow. */
void throttle_target(struct throttle *t, int pidfd);
/* The newest committed state of the guest is of this instant (clock_ns); 0 = it is not to be
 * slowed. */
void throttle_since(struct throttle *t, uint64_t since);
/* In between it runs.  They do not nest. */
void throttle_hold(struct throttle *t);
void throttle_release(struct throttle *t);
/* Per cent of the time that are taken from it now. */
unsigned throttle_percent(struct throttle *t);

#endif
