/*
 * drill_checks.h
 *	  What a drill asks of the server that it restored.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_DRILL_CHECKS_H
#define PGDR_DRILL_CHECKS_H

#include <jansson.h>

#include "program/sandbox.h"

/* What the DBA wants to be true in the restored cluster. */
typedef struct DrillAssertion
{
	const char *name;
	const char *database;
	const char *sql;
	const char *expected;		/* the first column of its only row as text; NULL: null */
} DrillAssertion;

#define DRILL_ASSERTIONS_MAX	1000

typedef struct DrillChecks
{
	SandboxServer *server;
	const DrillAssertion *assertions;
	int			n_assertions;
	bool		amcheck;		/* wanted */
	const char *heartbeat_database;	/* NULL: every one is looked at */
	int			jobs;

	/* found out */
	const char *user;			/* who we are there */
	const char *database;		/* where we can be */
	json_t	   *results;		/* [{"name", "verdict": ok|failed|skipped, "detail", "ms"}] */
	int			failed;
	char		first_failed[256];
	int64		last_commit;	/* of the commits that came back, microseconds since 1970; 0: unknown */
	int64		heartbeat;		/* the newest that came back; 0: none */
} DrillChecks;

/* Find a superuser who can connect, and how far recovery came.  False: nobody can. */
extern bool checks_connect(DrillChecks *c, DrError *err);

/* Everything that is asked of a running server; verdicts are in results. */
extern void checks_running(DrillChecks *c);

/* And of its files when it is stopped. */
extern void checks_stopped(DrillChecks *c);

/* A verdict that somebody else came to. */
extern void checks_note(DrillChecks *c, const char *name, const char *verdict, const char *detail, int64 since);

#endif							/* PGDR_DRILL_CHECKS_H */
