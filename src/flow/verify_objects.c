/*
 * verify_objects.c
 *	  Verification: the table of objects, and what a listing tells.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/verify_private.h"

#include "flow/expire_mark.h"

/* ---- the table ---- */

static uint32
hash_name(const char *name)
{
	uint32		h = 2166136261u;

	for (; *name != '\0'; name++)
		h = (h ^ (uint8) *name) * 16777619u;
	return h;
}

static uint32 *
slot_of(Verification *w, const char *name)
{
	size_t		i = hash_name(name) & (w->n_slots - 1);

	while (w->slots[i] != 0 && strcmp(w->seen[w->slots[i] - 1]->name, name) != 0)
		i = (i + 1) & (w->n_slots - 1);
	return &w->slots[i];
}

static void
make_room(Verification *w)
{
	if (w->n_seen * 2 < w->n_slots)
		return;
	free(w->slots);
	w->n_slots = Max(w->n_slots * 2, 1024);
	w->slots = pg_malloc0(sizeof(uint32) * w->n_slots);
	for (size_t i = 0; i < w->n_seen; i++)
		*slot_of(w, w->seen[i]->name) = (uint32) i + 1;
}

Seen *
seen_find(Verification *w, const char *name)
{
	uint32		i = w->n_slots == 0 ? 0 : *slot_of(w, name);

	return i == 0 ? NULL : w->seen[i - 1];
}

Seen *
seen_add(Verification *w, const char *name)
{
	uint32	   *slot;
	size_t		n = strlen(name) + 1;
	Seen	   *o;

	make_room(w);
	slot = slot_of(w, name);
	if (*slot != 0)
		return w->seen[*slot - 1];
	o = pg_malloc0(offsetof(Seen, name) + n);
	memcpy(o->name, name, n);
	o->kind = object_kind(name);
	o->finding = -1;
	w->seen = array_room(w->seen, w->n_seen, sizeof(Seen *));
	w->seen[w->n_seen++] = o;
	*slot = (uint32) w->n_seen;
	return o;
}

static bool
add_listed(void *arg, const char *name, uint64 size, DrError *err)
{
	Seen	   *o = seen_add(arg, name);

	o->flags |= SEEN_LISTED;
	o->listed = size;
	return true;
}

static void
add_known(Verification *w)
{
	const Verify *v = w->v;

	for (size_t i = 0; i < v->n_known; i++)
	{
		const VerifyKnown *k = &v->known[i];
		Seen	   *o = seen_add(w, k->name);

		o->flags |= SEEN_KNOWN | (k->has_hash ? SEEN_KNOWN_HASH : 0) | (k->proven ? SEEN_PROVEN : 0);
		o->known_size = k->size;
		memcpy(o->known_sha256, k->sha256, 32);
	}
}

/* What opens the repository lies beside the cluster; its manifests lie in it. */
bool
seen_list(Verification *w, DrError *err)
{
	char	   *prefix = psprintf("%s/", w->v->system_identifier);
	bool		ok = store_list(w->v->repo->store, prefix, true, add_listed, w, err) &&
		(!w->all || store_list(w->v->repo->store, "keys/", true, add_listed, w, err));

	pfree(prefix);
	if (ok)
		add_known(w);
	return ok;
}

void
seen_free(Verification *w)
{
	for (size_t i = 0; i < w->n_seen; i++)
	{
		free(w->seen[i]->frames);
		free(w->seen[i]);
	}
	free(w->seen);
	free(w->slots);
}

/* ---- findings ---- */

static const char *
hint_of(const Seen *o, VerifySeverity severity)
{
	if (severity != VERIFY_ERROR)
		return "No restore reads it.";
	if (o->kind == KIND_WAL && (o->flags & SEEN_NEEDED) == 0)
		return "Recovery can't go past it: bring it back from a copy, or take a new backup.";
	return "Don't count on backups that need it; take a new one.";
}

