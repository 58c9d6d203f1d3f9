/*
 * credentials_remote.c
 *	  Credentials from services: STS (web identity), the container's, the
 *	  instance's.
 *
 * None is reached through a proxy (C1).  Their answers are hostile: bounded,
 * parsed strictly, shown as printable text only.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include <openssl/crypto.h>
#include <time.h>
#include <unistd.h>

#include "core/names.h"
#include "net/credentials_private.h"
#include "net/sigv4.h"
#include "net/xml.h"

#define ECS_ADDRESS			"http://169.254.170.2"
#define INSTANCE_ADDRESS	"http://169.254.169.254"
#define INSTANCE_ADDRESS6	"http://[fd00:ec2::254]"
#define INSTANCE_ROLE_PATH	"/latest/meta-data/iam/security-credentials/"

static const char *
variable(const char *name)
{
	const char *value = getenv(name);

	return value != NULL && value[0] != '\0' ? value : NULL;
}

/* A whole answer with status 200, tried again while that may help. */
static bool
ask(SourceContext *context, const char *service, const HttpRequest *request, HttpReply *reply,
	DrError *err)
{
	HttpAttempts attempts = {0};

	for (;;)
	{
		HttpResult	result;

		reply->body.len = 0;
		result = http_send(context->http, request, reply, err);
		if (result == HTTP_REPLIED && reply->status == 200)
			return true;
		if ((result == HTTP_BROKEN || (result == HTTP_REPLIED && http_status_is_transient(reply->status))) &&
			http_pause(context->http, &attempts, reply))
			continue;
		if (result == HTTP_REPLIED)
			dr_error(err, DR_IO, "%s refuses credentials with status %d", service, reply->status);
		else
		{
			char		why[sizeof(err->message)];

			strlcpy(why, err->message, sizeof(why));
			dr_error(err, result == HTTP_STOPPED ? DR_CANCELLED : DR_IO, "%s can't be reached", service);
			dr_detail(err, "%s", why);
		}
		return false;
	}
}

/* Secrets pass through here. */
static void
forget_reply(HttpReply *reply)
{
	if (reply->body.data != NULL)
		OPENSSL_cleanse(reply->body.data, reply->body.cap);
	http_reply_free(reply);
}

static bool
is_one_line(const char *text)
{
	return strpbrk(text, "\r\n") == NULL;
}

static void
strip_end(char *text)
{
	size_t		n = strlen(text);

	while (n > 0 && strchr(" \t\r\n", text[n - 1]) != NULL)
		text[--n] = '\0';
}

/* http:// only to these; credentials and tokens would be readable on the way. */
static bool
is_trusted_plain_host(const char *url)
{
	static const char *const hosts[] = {"localhost", "127.0.0.1", "[::1]", "169.254.170.2", "169.254.170.23",
	"169.254.169.254", "[fd00:ec2::23]", "[fd00:ec2::254]"};

	for (int i = 0; i < (int) lengthof(hosts); i++)
	{
		size_t		n = strlen(hosts[i]);

		if (strncmp(url + 7, hosts[i], n) == 0 && (url[7 + n] == '\0' || strchr(":/", url[7 + n]) != NULL))
			return true;
	}
	return false;
}

static bool
address_is_allowed(const char *url, const char *from, DrError *err)
{
	if (strncmp(url, "https://", 8) == 0 || (strncmp(url, "http://", 7) == 0 && is_trusted_plain_host(url)))
		return true;
	dr_error(err, DR_CONFIG, "the address in %s may not be used for credentials", from);
	return dr_hint(err, "It must be https, or http to this machine or to one of the platform's own link-local addresses.");
}

/* ---- web identity ---- */

static void
sts_error(const HttpReply *reply, DrError *err)
{
	char		code[64] = "";
	char		message[256] = "";

	xml_text(reply->body.data, reply->body.len, "/ErrorResponse/Error/Code", code, sizeof(code));
	xml_text(reply->body.data, reply->body.len, "/ErrorResponse/Error/Message", message, sizeof(message));
	for (char *p = code; *p; p++)
		*p = *p < ' ' || *p > '~' ? '?' : *p;
	for (char *p = message; *p; p++)
		*p = *p < ' ' || *p > '~' ? '?' : *p;
	if (code[0] != '\0')
		dr_detail(err, "%s: %s", code, message);
	dr_hint(err, "Look at the role's trust policy, and at the token that the platform gives to this process.");
}

