/*
 * verify.c
 *	  Is what the repository holds what was stored?  What to look at, in which order.
 *
 * The one idea: everything is one table of objects, filled from the listing, the
 * manifests and the database; what the three say is compared, and what is to be
 * read is read once.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/verify_private.h"

#include "access/xlog_internal.h"

#define ID_TIME_LENGTH	16		/* 20260131T120000Z */

bool
verify_depth_parse(const char *text, VerifyDepth *depth)
{
	static const char *const names[] = {"catalogue", "objects", "pages"};

	for (int i = 0; i < (int) lengthof(names); i++)
		if (strcmp(text, names[i]) == 0)
		{
			*depth = VERIFY_CATALOGUE + i;
			return true;
		}
	return false;
}

const char *
verify_severity_name(VerifySeverity severity)
{
	return severity == VERIFY_ERROR ? "error" : severity == VERIFY_WARNING ? "warning" : "notice";
}

const BackupInfo *
chosen_info(const Chosen *b)
{
	return b->kept ? &b->m.info : &b->info;
}

/* ---- which backups ---- */

static void
choose(Verification *w, const char *id)
{
	w->chosen = array_room(w->chosen, w->n_chosen, sizeof(Chosen));
	memset(&w->chosen[w->n_chosen], 0, sizeof(Chosen));
	strlcpy(w->chosen[w->n_chosen++].id, id, sizeof(w->chosen->id));
}

/* All that are listed; that one which the database knows is not is a finding by itself. */
static void
choose_all(Verification *w)
{
	char		id[PGDR_BACKUP_ID_MAX + 1];

	for (size_t i = 0; i < w->n_seen; i++)
		if (w->seen[i]->kind == KIND_MANIFEST && (w->seen[i]->flags & SEEN_LISTED) != 0 &&
			backup_of_name(w->seen[i]->name, id))
			choose(w, id);
}

/*
 * Where recovery of a backup must at least come to.  One whose manifest can't
 * be read comes last of all, so that it is the one that is looked at.
 */
static XLogRecPtr
stop_of(Verify *v, const char *id)
{
	OpenManifest m;
	DrError		ignored;		/* it is looked at again, when it is chosen */
	XLogRecPtr	stop = PG_UINT64_MAX;

	if (manifest_open(v->repo, v->system_identifier, id, &m, &ignored) != STORE_OK)
		return stop;
	if (manifest_read_all(&m, &ignored))
		stop = m.info.stop_lsn;
	manifest_close(&m);
	return stop;
}

/*
 * Listed, or known to the database: that the newest one's manifest has gone must
 * not make another one the newest.  Ids begin with their second; two of one
 * second differ in where they stop.
 */
static bool
choose_latest(Verification *w, DrError *err)
{
	Verify	   *v = w->v;
	char		id[PGDR_BACKUP_ID_MAX + 1];

	for (size_t i = 0; i < w->n_seen; i++)
	{
		int			order;

		if (w->seen[i]->kind != KIND_MANIFEST || !backup_of_name(w->seen[i]->name, id))
			continue;
		order = strncmp(id, v->id, ID_TIME_LENGTH);
		if (order > 0 || (order == 0 && stop_of(v, id) > stop_of(v, v->id)))
			strlcpy(v->id, id, sizeof(v->id));
	}
	if (v->id[0] != '\0')
		choose(w, v->id);
	else
	{
		dr_error(err, DR_ABSENT, "the repository has no complete backup of cluster %s", v->system_identifier);
		dr_hint(err, "Take one with dr_backup('full').");
	}
	return v->id[0] != '\0';
}

static bool
choose_backups(Verification *w, DrError *err)
{
	Verify	   *v = w->v;

	if (w->all)
		choose_all(w);
	else if (strcmp(v->backup, "latest") == 0)
		return choose_latest(w, err);
	else
	{
		strlcpy(v->id, v->backup, sizeof(v->id));
		choose(w, v->id);
	}
	return true;
}

/* ---- what they need ---- */

static void
need_wal(Verification *w, const char *file)
{
	ObjectName	name;

	name_wal(name, w->v->system_identifier, file);
	seen_add(w, name)->flags |= SEEN_NEEDED;
}

