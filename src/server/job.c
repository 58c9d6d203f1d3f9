/*
 * job.c
 *	  A job as its caller sees it: ask for it, start its worker, watch.
 *
 * One idea: the caller owns nothing.  The worker does the work; a caller that
 * goes, by cancel, timeout or disconnect, takes the job with it, unless it did
 * not want to wait.
 *
 * A crash of the caller restarts the server, and with it ends the job.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "message.h"
#include "pg_dr.h"
#include "shmem.h"
#include "worker.h"

#define FIRST_NOTICE_MS		3000
#define NOTICE_EVERY_MS		10000

/* What the caller holds while it watches. */
typedef struct Watch
{
	int			slot;
	uint64		number;
	BackgroundWorkerHandle *worker;
	TimestampTz next_notice;
	TimestampTz copying_since;	/* 0: not yet */
	int64		copied_before;
} Watch;

/* ---- the request ---- */

/* <YYYYMMDD>T<hhmmss>Z-<kind>-<6 hexadecimal digits> */
void
dr_job_set_id(DrJob *job)
{
	char	   *now = dr_time_text(job->requested_at);	/* 2026-01-31T12:00:00... */
	uint8		random[3];

	if (!pg_strong_random(random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not generate random bytes")));
	snprintf(job->id, sizeof(job->id), "%.4s%.2s%.2sT%.2s%.2s%.2sZ-%s-%02x%02x%02x",
			 now, now + 5, now + 8, now + 11, now + 14, now + 17, job->kind,
			 random[0], random[1], random[2]);
}

static void
reserve(Watch *w, const DrJob *wanted)
{
	DrJob	   *running = palloc(sizeof(DrJob));

	w->slot = dr_job_reserve(wanted, running, &w->number);
	if (w->slot >= 0)
		return;
	if (running->state == DR_JOB_FREE)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many jobs have not been accounted for yet"),
				 errhint("See the server log for why their rows can't be written.")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("a %s is already running", dr_job_noun(wanted->type)),
			 wanted->type == DR_JOB_DRILL ?
			 errdetail("Drill %s is made by process %d, requested by \"%s\".",
					   running->id, running->worker_pid, running->requested_by) :
			 errdetail("Backup %s is made by process %d, requested by \"%s\".",
					   running->id, running->worker_pid, running->requested_by),
			 errhint("Wait for it, or stop it with dr_cancel('%s').", running->id)));
}

/* ---- the worker ---- */

static void
start_worker(Watch *w, const DrJob *job)
{
	BackgroundWorker worker = {0};

	dr_describe_worker(&worker, psprintf("pg_dr %s", dr_job_noun(job->type)),
					   job->type == DR_JOB_DRILL ? "dr_drill_worker_main" : "dr_backup_worker_main", true);
	snprintf(worker.bgw_name, BGW_MAXLEN, "pg_dr %s %s", dr_job_noun(job->type), job->id);
	worker.bgw_main_arg = Int32GetDatum(w->slot);
	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, &w->number, sizeof(w->number));
	if (!RegisterDynamicBackgroundWorker(&worker, &w->worker))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("no background worker is free for the %s", dr_job_noun(job->type)),
				 errhint("Raise max_worker_processes and restart the server.")));
}

static void
nap(long timeout_ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout_ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static void
wait_for_start(Watch *w, DrJob *job)
{
	pid_t		pid;

	for (;;)
	{
		bool		stopped = GetBackgroundWorkerPid(w->worker, &pid) == BGWH_STOPPED;

		dr_job_read(w->slot, job);
		if (job->state != DR_JOB_REQUESTED)
			return;
		if (stopped)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("could not start the %s's worker", dr_job_noun(job->type)),
					 errhint("The server log says why.")));
		nap(200);
	}
}

/* ---- watching ---- */

static char *
pretty_size(int64 bytes)
{
	return TextDatumGetCString(DirectFunctionCall1(pg_size_pretty, Int64GetDatum(bytes)));
}

/* Rate and time left, from when bytes began to move. */
static void
append_speed(StringInfo buf, Watch *w, const DrJob *job, TimestampTz now)
{
	int64		moved = job->bytes_done - w->copied_before;
	double		seconds = (now - w->copying_since) / (double) USECS_PER_SEC;

	if (w->copying_since == 0 || moved <= 0 || seconds < 1)
		return;
	appendStringInfo(buf, ", %s/s", pretty_size((int64) (moved / seconds)));
	if (job->bytes_total > job->bytes_done)
		appendStringInfo(buf, ", %.0f s left", (job->bytes_total - job->bytes_done) / (moved / seconds));
}

static void
notice_progress(Watch *w, const DrJob *job)
{
	TimestampTz now = GetCurrentTimestamp();
	StringInfoData buf;

	if (w->copying_since == 0 && job->bytes_done > 0)
	{
		w->copying_since = now;
		w->copied_before = job->bytes_done;
	}
	if (now < w->next_notice)
		return;
	w->next_notice = TimestampTzPlusMilliseconds(now, NOTICE_EVERY_MS);
	initStringInfo(&buf);
	if (job->bytes_total > 0)
	{
		appendStringInfo(&buf, ", %d%%, %s of %s",
						 (int) (100.0 * Min(job->bytes_done, job->bytes_total) / job->bytes_total),
						 pretty_size(job->bytes_done), pretty_size(job->bytes_total));
		append_speed(&buf, w, job, now);
	}
	ereport(NOTICE, (errmsg("%s %s: %s%s", dr_job_noun(job->type), job->id, job->phase, buf.data)));
	pfree(buf.data);
}

static void
watch(Watch *w, DrJob *job)
{
	for (;;)
	{
		dr_job_read(w->slot, job);
		if (job->state == DR_JOB_ENDED)
			return;
		notice_progress(w, job);
		nap(1000);
	}
}

static void
leave_on_error(int code, Datum arg)
{
	Watch	   *w = (Watch *) DatumGetPointer(arg);

	dr_job_leave(w->slot, w->number, true);
}

void
dr_job_raise(const DrJob *job)
{
	const DrReport *r = &job->report;

	ereport(ERROR,
			(errcode(r->sqlstate ? r->sqlstate : ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("%s %s %s: %s", dr_job_noun(job->type), job->id, dr_outcome_name(job->type, job->outcome), dr_shown(r->message)),
			 r->detail[0] ? errdetail_internal("%s", dr_shown(r->detail)) : 0,
			 r->hint[0] ? errhint("%s", dr_shown(r->hint)) : 0));
}

/* ---- all of it ---- */

void
dr_job_run(DrJob *job, bool wait)
{
	Watch		w = {0};

	reserve(&w, job);
	w.next_notice = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FIRST_NOTICE_MS);
	PG_ENSURE_ERROR_CLEANUP(leave_on_error, PointerGetDatum(&w));
	{
		start_worker(&w, job);
		wait_for_start(&w, job);
		if (wait)
			watch(&w, job);
	}
	PG_END_ENSURE_ERROR_CLEANUP(leave_on_error, PointerGetDatum(&w));
	dr_job_leave(w.slot, w.number, false);
}
