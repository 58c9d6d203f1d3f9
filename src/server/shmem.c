/*
 * shmem.c
 *	  What the module's processes tell each other.
 *
 * One idea: a slot always says who still needs it, so that it can be given
 * back by whoever is the last, in whatever order caller, worker and
 * housekeeping end.
 *
 * A crash of any process that holds the lock restarts the server, which starts
 * with empty slots; the rows that were left behind are marked by housekeeping.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include <signal.h>

#include "access/transam.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "shmem.h"

DrShared   *dr_shared;

static shmem_request_hook_type next_request_hook;
static shmem_startup_hook_type next_startup_hook;

static void
request_shmem(void)
{
	if (next_request_hook)
		next_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(DrShared)));
	RequestNamedLWLockTranche("pg_dr", 1);
}

static void
startup_shmem(void)
{
	bool		found;

	if (next_startup_hook)
		next_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	dr_shared = ShmemInitStruct("pg_dr", sizeof(DrShared), &found);
	if (!found)
	{
		memset(dr_shared, 0, sizeof(DrShared));
		dr_shared->lock = &GetNamedLWLockTranche("pg_dr")->lock;
		dr_shared->want_leftovers = true;
		dr_shared->want_sync = true;
	}
	LWLockRelease(AddinShmemInitLock);
}

void
dr_install_shmem_hooks(void)
{
	next_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	next_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}

void
dr_require_shmem(void)
{
	if (dr_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_dr must be loaded through shared_preload_libraries"),
				 errhint("Add \"pg_dr\" to shared_preload_libraries and restart the server.")));
}

const char *
dr_job_noun(DrJobType type)
{
	return type == DR_JOB_DRILL ? "drill" : "backup";
}

const char *
dr_outcome_name(DrJobType type, DrOutcome outcome)
{
	switch (outcome)
	{
		case DR_OUTCOME_RUNNING:
			return "running";
		case DR_OUTCOME_COMPLETED:
			return type == DR_JOB_DRILL ? "passed" : "completed";
		case DR_OUTCOME_CORRUPT:
			return "completed with corruption";
		case DR_OUTCOME_MISSED:
			return "missed objective";
		case DR_OUTCOME_FAILED:
			return "failed";
		case DR_OUTCOME_CANCELLED:
			return "cancelled";
		case DR_OUTCOME_INTERRUPTED:
			return "interrupted";
	}
	return "unknown";
}

/* Cut at a character, not inside of one. */
static void
copy_text(char *to, size_t size, const char *from)
{
	size_t		len = from ? strlen(from) : 0;

	if (len >= size)
		len = pg_mbcliplen(from, len, size - 1);
	memcpy(to, from ? from : "", len);
	to[len] = '\0';
}

void
dr_report_set(DrReport *report, int sqlstate, const char *message, const char *detail,
			  const char *hint)
{
	report->sqlstate = sqlstate;
	copy_text(report->message, sizeof(report->message), message);
	copy_text(report->detail, sizeof(report->detail), detail);
	copy_text(report->hint, sizeof(report->hint), hint);
}

/* ---- latches ---- */

static void
wake(Latch *latch)
{
	if (latch != NULL)
		SetLatch(latch);
}

void
dr_wake_launcher(void)
{
	wake(dr_shared->launcher_latch);
}

bool
dr_launcher_is_there(void)
{
	bool		there;

	dr_lock(LW_SHARED);
	there = dr_shared->launcher_latch != NULL;
	dr_unlock();
	return there;
}

void
dr_want_sync(void)
{
	dr_lock(LW_EXCLUSIVE);
	dr_shared->want_sync = true;
	dr_unlock();
	dr_wake_launcher();
}

/* ---- jobs ---- */

static bool
at_work(const DrJob *job)
{
	return job->state == DR_JOB_REQUESTED || job->state == DR_JOB_RUNNING;
}

/* The lock is held.  Nobody needs it any more? */
static void
free_if_done(DrJob *job)
{
	if (job->state == DR_JOB_ENDED && job->caller_pid == 0 && (job->row_final || !job->row_exists))
		job->state = DR_JOB_FREE;
}

/* A free slot, else one that waits for nothing but housekeeping, the oldest; or -1. */
static int
find_slot(void)
{
	int			oldest = -1;

	for (int i = 0; i < DR_MAX_JOBS; i++)
	{
		DrJob	   *job = &dr_shared->jobs[i];

		if (job->state == DR_JOB_FREE)
			return i;
		if (job->state == DR_JOB_ENDED && job->caller_pid == 0 &&
			(oldest < 0 || job->number < dr_shared->jobs[oldest].number))
			oldest = i;
	}
	/* Its row is left in state running; housekeeping will call it interrupted. */
	if (oldest >= 0)
		dr_shared->want_leftovers = true;
	return oldest;
}

