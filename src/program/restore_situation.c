/*
 * restore_situation.c
 *	  What a restore knows before it writes anything.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "program/restore_situation.h"

#include <pthread.h>
#include <stdatomic.h>

#include "core/wal_page.h"
#include "flow/aside.h"
#include "flow/wal_serve.h"
#include "program/report.h"

/* Requests at once when segments are looked at. */
#define CHECKERS	16

/*
 * Recovery reads wal_decode_buffer_size ahead of what it replays, in as many
 * segments as that takes: eight times its default, but no more segments than these.
 */
#define READ_AHEAD	(UINT64CONST(4) << 20)
#define LOOK_BEHIND	8

/* ---- the archive ---- */

static bool
load_wal(void *arg, DrError *err)
{
	Situation  *s = arg;
	char	   *prefix = psprintf("%s/wal/", s->sysid);
	bool		ok = repository_list(&s->repo, prefix, true, &s->wal_objects, err);

	pfree(prefix);
	if (!ok)
		return false;
	s->wal.files = pg_malloc(sizeof(char *) * (s->wal_objects.n + 1));
	s->wal.noted = pg_malloc(sizeof(char *) * (s->wal_objects.n + 1));
	for (size_t i = 0; i < s->wal_objects.n; i++)
	{
		ObjectKind	kind = object_kind(s->wal_objects.names[i]);
		char	   *file = strrchr(s->wal_objects.names[i], '/') + 1;

		if (kind == KIND_WAL)
			s->wal.files[s->wal.n++] = file;
		else if (kind == KIND_FRONTIER)
			s->wal.noted[s->wal.n_noted++] = file;
	}
	return true;
}

static bool
load_history(Situation *s, TimeLineID tli, DrError *err)
{
	if (wal_history(&s->repo, s->sysid, tli, &s->history, err))
		return true;
	if (err->code == DR_ABSENT)
		dr_hint(err, "The history of timeline %u is not archived; give another --target-timeline.", tli);
	return false;
}

/*
 * The newest timeline of which anything is archived.  A timeline without its
 * history file is a hole that must not be overlooked.
 */
static bool
latest_timeline(Situation *s, TimeLineID *tli, DrError *err)
{
	*tli = 1;
	for (size_t i = 0; i < s->wal_objects.n; i++)
	{
		WalFile		w;

		if (object_kind(s->wal_objects.names[i]) != KIND_UNKNOWN &&
			wal_file_parse(strrchr(s->wal_objects.names[i], '/') + 1, &w))
			*tli = Max(*tli, w.timeline);
	}
	return true;
}

static bool
choose_history(Situation *s, const RestoreOptions *o, DrError *err)
{
	TimeLineID	tli;
	char	   *end;

	if (o->timeline == NULL || strcmp(o->timeline, "latest") == 0)
		return latest_timeline(s, &tli, err) && load_history(s, tli, err);
	tli = (TimeLineID) strtoul(o->timeline, &end, 10);
	if (*end != '\0' || tli == 0 || o->timeline[0] == '-')
		return dr_error(err, DR_CONFIG, "\"%s\" is not a timeline", o->timeline);
	return load_history(s, tli, err);
}

/* ---- the backup ---- */

/* Without a manifest and before a complete one: nobody misses it, and it may merely have expired. */
static void
warn_of_incomplete(const Situation *s)
{
	size_t		complete = s->backups.n;

	while (complete > 0 && !s->backups.v[complete - 1].has_manifest)
		complete--;
	for (size_t i = 0; i < s->backups.n; i++)
	{
		const BackupEntry *e = &s->backups.v[i];
		ObjectName	name;

		name_manifest(name, s->sysid, e->id);
		if (!e->has_manifest && i < complete)
			continue;
		if (!e->has_manifest)
			report_warning("backup %s is in progress or was interrupted: object \"%s\" does not exist", e->id, name);
		else if (!e->sound)
			report_warning("backup %s can't be used: %s", e->id, e->error.message);
	}
}

