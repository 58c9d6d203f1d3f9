/*
 * repository_test.c
 *	  Repositories in real directories: creation in a race, and a directory that
 *	  goes away under an open store.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "unit.h"
#include "scratch.h"

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "flow/lineage.h"
#include "flow/repository.h"

#define RACERS	8
#define RACES	50

static bool
open_repository(Repository *repo, const char *url, DrError *err)
{
	RepositoryAccess access = {.url = url, .key_file = "none"};

	return repository_open(repo, &access, true, err);
}

static StoreResult
put_text(Store *store, const char *name, const char *text, DrError *err)
{
	uint8		hash[32];

	sha256(text, strlen(text), hash);
	return store_put(store, name, text, strlen(text), hash, err);
}

typedef struct Racer
{
	pthread_barrier_t *start;
	const char *url;
	const char *data_directory;
	Repository	repo;
	uint32		generation;
	DrError		err;
	bool		ok;
} Racer;

static void *
race(void *arg)
{
	Racer	   *r = arg;

	pthread_barrier_wait(r->start);
	r->ok = open_repository(&r->repo, r->url, &r->err) &&
		lineage_require(&r->repo, "7", r->data_directory, &r->generation, &r->err);
	return NULL;
}

/*
 * R1: however many create it at once, there is one repository, with one key; and
 * the processes of one cluster have one token.
 */
static void
test_creation_race(void **state)
{
	for (int n = 0; n < RACES; n++)
	{
		pthread_barrier_t start;
		pthread_t	threads[RACERS];
		Racer		racers[RACERS] = {0};
		char		url[96];
		char		data[96];
		char		dynshmem[128];
		int			creators = 0;

		snprintf(url, sizeof(url), "file://%s/race%d", top, n);
		snprintf(data, sizeof(data), "%s/data%d", top, n);
		snprintf(dynshmem, sizeof(dynshmem), "%s/pg_dynshmem", data);
		assert_int_equal(mkdir(url + 7, 0700), 0);
		assert_int_equal(mkdir(data, 0700), 0);
		assert_int_equal(mkdir(dynshmem, 0700), 0);
		pthread_barrier_init(&start, NULL, RACERS);
		for (int i = 0; i < RACERS; i++)
		{
			racers[i].start = &start;
			racers[i].url = url;
			racers[i].data_directory = data;
			assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
		}
		for (int i = 0; i < RACERS; i++)
			pthread_join(threads[i], NULL);
		for (int i = 0; i < RACERS; i++)
		{
			if (!racers[i].ok)
				fail_msg("race %d: %s %s", n, racers[i].err.message, racers[i].err.detail);
			assert_memory_equal(racers[i].repo.id, racers[0].repo.id, 16);
			assert_int_equal(racers[i].repo.keyring.n, 1);
			assert_int_equal(racers[i].generation, 1);
			assert_memory_equal(&racers[i].repo.keyring.epochs[0], &racers[0].repo.keyring.epochs[0], sizeof(EpochKey));
			creators += racers[i].repo.created;
		}
		for (int i = 0; i < RACERS; i++)
			repository_close(&racers[i].repo);
		assert_true(creators >= 1 && creators <= 2);	/* one made the identity, one the keyring */
		pthread_barrier_destroy(&start);
	}
}

/* R1: a repository that lost its identity or its keyring is not a new one. */
static void
test_not_recreated(void **state)
{
	static const char *const lost[] = {"repository.json", "keys/00000001"};

	for (int i = 0; i < (int) lengthof(lost); i++)
	{
		Repository	repo;
		DrError		err;
		char		url[96];
		char		path[128];

		snprintf(url, sizeof(url), "file://%s/lost%d", top, i);
		assert_int_equal(mkdir(url + 7, 0700), 0);
		assert_ok(open_repository(&repo, url, &err), err);
		assert_int_equal(put_text(repo.store, "7/lineage/00000001", "x", &err), STORE_OK);
		repository_close(&repo);
		snprintf(path, sizeof(path), "%s/%s", url + 7, lost[i]);
		assert_int_equal(unlink(path), 0);
		assert_false(open_repository(&repo, url, &err));
		assert_int_equal(err.code, DR_DAMAGED);
		assert_true(access(path, F_OK) != 0);
	}
}

/* An open store neither writes into a directory that was moved away nor answers for it. */
static void
test_moved_away(void **state)
{
	char		path[80];
	char		away[96];
	char		url[96];
	const char *names[] = {"a/b"};
	Bytes		data = {0};
	Store	   *store;
	DrError		err;

	snprintf(path, sizeof(path), "%s/moved", top);
	snprintf(away, sizeof(away), "%s.away", path);
	snprintf(url, sizeof(url), "file://%s", path);
	assert_int_equal(mkdir(path, 0700), 0);
	store = store_open(url, NULL, &err);
	assert_non_null(store);
	assert_true(store_prepare(store, &err));
	assert_int_equal(put_text(store, "a/b", "x", &err), STORE_OK);
	assert_int_equal(rename(path, away), 0);
	for (int replaced = 0; replaced < 2; replaced++)
	{
		assert_int_equal(put_text(store, "a/c", "x", &err), STORE_FAILED);
		assert_int_equal(store_get(store, "a/b", 100, &data, &err), STORE_FAILED);
		assert_int_equal(store_get(store, "a/d", 100, &data, &err), STORE_FAILED);
		assert_false(store_remove(store, names, 1, &err));
		assert_int_equal(mkdir(path, 0700) == 0, replaced == 0);
	}
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(rename(away, path), 0);
	assert_int_equal(store_get(store, "a/b", 100, &data, &err), STORE_OK);
	data.len = 0;
	assert_int_equal(store_get_range(store, "a/b", 0, 1, &data, &err), STORE_OK);
	assert_int_equal(data.len, 1);
	assert_int_equal(store_get_range(store, "a/b", 1, 1, &data, &err), STORE_FAILED);
	assert_int_equal(err.code, DR_DAMAGED);
	assert_int_equal(put_text(store, "a/b", "y", &err), STORE_TAKEN);
	bytes_free(&data);
	store_close(store);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_creation_race),
		cmocka_unit_test(test_not_recreated),
		cmocka_unit_test(test_moved_away),
	};

	return cmocka_run_group_tests_name("repository", tests, make_top, remove_top);
}
