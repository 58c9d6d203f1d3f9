/*
 * child.h
 *	  The program as a child of this process.
 *
 * A child belongs to the process that started it.  It is killed and reaped
 * when the process exits, however that happens; before that, dr_child_stop
 * must be called on every way out, errors included.
 *
 * Everything here raises ERRORs, and absorbs interrupts while it waits, also
 * in the archiver.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_CHILD_H
#define PGDR_CHILD_H

#include "message.h"

typedef struct DrChild DrChild;

/* Milliseconds that a child gets to end by itself. */
#define DR_GRACE_NONE			0
#define DR_GRACE_STOP			2000

/* Start the program and hear its hello. */
extern DrChild *dr_child_start(void);

/* Kill, if need be, and reap; never waits for long.  NULL is no child. */
extern void dr_child_stop(DrChild *child, int grace_ms);

/* All that this process has; it happens by itself when the process exits. */
extern void dr_child_stop_all(void);

/* It waits at a step (settings, debug_hold_at), and will for ever. */
extern bool dr_child_is_held(const DrChild *child);

/* It has answered every request and can take the next. */
extern bool dr_child_is_idle(const DrChild *child);

/* A request that ends in "done" or "error"; a control line belongs to a running one. */
extern void dr_child_request(DrChild *child, StringInfo request);
extern void dr_child_control(DrChild *child, StringInfo line);

/*
 * The next event, valid until the next call.  False when there was none for
 * timeout_ms, or when the latch was set: look at what you wait for, call again.
 */
extern bool dr_child_receive(DrChild *child, int timeout_ms, DrEvent *event);

/*
 * Receive up to the final event: *done, or an ERROR.  Other events go to the
 * handler; warnings are raised as such, held is logged.
 */
typedef void (*DrEventHandler) (void *arg, const DrEvent *event);
extern void dr_child_finish(DrChild *child, DrEventHandler handler, void *arg, DrEvent *done);

/*
 * For who is called by a loop that waits on the latch itself: set it again if
 * it was reset in here, for it may have been set for that loop.
 */
extern void dr_child_give_latch_back(void);

#endif							/* PGDR_CHILD_H */
