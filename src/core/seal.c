/*
 * seal.c
 *	  Sealing and opening.
 *
 * The one idea: a single-use key, base nonce and commitment are derived from
 * the epoch key, a random salt and a context that holds everything that must
 * not change; after that every chunk stands for itself, at a place that can be
 * computed.  Memory only: a crash leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/seal.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "core/bytes.h"

#define MAGIC			"PGDRSEAL"
#define VERSION			1
#define SEALED_CHUNK	(SEAL_CHUNK + SEAL_TAG)
#define CONTEXT_OBJECT	"pg_dr/1 object"

StaticAssertDecl(SEAL_PREFIX == SEAL_SALT + 32, "salt and commitment");

typedef struct MessageKeys
{
	uint8		key[SEAL_KEY];
	uint8		nonce[12];
	uint8		commitment[32];
} MessageKeys;

StaticAssertDecl(sizeof(MessageKeys) == 76, "derived in one piece");

void
random_bytes(void *out, size_t n)
{
	if (RAND_bytes(out, (int) n) != 1)
	{
		fprintf(stderr, "pg_dr: no random bytes available\n");
		abort();
	}
}

size_t
sealed_size(size_t n)
{
	return SEAL_PREFIX + n + SEAL_TAG * (n / SEAL_CHUNK + 1);
}

/* HKDF-Expand with SHA-512: two blocks of 64 bytes are enough for 76. */
static bool
derive(const uint8 *key, const uint8 *salt, const void *context, size_t context_n,
	   MessageKeys *out, DrError *err)
{
	static const char label[] = "c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM";
	Bytes		info = {0};
	uint8		okm[128] = {0};
	bool		ok;

	bytes_append(&info, okm, 64);	/* room for the first block */
	bytes_append(&info, label, sizeof(label));	/* with its zero byte */
	bytes_append(&info, salt, SEAL_SALT);
	bytes_append(&info, context, context_n);
	bytes_append(&info, "\001", 1);

	ok = HMAC(EVP_sha512(), key, SEAL_KEY, info.data + 64, info.len - 64, okm, NULL) != NULL;
	memcpy(info.data, okm, 64);
	info.data[info.len - 1] = 2;
	ok = ok && HMAC(EVP_sha512(), key, SEAL_KEY, info.data, info.len, okm + 64, NULL) != NULL;
	memcpy(out, okm, sizeof(*out));
	OPENSSL_cleanse(okm, sizeof(okm));
	OPENSSL_cleanse(info.data, 64);
	bytes_free(&info);
	return ok || dr_error(err, DR_INTERNAL, "could not derive a message key");
}

static void
chunk_nonce(const MessageKeys *keys, uint64 chunk, uint8 nonce[12])
{
	memcpy(nonce, keys->nonce, 12);
	for (int i = 0; i < 8; i++)
		nonce[11 - i] ^= (uint8) (chunk >> (8 * i));
}

static bool
chunk_seal(EVP_CIPHER_CTX *ctx, const MessageKeys *keys, uint64 chunk,
		   const uint8 *plain, size_t n, uint8 *out)
{
	uint8		nonce[12];
	int			len;

	chunk_nonce(keys, chunk, nonce);
	return EVP_EncryptInit_ex(ctx, NULL, NULL, NULL, nonce) == 1 &&
		EVP_EncryptUpdate(ctx, out, &len, plain, (int) n) == 1 &&
		EVP_EncryptFinal_ex(ctx, out + n, &len) == 1 &&
		EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, SEAL_TAG, out + n) == 1;
}

static bool
chunk_open(EVP_CIPHER_CTX *ctx, const MessageKeys *keys, uint64 chunk,
		   const uint8 *in, size_t n, uint8 *out)
{
	uint8		nonce[12];
	int			len;

	chunk_nonce(keys, chunk, nonce);
	return EVP_DecryptInit_ex(ctx, NULL, NULL, NULL, nonce) == 1 &&
		EVP_DecryptUpdate(ctx, out, &len, in, (int) n) == 1 &&
		EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, SEAL_TAG, unconstify(uint8 *, in) + n) == 1 &&
		EVP_DecryptFinal_ex(ctx, out + n, &len) == 1;
}

