/*
 * functions_wal.c
 *	  What the views of WAL coverage read: timelines and the tail; and how old the
 *	  recovery point is.
 *
 * One idea: as in functions_status.c, nothing here asks the repository.
 *
 * A crash here leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/timeline.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "message.h"
#include "pg_dr.h"
#include "shmem.h"

/* A recovery point that is older than that is worth a word. */
#define POINT_WARNING_S		60

PG_FUNCTION_INFO_V1(dr_timelines);
PG_FUNCTION_INFO_V1(dr_tail);

static TimeLineID
current_timeline(void)
{
	TimeLineID	tli;

	if (!RecoveryInProgress())
		return GetWALInsertionTimeLine();
	(void) GetXLogReplayRecPtr(&tli);
	return tli;
}

static XLogRecPtr
segment_begin(XLogRecPtr lsn)
{
	return lsn - lsn % wal_segment_size;
}

/* ---- dr.timelines() ---- */

/*
 * The way that led to this cluster's timeline, oldest first: where each began
 * and ended, and the segments that recovery takes from it.  The segment in
 * which a timeline begins is the new timeline's.
 */
Datum
dr_timelines(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *history = readTimeLineHistory(current_timeline());

	InitMaterializedSRF(fcinfo, 0);
	for (int i = list_length(history) - 1; i >= 0; i--)
	{
		TimeLineHistoryEntry *e = list_nth(history, i);
		Datum		values[5];
		bool		nulls[5] = {0};

		values[0] = Int64GetDatum((int64) e->tli);
		values[1] = LSNGetDatum(e->begin);
		values[2] = LSNGetDatum(e->end);
		values[3] = LSNGetDatum(segment_begin(e->begin));
		values[4] = LSNGetDatum(segment_begin(e->end));
		nulls[2] = nulls[4] = XLogRecPtrIsInvalid(e->end);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ---- dr.tail() ---- */

static const char *
state_name(DrTailState state)
{
	switch (state)
	{
		case DR_TAIL_OFF:
			return "off";
		case DR_TAIL_STARTING:
			return "starting";
		case DR_TAIL_STREAMING:
			return "streaming";
		case DR_TAIL_FAILED:
			return "failed";
	}
	return "unknown";
}

static void
read_tail(DrTail *tail)
{
	dr_lock(LW_SHARED);
	*tail = dr_shared->tail;
	dr_unlock();
	dr_sanitize(tail->failure.message, strlen(tail->failure.message), false);
	dr_sanitize(tail->failure.hint, strlen(tail->failure.hint), false);
}

Datum
dr_tail(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	DrTail	   *tail = palloc(sizeof(DrTail));
	Datum		values[12];
	bool		nulls[12] = {0};
	char	   *name;
	char	   *url;

	dr_require_shmem();
	InitMaterializedSRF(fcinfo, 0);
	read_tail(tail);
	nulls[0] = !dr_primary_repository(&name, &url);
	values[0] = nulls[0] ? (Datum) 0 : CStringGetTextDatum(name);
	values[1] = CStringGetTextDatum(state_name(tail->state));
	values[2] = Int64GetDatum((int64) current_timeline());
	nulls[3] = nulls[4] = XLogRecPtrIsInvalid(tail->durable);
	values[3] = LSNGetDatum(segment_begin(tail->durable));
	values[4] = LSNGetDatum(tail->durable);
	nulls[5] = tail->waiting_since == 0;
	values[5] = TimestampTzGetDatum(tail->waiting_since);
	nulls[6] = tail->shipped_at == 0;
	values[6] = TimestampTzGetDatum(tail->shipped_at);
	values[7] = BoolGetDatum(tail->synchronous);
	values[8] = Int64GetDatum(tail->pieces);
	values[9] = Int64GetDatum(tail->bytes);
	nulls[10] = tail->sender_pid == 0;
	values[10] = Int32GetDatum(tail->sender_pid);
	nulls[11] = tail->state != DR_TAIL_FAILED;
	values[11] = CStringGetTextDatum(tail->failure.message);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}

/* ---- the recovery point ---- */

static long
seconds_since(TimestampTz t)
{
	return Max(0, (long) ((GetCurrentTimestamp() - t) / USECS_PER_SEC));
}

/* Without a tail: what was written since the last archived segment would be lost. */
static void
segments_only(DrFinding *f, const DrTail *tail)
{
	TimestampTz ended_at;
	char		last[DR_WAL_NAME_MAX + 1];

	dr_lock(LW_SHARED);
	ended_at = dr_shared->archiver.last_segment_ended_at;
	strlcpy(last, dr_shared->archiver.last_segment, sizeof(last));
	dr_unlock();
	f->status = tail->state == DR_TAIL_FAILED ? "warning" : "ok";
	f->detail = last[0] == '\0' ?
		pstrdup("only whole segments are shipped, and none since the server started") :
		psprintf("%ld s: only whole segments are shipped, the last one, \"%s\", was written until %s",
				 seconds_since(ended_at), last, timestamptz_to_str(ended_at));
	if (tail->state == DR_TAIL_FAILED)
	{
		f->detail = psprintf("%s; the tail could not be shipped: %s", f->detail, tail->failure.message);
		f->hint = tail->failure.hint[0] ? pstrdup(tail->failure.hint) : "The server log says more.";
	}
	else if (dr_wal_ship_interval == 0)
		f->hint = "Set pg_dr.wal_ship_interval to have the tail shipped, too.";
}

void
dr_recovery_point_finding(DrFinding *f)
{
	DrTail	   *tail = palloc(sizeof(DrTail));
	double		seconds;

	read_tail(tail);
	f->hint = NULL;
	if (RecoveryInProgress())
	{
		f->status = "ok";
		f->detail = pstrdup("a standby ships nothing");
		return;
	}
	if (tail->state != DR_TAIL_STREAMING || XLogRecPtrIsInvalid(tail->durable))
	{
		segments_only(f, tail);
		return;
	}
	seconds = tail->waiting_since == 0 ? 0 : Max(0, GetCurrentTimestamp() - tail->waiting_since) / 1e6;
	f->status = seconds > POINT_WARNING_S ? "warning" : "ok";
	f->detail = psprintf("%.1f s: everything up to %X/%X is in the repository%s", seconds,
						 LSN_FORMAT_ARGS(tail->durable), tail->synchronous ? ", and commits wait until they are" : "");
	if (seconds > POINT_WARNING_S)
		f->hint = "Is the repository slow, or out of reach? See the rows \"archiving\" and \"store\".";
}
