/*
 * error.h
 *	  Errors as values: what happened, to which object, what to do now.
 *
 * A function that can fail returns bool, takes a DrError as its last argument
 * and fills it exactly when it returns false.  Nothing below program/ prints.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_ERROR_H
#define PGDR_ERROR_H

#include "postgres_fe.h"

typedef enum DrCode
{
	DR_CONFIG,					/* what the DBA wrote is wrong */
	DR_REFUSED,					/* the store does not let us in: somebody else can change that */
	DR_KEY,						/* the key does not open this repository */
	DR_ABSENT,					/* the store said that it is not there */
	DR_CONFLICT,				/* the name is taken with other content */
	DR_LINEAGE,					/* another cluster owns this history */
	DR_DAMAGED,					/* bytes are not what was written */
	DR_IO,						/* the store, a file or the network failed */
	DR_CANCELLED,
	DR_INTERNAL
} DrCode;

typedef struct DrError
{
	DrCode		code;
	char		message[1024];
	char		detail[1024];	/* empty: none */
	char		hint[512];		/* empty: none */
} DrError;

/* Set the message and clear detail and hint.  Always returns false. */
extern bool dr_error(DrError *err, DrCode code, const char *fmt,...) pg_attribute_printf(3, 4);

/* Add to an error that is set.  Always return false. */
extern bool dr_detail(DrError *err, const char *fmt,...) pg_attribute_printf(2, 3);
extern bool dr_hint(DrError *err, const char *fmt,...) pg_attribute_printf(2, 3);

/* "io", "damaged", ... as in doc/PROTOCOL.md. */
extern const char *dr_code_name(DrCode code);

#endif							/* PGDR_ERROR_H */
