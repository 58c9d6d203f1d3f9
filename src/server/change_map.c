/*
 * change_map.c
 *	  The static worker that reads WAL and keeps on disk what it changes.
 *
 * One idea: the map is a row of files, each of which knows all that WAL did to
 * relations from one redo pointer to the next, and an incremental backup reads
 * the files between its own redo pointer and its parent's.  The invariants
 * D1 to D5 are in change_map.h.
 *
 * In each round the flush pointer is asked for first and the redo pointer
 * after it: one that lies before what was flushed then has been met by no
 * record that was read, and is a place to cut.  Two checkpoints between two
 * rounds cost a cut, which costs a backup some blocks, not its truth.
 *
 * Whatever fails costs the next incremental backup its advantage, nothing
 * else.  It is said once, shown in dr_status, and tried again.
 *
 * It is connected to no database, only to what they share, so that it is in
 * pg_stat_activity and can be terminated.  On a standby it drops the slot that
 * a former primary may have left, and waits.
 *
 * A crash loses what was read since the last file; the slot has kept it.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/timeline.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "access/xlogutils.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "replication/slot.h"
#include "storage/condition_variable.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "change_map.h"
#include "pg_dr.h"
#include "shmem.h"
#include "worker.h"

#define IDLE_NAP_MS			10000
#define BEGIN_NAP_MS		1000
#define NAP_FIRST_MS		100
#define NAP_MAX_MS			1000
#define BACKOFF_FIRST_MS	1000
#define BACKOFF_MAX_MS		60000
#define SAY_AGAIN_MS		(10 * 60 * 1000)
#define CLEAN_EVERY_MS		(10 * 60 * 1000)

#define MEMORY_MAX			(64 * 1024 * 1024)
#define ROUND_BYTES			(16 * 1024 * 1024)

/* Who reads WAL, and how far he may. */
typedef struct Source
{
	TimeLineID	timeline;
	XLogRecPtr	flushed;
	bool		ended;			/* the last call wanted more than that */
} Source;

typedef struct MapWorker
{
	/* while it maps: all that is not NULL */
	XLogReaderState *reader;
	MemoryContext reader_context;
	DrMapTable *table;
	Source		source;
	XLogRecPtr	from;			/* begin of what is in the table, end of the last file */
	XLogRecPtr	position;		/* end of the last record that is in it */
	XLogRecPtr	chain;			/* all from here on is known */
	XLogRecPtr	redo;			/* cut there; 0: no place is known */
	bool		reading;		/* what fails now is the WAL's fault */

	char		anew[DR_WARNING_MAX + 1];	/* why it can't be continued; empty: it can */
	XLogRecPtr	tried;			/* nothing was complete up to here */
	int			nap_ms;
	TimestampTz cleaned_at;
	XLogRecPtr	kept_from;

	int			backoff_ms;
	TimestampTz said_at;
	char		said[DR_TEXT_MAX + 1];
	MemoryContext context;		/* of one round */
} MapWorker;

void
dr_register_change_map(void)
{
	dr_register_worker("pg_dr change map", "dr_change_map_main", true, BgWorkerStart_ConsistentState);
}

/* Why there is no map, or NULL. */
static const char *
why_off(void)
{
	char	   *name;
	char	   *url;

	if (!dr_change_map)
		return "pg_dr.change_map is off";
	if (RecoveryInProgress())
		return "the server is in recovery";
	if (!dr_primary_repository(&name, &url) || dr_encryption_key_file[0] == '\0')
		return "no repository is configured";
	if (!dr_is_archive_library() || !XLogArchivingActive() || !XLogIsNeeded())
		return "pg_dr doesn't archive this cluster's WAL";
	return NULL;
}