VerifyFinding *
verify_found(Verification *w, Seen *o, VerifySeverity severity, const char *problem)
{
	VerifyFinding *f = NULL;

	pthread_mutex_lock(&w->v->lock);
	if ((o->flags & SEEN_BAD) == 0)
	{
		o->flags |= SEEN_BAD;
		o->finding = (int32) w->n_findings;
		w->findings = array_room(w->findings, w->n_findings, sizeof(VerifyFinding));
		f = memset(&w->findings[w->n_findings++], 0, sizeof(VerifyFinding));
		f->object = pg_strdup(o->name);
		f->problem = pg_strdup(problem);
		f->severity = severity;
		f->hint = hint_of(o, severity);
	}
	pthread_mutex_unlock(&w->v->lock);
	return f;
}

/* Pieces of a segment that is archived, and what merely notes something, are read by no restore. */
VerifySeverity
verify_weight(Verification *w, const Seen *o)
{
	TailName	tail;
	ObjectName	segment;

	if ((o->flags & SEEN_NEEDED) != 0)
		return VERIFY_ERROR;
	if (o->kind == KIND_TAIL && tail_name_parse(o->name, &tail))
	{
		Seen	   *whole;

		name_wal(segment, w->v->system_identifier, tail.segment);
		whole = seen_find(w, segment);
		return whole != NULL && (whole->flags & SEEN_LISTED) != 0 ? VERIFY_WARNING : VERIFY_ERROR;
	}
	return o->kind == KIND_WAL || o->kind == KIND_HISTORY || o->kind == KIND_LINEAGE ||
		o->kind == KIND_PACK || o->kind == KIND_MANIFEST ? VERIFY_ERROR : VERIFY_WARNING;
}

bool
verify_verdict(Verification *w, Seen *o, const DrError *why, DrError *err)
{
	char		problem[2100];

	if (why->code != DR_DAMAGED && why->code != DR_ABSENT && why->code != DR_CONFLICT)
	{
		*err = *why;
		return false;
	}
	snprintf(problem, sizeof(problem), why->detail[0] ? "%s (%s)" : "%s", why->message, why->detail);
	verify_found(w, o, verify_weight(w, o), problem);
	return true;
}

void
verify_sound(Verification *w, Seen *o, uint64 size, const uint8 hash[32])
{
	Verify	   *v = w->v;

	pthread_mutex_lock(&v->lock);
	if ((o->flags & (SEEN_SOUND | SEEN_BAD)) == 0)
	{
		o->flags |= SEEN_SOUND;
		v->objects++;
		v->object(v->arg, o->name, size, hash);
	}
	pthread_mutex_unlock(&v->lock);
}

/* ---- names and sizes ---- */

typedef struct Comparison
{
	Verification *w;
	ExpireMark	mark;
	bool		marked;			/* it is loaded */
	const char *known_wal;		/* the newest segment that the database knows, by name; empty: none */

	/* the directory that is gone through */
	char		id[PGDR_BACKUP_ID_MAX + 1];
	uint64		strays;			/* objects in it that no manifest needs, and it has none */
} Comparison;

static int
compare_ids(const void *a, const void *b)
{
	return strcmp(a, ((const Chosen *) b)->id);
}

static const Chosen *
find_chosen(const Verification *w, const char *id)
{
	return w->n_chosen == 0 ? NULL : bsearch(id, w->chosen, w->n_chosen, sizeof(Chosen), compare_ids);
}

/* What is missing and had been marked is no loss: retention removed it. */
static bool
was_marked(Comparison *c, const Seen *o, bool *marked, DrError *err)
{
	Verification *w = c->w;
	char		id[PGDR_BACKUP_ID_MAX + 1];
	DrError		why;

	if (!c->marked && !expire_mark_load(w->v->repo, w->v->system_identifier, &c->mark, &why))
	{
		memset(&c->mark, 0, sizeof(c->mark));
		if (why.code != DR_DAMAGED)
		{
			*err = why;
			return false;
		}
	}
	c->marked = true;
	*marked = backup_of_name(o->name, id) ? expire_mark_backup(&c->mark, id) != 0 :
		expire_mark_segment(&c->mark, strrchr(o->name, '/') + 1) != 0;
	return true;
}

