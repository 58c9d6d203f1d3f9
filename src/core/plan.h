/*
 * plan.h
 *	  From what a repository holds and what is asked for to what a restore does,
 *	  or why it can't be done: before anything is written.
 *
 * Pure: the caller lists and fetches.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_PLAN_H
#define PGDR_PLAN_H

#include "core/backup_info.h"
#include "core/timeline.h"

typedef enum TargetKind
{
	TARGET_END,					/* of archived WAL */
	TARGET_TIME,
	TARGET_LSN,
	TARGET_XID,
	TARGET_NAME,
	TARGET_IMMEDIATE
} TargetKind;

typedef struct Target
{
	TargetKind	kind;
	const char *text;			/* as it was given; NULL for END and IMMEDIATE */
	int64		time;			/* TARGET_TIME, microseconds since 1970 */
	XLogRecPtr	lsn;			/* TARGET_LSN */
	bool		exclusive;
} Target;

/*
 * The archived segments of a cluster, and those of which a note says that they
 * had been archived: names as listed, in order.
 */
typedef struct WalSet
{
	char	  **files;			/* 24 digits each */
	size_t		n;
	char	  **noted;			/* begin with 24 digits */
	size_t		n_noted;

	/* once plan_row_end is known: */
	XLogRecPtr	tail_end;		/* what the tail has of the segment behind the row ends here; 0: nothing */
	int64		reached_at;		/* when the last of it all was stored; TARGET_TIME only */
	XLogRecPtr	last_record;	/* begins here, or one at the target or behind it does; TARGET_LSN only; 0: not known */
} WalSet;

typedef struct Plan
{
	const BackupInfo *backup;
	TimeLineID	timeline;		/* of the target */
	XLogRecPtr	frontier;		/* end of the last segment in a row */
	XLogRecPtr	end;			/* the same, or the end of the tail behind it */
	TimeLineID	frontier_timeline;
	char		last_segment[25];
	bool		gap;			/* there is or was more behind the row */
	bool		no_read_ahead;	/* nobody knows whether what lies behind the target is sound; the caller's */
} Plan;

/* "time", "lsn", ...; NULL for TARGET_END. */
extern const char *target_kind_name(TargetKind kind);

/* Parse what was given for a kind. */
extern bool target_parse(Target *t, TargetKind kind, const char *text, DrError *err);

/* Does the backup end on this history, before it leaves the backup's timeline? */
extern bool plan_on_history(const BackupInfo *b, const History *h);

/* Can this backup serve as the base for this target on this history? */
extern bool plan_backup_suits(const BackupInfo *b, const History *h, const Target *t);

/* The segment that ends the row which begins at the backup's start: it is not archived. */
extern uint64 plan_row_end(const BackupInfo *b, const History *h, const WalSet *wal, char segment[25]);

/*
 * Plan with a chosen backup.  Fails when WAL that it needs is missing, when
 * there is a gap before the target, or when the target lies outside.
 */
extern bool plan_make(Plan *plan, const BackupInfo *b, const History *h, const WalSet *wal,
					  const Target *t, DrError *err);

extern bool wal_set_has(const WalSet *wal, const char *file);

/* The name of a segment that was put together from the tail takes its place among the others. */
extern void wal_set_add(WalSet *wal, const char *segment);

#endif							/* PGDR_PLAN_H */
