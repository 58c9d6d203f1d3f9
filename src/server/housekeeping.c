/*
 * housekeeping.c
 *	  What the catalogue needs now and then: one short-lived worker.
 *
 * One idea: each step is its own transaction and can be done again.  What was
 * to be done stays noted in shared memory until it is.
 *
 *	1. rows of jobs whose worker couldn't write them any more
 *	2. rows that say running while no such job exists: an earlier life's, and the
 *	   sandboxes of drills
 *	3. WAL segments that the archiver noted in the ring
 *	4. what the last probe found
 *	5. the repository's inventory, after a start and when the ring ran over
 *	6. the heartbeat, when others have written
 *
 * A crash leaves some of that undone; the launcher starts another one later.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"

#include "catalogue.h"
#include "drill.h"
#include "pg_dr.h"
#include "shmem.h"
#include "worker.h"

#define BATCH_SIZE	256

static DrHousekeeping result = DR_HOUSEKEEPING_FAILED;

static void
report_result(int code, Datum arg)
{
	dr_lock(LW_EXCLUSIVE);
	dr_shared->housekeeping = result;
	dr_unlock();
	dr_wake_launcher();
}

static void
look_for_catalogue(void *exists)
{
	*(bool *) exists = dr_catalogue_exists();
}

/* ---- 1. jobs that ended without a final row ---- */

static void
finish_row(void *arg)
{
	DrJob	   *job = arg;

	if (job->type == DR_JOB_DRILL)
		dr_finish_drill(job, NULL, NULL);
	else
		dr_finish_backup(job);
}

static void
finish_jobs(void)
{
	DrJob	   *job = palloc(sizeof(DrJob));

	for (int i = 0; i < DR_MAX_JOBS; i++)
	{
		dr_job_read(i, job);
		if (job->state != DR_JOB_ENDED || !job->row_exists || job->row_final)
			continue;
		dr_catalogue_run(finish_row, job);
		dr_job_row_final(i, job->number);
	}
	pfree(job);
}

/* ---- 2. rows of an earlier life ---- */

/*
 * First the rows, then the jobs: a worker has its slot before its row, and
 * makes the row final before it gives the slot back.
 */
static void
mark_leftovers_in(void *arg)
{
	List	   *ids = dr_backups_where(NULL, "status = 'running'", CurrentMemoryContext);
	ListCell   *cell;

	foreach(cell, ids)
	{
		char	   *id = lfirst(cell);

		if (dr_job_is_known(id))
			continue;
		if (dr_set_backup_status(id, "running", "interrupted", "the server stopped while the backup was running"))
			ereport(LOG, (errmsg("backup %s was interrupted", id)));
	}
}

typedef struct Drills
{
	List	   *ids;
	List	   *directories;
} Drills;

static void
look_for_drills(void *arg)
{
	Drills	   *d = arg;

	dr_running_drills(&d->ids, &d->directories, GetMemoryChunkContext(d));
}

static void
mark_drills(void *arg)
{
	ListCell   *cell;

	foreach(cell, ((Drills *) arg)->ids)
	{
		char	   *id = lfirst(cell);

		if (!dr_job_is_known(id) && dr_interrupt_drill(id))
			ereport(LOG, (errmsg("drill %s was interrupted", id)));
	}
}

/*
 * First what drills left, where they were and where they would be today, then
 * their rows, which say where.  A directory that can't be looked at now (it is
 * not mounted, perhaps) is no reason to do nothing else.
 */
static void
mark_drill_leftovers(void)
{
	Drills	   *d = palloc0(sizeof(Drills));
	MemoryContext context = CurrentMemoryContext;
	ListCell   *cell;

	dr_catalogue_run(look_for_drills, d);
	if (dr_drill_directory[0] != '\0')
		d->directories = lappend(d->directories, dr_drill_directory);
	foreach(cell, d->directories)
	{
		PG_TRY();
		{
			dr_sweep_sandboxes(lfirst(cell));
		}
		PG_CATCH();
		{
			if (geterrcode() == ERRCODE_ADMIN_SHUTDOWN)
				PG_RE_THROW();
			MemoryContextSwitchTo(context);
			EmitErrorReport();
			FlushErrorState();
		}
		PG_END_TRY();
	}
	dr_catalogue_run(mark_drills, d);
}

