/*
 * shmem.h
 *	  What the module's processes tell each other.
 *
 * One struct, one lock: nobody waits while he holds it, nobody raises an error
 * under it, and whoever changes something that another process waits for sets
 * that process's latch.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_SHMEM_H
#define PGDR_SHMEM_H

#include "datatype/timestamp.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#include "compat.h"
#include "pg_dr.h"
#include "protocol.h"

#define DR_MAX_JOBS			16
#define DR_MAX_WARNINGS		20
#define DR_RING_SIZE		1024

#define DR_KIND_MAX			15
#define DR_SCENARIO_MAX		31
#define DR_LABEL_MAX		255
#define DR_PHASE_MAX		95
#define DR_TEXT_MAX			1023
#define DR_WARNING_MAX		255
#define DR_WAL_NAME_MAX		63
#define DR_WAL_OBJECT_MAX	127

/* What an error says, cut to size. */
typedef struct DrReport
{
	int			sqlstate;
	char		message[DR_TEXT_MAX + 1];
	char		detail[DR_TEXT_MAX + 1];
	char		hint[DR_TEXT_MAX + 1];
} DrReport;

/*
 * A job's slot goes from free to requested (by the caller), running (the
 * worker is there), ended (it is not any more), and free again when the caller
 * has read it and its row is final.
 */
typedef enum DrJobState
{
	DR_JOB_FREE,
	DR_JOB_REQUESTED,
	DR_JOB_RUNNING,
	DR_JOB_ENDED
} DrJobState;

/* What a job is about; of each type one runs at a time. */
typedef enum DrJobType
{
	DR_JOB_BACKUP,
	DR_JOB_DRILL
} DrJobType;

/* How a job stands; the texts are dr_outcome_name's. */
typedef enum DrOutcome
{
	DR_OUTCOME_RUNNING,
	DR_OUTCOME_COMPLETED,		/* a drill: passed */
	DR_OUTCOME_CORRUPT,			/* backups only */
	DR_OUTCOME_MISSED,			/* drills only: an objective */
	DR_OUTCOME_FAILED,
	DR_OUTCOME_CANCELLED,
	DR_OUTCOME_INTERRUPTED
} DrOutcome;

/* What the manifest of a complete backup says of it. */
typedef struct DrFigures
{
	int64		files;
	int64		bytes;
	int64		bytes_read;
	int64		bytes_changed;
	int64		bytes_stored;
	int64		bytes_referenced;
	int64		restore_bytes;
	int64		restore_requests;
	int64		packs;
	int64		corrupt_pages;
	char		parent[PGDR_BACKUP_ID_MAX + 1];	/* empty: none */
	char		full_scan[DR_WARNING_MAX + 1];	/* empty: what was unchanged was not read */
} DrFigures;

/* What is wanted of a drill. */
typedef struct DrDrillWanted
{
	char		backup[PGDR_BACKUP_ID_MAX + 1];	/* empty: the newest that suits */
	char		scenario[DR_SCENARIO_MAX + 1];
	TimestampTz target_time;	/* 0: none */
	bool		keep;
	bool		amcheck;
} DrDrillWanted;

typedef struct DrJob
{
	DrJobState	state;
	DrJobType	type;
	uint64		number;			/* tells the slot's users apart */

	/* what is wanted; fixed when requested */
	char		id[PGDR_BACKUP_ID_MAX + 1];
	char		kind[DR_KIND_MAX + 1];
	char		parent[PGDR_BACKUP_ID_MAX + 1];	/* of an incremental one; empty: none */
	char		label[DR_LABEL_MAX + 1];
	bool		has_label;
	bool		fast;
	DrDrillWanted drill;
	char		repository[DR_REPOSITORY_NAME_MAX + 1];
	char		requested_by[NAMEDATALEN];
	TimestampTz requested_at;

	/* who is there; latches are NULL when nobody waits */
	int			caller_pid;
	Latch	   *caller_latch;
	int			worker_pid;
	Latch	   *worker_latch;
	bool		cancel_requested;
	bool		signal_worker;	/* it waits inside the server: a latch isn't enough */

	/* how far it is */
	TimestampTz started_at;
	char		phase[DR_PHASE_MAX + 1];
	int64		bytes_done;
	int64		bytes_total;
	int64		files_done;
	int64		files_total;
	int64		bytes_stored;
	int			warnings;		/* given, kept or not */
	char		warning[DR_MAX_WARNINGS][DR_WARNING_MAX + 1];

	/* how it ended, and what its row will say */
	DrOutcome	outcome;
	TimestampTz ended_at;
	bool		row_exists;
	bool		row_final;
	TimeLineID	timeline;
	XLogRecPtr	start_lsn;
	XLogRecPtr	stop_lsn;
	DrFigures	figures;
	int64		manifest_size;
	uint8		manifest_sha256[32];
	DrReport	report;
} DrJob;

