/*
 * tail_claim.h
 *	  Is the tail that is in the repository this server's to go on with?
 *
 * A copy of the server, or the server itself when it was set back to an earlier
 * state (by a snapshot, or because writes that it had been told were durable are
 * lost), writes under the same names.  A newer incarnation would hide, from every
 * reader, what was acknowledged before.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_TAIL_CLAIM_H
#define PGDR_TAIL_CLAIM_H

#include "flow/pg_wal.h"

/*
 * Has this server all whole records that these pieces hold, of segment "from" and
 * later ones?  pieces: sorted by name.  False: it has not (DR_CONFLICT), or that
 * could not be found out.
 */
extern bool tail_is_ours(const WalSource *source, TimeLineID tli, const char *from,
						 const TailName *pieces, size_t n, DrError *err);

/* The first piece of a newer incarnation, of this one's segment or a later one; incarnation 0: there is none. */
extern bool tail_find_newer(const WalSource *source, const TailName *than, TailName *newer, DrError *err);

/* Says so: message and hint; the caller adds the detail.  False. */
extern bool tail_refuse(DrError *err, TimeLineID tli);

#endif							/* PGDR_TAIL_CLAIM_H */
