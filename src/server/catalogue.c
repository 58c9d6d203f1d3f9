/*
 * catalogue.c
 *	  The tables in schema dr: all of the SQL that reads or writes them.
 *
 * One idea: the repository is the truth, these tables are its index.  But for a
 * backup's first row, without which it does not begin, a write
 * that fails costs a row, never a backup, and dr_sync() brings it back.
 *
 * Statements name every relation with its schema and rely on pg_catalog for
 * functions and operators only: workers run with an empty search_path.
 *
 * A crash leaves whole transactions: a backup's first row, its batches of
 * objects, its final row.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "catalogue_private.h"

/* A manifest's figures are the first parameters of a statement; arg_figures has them in this order. */
#define FIGURE_COLUMNS \
	"files, bytes, bytes_read, bytes_changed, bytes_stored, bytes_referenced, restore_bytes, " \
	"restore_requests, packs, corrupt_pages, parent, full_scan"
#define FIGURE_PARAMETERS	"$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12"

static void
arg_figures(Args *a, const DrFigures *f, bool known)
{
	int64		numbers[] = {f->files, f->bytes, f->bytes_read, f->bytes_changed, f->bytes_stored,
	f->bytes_referenced, f->restore_bytes, f->restore_requests, f->packs, f->corrupt_pages};

	for (int i = 0; i < lengthof(numbers); i++)
		arg(a, INT8OID, Int64GetDatum(numbers[i]), !known);
	arg_text(a, known && f->parent[0] != '\0' ? f->parent : NULL);
	arg_text(a, known && f->full_scan[0] != '\0' ? f->full_scan : NULL);
}

/* ---- statements and transactions ---- */

/*
 * Workers are superusers: they touch no table that merely has the right name.
 * Whoever may create a schema could have made that, with triggers on it.
 */
static bool
is_ours(Oid extension, Oid schema, const char *table)
{
	Oid			relation = get_relname_relid(table, schema);

	return OidIsValid(relation) && get_rel_relkind(relation) == RELKIND_RELATION &&
		getExtensionOfObject(RelationRelationId, relation) == extension;
}

bool
dr_catalogue_exists(void)
{
	Oid			extension = get_extension_oid("pg_dr", true);
	Oid			schema = get_namespace_oid("dr", true);

	return OidIsValid(extension) && OidIsValid(schema) &&
		is_ours(extension, schema, "backup") && is_ours(extension, schema, "object") &&
		is_ours(extension, schema, "wal_segment") && is_ours(extension, schema, "corrupt_page") &&
		is_ours(extension, schema, "probe") && is_ours(extension, schema, "verification") &&
		is_ours(extension, schema, "finding") &&
		is_ours(extension, schema, "drill") && is_ours(extension, schema, "drill_check") &&
		is_ours(extension, schema, "objective") && is_ours(extension, schema, "heartbeat");
}

void
dr_catalogue_run(DrWrite write, void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		own = !IsTransactionState();

	if (own)
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		pgstat_report_activity(STATE_RUNNING, "pg_dr catalogue");
	}
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	write(arg);
	PopActiveSnapshot();
	SPI_finish();
	if (own)
	{
		CommitTransactionCommand();
		pgstat_report_stat(true);
		pgstat_report_activity(STATE_IDLE, NULL);
		MemoryContextSwitchTo(caller);
	}
}

typedef enum Attempt
{
	WRITTEN,
	FAILED,						/* another attempt may help */
	HOPELESS,
	CANCELLED
} Attempt;

/* In PG_CATCH: roll back, and a WARNING instead of the error. */
static Attempt
failed_write(MemoryContext context, const char *what)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	AbortCurrentTransaction();
	MemoryContextSwitchTo(context);
	pgstat_report_activity(STATE_IDLE, NULL);
	HOLD_INTERRUPTS();			/* ereport looks for them, and nobody catches us here */
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("could not write %s to the catalogue: %s", what, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
	RESUME_INTERRUPTS();
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		return CANCELLED;
	return error->sqlerrcode == ERRCODE_UNDEFINED_TABLE ? HOPELESS : FAILED;
}

