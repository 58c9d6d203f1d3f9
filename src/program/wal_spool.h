/*
 * wal_spool.h
 *	  A process that fetches WAL ahead of recovery into a directory beside pg_wal's
 *	  files, and the questions that wal-get asks it.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_WAL_SPOOL_H
#define PGDR_WAL_SPOOL_H

#include "core/error.h"
#include "program/wal_ask.h"

typedef enum SpoolAnswer
{
	SPOOL_STORED,				/* the file is at path */
	SPOOL_ABSENT,				/* recovery may believe it */
	SPOOL_FAILED,				/* err says why */
	SPOOL_NONE					/* no server recovers there, or it works for other options: do it yourself */
} SpoolAnswer;

/*
 * Ask for a file, to be put at ask->path; starts the process when there is none
 * and a server recovers there.
 * ask->wait: who asks will ask again (access_open_for_recovery).
 */
extern SpoolAnswer spool_ask(const WalAsk *ask, DrError *err);

/* Write a whole file beside path and rename it into place; the server syncs what it gets. */
extern bool spool_write(const char *path, const Bytes *plain, DrError *err);

#endif							/* PGDR_WAL_SPOOL_H */
