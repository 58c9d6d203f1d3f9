/*
 * aside.h
 *	  Something done by another thread while the caller goes on: mostly one
 *	  request while another is under way.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_ASIDE_H
#define PGDR_ASIDE_H

#include <pthread.h>

#include "core/error.h"

typedef struct Aside
{
	bool		(*fn) (void *arg, DrError *err);
	void	   *arg;
	pthread_t	thread;
	bool		threaded;
	bool		ok;
	DrError		err;
} Aside;

/* Where no thread can be started, it is done here and now. */
extern void aside_start(Aside *a, bool (*fn) (void *arg, DrError *err), void *arg);

/* Wait for it; once, and always. */
extern bool aside_join(Aside *a, DrError *err);

#endif							/* PGDR_ASIDE_H */
