/*
 * compose.c
 *	  An incremental backup's relation file: what is taken from the parent, and
 *	  what is read.
 *
 * One flag per block says whether it is read; each rule sets more of them, and
 * what is left without one comes from the parent.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/compose.h"

/* A file of which more than this is read anyway is read whole. */
#define WORTH_TAKING(read, all)	((uint64) (read) * 10 <= (uint64) (all) * 9)

typedef struct Work
{
	const ComposeInput *in;
	Composition *c;
	uint32		blocks;			/* of the file now */
	uint32		common;			/* of these, blocks that the parent has */
	bool	   *read;			/* by block */
	uint32	   *live;			/* by frame of the parent's: blocks that are taken from it */
} Work;

/* The i-th stretch of the parent's file. */
static Extent
parent_extent(const ManifestFile *parent, uint32 i)
{
	return parent->n_extents > 0 ? parent->extents[i] : (Extent) {i, 0, parent->frames[i].raw};
}

static uint32
parent_extents(const ManifestFile *parent)
{
	return parent->n_extents > 0 ? parent->n_extents : parent->n_frames;
}

/* Everything about the parent's file counts in whole blocks. */
static bool
whole_blocks(const ManifestFile *parent)
{
	for (uint32 i = 0; i < parent_extents(parent); i++)
	{
		Extent		x = parent_extent(parent, i);

		if (x.skip % BLCKSZ != 0 || x.length % BLCKSZ != 0)
			return false;
	}
	return true;
}

static void
set_read(Work *w, uint32 block)
{
	if (block < w->blocks && !w->read[block])
	{
		w->read[block] = true;
		w->c->read_blocks++;
	}
}

/* I1 */
static void
read_what_changed(Work *w)
{
	FileChanges *changes = w->in->changes;
	uint32		from = Min(w->common, changes->limit);

	for (uint32 b = from; b < w->blocks; b++)
		set_read(w, b);
	for (uint32 b = change_map_next(changes, 0); b < from; b = change_map_next(changes, b + 1))
		set_read(w, b);
	w->c->changed_blocks = w->c->read_blocks;
	for (uint32 i = 0; i < w->in->n_suspects; i++)
		set_read(w, w->in->suspects[i]);
}

static void
count_live(Work *w)
{
	const ManifestFile *parent = w->in->parent;
	uint32		block = 0;

	memset(w->live, 0, sizeof(uint32) * (parent->n_frames + 1));
	for (uint32 i = 0; i < parent_extents(parent); i++)
	{
		Extent		x = parent_extent(parent, i);

		for (uint32 end = block + x.length / BLCKSZ; block < end; block++)
			if (block < w->blocks && !w->read[block])
				w->live[x.frame]++;
	}
}

/* Read what is still taken from these frames. */
static void
drop_frames(Work *w, const bool *drop)
{
	const ManifestFile *parent = w->in->parent;
	uint32		block = 0;

	for (uint32 i = 0; i < parent_extents(parent); i++)
	{
		Extent		x = parent_extent(parent, i);

		for (uint32 end = block + x.length / BLCKSZ; block < end; block++)
			if (drop[x.frame])
				set_read(w, block);
	}
	count_live(w);
}

/* I2, and packs that are to be left. */
static void
drop_wasteful_frames(Work *w)
{
	const ManifestFile *parent = w->in->parent;
	bool	   *drop = pg_malloc0(parent->n_frames + 1);

	for (uint32 i = 0; i < parent->n_frames; i++)
		drop[i] = w->live[i] > 0 &&
			((uint64) w->live[i] * BLCKSZ * 3 < (uint64) parent->frames[i].raw * 2 ||
			 w->in->leave(w->in->arg, parent->frames[i].pack));
	drop_frames(w, drop);
	free(drop);
}

typedef struct Candidate
{
	uint32		frame;
	uint32		live;
} Candidate;

static int
compare_candidates(const void *a, const void *b)
{
	const Candidate *x = a;
	const Candidate *y = b;

	return x->live != y->live ? (x->live > y->live) - (x->live < y->live) :
		(x->frame > y->frame) - (x->frame < y->frame);
}

/* I3: well below the limit, so that it is not reached again at once. */
static void
drop_small_frames(Work *w)
{
	const ManifestFile *parent = w->in->parent;
	uint32		most = Max(FRAMES_FREE, 2 * ((w->blocks + FRAME_BLOCKS - 1) / FRAME_BLOCKS));
	Candidate  *v = pg_malloc(sizeof(Candidate) * (parent->n_frames + 1));
	bool	   *drop = pg_malloc0(parent->n_frames + 1);
	uint32		n = 0;

	for (uint32 i = 0; i < parent->n_frames; i++)
		if (w->live[i] > 0)
			v[n++] = (Candidate) {i, w->live[i]};
	if (n + (w->c->read_blocks + FRAME_BLOCKS - 1) / FRAME_BLOCKS > most)
	{
		uint32		moved = w->c->read_blocks;
		uint32		i = 0;

		qsort(v, n, sizeof(Candidate), compare_candidates);
		for (; i < n && n - i + (moved + FRAME_BLOCKS - 1) / FRAME_BLOCKS > most / 4 * 3; i++)
		{
			drop[v[i].frame] = true;
			moved += v[i].live;
		}
		drop_frames(w, drop);
	}
	free(v);
	free(drop);
}

/* ---- the result ---- */

