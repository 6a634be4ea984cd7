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
	a->cut_count++;
}

/* Behind a limit that is half over, more of them in the pipeline would only be older ones. */
unsigned agent_lag_window(const struct agent *a)
{
	uint64_t half = (a->conf->epoch_ms + a->conf->guest_max_lag_ms / 2) * NS_PER_MS;
	bool late = a->throttle && a->committed_at && clock_ns() - a->committed_at > half;

	return late ? AGENT_WINDOW_LATE : AGENT_WINDOW;
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
