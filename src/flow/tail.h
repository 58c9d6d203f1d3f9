/*
 * tail.h
 *	  The unfinished segment, shipped in pieces while it is written.
 *
 * One thread feeds it with what the server has flushed and asks it to ship what
 * is due; threads of its own seal and store.  Invariants:
 *
 *	L1	"Durable up to" means: every byte before is in the repository, in a
 *		piece or in an archived segment.  It never goes back.
 *	L2	The first piece of an incarnation begins at the segment's beginning and
 *		holds all that had been flushed when the incarnation began.  So the
 *		newest incarnation alone tells a reader all that counts: what an older
 *		one has more was the unfinished record at the end of a crash.
 *	L3	A piece is removed only when its segment is archived, or when the first
 *		piece of a newer incarnation is durable.
 *	L4	What waits is given up when it turns out to be archived already, and a
 *		segment's end is left to the archiver: nothing is shipped for its own sake.
 *	L5	No piece is begun while something before it is left to the archiver: until
 *		that is archived, nobody could use it, and it may be that it never will
 *		be, because another server took its name.
 *	L6	No piece is begun before the end of what was archived when the incarnation
 *		began: no reader would look at it.
 *	L7	The first piece is stored only where this server had, ten seconds ago at most,
 *		every whole record that older incarnations had shipped; and none is called
 *		durable when a newer one, of somebody else, was seen, for which is looked every
 *		ten seconds.
 *
 * A crash leaves pieces; the next incarnation begins the segment anew, and removes them.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_TAIL_H
#define PGDR_TAIL_H

#include "flow/pg_wal.h"

typedef struct Tail Tail;

typedef struct TailStatus
{
	XLogRecPtr	received;
	XLogRecPtr	durable;		/* InvalidXLogRecPtr: older segments are still to be archived */
	int64		waiting_since;	/* when the first byte that isn't durable came; 0: all are */
	int64		shipped_at;		/* all that had come by then is durable; 0: no piece is */
	uint64		pieces;			/* stored so far */
	uint64		bytes;			/* of these */
} TailStatus;

/*
 * Ship from the segment on that holds "flushed", where the server's flush
 * pointer is now; *from is where to begin to feed.
 * NULL: err says why.
 */
extern Tail *tail_new(const WalSource *source, TimeLineID tli, XLogRecPtr flushed,
					  XLogRecPtr *from, DrError *err);

/* What came next.  Only when there is room. */
extern bool tail_has_room(Tail *t);
extern bool tail_feed(Tail *t, XLogRecPtr begin, const void *data, size_t n, DrError *err);

/*
 * All that the server has flushed has come.  False: the repository has more of this
 * timeline than that, so that it has another history (DR_CONFLICT).
 */
extern bool tail_caught_up(Tail *t, DrError *err);

/* Begin to ship what is due.  False: a piece could not be stored. */
extern bool tail_ship(Tail *t, DrError *err);

/* Milliseconds until something may be due. */
extern int	tail_due_in(Tail *t);

/* Any thread: this segment is archived. */
extern void tail_archived(Tail *t, const char *segment);

/* Any thread: how often to ship; synchronous: at once, because commits wait. */
extern void tail_pace(Tail *t, int interval_ms, bool synchronous);
extern bool tail_is_synchronous(Tail *t);

extern void tail_status(Tail *t, TailStatus *status);

/* Readable when something has changed; tail_ship and tail_status look. */
extern int	tail_wakeup_fd(Tail *t);

#endif							/* PGDR_TAIL_H */
