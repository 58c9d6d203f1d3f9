/*
 * sigv4.h
 *	  AWS Signature Version 4, as S3 wants it: the Authorization header of a request.
 *
 * Pure: no clock, no network.  Path and query are given decoded and encoded
 * here, once, so that what is signed is what is sent.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_SIGV4_H
#define PGDR_SIGV4_H

#include "core/bytes.h"

typedef struct SignPair
{
	const char *name;			/* of a header: lower case */
	const char *value;
} SignPair;

#define SIGN_PAIRS_MAX	24

typedef struct SignRequest
{
	const char *method;
	const char *path;			/* decoded, begins with '/' */
	const SignPair *query;		/* decoded, in any order */
	int			n_query;
	const SignPair *headers;	/* every one is signed; host and x-amz-date among them */
	int			n_headers;
	const char *payload_hash;	/* hex SHA-256 of the body */

	const char *access_key;
	const char *secret_key;
	const char *region;
	const char *service;
	const char *time;			/* "20260131T120000Z", as in x-amz-date */
} SignRequest;

#define SIGN_TIME_SIZE	17

/* out: SIGN_TIME_SIZE bytes. */
extern void sign_time(char *out, int64 unix_time);

/* The pairs as "a=b&c=d", encoded and sorted: the query to send.  Malloc'd. */
extern char *sign_query(const SignPair *query, int n);

/* "AWS4-HMAC-SHA256 Credential=...".  Malloc'd. */
extern char *sign_authorization(const SignRequest *r);

#endif							/* PGDR_SIGV4_H */