static void
need_all_wal(Verification *w, const BackupInfo *info)
{
	uint32		size = info->wal_segment_size;
	char		file[MAXFNAMELEN];

	for (uint64 segno = info->start_lsn / size; segno <= (info->stop_lsn - 1) / size; segno++)
	{
		wal_segment_name(file, info->timeline, segno, size);
		need_wal(w, file);
	}
	if (info->timeline > 1)
	{
		TLHistoryFileName(file, info->timeline);
		need_wal(w, file);
	}
}

static void
need_pack(Verification *w, const ManifestPack *pack)
{
	Seen	   *o = seen_add(w, pack->name);

	if ((o->flags & SEEN_HASH) != 0 && (o->size != pack->size || memcmp(o->sha256, pack->sha256, 32) != 0))
		verify_found(w, o, VERIFY_ERROR, "two manifests do not agree about its size or SHA-256");
	o->flags |= SEEN_NEEDED | SEEN_HASH;
	o->size = pack->size;
	memcpy(o->sha256, pack->sha256, 32);
}

static void
note_corrupt(Chosen *b, const CorruptPage *page)
{
	b->corrupt = array_room(b->corrupt, b->n_corrupt, sizeof(CorruptPage));
	b->corrupt[b->n_corrupt] = *page;
	b->corrupt[b->n_corrupt++].path = pg_strdup(page->path);
}

static bool
read_records(Verification *w, Chosen *b, DrError *why)
{
	Record		record = {0};

	while (record.type != RECORD_END)
	{
		if (!manifest_next(b->m.reader, &record, why))
			return false;
		if (record.type == RECORD_PACK)
			need_pack(w, &record.u.pack);
		else if (record.type == RECORD_CORRUPT && w->v->depth == VERIFY_PAGES)
			note_corrupt(b, &record.u.corrupt);
	}
	return true;
}

/* This program judges what its own server version writes, in blocks of its own size. */
static bool
check_version(const Verification *w, const BackupInfo *info, DrError *err)
{
	if (w->v->depth < VERIFY_PAGES || (info->server_version_num / 10000 == PG_VERSION_NUM / 10000 && info->block_size == BLCKSZ))
		return true;
	dr_error(err, DR_CONFIG, "backup %s is of another major version of PostgreSQL, or has another block size", info->id);
	return dr_hint(err, "Verify its pages with the pg_dr of that version; to depth \"objects\" any does.");
}

static bool
read_manifest(Verification *w, Chosen *b, DrError *err)
{
	Verify	   *v = w->v;
	ObjectName	name;
	Seen	   *o;
	DrError		why;

	name_manifest(name, v->system_identifier, b->id);
	o = seen_add(w, name);
	o->flags |= SEEN_NEEDED;
	if (manifest_open(v->repo, v->system_identifier, b->id, &b->m, &why) != STORE_OK)
		return verify_verdict(w, o, &why, err);
	if (!read_records(w, b, &why))
	{
		manifest_close(&b->m);
		return verify_verdict(w, o, &why, err);
	}
	b->readable = true;
	need_all_wal(w, &b->m.info);
	o->flags |= SEEN_HASH;
	o->size = b->m.object_size;
	memcpy(o->sha256, b->m.sha256, 32);
	if (!check_version(w, &b->m.info, err))
		return false;
	b->kept = w->n_chosen == 1;
	if (!b->kept)
	{
		b->info = b->m.info;
		memset(&b->m.info, 0, sizeof(b->m.info));
		manifest_close(&b->m);
	}
	return true;
}

/* ---- locks ---- */

/* Without these, nothing opens: they must not lapse before what they open. */
static bool
lock_openers(Verification *w, DrError *err)
{
	Store	   *store = w->v->repo->store;
	const char *prefixes[] = {"keys/", psprintf("%s/lineage/", w->v->system_identifier)};
	bool		ok = store_extend_lock(store, REPOSITORY_OBJECT, err);

	for (int i = 0; ok && i < (int) lengthof(prefixes); i++)
	{
		Listing		l;

		ok = repository_list(w->v->repo, prefixes[i], false, &l, err);
		for (size_t k = 0; ok && k < l.n; k++)
			if (name_generation(l.names[k]) > 0)
				ok = store_extend_lock(store, l.names[k], err);
		if (ok)
			listing_free(&l);
	}
	return ok;
}

