/*
 * wal_serve.h
 *	  What recovery asks for: an archived file, a segment put together from the
 *	  tail, or the certainty that neither exists.
 *
 * Invariants:
 *
 *	G1	An archived segment is preferred to any tail, and the newest incarnation
 *		of a tail to older ones.
 *	G2	A segment that is handed out incomplete (zeros follow what was shipped) is
 *		the last that there is: nothing proves that more of it was ever in the
 *		archive.
 *	G3	A file is called absent only when the store said so and nothing proves
 *		that it had been archived.  Proof: a note of the archiver (frontier.h) about it
 *		or what follows; anything that lies more than WAL_WINDOW behind it; for a
 *		history file, any object of its timeline or a later one.
 *	G4	Pieces are removed once their segment is archived.  So what was listed of
 *		them, or was not, counts only if the segment is not there afterwards.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_WAL_SERVE_H
#define PGDR_WAL_SERVE_H

#include "flow/wal.h"

typedef struct WalServe
{
	Repository *repo;
	const char *sysid;
	int			threads;		/* that fetch pieces */
	uint32		segment_size;	/* 0: not known yet */
	bool		archived;		/* what was handed out last, not put together */

	/* what was put together last: a standby asks for the same segment again and again */
	TailName	tail;			/* incarnation 0: nothing */
	Bytes		assembled;		/* from the segment's beginning */
	int64		stored_at;		/* its last piece; see time_now */
} WalServe;

/*
 * The file, whole.  STORE_ABSENT: recovery may believe it (G3).  One thread; the
 * rest of the process may use the repository at the same time.
 */
extern StoreResult wal_serve(WalServe *w, const char *file, Bytes *plain, DrError *err);

extern void wal_serve_free(WalServe *w);

#endif							/* PGDR_WAL_SERVE_H */
