/*
 * ticker.c
 *	  Something said about once a second.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "program/ticker.h"

#include <errno.h>
#include <time.h>

static void *
ticker_main(void *arg)
{
	Ticker	   *t = arg;
	struct timespec next;

	clock_gettime(CLOCK_REALTIME, &next);
	pthread_mutex_lock(&t->lock);
	while (!t->stop)
	{
		next.tv_sec++;
		while (!t->stop && pthread_cond_timedwait(&t->stop_asked, &t->lock, &next) != ETIMEDOUT)
			;
		if (!t->stop)
			t->tick(t->arg);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

void
ticker_start(Ticker *t, void (*tick) (void *arg), void *arg)
{
	memset(t, 0, sizeof(*t));
	t->tick = tick;
	t->arg = arg;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->stop_asked, NULL);
	t->stop = pthread_create(&t->thread, NULL, ticker_main, t) != 0;
}

void
ticker_stop(Ticker *t)
{
	if (t->stop)
		return;					/* never started: there is no progress, but a result */
	pthread_mutex_lock(&t->lock);
	t->stop = true;
	pthread_cond_signal(&t->stop_asked);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->thread, NULL);
}
