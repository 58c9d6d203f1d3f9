/*
 * archive.c
 *	  The archive module: WAL into the repository, from inside the archiver.
 *
 * One idea: "true" means durable in the repository, and nothing else ever
 * returns true.  Whatever goes wrong, here or in the program, becomes a
 * WARNING and "false": the archiver keeps the file, counts the failure and
 * tries again.
 *
 * The program is started with the first file and kept, since a start and an
 * open per segment would cost more than the segment.  It is started again when
 * it died, when the settings that it was opened with changed, and after an
 * adoption.
 *
 * The archiver is an auxiliary process: no database, no transactions, and on
 * 15 and 16 an error that leaves the callback ends the process uncounted.  It
 * goes on working when background workers are gone, so nothing here needs one;
 * without shared memory (module not preloaded) it archives all the same.
 *
 * A crash leaves the file .ready; after a crash between the program's "done"
 * and the server's .done it is offered again, and the program accepts the same
 * content under the same name.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "pg_dr.h"
#include "repository.h"
#include "shmem.h"

#define WARN_AGAIN_AFTER_MS		(10 * 60 * 1000)

static DrChild *archiver_child;
static char *opened_with;		/* the request that the child was opened with */
static uint64 opened_generation;
static MemoryContext file_context;	/* lives as long as one file */

/* ---- configured? ---- */

/* The server asks each time before it looks for files. */
static bool
archive_configured(void)
{
	static TimestampTz warned_at = 0;
	const char *setting = NULL;
	char	   *detail;

	if (dr_repositories[0] == '\0')
		setting = "pg_dr.repositories";
	else if (dr_encryption_key_file[0] == '\0')
		setting = "pg_dr.encryption_key_file";
	if (setting == NULL)
		return true;

	detail = psprintf("\"%s\" is not set.", setting);
	dr_arch_module_check_errdetail(detail);
	if (!DR_ARCHIVE_CHECK_REPORTED &&
		(warned_at == 0 ||
		 TimestampDifferenceExceeds(warned_at, GetCurrentTimestamp(), WARN_AGAIN_AFTER_MS)))
	{
		ereport(WARNING,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("pg_dr cannot archive WAL"),
				 errdetail_internal("%s", detail)));
		warned_at = GetCurrentTimestamp();
	}
	pfree(detail);
	return false;
}

/* ---- the child ---- */

static void
stop_child(void)
{
	DrChild    *child = archiver_child;

	archiver_child = NULL;
	dr_child_stop(child, DR_GRACE_STOP);
	if (opened_with != NULL)
		pfree(opened_with);
	opened_with = NULL;
}

/* A child that was opened with what the settings say now. */
static void
ensure_child(void)
{
	uint64		generation = dr_shared ? dr_open_generation() : 0;
	StringInfoData wanted;

	initStringInfo(&wanted);
	dr_open_request(&wanted, true);
	if (archiver_child != NULL && generation == opened_generation &&
		strcmp(wanted.data, opened_with) == 0)
		return;
	stop_child();
	opened_with = MemoryContextStrdup(TopMemoryContext, wanted.data);
	archiver_child = dr_child_open(true);
	opened_generation = generation;
}

/* ---- one file ---- */

static void
note_archived(const char *file, const DrEvent *done)
{
	DrSegment	segment = {0};
	char	   *object = dr_event_text(done, "object", true);
	char	   *expected = psprintf(UINT64_FORMAT "/wal/%.8s/%s", GetSystemIdentifier(), file, file);
	char	   *name;
	char	   *url;

	/* An answer counts for the file that it is about. */
	if (strcmp(object, expected) != 0 ||
		strlen(object) > DR_WAL_OBJECT_MAX || strlen(file) > DR_WAL_NAME_MAX ||
		!dr_event_sha256(done, "sha256", segment.sha256))
		dr_protocol_error("Event \"done\" of op \"archive\" has a wrong value.");
	segment.size = dr_event_int(done, "size");
	segment.archived_at = GetCurrentTimestamp();
	segment.ended_at = dr_event_time(done, "written_at");
	strlcpy(segment.name, file, sizeof(segment.name));
	strlcpy(segment.object, object, sizeof(segment.object));
	if (dr_primary_repository(&name, &url))
		strlcpy(segment.repository, name, sizeof(segment.repository));
	if (dr_shared == NULL)
		return;
	dr_note_archived(&segment);
	dr_wake_launcher();
}

static void
archive_one(const char *file)
{
	StringInfoData request;
	DrEvent		done;

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("pg_dr does not archive from a standby"),
				 errhint("Set archive_mode to \"on\" instead of \"always\"; the primary archives.")));
	ensure_child();
	initStringInfo(&request);
	dr_request_begin(&request, "archive");
	dr_request_text(&request, "name", file);
	dr_request_end(&request);
	dr_child_request(archiver_child, &request);
	dr_child_finish(archiver_child, NULL, NULL, &done);
	note_archived(file, &done);
}

/* In PG_CATCH: put the process right, and say what happened. */
static void
report_failure(const char *file)
{
	ErrorData  *error;

	MemoryContextSwitchTo(file_context);
	error = CopyErrorData();
	FlushErrorState();
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	pgstat_report_wait_end();

	/* The next attempt looks at everything anew: repository, keys, lineage. */
	stop_child();
	if (dr_shared != NULL)
	{
		DrReport	report;

		dr_report_set(&report, error->sqlerrcode, dr_redacted(error->message),
					  error->detail ? dr_redacted(error->detail) : NULL,
					  error->hint ? dr_redacted(error->hint) : NULL);
		dr_note_archive_failure(file, &report,
								error->sqlerrcode == DR_ERRCODE_LINEAGE ?
								DR_LINEAGE_FOREIGN : DR_LINEAGE_UNKNOWN);
	}
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("could not archive file \"%s\": %s", file, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
}

static bool
archive_file(const char *file, const char *path)
{
	MemoryContext caller;
	volatile bool archived = false;

	if (file_context == NULL)
		file_context = AllocSetContextCreate(TopMemoryContext, "pg_dr archive file",
											 ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(file_context);
	PG_TRY();
	{
		archive_one(file);
		archived = true;
	}
	PG_CATCH();
	{
		report_failure(file);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);

	/* The last order before a shutdown may have come just now. */
	dr_child_give_latch_back();
	MemoryContextReset(file_context);
	return archived;
}

static void
archive_shutdown(void)
{
	stop_child();
}

DR_ARCHIVE_MODULE(archive_configured, archive_file, archive_shutdown);
