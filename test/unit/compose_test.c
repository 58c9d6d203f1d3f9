/*
 * compose_test.c
 *	  What an incremental backup takes and what it reads: invariants over random
 *	  files, and chains of backups in which every block must stay the newest.
 *
 * A frame of the model remembers which block in which version lies where in it,
 * and a manifest's frame says by its offset which one of the model's it is.
 */
#include "unit.h"

#include "core/compose.h"

/* The test's own map: composing is all that is tested here. */
static uint32 next_change(uint32 from);

#define change_map_next(changes, from) next_change(from)
#include "core/compose.c"
#undef change_map_next

#define BLOCKS_MAX		8192

/* ---- chance ---- */

static uint64 seed;

static uint32
chance(uint32 n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32) ((seed * UINT64CONST(0x2545f4914f6cdd1d)) >> 33) % n;
}

static void
begin_trial(uint32 number)
{
	seed = (number + UINT64CONST(1)) * UINT64CONST(0x9e3779b97f4a7c15);
	for (int i = 0; i < 4; i++)
		chance(2);
}

/* ---- the model ---- */

typedef struct Cell
{
	uint32		block;
	uint32		version;
} Cell;

static Cell (*stored)[FRAME_BLOCKS];	/* by frame of the model */
static uint32 n_stored;
static uint32 now[BLOCKS_MAX];	/* the newest versions */
static uint32 length;			/* blocks that the file has */
static uint32 versions;			/* that there have been */
static bool named[BLOCKS_MAX];	/* by the change map */
static uint32 limit;
static bool left_packs[16];

static uint32
next_change(uint32 from)
{
	for (; from < BLOCKS_MAX; from++)
		if (named[from])
			return from;
	return PG_UINT32_MAX;
}

static bool
is_left(void *arg, uint32 pack)
{
	return left_packs[pack];
}

static uint32
new_stored(void)
{
	stored = array_room(stored, n_stored, sizeof(*stored));
	memset(stored[n_stored], 0xff, sizeof(*stored));
	return n_stored++;
}

static Frame
new_frame(uint32 model, uint32 raw)
{
	return (Frame) {.pack = chance(lengthof(left_packs)),.offset = model,.stored = 1 + chance(1000),.raw = raw};
}

/* A manifest's record whose arrays are its own. */
typedef struct Held
{
	ManifestFile file;
	Frame	   *frames;
	Extent	   *extents;
} Held;

static void
hold(Held *h, Frame *frames, uint32 n_frames, Extent *extents, uint32 n_extents)
{
	h->frames = frames;
	h->extents = extents;
	h->file = (ManifestFile) {.class = FILE_MAIN,.size = (uint64) length * BLCKSZ,.path = "base/1/2",
		.n_frames = n_frames,.frames = frames,.n_extents = n_extents,.extents = extents
	};
}

static void
let_go(Held *h)
{
	free(h->frames);
	free(h->extents);
	memset(h, 0, sizeof(*h));
}

/* Where the file's blocks lie, as its record says: frame, and bytes in it. */
typedef struct Place
{
	uint32		frame;
	uint32		skip;
} Place;

static void
find_places(const ManifestFile *file, Place *places)
{
	uint64		at = 0;
	uint32		n = file->n_extents > 0 ? file->n_extents : file->n_frames;

	for (uint32 i = 0; i < n; i++)
	{
		Extent		x = file->n_extents > 0 ? file->extents[i] : (Extent) {i, 0, file->frames[i].raw};

		assert_true(x.frame < file->n_frames && x.length > 0);
		assert_true((uint64) x.skip + x.length <= file->frames[x.frame].raw);
		for (uint32 done = 0; done < x.length; done += BLCKSZ)
			places[at / BLCKSZ + done / BLCKSZ] = (Place) {x.frame, x.skip + done};
		at += x.length;
	}
	assert_true(at == file->size);
}

/* Every block that the record leads to is the newest there is. */
static void
assert_newest(const ManifestFile *file)
{
	static Place places[BLOCKS_MAX];

	assert_true(file->size == (uint64) length * BLCKSZ);
	find_places(file, places);
	for (uint32 b = 0; b < length; b++)
	{
		const Frame *f = &file->frames[places[b].frame];
		Cell		cell = stored[f->offset][places[b].skip / BLCKSZ];

		if (cell.block != b || cell.version != now[b])
			fail_msg("block %u: block %u in version %u, not %u", b, cell.block, cell.version, now[b]);
	}
}

