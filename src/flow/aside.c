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

bool
aside_together(int n, bool (*fn) (void *arg, DrError *err), void *arg, DrError *err)
{
	int			n_helpers = Max(n - 1, 0);
	Aside	   *helpers = pg_malloc(sizeof(Aside) * (n_helpers + 1));
	DrError		other;
	bool		ok;

	for (int i = 0; i < n_helpers; i++)
		aside_start(&helpers[i], fn, arg);
	ok = fn(arg, err);
	for (int i = 0; i < n_helpers; i++)
		if (!aside_join(&helpers[i], &other) && ok)
		{
			*err = other;
			ok = false;
		}
	free(helpers);
	return ok;
}