static EVP_CIPHER_CTX *
cipher_context(const MessageKeys *keys, bool sealing)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();

	if (ctx == NULL ||
		EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, keys->key, NULL, sealing) != 1)
	{
		EVP_CIPHER_CTX_free(ctx);
		return NULL;
	}
	return ctx;
}

/*
 * Encrypt n bytes, chunk by chunk, from plain to out.  stride is the distance
 * between chunks in plain: SEAL_CHUNK, or SEALED_CHUNK for a buffer with gaps,
 * where plain and out are the same place.
 */
static bool
seal_chunks(const MessageKeys *keys, const uint8 *plain, size_t n, size_t stride,
			uint8 *out, DrError *err)
{
	EVP_CIPHER_CTX *ctx = cipher_context(keys, true);
	bool		ok = ctx != NULL;

	for (uint64 i = 0; ok && i <= n / SEAL_CHUNK; i++)
		ok = chunk_seal(ctx, keys, i, plain + i * stride,
						Min(SEAL_CHUNK, n - i * SEAL_CHUNK), out + i * SEALED_CHUNK);
	EVP_CIPHER_CTX_free(ctx);
	return ok || dr_error(err, DR_INTERNAL, "encryption failed");
}

bool
message_seal(const uint8 key[SEAL_KEY], const uint8 *salt, const void *context, size_t context_n,
			 const uint8 *plain, size_t n, uint8 *out, DrError *err)
{
	MessageKeys keys;
	bool		ok;

	if (salt != NULL)
		memcpy(out, salt, SEAL_SALT);
	else
		random_bytes(out, SEAL_SALT);
	ok = derive(key, out, context, context_n, &keys, err);
	memcpy(out + SEAL_SALT, keys.commitment, sizeof(keys.commitment));
	ok = ok && seal_chunks(&keys, plain, n, SEAL_CHUNK, out + SEAL_PREFIX, err);
	OPENSSL_cleanse(&keys, sizeof(keys));
	return ok;
}

static bool
damaged(DrError *err, const char *what, const char *why)
{
	dr_error(err, DR_DAMAGED, "%s is damaged", what);
	return dr_detail(err, "%s", why);
}

/*
 * Chunks from "first" on, n bytes of them, from in to out, which may be the same
 * place or lie before it.  "whole" is how many chunks of full size the message
 * has: the one behind them is its last, and short.
 */
static bool
open_chunks(const MessageKeys *keys, uint64 first, uint64 whole, uint8 *in, size_t n, uint8 *out,
			size_t *plain_n, const char *what, DrError *err)
{
	EVP_CIPHER_CTX *ctx = cipher_context(keys, false);

	*plain_n = 0;
	if (ctx == NULL)
		return dr_error(err, DR_INTERNAL, "decryption is not available");
	for (uint64 i = first; n > 0; i++)
	{
		size_t		sealed = i < whole ? SEALED_CHUNK : n;
		size_t		size = sealed - SEAL_TAG;

		/* In its place first: the cipher does not take overlapping buffers. */
		if (!chunk_open(ctx, keys, i, in, size, in))
		{
			EVP_CIPHER_CTX_free(ctx);
			dr_error(err, DR_DAMAGED, "%s is damaged", what);
			return dr_detail(err, "Chunk %llu of %llu fails authentication.",
							 (unsigned long long) i + 1, (unsigned long long) whole + 1);
		}
		memmove(out + *plain_n, in, size);
		*plain_n += size;
		in += sealed;
		n -= sealed;
	}
	EVP_CIPHER_CTX_free(ctx);
	return true;
}

