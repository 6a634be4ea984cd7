/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The simulated connection: bytes arrive in order, in other pieces than they were sent, later; it
 * breaks at any byte, and each end learns of that in its own time.  HELLO is not in core, so that
 * connecting is one step here. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

static void pipe_clear(struct pipe *p)
{
	while (p->first) {
		struct segment *g = p->first;

		p->first = g->next;
		free(g);
	}
	p->last = NULL;
	p->bytes = 0;
}

void link_free(struct sim *s)
{
	pipe_clear(&s->link.to_s);
	pipe_clear(&s->link.to_p);
	free(s->link.s_sock);
	s->link.s_sock = NULL;
}

static void link_arrive_s(struct sim *s, void *arg)
{
	struct sim_link *l = &s->link;
	struct segment *g = l->to_s.first;

	if (!g || g->conn != (unsigned)(uintptr_t)arg)
		return;
	l->to_s.first = g->next;
	if (!l->to_s.first)
		l->to_s.last = NULL;
	l->to_s.bytes -= g->len;
	if (l->s_up) {
		memcpy(l->s_sock + l->s_have, g->data, g->len);
		l->s_have += g->len;
		secondary_rx(s, NULL);
	}
	free(g);
}

static void link_parse_acks(struct sim *s)
{
	struct sim_link *l = &s->link;
	size_t at = 0;

	while (l->ack_have - at >= RECORD_HEADER_SIZE && !s->failed) {
		struct record rec;
		const char *why;
		size_t size;

		if (record_check(l->ack_buf + at, l->ack_have - at, RECORD_FROM_SECONDARY, true,
			    l->ack_expected, &rec, &size, &why) != RECORD_OK) {
			sim_fail(s, "an acknowledgement is damaged: %s", why);
			return;
		}
		l->ack_expected++;
		at += size;
		primary_node_ack(s, &rec);
	}
	memmove(l->ack_buf, l->ack_buf + at, l->ack_have - at);
	l->ack_have -= at;
}

static void link_arrive_p(struct sim *s, void *arg)
{
	struct sim_link *l = &s->link;
	struct segment *g = l->to_p.first;
	size_t at = 0;

	if (!g || g->conn != (unsigned)(uintptr_t)arg)
		return;
	l->to_p.first = g->next;
	if (!l->to_p.first)
		l->to_p.last = NULL;
	l->to_p.bytes -= g->len;
	while (l->p_up && at < g->len && !s->failed) {
		size_t n = min_u64(g->len - at, sizeof(l->ack_buf) - l->ack_have);

		memcpy(l->ack_buf + l->ack_have, g->data + at, n);
		l->ack_have += n;
		at += n;
		link_parse_acks(s);
	}
	free(g);
}

static void pipe_send(struct sim *s, struct pipe *p, const uint8_t *data, size_t len, sim_fn fn)
{
	struct segment *g = malloc(sizeof(*g) + len);
	uint64_t at = s->now + sim_delay(s, 20 * SIM_US, 400 * SIM_US);

	if (!g)
		abort();
	g->next = NULL;
	g->conn = s->link.conn;
	g->len = len;
	memcpy(g->data, data, len);
	if (p->last)
		p->last->next = g;
	else
		p->first = g;
	p->last = g;
	p->bytes += len;
	p->last_at = max_u64(at, p->last_at);
	sim_after(s, SIM_WORLD, p->last_at - s->now, fn, (void *)(uintptr_t)s->link.conn);
}

size_t link_room(const struct sim *s)
{
	return s->link.cut ? SIM_SOCKET : SIM_SOCKET - s->link.to_s.bytes - s->link.s_have;
}

void link_send(struct sim *s, const uint8_t *data, size_t len)
{
	struct sim_link *l = &s->link;

	if (l->cut)
		return; /* into the void */
	pipe_send(s, &l->to_s, data, len, link_arrive_s);
	if (l->flip_next && !l->flip && len) {
		uint64_t at = sim_rng(s, len);

		l->to_s.last->data[at] ^= (uint8_t)(1 + sim_rng(s, 255));
		l->flip = l->sent + at + 1;
		l->flip_next = false;
		s->stats->flips++;
		sim_trace(s, "link: byte %llu flipped", (unsigned long long)l->flip - 1);
	}
	l->sent += len;
}

void link_send_ack(struct sim *s, const struct record *rec)
{
	struct record out = *rec;
	uint8_t buf[RECORD_HEADER_SIZE];

	if (!s->link.s_up)
		return;
	out.seq = s->link.ack_seq++;
	record_put_header(buf, &out);
	if (!s->link.cut)
		pipe_send(s, &s->link.to_p, buf, sizeof(buf), link_arrive_p);
}

static void link_notice_p(struct sim *s, void *arg)
{
	if (!s->link.p_up || s->link.conn != (unsigned)(uintptr_t)arg)
		return;
	s->link.p_up = false;
	primary_node_lost(s);
}

static void link_notice_s(struct sim *s, void *arg)
{
	if (!s->link.s_up || s->link.conn != (unsigned)(uintptr_t)arg)
		return;
	s->link.s_up = false;
	s->link.s_have = 0;
	secondary_lost(s);
}

void link_break(struct sim *s)
{
	struct sim_link *l = &s->link;
	void *conn = (void *)(uintptr_t)l->conn;

	if (l->cut)
		return;
	l->cut = true;
	sim_trace(s, "link: broken, %zu bytes on the way are lost", l->to_s.bytes);
	s->stats->breaks++;
	pipe_clear(&l->to_s);
	pipe_clear(&l->to_p);
	if (sim_chance(s, 50))
		l->s_have = sim_rng(s, l->s_have + 1); /* a reset may drop what had arrived */
	sim_after(s, SIM_WORLD, sim_rng(s, 10 * SIM_MS), link_notice_p, conn);
	sim_after(s, SIM_WORLD, sim_rng(s, 10 * SIM_MS), link_notice_s, conn);
}

void link_close_s(struct sim *s)
{
	void *conn = (void *)(uintptr_t)s->link.conn;

	link_break(s);
	link_notice_s(s, conn);
}

void link_try_connect(struct sim *s, void *arg)
{
	struct sim_link *l = &s->link;
	struct replica_status st;

	(void)arg;
	sim_after(s, SIM_WORLD, sim_delay(s, SIM_MS, 4 * SIM_MS), link_try_connect, NULL);
	if (l->p_up || !s->p.alive || !s->sec.alive || s->p.publishing || s->sec.promoted)
		return;
	/* The secondary may not know yet that its old connection is dead. */
	if (l->s_up && (!l->cut || !sim_chance(s, 30)))
		return;
	replica_get_status(s->sec.r, &st);
	if (st.mode == REPLICA_FAILED)
		return;
	if ((s->plan.memory || st.cloned) && l->s_up)
		link_close_s(s); /* what it has sealed goes its way before the next one begins */
	if ((s->plan.memory || st.cloned) && !replica_memory_idle(s->sec.r))
		return;
	pipe_clear(&l->to_s);
	pipe_clear(&l->to_p);
	l->conn++;
	l->cut = false;
	l->p_up = l->s_up = true;
	l->s_have = l->ack_have = 0;
	l->sent = l->taken = l->flip = 0;
	l->ack_seq = l->ack_expected = 1;
	l->to_s.last_at = l->to_p.last_at = s->now;
	secondary_session(s);
	replica_get_status(s->sec.r, &st);
	primary_node_session(s, max_u64(st.open, st.committed), &st);
	sim_trace(s, "link: up; the secondary has seen epoch %llu, committed %llu",
		(unsigned long long)st.open, (unsigned long long)st.committed);
}
