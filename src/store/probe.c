/*
 * probe.c
 *	  Does a store keep the rules of store.h?  Ask it.
 *
 * Servers that speak S3 differ: some take a condition and ignore it, some look
 * first and write then.  What such a server costs is said before anything that
 * matters is written there.  Everything happens below probe/<random>/; a crash
 * leaves small objects there, which nothing reads.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include <pthread.h>

#include "core/seal.h"
#include "store/store.h"

#define RACERS	8

typedef struct Probe
{
	Store	   *store;
	StoreFindingFn fn;
	void	   *arg;
	char		directory[32];	/* "probe/0123456789abcdef/" */
	bool		usable;
	DrError    *err;			/* of the first reason why it is not */
} Probe;

static const char first_content[] = "pg_dr probe: the first content";

static void
ok(Probe *p, const char *name, const char *detail)
{
	p->fn(p->arg, name, "ok", detail, "");
}

/* It must not be written to. */
static void
unusable(Probe *p, const char *name, const char *detail, const char *hint)
{
	p->fn(p->arg, name, "critical", detail, hint);
	if (!p->usable)
		return;
	p->usable = false;
	dr_error(p->err, DR_CONFIG, "repository \"%s\" can't be used: %s", p->store->url, detail);
	dr_hint(p->err, "%s", hint);
}

/* A request failed: that is the finding. */
static void
failed(Probe *p, const char *name, const DrError *why)
{
	char		text[sizeof(why->message) + sizeof(why->detail) + 4];

	snprintf(text, sizeof(text), why->detail[0] ? "%s (%s)" : "%s", why->message, why->detail);
	p->fn(p->arg, name, "critical", text, why->hint);
	if (p->usable)
		*p->err = *why;
	p->usable = false;
}

static StoreResult
put_text(Store *store, const char *name, const char *text, DrError *err)
{
	uint8		hash[32];

	sha256(text, strlen(text), hash);
	return store_put(store, name, text, strlen(text), hash, err);
}

/* ---- an object is not replaced ---- */

static const char hint_create_only[] =
"Choose a server that honours If-None-Match. With create_only=check in the URL pg_dr asks before each write instead; "
"then only you can see to it that no two servers write at the same moment.";

static bool
holds_first(Probe *p, const char *name, DrError *err)
{
	Bytes		content = {0};
	bool		same = store_get(p->store, name, 4096, &content, err) == STORE_OK &&
		content.len == strlen(first_content) && memcmp(content.data, first_content, content.len) == 0;

	bytes_free(&content);
	return same;
}

/* False: the other questions make no sense. */
static bool
probe_create_only(Probe *p, const char *name)
{
	DrError		err = {0};
	StoreResult r = put_text(p->store, name, first_content, &err);

	if (r != STORE_OK)
	{
		if (r == STORE_TAKEN)
			unusable(p, "create_only", "it says that a new name exists already", hint_create_only);
		else
			failed(p, "create_only", &err);
		return false;
	}
	r = put_text(p->store, name, "pg_dr probe: another content", &err);
	if (r == STORE_FAILED)
	{
		failed(p, "create_only", &err);
		return false;
	}
	err.message[0] = '\0';
	if (r == STORE_OK || !holds_first(p, name, &err))
	{
		if (r == STORE_TAKEN && err.message[0] != '\0')
			failed(p, "create_only", &err);
		else
			unusable(p, "create_only", "it lets an object be replaced: what was stored can be lost, "
					 "and two servers can overwrite each other's WAL", hint_create_only);
		return false;
	}
	ok(p, "create_only", "the repository refuses to replace an object");
	return true;
}

/* ---- nor in a race ---- */

typedef struct Racer
{
	Probe	   *probe;
	pthread_rwlock_t *gate;
	const char *name;
	char		content[64];
	StoreResult result;
	DrError		err;
} Racer;

static void *
race(void *arg)
{
	Racer	   *r = arg;

	pthread_rwlock_rdlock(r->gate); /* all at once, when it opens */
	pthread_rwlock_unlock(r->gate);
	r->result = put_text(r->probe->store, r->name, r->content, &r->err);
	return NULL;
}