/* The one with the least WAL to replay; ids tell no order within a second. */
static BackupEntry *
newest_suitable(const Situation *s, const Target *t)
{
	BackupEntry *newest = NULL;

	for (size_t i = 0; i < s->backups.n; i++)
	{
		BackupEntry *e = &s->backups.v[i];

		if (e->sound && plan_backup_suits(&e->info, &s->history, t) &&
			(newest == NULL || e->info.stop_lsn >= newest->info.stop_lsn))
			newest = e;
	}
	return newest;
}

static bool
no_backup(const Situation *s, const Target *t, DrError *err)
{
	BackupEntry *first = NULL;
	char		when[TIME_TEXT_MAX];
	char		lsn[LSN_TEXT_MAX];

	for (size_t i = s->backups.n; i-- > 0;)
		if (s->backups.v[i].sound)
			first = &s->backups.v[i];
	if (first == NULL)
	{
		dr_error(err, DR_ABSENT, "the repository holds no complete backup of cluster %s", s->sysid);
		if (s->backups.n > 0)
		{
			BackupEntry *e = &s->backups.v[s->backups.n - 1];
			ObjectName	name;

			name_manifest(name, s->sysid, e->id);
			if (e->has_manifest)
				dr_detail(err, "Backup %s: %s.  %s", e->id, e->error.message, e->error.detail);
			else
				dr_detail(err, "Backup %s has no manifest: object \"%s\" does not exist.", e->id, name);
		}
		return false;
	}
	time_format(when, first->info.stopped_at);
	lsn_format(lsn, first->info.stop_lsn);
	dr_error(err, DR_CONFIG, "no backup is old enough for the target on timeline %u", s->history.v[s->history.n - 1].tli);
	dr_detail(err, "The oldest backup, %s on timeline %u, is consistent from %s (location %s) on.",
			  first->id, first->info.timeline, when, lsn);
	return dr_hint(err, "Give a later target, or another --target-timeline.");
}

static bool
choose_backup(Situation *s, const RestoreOptions *o, BackupEntry **out, DrError *err)
{
	ObjectName	name;

	*out = NULL;
	if (o->backup == NULL)
	{
		*out = newest_suitable(s, &o->target);
		return *out != NULL || no_backup(s, &o->target, err);
	}
	for (size_t i = 0; i < s->backups.n; i++)
		if (strcmp(s->backups.v[i].id, o->backup) == 0)
			*out = &s->backups.v[i];
	if (*out == NULL || !(*out)->has_manifest)
	{
		name_manifest(name, s->sysid, o->backup);
		dr_error(err, DR_ABSENT, "backup %s does not exist", o->backup);
		dr_detail(err, "Object \"%s\" does not exist.", name);
		return dr_hint(err, "See pg_dr list.");
	}
	if (!(*out)->sound)
	{
		*err = (*out)->error;
		return false;
	}
	return true;
}

/* ---- are its packs there? ---- */

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

static int
compare_packs(const void *a, const void *b)
{
	return strcmp((*(RestorePack *const *) a)->name, (*(RestorePack *const *) b)->name);
}

static bool
check_pack(const Listing *l, const RestorePack *pack, DrError *err)
{
	char	  **found = l->n == 0 ? NULL : bsearch(&pack->name, l->names, l->n, sizeof(char *), compare_names);

	if (found == NULL)
		return dr_error(err, DR_DAMAGED, "object \"%s\" does not exist", pack->name);
	if (l->sizes[found - l->names] == pack->size)
		return true;
	dr_error(err, DR_DAMAGED, "object \"%s\" is damaged", pack->name);
	return dr_detail(err, "It has " UINT64_FORMAT " bytes, not " UINT64_FORMAT ".", l->sizes[found - l->names], pack->size);
}

