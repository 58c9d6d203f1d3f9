/*
 * control.h
 *	  The two small files with checksums of their own: pg_control and pg_filenode.map.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_CONTROL_H
#define PGDR_CONTROL_H

#include "core/error.h"

typedef struct ControlInfo
{
	char		system_identifier[21];
	uint32		control_version;
	uint32		catalog_version;
	uint32		block_size;
	uint32		segment_blocks;
	uint32		wal_segment_size;
} ControlInfo;

/* Is this a whole pg_control of the server version that we were built for? */
extern bool control_decode(const uint8 *data, size_t n, ControlInfo *out);

/*
 * Replace the checkpoint's location by one that can't exist, so that a cluster
 * whose backup_label somebody removes doesn't start at the wrong place.
 */
extern bool control_invalidate_checkpoint(uint8 *data, size_t n);

/* A relation map, as far as it can be told: unknown layouts count as whole. */
extern bool relmap_whole(const uint8 *data, size_t n);

#endif							/* PGDR_CONTROL_H */
