/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Slowing the guest; see throttle.h. */
#include "guest/throttle.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "guest/kernel.h"
#include "util/clock.h"
#include "util/log.h"

#define THROTTLE_PERIOD (100 * NS_PER_MS)
#define THROTTLE_STEP 10 /* per cent, in each period */
#define THROTTLE_MOST 90 /* what is left carries the guest, and QEMU's answers */

struct throttle {
	pthread_t thread;
	pthread_mutex_t lock; /* of all below */
	pthread_cond_t wake;
	uint64_t limit, since;
	int pidfd;
	bool end, held, stopped;
	unsigned percent, most; /* most: since it began */
	uint64_t began;
};

static void throttle_signal(struct throttle *t, bool stop)
{
	if (t->pidfd < 0 || t->stopped == stop)
		return;
	/* One that has ended is found by its owner. */
	(void)kernel_pidfd_signal(t->pidfd, stop ? SIGSTOP : SIGCONT);
	t->stopped = stop;
}

/* (L) How much it is in this period. */
static void throttle_decide(struct throttle *t)
{
	uint64_t now = clock_ns(), age = t->since && now > t->since ? now - t->since : 0;
	unsigned before = t->percent;

	if (age > t->limit && t->percent < THROTTLE_MOST)
		t->percent += THROTTLE_STEP;
	else if (t->since == 0)
		t->percent = 0;
	else if (age < t->limit / 2 && t->percent > 0)
		t->percent -= THROTTLE_STEP;
	if (before == 0 && t->percent > 0) {
		t->began = now;
		t->most = 0;
		log_warning("the guest is slowed: its newest committed checkpoint is %llu ms old; "
			    "the link, or the secondary, is slower than the guest",
			(unsigned long long)(age / NS_PER_MS));
	} else if (before > 0 && t->percent == 0) {
		log_info("the guest runs at full speed again, after %llu ms with up to %u %% less",
			(unsigned long long)((now - t->began) / NS_PER_MS), t->most);
	}
	if (t->percent > t->most)
		t->most = t->percent;
}

/* (L) Until then, or as long as it may stand. */
static void throttle_wait(struct throttle *t, uint64_t until)
{
	struct timespec ts = {
		.tv_sec = (time_t)(until / NS_PER_S), .tv_nsec = (long)(until % NS_PER_S)};

	while (!t->end && (!t->stopped || !t->held) && clock_ns() < until)
		if (pthread_cond_timedwait(&t->wake, &t->lock, &ts) == ETIMEDOUT)
			return;
}

static void *throttle_main(void *arg)
{
	struct throttle *t = arg;

	(void)prctl(PR_SET_NAME, "tandem-throttle");
	pthread_mutex_lock(&t->lock);
	while (!t->end) {
		uint64_t period = clock_ns();

		throttle_decide(t);
		if (t->percent > 0 && !t->held) {
			throttle_signal(t, true);
			throttle_wait(t, period + THROTTLE_PERIOD / 100 * t->percent);
			throttle_signal(t, false);
		}
		throttle_wait(t, period + THROTTLE_PERIOD);
	}
	throttle_signal(t, false);
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

int throttle_new(uint64_t limit, struct throttle **ret_throttle, struct error *err)
{
	struct throttle *t = calloc(1, sizeof(*t));
	pthread_condattr_t attr;
	int r;

	if (!t)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	t->limit = limit;
	t->pidfd = -1;
	pthread_mutex_init(&t->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&t->wake, &attr);
	pthread_condattr_destroy(&attr);
	r = pthread_create(&t->thread, NULL, throttle_main, t);
	if (r != 0) {
		pthread_cond_destroy(&t->wake);
		pthread_mutex_destroy(&t->lock);
		free(t);
		return error_code(err, -r, "cannot start a thread");
	}
	*ret_throttle = t;
	return 0;
}

struct throttle *throttle_free(struct throttle *t)
{
	if (!t)
		return NULL;
	pthread_mutex_lock(&t->lock);
	t->end = true;
	pthread_cond_signal(&t->wake);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->thread, NULL);
	pthread_cond_destroy(&t->wake);
	pthread_mutex_destroy(&t->lock);
	free(t);
	return NULL;
}

void throttle_target(struct throttle *t, int pidfd)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	throttle_signal(t, false);
	t->pidfd = pidfd;
	t->stopped = false;
	t->since = 0;
	pthread_mutex_unlock(&t->lock);
}

void throttle_since(struct throttle *t, uint64_t since)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	t->since = since;
	pthread_mutex_unlock(&t->lock);
}

void throttle_hold(struct throttle *t)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	t->held = true;
	throttle_signal(t, false);
	pthread_cond_signal(&t->wake);
	pthread_mutex_unlock(&t->lock);
}

void throttle_release(struct throttle *t)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	t->held = false;
	pthread_mutex_unlock(&t->lock);
}

unsigned throttle_percent(struct throttle *t)
{
	unsigned p;

	if (!t)
		return 0;
	pthread_mutex_lock(&t->lock);
	p = t->percent;
	pthread_mutex_unlock(&t->lock);
	return p;
}
