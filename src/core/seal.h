/*
 * seal.h
 *	  Sealing and opening: C2SP chunked encryption and the sealed object.
 *
 * doc/FORMAT.md section 3 has the bytes.  Invariants:
 *
 *	S1	Salts are random and 24 bytes; no two objects share key and nonce.
 *	S2	Nothing is believed of a message before its commitment is right, and
 *		its end only after a last chunk shorter than SEAL_CHUNK was opened.
 *	S3	The context binds header and name: an object that is cut, extended,
 *		swapped, renamed or passed off as another kind does not open.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_SEAL_H
#define PGDR_SEAL_H

#include "core/error.h"
#include "core/names.h"

#define SEAL_CHUNK			16384
#define SEAL_TAG			16
#define SEAL_SALT			24
#define SEAL_PREFIX			56		/* salt and commitment */
#define SEAL_HEADER			64
#define SEAL_KEY			32

typedef struct EpochKey
{
	uint8		id[8];
	int64		created;			/* microseconds since 1970 */
	uint8		key[SEAL_KEY];
} EpochKey;

typedef enum SealCodec
{
	CODEC_NONE = 0,
	CODEC_ZSTD = 1
} SealCodec;

typedef struct SealHeader
{
	ObjectKind	kind;
	SealCodec	codec;
	uint32		plain_crc;
	uint8		repository_id[16];
	uint8		key_id[8];
	uint64		plain_length;
	int64		created;			/* microseconds since 1970 */
} SealHeader;

/* Sealed size of a message of n bytes. */
extern size_t sealed_size(size_t n);

/*
 * One message, sealed from plain to out (sealed_size(n) bytes) or opened from
 * in to out (n - SEAL_PREFIX bytes are enough; *plain_n is set).  "what" names
 * the message in errors.  message_seal takes its salt from the caller only in
 * tests; pass NULL for a random one.
 */
extern bool message_seal(const uint8 key[SEAL_KEY], const uint8 *salt,
						 const void *context, size_t context_n,
						 const uint8 *plain, size_t n, uint8 *out, DrError *err);
extern bool message_open(const uint8 key[SEAL_KEY], const void *context, size_t context_n,
						 const uint8 *in, size_t n, uint8 *out, size_t *plain_n,
						 const char *what, DrError *err);

/*
 * An object on its way out.  Content is appended into its final place, with
 * gaps for the tags, and encrypted there by object_seal: no second copy.
 * The owner of a SealBuffer frees it with seal_buffer_free.
 */
typedef struct SealBuffer
{
	uint8	   *data;			/* header, prefix, chunks and gaps */
	size_t		capacity;		/* bytes of content that fit; grows when needed */
	size_t		length;			/* bytes of content appended */
	size_t		size;			/* of the whole object; set by object_seal */
} SealBuffer;

extern void seal_buffer_init(SealBuffer *b, size_t capacity);
extern void seal_buffer_reset(SealBuffer *b);
extern void seal_buffer_append(SealBuffer *b, const void *content, size_t n);
extern void seal_buffer_free(SealBuffer *b);

/*
 * Seal in place; afterwards data and size are the object.  With CODEC_NONE,
 * plain CRC and length are taken from the content.
 */
extern bool object_seal(SealBuffer *b, SealHeader *header, const EpochKey *key,
						const char *name, DrError *err);

/* The header alone, checked as far as it can be without a key. */
extern bool object_header(const uint8 *data, size_t size, const uint8 repository_id[16],
						  const char *name, SealHeader *header, DrError *err);

/*
 * Open in place: *content points into data.  CRC and length of the plain bytes
 * are checked here for CODEC_NONE, by codec_undo for CODEC_ZSTD.
 */
extern bool object_open(uint8 *data, size_t size, const SealHeader *header, const EpochKey *key,
						const char *name, uint8 **content, size_t *content_n, DrError *err);

/*
 * Is an object of this size sealed under this name, with this header, and not
 * cut off?  From its first OBJECT_HEAD bytes and its last chunk alone, which
 * begins at object_last_chunk (0: no object has that size); what lies between
 * is not looked at.
 */
#define OBJECT_HEAD			(SEAL_HEADER + SEAL_PREFIX)
extern size_t object_last_chunk(size_t size);
extern bool object_ends_open(const uint8 head[OBJECT_HEAD], uint8 *last, size_t size,
							 const EpochKey *key, const char *name, DrError *err);

/*
 * An object in part.  Content byte c lies in chunk c / SEAL_CHUNK; chunks
 * [first, first + n) of an object of this size begin at object_chunk_at(first)
 * and are object_chunks_size bytes long.  object_chunks_open takes them, as they
 * lie in the object, and leaves their plain bytes at "chunks", end to end.  Only
 * the chunk that is last in an object of this size may be short.  (Sizes are
 * those of which object_last_chunk is not 0.)
 *
 * Each chunk is bound to its number, to header and name; that the object ends
 * where its size says is not looked at (S2 is for whole messages).
 */
extern size_t object_content_size(size_t size);
extern size_t object_chunk_at(uint64 chunk);
extern size_t object_chunks_size(size_t size, uint64 first, uint64 n);
extern bool object_chunks_open(const uint8 head[OBJECT_HEAD], uint8 *chunks, size_t size, uint64 first,
							   uint64 n, const EpochKey *key, const char *name, size_t *plain_n,
							   DrError *err);

/* Random bytes that may be keys; exits when the system has none. */
extern void random_bytes(void *out, size_t n);

#endif							/* PGDR_SEAL_H */
