/*
 * functions_verify.c
 *	  dr_verify(): the repository held against manifests and catalogue.
 *
 * One idea: the program fetches, hashes and opens, and is told beforehand what
 * this database recorded of every object when it was stored.  Whoever can rewrite
 * the repository can't rewrite that.
 *
 * Everything happens in the caller's transaction: an error, a cancel or a crash
 * leaves nothing behind, and what was proven until then is not remembered.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "catalogue.h"
#include "compat.h"
#include "pg_dr.h"
#include "repository.h"

PG_FUNCTION_INFO_V1(dr_verify);

#define NOTICE_EVERY_MS		10000
#define FIRST_NOTICE_MS		3000
#define BATCH_SIZE			500

/* A request's line has room for more. */
#define KNOWN_BYTES			(512 * 1024)

typedef struct Verification
{
	DrVerification run;
	ReturnSetInfo *rsinfo;
	MemoryContext context;		/* of what is kept */
	DrChild    *child;
	const Interval *max_age;
	int64		max_rate;
	bool		writes;			/* the catalogue may be written */
	int			task;
	TimestampTz next_notice;

	StringInfoData known;		/* objects of the request that is being made */
	Tuplestorestate *sound;		/* names; on disk when there are many */
	TupleDesc	sound_desc;
	List	   *bad;			/* names */
	List	   *good_backups;	/* ids */
	List	   *bad_backups;
	List	   *errors;			/* of these */
	bool		error;
	bool		warning;
} Verification;

/* ---- what the catalogue knows ---- */

static void
send_known(Verification *v)
{
	StringInfoData request;
	DrEvent		done;

	initStringInfo(&request);
	dr_request_begin(&request, "known");
	appendStringInfo(&request, ",\"objects\":[%s]", v->known.data);
	dr_request_end(&request);
	dr_child_request(v->child, &request);
	dr_child_finish(v->child, NULL, NULL, &done);
	pfree(request.data);
	resetStringInfo(&v->known);
}

static void
add_known(void *arg, const char *json)
{
	Verification *v = arg;

	if (v->known.len > 0)
		appendStringInfoChar(&v->known, ',');
	appendStringInfoString(&v->known, json);
	if (v->known.len > KNOWN_BYTES)
		send_known(v);
}

static void
tell_known(void *arg)
{
	Verification *v = arg;

	dr_known_objects(v->run.repository, v->run.depth, v->max_age, add_known, v);
	send_known(v);
	if (v->writes)
		dr_begin_verification(&v->run);
}

/* ---- events ---- */

static void
on_object(Verification *v, const DrEvent *event)
{
	Datum		name = CStringGetTextDatum(dr_event_text(event, "name", true));
	bool		null = false;

	if (v->writes)
		tuplestore_putvalues(v->sound, v->sound_desc, &name, &null);
}

static void
put_row(Verification *v, const DrVerifyFinding *f)
{
	Datum		values[6];
	bool		nulls[6] = {0};

	values[0] = CStringGetTextDatum(f->object);
	values[1] = CStringGetTextDatum(dr_shown(f->problem));
	values[2] = dr_text_array(f->backups);
	values[3] = dr_text_array(f->files);
	values[4] = CStringGetTextDatum(f->severity);
	nulls[5] = f->hint == NULL;
	values[5] = nulls[5] ? (Datum) 0 : CStringGetTextDatum(f->hint);
	tuplestore_putvalues(v->rsinfo->setResult, v->rsinfo->setDesc, values, nulls);
}

typedef struct FindingRow
{
	Verification *v;
	DrVerifyFinding *f;
} FindingRow;

static void
insert_finding(void *arg)
{
	FindingRow *row = arg;

	dr_insert_finding(&row->v->run, row->f, row->v->run.findings);
}

static void
unsound_backups(Verification *v, const DrVerifyFinding *f)
{
	char	   *error = dr_redacted(psprintf("dr_verify: object \"%s\": %s", f->object, f->problem));
	ListCell   *cell;

	foreach(cell, f->backups)
	{
		v->bad_backups = dr_keep_text(v->context, v->bad_backups, lfirst(cell));
		v->errors = dr_keep_text(v->context, v->errors, error);
	}
}

