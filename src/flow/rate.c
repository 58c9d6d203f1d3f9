/*
 * rate.c
 *	  So many bytes a second.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/rate.h"

#include <unistd.h>

#include "core/names.h"

#define NAP_US	100000

void
rate_init(Rate *r, uint64 max)
{
	pthread_mutex_init(&r->lock, NULL);
	r->max = max;
	r->next = 0;
}

void
rate_free(Rate *r)
{
	pthread_mutex_destroy(&r->lock);
}

void
rate_wait(Rate *r, uint64 n, const volatile bool *stop)
{
	int64		now = monotonic_now();
	int64		until;

	if (r->max == 0)
		return;
	pthread_mutex_lock(&r->lock);
	until = Max(r->next, now);
	r->next = until + (int64) (n * 1000000.0 / r->max);
	pthread_mutex_unlock(&r->lock);
	while ((stop == NULL || !*stop) && (now = monotonic_now()) < until)
		usleep((useconds_t) Min(until - now, NAP_US));
}