static void
nap(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* ---- reading ---- */

/* XLogPageReadCB: nothing beyond the flush pointer (D3). */
static int
read_page(XLogReaderState *reader, XLogRecPtr page, int wanted, XLogRecPtr record, char *buffer)
{
	Source	   *source = reader->private_data;
	WALReadError error;
	XLogSegNo	segment;
	int			n;

	if (page + wanted > source->flushed)
	{
		source->ended = true;
		return -1;
	}
	n = Min(XLOG_BLCKSZ, source->flushed - page);
	if (!WALRead(reader, buffer, page, n, source->timeline, &error))
		WALReadRaiseError(&error);
	XLByteToSeg(page, segment, wal_segment_size);
	CheckXLogRemoved(segment, source->timeline);
	return n;
}

static void
start_reading(MapWorker *w, XLogRecPtr at)
{
	MemoryContext caller;

	w->reader_context = AllocSetContextCreate(TopMemoryContext, "pg_dr WAL reader", ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(w->reader_context);
	w->reader = XLogReaderAllocate(wal_segment_size, NULL,
								   XL_ROUTINE(.page_read = read_page,
											  .segment_open = wal_segment_open,
											  .segment_close = wal_segment_close),
								   &w->source);
	if (w->reader == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	MemoryContextSwitchTo(caller);
	w->table = dr_map_table_new();
	w->from = w->position = at;
	w->redo = w->tried = InvalidXLogRecPtr;
	XLogBeginRead(w->reader, at);
}

static void
stop_reading(MapWorker *w)
{
	w->reading = false;
	if (w->reader != NULL)
		XLogReaderFree(w->reader);
	if (w->reader_context != NULL)
		MemoryContextDelete(w->reader_context);
	if (w->table != NULL)
		dr_map_table_free(w->table);
	w->reader = NULL;
	w->reader_context = NULL;
	w->table = NULL;
	dr_map_slot_release();
}

/* The next record that is flushed to its end; false when there is none yet. */
static bool
next_record(MapWorker *w)
{
	MemoryContext caller = MemoryContextSwitchTo(w->reader_context);
	char	   *error = NULL;
	XLogRecord *record;

	/* What the reader needs for long it takes from the current context. */
	w->source.ended = false;
	w->reading = true;
	record = XLogReadRecord(w->reader, &error);
	if (record == NULL && !w->source.ended)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not decode WAL at %X/%X", LSN_FORMAT_ARGS(w->position)),
				 error != NULL ? errdetail_internal("%s", error) : 0));
	w->reading = false;
	if (record == NULL)
	{
		w->tried = w->source.flushed;
		XLogBeginRead(w->reader, w->position);
	}
	MemoryContextSwitchTo(caller);
	return record != NULL;
}

/* ---- files ---- */

static void
publish(MapWorker *w)
{
	dr_map_progress(w->source.timeline, w->position, w->from, w->chain);
}

/* Files that nobody needs: after a backup, and once in a while. */
static void
clean(MapWorker *w)
{
	XLogRecPtr	keep_from = dr_map_kept_from();
	TimestampTz now = GetCurrentTimestamp();
	DrMapFile  *files;
	int			n;

	if (keep_from == w->kept_from && !TimestampDifferenceExceeds(w->cleaned_at, now, CLEAN_EVERY_MS))
		return;
	w->kept_from = keep_from;
	w->cleaned_at = now;
	if (!dr_map_remove_old(keep_from))
		return;
	files = dr_map_list(&n);
	w->chain = dr_map_chain(files, n, w->source.timeline, w->from);
	publish(w);
}

/* All before "at" becomes a file.  Only then the slot lets go of it (D2). */
static void
cut(MapWorker *w, XLogRecPtr at)
{
	int64		size;

	if (at <= w->from)
		return;
	size = dr_map_write(w->table, w->source.timeline, w->from, at);
	dr_map_table_reset(w->table);
	w->from = at;
	dr_map_slot_advance(at);
	dr_map_written(size);
	publish(w);
}

/* ---- one round ---- */

/*
 * Cut before the record that was just read, if it lies behind a redo pointer
 * or behind what somebody waits for; where it begins, reading can begin again.
 */
static void
cut_before(MapWorker *w, XLogRecPtr wanted)
{
	XLogRecPtr	record = w->reader->ReadRecPtr;
	bool		at_redo = w->redo != InvalidXLogRecPtr && record >= w->redo;

	if (at_redo || (wanted > w->from && record >= wanted))
		cut(w, record);
	if (at_redo)
		w->redo = InvalidXLogRecPtr;
}

static void
take_record(MapWorker *w, XLogRecPtr wanted)
{
	bool		minimal = dr_map_is_minimal(w->table);

	cut_before(w, wanted);
	dr_map_apply(w->table, w->reader);
	w->position = w->reader->EndRecPtr;
	if ((minimal && !dr_map_is_minimal(w->table)) || dr_map_table_memory(w->table) > MEMORY_MAX)
		cut(w, w->position);
}

/* Up to the flush pointer, or as much as leaves time for other things; true when there is more. */
static bool
read_on(MapWorker *w, XLogRecPtr wanted)
{
	XLogRecPtr	until = w->position + ROUND_BYTES;

	if (w->tried == w->source.flushed)
		return false;
	while (w->position < until)
	{
		CHECK_FOR_INTERRUPTS();
		if (!next_record(w))
			return false;
		take_record(w, wanted);
	}
	return true;
}

/* The map is behind by more than it may keep: it goes on without what it missed. */
static bool
behind_too_far(MapWorker *w)
{
	uint64		limit = (uint64) dr_change_map_wal_limit * 1024 * 1024;

	if (dr_map_slot_lost())
		strlcpy(w->anew, "the server took away the WAL that was still to be read", sizeof(w->anew));
	else if (w->source.flushed > w->from && w->source.flushed - w->from > limit)
		snprintf(w->anew, sizeof(w->anew), "it was behind by more than pg_dr.change_map_wal_limit (%d MB)",
				 dr_change_map_wal_limit);
	else
		return false;
	return true;
}

static void
map_round(MapWorker *w)
{
	XLogRecPtr	wanted = dr_map_wanted();
	XLogRecPtr	before = w->position;
	XLogRecPtr	redo;
	TimeLineID	timeline;
	bool		more;

	w->source.flushed = GetFlushRecPtr(&timeline);
	redo = GetRedoRecPtr();
	if (timeline != w->source.timeline || behind_too_far(w))
	{
		stop_reading(w);
		return;
	}
	if (redo >= w->position && redo > w->from && redo <= w->source.flushed)
		w->redo = redo;
	more = read_on(w, wanted);
	if (wanted > w->from && w->position >= wanted)
		cut(w, w->position);

	/* A checkpoint that is far away must not hold WAL up to the limit. */
	if ((w->position - w->from) / (1024 * 1024) >= Max(1, dr_change_map_wal_limit / 2))
		cut(w, w->position);
	w->nap_ms = w->position > before || wanted > w->from ? NAP_FIRST_MS : Min(w->nap_ms * 2, NAP_MAX_MS);
	publish(w);
	clean(w);
	if (!more)
		nap(w->nap_ms);
}

/* ---- beginning ---- */

/* Files that say more than this server's WAL: it was taken back to an earlier state. */
static int
remove_untrue(DrMapFile *files, int n, TimeLineID timeline, XLogRecPtr flushed)
{
	int			kept = 0;

	for (int i = 0; i < n; i++)
	{
		if (files[i].timeline != timeline || files[i].to <= flushed)
		{
			files[kept++] = files[i];
			continue;
		}
		ereport(WARNING,
				(errmsg("removing file \"%s\" of the change map, which ends behind the end of WAL at %X/%X",
						dr_map_path(&files[i], ""), LSN_FORMAT_ARGS(flushed))));
		dr_map_remove(&files[i]);
	}
	return kept;
}

/* Is the WAL from there on still in pg_wal? */
static bool
wal_is_there(TimeLineID timeline, XLogRecPtr at, XLogRecPtr flushed)
{
	char		path[MAXPGPATH];
	XLogSegNo	segment;

	XLByteToSeg(at, segment, wal_segment_size);
	XLogFilePath(path, timeline, segment, wal_segment_size);
	return at == flushed || (segment > XLogGetLastRemovedSegno() && access(path, R_OK) == 0);
}

/* Can the row of files be continued?  If not, why. */
static bool
continue_with(MapWorker *w, const DrMapFile *last, XLogRecPtr flushed)
{
	XLogRecPtr	kept_from;
	const char *why = NULL;
	bool		minimal = false;

	if (w->anew[0] != '\0')
		return false;
	if (!dr_map_slot_usable(&kept_from, &why))
		;
	else if (!dr_map_sound(last, &minimal))
		why = "its last file is damaged";
	else if (kept_from > last->to || !wal_is_there(last->timeline, last->to, flushed))
		why = "the WAL behind its last file is gone";
	if (why != NULL)
	{
		strlcpy(w->anew, why, sizeof(w->anew));
		return false;
	}
	dr_map_slot_acquire();
	start_reading(w, last->to);
	dr_map_slot_advance(last->to);
	if (minimal)
		dr_map_minimal(w->table, true);
	return true;
}

/* Does the last redo pointer lie on it?  If not, its first checkpoint is still to come. */
static bool
timeline_has_begun(TimeLineID timeline)
{
	List	   *history = readTimeLineHistory(timeline);

	return GetRedoRecPtr() >= ((TimeLineHistoryEntry *) linitial(history))->begin;
}

/* Anew, from the last redo pointer on; had is what is not continued. */
static void
begin_anew(MapWorker *w, bool had)
{
	start_reading(w, dr_map_slot_make());
	if (w->anew[0] != '\0')
		ereport(WARNING,
				(errmsg("the change map begins anew at %X/%X: %s", LSN_FORMAT_ARGS(w->from), w->anew),
				 errdetail("What was changed before is not completely known."),
				 errhint("The next incremental backup reads everything.")));
	else
		ereport(LOG, (errmsg("the change map begins%s at %X/%X", had ? " on a new timeline" : "",
							 LSN_FORMAT_ARGS(w->from))));
	dr_map_begun(w->anew);
	w->anew[0] = '\0';
}

static void
begin(MapWorker *w)
{
	TimeLineID	timeline;
	XLogRecPtr	flushed = GetFlushRecPtr(&timeline);
	const DrMapFile *last = NULL;
	DrMapFile  *files;
	int			n;

	dr_map_prepare_directory();
	files = dr_map_list(&n);
	n = remove_untrue(files, n, timeline, flushed);
	for (int i = n - 1; i >= 0; i--)
	{
		if (files[i].timeline == timeline)
			last = &files[i];
	}
	w->source.timeline = timeline;
	if (last == NULL || !continue_with(w, last, flushed))
	{
		if (!timeline_has_begun(timeline))
		{
			nap(BEGIN_NAP_MS);
			return;
		}
		begin_anew(w, n > 0);
	}
	w->chain = dr_map_chain(files, n, timeline, w->from);
	w->backoff_ms = 0;
	w->nap_ms = NAP_FIRST_MS;
	w->said[0] = '\0';
	dr_map_mapping();
	publish(w);
}

/* ---- the worker's life ---- */

static void
stay_off(MapWorker *w, const char *why)
{
	if (w->reader != NULL)
		stop_reading(w);
	dr_map_slot_drop();
	if (!dr_change_map)
		dr_map_remove_all();
	w->anew[0] = '\0';
	dr_map_off(why);
	nap(IDLE_NAP_MS);
}

static void
live(MapWorker *w)
{
	const char *why = why_off();

	if (why != NULL)
		stay_off(w, why);
	else if (w->reader == NULL)
		begin(w);
	else
		map_round(w);
}

/* What an aborted transaction would have put right. */
static void
clean_up_after_error(MapWorker *w)
{
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	pgstat_report_wait_end();
	AbortOutOfAnyTransaction();
	AtEOXact_Files(false);
	AtEOXact_HashTables(false);
	stop_reading(w);
}

/* In PG_CATCH.  The same trouble is in the log once in a while only. */
static void
report_failure(MapWorker *w)
{
	ErrorData  *error;
	DrReport	report;
	TimestampTz now = GetCurrentTimestamp();

	MemoryContextSwitchTo(w->context);
	error = CopyErrorData();
	FlushErrorState();
	if (w->reading && (error->sqlerrcode == ERRCODE_DATA_CORRUPTED || error->sqlerrcode == ERRCODE_UNDEFINED_FILE))
		strlcpy(w->anew, error->message, sizeof(w->anew));
	clean_up_after_error(w);
	dr_report_set(&report, error->sqlerrcode, error->message, error->detail, error->hint);
	dr_map_failed(&report);
	if (strcmp(w->said, report.message) != 0 || TimestampDifferenceExceeds(w->said_at, now, SAY_AGAIN_MS))
	{
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("could not keep the change map: %s", error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0,
				 errhint("%s", error->hint ? error->hint :
						 "It is tried again. Without it, incremental backups read everything.")));
		strlcpy(w->said, report.message, sizeof(w->said));
		w->said_at = now;
	}
	w->backoff_ms = w->backoff_ms == 0 ? BACKOFF_FIRST_MS : Min(w->backoff_ms * 2, BACKOFF_MAX_MS);
}

