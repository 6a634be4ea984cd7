/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How the receiver's sessions end; on its link thread.
 *
 * A goodbye is to arrive: a primary that does not hear of a promotion by force would go on beside
 * the promoted node.  So the connection outlives the session (link_part), in r->leaving. */
#include <poll.h>

#include "replicator/receiver_internal.h"
#include "util/clock.h"
#include "util/log.h"

#define RECEIVER_LAST (NS_PER_S / 2) /* for the goodbye of a process that ends */
#define RECEIVER_LAST_LOOK_MS 20

/* All of its end but the connection's. */
static void receiver_over(struct receiver *r, const char *why)
{
	struct node *n = r->n;

	if (why)
		log_warning("link to the primary (%s): %s", r->peer, why);
	pthread_mutex_lock(&n->lock);
	r->connected = r->have_received = r->have_committed = r->have_synced = false;
	r->have_checked = r->have_frozen = false;
	r->blocked = false;
	replica_session_end(r->core);
	r->digests_count = 0;
	r->grow_asked = false;
	if (why && !r->disconnected && !r->failure[0])
		node_set_reason(n, "no primary: %s%s%s", why,
			r->clone_failure[0] ? "; a sync into clones of the disks was given up: "
					    : "",
			r->clone_failure);
	node_changed(n);
	pthread_mutex_unlock(&n->lock);
	receiver_free_thawed(r);
}

void receiver_end(struct receiver *r, const char *why)
{
	if (!r->link.transport)
		return;
	receiver_over(r, why);
	link_close(&r->link); /* last: why may be the transport's own text */
}

void receiver_say_goodbye(struct receiver *r, enum record_goodbye reason, uint64_t generation,
	const char *text, const char *why)
{
	if (!r->link.transport)
		return;
	link_goodbye(&r->link, reason, generation, text);
	receiver_over(r, why);
	link_close(&r->leaving.link);
	r->leaving.link = r->link;
	r->leaving.deadline = clock_ns() + r->n->conf->peer_timeout_ms * NS_PER_MS;
	r->leaving.promoted = reason == RECORD_GOODBYE_PROMOTED;
	r->link.transport = NULL;
	r->link.trace_in = r->link.trace_out = -1;
}

void receiver_leaves(struct receiver *r, uint64_t now)
{
	int e = link_part(&r->leaving.link);

	if (e == 0 && now < r->leaving.deadline)
		return;
	if (r->leaving.promoted && e <= 0)
		log_warning("the former primary (%s) has not confirmed that it serves no more "
			    "writes: make sure that it does not run",
			transport_peer(r->leaving.link.transport));
	link_close(&r->leaving.link);
}

void receiver_leaves_last(struct receiver *r)
{
	uint64_t end = r->leaving.promoted ? UINT64_MAX : clock_ns() + RECEIVER_LAST;

	while (r->leaving.link.transport && clock_ns() < end) {
		struct pollfd p = {.fd = transport_fd(r->leaving.link.transport),
			.events = link_part_events(&r->leaving.link)};

		(void)poll(&p, 1, RECEIVER_LAST_LOOK_MS);
		receiver_leaves(r, clock_ns());
	}
	link_close(&r->leaving.link);
}