int
dr_job_reserve(const DrJob *wanted, DrJob *running, uint64 *number)
{
	int			slot = -1;

	running->state = DR_JOB_FREE;
	dr_lock(LW_EXCLUSIVE);
	for (int i = 0; i < DR_MAX_JOBS; i++)
	{
		if (at_work(&dr_shared->jobs[i]) && dr_shared->jobs[i].type == wanted->type)
			*running = dr_shared->jobs[i];
	}
	if (running->state == DR_JOB_FREE)
		slot = find_slot();
	if (slot >= 0)
	{
		DrJob	   *job = &dr_shared->jobs[slot];

		*job = *wanted;
		job->state = DR_JOB_REQUESTED;
		job->number = *number = ++dr_shared->jobs_made;
		job->caller_pid = MyProcPid;
		job->caller_latch = MyLatch;
	}
	dr_unlock();
	return slot;
}

bool
dr_job_attach(int slot, uint64 number)
{
	DrJob	   *job = &dr_shared->jobs[slot];
	bool		ok;

	dr_lock(LW_EXCLUSIVE);
	ok = job->state == DR_JOB_REQUESTED && job->number == number;
	if (ok)
	{
		job->state = DR_JOB_RUNNING;
		job->worker_pid = MyProcPid;
		job->worker_latch = MyLatch;
		job->started_at = dr_now();
		copy_text(job->phase, sizeof(job->phase), "starting");
		wake(job->caller_latch);
	}
	dr_unlock();
	return ok;
}

void
dr_job_read(int slot, DrJob *copy)
{
	dr_lock(LW_SHARED);
	*copy = dr_shared->jobs[slot];
	dr_unlock();
}

/* The lock is held. */
static void
cancel_job(DrJob *job)
{
	job->cancel_requested = true;
	wake(job->worker_latch);
	if (job->signal_worker && job->worker_pid != 0)
		kill(job->worker_pid, SIGINT);
}

bool
dr_job_cancel(const char *id)
{
	bool		found = false;

	dr_lock(LW_EXCLUSIVE);
	for (int i = 0; i < DR_MAX_JOBS; i++)
	{
		DrJob	   *job = &dr_shared->jobs[i];

		if (at_work(job) && strcmp(job->id, id) == 0)
		{
			cancel_job(job);
			found = true;
		}
	}
	dr_unlock();
	return found;
}

bool
dr_job_cancel_requested(int slot)
{
	bool		requested;

	dr_lock(LW_SHARED);
	requested = dr_shared->jobs[slot].cancel_requested;
	dr_unlock();
	return requested;
}

/*
 * With signal_worker, a cancel interrupts the worker like pg_cancel_backend:
 * it is about to wait in code that knows nothing of us.
 */
void
dr_job_phase(int slot, const char *phase, bool signal_worker)
{
	DrJob	   *job = &dr_shared->jobs[slot];

	dr_lock(LW_EXCLUSIVE);
	copy_text(job->phase, sizeof(job->phase), phase);
	job->signal_worker = signal_worker;
	dr_unlock();
}

void
dr_job_warn(int slot, const char *message)
{
	DrJob	   *job = &dr_shared->jobs[slot];

	dr_lock(LW_EXCLUSIVE);
	if (job->warnings < DR_MAX_WARNINGS)
		copy_text(job->warning[job->warnings], DR_WARNING_MAX + 1, message);
	job->warnings++;
	dr_unlock();
}

void
dr_job_row_exists(int slot)
{
	dr_lock(LW_EXCLUSIVE);
	dr_shared->jobs[slot].row_exists = true;
	dr_unlock();
}

void
dr_job_progress(int slot, const DrJob *job)
{
	DrJob	   *to = &dr_shared->jobs[slot];

	dr_lock(LW_EXCLUSIVE);
	strlcpy(to->phase, job->phase, sizeof(to->phase));
	to->bytes_done = job->bytes_done;
	to->bytes_total = job->bytes_total;
	to->files_done = job->files_done;
	to->files_total = job->files_total;
	to->bytes_stored = job->bytes_stored;
	dr_unlock();
}