/* Opens in place and leaves the plain bytes at out. */
static bool
open_in_place(const uint8 *key, const void *context, size_t context_n,
			  uint8 *in, size_t n, uint8 *out, size_t *plain_n, const char *what, DrError *err)
{
	MessageKeys keys;
	bool		ok;

	if (n < SEAL_PREFIX + SEAL_TAG)
		return damaged(err, what, "It is too short.");
	if (!derive(key, in, context, context_n, &keys, err))
		return false;
	if (CRYPTO_memcmp(keys.commitment, in + SEAL_SALT, sizeof(keys.commitment)) != 0)
		ok = damaged(err, what, "It was not sealed with this key under this name, or its header is changed.");
	else if ((n - SEAL_PREFIX) % SEALED_CHUNK < SEAL_TAG)
		ok = damaged(err, what, "It is cut off: its last chunk is missing or incomplete.");
	else
		ok = open_chunks(&keys, 0, (n - SEAL_PREFIX) / SEALED_CHUNK, in + SEAL_PREFIX, n - SEAL_PREFIX,
						 out, plain_n, what, err);
	OPENSSL_cleanse(&keys, sizeof(keys));
	return ok;
}

bool
message_open(const uint8 key[SEAL_KEY], const void *context, size_t context_n,
			 const uint8 *in, size_t n, uint8 *out, size_t *plain_n,
			 const char *what, DrError *err)
{
	uint8	   *copy = pg_malloc(n + 1);
	bool		ok;

	memcpy(copy, in, n);
	ok = open_in_place(key, context, context_n, copy, n, out, plain_n, what, err);
	OPENSSL_cleanse(copy, n);
	free(copy);
	return ok;
}

/* ---- objects ---- */

static void
header_encode(const SealHeader *h, uint8 out[SEAL_HEADER])
{
	memset(out, 0, SEAL_HEADER);
	memcpy(out, MAGIC, 8);
	out[8] = VERSION;
	out[9] = h->kind;
	out[10] = h->codec;
	put_u32(out + 12, h->plain_crc);
	memcpy(out + 16, h->repository_id, 16);
	memcpy(out + 32, h->key_id, 8);
	put_u64(out + 40, h->plain_length);
	put_u64(out + 48, (uint64) h->created);
}

bool
object_header(const uint8 *data, size_t size, const uint8 repository_id[16],
			  const char *name, SealHeader *h, DrError *err)
{
	static const uint8 zero[8];
	char		what[PGDR_OBJECT_NAME_MAX + 16];

	snprintf(what, sizeof(what), "object \"%s\"", name);
	if (size < SEAL_HEADER + SEAL_PREFIX + SEAL_TAG)
		return damaged(err, what, "It is too short to be a sealed object.");
	if (memcmp(data, MAGIC, 8) != 0)
		return damaged(err, what, "It does not begin as a sealed object does.");
	if (data[8] != VERSION)
		return damaged(err, what, "It has an unknown format version.");
	if (data[9] != object_kind(name))
		return damaged(err, what, "It is of another kind than its name says.");
	if (data[10] > CODEC_ZSTD || data[11] != 0 || memcmp(data + 56, zero, 8) != 0)
		return damaged(err, what, "Its header has an unknown codec or reserved bytes set.");
	if (memcmp(data + 16, repository_id, 16) != 0)
		return damaged(err, what, "It belongs to another repository.");
	h->kind = data[9];
	h->codec = data[10];
	h->plain_crc = get_u32(data + 12);
	memcpy(h->repository_id, data + 16, 16);
	memcpy(h->key_id, data + 32, 8);
	h->plain_length = get_u64(data + 40);
	h->created = (int64) get_u64(data + 48);
	return true;
}

/* "pg_dr/1 object" || header || name */
static size_t
object_context(const uint8 header[SEAL_HEADER], const char *name, uint8 *out)
{
	size_t		label = strlen(CONTEXT_OBJECT);
	size_t		n = strlen(name);

	memcpy(out, CONTEXT_OBJECT, label);
	memcpy(out + label, header, SEAL_HEADER);
	memcpy(out + label + SEAL_HEADER, name, n);
	return label + SEAL_HEADER + n;
}

