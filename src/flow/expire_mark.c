/*
 * expire_mark.c
 *	  What retention has marked as to go.
 *
 * A crash between the new generation and the removal of older ones leaves both;
 * the highest counts.  Older ones go first: what they had marked long ago must
 * not count again.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/expire_mark.h"

#include <jansson.h>

#include "flow/generations.h"

/* An entry takes less than 128 bytes: the object stays below SMALL_OBJECT_MAX. */
#define ENTRIES_MAX		4000

static char *
prefix_of(const char *sysid)
{
	return psprintf("%s/expire/", sysid);
}

static bool
is_segment(const char *text)
{
	WalFile		wal;

	return wal_file_parse(text, &wal) && wal.kind == KIND_WAL;
}

static bool
parse_backup(ExpireMark *m, json_t *entry)
{
	const char *id;
	const char *at;
	int64		us;

	if (json_unpack(entry, "{s:s, s:s}", "id", &id, "marked_at", &at) != 0 ||
		!backup_id_valid(id) || !time_parse(at, &us))
		return false;
	expire_mark_add_backup(m, id, us);
	return true;
}

static bool
parse_wal(ExpireMark *m, json_t *entry)
{
	const char *first;
	const char *last;
	const char *at;
	int64		us;

	if (json_unpack(entry, "{s:s, s:s, s:s}", "first", &first, "last", &last, "marked_at", &at) != 0 ||
		!is_segment(first) || !is_segment(last) || strncmp(first, last, 8) != 0 ||
		strcmp(first, last) > 0 || !time_parse(at, &us))
		return false;
	expire_mark_add_wal(m, first, last, us);
	return true;
}

static bool
parse(ExpireMark *m, const uint8 *content, size_t n)
{
	json_t	   *object = json_loadb((const char *) content, n, JSON_REJECT_DUPLICATES, NULL);
	json_t	   *backups = json_object_get(object, "backups");
	json_t	   *wal = json_object_get(object, "wal");
	bool		ok = json_is_array(backups) && json_is_array(wal);

	for (size_t i = 0; ok && i < json_array_size(backups); i++)
		ok = parse_backup(m, json_array_get(backups, i));
	for (size_t i = 0; ok && i < json_array_size(wal); i++)
		ok = parse_wal(m, json_array_get(wal, i));
	json_decref(object);
	return ok;
}

bool
expire_mark_load(Repository *repo, const char *sysid, ExpireMark *m, DrError *err)
{
	char	   *prefix = prefix_of(sysid);
	Newest		found;
	SealHeader	header;
	uint8	   *content;
	size_t		n;
	bool		ok = newest_generation(repo->store, prefix, SMALL_OBJECT_MAX, &found, err);

	pfree(prefix);
	memset(m, 0, sizeof(*m));
	if (!ok || found.generation == 0)
		return ok;
	ok = repository_unseal(repo, found.name, &found.raw, &header, &content, &n, err);
	if (ok && !parse(m, content, n))
		ok = dr_error(err, DR_DAMAGED, "object \"%s\" is not a mark of retention", found.name);
	if (!ok && err->code == DR_DAMAGED)
		dr_hint(err, "Bring it back from a copy, or remove it: what is to go is then marked anew.");
	bytes_free(&found.raw);
	if (!ok)
		expire_mark_free(m);
	m->generation = found.generation;
	return ok;
}

void
expire_mark_free(ExpireMark *m)
{
	free(m->backups);
	free(m->wal);
	memset(m, 0, sizeof(*m));
}

int64
expire_mark_backup(const ExpireMark *m, const char *id)
{
	for (size_t i = 0; i < m->n_backups; i++)
		if (strcmp(m->backups[i].id, id) == 0)
			return m->backups[i].at;
	return 0;
}

int64
expire_mark_segment(const ExpireMark *m, const char *segment)
{
	for (size_t i = 0; i < m->n_wal; i++)
		if (strncmp(segment, m->wal[i].first, 24) >= 0 && strncmp(segment, m->wal[i].last, 24) <= 0)
			return m->wal[i].at;
	return 0;
}

void
expire_mark_add_backup(ExpireMark *m, const char *id, int64 at)
{
	if (m->n_backups == ENTRIES_MAX)
		return;
	m->backups = array_room(m->backups, m->n_backups, sizeof(MarkedBackup));
	memset(&m->backups[m->n_backups], 0, sizeof(MarkedBackup));
	strlcpy(m->backups[m->n_backups].id, id, sizeof(m->backups->id));
	m->backups[m->n_backups++].at = at;
}

