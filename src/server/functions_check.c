/*
 * functions_check.c
 *	  dr_check(): is everything in place, from the settings to the repository?
 *
 * One idea: a row per thing that must be right, in the order in which one would
 * put it right; a thing that can't be looked at because of an earlier one has
 * no row.  Nothing here raises an error for what a row can say.
 *
 * A crash here leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"

#include "compat.h"
#include "pg_dr.h"
#include "protocol.h"
#include "repository.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(dr_check);

static void
put(ReturnSetInfo *rsinfo, const char *name, const char *status, const char *detail, const char *hint)
{
	const char *row[] = {name, status, detail, hint};

	dr_put_row(rsinfo, lengthof(row), row);
}

/* "ok" with one text, or the status with another and a hint. */
static void
put_either(ReturnSetInfo *rsinfo, const char *name, bool good, const char *good_detail,
		   const char *bad_status, const char *bad_detail, const char *hint)
{
	if (good)
		put(rsinfo, name, "ok", good_detail, NULL);
	else
		put(rsinfo, name, bad_status, bad_detail, hint);
}

/* ---- settings of the server ---- */

static void
check_module(ReturnSetInfo *rsinfo)
{
	char	   *here = get_database_name(MyDatabaseId);

	put_either(rsinfo, "preload", dr_shared != NULL, "pg_dr is in shared_preload_libraries",
			   "critical", "pg_dr is not in shared_preload_libraries",
			   "Add it and restart the server.");
	put_either(rsinfo, "database", here != NULL && strcmp(here, dr_database) == 0,
			   "the catalogue is in this database",
			   "critical", psprintf("pg_dr.database is \"%s\", another database than this", dr_database),
			   "Create the extension in that database, or change pg_dr.database and restart the server.");
}

static void
check_archiving_settings(ReturnSetInfo *rsinfo)
{
	put_either(rsinfo, "wal_level", wal_level > WAL_LEVEL_MINIMAL, "WAL holds all changes",
			   "critical", "wal_level is minimal", "Set it to replica and restart the server.");
	put_either(rsinfo, "archive_mode", XLogArchivingActive(), "archiving is on",
			   "critical", "archive_mode is off", "Set it to on and restart the server.");
	put_either(rsinfo, "archive_library", dr_is_archive_library(), "pg_dr archives",
			   "critical", "archive_library is not pg_dr", "Set it to pg_dr and reload.");
	if (DR_ARCHIVE_COMMAND_CONFLICTS)
		put_either(rsinfo, "archive_command", XLogArchiveCommand[0] == '\0', "it is empty",
				   "critical", "archive_command is set beside archive_library: this server archives nothing",
				   "Set it to an empty string and reload.");
}

static void
check_safety(ReturnSetInfo *rsinfo)
{
	put_either(rsinfo, "fsync", enableFsync, "on",
			   "critical", "fsync is off: a crash of the machine can corrupt this cluster, and with it what is backed up",
			   "Set it to on and reload.");
	put_either(rsinfo, "full_page_writes", fullPageWrites, "on",
			   "warning", "full_page_writes is off: torn pages are not repaired after a crash",
			   "Set it to on and reload; during a backup the server does so by itself.");
	put_either(rsinfo, "data_checksums", DataChecksumsEnabled(), "every backup verifies every page",
			   "warning", "data checksums are off: a backup can't tell a corrupt page from a good one",
			   "Enable them with pg_checksums while the server is stopped.");
}

/* ---- through the program ---- */

static void
put_check_event(void *arg, const DrEvent *event)
{
	DrCheckFinding finding;

	dr_check_parse(event, &finding);
	dr_probe_remember(&finding);
	put((ReturnSetInfo *) arg, finding.name, finding.status, dr_shown(finding.detail),
		finding.hint ? dr_shown(finding.hint) : NULL);
}

static void
ask_program(ReturnSetInfo *rsinfo, DrChild *child)
{
	StringInfoData request;
	DrEvent		done;

	initStringInfo(&request);
	dr_open_request(&request, false);
	dr_child_request(child, &request);
	dr_child_finish(child, NULL, NULL, &done);
	resetStringInfo(&request);
	dr_request_begin(&request, "check");
	dr_request_end(&request);
	dr_child_request(child, &request);
	dr_child_finish(child, put_check_event, rsinfo, &done);
}

/*
 * In PG_CATCH: what the program or its absence raised, as a row.  These errors
 * come from code that touches neither catalogs nor buffers, so that no
 * subtransaction is needed; an interrupt goes on its way.
 */
static void
put_error(ReturnSetInfo *rsinfo, const char *name, MemoryContext context)
{
	ErrorData  *error;
	char	   *detail;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED || error->sqlerrcode == ERRCODE_OUT_OF_MEMORY ||
		ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TRANSACTION_ROLLBACK)
		PG_RE_THROW();
	FlushErrorState();
	detail = error->detail ? psprintf("%s (%s)", error->message, error->detail) : error->message;
	put(rsinfo, name, "critical", dr_shown(detail), error->hint);
}

static void
check_program(ReturnSetInfo *rsinfo)
{
	MemoryContext context = CurrentMemoryContext;
	DrChild    *volatile child = NULL;

	PG_TRY();
	{
		child = dr_child_start();
		put(rsinfo, "program", "ok", "version " PGDR_VERSION ", as the module", NULL);
		if (dr_repositories[0] != '\0' && dr_encryption_key_file[0] != '\0')
			ask_program(rsinfo, child);
	}
	PG_CATCH();
	{
		DrChild    *failed = child;

		child = NULL;
		dr_child_stop(failed, DR_GRACE_NONE);
		put_error(rsinfo, failed == NULL ? "program" : "repository", context);
	}
	PG_END_TRY();
	dr_child_stop(child, DR_GRACE_STOP);
}

static void
check_settings(ReturnSetInfo *rsinfo)
{
	put_either(rsinfo, "repositories", dr_repositories[0] != '\0', "a repository is configured",
			   "critical", "pg_dr.repositories is empty", "Set it, for example to 'main=file:///directory', and reload.");
	put_either(rsinfo, "encryption_key_file", dr_encryption_key_file[0] != '\0', "a key is configured",
			   "critical", "pg_dr.encryption_key_file is empty",
			   "Create a key with \"pg_dr key generate FILE\", set it, and reload.");
}

Datum
dr_check(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	DrFinding	finding;

	InitMaterializedSRF(fcinfo, 0);
	check_module(rsinfo);
	check_archiving_settings(rsinfo);
	check_safety(rsinfo);
	check_settings(rsinfo);
	check_program(rsinfo);
	if (dr_shared != NULL)
	{
		dr_archiving_finding(&finding);
		put(rsinfo, "archiving", finding.status, finding.detail, finding.hint);
		dr_recovery_point_finding(&finding);
		put(rsinfo, "recovery_point", finding.status, finding.detail, finding.hint);
	}
	if (dr_recovery_finding(&finding))
		put(rsinfo, "recovery", finding.status, finding.detail, finding.hint);
	return (Datum) 0;
}
