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
 *	W3	A file is called absent only when nothing of the archive lies behind it.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/wal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "core/step.h"

static bool
read_file(const char *path, size_t max, Bytes *out, DrError *err)
{
	struct stat st;
	int			fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	bool		ok;

	if (fd < 0 || fstat(fd, &st) != 0)
	{
		dr_error(err, DR_IO, "could not open WAL file \"%s\": %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return false;
	}
	ok = S_ISREG(st.st_mode) && (uint64) st.st_size <= max;
	if (!ok)
		dr_error(err, DR_IO, "\"%s\" is not a regular file of a WAL file's size", path);
	else
		bytes_reserve(out, st.st_size + 1);
	while (ok && out->len <= (size_t) st.st_size)
	{
		ssize_t		r = read(fd, out->data + out->len, st.st_size + 1 - out->len);

		if (r < 0 && errno != EINTR)
			ok = dr_error(err, DR_IO, "could not read WAL file \"%s\": %s", path, strerror(errno));
		if (r == 0)
			break;
		if (r > 0)
			out->len += r;
	}
	close(fd);
	if (ok && out->len != (size_t) st.st_size)
		ok = dr_error(err, DR_IO, "WAL file \"%s\" changed while it was read", path);
	return ok;
}

bool
wal_header_check(const uint8 *data, size_t n, const char *sysid, const char *file, DrError *err)
{
	XLogLongPageHeaderData h;
	char		own[24];

	if (n >= sizeof(h))
		memcpy(&h, data, sizeof(h));
	if (n < sizeof(h) || h.std.xlp_magic != XLOG_PAGE_MAGIC ||
		(h.std.xlp_info & XLP_LONG_HEADER) == 0 || h.xlp_seg_size != n)
	{
		dr_error(err, DR_DAMAGED, "WAL file \"%s\" is not a WAL segment of this server version", file);
		return dr_detail(err, "Its first page's header has magic %04X and segment size %u; the file has %zu bytes.",
						 n < sizeof(h) ? 0 : h.std.xlp_magic, n < sizeof(h) ? 0 : h.xlp_seg_size, n);
	}
	snprintf(own, sizeof(own), UINT64_FORMAT, h.xlp_sysid);
	if (strcmp(own, sysid) != 0)
	{
		dr_error(err, DR_CONFLICT, "WAL file \"%s\" belongs to another cluster", file);
		return dr_detail(err, "Its system identifier is %s, not %s.", own, sysid);
	}
	return true;
}

/* Compress and seal plain bytes into b. */
static bool
seal_file(Repository *repo, const Bytes *plain, int level, const char *name, SealBuffer *b,
		  DrError *err)
{
	size_t		bound = ZSTD_compressBound(plain->len);
	uint8	   *compressed = pg_malloc(bound);
	size_t		n = 0;
	Codec		codec;
	bool		ok;

	codec_init(&codec, level);
	ok = codec_compress(&codec, plain->data, plain->len, compressed, bound, &n, err);
	codec_free(&codec);
	if (ok)
	{
		seal_buffer_init(b, n);
		seal_buffer_append(b, compressed, n);
		ok = repository_seal(repo, b, CODEC_ZSTD, plain->len, crc32c(plain->data, plain->len), name, err);
	}
	free(compressed);
	return ok;
}

/* W1: the name is taken.  By the same bytes? */
static bool
same_as_stored(Repository *repo, const char *sysid, const char *file, const Bytes *plain,
			   WalStored *stored, DrError *err)
{
	Bytes		raw = {0};
	Bytes		other = {0};
	SealHeader	header;
	char		when[TIME_TEXT_MAX];
	bool		same;

	if (wal_fetch(repo, sysid, file, &other, &header, err) != STORE_OK ||
		store_get(repo->store, stored->object, WAL_OBJECT_MAX, &raw, err) != STORE_OK)
	{
		bytes_free(&other);
		bytes_free(&raw);
		return false;
	}
	same = other.len == plain->len && memcmp(other.data, plain->data, plain->len) == 0;
	stored->existed = true;
	stored->size = raw.len;
	sha256(raw.data, raw.len, stored->sha256);
	if (!same)
	{
		time_format(when, header.created);
		dr_error(err, DR_CONFLICT, "WAL file \"%s\" is already archived with other content", file);
		dr_detail(err, "Object \"%s\", stored at %s, has CRC-32C %08X; the file offered now has %08X.",
				  stored->object, when, header.plain_crc, crc32c(plain->data, plain->len));
		dr_hint(err, "Two servers write the same timeline. Stop the one that should not; "
				"the archived file is unchanged.");
	}
	bytes_free(&other);
	bytes_free(&raw);
	return same;
}

bool
wal_archive(Repository *repo, const char *sysid, const char *file, const char *path, int level,
			bool (*may_store) (void *arg, DrError *err), void *arg, WalStored *stored, DrError *err)
{
	Bytes		plain = {0};
	SealBuffer	b = {0};
	WalFile		wal;
	bool		ok = false;

	memset(stored, 0, sizeof(*stored));
	if (!wal_file_parse(file, &wal))
		return dr_error(err, DR_CONFIG, "\"%s\" is not the name of a WAL file", file);
	name_wal(stored->object, sysid, file);
	if (read_file(path, WAL_OBJECT_MAX, &plain, err) &&
		(wal.kind == KIND_HISTORY || wal.kind == KIND_BACKUP_HISTORY ||
		 wal_header_check(plain.data, plain.len, sysid, file, err)) &&
		seal_file(repo, &plain, level, stored->object, &b, err) &&
		(may_store == NULL || may_store(arg, err)))
	{
		StoreResult r;

		step_reached("archive.read");
		r = repository_put(repo, &b, stored->object, stored->sha256, err);
		stored->size = b.size;
		ok = r == STORE_OK ||
			(r == STORE_TAKEN && same_as_stored(repo, sysid, file, &plain, stored, err));
		if (ok)
			step_reached("archive.stored");
	}
	seal_buffer_free(&b);
	bytes_free(&plain);
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
	if (r == STORE_OK && (wal.kind == KIND_WAL || wal.kind == KIND_PARTIAL) &&
		!wal_header_check(plain->data, plain->len, sysid, file, err))
		return STORE_FAILED;
	return r;
}

/* ---- absence ---- */

/* Anything of a later timeline proves that an absent history file is a hole. */
static bool
history_absence_proven(Repository *repo, const char *sysid, const char *file, TimeLineID tli,
					   DrError *err)
{
	Listing		l;
	char		prefix[64];
	bool		proven = true;

	snprintf(prefix, sizeof(prefix), "%s/wal/", sysid);
	if (!repository_list(repo, prefix, false, &l, err))
		return false;
	for (size_t i = 0; proven && i < l.n; i++)
	{
		const char *dir = l.names[i] + strlen(prefix);

		if (strlen(dir) == 9 && strtoul(dir, NULL, 16) >= tli && tli > 1)
		{
			dr_error(err, DR_DAMAGED, "timeline history file \"%s\" is missing from the repository", file);
			dr_detail(err, "Object \"%s/wal/%08X/%s\" does not exist, but \"%s\" does.",
					  sysid, tli, file, l.names[i]);
			proven = dr_hint(err, "Without it recovery would end on an older timeline; bring it back from a copy.");
		}
	}
	listing_free(&l);
	return proven;
}

static bool
segment_absence_proven(Repository *repo, const char *sysid, const char *file, TimeLineID tli,
					   DrError *err)
{
	Listing		l;
	ObjectName	name;
	char		prefix[64];
	bool		proven = true;

	snprintf(prefix, sizeof(prefix), "%s/wal/%08X/", sysid, tli);
	name_wal(name, sysid, file);
	if (!repository_list(repo, prefix, false, &l, err))
		return false;
	for (size_t i = 0; proven && i < l.n; i++)
	{
		ObjectKind	kind = object_kind(l.names[i]);

		/* Its own note sorts behind it, too. */
		if ((kind == KIND_WAL || kind == KIND_FRONTIER) && strcmp(l.names[i], name) > 0)
		{
			dr_error(err, DR_DAMAGED, "WAL segment \"%s\" is missing from the repository", file);
			dr_detail(err, "Object \"%s\" does not exist, but \"%s\" does.", name, l.names[i]);
			proven = dr_hint(err, "Recovery can't go past this gap. Recover to a point before it, "
							 "or bring the object back from a copy.");
		}
	}
	listing_free(&l);
	return proven;
}

bool
wal_absence_proven(Repository *repo, const char *sysid, const char *file, DrError *err)
{
	WalFile		wal;

	if (!wal_file_parse(file, &wal))
		return dr_error(err, DR_CONFIG, "\"%s\" is not the name of a WAL file", file);
	if (!repository_confirm_absent(repo, err))
		return false;
	if (wal.kind == KIND_HISTORY)
		return history_absence_proven(repo, sysid, file, wal.timeline, err);
	if (wal.kind == KIND_WAL)
		return segment_absence_proven(repo, sysid, file, wal.timeline, err);
	return true;
}
