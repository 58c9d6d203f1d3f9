/*
 * ticker.h
 *	  Something said about once a second while an op is at work.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_TICKER_H
#define PGDR_TICKER_H

#include <pthread.h>

#include "postgres_fe.h"

typedef struct Ticker
{
	void		(*tick) (void *arg);
	void	   *arg;
	pthread_t	thread;
	pthread_mutex_t lock;
	pthread_cond_t stop_asked;
	bool		stop;
} Ticker;

extern void ticker_start(Ticker *t, void (*tick) (void *arg), void *arg);
extern void ticker_stop(Ticker *t);

#endif							/* PGDR_TICKER_H */
