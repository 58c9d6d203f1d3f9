/*
 * s3.c
 *	  The store in an S3 bucket: s3://bucket/prefix?endpoint=...
 *
 * The one idea: an object is one plain PUT that the server must refuse when the
 * name exists (If-None-Match: *), with the MD5 and SHA-256 of what it should
 * receive.  An attempt whose answer was lost may have stored it: so "exists" is
 * settled by comparing content (T5).  No multipart upload is ever begun, so
 * that no crash leaves any; a crash leaves an object or nothing.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "store/s3_private.h"

static void
s3_close(Store *store)
{
	S3		   *s3 = s3_of(store);

	credentials_close(s3->chain);
	http_close(s3->http);
	s3_free_url(s3);
	free(s3);
}

static bool
s3_open(Store *store, const char *rest, const char *credentials_file, DrError *err)
{
	S3		   *s3 = pg_malloc0(sizeof(*s3));

	store->private = s3;
	if (s3_parse_url(s3, store->url, rest, err) &&
		(s3->http = http_open(&(HttpOptions) {
			.ca_file = s3->ca_file, .proxy = true,
			.stall_s = s3->stall_s, .patience_s = s3->patience_s}, err)) != NULL &&
		(s3->chain = credentials_open(&(CredentialOptions) {
			.file = credentials_file, .profile = s3->profile,
			.region = s3->region, .ca_file = s3->ca_file}, err)) != NULL)
	{
		store->looks_first = s3->check_first;
		return true;
	}
	http_close(s3->http);
	s3_free_url(s3);
	free(s3);
	return false;
}

/* Nothing that an interrupted writer left needs clearing away. */
static bool
s3_prepare(Store *store, DrError *err)
{
	return true;
}

static void
s3_set_patience(Store *store, int seconds)
{
	S3		   *s3 = s3_of(store);

	int			own = s3->patience_s > 0 ? s3->patience_s : HTTP_PATIENCE_S;

	seconds = seconds == STORE_PATIENCE_OWN ? own : Min(seconds, own);
	http_set_patience(s3->http, seconds);
	credentials_set_patience(s3->chain, seconds);
}

static StoreResult
absent(Store *store, const char *name, DrError *err)
{
	dr_error(err, DR_ABSENT, "object \"%s\" does not exist in repository \"%s\"", name, store->url);
	return STORE_ABSENT;
}

/* ---- put ---- */

static void
add_header(S3Call *call, const char *name, const char *value)
{
	int			n = 0;

	while (call->headers[n].name != NULL)
		n++;
	Assert(n + 1 < (int) lengthof(call->headers));
	call->headers[n] = (SignPair) {name, value};
}

S3Result
s3_put_call(Store *store, const char *name, const void *data, size_t n, const uint8 *sha256,
			const char *md5, bool once, HttpReply *reply, DrError *err)
{
	S3		   *s3 = s3_of(store);
	S3Call		call = {.verb = "write", .method = "PUT", .name = name,
	.body = data, .body_length = n, .sha256 = sha256, .once = once};
	char		until[TIME_TEXT_MAX];

	add_header(&call, "content-md5", md5);
	add_header(&call, "content-type", "application/octet-stream");
	if (!s3->check_first)
		add_header(&call, "if-none-match", "*");
	if (s3->storage_class != NULL)
		add_header(&call, "x-amz-storage-class", s3->storage_class);
	if (s3->sse != NULL)
		add_header(&call, "x-amz-server-side-encryption", s3->sse);
	if (s3->sse_kms_key_id != NULL)
		add_header(&call, "x-amz-server-side-encryption-aws-kms-key-id", s3->sse_kms_key_id);
	/* A piece of the tail is superseded within minutes: thousands a day would stay for nothing. */
	if (s3->lock_mode != NULL && object_kind(name) != KIND_TAIL)
	{
		s3_retain_until(s3, until);
		add_header(&call, "x-amz-object-lock-mode", s3->lock_mode);
		add_header(&call, "x-amz-object-lock-retain-until-date", until);
	}
	return s3_call(store, &call, reply, err);
}

