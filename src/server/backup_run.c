/*
 * backup_run.c
 *	  The conversation with the program during a backup.
 *
 * One idea: a table of events, and a loop that never waits longer than a
 * second for the next one, because a cancel, a reload, the flush pointer and
 * the archiver's silence are looked at between events.
 *
 * A crash here is the worker's (backup_worker.c).
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "backup.h"
#include "pg_dr.h"
#include "worker.h"

#define PAGES_IN_LOG		100
#define BATCH_SIZE			500
#define BATCH_AGE_MS		10000
#define FLUSH_LSN_EVERY_MS	1000
#define SILENCE_MS			(5 * 60 * 1000)

/* More corrupt pages than that are counted, and listed in the manifest only. */
#define PAGES_IN_CATALOGUE	100000

typedef struct Conversation
{
	Backup	   *b;
	TimestampTz heard_at;		/* the last event */
	TimestampTz flush_sent_at;

	/* rows that are not yet written */
	MemoryContext rows_context;
	DrBackupDetails rows;
	TimestampTz rows_since;
	bool		rows_lost;
	int64		pages;

	/* the WAL that is waited for */
	char		segment[DR_WAL_NAME_MAX + 1];
	TimestampTz segment_since;
} Conversation;

/* ---- rows ---- */

static void
begin_rows(Conversation *c)
{
	MemoryContextReset(c->rows_context);
	memset(&c->rows, 0, sizeof(c->rows));
	c->rows.backup = c->b->job.id;
	c->rows.repository = c->b->job.repository;
	c->rows.objects = MemoryContextAlloc(c->rows_context, sizeof(DrObject) * BATCH_SIZE);
	c->rows.pages = MemoryContextAlloc(c->rows_context, sizeof(DrCorruptPage) * BATCH_SIZE);
}

static void
write_rows(void *arg)
{
	dr_insert_details(&((Conversation *) arg)->rows);
}

/* Rows that can't be written are not kept: an inventory finds their objects again. */
static void
flush_rows(Conversation *c)
{
	if (c->rows.n_objects + c->rows.n_pages == 0)
		return;
	if (!c->rows_lost && !dr_catalogue_try(write_rows, c, 1, "a backup's objects"))
		c->rows_lost = true;
	begin_rows(c);
}

static void
make_room(Conversation *c)
{
	if (c->rows.n_objects == BATCH_SIZE || c->rows.n_pages == BATCH_SIZE)
		flush_rows(c);
	if (c->rows.n_objects + c->rows.n_pages == 0)
		c->rows_since = GetCurrentTimestamp();
}

/* ---- events ---- */

static void
on_progress(Conversation *c, const DrEvent *event)
{
	DrJob	   *job = &c->b->job;

	if (dr_child_is_held(c->b->child))
		return;					/* the phase says so; nothing moves */
	strlcpy(job->phase, dr_event_text(event, "phase", true), sizeof(job->phase));
	job->bytes_done = dr_event_int(event, "bytes_done");
	job->bytes_total = dr_event_int(event, "bytes_total");
	job->files_done = dr_event_int(event, "files_done");
	job->files_total = dr_event_int(event, "files_total");
	job->bytes_stored = dr_event_int(event, "bytes_stored");
	if (strcmp(job->phase, "waiting for WAL") != 0)
		c->segment[0] = '\0';
	else if (c->segment[0] != '\0')
		snprintf(job->phase, sizeof(job->phase), "waiting for WAL segment %s", c->segment);
	dr_job_progress(c->b->slot, job);
}

static void
on_object(Conversation *c, const DrEvent *event)
{
	char	   *name = dr_event_text(event, "name", true);
	DrObject   *o;

	if (strlen(name) > PGDR_OBJECT_NAME_MAX)
		dr_protocol_error("An object's name is too long.");
	make_room(c);
	o = &c->rows.objects[c->rows.n_objects];
	strlcpy(o->name, name, sizeof(o->name));
	o->size = dr_event_int(event, "size");
	o->has_sha256 = dr_event_sha256(event, "sha256", o->sha256);
	c->rows.n_objects++;
}

