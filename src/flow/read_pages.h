/*
 * read_pages.h
 *	  Files of a running server: stretches of them, and the verdict on a page.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_READ_PAGES_H
#define PGDR_READ_PAGES_H

#include <sys/types.h>

#include "core/manifest.h"

/* A file that is open; path is for messages. */
typedef struct PageFile
{
	int			fd;
	const char *path;
} PageFile;

/* Up to n bytes; *got is less only where the file ends. */
extern bool read_all(const PageFile *f, char *to, size_t n, off_t at, size_t *got, DrError *err);

/*
 * n bytes, zeros where the file has become shorter.  What was not in the page
 * cache before is dropped from it again: whoever reads everything must not push
 * the server's working set out.
 */
extern bool read_range(const PageFile *f, char *to, size_t n, off_t at, DrError *err);

/*
 * Judge one page in its place.  One that looks corrupt is read again first, up
 * to "rereads" times: the server may have been writing it.  c has the block;
 * expected, found and lsn are set.
 */
extern bool read_verdict(const PageFile *f, char *page, off_t at, bool checksums, XLogRecPtr start_lsn,
						 int rereads, CorruptPage *c, PageVerdict *verdict, bool *sound, DrError *err);

#endif							/* PGDR_READ_PAGES_H */
