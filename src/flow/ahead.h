/*
 * ahead.h
 *	  Several WAL files on their way at once, behind an archiver that asks for
 *	  one after the other.
 *
 * Invariants:
 *
 *	A1	A file is called stored only after "store" returned true for it in this
 *		process, and once: who asks again, asks the repository again.
 *	A2	At most AHEAD_WINDOW files are begun whose answer was not taken.  So in a
 *		repository that has a segment, those more than WAL_WINDOW before it were
 *		acknowledged once (doc/FORMAT.md, section 1).
 *	A3	No segment is begun while a timeline's history is asked for and not stored: a
 *		timeline without its history is damage to whoever reads.
 *
 * A crash leaves objects in the repository that the server will offer again.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_AHEAD_H
#define PGDR_AHEAD_H

#include "flow/wal.h"

#define AHEAD_WINDOW	16

typedef struct Ahead Ahead;

/* Store one file; several threads call it at once, each with a file of its own. */
typedef bool (*AheadStore) (void *arg, WalWorkspace *space, const char *file, const char *path,
							WalStored *stored, DrError *err);

/* data_directory must outlive it.  threads: see ahead_threads. */
extern Ahead *ahead_new(const char *data_directory, int threads, int level, AheadStore store, void *arg);

/* As many as have something to do while others wait for the store, and memory allows. */
extern int	ahead_threads(int jobs, uint32 segment_size);

/*
 * The server asks for this file: return when it is stored, or why it is not.
 * Meanwhile, and after, the files that it will ask for next are on their way.
 */
extern bool ahead_take(Ahead *a, const char *file, WalStored *stored, DrError *err);

#endif							/* PGDR_AHEAD_H */