static Attempt
attempt(DrWrite write, void *arg, MemoryContext context, const char *what)
{
	volatile Attempt result = WRITTEN;

	PG_TRY();
	{
		dr_catalogue_run(write, arg);
	}
	PG_CATCH();
	{
		result = failed_write(context, what);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return result;
}

bool
dr_catalogue_try(DrWrite write, void *arg, int attempts, const char *what)
{
	bool		cancelled = false;
	Attempt		result = FAILED;

	for (int i = 0; i < attempts && result != WRITTEN && result != HOPELESS; i++)
	{
		if (i > 0)
		{
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 1000L, PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
		}
		result = attempt(write, arg, CurrentMemoryContext, what);
		cancelled |= result == CANCELLED;
	}

	/* The cancel was meant for what we do all in all. */
	if (cancelled)
	{
		QueryCancelPending = true;
		InterruptPending = true;
	}
	return result == WRITTEN;
}

/* ---- a backup's own rows ---- */

static char *
system_identifier(void)
{
	return psprintf(UINT64_FORMAT, GetSystemIdentifier());
}

void
dr_insert_backup(const DrJob *job)
{
	Args		a = {0};

	arg_text(&a, job->id);
	arg_text(&a, job->repository);
	arg_text(&a, system_identifier());
	arg_text(&a, job->kind);
	arg_text(&a, job->has_label ? job->label : NULL);
	arg_text(&a, job->requested_by);
	arg_time(&a, job->started_at);
	execute("INSERT INTO dr.backup (id, repository, system_identifier, kind, label, status, requested_by, started_at) "
			"VALUES ($1, $2, $3, $4, $5, 'running', $6, $7)", &a, SPI_OK_INSERT);
}

static bool
is_complete(const DrJob *job)
{
	return job->outcome == DR_OUTCOME_COMPLETED || job->outcome == DR_OUTCOME_CORRUPT;
}

/* The manifest is an object like any other. */
static void
insert_manifest(const DrJob *job)
{
	DrObject	manifest = {.size = job->manifest_size,.has_sha256 = true};
	DrBackupDetails details = {
		.backup = job->id,.repository = job->repository,.objects = &manifest,.n_objects = 1
	};

	snprintf(manifest.name, sizeof(manifest.name), "%s/backup/%s/manifest",
			 system_identifier(), job->id);
	memcpy(manifest.sha256, job->manifest_sha256, sizeof(manifest.sha256));
	dr_insert_details(&details);
}

/* Writes the whole row: the first one may never have been, or be gone. */
void
dr_finish_backup(const DrJob *job)
{
	bool		complete = is_complete(job);
	Args		a = {0};

	arg_figures(&a, &job->figures, complete);
	arg_text(&a, job->id);
	arg_text(&a, job->repository);
	arg_text(&a, system_identifier());
	arg_text(&a, job->kind);
	arg_text(&a, job->has_label ? job->label : NULL);
	arg_text(&a, job->requested_by);
	arg_time(&a, job->started_at);
	arg_text(&a, dr_outcome_name(DR_JOB_BACKUP, job->outcome));
	arg_time(&a, job->ended_at);
	arg(&a, INT8OID, Int64GetDatum(job->timeline), job->timeline == 0);
	arg_lsn(&a, job->start_lsn);
	arg_lsn(&a, job->stop_lsn);
	arg_sha256(&a, job->manifest_sha256, complete);
	arg_text(&a, dr_report_text(&job->report));
	execute("INSERT INTO dr.backup AS b (" FIGURE_COLUMNS ", id, repository, system_identifier, kind, label, "
			"requested_by, started_at, status, finished_at, timeline, start_lsn, stop_lsn, manifest_sha256, error) "
			"VALUES (" FIGURE_PARAMETERS ", $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26) "
			"ON CONFLICT (id) DO UPDATE SET (" FIGURE_COLUMNS ", status, finished_at, timeline, start_lsn, "
			"stop_lsn, manifest_sha256, error) = "
			"(" FIGURE_PARAMETERS ", $20, $21, $22, $23, $24, $25, $26)", &a, SPI_OK_INSERT);
	if (complete)
		insert_manifest(job);
	else if (job->outcome == DR_OUTCOME_CANCELLED)
	{
		/* The program took them back. */
		Args		b = {0};

		arg_text(&b, job->id);
		execute("DELETE FROM dr.object WHERE backup = $1", &b, SPI_OK_DELETE);
	}
}

static void
arg_objects(Args *a, const DrBackupDetails *details)
{
	int			n = details->n_objects;
	Datum	   *names = palloc(sizeof(Datum) * (n + 1));
	Datum	   *sizes = palloc(sizeof(Datum) * (n + 1));
	Datum	   *hashes = palloc(sizeof(Datum) * (n + 1));
	bool	   *nulls = palloc(sizeof(bool) * (n + 1));

	for (int i = 0; i < n; i++)
	{
		const DrObject *o = &details->objects[i];

		names[i] = CStringGetTextDatum(o->name);
		sizes[i] = Int64GetDatum(o->size);
		nulls[i] = !o->has_sha256;
		hashes[i] = o->has_sha256 ? sha256_datum(o->sha256) : (Datum) 0;
	}
	arg_array(a, TEXTOID, names, NULL, n);
	arg_array(a, INT8OID, sizes, NULL, n);
	arg_array(a, BYTEAOID, hashes, nulls, n);
}

static void
insert_objects(const DrBackupDetails *details)
{
	Args		a = {0};

	arg_text(&a, details->repository);
	arg_text(&a, details->backup);
	arg_objects(&a, details);
	execute("INSERT INTO dr.object (repository, name, size, sha256, backup, stored_at) "
			"SELECT $1, n.name, n.size, n.sha256, $2, clock_timestamp() "
			"FROM unnest($3, $4, $5) AS n (name, size, sha256) "
			"ON CONFLICT (repository, name) DO NOTHING", &a, SPI_OK_INSERT);
}

static void
insert_pages(const DrBackupDetails *details)
{
	for (int i = 0; i < details->n_pages; i++)
	{
		const DrCorruptPage *p = &details->pages[i];
		Args		a = {0};

		arg_text(&a, details->backup);
		arg_text(&a, p->path);
		arg_int8(&a, p->block);
		arg(&a, INT4OID, Int32GetDatum(p->expected), false);
		arg(&a, INT4OID, Int32GetDatum(p->found), false);
		arg(&a, PG_LSNOID, LSNGetDatum(p->lsn), false);
		execute("INSERT INTO dr.corrupt_page (backup, path, block, expected, found, lsn) "
				"VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING", &a, SPI_OK_INSERT);
	}
}

void
dr_insert_details(const DrBackupDetails *details)
{
	if (details->n_objects > 0)
		insert_objects(details);
	if (details->n_pages > 0)
		insert_pages(details);
}

/* ---- WAL ---- */

static void
arg_segments(Args *a, const DrSegment *segments, int n)
{
	Datum	   *columns[7];
	bool	   *nulls = palloc(sizeof(bool) * (n + 1));
	static const uint8 none[32];

	for (int i = 0; i < lengthof(columns); i++)
		columns[i] = palloc(sizeof(Datum) * (n + 1));
	for (int i = 0; i < n; i++)
	{
		const DrSegment *s = &segments[i];

		columns[0][i] = Int64GetDatum(strtoul(pnstrdup(s->name, 8), NULL, 16));
		columns[1][i] = CStringGetTextDatum(s->name);
		columns[2][i] = CStringGetTextDatum(s->object);
		columns[3][i] = Int64GetDatum(s->size);
		nulls[i] = memcmp(s->sha256, none, sizeof(none)) == 0;
		columns[4][i] = nulls[i] ? (Datum) 0 : sha256_datum(s->sha256);
		columns[5][i] = TimestampTzGetDatum(s->archived_at);
		columns[6][i] = TimestampTzGetDatum(s->ended_at);
	}
	arg_array(a, INT8OID, columns[0], NULL, n);
	arg_array(a, TEXTOID, columns[1], NULL, n);
	arg_array(a, TEXTOID, columns[2], NULL, n);
	arg_array(a, INT8OID, columns[3], NULL, n);
	arg_array(a, BYTEAOID, columns[4], nulls, n);
	arg_array(a, TIMESTAMPTZOID, columns[5], nulls, n);
	arg_array(a, TIMESTAMPTZOID, columns[6], nulls, n);
}

/*
 * Whether they come from the archiver, with hash and time, or from an inventory,
 * without.  After a crash the archiver offers the same segment again.  Only who
 * has listed them just now may say that nothing is wrong with them any more.
 */
static void
insert_segments(const char *repository, const DrSegment *segments, int n, bool listed)
{
	Args		a = {0};

	arg_text(&a, repository);
	arg_segments(&a, segments, n);
	arg(&a, BOOLOID, BoolGetDatum(listed), false);
#define PROBLEM \
	"CASE WHEN w.size <> excluded.size THEN 'resized' WHEN NOT $9 THEN w.problem END"
	execute("INSERT INTO dr.wal_segment AS w (repository, timeline, name, object, size, sha256, archived_at, ended_at) "
			"SELECT DISTINCT ON (n.object) $1, n.* "
			"FROM unnest($2, $3, $4, $5, $6, $7, $8) AS n (timeline, name, object, size, sha256, archived_at, ended_at) "
			"ON CONFLICT (repository, object) DO UPDATE "
			"SET sha256 = coalesce(w.sha256, excluded.sha256), archived_at = coalesce(w.archived_at, excluded.archived_at), "
			"ended_at = coalesce(w.ended_at, excluded.ended_at), problem = " PROBLEM " "
			"WHERE (w.sha256 IS NULL AND excluded.sha256 IS NOT NULL) OR w.problem IS DISTINCT FROM " PROBLEM,
			&a, SPI_OK_INSERT);
#undef PROBLEM
}

/* Runs of one repository; there is seldom more than one.  What has no name is gone again. */
void
dr_insert_segments(const DrSegment *segments, int n)
{
	for (int from = 0; from < n;)
	{
		int			to = from + 1;

		if (segments[from].name[0] == '\0')
		{
			from++;
			continue;
		}
		while (to < n && segments[to].name[0] != '\0' &&
			   strcmp(segments[to].repository, segments[from].repository) == 0)
			to++;
		insert_segments(segments[from].repository, segments + from, to - from, false);
		from = to;
	}
}

/* What the last probe found replaces what an earlier one did. */
void
dr_replace_probe(const DrProbe *probe)
{
	Args		forget = {0};

	arg_text(&forget, probe->repository);
	execute("DELETE FROM dr.probe WHERE repository = $1", &forget, SPI_OK_DELETE);
	for (int i = 0; i < probe->n; i++)
	{
		const DrProbeRow *row = &probe->rows[i];
		Args		a = {0};

		arg_text(&a, probe->repository);
		arg_text(&a, row->name);
		arg_text(&a, row->status);
		arg_text(&a, row->detail);
		arg_text(&a, row->hint[0] ? row->hint : NULL);
		arg_time(&a, probe->probed_at);
		execute("INSERT INTO dr.probe (repository, name, status, detail, hint, probed_at) "
				"VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING", &a, SPI_OK_INSERT);
	}
}

int
dr_found_segments(const DrSegment *segments, int n)
{
	if (n == 0)
		return 0;
	insert_segments(segments[0].repository, segments, n, true);
	return (int) SPI_processed;
}

List *
dr_missing_segments(const char *repository, const char *after, const char *last,
					TimestampTz before, const DrSegment *segments, int n, MemoryContext context)
{
	List	   *names = NIL;
	Args		a = {0};

	for (int i = 0; i < n; i++)
		names = lappend(names, pstrdup(segments[i].object));
	arg_text(&a, repository);
	arg_text(&a, after);
	arg_text(&a, last);
	arg_text_array(&a, names);
	arg_time(&a, before);
	arg_text(&a, psprintf("%s/", system_identifier()));
#define NOT_LISTED \
	"repository = $1 AND starts_with(object, $6) AND (archived_at IS NULL OR archived_at < $5) " \
	"AND ($2 IS NULL OR object COLLATE \"C\" > $2) AND ($3 IS NULL OR object COLLATE \"C\" <= $3) " \
	"AND object <> ALL ($4)"
	execute("UPDATE dr.wal_segment SET problem = 'missing' WHERE problem IS DISTINCT FROM 'missing' AND " NOT_LISTED,
			&a, SPI_OK_UPDATE);
	execute("SELECT object FROM dr.wal_segment WHERE " NOT_LISTED " ORDER BY object COLLATE \"C\"", &a, SPI_OK_SELECT);
	return result_texts(context);
}

List *
dr_resized_segments(const char *repository, MemoryContext context)
{
	Args		a = {0};

	arg_text(&a, repository);
	arg_text(&a, psprintf("%s/", system_identifier()));
	execute("SELECT object FROM dr.wal_segment WHERE repository = $1 AND starts_with(object, $2) "
			"AND problem = 'resized' ORDER BY object COLLATE \"C\"", &a, SPI_OK_SELECT);
	return result_texts(context);
}

/* ---- what the repository says ---- */

List *
dr_backups_where(const char *repository, const char *condition, MemoryContext context)
{
	Args		a = {0};

	arg_text(&a, system_identifier());
	arg_text(&a, repository);
	execute(psprintf("SELECT id FROM dr.backup WHERE system_identifier = $1 "
					 "AND ($2 IS NULL OR repository = $2) AND (%s)", condition),
			&a, SPI_OK_SELECT);
	return result_texts(context);
}

/* ---- the parent of an incremental backup ---- */

static void
find_parent(void *arg)
{
	DrJob	   *job = arg;
	Args		a = {0};
	List	   *ids;

	if (!dr_catalogue_exists())
		return;
	arg_text(&a, system_identifier());
	arg_text(&a, job->repository);
	arg_int8(&a, GetWALInsertionTimeLine());
	execute("SELECT id FROM dr.backup WHERE system_identifier = $1 AND repository = $2 AND timeline = $3 "
			"AND status IN ('completed', 'completed with corruption') ORDER BY start_lsn DESC, id DESC LIMIT 1",
			&a, SPI_OK_SELECT);
	ids = result_texts(CurrentMemoryContext);
	if (ids != NIL)
		strlcpy(job->parent, linitial(ids), sizeof(job->parent));
}

/* Nobody's operators but the server's run with these privileges; an error's rollback resets both. */
bool
dr_find_parent(DrJob *job)
{
	int			nest = NewGUCNestLevel();
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, context | SECURITY_LOCAL_USERID_CHANGE);
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	dr_catalogue_run(find_parent, job);
	AtEOXact_GUC(true, nest);
	SetUserIdAndSecContext(user, context);
	return job->parent[0] != '\0';
}

