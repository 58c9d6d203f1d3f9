/*
 * manifest_writer.c
 *	  Records in, compressed bytes out; nothing but the compressed bytes is kept.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/manifest.h"

#define MANIFEST_LEVEL	3

/*
 * A range of a sealed object brings whole chunks, with tags, or (where two are
 * fetched as one) no more than that between its frames; and the object's
 * beginning is fetched, too.
 */
#define RANGE_EXTRA		(2 * 16384 + 64)
#define TAGS_PER_BYTE	1000
#define RANGE_FIRST		128

struct ManifestWriter
{
	ZSTD_CCtx  *zstd;
	Bytes		out;
	Bytes		record;			/* scratch */
	uint64		plain_length;
	uint32		crc;
	uint64		files;
	uint64		directories;
	uint64		frames;
	uint64		bytes;
	uint64		packs;
	uint64		bytes_stored;
	uint64		inherited_packs;
	uint64		bytes_referenced;
	uint64		restore_bytes;
	uint64		restore_requests;
	uint64		corrupt_pages;
	bool		failed;
};

/* Compress plain bytes into w->out; the last call ends the zstd frame. */
static void
emit(ManifestWriter *w, const void *data, size_t n, bool last)
{
	ZSTD_inBuffer in = {data, n, 0};
	size_t		left;

	if (n > 0)
	{
		uint32		crc = crc32c(data, n);

		w->crc = w->plain_length == 0 ? crc : crc32c_combine(w->crc, crc, n);
		w->plain_length += n;
	}
	do
	{
		ZSTD_outBuffer out;

		bytes_reserve(&w->out, ZSTD_CStreamOutSize());
		out.dst = w->out.data + w->out.len;
		out.size = w->out.cap - w->out.len;
		out.pos = 0;
		left = ZSTD_compressStream2(w->zstd, &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
		if (ZSTD_isError(left))
		{
			w->failed = true;
			return;
		}
		w->out.len += out.pos;
	} while (in.pos < in.size || (last && left > 0));
}

static void
emit_record(ManifestWriter *w, char type, const void *payload, size_t n)
{
	uint8		head[5];

	head[0] = (uint8) type;
	put_u32(head + 1, (uint32) n);
	emit(w, head, sizeof(head), false);
	emit(w, payload, n, false);
}

static void
emit_scratch(ManifestWriter *w, char type)
{
	emit_record(w, type, w->record.data, w->record.len);
	w->record.len = 0;
}

static void
append_text(Bytes *b, const char *text)
{
	size_t		n = strlen(text);

	bytes_append_u16(b, (uint16) n);
	bytes_append(b, text, n);
}

/* What picking the frames that are used fetches at most, tags included. */
static uint64
ranges_size(const ManifestPack *pack)
{
	return pack->used + pack->used / TAGS_PER_BYTE + (uint64) pack->frames * RANGE_EXTRA + RANGE_FIRST;
}

bool
pack_read_whole(const ManifestPack *pack)
{
	return ranges_size(pack) >= pack->size;
}

void
pack_restore_cost(const ManifestPack *pack, uint64 *bytes, uint64 *requests)
{
	bool		whole = pack_read_whole(pack);

	*bytes += whole ? pack->size : ranges_size(pack);
	*requests += whole ? 1 : pack->frames + 1;
}

ManifestWriter *
manifest_writer_new(const BackupInfo *info)
{
	ManifestWriter *w = pg_malloc0(sizeof(*w));
	char	   *begin = backup_info_begin_json(info);
	uint8		head[12];

	w->zstd = ZSTD_createCCtx();
	if (w->zstd == NULL)
	{
		fprintf(stderr, "pg_dr: out of memory\n");
		exit(EXIT_FAILURE);
	}
	ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_compressionLevel, MANIFEST_LEVEL);
	memcpy(head, "PGDRMANI", 8);
	put_u32(head + 8, 1);
	emit(w, head, sizeof(head), false);
	emit_record(w, 'B', begin, strlen(begin));
	free(begin);
	return w;
}

void
manifest_write_tablespace(ManifestWriter *w, const char *oid, const char *path)
{
	json_t	   *object = json_pack("{s:s, s:s}", "oid", oid, "path", path);
	char	   *text = json_dumps(object, JSON_COMPACT);

	emit_record(w, RECORD_TABLESPACE, text, strlen(text));
	free(text);
	json_decref(object);
}

