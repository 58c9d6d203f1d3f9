/*
 * s3_private.h
 *	  What the parts of the S3 store share: s3_url.c (what the URL says),
 *	  s3_request.c (one signed request, until it has succeeded or is an error),
 *	  s3_error.c (what an answer means), s3.c (objects), s3_list.c (listing and
 *	  removing), s3_probe.c (what this server can do).
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_S3_PRIVATE_H
#define PGDR_S3_PRIVATE_H

#include <stdatomic.h>

#include "net/credentials.h"
#include "net/http.h"
#include "net/sigv4.h"
#include "store/store.h"

/* S3 takes no longer keys; the rest is for our names. */
#define S3_KEY_MAX		1024
#define S3_PREFIX_MAX	(S3_KEY_MAX - PGDR_OBJECT_NAME_MAX - 1)
#define S3_HOST_MAX		320

typedef struct S3
{
	char		bucket[64];
	char		prefix[S3_PREFIX_MAX + 1];	/* "" or "a/b/" */
	bool		tls;
	bool		plain_allowed;	/* http:// to another machine */
	char		host[S3_HOST_MAX];	/* as in the Host header; with the bucket unless path_style */
	bool		path_style;
	char		region[64];
	char	   *ca_file;		/* the rest may be NULL */
	char	   *profile;
	char	   *storage_class;
	char	   *sse;
	char	   *sse_kms_key_id;
	const char *lock_mode;		/* "GOVERNANCE", "COMPLIANCE" */
	int			lock_days;
	bool		check_first;	/* create_only=check */
	int			patience_s;		/* 0: the usual */
	int			stall_s;

	Http	   *http;
	CredentialChain *chain;
	atomic_int	skew_s;			/* server's clock minus ours, once it complained */
	atomic_bool etag_opaque;	/* an ETag was seen that is not the MD5 of what it names */
} S3;

static inline S3 *
s3_of(const Store *store)
{
	return store->private;
}

/* ---- s3_url.c ---- */

/* "bucket/prefix?endpoint=...": everything but http and chain. */
extern bool s3_parse_url(S3 *s3, const char *url, const char *rest, DrError *err);
extern void s3_free_url(S3 *s3);

/* May this host be spoken to without TLS? */
extern bool s3_host_is_loopback(const char *host);

/* ---- s3_request.c ---- */

/*
 * One request.  What the reply says is judged: the codes of S3, an error in a
 * 200, and what may be tried again has been until patience ran out.
 */
typedef struct S3Call
{
	const char *verb;			/* for messages: could not VERB object ... */
	const char *method;
	const char *name;			/* object; NULL: the bucket */
	SignPair	query[8];		/* a NULL name ends it */
	SignPair	headers[10];
	const void *body;
	size_t		body_length;
	const uint8 *sha256;		/* of the body; NULL: it is made here */
	size_t		reply_max;		/* of a GET */
	bool		wants_object;	/* the reply's body is an object's: not ours to read */
	bool		once;			/* whatever the answer: it is what we want to know */
} S3Call;

typedef enum S3Result
{
	S3_DONE,
	S3_ABSENT,					/* the object, not the bucket */
	S3_TAKEN,					/* a condition did not hold */
	S3_BAD_RANGE,				/* the object is shorter */
	S3_FAILED					/* err is set; in the other cases it is not */
} S3Result;

/*
 * reply is zero-initialised, or lends a buffer to which the body is appended.
 */
extern S3Result s3_call(Store *store, const S3Call *call, HttpReply *reply, DrError *err);

/* base64 of the MD5: Content-MD5.  out has 25 bytes. */
#define S3_MD5_SIZE 25
extern void s3_content_md5(const void *data, size_t n, char out[S3_MD5_SIZE], char hex[33]);

/* ---- s3.c ---- */

/* The PUT of an object with all that the URL asks for; without looking at the outcome. */
extern S3Result s3_put_call(Store *store, const char *name, const void *data, size_t n,
							const uint8 *sha256, const char *md5, bool once, HttpReply *reply,
							DrError *err);

/* ---- s3_error.c ---- */

typedef enum S3Verdict
{
	VERDICT_DONE,
	VERDICT_ABSENT,
	VERDICT_TAKEN,
	VERDICT_BAD_RANGE,
	VERDICT_RETRY,
	VERDICT_CREDENTIALS,		/* get others, once */
	VERDICT_CLOCK,				/* take the server's time, once */
	VERDICT_REDIRECT,
	VERDICT_FAILED
} S3Verdict;

/* What a server said, taken apart; texts are printable and short. */
typedef struct S3Answer
{
	int			status;
	char		code[64];		/* "" when the body has none */
	char		message[256];
	char		region[64];		/* where the bucket is, if the server says so */
	char		request_id[80];
	int			tries;			/* failed attempts, when it is the last one's answer */
} S3Answer;

extern S3Verdict s3_judge(const S3Call *call, const HttpReply *reply, size_t body_start,
						  S3Answer *answer);

/* Always returns S3_FAILED. */
extern S3Result s3_error(Store *store, const S3Call *call, const S3Answer *answer, DrError *err);

/* "could not VERB object ... in repository ...: " and a reason; keeps err's hint.  S3_FAILED. */
extern S3Result s3_fail(Store *store, const S3Call *call, DrCode code, const char *reason,
						DrError *err);

/* ---- s3_list.c ---- */

extern bool s3_list(Store *store, const char *prefix, const char *after, bool deep, StoreListFn fn, void *arg,
					DrError *err);
extern bool s3_remove(Store *store, const char *const *names, size_t n, DrError *err);

/* ---- s3_probe.c ---- */

extern void s3_probe(Store *store, const char *directory, StoreFindingFn fn, void *arg);
extern bool s3_extend_lock(Store *store, const char *name, DrError *err);

/* "2026-01-31T12:00:00Z", days from now. */
extern void s3_retain_until(const S3 *s3, char out[TIME_TEXT_MAX]);


#endif							/* PGDR_S3_PRIVATE_H */
