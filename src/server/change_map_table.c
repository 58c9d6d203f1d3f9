/*
 * change_map_table.c
 *	  What was read from WAL and is not yet in a file of the change map.
 *
 * One idea: the table in memory has the shape of the file.  A relation has a
 * limit and chunks of blocks; a chunk is a sorted array while it is small, a
 * bitmap after that.  A database or a tablespace is an entry without relation.
 *
 * A crash loses the table, and the slot still has the WAL that it was made of;
 * a half-written file has a name that nobody reads, and is removed by the next
 * worker.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "change_map.h"

#define FIRST_ROOM		8
#define BUFFER_SIZE		65536

typedef struct Chunk
{
	uint32		count;
	uint32		room;			/* of the array; 0: it is a bitmap */
	union
	{
		uint16	   *array;
		uint8	   *bitmap;
	}			blocks;
} Chunk;

/* Without relation it stands for a database; without database, too, for a tablespace. */
typedef struct Key
{
	Oid			tablespace;
	Oid			database;
	Oid			relation;
} Key;

typedef struct Entry
{
	Key			key;
	BlockNumber limit;
	uint32		n_chunks;		/* places for them; some are NULL */
	Chunk	  **chunks;
} Entry;

struct DrMapTable
{
	MemoryContext context;
	HTAB	   *entries;
	Entry	   *last;			/* found last: records come in runs */
	bool		minimal;
	char		unsafe[CHANGE_MAP_REASON_MAX + 1];	/* empty: it is safe */
};

/* ---- the table ---- */