bool
dr_set_backup_status(const char *id, const char *from, const char *to, const char *error)
{
	Args		a = {0};

	arg_text(&a, id);
	arg_text(&a, from);
	arg_text(&a, to);
	arg_text(&a, error);
	return execute("UPDATE dr.backup SET status = $3, error = coalesce($4, error), "
				   "finished_at = coalesce(finished_at, clock_timestamp()) "
				   "WHERE id = $1 AND ($2 IS NULL OR status = $2) AND status <> $3",
				   &a, SPI_OK_UPDATE) > 0;
}

DrSeen
dr_found_backup(const DrFoundBackup *found)
{
	Args		a = {0};

	arg_figures(&a, &found->figures, true);
	arg_text(&a, found->id);
	arg_text(&a, found->status);
	arg_text(&a, found->stopped_at);
	arg_int8(&a, found->timeline);
	arg_lsn(&a, found->start_lsn);
	arg_lsn(&a, found->stop_lsn);
	arg_sha256(&a, found->manifest_sha256, found->has_sha256);
	arg_text(&a, found->repository);
	arg_text(&a, found->system_identifier);
	arg_text(&a, found->kind);
	arg_text(&a, found->label);
	arg_text(&a, found->started_at);
	if (execute("INSERT INTO dr.backup (" FIGURE_COLUMNS ", id, status, finished_at, timeline, start_lsn, stop_lsn, "
				"manifest_sha256, repository, system_identifier, kind, label, started_at) "
				"VALUES (" FIGURE_PARAMETERS ", $13, $14, $15::timestamptz, $16, $17, $18, $19, $20, $21, $22, $23, "
				"$24::timestamptz) ON CONFLICT (id) DO NOTHING", &a, SPI_OK_INSERT) > 0)
		return DR_SEEN_INSERTED;

	/* Repository, identifier, kind and label stay as they are. */
	a.n -= 5;
	if (execute("UPDATE dr.backup SET (" FIGURE_COLUMNS ", status, finished_at, timeline, start_lsn, stop_lsn, "
				"manifest_sha256, error) = (" FIGURE_PARAMETERS ", $14, $15::timestamptz, $16, $17, $18, $19, NULL) "
				"WHERE id = $13 AND status NOT IN ('completed', 'completed with corruption') "
				"AND damaged_depth IS NULL", &a, SPI_OK_UPDATE) > 0)
		return DR_SEEN_COMPLETED;
	return DR_SEEN_KNOWN;
}

