/*
 * pg_wal.h
 *	  What the server's own pg_wal tells of the segments before a location.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_PG_WAL_H
#define PGDR_PG_WAL_H

#include "flow/wal.h"

/* A server whose WAL is stored, and where. */
typedef struct WalSource
{
	Repository *repo;
	const char *sysid;
	const char *data_directory;
	uint32		segment_size;
	uint32		lineage;		/* generation by which it is the writer */
	int			level;
	bool		(*may_store) (void *arg, DrError *err); /* asked before each object, by any thread */
	void	   *arg;
} WalSource;

/*
 * Where the first segment before "limit" begins that is not archived; limit, when
 * all are; InvalidXLogRecPtr, when that can't be found out, the segment is an older
 * timeline's, or the timeline's history is not archived.  The server's word for
 * archived is .done: that nothing is .ready proves nothing after a crash, which may
 * have taken the mark with it.
 */
extern XLogRecPtr pg_wal_archived_until(const WalSource *source, TimeLineID tli, XLogRecPtr limit);

/*
 * A standby marks as .done what it received by streaming, whether its primary had
 * archived that or not; promoted, it may be the only one that still has it.  So
 * store what the repository lacks of the segments before "limit" that belong to
 * the timelines which led to this one; how many, in *stored.
 */
extern bool pg_wal_store_received(const WalSource *source, TimeLineID tli, XLogRecPtr limit,
								  int *stored, DrError *err);

/*
 * Is this the timeline that the server writes?  No, when pg_wal has the history of a
 * later one: then the unfinished segment of this one has another name now.
 */
extern bool pg_wal_is_current(const WalSource *source, TimeLineID tli);

#endif							/* PGDR_PG_WAL_H */
