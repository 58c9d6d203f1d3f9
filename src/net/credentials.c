/*
 * credentials.c
 *	  The chain: which source counts, and when to ask it again.
 *
 * One idea: the chain remembers what it got last and when that ends.  The first
 * thread that finds it too old renews it, under the lock; the others wait, for
 * what they would sign with might be refused.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include <openssl/crypto.h>
#include <pthread.h>
#include <time.h>

#include "net/credentials_private.h"

struct CredentialChain
{
	SourceContext context;
	char	   *file;			/* NULL: none was named */
	char	   *profile;
	char	   *region;
	char		where[1100];	/* for messages */

	pthread_mutex_t lock;
	Credentials current;		/* under lock, like all that follows; no access_key: none yet */
	int64		renew_at;		/* seconds since 1970; 0: never */
	uint64		serial;
	int64		failed_at;		/* a renewal did, while the current ones are still good */
};

/* These services are near: who does not answer soon is not there. */
#define SERVICE_CONNECT_S	2
#define SERVICE_STALL_S		5
#define SERVICE_PATIENCE_S	10
#define RETRY_RENEWAL_S		10	/* not with every request while the service is down */

static char *
copy_or_null(const char *text)
{
	return text != NULL && text[0] != '\0' ? pg_strdup(text) : NULL;
}

static bool
is_set(const char *variable)
{
	const char *value = getenv(variable);

	return value != NULL && value[0] != '\0';
}

CredentialChain *
credentials_open(const CredentialOptions *options, DrError *err)
{
	CredentialChain *chain = pg_malloc0(sizeof(*chain));
	const char *profile = options->profile;

	if (profile == NULL && is_set("AWS_PROFILE"))
		profile = getenv("AWS_PROFILE");
	chain->file = copy_or_null(options->file);
	chain->profile = pg_strdup(profile ? profile : "default");
	chain->region = pg_strdup(options->region);
	chain->context = (SourceContext) {chain->profile, chain->region, http_open(&(HttpOptions) {
		.ca_file = options->ca_file, .connect_s = SERVICE_CONNECT_S, .stall_s = SERVICE_STALL_S,
		.patience_s = SERVICE_PATIENCE_S}, err)};
	strlcpy(chain->where, "nowhere yet", sizeof(chain->where));
	pthread_mutex_init(&chain->lock, NULL);
	if (chain->context.http != NULL)
		return chain;
	credentials_close(chain);
	return NULL;
}

void
credentials_close(CredentialChain *chain)
{
	if (chain == NULL)
		return;
	http_close(chain->context.http);
	credentials_clear(&chain->current);
	pthread_mutex_destroy(&chain->lock);
	free(chain->file);
	free(chain->profile);
	free(chain->region);
	free(chain);
}

void
credentials_clear(Credentials *c)
{
	wipe_and_free(c->access_key);
	wipe_and_free(c->secret_key);
	wipe_and_free(c->session_token);
	memset(c, 0, sizeof(*c));
}

/* ---- the sources ---- */

static bool
from_named_file(CredentialChain *chain, Credentials *out, DrError *err)
{
	Profile		p = {0};
	bool		ok;

	snprintf(chain->where, sizeof(chain->where), "credentials file \"%s\"", chain->file);
	ok = profile_read_private(chain->file, chain->profile, &p, err) &&
		profile_credentials(&chain->context, &p, chain->where, out, err);
	profile_free(&p);
	return ok;
}

static bool
from_environment(CredentialChain *chain, Credentials *out, DrError *err)
{
	strlcpy(chain->where, "the environment", sizeof(chain->where));
	if (!is_set("AWS_SECRET_ACCESS_KEY"))
	{
		dr_error(err, DR_CONFIG, "AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not");
		return dr_hint(err, "Set both, or neither.");
	}
	out->access_key = pg_strdup(getenv("AWS_ACCESS_KEY_ID"));
	out->secret_key = pg_strdup(getenv("AWS_SECRET_ACCESS_KEY"));
	out->session_token = copy_or_null(getenv("AWS_SESSION_TOKEN"));
	return true;
}

/* *there: does a file say anything of the profile? */
static bool
from_default_files(CredentialChain *chain, Credentials *out, bool *there, DrError *err)
{
	Profile		p = {0};
	bool		ok = profile_read_default(chain->profile, &p, err);

	*there = !ok || p.found;
	if (ok && p.found)
	{
		strlcpy(chain->where, "the files of AWS's tools", sizeof(chain->where));
		ok = profile_credentials(&chain->context, &p, chain->where, out, err);
	}
	else if (ok && strcmp(chain->profile, "default") != 0)
	{
		*there = true;
		ok = dr_error(err, DR_REFUSED, "there is no profile \"%s\" of credentials", chain->profile);
		dr_hint(err, "It is looked for in ~/.aws/credentials and ~/.aws/config, and where AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE say.");
	}
	profile_free(&p);
	return ok;
}

static bool
from_instance(CredentialChain *chain, Credentials *out, DrError *err)
{
	char		why[sizeof(err->message)];

	strlcpy(chain->where, "instance metadata", sizeof(chain->where));
	if (is_set("AWS_EC2_METADATA_DISABLED") && pg_strcasecmp(getenv("AWS_EC2_METADATA_DISABLED"), "true") == 0)
		strlcpy(why, "instance metadata is disabled by AWS_EC2_METADATA_DISABLED", sizeof(why));
	else if (instance_credentials(&chain->context, out, err))
		return true;
	else if (err->code == DR_CANCELLED)
		return false;
	else
		strlcpy(why, err->message, sizeof(why));
	dr_error(err, DR_REFUSED, "no credentials for object storage were found");
	dr_detail(err, "No file was named; nothing is in the environment (AWS_ACCESS_KEY_ID, AWS_WEB_IDENTITY_TOKEN_FILE, "
			  "AWS_CONTAINER_CREDENTIALS_...) or in ~/.aws; %s.", why);
	return dr_hint(err, "Set pg_dr.credentials_file, or --credentials-file, to a file with aws_access_key_id and aws_secret_access_key.");
}

