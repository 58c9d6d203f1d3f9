/*
 * parent.h
 *	  An earlier backup, as the source of what has not changed since.
 *
 * Invariants:
 *
 *	J1	The change map proves all WAL from the parent's start to this backup's
 *		start, on the timeline of both; else there is no parent.
 *	J2	The parent was written under the lineage that writes now: it describes
 *		this cluster, not a copy that went another way.
 *	J3	Every pack that is inherited is listed by the store, with its size,
 *		before the backup begins and again before its manifest is written.
 *
 * Memory: a record per pack of the parent's, its corrupt pages, the change map.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_PARENT_H
#define PGDR_PARENT_H

#include "core/compose.h"
#include "flow/inventory.h"

typedef struct Parent Parent;

/* Of a pack that holds frames of the parent's. */
typedef struct InheritedPack
{
	char	   *name;
	uint64		size;
	uint8		sha256[32];
	bool		leave;			/* take nothing from it any more */
	uint32		number;			/* in the new manifest; 0: not used yet */
	uint32		frames;			/* used by the new manifest, */
	uint64		used;			/* and their stored bytes */
} InheritedPack;

/*
 * Open backup "id" for the backup that info describes.  False: it can't serve,
 * and err says why (that is no failure: everything is read then).
 */
extern bool parent_open(Parent **out, Repository *repo, const BackupInfo *info, const char *id, DrError *err);
extern void parent_close(Parent *p);

/*
 * What is known of a file of class FILE_MAIN; asked in the order of a manifest.
 * False, with *changed_bytes set: it is read whole.  Else the composition is
 * the caller's.  An error in the parent's manifest is in err, and *failed set.
 */
extern bool parent_compose(Parent *p, const char *path, uint32 segment, uint64 size, Composition *c,
						   uint64 *changed_bytes, bool *failed, DrError *err);

/* How many bytes of this file the map says have changed; for progress only. */
extern uint64 parent_estimate(Parent *p, const char *path, uint32 segment, uint64 size);

/* A frame is taken over: its pack's number from now on is that of the new manifest. */
extern void parent_inherit(Parent *p, Frame *frame);

/* The inherited packs in the order of their numbers, from 0 on; NULL behind the last. */
extern InheritedPack *parent_inherited(Parent *p, uint32 i);

/* J3, for all packs of the parent (before), or those that were inherited. */
extern bool parent_packs_exist(Parent *p, bool inherited_only, DrError *err);

#endif							/* PGDR_PARENT_H */