void
dr_job_outcome(int slot, const DrJob *job)
{
	DrJob	   *to = &dr_shared->jobs[slot];

	dr_lock(LW_EXCLUSIVE);
	to->outcome = job->outcome;
	to->ended_at = job->ended_at;
	to->timeline = job->timeline;
	to->start_lsn = job->start_lsn;
	to->stop_lsn = job->stop_lsn;
	to->figures = job->figures;
	to->manifest_size = job->manifest_size;
	memcpy(to->manifest_sha256, job->manifest_sha256, sizeof(to->manifest_sha256));
	to->report = job->report;
	dr_unlock();
}

void
dr_job_end(int slot)
{
	DrJob	   *job = &dr_shared->jobs[slot];
	TimestampTz now = GetCurrentTimestamp();

	dr_lock(LW_EXCLUSIVE);
	if (job->outcome == DR_OUTCOME_RUNNING)
	{
		job->outcome = DR_OUTCOME_INTERRUPTED;
		job->ended_at = now;
		dr_report_set(&job->report, ERRCODE_ADMIN_SHUTDOWN,
					  job->type == DR_JOB_DRILL ? "the drill's worker was terminated" : "the backup's worker was terminated",
					  NULL, "The server log may say why.");
	}
	job->state = DR_JOB_ENDED;
	job->worker_pid = 0;
	job->worker_latch = NULL;
	job->signal_worker = false;
	wake(job->caller_latch);
	free_if_done(job);
	dr_unlock();
	dr_wake_launcher();
}

void
dr_job_row_final(int slot, uint64 number)
{
	DrJob	   *job = &dr_shared->jobs[slot];

	dr_lock(LW_EXCLUSIVE);
	if (job->number == number)
	{
		job->row_final = true;
		free_if_done(job);
	}
	dr_unlock();
}

void
dr_job_leave(int slot, uint64 number, bool with_cancel)
{
	DrJob	   *job = &dr_shared->jobs[slot];

	dr_lock(LW_EXCLUSIVE);
	if (job->number == number)
	{
		job->caller_pid = 0;
		job->caller_latch = NULL;
		if (with_cancel && at_work(job))
			cancel_job(job);
		/* A worker that comes all the same finds that nobody waits for it. */
		if (job->state == DR_JOB_REQUESTED)
			job->state = DR_JOB_FREE;
		free_if_done(job);
	}
	dr_unlock();
}

bool
dr_job_is_known(const char *id)
{
	bool		known = false;

	dr_lock(LW_SHARED);
	for (int i = 0; i < DR_MAX_JOBS; i++)
	{
		DrJob	   *job = &dr_shared->jobs[i];

		if (job->state != DR_JOB_FREE && !job->row_final && strcmp(job->id, id) == 0)
			known = true;
	}
	dr_unlock();
	return known;
}

int
dr_jobs_at_work(char (*ids)[PGDR_BACKUP_ID_MAX + 1])
{
	int			n = 0;

	dr_lock(LW_SHARED);
	for (int i = 0; i < DR_MAX_JOBS; i++)
	{
		if (at_work(&dr_shared->jobs[i]) && dr_shared->jobs[i].type == DR_JOB_BACKUP)
			strlcpy(ids[n++], dr_shared->jobs[i].id, sizeof(ids[0]));
	}
	dr_unlock();
	return n;
}

struct List *
dr_running_backups(void)
{
	char		(*ids)[PGDR_BACKUP_ID_MAX + 1] = palloc(sizeof(*ids) * DR_MAX_JOBS);
	int			n = dr_jobs_at_work(ids);
	List	   *list = NIL;

	for (int i = 0; i < n; i++)
		list = lappend(list, ids[i]);
	return list;
}

/* ---- the archiver ---- */

void
dr_note_archived(const DrSegment *segment)
{
	DrArchiver *archiver = &dr_shared->archiver;

	dr_lock(LW_EXCLUSIVE);
	archiver->archived_count++;
	strlcpy(archiver->last_archived, segment->name, sizeof(archiver->last_archived));
	archiver->last_archived_at = segment->archived_at;
	if (strlen(segment->name) == 24)
	{
		strlcpy(archiver->last_segment, segment->name, sizeof(archiver->last_segment));
		archiver->last_segment_ended_at = segment->ended_at;
		wake(dr_shared->tail.worker_latch);
	}
	archiver->lineage = DR_LINEAGE_OURS;
	if (dr_shared->ring_head - dr_shared->ring_tail == DR_RING_SIZE)
	{
		dr_shared->want_sync |= dr_shared->ring_tail == dr_shared->ring_written;
		dr_shared->ring_tail++;
		dr_shared->ring_written = Max(dr_shared->ring_written, dr_shared->ring_tail);
	}
	dr_shared->ring[dr_shared->ring_head++ % DR_RING_SIZE] = *segment;
	dr_unlock();
}

