/*
 * codec.c
 *	  zstd, with every result checked against what it should have been.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/codec.h"

void
codec_init(Codec *codec, int level)
{
	codec->compress = ZSTD_createCCtx();
	codec->decompress = ZSTD_createDCtx();
	if (codec->compress == NULL || codec->decompress == NULL)
	{
		fprintf(stderr, "pg_dr: out of memory\n");
		exit(EXIT_FAILURE);
	}
	ZSTD_CCtx_setParameter(codec->compress, ZSTD_c_compressionLevel, level);
}

void
codec_free(Codec *codec)
{
	ZSTD_freeCCtx(codec->compress);
	ZSTD_freeDCtx(codec->decompress);
}

bool
codec_compress(Codec *codec, const void *in, size_t n, void *out, size_t bound,
			   size_t *out_n, DrError *err)
{
	size_t		r = ZSTD_compress2(codec->compress, out, bound, in, n);

	if (ZSTD_isError(r))
		return dr_error(err, DR_INTERNAL, "compression failed: %s", ZSTD_getErrorName(r));
	*out_n = r;
	return true;
}

bool
codec_decompress(Codec *codec, const void *in, size_t n, void *out, size_t plain_n,
				 uint32 crc, DrError *err)
{
	size_t		r;

	/* One frame that says how long it is, and nothing behind it. */
	if (ZSTD_findFrameCompressedSize(in, n) != n || ZSTD_getFrameContentSize(in, n) != plain_n)
		return dr_error(err, DR_DAMAGED, "it is not one zstd frame of %zu bytes", plain_n);
	r = ZSTD_decompressDCtx(codec->decompress, out, plain_n, in, n);
	if (ZSTD_isError(r))
		return dr_error(err, DR_DAMAGED, "decompression failed: %s", ZSTD_getErrorName(r));
	if (r != plain_n)
		return dr_error(err, DR_DAMAGED, "decompressed to %zu bytes instead of %zu", r, plain_n);
	if (crc32c(out, plain_n) != crc)
		return dr_error(err, DR_DAMAGED, "checksum mismatch after decompression");
	return true;
}
