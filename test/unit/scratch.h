/*
 * scratch.h
 *	  A directory for a test's repositories, removed when it ends.
 */
#ifndef PGDR_SCRATCH_H
#define PGDR_SCRATCH_H

#include <sys/stat.h>

#include "flow/wal.h"

static char top[64];

static int
make_top(void **state)
{
	strcpy(top, "/tmp/pgdr_t_unit.XXXXXX");
	return mkdtemp(top) == NULL ? -1 : 0;
}

static int
remove_top(void **state)
{
	char		command[128];

	snprintf(command, sizeof(command), "rm -rf '%s'", top);
	return system(command);
}

/* An empty one of its own in it. */
static inline Repository
new_repository(void)
{
	static int	n;
	Repository	repo;
	DrError		err;
	char		url[96];
	RepositoryAccess access = {.url = url,.key_file = "none"};

	snprintf(url, sizeof(url), "file://%s/%d", top, n++);
	assert_int_equal(mkdir(url + 7, 0700), 0);
	assert_ok(repository_open(&repo, &access, true, &err), err);
	return repo;
}

/* One object; its size. */
static inline uint64
put_sealed(Repository *repo, const char *name, SealCodec codec, const void *data, size_t n, uint64 plain, uint32 crc,
		   uint8 hash[32])
{
	SealBuffer	b;
	uint64		size;
	DrError		err;

	seal_buffer_init(&b, n);
	seal_buffer_append(&b, data, n);
	assert_ok(repository_seal(repo, &b, codec, plain, crc, name, &err), err);
	assert_int_equal(repository_put(repo, &b, name, hash, &err), STORE_OK);
	size = b.size;
	seal_buffer_free(&b);
	return size;
}

/* WAL, as its writers store it. */
static inline void
put_compressed(Repository *repo, const char *name, const uint8 *data, size_t n)
{
	WalWorkspace space;
	Bytes		plain = {.data = (uint8 *) data,.len = n};
	uint8		hash[32];
	DrError		err;

	wal_workspace_init(&space, 1);
	assert_ok(wal_seal(repo, &space, &plain, name, &err), err);
	assert_int_equal(repository_put(repo, &space.sealed, name, hash, &err), STORE_OK);
	wal_workspace_free(&space);
}

#endif							/* PGDR_SCRATCH_H */
