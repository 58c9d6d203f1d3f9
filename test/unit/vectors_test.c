/*
 * vectors_test.c
 *	  Every line of test/vectors/vectors.tsv: what is good opens to the same
 *	  bytes, and what is damaged does not open.
 */
#include "unit.h"

#include <openssl/evp.h>

#include "core/codec.h"
#include "core/keyring.h"
#include "core/manifest.h"

#define VECTORS "../vectors/"

/* S1 to S3: the published sums of C2SP chunked encryption. */
static void
test_published_sums(void **state)
{
	static const struct
	{
		size_t		n;
		const char *sum;
	}			cases[] = {
		{0, "6944dde5bb3b3a93eff60a7b21f1adff59a137567674d7247915e986d09ce20f"},
		{1, "6b8d446f75c692bf013bdb112b338af5151ff80099de84f900a2248066c83e54"},
		{16383, "84eefb8c3b4a17987139eb662def556b7c11c69ae6133072e80d25067354a19e"},
		{16384, "e4e421955d4810cbb74a53c7cf338b0f0be7f3cfb2df320e6f7a626bb6884200"},
		{16385, "8d69419c789f324abb06bbdeda9edf8722a111a00bc6261bde6a1f34c31a03cd"},
		{40000, "577419d5c0104a0b27a3af367c0446892bfa316c3ea8ca4e95e3ab0ef5897638"},
	};
	uint8		key[32];
	uint8		salt[24];
	DrError		err;

	for (int i = 0; i < 32; i++)
		key[i] = (uint8) i;
	memcpy(salt, key, sizeof(salt));
	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		uint8	   *plain = malloc(cases[i].n + 1);
		uint8	   *out = malloc(sealed_size(cases[i].n));
		uint8		sum[32];
		char		hex[65];

		memset(plain, 0xa5, cases[i].n);
		assert_ok(message_seal(key, salt, "pg_dr/1 test", 12, plain, cases[i].n, out, &err), err);
		sha256(out, sealed_size(cases[i].n), sum);
		hex_encode(sum, 32, hex);
		assert_string_equal(hex, cases[i].sum);
		free(plain);
		free(out);
	}
}

static void
sum_of(const uint8 *data, size_t n, char out[65])
{
	uint8		sum[32];

	sha256(data, n, sum);
	hex_encode(sum, 32, out);
}

static bool
open_keyring(const char *name, const char *key, const uint8 *repo, uint8 *data, size_t n,
			 char out[65], DrError *err)
{
	Recipient	r = {.none = strcmp(key, "none") == 0};
	static Keyring k;
	Bytes		epochs = {0};

	if (!r.none)
	{
		uint8		labelled[64] = "pg_dr/1 recipient";
		uint8		sum[32];

		assert_true(hex_decode(key, r.key, 32));
		memcpy(labelled + 17, r.key, 32);
		sha256(labelled, 49, sum);
		memcpy(r.id, sum, 8);
	}
	if (!keyring_open(data, n, name, repo, &r, &k, err))
		return false;
	for (int i = 0; i < k.n; i++)
	{
		bytes_append(&epochs, k.epochs[i].id, 8);
		bytes_append(&epochs, k.epochs[i].key, 32);
	}
	sum_of(epochs.data, epochs.len, out);
	bytes_free(&epochs);
	return true;
}

static bool
read_manifest(const uint8 *content, size_t n, const SealHeader *h, const char *name, DrError *err)
{
	BackupInfo	info;
	Record		record;
	ManifestReader *r = manifest_reader_new(content, n, h->plain_length, h->plain_crc, name, &info, err);
	bool		ok = r != NULL;

	while (ok && (ok = manifest_next(r, &record, err)) && record.type != RECORD_END)
		;
	manifest_reader_free(r);
	backup_info_free(&info);
	return ok;
}

static bool
open_object(const char *name, const char *key, const uint8 *repo, uint8 *data, size_t n,
			char out[65], DrError *err)
{
	SealHeader	h;
	EpochKey	e = {0};
	uint8	   *content;
	size_t		content_n;
	uint8	   *plain;
	Codec		codec;
	bool		ok;

	assert_true(hex_decode(key, e.key, 32));
	if (!object_header(data, n, repo, name, &h, err) ||
		!object_open(data, n, &h, &e, name, &content, &content_n, err))
		return false;
	if (h.kind == KIND_MANIFEST && !read_manifest(content, content_n, &h, name, err))
		return false;
	if (h.codec == CODEC_NONE)
	{
		sum_of(content, content_n, out);
		return true;
	}
	if (h.plain_length > 64 * 1024 * 1024)
		return dr_error(err, DR_DAMAGED, "too long");
	plain = malloc(h.plain_length + 1);
	codec_init(&codec, 1);
	ok = codec_decompress(&codec, content, content_n, plain, h.plain_length, h.plain_crc, err);
	codec_free(&codec);
	if (ok)
		sum_of(plain, h.plain_length, out);
	free(plain);
	return ok;
}

static uint8 *
read_file(const char *file, size_t *n)
{
	char		path[512];
	FILE	   *f;
	uint8	   *data;

	snprintf(path, sizeof(path), VECTORS "%s", file);
	f = fopen(path, "rb");
	assert_non_null(f);
	fseek(f, 0, SEEK_END);
	*n = ftell(f);
	rewind(f);
	data = malloc(*n + 1);
	assert_int_equal(fread(data, 1, *n, f), *n);
	fclose(f);
	return data;
}

static void
test_vectors(void **state)
{
	char		line[4096];
	FILE	   *f = fopen(VECTORS "vectors.tsv", "r");
	int			n_good = 0;
	int			n_damaged = 0;

	assert_non_null(f);
	assert_non_null(fgets(line, sizeof(line), f));	/* headings */
	while (fgets(line, sizeof(line), f))
	{
		char	   *p = line;
		char	   *file;
		char	   *name;
		char	   *key;
		char	   *repo_hex;
		uint8		repo[16];
		char		sum[65] = "";
		DrError		err = {0};
		size_t		n;
		uint8	   *data;
		bool		ok;

		line[strcspn(line, "\n")] = '\0';
		file = strsep(&p, "\t");
		name = strsep(&p, "\t");
		key = strsep(&p, "\t");
		repo_hex = strsep(&p, "\t");
		assert_non_null(p);
		assert_true(hex_decode(repo_hex, repo, 16));
		data = read_file(file, &n);
		ok = strncmp(name, "keys/", 5) == 0 ? open_keyring(name, key, repo, data, n, sum, &err) :
			open_object(name, key, repo, data, n, sum, &err);
		free(data);
		if (ok != (strncmp(p, "ok ", 3) == 0) || (ok && strcmp(sum, p + 3) != 0))
			fail_msg("%s: expected %s, got %s", file, p, ok ? sum : err.message);
		*(ok ? &n_good : &n_damaged) += 1;
	}
	fclose(f);
	assert_true(n_good > 20 && n_damaged > 40);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_published_sums),
		cmocka_unit_test(test_vectors),
	};

	return cmocka_run_group_tests_name("vectors", tests, NULL, NULL);
}
