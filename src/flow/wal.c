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

void
wal_workspace_init(WalWorkspace *space, int level)
{
	codec_init(&space->codec, level);
	seal_buffer_init(&space->sealed, SEALED_FIRST);
	memset(&space->in, 0, sizeof(space->in));
	memset(&space->out, 0, sizeof(space->out));
}

void
wal_workspace_free(WalWorkspace *space)
{
	codec_free(&space->codec);
	seal_buffer_free(&space->sealed);
	bytes_free(&space->in);
	bytes_free(&space->out);
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

/* All of it, which must be what fstat said. */
static bool
read_file(int fd, const char *path, uint64 size, Bytes *in, DrError *err)
{
	in->len = 0;
	bytes_reserve(in, size + 1);	/* one more, to see that there is no more */
	while (in->len <= size)
	{
		ssize_t		r = read(fd, in->data + in->len, size + 1 - in->len);

		if (r < 0 && errno != EINTR)
			return dr_error(err, DR_IO, "could not read WAL file \"%s\": %s", path, strerror(errno));
		if (r == 0)
			break;
		in->len += Max(r, 0);
	}
	return in->len == size ||
		dr_error(err, DR_IO, "WAL file \"%s\" changed while it was read", path);
}

bool
wal_read_file(const char *path, Bytes *in, int64 *written_at, DrError *err)
{
	uint64		size;
	int			fd = open_file(path, &size, written_at, err);
	bool		ok = fd >= 0 && read_file(fd, path, size, in, err);

	if (fd >= 0)
		close(fd);
	return ok;
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

/* In one call: what comes in pieces zstd copies, and searches in two places. */
bool
wal_seal(Repository *repo, WalWorkspace *space, const Bytes *plain, const char *name, DrError *err)
{
	size_t		bound = ZSTD_compressBound(plain->len);

	space->out.len = 0;
	bytes_reserve(&space->out, bound);
	if (!codec_compress(&space->codec, plain->data, plain->len, space->out.data, bound, &space->out.len, err))
		return false;
	seal_buffer_reset(&space->sealed);
	seal_buffer_append(&space->sealed, space->out.data, space->out.len);
	return repository_seal(repo, &space->sealed, CODEC_ZSTD, plain->len, crc32c(plain->data, plain->len), name, err);
}

/* W1: the name is taken.  By the same bytes? */
static bool
same_as_stored(Repository *repo, const Bytes *in, const char *sysid, const char *file,
			   WalStored *stored, DrError *err)
{
	Bytes		raw = {0};
	Bytes		other = {0};
	SealHeader	header;
	char		when[TIME_TEXT_MAX];
	bool		same = false;

	if (wal_fetch(repo, sysid, file, &other, &header, err) == STORE_OK &&
		store_get(repo->store, stored->object, WAL_OBJECT_MAX, &raw, err) == STORE_OK)
	{
		stored->existed = true;
		stored->size = raw.len;
		sha256(raw.data, raw.len, stored->sha256);
		same = other.len == in->len && memcmp(other.data, in->data, in->len) == 0;
		if (!same)
		{
			time_format(when, header.created);
			dr_error(err, DR_CONFLICT, "WAL file \"%s\" is already archived with other content", file);
			dr_detail(err, "Object \"%s\", stored at %s, has CRC-32C %08X; the file offered now has %08X.",
					  stored->object, when, header.plain_crc, crc32c(in->data, in->len));
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
	StoreResult r;
	bool		ok;

	memset(stored, 0, sizeof(*stored));
	if (!wal_file_parse(file, &wal))
		return dr_error(err, DR_CONFIG, "\"%s\" is not the name of a WAL file", file);
	name_wal(stored->object, sysid, file);
	if (!wal_read_file(path, &space->in, &stored->written_at, err) ||
		(is_segment(wal.kind) && !wal_header_check(space->in.data, space->in.len, space->in.len, sysid, file, err)) ||
		!wal_seal(repo, space, &space->in, stored->object, err) ||
		(may_store != NULL && !may_store(arg, err)))
		return false;
	step_reached("archive.read");
	r = repository_put(repo, &space->sealed, stored->object, stored->sha256, err);
	stored->size = space->sealed.size;
	ok = r == STORE_OK ||
		(r == STORE_TAKEN && same_as_stored(repo, &space->in, sysid, file, stored, err));
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
wal_list_after(Repository *repo, const char *sysid, const char *segment, Listing *l, DrError *err)
{
	char		prefix[64];
	ObjectName	after;

	name_wal(after, sysid, segment);
	snprintf(prefix, sizeof(prefix), "%s/wal/%.8s/", sysid, segment);
	return repository_list_after(repo, prefix, after, l, err);
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
