/*
 * worker.h
 *	  What the module's background workers have in common.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_WORKER_H
#define PGDR_WORKER_H

#include "postmaster/bgworker.h"
#include "storage/ipc.h"

#include "shmem.h"

/* One that is never restarted; connected: it takes part in the server's barriers. */
extern void dr_describe_worker(BackgroundWorker *worker, const char *name, const char *function, bool connected);

/* A static one, started again ten seconds after it died.  In _PG_init; not for pg_upgrade, which wants its databases for itself. */
extern void dr_register_worker(const char *name, const char *function, bool connected, BgWorkerStartTime when);

/* What every worker that is connected to a database does first. */
extern void dr_worker_connect(const char *application_name);

/*
 * For the worker of a job.  Its beginning: signals, its job from its slot, and
 * at_exit (code, slot) on every way out; returns only when somebody still waits.
 */
extern void dr_job_begin(int slot, pg_on_exit_callback at_exit, DrJob *job);

/*
 * In PG_CATCH: the error, in this context, which is the current one then; what
 * it interrupted holds nothing any more.  And what it makes of the job.
 */
extern ErrorData *dr_job_caught(MemoryContext context);
extern void dr_job_not_done(int slot, DrJob *job, const ErrorData *error);

/* ERROR when somebody wants it to end; and wait here for ever, if a test says so. */
extern void dr_job_check_cancel(int slot);
extern void dr_job_hold(int slot, const char *step);

#endif							/* PGDR_WORKER_H */
