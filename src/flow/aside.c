/*
 * aside.c
 *	  Something done by another thread while the caller goes on.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/aside.h"

static void *
run(void *arg)
{
	Aside	   *a = arg;

	a->ok = a->fn(a->arg, &a->err);
	return NULL;
}

void
aside_start(Aside *a, bool (*fn) (void *arg, DrError *err), void *arg)
{
	a->fn = fn;
	a->arg = arg;
	a->threaded = pthread_create(&a->thread, NULL, run, a) == 0;
	if (!a->threaded)
		run(a);
}

bool
aside_join(Aside *a, DrError *err)
{
	if (a->threaded)
		pthread_join(a->thread, NULL);
	a->threaded = false;
	if (!a->ok)
		*err = a->err;
	return a->ok;
}