static void
on_damaged(Verification *v, const DrEvent *event)
{
	DrVerifyFinding f = {
		.object = dr_event_text(event, "name", true),
		.problem = dr_event_text(event, "message", true),
		.backups = dr_event_texts(event, "backups"),
		.files = dr_event_texts(event, "files"),
		.severity = dr_event_text(event, "severity", true),
		.hint = dr_event_text(event, "hint", false)
	};
	int64		more = dr_event_int(event, "n_files") - list_length(f.files);
	FindingRow	row = {v, &f};

	if (strlen(f.object) > PGDR_OBJECT_NAME_MAX)
		dr_protocol_error("An object's name is too long.");
	if (more > 0)
		f.files = lappend(f.files, psprintf("and " INT64_FORMAT " more", more));
	put_row(v, &f);
	v->run.findings++;
	f.problem = dr_redacted(f.problem);
	if (v->writes)
		dr_catalogue_run(insert_finding, &row);
	v->error |= strcmp(f.severity, "error") == 0;
	v->warning |= strcmp(f.severity, "warning") == 0;
	if (strcmp(f.severity, "notice") != 0)
		v->bad = dr_keep_text(v->context, v->bad, f.object);
	if (strcmp(f.severity, "error") == 0)
		unsound_backups(v, &f);
}

static void
on_progress(Verification *v, const DrEvent *event)
{
	TimestampTz now = GetCurrentTimestamp();
	const char *phase = dr_event_text(event, "phase", true);
	int64		done = dr_event_int(event, "bytes_done");
	int64		total = dr_event_int(event, "bytes_total");

	dr_task_progress(v->task, phase, done, total, dr_event_int(event, "files_done"));
	if (now < v->next_notice)
		return;
	v->next_notice = TimestampTzPlusMilliseconds(now, NOTICE_EVERY_MS);
	if (total > 0)
		ereport(NOTICE,
				(errmsg("verification %s: %s, %d%%, %s of %s", v->run.id, phase, (int) (100.0 * Min(done, total) / total),
						TextDatumGetCString(DirectFunctionCall1(pg_size_pretty, Int64GetDatum(done))),
						TextDatumGetCString(DirectFunctionCall1(pg_size_pretty, Int64GetDatum(total))))));
	else
		ereport(NOTICE, (errmsg("verification %s: %s", v->run.id, phase)));
}

static void
on_event(void *arg, const DrEvent *event)
{
	Verification *v = arg;

	if (dr_event_is(event, "object"))
		on_object(v, event);
	else if (dr_event_is(event, "damaged"))
		on_damaged(v, event);
	else if (dr_event_is(event, "progress"))
		on_progress(v, event);
	else if (dr_event_is(event, "verified") && dr_event_bool(event, "sound"))
		v->good_backups = dr_keep_text(v->context, v->good_backups, dr_event_text(event, "backup", true));
	else if (!dr_event_is(event, "verified"))
		dr_protocol_error(psprintf("Event \"%s\" was not expected.", event->name));
}

/* ---- the conversation ---- */

static void
converse(Verification *v)
{
	StringInfoData request;
	DrEvent		done;

	/* Asked for before the catalogue is read and the repository listed: who is not among them then has its rows. */
	List	   *running = dr_running_backups();

	initStringInfo(&v->known);
	dr_catalogue_run(tell_known, v);
	initStringInfo(&request);
	dr_request_begin(&request, "verify");
	dr_request_text(&request, "backup", v->run.backup);
	dr_request_text(&request, "depth", v->run.depth);
	dr_request_int(&request, "max_rate", v->max_rate);
	dr_request_texts(&request, "running", running);
	dr_request_end(&request);
	dr_child_request(v->child, &request);
	dr_child_finish(v->child, on_event, v, &done);
	v->run.backup = MemoryContextStrdup(v->context, dr_event_text(&done, "backup", true));
	v->run.backups = dr_event_int(&done, "backups");
	v->run.objects = dr_event_int(&done, "objects");
	v->run.bytes_read = dr_event_int(&done, "bytes");
	v->run.bytes_skipped = dr_event_int(&done, "bytes_skipped");
	v->run.verdict = v->error ? "unsound" : v->warning ? "sound with warnings" : "sound";
}