static void
judge_race(Probe *p, const char *name, const Racer *racers)
{
	const Racer *winner = NULL;
	Bytes		content = {0};
	DrError		err;
	int			winners = 0;

	for (int i = 0; i < RACERS; i++)
	{
		if (racers[i].result == STORE_FAILED)
		{
			failed(p, "create_only_race", &racers[i].err);
			return;
		}
		if (racers[i].result == STORE_OK)
		{
			winner = &racers[i];
			winners++;
		}
	}
	if (winners != 1 && p->store->looks_first)
		p->fn(p->arg, "create_only_race", "warning", "two writers of one name can overwrite each other, as create_only=check accepts",
			  "See to it that no two servers write to this repository at the same time.");
	else if (winners != 1)
		unusable(p, "create_only_race", "of eight writers of one name, not exactly one is told that it stored it: "
				 "two servers can overwrite each other's WAL", hint_create_only);
	else if (store_get(p->store, name, 4096, &content, &err) != STORE_OK)
		failed(p, "create_only_race", &err);
	else if (content.len != strlen(winner->content) || memcmp(content.data, winner->content, content.len) != 0)
		unusable(p, "create_only_race", "of eight writers of one name, another's object is there than "
				 "that of the one who was told so", hint_create_only);
	else
		ok(p, "create_only_race", "of eight writers of one name, one succeeds");
	bytes_free(&content);
}

static void
probe_race(Probe *p, const char *name)
{
	Racer		racers[RACERS];
	pthread_t	threads[RACERS];
	pthread_rwlock_t gate = PTHREAD_RWLOCK_INITIALIZER;
	int			n = 0;

	memset(racers, 0, sizeof(racers));
	for (int i = 0; i < RACERS; i++)
	{
		racers[i] = (Racer) {.probe = p, .gate = &gate, .name = name};
		snprintf(racers[i].content, sizeof(racers[i].content), "pg_dr probe: writer %d", i);
	}
	pthread_rwlock_wrlock(&gate);
	while (n < RACERS && pthread_create(&threads[n], NULL, race, &racers[n]) == 0)
		n++;
	pthread_rwlock_unlock(&gate);
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	pthread_rwlock_destroy(&gate);
	if (n == RACERS)
		judge_race(p, name, racers);
	else
		p->fn(p->arg, "create_only_race", "warning", "not tried: no threads could be started", "");
}

/* ---- reading and listing ---- */

static void
probe_range(Probe *p, const char *name)
{
	Bytes		part = {0};
	DrError		err;

	if (store_get_range(p->store, name, 6, 5, &part, &err) != STORE_OK)
		p->fn(p->arg, "ranged_read", "warning", "parts of objects can't be read: what needs a part fetches the whole",
			  err.message);
	else if (memcmp(part.data, first_content + 6, 5) != 0)
		unusable(p, "ranged_read", "it answers with another part of an object than was asked for", "Choose another server.");
	else
		ok(p, "ranged_read", "parts of objects can be read");
	bytes_free(&part);
}

typedef struct Seen
{
	const char *name;
	uint64		size;
	bool		found;
} Seen;

static bool
see(void *arg, const char *name, uint64 size, DrError *err)
{
	Seen	   *s = arg;

	if (strcmp(name, s->name) == 0 && size == s->size)
		s->found = true;
	return true;
}

static void
probe_list(Probe *p, const char *name)
{
	Seen		seen = {name, strlen(first_content), false};
	DrError		err;

	if (!store_list(p->store, p->directory, false, see, &seen, &err))
		failed(p, "list_after_put", &err);
	else if (!seen.found)
		unusable(p, "list_after_put", "an object that was stored is not listed: "
				 "recovery could take the archive's end for where it is not",
				 "Choose a server whose listings are consistent.");
	else
		ok(p, "list_after_put", "what was stored is listed");
}

static void
probe_remove(Probe *p, const char *first, const char *second)
{
	const char *names[] = {first, second};
	DrError		err;

	if (store_remove(p->store, names, lengthof(names), &err))
		ok(p, "remove", "objects can be removed");
	else
		p->fn(p->arg, "remove", "ok", "these credentials can't remove objects; "
			  "what interrupted backups leave stays until someone else removes it", "");
}

bool
store_probe(Store *store, StoreFindingFn fn, void *arg, DrError *err)
{
	Probe		p = {.store = store, .fn = fn, .arg = arg, .usable = true, .err = err};
	uint8		random[8];
	char		hex[2 * sizeof(random) + 1];
	ObjectName	first;
	ObjectName	second;

	random_bytes(random, sizeof(random));
	hex_encode(random, sizeof(random), hex);
	snprintf(p.directory, sizeof(p.directory), "%s%s/", STORE_PROBE_PREFIX, hex);
	snprintf(first, sizeof(first), "%sfirst", p.directory);
	snprintf(second, sizeof(second), "%srace", p.directory);
	if (probe_create_only(&p, first))
	{
		probe_race(&p, second);
		probe_range(&p, first);
		probe_list(&p, first);
		if (store->ops->probe != NULL)
			store->ops->probe(store, p.directory, fn, arg);
		probe_remove(&p, first, second);
	}
	return p.usable;
}