static void
add_piece(Composition *c, uint32 block, uint32 blocks, uint32 frame, uint32 skip)
{
	c->pieces = array_room(c->pieces, c->n_pieces, sizeof(Piece));
	c->pieces[c->n_pieces++] = (Piece) {block, blocks, frame, skip};
}

/* Blocks from "from" to before "to": runs of those that are read, and of those in this frame. */
static void
add_pieces(Work *w, uint32 from, uint32 to, uint32 frame, uint32 skip)
{
	Composition *c = w->c;

	for (uint32 b = from; b < to;)
	{
		uint32		first = b;
		bool		read = w->read[b];
		Piece	   *last = c->n_pieces > 0 ? &c->pieces[c->n_pieces - 1] : NULL;

		while (b < to && w->read[b] == read)
			b++;
		if (read && last != NULL && last->frame == COMPOSE_READ)
			last->blocks += b - first;
		else if (read)
			add_piece(c, first, b - first, COMPOSE_READ, 0);
		else
			add_piece(c, first, b - first, frame, skip + (first - from) * BLCKSZ);
	}
}

static void
make_pieces(Work *w)
{
	const ManifestFile *parent = w->in->parent;
	Composition *c = w->c;
	uint32	   *place = pg_malloc(sizeof(uint32) * (parent->n_frames + 1));
	uint32		block = 0;

	c->kept = pg_malloc(sizeof(Frame) * (parent->n_frames + 1));
	for (uint32 i = 0; i < parent->n_frames; i++)
	{
		place[i] = c->n_kept;
		if (w->live[i] > 0)
			c->kept[c->n_kept++] = parent->frames[i];
	}
	for (uint32 i = 0; i < parent_extents(parent) && block < w->common; i++)
	{
		Extent		x = parent_extent(parent, i);
		uint32		end = Min(w->common, block + x.length / BLCKSZ);

		add_pieces(w, block, end, place[x.frame], x.skip);
		block = end;
	}
	add_pieces(w, block, w->blocks, COMPOSE_READ, 0);
	c->unchanged = c->read_blocks == 0 && parent->n_extents == 0 && w->in->size == parent->size;
	free(place);
}

bool
compose(Composition *c, const ComposeInput *input)
{
	Work		w = {.in = input, .c = c};
	bool		ok;

	memset(c, 0, sizeof(*c));
	w.blocks = (uint32) (input->size / BLCKSZ);
	w.common = (uint32) Min(input->parent->size / BLCKSZ, w.blocks);
	c->changed_blocks = w.blocks;
	if (input->changes->everything || w.blocks == 0 || !whole_blocks(input->parent))
		return false;
	w.read = pg_malloc0(w.blocks);
	w.live = pg_malloc(sizeof(uint32) * (input->parent->n_frames + 1));
	read_what_changed(&w);
	count_live(&w);
	drop_wasteful_frames(&w);
	drop_small_frames(&w);
	if (input->size <= COMPOSE_SMALL)
		ok = c->read_blocks == 0;
	else
		ok = WORTH_TAKING(c->read_blocks, w.blocks);
	if (ok)
		make_pieces(&w);
	free(w.read);
	free(w.live);
	return ok;
}

void
composition_free(Composition *c)
{
	free(c->pieces);
	free(c->kept);
	memset(c, 0, sizeof(*c));
}

/* ---- what is read ---- */

bool
composition_next_run(const Composition *c, ReadCursor *at, uint32 most, uint32 *block, uint32 *blocks)
{
	const Piece *p;

	while (at->piece < c->n_pieces &&
		   (c->pieces[at->piece].frame != COMPOSE_READ || at->done == c->pieces[at->piece].blocks))
	{
		at->piece++;
		at->done = 0;
	}
	if (at->piece == c->n_pieces)
		return false;
	p = &c->pieces[at->piece];
	*block = p->block + at->done;
	*blocks = Min(most, p->blocks - at->done);
	at->done += *blocks;
	return true;
}

ReadCursor *
composition_cursors(const Composition *c, uint32 *n_frames)
{
	ReadCursor *v;
	ReadCursor	at = {0, 0};
	uint32		block;
	uint32		blocks;

	*n_frames = (c->read_blocks + FRAME_BLOCKS - 1) / FRAME_BLOCKS;
	v = pg_malloc(sizeof(ReadCursor) * (*n_frames + 1));
	for (uint32 i = 0; i < *n_frames; i++)
	{
		uint32		left = FRAME_BLOCKS;

		v[i] = at;
		while (left > 0 && composition_next_run(c, &at, left, &block, &blocks))
			left -= blocks;
	}
	return v;
}

Extent *
composition_extents(const Composition *c, uint32 *n)
{
	Extent	   *v = NULL;
	uint32		read = 0;

	*n = 0;
	for (uint32 i = 0; i < c->n_pieces; i++)
	{
		const Piece *p = &c->pieces[i];
		uint32		done = 0;

		while (done < p->blocks)
		{
			bool		kept = p->frame != COMPOSE_READ;
			uint32		now = kept ? p->blocks : Min(p->blocks - done, FRAME_BLOCKS - read % FRAME_BLOCKS);

			v = array_room(v, *n, sizeof(Extent));
			if (kept)
				v[(*n)++] = (Extent) {p->frame, p->skip, now * BLCKSZ};
			else
				v[(*n)++] = (Extent) {c->n_kept + read / FRAME_BLOCKS, read % FRAME_BLOCKS * BLCKSZ, now * BLCKSZ};
			read += kept ? 0 : now;
			done += now;
		}
	}
	return v;
}
