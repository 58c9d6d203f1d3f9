/*
 * wal_worker.c
 *	  The static worker that has the tail of the WAL shipped.
 *
 * One idea: it only looks after its child.  The child streams from this very
 * server, ships, and reports to the walsender what is durable; the worker tells
 * it which segments the archiver has brought to the repository and whether
 * commits wait for it, and keeps for others what it hears.
 *
 * Archiving goes on without it: whatever fails here costs the recovery point,
 * nothing else.  It is said once, shown in dr_status, and tried again.
 *
 * It is connected to no database, only to what they share (for the name of the
 * bootstrap superuser), and commits nothing.
 *
 * A crash leaves pieces of a segment in the repository; the next child begins
 * that segment anew.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogarchive.h"
#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "postmaster/postmaster.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
#include "utils/wait_event.h"

#include "pg_dr.h"
#include "repository.h"
#include "shmem.h"
#include "worker.h"

#define NAP_MS				10000
#define LOOK_MS				1000	/* how often the child is told what is new */
#define BACKOFF_FIRST_MS	1000
#define BACKOFF_MAX_MS		60000
#define SAY_AGAIN_MS		(10 * 60 * 1000)

typedef struct WalWorker
{
	DrChild    *child;
	char	   *opened_with;	/* what the settings said then */
	uint64		generation;
	int			sender_pid;		/* the backend that streams to the child */

	/* what the child was told last */
	char		archived[DR_WAL_NAME_MAX + 1];
	int			interval_ms;
	bool		synchronous;

	int			backoff_ms;
	TimestampTz streaming_at;	/* since when it streams; 0: it does not */
	TimestampTz said_at;
	char		said[DR_TEXT_MAX + 1];
	MemoryContext context;		/* of one round */
} WalWorker;

void
dr_register_wal_worker(void)
{
	dr_register_worker("pg_dr WAL worker", "dr_wal_worker_main", true, BgWorkerStart_RecoveryFinished);
}

/* ---- settings ---- */

static bool
wanted(void)
{
	char	   *name;
	char	   *url;

	return dr_wal_ship_interval > 0 && dr_primary_repository(&name, &url) &&
		dr_encryption_key_file[0] != '\0' && dr_is_archive_library() && XLogArchivingActive();
}

/* A value of a connection string. */
static void
append_quoted(StringInfo buf, const char *keyword, const char *value)
{
	appendStringInfo(buf, " %s='", keyword);
	for (; *value != '\0'; value++)
	{
		if (*value == '\'' || *value == '\\')
			appendStringInfoChar(buf, '\\');
		appendStringInfoChar(buf, *value);
	}
	appendStringInfoChar(buf, '\'');
}

static char *
bootstrap_superuser(void)
{
	MemoryContext caller = CurrentMemoryContext;
	char	   *name;

	StartTransactionCommand();
	name = GetUserNameFromId(BOOTSTRAP_SUPERUSERID, true);
	if (name != NULL)
		name = MemoryContextStrdup(caller, name);
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return name;
}

/* pg_dr.wal_conninfo, or the way to our own first socket. */
static char *
conninfo(void)
{
	StringInfoData buf;
	char	   *directories = pstrdup(Unix_socket_directories);
	List	   *list;
	char	   *user;

	if (dr_wal_conninfo[0] != '\0')
		return dr_wal_conninfo;
	initStringInfo(&buf);
	appendStringInfo(&buf, "port=%d", PostPortNumber);
	if (SplitDirectoriesString(directories, ',', &list) && list != NIL)
		append_quoted(&buf, "host", linitial(list));
	else
		append_quoted(&buf, "host", "localhost");
	user = bootstrap_superuser();
	if (user != NULL)
		append_quoted(&buf, "user", user);
	return buf.data;
}

/* ---- what others know ---- */

/* Is it a walsender of this server?  And do commits wait for what it hears? */
static bool
look_at_sender(int sender_pid, bool *synchronous)
{
	bool		ours = false;

	*synchronous = false;
	for (int i = 0; sender_pid != 0 && i < max_wal_senders; i++)
	{
		WalSnd	   *sender = &WalSndCtl->walsnds[i];

		SpinLockAcquire(&sender->mutex);
		if (sender->pid == sender_pid)
		{
			ours = true;
			*synchronous = sender->sync_standby_priority > 0;
		}
		SpinLockRelease(&sender->mutex);
	}
	return ours;
}

