/*
 * http.h
 *	  The HTTP engine: requests from any thread, one thread that moves them.
 *
 * http_send blocks its caller; as many requests are in flight as threads call
 * it, over connections that are kept and used again.  It makes one attempt;
 * whoever knows what the reply means decides about another (http_pause).
 *
 * Invariants:
 *
 *	H1	Every request ends: there are limits for connecting, for standing
 *		still, and for the whole by its size; http_set_patience(0) ends all
 *		at once.
 *	H2	Nothing is followed by itself: a redirect is a reply.
 *	H3	A reply's body and headers are bounded by what the request allows.
 *	H4	Certificates are verified, always.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_HTTP_H
#define PGDR_HTTP_H

#include "core/bytes.h"
#include "core/error.h"

typedef struct Http Http;

typedef struct HttpOptions
{
	const char *ca_file;		/* certificates to trust; NULL: the system's */
	bool		proxy;			/* the one that the environment names, if any */
	int			connect_s;		/* limits, in seconds; 0: the usual ones */
	int			stall_s;
	int			patience_s;		/* how long to try again; see http_pause */
} HttpOptions;

#define HTTP_CONNECT_S		10
#define HTTP_STALL_S		30
#define HTTP_PATIENCE_S		300

typedef struct HttpRequest
{
	const char *method;			/* "GET", "HEAD", "PUT", "POST", "DELETE" */
	const char *url;			/* http:// or https:// */
	const char *const *headers; /* "name: value", NULL at the end; may be NULL */
	const void *body;			/* NULL: none, and no Content-Length either */
	size_t		body_length;
	size_t		reply_max;		/* a body of more bytes fails the request */
} HttpRequest;

#define HTTP_ERROR_BODY_MAX	(64 * 1024)
#define HTTP_HEADERS_MAX	(16 * 1024)

/*
 * Zero-initialised.  A caller may lend a buffer as body; the reply is appended
 * to what it holds.  http_reply_free frees both; take what you keep.
 */
typedef struct HttpReply
{
	int			status;			/* 200, 404, ... */
	Bytes		body;			/* for a status from 300: at most HTTP_ERROR_BODY_MAX */
	Bytes		headers;		/* for http_header */
} HttpReply;

typedef enum HttpResult
{
	HTTP_REPLIED,				/* the server answered, whatever it says */
	HTTP_BROKEN,				/* it may or may not have been done; try again */
	HTTP_REFUSED,				/* another try can't help: certificate, URL, reply too long */
	HTTP_STOPPED				/* patience is 0 */
} HttpResult;

/* NULL: err is set. */
extern Http *http_open(const HttpOptions *options, DrError *err);
extern void http_close(Http *http);

/* One attempt.  err is set for every result but HTTP_REPLIED. */
extern HttpResult http_send(Http *http, const HttpRequest *request, HttpReply *reply, DrError *err);
extern void http_reply_free(HttpReply *reply);

/* A header of the reply by its lower-case name, or NULL.  Valid as long as the reply. */
extern const char *http_header(const HttpReply *reply, const char *name);

/* Seconds since 1970 from a Date header; 0: there is none. */
extern int64 http_reply_time(const HttpReply *reply);

/* Is this status worth another try, whatever the request was?  408, 429, 500, 502 to 504 */
extern bool http_status_is_transient(int status);

/*
 * Zero-initialised: the attempts at one thing.  http_pause sleeps before the
 * next one: a random time below a limit that doubles (0.1 s to 10 s), not less
 * than a Retry-After in the reply (which may be NULL).  False: patience has run
 * out since the first failure, or there is none any more.
 */
typedef struct HttpAttempts
{
	int			failed;
	int64		first_failure;	/* microseconds, monotonic */
} HttpAttempts;

extern bool http_pause(Http *http, HttpAttempts *attempts, const HttpReply *reply);

/*
 * From any thread: how long to try again from now on; 0 ends running requests
 * and pauses, too.
 */
extern void http_set_patience(Http *http, int seconds);

/* Percent-encode all but A-Z a-z 0-9 - . _ ~ and, when asked, '/'.  Malloc'd. */
extern char *http_encode(const char *text, bool keep_slash);

#endif							/* PGDR_HTTP_H */
