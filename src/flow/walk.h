/*
 * walk.h
 *	  What of a data directory belongs into a backup, in order.
 *
 * The rules are those of PostgreSQL's own base backup.  Memory: the names of
 * one directory per level.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_WALK_H
#define PGDR_WALK_H

#include "core/error.h"
#include "core/page.h"

typedef struct WalkEntry
{
	const char *path;			/* relative to the data directory */
	bool		is_directory;
	FileClass	class;
	uint32		segment;		/* of a relation file */
	uint32		mode;
	int64		mtime;
	uint64		size;
} WalkEntry;

typedef struct WalkTablespace
{
	char	   *oid;
	char	   *path;
} WalkTablespace;

typedef struct Walk
{
	const char *data_directory;
	const WalkTablespace *tablespaces;	/* those that are links */
	int			n_tablespaces;

	/* Return false, with err set, to stop. */
	bool		(*entry) (void *arg, const WalkEntry *entry, DrError *err);
	/* Something was left out or followed that a DBA should know of. */
	void		(*warning) (void *arg, const char *message);
	void	   *arg;
} Walk;

/*
 * Every entry, depth first, in byte order of names; global/pg_control is not
 * among them.  Entries that vanish meanwhile are left out silently.
 */
extern bool walk(const Walk *w, DrError *err);

#endif							/* PGDR_WALK_H */
