/*
 * tail_test.c
 *	  The tail before a store that takes its time, and before one that somebody
 *	  else wrote to.
 */
#include "unit.h"

#include <pthread.h>
#include <unistd.h>

#include "flow/lineage.h"
#include "flow/tail.h"
#include "flow/tail_claim.h"
#include "scratch.h"
#define TIMELINE	1
#include "wal_make.h"

#define SEG SEGMENT

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t go = PTHREAD_COND_INITIALIZER;
static bool held;
static int	waiting;
static StoreOps slow;
static const StoreOps *store;

static StoreResult
slow_put(Store *s, const char *name, const void *data, size_t n, const uint8 sha256[32], DrError *err)
{
	pthread_mutex_lock(&lock);
	waiting++;
	while (held)
		pthread_cond_wait(&go, &lock);
	waiting--;
	pthread_mutex_unlock(&lock);
	return store->put(s, name, data, n, sha256, err);
}

static void
let_go(void)
{
	pthread_mutex_lock(&lock);
	held = false;
	pthread_cond_broadcast(&go);
	pthread_mutex_unlock(&lock);
}

static int
wait_there(void)
{
	int			n;

	pthread_mutex_lock(&lock);
	n = waiting;
	pthread_mutex_unlock(&lock);
	return n;
}

static WalSource
source_of(Repository *repo)
{
	return (WalSource) {.repo = repo,.sysid = SYSID,.data_directory = top,.segment_size = SEG,.level = 1};
}

/* Commits wait: a segment's end goes to the repository by a piece, not by the archiver, however slow the store is. */
static void
test_end_waits_for_a_piece(void **state)
{
	static uint8 zeros[SEG];
	Repository	repo = new_repository();
	WalSource	source = source_of(&repo);
	TailStatus	status;
	XLogRecPtr	at;
	DrError		err;
	Tail	   *t;

	store = repo.store->ops;
	slow = *store;
	slow.put = slow_put;
	repo.store->ops = &slow;
	held = true;

	t = tail_new(&source, 1, 5 * SEG, &at, &err);
	assert_non_null(t);
	assert_int_equal(at, 5 * SEG);
	tail_pace(t, 1000, true);
	assert_ok(tail_ship(t, &err), err);
	for (int i = 0; i < 4; i++)
	{
		assert_true(tail_has_room(t));
		assert_ok(tail_feed(t, at, zeros, 1000, &err), err);
		at += 1000;
		assert_ok(tail_ship(t, &err), err);
		while (wait_there() <= i)
			usleep(1000);
	}
	assert_true(tail_has_room(t));	/* far from the end: it comes into what is pending */
	assert_ok(tail_feed(t, at, zeros, 6 * SEG - 1000 - at, &err), err);
	at = 6 * SEG - 1000;
	assert_ok(tail_ship(t, &err), err);
	assert_false(tail_has_room(t));

	let_go();
	while (!tail_has_room(t))
		usleep(1000);
	assert_ok(tail_feed(t, at, zeros, 1000, &err), err);
	for (int i = 0; i < 5000; i++)
	{
		assert_ok(tail_ship(t, &err), err);
		tail_status(t, &status);
		if (status.durable == 6 * SEG)
			break;
		usleep(1000);
	}
	assert_int_equal(status.durable, 6 * SEG);
}

/* ---- somebody else's ---- */

#define NAME	"000000010000000000000005"

/* The server's own file of segment BASE: so much of what was made. */
static void
write_own(size_t n)
{
	char		path[128];
	FILE	   *file;

	snprintf(path, sizeof(path), "%s/pg_wal/" NAME, top);
	file = fopen(path, "w");
	assert_non_null(file);
	assert_int_equal(fwrite(wal, 1, n, file), n);
	assert_int_equal(fclose(file), 0);
}

static void
put_piece(Repository *repo, const char *segment, uint32 incarnation, const uint8 *data, size_t n)
{
	TailName	tail = {.incarnation = incarnation};
	ObjectName	name;

	strcpy(tail.segment, segment);
	name_tail(name, SYSID, &tail);
	put_compressed(repo, name, data, n);
}

