/*
 * step.h
 *	  Named steps at which a test can hold the program (see protocol.h).
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_STEP_H
#define PGDR_STEP_H

/* Where to hold, and how to say so.  Unset: step_reached does nothing. */
extern void step_hold_at(const char *step, void (*announce) (const char *step));

/* Called at each step; does not return from the one to hold at. */
extern void step_reached(const char *step);

#endif							/* PGDR_STEP_H */
