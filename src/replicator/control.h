/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The control interface (docs/control.md): JSON lines on RUN_DIR/control.sock, one thread. */
#ifndef TANDEM_REPLICATOR_CONTROL_H
#define TANDEM_REPLICATOR_CONTROL_H

#include "replicator/node.h"

struct control;

int control_new(struct node *n, struct control **ret_control, struct error *err);
struct control *control_free(struct control *c);
/* Something changed: events, and answers that wait.  From any thread, also with node.lock held. */
void control_wake(struct control *c);
/* The same: the node's thread of commands is to promote it (node.taking_over). */
void control_take_over(struct control *c);

#endif