/* A WAL file that is in the repository and not yet in the catalogue. */
typedef struct DrSegment
{
	char		repository[DR_REPOSITORY_NAME_MAX + 1];
	char		name[DR_WAL_NAME_MAX + 1];
	char		object[DR_WAL_OBJECT_MAX + 1];
	int64		size;
	uint8		sha256[32];
	TimestampTz archived_at;
	TimestampTz ended_at;		/* when the file was written last */
} DrSegment;

typedef enum DrLineage
{
	DR_LINEAGE_UNKNOWN,			/* nobody has asked since the server started */
	DR_LINEAGE_OURS,
	DR_LINEAGE_FOREIGN
} DrLineage;

typedef struct DrArchiver
{
	int64		archived_count;
	int64		failed_count;
	char		last_archived[DR_WAL_NAME_MAX + 1];
	char		last_segment[DR_WAL_NAME_MAX + 1];	/* the same, of segments alone */
	TimestampTz last_segment_ended_at;
	TimestampTz last_archived_at;
	char		last_failed[DR_WAL_NAME_MAX + 1];
	TimestampTz last_failed_at;
	DrReport	failure;
	DrLineage	lineage;
} DrArchiver;

/* How the tail of the WAL stands. */
typedef enum DrTailState
{
	DR_TAIL_OFF,				/* not wanted, or not configured */
	DR_TAIL_STARTING,
	DR_TAIL_STREAMING,
	DR_TAIL_FAILED				/* to be tried again */
} DrTailState;

typedef struct DrTail
{
	Latch	   *worker_latch;
	DrTailState state;
	int			sender_pid;
	bool		synchronous;	/* commits wait for us */
	XLogRecPtr	durable;		/* all before is in the repository; 0: not known */
	TimestampTz waiting_since;	/* of the oldest byte that isn't; 0: all are */
	TimestampTz shipped_at;		/* what was written until then is in pieces; 0: nothing is */
	TimestampTz heard_at;
	int64		pieces;			/* stored by this child */
	int64		bytes;
	TimestampTz failed_at;
	DrReport	failure;
} DrTail;

/* How the change map stands. */
typedef enum DrMapState
{
	DR_MAP_OFF,					/* reason says why */
	DR_MAP_STARTING,
	DR_MAP_MAPPING,
	DR_MAP_FAILED				/* to be tried again */
} DrMapState;

typedef struct DrChangeMap
{
	Latch	   *worker_latch;
	DrMapState	state;
	char		reason[DR_WARNING_MAX + 1];

	/* when it maps: from <= durable <= mapped */
	TimeLineID	timeline;
	XLogRecPtr	from;			/* all from here on is known */
	XLogRecPtr	durable;		/* and in files up to here */
	XLogRecPtr	mapped;			/* and read up to here */
	int64		files;			/* written since the server started */
	int64		bytes;

	/* the last time that it could not be continued; 0: not since the server started */
	TimestampTz broken_at;
	char		broken[DR_WARNING_MAX + 1];

	/* what backups want of it */
	XLogRecPtr	wanted;			/* all before is to be durable */
	XLogRecPtr	keep_from;		/* what lies before is of no use */

	TimestampTz failed_at;
	DrReport	failure;
} DrChangeMap;

/* What the last probe found out about the store. */
#define DR_PROBE_ROWS	12

