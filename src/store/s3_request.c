/*
 * s3_request.c
 *	  One S3 request: sign, send, judge, and again.
 *
 * Every attempt is signed anew, with the credentials and the time that count
 * then.  Attempts end when patience does.  What may be done about an answer but
 * once (other credentials, the server's clock) is done once.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include <openssl/evp.h>
#include <time.h>

#include "store/s3_private.h"

#define REDIRECTS_MAX	2
#define HEADER_MAX		24

/* A request on its way through its attempts. */
typedef struct Attempt
{
	Store	   *store;
	const S3Call *call;
	char		hash[65];
	char		host[S3_HOST_MAX];	/* a redirect changes it, and path_style */
	bool		path_style;
	bool		tls;
	HttpAttempts tries;
	uint64		serial;			/* of the credentials used last */
	bool		credentials_renewed;
	bool		clock_corrected;
	int			redirects;
} Attempt;

void
s3_content_md5(const void *data, size_t n, char out[S3_MD5_SIZE], char hex[33])
{
	uint8		md5[16];

	EVP_Digest(data, n, md5, NULL, EVP_md5(), NULL);
	EVP_EncodeBlock((unsigned char *) out, md5, sizeof(md5));
	hex_encode(md5, sizeof(md5), hex);
}

static char *
path_of(const Attempt *a)
{
	const S3   *s3 = s3_of(a->store);

	return psprintf("/%s%s%s%s", a->path_style ? s3->bucket : "", a->path_style && a->call->name ? "/" : "",
					a->call->name ? s3->prefix : "", a->call->name ? a->call->name : "");
}

static int
count_pairs(const SignPair *pairs, int most)
{
	int			n = 0;

	while (n < most && pairs[n].name != NULL)
		n++;
	return n;
}

/* The headers of an attempt, as pairs to sign; returns how many. */
static int
collect_headers(const Attempt *a, const Credentials *c, const char *time, SignPair *out)
{
	int			n = count_pairs(a->call->headers, lengthof(a->call->headers));

	memcpy(out, a->call->headers, sizeof(SignPair) * n);
	out[n++] = (SignPair) {"host", a->host};
	out[n++] = (SignPair) {"x-amz-content-sha256", a->hash};
	out[n++] = (SignPair) {"x-amz-date", time};
	if (c->session_token != NULL)
		out[n++] = (SignPair) {"x-amz-security-token", c->session_token};
	return n;
}

static HttpResult
send_signed(Attempt *a, const Credentials *c, HttpReply *reply, DrError *err)
{
	S3		   *s3 = s3_of(a->store);
	SignPair	pairs[HEADER_MAX];
	const char *lines[HEADER_MAX + 2];
	char		time_text[SIGN_TIME_SIZE];
	int			n_query = count_pairs(a->call->query, lengthof(a->call->query));
	char	   *path = path_of(a);
	char	   *encoded = http_encode(path, true);
	char	   *query = sign_query(a->call->query, n_query);
	char	   *url = psprintf("%s://%s%s%s%s", a->tls ? "https" : "http", a->host, encoded, n_query ? "?" : "", query);
	char	   *authorization;
	HttpRequest request = {a->call->method, url, lines, a->call->body, a->call->body_length,
	strcmp(a->call->method, "GET") == 0 ? a->call->reply_max : HTTP_ERROR_BODY_MAX};
	HttpResult	result;
	int			n;

	sign_time(time_text, (int64) time(NULL) + atomic_load(&s3->skew_s));
	n = collect_headers(a, c, time_text, pairs);
	authorization = sign_authorization(&(SignRequest) {
		.method = a->call->method, .path = path, .query = a->call->query, .n_query = n_query,
		.headers = pairs, .n_headers = n, .payload_hash = a->hash,
		.access_key = c->access_key, .secret_key = c->secret_key,
		.region = s3->region, .service = "s3", .time = time_text});
	for (int i = 0; i < n; i++)
		lines[i] = psprintf("%s: %s", pairs[i].name, pairs[i].value);
	lines[n] = psprintf("authorization: %s", authorization);
	lines[n + 1] = NULL;
	result = http_send(s3->http, &request, reply, err);
	for (int i = 0; i <= n; i++)
		free(unconstify(char *, lines[i]));
	free(authorization);
	free(path);
	free(encoded);
	free(query);
	free(url);
	return result;
}