/* As listed, with their sizes: one listing for each backup that packs are of. */
static bool
check_packs(Situation *s, DrError *err)
{
	const Restore *r = &s->restore;
	RestorePack **packs = pg_malloc(sizeof(RestorePack *) * (r->n_packs + 1));
	char	   *directory = NULL;
	Listing		l = {0};
	bool		ok = true;

	for (uint32 i = 0; i < r->n_packs; i++)
		packs[i] = &r->packs[i];
	qsort(packs, r->n_packs, sizeof(RestorePack *), compare_packs);
	for (uint32 i = 0; ok && i < r->n_packs; i++)
	{
		size_t		n = strrchr(packs[i]->name, '/') + 1 - packs[i]->name;

		if (directory == NULL || strlen(directory) != n || strncmp(directory, packs[i]->name, n) != 0)
		{
			free(directory);
			directory = pnstrdup(packs[i]->name, n);
			listing_free(&l);
			ok = repository_list(&s->repo, directory, false, &l, err);
		}
		ok = ok && check_pack(&l, packs[i], err);
	}
	listing_free(&l);
	free(directory);
	free(packs);
	return ok;
}

/*
 * One that lacks a pack would fail in the middle of its restore: it is passed
 * over or, when it was asked for by its name, refused.
 */
static bool
choose_whole_backup(Situation *s, const RestoreOptions *o, BackupEntry **out, DrError *err)
{
	for (;;)
	{
		BackupEntry *e;
		DrError		why;

		if (!choose_backup(s, o, out, err) ||
			!restore_prepare(&s->restore, &s->repo, s->sysid, *out, o->pgdata, err))
			return false;
		if (check_packs(s, &why))
			return true;
		if (why.code != DR_DAMAGED || o->backup != NULL)
		{
			*err = why;
			return false;
		}
		e = *out;
		e->sound = false;
		e->error = why;
		report_warning("backup %s can't be used: %s", e->id, why.message);
		restore_free(&s->restore);
	}
}

/* ---- how far recovery can come ---- */

static bool
has_tail(const Situation *s, const char *segment)
{
	for (size_t i = 0; i < s->wal_objects.n; i++)
	{
		TailName	tail;

		if (tail_name_parse(s->wal_objects.names[i], &tail) && strcmp(tail.segment, segment) == 0)
			return true;
	}
	return false;
}

/* When the last segment of the row was stored: no later time can be reached with it. */
static bool
time_of_row(Situation *s, const BackupInfo *b, uint64 end, DrError *err)
{
	Bytes		plain = {0};
	SealHeader	header = {0};
	char		last[25];
	bool		ok;

	if (end <= b->start_lsn / b->wal_segment_size)
		return true;			/* there is no row; the plan will say so */
	wal_segment_name(last, history_segment_timeline(&s->history, end - 1, b->wal_segment_size), end - 1,
					 b->wal_segment_size);
	ok = wal_fetch(&s->repo, s->sysid, last, &plain, &header, err) == STORE_OK;
	bytes_free(&plain);
	s->wal.reached_at = header.created;
	return ok;
}

/*
 * What there is of the segment that ends the row.  Where the primary lives, it may
 * have been archived since the archive was listed.
 */
static StoreResult
look_at_segment(Situation *s, WalServe *serve, const char *segment, uint64 begin, bool *whole, DrError *err)
{
	Bytes		plain = {0};
	SealHeader	header = {0};
	StoreResult r = wal_serve(serve, segment, &plain, err);
	StoreResult archived = r == STORE_OK ? wal_fetch(&s->repo, s->sysid, segment, &plain, &header, err) : r;

	*whole = archived == STORE_OK || serve->assembled.len == serve->segment_size;
	if (archived == STORE_FAILED)
		r = STORE_FAILED;
	if (r == STORE_OK)
		s->wal.reached_at = archived == STORE_OK ? header.created : serve->stored_at;
	if (r == STORE_OK && !*whole)
		s->wal.tail_end = begin + serve->assembled.len;
	bytes_free(&plain);
	return r;
}

/*
 * What lies behind the row of archived segments: whole segments that only the
 * tail has belong to the row; of the last one, what there is counts.
 */