/* The system identifier is its standbys', too. */
static void
require_own_sender(int sender_pid)
{
	bool		ignored;

	if (!look_at_sender(sender_pid, &ignored))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("pg_dr.wal_conninfo leads to another server of this cluster"),
				 errdetail("No walsender of this server has the process ID %d.", sender_pid),
				 errhint("It must lead to this server itself, best through its socket.")));
}

static void
tell_pace(WalWorker *w)
{
	bool		synchronous;
	StringInfoData line;

	(void) look_at_sender(w->sender_pid, &synchronous);
	if (synchronous == w->synchronous && dr_wal_ship_interval == w->interval_ms)
		return;
	w->synchronous = synchronous;
	w->interval_ms = dr_wal_ship_interval;
	initStringInfo(&line);
	dr_request_begin(&line, "pace");
	dr_request_int(&line, "interval_ms", w->interval_ms);
	dr_request_bool(&line, "synchronous", w->synchronous);
	dr_request_end(&line);
	dr_child_control(w->child, &line);
	dr_tail_synchronous(synchronous);
}

static void
tell_archived(WalWorker *w)
{
	char		segment[DR_WAL_NAME_MAX + 1];
	StringInfoData line;

	dr_lock(LW_SHARED);
	strlcpy(segment, dr_shared->archiver.last_segment, sizeof(segment));
	dr_unlock();
	if (strcmp(segment, w->archived) == 0)
		return;
	strlcpy(w->archived, segment, sizeof(w->archived));
	initStringInfo(&line);
	dr_request_begin(&line, "archived");
	dr_request_text(&line, "segment", segment);
	dr_request_end(&line);
	dr_child_control(w->child, &line);
}

/*
 * A crash of the machine may take the mark that a file waits for the archiver.
 * The server would set it again before it removes a segment, which may be late;
 * until then nothing behind it is called durable.
 */
static void
mark_for_archiver(void)
{
	DIR		   *dir = AllocateDir(XLOGDIR);
	struct dirent *entry;
	char		current[MAXFNAMELEN];
	char		history[MAXFNAMELEN];
	TimeLineID	tli;
	XLogRecPtr	flushed = GetFlushRecPtr(&tli);

	XLogFileName(current, tli, flushed / wal_segment_size, wal_segment_size);
	TLHistoryFileName(history, tli);
	while ((entry = ReadDir(dir, XLOGDIR)) != NULL)
	{
		bool		segment = IsXLogFileName(entry->d_name) && strncmp(entry->d_name, current, 8) == 0;

		if ((segment && strcmp(entry->d_name, current) < 0) || strcmp(entry->d_name, history) == 0)
			(void) XLogArchiveCheckDone(entry->d_name);
	}
	FreeDir(dir);
}

/* ---- the child ---- */

/* What this server had received as a standby, and its primary had not archived. */
static void
report_received(int64 segments)
{
	if (segments == 0)
		return;
	ereport(LOG,
			(errmsg("archived " INT64_FORMAT " WAL segments of older timelines, which this server had received as a standby and which the repository did not have",
					segments)));
	dr_want_sync();
}

/* A stream alone is no success: it may end with the first piece. */
static void
forget_failures(WalWorker *w)
{
	w->backoff_ms = 0;
	w->said[0] = '\0';
}

static void
on_event(WalWorker *w, const DrEvent *event)
{
	if (dr_event_is(event, "streaming"))
	{
		report_received(dr_event_int(event, "received"));
		require_own_sender((int) dr_event_int(event, "pid"));
		w->sender_pid = (int) dr_event_int(event, "pid");
		w->streaming_at = GetCurrentTimestamp();
		dr_tail_streaming(w->sender_pid);
	}
	else if (dr_event_is(event, "shipped"))
	{
		int64		pieces = dr_event_int(event, "pieces");

		dr_tail_shipped(dr_event_lsn(event, "lsn"), dr_event_time(event, "waiting_since"),
						dr_event_time(event, "shipped_at"), pieces, dr_event_int(event, "bytes"));
		if (pieces > 0)
			forget_failures(w);
	}
	else if (dr_event_is(event, "error"))
		dr_event_raise(event);
	else if (!dr_event_is(event, "held") && !dr_event_is(event, "alive"))
		dr_protocol_error(psprintf("Event \"%s\" was not expected.", event->name));
}

