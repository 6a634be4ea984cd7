/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Threads that share work with their owner; see crew.h. */
#include "guest/crew.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "util/bytes.h"

struct crew {
	pthread_mutex_t lock; /* of all below but next */
	pthread_cond_t wake, idle;
	pthread_t threads[CREW_THREADS];
	unsigned n;
	cpu_set_t allowed; /* of the owner, at the start */
	int avoided;       /* -1 = none */
	bool end;
	uint64_t round;  /* pieces of work begun */
	unsigned active; /* threads at work */
	crew_fn *fn;
	void *arg;
	uint64_t parts;
	_Atomic uint64_t next; /* part that nobody has taken */
};

/* To be told its number, a thread is given this. */
struct crew_member {
	struct crew *c;
	unsigned who;
};

static void crew_work(struct crew *c, unsigned who)
{
	uint64_t part;

	while ((part = atomic_fetch_add(&c->next, 1)) < c->parts)
		c->fn(c->arg, who, part);
}

static void *crew_main(void *arg)
{
	struct crew_member m = *(struct crew_member *)arg;
	struct crew *c = m.c;
	uint64_t seen = 0;

	free(arg);
	pthread_mutex_lock(&c->lock);
	while (!c->end) {
		if (seen == c->round) {
			pthread_cond_wait(&c->wake, &c->lock);
			continue;
		}
		seen = c->round;
		c->active++;
		pthread_mutex_unlock(&c->lock);
		crew_work(c, m.who);
		pthread_mutex_lock(&c->lock);
		if (--c->active == 0)
			pthread_cond_signal(&c->idle);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

struct crew *crew_new(unsigned threads)
{
	struct crew *c = calloc(1, sizeof(*c));
	unsigned processors = 1;

	if (!c)
		return NULL;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->wake, NULL);
	pthread_cond_init(&c->idle, NULL);
	c->avoided = -1;
	/* fails where there are more than 1024 processors: then without threads */
	if (sched_getaffinity(0, sizeof(c->allowed), &c->allowed) == 0)
		processors = (unsigned)CPU_COUNT(&c->allowed);
	threads = (unsigned)min_u64(min_u64(threads, CREW_THREADS), processors - 1);
	while (c->n < threads) {
		struct crew_member *m = malloc(sizeof(*m));

		if (!m)
			break;
		*m = (struct crew_member){c, c->n + 1};
		if (pthread_create(&c->threads[c->n], NULL, crew_main, m) != 0) {
			free(m);
			break; /* with those that there are */
		}
		c->n++;
	}
	return c;
}

struct crew *crew_free(struct crew *c)
{
	if (!c)
		return NULL;
	pthread_mutex_lock(&c->lock);
	c->end = true;
	pthread_mutex_unlock(&c->lock);
	pthread_cond_broadcast(&c->wake);
	for (unsigned i = 0; i < c->n; i++)
		pthread_join(c->threads[i], NULL);
	pthread_cond_destroy(&c->wake);
	pthread_cond_destroy(&c->idle);
	pthread_mutex_destroy(&c->lock);
	free(c);
	return NULL;
}

unsigned crew_size(const struct crew *c)
{
	return c->n + 1;
}

void crew_avoid(struct crew *c, int processor)
{
	cpu_set_t set = c->allowed;

	if (processor == c->avoided || c->n == 0)
		return;
	c->avoided = processor;
	if (processor >= 0 && processor < CPU_SETSIZE)
		CPU_CLR(processor, &set);
	/* where they run is a matter of speed only */
	for (unsigned i = 0; i < c->n; i++)
		(void)pthread_setaffinity_np(c->threads[i], sizeof(set), &set);
}

void crew_start(struct crew *c, crew_fn *fn, void *arg, uint64_t parts)
{
	pthread_mutex_lock(&c->lock);
	/* A thread that woke late is still finding out that nothing is left of the last work. */
	while (c->active > 0)
		pthread_cond_wait(&c->idle, &c->lock);
	c->fn = fn;
	c->arg = arg;
	c->parts = parts;
	atomic_store(&c->next, 0);
	c->round++;
	pthread_mutex_unlock(&c->lock);
	if (c->n > 0)
		pthread_cond_broadcast(&c->wake);
}

void crew_finish(struct crew *c)
{
	crew_work(c, 0);
	pthread_mutex_lock(&c->lock);
	while (c->active > 0)
		pthread_cond_wait(&c->idle, &c->lock);
	pthread_mutex_unlock(&c->lock);
}
