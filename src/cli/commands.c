/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of commands and their options: --help prints it, the completion reads --help, and a
 * test compares it with tandem(1). */
#include <stddef.h>

#include "cli/cli.h"

#define FLAG(option, field, text)                                                                  \
	{                                                                                          \
		.name = option, .type = OPTION_FLAG, .offset = offsetof(struct cli_args, field),   \
		.help = text                                                                       \
	}
#define TIMEOUT(text)                                                                              \
	{                                                                                          \
		.name = "timeout", .type = OPTION_SECONDS, .value = "S", .min = 1, .max = DAY_MS,  \
		.offset = offsetof(struct cli_args, timeout_ms), .help = text                      \
	}
#define END                                                                                        \
	{                                                                                          \
		.name = NULL                                                                       \
	}
#define DAY_MS 86400000

static const struct option_spec options_none[] = {END};

static const struct option_spec options_init[] = {
	FLAG("force", force, "forget what an initialised node knows; disks are not touched"),
	END,
};

static const struct option_spec options_status[] = {
	FLAG("json", json, "print the node's answer as JSON"),
	FLAG("watch", watch, "go on, until interrupted"),
	{
		.name = "interval",
		.type = OPTION_SECONDS,
		.value = "S",
		.min = 100,
		.max = DAY_MS,
		.offset = offsetof(struct cli_args, interval_ms),
		.help = "with --watch: look again after S seconds (default: 1)",
	},
	END,
};

static const struct option_spec options_pending[] = {
	FLAG("json", json, "print the node's answer as JSON"),
	END,
};

static const struct option_spec options_verify[] = {
	FLAG("repair", repair, "disks: send what differs again, from this node"),
	FLAG("cancel", cancel, "end the comparison of disks that is under way"),
	END,
};

static const struct option_spec options_grow[] = {
	{
		.name = "disk",
		.type = OPTION_TEXT,
		.value = "NAME",
		.offset = offsetof(struct cli_args, disk),
		.help = "this disk only (default: each that was enlarged)",
	},
	FLAG("alone", alone, "without a secondary: its disks must follow before it is accepted"),
	END,
};

static const struct option_spec options_cut[] = {
	{
		.name = "wait",
		.type = OPTION_CHOICE,
		.value = "received|committed", /* in the order of enum cli_wait */
		.offset = offsetof(struct cli_args, wait),
		.help = "until the secondary has the epoch (no value: committed)",
	},
	TIMEOUT("with --wait: give up after S seconds (default: 30)"),
	END,
};

static const struct option_spec options_switchover[] = {
	TIMEOUT("disks only: go on here if it takes longer than S seconds (default: 30)"),
	END,
};

static const struct option_spec options_commit[] = {
	{
		.name = "epoch",
		.type = OPTION_NUMBER,
		.value = "N",
		.min = 1,
		.max = INT64_MAX,
		.offset = offsetof(struct cli_args, epoch),
		.help = "up to and including epoch N (default: the newest sealed one)",
	},
	END,
};

static const struct option_spec options_start[] = {
	FLAG("guest", guest, "with memory and state of a guest, for its controller"),
	END,
};

static const struct option_spec options_promote[] = {
	FLAG("force", force, "also while the primary is alive: it stops serving writes"),
	FLAG("disks-only", disks_only, "of a guest: without its memory, to be booted anew"),
	END,
};

static const struct option_spec options_resolve[] = {
	{
		.name = "keep",
		.type = OPTION_TEXT,
		.value = "NODE",
		.offset = offsetof(struct cli_args, keep),
		.help = "the node whose data stays (needed)",
	},
	FLAG("changed", changed, "this node's disks were changed by others, and that is to stay"),
	FLAG("yes", yes, "discard without a question"),
	END,
};