static void
mark_leftovers(void)
{
	bool		wanted;

	dr_lock(LW_EXCLUSIVE);
	wanted = dr_shared->want_leftovers;
	dr_shared->want_leftovers = false;
	dr_unlock();
	if (!wanted)
		return;
	if (dr_catalogue_try(mark_leftovers_in, NULL, 1, "interrupted backups"))
	{
		mark_drill_leftovers();
		return;
	}
	dr_lock(LW_EXCLUSIVE);
	dr_shared->want_leftovers = true;
	dr_unlock();
	ereport(ERROR, (errmsg("could not mark interrupted backups")));
}

/* ---- 3. the ring ---- */

typedef struct Batch
{
	DrSegment	segments[BATCH_SIZE];
	int			n;
} Batch;

static void
write_segments(void *arg)
{
	Batch	   *batch = arg;

	dr_insert_segments(batch->segments, batch->n);
}

static void
write_ring(void)
{
	Batch	   *batch = palloc(sizeof(Batch));
	uint64		from;

	for (;;)
	{
		batch->n = dr_ring_read(batch->segments, BATCH_SIZE, &from);
		if (batch->n == 0)
			break;
		dr_catalogue_run(write_segments, batch);
		dr_ring_consume(from, batch->n);
	}
	pfree(batch);
}

/* ---- 4. what the last probe found ---- */

static void
write_probe_rows(void *arg)
{
	dr_replace_probe(arg);
}

static void
write_probe(void)
{
	DrProbe    *probe = palloc(sizeof(DrProbe));

	dr_lock(LW_EXCLUSIVE);
	*probe = dr_shared->probe;
	dr_shared->probe.want_row = false;	/* what is found from now on wants another */
	dr_unlock();
	if (probe->want_row && !dr_catalogue_try(write_probe_rows, probe, 1, "the probe's findings"))
	{
		dr_lock(LW_EXCLUSIVE);
		dr_shared->probe.want_row = true;
		dr_unlock();
		ereport(ERROR, (errmsg("could not record what the probe of the repository found")));
	}
	pfree(probe);
}

/* ---- 5. the inventory ---- */

static void
log_change(void *arg, const char *what, const char *name, const char *detail)
{
	ereport(LOG,
			(errmsg("pg_dr inventory: %s: %s", what, name),
			 detail ? errdetail_internal("%s", detail) : 0));
}

static void
take_inventory(void)
{
	bool		wanted;

	if (dr_repositories[0] == '\0' || dr_encryption_key_file[0] == '\0')
		return;
	dr_lock(LW_EXCLUSIVE);
	wanted = dr_shared->want_sync;
	dr_shared->want_sync = false;	/* who wants one from now on wants another */
	dr_unlock();
	if (!wanted)
		return;
	PG_TRY();
	{
		dr_sync_catalogue(log_change, NULL);
	}
	PG_CATCH();
	{
		dr_lock(LW_EXCLUSIVE);
		dr_shared->want_sync = true;
		dr_unlock();
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* ---- 6. the heartbeat ---- */

static void
write_beat(void *arg)
{
	dr_beat();
}

static void
beat(void)
{
	if (dr_beat_is_due(GetCurrentTimestamp()))
		dr_catalogue_run(write_beat, NULL);
}

void
dr_housekeeping_main(Datum arg)
{
	bool		exists = false;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	before_shmem_exit(report_result, (Datum) 0);
	dr_worker_connect("pg_dr housekeeping");
	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "pg_dr housekeeping",
												ALLOCSET_DEFAULT_SIZES));

	/* Not created yet, or dropped: nothing to keep, but look again. */
	dr_catalogue_run(look_for_catalogue, &exists);
	if (exists)
	{
		finish_jobs();
		mark_leftovers();
		write_ring();
		write_probe();
		take_inventory();
		beat();
		dr_note_beat();			/* what we have written ourselves is no reason for one */
		result = DR_HOUSEKEEPING_DONE;
	}
	proc_exit(0);
}