void
expire_mark_add_wal(ExpireMark *m, const char *first, const char *last, int64 at)
{
	if (m->n_wal == ENTRIES_MAX)
		return;
	m->wal = array_room(m->wal, m->n_wal, sizeof(MarkedWal));
	memset(&m->wal[m->n_wal], 0, sizeof(MarkedWal));
	strlcpy(m->wal[m->n_wal].first, first, sizeof(m->wal->first));
	strlcpy(m->wal[m->n_wal].last, last, sizeof(m->wal->last));
	m->wal[m->n_wal++].at = at;
}

bool
expire_mark_equal(const ExpireMark *a, const ExpireMark *b)
{
	return a->n_backups == b->n_backups && a->n_wal == b->n_wal &&
		(a->n_backups == 0 || memcmp(a->backups, b->backups, a->n_backups * sizeof(MarkedBackup)) == 0) &&
		(a->n_wal == 0 || memcmp(a->wal, b->wal, a->n_wal * sizeof(MarkedWal)) == 0);
}

/* ---- storing ---- */

static char *
mark_text(const ExpireMark *m)
{
	json_t	   *backups = json_array();
	json_t	   *wal = json_array();
	json_t	   *object;
	char		at[TIME_TEXT_MAX];
	char	   *text;

	for (size_t i = 0; i < m->n_backups; i++)
	{
		time_format(at, m->backups[i].at);
		json_array_append_new(backups, json_pack("{s:s, s:s}", "id", m->backups[i].id, "marked_at", at));
	}
	for (size_t i = 0; i < m->n_wal; i++)
	{
		time_format(at, m->wal[i].at);
		json_array_append_new(wal, json_pack("{s:s, s:s, s:s}", "first", m->wal[i].first,
											 "last", m->wal[i].last, "marked_at", at));
	}
	object = json_pack("{s:o, s:o}", "backups", backups, "wal", wal);
	text = json_dumps(object, JSON_COMPACT);
	json_decref(object);
	return text;
}

static bool
put_mark(Repository *repo, const char *sysid, const ExpireMark *m, DrError *err)
{
	char	   *text = mark_text(m);
	ObjectName	name;
	SealBuffer	b;
	uint8		hash[32];
	StoreResult r = STORE_FAILED;

	name_expiry(name, sysid, m->generation);
	seal_buffer_init(&b, strlen(text));
	seal_buffer_append(&b, text, strlen(text));
	if (repository_seal(repo, &b, CODEC_NONE, 0, 0, name, err))
		r = repository_put(repo, &b, name, hash, err);
	if (r == STORE_TAKEN)
	{
		dr_error(err, DR_CONFLICT, "retention is at work twice: object \"%s\" was stored by somebody else", name);
		dr_hint(err, "Try again.");
	}
	seal_buffer_free(&b);
	free(text);
	return r == STORE_OK;
}

/* Those up to a generation, the oldest first, as far as the store allows it. */
static void
remove_marks(Repository *repo, const char *sysid, uint32 up_to)
{
	char	   *prefix = prefix_of(sysid);
	Listing		l;
	DrError		ignored;		/* where it is not allowed they mean nothing */
	bool		ok;

	store_set_patience(repo->store, STORE_PATIENCE_CLEANUP);
	ok = repository_list(repo, prefix, false, &l, &ignored);
	if (!ok)
		memset(&l, 0, sizeof(l));
	for (size_t i = 0; ok && i < l.n; i++)
	{
		const char *name = l.names[i];

		if (object_kind(name) == KIND_EXPIRY && name_generation(name) <= up_to)
			ok = store_remove(repo->store, &name, 1, &ignored);
	}
	listing_free(&l);
	pfree(prefix);
	store_set_patience(repo->store, STORE_PATIENCE_OWN);
}

bool
expire_mark_store(Repository *repo, const char *sysid, ExpireMark *m, uint32 before, DrError *err)
{
	m->generation = before + 1;
	if (!put_mark(repo, sysid, m, err))
		return false;
	remove_marks(repo, sysid, before);
	return true;
}

void
expire_mark_clear(Repository *repo, const char *sysid, const ExpireMark *m)
{
	remove_marks(repo, sysid, m->generation);
}

bool
expire_is_marked(Repository *repo, const char *sysid, const char *backup_id, bool *marked, DrError *err)
{
	ExpireMark	m;

	*marked = false;
	if (!expire_mark_load(repo, sysid, &m, err))
		return false;
	*marked = expire_mark_backup(&m, backup_id) != 0;
	expire_mark_free(&m);
	return true;
}