static void
store_whole(Held *h)
{
	uint32		n = (length + FRAME_BLOCKS - 1) / FRAME_BLOCKS;
	Frame	   *frames = pg_malloc(sizeof(Frame) * (n + 1));

	for (uint32 b = 0; b < length; b++)
	{
		if (b % FRAME_BLOCKS == 0)
			frames[b / FRAME_BLOCKS] = new_frame(new_stored(), Min(FRAME_BLOCKS, length - b) * BLCKSZ);
		stored[n_stored - 1][b % FRAME_BLOCKS] = (Cell) {b, now[b]};
	}
	hold(h, frames, n, NULL, 0);
}

/* Frames of any size that the file uses in any order, some of them partly; no byte of them twice. */
static void
store_scattered(Held *h)
{
	Extent	   *cuts = NULL;
	Frame	   *frames = NULL;
	uint32		n_cuts = 0;
	uint32		n_frames = 0;
	uint32		b = 0;
	uint32		most = 1 + chance(FRAME_BLOCKS);

	for (uint32 room = 0; room < length;)
	{
		uint32		blocks = 1 + chance(FRAME_BLOCKS);
		uint32		at = 0;
		uint32		odd = blocks < FRAME_BLOCKS ? chance(2) * chance(BLCKSZ) : 0;

		frames = array_room(frames, n_frames, sizeof(Frame));
		frames[n_frames] = new_frame(new_stored(), blocks * BLCKSZ + odd);
		while (at < blocks && room < length)
		{
			uint32		take = 1 + chance(most);

			take = Min(take, Min(blocks - at, length - room));
			if (chance(8) > 0)
			{
				cuts = array_room(cuts, n_cuts, sizeof(Extent));
				cuts[n_cuts++] = (Extent) {n_frames, at * BLCKSZ, take * BLCKSZ};
				room += take;
			}
			at += take;
		}
		n_frames++;
	}
	for (uint32 i = n_cuts; i > 1; i--)
	{
		uint32		k = chance(i);
		Extent		swap = cuts[i - 1];

		cuts[i - 1] = cuts[k];
		cuts[k] = swap;
	}
	for (uint32 i = 0; i < n_cuts; i++)
		for (uint32 k = 0; k < cuts[i].length / BLCKSZ; k++, b++)
			stored[frames[cuts[i].frame].offset][cuts[i].skip / BLCKSZ + k] = (Cell) {b, now[b]};
	assert_int_equal(b, length);
	hold(h, frames, n_frames, cuts, n_cuts);
}

static void
write_block(uint32 block)
{
	now[block] = ++versions;
}

/* What happens to a relation between two backups, and what its WAL lets one know. */
static void
live_on(uint32 activity)
{
	memset(named, 0, sizeof(named));
	limit = PG_UINT32_MAX;
	for (uint32 i = chance(activity + 1); i > 0; i--)
	{
		uint32		kind = chance(40);
		uint32		n = 1 + chance(chance(10) == 0 ? 1 + length / 4 : 4);

		if (kind < 30 && length > 0)
		{
			uint32		from = chance(length);

			for (uint32 b = from; b < Min(from + n, length); b++)
			{
				write_block(b);
				named[b] = true;
			}
		}
		else if (kind < 37)		/* some of it by WAL, some of zeros, or written without any */
			for (; n > 0 && length < BLOCKS_MAX; n--)
			{
				named[length] = named[length] || chance(2) == 0;
				write_block(length++);
			}
		else if (kind < 39 && length > 0)
		{
			length -= Min(length, n);
			limit = Min(limit, length);
		}
		else
		{
			uint32		from = chance(BLOCKS_MAX);

			for (uint32 b = from; b < Min(from + n, BLOCKS_MAX); b++)	/* of what was cut off since */
				named[b] = true;
		}
	}
}

/* ---- what a composition must be ---- */

static uint32 suspects[4];

static bool
must_read(const ManifestFile *parent, uint32 b)
{
	return named[b] || b >= limit || b >= parent->size / BLCKSZ;
}

