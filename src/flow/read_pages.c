/*
 * read_pages.c
 *	  Files of a running server.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/read_pages.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

bool
read_all(const PageFile *f, char *to, size_t n, off_t at, size_t *got, DrError *err)
{
	*got = 0;
	while (*got < n)
	{
		ssize_t		r = pread(f->fd, to + *got, n - *got, at + *got);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return dr_error(err, DR_IO, "could not read file \"%s\": %s", f->path, strerror(errno));
		if (r == 0)
			break;
		*got += r;
	}
	return true;
}

bool
read_range(const PageFile *f, char *to, size_t n, off_t at, DrError *err)
{
	struct iovec iov = {to, n};
	ssize_t		cached = preadv2(f->fd, &iov, 1, at, RWF_NOWAIT);
	bool		known = cached >= 0 || errno == EAGAIN;
	size_t		got;

	if (cached < 0)
		cached = 0;
	if (!read_all(f, to + cached, n - cached, at + cached, &got, err))
		return false;
	if (known && got > 0)
		posix_fadvise(f->fd, at + cached, got, POSIX_FADV_DONTNEED);
	memset(to + cached + got, 0, n - cached - got);
	return true;
}

bool
read_verdict(const PageFile *f, char *page, off_t at, bool checksums, XLogRecPtr start_lsn, int rereads,
			 CorruptPage *c, PageVerdict *verdict, bool *sound, DrError *err)
{
	*sound = true;
	for (int i = 0;; i++)
	{
		size_t		got;

		*verdict = page_judge(page, c->block, checksums, start_lsn, &c->expected, &c->found, &c->lsn, sound);
		if (*verdict != PAGE_CORRUPT || i == rereads)
			return true;
		usleep(i * 5000);
		if (!read_all(f, page, BLCKSZ, at, &got, err))
			return false;
		memset(page + got, 0, BLCKSZ - got);
	}
}
