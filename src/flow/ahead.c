/*
 * ahead.c
 *	  Several WAL files on their way at once.
 *
 * The server asks for a file, the oldest that is ready, history files first.
 * What it will ask for next stands in pg_wal/archive_status, so threads begin
 * with that, in the same order.  A file that failed ahead of its time says
 * nothing: it is tried again when the server asks, and then its error counts.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/ahead.h"

#include <dirent.h>
#include <pthread.h>
#include <unistd.h>

#define FILE_NAME_MAX		40		/* the server's limit for what it archives */
#define KNOWN_MAX			64		/* found by one look at the directory */
#define AHEAD_BYTES			(256 * 1024 * 1024) /* of segments in memory at once; one always is */

typedef enum AheadState
{
	SLOT_FREE,
	SLOT_WAITS,
	SLOT_RUNS,
	SLOT_STORED,
	SLOT_FAILED
} AheadState;

typedef struct Slot
{
	AheadState	state;
	char		file[FILE_NAME_MAX + 1];
	WalStored	stored;
	DrError		err;
} Slot;

struct Ahead
{
	const char *data_directory;
	int			level;
	AheadStore	store;
	void	   *arg;
	int			threads;		/* wanted */
	int			started;

	pthread_mutex_t lock;
	pthread_cond_t work;		/* a slot waits */
	pthread_cond_t done;		/* a slot is stored or failed */
	Slot		slots[AHEAD_WINDOW];
	char		known[KNOWN_MAX][FILE_NAME_MAX + 1];	/* ready, in order, not yet in a slot */
	int			n_known;
	int			next_known;
};

int
ahead_threads(int jobs, uint32 segment_size)
{
	return Max(Min(Min(jobs + 2, AHEAD_WINDOW), (int) (AHEAD_BYTES / segment_size)), 1);
}

Ahead *
ahead_new(const char *data_directory, int threads, int level, AheadStore store, void *arg)
{
	Ahead	   *a = pg_malloc0(sizeof(*a));

	a->data_directory = data_directory;
	a->level = level;
	a->threads = threads;
	a->store = store;
	a->arg = arg;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->work, NULL);
	pthread_cond_init(&a->done, NULL);
	return a;
}

/* ---- the order of the server: history files first, then by name ---- */

static bool
is_history(const char *file)
{
	return strstr(file, ".history") != NULL;
}

static int
compare_files(const char *x, const char *y)
{
	bool		hx = is_history(x);
	bool		hy = is_history(y);

	return hx != hy ? (hx ? -1 : 1) : strcmp(x, y);
}

/* ---- what is ready ---- */

static Slot *
find_slot(Ahead *a, const char *file)
{
	for (int i = 0; i < AHEAD_WINDOW; i++)
		if (a->slots[i].state != SLOT_FREE && strcmp(a->slots[i].file, file) == 0)
			return &a->slots[i];
	return NULL;
}

/* Keep the first KNOWN_MAX of all that are offered. */
static void
offer(Ahead *a, const char *file)
{
	int			at = a->n_known;

	while (at > 0 && compare_files(file, a->known[at - 1]) < 0)
		at--;
	if (at == KNOWN_MAX)
		return;
	if (a->n_known < KNOWN_MAX)
		a->n_known++;
	memmove(a->known[at + 1], a->known[at], sizeof(a->known[0]) * (a->n_known - 1 - at));
	strcpy(a->known[at], file);
}

/* The server looks for itself: a directory that can't be read only means no look ahead. */
static void
look(Ahead *a, const char *after)
{
	char	   *path = psprintf("%s/pg_wal/archive_status", a->data_directory);
	DIR		   *dir = opendir(path);
	struct dirent *entry;

	a->n_known = a->next_known = 0;
	while (dir != NULL && (entry = readdir(dir)) != NULL)
	{
		size_t		n = strlen(entry->d_name);
		char		file[FILE_NAME_MAX + 1];
		WalFile		wal;

		if (n <= 6 || n - 6 > FILE_NAME_MAX || strcmp(entry->d_name + n - 6, ".ready") != 0)
			continue;
		memcpy(file, entry->d_name, n - 6);
		file[n - 6] = '\0';
		if (wal_file_parse(file, &wal) && compare_files(file, after) > 0 && find_slot(a, file) == NULL)
			offer(a, file);
	}
	if (dir != NULL)
		closedir(dir);
	pfree(path);
}

/* ---- slots ---- */

static void
fill_slot(Slot *slot, const char *file)
{
	slot->state = SLOT_WAITS;
	strlcpy(slot->file, file, sizeof(slot->file));
}

static Slot *
free_slot(Ahead *a)
{
	for (int i = 0; i < AHEAD_WINDOW; i++)
		if (a->slots[i].state == SLOT_FREE)
			return &a->slots[i];
	return NULL;
}