static void
assert_pieces(const Composition *c, const ComposeInput *in)
{
	static Place places[BLOCKS_MAX];
	const ManifestFile *parent = in->parent;
	uint32		block = 0;
	uint32		read = 0;
	uint32		changed = 0;

	find_places(parent, places);
	for (uint32 i = 0; i < c->n_pieces; i++)
	{
		const Piece *p = &c->pieces[i];

		assert_int_equal(p->block, block);
		assert_true(p->blocks > 0);
		for (uint32 k = 0; k < p->blocks; k++, block++)
		{
			assert_true(block < length);
			changed += must_read(parent, block);
			if (p->frame == COMPOSE_READ)
			{
				read++;
				continue;
			}
			assert_true(p->frame < c->n_kept);
			assert_false(must_read(parent, block));		/* I1 */
			for (uint32 s = 0; s < in->n_suspects; s++)
				assert_int_not_equal(in->suspects[s], block);
			assert_memory_equal(&c->kept[p->frame], &parent->frames[places[block].frame], sizeof(Frame));
			assert_int_equal(p->skip + k * BLCKSZ, places[block].skip);
		}
		if (i > 0)
			assert_false(p->frame == COMPOSE_READ && p[-1].frame == COMPOSE_READ);
	}
	assert_int_equal(block, length);
	assert_int_equal(read, c->read_blocks);
	assert_int_equal(changed, c->changed_blocks);
	assert_true(read == 0 || length * BLCKSZ > COMPOSE_SMALL);
	if (c->unchanged)
		assert_true(read == 0 && parent->n_extents == 0 && c->n_kept == parent->n_frames && in->size == parent->size);
}

static void
assert_frames(const Composition *c, const ManifestFile *parent)
{
	uint32	   *live = pg_malloc0(sizeof(uint32) * (c->n_kept + 1));
	uint32		from = 0;
	uint32		whole = (length + FRAME_BLOCKS - 1) / FRAME_BLOCKS;

	for (uint32 i = 0; i < c->n_pieces; i++)
		if (c->pieces[i].frame != COMPOSE_READ)
			live[c->pieces[i].frame] += c->pieces[i].blocks;
	for (uint32 i = 0; i < c->n_kept; i++)
	{
		assert_true(live[i] > 0 && (uint64) live[i] * BLCKSZ * 3 >= (uint64) c->kept[i].raw * 2);	/* I2 */
		assert_false(left_packs[c->kept[i].pack]);
		while (from < parent->n_frames && parent->frames[from].offset != c->kept[i].offset)
			from++;
		assert_true(from++ < parent->n_frames); /* in the parent's order, each once */
	}
	assert_true(c->n_kept + (c->read_blocks + FRAME_BLOCKS - 1) / FRAME_BLOCKS <= Max(FRAMES_FREE, 2 * whole));	/* I3 */
	free(live);
}

/* From each cursor on: the blocks of its frame, and no others, in order. */
static void
assert_runs(const Composition *c)
{
	uint32		n;
	ReadCursor *cursors = composition_cursors(c, &n);
	ReadCursor	all = {0, 0};
	uint32		piece = 0;
	uint32		done = 0;
	uint32		block;
	uint32		blocks;

	assert_int_equal(n, (c->read_blocks + FRAME_BLOCKS - 1) / FRAME_BLOCKS);
	for (uint32 i = 0; i < n; i++)
	{
		ReadCursor	at = cursors[i];

		for (uint32 left = Min(FRAME_BLOCKS, c->read_blocks - i * FRAME_BLOCKS); left > 0; left -= blocks)
		{
			uint32		most = 1 + chance(left);

			assert_true(composition_next_run(c, &at, most, &block, &blocks));
			assert_true(blocks > 0 && blocks <= most);
			while (c->pieces[piece].frame != COMPOSE_READ || done == c->pieces[piece].blocks)
			{
				piece++;
				done = 0;
				assert_true(piece < c->n_pieces);
			}
			assert_int_equal(block, c->pieces[piece].block + done);
			done += blocks;
			assert_true(done <= c->pieces[piece].blocks);
		}
	}
	free(cursors);
	n = 0;
	while (composition_next_run(c, &all, 1 + chance(300), &block, &blocks))
		n += blocks;
	assert_int_equal(n, c->read_blocks);
	assert_false(composition_next_run(c, &all, 1, &block, &blocks));
}