static bool
take_sts_reply(const HttpReply *reply, Credentials *out, DrError *err)
{
	static const char base[] = "/AssumeRoleWithWebIdentityResponse/AssumeRoleWithWebIdentityResult/Credentials/";
	static const char *const names[] = {"AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"};
	char		texts[4][XML_TEXT_MAX];
	int64		expires = 0;
	bool		ok = true;

	for (int i = 0; ok && i < 4; i++)
	{
		char	   *path = psprintf("%s%s", base, names[i]);

		ok = xml_text(reply->body.data, reply->body.len, path, texts[i], sizeof(texts[i])) && texts[i][0] != '\0';
		pfree(path);
	}
	ok = ok && time_parse(texts[3], &expires);
	if (ok)
	{
		out->access_key = pg_strdup(texts[0]);
		out->secret_key = pg_strdup(texts[1]);
		out->session_token = pg_strdup(texts[2]);
		out->expires = expires / 1000000;
	}
	else
		dr_error(err, DR_IO, "the security token service does not answer with credentials");
	OPENSSL_cleanse(texts, sizeof(texts));
	return ok;
}

static char *
sts_address(const SourceContext *context)
{
	const char *override = variable("AWS_ENDPOINT_URL_STS");

	if (override != NULL)
		return pg_strdup(override);
	return psprintf("https://sts.%s.amazonaws.com%s/", context->region,
					strncmp(context->region, "cn-", 3) == 0 ? ".cn" : "");
}

bool
web_identity_credentials(SourceContext *context, const char *role_arn, const char *token_file,
						 Credentials *out, DrError *err)
{
	static const char *const headers[] = {"content-type: application/x-www-form-urlencoded", NULL};
	char	   *token = read_secret_file(token_file, false, "web identity token file", err);
	char		session[32];
	char	   *url;
	char	   *body;
	HttpReply	reply = {0};
	bool		ok = false;

	if (token == NULL)
		return false;
	strip_end(token);
	snprintf(session, sizeof(session), "pg_dr-%d", (int) getpid());
	body = sign_query((SignPair[]) {
		{"Action", "AssumeRoleWithWebIdentity"}, {"Version", "2011-06-15"}, {"RoleArn", role_arn},
		{"RoleSessionName", variable("AWS_ROLE_SESSION_NAME") ? variable("AWS_ROLE_SESSION_NAME") : session},
		{"WebIdentityToken", token}}, 5);
	url = sts_address(context);
	if (address_is_allowed(url, "AWS_ENDPOINT_URL_STS", err))
	{
		HttpRequest request = {"POST", url, headers, body, strlen(body), CREDENTIALS_REPLY_MAX};

		ok = ask(context, "the security token service", &request, &reply, err);
		if (ok)
			ok = take_sts_reply(&reply, out, err);
		else if (reply.status != 0)
			sts_error(&reply, err);
	}
	forget_reply(&reply);
	wipe_and_free(body);
	wipe_and_free(token);
	free(url);
	return ok;
}

/* ---- the container's service ---- */

/* "authorization: ..." malloc'd, or "" when no token is given; NULL: err is set. */
static char *
container_authorization(DrError *err)
{
	const char *file = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
	const char *token = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN");
	char	   *text = NULL;
	char	   *header = NULL;

	if (file != NULL)
	{
		text = read_secret_file(file, false, "container authorization token file", err);
		if (text == NULL)
			return NULL;
		strip_end(text);
		token = text;
	}
	if (token == NULL)
		header = pg_strdup("");
	else if (!is_one_line(token))
		dr_error(err, DR_CONFIG, "the container's authorization token is not one line");
	else
		header = psprintf("authorization: %s", token);
	wipe_and_free(text);
	return header;
}

