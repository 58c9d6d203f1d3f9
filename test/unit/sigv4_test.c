/*
 * sigv4_test.c
 *	  Signatures against AWS's published vectors: the examples of the S3 API's
 *	  documentation, and AWS's own test suite for Signature Version 4.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "unit.h"

#include "net/sigv4.h"

#define EMPTY	"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define WELCOME "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"
#define BUCKET	{"host", "examplebucket.s3.amazonaws.com"}
#define S3_TIME {"x-amz-date", "20130524T000000Z"}
#define SUITE	{"host", "example.amazonaws.com"}, {"x-amz-date", "20150830T123600Z"}

typedef struct Vector
{
	const char *method;
	const char *path;
	SignPair	query[8];
	SignPair	headers[8];
	const char *payload_hash;
	const char *signature;
} Vector;

static const Vector s3_vectors[] = {
	{"GET", "/test.txt", {{0}}, {BUCKET, {"range", "bytes=0-9"}, {"x-amz-content-sha256", EMPTY}, S3_TIME},
	EMPTY, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
	{"PUT", "/test$file.text", {{0}}, {{"date", "Fri, 24 May 2013 00:00:00 GMT"}, BUCKET,
	{"x-amz-content-sha256", WELCOME}, S3_TIME, {"x-amz-storage-class", "REDUCED_REDUNDANCY"}},
	WELCOME, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"},
	{"GET", "/", {{"lifecycle", ""}}, {BUCKET, {"x-amz-content-sha256", EMPTY}, S3_TIME},
	EMPTY, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
	{"GET", "/", {{"prefix", "J"}, {"max-keys", "2"}}, {BUCKET, {"x-amz-content-sha256", EMPTY}, S3_TIME},
	EMPTY, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
};

static const Vector suite_vectors[] = {
	{"GET", "/", {{0}}, {SUITE},
	EMPTY, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
	{"GET", "/", {{"Param2", "value2"}, {"Param1", "value1"}}, {SUITE},
	EMPTY, "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
	{"POST", "/", {{0}}, {SUITE},
	EMPTY, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
	{"GET", "/", {{0}}, {SUITE, {"my-header1", " value1"}, {"my-header2", " \"a   b   c\""}},
	EMPTY, "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
	{"GET", "/\341\210\264", {{0}}, {SUITE},
	EMPTY, "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"},
};

static void
check(const Vector *v, const char *secret, const char *key, const char *service, const char *time)
{
	SignRequest r = {
		.method = v->method, .path = v->path, .query = v->query, .headers = v->headers,
		.payload_hash = v->payload_hash, .access_key = key, .secret_key = secret,
		.region = "us-east-1", .service = service, .time = time,
	};
	char	   *authorization;

	while (r.n_query < 8 && v->query[r.n_query].name != NULL)
		r.n_query++;
	while (r.n_headers < 8 && v->headers[r.n_headers].name != NULL)
		r.n_headers++;
	authorization = sign_authorization(&r);
	assert_string_equal(strstr(authorization, "Signature=") + 10, v->signature);
	free(authorization);
}

static void
test_vectors(void **state)
{
	for (int i = 0; i < (int) lengthof(s3_vectors); i++)
		check(&s3_vectors[i], "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "AKIAIOSFODNN7EXAMPLE",
			  "s3", "20130524T000000Z");
	for (int i = 0; i < (int) lengthof(suite_vectors); i++)
		check(&suite_vectors[i], "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "AKIDEXAMPLE",
			  "service", "20150830T123600Z");
}

static void
test_query(void **state)
{
	SignPair	query[] = {{"prefix", "a b/\303\244"}, {"list-type", "2"}, {"delimiter", "/"}, {"a", ""}};
	char	   *text = sign_query(query, lengthof(query));

	assert_string_equal(text, "a=&delimiter=%2F&list-type=2&prefix=a%20b%2F%C3%A4");
	free(text);
}

static void
test_time(void **state)
{
	char		text[SIGN_TIME_SIZE];

	sign_time(text, 1369353600);
	assert_string_equal(text, "20130524T000000Z");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vectors),
		cmocka_unit_test(test_query),
		cmocka_unit_test(test_time),
	};

	return cmocka_run_group_tests_name("sigv4", tests, NULL, NULL);
}
