/*
 * drill_worker.c
 *	  One worker per drill: it has the program make it, and writes down how it went.
 *
 * One idea: the worker owns the row and the child, the child owns the sandbox,
 * and when either dies the sandbox's server does (sandbox.h, Z3).  So every way
 * to end a drill early is to end the child; another one then removes what it
 * left.
 *
 * No transaction is open while anything is waited for.
 *
 * A crash leaves a directory, and a row in status running; housekeeping removes
 * the one and marks the other.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalogue.h"
#include "child.h"
#include "drill.h"
#include "pg_dr.h"
#include "repository.h"
#include "worker.h"

#define ROW_ATTEMPTS		5
#define SILENCE_MS			(5 * 60 * 1000)

typedef struct Drill
{
	int			slot;
	DrJob		job;			/* our copy; what others may see is published */
	MemoryContext context;		/* as long as the worker */
	DrChild    *child;
	char	   *directory;
	char	   *superuser;
	StringInfoData assertions;
	DrObjectives objectives;
	DrDrillResult result;
	bool		has_result;
	bool		child_started;	/* so that there may be a sandbox */
} Drill;

/* ---- the request ---- */

static void
begin_row(void *arg)
{
	Drill	   *d = arg;

	dr_insert_drill(&d->job, d->directory);
}

/* Whoever the bootstrap superuser is now, he is so in the copy. */
static void
read_wishes(void *arg)
{
	Drill	   *d = arg;

	dr_read_objectives(d->job.drill.scenario, &d->objectives);
	dr_append_assertions(&d->assertions, d->job.drill.scenario);
	d->superuser = MemoryContextStrdup(d->context, GetUserNameFromId(BOOTSTRAP_SUPERUSERID, false));
}

static void
send_request(Drill *d, XLogRecPtr flushed)
{
	const DrDrillWanted *w = &d->job.drill;
	StringInfoData request;

	initStringInfo(&request);
	dr_request_begin(&request, "drill");
	dr_request_text(&request, "id", d->job.id);
	dr_request_text(&request, "scenario", w->scenario);
	dr_request_text(&request, "backup", w->backup[0] != '\0' ? w->backup : NULL);
	dr_request_text(&request, "target_time", w->target_time != 0 ? dr_time_text(w->target_time) : NULL);
	dr_request_text(&request, "directory", d->directory);
	dr_request_text(&request, "preload", dr_drill_preload);
	dr_request_text(&request, "user", d->superuser);
	dr_request_text(&request, "database", dr_database);
	dr_request_lsn(&request, "production_lsn", flushed);
	dr_request_int(&request, "max_size", (int64) dr_drill_max_size * 1024 * 1024);
	dr_request_int(&request, "memory", (int64) dr_drill_memory * 1024 * 1024);
	dr_request_int(&request, "rto_us", d->objectives.rto_us);
	dr_request_int(&request, "rpo_us", d->objectives.rpo_us);
	dr_request_bool(&request, "keep", w->keep);
	dr_request_bool(&request, "amcheck", w->amcheck);
	appendStringInfoString(&request, d->assertions.data);
	dr_request_end(&request);
	dr_child_request(d->child, &request);
	pfree(request.data);
}

/* ---- events ---- */

static int64
optional_int(const DrEvent *event, const char *key)
{
	return dr_event_json(event, key) == NULL ? -1 : dr_event_int(event, key);
}

static char *
optional_text(Drill *d, const DrEvent *event, const char *key)
{
	char	   *text = dr_event_text(event, key, false);

	return text ? MemoryContextStrdup(d->context, text) : NULL;
}

static DrOutcome
outcome_of(const DrEvent *event)
{
	char	   *verdict = dr_event_text(event, "verdict", true);

	if (strcmp(verdict, "passed") == 0)
		return DR_OUTCOME_COMPLETED;
	if (strcmp(verdict, "missed objective") == 0)
		return DR_OUTCOME_MISSED;
	if (strcmp(verdict, "failed") != 0)
		dr_protocol_error("A drill has an unknown verdict.");
	return DR_OUTCOME_FAILED;
}

