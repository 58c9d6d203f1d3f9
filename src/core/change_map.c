/*
 * change_map.c
 *	  Which blocks changed between two LSNs.
 *
 * One idea: relations in a hash table, each with its chunks in ascending
 * order; a chunk is a sorted array while it is small, a bitmap after that.  A
 * database or a tablespace of which nothing is known is an entry without
 * relation.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/change_map.h"

#include "core/bytes.h"
#include "core/page.h"

/* The server's own tablespaces. */
#define SHARED_TABLESPACE	1664
#define DEFAULT_TABLESPACE	1663

typedef struct Chunk
{
	uint32		number;
	uint32		count;
	uint16	   *array;			/* NULL: */
	uint8	   *bitmap;
} Chunk;

typedef struct ChangedRelation
{
	uint32		tablespace;
	uint32		database;		/* 0: shared, or the entry is a tablespace */
	uint32		relation;		/* 0: the entry is a database or a tablespace */
	uint32		limit;
	Chunk	   *chunks;
	uint32		n_chunks;
} ChangedRelation;

struct ChangeMap
{
	ChangedRelation *v;
	size_t		n;
	size_t	   *places;			/* of v, plus 1; 0: free */
	size_t		n_places;		/* a power of two, at least twice n */
};

ChangeMap *
change_map_new(void)
{
	ChangeMap  *m = pg_malloc0(sizeof(ChangeMap));

	m->n_places = 64;
	m->places = pg_malloc0(sizeof(size_t) * m->n_places);
	return m;
}

void
change_map_free(ChangeMap *m)
{
	if (m == NULL)
		return;
	for (size_t i = 0; i < m->n; i++)
	{
		for (uint32 c = 0; c < m->v[i].n_chunks; c++)
		{
			free(m->v[i].chunks[c].array);
			free(m->v[i].chunks[c].bitmap);
		}
		free(m->v[i].chunks);
	}
	free(m->v);
	free(m->places);
	free(m);
}

/* ---- relations ---- */

/* Where a relation is in places, or the free place for it. */
static size_t
place_of(const ChangeMap *m, uint32 tablespace, uint32 database, uint32 relation)
{
	uint64		h = relation * UINT64CONST(0x9E3779B97F4A7C15);

	h = (h ^ database) * UINT64CONST(0xBF58476D1CE4E5B9);
	h = (h ^ tablespace) * UINT64CONST(0x94D049BB133111EB);
	for (size_t i = h >> 20;; i++)
	{
		size_t		place = i & (m->n_places - 1);
		const ChangedRelation *r = m->places[place] ? &m->v[m->places[place] - 1] : NULL;

		if (r == NULL || (r->relation == relation && r->database == database && r->tablespace == tablespace))
			return place;
	}
}

static const ChangedRelation *
find(const ChangeMap *m, uint32 tablespace, uint32 database, uint32 relation)
{
	size_t		i = m->places[place_of(m, tablespace, database, relation)];

	return i ? &m->v[i - 1] : NULL;
}

static void
grow(ChangeMap *m)
{
	free(m->places);
	m->n_places *= 2;
	m->places = pg_malloc0(sizeof(size_t) * m->n_places);
	for (size_t i = 0; i < m->n; i++)
		m->places[place_of(m, m->v[i].tablespace, m->v[i].database, m->v[i].relation)] = i + 1;
}

static ChangedRelation *
find_or_make(ChangeMap *m, uint32 tablespace, uint32 database, uint32 relation)
{
	size_t		place = place_of(m, tablespace, database, relation);
	ChangedRelation *r;

	if (m->places[place])
		return &m->v[m->places[place] - 1];
	m->v = array_room(m->v, m->n, sizeof(ChangedRelation));
	r = &m->v[m->n++];
	memset(r, 0, sizeof(*r));
	r->tablespace = tablespace;
	r->database = database;
	r->relation = relation;
	r->limit = PG_UINT32_MAX;
	m->places[place] = m->n;
	if (m->n * 2 > m->n_places)
		grow(m);
	return r;
}

/* ---- blocks ---- */

