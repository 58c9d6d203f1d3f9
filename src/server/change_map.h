/*
 * change_map.h
 *	  The change map: which blocks changed between two LSNs.
 *
 * Five things always hold:
 *
 *	D1	A file covers its range completely, or it does not exist.  It is written
 *		aside, synced, and renamed.
 *	D2	The slot follows the files: WAL is let go only when what it changed is
 *		durable in one.
 *	D3	Nothing beyond the flush pointer is ever read, so that no file knows of
 *		WAL which a crash takes back.
 *	D4	Never a guess.  What cannot be known from the records in a range makes
 *		its file unsafe, with the reason; what was not read has no file.
 *	D5	An idle cluster writes no files: a cut needs a new redo pointer, or
 *		somebody who asks for it.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_CHANGE_MAP_H
#define PGDR_CHANGE_MAP_H

#include "access/xlogreader.h"
#include "storage/block.h"

#include "change_map_format.h"

/* ---- for those who make backups: change_map.c ---- */

/*
 * Have the map know everything before lsn, durably and, where that is still
 * possible, with a cut at it.  Waits; gives up when the map has not moved for
 * timeout_ms.  False: *why says in a sentence's part what is in the way.
 */
extern bool dr_change_map_reach(XLogRecPtr lsn, TimeLineID tli, int timeout_ms, char **why);

/* A backup that began there is complete: what lies before is of no use any more. */
extern void dr_change_map_keep(XLogRecPtr start_lsn);

/* ---- change_map_table.c: what was read and is not yet in a file ---- */

typedef struct DrMapTable DrMapTable;

extern DrMapTable *dr_map_table_new(void);
extern void dr_map_table_free(DrMapTable *t);

/* Empty it.  What makes the following range unsafe, too, is kept. */
extern void dr_map_table_reset(DrMapTable *t);
extern Size dr_map_table_memory(const DrMapTable *t);

extern void dr_map_mark(DrMapTable *t, Oid tablespace, Oid database, Oid relation, BlockNumber block);
extern void dr_map_limit(DrMapTable *t, Oid tablespace, Oid database, Oid relation, BlockNumber limit);
extern void dr_map_database(DrMapTable *t, Oid tablespace, Oid database);
extern void dr_map_tablespace(DrMapTable *t, Oid tablespace);

/* The range can't be relied upon; the first reason stays. */
extern void dr_map_unsafe(DrMapTable *t, const char *reason);

/* wal_level is, or is no longer, below replica. */
extern void dr_map_minimal(DrMapTable *t, bool minimal);
extern bool dr_map_is_minimal(const DrMapTable *t);

/* Durable when it returns; the file's size. */
extern int64 dr_map_write(const DrMapTable *t, TimeLineID timeline, XLogRecPtr from, XLogRecPtr to);

/* ---- change_map_wal.c ---- */

/* What a record changed. */
extern void dr_map_apply(DrMapTable *t, XLogReaderState *record);

/* ---- change_map_disk.c: the files ---- */

typedef struct DrMapFile
{
	TimeLineID	timeline;
	XLogRecPtr	from;
	XLogRecPtr	to;
} DrMapFile;

/* Make the directory, and remove what a crash left in it. */
extern void dr_map_prepare_directory(void);

/* The path of a file, with a suffix.  Palloc'd. */
extern char *dr_map_path(const DrMapFile *file, const char *suffix);

/* All files, the one that ends last first.  Palloc'd. */
extern DrMapFile *dr_map_list(int *n);

/* Where the files' unbroken coverage begins that reaches up to an LSN; it itself when none does. */
extern XLogRecPtr dr_map_chain(const DrMapFile *files, int n, TimeLineID timeline, XLogRecPtr until);

/* Is its header what it should be? */
extern bool dr_map_sound(const DrMapFile *file, bool *minimal);
extern void dr_map_remove(const DrMapFile *file);

/* Those that end at or before an LSN, and those too old for anybody; true when there were any. */
extern bool dr_map_remove_old(XLogRecPtr keep_from);
extern void dr_map_remove_all(void);

/* ---- change_map_slot.c: WAL is kept for us ---- */

/* Is there a slot of ours that still keeps WAL, from *restart_lsn on?  If not, *why. */
extern bool dr_map_slot_usable(XLogRecPtr *restart_lsn, const char **why);
extern void dr_map_slot_acquire(void);

/* A new one in place of any that there is; where it begins. */
extern XLogRecPtr dr_map_slot_make(void);
extern void dr_map_slot_advance(XLogRecPtr lsn);

/* Has it been taken from us? */
extern bool dr_map_slot_lost(void);
extern void dr_map_slot_release(void);
extern void dr_map_slot_drop(void);

#endif							/* PGDR_CHANGE_MAP_H */