static void
on_corrupt_page(Conversation *c, const DrEvent *event)
{
	DrCorruptPage *p;
	int64		expected = dr_event_int(event, "expected");
	int64		found = dr_event_int(event, "found");
	char	   *path = dr_event_text(event, "path", true);

	if (expected > PG_UINT16_MAX || found > PG_UINT16_MAX)
		dr_protocol_error("A page's checksum is out of range.");
	c->pages++;
	if (c->pages <= PAGES_IN_LOG)
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("page verification failed in file \"%s\", block " INT64_FORMAT, path,
						dr_event_int(event, "block")),
				 errdetail("The page's checksum is %d, its content's %d.", (int) found, (int) expected)));
	else if (c->pages == PAGES_IN_LOG + 1)
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("further corrupt pages of backup %s are not reported here", c->b->job.id),
				 errhint("See table dr.corrupt_page.")));
	if (c->pages > PAGES_IN_CATALOGUE)
		return;
	make_room(c);
	p = &c->rows.pages[c->rows.n_pages];
	p->path = MemoryContextStrdup(c->rows_context, path);
	p->block = dr_event_int(event, "block");
	p->expected = expected;
	p->found = found;
	p->lsn = dr_event_lsn(event, "lsn");
	c->rows.n_pages++;
}

static void
on_warning(Conversation *c, const DrEvent *event)
{
	char	   *message = dr_event_text(event, "message", true);
	char	   *detail = dr_event_text(event, "detail", false);
	char	   *hint = dr_event_text(event, "hint", false);

	dr_job_warn(c->b->slot, message);
	ereport(WARNING,
			(errmsg("backup %s: %s", c->b->job.id, message),
			 detail ? errdetail_internal("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0));
}

static void
on_held(Conversation *c, const DrEvent *event)
{
	char		phase[DR_PHASE_MAX + 1];

	snprintf(phase, sizeof(phase), "held at %s", dr_event_text(event, "step", true));
	dr_job_phase(c->b->slot, phase, false);
}

static void
on_waiting(Conversation *c, const DrEvent *event)
{
	char	   *segment = dr_event_text(event, "segment", true);

	if (strcmp(c->segment, segment) == 0)
		return;
	strlcpy(c->segment, segment, sizeof(c->segment));
	c->segment_since = GetCurrentTimestamp();
}

/* Everything is read: the server's backup ends here. */
static void
on_copied(Conversation *c, const DrEvent *event)
{
	Backup	   *b = c->b;
	MemoryContext caller;
	StringInfoData line;

	if (b->job.stop_lsn != InvalidXLogRecPtr || get_backup_status() != SESSION_BACKUP_RUNNING)
		dr_protocol_error("The backup was copied twice.");
	dr_job_hold(b->slot, "module.copied");
	caller = MemoryContextSwitchTo(b->context);
	dr_server_backup_stop(&b->server);
	MemoryContextSwitchTo(caller);
	b->job.stop_lsn = b->server.stop_lsn;
	dr_job_outcome(b->slot, &b->job);
	dr_job_hold(b->slot, "module.stopped");

	initStringInfo(&line);
	dr_request_begin(&line, "stop");
	dr_request_lsn(&line, "stop_lsn", b->server.stop_lsn);
	dr_request_int(&line, "stop_timeline", b->server.stop_timeline);
	dr_request_time(&line, "stopped_at", dr_now());
	dr_request_text(&line, "backup_label", b->server.backup_label);
	dr_request_text(&line, "tablespace_map", b->server.tablespace_map->data);
	dr_request_end(&line);
	dr_child_control(b->child, &line);
}

static void
take_text(char *to, size_t size, const DrEvent *event, const char *key)
{
	char	   *text = dr_event_text(event, key, false);

	strlcpy(to, text ? text : "", size);
}

void
dr_take_figures(DrFigures *figures, const DrEvent *event)
{
	figures->files = dr_event_int(event, "files");
	figures->bytes = dr_event_int(event, "bytes");
	figures->bytes_read = dr_event_int(event, "bytes_read");
	figures->bytes_changed = dr_event_int(event, "bytes_changed");
	figures->bytes_stored = dr_event_int(event, "bytes_stored");
	figures->bytes_referenced = dr_event_int(event, "bytes_referenced");
	figures->restore_bytes = dr_event_int(event, "restore_bytes");
	figures->restore_requests = dr_event_int(event, "restore_requests");
	figures->packs = dr_event_int(event, "packs");
	figures->corrupt_pages = dr_event_int(event, "corrupt_pages");
	take_text(figures->parent, sizeof(figures->parent), event, "parent");
	take_text(figures->full_scan, sizeof(figures->full_scan), event, "full_scan");
}

void
dr_backup_take_done(Backup *b, const DrEvent *event)
{
	DrJob	   *job = &b->job;

	if (job->stop_lsn == InvalidXLogRecPtr)
		dr_protocol_error("The backup was done before it was stopped.");
	dr_take_figures(&job->figures, event);
	job->manifest_size = dr_event_int(event, "manifest_size");
	if (!dr_event_sha256(event, "manifest_sha256", job->manifest_sha256))
		dr_protocol_error("The manifest has no hash.");
	job->outcome = job->figures.corrupt_pages > 0 ? DR_OUTCOME_CORRUPT : DR_OUTCOME_COMPLETED;
}

static void
on_done(Conversation *c, const DrEvent *event)
{
	dr_backup_take_done(c->b, event);
}

static void
on_error(Conversation *c, const DrEvent *event)
{
	dr_event_raise(event);
}

static const struct
{
	const char *name;
	void		(*handle) (Conversation *c, const DrEvent *event);
}			handlers[] = {
	{"progress", on_progress},
	{"object", on_object},
	{"corrupt_page", on_corrupt_page},
	{"warning", on_warning},
	{"held", on_held},
	{"waiting", on_waiting},
	{"copied", on_copied},
	{"done", on_done},
	{"error", on_error},
};

static void
dispatch(Conversation *c, const DrEvent *event)
{
	for (int i = 0; i < lengthof(handlers); i++)
	{
		if (dr_event_is(event, handlers[i].name))
		{
			handlers[i].handle(c, event);
			return;
		}
	}
	dr_protocol_error(psprintf("Event \"%s\" was not expected.", event->name));
}

/* ---- between events ---- */

static void
send_flush_pointer(Conversation *c)
{
	StringInfoData line;
	TimestampTz now = GetCurrentTimestamp();

	/* After the end of copying nobody needs it. */
	if (c->b->job.stop_lsn != InvalidXLogRecPtr ||
		!TimestampDifferenceExceeds(c->flush_sent_at, now, FLUSH_LSN_EVERY_MS))
		return;
	c->flush_sent_at = now;
	initStringInfo(&line);
	dr_request_begin(&line, "flush");
	dr_request_lsn(&line, "lsn", GetFlushRecPtr(NULL));
	dr_request_end(&line);
	dr_child_control(c->b->child, &line);
	pfree(line.data);
}

/* The WAL doesn't come: say which, and what the archiver says. */
pg_noreturn static void
raise_archive_timeout(Conversation *c)
{
	DrArchiver	archiver;
	const char *why;

	dr_lock(LW_SHARED);
	archiver = dr_shared->archiver;
	dr_unlock();
	if (archiver.failure.message[0] != '\0' && archiver.last_failed_at > archiver.last_archived_at)
		why = psprintf("Archiving \"%s\" failed last with: %s", archiver.last_failed,
					   archiver.failure.message);
	else
		why = "The archiver has not reported a failure of pg_dr; it may be stopped or busy.";
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("WAL segment \"%s\" did not reach the repository within %d seconds",
					c->segment, dr_archive_timeout),
			 errdetail("%s", why),
			 errhint("A backup is complete when its WAL is archived. See dr_status and pg_stat_archiver, or raise pg_dr.archive_timeout.")));
}

static void
check_silence(Conversation *c)
{
	TimestampTz now = GetCurrentTimestamp();

	if (c->segment[0] != '\0' &&
		TimestampDifferenceExceeds(c->segment_since, now, dr_archive_timeout * 1000))
		raise_archive_timeout(c);
	if (!dr_child_is_held(c->b->child) && TimestampDifferenceExceeds(c->heard_at, now, SILENCE_MS))
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("the pg_dr program has not said anything for %d seconds", SILENCE_MS / 1000)));
}