/* The first source that is configured; its failure is ours. */
static bool
ask_source(CredentialChain *chain, Credentials *out, DrError *err)
{
	bool		there;
	bool		ok;

	if (chain->file != NULL)
		return from_named_file(chain, out, err);
	if (is_set("AWS_ACCESS_KEY_ID"))
		return from_environment(chain, out, err);
	if (is_set("AWS_WEB_IDENTITY_TOKEN_FILE") && is_set("AWS_ROLE_ARN"))
	{
		strlcpy(chain->where, "web identity", sizeof(chain->where));
		return web_identity_credentials(&chain->context, getenv("AWS_ROLE_ARN"),
										getenv("AWS_WEB_IDENTITY_TOKEN_FILE"), out, err);
	}
	ok = from_default_files(chain, out, &there, err);
	if (there)
		return ok;
	if (is_set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") || is_set("AWS_CONTAINER_CREDENTIALS_FULL_URI"))
	{
		strlcpy(chain->where, "the container's credentials service", sizeof(chain->where));
		return container_credentials(&chain->context, out, err);
	}
	return from_instance(chain, out, err);
}

/* ---- renewal ---- */

/* What goes into a header or a signature has no blanks or control characters. */
static bool
is_header_safe(const char *text)
{
	for (; text != NULL && *text != '\0'; text++)
		if (*text <= ' ' || *text > '~')
			return false;
	return true;
}

/* C3.  What lives shortly is renewed when two thirds of its life are over. */
static int64
renewal_time(int64 expires, int64 now)
{
	if (expires == 0)
		return 0;
	return expires - Min(CREDENTIALS_MARGIN_S, Max(expires - now, 0) / 3);
}

/* Under the lock. */
static bool
renew(CredentialChain *chain, DrError *err)
{
	Credentials fresh = {0};
	int64		now = (int64) time(NULL);

	if (!ask_source(chain, &fresh, err))
		return false;
	if (!is_header_safe(fresh.access_key) || !is_header_safe(fresh.secret_key) || !is_header_safe(fresh.session_token))
	{
		credentials_clear(&fresh);
		dr_error(err, DR_REFUSED, "the credentials from %s hold characters that no access key has", chain->where);
		return dr_hint(err, "Look for blanks, line breaks and quotes.");
	}
	if (fresh.expires != 0 && fresh.expires <= now)
	{
		credentials_clear(&fresh);
		dr_error(err, DR_REFUSED, "the credentials from %s have expired already", chain->where);
		return dr_hint(err, "Is this machine's clock right?");
	}
	credentials_clear(&chain->current);
	chain->current = fresh;
	chain->current.serial = ++chain->serial;
	chain->renew_at = renewal_time(fresh.expires, now);
	return true;
}

static char *
copied(const char *text)
{
	return text ? pg_strdup(text) : NULL;
}

bool
credentials_get(CredentialChain *chain, Credentials *out, DrError *err)
{
	int64		now = (int64) time(NULL);
	bool		ok = true;

	memset(out, 0, sizeof(*out));
	pthread_mutex_lock(&chain->lock);
	if (chain->current.access_key == NULL)
		ok = renew(chain, err);
	else if (chain->renew_at != 0 && now >= chain->renew_at && now - chain->failed_at >= RETRY_RENEWAL_S &&
			 !renew(chain, err))
	{
		chain->failed_at = now;
		ok = now < chain->current.expires;	/* C3 */
	}
	else if (chain->renew_at != 0 && now >= chain->current.expires)
		ok = renew(chain, err);
	if (ok)
	{
		out->access_key = copied(chain->current.access_key);
		out->secret_key = copied(chain->current.secret_key);
		out->session_token = copied(chain->current.session_token);
		out->expires = chain->current.expires;
		out->serial = chain->current.serial;
	}
	pthread_mutex_unlock(&chain->lock);
	return ok;
}

static bool
same_text(const char *a, const char *b)
{
	return (a == NULL && b == NULL) || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

bool
credentials_reject(CredentialChain *chain, uint64 serial)
{
	Credentials before;
	DrError		ignored;		/* the store's refusal is what is reported */
	bool		changed = true;

	pthread_mutex_lock(&chain->lock);
	if (chain->current.serial == serial)
	{
		before = chain->current;
		memset(&chain->current, 0, sizeof(chain->current));
		if (renew(chain, &ignored))
			changed = !same_text(before.access_key, chain->current.access_key) ||
				!same_text(before.secret_key, chain->current.secret_key) ||
				!same_text(before.session_token, chain->current.session_token);
		else
		{
			changed = false;
			chain->current = before;
			memset(&before, 0, sizeof(before));
		}
		credentials_clear(&before);
	}
	pthread_mutex_unlock(&chain->lock);
	return changed;
}

void
credentials_set_patience(CredentialChain *chain, int seconds)
{
	http_set_patience(chain->context.http, Min(seconds, SERVICE_PATIENCE_S));
}