/* They are not read once more, so that no reader comes by. */
static bool
lock_manifests(Verification *w, DrError *err)
{
	bool		ok = true;

	for (size_t i = 0; ok && i < w->n_chosen; i++)
	{
		ObjectName	name;

		name_manifest(name, w->v->system_identifier, w->chosen[i].id);
		if (w->chosen[i].readable && (seen_find(w, name)->flags & SEEN_BAD) == 0)
			ok = store_extend_lock(w->v->repo->store, name, err);
	}
	return ok;
}

/* ---- reading ---- */

/* Manifests were read; what is bad is not read again, what is not listed can't be. */
static bool
to_be_read(const Verification *w, const Seen *o)
{
	if ((o->flags & (SEEN_LISTED | SEEN_BAD)) != SEEN_LISTED || o->kind == KIND_MANIFEST)
		return false;
	if ((o->flags & SEEN_NEEDED) != 0)
		return true;
	return w->all && o->kind != KIND_PACK && (o->kind != KIND_UNKNOWN || name_generation(o->name) > 0);
}

bool
verify_counts(const Seen *o)
{
	return o->kind == KIND_PACK || o->kind == KIND_WAL || o->kind == KIND_HISTORY ||
		o->kind == KIND_PARTIAL || o->kind == KIND_BACKUP_HISTORY;
}

static void
count_work(Verification *w)
{
	for (size_t i = 0; i < w->n_seen; i++)
	{
		Seen	   *o = w->seen[i];

		if (!to_be_read(w, o) || !verify_counts(o))
			continue;
		*((o->flags & SEEN_PROVEN) != 0 ? &w->v->bytes_skipped : &w->v->bytes_total) += o->listed;
	}
}

/* V2: all but the WAL of a backup when some of it is to be followed: that goes by records. */
static bool
wal_proven(Verification *w, const Chosen *b)
{
	const BackupInfo *info = chosen_info(b);
	uint32		size = info->wal_segment_size;
	char		file[MAXFNAMELEN];
	ObjectName	name;

	for (uint64 segno = info->start_lsn / size; segno <= (info->stop_lsn - 1) / size; segno++)
	{
		Seen	   *o;

		wal_segment_name(file, info->timeline, segno, size);
		name_wal(name, w->v->system_identifier, file);
		o = seen_find(w, name);
		if (o == NULL || (o->flags & SEEN_PROVEN) == 0)
			return false;
	}
	return true;
}

/* What pages depth reads in its own order: packs with their frames, a backup's WAL in a row. */
static bool
has_own_order(const Verification *w, const Seen *o)
{
	return w->v->depth == VERIFY_PAGES && (o->flags & SEEN_NEEDED) != 0 &&
		(o->kind == KIND_PACK || o->kind == KIND_WAL);
}

static bool
push_jobs(Verification *w, Readers *r, DrError *err)
{
	bool		ok = true;

	for (size_t i = 0; ok && i < w->n_seen; i++)
	{
		Seen	   *o = w->seen[i];
		ReadJob		job = {.o = o};

		if (to_be_read(w, o) && ((o->flags & SEEN_PROVEN) != 0 || !has_own_order(w, o)))
			ok = readers_push(r, &job);
	}
	for (size_t i = 0; ok && w->v->depth == VERIFY_PAGES && i < w->n_chosen; i++)
	{
		ReadJob		job = {.wal_of = &w->chosen[i]};

		if (w->chosen[i].readable && !wal_proven(w, &w->chosen[i]))
			ok = readers_push(r, &job);
	}
	return ok && (w->v->depth < VERIFY_PAGES || verify_frames(w, r, err));
}

static bool
read_objects(Verification *w, DrError *err)
{
	Readers    *r = readers_start(w);
	DrError		why;
	bool		ok = push_jobs(w, r, &why);
	bool		read = readers_finish(r, err);

	if (read && !ok)
		*err = why;
	return read && ok;
}

/* ---- the whole ---- */

