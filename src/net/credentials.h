/*
 * credentials.h
 *	  Who we are to the store: an access key, from where AWS's own tools look.
 *
 * In this order, the first that is configured counts, and its failure is an
 * error rather than a reason to look further:
 *
 *	1	a file that the DBA named (AWS shared-credentials syntax, mode 0600;
 *		a profile in it may have credential_process)
 *	2	the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN
 *	3	web identity: AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN (Kubernetes, IRSA)
 *	4	~/.aws/credentials and ~/.aws/config, or where AWS_SHARED_CREDENTIALS_FILE
 *		and AWS_CONFIG_FILE say
 *	5	the container's service: AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI
 *		(ECS, EKS pod identity)
 *	6	instance metadata, version 2 only, unless AWS_EC2_METADATA_DISABLED is true
 *
 * Invariants:
 *
 *	C1	No request here goes through a proxy.
 *	C2	A secret is in memory only, and in no message.
 *	C3	What will expire within CREDENTIALS_MARGIN_S is renewed before it is
 *		handed out; while renewal fails and the old is still valid, the old is.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_CREDENTIALS_H
#define PGDR_CREDENTIALS_H

#include "core/error.h"

#define CREDENTIALS_MARGIN_S	300

typedef struct Credentials
{
	char	   *access_key;
	char	   *secret_key;
	char	   *session_token;	/* NULL: none */
	int64		expires;		/* seconds since 1970; 0: never */
	uint64		serial;			/* differs with every renewal; see credentials_reject */
} Credentials;

/* The chain, with what it found last.  May be used by several threads at once. */
typedef struct CredentialChain CredentialChain;

typedef struct CredentialOptions
{
	const char *file;			/* NULL: none was named */
	const char *profile;		/* NULL: AWS_PROFILE, or "default" */
	const char *region;			/* for the security token service */
	const char *ca_file;		/* NULL: the system's */
} CredentialOptions;

/* Asks nobody yet. */
extern CredentialChain *credentials_open(const CredentialOptions *options, DrError *err);
extern void credentials_close(CredentialChain *chain);

/* A copy of the credentials that count now; the caller gives it to credentials_clear. */
extern bool credentials_get(CredentialChain *chain, Credentials *out, DrError *err);
extern void credentials_clear(Credentials *c);

/*
 * The store called these expired or unknown: get others for the next
 * credentials_get, unless another thread has done so since.  False: there can be
 * no others (they are written in a file or the environment, unchanged).
 */
extern bool credentials_reject(CredentialChain *chain, uint64 serial);

/* As HTTP_PATIENCE: how long to try again, 0 ends running requests. */
extern void credentials_set_patience(CredentialChain *chain, int seconds);

#endif							/* PGDR_CREDENTIALS_H */
