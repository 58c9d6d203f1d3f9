/*
 * change_map_format.h
 *	  The bytes of a change map's file: written by the module, read by the program.
 *
 * A file says which blocks of which relations WAL changed from one LSN up to
 * another, on one timeline of one cluster.  It lies in the data directory,
 * below CHANGE_MAP_DIR, and is named <TLI>.<from>.<to> in upper-case
 * hexadecimal digits (8, 16, 16).  Integers are little-endian and unsigned.
 *
 *	offset	size	header
 *	0		8		"PGDRCMAP"
 *	8		4		version, 1
 *	12		4		flags: CHANGE_MAP_UNSAFE, CHANGE_MAP_MINIMAL; others are 0
 *	16		8		system identifier
 *	24		4		timeline
 *	28		4		0
 *	32		8		from: the first byte of WAL that was looked at
 *	40		8		to: the first one that was not
 *	48		8		number of entries
 *	56		8		0
 *
 * With CHANGE_MAP_UNSAFE follows why nobody may rely on the file: a length of
 * 2 bytes, at most CHANGE_MAP_REASON_MAX, and so much text.
 *
 * Then the entries, in any order, each beginning with its type:
 *
 *	'R' relation	tablespace 4, database 4, relation number 4,
 *					limit 4: the main fork was once as short as that, 2^32-1: never,
 *					chunks 4, and for each, in ascending order:
 *						number 4 (block / CHANGE_MAP_CHUNK_BLOCKS), count 4 (1 to 65536), then
 *						count <= CHANGE_MAP_ARRAY_MAX: so many block numbers within the chunk,
 *							2 bytes each, ascending;
 *						else CHANGE_MAP_BITMAP_BYTES, block b is bit b % 8 of byte b / 8
 *	'D' database	tablespace 4, database 4: all its files there may be different ones
 *	'T' tablespace	tablespace 4: the same of every database in it
 *
 * Last the CRC-32C of everything before it, 4 bytes.
 *
 * Only main forks are in it.  All others are short, or not completely logged.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_CHANGE_MAP_FORMAT_H
#define PGDR_CHANGE_MAP_FORMAT_H

#define CHANGE_MAP_DIR				"pg_dr/map"
#define CHANGE_MAP_NAME_LEN			(8 + 1 + 16 + 1 + 16)

#define CHANGE_MAP_MAGIC			"PGDRCMAP"
#define CHANGE_MAP_VERSION			1
#define CHANGE_MAP_HEADER_SIZE		64

#define CHANGE_MAP_UNSAFE			0x1
/* wal_level is below replica where the file ends: whatever continues it is unsafe, too. */
#define CHANGE_MAP_MINIMAL			0x2

#define CHANGE_MAP_REASON_MAX		255
#define CHANGE_MAP_CHUNK_BLOCKS		65536
#define CHANGE_MAP_ARRAY_MAX		4096
#define CHANGE_MAP_BITMAP_BYTES		(CHANGE_MAP_CHUNK_BLOCKS / 8)

#endif							/* PGDR_CHANGE_MAP_FORMAT_H */