/* Not listed.  It may have been stored since. */
static bool
see_missing(Comparison *c, Seen *o, DrError *err)
{
	Verification *w = c->w;
	Bytes		byte = {0};
	DrError		why;
	StoreResult r = store_get_range(w->v->repo->store, o->name, 0, 1, &byte, &why);
	bool		marked = false;

	bytes_free(&byte);
	if (r == STORE_OK)
	{
		o->flags |= SEEN_LISTED;
		o->listed = (o->flags & SEEN_HASH) != 0 ? o->size : o->known_size;
		return true;
	}
	if (r == STORE_ABSENT && !repository_confirm_absent(w->v->repo, err))
		return false;
	if (r != STORE_ABSENT)
		return verify_verdict(w, o, &why, err);
	if ((o->flags & SEEN_NEEDED) == 0 && !was_marked(c, o, &marked, err))
		return false;
	if (!marked)
		verify_found(w, o, verify_weight(w, o), "it does not exist");
	return true;
}

static void
see_sizes(Comparison *c, Seen *o)
{
	const char *recorded = "its size or SHA-256 is not what this database recorded when it was stored";
	bool		hash = (o->flags & SEEN_HASH) != 0;
	VerifyFinding *f = NULL;
	char		problem[200];

	if (hash && o->listed != o->size)
	{
		snprintf(problem, sizeof(problem), "it is %s than the manifest says: " UINT64_FORMAT " bytes, not " UINT64_FORMAT,
				 o->listed > o->size ? "longer" : "shorter", o->listed, o->size);
		verify_found(c->w, o, verify_weight(c->w, o), problem);
	}
	else if ((o->flags & SEEN_KNOWN) != 0 &&
			 (o->listed != o->known_size ||
			  (hash && (o->flags & SEEN_KNOWN_HASH) != 0 && memcmp(o->sha256, o->known_sha256, 32) != 0)))
		f = verify_found(c->w, o, verify_weight(c->w, o), recorded);
	if (f != NULL)
		f->hint = "Somebody replaced it together with its manifest, or changed the catalogue: treat both as compromised.";
}

/* One finding for a backup of which the database knows nothing, and none for its objects. */
static void
see_unknown(Comparison *c, Seen *o)
{
	char		id[PGDR_BACKUP_ID_MAX + 1];
	ObjectName	manifest;
	Seen	   *m;
	VerifyFinding *f;
	bool		wal = o->kind == KIND_WAL || o->kind == KIND_HISTORY;

	if (!c->w->v->has_catalogue || (o->flags & SEEN_KNOWN) != 0 || (!wal && (o->flags & SEEN_NEEDED) == 0) ||
		(backup_of_name(o->name, id) && is_among(c->w->v->running, c->w->v->n_running, id)))
		return;
	if (o->kind == KIND_PACK && backup_of_name(o->name, id))
	{
		name_manifest(manifest, c->w->v->system_identifier, id);
		m = seen_find(c->w, manifest);
		if (m == NULL || (m->flags & SEEN_KNOWN) == 0)
			return;
	}
	else if (o->kind != KIND_MANIFEST && !wal)
		return;
	/* What is newer came after the database was asked. */
	if (wal && strcmp(o->name, c->known_wal) > 0)
		return;
	f = verify_found(c->w, o, wal ? VERIFY_NOTICE : VERIFY_WARNING, "the catalogue of this database does not know it");
	if (f != NULL)
		f->hint = "Call dr_sync(); if that does not add what is not older than the catalogue, somebody removed rows.";
	o->flags &= ~SEEN_BAD;		/* the object itself is to be read */
}

