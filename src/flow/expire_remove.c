/*
 * expire_remove.c
 *	  Removing what was judged and marked: manifests, packs, WAL, in this order.
 *
 * A crash leaves what is still there where it is; see expire.c.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/step.h"
#include "flow/expire_private.h"

/* Objects of one request; another cluster may be adopted between two. */
#define BATCH			100

/* A store that says no so often in a row will go on to. */
#define REFUSALS_MAX	5

bool
expire_is_removed(const Run *x, const Holdings *h, size_t object)
{
	return h == &x->then && x->removed != NULL && x->removed[object];
}

/* ---- one after the other, or many at once ---- */

typedef struct Removal
{
	Run		   *x;
	const char *step;			/* after the first */
	int			refusals;		/* in a row */
	size_t		refused;		/* all in all */
} Removal;

static void
refused(Removal *r, const char *name, uint64 size, const DrError *why)
{
	char		reason[2100];

	snprintf(reason, sizeof(reason), why->detail[0] ? "%s (%s)" : "%s", why->message, why->detail);
	expire_tell(r->x, "could not remove", name, size, reason);
	r->refusals++;
	r->refused++;
}

static bool
given_up(const Removal *r)
{
	return r->refusals >= REFUSALS_MAX;
}

static void
tell_untried(Removal *r, size_t n)
{
	char		name[64];

	snprintf(name, sizeof(name), "%zu more", n);
	if (n > 0)
		expire_tell(r->x, "could not remove", name, 0, "the store refused several in a row: the next run tries them");
}

/* False: refused, and told. */
static bool
remove_one(Removal *r, const char *name, uint64 size)
{
	DrError		why;

	if (!store_remove(r->x->e->repo->store, &name, 1, &why))
	{
		refused(r, name, size, &why);
		return false;
	}
	r->refusals = 0;
	step_reached(r->step);
	return true;
}

/* Objects of "then", by their places; what is gone is noted in x->removed. */
static void
remove_batch(Removal *r, const size_t *objects, size_t n)
{
	const Holdings *h = &r->x->then;
	const char *names[BATCH];
	DrError		ignored;		/* which of them, and why, is asked one by one */

	for (size_t i = 0; i < n; i++)
		names[i] = h->all.names[objects[i]];
	if (n > 1 && store_remove(r->x->e->repo->store, names, n, &ignored))
	{
		for (size_t i = 0; i < n; i++)
			r->x->removed[objects[i]] = 1;
		step_reached(r->step);
		return;
	}
	for (size_t i = 0; i < n && !given_up(r); i++)
		r->x->removed[objects[i]] = remove_one(r, names[i], h->all.sizes[objects[i]]);
}

static bool
remove_all(Removal *r, const size_t *objects, size_t n, DrError *err)
{
	Store	   *store = r->x->e->repo->store;
	bool		ok = true;
	size_t		gone = 0;

	if (r->x->removed == NULL)
		r->x->removed = pg_malloc0(r->x->then.all.n + 1);
	store_set_patience(store, STORE_PATIENCE_CLEANUP);
	for (size_t i = 0; ok && i < n && !given_up(r); i += BATCH)
	{
		ok = r->x->e->may_store(r->x->e->arg, err);	/* E6 */
		if (ok)
			remove_batch(r, objects + i, Min(n - i, BATCH));
	}
	store_set_patience(store, STORE_PATIENCE_OWN);
	for (size_t i = 0; i < n; i++)
		gone += r->x->removed[objects[i]];
	if (given_up(r))
		tell_untried(r, n - gone - Min(n - gone, r->refused));
	return ok;
}

/* ---- manifests ---- */

bool
expire_remove_manifests(Run *x, DrError *err)
{
	Removal		r = {.x = x,.step = "expire.manifest_removed"};
	Store	   *store = x->e->repo->store;
	ObjectName	name;
	size_t		untried = 0;
	bool		ok = true;

	store_set_patience(store, STORE_PATIENCE_CLEANUP);
	for (size_t i = 0; ok && i < x->now.n_backups; i++)
	{
		const HeldBackup *b = &x->now.backups[i];

		if (b->verdict == NULL || b->verdict->keep || b->running ||
			!expire_is_ripe(x, expire_mark_backup(&x->mark, b->id)))
			continue;
		if (given_up(&r))
		{
			untried++;
			continue;
		}
		name_manifest(name, x->e->system_identifier, b->id);
		ok = x->e->may_store(x->e->arg, err);
		if (ok && remove_one(&r, name, b->manifest_size))
		{
			expire_tell(x, "remove backup", b->id, b->manifest_size, expire_why(b));
			x->e->removed(x->e->arg, name);
		}
	}
	tell_untried(&r, untried);
	store_set_patience(store, STORE_PATIENCE_OWN);
	return ok;
}