/* The next attempt goes where Location says, signed for there.  False: that is nowhere we go. */
static bool
follow(Attempt *a, const HttpReply *reply)
{
	const char *location = http_header(reply, "location");
	bool		tls = location != NULL && strncmp(location, "https://", 8) == 0;
	const char *authority = location == NULL ? "" : location + (tls ? 8 : 7);
	size_t		n = strcspn(authority, "/?#");
	S3		   *s3 = s3_of(a->store);
	char		bucket[sizeof(s3->bucket) + 2];

	if (location == NULL || a->redirects++ == REDIRECTS_MAX || (!tls && strncmp(location, "http://", 7) != 0) ||
		n == 0 || n >= sizeof(a->host) || memchr(authority, '@', n) != NULL)
		return false;
	if (!tls && (a->tls || (!s3->plain_allowed && !s3_host_is_loopback(authority))))
		return false;
	strlcpy(a->host, authority, n + 1);
	a->tls = tls;
	snprintf(bucket, sizeof(bucket), "/%s", s3->bucket);
	a->path_style = strncmp(authority + n, bucket, strlen(bucket)) == 0;
	return true;
}

/* The network, not the server, said no. */
static S3Result
broken(Attempt *a, HttpResult result, DrError *err)
{
	char		reason[sizeof(err->message)];

	if (result == HTTP_STOPPED)
		return s3_fail(a->store, a->call, DR_CANCELLED, "the request was stopped", err);
	snprintf(reason, sizeof(reason), "%.700s (endpoint %s)", err->message, a->host);
	s3_fail(a->store, a->call, err->code, reason, err);
	if (a->tries.failed > 1)
		dr_detail(err, "It was tried %d times.", a->tries.failed);
	if (err->hint[0] == '\0')
		dr_hint(err, "Check the endpoint in the repository's URL, the network and the store; what failed can be repeated.");
	return S3_FAILED;
}

/* May another attempt be made?  What an earlier one appended to the reply's body is dropped. */
static bool
again(Attempt *a, S3Verdict verdict, HttpReply *reply)
{
	S3		   *s3 = s3_of(a->store);
	int64		theirs = http_reply_time(reply);

	switch (verdict)
	{
		case VERDICT_RETRY:
			return !a->call->once && http_pause(s3->http, &a->tries, reply);
		case VERDICT_CREDENTIALS:
			if (a->credentials_renewed)
				return false;
			a->credentials_renewed = true;
			return credentials_reject(s3->chain, a->serial);
		case VERDICT_CLOCK:
			if (a->clock_corrected || theirs == 0)
				return false;
			a->clock_corrected = true;
			atomic_store(&s3->skew_s, (int) (theirs - (int64) time(NULL)));
			return true;
		case VERDICT_REDIRECT:
			return follow(a, reply);
		default:
			return false;
	}
}

static bool
one_attempt(Attempt *a, HttpReply *reply, HttpResult *result, DrError *err)
{
	Credentials c = {0};

	if (!credentials_get(s3_of(a->store)->chain, &c, err))
		return false;
	a->serial = c.serial;
	*result = send_signed(a, &c, reply, err);
	credentials_clear(&c);
	return true;
}

S3Result
s3_call(Store *store, const S3Call *call, HttpReply *reply, DrError *err)
{
	S3		   *s3 = s3_of(store);
	Attempt		a = {.store = store, .call = call, .path_style = s3->path_style, .tls = s3->tls};
	size_t		start = reply->body.len;
	uint8		hash[32];
	S3Answer	answer;

	strlcpy(a.host, s3->host, sizeof(a.host));
	if (call->sha256 == NULL)
		sha256(call->body ? call->body : "", call->body_length, hash);
	hex_encode(call->sha256 ? call->sha256 : hash, 32, a.hash);
	for (;;)
	{
		HttpResult	result;
		S3Verdict	verdict = VERDICT_RETRY;

		reply->body.len = start;
		err->hint[0] = '\0';
		if (!one_attempt(&a, reply, &result, err))
			return S3_FAILED;
		if (result == HTTP_REFUSED || result == HTTP_STOPPED)
			return broken(&a, result, err);
		if (result == HTTP_REPLIED)
			verdict = s3_judge(call, reply, start, &answer);
		if (verdict == VERDICT_DONE)
			return S3_DONE;
		if (verdict == VERDICT_ABSENT && call->name != NULL)
			return S3_ABSENT;
		if (verdict == VERDICT_TAKEN)
			return S3_TAKEN;
		if (verdict == VERDICT_BAD_RANGE)
			return S3_BAD_RANGE;
		if (!again(&a, verdict, reply))
		{
			if (result != HTTP_REPLIED)
				return broken(&a, result, err);
			answer.tries = a.tries.failed;
			return s3_error(store, call, &answer, err);
		}
	}
}