/* Then there is a finding that it is missing. */
static bool
manifest_known(Verification *w, const char *id)
{
	ObjectName	name;
	Seen	   *m;

	name_manifest(name, w->v->system_identifier, id);
	m = seen_find(w, name);
	return m != NULL && (m->flags & SEEN_KNOWN) != 0;
}

static void
see_stray(Comparison *c, Seen *o)
{
	char		id[PGDR_BACKUP_ID_MAX + 1];
	const Chosen *b;
	VerifyFinding *f = NULL;

	if ((o->flags & SEEN_NEEDED) != 0)
		return;
	if (backup_of_name(o->name, id))
	{
		b = find_chosen(c->w, id);
		if (b != NULL && b->readable)
			f = verify_found(c->w, o, VERIFY_NOTICE, "no manifest lists it");
		else if (b == NULL && c->w->all && !is_among(c->w->v->running, c->w->v->n_running, id) && !manifest_known(c->w, id))
		{
			if (strcmp(c->id, id) != 0)
				c->strays = 0;
			strlcpy(c->id, id, sizeof(c->id));
			c->strays++;
		}
	}
	else if (c->w->all && o->kind == KIND_UNKNOWN && strncmp(o->name, "keys/", 5) != 0)
		f = verify_found(c->w, o, VERIFY_NOTICE, "it is nothing that pg_dr stores");
	if (f != NULL)
		f->hint = "It is in nobody's way.";
}

/* The objects of a backup without a manifest follow each other; this is the first of another kind. */
static void
see_strays(Comparison *c, const Seen *next)
{
	char		id[PGDR_BACKUP_ID_MAX + 1];
	VerifyFinding *f;
	char		problem[100];
	char	   *name;

	if (c->strays == 0 || (next != NULL && backup_of_name(next->name, id) && strcmp(id, c->id) == 0))
		return;
	name = psprintf("%s/backup/%s/", c->w->v->system_identifier, c->id);
	snprintf(problem, sizeof(problem), "there are " UINT64_FORMAT " objects of this backup, and no manifest", c->strays);
	f = verify_found(c->w, seen_add(c->w, name), VERIFY_NOTICE, problem);
	if (f != NULL)
		f->hint = "It is in progress elsewhere, or was interrupted: dr_expire() removes it when it is a week old.";
	pfree(name);
	c->strays = 0;
}

static bool
in_scope(const Verification *w, const Seen *o)
{
	char		id[PGDR_BACKUP_ID_MAX + 1];

	return w->all || (o->flags & SEEN_NEEDED) != 0 ||
		(backup_of_name(o->name, id) && find_chosen(w, id) != NULL);
}

static const char *
newest_known_wal(const Verification *w)
{
	const char *newest = "";

	for (size_t i = 0; i < w->n_seen; i++)
		if (w->seen[i]->kind == KIND_WAL && (w->seen[i]->flags & SEEN_KNOWN) != 0 && strcmp(w->seen[i]->name, newest) > 0)
			newest = w->seen[i]->name;
	return newest;
}

bool
verify_compare(Verification *w, DrError *err)
{
	Comparison	c = {.w = w,.known_wal = newest_known_wal(w)};
	size_t		n = w->n_seen;	/* what is added on the way is not to be compared */
	bool		ok = true;

	for (size_t i = 0; ok && i < n; i++)
	{
		Seen	   *o = w->seen[i];

		see_strays(&c, o);
		if (!in_scope(w, o))
			continue;
		if ((o->flags & SEEN_LISTED) == 0 && (o->flags & (SEEN_NEEDED | SEEN_KNOWN)) != 0 &&
			(o->flags & SEEN_BAD) == 0)
			ok = see_missing(&c, o, err);
		if ((o->flags & (SEEN_LISTED | SEEN_BAD)) != SEEN_LISTED)
			continue;
		see_sizes(&c, o);
		see_unknown(&c, o);
		see_stray(&c, o);
	}
	see_strays(&c, NULL);
	if (c.marked)
		expire_mark_free(&c.mark);
	return ok;
}