static void
back_off(MapWorker *w)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), w->backoff_ms);
	long		left;

	while (!ConfigReloadPending && (left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until)) > 0)
		nap(left);
}

static void
forget_me(int code, Datum arg)
{
	dr_map_worker(NULL);
}

static void
live_a_round(MapWorker *w)
{
	volatile bool failed = false;

	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	MemoryContextReset(w->context);
	MemoryContextSwitchTo(w->context);
	PG_TRY();
	{
		live(w);
	}
	PG_CATCH();
	{
		if (ProcDiePending)
			PG_RE_THROW();
		report_failure(w);
		failed = true;
	}
	PG_END_TRY();
	if (failed)
		back_off(w);
}

void
dr_change_map_main(Datum arg)
{
	static MapWorker w;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	dr_map_worker(MyLatch);
	before_shmem_exit(forget_me, (Datum) 0);
	w.context = AllocSetContextCreate(TopMemoryContext, "pg_dr change map round", ALLOCSET_DEFAULT_SIZES);
	for (;;)
		live_a_round(&w);
}

/* ---- for those who make backups ---- */

/* 1: reached, -1: it won't be, and why; 0: wait. */
static int
standing(const DrChangeMap *map, XLogRecPtr lsn, TimeLineID tli, char **why)
{
	*why = NULL;
	if (map->state == DR_MAP_OFF)
		*why = pstrdup(map->reason);
	else if (map->state == DR_MAP_FAILED)
		*why = pstrdup(map->failure.message);
	else if (map->state == DR_MAP_STARTING)
		return 0;
	else if (map->timeline != tli)
		*why = psprintf("it is on timeline %u, not %u", map->timeline, tli);
	else if (map->from > lsn)
		*why = psprintf("it begins at %X/%X", LSN_FORMAT_ARGS(map->from));
	else
		return map->durable >= lsn ? 1 : 0;
	return -1;
}

bool
dr_change_map_reach(XLogRecPtr lsn, TimeLineID tli, int timeout_ms, char **why)
{
	TimestampTz moved_at = GetCurrentTimestamp();
	XLogRecPtr	mapped = InvalidXLogRecPtr;
	DrChangeMap map;
	int			verdict;

	dr_require_shmem();
	dr_map_want(lsn);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		dr_map_read(&map);
		verdict = standing(&map, lsn, tli, why);
		if (verdict != 0)
			return verdict > 0;
		if (map.mapped != mapped)
		{
			mapped = map.mapped;
			moved_at = GetCurrentTimestamp();
		}
		else if (TimestampDifferenceExceeds(moved_at, GetCurrentTimestamp(), timeout_ms))
		{
			*why = psprintf("it stands at %X/%X since %d ms, and %X/%X was wanted", LSN_FORMAT_ARGS(mapped),
							timeout_ms, LSN_FORMAT_ARGS(lsn));
			return false;
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 50L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

void
dr_change_map_keep(XLogRecPtr start_lsn)
{
	dr_require_shmem();
	dr_map_keep(start_lsn);
}
