/*
 * s3_probe.c
 *	  What only an S3 server can be asked, and Object Lock.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include <time.h>

#include "net/xml.h"
#include "store/s3_private.h"

#define DAY_S			(24 * 60 * 60)
#define SKEW_NOTABLE_S	60
#define SKEW_REFUSED_S	(15 * 60)	/* from there on servers refuse requests */

/* ---- Object Lock ---- */

void
s3_retain_until(const S3 *s3, char out[TIME_TEXT_MAX])
{
	time_t		t = time(NULL) + (time_t) s3->lock_days * DAY_S;
	struct tm	tm;

	strftime(out, TIME_TEXT_MAX, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &tm));
}

/* Seconds for which the object is still locked; 0: it is not. */
static bool
lock_left(Store *store, const char *name, int64 *seconds, char *mode, size_t mode_size, DrError *err)
{
	S3Call		call = {.verb = "read the lock of", .method = "GET", .name = name,
	.query = {{"retention", ""}}, .reply_max = HTTP_ERROR_BODY_MAX};
	HttpReply	reply = {0};
	char		text[64] = "";
	int64		until = 0;
	S3Result	r = s3_call(store, &call, &reply, err);

	*seconds = 0;
	mode[0] = '\0';
	if (r == S3_DONE &&
		xml_text(reply.body.data, reply.body.len, "/Retention/RetainUntilDate", text, sizeof(text)) &&
		xml_text(reply.body.data, reply.body.len, "/Retention/Mode", mode, mode_size) &&
		time_parse(text, &until))
		*seconds = Max(0, until / 1000000 - (int64) time(NULL));
	http_reply_free(&reply);
	return r != S3_FAILED;
}

static bool
set_lock(Store *store, const char *name, DrError *err)
{
	S3		   *s3 = s3_of(store);
	char		until[TIME_TEXT_MAX];
	char		body[256];
	char		md5[S3_MD5_SIZE];
	char		hex[33];
	S3Call		call = {.verb = "lock", .method = "PUT", .name = name, .query = {{"retention", ""}}};
	HttpReply	reply = {0};
	S3Result	r;

	s3_retain_until(s3, until);
	snprintf(body, sizeof(body), "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>%s</Mode>"
			 "<RetainUntilDate>%s</RetainUntilDate></Retention>", s3->lock_mode, until);
	s3_content_md5(body, strlen(body), md5, hex);
	call.body = body;
	call.body_length = strlen(body);
	call.headers[0] = (SignPair) {"content-md5", md5};
	call.headers[1] = (SignPair) {"content-type", "application/xml"};
	r = s3_call(store, &call, &reply, err);
	http_reply_free(&reply);
	if (r != S3_DONE && r != S3_FAILED)
		dr_error(err, DR_ABSENT, "object \"%s\" does not exist in repository \"%s\"", name, store->url);
	return r == S3_DONE;
}

bool
s3_extend_lock(Store *store, const char *name, DrError *err)
{
	S3		   *s3 = s3_of(store);
	char		mode[32];
	int64		left;

	if (s3->lock_mode == NULL)
		return true;
	return lock_left(store, name, &left, mode, sizeof(mode), err) &&
		(left >= (int64) s3->lock_days * DAY_S / 2 || set_lock(store, name, err));
}

/* ---- the probe ---- */

typedef struct Asking
{
	Store	   *store;
	StoreFindingFn fn;
	void	   *arg;
	ObjectName	name;			/* of a new object */
} Asking;

static void
say(Asking *a, const char *name, const char *status, const char *detail, const char *hint)
{
	a->fn(a->arg, name, status, detail, hint);
}

static void
probe_md5(Asking *a)
{
	static const char text[] = "pg_dr probe: with the MD5 of something else";
	char		md5[S3_MD5_SIZE];
	char		hex[33];
	const char *name = a->name;
	HttpReply	reply = {0};
	DrError		err;

	s3_content_md5("something else", 14, md5, hex);
	if (s3_put_call(a->store, a->name, text, strlen(text), NULL, md5, true, &reply, &err) == S3_DONE)
	{
		say(a, "content_md5", "warning", "the server ignores Content-MD5: what is damaged on the way there is noticed only when it is read",
			"Read back what you store: dr_verify.");
		s3_remove(a->store, &name, 1, &err);
	}
	else if (reply.status == 400 || reply.status == 422)
		say(a, "content_md5", "ok", "what is damaged on the way to the server is refused", "");
	else
		say(a, "content_md5", "warning", err.message, err.hint);
	http_reply_free(&reply);
}

