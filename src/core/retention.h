/*
 * retention.h
 *	  Which backups and which WAL a policy keeps, and why.
 *
 * Pure: from what a repository holds, a policy and a clock to a verdict for
 * each backup and each segment.  What holds, whatever the policy:
 *
 *	P1	The newest backup that can be restored stays, the newest one without
 *		corrupt pages too, and all WAL from the newest on.
 *	P2	With "pitr", every moment of that time that can be recovered now can be
 *		recovered afterwards: the newest backup from before it stays, with all
 *		WAL since; a backup behind a gap in that WAL stays.
 *	P3	A clock makes it keep more, never less: it counts as at most
 *		RETENTION_CLOCK_LEAD ahead of the newest thing that the repository
 *		holds, and a backup from its future stays and counts for nothing.
 *	P4	Days, weeks, months and years are those that have a backup: a pause
 *		makes nothing expire.
 *	P5	A backup that lacks something counts for no rule, so that its neighbours
 *		stay; it goes when it would go as a whole one.
 *
 * Times are microseconds since 1970, UTC.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_RETENTION_H
#define PGDR_RETENTION_H

#include "core/plan.h"

#define DAY_US					(INT64CONST(86400) * 1000000)
#define RETENTION_CLOCK_LEAD	DAY_US

/* "daily n" and so on: the newest backup of each of so many. */
typedef enum RetentionPeriod
{
	PERIOD_DAY,
	PERIOD_WEEK,				/* of ISO 8601 */
	PERIOD_MONTH,
	PERIOD_YEAR,
	N_PERIODS
} RetentionPeriod;

typedef struct RetentionPolicy
{
	bool		everything;		/* the text was empty */
	int64		pitr;			/* 0: not asked for */
	char		pitr_text[16];	/* as it was written: "7d" */
	int			periods[N_PERIODS]; /* 0: not asked for */
} RetentionPolicy;

/* "pitr 7d, daily 7, weekly 4, monthly 12, yearly 3": any of them, in any order. */
extern bool retention_parse(RetentionPolicy *p, const char *text, DrError *err);

#define RETENTION_REASON_MAX	300

typedef struct RetentionBackup
{
	/* in */
	const BackupInfo *info;		/* of a manifest that was read to its end */
	bool		has_packs;		/* each is there, with the size that the manifest says */

	/* out */
	bool		whole;			/* packs, and WAL from start to stop */
	bool		keep;
	char		reason[RETENTION_REASON_MAX];
} RetentionBackup;

typedef struct Retention
{
	/* in */
	RetentionPolicy policy;
	int64		clock;
	int64		newest_wal;		/* when the newest WAL was stored; 0: not known */
	uint32		segment_size;
	const History *histories;	/* the ways that count: the server's, and the repository's newest one */
	int			n_histories;
	const WalSet *wal;
	RetentionBackup *backups;
	size_t		n;

	/* out */
	int64		now;			/* P3 */
	uint64		keep_from;		/* segments from this number on are needed, on every timeline */
} Retention;

extern void retention_judge(Retention *r);

/* Is it needed by a backup that is kept? */
extern bool retention_needs_segment(const Retention *r, TimeLineID tli, uint64 segno);

/*
 * Suppose that "after" is what is left of the WAL: can every backup that is kept
 * still be restored, as far as it could before, or will a restore that ends
 * before say so?  False: not, and err names the backup.
 */
extern bool retention_check(const Retention *r, const WalSet *after, DrError *err);

#endif							/* PGDR_RETENTION_H */
