/*
 * keyring.h
 *	  Key files, repository.json, and the keyring that wraps the epoch keys.
 *
 * doc/FORMAT.md sections 2 and 4.  All in memory; reading and storing is
 * flow/repository.c's.  Invariants:
 *
 *	K1	A reader that was given a key uses no clear stanza, and one that was
 *		told "none" no other: the repository can't choose for it.
 *	K2	A keyring generation is complete; the highest one counts.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_KEYRING_H
#define PGDR_KEYRING_H

#include "core/bytes.h"
#include "core/seal.h"

#define KEYRING_MAX_EPOCHS	1024

/* What opens a repository: a recipient's key, or the decision to have none. */
typedef struct Recipient
{
	bool		none;
	uint8		key[SEAL_KEY];
	uint8		id[8];
} Recipient;

typedef struct Keyring
{
	uint32		generation;
	uint8		repository_id[16];
	int			n;				/* epochs; the last one seals */
	EpochKey	epochs[KEYRING_MAX_EPOCHS];
} Keyring;

/* Longest key file that is looked at. */
#define KEY_FILE_MAX		4096

/* Text of a key file; "file" is for messages. */
extern bool key_file_parse(const char *text, const char *file, Recipient *out, DrError *err);

/* A new random key as the line that a key file holds; out has at least 90 bytes. */
extern void key_file_generate(char *out);

/* A keyring with one new epoch key, sealed for the recipient; appended to out. */
extern bool keyring_create(const uint8 repository_id[16], const Recipient *recipient,
						   uint32 generation, Bytes *out, DrError *err);

extern bool keyring_open(const uint8 *data, size_t n, const char *name,
						 const uint8 repository_id[16], const Recipient *recipient,
						 Keyring *out, DrError *err);

/* NULL when the keyring does not have it. */
extern const EpochKey *keyring_find(const Keyring *keyring, const uint8 id[8]);

#define REPOSITORY_TEXT_MAX	256

/* The exact text of repository.json; created is in seconds since 1970. */
extern void repository_text(const uint8 id[16], int64 created, char *out);
extern bool repository_parse(const char *text, size_t n, uint8 id[16], DrError *err);

#endif							/* PGDR_KEYRING_H */
