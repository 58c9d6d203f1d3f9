/*
 * expire.h
 *	  Retention: what no rule keeps is marked, and later removed.
 *
 * Invariants:
 *
 *	E1	Nothing is removed that was not marked by an earlier run, a grace period
 *		ago, and that is not judged as not needed once more, from scratch.
 *	E2	A backup's manifest goes first; its packs go after every manifest that
 *		is left was read again.  So at any moment every manifest has its packs.
 *	E3	A pack that any manifest names stays.  While a manifest can't be read,
 *		nothing goes, since nobody knows what it names.
 *	E4	What has no manifest goes only when nobody can be at work on it.  While
 *		an incremental backup runs nothing goes at all: it may rely on any pack.
 *	E5	What retention.h promises is planned with what would be left before WAL
 *		goes; where the plan fails, that WAL stays.
 *	E6	Only the cluster that may write removes, and asks before each batch.
 *	E7	Names that are not ours, other clusters, lineages and timeline histories
 *		are never touched.
 *
 * What the store does not let go is reported, and tried again by the next run.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_EXPIRE_H
#define PGDR_EXPIRE_H

#include "flow/holdings.h"

typedef struct Expire
{
	/* in */
	Repository *repo;
	const char *system_identifier;
	uint32		wal_segment_size;
	const char *policy;			/* as retention_parse takes it */
	int64		clock;
	int64		grace;			/* microseconds */
	TimeLineID	timeline;		/* the server's; 0: not known */
	const char *const *running; /* ids of backups that are at work; asked before we list */
	size_t		n_running;
	bool		dry_run;
	bool		(*may_store) (void *arg, DrError *err);

	/* What is to be told: see doc/PROTOCOL.md. */
	void		(*row) (void *arg, const char *what, const char *name, uint64 bytes, const char *reason);
	void		(*removed) (void *arg, const char *object);
	void		(*expired) (void *arg, const char *backup, bool left);
	void		(*expired_wal) (void *arg, const char *first, const char *last);
	void	   *arg;
} Expire;

/* False: err says why; what had been removed before was rightly removed. */
extern bool expire_run(Expire *e, DrError *err);

#endif							/* PGDR_EXPIRE_H */
