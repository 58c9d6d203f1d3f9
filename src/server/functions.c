/*
 * functions.c
 *	  What a DBA calls: dr_backup, dr_cancel, dr_adopt, dr_sync.
 *
 * One idea: dr_backup checks everything that can be known beforehand, each with
 * its own error and hint, and then merely watches (job.c): the worker makes the
 * backup.
 *
 * A crash of the caller restarts the server, and with it ends the backup.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "catalogue.h"
#include "compat.h"
#include "pg_dr.h"
#include "repository.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(dr_backup);
PG_FUNCTION_INFO_V1(dr_cancel);
PG_FUNCTION_INFO_V1(dr_adopt);
PG_FUNCTION_INFO_V1(dr_sync);

/* ---- before a backup ---- */

bool
dr_is_archive_library(void)
{
	const char *slash = strrchr(XLogArchiveLibrary, '/');
	const char *name = slash ? slash + 1 : XLogArchiveLibrary;

	return strcmp(name, "pg_dr") == 0 || strcmp(name, "pg_dr.so") == 0;
}

static void
require_archiving(void)
{
	if (wal_level == WAL_LEVEL_MINIMAL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("wal_level is \"minimal\""),
				 errdetail("A backup needs WAL that holds all changes."),
				 errhint("Set wal_level to \"replica\" and restart the server.")));
	if (!XLogArchivingActive())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("archive_mode is off"),
				 errdetail("A backup is complete when its WAL is archived."),
				 errhint("Set archive_mode to \"on\" and archive_library to \"pg_dr\", and restart the server.")));
	if (!dr_is_archive_library())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("archive_library is not \"pg_dr\""),
				 errdetail("A backup is complete when its WAL is in the same repository."),
				 errhint("Set archive_library to \"pg_dr\" and reload.")));
	if (DR_ARCHIVE_COMMAND_CONFLICTS && XLogArchiveCommand[0] != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("both archive_command and archive_library are set"),
				 errdetail("This server archives nothing then."),
				 errhint("Set archive_command to an empty string and reload.")));
}

void
dr_require_primary(const char *what)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("recovery is in progress"),
				 errdetail("%s.", what),
				 errhint("Call it on the primary.")));
}

void
dr_require_database(void)
{
	char	   *database = get_database_name(MyDatabaseId);

	if (database == NULL || strcmp(database, dr_database) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the catalogue of pg_dr is in database \"%s\"", dr_database),
				 errhint("Connect to that database, or change pg_dr.database and restart the server.")));
}

/* ---- the request ---- */

/* An incremental backup without a parent is a full one, and called so. */
static void
set_kind(DrJob *job, const char *kind)
{
	bool		incremental = strcmp(kind, "incremental") == 0;

	if (!incremental && strcmp(kind, "full") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a kind of backup", kind),
				 errhint("A backup is \"full\" or \"incremental\".")));
	if (incremental && !dr_find_parent(job))
		ereport(NOTICE,
				(errmsg("taking a full backup: there is no complete one of this timeline yet")));
	strlcpy(job->kind, job->parent[0] != '\0' ? "incremental" : "full", sizeof(job->kind));
}

static void
set_label(DrJob *job, const char *label)
{
	if (strlen(label) > DR_LABEL_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("label is longer than %d bytes", DR_LABEL_MAX)));
	for (const char *p = label; *p != '\0'; p++)
	{
		if ((unsigned char) *p < ' ' || *p == 0x7f)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("label contains a control character")));
	}
	if (!dr_text_is_sendable(label))
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("label contains a character that is not available"),
				 errhint("In a database whose encoding is not UTF8, a label is made of ASCII characters.")));
	strlcpy(job->label, label, sizeof(job->label));
	job->has_label = true;
}

/* Returns only for a backup that can be restored. */
static void
report_outcome(const DrJob *job)
{
	for (int i = 0; i < Min(job->warnings, DR_MAX_WARNINGS); i++)
		ereport(WARNING, (errmsg_internal("%s", dr_shown(job->warning[i]))));
	if (job->warnings > DR_MAX_WARNINGS)
		ereport(WARNING,
				(errmsg("%d more warnings are in the server log", job->warnings - DR_MAX_WARNINGS)));
	if (job->outcome == DR_OUTCOME_CORRUPT)
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("backup %s holds " INT64_FORMAT " corrupt pages", job->id, job->figures.corrupt_pages),
				 errdetail("They were corrupt in the data directory when they were read."),
				 errhint("See table dr.corrupt_page for which.")));
	else if (job->outcome != DR_OUTCOME_COMPLETED)
		dr_job_raise(job);
}