void
dr_note_archive_failure(const char *name, const DrReport *report, DrLineage lineage)
{
	DrArchiver *archiver = &dr_shared->archiver;

	dr_lock(LW_EXCLUSIVE);
	archiver->failed_count++;
	strlcpy(archiver->last_failed, name, sizeof(archiver->last_failed));
	archiver->last_failed_at = GetCurrentTimestamp();
	archiver->failure = *report;
	if (lineage != DR_LINEAGE_UNKNOWN)
		archiver->lineage = lineage;
	dr_unlock();
}

uint64
dr_open_generation(void)
{
	uint64		generation;

	dr_lock(LW_SHARED);
	generation = dr_shared->open_generation;
	dr_unlock();
	return generation;
}

uint64
dr_open_anew(void)
{
	uint64		generation;

	dr_lock(LW_EXCLUSIVE);
	generation = ++dr_shared->open_generation;
	dr_unlock();
	return generation;
}

/* After an adoption: what the archiver knew of its rights is history, and the tail may be shipped. */
void
dr_reset_archiver(void)
{
	DrArchiver *archiver = &dr_shared->archiver;

	dr_lock(LW_EXCLUSIVE);
	dr_shared->open_generation++;
	archiver->lineage = DR_LINEAGE_OURS;
	archiver->last_failed[0] = '\0';
	archiver->last_failed_at = 0;
	memset(&archiver->failure, 0, sizeof(archiver->failure));
	wake(dr_shared->tail.worker_latch);
	dr_unlock();
}

/* ---- the tail ---- */

void
dr_tail_worker(Latch *latch)
{
	dr_lock(LW_EXCLUSIVE);
	dr_shared->tail.worker_latch = latch;
	dr_shared->tail.state = DR_TAIL_STARTING;
	dr_shared->tail.sender_pid = 0;
	dr_unlock();
}

void
dr_tail_off(void)
{
	dr_lock(LW_EXCLUSIVE);
	dr_shared->tail.state = DR_TAIL_OFF;
	dr_shared->tail.durable = InvalidXLogRecPtr;
	dr_unlock();
}

void
dr_tail_streaming(int sender_pid)
{
	DrTail	   *tail = &dr_shared->tail;

	dr_lock(LW_EXCLUSIVE);
	tail->state = sender_pid != 0 ? DR_TAIL_STREAMING : DR_TAIL_STARTING;
	tail->sender_pid = sender_pid;
	tail->synchronous = false;
	tail->pieces = tail->bytes = 0;
	dr_unlock();
}

void
dr_tail_synchronous(bool synchronous)
{
	dr_lock(LW_EXCLUSIVE);
	dr_shared->tail.synchronous = synchronous;
	dr_unlock();
}

void
dr_tail_shipped(XLogRecPtr durable, TimestampTz waiting_since, TimestampTz shipped_at,
				int64 pieces, int64 bytes)
{
	DrTail	   *tail = &dr_shared->tail;

	dr_lock(LW_EXCLUSIVE);
	tail->durable = durable;
	tail->waiting_since = waiting_since;
	tail->shipped_at = shipped_at;
	tail->heard_at = GetCurrentTimestamp();
	tail->pieces = pieces;
	tail->bytes = bytes;
	dr_unlock();
}

void
dr_tail_failed(const DrReport *report)
{
	DrTail	   *tail = &dr_shared->tail;

	dr_lock(LW_EXCLUSIVE);
	tail->state = DR_TAIL_FAILED;
	tail->failed_at = GetCurrentTimestamp();
	tail->failure = *report;
	dr_unlock();
}

/* ---- the change map ---- */

void
dr_map_worker(Latch *latch)
{
	DrChangeMap *map = &dr_shared->map;

	dr_lock(LW_EXCLUSIVE);
	map->worker_latch = latch;
	map->state = DR_MAP_STARTING;
	dr_unlock();
}

void
dr_map_off(const char *reason)
{
	DrChangeMap *map = &dr_shared->map;

	dr_lock(LW_EXCLUSIVE);
	map->state = DR_MAP_OFF;
	copy_text(map->reason, sizeof(map->reason), reason);
	map->from = map->durable = map->mapped = InvalidXLogRecPtr;
	map->broken_at = 0;
	dr_unlock();
}

void
dr_map_mapping(void)
{
	dr_lock(LW_EXCLUSIVE);
	dr_shared->map.state = DR_MAP_MAPPING;
	dr_unlock();
}

