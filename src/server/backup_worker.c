/*
 * backup_worker.c
 *	  One worker per backup: its life from the first row to the last.
 *
 * One idea: the worker owns three things, the server's backup mode, the child
 * and the row, and whichever way it ends, each is put right by whoever is
 * still there to do it.  An ERROR is caught here; FATAL leaves backup mode to
 * the server's own handler, the child to ours, and the row to housekeeping.
 *
 * No transaction is open while anything is waited for.
 *
 * A crash leaves packs without a manifest in the repository, which nothing
 * lists, and a row in status running, which housekeeping marks.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "backup.h"
#include "change_map.h"
#include "pg_dr.h"
#include "repository.h"
#include "worker.h"

#define CANCEL_GRACE_MS		10000
#define ROW_ATTEMPTS		5
#define CHANGE_MAP_WAIT_MS	30000	/* without progress */

/* ---- the backup ---- */

static void
write_first_row(void *arg)
{
	dr_insert_backup(&((Backup *) arg)->job);
}

static void
write_final_row(void *arg)
{
	dr_finish_backup(&((Backup *) arg)->job);
}

static void
start_server_backup(Backup *b)
{
	MemoryContext caller = MemoryContextSwitchTo(b->context);

	/* The server waits for a checkpoint, and knows nothing of our latch. */
	dr_job_phase(b->slot, "waiting for a checkpoint", true);
	dr_job_check_cancel(b->slot);
	dr_server_backup_start(&b->server, b->job.id, b->job.fast);
	dr_job_phase(b->slot, "starting", false);
	MemoryContextSwitchTo(caller);
	b->job.start_lsn = b->server.start_lsn;
	b->job.timeline = b->server.start_timeline;
	dr_job_outcome(b->slot, &b->job);
}

/* The change map up to where this backup begins: what isn't proven is read. */
static void
wait_for_change_map(Backup *b)
{
	char	   *why;

	if (b->job.parent[0] == '\0')
		return;
	dr_job_phase(b->slot, "waiting for the change map", false);
	if (!dr_change_map_reach(b->server.start_lsn, b->server.start_timeline, CHANGE_MAP_WAIT_MS, &why))
		b->no_parent = MemoryContextStrdup(b->context, why);
	dr_job_phase(b->slot, "starting", false);
	dr_job_check_cancel(b->slot);
}

static void
make_backup(Backup *b)
{
	dr_job_check_cancel(b->slot);
	dr_catalogue_run(write_first_row, b);
	b->job.row_exists = true;
	dr_job_row_exists(b->slot);
	dr_job_hold(b->slot, "module.started");
	dr_job_phase(b->slot, "opening the repository", true);
	dr_job_check_cancel(b->slot);
	b->child = dr_child_open(true);
	dr_job_phase(b->slot, "starting", false);
	dr_catalogue_run(dr_find_config_files, b);
	start_server_backup(b);
	dr_job_hold(b->slot, "module.backup_started");
	wait_for_change_map(b);
	dr_backup_run(b);

	/* The manifest is durable: from here on, nothing makes it less than a backup. */
	b->job.ended_at = dr_now();
	dr_job_outcome(b->slot, &b->job);
	dr_job_hold(b->slot, "module.done");
}

/* ---- its end ---- */

/*
 * Ask the program to take back what it stored, and wait a while for its answer.
 * Held at a step, it can't.
 */
static void
cancel_child(Backup *b)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CANCEL_GRACE_MS);
	StringInfoData line;

	if (dr_child_is_idle(b->child) || dr_child_is_held(b->child))
		return;
	PG_TRY();
	{
		DrEvent		event;

		initStringInfo(&line);
		dr_request_begin(&line, "cancel");
		dr_request_end(&line);
		dr_child_control(b->child, &line);
		while (!dr_child_is_idle(b->child) && !dr_child_is_held(b->child) &&
			   GetCurrentTimestamp() < until)
		{
			/* Its last word may be that it was done before it heard us. */
			if (dr_child_receive(b->child, 200, &event) && dr_event_is(&event, "done"))
				dr_backup_take_done(b, &event);
		}
	}
	PG_CATCH();
	{
		/* It is stopped anyhow; a second cancel just makes that sooner. */
		MemoryContextSwitchTo(b->context);
		FlushErrorState();
	}
	PG_END_TRY();
}

static void
stop_child(Backup *b)
{
	DrChild    *child = b->child;

	b->child = NULL;
	dr_child_stop(child, DR_GRACE_STOP);
}

static bool
is_complete(const Backup *b)
{
	return b->job.outcome == DR_OUTCOME_COMPLETED || b->job.outcome == DR_OUTCOME_CORRUPT;
}

/* In PG_CATCH: out of backup mode, then the child, then what the row will say. */
static void
end_with_error(Backup *b)
{
	ErrorData  *error = dr_job_caught(b->context);

	do_pg_abort_backup(0, BoolGetDatum(false));
	if (b->child != NULL && !is_complete(b))
		cancel_child(b);
	if (is_complete(b))
		return;

	dr_job_not_done(b->slot, &b->job, error);
	HOLD_INTERRUPTS();			/* ereport looks for them, and nobody catches us here */
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("backup %s %s: %s", b->job.id, dr_outcome_name(DR_JOB_BACKUP, b->job.outcome), error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
	RESUME_INTERRUPTS();
	if (b->job.stop_lsn != InvalidXLogRecPtr)
	{
		/* Did its manifest become durable all the same?  The inventory will know. */
		dr_want_sync();
	}
}

static void
log_completed(Backup *b)
{
	ereport(LOG,
			(errmsg("backup %s %s: " INT64_FORMAT " files, " INT64_FORMAT " bytes read, " INT64_FORMAT " bytes stored",
					b->job.id, dr_outcome_name(DR_JOB_BACKUP, b->job.outcome), b->job.figures.files, b->job.figures.bytes_read,
					b->job.figures.bytes_stored)));
}

/* The outcome stands, whatever becomes of the row. */
static void
finish(Backup *b)
{
	b->job.ended_at = dr_now();
	dr_job_outcome(b->slot, &b->job);
	if (is_complete(b))
	{
		log_completed(b);
		dr_change_map_keep(b->job.start_lsn);
	}
	if (!b->job.row_exists)
		return;
	if (dr_catalogue_try(write_final_row, b, ROW_ATTEMPTS, "a backup's final row"))
		dr_job_row_final(b->slot, b->job.number);
	else if (is_complete(b))
		dr_job_warn(b->slot, "the backup is complete, but the catalogue does not say so yet; dr_sync() brings it up to date");
}

/* Every exit comes through here, with a code of 0 or not. */
static void
at_exit(int code, Datum arg)
{
	dr_child_stop_all();
	dr_job_end(DatumGetInt32(arg));
}

static void
run(Backup *b)
{
	PG_TRY();
	{
		make_backup(b);
	}
	PG_CATCH();
	{
		end_with_error(b);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(b->context);
	stop_child(b);
	finish(b);
}

void
dr_backup_worker_main(Datum arg)
{
	Backup	   *b;

	b = MemoryContextAllocZero(TopMemoryContext, sizeof(Backup));
	b->context = AllocSetContextCreate(TopMemoryContext, "pg_dr backup", ALLOCSET_DEFAULT_SIZES);
	b->slot = DatumGetInt32(arg);
	dr_job_begin(b->slot, at_exit, &b->job);
	MemoryContextSwitchTo(b->context);

	dr_worker_connect(psprintf("pg_dr backup %s", b->job.id));
	register_persistent_abort_backup_handler();
	run(b);
	proc_exit(0);
}