static void
take_done(Drill *d, const DrEvent *event)
{
	DrDrillResult *r = &d->result;
	char	   *checks = dr_event_json(event, "checks");
	char	   *message = dr_event_text(event, "message", false);

	r->backup = optional_text(d, event, "backup");
	r->target = optional_text(d, event, "target");
	r->kept = optional_text(d, event, "sandbox");
	r->checks = checks ? MemoryContextStrdup(d->context, checks) : NULL;
	r->restore_us = optional_int(event, "restore_us");
	r->recovery_us = optional_int(event, "recovery_us");
	r->start_us = optional_int(event, "start_us");
	r->checks_us = optional_int(event, "checks_us");
	r->stop_us = optional_int(event, "stop_us");
	r->remove_us = optional_int(event, "remove_us");
	r->rto_us = optional_int(event, "rto_us");
	r->rpo_us = optional_int(event, "rpo_us");
	r->rto_missed = dr_event_bool(event, "rto_missed");
	r->rpo_missed = dr_event_bool(event, "rpo_missed");
	r->recovery_point = dr_event_time(event, "recovery_point");
	r->reached = dr_event_lsn(event, "reached_lsn");
	r->bytes = dr_event_int(event, "bytes");
	r->wal_bytes = dr_event_int(event, "wal_bytes");
	d->job.outcome = outcome_of(event);
	if (message != NULL)
		dr_report_set(&d->job.report, ERRCODE_DATA_CORRUPTED, message, dr_event_text(event, "detail", false),
					  dr_event_text(event, "hint", false));
	else if (d->job.outcome == DR_OUTCOME_MISSED)
		dr_report_set(&d->job.report, ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
					  r->rto_missed && r->rpo_missed ? "the objectives for RTO and RPO were missed" :
					  r->rto_missed ? "the objective for RTO was missed" : "the objective for RPO was missed", NULL, NULL);
	d->has_result = true;
}

static void
on_progress(Drill *d, const DrEvent *event)
{
	if (dr_child_is_held(d->child))
		return;					/* the phase says so; nothing moves */
	strlcpy(d->job.phase, dr_event_text(event, "phase", true), sizeof(d->job.phase));
	d->job.bytes_done = dr_event_int(event, "bytes_done");
	d->job.bytes_total = dr_event_int(event, "bytes_total");
	dr_job_progress(d->slot, &d->job);
}

static void
dispatch(Drill *d, const DrEvent *event)
{
	char		phase[DR_PHASE_MAX + 1];

	if (dr_event_is(event, "progress"))
		on_progress(d, event);
	else if (dr_event_is(event, "warning"))
		dr_job_warn(d->slot, dr_event_text(event, "message", true));
	else if (dr_event_is(event, "held"))
	{
		snprintf(phase, sizeof(phase), "held at %s", dr_event_text(event, "step", true));
		dr_job_phase(d->slot, phase, false);
	}
	else if (dr_event_is(event, "error"))
		dr_event_raise(event);
	else if (dr_event_is(event, "done"))
		take_done(d, event);
	else if (!dr_event_is(event, "alive"))
		dr_protocol_error(psprintf("Event \"%s\" was not expected.", event->name));
}

static void
converse(Drill *d)
{
	MemoryContext scratch = AllocSetContextCreate(d->context, "pg_dr drill event", ALLOCSET_DEFAULT_SIZES);
	TimestampTz heard_at = GetCurrentTimestamp();

	MemoryContextSwitchTo(scratch);
	while (!d->has_result)
	{
		DrEvent		event;

		dr_job_check_cancel(d->slot);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		MemoryContextReset(scratch);
		if (dr_child_receive(d->child, 1000, &event))
		{
			heard_at = GetCurrentTimestamp();
			dispatch(d, &event);
		}
		else if (!dr_child_is_held(d->child) && TimestampDifferenceExceeds(heard_at, GetCurrentTimestamp(), SILENCE_MS))
			ereport(ERROR,
					(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
					 errmsg("the pg_dr program has not said anything for %d seconds", SILENCE_MS / 1000)));
	}
	MemoryContextSwitchTo(d->context);
}

/* ---- the drill ---- */