const struct command commands[] = {
	{"init", "create a node's own files",
		"Creates the node's directories, metadata and journal, and opens each of its "
		"disks\n"
		"once to learn its size. Refused where the node was initialised before.",
		options_init, cmd_init},
	{"primary", "run the node that serves the disks to the VM",
		"Runs the node in the foreground, as nbdkit with the Tandem plugin, until SIGTERM "
		"or\n"
		"`tandem shutdown`. The disks are exports of RUN-DIR/nbd.sock.",
		options_start, cmd_primary},
	{"secondary", "run the node that can take over",
		"Runs the node in the foreground, as nbdkit with the Tandem plugin, until SIGTERM "
		"or\n"
		"`tandem shutdown`. Its exports are read-only until it is promoted.",
		options_start, cmd_secondary},
	{"run", "run the guest, protected by the other node",
		"Runs replicator and guest in the foreground: QEMU from [guest] in the "
		"configuration.\n"
		"While `tandem standby` runs on the other node, the guest is checkpointed there.\n"
		"SIGTERM, or `tandem shutdown`, stops the guest at a last checkpoint.",
		options_none, cmd_run},
	{"standby", "hold the guest's last checkpoint, and go on from it",
		"Runs the other node in the foreground. When it is promoted, the guest goes on "
		"here\n"
		"from its last committed checkpoint.",
		options_none, cmd_standby},
	{"switchover", "move the running guest, or the disks, to the other node",
		"On the node where the guest runs, while it is protected: it stops, its last\n"
		"checkpoint is committed, it goes on at the other node, and this one becomes the\n"
		"standby. On a primary of disks only: writes wait, the last epoch is committed, "
		"the\n"
		"other node promotes itself, and this one ends; start it as the secondary.",
		options_switchover, cmd_switchover},
	{"verify", "compare the disks, and a guest's memory, on both nodes",
		"On a protected primary: compares the disks while they are written to. What "
		"differs\n"
		"is named, and marked to be copied at the next connection, or sent again.\n"
		"With a guest, on the node where the guest runs, while it is protected: compares "
		"all memory,\n"
		"the device state and the disks with what the other node holds at one checkpoint. "
		"What differs\n"
		"is named; of memory and state it is sent again always.",
		options_verify, cmd_verify},
	{"grow", "take the new size of enlarged disks",
		"On a protected primary, after the disk's file, device or NBD export was enlarged "
		"on\n"
		"both nodes: asks the secondary, copies the new part, and shows clients the new "
		"size\n"
		"when they connect.",
		options_grow, cmd_grow},
	{"status", "show what a node does",
		"Shows role, state and its reason, epochs, lag, synchronisation, disks and link.",
		options_status, cmd_status},
	{"pending", "show what a failover now would lose",
		"Shows the changes that are not on the secondary yet.", options_pending,
		cmd_pending},
	{"cut", "end the open epoch",
		"Ends the open epoch and begins the next. An empty epoch is cut, too.", options_cut,
		cmd_cut},
	{"commit", "make sealed epochs the committed state",
		"On a secondary with commit-policy = manual or ingest = nbd: makes the sealed "
		"epochs\n"
		"the committed state, durably.",
		options_commit, cmd_commit},
	{"discard", "drop the epochs that are not committed",
		"On a secondary with commit-policy = manual or ingest = nbd: drops every epoch "
		"that\n"
		"is not committed. A link to a primary is closed until `tandem connect`.",
		options_none, cmd_discard},
	{"promote", "make a secondary take over",
		"Discards what is not committed and makes the exports of the secondary writable, "
		"at\n"
		"exactly the last committed epoch.",
		options_promote, cmd_promote},
	{"resolve", "say whose data stays when the nodes refuse each other",
		"Run on the node whose data goes, after a split brain or when a stale or unrelated "
		"node\n"
		"was refused: says what is lost, asks, and lets the other node's data replace it. "
		"With\n"
		"--keep and its own name: takes that back, and lets a superseded primary start "
		"again.",
		options_resolve, cmd_resolve},
	{"meta", "show or check what a node keeps on disk",
		"Reads the node's metadata and the map of each disk. show: prints them; also "
		"beside "
		"a\nrunning node. check: tells whether they are valid; of a node that does not "
		"run.",
		options_none, cmd_meta, "show|check"},
	{"connect", "allow the link to the other node again",
		"Allows the link again, after `tandem disconnect` or discard, and tries at once.",
		options_none, cmd_connect},
	{"disconnect", "close the link to the other node",
		"Closes the link and keeps it closed. A primary goes on alone.", options_none,
		cmd_disconnect},
	{"shutdown", "end a node in order",
		"Ends the node as SIGTERM does, and waits until its process is gone. A primary "
		"lets\n"
		"its last epoch be committed first, for up to 10 seconds.",
		options_none, cmd_shutdown},
	{NULL},
};
