/*
 * rate.h
 *	  So many bytes a second, for several threads together.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_RATE_H
#define PGDR_RATE_H

#include <pthread.h>

#include "postgres_fe.h"

typedef struct Rate
{
	pthread_mutex_t lock;
	uint64		max;			/* 0: no limit */
	int64		next;			/* when the next byte may be read; see monotonic_now */
} Rate;

extern void rate_init(Rate *r, uint64 max);
extern void rate_free(Rate *r);

/* Sleep until n more bytes may be read, or *stop (unless NULL) is set. */
extern void rate_wait(Rate *r, uint64 n, const volatile bool *stop);

#endif							/* PGDR_RATE_H */