static void
between_events(Conversation *c)
{
	dr_job_check_cancel(c->b->slot);
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	send_flush_pointer(c);
	if (c->rows.n_objects + c->rows.n_pages > 0 &&
		TimestampDifferenceExceeds(c->rows_since, GetCurrentTimestamp(), BATCH_AGE_MS))
		flush_rows(c);
	check_silence(c);
}

/* ---- the request ---- */

/* {"oid":..., "path":...} for each line of the map, whose escapes are undone. */
static void
append_tablespaces(StringInfo buf, const char *map)
{
	const char *separator = "";

	appendStringInfoString(buf, ",\"tablespaces\":[");
	while (*map != '\0')
	{
		size_t		oid_len = strspn(map, "0123456789");
		StringInfoData path;
		StringInfoData object;

		if (oid_len == 0 || map[oid_len] != ' ')
			elog(ERROR, "unexpected tablespace map");
		initStringInfo(&path);
		initStringInfo(&object);
		dr_request_text(&object, "oid", pnstrdup(map, oid_len));
		for (map += oid_len + 1; *map != '\n' && *map != '\0'; map++)
		{
			if (*map == '\\' && map[1] != '\0')
				map++;
			appendStringInfoChar(&path, *map);
		}
		if (*map == '\n')
			map++;
		dr_request_text(&object, "path", path.data);
		/* The first key has a comma before it. */
		appendStringInfo(buf, "%s{%s}", separator, object.data + 1);
		separator = ",";
	}
	appendStringInfoChar(buf, ']');
}