typedef struct DrProbeRow
{
	char		name[32];
	char		status[12];
	char		detail[512];
	char		hint[512];
} DrProbeRow;

typedef struct DrProbe
{
	char		repository[DR_REPOSITORY_NAME_MAX + 1];
	TimestampTz probed_at;
	bool		want_row;		/* not in the catalogue yet */
	int			n;
	DrProbeRow	rows[DR_PROBE_ROWS];
} DrProbe;

typedef enum DrHousekeeping
{
	DR_HOUSEKEEPING_IDLE,
	DR_HOUSEKEEPING_RUNNING,
	DR_HOUSEKEEPING_DONE,		/* the last one did all there was to do */
	DR_HOUSEKEEPING_FAILED
} DrHousekeeping;

/*
 * Something long that a session does itself: a verification, a check of pages.
 * Whoever has no slot does it all the same, unseen.
 */
#define DR_MAX_TASKS	8

typedef struct DrTask
{
	int			pid;			/* 0: the slot is free */
	char		id[PGDR_BACKUP_ID_MAX + 1];
	char		kind[DR_KIND_MAX + 1];
	char		what[DR_LABEL_MAX + 1];
	char		requested_by[NAMEDATALEN];
	TimestampTz started_at;
	char		phase[DR_PHASE_MAX + 1];
	int64		bytes_done;
	int64		bytes_total;
	int64		files_done;
	bool		cancel_requested;
} DrTask;

typedef struct DrShared
{
	LWLock	   *lock;
	Latch	   *launcher_latch;
	uint64		jobs_made;
	DrJob		jobs[DR_MAX_JOBS];
	DrTask		tasks[DR_MAX_TASKS];

	DrArchiver	archiver;
	DrTail		tail;
	DrChangeMap map;
	uint64		open_generation;	/* moves when the archiver's program must open anew */

	/*
	 * ring[i % DR_RING_SIZE] for ring_tail <= i < ring_head.  Those before
	 * ring_written are in the table, too, and stay for snapshots that don't
	 * see them there: such as began before transaction ring_written_xid.
	 */
	uint64		ring_head;
	uint64		ring_written;
	uint64		ring_tail;
	TransactionId ring_written_xid;
	DrSegment	ring[DR_RING_SIZE];

	DrProbe		probe;
	bool		want_leftovers;	/* rows of an earlier life may say running, and sandboxes may be there */
	bool		want_sync;		/* segments were archived that the ring didn't keep */
	DrHousekeeping housekeeping;

	/* heartbeats: the next transaction when the last one was written */
	uint64		beat_xid;
	TimestampTz beat_at;
} DrShared;

/* NULL when the module was not preloaded. */
extern DrShared *dr_shared;

extern void dr_install_shmem_hooks(void);

/* ERROR unless preloaded. */
extern void dr_require_shmem(void);

static inline void
dr_lock(LWLockMode mode)
{
	LWLockAcquire(dr_shared->lock, mode);
}

static inline void
dr_unlock(void)
{
	LWLockRelease(dr_shared->lock);
}

extern const char *dr_outcome_name(DrJobType type, DrOutcome outcome);

/* "backup", "drill" */
extern const char *dr_job_noun(DrJobType type);

/* Whom to wake; the lock need not be held. */
extern void dr_wake_launcher(void);
extern bool dr_launcher_is_there(void);

/* Have an inventory taken soon. */
extern void dr_want_sync(void);

/*
 * job.c: ask for a job, start its worker, and stay until that is there, or, with
 * wait, until it has ended; *job is then how it stands.
 */
extern void dr_job_set_id(DrJob *job);
extern void dr_job_run(DrJob *job, bool wait);

/* What its worker failed with. */
pg_noreturn extern void dr_job_raise(const DrJob *job);

/*
 * Jobs.  reserve returns a slot, or -1 and in *running the job of its type that
 * is in the way, or -1 and running->state free when every slot is taken.
 */
extern int	dr_job_reserve(const DrJob *wanted, DrJob *running, uint64 *number);
extern bool dr_job_attach(int slot, uint64 number);
extern void dr_job_read(int slot, DrJob *copy);
extern bool dr_job_cancel(const char *id);
extern bool dr_job_cancel_requested(int slot);
extern void dr_job_phase(int slot, const char *phase, bool signal_worker);
extern void dr_job_warn(int slot, const char *message);
extern void dr_job_row_exists(int slot);

