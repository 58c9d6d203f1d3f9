/*
 * repository.h
 *	  An open repository: a store, its identity and its keys; sealed objects in
 *	  and out.
 *
 * Invariants:
 *
 *	R1	A repository is created only where nothing is: never a new key, or a
 *		new identity, beside data that an older one sealed.
 *	R2	"It is not there" is believed only while repository.json is there: a
 *		directory whose mount has gone is not an empty repository.
 *	R3	What get hands out was authenticated under its own name, whole.
 *	R4	What is handed out of a part of an object was authenticated under the
 *		object's name, the part's place, and the size that the object had when it
 *		was sealed.  What else there is in it, nobody has looked at.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_REPOSITORY_H
#define PGDR_REPOSITORY_H

#include "core/codec.h"
#include "core/keyring.h"
#include "store/store.h"

/* The objects of one level, or all below: names in order.  Caller frees each and the array. */
typedef struct Listing
{
	char	  **names;
	uint64	   *sizes;
	size_t		n;
} Listing;

typedef struct Repository
{
	Store	   *store;
	Recipient	recipient;
	uint8		id[16];
	Keyring		keyring;
	bool		created;		/* by this open */
	Listing		top;			/* when access asked for it: what was at the top */
} Repository;

/* Read a key file ("none": no encryption). */
extern bool recipient_load(const char *key_file, Recipient *out, DrError *err);

/*
 * Open it; with "create", make what is not there where nothing is (R1), once a
 * probe has shown that the store keeps its rules.
 */
typedef struct RepositoryAccess
{
	const char *url;
	const char *key_file;
	const char *credentials_file;	/* NULL: none was named */
	bool		impatient;		/* somebody waits: soon say what is wrong, if it is at once */
	bool		list_top;		/* into Repository.top, at the same time */
	StoreFindingFn finding;		/* what the probe of a new one found; may be NULL */
	void	   *arg;
} RepositoryAccess;

extern bool repository_open(Repository *repo, const RepositoryAccess *access, bool create,
							DrError *err);
extern void repository_close(Repository *repo);

/* After STORE_ABSENT: is the repository itself still there (R2)? */
extern bool repository_confirm_absent(Repository *repo, DrError *err);

/* Seal what was appended to b as one object of plain bytes and store it. */
extern bool repository_seal(Repository *repo, SealBuffer *b, SealCodec codec, uint64 plain_length,
							uint32 plain_crc, const char *name, DrError *err);
extern StoreResult repository_put(Repository *repo, const SealBuffer *b, const char *name,
								  uint8 hash[32], DrError *err);

/*
 * Open the object that store_get brought into raw.  *content points into it.
 */
extern bool repository_unseal(Repository *repo, const char *name, Bytes *raw, SealHeader *header,
							  uint8 **content, size_t *n, DrError *err);

/*
 * Fetch an object and open it.  *content points into raw.  repository_get_plain
 * undoes the codec too, into plain.
 */
extern StoreResult repository_get(Repository *repo, const char *name, size_t max, Bytes *raw,
								  SealHeader *header, uint8 **content, size_t *n, DrError *err);
extern StoreResult repository_get_plain(Repository *repo, const char *name, size_t max,
										Bytes *plain, SealHeader *header, DrError *err);

/*
 * Is the object of this size what was stored under its name, as far as its
 * beginning and its end tell?  Two small requests.
 */
extern bool repository_check_ends(Repository *repo, const char *name, uint64 size, SealHeader *header,
								  DrError *err);

/*
 * An object of a known size in part.  get_head and get_chunks append to out: its
 * first OBJECT_HEAD bytes, and chunks [first, first + n) as they are sealed.
 * unseal_chunks opens such chunks in their place (R4).
 */
extern bool repository_get_head(Repository *repo, const char *name, Bytes *out, DrError *err);
extern bool repository_get_chunks(Repository *repo, const char *name, uint64 size, uint64 first,
								  uint64 n, Bytes *out, DrError *err);
extern bool repository_unseal_chunks(Repository *repo, const char *name, const uint8 head[OBJECT_HEAD],
									 uint64 size, uint8 *chunks, uint64 first, uint64 n,
									 size_t *plain_n, DrError *err);

extern bool repository_list(Repository *repo, const char *prefix, bool deep, Listing *out,
							DrError *err);
/* One level, the names that sort after this one. */
extern bool repository_list_after(Repository *repo, const char *prefix, const char *after,
								  Listing *out, DrError *err);
extern void listing_free(Listing *listing);

/*
 * Packs that a conveyor has under way: three at least, so that the network's
 * delay hides behind the others, and few more, because each is 32 MiB.
 */
#define REQUESTS_IN_FLIGHT(jobs)	Max(3 * (jobs) / 4, 3)

/* Largest object of each kind that a reader looks at. */
#define PACK_OBJECT_MAX		(64 * 1024 * 1024)
#define WAL_OBJECT_MAX		((size_t) 1200 * 1024 * 1024)
#define MANIFEST_OBJECT_MAX	((size_t) 4 * 1024 * 1024 * 1024)
#define SMALL_OBJECT_MAX	(1024 * 1024)

#endif							/* PGDR_REPOSITORY_H */
