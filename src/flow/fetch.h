/*
 * fetch.h
 *	  The fetch conveyor, mirror of upload: packs in, frames out.
 *
 *	  fetch_pack -> [names] -> getters: fetch the object
 *	      -> [objects] -> openers: open the seal, decompress, check, hand to the sink
 *
 * Each pack is fetched once and each frame handed on once, in no particular
 * order.  Invariants:
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

typedef struct FetchFrame
{
	Frame		frame;
	void	   *file;			/* the sink's */
	uint64		at;				/* in the file */
} FetchFrame;

/* A frame's raw bytes, from several threads at once.  False: err says why not. */
typedef bool (*FetchSink) (void *arg, const FetchFrame *frame, const void *raw, DrError *err);

typedef struct Fetch Fetch;

extern Fetch *fetch_new(Repository *repo, int jobs, FetchSink sink, void *arg);

/* Takes frames over.  False: the conveyor has failed; fetch_finish says how. */
extern bool fetch_pack(Fetch *f, const char *name, uint64 size, FetchFrame *frames, size_t n);

/* Wait for the end, and free it. */
extern bool fetch_finish(Fetch *f, bool abort, DrError *err);

#endif							/* PGDR_FETCH_H */
