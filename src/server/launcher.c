/*
 * launcher.c
 *	  The static worker that starts housekeeping when there is some.
 *
 * One idea: it has shared memory, but no database.  A process that is connected
 * to one for ever is in the way of DROP DATABASE and CREATE DATABASE; so the
 * rows are written by workers that live for a moment, and this one only knows
 * when.
 *
 * An idle cluster stays idle: rows are WAL, WAL makes segments, and archived
 * segments make rows.  With archive_timeout, one round of housekeeping causes
 * at most two segments: its rows in one, and in another the checkpoint that
 * takes place because of them.  So fewer than RING_FEW segments never start
 * housekeeping by themselves, and the circle ends; they are in dr_wal all the
 * same, which reads the ring.
 *
 * The heartbeat keeps to that, too: only transactions of others make one, of
 * which there was none when nothing but housekeeping has written.
 *
 * It never exits with code 0: the postmaster would not start it again.
 *
 * A crash leaves nothing behind: what there is to do is in shared memory, or,
 * after a restart of the server, in the rows themselves.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "pg_dr.h"
#include "shmem.h"
#include "worker.h"

#define NAP_MS				10000
#define BUSY_NAP_MS			1000
#define RING_AGE_MS			10000
#define RING_FEW			4
#define RING_MANY			64
#define BEAT_EVERY_MS		60000
#define BACKOFF_FIRST_MS	2000
#define BACKOFF_MAX_MS		(5 * 60 * 1000)

typedef struct Launcher
{
	BackgroundWorkerHandle *handle; /* NULL: no housekeeping at work */
	TimestampTz not_before;
	int			backoff_ms;		/* after the last failure; 0: it went well */
} Launcher;

void
dr_register_launcher(void)
{
	dr_register_worker("pg_dr launcher", "dr_launcher_main", false, BgWorkerStart_RecoveryFinished);
}

static bool
start_housekeeping(Launcher *l)
{
	BackgroundWorker worker = {0};

	dr_describe_worker(&worker, "pg_dr housekeeping", "dr_housekeeping_main", true);
	return RegisterDynamicBackgroundWorker(&worker, &l->handle);
}

/* ---- is there anything to do? ---- */

/* The lock is held. */
static bool
job_left_its_row(void)
{
	for (int i = 0; i < DR_MAX_JOBS; i++)
	{
		DrJob	   *job = &dr_shared->jobs[i];

		if (job->state == DR_JOB_ENDED && job->row_exists && !job->row_final)
			return true;
	}
	return false;
}

/* The lock is held. */
static bool
ring_is_worth_writing(TimestampTz now)
{
	uint64		n = dr_shared->ring_head - dr_shared->ring_written;
	DrSegment  *oldest = &dr_shared->ring[dr_shared->ring_written % DR_RING_SIZE];

	return n >= RING_MANY ||
		(n >= RING_FEW && TimestampDifferenceExceeds(oldest->archived_at, now, RING_AGE_MS));
}

/* ---- the heartbeat ---- */

void
dr_note_beat(void)
{
	uint64		xid = U64FromFullTransactionId(ReadNextFullTransactionId());

	dr_lock(LW_EXCLUSIVE);
	dr_shared->beat_xid = xid;
	dr_shared->beat_at = GetCurrentTimestamp();
	dr_unlock();
}

bool
dr_beat_is_due(TimestampTz now)
{
	uint64		xid = U64FromFullTransactionId(ReadNextFullTransactionId());
	bool		due;

	dr_lock(LW_SHARED);
	due = xid != dr_shared->beat_xid && TimestampDifferenceExceeds(dr_shared->beat_at, now, BEAT_EVERY_MS);
	dr_unlock();
	return due;
}

static bool
there_is_work(TimestampTz now)
{
	bool		work;
	char	   *name;
	char	   *url;
	bool		configured = dr_primary_repository(&name, &url) && dr_encryption_key_file[0] != '\0';

	dr_lock(LW_SHARED);
	work = dr_shared->want_leftovers || dr_shared->probe.want_row || (dr_shared->want_sync && configured) ||
		job_left_its_row() || ring_is_worth_writing(now);
	dr_unlock();
	return work || (configured && dr_beat_is_due(now));
}

/* ---- the loop ---- */

static void
set_housekeeping(DrHousekeeping state)
{
	dr_lock(LW_EXCLUSIVE);
	dr_shared->housekeeping = state;
	dr_unlock();
}

static void
back_off(Launcher *l, TimestampTz now)
{
	l->backoff_ms = l->backoff_ms == 0 ? BACKOFF_FIRST_MS : Min(l->backoff_ms * 2, BACKOFF_MAX_MS);
	l->not_before = TimestampTzPlusMilliseconds(now, l->backoff_ms);
}

/* A worker that died before it could say anything has failed. */
static void
look_after_housekeeping(Launcher *l, TimestampTz now)
{
	DrHousekeeping state;
	pid_t		pid;

	if (l->handle == NULL || GetBackgroundWorkerPid(l->handle, &pid) != BGWH_STOPPED)
		return;
	pfree(l->handle);
	l->handle = NULL;
	dr_lock(LW_SHARED);
	state = dr_shared->housekeeping;
	dr_unlock();
	if (state == DR_HOUSEKEEPING_DONE)
		l->backoff_ms = 0;
	else
		back_off(l, now);
	set_housekeeping(DR_HOUSEKEEPING_IDLE);
}

static void
start_if_needed(Launcher *l, TimestampTz now)
{
	if (l->handle != NULL || now < l->not_before || !there_is_work(now))
		return;
	set_housekeeping(DR_HOUSEKEEPING_RUNNING);
	if (!start_housekeeping(l))
	{
		l->handle = NULL;
		back_off(l, now);		/* no worker is free */
	}
}

static void
forget_latch(int code, Datum arg)
{
	dr_lock(LW_EXCLUSIVE);
	dr_shared->launcher_latch = NULL;
	dr_unlock();
}

void
dr_launcher_main(Datum arg)
{
	Launcher	l = {0};

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();

	dr_lock(LW_EXCLUSIVE);
	dr_shared->launcher_latch = MyLatch;
	dr_unlock();
	before_shmem_exit(forget_latch, (Datum) 0);
	MemoryContextSwitchTo(TopMemoryContext);
	dr_note_beat();				/* the start itself is no reason for one */

	while (!ShutdownRequestPending)
	{
		TimestampTz now = GetCurrentTimestamp();

		look_after_housekeeping(&l, now);
		start_if_needed(&l, now);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 l.handle != NULL || l.backoff_ms > 0 ? BUSY_NAP_MS : NAP_MS,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
	proc_exit(1);
}