static bool
look_at_tail(Situation *s, const BackupInfo *b, const Target *t, DrError *err)
{
	WalServe	serve = {.repo = &s->repo,.sysid = s->sysid,.segment_size = b->wal_segment_size,.threads = 4};
	char		segment[25];
	uint64		end = plan_row_end(b, &s->history, &s->wal, segment);
	bool		whole = true;
	bool		ok = true;

	if (t->kind == TARGET_TIME && !time_of_row(s, b, end, err))
		return false;
	while (whole && t->kind != TARGET_IMMEDIATE && has_tail(s, segment))
	{
		StoreResult r = look_at_segment(s, &serve, segment, end * b->wal_segment_size, &whole, err);

		if (r == STORE_FAILED)
		{
			ok = err->code == DR_DAMAGED;	/* or behind a gap: the plan knows whether it is needed */
			s->tail_damaged = true;
			s->tail_error = *err;
		}
		if (r != STORE_OK)
			break;
		if (whole)
			wal_set_add(&s->wal, segment);
		end = plan_row_end(b, &s->history, &s->wal, segment);
	}
	wal_serve_free(&serve);
	return ok;
}

/* Recovery would come upon it, and abort. */
static bool
check_tail(const Situation *s, const Target *t, DrError *err)
{
	if (!s->tail_damaged || t->kind == TARGET_IMMEDIATE || t->kind == TARGET_LSN || t->kind == TARGET_TIME)
		return true;			/* what the plan allows lies before */
	*err = s->tail_error;
	return dr_hint(err, "Give --target-lsn or --target-time before it, or remove the damaged piece: "
				   "recovery then ends before it.");
}

/* ---- what lies behind the target ---- */

typedef struct Behind
{
	XLogRecPtr	target;
	WalServe	serve;
	WalCheck	check;
	uint64		seen;			/* bytes of records behind the target, about */
	int			segments;		/* that were looked at */
	Bytes		plain;
} Behind;

/* Go on with a segment.  False: WAL ends in it. */
static bool
see_segment(Behind *b, XLogRecPtr base)
{
	WalCheck   *c = &b->check;
	DrError		ignored;
	bool		goes_on;

	b->segments++;
	if (c->at == InvalidXLogRecPtr)
		c->at = wal_first_record(b->plain.data, c->segment_size, base);
	if (c->at == InvalidXLogRecPtr)
		return true;
	goes_on = wal_check_segment(c, b->plain.data, &ignored);
	if (c->before > b->target)
		b->seen += c->before - Min(c->before, Max(b->target, base));
	return goes_on;
}

/* Read from a segment on until enough was seen. */
static bool
look_from(Situation *s, Behind *b, uint64 segno, uint32 size, DrError *err)
{
	wal_check_begin(&b->check, s->sysid, 0, size, InvalidXLogRecPtr, PG_UINT64_MAX);
	b->segments = 0;
	for (; !s->sound_behind && (b->segments < LOOK_BEHIND || b->check.before < b->target); segno++)
	{
		char		segment[25];
		StoreResult r;

		b->check.timeline = history_segment_timeline(&s->history, segno, size);
		wal_segment_name(segment, b->check.timeline, segno, size);
		r = wal_serve(&b->serve, segment, &b->plain, err);
		if (r == STORE_FAILED)
		{
			s->damaged = segno;
			s->damage = *err;
			return err->code == DR_DAMAGED;
		}
		s->sound_behind = r == STORE_ABSENT || !see_segment(b, segno * size) || b->seen >= READ_AHEAD;
	}
	return true;
}

/*
 * Open and read what the server will have read when it comes to the target:
 * damage in it would end recovery before.  Where targets are a time, a
 * transaction or a name, nobody knows where that is.  A location can be reached
 * when a record begins there or behind it.
 */
