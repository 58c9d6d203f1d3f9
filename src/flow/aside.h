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

/* fn in n threads at once, the caller's among them; the first error of any. */
extern bool aside_together(int n, bool (*fn) (void *arg, DrError *err), void *arg, DrError *err);

#endif							/* PGDR_ASIDE_H */
