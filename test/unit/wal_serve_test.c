/*
 * wal_serve_test.c
 *	  What recovery is told while somebody stores what it asks for: a store whose
 *	  next replies are those of a moment ago.
 */
#include "unit.h"

#include <unistd.h>

#include "flow/wal_serve.h"
#include "scratch.h"
#include "wal_make.h"

static Repository repo;
static StoreOps late;
static const StoreOps *store;
static const char *not_yet;		/* the next get of an object whose name ends so is too early */
static int	gets;
static int	lists;

static StoreResult
late_get(Store *s, const char *name, size_t max, Bytes *out, DrError *err)
{
	gets++;
	if (not_yet != NULL && strlen(name) > strlen(not_yet) && strcmp(name + strlen(name) - strlen(not_yet), not_yet) == 0)
	{
		not_yet = NULL;
		dr_error(err, DR_ABSENT, "not yet");
		return STORE_ABSENT;
	}
	return store->get(s, name, max, out, err);
}

static bool
count_list(Store *s, const char *prefix, const char *after, bool deep, StoreListFn fn, void *arg, DrError *err)
{
	lists++;
	return store->list(s, prefix, after, deep, fn, arg, err);
}

static void
begin(void)
{
	repo = new_repository();
	store = repo.store->ops;
	late = *store;
	late.get = late_get;
	late.list = count_list;
	repo.store->ops = &late;
	not_yet = NULL;
	gets = lists = 0;
}

static const char *
segment(void)
{
	static char name[25];

	wal_segment_name(name, TIMELINE, BASE / SEGMENT, SEGMENT);
	return name;
}

static void
put_segment(void)
{
	ObjectName	name;

	name_wal(name, SYSID, segment());
	put_compressed(&repo, name, wal, SEGMENT);
}

#define PIECE	(4 * XLOG_BLCKSZ)

static void
put_piece(uint32 incarnation, int n)
{
	TailName	tail = {.incarnation = incarnation,.offset = n * PIECE};
	ObjectName	name;

	strcpy(tail.segment, segment());
	name_tail(name, SYSID, &tail);
	put_compressed(&repo, name, wal + n * PIECE, PIECE);
}

/* Ask; what is handed out has so many of the segment's bytes, and zeros. */
static StoreResult
ask(const char *file, size_t length, DrError *err)
{
	WalServe	w = {.repo = &repo,.sysid = SYSID,.threads = 2};
	Bytes		plain = {0};
	StoreResult r = wal_serve(&w, file, &plain, err);

	if (r == STORE_OK && length > 0)
	{
		assert_int_equal(plain.len, SEGMENT);
		assert_memory_equal(plain.data, wal, length);
		for (size_t i = length; i < SEGMENT; i++)
			assert_int_equal(plain.data[i], 0);
	}
	bytes_free(&plain);
	wal_serve_free(&w);
	return r;
}

/* ---- history files ---- */

static void
history_file(void **state)
{
	static const uint8 text[] = "1\t0/3000000\tno recovery target specified\n";
	char		directory[128];
	DrError		err;

	begin();
	put_segment();
	assert_int_equal(ask("00000004.history", 0, &err), STORE_ABSENT);
	assert_int_equal(lists, 1);

	/* Somebody is about to store it, or died there. */
	snprintf(directory, sizeof(directory), "%s/" SYSID "/wal/00000004", repo.store->url + strlen("file://"));
	assert_int_equal(mkdir(directory, 0700), 0);
	assert_int_equal(ask("00000004.history", 0, &err), STORE_ABSENT);
	assert_int_equal(lists, 3);

	assert_int_equal(ask("00000003.history", 0, &err), STORE_FAILED);
	assert_int_equal(err.code, DR_DAMAGED);
	assert_non_null(strstr(err.detail, segment()));

	/* It came after it was asked for, and before it was listed. */
	put_compressed(&repo, SYSID "/wal/00000004/00000004.history", text, sizeof(text) - 1);
	not_yet = "00000004.history";
	assert_int_equal(ask("00000004.history", 0, &err), STORE_OK);
	repository_close(&repo);
}

/* ---- a segment that is archived just now ---- */

/* Its pieces go one after the other, in any order. */
static void
archived_meanwhile(void **state)
{
	static const struct
	{
		int			n;
		int			pieces[4];	/* still listed */
	}			cases[] = {{0, {0}}, {2, {1, 2}}, {2, {0, 2}}, {2, {0, 1}}, {4, {0, 1, 2, 3}}};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		DrError		err;

		begin();
		put_segment();
		for (int k = 0; k < cases[i].n; k++)
			put_piece(1, cases[i].pieces[k]);
		not_yet = segment();
		assert_ok(ask(segment(), SEGMENT, &err) == STORE_OK, err);
		assert_int_equal(lists, 1);
		repository_close(&repo);
	}
}

/* Nobody archives it: a crash left these pieces, and all that adjoins is what there is. */
static void
never_archived(void **state)
{
	DrError		err;

	begin();
	assert_int_equal(ask(segment(), 0, &err), STORE_ABSENT);
	put_piece(1, 1);
	assert_int_equal(ask(segment(), 0, &err), STORE_ABSENT);
	put_piece(1, 0);
	put_piece(1, 3);
	gets = lists = 0;
	assert_ok(ask(segment(), 2 * PIECE, &err) == STORE_OK, err);
	assert_int_equal(lists, 1);
	assert_int_equal(gets, 2 * 2 + 3);	/* the segment and what confirms its absence, twice; the pieces */
	put_piece(2, 0);
	assert_ok(ask(segment(), PIECE, &err) == STORE_OK, err);
	repository_close(&repo);
}

static int
make_wal(void **state)
{
	at = BASE;
	while (at < BASE + SEGMENT)
		record(5000, RM_XLOG_ID, XLOG_NOOP);
	return make_top(state);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(history_file),
		cmocka_unit_test(archived_meanwhile),
		cmocka_unit_test(never_archived),
	};

	return cmocka_run_group_tests(tests, make_wal, remove_top);
}
