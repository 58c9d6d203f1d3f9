/*
 * seal_test.c
 *	  Objects in part: every run of chunks, every damage (S2, S3, R4).
 */
#include "unit.h"

#include "core/bytes.h"
#include "core/seal.h"

#define NAME	"7/backup/20260131T120000Z-full-0a1b2c/pack-00000001"
#define OTHER	"7/backup/20260131T120000Z-full-0a1b2c/pack-00000002"
#define SEALED	(SEAL_CHUNK + SEAL_TAG)

static EpochKey key;
static uint8 *plain;
static SealBuffer sealed;
static size_t length;

/* An object of n bytes of content. */
static void
make_object(size_t n)
{
	SealHeader	h = {.kind = KIND_PACK,.codec = CODEC_NONE};
	DrError		err;

	length = n;
	random_bytes(key.key, sizeof(key.key));
	plain = malloc(n + 1);
	random_bytes(plain, n + 1);
	seal_buffer_init(&sealed, n);
	seal_buffer_append(&sealed, plain, n);
	assert_ok(object_seal(&sealed, &h, &key, NAME, &err), err);
}

static void
free_object(void)
{
	free(plain);
	seal_buffer_free(&sealed);
}

/* Chunks of the object, as if it had this size, in a buffer of exactly their length. */
static bool
open_as(size_t size, const uint8 *head, const uint8 *chunks, uint64 first, uint64 n, const char *name,
		uint8 **out, size_t *out_n, DrError *err)
{
	size_t		bytes = object_chunks_size(size, first, n);

	*out = malloc(bytes);
	memcpy(*out, chunks, bytes);
	if (object_chunks_open(head, *out, size, first, n, &key, name, out_n, err))
		return true;
	free(*out);
	return false;
}

static bool
opens(const uint8 *object, uint64 first, uint64 n, const char *name)
{
	uint8	   *out;
	size_t		out_n;
	DrError		err;

	if (!open_as(sealed.size, object, object + object_chunk_at(first), first, n, name, &out, &out_n, &err))
	{
		assert_int_equal(err.code, DR_DAMAGED);
		assert_non_null(strstr(err.message, name));
		return false;
	}
	assert_int_equal(out_n, Min((first + n) * SEAL_CHUNK, length) - first * SEAL_CHUNK);
	assert_memory_equal(out, plain + first * SEAL_CHUNK, out_n);
	free(out);
	return true;
}

static void
test_ranges(void **state)
{
	static const size_t sizes[] = {0, 1, SEAL_CHUNK - 1, SEAL_CHUNK, SEAL_CHUNK + 1, 3 * SEAL_CHUNK, 5 * SEAL_CHUNK + 100};

	for (int i = 0; i < (int) lengthof(sizes); i++)
	{
		uint64		chunks = sizes[i] / SEAL_CHUNK + 1;

		make_object(sizes[i]);
		assert_int_equal(object_content_size(sealed.size), sizes[i]);
		assert_int_equal(object_chunk_at(chunks - 1), object_last_chunk(sealed.size));
		for (uint64 first = 0; first < chunks; first++)
			for (uint64 n = 1; n <= chunks - first; n++)
				assert_true(opens(sealed.data, first, n, NAME));
		free_object();
	}
}

static void
test_damage(void **state)
{
	uint64		chunks = 4;
	uint8	   *copy;

	make_object(3 * SEAL_CHUNK + 1000);
	copy = malloc(sealed.size);
	for (size_t at = 0; at < sealed.size; at += at < OBJECT_HEAD ? 1 : 1 + SEAL_TAG / 2)
	{
		memcpy(copy, sealed.data, sealed.size);
		copy[at] ^= 0x10;
		for (uint64 first = 0; first < chunks; first++)
		{
			uint64		chunk = at < OBJECT_HEAD ? first : (at - OBJECT_HEAD) / SEALED;

			/* In the head it spoils every chunk, in a chunk that one. */
			if (opens(copy, first, 1, NAME) != (chunk != first))
				fail_msg("byte %zu, chunk %d", at, (int) first);
		}
		assert_false(opens(copy, 0, chunks, NAME));
	}
	free(copy);
	for (uint64 first = 0; first < chunks; first++)
		assert_false(opens(sealed.data, first, 1, OTHER));
	key.key[0] ^= 1;
	assert_false(opens(sealed.data, 1, 1, NAME));
	free_object();
}

/* A chunk in another's place; an end where none is; chunks that are not there. */
static void
test_places(void **state)
{
	uint8	   *out;
	size_t		out_n;
	DrError		err;
	uint8	   *object;

	make_object(3 * SEAL_CHUNK + 1000);
	object = sealed.data;
	for (uint64 from = 0; from < 3; from++)
		for (uint64 to = 0; to < 3; to++)
		{
			bool		ok = open_as(sealed.size, object, object + object_chunk_at(from), to, 1, NAME, &out, &out_n, &err);

			assert_int_equal(ok, from == to);
			if (ok)
				free(out);
		}
	/* The object as if it ended within, or at the end of, a full chunk. */
	for (size_t size = object_chunk_at(1) + 1; size < object_chunk_at(2); size += 97)
		assert_false(open_as(size, object, object + object_chunk_at(1), 1, 1, NAME, &out, &out_n, &err));
	assert_false(open_as(object_chunk_at(2), object, object + object_chunk_at(1), 1, 1, NAME, &out, &out_n, &err));
	/* Chunks before that still are what they are. */
	assert_true(open_as(object_chunk_at(2) + 500, object, object + object_chunk_at(1), 1, 1, NAME, &out, &out_n, &err));
	free(out);
	/* The last one as if it were longer or shorter. */
	assert_false(open_as(sealed.size - 1, object, object + object_chunk_at(3), 3, 1, NAME, &out, &out_n, &err));
	out = calloc(1, sealed.size);
	assert_false(object_chunks_open(object, out, sealed.size, 0, 0, &key, NAME, &out_n, &err));
	assert_false(object_chunks_open(object, out, sealed.size, 4, 1, &key, NAME, &out_n, &err));
	assert_false(object_chunks_open(object, out, sealed.size, 2, 3, &key, NAME, &out_n, &err));
	assert_false(object_chunks_open(object, out, sealed.size, 1, PG_UINT64_MAX, &key, NAME, &out_n, &err));
	assert_false(object_chunks_open(object, out, 50, 0, 1, &key, NAME, &out_n, &err));
	free(out);
	free_object();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_places),
	};

	return cmocka_run_group_tests_name("seal", tests, NULL, NULL);
}
