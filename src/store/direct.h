/*
 * direct.h
 *	  Large writes (and reads of what is about to be written) past the page cache.
 *
 * What a backup or a restore writes is not read again soon: in the cache it
 * would push out what is, and the way through it costs more than the disk.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_DIRECT_H
#define PGDR_DIRECT_H

#include "postgres_fe.h"

/* Addresses and offsets of direct writes are multiples of this. */
#define DIRECT_ALIGN	4096

/* Writes shorter than this gain nothing. */
#define DIRECT_WORTH	(128 * 1024)

/* openat with O_DIRECT, when n bytes are worth it and the file system has it. */
extern int	direct_open(int dirfd, const char *path, int flags, mode_t mode, size_t n);

/*
 * All n bytes at an offset, or false with errno.  What is not aligned goes
 * through the cache, so that fsync is still needed.  The descriptor must not be
 * shared with other writers: its O_DIRECT may be cleared.
 */
extern bool direct_write(int fd, const void *data, size_t n, off_t at);

/*
 * What is there of n bytes at an offset: fewer only at the file's end; -1 with
 * errno.  data has room for n rounded up to DIRECT_ALIGN.
 */
extern ssize_t direct_read(int fd, void *data, size_t n, off_t at);

/* Through the cache from now on, whatever direct_open said. */
extern bool direct_end(int fd);

#endif							/* PGDR_DIRECT_H */
