/*
 * codec.h
 *	  zstd: frames of packs, and the content of compressed objects.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_CODEC_H
#define PGDR_CODEC_H

#include <zstd.h>

#include "core/bytes.h"
#include "core/error.h"

/* Raw bytes of a frame, at most. */
#define FRAME_MAX			(1024 * 1024)

/* Room that a compressed frame may need. */
#define FRAME_BOUND			ZSTD_COMPRESSBOUND(FRAME_MAX)

/* A thread's compressor and decompressor; not shared. */
typedef struct Codec
{
	ZSTD_CCtx  *compress;
	ZSTD_DCtx  *decompress;
} Codec;

extern void codec_init(Codec *codec, int level);
extern void codec_free(Codec *codec);

/* n bytes into out (bound bytes); *out_n is set. */
extern bool codec_compress(Codec *codec, const void *in, size_t n, void *out, size_t bound,
						   size_t *out_n, DrError *err);

/*
 * Exactly plain_n bytes with the given CRC-32C, or an error that says why not;
 * the caller says of what.
 */
extern bool codec_decompress(Codec *codec, const void *in, size_t n, void *out, size_t plain_n,
							 uint32 crc, DrError *err);

#endif							/* PGDR_CODEC_H */