/* How far it is, and what its row will say: from the worker's own copy. */
extern void dr_job_progress(int slot, const DrJob *job);
extern void dr_job_outcome(int slot, const DrJob *job);

/* The worker is about to go.  A job without outcome was interrupted. */
extern void dr_job_end(int slot);

/* The row says how it ended. */
extern void dr_job_row_final(int slot, uint64 number);

/* The caller goes; with_cancel when the backup must go, too. */
extern void dr_job_leave(int slot, uint64 number, bool with_cancel);

/* Is a job of this id at work, or not yet final in the catalogue? */
extern bool dr_job_is_known(const char *id);

/* The backups that are at work: room for DR_MAX_JOBS ids. */
extern int	dr_jobs_at_work(char (*ids)[PGDR_BACKUP_ID_MAX + 1]);

/* The same as a list of texts; palloc'd. */
extern struct List *dr_running_backups(void);

/*
 * Tasks (task.c).  begin makes the id and remembers the slot; end is to be called
 * on every way out.
 */
extern int	dr_task_begin(DrTask *task, const char *kind, const char *what);	/* -1: no slot was free */
extern void dr_task_progress(int slot, const char *phase, int64 bytes_done, int64 bytes_total, int64 files_done);
extern void dr_task_read(int slot, DrTask *copy);
extern bool dr_task_cancel(const char *id);
extern void dr_task_end(int slot);

/* The archiver's part. */
extern void dr_note_archived(const DrSegment *segment);
extern void dr_note_archive_failure(const char *name, const DrReport *report, DrLineage lineage);
extern uint64 dr_open_generation(void);
/* Let the archiver's program open anew; the generation that begins. */
extern uint64 dr_open_anew(void);
extern void dr_reset_archiver(void);

/* The WAL worker's part: its latch (NULL: it goes), and what its child says. */
extern void dr_tail_worker(Latch *latch);
extern void dr_tail_off(void);
extern void dr_tail_streaming(int sender_pid);	/* 0: no longer */
extern void dr_tail_synchronous(bool synchronous);
extern void dr_tail_shipped(XLogRecPtr durable, TimestampTz waiting_since, TimestampTz shipped_at,
							int64 pieces, int64 bytes);
extern void dr_tail_failed(const DrReport *report);

/* The change map's part, of its worker (whose latch is NULL when it goes)... */
extern void dr_map_worker(Latch *latch);
extern void dr_map_off(const char *reason);
extern void dr_map_mapping(void);
extern void dr_map_begun(const char *why_anew);	/* empty: there was nothing to continue */
extern void dr_map_progress(TimeLineID timeline, XLogRecPtr mapped, XLogRecPtr durable, XLogRecPtr from);
extern void dr_map_written(int64 bytes);
extern void dr_map_failed(const DrReport *report);
extern XLogRecPtr dr_map_wanted(void);
extern XLogRecPtr dr_map_kept_from(void);

/* ... and of those who ask it. */
extern void dr_map_read(DrChangeMap *copy);
extern void dr_map_want(XLogRecPtr lsn);
extern void dr_map_keep(XLogRecPtr lsn);

/*
 * Up to max of the oldest segments of the ring that nobody has written to the
 * table; *from is what dr_ring_consume wants, when the transaction that wrote
 * them has ended.
 */
extern int	dr_ring_read(DrSegment *out, int max, uint64 *from);
extern void dr_ring_consume(uint64 from, int n);

/* All that somebody who reads the table may not find there; room for DR_RING_SIZE. */
extern int	dr_ring_recent(DrSegment *out);

/* Files of segments from first to last are in the repository no more: whoever reads the ring finds them without a name. */
extern void dr_ring_forget(const char *repository, const char *first, const char *last);

extern void dr_report_set(DrReport *report, int sqlstate, const char *message,
						  const char *detail, const char *hint);

#endif							/* PGDR_SHMEM_H */
