/*
 * recovery.c
 *	  Did a restored cluster reach the end of the archive?
 *
 * One idea: pg_dr restore notes how far the archive reached when it planned;
 * the server's own timeline history says where recovery ended.  Recovery that
 * ended before the last archived segment lost transactions, however well it
 * looks otherwise.  The last segment itself may be partly filled, so that its
 * beginning is all that can be asked for.
 *
 * A crash here leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/timeline.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogrecovery.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "message.h"
#include "pg_dr.h"
#include "protocol.h"

#define NOTE_MAX	65536

typedef struct Note
{
	char	   *backup;
	char	   *target_kind;	/* NULL: to the end of the archive */
	char	   *target_value;
	TimeLineID	timeline;
	char	   *segment;
	XLogRecPtr	lsn;
	bool		standby;
} Note;

/* NULL when this cluster was not restored by pg_dr. */
static char *
read_note(int *len)
{
	char	   *text;
	int			fd = OpenTransientFile(PGDR_RESTORED_FILE, O_RDONLY | PG_BINARY);

	if (fd < 0 && errno == ENOENT)
		return NULL;
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", PGDR_RESTORED_FILE)));
	text = palloc(NOTE_MAX + 1);
	*len = read(fd, text, NOTE_MAX);
	if (*len < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", PGDR_RESTORED_FILE)));
	CloseTransientFile(fd);
	text[*len] = '\0';
	return text;
}

/* False when it isn't what pg_dr restore writes. */
static bool
parse_note(char *text, int len, Note *note)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool ok = false;

	PG_TRY();
	{
		DrEvent		event;
		int64		timeline;

		dr_note_parse(text, len, caller, &event);
		note->backup = dr_event_text(&event, "backup", true);
		note->target_kind = dr_event_text(&event, "target_kind", false);
		note->target_value = dr_event_text(&event, "target_value", false);
		note->standby = dr_event_bool(&event, "standby");
		note->segment = dr_event_text(&event, "frontier_segment", true);
		note->lsn = dr_event_lsn(&event, "frontier_lsn");
		timeline = dr_event_int(&event, "frontier_timeline");
		note->timeline = timeline;
		ok = timeline > 0 && timeline <= PG_UINT32_MAX;
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_PROTOCOL_VIOLATION)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
	}
	PG_END_TRY();
	return ok;
}

/* Where the timeline that the archive reached was left; false when it is no ancestor of ours. */
static bool
find_switch_point(TimeLineID timeline, XLogRecPtr *end)
{
	TimeLineID	current;
	ListCell   *cell;

	(void) GetFlushRecPtr(&current);
	foreach(cell, readTimeLineHistory(current))
	{
		TimeLineHistoryEntry *entry = lfirst(cell);

		if (entry->tli != timeline)
			continue;
		*end = entry->end;
		return true;
	}
	return false;
}

static void
compare_with_archive(const Note *note, DrFinding *f)
{
	XLogRecPtr	wanted = note->lsn > wal_segment_size ? note->lsn - wal_segment_size : 0;
	XLogRecPtr	end;

	if (!find_switch_point(note->timeline, &end))
	{
		f->status = "critical";
		f->detail = psprintf("the archive reached segment %s on timeline %u, which is not in this cluster's history",
							 note->segment, note->timeline);
		f->hint = "Recovery took another way. Restore again, with the timeline that you want.";
	}
	else if (end != InvalidXLogRecPtr && end <= wanted)
	{
		f->status = "critical";
		f->detail = psprintf("recovery ended at %X/%X, the archive reached %X/%X (segment %s)",
							 LSN_FORMAT_ARGS(end), LSN_FORMAT_ARGS(note->lsn), note->segment);
		f->hint = "Archived transactions are not in this cluster. Restore again, and look for errors of restore_command in the server log.";
	}
	else
	{
		f->status = "ok";
		f->detail = psprintf("backup %s was recovered to the end of the archive, segment %s",
							 note->backup, note->segment);
	}
}

/* How far behind the repository a standby is, it can't know: it knows what it has. */
static void
standby_finding(DrFinding *f)
{
	TimestampTz last = GetLatestXTime();
	XLogRecPtr	replayed = GetXLogReplayRecPtr(NULL);

	f->status = "ok";
	f->detail = psprintf("a standby that follows the repository, replayed up to %X/%X%s%s",
						 LSN_FORMAT_ARGS(replayed),
						 last != 0 ? ", last commit of " : "", last != 0 ? timestamptz_to_str(last) : "");
}

bool
dr_recovery_finding(DrFinding *f)
{
	Note		note = {0};
	int			len;
	char	   *text = read_note(&len);

	f->hint = NULL;
	if (text == NULL)
		return false;
	if (!parse_note(text, len, &note))
	{
		f->status = "warning";
		f->detail = psprintf("file \"%s\" can't be understood", PGDR_RESTORED_FILE);
	}
	else if (RecoveryInProgress() && note.standby)
		standby_finding(f);
	else if (RecoveryInProgress())
	{
		f->status = "warning";
		f->detail = psprintf("backup %s is still being recovered", note.backup);
	}
	else if (note.target_kind != NULL)
	{
		f->status = "ok";
		f->detail = psprintf("backup %s was recovered to its target (%s%s%s)", note.backup,
							 note.target_kind, note.target_value ? " " : "",
							 note.target_value ? note.target_value : "");
	}
	else
		compare_with_archive(&note, f);
	return true;
}
