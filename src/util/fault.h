/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Named fault points (docs/testing.md): places where a test has a whole side of a pair die.
 *
 * TANDEM_FAULT=NAME[:COUNT[:MS]][,...]: at the COUNT-th passing (default 1) of that point, MS
 * milliseconds later (default 0; the thread stands, others go on), the side is killed by SIGKILL:
 * the agent, its other children and this process; without an agent this process.
 * TANDEM_FAULT=@FILE: the same, read anew from that file at every passing, while it is there.
 *
 * Cost of a point in a program that was started without TANDEM_FAULT: a branch on one flag that
 * never changes. */
#ifndef TANDEM_UTIL_FAULT_H
#define TANDEM_UTIL_FAULT_H

#include <stdbool.h>

#include "util/error.h"

/* Each is passed where docs/testing.md says. */
#define FAULT_POINTS(X)                                                                            \
	X(AGENT_ROUND, "agent-round")                                                              \
	X(AGENT_BEGIN, "agent-begin")                                                              \
	X(AGENT_STOP, "agent-stop")                                                                \
	X(AGENT_CUT_SENT, "agent-cut-sent")                                                        \
	X(AGENT_SCAN, "agent-scan")                                                                \
	X(AGENT_COPY, "agent-copy")                                                                \
	X(AGENT_CUT, "agent-cut")                                                                  \
	X(AGENT_STATE, "agent-state")                                                              \
	X(AGENT_CONT, "agent-cont")                                                                \
	X(AGENT_SUBMIT, "agent-submit")                                                            \
	X(AGENT_SEAL, "agent-seal")                                                                \
	X(PRIMARY_CUT, "primary-cut")                                                              \
	X(PRIMARY_SUBMIT, "primary-submit")                                                        \
	X(PRIMARY_SUBMITTED, "primary-submitted")                                                  \
	X(PRIMARY_SEAL, "primary-seal")                                                            \
	X(PRIMARY_COMMITTED, "primary-committed")                                                  \
	X(STANDBY_PAGES, "standby-pages")                                                          \
	X(STANDBY_STATE, "standby-state")                                                          \
	X(STANDBY_SEAL, "standby-seal")                                                            \
	X(STANDBY_COMMIT, "standby-commit")                                                        \
	X(STANDBY_FLUSHED, "standby-flushed")                                                      \
	X(STANDBY_APPLYING, "standby-applying")                                                    \
	X(STANDBY_APPLIED, "standby-applied")                                                      \
	X(PROMOTE_DISCARD, "promote-discard")                                                      \
	X(PROMOTE_MEMORY, "promote-memory")                                                        \
	X(PROMOTE_METADATA, "promote-metadata")                                                    \
	X(PROMOTE_WRITABLE, "promote-writable")                                                    \
	X(CLONE_MADE, "clone-made")                                                                \
	X(CLONE_KEPT, "clone-kept")                                                                \
	X(CLONE_NOTED, "clone-noted")                                                              \
	X(CLONE_DISK, "clone-disk")                                                                \
	X(CLONE_HEADER, "clone-header")                                                            \
	X(CLONE_DONE, "clone-done")                                                                \
	X(GROW_MAP, "grow-map")                                                                    \
	X(GROW_HEADER, "grow-header")                                                              \
	X(GROW_METADATA, "grow-metadata")                                                          \
	X(GROW_ANSWERED, "grow-answered")                                                          \
	X(GROW_COPIED, "grow-copied")                                                              \
	X(RESUME_BEGIN, "resume-begin")                                                            \
	X(RESUME_QEMU, "resume-qemu")                                                              \
	X(RESUME_LOADED, "resume-loaded")                                                          \
	X(RESUME_CONT, "resume-cont")

enum fault {
#define FAULT_ENUM(point, name) FAULT_##point,
	FAULT_POINTS(FAULT_ENUM)
#undef FAULT_ENUM
		FAULT_COUNT
};

extern bool fault_armed;

/* Reads TANDEM_FAULT; before the process has threads.  -EINVAL: an unknown name, or no number. */
int fault_init(struct error *err);

void fault_pass(enum fault point);

#define fault_point(point)                                                                         \
	do {                                                                                       \
		if (__builtin_expect(fault_armed, false))                                          \
			fault_pass(point);                                                         \
	} while (0)

#endif
