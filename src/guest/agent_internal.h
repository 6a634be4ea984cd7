/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the agent share.  agent.c: start, waiting, ends; agent_events.c: what the
 * sources say; agent_session.c: from a link to protection, and when a checkpoint is due;
 * checkpoint.c: one of them; agent_standby.c: waiting for a promotion; agent_ahead.c: QEMU for it,
 * ahead of time; agent_server.c: the agent's own socket. */
#ifndef TANDEM_GUEST_AGENT_INTERNAL_H
#define TANDEM_GUEST_AGENT_INTERNAL_H

#include "guest/agent.h"
#include "guest/devstate.h"
#include "guest/repl.h"
#include "guest/staging.h"
#include "guest/throttle.h"
#include "guest/track.h"
#include "guest/vm.h"

#define AGENT_SLOTS 3  /* checkpoints (or rounds) that the replicator may be reading at a time */
#define AGENT_WINDOW 8 /* sealed checkpoints that may wait for their commit */
#define AGENT_WINDOW_LATE 2 /* the same, when the newest commit is late */
#define AGENT_CUTS 16       /* newest checkpoints whose instant is known; more than AGENT_WINDOW */
#define AGENT_SAMPLES 512
#define AGENT_CLIENTS 4

enum agent_phase {
	AGENT_SOLO,      /* no session: the guest runs alone */
	AGENT_ROUNDS,    /* memory is sent while the guest runs */
	AGENT_CHECKPOINT /* the first checkpoint was made */
};

/* Of one checkpoint, in nanoseconds. */
struct checkpoint_times {
	uint64_t pause; /* from the request to stop until the guest runs again; the rest are parts
			   of it */
	uint64_t stop;  /* until the vCPUs stand */
	uint64_t scan;  /* dirty pages */
	uint64_t copy;  /* of them */
	uint64_t cut;   /* waited for the replicator's answer, beyond scan and copy */
	uint64_t state; /* rest of the device state, and going on */
	uint64_t pages; /* copied in the pause */
	uint64_t ahead; /* copied before it */
};

struct agent_client {
	int fd; /* -1 = none */
	char in[1024];
	size_t len;
	json_int_t id; /* of its newest request */
};

/* A comparison of both sides' memory and state that somebody has asked for. */
struct agent_verify {
	struct agent_client *client; /* NULL = none */
	bool wanted;                 /* with the next checkpoint */
	bool repair;                 /* of the disks */
	bool armed;                  /* the replicator waits for a cut, to compare the disks too */
	unsigned tries;              /* checkpoints at which that was not possible */
	uint8_t *digests, *buf;      /* allocated with the first one */
	uint64_t count;              /* digests of the checkpoint under way */
	uint64_t epoch;              /* that they went with */
};

/* On a standby: a QEMU that waits for the promotion, on the replicator's RAM image. */
struct agent_ahead {
	struct vm vm;                                /* pid 0: there is none */
	int ram_fd;                                  /* that it was started with; -1 */
	uint64_t again;                              /* not before this, clock_ns */
	unsigned failures;                           /* in a row */
	char why[sizeof(((struct error *)0)->text)]; /* the last one's reason, while none is ready;
							"" = there was none */
	bool doubt; /* another session has begun behind this epoch: is the machine still its? */
	uint64_t doubt_epoch;
	uint64_t disks; /* bytes of all disks when it connected to them */
};

struct agent {
	const struct agent_options *o;
	const struct conf *conf;
	const struct conf_node *node;
	struct repl *repl;
	const char *role; /* that the replicator was started in */

	struct vm vm;
	int ram_fd;
	const unsigned char *ram;
	struct crew *crew; /* shares scans and copies */
	struct track *track;
	struct devstate ds;

