/*
 * net_test.c
 *	  What comes from outside: XML, URLs, command lines, files of credentials.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "unit.h"

#include "net/credentials_private.h"
#include "net/xml.h"
#include "store/s3_private.h"

static void
test_xml(void **state)
{
	static const struct
	{
		const char *text;
		const char *code;		/* NULL: none, or no document */
	}			cases[] = {
		{"<Error><Code>NoSuchKey</Code></Error>", "NoSuchKey"},
		{"<?xml version=\"1.0\"?><s:Error xmlns:s=\"u\"><s:Code>A&amp;B</s:Code></s:Error>", "A&B"},
		{"<Error><Other><Code>x</Code></Other></Error>", NULL},
		{"<!DOCTYPE x [<!ENTITY e \"y\">]><Error><Code>&e;</Code></Error>", NULL},
		{"<html>", NULL},
		{"", NULL},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		char		code[64] = "";
		bool		found = xml_text(cases[i].text, strlen(cases[i].text), "/Error/Code", code, sizeof(code));

		assert_int_equal(found, cases[i].code != NULL);
		if (found)
			assert_string_equal(code, cases[i].code);
	}
}

static bool
count(void *arg, const char *path, const char *text)
{
	(*(int *) arg)++;
	return true;
}

/* Depth and texts are bounded. */
static void
test_xml_bounds(void **state)
{
	Bytes		deep = {0};
	Bytes		longer = {0};
	const char *why;
	int			n = 0;

	for (int i = 0; i < 1000; i++)
		bytes_append(&deep, "<aaa>", 5);
	assert_false(xml_scan(deep.data, deep.len, count, &n, &why));
	assert_non_null(strstr(why, "deep"));
	bytes_append(&longer, "<a>", 3);
	for (int i = 0; i < XML_TEXT_MAX; i++)
		bytes_append(&longer, "x", 1);
	bytes_append(&longer, "</a>", 4);
	assert_false(xml_scan(longer.data, longer.len, count, &n, &why));
	assert_non_null(strstr(why, "long"));
	bytes_free(&deep);
	bytes_free(&longer);
}

static void
test_urls(void **state)
{
	static const struct
	{
		const char *rest;
		const char *host;		/* NULL: refused */
		const char *prefix;
		bool		path_style;
	}			cases[] = {
		{"bucket", "bucket.s3.us-east-1.amazonaws.com", "", false},
		{"bucket/", "bucket.s3.us-east-1.amazonaws.com", "", false},
		{"bucket/a/b?region=eu-central-1", "bucket.s3.eu-central-1.amazonaws.com", "a/b/", false},
		{"bucket/a?region=cn-north-1", "bucket.s3.cn-north-1.amazonaws.com.cn", "a/", false},
		{"dotted.bucket/a", "s3.us-east-1.amazonaws.com", "a/", true},
		{"bucket/a?endpoint=https://store:9000", "store:9000", "a/", true},
		{"bucket/a?endpoint=https://store:9000/", "store:9000", "a/", true},
		{"bucket/a?endpoint=store&addressing=virtual", "bucket.store", "a/", false},
		{"bucket/a?endpoint=http://127.0.0.1:80", "127.0.0.1:80", "a/", true},
		{"bucket/a?endpoint=http://[::1]:80", "[::1]:80", "a/", true},
		{"bucket/a?endpoint=http://store&plain_http=yes", "store", "a/", true},
		{"bucket/a?endpoint=http://store", NULL, NULL, false},
		{"bucket/a?endpoint=http://127.0.0.1.evil.example", NULL, NULL, false},
		{"bucket/a?endpoint=http://localhost.evil.example", NULL, NULL, false},
		{"bucket/a?endpoint=https://a%20b", NULL, NULL, false},
		{"bucket/%2e%2e/a", NULL, NULL, false},
		{"bucket/a%00", NULL, NULL, false},
		{"bucket/a?region", NULL, NULL, false},
		{"bucket/a?lock=compliance&lock_days=0", NULL, NULL, false},
		{"", NULL, NULL, false},
	};

	unsetenv("AWS_REGION");
	unsetenv("AWS_DEFAULT_REGION");
	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		S3			s3 = {0};
		DrError		err;
		bool		ok = s3_parse_url(&s3, "s3://x", cases[i].rest, &err);

		if (ok != (cases[i].host != NULL))
			fail_msg("\"%s\"", cases[i].rest);
		if (ok)
		{
			assert_string_equal(s3.host, cases[i].host);
			assert_string_equal(s3.prefix, cases[i].prefix);
			assert_int_equal(s3.path_style, cases[i].path_style);
		}
		s3_free_url(&s3);
	}
}

static void
test_command_lines(void **state)
{
	char	  **words = process_split("  /bin/a  'b c'\t\"d \\\"e\" f\\ g ''");

	assert_non_null(words);
	assert_string_equal(words[0], "/bin/a");
	assert_string_equal(words[1], "b c");
	assert_string_equal(words[2], "d \"e");
	assert_string_equal(words[3], "f g");
	assert_string_equal(words[4], "");
	assert_null(words[5]);
	free(words);
	assert_null(process_split("a 'b"));
	assert_null(process_split("  "));
	assert_null(process_split(""));
}

static void
test_profiles(void **state)
{
	char		text[] = "# x\n[a]\naws_access_key_id=1\n  aws_secret_access_key = nested\n[b]\r\n aws_access_key_id = no\n"
		"aws_access_key_id = 2\r\naws_secret_access_key=a=b\n[broken\naws_session_token=3\n";
	Profile		p = {0};

	profile_parse(text, "b", false, &p);
	assert_true(p.found);
	assert_string_equal(p.access_key, "2");
	assert_string_equal(p.secret_key, "a=b");
	profile_free(&p);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_xml),
		cmocka_unit_test(test_xml_bounds),
		cmocka_unit_test(test_urls),
		cmocka_unit_test(test_command_lines),
		cmocka_unit_test(test_profiles),
	};

	return cmocka_run_group_tests_name("net", tests, NULL, NULL);
}