/* ---- packs ---- */

/* Why a backup went is known from before its manifest did. */
static const char *
why_gone(const Run *x, const HeldBackup *gone)
{
	for (size_t i = 0; i < x->now.n_backups; i++)
		if (strcmp(x->now.backups[i].id, gone->id) == 0)
			return expire_why(&x->now.backups[i]);
	return expire_why(gone);
}

bool
expire_remove_packs(Run *x, DrError *err)
{
	Removal		r = {.x = x,.step = "expire.pack_removed"};
	const Holdings *h = &x->then;
	size_t	   *objects = NULL;
	size_t		n = 0;
	bool		ok;

	for (size_t i = 0; i < h->n_backups; i++)
	{
		const HeldBackup *b = &h->backups[i];

		if (b->has_manifest || !b->dead || !expire_is_ripe(x, expire_mark_backup(&x->mark, b->id)))
			continue;
		for (size_t o = b->first; o < b->end; o++)
			if (object_kind(h->all.names[o]) == KIND_PACK && (h->flags[o] & HELD_REFERENCED) == 0)
			{
				objects = array_room(objects, n, sizeof(size_t));
				objects[n++] = o;
			}
	}
	ok = remove_all(&r, objects, n, err);
	for (size_t i = 0, b = 0; i < n; i++)
	{
		if (!x->removed[objects[i]])
			continue;
		while (h->backups[b].end <= objects[i])
			b++;
		expire_tell(x, "remove pack", h->all.names[objects[i]], h->all.sizes[objects[i]], why_gone(x, &h->backups[b]));
		x->e->removed(x->e->arg, h->all.names[objects[i]]);
	}
	free(objects);
	return ok;
}

/* ---- WAL ---- */

/* What was needed before manifests went is not removed by this run, whatever is true by now. */
static bool
went_before(const Holdings *before, const char *name)
{
	size_t		low = 0;
	size_t		high = before->all.n;

	while (low < high)
	{
		size_t		mid = (low + high) / 2;
		int			c = strcmp(name, before->all.names[mid]);

		if (c == 0)
			return (before->flags[mid] & HELD_GOES) != 0;
		if (c < 0)
			high = mid;
		else
			low = mid + 1;
	}
	return false;
}

static void
tell_removed_wal(Run *x, const WalRow *rows, size_t n)
{
	const Holdings *h = &x->then;

	for (size_t i = 0; i < n; i++)
	{
		uint64		bytes = 0;
		char		name[80];

		for (size_t o = 0; o < h->all.n; o++)
		{
			TimeLineID	tli;
			uint64		segno;
			const char *file = strrchr(h->all.names[o], '/') + 1;

			if (expire_is_removed(x, h, o) && held_wal_segment(h, o, &tli, &segno) &&
				strncmp(file, rows[i].first, 24) >= 0 && strncmp(file, rows[i].last, 24) <= 0)
				bytes += h->all.sizes[o];
		}
		expire_wal_name(&rows[i], name);
		if (bytes > 0)
			expire_tell(x, "remove wal", name, bytes, "no backup that is kept needs it");
	}
}

bool
expire_remove_wal(Run *x, DrError *err)
{
	Removal		r = {.x = x,.step = "expire.wal_removed"};
	Holdings   *h = &x->then;
	uint8	   *ripe = pg_malloc0(h->all.n + 1);
	size_t	   *objects = NULL;
	size_t		n = 0;
	size_t		n_rows;
	WalRow	   *rows;
	DrError		why;
	bool		ok = true;

	for (size_t i = 0; i < h->all.n; i++)
	{
		TimeLineID	tli;
		uint64		segno;

		if ((h->flags[i] & HELD_GOES) == 0 || !held_wal_segment(h, i, &tli, &segno) ||
			!expire_is_ripe(x, expire_mark_segment(&x->mark, strrchr(h->all.names[i], '/') + 1)) ||
			!went_before(&x->now, h->all.names[i]))
			continue;
		ripe[i] = 1;
		objects = array_room(objects, n, sizeof(size_t));
		objects[n++] = i;
	}
	rows = holdings_wal_rows(h, &n_rows);
	if (n > 0 && !holdings_check_wal(h, ripe, &why))	/* E5 */
		refused(&r, "WAL", 0, &why);
	else
	{
		ok = remove_all(&r, objects, n, err);
		tell_removed_wal(x, rows, n_rows);
	}
	free(rows);
	free(ripe);
	free(objects);
	return ok;
}
