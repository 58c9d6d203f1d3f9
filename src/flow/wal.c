/*
 * wal.c
 *	  WAL files into and out of a repository.
 *
 * Invariants:
 *
 *	W1	A file is called archived only when its object is durable, or one with
 *		the same bytes was fetched and opened.
 *	W2	Bytes leave wal_fetch only after the whole object was authenticated,
 *		decompressed and compared with length and checksum.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/wal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "core/step.h"

#define SEALED_FIRST	(4 * 1024 * 1024)
#define READ_SIZE	(256 * 1024)	/* fits the processor's cache */

void
wal_workspace_init(WalWorkspace *space, int level)
{
	codec_init(&space->codec, level);
	seal_buffer_init(&space->sealed, SEALED_FIRST);
	space->in = aligned_malloc(READ_SIZE);
	space->out = pg_malloc(READ_SIZE);
}

void
wal_workspace_free(WalWorkspace *space)
{
	codec_free(&space->codec);
	seal_buffer_free(&space->sealed);
	free(space->in);
	free(space->out);
}

/* ---- a file of the server ---- */

static int
open_file(const char *path, uint64 *size, int64 *written_at, DrError *err)
{
	struct stat st;
	int			fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 || fstat(fd, &st) != 0)
		dr_error(err, DR_IO, "could not open WAL file \"%s\": %s", path, strerror(errno));
	else if (!S_ISREG(st.st_mode) || (uint64) st.st_size > WAL_OBJECT_MAX)
		dr_error(err, DR_IO, "\"%s\" is not a regular file of a WAL file's size", path);
	else
	{
		*size = st.st_size;
		*written_at = (int64) st.st_mtim.tv_sec * 1000000 + st.st_mtim.tv_nsec / 1000;
		return fd;
	}
	if (fd >= 0)
		close(fd);
	return -1;
}

/* Fewer than n only where the file ends. */
static bool
read_some(int fd, const char *path, uint8 *buf, size_t n, size_t *got, DrError *err)
{
	for (*got = 0; *got < n;)
	{
		ssize_t		r = read(fd, buf + *got, n - *got);

		if (r < 0 && errno != EINTR)
			return dr_error(err, DR_IO, "could not read WAL file \"%s\": %s", path, strerror(errno));
		if (r == 0)
			break;
		*got += Max(r, 0);
	}
	return true;
}

static bool
changed(const char *path, DrError *err)
{
	return dr_error(err, DR_IO, "WAL file \"%s\" changed while it was read", path);
}

static bool
is_segment(ObjectKind kind)
{
	return kind == KIND_WAL || kind == KIND_PARTIAL;
}

bool
wal_header_check(const uint8 *data, size_t n, uint64 size, const char *sysid, const char *file, DrError *err)
{
	XLogLongPageHeaderData h;
	char		own[24];

	if (n >= sizeof(h))
		memcpy(&h, data, sizeof(h));
	if (n < sizeof(h) || h.std.xlp_magic != XLOG_PAGE_MAGIC ||
		(h.std.xlp_info & XLP_LONG_HEADER) == 0 || h.xlp_seg_size != size)
	{
		dr_error(err, DR_DAMAGED, "WAL file \"%s\" is not a WAL segment of this server version", file);
		return dr_detail(err, "Its first page's header has magic %04X and segment size %u; the file has " UINT64_FORMAT " bytes.",
						 n < sizeof(h) ? 0 : h.std.xlp_magic, n < sizeof(h) ? 0 : h.xlp_seg_size, size);
	}
	snprintf(own, sizeof(own), UINT64_FORMAT, h.xlp_sysid);
	if (strcmp(own, sysid) != 0)
	{
		dr_error(err, DR_CONFLICT, "WAL file \"%s\" belongs to another cluster", file);
		return dr_detail(err, "Its system identifier is %s, not %s.", own, sysid);
	}
	return true;
}

static void
append_sealed(void *arg, const void *data, size_t n)
{
	seal_buffer_append(arg, data, n);
}

/* Read, check and compress into the workspace; the CRC of what was read. */
static bool
take_in(WalWorkspace *space, int fd, uint64 size, const char *sysid, const char *file, const char *path,
		uint32 *crc, DrError *err)
{
	uint64		done = 0;
	size_t		n;
	WalFile		wal;

	wal_file_parse(file, &wal);
	*crc = 0;
	seal_buffer_reset(&space->sealed);
	if (!codec_begin(&space->codec, size, err))
		return false;
	do
	{
		if (!read_some(fd, path, space->in, READ_SIZE, &n, err))
			return false;
		if (done + n > size || (n < READ_SIZE && done + n != size))
			return changed(path, err);
		if (done == 0 && is_segment(wal.kind) &&
			!wal_header_check(space->in, n, size, sysid, file, err))
			return false;
		*crc = crc32c_append(*crc, space->in, n);
		done += n;
		if (!codec_feed(&space->codec, space->in, n, done == size, space->out, READ_SIZE,
						append_sealed, &space->sealed, err))
			return false;
	} while (done < size);
	return true;
}

