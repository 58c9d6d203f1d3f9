/*
 * generations.c
 *	  The newest of numbered objects.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/generations.h"

#include "flow/aside.h"

/* The first one, fetched on the chance that it is the newest. */
typedef struct Guess
{
	Store	   *store;
	ObjectName	name;
	size_t		max;
	Bytes		raw;
} Guess;

static bool
fetch_first(void *arg, DrError *err)
{
	Guess	   *g = arg;

	return store_get(g->store, g->name, g->max, &g->raw, err) == STORE_OK;
}

static bool
see_generation(void *arg, const char *name, uint64 size, DrError *err)
{
	uint32	   *newest = arg;

	*newest = Max(*newest, name_generation(name));
	return true;
}

bool
newest_generation(Store *store, const char *prefix, size_t max, Newest *out, DrError *err)
{
	Guess		guess = {.store = store, .max = max};
	Aside		first;
	DrError		ignored;		/* the listing decides whether it should be there */
	bool		guessed;
	bool		ok;

	memset(out, 0, sizeof(*out));
	name_of_generation(guess.name, prefix, 1);
	aside_start(&first, fetch_first, &guess);
	ok = store_list(store, prefix, false, see_generation, &out->generation, err);
	guessed = aside_join(&first, &ignored);
	if (ok && out->generation > 0)
	{
		name_of_generation(out->name, prefix, out->generation);
		if (out->generation == 1 && guessed)
		{
			out->raw = guess.raw;
			memset(&guess.raw, 0, sizeof(guess.raw));
		}
		else
			ok = store_get(store, out->name, max, &out->raw, err) == STORE_OK;
	}
	bytes_free(&guess.raw);
	if (!ok)
		bytes_free(&out->raw);
	return ok;
}
