/*
 * manifest_reader.c
 *	  Compressed bytes in, checked records out.
 *
 * The content was authenticated before it gets here; the checks are against
 * a program that wrote nonsense, and they bound memory.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/manifest.h"

/* A record's payload, at most: a file of three million frames. */
#define RECORD_MAX		(64 * 1024 * 1024)

/* Bytes of each in a record. */
#define FRAME_SIZE		20
#define EXTENT_SIZE		12

#define CONTROL_PATH	"global/pg_control"

/* Records come in this order; C records anywhere. */
typedef enum Section
{
	SECTION_TABLESPACES,
	SECTION_FILES,				/* and directories, by path */
	SECTION_CONFIG,
	SECTION_CONTROL,
	SECTION_PACKS
} Section;

struct ManifestReader
{
	const char *name;
	BackupInfo *info;
	ZSTD_DCtx  *zstd;
	ZSTD_inBuffer in;
	bool		zstd_done;
	uint64		plain_length;	/* expected */
	uint32		plain_crc;		/* expected */
	uint64		seen;
	uint32		crc;
	Bytes		payload;		/* of the current record, NUL behind it */
	Frame	   *frames;
	size_t		frames_cap;
	Extent	   *extents;
	size_t		extents_cap;
	char	   *text[2];		/* of the current record */

	/* counted for M1 */
	uint64		files;
	uint64		directories;
	uint64		n_frames;
	uint64		bytes;
	uint64		packs;
	uint64		bytes_stored;
	uint64		inherited_packs;
	uint64		bytes_referenced;
	uint64		corrupt_pages;
	uint32		max_pack;		/* largest numbers that a frame used */
	uint32		max_inherited;

	/*
	 * Frames and stored bytes of each pack, added for a file's frames and taken
	 * away again by P records, each times a number of the pack's own: 0 when they
	 * agree pack by pack.
	 */
	uint64		frames_balance;
	uint64		stored_balance;
	char	  **inherited;		/* names of these packs */

	/* the order of records */
	Section		section;
	bool		control;		/* pg_control was there */
	char	   *last_path;		/* of SECTION_FILES; NULL: none yet */
};

static bool
damaged(ManifestReader *r, DrError *err, const char *why)
{
	dr_error(err, DR_DAMAGED, "manifest \"%s\" is damaged", r->name);
	return dr_detail(err, "%s", why);
}

/* A byte's place in the order of paths: what is in a directory follows it at once. */
static int
path_byte(char c)
{
	return c == '\0' ? 0 : c == '/' ? 1 : (unsigned char) c + 1;
}

int
path_compare(const char *a, const char *b)
{
	while (*a != '\0' && *a == *b)
	{
		a++;
		b++;
	}
	return path_byte(*a) - path_byte(*b);
}

/* May a record of this section, for this path, come now? */
static bool
in_order(ManifestReader *r, Section section, const char *path)
{
	if (section < r->section || (section == SECTION_CONTROL && r->section == section))
		return false;
	r->section = section;
	if (section != SECTION_FILES)
		return true;
	if (r->last_path != NULL && path_compare(r->last_path, path) >= 0)
		return false;
	free(r->last_path);
	r->last_path = pg_strdup(path);
	return true;
}

/* Exactly n plain bytes to out. */
static bool
take(ManifestReader *r, void *out, size_t n, DrError *err)
{
	ZSTD_outBuffer buf = {out, n, 0};

	while (buf.pos < n)
	{
		size_t		before_in = r->in.pos;
		size_t		before_out = buf.pos;
		size_t		left;

		if (r->zstd_done)
			return damaged(r, err, "It ends in the middle of a record.");
		left = ZSTD_decompressStream(r->zstd, &buf, &r->in);
		if (ZSTD_isError(left))
			return damaged(r, err, ZSTD_getErrorName(left));
		r->zstd_done = left == 0;
		if (!r->zstd_done && r->in.pos == before_in && buf.pos == before_out)
			return damaged(r, err, "It is cut off.");
	}
	if (n > 0)
	{
		uint32		crc = crc32c(out, n);

		r->crc = r->seen == 0 ? crc : crc32c_combine(r->crc, crc, n);
		r->seen += n;
	}
	return true;
}

/* The next record's type and payload. */
static bool
take_record(ManifestReader *r, uint8 *type, DrError *err)
{
	uint8		head[5];
	uint32		n;

	if (!take(r, head, sizeof(head), err))
		return false;
	*type = head[0];
	n = get_u32(head + 1);
	if (n > RECORD_MAX || r->seen + n > r->plain_length)
		return damaged(r, err, "A record is longer than any can be.");
	r->payload.len = 0;
	bytes_reserve(&r->payload, (size_t) n + 1);
	if (!take(r, r->payload.data, n, err))
		return false;
	r->payload.len = n;
	r->payload.data[n] = '\0';
	return true;
}

