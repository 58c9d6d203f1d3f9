/*
 * s3_url.c
 *	  What an s3:// URL says.
 *
 *	  s3://bucket/prefix?endpoint=https://host:port&region=eu-central-1&...
 *
 * Parameters are a table; an unknown one is an error, since a misspelt lock or
 * encryption must not go unnoticed.  No parameter holds a secret.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "store/s3_private.h"

/* While it is being parsed. */
typedef struct UrlText
{
	S3		   *s3;
	const char *url;			/* whole, for messages */
	char	   *endpoint;
	char	   *addressing;
} UrlText;

static bool
wrong(const UrlText *u, DrError *err, const char *hint, const char *what)
{
	dr_error(err, DR_CONFIG, "repository \"%s\" %s", u->url, what);
	return dr_hint(err, "%s", hint);
}

/* ---- parameters ---- */

static bool
take_text(char **to, const char *value)
{
	free(*to);
	*to = pg_strdup(value);
	return value[0] != '\0';
}

static int
positive(const char *value)
{
	char	   *end;
	long		n = strtol(value, &end, 10);

	return value[0] >= '0' && value[0] <= '9' && *end == '\0' && n > 0 && n <= 100000 ?
		(int) n : -1;
}

static bool
set_endpoint(UrlText *u, const char *v)
{
	return take_text(&u->endpoint, v);
}

static bool
set_addressing(UrlText *u, const char *v)
{
	return take_text(&u->addressing, v) && (strcmp(v, "path") == 0 || strcmp(v, "virtual") == 0);
}