bool
wal_seal(Repository *repo, WalWorkspace *space, const Bytes *plain, const char *name,
		 DrError *err)
{
	uint32		crc = crc32c(plain->data, plain->len);

	seal_buffer_reset(&space->sealed);
	return codec_begin(&space->codec, plain->len, err) &&
		codec_feed(&space->codec, plain->data, plain->len, true, space->out, READ_SIZE,
				   append_sealed, &space->sealed, err) &&
		repository_seal(repo, &space->sealed, CODEC_ZSTD, plain->len, crc, name, err);
}

/* Are these the file's bytes still?  It is read again for that. */
static bool
same_bytes(const Bytes *other, const char *path, uint8 *buf, bool *same, DrError *err)
{
	uint64		size;
	int64		written_at;
	uint64		done = 0;
	size_t		n = 0;
	int			fd = open_file(path, &size, &written_at, err);
	bool		ok = fd >= 0;

	*same = ok && other->len == size;
	while (ok && *same && done < size)
	{
		ok = read_some(fd, path, buf, READ_SIZE, &n, err) && (n > 0 || changed(path, err));
		*same = ok && done + n <= size && memcmp(other->data + done, buf, n) == 0;
		done += n;
	}
	if (fd >= 0)
		close(fd);
	return ok;
}

/* W1: the name is taken.  By the same bytes? */
static bool
same_as_stored(Repository *repo, WalWorkspace *space, const char *sysid, const char *file,
			   const char *path, uint32 crc, WalStored *stored, DrError *err)
{
	Bytes		raw = {0};
	Bytes		other = {0};
	SealHeader	header;
	char		when[TIME_TEXT_MAX];
	bool		same = false;

	if (wal_fetch(repo, sysid, file, &other, &header, err) == STORE_OK &&
		store_get(repo->store, stored->object, WAL_OBJECT_MAX, &raw, err) == STORE_OK &&
		same_bytes(&other, path, space->in, &same, err))
	{
		stored->existed = true;
		stored->size = raw.len;
		sha256(raw.data, raw.len, stored->sha256);
		if (!same)
		{
			time_format(when, header.created);
			dr_error(err, DR_CONFLICT, "WAL file \"%s\" is already archived with other content", file);
			dr_detail(err, "Object \"%s\", stored at %s, has CRC-32C %08X; the file offered now has %08X.",
					  stored->object, when, header.plain_crc, crc);
			dr_hint(err, "Two servers write the same timeline. Stop the one that should not; "
					"the archived file is unchanged.");
		}
	}
	bytes_free(&other);
	bytes_free(&raw);
	return same;
}

bool
wal_archive(Repository *repo, WalWorkspace *space, const char *sysid, const char *file,
			const char *path, bool (*may_store) (void *arg, DrError *err), void *arg,
			WalStored *stored, DrError *err)
{
	WalFile		wal;
	uint64		size;
	uint32		crc;
	int			fd;
	StoreResult r;
	bool		ok;

	memset(stored, 0, sizeof(*stored));
	if (!wal_file_parse(file, &wal))
		return dr_error(err, DR_CONFIG, "\"%s\" is not the name of a WAL file", file);
	name_wal(stored->object, sysid, file);
	if ((fd = open_file(path, &size, &stored->written_at, err)) < 0)
		return false;
	ok = take_in(space, fd, size, sysid, file, path, &crc, err);
	close(fd);
	if (!ok || !repository_seal(repo, &space->sealed, CODEC_ZSTD, size, crc, stored->object, err) ||
		(may_store != NULL && !may_store(arg, err)))
		return false;
	step_reached("archive.read");
	r = repository_put(repo, &space->sealed, stored->object, stored->sha256, err);
	stored->size = space->sealed.size;
	ok = r == STORE_OK ||
		(r == STORE_TAKEN && same_as_stored(repo, space, sysid, file, path, crc, stored, err));
	if (ok)
		step_reached("archive.stored");
	return ok;
}

StoreResult
wal_fetch(Repository *repo, const char *sysid, const char *file, Bytes *plain, SealHeader *header,
		  DrError *err)
{
	ObjectName	name;
	WalFile		wal;
	StoreResult r;

	if (!wal_file_parse(file, &wal))
	{
		dr_error(err, DR_CONFIG, "\"%s\" is not the name of a WAL file", file);
		return STORE_FAILED;
	}
	name_wal(name, sysid, file);
	r = repository_get_plain(repo, name, WAL_OBJECT_MAX, plain, header, err);
	if (r == STORE_OK && is_segment(wal.kind) &&
		!wal_header_check(plain->data, plain->len, plain->len, sysid, file, err))
		return STORE_FAILED;
	return r;
}

bool
wal_history(Repository *repo, const char *sysid, TimeLineID tli, History *h, DrError *err)
{
	char		file[32];
	Bytes		text = {0};
	SealHeader	header;
	bool		ok;

	if (tli == 1)
	{
		history_single(h, 1);
		return true;
	}
	snprintf(file, sizeof(file), "%08X.history", tli);
	ok = wal_fetch(repo, sysid, file, &text, &header, err) == STORE_OK &&
		history_parse(h, tli, (char *) text.data, text.len, file, err);
	bytes_free(&text);
	return ok;
}
