/*
 * restore_private.h
 *	  What the files of the restore share.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_RESTORE_PRIVATE_H
#define PGDR_RESTORE_PRIVATE_H

#include "flow/restore.h"

/*
 * X5.  Sets r->delta to false when there is nothing to compare with: the data
 * directory is absent or empty.
 */
extern bool delta_check(Restore *r, DrError *err);

/* No server works in the data directory, or in a place to which its links lead. */
extern bool delta_unused(const Restore *r, DrError *err);

/* Does the link in the data directory lead to where this tablespace is to be? */
extern bool delta_link_leads_to(const Restore *r, const TablespaceMapping *t);

/* The same directory, whatever the two paths look like. */
extern bool same_place(const char *a, const char *b);

/* By their texts: the same, or below. */
extern bool path_inside(const char *path, const char *of);

/* X6 to X8: make the directory one that can't be started, and remove what is not in the manifest. */
extern bool delta_clear(Restore *r, DrError *err);

/* Only the blocks of n raw bytes that differ from what the file has there (X9). */
extern bool delta_write(int fd, const uint8 *raw, size_t n, off_t at, uint64 *written);

/* The marker of a restore under way; not synced. */
extern bool restore_write_marker(Restore *r, DrError *err);

/* One file, no link; or (with O_DIRECTORY) a directory. */
extern bool restore_sync_one(const char *path, int flags, DrError *err);

#endif							/* PGDR_RESTORE_PRIVATE_H */
