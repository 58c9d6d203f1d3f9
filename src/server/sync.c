/*
 * sync.c
 *	  The repository's inventory into the catalogue.
 *
 * One idea: what the catalogue knows from the time of writing (sizes, hashes)
 * is never replaced by what the repository says today; where the two differ,
 * that is a finding.
 *
 * In a session everything is one transaction, the caller's.  In a worker, rows
 * are written in batches of their own, with no transaction open while the
 * program is waited for.
 *
 * A crash leaves rows that are true and others that are still missing; the next
 * inventory brings them.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "backup.h"
#include "catalogue.h"
#include "pg_dr.h"
#include "repository.h"

#define BATCH_SIZE	500

typedef struct Sync
{
	DrSyncReport report;
	void	   *report_arg;
	char	   *repository;
	MemoryContext context;

	List	   *expected;		/* ids that the catalogue calls completed */
	List	   *damaged;		/* names of objects */
	List	   *marked;			/* ids of backups that retention may have removed */
	List	   *marked_wal;		/* segments, the first and the last of each row */

	/* of the backup that is listed just now */
	MemoryContext backup_context;
	DrObject   *objects;
	int			n_objects;
	int			max_objects;
	DrFoundBackup found;

	/* WAL, in order of names */
	DrSegment  *segments;
	int			n_segments;
	char	   *last_wal;		/* up to here it is done; NULL: nothing */
	bool		wal_ends;		/* no name follows those that are listed */
	TimestampTz started_at;
	int			new_segments;
} Sync;

static void
report(Sync *s, const char *what, const char *name, const char *detail)
{
	s->report(s->report_arg, what, name, detail);
}

/* ---- what retention has marked ---- */

static void
on_marked(Sync *s, const DrEvent *event)
{
	char	   *id = dr_event_text(event, "backup", true);
	MemoryContext caller = MemoryContextSwitchTo(s->context);

	s->marked = lappend(s->marked, pstrdup(id));
	MemoryContextSwitchTo(caller);
}

static void
on_marked_wal(Sync *s, const DrEvent *event)
{
	char	   *first = dr_event_text(event, "first", true);
	char	   *last = dr_event_text(event, "last", true);
	MemoryContext caller = MemoryContextSwitchTo(s->context);

	s->marked_wal = lappend(s->marked_wal, pstrdup(first));
	s->marked_wal = lappend(s->marked_wal, pstrdup(last));
	MemoryContextSwitchTo(caller);
}

static bool
is_marked(Sync *s, const char *id)
{
	ListCell   *cell;

	foreach(cell, s->marked)
	{
		if (strcmp(lfirst(cell), id) == 0)
			return true;
	}
	return false;
}

/* An object <sysid>/wal/<timeline>/<file> */
static bool
is_marked_wal(Sync *s, const char *object)
{
	const char *slash = strrchr(object, '/');
	const char *file = slash ? slash + 1 : object;

	for (int i = 0; i + 1 < list_length(s->marked_wal); i += 2)
	{
		if (strncmp(file, list_nth(s->marked_wal, i), 24) >= 0 &&
			strncmp(file, list_nth(s->marked_wal, i + 1), 24) <= 0)
			return true;
	}
	return false;
}

/* ---- backups ---- */

static void
forget_backup(Sync *s)
{
	MemoryContextReset(s->backup_context);
	s->n_objects = s->max_objects = 0;
	s->objects = NULL;
	memset(&s->found, 0, sizeof(s->found));
}

/* Objects come before the backup that they belong to. */
static void
on_object(Sync *s, const DrEvent *event)
{
	char	   *name = dr_event_text(event, "name", true);
	DrObject   *o;

	if (strlen(name) > PGDR_OBJECT_NAME_MAX)
		dr_protocol_error("An object's name is too long.");
	if (s->n_objects == s->max_objects)
	{
		int			max = s->max_objects == 0 ? 64 : s->max_objects * 2;

		s->objects = s->objects == NULL ?
			MemoryContextAllocHuge(s->backup_context, sizeof(DrObject) * max) :
			repalloc_huge(s->objects, sizeof(DrObject) * max);
		s->max_objects = max;
	}
	o = &s->objects[s->n_objects++];
	strlcpy(o->name, name, sizeof(o->name));
	o->size = dr_event_int(event, "size");
	o->has_sha256 = dr_event_sha256(event, "sha256", o->sha256);
}