/* A cursor over a record's payload. */
typedef struct Cursor
{
	const uint8 *p;
	size_t		left;
	bool		ok;
} Cursor;

static const uint8 *
cut(Cursor *c, size_t n)
{
	static const uint8 zero[32];
	const uint8 *p = c->p;

	if (!c->ok || c->left < n)
	{
		c->ok = false;
		return zero;
	}
	c->p += n;
	c->left -= n;
	return p;
}

static const char *
cut_text(ManifestReader *r, Cursor *c, int slot)
{
	size_t		n = get_u16(cut(c, 2));
	const uint8 *p;

	if (!c->ok || c->left < n)
	{
		c->ok = false;
		return "";
	}
	p = c->p;
	c->p += n;
	c->left -= n;
	free(r->text[slot]);
	r->text[slot] = pg_malloc(n + 1);
	memcpy(r->text[slot], p, n);
	r->text[slot][n] = '\0';
	c->ok = strlen(r->text[slot]) == n;
	return r->text[slot];
}

/* Odd, and nothing like another pack's (the finalizer of SplitMix64). */
static uint64
pack_weight(uint32 number)
{
	uint64		x = (number + UINT64CONST(1)) * UINT64CONST(0x9e3779b97f4a7c15);

	x = (x ^ (x >> 30)) * UINT64CONST(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64CONST(0x94d049bb133111eb);
	return (x ^ (x >> 31)) | 1;
}

/* M2, for a file that is its frames. */
static bool
frames_fit(const ManifestFile *file)
{
	uint64		sum = 0;

	for (uint32 i = 0; i < file->n_frames; i++)
		sum += file->frames[i].raw;
	return sum == file->size;
}

/* M2, for a file that takes extents from them. */
static bool
extents_fit(const ManifestFile *file)
{
	uint64		sum = 0;

	for (uint32 i = 0; i < file->n_extents; i++)
	{
		const Extent *x = &file->extents[i];

		if (x->frame >= file->n_frames || x->length == 0 ||
			(uint64) x->skip + x->length > file->frames[x->frame].raw)
			return false;
		sum += x->length;
	}
	return sum == file->size && file->crc == 0;
}

static void
read_frames(ManifestReader *r, Cursor *c, ManifestFile *file)
{
	if (file->n_frames > r->frames_cap)
	{
		r->frames = pg_realloc(r->frames, sizeof(Frame) * file->n_frames);
		r->frames_cap = file->n_frames;
	}
	for (uint32 i = 0; i < file->n_frames; i++)
	{
		const uint8 *p = cut(c, FRAME_SIZE);
		Frame	   *f = &r->frames[i];
		bool		inherited;

		f->pack = get_u32(p);
		f->offset = get_u32(p + 4);
		f->stored = get_u32(p + 8);
		f->raw = get_u32(p + 12);
		f->crc = get_u32(p + 16);
		inherited = f->pack >= PACK_INHERITED;
		c->ok = c->ok && f->pack > 0 && f->pack != PACK_INHERITED && f->raw > 0 && f->raw <= FRAME_MAX && f->stored > 0;
		r->frames_balance += pack_weight(f->pack);
		r->stored_balance += pack_weight(f->pack) * f->stored;
		r->max_pack = inherited ? r->max_pack : Max(r->max_pack, f->pack);
		r->max_inherited = inherited ? Max(r->max_inherited, f->pack - PACK_INHERITED) : r->max_inherited;
	}
	file->frames = r->frames;
}

static void
read_extents(ManifestReader *r, Cursor *c, ManifestFile *file)
{
	file->n_extents = get_u32(cut(c, 4));
	c->ok = c->ok && file->n_extents > 0 && c->left == (uint64) file->n_extents * EXTENT_SIZE;
	if (!c->ok)
		return;
	if (file->n_extents > r->extents_cap)
	{
		r->extents = pg_realloc(r->extents, sizeof(Extent) * file->n_extents);
		r->extents_cap = file->n_extents;
	}
	for (uint32 i = 0; i < file->n_extents; i++)
	{
		const uint8 *p = cut(c, EXTENT_SIZE);

		r->extents[i] = (Extent) {get_u32(p), get_u32(p + 4), get_u32(p + 8)};
	}
	file->extents = r->extents;
}

static void
read_file(ManifestReader *r, Cursor *c, bool extents, ManifestFile *file)
{
	bool		control;

	memset(file, 0, sizeof(*file));
	file->class = *cut(c, 1);
	file->mode = get_u32(cut(c, 4));
	file->mtime = (int64) get_u64(cut(c, 8));
	file->size = get_u64(cut(c, 8));
	file->crc = get_u32(cut(c, 4));
	file->path = cut_text(r, c, 0);
	file->n_frames = get_u32(cut(c, 4));
	c->ok = c->ok && file->class <= FILE_CONFIG && path_valid(file->path) &&
		(extents ? c->left > (uint64) file->n_frames * FRAME_SIZE : c->left == (uint64) file->n_frames * FRAME_SIZE);
	control = file->class == FILE_CONTROL;
	c->ok = c->ok && control == (file->class != FILE_CONFIG && strcmp(file->path, CONTROL_PATH) == 0);
	c->ok = c->ok && in_order(r, file->class == FILE_CONFIG ? SECTION_CONFIG :
							  control ? SECTION_CONTROL : SECTION_FILES, file->path);
	if (!c->ok)
		return;
	r->control = r->control || control;
	read_frames(r, c, file);
	if (extents)
		read_extents(r, c, file);
	c->ok = c->ok && (extents ? extents_fit(file) : frames_fit(file));
	r->files++;
	r->n_frames += file->n_frames;
	r->bytes += file->size;
}

static void
read_corrupt(ManifestReader *r, Cursor *c, CorruptPage *page)
{
	page->block = get_u32(cut(c, 4));
	page->expected = get_u16(cut(c, 2));
	page->found = get_u16(cut(c, 2));
	page->lsn = get_u64(cut(c, 8));
	page->path = cut_text(r, c, 0);
	c->ok = c->ok && path_valid(page->path);
	r->corrupt_pages++;
}

/* Own packs, then inherited ones, each without a gap. */
static bool
pack_number_fits(const ManifestReader *r, const ManifestPack *pack)
{
	if (pack->number < PACK_INHERITED)
		return r->inherited_packs == 0 && pack->number == r->packs + 1;
	return pack->number == PACK_INHERITED + r->inherited_packs + 1;
}

/* An own pack has the name that its number gives it; others are of this cluster's other backups. */
static bool
pack_name_fits(const ManifestReader *r, const ManifestPack *pack)
{
	ObjectName	name;
	size_t		n;

	name_pack(name, r->info->system_identifier, r->info->id, pack->number);
	if (pack->number < PACK_INHERITED)
		return strcmp(pack->name, name) == 0;
	n = strrchr(name, '/') + 1 - name;	/* with the id, and without: */
	return r->info->parent != NULL && object_kind(pack->name) == KIND_PACK &&
		strncmp(pack->name, name, n - strlen(r->info->id) - 1) == 0 && strncmp(pack->name, name, n) != 0;
}

static void
read_pack(ManifestReader *r, Cursor *c, ManifestPack *pack)
{
	pack->number = get_u32(cut(c, 4));
	pack->size = get_u64(cut(c, 8));
	memcpy(pack->sha256, cut(c, 32), 32);
	pack->frames = get_u32(cut(c, 4));
	pack->used = get_u64(cut(c, 8));
	pack->name = cut_text(r, c, 0);
	r->frames_balance -= pack_weight(pack->number) * pack->frames;
	r->stored_balance -= pack_weight(pack->number) * pack->used;
	c->ok = c->ok && in_order(r, SECTION_PACKS, NULL) && pack_number_fits(r, pack) && pack_name_fits(r, pack);
	if (!c->ok)
		return;
	if (pack->number < PACK_INHERITED)
	{
		r->packs++;
		r->bytes_stored += pack->size;
	}
	else
	{
		r->inherited = array_room(r->inherited, r->inherited_packs, sizeof(char *));
		r->inherited[r->inherited_packs++] = pg_strdup(pack->name);
		r->bytes_referenced += pack->used;
	}
}

static void
read_tablespace(ManifestReader *r, Cursor *c, Record *record)
{
	json_t	   *object = json_loadb((const char *) c->p, c->left, 0, NULL);
	const char *oid;
	const char *path;

	if (json_unpack(object, "{s:s, s:s}", "oid", &oid, "path", &path) != 0 ||
		!in_order(r, SECTION_TABLESPACES, NULL) || strlen(oid) > 10 || strspn(oid, "0123456789") != strlen(oid))
		c->ok = false;
	else
	{
		for (int i = 0; i < 2; i++)
		{
			free(r->text[i]);
			r->text[i] = pg_strdup(i == 0 ? oid : path);
		}
		record->u.tablespace.oid = r->text[0];
		record->u.tablespace.path = r->text[1];
	}
	cut(c, c->left);
	json_decref(object);
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

static bool
pack_listed_twice(ManifestReader *r)
{
	if (r->inherited_packs > 1)
		qsort(r->inherited, r->inherited_packs, sizeof(char *), compare_names);
	for (uint64 i = 1; i < r->inherited_packs; i++)
		if (strcmp(r->inherited[i - 1], r->inherited[i]) == 0)
			return true;
	return false;
}

static bool
read_end(ManifestReader *r, DrError *err)
{
	const BackupInfo *info = r->info;
	char		rest;
	ZSTD_outBuffer buf = {&rest, 1, 0};

	if (!backup_info_parse_end(r->info, (const char *) r->payload.data, r->payload.len))
		return damaged(r, err, "Its last record is malformed.");
	while (!r->zstd_done)
	{
		size_t		before = r->in.pos;
		size_t		left = ZSTD_decompressStream(r->zstd, &buf, &r->in);

		if (ZSTD_isError(left) || buf.pos > 0 || (left > 0 && r->in.pos == before))
			return damaged(r, err, "It does not end after its last record.");
		r->zstd_done = left == 0;
	}
	if (r->in.pos != r->in.size || r->seen != r->plain_length || r->crc != r->plain_crc)
		return damaged(r, err, "Its length or checksum is not what its header says.");
	if (info->files != r->files || info->directories != r->directories ||
		info->frames != r->n_frames || info->bytes != r->bytes || info->packs != r->packs ||
		info->bytes_stored != r->bytes_stored || info->corrupt_pages != r->corrupt_pages ||
		info->inherited_packs != r->inherited_packs || info->bytes_referenced != r->bytes_referenced ||
		r->frames_balance != 0 || r->stored_balance != 0 ||
		r->max_pack > r->packs || r->max_inherited > r->inherited_packs)
		return damaged(r, err, "Its counts don't agree with its records.");	/* M1 */
	if (!r->control)
		return damaged(r, err, "It has no " CONTROL_PATH ".");
	if (pack_listed_twice(r))
		return damaged(r, err, "It lists a pack twice.");
	return true;
}

ManifestReader *
manifest_reader_new(const uint8 *content, size_t n, uint64 plain_length, uint32 crc,
					const char *name, BackupInfo *info, DrError *err)
{
	ManifestReader *r = pg_malloc0(sizeof(*r));
	ObjectName	own_name;
	uint8		head[12];
	uint8		type;

	r->name = name;
	r->info = info;
	r->in.src = content;
	r->in.size = n;
	r->plain_length = plain_length;
	r->plain_crc = crc;
	if ((r->zstd = ZSTD_createDCtx()) == NULL)
	{
		fprintf(stderr, "pg_dr: out of memory\n");
		exit(EXIT_FAILURE);
	}
	memset(info, 0, sizeof(*info));
	if (!take(r, head, sizeof(head), err))
		;
	else if (memcmp(head, "PGDRMANI", 8) != 0 || get_u32(head + 8) != 1)
		damaged(r, err, "It does not begin as a manifest does.");
	else if (!take_record(r, &type, err))
		;
	else if (type != 'B' ||
			 !backup_info_parse_begin(info, (const char *) r->payload.data, r->payload.len))
		damaged(r, err, "Its first record is malformed.");
	else
	{
		name_manifest(own_name, info->system_identifier, info->id);
		if (strcmp(own_name, name) == 0)
			return r;
		damaged(r, err, "It describes another backup.");
	}
	manifest_reader_free(r);
	return NULL;
}

bool
manifest_next(ManifestReader *r, Record *record, DrError *err)
{
	uint8		type;
	Cursor		c;

	if (!take_record(r, &type, err))
		return false;
	c.p = r->payload.data;
	c.left = r->payload.len;
	c.ok = true;
	record->type = type;
	switch (type)
	{
		case RECORD_TABLESPACE:
			read_tablespace(r, &c, record);
			break;
		case RECORD_DIRECTORY:
			record->u.directory.mode = get_u32(cut(&c, 4));
			record->u.directory.path = cut_text(r, &c, 0);
			c.ok = c.ok && path_valid(record->u.directory.path) &&
				in_order(r, SECTION_FILES, record->u.directory.path);
			r->directories++;
			break;
		case RECORD_FILE:
		case RECORD_EXTENTS:
			record->type = RECORD_FILE;
			read_file(r, &c, type == RECORD_EXTENTS, &record->u.file);
			break;
		case RECORD_CORRUPT:
			read_corrupt(r, &c, &record->u.corrupt);
			break;
		case RECORD_PACK:
			read_pack(r, &c, &record->u.pack);
			break;
		case RECORD_END:
			return read_end(r, err);
		default:
			c.ok = false;
	}
	if (!c.ok || c.left != 0)
		return damaged(r, err, "A record is malformed.");
	return true;
}

void
manifest_reader_free(ManifestReader *r)
{
	if (r == NULL)
		return;
	ZSTD_freeDCtx(r->zstd);
	bytes_free(&r->payload);
	for (uint64 i = 0; i < r->inherited_packs; i++)
		free(r->inherited[i]);
	free(r->inherited);
	free(r->frames);
	free(r->extents);
	free(r->text[0]);
	free(r->text[1]);
	free(r->last_path);
	free(r);
}