static bool
set_region(UrlText *u, const char *v)
{
	return strlcpy(u->s3->region, v, sizeof(u->s3->region)) < sizeof(u->s3->region) && v[0] != '\0' &&
		strspn(v, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == strlen(v);
}

static bool
set_ca_file(UrlText *u, const char *v)
{
	return take_text(&u->s3->ca_file, v) && v[0] == '/';
}

static bool
set_plain_http(UrlText *u, const char *v)
{
	u->s3->plain_allowed = strcmp(v, "yes") == 0;
	return u->s3->plain_allowed || strcmp(v, "no") == 0;
}

static bool
set_profile(UrlText *u, const char *v)
{
	return take_text(&u->s3->profile, v);
}

/* What goes into a header as it is. */
static bool
is_token(const char *v)
{
	return v[0] != '\0' && strlen(v) <= 512 &&
		strspn(v, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_:/.+=") == strlen(v);
}

static bool
set_storage_class(UrlText *u, const char *v)
{
	return take_text(&u->s3->storage_class, v) && is_token(v);
}

static bool
set_sse(UrlText *u, const char *v)
{
	return take_text(&u->s3->sse, v) &&
		(strcmp(v, "AES256") == 0 || strcmp(v, "aws:kms") == 0 || strcmp(v, "aws:kms:dsse") == 0);
}

static bool
set_sse_key(UrlText *u, const char *v)
{
	return take_text(&u->s3->sse_kms_key_id, v) && is_token(v);
}

static bool
set_lock(UrlText *u, const char *v)
{
	if (strcmp(v, "governance") == 0)
		u->s3->lock_mode = "GOVERNANCE";
	else if (strcmp(v, "compliance") == 0)
		u->s3->lock_mode = "COMPLIANCE";
	else
		return false;
	return true;
}

static bool
set_lock_days(UrlText *u, const char *v)
{
	return (u->s3->lock_days = positive(v)) > 0 && u->s3->lock_days <= 36500;
}

static bool
set_create_only(UrlText *u, const char *v)
{
	u->s3->check_first = strcmp(v, "check") == 0;
	return u->s3->check_first || strcmp(v, "header") == 0;
}

static bool
set_retry(UrlText *u, const char *v)
{
	return (u->s3->patience_s = positive(v)) > 0;
}

static bool
set_stall(UrlText *u, const char *v)
{
	return (u->s3->stall_s = positive(v)) > 0;
}

static const struct
{
	const char *name;
	bool		(*set) (UrlText *u, const char *value);
	const char *expected;
}			parameters[] = {
	{"endpoint", set_endpoint, "https://host:port"},
	{"region", set_region, "the bucket's region, such as eu-central-1"},
	{"addressing", set_addressing, "path or virtual"},
	{"ca_file", set_ca_file, "an absolute path"},
	{"plain_http", set_plain_http, "yes or no"},
	{"profile", set_profile, "a profile of the credentials file"},
	{"storage_class", set_storage_class, "a storage class, such as STANDARD_IA"},
	{"sse", set_sse, "AES256 or aws:kms"},
	{"sse_kms_key_id", set_sse_key, "a key's identifier"},
	{"lock", set_lock, "governance or compliance"},
	{"lock_days", set_lock_days, "a number of days"},
	{"create_only", set_create_only, "header or check"},
	{"retry", set_retry, "a number of seconds"},
	{"stall", set_stall, "a number of seconds"},
};

static bool
set_parameter(UrlText *u, const char *name, const char *value, DrError *err)
{
	char		what[160];

	for (int i = 0; i < (int) lengthof(parameters); i++)
	{
		if (strcmp(name, parameters[i].name) != 0)
			continue;
		if (parameters[i].set(u, value))
			return true;
		snprintf(what, sizeof(what), "has a wrong value for \"%s\"", name);
		return wrong(u, err, psprintf("Expected is %s.", parameters[i].expected), what);
	}
	if (strncmp(name, "sse_customer", 12) == 0 || strncmp(name, "sse_c", 5) == 0)
		return wrong(u, err, "Every object is sealed before it leaves this machine; the key for that is pg_dr's own.",
					 "asks for encryption with a customer's key (SSE-C), which would send a key with every request");
	if (strstr(name, "key") != NULL || strstr(name, "secret") != NULL || strstr(name, "token") != NULL)
		return wrong(u, err, "Put them into the file that pg_dr.credentials_file, or --credentials-file, names.",
					 "holds credentials");
	snprintf(what, sizeof(what), "has the unknown parameter \"%.60s\"", name);
	return wrong(u, err, "The parameters are: endpoint, region, addressing, ca_file, plain_http, profile, storage_class, "
				 "sse, sse_kms_key_id, lock, lock_days, create_only, retry, stall.", what);
}

static bool
parse_parameters(UrlText *u, char *query, DrError *err)
{
	char	   *save = NULL;

	for (char *item = strtok_r(query, "&", &save); item != NULL; item = strtok_r(NULL, "&", &save))
	{
		char	   *equals = strchr(item, '=');
		char	   *value;
		bool		ok;

		if (equals == NULL)
			return wrong(u, err, "Write s3://bucket/prefix?name=value&name=value.", "has a parameter without a value");
		*equals = '\0';
		value = url_decode(equals + 1);
		if (value == NULL)
			return wrong(u, err, "A percent sign is written as %25.", "has a malformed percent-encoding");
		ok = set_parameter(u, item, value, err);
		free(value);
		if (!ok)
			return false;
	}
	return true;
}

/* ---- endpoint ---- */

bool
s3_host_is_loopback(const char *host)
{
	size_t		n = strcspn(host, host[0] == '[' ? "]" : ":");

	return (n == 9 && strncmp(host, "localhost", 9) == 0) || strncmp(host, "[::1]", 5) == 0 ||
		(strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") >= n);
}

/* host, host:port or [address]:port */
static bool
authority_is_valid(const char *a)
{
	size_t		n = a[0] == '[' ? strspn(a + 1, "0123456789abcdefABCDEF:.") + 1 :
		strspn(a, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-");

	if (n == 0 || (a[0] == '[' && (n == 1 || a[n++] != ']')))
		return false;
	if (a[n] == ':')
		return a[n + 1] != '\0' && strspn(a + n + 1, "0123456789") == strlen(a + n + 1) && strlen(a + n + 1) <= 5;
	return a[n] == '\0';
}

static bool
set_host(UrlText *u, DrError *err)
{
	S3		   *s3 = u->s3;
	const char *host = u->endpoint;
	char		amazon[S3_HOST_MAX];
	size_t		n;

	s3->tls = true;
	if (host == NULL)
	{
		snprintf(amazon, sizeof(amazon), "s3.%s.amazonaws.com%s", s3->region,
				 strncmp(s3->region, "cn-", 3) == 0 ? ".cn" : "");
		host = amazon;
	}
	else if (strncmp(host, "http://", 7) == 0)
	{
		s3->tls = false;
		host += 7;
	}
	else if (strncmp(host, "https://", 8) == 0)
		host += 8;
	n = strlen(host);
	if (n > 0 && host[n - 1] == '/' && u->endpoint != NULL)
		u->endpoint[strlen(u->endpoint) - 1] = '\0';
	if (strlen(host) > 255 || !authority_is_valid(host))
		return wrong(u, err, "Write endpoint=https://host:port, without a path.", "has a malformed endpoint");
	if (!s3->tls && !s3->plain_allowed && !s3_host_is_loopback(host))
		return wrong(u, err, "Use https://. If the network between is trusted, write plain_http=yes: objects are sealed all the "
					 "same, but an attacker there can drop or replay requests.",
					 "would speak to another machine without TLS");
	s3->path_style = u->addressing ? strcmp(u->addressing, "path") == 0 :
		u->endpoint != NULL || strchr(s3->bucket, '.') != NULL;
	snprintf(s3->host, sizeof(s3->host), "%s%s%s", s3->path_style ? "" : s3->bucket, s3->path_style ? "" : ".", host);
	return true;
}

static bool
set_place(UrlText *u, char *place, DrError *err)
{
	S3		   *s3 = u->s3;
	char	   *slash = strchr(place, '/');
	char	   *prefix;
	size_t		n;

	if (slash != NULL)
		*slash++ = '\0';
	n = strlen(place);
	if (n < 3 || n >= sizeof(s3->bucket) || place[0] == '.' || place[0] == '-' ||
		strspn(place, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") != n)
		return wrong(u, err, "Write s3://bucket/prefix; a bucket's name has 3 to 63 characters: letters, digits, dots and hyphens.",
					 "does not name a bucket");
	strlcpy(s3->bucket, place, sizeof(s3->bucket));
	prefix = slash ? url_decode(slash) : pg_strdup("");
	n = prefix ? strlen(prefix) : 0;
	if (n > 0 && prefix[n - 1] == '/')
		prefix[--n] = '\0';
	if (prefix == NULL || n >= S3_PREFIX_MAX || (n > 0 && !name_valid(prefix)))
	{
		free(prefix);
		return wrong(u, err, "A prefix is made of letters, digits, dots, hyphens, underscores and single slashes.",
					 "has a prefix that can't be used");
	}
	snprintf(s3->prefix, sizeof(s3->prefix), "%s%s", prefix, n > 0 ? "/" : "");
	free(prefix);
	return true;
}

static bool
check_together(UrlText *u, DrError *err)
{
	S3		   *s3 = u->s3;
	const char *region = getenv("AWS_REGION") ? getenv("AWS_REGION") : getenv("AWS_DEFAULT_REGION");

	if (s3->region[0] == '\0' && !set_region(u, region && region[0] ? region : "us-east-1"))
		return wrong(u, err, "Correct AWS_REGION, or name the region in the URL.", "gets a malformed region from the environment");
	if ((s3->lock_mode == NULL) != (s3->lock_days == 0))
		return wrong(u, err, "Give both, for example lock=compliance&lock_days=30, or neither.",
					 "has only one of \"lock\" and \"lock_days\"");
	if (s3->sse_kms_key_id != NULL && (s3->sse == NULL || strcmp(s3->sse, "AES256") == 0))
		return wrong(u, err, "Add sse=aws:kms.", "names a KMS key, but does not ask for encryption with it");
	return true;
}

bool
s3_parse_url(S3 *s3, const char *url, const char *rest, DrError *err)
{
	UrlText		u = {s3, url, NULL, NULL};
	char	   *copy = pg_strdup(rest);
	char	   *query = strchr(copy, '?');
	bool		ok;

	if (query != NULL)
		*query++ = '\0';
	ok = set_place(&u, copy, err) && (query == NULL || parse_parameters(&u, query, err)) &&
		check_together(&u, err) && set_host(&u, err);
	free(u.endpoint);
	free(u.addressing);
	free(copy);
	return ok;
}

void
s3_free_url(S3 *s3)
{
	free(s3->ca_file);
	free(s3->profile);
	free(s3->storage_class);
	free(s3->sse);
	free(s3->sse_kms_key_id);
}
