/*
 * ahead_test.c
 *	  What is begun before the server asks, and what is not.
 */
#include "unit.h"

#include <pthread.h>
#include <unistd.h>

#include "flow/ahead.h"
#include "scratch.h"

static const char history[] = "00000002.history";
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char order[16];			/* h or s for what was begun, H or S for what was stored */
static int	failures;			/* of the history, still to come */

static void
note(char what)
{
	pthread_mutex_lock(&lock);
	order[strlen(order)] = what;
	pthread_mutex_unlock(&lock);
}

static bool
store(void *arg, WalWorkspace *space, const char *file, const char *path, WalStored *stored, DrError *err)
{
	bool		is_history = strcmp(file, history) == 0;

	note(is_history ? 'h' : 's');
	if (is_history)
		usleep(100000);			/* a segment would have begun by then */
	if (is_history && failures-- > 0)
		return dr_error(err, DR_IO, "not now");
	note(is_history ? 'H' : 'S');
	return true;
}

static void
make_ready(const char *file)
{
	char		path[128];
	FILE	   *f;

	snprintf(path, sizeof(path), "%s/pg_wal/archive_status/%s.ready", top, file);
	f = fopen(path, "w");
	assert_non_null(f);
	fclose(f);
}

/* A3: a timeline's segments come after its history, which may be long in coming. */
static void
test_history_first(void **state)
{
	const char *segments[] = {"000000020000000000000005", "000000020000000000000006"};
	char		path[128];
	WalStored	stored;
	DrError		err;
	Ahead	   *a;

	for (const char **dir = (const char *[]) {"pg_wal", "pg_wal/archive_status", NULL}; *dir; dir++)
	{
		snprintf(path, sizeof(path), "%s/%s", top, *dir);
		assert_int_equal(mkdir(path, 0700), 0);
	}
	make_ready(history);
	make_ready(segments[0]);
	make_ready(segments[1]);
	failures = 1;
	a = ahead_new(top, 4, 1, store, NULL);
	assert_false(ahead_take(a, history, &stored, &err));
	usleep(100000);
	assert_string_equal(order, "h");
	assert_ok(ahead_take(a, history, &stored, &err), err);
	assert_ok(ahead_take(a, segments[0], &stored, &err), err);
	assert_ok(ahead_take(a, segments[1], &stored, &err), err);
	assert_memory_equal(order, "hhH", 3);
	assert_int_equal(strlen(order), 7);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_history_first)};

	return cmocka_run_group_tests(tests, make_top, remove_top);
}