void
manifest_write_directory(ManifestWriter *w, uint32 mode, const char *path)
{
	bytes_append_u32(&w->record, mode);
	append_text(&w->record, path);
	emit_scratch(w, RECORD_DIRECTORY);
	w->directories++;
}

void
manifest_write_file(ManifestWriter *w, const ManifestFile *file)
{
	uint8		class = (uint8) file->class;

	bytes_append(&w->record, &class, 1);
	bytes_append_u32(&w->record, file->mode);
	bytes_append_u64(&w->record, (uint64) file->mtime);
	bytes_append_u64(&w->record, file->size);
	bytes_append_u32(&w->record, file->n_extents > 0 ? 0 : file->crc);
	append_text(&w->record, file->path);
	bytes_append_u32(&w->record, file->n_frames);
	for (uint32 i = 0; i < file->n_frames; i++)
	{
		bytes_append_u32(&w->record, file->frames[i].pack);
		bytes_append_u32(&w->record, file->frames[i].offset);
		bytes_append_u32(&w->record, file->frames[i].stored);
		bytes_append_u32(&w->record, file->frames[i].raw);
		bytes_append_u32(&w->record, file->frames[i].crc);
	}
	if (file->n_extents > 0)
		bytes_append_u32(&w->record, file->n_extents);
	for (uint32 i = 0; i < file->n_extents; i++)
	{
		bytes_append_u32(&w->record, file->extents[i].frame);
		bytes_append_u32(&w->record, file->extents[i].skip);
		bytes_append_u32(&w->record, file->extents[i].length);
	}
	emit_scratch(w, file->n_extents > 0 ? RECORD_EXTENTS : RECORD_FILE);
	w->files++;
	w->frames += file->n_frames;
	w->bytes += file->size;
}

void
manifest_write_corrupt(ManifestWriter *w, const CorruptPage *page)
{
	bytes_append_u32(&w->record, page->block);
	bytes_append_u16(&w->record, page->expected);
	bytes_append_u16(&w->record, page->found);
	bytes_append_u64(&w->record, page->lsn);
	append_text(&w->record, page->path);
	emit_scratch(w, RECORD_CORRUPT);
	w->corrupt_pages++;
}

void
manifest_write_pack(ManifestWriter *w, const ManifestPack *pack)
{
	bytes_append_u32(&w->record, pack->number);
	bytes_append_u64(&w->record, pack->size);
	bytes_append(&w->record, pack->sha256, 32);
	bytes_append_u32(&w->record, pack->frames);
	bytes_append_u64(&w->record, pack->used);
	append_text(&w->record, pack->name);
	emit_scratch(w, RECORD_PACK);
	if (pack->number < PACK_INHERITED)
	{
		w->packs++;
		w->bytes_stored += pack->size;
	}
	else
	{
		w->inherited_packs++;
		w->bytes_referenced += pack->used;
	}
	pack_restore_cost(pack, &w->restore_bytes, &w->restore_requests);
}

bool
manifest_writer_finish(ManifestWriter *w, BackupInfo *info, const Bytes **content,
					   uint64 *plain_length, uint32 *crc, DrError *err)
{
	char	   *end;

	info->files = w->files;
	info->directories = w->directories;
	info->frames = w->frames;
	info->bytes = w->bytes;
	info->packs = w->packs;
	info->bytes_stored = w->bytes_stored;
	info->inherited_packs = w->inherited_packs;
	info->bytes_referenced = w->bytes_referenced;
	info->restore_bytes = w->restore_bytes;
	info->restore_requests = w->restore_requests;
	info->corrupt_pages = w->corrupt_pages;
	end = backup_info_end_json(info);
	emit_record(w, RECORD_END, end, strlen(end));
	free(end);
	emit(w, NULL, 0, true);
	if (w->failed)
		return dr_error(err, DR_INTERNAL, "could not compress the manifest");
	*content = &w->out;
	*plain_length = w->plain_length;
	*crc = w->crc;
	return true;
}

void
manifest_writer_free(ManifestWriter *w)
{
	if (w == NULL)
		return;
	ZSTD_freeCCtx(w->zstd);
	bytes_free(&w->out);
	bytes_free(&w->record);
	free(w);
}
