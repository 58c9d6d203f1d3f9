/*
 * bytes.h
 *	  Little-endian integers in byte arrays, growable byte buffers, hexadecimal.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_BYTES_H
#define PGDR_BYTES_H

#include "postgres_fe.h"

static inline void
put_u16(uint8 *p, uint16 v)
{
	p[0] = v & 0xff;
	p[1] = v >> 8;
}

static inline void
put_u32(uint8 *p, uint32 v)
{
	put_u16(p, v & 0xffff);
	put_u16(p + 2, v >> 16);
}

static inline void
put_u64(uint8 *p, uint64 v)
{
	put_u32(p, (uint32) v);
	put_u32(p + 4, (uint32) (v >> 32));
}

static inline uint16
get_u16(const uint8 *p)
{
	return (uint16) (p[0] | (p[1] << 8));
}

static inline uint32
get_u32(const uint8 *p)
{
	return get_u16(p) | ((uint32) get_u16(p + 2) << 16);
}

static inline uint64
get_u64(const uint8 *p)
{
	return get_u32(p) | ((uint64) get_u32(p + 4) << 32);
}

/* A growable byte array.  Zero-initialised is empty; bytes_free makes it so again. */
typedef struct Bytes
{
	uint8	   *data;
	size_t		len;
	size_t		cap;
} Bytes;

/* Page-aligned, for direct I/O; exits when there is no memory, as pg_malloc does. */
extern void *aligned_malloc(size_t n);

/*
 * Room for one more behind the n elements of an array that is allocated by this
 * alone, from n = 0 on; where it is now.  It grows by doubling.
 */
extern void *array_room(void *array, size_t n, size_t element);

/* Room for "more" bytes behind len; exits when memory is exhausted. */
extern void bytes_reserve(Bytes *b, size_t more);
extern void bytes_append(Bytes *b, const void *data, size_t n);
extern void bytes_append_u16(Bytes *b, uint16 v);
extern void bytes_append_u32(Bytes *b, uint32 v);
extern void bytes_append_u64(Bytes *b, uint64 v);
extern void bytes_free(Bytes *b);

/* Lower-case digits; out has 2 * n + 1 bytes. */
extern void hex_encode(const uint8 *in, size_t n, char *out);

/* Exactly 2 * n lower-case digits (in need not end there); false otherwise. */
extern bool hex_decode(const char *in, uint8 *out, size_t n);

/* CRC-32C, by the processor's instruction where there is one. */
extern uint32 crc32c(const void *data, size_t n);

/* The CRC of what had the CRC "before", with data behind it. */
extern uint32 crc32c_append(uint32 before, const void *data, size_t n);

/* The CRC-32C of a || b from theirs and b's length. */
extern uint32 crc32c_combine(uint32 crc_a, uint32 crc_b, uint64 len_b);

extern void sha256(const void *data, size_t n, uint8 out[32]);

#endif							/* PGDR_BYTES_H */