List *
dr_objects_that_differ(const DrBackupDetails *details, MemoryContext context)
{
	Args		a = {0};

	arg_text(&a, details->repository);
	arg_objects(&a, details);
	execute("SELECT o.name FROM dr.object AS o JOIN unnest($2, $3, $4) AS n (name, size, sha256) USING (name) "
			"WHERE o.repository = $1 AND (o.size <> n.size OR o.sha256 <> n.sha256)", &a, SPI_OK_SELECT);
	return result_texts(context);
}

/* ---- what retention removed ---- */

void
dr_forget_objects(const char *repository, List *names)
{
	Args		a = {0};

	arg_text(&a, repository);
	arg_text_array(&a, names);
	execute("DELETE FROM dr.object WHERE repository = $1 AND name = ANY ($2)", &a, SPI_OK_DELETE);
}

/*
 * The row stays, and with it those of packs that live on: they would go with it.
 * A backup that was never complete stays what it was.
 */
bool
dr_expired_backup(const char *repository, const char *id, bool left)
{
	Args		a = {0};
	Args		b = {0};

	arg_text(&a, repository);
	arg_text(&a, psprintf("%s/backup/%s/", system_identifier(), id));
	arg(&a, BOOLOID, BoolGetDatum(left), false);
	execute("DELETE FROM dr.object WHERE repository = $1 AND starts_with(name, $2) AND (NOT $3 OR name = $2 || 'manifest')",
			&a, SPI_OK_DELETE);
	arg_text(&b, id);
	return execute("UPDATE dr.backup SET status = 'expired', error = NULL "
				   "WHERE id = $1 AND status IN ('completed', 'completed with corruption', 'missing', 'damaged')",
				   &b, SPI_OK_UPDATE) > 0;
}

/* Timeline histories are never removed. */
void
dr_forget_wal(const char *repository, const char *first, const char *last)
{
	Args		a = {0};

	dr_ring_forget(repository, first, last);	/* or housekeeping brings them back */
	arg_text(&a, repository);
	arg_text(&a, psprintf("%s/wal/%.8s/", system_identifier(), first));
	arg_text(&a, first);
	arg_text(&a, last);
	execute("DELETE FROM dr.wal_segment WHERE repository = $1 AND starts_with(object, $2) AND name !~ '\\.history$' "
			"AND left(name, 24) COLLATE \"C\" BETWEEN $3 AND $4", &a, SPI_OK_DELETE);
}
