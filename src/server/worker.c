/*
 * worker.c
 *	  What the module's background workers have in common.
 *
 * Keeps nothing; a crash here is the worker's.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "pg_dr.h"
#include "shmem.h"
#include "worker.h"

void
dr_describe_worker(BackgroundWorker *worker, const char *name, const char *function, bool connected)
{
	strlcpy(worker->bgw_name, name, BGW_MAXLEN);
	strlcpy(worker->bgw_type, name, BGW_MAXLEN);
	strlcpy(worker->bgw_library_name, "pg_dr", sizeof(worker->bgw_library_name));
	strlcpy(worker->bgw_function_name, function, BGW_MAXLEN);
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | (connected ? BGWORKER_BACKEND_DATABASE_CONNECTION : 0);
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
}

void
dr_register_worker(const char *name, const char *function, bool connected, BgWorkerStartTime when)
{
	BackgroundWorker worker = {0};

	if (IsBinaryUpgrade)
		return;
	dr_describe_worker(&worker, name, function, connected);
	worker.bgw_start_time = when;
	worker.bgw_restart_time = 10;
	RegisterBackgroundWorker(&worker);
}

void
dr_worker_connect(const char *application_name)
{
	BackgroundWorkerInitializeConnection(dr_database, NULL, 0);
	SetConfigOption("application_name", application_name, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("search_path", "", PGC_USERSET, PGC_S_SESSION);

	/* Our own commits must never wait for WAL that we are to ship. */
	SetConfigOption("synchronous_commit", "local", PGC_USERSET, PGC_S_SESSION);

	/* What limits or disturbs a user's statements is not meant for us. */
	SetConfigOption("statement_timeout", "0", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption(DR_TRANSACTION_TIMEOUT, "0", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_read_only", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_USERSET, PGC_S_SESSION);

	/* A table that somebody has locked must not hold a backup up. */
	SetConfigOption("lock_timeout", "10s", PGC_USERSET, PGC_S_SESSION);
}

/* ---- the worker of a job ---- */

void
dr_job_begin(int slot, pg_on_exit_callback at_exit, DrJob *job)
{
	uint64		number;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	memcpy(&number, MyBgworkerEntry->bgw_extra, sizeof(number));
	if (!dr_job_attach(slot, number))
		proc_exit(0);			/* nobody waits for us any more */
	before_shmem_exit(at_exit, Int32GetDatum(slot));
	dr_job_read(slot, job);
}

ErrorData *
dr_job_caught(MemoryContext context)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	pgstat_report_wait_end();
	AbortOutOfAnyTransaction();
	MemoryContextSwitchTo(context);
	return error;
}

static char *
cancelled_text(const DrJob *job)
{
	return psprintf("the %s was cancelled", dr_job_noun(job->type));
}

void
dr_job_not_done(int slot, DrJob *job, const ErrorData *error)
{
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED || dr_job_cancel_requested(slot))
	{
		job->outcome = DR_OUTCOME_CANCELLED;
		dr_report_set(&job->report, ERRCODE_QUERY_CANCELED, cancelled_text(job), NULL, NULL);
	}
	else
	{
		job->outcome = DR_OUTCOME_FAILED;
		dr_report_set(&job->report, error->sqlerrcode, error->message, error->detail, error->hint);
	}
}

void
dr_job_check_cancel(int slot)
{
	DrJob		job;

	CHECK_FOR_INTERRUPTS();
	if (!dr_job_cancel_requested(slot))
		return;
	dr_job_read(slot, &job);
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED), errmsg_internal("%s", cancelled_text(&job))));
}

void
dr_job_hold(int slot, const char *step)
{
	char		phase[DR_PHASE_MAX + 1];

	if (strcmp(dr_debug_hold_at, step) != 0)
		return;
	snprintf(phase, sizeof(phase), "held at %s", step);
	dr_job_phase(slot, phase, false);
	ereport(LOG, (errmsg("pg_dr held at step %s", step)));
	for (;;)
	{
		dr_job_check_cancel(slot);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 1000L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