/* The first chunk whose number is not below. */
static uint32
chunk_place(const ChangedRelation *r, uint32 number)
{
	uint32		low = 0;
	uint32		high = r->n_chunks;

	while (low < high)
	{
		uint32		middle = low + (high - low) / 2;

		if (r->chunks[middle].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static Chunk *
chunk_of(ChangedRelation *r, uint32 number)
{
	uint32		i = chunk_place(r, number);

	if (i < r->n_chunks && r->chunks[i].number == number)
		return &r->chunks[i];
	r->chunks = array_room(r->chunks, r->n_chunks, sizeof(Chunk));
	memmove(&r->chunks[i + 1], &r->chunks[i], sizeof(Chunk) * (r->n_chunks - i));
	r->n_chunks++;
	memset(&r->chunks[i], 0, sizeof(Chunk));
	r->chunks[i].number = number;
	return &r->chunks[i];
}

static void
bitmap_add(Chunk *c, uint32 block)
{
	uint8		bit = (uint8) (1 << (block % 8));

	c->count += (c->bitmap[block / 8] & bit) == 0;
	c->bitmap[block / 8] |= bit;
}

static void
make_bitmap(Chunk *c)
{
	uint32		n = c->count;

	if (c->bitmap != NULL)
		return;
	c->bitmap = pg_malloc0(CHANGE_MAP_BITMAP_BYTES);
	c->count = 0;
	for (uint32 i = 0; i < n; i++)
		bitmap_add(c, c->array[i]);
	free(c->array);
	c->array = NULL;
}

/* n block numbers of two bytes each, ascending. */
static void
merge_array(Chunk *c, const uint8 *data, uint32 n)
{
	uint16	   *merged;
	uint32		count = 0;
	uint32		mine = 0;

	if (c->count + n > CHANGE_MAP_ARRAY_MAX)
		make_bitmap(c);
	if (c->bitmap != NULL)
	{
		for (uint32 i = 0; i < n; i++)
			bitmap_add(c, get_u16(data + 2 * i));
		return;
	}
	merged = pg_malloc(sizeof(uint16) * (c->count + n));
	for (uint32 i = 0; i < n; i++)
	{
		uint16		block = get_u16(data + 2 * i);

		while (mine < c->count && c->array[mine] < block)
			merged[count++] = c->array[mine++];
		if (mine < c->count && c->array[mine] == block)
			mine++;
		merged[count++] = block;
	}
	while (mine < c->count)
		merged[count++] = c->array[mine++];
	free(c->array);
	c->array = merged;
	c->count = count;
}

static void
merge_bitmap(Chunk *c, const uint8 *data)
{
	make_bitmap(c);
	for (uint32 block = 0; block < CHANGE_MAP_CHUNK_BLOCKS; block++)
		if (data[block / 8] & (1 << (block % 8)))
			bitmap_add(c, block);
}

/* ---- reading a file ---- */

bool
change_map_name_parse(const char *name, ChangeMapRange *range)
{
	unsigned int timeline;
	unsigned long long from;
	unsigned long long to;

	memset(range, 0, sizeof(*range));
	if (strlen(name) != CHANGE_MAP_NAME_LEN || strspn(name, "0123456789ABCDEF.") != CHANGE_MAP_NAME_LEN ||
		name[8] != '.' || name[25] != '.' ||
		sscanf(name, "%8X.%16llX.%16llX", &timeline, &from, &to) != 3)
		return false;
	range->timeline = timeline;
	range->from = from;
	range->to = to;
	return timeline > 0 && from < to;
}

/* What is left to be read.  Whoever takes more finds it bad from there on. */
typedef struct In
{
	const uint8 *p;
	size_t		left;
	bool		bad;
} In;

static const uint8 *
take(In *in, size_t n)
{
	const uint8 *p = in->p;

	if (in->bad || in->left < n)
	{
		in->bad = true;
		return NULL;
	}
	in->p += n;
	in->left -= n;
	return p;
}

static uint32
take_u32(In *in)
{
	const uint8 *p = take(in, 4);

	return p ? get_u32(p) : 0;
}

static bool
array_ascends(const uint8 *data, uint32 n)
{
	for (uint32 i = 1; i < n; i++)
		if (get_u16(data + 2 * i - 2) >= get_u16(data + 2 * i))
			return false;
	return true;
}

static uint32
bits_set(const uint8 *data)
{
	uint32		n = 0;

	for (int i = 0; i < CHANGE_MAP_BITMAP_BYTES; i++)
		n += (uint32) __builtin_popcount(data[i]);
	return n;
}

/* *next is the least number that the chunk may have. */
static void
read_chunk(ChangedRelation *r, In *in, uint32 *next)
{
	uint32		number = take_u32(in);
	uint32		count = take_u32(in);
	bool		array = count <= CHANGE_MAP_ARRAY_MAX;
	const uint8 *data;

	if (number < *next || number >= CHANGE_MAP_CHUNK_BLOCKS || count < 1 || count > CHANGE_MAP_CHUNK_BLOCKS)
		in->bad = true;
	*next = number + 1;
	data = take(in, array ? count * 2 : CHANGE_MAP_BITMAP_BYTES);
	if (data == NULL)
		return;
	if (array ? !array_ascends(data, count) : bits_set(data) != count)
		in->bad = true;
	else if (array)
		merge_array(chunk_of(r, number), data, count);
	else
		merge_bitmap(chunk_of(r, number), data);
}

static void
read_relation(ChangeMap *m, In *in)
{
	uint32		tablespace = take_u32(in);
	uint32		database = take_u32(in);
	uint32		relation = take_u32(in);
	uint32		limit = take_u32(in);
	uint32		n = take_u32(in);
	uint32		next = 0;
	ChangedRelation *r;

	if (in->bad || tablespace == 0 || relation == 0 || n > CHANGE_MAP_CHUNK_BLOCKS)
	{
		in->bad = true;
		return;
	}
	r = find_or_make(m, tablespace, database, relation);
	r->limit = Min(r->limit, limit);
	for (uint32 i = 0; i < n && !in->bad; i++)
		read_chunk(r, in, &next);
}

static void
read_entry(ChangeMap *m, In *in)
{
	const uint8 *type = take(in, 1);
	uint32		tablespace;
	uint32		database = 0;

	if (type != NULL && *type == 'R')
	{
		read_relation(m, in);
		return;
	}
	tablespace = take_u32(in);
	if (type != NULL && *type == 'D')
	{
		database = take_u32(in);
		in->bad |= database == 0;
	}
	else if (type != NULL && *type != 'T')
		in->bad = true;
	in->bad |= tablespace == 0;
	if (!in->bad)
		find_or_make(m, tablespace, database, 0);
}

static bool
damaged(DrError *err, const char *what)
{
	return dr_error(err, DR_DAMAGED, "the change map is damaged: %s", what);
}

/* The header, and why it is unsafe; *entries is how many there should be. */
static bool
read_header(In *in, const char *system_identifier, ChangeMapRange *range, uint64 *entries, DrError *err)
{
	const uint8 *h = take(in, CHANGE_MAP_HEADER_SIZE);
	uint32		flags = get_u32(h + 12);
	char		sysid[32];

	snprintf(sysid, sizeof(sysid), UINT64_FORMAT, get_u64(h + 16));
	range->timeline = get_u32(h + 24);
	range->from = get_u64(h + 32);
	range->to = get_u64(h + 40);
	range->unsafe = (flags & CHANGE_MAP_UNSAFE) != 0;
	*entries = get_u64(h + 48);
	if (get_u32(h + 8) != CHANGE_MAP_VERSION)
		return damaged(err, "its version is unknown");
	if (strcmp(sysid, system_identifier) != 0)
		return damaged(err, "it is another cluster's");
	if ((flags & ~(CHANGE_MAP_UNSAFE | CHANGE_MAP_MINIMAL)) != 0 || get_u32(h + 28) != 0 || get_u64(h + 56) != 0 ||
		range->timeline == 0 || range->from >= range->to)
		return damaged(err, "its header is malformed");
	if (range->unsafe)
	{
		const uint8 *length = take(in, 2);
		size_t		n = length ? get_u16(length) : 0;
		const uint8 *text = n <= CHANGE_MAP_REASON_MAX ? take(in, n) : NULL;

		if (text == NULL)
			return damaged(err, "its header is malformed");
		memcpy(range->reason, text, n);
	}
	return true;
}

bool
change_map_add(ChangeMap *m, const uint8 *data, size_t n, const char *system_identifier,
			   ChangeMapRange *range, DrError *err)
{
	In			in = {data, n, false};
	uint64		entries;

	memset(range, 0, sizeof(*range));
	if (n < CHANGE_MAP_HEADER_SIZE + 4)
		return damaged(err, "it is too short");
	if (memcmp(data, CHANGE_MAP_MAGIC, 8) != 0)
		return damaged(err, "it does not begin like one");
	in.left -= 4;
	if (crc32c(data, in.left) != get_u32(data + in.left))
		return damaged(err, "its checksum is wrong");
	if (!read_header(&in, system_identifier, range, &entries, err))
		return false;
	for (uint64 i = 0; i < entries && !in.bad; i++)
		read_entry(m, &in);
	if (in.bad || in.left > 0)
		return damaged(err, "its entries are malformed");
	return true;
}

/* ---- asking ---- */

/* Digits up to a slash or the end; false when they are no 32-bit number but 0. */
static bool
parse_oid(const char **p, uint32 *oid)
{
	size_t		n = strspn(*p, "0123456789");
	unsigned long v;

	if (n < 1 || n > 10)
		return false;
	v = strtoul(*p, NULL, 10);
	*p += n;
	*oid = (uint32) v;
	return v > 0 && v <= PG_UINT32_MAX;
}

/* Tablespace and database of a directory of relations. */
static bool
parse_directory(const char *dir, uint32 *tablespace, uint32 *database)
{
	const char *p;

	if (!relation_directory(dir))
		return false;
	*database = 0;
	*tablespace = SHARED_TABLESPACE;
	if (strcmp(dir, "global") == 0)
		return true;
	*tablespace = DEFAULT_TABLESPACE;
	p = dir + strlen("base/");
	if (strncmp(dir, "pg_tblspc/", 10) == 0)
	{
		p = dir + 10;
		if (!parse_oid(&p, tablespace) || *p != '/')
			return false;
		p = strrchr(dir, '/') + 1;
	}
	return parse_oid(&p, database);
}

/* The parts of a main fork's path. */
static bool
parse_path(const char *path, uint32 segment, uint32 *tablespace, uint32 *database, uint32 *relation)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	RelationFile file;
	char	   *dir;
	bool		ok;

	if (slash == NULL || !relation_file_parse(name, &file) || file.fork != FILE_MAIN ||
		file.segment != segment || !parse_oid(&name, relation))
		return false;
	dir = pg_strdup(path);
	dir[slash - path] = '\0';
	ok = parse_directory(dir, tablespace, database);
	free(dir);
	return ok;
}

void
change_map_file(const ChangeMap *m, const char *path, uint32 segment, uint32 segment_blocks, FileChanges *out)
{
	uint32		tablespace;
	uint32		database;
	uint32		relation;

	memset(out, 0, sizeof(*out));
	out->limit = PG_UINT32_MAX;
	out->first = (uint64) segment * segment_blocks;
	out->blocks = segment_blocks;
	if (!parse_path(path, segment, &tablespace, &database, &relation) ||
		out->first > PG_UINT32_MAX ||
		find(m, tablespace, 0, 0) != NULL || find(m, tablespace, database, 0) != NULL)
	{
		out->everything = true;
		out->limit = 0;
		return;
	}
	out->relation = find(m, tablespace, database, relation);
	if (out->relation == NULL || out->relation->limit == PG_UINT32_MAX)
		return;
	if (out->relation->limit <= out->first)
		out->limit = 0;
	else if (out->relation->limit - out->first < segment_blocks)
		out->limit = (uint32) (out->relation->limit - out->first);
}

/* The first block of a chunk at or after one of it; CHANGE_MAP_CHUNK_BLOCKS: none. */
static uint32
next_in_chunk(const Chunk *c, uint32 from)
{
	uint32		low = 0;
	uint32		high = c->count;

	if (c->bitmap != NULL)
	{
		while (from < CHANGE_MAP_CHUNK_BLOCKS && (c->bitmap[from / 8] & (1 << (from % 8))) == 0)
			from = c->bitmap[from / 8] >> (from % 8) == 0 ? (from / 8 + 1) * 8 : from + 1;
		return from;
	}
	while (low < high)
	{
		uint32		middle = low + (high - low) / 2;

		if (c->array[middle] < from)
			low = middle + 1;
		else
			high = middle;
	}
	return low < c->count ? c->array[low] : CHANGE_MAP_CHUNK_BLOCKS;
}

uint32
change_map_next(const FileChanges *c, uint32 from)
{
	uint64		target = c->first + from;
	const ChangedRelation *r = c->relation;

	if (from >= c->blocks)
		return PG_UINT32_MAX;
	if (c->everything)
		return from;
	if (r == NULL || target > PG_UINT32_MAX)
		return PG_UINT32_MAX;
	for (uint32 i = chunk_place(r, (uint32) (target / CHANGE_MAP_CHUNK_BLOCKS)); i < r->n_chunks; i++)
	{
		uint64		begin = (uint64) r->chunks[i].number * CHANGE_MAP_CHUNK_BLOCKS;
		uint32		block = next_in_chunk(&r->chunks[i], begin < target ? (uint32) (target - begin) : 0);

		if (block < CHANGE_MAP_CHUNK_BLOCKS)
			return begin + block < c->first + c->blocks ? (uint32) (begin + block - c->first) : PG_UINT32_MAX;
	}
	return PG_UINT32_MAX;
}