bool
container_credentials(SourceContext *context, Credentials *out, DrError *err)
{
	const char *relative = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
	const char *full = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI");
	char	   *url = relative ? psprintf(ECS_ADDRESS "%s%s", relative[0] == '/' ? "" : "/", relative) : pg_strdup(full);
	char	   *authorization = NULL;
	HttpReply	reply = {0};
	bool		ok = address_is_allowed(url, "AWS_CONTAINER_CREDENTIALS_FULL_URI", err) &&
		(authorization = container_authorization(err)) != NULL;

	if (ok)
	{
		const char *const headers[] = {authorization[0] ? authorization : NULL, NULL};
		HttpRequest request = {"GET", url, headers, NULL, 0, CREDENTIALS_REPLY_MAX};

		ok = ask(context, "the container's credentials service", &request, &reply, err) &&
			credentials_from_json((char *) reply.body.data, reply.body.len, "Token",
								  "the container's credentials service", out, err);
	}
	forget_reply(&reply);
	wipe_and_free(authorization);
	free(url);
	return ok;
}

/* ---- instance metadata, version 2 ---- */

static const char instance[] = "the instance metadata service";

static const char *
instance_address(void)
{
	const char *mode = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE");

	if (variable("AWS_EC2_METADATA_SERVICE_ENDPOINT") != NULL)
		return variable("AWS_EC2_METADATA_SERVICE_ENDPOINT");
	return mode != NULL && pg_strcasecmp(mode, "ipv6") == 0 ? INSTANCE_ADDRESS6 : INSTANCE_ADDRESS;
}

/* One text of it, below base; NULL: err is set.  Malloc'd; may be a secret. */
static char *
instance_text(SourceContext *context, const char *method, const char *path, const char *header, DrError *err)
{
	const char *base = instance_address();
	size_t		n = strlen(base);
	char	   *url = psprintf("%.*s%s", (int) (n > 0 && base[n - 1] == '/' ? n - 1 : n), base, path);
	const char *const headers[] = {header, NULL};
	bool		put = strcmp(method, "PUT") == 0;
	HttpRequest request = {method, url, headers, put ? "" : NULL, 0, CREDENTIALS_REPLY_MAX};
	HttpReply	reply = {0};
	char	   *text = NULL;

	if (address_is_allowed(url, "AWS_EC2_METADATA_SERVICE_ENDPOINT", err) &&
		ask(context, instance, &request, &reply, err))
	{
		text = pnstrdup(reply.body.data ? (char *) reply.body.data : "", reply.body.len);
		strip_end(text);
	}
	forget_reply(&reply);
	free(url);
	return text;
}

/* The first role's name: part of a path, so of a strict grammar. */
static bool
role_is_valid(char *roles)
{
	roles[strcspn(roles, "\r\n")] = '\0';
	return roles[0] != '\0' && strlen(roles) <= 128 &&
		strspn(roles, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+=,.@_-") == strlen(roles);
}

bool
instance_credentials(SourceContext *context, Credentials *out, DrError *err)
{
	char	   *token = instance_text(context, "PUT", "/latest/api/token",
									 "x-aws-ec2-metadata-token-ttl-seconds: 21600", err);
	char	   *header = NULL;
	char	   *role = NULL;
	char	   *path = NULL;
	char	   *json = NULL;
	bool		ok = token != NULL && (is_one_line(token) || dr_error(err, DR_IO, "%s answers with nonsense", instance));

	if (ok)
	{
		header = psprintf("x-aws-ec2-metadata-token: %s", token);
		role = instance_text(context, "GET", INSTANCE_ROLE_PATH, header, err);
		ok = role != NULL && (role_is_valid(role) || dr_error(err, DR_IO, "%s names no role", instance));
	}
	if (ok)
	{
		path = psprintf("%s%s", INSTANCE_ROLE_PATH, role);
		json = instance_text(context, "GET", path, header, err);
		ok = json != NULL && credentials_from_json(json, strlen(json), "Token", instance, out, err);
	}
	wipe_and_free(token);
	wipe_and_free(header);
	wipe_and_free(json);
	free(role);
	free(path);
	return ok;
}