typedef enum Content
{
	CONTENT_SAME,
	CONTENT_OTHER,
	CONTENT_UNKNOWN				/* err is set */
} Content;

/* Is what the name holds these bytes? */
static Content
compare_content(Store *store, const char *name, const void *data, size_t n, DrError *err)
{
	S3Call		head = {.verb = "read", .method = "HEAD", .name = name};
	S3Call		get = {.verb = "read", .method = "GET", .name = name, .wants_object = true, .reply_max = n};
	HttpReply	reply = {0};
	S3Result	r = s3_call(store, &head, &reply, err);
	const char *length = http_header(&reply, "content-length");
	Content		content = CONTENT_UNKNOWN;

	if (r == S3_DONE && length != NULL && strtoull(length, NULL, 10) != n)
		content = CONTENT_OTHER;
	else if (r == S3_DONE && (r = s3_call(store, &get, &reply, err)) == S3_DONE)
		content = reply.body.len == n && memcmp(reply.body.data, data, n) == 0 ? CONTENT_SAME : CONTENT_OTHER;
	if (r != S3_DONE && r != S3_FAILED)
	{
		dr_error(err, DR_IO, "object \"%s\" in repository \"%s\" exists to those who write it, but not to those who read it",
				 name, store->url);
		dr_hint(err, "The store contradicts itself; try again, and ask its operator.");
	}
	http_reply_free(&reply);
	return content;
}

static StoreResult
taken(Store *store, const char *name, const void *data, size_t n, DrError *err)
{
	switch (compare_content(store, name, data, n, err))
	{
		case CONTENT_SAME:
			return STORE_OK;	/* T5: an earlier attempt, whose answer was lost */
		case CONTENT_OTHER:
			dr_error(err, DR_CONFLICT, "object \"%s\" already exists in repository \"%s\"", name, store->url);
			return STORE_TAKEN;
		default:
			return STORE_FAILED;
	}
}

/*
 * T5: a reply that says 200 is believed when it carries the MD5 of what was
 * sent.  Where ETags are something else (encryption by KMS, some servers), the
 * object is read back, once for each store.
 */
static StoreResult
confirm(Store *store, const char *name, const void *data, size_t n, const char *md5_hex,
		const HttpReply *reply, DrError *err)
{
	S3		   *s3 = s3_of(store);
	const char *etag = http_header(reply, "etag");

	if (etag == NULL)
	{
		dr_error(err, DR_IO, "could not write object \"%s\" in repository \"%s\": the server did not confirm it",
				 name, store->url);
		dr_detail(err, "It answered %d without an ETag.", reply->status);
		dr_hint(err, "Is the endpoint in the repository's URL an S3 server? Something else may answer in its place.");
		return STORE_FAILED;
	}
	if (strncmp(etag + (etag[0] == '"'), md5_hex, 32) == 0 || atomic_load(&s3->etag_opaque))
		return STORE_OK;
	switch (compare_content(store, name, data, n, err))
	{
		case CONTENT_SAME:
			atomic_store(&s3->etag_opaque, true);
			return STORE_OK;
		case CONTENT_OTHER:
			dr_error(err, DR_DAMAGED, "the server stored other bytes than were sent as object \"%s\" in repository \"%s\"",
					 name, store->url);
			dr_hint(err, "Don't trust this store until its operator knows why.");
			return STORE_FAILED;
		default:
			return STORE_FAILED;
	}
}

/* create_only=check: for servers that ignore the header.  That the bucket is missing, the PUT will say. */
static S3Result
look(Store *store, const char *name, DrError *err)
{
	S3Call		call = {.verb = "read", .method = "HEAD", .name = name};
	HttpReply	reply = {0};
	S3Result	r = s3_call(store, &call, &reply, err);

	http_reply_free(&reply);
	return r;
}