void
seal_buffer_init(SealBuffer *b, size_t capacity)
{
	memset(b, 0, sizeof(*b));
	b->capacity = capacity;
	b->data = aligned_malloc(SEAL_HEADER + sealed_size(capacity));
}

void
seal_buffer_reset(SealBuffer *b)
{
	b->length = b->size = 0;
}

/* It stays aligned: stores write it past the page cache. */
static void
grow(SealBuffer *b, size_t capacity)
{
	uint8	   *data = aligned_malloc(SEAL_HEADER + sealed_size(capacity));

	memcpy(data, b->data, SEAL_HEADER + sealed_size(b->capacity));
	free(b->data);
	b->data = data;
	b->capacity = capacity;
}

void
seal_buffer_append(SealBuffer *b, const void *content, size_t n)
{
	const uint8 *from = content;

	if (b->length + n > b->capacity)
		grow(b, Max(b->length + n, b->capacity * 2));
	while (n > 0)
	{
		size_t		within = b->length % SEAL_CHUNK;
		size_t		take = Min(n, SEAL_CHUNK - within);

		memcpy(b->data + SEAL_HEADER + SEAL_PREFIX +
			   b->length / SEAL_CHUNK * SEALED_CHUNK + within, from, take);
		b->length += take;
		from += take;
		n -= take;
	}
}

void
seal_buffer_free(SealBuffer *b)
{
	free(b->data);
	memset(b, 0, sizeof(*b));
}

/* The CRC of the content that lies between the gaps. */
static uint32
content_crc(const SealBuffer *b)
{
	const uint8 *chunk = b->data + SEAL_HEADER + SEAL_PREFIX;
	uint32		crc = 0;

	for (size_t done = 0; done < b->length; chunk += SEALED_CHUNK)
	{
		size_t		n = Min(SEAL_CHUNK, b->length - done);

		crc = crc32c_append(crc, chunk, n);
		done += n;
	}
	return crc;
}

bool
object_seal(SealBuffer *b, SealHeader *h, const EpochKey *key, const char *name, DrError *err)
{
	uint8		context[SEAL_HEADER + PGDR_OBJECT_NAME_MAX + 64];
	size_t		context_n;
	uint8	   *salt = b->data + SEAL_HEADER;
	MessageKeys keys;
	bool		ok;

	memcpy(h->key_id, key->id, sizeof(h->key_id));
	if (h->codec == CODEC_NONE)
	{
		h->plain_length = b->length;
		h->plain_crc = content_crc(b);
	}
	header_encode(h, b->data);
	context_n = object_context(b->data, name, context);
	random_bytes(salt, SEAL_SALT);
	if (!derive(key->key, salt, context, context_n, &keys, err))
		return false;
	memcpy(salt + SEAL_SALT, keys.commitment, sizeof(keys.commitment));
	ok = seal_chunks(&keys, salt + SEAL_PREFIX, b->length, SEALED_CHUNK, salt + SEAL_PREFIX, err);
	OPENSSL_cleanse(&keys, sizeof(keys));
	b->size = SEAL_HEADER + sealed_size(b->length);
	return ok;
}

bool
object_open(uint8 *data, size_t size, const SealHeader *h, const EpochKey *key,
			const char *name, uint8 **content, size_t *content_n, DrError *err)
{
	uint8		context[SEAL_HEADER + PGDR_OBJECT_NAME_MAX + 64];
	size_t		context_n = object_context(data, name, context);
	uint8	   *place = data + SEAL_HEADER;
	char		what[PGDR_OBJECT_NAME_MAX + 16];

	snprintf(what, sizeof(what), "object \"%s\"", name);
	if (!open_in_place(key->key, context, context_n, place, size - SEAL_HEADER,
					   place, content_n, what, err))
		return false;
	*content = place;
	if (h->codec == CODEC_NONE &&
		(*content_n != h->plain_length || crc32c(place, *content_n) != h->plain_crc))
		return damaged(err, what, "Its content does not have the length or checksum that its header says.");
	return true;
}