static void
make_drill(Drill *d)
{
	XLogRecPtr	flushed = GetFlushRecPtr(NULL); /* what a disaster at this moment should leave us with */

	dr_job_check_cancel(d->slot);
	dr_catalogue_run(begin_row, d);
	d->job.row_exists = true;
	dr_job_row_exists(d->slot);
	dr_job_hold(d->slot, "drill.row");
	dr_catalogue_run(read_wishes, d);
	dr_job_phase(d->slot, "opening the repository", true);
	dr_job_check_cancel(d->slot);
	d->child_started = true;
	d->child = dr_child_open(false);
	dr_job_phase(d->slot, "starting", false);
	send_request(d, flushed);
	converse(d);
	d->job.ended_at = dr_now();
	dr_job_outcome(d->slot, &d->job);
	dr_job_hold(d->slot, "drill.done");
}

/* ---- its end ---- */

static void
stop_child(Drill *d)
{
	DrChild    *child = d->child;

	d->child = NULL;
	dr_child_stop(child, DR_GRACE_NONE);
}

/* In PG_CATCH. */
static void
end_with_error(Drill *d)
{
	ErrorData  *error = dr_job_caught(d->context);

	if (d->has_result)
		return;					/* its verdict stands */
	dr_job_not_done(d->slot, &d->job, error);
}

/* What a child that was ended has left: the next one removes it, or housekeeping will. */
static void
sweep(Drill *d)
{
	if (!d->child_started || d->has_result)
		return;
	dr_job_phase(d->slot, "removing", false);
	PG_TRY();
	{
		dr_sweep_sandboxes(d->directory);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(d->context);
		HOLD_INTERRUPTS();		/* ereport looks for them, and nobody catches us here */
		EmitErrorReport();
		FlushErrorState();
		RESUME_INTERRUPTS();
		dr_lock(LW_EXCLUSIVE);
		dr_shared->want_leftovers = true;
		dr_unlock();
	}
	PG_END_TRY();
}

static void
write_final_row(void *arg)
{
	Drill	   *d = arg;

	dr_finish_drill(&d->job, d->has_result ? &d->result : NULL, &d->objectives);
}

static void
finish(Drill *d)
{
	const DrReport *r = &d->job.report;

	d->job.ended_at = dr_now();
	dr_job_outcome(d->slot, &d->job);
	ereport(LOG,
			(errmsg("drill %s %s%s%s", d->job.id, dr_outcome_name(DR_JOB_DRILL, d->job.outcome),
					r->message[0] ? ": " : "", r->message),
			 r->detail[0] ? errdetail_internal("%s", r->detail) : 0));
	if (d->job.row_exists && dr_catalogue_try(write_final_row, d, ROW_ATTEMPTS, "a drill's final row"))
		dr_job_row_final(d->slot, d->job.number);
}

/* Every exit comes through here, with a code of 0 or not. */
static void
at_exit(int code, Datum arg)
{
	dr_child_stop_all();
	if (code != 0)
	{
		dr_lock(LW_EXCLUSIVE);
		dr_shared->want_leftovers = true;
		dr_unlock();
	}
	dr_job_end(DatumGetInt32(arg));	/* wakes the launcher */
}

static void
run(Drill *d)
{
	PG_TRY();
	{
		make_drill(d);
	}
	PG_CATCH();
	{
		end_with_error(d);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(d->context);
	stop_child(d);
	sweep(d);
	finish(d);
}

void
dr_drill_worker_main(Datum arg)
{
	Drill	   *d;

	d = MemoryContextAllocZero(TopMemoryContext, sizeof(Drill));
	d->context = AllocSetContextCreate(TopMemoryContext, "pg_dr drill", ALLOCSET_DEFAULT_SIZES);
	d->slot = DatumGetInt32(arg);
	dr_job_begin(d->slot, at_exit, &d->job);
	MemoryContextSwitchTo(d->context);
	d->directory = pstrdup(dr_drill_directory);
	initStringInfo(&d->assertions);

	dr_worker_connect(psprintf("pg_dr drill %s", d->job.id));
	run(d);
	proc_exit(0);
}