	enum agent_phase phase;
	bool session, disks_in_sync; /* as the replicator says */
	bool look;                   /* it spoke of another session: ask it */
	bool heard;                  /* an event came since agent_wait began */
	bool doubt; /* it refused what should be right: ask it, and begin anew if the link is the
		       same */
	uint64_t session_number;
	bool arm;         /* a session has begun: protect and send all memory */
	bool rebase;      /* the machine was reset: take the device state's base anew */
	bool head_due;    /* the next checkpoint must bring the head of the state blob */
	bool due;         /* the replicator wants a checkpoint now */
	uint64_t resend;  /* so many bytes of memory, the last ones, are to be sent again */
	struct runs todo; /* of the round being sent */
	size_t todo_at;
	unsigned rounds;
	struct runs carry;                 /* dirty, taken from the tracking, and not sent */
	struct runs ahead, pause, scratch; /* of a checkpoint under way */
	struct staging slots[AGENT_SLOTS];
	uint64_t sealed, committed; /* epochs */
	json_t *plug;               /* agent_plug.c: the devices that the machine began with */
	char plugged[sizeof(
		((struct error *)0)->text)]; /* why protection has ended, "" = it has not */
	char plug_out[160];                  /* one of them that was plugged out, once */
	uint64_t plug_look;                  /* clock_ns of the next look */
	bool announced;                      /* "protected" was logged in this session */
	uint64_t last_began;                 /* of the last checkpoint, clock_ns */
	struct throttle *throttle;           /* NULL: the guest is never slowed */
	struct {
		uint64_t epoch, at; /* at: clock_ns at which the vCPUs stood */
	} cuts[AGENT_CUTS];
	uint64_t cut_count;
	uint64_t committed_at; /* of the newest committed checkpoint of this session; 0 = none */
	uint64_t last_pages;

	struct checkpoint_times samples[AGENT_SAMPLES];
	uint64_t checkpoints;

	int signals; /* signalfd */
	int server;  /* listener of RUN_DIR/agent.sock */
	int lock;    /* RUN_DIR/agent.lock */
	struct agent_client clients[AGENT_CLIENTS];
	struct agent_client *switchover; /* who asked for it; answered when it is over */
	bool switching;
	struct agent_verify verify;
	bool stop;       /* SIGTERM, SIGINT */
	bool ended;      /* the guest ended by itself */
	char how[64];    /* it ended */
	bool superseded; /* the other node was promoted by force */
	bool promoted;   /* standby: the replicator is a primary now */
	struct agent_ahead ready;
};

/* agent.c */
int agent_wait(struct agent *a, uint64_t deadline, struct error *err);
/* The guest's RAM: a new file, or fd (taken over). */
int agent_ram(struct agent *a, int fd, struct error *err);
/* Starts QEMU on this RAM; machine NULL: to boot, otherwise it waits for vm_load. */
int agent_vm(struct agent *a, struct vm *vm, int ram_fd, const char *machine, struct error *err);
void agent_vm_end(struct agent *a);
int agent_replicator(struct agent *a, const char *role, struct error *err);
/* Until the guest ends, a signal or a switchover (a->switching stays true then: become the
 * standby). */
int agent_primary(struct agent *a, struct error *err);

/* agent_events.c */
int agent_repl_events(struct agent *a, struct error *err);
int agent_vm_events(struct agent *a, struct error *err);
/* Learns from query-status what events have not said: before the connection, or in doubt. */
int agent_repl_catch_up(struct agent *a, struct error *err);

/* agent_lag.c: how old the newest committed checkpoint of this session is; beyond max-lag-ms the
 * guest is slowed.  made: one was sealed; committed: up to that one; end: nobody waits for one;
 * window: how many may wait for their commit. */
int agent_lag_init(struct agent *a, struct error *err);
void agent_lag_made(struct agent *a, uint64_t epoch, uint64_t at);
void agent_lag_committed(struct agent *a, uint64_t epoch);
void agent_lag_end(struct agent *a);
unsigned agent_lag_window(const struct agent *a);

