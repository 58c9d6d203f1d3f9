/*
 * functions_expire.c
 *	  dr_expire(): retention.
 *
 * One idea: the program decides and removes, from the repository alone; here its
 * words become rows, and what it removed leaves the catalogue.
 *
 * An error, a cancel or a crash leaves rows of what is gone: until its mark is
 * gone too, the next dr_expire() or inventory knows that it expired.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "catalogue.h"
#include "compat.h"
#include "pg_dr.h"
#include "repository.h"

PG_FUNCTION_INFO_V1(dr_expire);

typedef struct Expiry
{
	ReturnSetInfo *rsinfo;
	MemoryContext context;		/* of what is kept */
	List	   *removed;		/* names of objects */
	List	   *backups;		/* ids of those of which packs are left */
	List	   *gone;			/* ids of those of which nothing is */
	List	   *wal;			/* segments, the first and the last of each row */
} Expiry;

static void
put_row(Expiry *x, const DrEvent *event)
{
	Datum		values[4];
	bool		nulls[4] = {0};

	values[0] = CStringGetTextDatum(dr_event_text(event, "what", true));
	values[1] = CStringGetTextDatum(dr_event_text(event, "name", true));
	values[2] = Int64GetDatum(dr_event_int(event, "bytes"));
	values[3] = CStringGetTextDatum(dr_shown(dr_event_text(event, "reason", true)));
	tuplestore_putvalues(x->rsinfo->setResult, x->rsinfo->setDesc, values, nulls);
}

static void
on_event(void *arg, const DrEvent *event)
{
	Expiry	   *x = arg;

	if (dr_event_is(event, "row"))
		put_row(x, event);
	else if (dr_event_is(event, "removed"))
		x->removed = dr_keep_text(x->context, x->removed, dr_event_text(event, "name", true));
	else if (dr_event_is(event, "expired") && dr_event_bool(event, "left"))
		x->backups = dr_keep_text(x->context, x->backups, dr_event_text(event, "backup", true));
	else if (dr_event_is(event, "expired"))
		x->gone = dr_keep_text(x->context, x->gone, dr_event_text(event, "backup", true));
	else if (dr_event_is(event, "expired_wal"))
	{
		x->wal = dr_keep_text(x->context, x->wal, dr_event_text(event, "first", true));
		x->wal = dr_keep_text(x->context, x->wal, dr_event_text(event, "last", true));
	}
	else
		dr_protocol_error(psprintf("Event \"%s\" was not expected.", event->name));
}

static void
ask_program(Expiry *x, bool dry_run)
{
	DrChild    *child = dr_child_open(!dry_run);
	StringInfoData request;
	DrEvent		done;

	PG_TRY();
	{
		initStringInfo(&request);
		dr_request_begin(&request, "expire");
		dr_request_text(&request, "policy", dr_retention);
		dr_request_int(&request, "grace_s", dr_expire_grace);
		dr_request_int(&request, "timeline", RecoveryInProgress() ? 0 : GetWALInsertionTimeLine());
		/* Asked for before the program lists: who is not among them then has a manifest, or sees our marks. */
		dr_request_texts(&request, "running", dr_running_backups());
		dr_request_bool(&request, "dry_run", dry_run);
		dr_request_end(&request);
		dr_child_request(child, &request);
		dr_child_finish(child, on_event, x, &done);
	}
	PG_FINALLY();
	{
		dr_child_stop(child, DR_GRACE_STOP);
	}
	PG_END_TRY();
}

static void
forget(void *arg)
{
	Expiry	   *x = arg;
	char	   *repository;
	char	   *url;
	ListCell   *cell;

	if (!dr_primary_repository(&repository, &url))
		return;
	if (x->removed != NIL)
		dr_forget_objects(repository, x->removed);
	foreach(cell, x->backups)
		(void) dr_expired_backup(repository, lfirst(cell), true);
	foreach(cell, x->gone)
		(void) dr_expired_backup(repository, lfirst(cell), false);
	for (int i = 0; i + 1 < list_length(x->wal); i += 2)
		dr_forget_wal(repository, list_nth(x->wal, i), list_nth(x->wal, i + 1));
}

Datum
dr_expire(PG_FUNCTION_ARGS)
{
	Expiry		x = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo,.context = CurrentMemoryContext};
	bool		dry_run = PG_GETARG_BOOL(0);

	dr_require_shmem();
	if (!dry_run)
	{
		dr_require_primary("Only the primary may remove what is in the repository");
		dr_require_database();
	}
	InitMaterializedSRF(fcinfo, 0);
	ask_program(&x, dry_run);
	if (!dry_run)
		dr_catalogue_run(forget, &x);
	return (Datum) 0;
}
