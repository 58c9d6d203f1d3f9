/*
 * functions_drill.c
 *	  dr_drill(): restore a backup for real, and say how that went.
 *
 * One idea: a drill that fails has done what it is for, so its row is returned,
 * whatever the verdict.  An ERROR is for drills that could not be made.
 *
 * A crash here leaves what drill_worker.c says.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "child.h"
#include "compat.h"
#include "drill.h"
#include "pg_dr.h"
#include "repository.h"

#define ROW_WAIT_MS		10000

PG_FUNCTION_INFO_V1(dr_drill);

/* ---- the request ---- */

static void
set_scenario(DrJob *job, const char *scenario)
{
	if (strcmp(scenario, "second_repository") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("scenario \"%s\" needs a second repository", scenario),
				 errdetail("Only one repository is supported in this version.")));
	if (strcmp(scenario, "latest") != 0 && strcmp(scenario, "point_in_time") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a scenario", scenario),
				 errhint("A scenario is \"latest\" or \"point_in_time\".")));
	/* To come to a moment is the other scenario, however it is called. */
	strlcpy(job->drill.scenario, job->drill.target_time != 0 ? "point_in_time" : scenario, sizeof(job->drill.scenario));
}

static void
set_backup(DrJob *job, const char *backup)
{
	if (strcmp(backup, "latest") == 0)
		return;
	if (strlen(backup) > PGDR_BACKUP_ID_MAX || !dr_text_is_sendable(backup))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("\"%s\" is not a backup's id", backup)));
	strlcpy(job->drill.backup, backup, sizeof(job->drill.backup));
}

static void
require_drill_settings(void)
{
	dr_require_settings();
	if (dr_drill_directory[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("no directory for drills is configured"),
				 errdetail("A drill restores the whole cluster there for a while."),
				 errhint("Set pg_dr.drill_directory to a directory of mode 0700 that belongs to the server's user, and reload.")));

	/* The row is written by another process, while our snapshot would stay. */
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("dr_drill can't be called in a transaction with isolation level \"%s\"",
						XactIsoLevel == XACT_SERIALIZABLE ? "serializable" : "repeatable read")));
}

static DrJob *
drill_request(FunctionCallInfo fcinfo)
{
	DrJob	   *job = palloc0(sizeof(DrJob));
	char	   *name;
	char	   *url;

	for (int i = 0; i < 6; i++)
	{
		if (i != 1 && PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("only target_time of a drill may be null")));
	}
	dr_require_shmem();
	dr_require_primary("A drill's row can't be written");
	require_drill_settings();
	dr_require_database();
	dr_primary_repository(&name, &url);
	strlcpy(job->repository, name, sizeof(job->repository));
	job->type = DR_JOB_DRILL;
	strlcpy(job->kind, "drill", sizeof(job->kind));
	if (!PG_ARGISNULL(1))
	{
		job->drill.target_time = PG_GETARG_TIMESTAMPTZ(1);
		if (TIMESTAMP_NOT_FINITE(job->drill.target_time))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("target_time is no moment")));
	}
	set_backup(job, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	set_scenario(job, text_to_cstring(PG_GETARG_TEXT_PP(2)));
	job->drill.keep = PG_GETARG_BOOL(3);
	job->drill.amcheck = PG_GETARG_BOOL(4);
	strlcpy(job->requested_by, GetUserNameFromId(GetOuterUserId(), false), sizeof(job->requested_by));
	job->requested_at = dr_now();
	dr_job_set_id(job);
	return job;
}

/* ---- the row ---- */

static bool
put_row(ReturnSetInfo *rsinfo, const char *id)
{
	Oid			type = TEXTOID;
	Datum		value = CStringGetTextDatum(id);
	bool		found;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT * FROM dr.drill WHERE id = $1", 1, &type, &value, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read table dr.drill");
	found = SPI_processed > 0;
	if (found)
		tuplestore_puttuple(rsinfo->setResult, SPI_tuptable->vals[0]);
	SPI_finish();
	return found;
}

/* A worker that has just started has not written it yet. */
static void
put_row_soon(ReturnSetInfo *rsinfo, const char *id)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ROW_WAIT_MS);

	while (!put_row(rsinfo, id))
	{
		if (GetCurrentTimestamp() >= until)
			ereport(ERROR,
					(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
					 errmsg("drill %s has no row in the catalogue", id),
					 errhint("The server log may say why.")));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 50L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

Datum
dr_drill(PG_FUNCTION_ARGS)
{
	DrJob	   *job = drill_request(fcinfo);
	bool		wait = PG_GETARG_BOOL(5);

	InitMaterializedSRF(fcinfo, 0);
	dr_job_run(job, wait);
	if (wait && (job->outcome == DR_OUTCOME_CANCELLED || job->outcome == DR_OUTCOME_INTERRUPTED || !job->row_exists))
		dr_job_raise(job);
	put_row_soon((ReturnSetInfo *) fcinfo->resultinfo, job->id);
	return (Datum) 0;
}

/* ---- leftovers ---- */

void
dr_sweep_sandboxes(const char *directory)
{
	DrChild    *child = dr_child_start();
	StringInfoData request;
	DrEvent		done;

	PG_TRY();
	{
		initStringInfo(&request);
		dr_request_begin(&request, "sweep");
		dr_request_text(&request, "directory", directory);
		dr_request_end(&request);
		dr_child_request(child, &request);
		dr_child_finish(child, NULL, NULL, &done);
		if (dr_event_int(&done, "removed") > 0)
			ereport(LOG, (errmsg("removed what a drill had left in \"%s\"", directory)));
	}
	PG_FINALLY();
	{
		dr_child_stop(child, DR_GRACE_STOP);
	}
	PG_END_TRY();
}