/* A locked version must outlive an attempt to remove it. */
static void
probe_removal_of_version(Asking *a, const char *version)
{
	S3Call		call = {.verb = "remove", .method = "DELETE", .name = a->name,
	.query = {{"versionId", version}}, .once = true};
	HttpReply	reply = {0};
	DrError		err;

	if (s3_call(a->store, &call, &reply, &err) == S3_DONE)
		say(a, "object_lock", "critical", "a locked object can be removed",
			"Don't rely on Object Lock here. In governance mode, take s3:BypassGovernanceRetention away from these credentials.");
	else
		say(a, "object_lock", "ok", "objects are locked, and a locked one can't be removed", "");
	http_reply_free(&reply);
}

static void
probe_lock(Asking *a)
{
	static const char text[] = "pg_dr probe: locked";
	S3		   *s3 = s3_of(a->store);
	char		md5[S3_MD5_SIZE];
	char		hex[33];
	char		mode[32] = "";
	int64		left = 0;
	HttpReply	reply = {0};
	DrError		err;
	const char *version;

	s3_content_md5(text, strlen(text), md5, hex);
	if (s3_put_call(a->store, a->name, text, strlen(text), NULL, md5, false, &reply, &err) != S3_DONE ||
		!lock_left(a->store, a->name, &left, mode, sizeof(mode), &err))
		say(a, "object_lock", "critical", err.message, err.hint);
	else if (left < (int64) (s3->lock_days - 1) * DAY_S || strcmp(mode, s3->lock_mode) != 0)
		say(a, "object_lock", "critical", "the server took an object with a lock, and did not lock it",
			"Enable Object Lock on the bucket, which some servers can only do when they create it.");
	else if ((version = http_header(&reply, "x-amz-version-id")) == NULL)
		say(a, "object_lock", "critical", "the bucket has no versions, without which a lock protects nothing",
			"Enable versioning and Object Lock on the bucket.");
	else
		probe_removal_of_version(a, version);
	http_reply_free(&reply);
}

static void
probe_clock(Asking *a, const char *directory)
{
	ObjectName	name;
	S3Call		call = {.verb = "read", .method = "HEAD", .name = name};
	HttpReply	reply = {0};
	DrError		err;
	int64		skew;
	char		text[120];

	snprintf(name, sizeof(name), "%sfirst", directory);
	if (s3_call(a->store, &call, &reply, &err) != S3_DONE || http_reply_time(&reply) == 0)
		say(a, "clock", "warning", "the server does not say what time it is", "");
	else
	{
		skew = http_reply_time(&reply) - (int64) time(NULL);
		snprintf(text, sizeof(text), "the server's clock and this machine's are %d s apart", (int) Max(skew, -skew));
		if (Max(skew, -skew) < SKEW_NOTABLE_S)
			say(a, "clock", "ok", text, "");
		else
			say(a, "clock", "warning", text, Max(skew, -skew) < SKEW_REFUSED_S ? "Have both synchronised." :
				"Have both synchronised; requests are signed with the server's time meanwhile.");
	}
	http_reply_free(&reply);
}

void
s3_probe(Store *store, const char *directory, StoreFindingFn fn, void *arg)
{
	Asking		a = {.store = store, .fn = fn, .arg = arg};
	S3		   *s3 = s3_of(store);

	snprintf(a.name, sizeof(a.name), "%smd5", directory);
	probe_md5(&a);
	probe_clock(&a, directory);
	if (s3->lock_mode != NULL)
	{
		snprintf(a.name, sizeof(a.name), "%slocked", directory);
		probe_lock(&a);
	}
	if (!s3->tls && !s3_host_is_loopback(s3->host))
		say(&a, "tls", "warning", "the store is reached without TLS",
			"Objects are sealed; but whoever is between can see the names and drop or replay requests.");
}