static void
send_request(Backup *b)
{
	StringInfoData request;

	initStringInfo(&request);
	dr_request_begin(&request, "backup");
	dr_request_text(&request, "id", b->job.id);
	dr_request_text(&request, "kind", b->job.kind);
	dr_request_text(&request, "parent", b->no_parent == NULL && b->job.parent[0] != '\0' ? b->job.parent : NULL);
	dr_request_text(&request, "no_parent", b->no_parent);
	dr_request_text(&request, "label", b->job.has_label ? b->job.label : NULL);
	dr_request_int(&request, "server_version_num", PG_VERSION_NUM);
	dr_request_bool(&request, "data_checksums", DataChecksumsEnabled());
	dr_request_int(&request, "timeline", b->server.start_timeline);
	dr_request_lsn(&request, "start_lsn", b->server.start_lsn);
	dr_request_time(&request, "started_at", b->job.started_at);
	append_tablespaces(&request, b->server.tablespace_map->data);
	dr_request_text(&request, "config_directory", b->config_directory);
	dr_request_texts(&request, "config_files", b->config_files);
	dr_request_end(&request);
	dr_child_request(b->child, &request);
	pfree(request.data);
}

void
dr_backup_run(Backup *b)
{
	Conversation c = {.b = b,.heard_at = GetCurrentTimestamp()};
	MemoryContext scratch = AllocSetContextCreate(b->context, "pg_dr backup event",
												  ALLOCSET_DEFAULT_SIZES);

	c.rows_context = AllocSetContextCreate(b->context, "pg_dr backup rows", ALLOCSET_DEFAULT_SIZES);
	begin_rows(&c);
	send_request(b);
	MemoryContextSwitchTo(scratch);
	for (;;)
	{
		DrEvent		event;

		between_events(&c);
		MemoryContextReset(scratch);
		if (!dr_child_receive(b->child, 1000, &event))
			continue;
		c.heard_at = GetCurrentTimestamp();
		dispatch(&c, &event);
		if (dr_event_is(&event, "done"))
			break;
	}
	flush_rows(&c);
	MemoryContextSwitchTo(b->context);
	if (c.rows_lost)
	{
		dr_want_sync();
	}
}