size_t
object_last_chunk(size_t size)
{
	size_t		n = size > OBJECT_HEAD ? size - OBJECT_HEAD : 0;

	return n % SEALED_CHUNK < SEAL_TAG ? 0 : OBJECT_HEAD + n / SEALED_CHUNK * SEALED_CHUNK;
}

/* The message's keys, once its commitment is right. */
static bool
object_keys(const uint8 head[OBJECT_HEAD], const EpochKey *key, const char *name, MessageKeys *keys,
			const char *what, DrError *err)
{
	uint8		context[sizeof(CONTEXT_OBJECT) + SEAL_HEADER + PGDR_OBJECT_NAME_MAX];
	size_t		context_n = object_context(head, name, context);

	if (!derive(key->key, head + SEAL_HEADER, context, context_n, keys, err))
		return false;
	return CRYPTO_memcmp(keys->commitment, head + SEAL_HEADER + SEAL_SALT, sizeof(keys->commitment)) == 0 ||
		damaged(err, what, "It was not sealed with this key under this name, or its header is changed.");
}

bool
object_ends_open(const uint8 head[OBJECT_HEAD], uint8 *last, size_t size, const EpochKey *key,
				 const char *name, DrError *err)
{
	char		what[PGDR_OBJECT_NAME_MAX + 16];
	size_t		n = size - OBJECT_HEAD;
	MessageKeys keys;
	EVP_CIPHER_CTX *ctx = NULL;
	bool		ok;

	snprintf(what, sizeof(what), "object \"%s\"", name);
	if (!object_keys(head, key, name, &keys, what, err))
		ok = false;
	else if ((ctx = cipher_context(&keys, false)) == NULL)
		ok = dr_error(err, DR_INTERNAL, "decryption is not available");
	else
		ok = chunk_open(ctx, &keys, n / SEALED_CHUNK, last, n % SEALED_CHUNK - SEAL_TAG, last) ||
			damaged(err, what, "Its last chunk fails authentication: it is cut off, extended or changed.");
	EVP_CIPHER_CTX_free(ctx);
	OPENSSL_cleanse(&keys, sizeof(keys));
	return ok;
}

size_t
object_content_size(size_t size)
{
	size_t		n = size - OBJECT_HEAD;

	return n - SEAL_TAG * (n / SEALED_CHUNK + 1);
}

size_t
object_chunk_at(uint64 chunk)
{
	return OBJECT_HEAD + chunk * SEALED_CHUNK;
}

size_t
object_chunks_size(size_t size, uint64 first, uint64 n)
{
	return Min(object_chunk_at(first + n), size) - object_chunk_at(first);
}

bool
object_chunks_open(const uint8 head[OBJECT_HEAD], uint8 *chunks, size_t size, uint64 first, uint64 n,
				   const EpochKey *key, const char *name, size_t *plain_n, DrError *err)
{
	char		what[PGDR_OBJECT_NAME_MAX + 16];
	uint64		whole = (size - OBJECT_HEAD) / SEALED_CHUNK;
	MessageKeys keys;
	bool		ok;

	snprintf(what, sizeof(what), "object \"%s\"", name);
	if (object_last_chunk(size) == 0 || n == 0 || first > whole || n > whole + 1 - first)
		return damaged(err, what, "It does not have the chunks that are wanted of it.");
	ok = object_keys(head, key, name, &keys, what, err) &&
		open_chunks(&keys, first, whole, chunks, object_chunks_size(size, first, n), chunks, plain_n, what, err);
	OPENSSL_cleanse(&keys, sizeof(keys));
	return ok;
}
