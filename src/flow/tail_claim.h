/*
 * tail_claim.h
 *	  Is the tail that is in the repository this server's to go on with?
 *
 * A copy of the server, or the server itself when it was set back to an earlier
 * state (by a snapshot, or because writes that it had been told were durable are
 * lost), writes under the same names.  What it ships or archives would hide, from
 * every reader, what was acknowledged before.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_TAIL_CLAIM_H
#define PGDR_TAIL_CLAIM_H

#include "flow/pg_wal.h"

typedef struct TailQuestion
{
	TimeLineID	timeline;
	uint64		first;			/* of these segments, both included */
	uint64		last;
	uint64		needed;			/* what the server has no file of before this one, it has removed by right */
} TailQuestion;

/*
 * Has this server all whole records that the pieces hold?  What is archived doesn't
 * count, nor what somebody gave up by adopting this server, nor pieces that are
 * damaged.  False: it has not (DR_CONFLICT), or that could not be found out.
 * *beyond: there are pieces of segments behind the last, too.
 */
extern bool tail_is_ours(const WalSource *source, const TailQuestion *q, bool *beyond, DrError *err);

/* The first piece of a newer incarnation, of this one's segment or a later one; incarnation 0: there is none. */
extern bool tail_find_newer(const WalSource *source, const TailName *than, TailName *newer, DrError *err);

#endif							/* PGDR_TAIL_CLAIM_H */
