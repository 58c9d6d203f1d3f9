/*
 * drill.h
 *	  A drill: restore a backup for real, recover it, start it, ask it, and leave
 *	  nothing behind; how long each took, and what would have been lost.
 *
 * Invariants (Z1 to Z5: sandbox.h):
 *
 *	Z6	A drill has passed only when recovery came to where it was to come, every
 *		check that was made is ok, the objectives are met, and nothing is left.
 *	Z7	Whatever went wrong, the sandbox is removed, and what went wrong is told.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_DRILL_H
#define PGDR_DRILL_H

#include "program/drill_checks.h"
#include "program/restore_situation.h"

typedef enum DrillScenario
{
	DRILL_LATEST,				/* the server is lost: as far as the WAL goes */
	DRILL_POINT_IN_TIME			/* damage is noticed late: to a moment before */
} DrillScenario;

typedef enum DrillVerdict
{
	DRILL_PASSED,
	DRILL_MISSED,				/* all is well but for an objective */
	DRILL_FAILED
} DrillVerdict;

typedef struct Drill
{
	/* what is wanted */
	const char *id;
	DrillScenario scenario;
	RestoreOptions restore;		/* access, backup, target, jobs */
	const char *directory;
	const char *data_directory; /* the server's; NULL: not known */
	uint64		max_size;		/* of the restored cluster; 0: no limit */
	uint64		memory;
	const char *preload;
	const char *user;			/* NULL: the usual ones */
	bool		keep;
	bool		amcheck;
	const char *heartbeat_database;
	XLogRecPtr	production_lsn; /* flushed by the server when the drill began; 0: not known */
	const DrillAssertion *assertions;
	int			n_assertions;
	int64		rto_objective;	/* microseconds; 0: none */
	int64		rpo_objective;

	/* Called by the thread that runs the drill, or one of its own at a time. */
	void		(*progress) (void *arg, const char *phase, uint64 done, uint64 total);
	void	   *arg;

	/* found out; times in microseconds, -1: it did not come to that */
	DrillVerdict verdict;
	char	   *backup;			/* NULL: none was found */
	char		target[80];		/* empty: the end of WAL */
	int64		started_at;		/* since 1970 */
	int64		restore_time;
	int64		recovery_time;
	int64		start_time;
	int64		checks_time;
	int64		stop_time;
	int64		remove_time;
	int64		rto;			/* until it took queries: the first three */
	int64		rpo;
	int64		recovery_point; /* the newest commit or heartbeat that came back, since 1970; 0: unknown */
	XLogRecPtr	reached;		/* end of recovery; 0: unknown */
	uint64		bytes;			/* of the restored files */
	uint64		wal_bytes;		/* replayed, at most */
	bool		rto_missed;
	bool		rpo_missed;
	json_t	   *checks;
	DrError		error;			/* message empty: none */
	char	   *kept;			/* the sandbox; NULL: removed */
} Drill;

/* Always comes back with a verdict. */
extern void drill_run(Drill *d);

extern const char *drill_verdict_name(DrillVerdict verdict);
extern const char *drill_scenario_name(DrillScenario scenario);

/* False and err: there is no such scenario, or not yet. */
extern bool drill_scenario_parse(const char *name, DrillScenario *scenario, DrError *err);

/* Lower CPU and I/O priority, of this process and those that it starts; before any thread. */
extern void drill_step_back(void);

#endif							/* PGDR_DRILL_H */
