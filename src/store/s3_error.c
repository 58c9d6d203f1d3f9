/*
 * s3_error.c
 *	  What an S3 server's answer means: a verdict, and the words for the DBA.
 *
 * Servers disagree in what they answer; the tables are the place to say so.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "net/xml.h"
#include "store/s3_private.h"

/* ---- taking the answer apart ---- */

/* Server's text is shown: printable ASCII, no more. */
static void
make_printable(char *text)
{
	for (; *text != '\0'; text++)
		if (*text < ' ' || *text > '~')
			*text = '?';
}

static void
header_text(const HttpReply *reply, const char *name, char *out, size_t size)
{
	const char *value = http_header(reply, name);

	if (value != NULL)
		strlcpy(out, value, size);
}

static void
take_apart(const HttpReply *reply, size_t start, S3Answer *a)
{
	const uint8 *body = reply->body.data + start;
	size_t		n = reply->body.len - start;

	memset(a, 0, sizeof(*a));
	a->status = reply->status;
	if (n > 0)
	{
		xml_text(body, n, "/Error/Code", a->code, sizeof(a->code));
		xml_text(body, n, "/Error/Message", a->message, sizeof(a->message));
		xml_text(body, n, "/Error/Region", a->region, sizeof(a->region));
	}
	header_text(reply, "x-amz-bucket-region", a->region, sizeof(a->region));
	header_text(reply, "x-amz-request-id", a->request_id, sizeof(a->request_id));
	make_printable(a->code);
	make_printable(a->message);
	make_printable(a->region);
	make_printable(a->request_id);
}

/* ---- verdicts ---- */

static const struct
{
	const char *code;
	S3Verdict	verdict;
}			verdicts[] = {
	{"NoSuchKey", VERDICT_ABSENT},
	{"PreconditionFailed", VERDICT_TAKEN},
	{"InvalidRange", VERDICT_BAD_RANGE},
	{"ConditionalRequestConflict", VERDICT_RETRY},
	{"OperationAborted", VERDICT_RETRY},
	{"SlowDown", VERDICT_RETRY},
	{"Busy", VERDICT_RETRY},
	{"InternalError", VERDICT_RETRY},
	{"ServiceUnavailable", VERDICT_RETRY},
	{"RequestTimeout", VERDICT_RETRY},
	{"RequestLimitExceeded", VERDICT_RETRY},
	{"Throttling", VERDICT_RETRY},
	{"ThrottlingException", VERDICT_RETRY},
	{"IncompleteBody", VERDICT_RETRY},
	{"BadDigest", VERDICT_RETRY},	/* damaged on the way */
	{"XAmzContentSHA256Mismatch", VERDICT_RETRY},
	{"ExpiredToken", VERDICT_CREDENTIALS},
	{"TokenRefreshRequired", VERDICT_CREDENTIALS},
	{"InvalidToken", VERDICT_CREDENTIALS},
	{"InvalidAccessKeyId", VERDICT_CREDENTIALS},
	{"SignatureDoesNotMatch", VERDICT_CREDENTIALS},	/* the key may just have been changed */
	{"RequestTimeTooSkewed", VERDICT_CLOCK},
	{"TemporaryRedirect", VERDICT_REDIRECT},
	{"QuotaExceeded", VERDICT_FAILED},	/* some servers say so with a 503 */
	{"XMinioStorageFull", VERDICT_FAILED},
};

/* An error in a reply that says 200. */
static bool
hides_error(const S3Call *call, const HttpReply *reply, size_t start, S3Answer *answer)
{
	if (call->wants_object || reply->body.len == start || reply->body.data[start] != '<')
		return false;
	take_apart(reply, start, answer);
	return answer->code[0] != '\0';
}