static void
stop_child(WalWorker *w)
{
	DrChild    *child = w->child;

	w->child = NULL;
	w->sender_pid = 0;
	w->streaming_at = 0;
	dr_child_stop(child, DR_GRACE_NONE);
	if (w->opened_with != NULL)
		pfree(w->opened_with);
	w->opened_with = NULL;
	dr_tail_streaming(0);
}

/* What decides that a child must begin anew: everything but the pace. */
static char *
settings_text(void)
{
	StringInfoData buf;

	initStringInfo(&buf);
	dr_open_request(&buf, true);
	appendStringInfoString(&buf, dr_wal_conninfo);
	return buf.data;
}

static void
start_child(WalWorker *w)
{
	StringInfoData request;

	mark_for_archiver();
	w->opened_with = MemoryContextStrdup(TopMemoryContext, settings_text());
	w->generation = dr_open_generation();
	w->child = dr_child_open(true);
	w->archived[0] = '\0';
	w->interval_ms = dr_wal_ship_interval;
	w->synchronous = false;
	initStringInfo(&request);
	dr_request_begin(&request, "tail");
	dr_request_text(&request, "conninfo", conninfo());
	dr_request_int(&request, "interval_ms", w->interval_ms);
	dr_request_bool(&request, "synchronous", false);
	dr_request_end(&request);
	dr_child_request(w->child, &request);
}

static void
look_after_child(WalWorker *w)
{
	DrEvent		event;

	if (w->child != NULL && (!wanted() || w->generation != dr_open_generation() ||
							 strcmp(settings_text(), w->opened_with) != 0))
		stop_child(w);
	if (!wanted())
	{
		dr_tail_off();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, NAP_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		return;
	}
	if (w->child == NULL)
		start_child(w);
	if (w->sender_pid != 0)
	{
		tell_pace(w);
		tell_archived(w);
	}
	if (dr_child_receive(w->child, LOOK_MS, &event))
		on_event(w, &event);
}

/* In PG_CATCH.  The same trouble is in the log once in a while only. */
static void
report_failure(WalWorker *w)
{
	ErrorData  *error;
	DrReport	report;
	TimestampTz now = GetCurrentTimestamp();

	MemoryContextSwitchTo(w->context);
	error = CopyErrorData();
	FlushErrorState();
	LWLockReleaseAll();
	AbortOutOfAnyTransaction();
	if (w->streaming_at != 0 && TimestampDifferenceExceeds(w->streaming_at, now, BACKOFF_MAX_MS))
		forget_failures(w);
	stop_child(w);
	dr_report_set(&report, error->sqlerrcode, dr_redacted(error->message),
				  error->detail ? dr_redacted(error->detail) : NULL,
				  error->hint ? dr_redacted(error->hint) : NULL);
	dr_tail_failed(&report);
	/* Another history: the archiver asks again whether what it has next would hide it. */
	if (error->sqlerrcode == ERRCODE_DUPLICATE_FILE && strcmp(w->said, report.message) != 0)
		w->generation = dr_open_anew();
	if (strcmp(w->said, report.message) != 0 || TimestampDifferenceExceeds(w->said_at, now, SAY_AGAIN_MS))
	{
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("could not ship the tail of the WAL: %s", error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0,
				 error->hint ? errhint("%s", error->hint) : 0));
		strlcpy(w->said, report.message, sizeof(w->said));
		w->said_at = now;
	}
	w->backoff_ms = w->backoff_ms == 0 ? BACKOFF_FIRST_MS : Min(w->backoff_ms * 2, BACKOFF_MAX_MS);
}

static void
forget_me(int code, Datum arg)
{
	dr_tail_worker(NULL);
}

static void
back_off(WalWorker *w)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), w->backoff_ms);
	long		left;

	while (w->backoff_ms > 0 && !ConfigReloadPending && !ShutdownRequestPending &&
		   w->generation == dr_open_generation() &&
		   (left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until)) > 0)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, left, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

void
dr_wal_worker_main(Datum arg)
{
	static WalWorker w;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	dr_tail_worker(MyLatch);
	before_shmem_exit(forget_me, (Datum) 0);
	w.context = AllocSetContextCreate(TopMemoryContext, "pg_dr WAL worker", ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		MemoryContextReset(w.context);
		MemoryContextSwitchTo(w.context);
		PG_TRY();
		{
			look_after_child(&w);
		}
		PG_CATCH();
		{
			if (ProcDiePending)
				PG_RE_THROW();
			report_failure(&w);
		}
		PG_END_TRY();
		if (w.child == NULL)
			back_off(&w);
	}
}
