/*
 * repository.h
 *	  What the program is told of the repository, and what its probe found.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_SERVER_REPOSITORY_H
#define PGDR_SERVER_REPOSITORY_H

#include "child.h"
#include "shmem.h"

/* The text of request "open" that the settings ask for; ERROR when they are incomplete. */
extern void dr_open_request(StringInfo buf, bool writer);
extern void dr_require_settings(void);

/* Start the program and open the repository. */
extern DrChild *dr_child_open(bool writer);

/* An event "check", taken apart; its texts live as long as the event. */
typedef struct DrCheckFinding
{
	const char *name;
	const char *status;			/* ok, warning, critical */
	const char *detail;
	const char *hint;			/* may be NULL */
	bool		from_probe;		/* of how the store behaves */
} DrCheckFinding;

extern void dr_check_parse(const DrEvent *event, DrCheckFinding *finding);

/* Keep it for the catalogue, if it is from a probe. */
extern void dr_probe_remember(const DrCheckFinding *finding);

/* A DrEventHandler for op "open". */
extern void dr_probe_event(void *arg, const DrEvent *event);

#endif							/* PGDR_SERVER_REPOSITORY_H */
