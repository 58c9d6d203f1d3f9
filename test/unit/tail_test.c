/*
 * tail_test.c
 *	  The tail before a store that takes its time.
 */
#include "unit.h"

#include <pthread.h>
#include <unistd.h>

#include "flow/tail.h"
#include "scratch.h"

#define SEG (1024 * 1024)

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

/* Commits wait: a segment's end goes to the repository by a piece, not by the archiver, however slow the store is. */
static void
test_end_waits_for_a_piece(void **state)
{
	static uint8 zeros[SEG];
	Repository	repo = new_repository();
	WalSource	source = {.repo = &repo,.sysid = "7",.data_directory = top,.segment_size = SEG,.level = 1};
	TailStatus	status;
	XLogRecPtr	at;
	DrError		err;
	char		path[96];
	Tail	   *t;

	snprintf(path, sizeof(path), "%s/pg_wal", top);
	assert_int_equal(mkdir(path, 0700), 0);
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

int
main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_end_waits_for_a_piece)};

	return cmocka_run_group_tests(tests, make_top, remove_top);
}
