/*
 * credentials_private.h
 *	  What the sources of credentials share: credentials.c (the chain, renewal),
 *	  credentials_file.c (files of AWS's tools), credentials_process.c
 *	  (credential_process), credentials_remote.c (services that are asked).
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_CREDENTIALS_PRIVATE_H
#define PGDR_CREDENTIALS_PRIVATE_H

#include "core/bytes.h"
#include "net/credentials.h"
#include "net/http.h"

#define CREDENTIALS_REPLY_MAX	(64 * 1024)

/* Everything that a source needs to know of the chain. */
typedef struct SourceContext
{
	const char *profile;
	const char *region;
	Http	   *http;			/* without a proxy (C1) */
} SourceContext;

/* ---- credentials_file.c ---- */

/* What a profile says; texts are malloc'd, NULL where it says nothing. */
typedef struct Profile
{
	bool		found;
	char	   *access_key;
	char	   *secret_key;
	char	   *session_token;
	char	   *process;
	char	   *role_arn;
	char	   *token_file;
	bool		unsupported;	/* source_profile, sso: AWS's tools could, we can't */
} Profile;

extern void profile_free(Profile *p);

/*
 * Add what a section of the text says: [name], or in AWS's config file [profile
 * name].  Values that are there already stay.  The text is changed.
 */
extern void profile_parse(char *text, const char *name, bool config, Profile *p);

/* The file that the DBA named: 0600, or an error. */
extern bool profile_read_private(const char *path, const char *name, Profile *p, DrError *err);

/* ~/.aws/credentials and config.  False: err; true with p->found false: there is nothing. */
extern bool profile_read_default(const char *name, Profile *p, DrError *err);

/* Credentials from what it says; "where" is for messages. */
extern bool profile_credentials(SourceContext *context, Profile *p, const char *where,
								Credentials *out, DrError *err);

/* A small file whole, NUL-terminated; the caller wipes and frees it. */
extern char *read_secret_file(const char *path, bool must_be_private, const char *what, DrError *err);

/* ---- credentials_process.c ---- */

/* A command line as AWS's tools split it: blanks, quotes, backslash.  NULL: malformed.  One block. */
extern char **process_split(const char *line);
extern bool process_credentials(const char *line, Credentials *out, DrError *err);

/* ---- credentials_remote.c ---- */

extern bool web_identity_credentials(SourceContext *context, const char *role_arn,
									 const char *token_file, Credentials *out, DrError *err);
extern bool container_credentials(SourceContext *context, Credentials *out, DrError *err);
extern bool instance_credentials(SourceContext *context, Credentials *out, DrError *err);

/* The JSON that a process or a service answers with; they name the token differently. */
extern bool credentials_from_json(const char *data, size_t n, const char *token_name,
								  const char *where, Credentials *out, DrError *err);

extern void wipe_and_free(char *secret);

#endif							/* PGDR_CREDENTIALS_PRIVATE_H */