static StoreResult
s3_put(Store *store, const char *name, const void *data, size_t n, const uint8 sha256[32],
	   DrError *err)
{
	HttpReply	reply = {0};
	char		md5[S3_MD5_SIZE];
	char		md5_hex[33];
	S3Result	r = S3_ABSENT;
	StoreResult result = STORE_FAILED;

	if (s3_of(store)->check_first)
		r = look(store, name, err);
	if (r == S3_ABSENT)
	{
		s3_content_md5(data, n, md5, md5_hex);
		r = s3_put_call(store, name, data, n, sha256, md5, false, &reply, err);
		if (r == S3_DONE)
			result = confirm(store, name, data, n, md5_hex, &reply, err);
		else if (r == S3_TAKEN)
			result = taken(store, name, data, n, err);
	}
	else if (r == S3_DONE)
		result = taken(store, name, data, n, err);
	http_reply_free(&reply);
	return result;
}

/* ---- get ---- */

/* Without a length, a reply that was cut could not be told from a whole one. */
static bool
length_is_known(Store *store, const char *name, const HttpReply *reply, DrError *err)
{
	if (http_header(reply, "content-length") != NULL || http_header(reply, "transfer-encoding") != NULL)
		return true;
	dr_error(err, DR_IO, "could not read object \"%s\" in repository \"%s\": the reply does not say how long it is",
			 name, store->url);
	return dr_hint(err, "Is the endpoint in the repository's URL an S3 server?");
}

static StoreResult
get(Store *store, const S3Call *call, int status, Bytes *out, DrError *err)
{
	HttpReply	reply = {.body = *out};
	size_t		start = out->len;
	S3Result	r = s3_call(store, call, &reply, err);
	StoreResult result = STORE_FAILED;

	if (r == S3_ABSENT)
		result = absent(store, call->name, err);
	else if (r == S3_BAD_RANGE || (r == S3_DONE && call->headers[0].name != NULL && reply.body.len - start != call->reply_max))
		dr_error(err, DR_DAMAGED, "object \"%s\" is shorter than what is wanted of it", call->name);
	else if (r == S3_TAKEN || (r == S3_DONE && reply.status != status))
		dr_error(err, DR_IO, "could not read object \"%s\" in repository \"%s\": the server answered %d",
				 call->name, store->url, reply.status);
	else if (r == S3_DONE && length_is_known(store, call->name, &reply, err))
		result = STORE_OK;
	if (result != STORE_OK)
		reply.body.len = start;
	*out = reply.body;
	memset(&reply.body, 0, sizeof(reply.body));
	http_reply_free(&reply);
	return result;
}

static StoreResult
s3_get(Store *store, const char *name, size_t max, Bytes *out, DrError *err)
{
	S3Call		call = {.verb = "read", .method = "GET", .name = name, .wants_object = true, .reply_max = max};

	return get(store, &call, 200, out, err);
}

static StoreResult
s3_get_range(Store *store, const char *name, uint64 offset, size_t n, Bytes *out, DrError *err)
{
	char		range[64];
	S3Call		call = {.verb = "read", .method = "GET", .name = name, .wants_object = true, .reply_max = n,
	.headers = {{"range", range}}};

	if (n == 0)
		return STORE_OK;
	snprintf(range, sizeof(range), "bytes=" UINT64_FORMAT "-" UINT64_FORMAT, offset, offset + n - 1);
	return get(store, &call, 206, out, err);
}

const StoreOps s3_store_ops = {
	.scheme = "s3",
	.open = s3_open,
	.prepare = s3_prepare,
	.put = s3_put,
	.get = s3_get,
	.get_range = s3_get_range,
	.list = s3_list,
	.remove = s3_remove,
	.close = s3_close,
	.set_patience = s3_set_patience,
	.extend_lock = s3_extend_lock,
	.probe = s3_probe,
};
