/*
 * lineage.h
 *	  Which cluster may write below a system identifier.
 *
 * Clones, drills and restored copies share the system identifier.  A random
 * token in the data directory, left out of every backup, and the highest
 * lineage object in the repository say which of them is the writer.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_LINEAGE_H
#define PGDR_LINEAGE_H

#include "flow/repository.h"

typedef enum LineageState
{
	LINEAGE_OURS,				/* the token is the repository's newest */
	LINEAGE_FOREIGN,			/* another cluster is the writer */
	LINEAGE_UNREGISTERED		/* nobody has written below this identifier */
} LineageState;

extern bool lineage_state(Repository *repo, const char *sysid, const char *data_directory,
						  LineageState *state, DrError *err);

/*
 * Be allowed to write, or fail with DR_LINEAGE.  The first cluster that writes
 * below a system identifier registers itself.
 */
extern bool lineage_require(Repository *repo, const char *sysid, const char *data_directory,
							uint32 *generation, DrError *err);

/*
 * Has nobody been adopted since lineage_require gave this generation?  One
 * request, no listing.
 */
extern bool lineage_unchanged(Repository *repo, const char *sysid, uint32 generation, DrError *err);

/* When this generation began; see time_now. */
extern bool lineage_written_at(Repository *repo, const char *sysid, uint32 generation, int64 *at, DrError *err);

/* Make this cluster the writer from now on. */
extern bool lineage_adopt(Repository *repo, const char *sysid, const char *data_directory,
						  uint32 *generation, DrError *err);

#endif							/* PGDR_LINEAGE_H */
