/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How old the newest committed checkpoint is, told to throttle.c. */
#include "guest/agent_internal.h"
#include "util/clock.h"

int agent_lag_init(struct agent *a, struct error *err)
{
	const struct conf *c = a->conf;

	/* With commit-policy = manual a checkpoint waits for somebody, not for the link. */
	if (c->guest_max_lag_ms == 0 || c->commit_policy == CONF_COMMIT_MANUAL)
		return 0;
	return throttle_new((c->epoch_ms + c->guest_max_lag_ms) * NS_PER_MS, &a->throttle, err);
}

void agent_lag_made(struct agent *a, uint64_t epoch, uint64_t at)
{
	a->cuts[a->cut_count % AGENT_CUTS].epoch = epoch;
	a->cuts[a->cut_count % AGENT_CUTS].at = at;
	/* The first one of a session is waited for as if there were one of this instant. */
	if (a->cut_count++ == 0) {
		a->committed_at = at;
		throttle_since(a->throttle, at);
	}
}

void agent_lag_committed(struct agent *a, uint64_t epoch)
{
	for (uint64_t i = a->cut_count; i-- > 0 && a->cut_count - i <= AGENT_CUTS;) {
		if (a->cuts[i % AGENT_CUTS].epoch > epoch)
			continue;
		a->committed_at = a->cuts[i % AGENT_CUTS].at;
		throttle_since(a->throttle, a->committed_at);
		return;
	}
}

void agent_lag_end(struct agent *a)
{
	a->cut_count = 0;
	a->committed_at = 0;
	throttle_since(a->throttle, 0);
}
