/*
 * drill.h
 *	  A drill as the module sees it: what its row says, and who writes it.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_SERVER_DRILL_H
#define PGDR_SERVER_DRILL_H

#include "message.h"
#include "shmem.h"

/* What the program measured; microseconds, -1: it did not come to that.  Texts may be NULL. */
typedef struct DrDrillResult
{
	char	   *backup;
	char	   *target;
	char	   *kept;			/* the sandbox, if it was to be kept */
	char	   *checks;			/* JSON */
	int64		restore_us;
	int64		recovery_us;
	int64		start_us;
	int64		checks_us;
	int64		stop_us;
	int64		remove_us;
	int64		rto_us;
	int64		rpo_us;
	bool		rto_missed;
	bool		rpo_missed;
	TimestampTz recovery_point; /* 0: unknown */
	XLogRecPtr	reached;
	int64		bytes;
	int64		wal_bytes;
} DrDrillResult;

typedef struct DrObjectives
{
	int64		rto_us;			/* 0: none */
	int64		rpo_us;
} DrObjectives;

/* ---- catalogue_drill.c; each to be called inside of a DrWrite ---- */

extern void dr_insert_drill(const DrJob *job, const char *directory);

/* result may be NULL: nothing is known but how it ended. */
extern void dr_finish_drill(const DrJob *job, const DrDrillResult *result, const DrObjectives *objectives);

/* Drills that nobody works at any more, and the directories in which they were: lists of texts. */
extern void dr_running_drills(List **ids, List **directories, MemoryContext context);
extern bool dr_interrupt_drill(const char *id);

extern void dr_read_objectives(const char *scenario, DrObjectives *objectives);

/* ,"checks":[...] of a request: the DBA's own. */
extern void dr_append_assertions(StringInfo request, const char *scenario);

extern void dr_beat(void);

/* ---- functions_drill.c ---- */

/* Have the program remove what dead drills left there; ERROR when it can't. */
extern void dr_sweep_sandboxes(const char *directory);

#endif							/* PGDR_SERVER_DRILL_H */