void
dr_map_begun(const char *why_anew)
{
	DrChangeMap *map = &dr_shared->map;

	if (why_anew[0] == '\0')
		return;
	dr_lock(LW_EXCLUSIVE);
	map->broken_at = GetCurrentTimestamp();
	copy_text(map->broken, sizeof(map->broken), why_anew);
	dr_unlock();
}

void
dr_map_progress(TimeLineID timeline, XLogRecPtr mapped, XLogRecPtr durable, XLogRecPtr from)
{
	DrChangeMap *map = &dr_shared->map;

	dr_lock(LW_EXCLUSIVE);
	map->timeline = timeline;
	map->mapped = mapped;
	map->durable = durable;
	map->from = from;
	dr_unlock();
}

void
dr_map_written(int64 bytes)
{
	dr_lock(LW_EXCLUSIVE);
	dr_shared->map.files++;
	dr_shared->map.bytes += bytes;
	dr_unlock();
}

void
dr_map_failed(const DrReport *report)
{
	DrChangeMap *map = &dr_shared->map;

	dr_lock(LW_EXCLUSIVE);
	map->state = DR_MAP_FAILED;
	map->failed_at = GetCurrentTimestamp();
	map->failure = *report;
	dr_unlock();
}

XLogRecPtr
dr_map_wanted(void)
{
	XLogRecPtr	wanted;

	dr_lock(LW_SHARED);
	wanted = dr_shared->map.wanted;
	dr_unlock();
	return wanted;
}

XLogRecPtr
dr_map_kept_from(void)
{
	XLogRecPtr	keep_from;

	dr_lock(LW_SHARED);
	keep_from = dr_shared->map.keep_from;
	dr_unlock();
	return keep_from;
}

void
dr_map_read(DrChangeMap *copy)
{
	dr_lock(LW_SHARED);
	*copy = dr_shared->map;
	dr_unlock();
}

void
dr_map_want(XLogRecPtr lsn)
{
	DrChangeMap *map = &dr_shared->map;

	dr_lock(LW_EXCLUSIVE);
	map->wanted = Max(map->wanted, lsn);
	wake(map->worker_latch);
	dr_unlock();
}

void
dr_map_keep(XLogRecPtr lsn)
{
	DrChangeMap *map = &dr_shared->map;

	dr_lock(LW_EXCLUSIVE);
	map->keep_from = Max(map->keep_from, lsn);
	wake(map->worker_latch);
	dr_unlock();
}

/* ---- the ring ---- */

/* The lock is held. */
static int
copy_ring(DrSegment *out, int max, uint64 from)
{
	int			n = 0;

	while (n < max && from + n < dr_shared->ring_head)
	{
		out[n] = dr_shared->ring[(from + n) % DR_RING_SIZE];
		n++;
	}
	return n;
}

int
dr_ring_read(DrSegment *out, int max, uint64 *from)
{
	int			n;

	dr_lock(LW_SHARED);
	*from = dr_shared->ring_written;
	n = copy_ring(out, max, *from);
	dr_unlock();
	return n;
}

/*
 * What everybody's snapshot finds in the table goes.  The reader's own is one
 * of them, and was there before.
 */
int
dr_ring_recent(DrSegment *out)
{
	TransactionId oldest = GetOldestNonRemovableTransactionId(NULL);
	int			n;

	dr_lock(LW_EXCLUSIVE);
	if (TransactionIdPrecedesOrEquals(dr_shared->ring_written_xid, oldest))
		dr_shared->ring_tail = dr_shared->ring_written;
	n = copy_ring(out, DR_RING_SIZE, dr_shared->ring_tail);
	dr_unlock();
	return n;
}

/* The archiver may have pushed some of them out meanwhile. */
void
dr_ring_consume(uint64 from, int n)
{
	TransactionId next = XidFromFullTransactionId(ReadNextFullTransactionId());

	dr_lock(LW_EXCLUSIVE);
	dr_shared->ring_written = Max(dr_shared->ring_written, from + n);
	dr_shared->ring_written_xid = next;
	dr_unlock();
}

/* Its places in the ring stay, without a name. */
void
dr_ring_forget(const char *repository, const char *first, const char *last)
{
	dr_lock(LW_EXCLUSIVE);
	for (uint64 i = dr_shared->ring_tail; i < dr_shared->ring_head; i++)
	{
		DrSegment  *s = &dr_shared->ring[i % DR_RING_SIZE];

		if (strlen(s->name) >= 24 && strcmp(s->repository, repository) == 0 &&
			strncmp(s->name, first, 24) >= 0 && strncmp(s->name, last, 24) <= 0)
			s->name[0] = '\0';
	}
	dr_unlock();
}