S3Verdict
s3_judge(const S3Call *call, const HttpReply *reply, size_t start, S3Answer *answer)
{
	if (reply->status >= 200 && reply->status < 300 && !hides_error(call, reply, start, answer))
		return VERDICT_DONE;
	take_apart(reply, start, answer);
	for (int i = 0; i < (int) lengthof(verdicts); i++)
		if (strcmp(answer->code, verdicts[i].code) == 0)
			return verdicts[i].verdict;
	if (reply->status == 412 || (reply->status == 304 && strcmp(call->method, "PUT") == 0))
		return VERDICT_TAKEN;
	if (reply->status == 416)
		return VERDICT_BAD_RANGE;
	if (reply->status == 404 && strcmp(call->method, "HEAD") == 0)
		return VERDICT_ABSENT;	/* its reply has no body to say more */
	if (reply->status == 307 || reply->status == 308)
		return VERDICT_REDIRECT;
	return http_status_is_transient(reply->status) ? VERDICT_RETRY : VERDICT_FAILED;
}

/* ---- words ---- */

static const char *
permission_hint(const S3Call *call)
{
	if (strcmp(call->method, "PUT") == 0)
		return "Allow the access key s3:PutObject below the repository's prefix"
			" (with Object Lock, s3:PutObjectRetention too).";
	if (strcmp(call->method, "DELETE") == 0 || strcmp(call->method, "POST") == 0)
		return "Allow the access key s3:DeleteObject below the repository's prefix; a locked object can't be removed by anyone.";
	if (call->name == NULL)
		return "Allow the access key s3:ListBucket on the bucket.";
	return "Allow the access key s3:GetObject below the repository's prefix, and s3:ListBucket on the bucket: "
		"without it a server answers so for objects that do not exist, too.";
}

static const char hint_credentials[] =
"Correct the credentials; pg_dr.credentials_file, or --credentials-file, names the file that holds them.";
static const char hint_region[] =
"Write the bucket's region into the repository's URL: region=...";
static const char hint_room[] =
"Make room in the store, or raise the quota; nothing was lost.";

static const char hint_later[] =
"Look at the store; what failed can be repeated.";

static const struct
{
	const char *code;
	DrCode		class;
	const char *what;
	const char *hint;			/* NULL: permission_hint */
}			words[] = {
	{"NoSuchBucket", DR_REFUSED, "the bucket does not exist", "Create the bucket, or correct its name in the repository's URL."},
	{"InvalidBucketName", DR_CONFIG, "the server does not accept the bucket's name", "Correct its name in the repository's URL."},
	{"InvalidAccessKeyId", DR_REFUSED, "the server does not know the access key", hint_credentials},
	{"SignatureDoesNotMatch", DR_REFUSED, "the secret key does not match the access key", hint_credentials},
	{"ExpiredToken", DR_REFUSED, "the credentials have expired", "Renew them; credentials that expire should come from a source "
	"that renews them by itself."},
	{"TokenRefreshRequired", DR_REFUSED, "the credentials have expired", hint_credentials},
	{"InvalidToken", DR_REFUSED, "the session token is not valid", hint_credentials},
	{"AccessDenied", DR_REFUSED, "access is denied", NULL},
	{"AllAccessDisabled", DR_REFUSED, "access to the bucket is disabled", "Ask the store's operator why."},
	{"AuthorizationHeaderMalformed", DR_CONFIG, "the bucket is in another region", hint_region},
	{"PermanentRedirect", DR_CONFIG, "the bucket is at another endpoint", "Correct region and endpoint in the repository's URL."},
	{"IllegalLocationConstraintException", DR_CONFIG, "the bucket is in another region", hint_region},
	{"IncorrectEndpoint", DR_CONFIG, "the bucket is at another endpoint", hint_region},
	{"RequestTimeTooSkewed", DR_REFUSED, "this machine's clock and the server's are too far apart",
	"Set this machine's clock; have it synchronised."},
	{"QuotaExceeded", DR_IO, "the store's quota is used up", hint_room},
	{"XMinioStorageFull", DR_IO, "the store is full", hint_room},
	{"InsufficientCapacity", DR_IO, "the store is full", hint_room},
	{"EntityTooLarge", DR_CONFIG, "the object is larger than the server takes in one request", "The store must take objects of 5 GB."},
	{"InvalidStorageClass", DR_CONFIG, "the server does not know the storage class", "Correct storage_class in the repository's URL."},
	{"InvalidObjectState", DR_IO, "the object is in an archive that must be thawed first",
	"Restore it to a storage class that answers at once; don't let the bucket's lifecycle move a repository to an archive class."},
	{"ObjectLockConfigurationNotFoundError", DR_CONFIG, "the bucket has no Object Lock", "Make a bucket with Object Lock, "
	"or remove lock and lock_days from the repository's URL."},
	{"InvalidRequest", DR_CONFIG, "the server refused the request", "Look at lock, sse and storage_class in the repository's URL: "
	"a lock needs a bucket that was made with Object Lock."},
	{"NotImplemented", DR_CONFIG, "the server does not implement what the request needs",
	"Look at storage_class, sse and lock in the repository's URL: this server may lack them."},
	{"MalformedXML", DR_IO, "the server does not understand the request", "Is the endpoint an S3 server?"},
	{"SlowDown", DR_IO, "the server is overloaded", hint_later},
	{"ServiceUnavailable", DR_IO, "the server is overloaded", hint_later},
	{"InternalError", DR_IO, "the server fails", hint_later},
	{"BadDigest", DR_IO, "the server received other bytes than were sent", "Something between changes requests: a proxy, or failing hardware."},
	{"XAmzContentSHA256Mismatch", DR_IO, "the server received other bytes than were sent",
	"Something between changes requests: a proxy, or failing hardware."},
};