/* So many records, the last of which takes three pages. */
static void
make_records(int n)
{
	memset(wal, 0, sizeof(wal));
	at = BASE;
	before = 0;
	n_records = 0;
	page_header(0);
	while (n_records < n - 1)
		record(150, 10, 0);
	record(20000, 10, 0);
}

/* A server that has come to the end of what was made ships it; is it let? */
static bool
ships(WalSource *source, DrError *err)
{
	TailStatus	status;
	XLogRecPtr	from;
	Tail	   *t = tail_new(source, TIMELINE, at, &from, err);

	if (t == NULL)
		return false;
	tail_pace(t, 1000, true);
	assert_ok(tail_ship(t, err), *err);
	assert_ok(tail_feed(t, from, wal + (from - BASE), at - from, err), *err);
	for (;;)
	{
		if (!tail_ship(t, err))
			return false;
		tail_status(t, &status);
		if (status.durable == at)
			return true;
		usleep(1000);
	}
}

static void
assert_refused(WalSource *source, const char *detail)
{
	DrError		err;

	assert_false(ships(source, &err));
	assert_int_equal(err.code, DR_CONFLICT);
	assert_non_null(strstr(err.detail, detail));
}

/* What an older incarnation has is the server's, but for an unfinished record; or the server is another one. */
static void
test_set_back(void **state)
{
	Repository	repo = new_repository();
	WalSource	source = source_of(&repo);
	DrError		err;
	size_t		whole;

	/* The server has gone on, and not shipped it. */
	make_records(50);
	whole = ends[49] - BASE;
	put_piece(&repo, NAME, 1, wal, whole);
	record(100, 10, 0);
	write_own(SEG);
	assert_ok(ships(&source, &err), err);

	/* It lacks the last record: nothing is there, or something else. */
	make_records(49);
	write_own(starts[48] - BASE);
	assert_refused(&source, NAME);
	record(300, 10, 0);
	write_own(SEG);
	assert_refused(&source, NAME);

	/* That is given up by adopting this server, not by its having been the first. */
	assert_ok(lineage_adopt(&repo, SYSID, top, &source.lineage, &err), err);
	assert_refused(&source, NAME);
	assert_ok(lineage_adopt(&repo, SYSID, top, &source.lineage, &err), err);
	assert_ok(ships(&source, &err), err);

	/* Only what a crash leaves differs: the beginning of a record, whose end was not shipped. */
	repo = new_repository();
	source = source_of(&repo);
	make_records(50);
	put_piece(&repo, NAME, 1, wal, whole - 1);
	at = starts[49];
	before = starts[48];
	n_records = 49;
	memset(wal + (at - BASE), 0, sizeof(wal) - (at - BASE));
	record(200, 10, 0);
	write_own(SEG);
	assert_ok(ships(&source, &err), err);

	/* A reader can't use what is there: nothing is lost by beginning anew. */
	repo = new_repository();
	put_piece(&repo, NAME, 1, (const uint8 *) "no WAL", 6);
	assert_ok(ships(&source, &err), err);

	/* And of a segment to which this server has not come. */
	repo = new_repository();
	make_records(50);
	write_own(SEG);
	at = BASE + SEG;
	record(100, 10, 0);
	put_piece(&repo, "000000010000000000000006", 1, wal + SEG, at - BASE - SEG);
	make_records(50);
	assert_refused(&source, "000000010000000000000006");
}

static int	too_early;			/* so many gets of an archived segment are */

static StoreResult
early_get(Store *s, const char *name, size_t max, Bytes *out, DrError *err)
{
	if (object_kind(name) != KIND_WAL || too_early == 0)
		return store->get(s, name, max, out, err);
	too_early--;
	dr_error(err, DR_ABSENT, "not yet");
	return STORE_ABSENT;
}

typedef struct EarlyList
{
	StoreListFn fn;
	void	   *arg;
} EarlyList;

