/*
 * compose.h
 *	  An incremental backup's relation file: what is taken from the parent, and
 *	  what is read.
 *
 * Pure.  Invariants:
 *
 *	I1	A block comes from the parent only when it lies below the parent's length
 *		and below every limit, and the change map doesn't name it; all others
 *		that the file has are read, those of zeros too.  (A relation that was
 *		truncated and grew again has blocks that no WAL mentions.)
 *	I2	Of a parent's frame that is referenced, at least two thirds are used.
 *		What a restore fetches for a file is at most half as much again as the
 *		file, for ever.
 *	I3	A file has at most FRAMES_FREE frames, or twice as many as it would have
 *		if it were stored whole; when it has more, the smallest are read again.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_COMPOSE_H
#define PGDR_COMPOSE_H

#include "core/change_map.h"
#include "core/manifest.h"

/* A file not larger than this is read whole when anything of it is to be read. */
#define COMPOSE_SMALL	(16 * BLCKSZ)

#define FRAMES_FREE		32

/* Blocks in a frame. */
#define FRAME_BLOCKS	(FRAME_MAX / BLCKSZ)

/* A stretch of the file: from one frame of the parent's, or to be read. */
typedef struct Piece
{
	uint32		block;			/* of the file */
	uint32		blocks;
	uint32		frame;			/* COMPOSE_READ, or which of kept */
	uint32		skip;			/* bytes in that frame */
} Piece;

#define COMPOSE_READ	PG_UINT32_MAX

/* The file as it will be: pieces in order, without holes. */
typedef struct Composition
{
	Piece	   *pieces;
	uint32		n_pieces;
	Frame	   *kept;			/* of the parent's frames, as its manifest has them */
	uint32		n_kept;
	uint32		changed_blocks; /* I1 wants them read */
	uint32		read_blocks;	/* and what is read to keep I2, I3 */
	bool		unchanged;		/* as the parent's, frame by frame */
} Composition;

typedef struct ComposeInput
{
	const ManifestFile *parent;
	uint64		size;			/* of the file now, whole blocks */
	FileChanges *changes;
	bool		(*leave) (void *arg, uint32 pack);	/* what is in this pack of the parent's is to be read again */
	void	   *arg;
	const uint32 *suspects;		/* blocks of the file that were corrupt in the parent: read again */
	uint32		n_suspects;
} ComposeInput;

/*
 * False: the file is to be read whole (nothing of the parent's is worth
 * taking); changed_blocks says all the same how much of it has changed.
 */
extern bool compose(Composition *c, const ComposeInput *input);
extern void composition_free(Composition *c);

/*
 * Blocks that are read are packed in their order into frames of FRAME_BLOCKS.
 * The extents of it all, frames being the kept ones followed by these; the
 * caller frees them.
 */
extern Extent *composition_extents(const Composition *c, uint32 *n);

/* The pieces that are read into such a frame, from an ordinal of its first block on. */
typedef struct ReadCursor
{
	uint32		piece;
	uint32		done;			/* blocks of that piece before */
} ReadCursor;

/* Where the frames begin: one cursor for each; the caller frees them. */
extern ReadCursor *composition_cursors(const Composition *c, uint32 *n_frames);

/* The next run of blocks, at most "most"; false: there is none. */
extern bool composition_next_run(const Composition *c, ReadCursor *at, uint32 most, uint32 *block, uint32 *blocks);

#endif							/* PGDR_COMPOSE_H */
