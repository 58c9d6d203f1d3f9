/*
 * change_map.h
 *	  Which blocks changed between two LSNs: the module's files, read and asked.
 *
 * The files' bytes are described in change_map_format.h.  Memory: 2 bytes for a
 * changed block at most, and 8 kB for 65536 blocks at most.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_CORE_CHANGE_MAP_H
#define PGDR_CORE_CHANGE_MAP_H

#include "core/error.h"
#include "access/xlogdefs.h"
#include "change_map_format.h"

typedef struct ChangeMap ChangeMap;

extern ChangeMap *change_map_new(void);
extern void change_map_free(ChangeMap *m);

/* What a file says of itself. */
typedef struct ChangeMapRange
{
	TimeLineID	timeline;
	XLogRecPtr	from;
	XLogRecPtr	to;
	bool		unsafe;			/* it proves nothing, and reason says why */
	char		reason[CHANGE_MAP_REASON_MAX + 1];
} ChangeMapRange;

/* A file's name; false when it is not one's. */
extern bool change_map_name_parse(const char *name, ChangeMapRange *range);

/*
 * Add a file's content to the map: the union of blocks, the lowest limit.  Every
 * byte is checked.  After an error (DR_DAMAGED) the map may hold a part of it.
 */
extern bool change_map_add(ChangeMap *m, const uint8 *data, size_t n, const char *system_identifier,
						   ChangeMapRange *range, DrError *err);

/* What is known of one file of a relation; valid until the map is changed. */
typedef struct FileChanges
{
	bool		everything;		/* it may be another file: nothing of an older one may be used */
	uint32		limit;			/* blocks of this file at or beyond were cut off once; PG_UINT32_MAX: none */

	/* private */
	const struct ChangedRelation *relation;
	uint64		first;			/* its first block's number in the relation */
	uint32		blocks;			/* it has at most so many */
} FileChanges;

/*
 * path is relative to the data directory: base/5/16384.2, global/1262,
 * pg_tblspc/16400/PG_15_202209061/5/16385; segment is the number behind the
 * dot, segment_blocks the number of blocks in a full file.  Of anything else
 * than a relation's main fork nothing is known: everything.
 */
extern void change_map_file(const ChangeMap *m, const char *path, uint32 segment,
							uint32 segment_blocks, FileChanges *out);

/* The file's first changed block at or after "from", counted within it; PG_UINT32_MAX: none. */
extern uint32 change_map_next(const FileChanges *c, uint32 from);

#endif							/* PGDR_CORE_CHANGE_MAP_H */