static void
ask_program(Verification *v)
{
	v->child = dr_child_open(false);
	PG_TRY();
	{
		converse(v);
	}
	PG_FINALLY();
	{
		dr_child_stop(v->child, DR_GRACE_STOP);
	}
	PG_END_TRY();
}

/* ---- what is remembered ---- */

static void
remember_sound(Verification *v)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(v->sound_desc, &TTSOpsMinimalTuple);
	List	   *names = NIL;
	bool		null;

	while (tuplestore_gettupleslot(v->sound, true, false, slot))
	{
		names = lappend(names, TextDatumGetCString(slot_getattr(slot, 1, &null)));
		if (list_length(names) < BATCH_SIZE)
			continue;
		dr_verified_objects(&v->run, names, true);
		list_free_deep(names);
		names = NIL;
		CHECK_FOR_INTERRUPTS();
	}
	if (names != NIL)
		dr_verified_objects(&v->run, names, true);
	ExecDropSingleTupleTableSlot(slot);
}

/* What is bad comes behind what is sound: a pack may have been called sound before one of its pages was not. */
static void
remember(void *arg)
{
	Verification *v = arg;
	ListCell   *cell;
	ListCell   *error;

	remember_sound(v);
	if (v->bad != NIL)
		dr_verified_objects(&v->run, v->bad, false);
	forboth(cell, v->bad_backups, error, v->errors)
		dr_verified_backup(&v->run, lfirst(cell), false, lfirst(error));
	foreach(cell, v->good_backups)
		dr_verified_backup(&v->run, lfirst(cell), true, NULL);
	dr_finish_verification(&v->run);
}

/* ---- dr_verify(backup, depth, max_age, max_rate) ---- */

static void
end_task(int code, Datum slot)
{
	dr_task_end(DatumGetInt32(slot));
}

static const char *
known_depth(const char *depth)
{
	if (strcmp(depth, "catalogue") != 0 && strcmp(depth, "objects") != 0 && strcmp(depth, "pages") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a depth of verification", depth),
				 errhint("It is \"catalogue\", \"objects\" or \"pages\".")));
	return depth;
}

static void
read_arguments(Verification *v, FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("backup, depth and max_rate of a verification must not be null")));
	v->run.backup = text_to_cstring(PG_GETARG_TEXT_PP(0));
	v->run.depth = known_depth(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	v->max_age = PG_ARGISNULL(2) ? NULL : PG_GETARG_INTERVAL_P(2);
	v->max_rate = PG_GETARG_INT64(3);
	if (v->max_rate < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("max_rate must not be negative")));
}

Datum
dr_verify(PG_FUNCTION_ARGS)
{
	Verification v = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo,.context = CurrentMemoryContext};
	DrTask		task;
	char	   *repository;
	char	   *url;

	dr_require_shmem();
	read_arguments(&v, fcinfo);
	dr_require_settings();
	dr_require_database();
	dr_primary_repository(&repository, &url);
	InitMaterializedSRF(fcinfo, 0);
	v.writes = !RecoveryInProgress() && !XactReadOnly;
	v.sound_desc = CreateTemplateTupleDesc(1);
	TupleDescInitEntry(v.sound_desc, 1, "name", TEXTOID, -1, 0);
	v.sound = tuplestore_begin_heap(false, false, work_mem);
	v.next_notice = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FIRST_NOTICE_MS);
	v.task = dr_task_begin(&task, "verification", psprintf("%s, %s", v.run.backup, v.run.depth));
	v.run.id = task.id;
	v.run.repository = repository;
	v.run.requested_by = task.requested_by;
	v.run.started_at = task.started_at;
	PG_ENSURE_ERROR_CLEANUP(end_task, Int32GetDatum(v.task));
	{
		ask_program(&v);
		if (v.writes)
			dr_catalogue_run(remember, &v);
	}
	PG_END_ENSURE_ERROR_CLEANUP(end_task, Int32GetDatum(v.task));
	dr_task_end(v.task);
	tuplestore_end(v.sound);
	return (Datum) 0;
}