/* agent_session.c */
/* One step of what is to be done now; *ret_until: when there may be more without an event. */
int agent_session_step(struct agent *a, uint64_t *ret_until, struct error *err);
void agent_session_lost(struct agent *a);
struct staging *agent_slot(struct agent *a);

/* checkpoint.c.  -EREMOTEIO: the replicator refused, the session is over or void; others: QEMU. */
int checkpoint(struct agent *a, struct staging *slot, struct error *err);
/* The next one brings these pages, whatever the tracking says. */
void checkpoint_owe(struct agent *a, const struct runs *more);

/* agent_plug.c.  Of a machine that has just been started; whether it is still the same: -EXDEV with
 * the reason.  Then protection ends; again: begins anew once it is the same. */
int agent_plug_init(struct agent *a, struct error *err);
/* QEMU says that this object is gone. */
void agent_plug_deleted(struct agent *a, const char *path);
int agent_plug_check(struct agent *a, struct error *err);
void agent_plug_stop(struct agent *a, const struct error *err);
int agent_plug_again(struct agent *a, uint64_t *ret_until, struct error *err);
void agent_plug_end(struct agent *a);

/* agent_standby.c */
int agent_standby_wait(struct agent *a, struct error *err);
/* The blob of the newest committed checkpoint; the caller frees it.  *ret_blob NULL: there is none.
 */
int agent_standby_state(
	struct agent *a, unsigned char **ret_blob, size_t *ret_len, struct error *err);
/* The file of its RAM; the caller closes it. */
int agent_standby_memory(struct agent *a, int *ret_fd, uint64_t *ret_epoch, struct error *err);
/* Promoted: QEMU goes on from the checkpoint. */
int agent_standby_resume(struct agent *a, struct error *err);

/* agent_ahead.c.  look: starts one where there is a checkpoint to wait for, and notices its end;
 * connected, epoch, bytes of all disks: of the replicator.  take: it becomes vm, if it is for this
 * machine and this RAM; false: there is none. */
void agent_ahead_init(struct agent *a);
void agent_ahead_look(struct agent *a, bool connected, uint64_t epoch, uint64_t disks);
bool agent_ahead_ready(const struct agent *a);
bool agent_ahead_take(struct agent *a, struct vm *vm, int ram_fd, const char *machine);
void agent_ahead_end(struct agent *a);

/* agent_switchover.c: a last checkpoint, then the other side goes on. */
int agent_switchover(struct agent *a, struct error *err);

/* agent_verify.c.  Of a checkpoint where a verify is wanted: before it, the replicator is told;
 * memory, in the pause; what the cut's answer says of the disks; then state, and the number of all
 * digests; at its end, whether it was made (epoch, else 0). */
int agent_verify_begin(struct agent *a, struct agent_client *c, bool repair, struct error *err);
void agent_verify_arm(struct agent *a);
int agent_verify_memory(struct agent *a, struct error *err);
void agent_verify_cut(struct agent *a, const json_t *answer);
uint64_t agent_verify_state(struct agent *a);
void agent_verify_sent(struct agent *a, uint64_t epoch);
/* What follows a difference: all memory is sent again, a piece with each checkpoint. */
void agent_verify_resend(struct agent *a);
/* The replicator says what was found; or there will be no answer. */
void agent_verify_compared(struct agent *a, const json_t *data);
void agent_verify_failed(struct agent *a, enum error_kind kind, const char *why);
void agent_verify_gone(struct agent *a, const struct agent_client *c);
void agent_verify_end(struct agent *a);

/* agent_server.c */
void agent_server_return(struct agent_client *c, json_t *answer); /* takes it */
int agent_server_start(struct agent *a, struct error *err);
void agent_server_accept(struct agent *a);
void agent_server_read(struct agent *a, struct agent_client *c);
void agent_server_answer(struct agent_client *c, int r, const struct error *err);
void agent_server_end(struct agent *a);

#endif
