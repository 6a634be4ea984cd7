/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One QEMU process: its command line (the user's, and what Tandem adds: docs/guest.md), start,
 * checks of what it has, resuming from a checkpoint.  It dies with the agent (PR_SET_PDEATHSIG): a
 * guest without its agent would run unprotected and unseen. */
#ifndef TANDEM_GUEST_VM_H
#define TANDEM_GUEST_VM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "conf/conf.h"
#include "guest/backends.h"
#include "guest/rpc.h"
#include "guest/state.h"
#include "guest/words.h"

#define VM_MACHINE 64

struct vm_spec {
	const char *qemu;    /* [guest] qemu */
	const char *preload; /* tandem-preload.so, or NULL */
	uint64_t memory;     /* bytes */
	int ram_fd;          /* of that size */
	const char *machine; /* versioned name, or NULL: what the command line says, resolved */
	const struct conf_node *node; /* its disks, or NULL: none of Tandem's */
	const char *nbd_socket;
	bool incoming; /* waits for vm_load; its disks can be those of a secondary */
};

struct vm {
	pid_t pid; /* 0 = none */
	int pidfd;
	struct rpc q;
	char machine[VM_MACHINE];
};

/* The versioned name of the machine type that the command line asks for (one short run of QEMU). */
int vm_machine(const char *qemu, char ret_machine[VM_MACHINE], struct error *err);
/* The whole command line, and its memory backends; qmp_fd: number of QMP's socket in QEMU.  For
 * vm_start, and tests. */
int vm_words(const struct vm_spec *spec, const char *machine, int qmp_fd, struct words *ret_words,
	struct backends *ret_backends, struct error *err);

/* Starts QEMU, with the vCPUs stopped, and checks that Tandem can replicate all it has: ERROR_STATE
 * with the reason otherwise. */
int vm_start(struct vm *vm, const struct vm_spec *spec, struct error *err);
/* 0, or -ENXIO with the reason: it is not the machine that this checkpoint is of. */
int vm_fits(struct vm *vm, const struct state_head *h, struct error *err);
int vm_cont(struct vm *vm, struct error *err);
/* Loads a checkpoint's state blob (blob, len); the vCPUs stand. */
int vm_load(struct vm *vm, const unsigned char *blob, size_t len, struct error *err);
/* vm_load, vm_cont. */
int vm_resume(struct vm *vm, const unsigned char *blob, size_t len, struct error *err);
/* Its vCPUs, which stand, will not run again: the signal is sent, its end is for vm_end. */
void vm_kill(const struct vm *vm);
/* Kills it, if it lives, and waits for its end.  NULL-safe, once more is fine. */
void vm_end(struct vm *vm);
/* Whether it has ended by itself; how: "exit code 1", "signal 9". */
bool vm_ended(struct vm *vm, char *how, size_t len);

#endif