/* ---- dr_backup(kind, label, wait, fast) ---- */

static DrJob *
backup_request(FunctionCallInfo fcinfo)
{
	DrJob	   *job = palloc0(sizeof(DrJob));
	char	   *name;
	char	   *url;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2) || PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("kind, wait and fast of a backup must not be null")));
	dr_require_shmem();
	dr_require_primary("Backups from a standby are not supported yet");
	require_archiving();
	dr_require_settings();
	dr_require_database();
	dr_primary_repository(&name, &url);
	strlcpy(job->repository, name, sizeof(job->repository));
	set_kind(job, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (!PG_ARGISNULL(1))
		set_label(job, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	strlcpy(job->requested_by, GetUserNameFromId(GetUserId(), false), sizeof(job->requested_by));
	job->fast = PG_GETARG_BOOL(3);
	job->requested_at = dr_now();
	dr_job_set_id(job);
	return job;
}

Datum
dr_backup(PG_FUNCTION_ARGS)
{
	DrJob	   *job = backup_request(fcinfo);
	bool		wait = PG_GETARG_BOOL(2);

	dr_job_run(job, wait);
	if (wait)
		report_outcome(job);
	PG_RETURN_TEXT_P(cstring_to_text(job->id));
}

/* ---- dr_cancel(backup) ---- */

Datum
dr_cancel(PG_FUNCTION_ARGS)
{
	char	   *id = text_to_cstring(PG_GETARG_TEXT_PP(0));

	dr_require_shmem();
	if (!dr_job_cancel(id) && !dr_task_cancel(id))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("nothing that is called \"%s\" is running", id),
				 errhint("View dr_progress lists what is.")));
	PG_RETURN_VOID();
}

/* ---- dr_adopt() ---- */

static void
ask_for_adoption(void)
{
	DrChild    *child = dr_child_open(false);
	StringInfoData request;
	DrEvent		done;

	PG_TRY();
	{
		initStringInfo(&request);
		dr_request_begin(&request, "adopt");
		dr_request_end(&request);
		dr_child_request(child, &request);
		dr_child_finish(child, NULL, NULL, &done);
	}
	PG_FINALLY();
	{
		dr_child_stop(child, DR_GRACE_STOP);
	}
	PG_END_TRY();
}

Datum
dr_adopt(PG_FUNCTION_ARGS)
{
	dr_require_shmem();
	dr_require_primary("Only a primary can write to the repository");
	ask_for_adoption();

	/* The archiver must not wait for its next minute with what piled up. */
	dr_reset_archiver();
	if (XLogArchivingActive())
		PgArchWakeup();
	ereport(NOTICE,
			(errmsg("this copy of the cluster writes to the repository from now on"),
			 errdetail("Every other copy of cluster " UINT64_FORMAT " is refused.", GetSystemIdentifier())));
	PG_RETURN_VOID();
}

/* ---- dr_sync() ---- */

void
dr_put_row(ReturnSetInfo *rsinfo, int columns, const char *const *texts)
{
	Datum		values[8];
	bool		nulls[8];

	Assert(columns <= lengthof(values));
	for (int i = 0; i < columns; i++)
	{
		nulls[i] = texts[i] == NULL;
		values[i] = nulls[i] ? (Datum) 0 : CStringGetTextDatum(texts[i]);
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_change(void *arg, const char *what, const char *name, const char *detail)
{
	const char *row[] = {what, name, detail};

	dr_put_row((ReturnSetInfo *) arg, lengthof(row), row);
}

Datum
dr_sync(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	dr_require_shmem();
	dr_require_primary("The catalogue can't be written");
	dr_require_database();
	InitMaterializedSRF(fcinfo, 0);
	dr_sync_catalogue(put_change, rsinfo);
	return (Datum) 0;
}
