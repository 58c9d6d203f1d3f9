/*
 * bytes.c
 *	  Byte buffers, hexadecimal, checksums.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/bytes.h"

#include <openssl/evp.h>

#include "port/pg_crc32c.h"

void *
aligned_malloc(size_t n)
{
	void	   *p;

	if (posix_memalign(&p, 4096, n) != 0)
	{
		fprintf(stderr, "pg_dr: out of memory\n");
		exit(EXIT_FAILURE);
	}
	return p;
}

void *
array_room(void *array, size_t n, size_t element)
{
	if ((n & (n - 1)) != 0)		/* it is full at powers of two */
		return array;
	return pg_realloc(array, (n == 0 ? 1 : n * 2) * element);
}

void
bytes_reserve(Bytes *b, size_t more)
{
	size_t		need = b->len + more;

	if (need <= b->cap)
		return;
	if (need < b->cap * 2)
		need = b->cap * 2;
	if (need < 256)
		need = 256;
	b->data = pg_realloc(b->data, need);
	b->cap = need;
}

void
bytes_append(Bytes *b, const void *data, size_t n)
{
	if (n == 0)
		return;
	bytes_reserve(b, n);
	memcpy(b->data + b->len, data, n);
	b->len += n;
}

void
bytes_append_u16(Bytes *b, uint16 v)
{
	uint8		p[2];

	put_u16(p, v);
	bytes_append(b, p, sizeof(p));
}

void
bytes_append_u32(Bytes *b, uint32 v)
{
	uint8		p[4];

	put_u32(p, v);
	bytes_append(b, p, sizeof(p));
}

void
bytes_append_u64(Bytes *b, uint64 v)
{
	uint8		p[8];

	put_u64(p, v);
	bytes_append(b, p, sizeof(p));
}

void
bytes_free(Bytes *b)
{
	free(b->data);
	memset(b, 0, sizeof(*b));
}

void
hex_encode(const uint8 *in, size_t n, char *out)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++)
	{
		out[2 * i] = digits[in[i] >> 4];
		out[2 * i + 1] = digits[in[i] & 15];
	}
	out[2 * n] = '\0';
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

bool
hex_decode(const char *in, uint8 *out, size_t n)
{
	for (size_t i = 0; i < n; i++)
	{
		int			hi = hex_digit(in[2 * i]);
		int			lo = hi < 0 ? -1 : hex_digit(in[2 * i + 1]);

		if (lo < 0)
			return false;
		out[i] = (uint8) (hi << 4 | lo);
	}
	return true;
}

#define CRC32C_POLY		0x82F63B78u		/* reflected */

/* a * b in GF(2)[x] modulo the polynomial; bit 31 is x^0. */
static uint32
gf_multiply(uint32 a, uint32 b)
{
	uint32		product = 0;

	for (uint32 bit = 0x80000000u; bit != 0; bit >>= 1)
	{
		if (a & bit)
			product ^= b;
		b = (b & 1) ? (b >> 1) ^ CRC32C_POLY : b >> 1;
	}
	return product;
}

/* x^(8 * len): square and multiply.  The same few lengths come again and again. */
static uint32
crc_shift(uint64 len)
{
	static __thread uint64 last_len = 0;
	static __thread uint32 last_shift = 0x80000000u;
	uint32		square = 0x00800000u;	/* x^8 */
	uint32		shift = 0x80000000u;	/* x^0 */

	if (len == last_len)
		return last_shift;
	for (uint64 n = len; n != 0; n >>= 1)
	{
		if (n & 1)
			shift = gf_multiply(shift, square);
		square = gf_multiply(square, square);
	}
	last_len = len;
	return last_shift = shift;
}

/* Appending len bytes multiplies a CRC by x^(8 * len). */
uint32
crc32c_combine(uint32 crc_a, uint32 crc_b, uint64 len_b)
{
	return gf_multiply(crc_shift(len_b), crc_a) ^ crc_b;
}

#ifdef __x86_64__
#define THREE_WORTH		4096

/*
 * The processor can begin a CRC instruction every cycle, but has its result
 * only after three: so three thirds of a large buffer at once.
 */
static __attribute__((target("sse4.2"))) uint32
crc_of_thirds(uint32 crc, const uint8 *data, size_t third)
{
	const uint64 *a = (const uint64 *) data;
	const uint64 *b = (const uint64 *) (data + third);
	const uint64 *c = (const uint64 *) (data + 2 * third);
	uint64		crc_a = crc;
	uint64		crc_b = 0;
	uint64		crc_c = 0;

	for (size_t i = 0; i < third / sizeof(uint64); i++)
	{
		crc_a = __builtin_ia32_crc32di(crc_a, a[i]);
		crc_b = __builtin_ia32_crc32di(crc_b, b[i]);
		crc_c = __builtin_ia32_crc32di(crc_c, c[i]);
	}
	return crc32c_combine(crc32c_combine((uint32) crc_a, (uint32) crc_b, third), (uint32) crc_c, third);
}
#endif

uint32
crc32c(const void *data, size_t n)
{
	return crc32c_append(0, data, n);
}

uint32
crc32c_append(uint32 before, const void *data, size_t n)
{
	const uint8 *from = data;
	pg_crc32c	crc = before ^ 0xFFFFFFFF;

#ifdef __x86_64__
	if (n >= THREE_WORTH && (uintptr_t) data % sizeof(uint64) == 0 && __builtin_cpu_supports("sse4.2"))
	{
		size_t		third = n / 3 / sizeof(uint64) * sizeof(uint64);

		crc = crc_of_thirds(crc, from, third);
		from += 3 * third;
		n -= 3 * third;
	}
#endif
	COMP_CRC32C(crc, from, n);
	FIN_CRC32C(crc);
	return crc;
}

void
sha256(const void *data, size_t n, uint8 out[32])
{
	if (EVP_Digest(data, n, out, NULL, EVP_sha256(), NULL) != 1)
	{
		/* Only a broken OpenSSL gets here; there is nothing to continue with. */
		fprintf(stderr, "pg_dr: SHA-256 is not available in this OpenSSL\n");
		abort();
	}
}