/*
 * Room for the file that is asked for: that of the last one that nobody works
 * on, which the server will ask for in its time.  All at work: wait.
 */
static Slot *
make_room(Ahead *a)
{
	Slot	   *last = free_slot(a);

	for (int i = 0; last == NULL && i < AHEAD_WINDOW; i++)
	{
		Slot	   *s = &a->slots[i];

		if (s->state != SLOT_RUNS && (last == NULL || compare_files(s->file, last->file) > 0))
			last = s;
	}
	return last;
}

/* What waits and comes first; A3. */
static Slot *
next_slot(Ahead *a)
{
	Slot	   *next = NULL;
	bool		history = false;

	for (int i = 0; i < AHEAD_WINDOW; i++)
	{
		Slot	   *s = &a->slots[i];

		if (s->state == SLOT_WAITS && (next == NULL || compare_files(s->file, next->file) < 0))
			next = s;
		history |= s->state == SLOT_RUNS && is_history(s->file);
	}
	return next != NULL && history && !is_history(next->file) ? NULL : next;
}

/* Fill free slots with what the server will ask for after "file". */
static void
look_ahead(Ahead *a, const char *file)
{
	bool		looked = false;
	Slot	   *slot;

	while ((slot = free_slot(a)) != NULL)
	{
		if (a->next_known == a->n_known)
		{
			if (looked)
				return;
			look(a, file);
			looked = true;
			if (a->n_known == 0)
				return;
		}
		if (compare_files(a->known[a->next_known], file) > 0 && find_slot(a, a->known[a->next_known]) == NULL)
			fill_slot(slot, a->known[a->next_known]);
		a->next_known++;
	}
}

/* A3: as if they had been tried. */
static void
give_up_waiting(Ahead *a)
{
	for (int i = 0; i < AHEAD_WINDOW; i++)
	{
		Slot	   *s = &a->slots[i];

		if (s->state != SLOT_WAITS)
			continue;
		s->state = SLOT_FAILED;
		dr_error(&s->err, DR_IO, "the history of a timeline could not be stored, which comes before \"%s\"", s->file);
	}
}

/* ---- threads ---- */

static void
run_slot(Ahead *a, Slot *slot, WalWorkspace *space)
{
	char	   *path = psprintf("%s/pg_wal/%s", a->data_directory, slot->file);
	bool		ok;

	slot->state = SLOT_RUNS;
	pthread_mutex_unlock(&a->lock);
	ok = a->store(a->arg, space, slot->file, path, &slot->stored, &slot->err);
	pfree(path);
	pthread_mutex_lock(&a->lock);
	slot->state = ok ? SLOT_STORED : SLOT_FAILED;
	if (is_history(slot->file))
	{
		if (!ok)
			give_up_waiting(a);
		pthread_cond_broadcast(&a->work);
	}
	pthread_cond_broadcast(&a->done);
}

static void *
work(void *arg)
{
	Ahead	   *a = arg;
	WalWorkspace space;

	wal_workspace_init(&space, a->level);
	pthread_mutex_lock(&a->lock);
	for (;;)
	{
		Slot	   *slot = next_slot(a);

		if (slot == NULL)
			pthread_cond_wait(&a->work, &a->lock);
		else
			run_slot(a, slot, &space);
	}
	return NULL;
}

static bool
start_threads(Ahead *a, DrError *err)
{
	pthread_t	thread;
	int			rc = 0;

	while (a->started < a->threads && (rc = pthread_create(&thread, NULL, work, a)) == 0)
		a->started++;
	return a->started > 0 || dr_error(err, DR_INTERNAL, "could not start a thread: %s", strerror(rc));
}

bool
ahead_take(Ahead *a, const char *file, WalStored *stored, DrError *err)
{
	Slot	   *slot;
	bool		ok;

	if (strlen(file) > FILE_NAME_MAX)
		return dr_error(err, DR_CONFIG, "\"%s\" is not the name of a WAL file", file);
	if (!start_threads(a, err))
		return false;
	pthread_mutex_lock(&a->lock);
	slot = find_slot(a, file);
	while (slot == NULL && (slot = make_room(a)) == NULL)
		pthread_cond_wait(&a->done, &a->lock);
	if (slot->state == SLOT_FAILED || strcmp(slot->file, file) != 0)
		slot->state = SLOT_FREE;
	if (slot->state == SLOT_FREE)
		fill_slot(slot, file);
	look_ahead(a, file);
	pthread_cond_broadcast(&a->work);
	while (slot->state == SLOT_WAITS || slot->state == SLOT_RUNS)
		pthread_cond_wait(&a->done, &a->lock);
	ok = slot->state == SLOT_STORED;
	if (ok)
		*stored = slot->stored;
	else
		*err = slot->err;
	slot->state = SLOT_FREE;
	pthread_mutex_unlock(&a->lock);
	return ok;
}