/* Read and write it as a backup does. */
static void
store_composed(const Composition *c, Held *h)
{
	uint32		n_new;
	uint32		n_extents;
	ReadCursor *cursors = composition_cursors(c, &n_new);
	Extent	   *extents = composition_extents(c, &n_extents);
	Frame	   *frames = pg_malloc(sizeof(Frame) * (c->n_kept + n_new + 1));

	memcpy(frames, c->kept, sizeof(Frame) * c->n_kept);
	for (uint32 i = 0; i < n_new; i++)
	{
		uint32		model = new_stored();
		uint32		n = 0;
		uint32		block;
		uint32		blocks;

		while (n < FRAME_BLOCKS && composition_next_run(c, &cursors[i], FRAME_BLOCKS - n, &block, &blocks))
			for (uint32 b = block; b < block + blocks; b++)
				stored[model][n++] = (Cell) {b, now[b]};
		frames[c->n_kept + i] = new_frame(model, n * BLCKSZ);
	}
	if (c->unchanged)
	{
		free(extents);
		extents = NULL;
		n_extents = 0;
	}
	hold(h, frames, c->n_kept + n_new, extents, n_extents);
	free(cursors);
}

/* The next backup of the file, with this as its parent; was it composed? */
static bool
next_backup(Held *h, bool everything)
{
	FileChanges changes = {.everything = everything,.limit = limit};
	ComposeInput in = {.parent = &h->file,.size = (uint64) length * BLCKSZ,.changes = &changes,.leave = is_left,.suspects = suspects};
	Composition c;
	Held		next;
	uint32		changed = 0;
	bool		composed;

	for (uint32 i = 0; i < lengthof(left_packs); i++)
		left_packs[i] = chance(100) == 0;
	for (uint32 n = chance(10) == 0 ? chance(lengthof(suspects) + 1) : 0; n > 0; n--)
		suspects[in.n_suspects++] = chance(length + 10);
	for (uint32 b = 0; b < length; b++)
		changed += everything || must_read(&h->file, b);
	composed = compose(&c, &in);
	if (composed)
	{
		assert_false(everything);
		assert_pieces(&c, &in);
		assert_frames(&c, &h->file);
		assert_runs(&c);
		store_composed(&c, &next);
	}
	else
	{
		assert_int_equal(c.changed_blocks, changed);
		store_whole(&next);
	}
	composition_free(&c);
	assert_newest(&next.file);
	let_go(h);
	*h = next;
	return composed;
}

/* ---- tests ---- */

static void
new_file(Held *h, uint32 blocks)
{
	n_stored = 0;
	length = blocks;
	for (uint32 b = 0; b < length; b++)
		write_block(b);
	if (chance(2) == 0)
		store_whole(h);
	else
		store_scattered(h);
	assert_newest(&h->file);
}

static uint32
some_size(void)
{
	return chance(10) == 0 ? chance(40) : 1 + chance(chance(10) == 0 ? 6000 : 700);
}

static void
test_pairs(void **state)
{
	uint32		composed = 0;

	for (uint32 i = 0; i < 6000; i++)
	{
		Held		h;

		begin_trial(i);
		new_file(&h, some_size());
		live_on(chance(3) * 10);
		composed += next_backup(&h, chance(50) == 0);
		let_go(&h);
	}
	assert_true(composed > 1500 && composed < 5800);
}

static void
test_chains(void **state)
{
	uint32		composed = 0;
	uint32		most_extents = 0;

	for (uint32 i = 0; i < 300; i++)
	{
		Held		h;
		uint32		activity = 1 + chance(20);

		begin_trial(100000 + i);
		new_file(&h, some_size());
		for (int k = 0; k < 50; k++)
		{
			live_on(activity);
			composed += next_backup(&h, chance(200) == 0);
			most_extents = Max(most_extents, h.file.n_extents);
		}
		let_go(&h);
	}
	assert_true(composed > 300 * 20 && most_extents > 100);
}

/* One block at a time, of a file of ten frames, for long: what a restore reads stays bounded. */
static void
test_long_chain(void **state)
{
	Held		h;
	uint32		most = 0;

	begin_trial(7);
	n_stored = 0;
	length = 10 * FRAME_BLOCKS;
	store_whole(&h);
	for (int k = 0; k < 1000; k++)
	{
		uint64		raw = 0;
		uint32		b = chance(length);

		memset(named, 0, sizeof(named));
		limit = PG_UINT32_MAX;
		named[b] = true;
		write_block(b);
		next_backup(&h, false);
		for (uint32 i = 0; i < h.file.n_frames; i++)
			raw += h.file.frames[i].raw;
		assert_true(raw * 2 <= h.file.size * 3);
		most = Max(most, h.file.n_frames);
	}
	assert_true(most > 10 && most <= FRAMES_FREE);
	let_go(&h);
}

