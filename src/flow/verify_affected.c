/*
 * verify_affected.c
 *	  Verification: which backups and files a finding is about.
 *
 * Every manifest of the cluster is read once more, but only when there is
 * something to tell.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/verify_private.h"

#include "access/xlog_internal.h"

void
finding_add_backup(VerifyFinding *f, const char *id)
{
	for (size_t i = 0; i < f->n_backups; i++)
		if (strcmp(f->backups[i], id) == 0)
			return;
	f->backups = array_room(f->backups, f->n_backups, sizeof(char *));
	f->backups[f->n_backups++] = pg_strdup(id);
}

void
finding_add_file(VerifyFinding *f, const char *path)
{
	for (size_t i = 0; i < Min(f->n_files, VERIFY_FILES_MAX); i++)
		if (strcmp(f->files[i], path) == 0)
			return;
	if (f->n_files < VERIFY_FILES_MAX)
		f->files[f->n_files] = pg_strdup(path);
	f->n_files++;
}

static VerifyFinding *
finding_about(Verification *w, const char *name)
{
	Seen	   *o = seen_find(w, name);

	return o == NULL || o->finding < 0 ? NULL : &w->findings[o->finding];
}

static void
affected_by_wal(Verification *w, const BackupInfo *info)
{
	uint32		size = info->wal_segment_size;
	char		file[MAXFNAMELEN];
	ObjectName	name;
	VerifyFinding *f;

	for (uint64 segno = info->start_lsn / size; segno <= (info->stop_lsn - 1) / size; segno++)
	{
		wal_segment_name(file, info->timeline, segno, size);
		name_wal(name, w->v->system_identifier, file);
		if ((f = finding_about(w, name)) != NULL)
			finding_add_backup(f, info->id);
	}
	if (info->timeline > 1)
	{
		TLHistoryFileName(file, info->timeline);
		name_wal(name, w->v->system_identifier, file);
		if ((f = finding_about(w, name)) != NULL)
			finding_add_backup(f, info->id);
	}
}

/* The findings about a manifest's packs of which no file is named yet, by their numbers: own ones, then inherited ones. */
typedef struct BadPacks
{
	int32	   *of[2];			/* index of the finding, or -1 */
	uint32		n[2];
	bool		any;
} BadPacks;

static VerifyFinding *
bad_pack(Verification *w, const BadPacks *bad, uint32 number)
{
	int			kind = number > PACK_INHERITED;
	uint32		i = (kind ? number - PACK_INHERITED : number) - 1;

	return i < bad->n[kind] && bad->of[kind][i] >= 0 ? &w->findings[bad->of[kind][i]] : NULL;
}

static void
note_pack(Verification *w, BadPacks *bad, const ManifestPack *pack, const char *id)
{
	int			kind = pack->number > PACK_INHERITED;
	VerifyFinding *f = finding_about(w, pack->name);

	bad->of[kind] = array_room(bad->of[kind], bad->n[kind], sizeof(int32));
	if (f != NULL)
		finding_add_backup(f, id);
	if (f != NULL && f->n_files > 0)
		f = NULL;				/* an earlier manifest's files, or those of its corrupt pages */
	bad->of[kind][bad->n[kind]++] = f == NULL ? -1 : (int32) (f - w->findings);
	bad->any |= f != NULL;
}

static void
note_file(Verification *w, const BadPacks *bad, const ManifestFile *file)
{
	for (uint32 i = 0; i < file->n_frames; i++)
	{
		VerifyFinding *f = bad_pack(w, bad, file->frames[i].pack);

		/* Frames of one pack mostly follow each other. */
		if (f != NULL && !(i > 0 && bad_pack(w, bad, file->frames[i - 1].pack) == f))
			finding_add_file(f, file->path);
	}
}

/* Packs come behind the files, so that a manifest with a bad one is read twice. */
static bool
read_twice(Verification *w, OpenManifest *m, DrError *why)
{
	BadPacks	bad = {0};
	Record		record = {0};
	bool		ok = true;

	while (ok && record.type != RECORD_END)
	{
		ok = manifest_next(m->reader, &record, why);
		if (ok && record.type == RECORD_PACK)
			note_pack(w, &bad, &record.u.pack, m->info.id);
	}
	if (ok)
		affected_by_wal(w, &m->info);
	record.type = 0;
	if (ok && bad.any && (ok = manifest_rewind(m, why)))
		while (ok && record.type != RECORD_END)
		{
			ok = manifest_next(m->reader, &record, why);
			if (ok && record.type == RECORD_FILE)
				note_file(w, &bad, &record.u.file);
		}
	free(bad.of[0]);
	free(bad.of[1]);
	return ok;
}

/* One that can't be read is a finding of its own, if it is one that is looked at. */
static bool
look_at(Verification *w, const char *name, DrError *err)
{
	char		id[PGDR_BACKUP_ID_MAX + 1];
	OpenManifest m;
	VerifyFinding *f = finding_about(w, name);
	DrError		why;
	bool		ok;

	if (!backup_of_name(name, id))
		return true;
	if (f != NULL)
		finding_add_backup(f, id);
	ok = manifest_open(w->v->repo, w->v->system_identifier, id, &m, &why) == STORE_OK;
	if (ok)
	{
		ok = read_twice(w, &m, &why);
		manifest_close(&m);
	}
	if (ok || why.code == DR_DAMAGED || why.code == DR_ABSENT)
		return true;
	*err = why;
	return false;
}

bool
verify_affected(Verification *w, DrError *err)
{
	for (size_t i = 0; w->n_findings > 0 && i < w->n_seen; i++)
		if (w->seen[i]->kind == KIND_MANIFEST && !look_at(w, w->seen[i]->name, err))
			return false;
	/* Its last manifest may have expired while we looked. */
	for (size_t i = 0; i < w->n_findings; i++)
	{
		VerifyFinding *f = &w->findings[i];

		if (f->severity != VERIFY_ERROR || f->n_backups > 0 || object_kind(f->object) != KIND_PACK)
			continue;
		f->severity = VERIFY_WARNING;
		f->hint = "No manifest names it.";
	}
	return true;
}