static bool
look_behind(Situation *s, const BackupInfo *b, const Target *t, DrError *err)
{
	uint32		size = b->wal_segment_size;
	Behind		behind = {.target = t->kind == TARGET_LSN ? t->lsn : b->stop_lsn,
	.serve = {.repo = &s->repo,.sysid = s->sysid,.segment_size = size,.threads = 4}};
	char		segment[25];
	XLogRecPtr	end = Max(plan_row_end(b, &s->history, &s->wal, segment) * size, s->wal.tail_end);
	uint64		segno = Min(behind.target, end - 1) / size;
	bool		ok;

	if (t->kind != TARGET_LSN && t->kind != TARGET_IMMEDIATE)
		return true;
	/* Where no record begins, the last one does before. */
	while ((ok = look_from(s, &behind, segno, size, err)) && t->kind == TARGET_LSN &&
		   behind.check.before == InvalidXLogRecPtr && s->damaged != segno && segno > b->start_lsn / size)
	{
		s->sound_behind = false;
		segno--;
	}
	if (t->kind == TARGET_LSN)
		s->wal.last_record = behind.check.before;
	bytes_free(&behind.plain);
	wal_serve_free(&behind.serve);
	return ok;
}

/* ---- is the WAL what was stored? ---- */

typedef struct Check
{
	Situation  *s;
	uint64		first;			/* segments, the last one not included */
	uint64		end;
	_Atomic(uint64) next;
	_Atomic(uint64) damaged;	/* the first one; end: none */
	pthread_mutex_t lock;
	DrError		why;			/* of that one */
} Check;

/* Size as listed; false for one that only the tail has, which was opened already. */
static bool
listed_size(const Situation *s, const char *name, uint64 *size)
{
	char	  **found = bsearch(&name, s->wal_objects.names, s->wal_objects.n, sizeof(char *), compare_names);

	if (found != NULL)
		*size = s->wal_objects.sizes[found - s->wal_objects.names];
	return found != NULL;
}

static void
note_damage(Check *c, uint64 segno, const DrError *why)
{
	pthread_mutex_lock(&c->lock);
	if (segno < atomic_load(&c->damaged))
	{
		atomic_store(&c->damaged, segno);
		c->why = *why;
	}
	pthread_mutex_unlock(&c->lock);
}

static bool
check_segments(void *arg, DrError *err)
{
	Check	   *c = arg;
	const BackupInfo *b = c->s->plan.backup;
	uint64		segno;

	while ((segno = atomic_fetch_add(&c->next, 1)) < c->end && segno < atomic_load(&c->damaged))
	{
		char		file[25];
		ObjectName	name;
		SealHeader	header;
		uint64		size;
		DrError		why;

		wal_segment_name(file, history_segment_timeline(&c->s->history, segno, b->wal_segment_size), segno,
						 b->wal_segment_size);
		name_wal(name, c->s->sysid, file);
		if (!listed_size(c->s, name, &size) || repository_check_ends(&c->s->repo, name, size, &header, &why))
			continue;
		if (why.code != DR_DAMAGED && why.code != DR_ABSENT)
		{
			*err = why;
			return false;
		}
		note_damage(c, segno, &why);
	}
	return true;
}

/* A time before the damage can be reached all the same. */
static bool
time_lies_before(Situation *s, const Target *t, uint64 damaged)
{
	DrError		ignored;

	return t->kind == TARGET_TIME && time_of_row(s, s->plan.backup, damaged, &ignored) &&
		t->time <= s->wal.reached_at;
}

/*
 * Every segment that recovery will want, by beginning and end: one that is cut,
 * swapped or under a wrong name is found before anything is written.
 */