static void
make_empty(DrMapTable *t)
{
	HASHCTL		ctl = {.keysize = sizeof(Key),.entrysize = sizeof(Entry),.hcxt = t->context};

	t->entries = hash_create("pg_dr change map", 1024, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	t->last = NULL;
	t->unsafe[0] = '\0';
	if (t->minimal)
		dr_map_minimal(t, true);
}

DrMapTable *
dr_map_table_new(void)
{
	DrMapTable *t = MemoryContextAllocZero(TopMemoryContext, sizeof(DrMapTable));

	t->context = AllocSetContextCreate(TopMemoryContext, "pg_dr change map", ALLOCSET_DEFAULT_SIZES);
	make_empty(t);
	return t;
}

void
dr_map_table_free(DrMapTable *t)
{
	MemoryContextDelete(t->context);
	pfree(t);
}

/* The hash table lives in a context below ours. */
void
dr_map_table_reset(DrMapTable *t)
{
	MemoryContextReset(t->context);
	make_empty(t);
}

Size
dr_map_table_memory(const DrMapTable *t)
{
	return MemoryContextMemAllocated(t->context, true);
}

static Entry *
find_entry(DrMapTable *t, Oid tablespace, Oid database, Oid relation)
{
	Key			key = {tablespace, database, relation};
	bool		found;

	if (t->last != NULL && memcmp(&t->last->key, &key, sizeof(key)) == 0)
		return t->last;
	t->last = hash_search(t->entries, &key, HASH_ENTER, &found);
	if (!found)
	{
		t->last->limit = InvalidBlockNumber;
		t->last->n_chunks = 0;
		t->last->chunks = NULL;
	}
	return t->last;
}

void
dr_map_limit(DrMapTable *t, Oid tablespace, Oid database, Oid relation, BlockNumber limit)
{
	Entry	   *e = find_entry(t, tablespace, database, relation);

	e->limit = Min(e->limit, limit);
}

void
dr_map_database(DrMapTable *t, Oid tablespace, Oid database)
{
	(void) find_entry(t, tablespace, database, InvalidOid);
}

void
dr_map_tablespace(DrMapTable *t, Oid tablespace)
{
	(void) find_entry(t, tablespace, InvalidOid, InvalidOid);
}

void
dr_map_unsafe(DrMapTable *t, const char *reason)
{
	if (t->unsafe[0] == '\0')
		strlcpy(t->unsafe, reason, sizeof(t->unsafe));
}

void
dr_map_minimal(DrMapTable *t, bool minimal)
{
	t->minimal = minimal;
	if (minimal)
		dr_map_unsafe(t, "wal_level was below replica");
}

bool
dr_map_is_minimal(const DrMapTable *t)
{
	return t->minimal;
}

/* ---- blocks ---- */

static void
make_bitmap(DrMapTable *t, Chunk *c)
{
	uint8	   *bitmap = MemoryContextAllocZero(t->context, CHANGE_MAP_BITMAP_BYTES);

	for (uint32 i = 0; i < c->count; i++)
		bitmap[c->blocks.array[i] / 8] |= 1 << (c->blocks.array[i] % 8);
	pfree(c->blocks.array);
	c->blocks.bitmap = bitmap;
	c->room = 0;
}

static void
add_to_bitmap(Chunk *c, uint16 block)
{
	uint8		bit = 1 << (block % 8);

	if ((c->blocks.bitmap[block / 8] & bit) == 0)
		c->count++;
	c->blocks.bitmap[block / 8] |= bit;
}

/* The place of a block in the array, or where it belongs. */
static uint32
place_of(const Chunk *c, uint16 block)
{
	uint32		low = 0;
	uint32		high = c->count;

	if (high > 0 && c->blocks.array[high - 1] < block)
		return high;
	while (low < high)
	{
		uint32		middle = (low + high) / 2;

		if (c->blocks.array[middle] < block)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void
add_to_chunk(DrMapTable *t, Chunk *c, uint16 block)
{
	uint32		i;

	if (c->room == 0)
	{
		add_to_bitmap(c, block);
		return;
	}
	i = place_of(c, block);
	if (i < c->count && c->blocks.array[i] == block)
		return;
	if (c->count == CHANGE_MAP_ARRAY_MAX)
	{
		make_bitmap(t, c);
		add_to_bitmap(c, block);
		return;
	}
	if (c->count == c->room)
	{
		c->room = Min(c->room * 2, CHANGE_MAP_ARRAY_MAX);
		c->blocks.array = repalloc(c->blocks.array, c->room * sizeof(uint16));
	}
	memmove(&c->blocks.array[i + 1], &c->blocks.array[i], (c->count - i) * sizeof(uint16));
	c->blocks.array[i] = block;
	c->count++;
}

static Chunk *
make_chunk(DrMapTable *t, Entry *e, uint32 number)
{
	Chunk	   *c;

	if (number >= e->n_chunks)
	{
		uint32		n = Max(number + 1, Min(e->n_chunks * 2, CHANGE_MAP_CHUNK_BLOCKS));
		Chunk	  **chunks = MemoryContextAllocZero(t->context, n * sizeof(Chunk *));

		if (e->chunks != NULL)
		{
			memcpy(chunks, e->chunks, e->n_chunks * sizeof(Chunk *));
			pfree(e->chunks);
		}
		e->chunks = chunks;
		e->n_chunks = n;
	}
	c = MemoryContextAlloc(t->context, sizeof(Chunk));
	c->count = 0;
	c->room = FIRST_ROOM;
	c->blocks.array = MemoryContextAlloc(t->context, FIRST_ROOM * sizeof(uint16));
	e->chunks[number] = c;
	return c;
}

void
dr_map_mark(DrMapTable *t, Oid tablespace, Oid database, Oid relation, BlockNumber block)
{
	Entry	   *e = find_entry(t, tablespace, database, relation);
	uint32		number = block / CHANGE_MAP_CHUNK_BLOCKS;
	Chunk	   *c = number < e->n_chunks ? e->chunks[number] : NULL;

	if (c == NULL)
		c = make_chunk(t, e, number);
	add_to_chunk(t, c, block % CHANGE_MAP_CHUNK_BLOCKS);
}

/* ---- writing a file ---- */

typedef struct Writer
{
	int			fd;
	const char *path;
	int64		written;
	pg_crc32c	crc;
	size_t		n;
	uint8		buffer[BUFFER_SIZE];
} Writer;

static void
flush_buffer(Writer *w)
{
	CHECK_FOR_INTERRUPTS();
	errno = 0;
	pgstat_report_wait_start(PG_WAIT_EXTENSION);
	if (write(w->fd, w->buffer, w->n) != w->n)
	{
		/* A short write without a reason is a full disk. */
		if (errno == 0)
			errno = ENOSPC;
		ereport(ERROR,
				(errcode_for_file_access(), errmsg("could not write file \"%s\": %m", w->path)));
	}
	pgstat_report_wait_end();
	w->written += w->n;
	w->n = 0;
}

static void
put(Writer *w, const void *data, size_t n)
{
	const uint8 *from = data;

	COMP_CRC32C(w->crc, data, n);
	while (n > 0)
	{
		size_t		part = Min(n, BUFFER_SIZE - w->n);

		memcpy(w->buffer + w->n, from, part);
		w->n += part;
		from += part;
		n -= part;
		if (w->n == BUFFER_SIZE)
			flush_buffer(w);
	}
}

static void
put_uint(Writer *w, uint64 value, int size)
{
	uint8		bytes[8];

	for (int i = 0; i < size; i++)
		bytes[i] = (uint8) (value >> (8 * i));
	put(w, bytes, size);
}

static void
put_header(Writer *w, const DrMapTable *t, const DrMapFile *file)
{
	size_t		length = strlen(t->unsafe);

	put(w, CHANGE_MAP_MAGIC, 8);
	put_uint(w, CHANGE_MAP_VERSION, 4);
	put_uint(w, (length > 0 ? CHANGE_MAP_UNSAFE : 0) | (t->minimal ? CHANGE_MAP_MINIMAL : 0), 4);
	put_uint(w, GetSystemIdentifier(), 8);
	put_uint(w, file->timeline, 4);
	put_uint(w, 0, 4);
	put_uint(w, file->from, 8);
	put_uint(w, file->to, 8);
	put_uint(w, hash_get_num_entries(t->entries), 8);
	put_uint(w, 0, 8);
	if (length > 0)
	{
		put_uint(w, length, 2);
		put(w, t->unsafe, length);
	}
}

static void
put_chunk(Writer *w, uint32 number, const Chunk *c)
{
	put_uint(w, number, 4);
	put_uint(w, c->count, 4);
	if (c->room == 0)
		put(w, c->blocks.bitmap, CHANGE_MAP_BITMAP_BYTES);
	else
	{
		for (uint32 i = 0; i < c->count; i++)
			put_uint(w, c->blocks.array[i], 2);
	}
}

static void
put_entry(Writer *w, const Entry *e)
{
	uint32		n = 0;

	if (e->key.relation == InvalidOid)
	{
		put(w, e->key.database == InvalidOid ? "T" : "D", 1);
		put_uint(w, e->key.tablespace, 4);
		if (e->key.database != InvalidOid)
			put_uint(w, e->key.database, 4);
		return;
	}
	put(w, "R", 1);
	put_uint(w, e->key.tablespace, 4);
	put_uint(w, e->key.database, 4);
	put_uint(w, e->key.relation, 4);
	put_uint(w, e->limit, 4);
	for (uint32 i = 0; i < e->n_chunks; i++)
		n += e->chunks[i] != NULL;
	put_uint(w, n, 4);
	for (uint32 i = 0; i < e->n_chunks; i++)
	{
		if (e->chunks[i] != NULL)
			put_chunk(w, i, e->chunks[i]);
	}
}

static void
put_everything(Writer *w, const DrMapTable *t, const DrMapFile *file)
{
	HASH_SEQ_STATUS seq;
	Entry	   *e;
	pg_crc32c	crc;

	INIT_CRC32C(w->crc);
	put_header(w, t, file);
	hash_seq_init(&seq, t->entries);
	while ((e = hash_seq_search(&seq)) != NULL)
		put_entry(w, e);
	crc = w->crc;
	FIN_CRC32C(crc);
	put_uint(w, crc, 4);
	flush_buffer(w);
}

int64
dr_map_write(const DrMapTable *t, TimeLineID timeline, XLogRecPtr from, XLogRecPtr to)
{
	DrMapFile	file = {timeline, from, to};
	char	   *path = dr_map_path(&file, "");
	char	   *aside = dr_map_path(&file, ".tmp");
	Writer	   *w = palloc0(sizeof(Writer));
	int64		size;

	w->path = aside;
	w->fd = OpenTransientFile(aside, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	if (w->fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(), errmsg("could not create file \"%s\": %m", aside)));
	put_everything(w, t, &file);
	if (CloseTransientFile(w->fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(), errmsg("could not close file \"%s\": %m", aside)));
	(void) durable_rename(aside, path, ERROR);	/* syncs the file before, the directory after */
	size = w->written;
	pfree(w);
	pfree(aside);
	pfree(path);
	return size;
}
