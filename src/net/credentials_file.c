/*
 * credentials_file.c
 *	  Credentials in files: the one that the DBA named, and those of AWS's tools.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include <fcntl.h>
#include <openssl/crypto.h>
#include <sys/stat.h>
#include <unistd.h>

#include "net/credentials_private.h"

#define FILE_MAX	(64 * 1024)

void
wipe_and_free(char *secret)
{
	if (secret != NULL)
		OPENSSL_cleanse(secret, strlen(secret));
	free(secret);
}

void
profile_free(Profile *p)
{
	wipe_and_free(p->access_key);
	wipe_and_free(p->secret_key);
	wipe_and_free(p->session_token);
	wipe_and_free(p->process);
	free(p->role_arn);
	free(p->token_file);
	memset(p, 0, sizeof(*p));
}

/* ---- files ---- */

char *
read_secret_file(const char *path, bool must_be_private, const char *what, DrError *err)
{
	int			fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	char	   *text = NULL;
	ssize_t		n = -1;

	if (fd < 0 || fstat(fd, &st) != 0)
	{
		dr_error(err, DR_REFUSED, "could not open %s \"%s\": %s", what, path, strerror(errno));
		dr_hint(err, "The user that runs PostgreSQL, or pg_dr, must be able to read it.");
	}
	else if (!S_ISREG(st.st_mode) || (must_be_private && (st.st_mode & (S_IRWXG | S_IRWXO)) != 0))
	{
		dr_error(err, DR_REFUSED, "%s \"%s\" must be a regular file%s", what, path,
				 must_be_private ? " that only its owner can read" : "");
		if (must_be_private)
			dr_hint(err, "chmod 0600 \"%s\"", path);
	}
	else
	{
		text = pg_malloc0(FILE_MAX + 1);
		n = read(fd, text, FILE_MAX + 1);
		if (n < 0 || n > FILE_MAX)
		{
			dr_error(err, DR_REFUSED, "%s \"%s\" could not be read or is too long", what, path);
			OPENSSL_cleanse(text, FILE_MAX + 1);
			free(text);
			text = NULL;
		}
		else
			text[n] = '\0';
	}
	if (fd >= 0)
		close(fd);
	return text;
}

/* ---- syntax ---- */

static char *
trim(char *text)
{
	char	   *end;

	text += strspn(text, " \t\r");
	end = text + strlen(text);
	while (end > text && strchr(" \t\r", end[-1]) != NULL)
		*--end = '\0';
	return text;
}

/* Is this "[name]", or "[profile name]" in the config file, where only the default has no prefix? */
static bool
section_is(char *line, const char *name, bool config)
{
	char	   *close = strchr(line, ']');
	char	   *title;

	if (close == NULL)
		return false;
	*close = '\0';
	title = trim(line + 1);
	if (config && strncmp(title, "profile", 7) == 0 && (title[7] == ' ' || title[7] == '\t'))
		return strcmp(trim(title + 7), name) == 0;
	return strcmp(title, name) == 0 && (!config || strcmp(name, "default") == 0);
}

static void
keep(char **to, const char *value)
{
	if (*to == NULL && value[0] != '\0')
		*to = pg_strdup(value);
}

static void
take_setting(Profile *p, const char *key, const char *value)
{
	if (strcmp(key, "aws_access_key_id") == 0)
		keep(&p->access_key, value);
	else if (strcmp(key, "aws_secret_access_key") == 0)
		keep(&p->secret_key, value);
	else if (strcmp(key, "aws_session_token") == 0)
		keep(&p->session_token, value);
	else if (strcmp(key, "credential_process") == 0)
		keep(&p->process, value);
	else if (strcmp(key, "role_arn") == 0)
		keep(&p->role_arn, value);
	else if (strcmp(key, "web_identity_token_file") == 0)
		keep(&p->token_file, value);
	else if (strcmp(key, "source_profile") == 0 || strcmp(key, "credential_source") == 0 ||
			 strncmp(key, "sso_", 4) == 0)
		p->unsupported = true;
}

void
profile_parse(char *text, const char *name, bool config, Profile *p)
{
	char	   *save = NULL;
	bool		ours = false;

	for (char *line = strtok_r(text, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save))
	{
		bool		nested = line[0] == ' ' || line[0] == '\t';	/* belongs to a setting that we don't know */
		char	   *start = trim(line);
		char	   *equals = strchr(start, '=');

		if (start[0] == '[')
		{
			ours = section_is(start, name, config);
			p->found |= ours;
		}
		else if (ours && !nested && start[0] != '#' && start[0] != ';' && equals != NULL)
		{
			*equals = '\0';
			take_setting(p, trim(start), trim(equals + 1));
		}
	}
}

/* ---- the files ---- */

static bool
parse_file(const char *path, const char *name, bool private, bool config, Profile *p, DrError *err)
{
	char	   *text = read_secret_file(path, private, "credentials file", err);

	if (text == NULL)
		return false;
	profile_parse(text, name, config, p);
	OPENSSL_cleanse(text, FILE_MAX + 1);
	free(text);
	return true;
}

bool
profile_read_private(const char *path, const char *name, Profile *p, DrError *err)
{
	if (!parse_file(path, name, true, false, p, err))
		return false;
	if (p->found)
		return true;
	dr_error(err, DR_REFUSED, "credentials file \"%s\" has no profile \"%s\"", path, name);
	return dr_hint(err, "A profile is a section: [%s], then aws_access_key_id = ... and aws_secret_access_key = ...", name);
}

/* Where a file of AWS's tools is; NULL: nowhere. */
static char *
default_path(const char *variable, const char *file)
{
	const char *named = getenv(variable);
	const char *home = getenv("HOME");

	if (named != NULL && named[0] != '\0')
		return pg_strdup(named);
	return home != NULL && home[0] == '/' ? psprintf("%s/.aws/%s", home, file) : NULL;
}

static bool
read_if_there(const char *variable, const char *file, const char *name, bool config, Profile *p,
			  DrError *err)
{
	char	   *path = default_path(variable, file);
	bool		ok = path == NULL || access(path, F_OK) != 0 ||
		parse_file(path, name, false, config, p, err);

	free(path);
	return ok;
}

bool
profile_read_default(const char *name, Profile *p, DrError *err)
{
	return read_if_there("AWS_SHARED_CREDENTIALS_FILE", "credentials", name, false, p, err) &&
		read_if_there("AWS_CONFIG_FILE", "config", name, true, p, err);
}

bool
profile_credentials(SourceContext *context, Profile *p, const char *where, Credentials *out,
					DrError *err)
{
	if (p->access_key != NULL && p->secret_key != NULL)
	{
		out->access_key = pg_strdup(p->access_key);
		out->secret_key = pg_strdup(p->secret_key);
		out->session_token = p->session_token ? pg_strdup(p->session_token) : NULL;
		return true;
	}
	if (p->role_arn != NULL && p->token_file != NULL)
		return web_identity_credentials(context, p->role_arn, p->token_file, out, err);
	if (p->process != NULL)
		return process_credentials(p->process, out, err);
	dr_error(err, DR_REFUSED, "profile \"%s\" in %s holds no access key", context->profile, where);
	if (p->unsupported)
		return dr_hint(err, "Profiles that take a role from another profile, or sign in by SSO, are not supported; "
					   "credential_process can do both.");
	return dr_hint(err, "It needs aws_access_key_id and aws_secret_access_key, credential_process, "
				   "or role_arn and web_identity_token_file.");
}