static bool
not_archived_yet(void *arg, const char *name, uint64 size, DrError *err)
{
	EarlyList  *l = arg;

	return (too_early > 0 && object_kind(name) == KIND_WAL) || l->fn(l->arg, name, size, err);
}

static bool
early_list(Store *s, const char *prefix, const char *after, bool deep, StoreListFn fn, void *arg, DrError *err)
{
	EarlyList	l = {fn, arg};

	return store->list(s, prefix, after, deep, not_archived_yet, &l, err);
}

/* It is archived while its pieces are looked at, and the server's file has gone: no other history. */
static void
test_archived_meanwhile(void **state)
{
	for (int i = 1; i <= 2; i++)
	{
		Repository	repo = new_repository();
		WalSource	source = source_of(&repo);
		ObjectName	name;
		TailQuestion q = {.timeline = TIMELINE,.first = BASE / SEG,.last = BASE / SEG,.needed = BASE / SEG};
		char		path[128];
		bool		beyond;
		DrError		err;

		store = repo.store->ops;
		slow = *store;
		slow.get = early_get;
		slow.list = early_list;
		repo.store->ops = &slow;
		make_records(50);
		put_piece(&repo, NAME, 1, wal, starts[20] - BASE);
		name_wal(name, SYSID, NAME);
		put_compressed(&repo, name, wal, SEG);
		snprintf(path, sizeof(path), "%s/pg_wal/" NAME, top);
		assert_int_equal(unlink(path), 0);
		too_early = i;
		assert_ok(tail_is_ours(&source, &q, &beyond, &err), err);
		assert_int_equal(too_early, 0);
		too_early = 100;
		assert_false(tail_is_ours(&source, &q, &beyond, &err));
		q.needed++;				/* the server removed it by right */
		assert_ok(tail_is_ours(&source, &q, &beyond, &err), err);
		assert_false(beyond);
		q.last = --q.first;
		assert_ok(tail_is_ours(&source, &q, &beyond, &err), err);
		assert_true(beyond);
		too_early = 0;
		write_own(SEG);
	}
}

/* Somebody else begins a newer incarnation: what is shipped from then on is not called durable. */
static void
test_taken_over(void **state)
{
	for (int taken = 0; taken < 3; taken++)
	{
		Repository	repo = new_repository();
		WalSource	source = source_of(&repo);
		TailStatus	status;
		XLogRecPtr	from;
		DrError		err;
		Tail	   *t;

		make_records(50);
		write_own(SEG);
		t = tail_new(&source, TIMELINE, BASE, &from, &err);
		assert_non_null(t);
		if (taken > 0)			/* of this segment, or only of the next */
			put_piece(&repo, taken == 1 ? NAME : "000000010000000000000006", 3, wal, 1000);
		tail_pace(t, 1000, true);
		assert_ok(tail_ship(t, &err), err);
		assert_ok(tail_feed(t, from, wal, ends[49] - BASE, &err), err);
		do
		{
			usleep(1000);
			tail_status(t, &status);
		} while (tail_ship(t, &err) && status.durable < ends[49]);
		if (taken == 0)
			assert_int_equal(status.durable, ends[49]);
		else
		{
			assert_true(status.durable < ends[49]);
			assert_int_equal(err.code, DR_CONFLICT);
			assert_non_null(strstr(err.detail, "It has begun incarnation 3"));
		}
	}
}

static int
make_data_directory(void **state)
{
	char		path[96];

	if (make_top(state) != 0)
		return -1;
	snprintf(path, sizeof(path), "%s/pg_dynshmem", top);
	if (mkdir(path, 0700) != 0)
		return -1;
	snprintf(path, sizeof(path), "%s/pg_wal", top);
	return mkdir(path, 0700);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_end_waits_for_a_piece),
		cmocka_unit_test(test_set_back),
		cmocka_unit_test(test_archived_meanwhile),
		cmocka_unit_test(test_taken_over),
	};

	return cmocka_run_group_tests(tests, make_data_directory, remove_top);
}