/* Damage that is visible without opening anything: another size or hash than was written. */
static void
write_objects(Sync *s)
{
	for (int from = 0; from < s->n_objects; from += BATCH_SIZE)
	{
		DrBackupDetails batch = {
			.backup = s->found.id,.repository = s->repository,
			.objects = s->objects + from,.n_objects = Min(BATCH_SIZE, s->n_objects - from)
		};
		ListCell   *cell;

		foreach(cell, dr_objects_that_differ(&batch, CurrentMemoryContext))
			report(s, "object changed", lfirst(cell),
				   "Size or SHA-256 is not what was stored under this name.");
		dr_insert_details(&batch);
	}
}

static void
write_backup(void *arg)
{
	Sync	   *s = arg;

	switch (dr_found_backup(&s->found))
	{
		case DR_SEEN_INSERTED:
			report(s, "backup added", s->found.id, NULL);
			break;
		case DR_SEEN_COMPLETED:
			report(s, "backup is complete", s->found.id, "The catalogue said otherwise.");
			break;
		case DR_SEEN_KNOWN:
			break;
	}
	write_objects(s);
}

/* The manifest is the last of the backup's objects. */
static void
find_manifest(Sync *s)
{
	for (int i = 0; i < s->n_objects; i++)
	{
		const DrObject *o = &s->objects[i];
		size_t		n = strlen(o->name);

		if (n > 9 && strcmp(o->name + n - 9, "/manifest") == 0 && o->has_sha256)
		{
			s->found.has_sha256 = true;
			memcpy(s->found.manifest_sha256, o->sha256, sizeof(o->sha256));
		}
	}
}

static void
on_backup(Sync *s, const DrEvent *event)
{
	DrFoundBackup *f = &s->found;
	int64		timeline = dr_event_int(event, "timeline");
	ListCell   *cell;

	if (timeline > PG_UINT32_MAX)
		dr_protocol_error("A timeline is out of range.");
	f->repository = s->repository;
	f->id = dr_event_text(event, "id", true);
	f->kind = dr_event_text(event, "kind", true);
	f->label = dr_event_text(event, "label", false);
	f->status = dr_event_text(event, "state", true);
	f->system_identifier = dr_event_text(event, "system_identifier", true);
	f->started_at = dr_event_text(event, "started_at", true);
	f->stopped_at = dr_event_text(event, "stopped_at", true);
	f->timeline = timeline;
	f->start_lsn = dr_event_lsn(event, "start_lsn");
	f->stop_lsn = dr_event_lsn(event, "stop_lsn");
	dr_take_figures(&f->figures, event);
	find_manifest(s);
	foreach(cell, s->expected)
	{
		if (strcmp(lfirst(cell), f->id) == 0)
			s->expected = foreach_delete_current(s->expected, cell);
	}

	/* One that is being made right now has its own worker to write its rows. */
	if (!dr_job_is_known(f->id))
		dr_catalogue_run(write_backup, s);
	forget_backup(s);
}

static void
on_damaged(Sync *s, const DrEvent *event)
{
	char	   *name = dr_event_text(event, "name", true);
	char	   *message = dr_event_text(event, "message", true);
	MemoryContext caller = MemoryContextSwitchTo(s->context);

	report(s, "damaged", name, message);
	s->damaged = lappend(s->damaged, pstrdup(name));
	MemoryContextSwitchTo(caller);
	forget_backup(s);
}

/* ---- WAL ---- */

static void
write_wal(void *arg)
{
	Sync	   *s = arg;
	char	   *last = s->wal_ends ? NULL : s->segments[s->n_segments - 1].object;
	ListCell   *cell;

	s->new_segments += dr_found_segments(s->segments, s->n_segments);
	foreach(cell, dr_missing_segments(s->repository, s->last_wal, last, s->started_at,
									  s->segments, s->n_segments, CurrentMemoryContext))
	{
		char	   *object = lfirst(cell);
		char	   *file = pnstrdup(strrchr(object, '/') + 1, 24);

		if (is_marked_wal(s, object))
			dr_forget_wal(s->repository, file, file);
		else
			report(s, "WAL missing", object, "It was archived, and is not in the repository any more.");
	}
}

/* The names come sorted, so that what is between two batches is missing. */
static void
flush_wal(Sync *s)
{
	dr_catalogue_run(write_wal, s);
	if (s->n_segments > 0)
		s->last_wal = MemoryContextStrdup(s->context, s->segments[s->n_segments - 1].object);
	s->n_segments = 0;
}

static void
on_wal(Sync *s, const DrEvent *event)
{
	char	   *object = dr_event_text(event, "name", true);
	char	   *slash = strrchr(object, '/');
	DrSegment  *segment = &s->segments[s->n_segments];

	if (slash == NULL || strlen(slash + 1) > DR_WAL_NAME_MAX || strlen(object) > DR_WAL_OBJECT_MAX)
		dr_protocol_error("A WAL object has an impossible name.");
	memset(segment, 0, sizeof(*segment));
	strlcpy(segment->repository, s->repository, sizeof(segment->repository));
	strlcpy(segment->name, slash + 1, sizeof(segment->name));
	strlcpy(segment->object, object, sizeof(segment->object));
	segment->size = dr_event_int(event, "size");
	if (++s->n_segments == BATCH_SIZE)
		flush_wal(s);
}

