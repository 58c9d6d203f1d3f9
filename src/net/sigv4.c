/*
 * sigv4.c
 *	  AWS Signature Version 4.
 *
 * Written by hand because libcurl's own, as of 7.88, signs PUT requests and
 * unsorted queries wrongly.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "net/sigv4.h"

#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <time.h>

#include "net/http.h"

void
sign_time(char *out, int64 unix_time)
{
	time_t		t = (time_t) unix_time;
	struct tm	tm;

	strftime(out, SIGN_TIME_SIZE, "%Y%m%dT%H%M%SZ", gmtime_r(&t, &tm));
}

static int
compare_pairs(const void *a, const void *b)
{
	const SignPair *x = a;
	const SignPair *y = b;
	int			c = strcmp(x->name, y->name);

	return c != 0 ? c : strcmp(x->value, y->value);
}

static void
append(Bytes *b, const char *text)
{
	bytes_append(b, text, strlen(text));
}

/* The buffer as a string, which the caller frees. */
static char *
text_of(Bytes *b)
{
	bytes_append(b, "", 1);
	return (char *) b->data;
}

char *
sign_query(const SignPair *query, int n)
{
	SignPair	encoded[SIGN_PAIRS_MAX];
	Bytes		out = {0};

	Assert(n <= SIGN_PAIRS_MAX);
	for (int i = 0; i < n; i++)
		encoded[i] = (SignPair) {http_encode(query[i].name, false), http_encode(query[i].value, false)};
	if (n > 1)
		qsort(encoded, n, sizeof(SignPair), compare_pairs);
	for (int i = 0; i < n; i++)
	{
		append(&out, i > 0 ? "&" : "");
		append(&out, encoded[i].name);
		append(&out, "=");
		append(&out, encoded[i].value);
		free(unconstify(char *, encoded[i].name));
		free(unconstify(char *, encoded[i].value));
	}
	return text_of(&out);
}

/* A header's value without blanks at its ends, and one for several within. */
static void
append_trimmed(Bytes *b, const char *value)
{
	bool		blank = false;
	size_t		start = b->len;

	for (; *value != '\0'; value++)
	{
		if (*value == ' ' || *value == '\t')
		{
			blank = true;
			continue;
		}
		if (blank && b->len > start)
			append(b, " ");
		blank = false;
		bytes_append(b, value, 1);
	}
}

static void
sort_headers(const SignRequest *r, SignPair *sorted)
{
	Assert(r->n_headers <= SIGN_PAIRS_MAX);
	memcpy(sorted, r->headers, sizeof(SignPair) * r->n_headers);
	qsort(sorted, r->n_headers, sizeof(SignPair), compare_pairs);
}

static void
append_names(Bytes *b, const SignPair *sorted, int n)
{
	for (int i = 0; i < n; i++)
	{
		append(b, i > 0 ? ";" : "");
		append(b, sorted[i].name);
	}
}

/* The text that is hashed.  Malloc'd. */
static char *
sign_canonical(const SignRequest *r)
{
	SignPair	sorted[SIGN_PAIRS_MAX];
	Bytes		b = {0};
	char	   *path = http_encode(r->path, true);
	char	   *query = sign_query(r->query, r->n_query);

	sort_headers(r, sorted);
	append(&b, r->method);
	append(&b, "\n");
	append(&b, path);
	append(&b, "\n");
	append(&b, query);
	append(&b, "\n");
	for (int i = 0; i < r->n_headers; i++)
	{
		append(&b, sorted[i].name);
		append(&b, ":");
		append_trimmed(&b, sorted[i].value);
		append(&b, "\n");
	}
	append(&b, "\n");
	append_names(&b, sorted, r->n_headers);
	append(&b, "\n");
	append(&b, r->payload_hash);
	free(path);
	free(query);
	return text_of(&b);
}

static void
hmac(const void *key, size_t key_length, const char *text, uint8 out[32])
{
	unsigned int n = 32;

	HMAC(EVP_sha256(), key, (int) key_length, (const unsigned char *) text, strlen(text), out, &n);
}

static void
signing_key(const SignRequest *r, const char *date, uint8 key[32])
{
	char	   *first = psprintf("AWS4%s", r->secret_key);

	hmac(first, strlen(first), date, key);
	hmac(key, 32, r->region, key);
	hmac(key, 32, r->service, key);
	hmac(key, 32, "aws4_request", key);
	OPENSSL_cleanse(first, strlen(first));
	pfree(first);
}

char *
sign_authorization(const SignRequest *r)
{
	SignPair	sorted[SIGN_PAIRS_MAX];
	Bytes		out = {0};
	char		date[9];
	char		hex[65];
	uint8		hash[32];
	uint8		key[32];
	char	   *canonical = sign_canonical(r);
	char	   *scope;
	char	   *to_sign;

	strlcpy(date, r->time, sizeof(date));
	sha256(canonical, strlen(canonical), hash);
	hex_encode(hash, 32, hex);
	scope = psprintf("%s/%s/%s/aws4_request", date, r->region, r->service);
	to_sign = psprintf("AWS4-HMAC-SHA256\n%s\n%s\n%s", r->time, scope, hex);
	signing_key(r, date, key);
	hmac(key, sizeof(key), to_sign, hash);
	hex_encode(hash, 32, hex);
	OPENSSL_cleanse(key, sizeof(key));

	append(&out, "AWS4-HMAC-SHA256 Credential=");
	append(&out, r->access_key);
	append(&out, "/");
	append(&out, scope);
	append(&out, ", SignedHeaders=");
	sort_headers(r, sorted);
	append_names(&out, sorted, r->n_headers);
	append(&out, ", Signature=");
	append(&out, hex);
	free(canonical);
	pfree(scope);
	pfree(to_sign);
	return text_of(&out);
}