static void
say_answer(const S3Answer *a, DrError *err)
{
	char		tries[40] = "";

	if (a->tries > 1)
		snprintf(tries, sizeof(tries), ", the last of %d times", a->tries);
	dr_detail(err, "The server answered %d%s%s%s%s%s%s%s%s.", a->status, a->code[0] ? " " : "", a->code,
			  a->message[0] ? ": " : "", a->message,
			  a->request_id[0] ? " (request " : "", a->request_id, a->request_id[0] ? ")" : "", tries);
}

S3Result
s3_fail(Store *store, const S3Call *call, DrCode code, const char *reason, DrError *err)
{
	char		hint[sizeof(err->hint)];
	char		text[sizeof(err->message)];

	strlcpy(hint, err->hint, sizeof(hint));
	strlcpy(text, reason, sizeof(text));
	if (call->name != NULL)
		dr_error(err, code, "could not %s object \"%s\" in repository \"%s\": %s", call->verb, call->name, store->url, text);
	else
		dr_error(err, code, "could not %s repository \"%s\": %s", call->verb, store->url, text);
	strlcpy(err->hint, hint, sizeof(err->hint));
	return S3_FAILED;
}

S3Result
s3_error(Store *store, const S3Call *call, const S3Answer *a, DrError *err)
{
	int			denied = -1;
	int			w = -1;

	for (int i = 0; i < (int) lengthof(words); i++)
	{
		if (strcmp(words[i].code, a->code) == 0)
			w = i;
		if (strcmp(words[i].code, "AccessDenied") == 0)
			denied = i;
	}
	if (w < 0 && (a->status == 403 || a->status == 401))
		w = denied;				/* some say no more than that */
	err->hint[0] = '\0';
	if (w >= 0)
	{
		s3_fail(store, call, words[w].class, words[w].what, err);
		dr_hint(err, "%s", words[w].hint ? words[w].hint : permission_hint(call));
	}
	else if (http_status_is_transient(a->status))
	{
		s3_fail(store, call, DR_IO, "the server fails", err);
		dr_hint(err, "%s", hint_later);
	}
	else
	{
		s3_fail(store, call, DR_IO, "the server refused the request", err);
		dr_hint(err, a->code[0] ? "The server's answer is in DETAIL." :
				"Is the endpoint in the repository's URL an S3 server? Something else may answer in its place.");
	}
	say_answer(a, err);
	if (a->region[0] != '\0' && w >= 0 && words[w].hint == hint_region)
		dr_hint(err, "Write the bucket's region into the repository's URL: region=%s.", a->region);
	return S3_FAILED;
}