static int
compare_findings(const void *a, const void *b)
{
	return strcmp(((const VerifyFinding *) a)->object, ((const VerifyFinding *) b)->object);
}

static bool
is_affected(const Verification *w, const char *id)
{
	for (size_t i = 0; i < w->n_findings; i++)
		for (size_t k = 0; w->findings[i].severity == VERIFY_ERROR && k < w->findings[i].n_backups; k++)
			if (strcmp(w->findings[i].backups[k], id) == 0)
				return true;
	return false;
}

static void
tell(Verification *w)
{
	Verify	   *v = w->v;

	if (w->n_findings > 1)
		qsort(w->findings, w->n_findings, sizeof(VerifyFinding), compare_findings);
	for (size_t i = 0; i < w->n_findings; i++)
	{
		v->findings++;
		v->errors += w->findings[i].severity == VERIFY_ERROR;
		v->warnings += w->findings[i].severity == VERIFY_WARNING;
		v->finding(v->arg, &w->findings[i]);
	}
}

static void
tell_verdicts(Verification *w)
{
	Verify	   *v = w->v;

	v->backups = w->n_chosen;
	for (size_t i = 0; i < w->n_chosen; i++)
		v->verified(v->arg, w->chosen[i].id, !is_affected(w, w->chosen[i].id));
}

static void
verification_free(Verification *w)
{
	for (size_t i = 0; i < w->n_chosen; i++)
	{
		manifest_close(&w->chosen[i].m);
		backup_info_free(&w->chosen[i].info);
		for (size_t k = 0; k < w->chosen[i].n_corrupt; k++)
			free(unconstify(char *, w->chosen[i].corrupt[k].path));
		free(w->chosen[i].corrupt);
	}
	for (size_t i = 0; i < w->n_findings; i++)
	{
		VerifyFinding *f = &w->findings[i];

		for (size_t k = 0; k < f->n_backups; k++)
			free(f->backups[k]);
		for (size_t k = 0; k < Min(f->n_files, VERIFY_FILES_MAX); k++)
			free(f->files[k]);
		free(f->backups);
		free(f->object);
		free(f->problem);
	}
	free(w->chosen);
	free(w->findings);
	seen_free(w);
	rate_free(&w->rate);
}

/* Manifests that were read are sound, unless the database has something against them. */
static void
tell_manifests(Verification *w)
{
	for (size_t i = 0; i < w->n_chosen; i++)
	{
		ObjectName	name;
		Seen	   *o;

		name_manifest(name, w->v->system_identifier, w->chosen[i].id);
		o = seen_find(w, name);
		if (w->chosen[i].readable && o != NULL)
			verify_sound(w, o, o->size, o->sha256);
	}
}

static bool
verify_all(Verification *w, DrError *err)
{
	if (!seen_list(w, err) || !choose_backups(w, err))
		return false;
	for (size_t i = 0; i < w->n_chosen; i++)
		if (!read_manifest(w, &w->chosen[i], err))
			return false;
	if (!verify_compare(w, err))
		return false;
	if (w->v->depth > VERIFY_CATALOGUE)
	{
		count_work(w);
		tell_manifests(w);
		if (!read_objects(w, err) || !lock_manifests(w, err) || !lock_openers(w, err))
			return false;
	}
	return verify_affected(w, err);
}

bool
verify_run(Verify *v, DrError *err)
{
	Verification w = {.v = v,.all = strcmp(v->backup, "all") == 0};
	bool		ok;

	v->backups = v->objects = v->bytes = v->bytes_skipped = v->bytes_total = 0;
	v->findings = v->errors = v->warnings = 0;
	v->id[0] = '\0';
	if (!w.all && strcmp(v->backup, "latest") != 0 && !backup_id_valid(v->backup))
	{
		dr_error(err, DR_CONFIG, "\"%s\" is not the id of a backup", v->backup);
		return dr_hint(err, "Give an id, \"latest\" or \"all\".");
	}
	rate_init(&w.rate, v->max_rate);
	ok = verify_all(&w, err);
	tell(&w);
	if (ok)
		tell_verdicts(&w);
	verification_free(&w);
	return ok;
}