/* ---- the whole ---- */

static void
on_event(void *arg, const DrEvent *event)
{
	Sync	   *s = arg;

	if (dr_event_is(event, "backup"))
		on_backup(s, event);
	else if (dr_event_is(event, "object"))
		on_object(s, event);
	else if (dr_event_is(event, "wal"))
		on_wal(s, event);
	else if (dr_event_is(event, "damaged"))
		on_damaged(s, event);
	else if (dr_event_is(event, "marked"))
		on_marked(s, event);
	else if (dr_event_is(event, "marked_wal"))
		on_marked_wal(s, event);
	else
		dr_protocol_error(psprintf("Event \"%s\" was not expected.", event->name));
}

/*
 * What the archiver noted and nobody has written yet: else its segments would be
 * new, and those that are gone unknown.  They stay in the ring; to write them
 * again does no harm.
 */
static void
write_ring(void)
{
	DrSegment  *noted = palloc(sizeof(DrSegment) * DR_RING_SIZE);
	uint64		from;

	dr_insert_segments(noted, dr_ring_read(noted, DR_RING_SIZE, &from));
	pfree(noted);
}

static void
read_catalogue(void *arg)
{
	Sync	   *s = arg;

	write_ring();

	s->expected = dr_backups_where(s->repository, "status IN ('completed', 'completed with corruption')", s->context);
}

static bool
is_damaged(Sync *s, const char *id)
{
	char	   *part = psprintf("/backup/%s/", id);
	ListCell   *cell;

	foreach(cell, s->damaged)
	{
		if (strstr(lfirst(cell), part) != NULL)
			return true;
	}
	return false;
}

/* What the catalogue calls completed and the repository doesn't have. */
static void
write_absent(void *arg)
{
	Sync	   *s = arg;
	ListCell   *cell;

	foreach(cell, s->expected)
	{
		char	   *id = lfirst(cell);

		if (is_damaged(s, id))
			dr_set_backup_status(id, NULL, "damaged", "its manifest can't be opened");
		else if (is_marked(s, id))
		{
			if (dr_expired_backup(s->repository, id, true))
				report(s, "backup expired", id, "Retention removed it.");
		}
		else if (dr_set_backup_status(id, NULL, "missing", "its manifest is not in the repository"))
			report(s, "backup missing", id, "Its manifest is not in the repository.");
	}
}

static void
report_resized(void *arg)
{
	Sync	   *s = arg;
	ListCell   *cell;

	foreach(cell, dr_resized_segments(s->repository, CurrentMemoryContext))
		report(s, "WAL changed", lfirst(cell), "Its size is not what was stored under this name.");
}

static void
converse(Sync *s, DrChild *child)
{
	StringInfoData request;
	DrEvent		done;

	initStringInfo(&request);
	dr_request_begin(&request, "sync");
	dr_request_end(&request);
	dr_child_request(child, &request);
	dr_child_finish(child, on_event, s, &done);
	s->wal_ends = true;
	flush_wal(s);
	dr_catalogue_run(write_absent, s);
	dr_catalogue_run(report_resized, s);
	if (s->new_segments > 0)
		report(s, "WAL added", s->repository, psprintf("%d objects", s->new_segments));
}

void
dr_sync_catalogue(DrSyncReport report_change, void *arg)
{
	Sync		s = {.report = report_change,.report_arg = arg};
	char	   *url;
	DrChild    *child;

	s.context = AllocSetContextCreate(CurrentMemoryContext, "pg_dr inventory", ALLOCSET_DEFAULT_SIZES);
	s.backup_context = AllocSetContextCreate(s.context, "pg_dr inventory backup", ALLOCSET_DEFAULT_SIZES);
	s.started_at = GetCurrentTimestamp();
	dr_require_settings();
	dr_primary_repository(&s.repository, &url);
	s.segments = MemoryContextAlloc(s.context, sizeof(DrSegment) * BATCH_SIZE);
	dr_catalogue_run(read_catalogue, &s);
	s.started_at = GetCurrentTimestamp();

	child = dr_child_open(false);
	PG_TRY();
	{
		converse(&s, child);
	}
	PG_FINALLY();
	{
		dr_child_stop(child, DR_GRACE_STOP);
	}
	PG_END_TRY();
	MemoryContextDelete(s.context);
}
