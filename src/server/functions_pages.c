/*
 * functions_pages.c
 *	  dr_check_pages(): corrupt pages in the running server's files.
 *
 * One idea: the program reads the files, as a backup does; here it is told how
 * far WAL is flushed, and its paths become relations.
 *
 * A crash here leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_tablespace_d.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/regproc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "pg_dr.h"
#include "repository.h"

PG_FUNCTION_INFO_V1(dr_check_pages);

#define FIRST_NOTICE_MS		3000
#define NOTICE_EVERY_MS		10000

typedef struct PageCheck
{
	ReturnSetInfo *rsinfo;
	DrChild    *child;
	int64		max_rate;
	DrTask		task;
	int			slot;
	TimestampTz next_notice;
} PageCheck;

/* ---- paths ---- */

/* base/<database>/<file>, global/<file>, pg_tblspc/<tablespace>/<version>/<database>/<file> */
static bool
parse_path(const char *path, Oid *tablespace, Oid *database, Oid *file)
{
	const char *slash = strrchr(path, '/');
	char		version[64];
	int			n = 0;

	*tablespace = MyDatabaseTableSpace;
	*database = InvalidOid;
	if (slash == NULL || sscanf(slash + 1, "%u", file) != 1)
		return false;
	if (sscanf(path, "base/%u/%n", database, &n) == 1 && n > 0)
		*tablespace = DEFAULTTABLESPACE_OID;
	else if (strncmp(path, "global/", 7) == 0)
		*tablespace = GLOBALTABLESPACE_OID;
	else if (sscanf(path, "pg_tblspc/%u/%63[^/]/%u/", tablespace, version, database) != 3)
		return false;
	return true;
}

/* NULL: of another database, or of none that there still is. */
static char *
relation_of(const char *path)
{
	Oid			tablespace;
	Oid			database;
	Oid			file;
	Oid			relation;

	if (!parse_path(path, &tablespace, &database, &file) ||
		(database != MyDatabaseId && tablespace != GLOBALTABLESPACE_OID))
		return NULL;
	relation = dr_relation_of_file(tablespace, file);
	if (!OidIsValid(relation))
		return NULL;
	return DatumGetCString(DirectFunctionCall1(regclassout, ObjectIdGetDatum(relation)));
}

/* ---- events ---- */

static XLogRecPtr
flushed_now(void)
{
	return RecoveryInProgress() ? GetXLogReplayRecPtr(NULL) : GetFlushRecPtr(NULL);
}

static void
send_flush_pointer(PageCheck *c)
{
	StringInfoData line;

	initStringInfo(&line);
	dr_request_begin(&line, "flush");
	dr_request_lsn(&line, "lsn", flushed_now());
	dr_request_end(&line);
	dr_child_control(c->child, &line);
	pfree(line.data);
}

static void
on_progress(PageCheck *c, const DrEvent *event)
{
	TimestampTz now = GetCurrentTimestamp();
	const char *phase = dr_event_text(event, "phase", true);
	int64		done = dr_event_int(event, "bytes_done");
	int64		total = dr_event_int(event, "bytes_total");

	send_flush_pointer(c);
	dr_task_progress(c->slot, phase, done, total, dr_event_int(event, "files_done"));
	if (now < c->next_notice || total == 0)
		return;
	c->next_notice = TimestampTzPlusMilliseconds(now, NOTICE_EVERY_MS);
	ereport(NOTICE,
			(errmsg("check of pages %s: %s, %d%%, %s of %s", c->task.id, phase, (int) (100.0 * Min(done, total) / total),
					TextDatumGetCString(DirectFunctionCall1(pg_size_pretty, Int64GetDatum(done))),
					TextDatumGetCString(DirectFunctionCall1(pg_size_pretty, Int64GetDatum(total))))));
}

static void
on_page(PageCheck *c, const DrEvent *event)
{
	Datum		values[5];
	bool		nulls[5] = {0};
	char	   *path = dr_event_text(event, "path", true);
	char	   *relation = relation_of(path);
	char	   *copy = dr_event_text(event, "sound_copy", false);

	values[0] = CStringGetTextDatum(path);
	nulls[1] = relation == NULL;
	values[1] = nulls[1] ? (Datum) 0 : CStringGetTextDatum(relation);
	values[2] = Int64GetDatum(dr_event_int(event, "block"));
	values[3] = CStringGetTextDatum(psprintf("%s (" INT64_FORMAT " instead of " INT64_FORMAT ", LSN %s)",
											 dr_event_text(event, "message", true), dr_event_int(event, "found"),
											 dr_event_int(event, "expected"), dr_event_text(event, "lsn", true)));
	nulls[4] = copy == NULL;
	values[4] = nulls[4] ? (Datum) 0 : CStringGetTextDatum(copy);
	tuplestore_putvalues(c->rsinfo->setResult, c->rsinfo->setDesc, values, nulls);
}

static void
on_event(void *arg, const DrEvent *event)
{
	PageCheck  *c = arg;

	if (dr_event_is(event, "progress"))
		on_progress(c, event);
	else if (dr_event_is(event, "corrupt_page"))
		on_page(c, event);
	else
		dr_protocol_error(psprintf("Event \"%s\" was not expected.", event->name));
}

/* ---- dr_check_pages(max_rate) ---- */

static void
ask_program(PageCheck *c)
{
	StringInfoData request;
	DrEvent		done;

	c->child = dr_child_open(false);
	PG_TRY();
	{
		initStringInfo(&request);
		dr_request_begin(&request, "check_pages");
		dr_request_bool(&request, "data_checksums", DataChecksumsEnabled());
		dr_request_int(&request, "segment_blocks", RELSEG_SIZE);
		dr_request_lsn(&request, "lsn", flushed_now());
		dr_request_int(&request, "max_rate", c->max_rate);
		dr_request_end(&request);
		dr_child_request(c->child, &request);
		dr_child_finish(c->child, on_event, c, &done);
	}
	PG_FINALLY();
	{
		dr_child_stop(c->child, DR_GRACE_STOP);
	}
	PG_END_TRY();
}

static void
end_task(int code, Datum slot)
{
	dr_task_end(DatumGetInt32(slot));
}

Datum
dr_check_pages(PG_FUNCTION_ARGS)
{
	PageCheck	c = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};

	dr_require_shmem();
	if (PG_ARGISNULL(0) || (c.max_rate = PG_GETARG_INT64(0)) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("max_rate must not be null or negative")));
	dr_require_settings();
	InitMaterializedSRF(fcinfo, 0);
	if (!DataChecksumsEnabled())
		ereport(NOTICE,
				(errmsg("this cluster has no data checksums: only the headers of pages can be judged")));
	c.slot = dr_task_begin(&c.task, "page check", "");
	c.next_notice = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FIRST_NOTICE_MS);
	PG_ENSURE_ERROR_CLEANUP(end_task, Int32GetDatum(c.slot));
	{
		ask_program(&c);
	}
	PG_END_ENSURE_ERROR_CLEANUP(end_task, Int32GetDatum(c.slot));
	dr_task_end(c.slot);
	return (Datum) 0;
}
