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

/*
 * Has this server all whole records that pieces of this segment and later ones
 * hold?  What somebody gave up by adopting this server doesn't count, nor what is
 * archived or can't be read.  False: it has not (DR_CONFLICT), or that could not
 * be found out.
 */
extern bool tail_is_ours(const WalSource *source, TimeLineID tli, uint64 segno, DrError *err);

/* The first piece of a newer incarnation, of this one's segment or a later one; incarnation 0: there is none. */
extern bool tail_find_newer(const WalSource *source, const TailName *than, TailName *newer, DrError *err);

#endif							/* PGDR_TAIL_CLAIM_H */