/* A parent with a block of which only a part is there, as of a file that was being written. */
static void
test_odd_parent(void **state)
{
	Frame		frames[2] = {{1, 0, 1, FRAME_MAX, 0}, {1, 1, 1, BLCKSZ - 1, 0}};
	FileChanges changes = {.everything = false,.limit = PG_UINT32_MAX};
	ManifestFile parent = {.class = FILE_MAIN,.size = FRAME_MAX + BLCKSZ - 1,.path = "base/1/2",.n_frames = 2,.frames = frames};
	ComposeInput in = {.parent = &parent,.size = FRAME_MAX + BLCKSZ,.changes = &changes,.leave = is_left};
	Composition c;

	memset(named, 0, sizeof(named));
	memset(left_packs, 0, sizeof(left_packs));
	assert_false(compose(&c, &in));
	assert_int_equal(c.changed_blocks, FRAME_BLOCKS + 1);
	composition_free(&c);
	in.size = 0;
	assert_false(compose(&c, &in));
	assert_int_equal(c.changed_blocks, 0);
	composition_free(&c);
}

/* From no block to no block, and from there on. */
static void
test_empty(void **state)
{
	Held		h;

	begin_trial(8);
	n_stored = 0;
	length = 0;
	memset(named, 0, sizeof(named));
	limit = PG_UINT32_MAX;
	store_whole(&h);
	assert_false(next_backup(&h, false));
	length = 300;
	for (uint32 b = 0; b < length; b++)
		write_block(b);
	assert_false(next_backup(&h, false));
	length = 0;
	limit = 0;
	assert_false(next_backup(&h, false));
	let_go(&h);
}

/* What is expected of plain cases, piece by piece. */
static void
test_examples(void **state)
{
	FileChanges changes = {.everything = false,.limit = PG_UINT32_MAX};
	ComposeInput in = {.changes = &changes,.leave = is_left};
	Composition c;
	Extent	   *extents;
	uint32		n;
	Held		h;

	begin_trial(9);
	n_stored = 0;
	memset(named, 0, sizeof(named));
	memset(left_packs, 0, sizeof(left_packs));
	length = 3 * FRAME_BLOCKS;
	store_whole(&h);
	in.parent = &h.file;
	in.size = h.file.size;
	assert_true(compose(&c, &in));
	assert_true(c.unchanged && c.n_kept == 3 && c.n_pieces == 3 && c.read_blocks == 0);
	composition_free(&c);

	named[5] = named[6] = true;
	assert_true(compose(&c, &in));
	assert_true(!c.unchanged && c.n_kept == 3 && c.n_pieces == 5 && c.read_blocks == 2);
	extents = composition_extents(&c, &n);
	assert_int_equal(n, 5);
	assert_memory_equal(&extents[0], (&(Extent) {0, 0, 5 * BLCKSZ}), sizeof(Extent));
	assert_memory_equal(&extents[1], (&(Extent) {3, 0, 2 * BLCKSZ}), sizeof(Extent));
	assert_memory_equal(&extents[2], (&(Extent) {0, 7 * BLCKSZ, FRAME_MAX - 7 * BLCKSZ}), sizeof(Extent));
	free(extents);
	composition_free(&c);

	changes.limit = 2 * FRAME_BLOCKS;	/* truncated, and as long as before again */
	assert_true(compose(&c, &in));
	assert_true(c.n_kept == 2 && c.read_blocks == 2 + FRAME_BLOCKS && c.changed_blocks == c.read_blocks);
	composition_free(&c);

	changes.limit = PG_UINT32_MAX;
	in.size -= FRAME_MAX / 2;	/* half of the last frame is no part of it any more: read again */
	named[5] = named[6] = false;
	assert_true(compose(&c, &in));
	assert_true(c.n_kept == 2 && c.read_blocks == FRAME_BLOCKS / 2 && c.changed_blocks == 0);
	composition_free(&c);
	let_go(&h);

	length = COMPOSE_SMALL / BLCKSZ;
	store_whole(&h);
	in.size = h.file.size;
	assert_true(compose(&c, &in) && c.unchanged);
	composition_free(&c);
	named[0] = true;
	assert_false(compose(&c, &in));
	assert_int_equal(c.changed_blocks, 1);
	composition_free(&c);
	let_go(&h);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_examples),
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_odd_parent),
		cmocka_unit_test(test_pairs),
		cmocka_unit_test(test_chains),
		cmocka_unit_test(test_long_chain),
	};

	return cmocka_run_group_tests_name("compose", tests, NULL, NULL);
}