static bool
check_wal(Situation *s, const Target *t, DrError *err)
{
	const BackupInfo *b = s->plan.backup;
	uint32		size = b->wal_segment_size;
	XLogRecPtr	end = t->kind == TARGET_IMMEDIATE ? b->stop_lsn : t->kind == TARGET_LSN ? t->lsn + 1 : s->plan.frontier;
	Check		c = {.s = s,.first = b->start_lsn / size,.lock = PTHREAD_MUTEX_INITIALIZER};
	char		file[25];
	char		from[LSN_TEXT_MAX];
	char		to[LSN_TEXT_MAX];

	c.end = (Min(end, s->plan.frontier) + size - 1) / size;
	c.next = c.first;
	c.damaged = c.end;
	if (s->damaged >= c.first && s->damaged < c.end)
		note_damage(&c, s->damaged, &s->damage);
	if (!aside_together(CHECKERS, check_segments, &c, err))
		return false;
	s->plan.no_read_ahead = t->kind == TARGET_LSN || t->kind == TARGET_IMMEDIATE ? !s->sound_behind :
		s->plan.gap || s->tail_damaged || c.damaged < c.end;
	if (c.damaged == c.end || time_lies_before(s, t, c.damaged))
		return true;
	wal_segment_name(file, history_segment_timeline(&s->history, c.damaged, size), c.damaged, size);
	lsn_format(from, c.damaged * size);
	lsn_format(to, (c.damaged + 1) * size);
	dr_error(err, DR_DAMAGED, "WAL segment \"%s\" in the repository is damaged", file);
	dr_detail(err, "WAL from %s to %s can't be recovered: %s.  %s", from, to, c.why.message, c.why.detail);
	return dr_hint(err, "Recovery can't go past this gap: give --target-lsn or --target-time before it, "
				   "a backup after it, or bring the object back from a copy.");
}

/* ---- the whole ---- */

/* What a delta restore clears must not hold what it needs, or what the next one would. */
static bool
check_spared(const Situation *s, const RestoreOptions *o, DrError *err)
{
	const char *url = s->repo.store->url;
	char	   *repository = strncmp(url, "file://", 7) == 0 ? url_decode(url + 7) : NULL;
	bool		ok;

	ok = (repository == NULL || restore_spares(&s->restore, repository, "repository", err)) &&
		restore_spares(&s->restore, o->access.key_file, "key file", err) &&
		(o->access.credentials_file == NULL ||
		 restore_spares(&s->restore, o->access.credentials_file, "credentials file", err));
	free(repository);
	return ok;
}

/* All that would not lie in the new data directory anyway. */
static void
gather_tablespaces(Restore *r, const char *directory)
{
	size_t		n = strlen(r->pgdata);

	for (int i = 0; directory != NULL && i < r->n_tablespaces; i++)
	{
		TablespaceMapping *t = &r->tablespaces[i];

		if (strncmp(t->to, r->pgdata, n) == 0 && t->to[n] == '/')
			continue;
		free(t->to);
		t->to = psprintf("%s/%s", directory, t->oid);
	}
}

bool
situation_make(Situation *s, const RestoreOptions *o, DrError *err)
{
	BackupEntry *backup;
	Aside		wal;
	bool		listed;
	DrError		wal_err;

	if (!access_open(&o->access, true, &s->repo, err) ||
		!access_choose_system(&o->access, &s->repo, s->sysid, err))
		return false;
	aside_start(&wal, load_wal, s);
	listed = inventory_backups(&s->repo, s->sysid, &s->backups, err);
	if (!aside_join(&wal, &wal_err) && listed)
	{
		*err = wal_err;
		listed = false;
	}
	if (!listed)
		return false;
	warn_of_incomplete(s);
	if (!choose_history(s, o, err) ||
		!choose_whole_backup(s, o, &backup, err) ||
		!look_at_tail(s, &backup->info, &o->target, err) ||
		!look_behind(s, &backup->info, &o->target, err) ||
		!plan_make(&s->plan, &backup->info, &s->history, &s->wal, &o->target, err) ||
		!check_tail(s, &o->target, err) ||
		!check_wal(s, &o->target, err))
		return false;
	s->restore.jobs = o->jobs;
	s->restore.delta = o->delta;
	gather_tablespaces(&s->restore, o->tablespace_dir);
	for (int i = 0; i < o->n_mappings; i++)
		if (!restore_remap(&s->restore, o->mappings[i], err))
			return false;
	return restore_check_targets(&s->restore, err) && check_spared(s, o, err);
}
