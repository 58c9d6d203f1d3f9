/*
 * fetch.h
 *	  The fetch conveyor, mirror of upload: packs in, frames out.
 *
 *	  fetch_pack -> [names] -> getters: fetch the object, or what is used of it
 *	      -> [objects] -> openers: open the seal, decompress, check, hand to the sink
 *
 * Packs are fetched in the order in which they are given, each once; each frame
 * is handed on once, those of a pack by ascending offset.  Of a pack of which
 * little is used only whole sealed chunks around that are fetched; what lies
 * beside them is then not looked at (R4): verify does that.  Invariants:
 *
 *	F1	A sink gets a frame's raw bytes only after its seal, length and CRC-32C
 *		were right.
 *	F2	When fetch_finish returned true, every frame went through the sink.
 *	F3	Memory: jobs + REQUESTS_IN_FLIGHT objects of the size that the manifest
 *		says, whatever the store answers.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_FETCH_H
#define PGDR_FETCH_H

#include "core/manifest.h"
#include "flow/repository.h"

/* Where a stretch of a frame goes. */
typedef struct FetchSlice
{
	uint64		at;				/* in the file */
	uint32		skip;			/* in the frame */
	uint32		length;
} FetchSlice;

typedef struct FetchFrame
{
	Frame		frame;
	uint32		n_slices;
	const FetchSlice *slices;	/* the sink's; NULL: all of it, to "at" */
	void	   *file;			/* the sink's */
	uint64		at;				/* in the file */
} FetchFrame;

/*
 * The extents of a file by the frames that they come from: those of frame i are
 * slices first[i] to first[i + 1], the caller frees both.  *size is what they make.
 */
extern FetchSlice *fetch_slices(const ManifestFile *m, uint32 **first, uint64 *size);

/* A frame's raw bytes, from several threads at once.  False: err says why not. */
typedef bool (*FetchSink) (void *arg, const FetchFrame *frame, const void *raw, DrError *err);

typedef struct Fetch Fetch;

extern Fetch *fetch_new(Repository *repo, int jobs, FetchSink sink, void *arg);

/*
 * Fetch a pack of this size, whole or only what the frames need.  Takes frames
 * over.  False: the conveyor has failed; fetch_finish says how.
 */
extern bool fetch_pack(Fetch *f, const char *name, uint64 size, bool whole, FetchFrame *frames,
					   size_t n);

/* Frames that are no further apart come with one request: a request costs more. */
#define FETCH_GAP_MAX	(2 * SEAL_CHUNK)

/* Wait for the end, and free it. */
extern bool fetch_finish(Fetch *f, bool abort, DrError *err);

#endif							/* PGDR_FETCH_H */
