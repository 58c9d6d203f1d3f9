/*
 * direct.c
 *	  Large writes past the page cache.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "store/direct.h"

#include <fcntl.h>
#include <unistd.h>

int
direct_open(int dirfd, const char *path, int flags, mode_t mode, size_t n)
{
	int			fd = n < DIRECT_WORTH ? -1 : openat(dirfd, path, flags | O_DIRECT, mode);

	/* A file system without O_DIRECT says EINVAL, after it has made the file. */
	if (fd < 0 && (n < DIRECT_WORTH || errno == EINVAL))
		fd = openat(dirfd, path, n < DIRECT_WORTH ? flags : flags & ~O_EXCL, mode);
	return fd;
}

static bool
write_all(int fd, const char *data, size_t n, off_t at)
{
	while (n > 0)
	{
		ssize_t		w = pwrite(fd, data, n, at);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
		{
			errno = w == 0 ? ENOSPC : errno;
			return false;
		}
		data += w;
		at += w;
		n -= w;
	}
	return true;
}

bool
direct_end(int fd)
{
	int			flags = fcntl(fd, F_GETFL);

	return flags >= 0 && ((flags & O_DIRECT) == 0 || fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0);
}

bool
direct_write(int fd, const void *data, size_t n, off_t at)
{
	bool		aligned = (uintptr_t) data % DIRECT_ALIGN == 0 && at % DIRECT_ALIGN == 0;
	size_t		head = aligned ? n / DIRECT_ALIGN * DIRECT_ALIGN : 0;

	/* EINVAL: this file system wants more than DIRECT_ALIGN. */
	if (head > 0 && !write_all(fd, data, head, at))
	{
		if (errno != EINVAL)
			return false;
		head = 0;
	}
	return head == n ||
		(direct_end(fd) && write_all(fd, (const char *) data + head, n - head, at + head));
}

ssize_t
direct_read(int fd, void *data, size_t n, off_t at)
{
	bool		aligned = (uintptr_t) data % DIRECT_ALIGN == 0 && at % DIRECT_ALIGN == 0;
	size_t		done = 0;

	while (done < n)
	{
		size_t		want = n - done;
		ssize_t		r;

		aligned = aligned && done % DIRECT_ALIGN == 0;
		if (!aligned && !direct_end(fd))
			return -1;
		r = pread(fd, (char *) data + done, aligned ? TYPEALIGN(DIRECT_ALIGN, want) : want, at + done);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && errno == EINVAL && aligned)
		{
			aligned = false;	/* this file system wants more than DIRECT_ALIGN */
			continue;
		}
		if (r < 0)
			return -1;
		if (r == 0)
			break;
		done += r;
	}
	return Min(done, n);
}
