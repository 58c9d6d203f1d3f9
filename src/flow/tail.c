/*
 * tail.c
 *	  The unfinished segment, shipped in pieces while it is written.
 *
 * The clock of an interval runs from the first byte that was not shipped.  So
 * an idle server ships nothing, and one that fills segments faster than that
 * ships nothing either: before the interval is over the segment is the
 * archiver's.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/tail.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/step.h"
#include "flow/tail_claim.h"

#define PIECES_AT_ONCE		4
#define PIECES_OF_A_SEGMENT	1024	/* then a new incarnation begins, so that readers have few to fetch */
#define PENDING_MAX			(64 * 1024 * 1024)
#define MESSAGE_MAX			(16 * XLOG_BLCKSZ)	/* the walsender's */
#define LOOK_EVERY_US		1000000	/* at pg_wal, while something in it is not archived */
#define OTHERS_EVERY_US		10000000	/* for a newer incarnation, while pieces are stored */

typedef enum PieceState
{
	PIECE_FREE,
	PIECE_WAITS,
	PIECE_RUNS,
	PIECE_DONE,					/* durable, but something before it is not */
	PIECE_FAILED
} PieceState;

typedef struct Piece
{
	PieceState	state;
	TailName	name;
	XLogRecPtr	begin;
	XLogRecPtr	end;
	int64		since;			/* when its first byte came */
	int64		made_at;		/* when all had come that came before its end */
	Bytes		plain;
	uint64		size;			/* as stored */
	DrError		err;
} Piece;

struct Tail
{
	WalSource	o;
	TimeLineID	tli;
	int			wakeup;

	pthread_mutex_t lock;
	pthread_cond_t work;

	uint32		incarnation;
	XLogRecPtr	must_cover;		/* L2 */
	XLogRecPtr	received;
	Bytes		pending;		/* received, not in a piece, all of one segment */
	int64		pending_since;	/* by the clock on the wall; and */
	int64		pending_begun;	/* the same by the one that nobody sets */
	uint32		pieces_of_segment;	/* of the one that is received just now */
	XLogRecPtr	left_end;		/* what is left to the archiver ends here */
	int64		left_since;
	XLogRecPtr	durable;		/* L1 */
	int64		shipped_at;
	XLogRecPtr	first_segment;	/* that we ship: what is before is the archiver's */
	XLogRecPtr	archived_end;	/* of the last segment that the archiver told of, or of what is before the first */
	XLogRecPtr	settled;		/* everything before is archived */
	int64		look_at;		/* when to look again how far that is */
	int64		claimed_at;		/* L7: when it was ours, before the first piece */
	bool		begun;			/* the first piece is stored */
	int64		look_for_others_at;
	XLogRecPtr	taken_end;		/* L6: of the last segment that was archived when we began */

	int			interval_ms;
	bool		synchronous;
	Piece		pieces[PIECES_AT_ONCE];

	TailName   *stored;			/* not removed yet */
	size_t		n_stored;
	TailName   *unwanted;		/* to be removed */
	size_t		n_unwanted;
	bool		remove_failed;	/* said once */

	uint64		total_pieces;
	uint64		total_bytes;
};

static XLogRecPtr
segment_begin(const Tail *t, XLogRecPtr lsn)
{
	return lsn - lsn % t->o.segment_size;
}

static void
wake(Tail *t)
{
	uint64		one = 1;
	ssize_t		ignored = write(t->wakeup, &one, sizeof(one));

	(void) ignored;				/* full: then it is awake */
}

int
tail_wakeup_fd(Tail *t)
{
	return t->wakeup;
}

/* ---- names that are stored ---- */

static void
remember(TailName **list, size_t *n, const TailName *name)
{
	*list = array_room(*list, *n, sizeof(TailName));
	(*list)[(*n)++] = *name;
}

/* The lock is held.  Move those for which it is true to the unwanted ones. */
static void
drop_where(Tail *t, bool (*unwanted) (const TailName *name, const void *arg), const void *arg)
{
	size_t		kept = 0;

	for (size_t i = 0; i < t->n_stored; i++)
	{
		if (unwanted(&t->stored[i], arg))
			remember(&t->unwanted, &t->n_unwanted, &t->stored[i]);
		else
			t->stored[kept++] = t->stored[i];
	}
	t->n_stored = kept;
	if (t->n_unwanted > 0)
		pthread_cond_signal(&t->work);
}

static bool
segment_is_archived(const TailName *name, const void *last)
{
	return strcmp(name->segment, last) <= 0;
}

static bool
is_superseded(const TailName *name, const void *newest)
{
	const TailName *by = newest;

	return strcmp(name->segment, by->segment) == 0 && name->incarnation < by->incarnation;
}

/* What could not be removed is left to retention. */
static void
remove_unwanted(Tail *t)
{
	TailName   *list = t->unwanted;
	size_t		n = t->n_unwanted;
	ObjectName *names = pg_malloc(n * sizeof(ObjectName));
	const char **pointers = pg_malloc(n * sizeof(char *));
	DrError		err;
	bool		ok;

	t->unwanted = NULL;
	t->n_unwanted = 0;
	pthread_mutex_unlock(&t->lock);
	for (size_t i = 0; i < n; i++)
	{
		name_tail(names[i], t->o.sysid, &list[i]);
		pointers[i] = names[i];
	}
	ok = store_remove(t->o.repo->store, pointers, n, &err);
	free(list);
	free(names);
	free(pointers);
	pthread_mutex_lock(&t->lock);
	if (!ok && !t->remove_failed)
		fprintf(stderr, "could not remove pieces of archived segments, which are left to retention: %s\n", err.message);
	t->remove_failed = !ok;
}

/* ---- pieces ---- */

static bool
store_piece(Tail *t, Piece *p, WalWorkspace *space, DrError *err)
{
	ObjectName	name;
	uint8		hash[32];

	name_tail(name, t->o.sysid, &p->name);
	if (!wal_seal(t->o.repo, space, &p->plain, name, err) ||
		(t->o.may_store != NULL && !t->o.may_store(t->o.arg, err)))
		return false;
	step_reached("tail.sealed");
	if (repository_put(t->o.repo, &space->sealed, name, hash, err) != STORE_OK)
	{
		if (err->code == DR_CONFLICT)
			dr_hint(err, "Two servers write the same timeline. Stop the one that should not; "
					"the object is unchanged.");
		return false;
	}
	step_reached("tail.stored");
	p->size = space->sealed.size;
	return true;
}

/* L7 */
static bool
is_ours(const Tail *t, XLogRecPtr lsn, DrError *err)
{
	uint64		segno = lsn / t->o.segment_size;
	TailQuestion q = {.timeline = t->tli,.first = segno,.last = segno + WAL_WINDOW,.needed = segno};
	bool		beyond;

	return tail_is_ours(&t->o, &q, &beyond, err);
}

/* L7, before a piece is stored.  The first one may have waited for the archiver, the others count for nothing without it. */
static bool
may_begin(Tail *t, const Piece *p, DrError *err)
{
	bool		claimed;

	pthread_mutex_lock(&t->lock);
	claimed = t->begun || monotonic_now() - t->claimed_at < OTHERS_EVERY_US;
	pthread_mutex_unlock(&t->lock);
	return claimed || p->name.offset > 0 || is_ours(t, p->begin, err);
}

/* L7, after a piece was stored. */
static bool
is_ours_still(Tail *t, DrError *err)
{
	int64		now = monotonic_now();
	TailName	than = {0};
	TailName	newer;
	bool		look;
	bool		ours;

	pthread_mutex_lock(&t->lock);
	look = t->look_for_others_at <= now;
	if (look)
		t->look_for_others_at = now + OTHERS_EVERY_US;
	wal_segment_name(than.segment, t->tli, Max(t->settled, t->first_segment) / t->o.segment_size, t->o.segment_size);
	than.incarnation = t->incarnation;
	pthread_mutex_unlock(&t->lock);
	if (!look)
		return true;
	if (!tail_find_newer(&t->o, &than, &newer, err))
		return false;
	pthread_mutex_lock(&t->lock);
	ours = newer.incarnation <= t->incarnation; /* none, or begun by us meanwhile */
	pthread_mutex_unlock(&t->lock);
	if (ours)
		return true;
	dr_error(err, DR_CONFLICT, "another server ships the tail of timeline %u to this repository", t->tli);
	dr_detail(err, "It has begun incarnation %u in segment \"%s\"; this server's is %u.",
			  newer.incarnation, newer.segment, than.incarnation);
	return dr_hint(err, "Call dr_adopt() on the one that is to go on, then stop the other.");
}

/* The lock is held.  L1. */
static void
advance(Tail *t)
{
	bool		moved = t->durable != InvalidXLogRecPtr;

	while (moved)
	{
		moved = false;
		for (int i = 0; i < PIECES_AT_ONCE; i++)
		{
			Piece	   *p = &t->pieces[i];

			if (p->state != PIECE_DONE || p->begin > t->durable)
				continue;
			t->durable = Max(t->durable, p->end);
			t->shipped_at = Max(t->shipped_at, p->made_at);
			p->state = PIECE_FREE;
			moved = true;
		}
	}
}

/* The lock is held. */
static void
piece_is_stored(Tail *t, Piece *p)
{
	p->state = PIECE_DONE;
	t->total_pieces++;
	t->total_bytes += p->size;
	remember(&t->stored, &t->n_stored, &p->name);
	if (p->name.offset == 0)
	{
		t->begun = true;
		drop_where(t, is_superseded, &p->name); /* L3 */
	}
	advance(t);
}

static Piece *
next_piece(Tail *t)
{
	Piece	   *next = NULL;

	for (int i = 0; i < PIECES_AT_ONCE; i++)
	{
		Piece	   *p = &t->pieces[i];

		if (p->state == PIECE_WAITS && (next == NULL || p->end < next->end))
			next = p;
	}
	return next;
}

static void
run_piece(Tail *t, Piece *p, WalWorkspace *space)
{
	bool		ok;

	p->state = PIECE_RUNS;
	pthread_mutex_unlock(&t->lock);
	ok = may_begin(t, p, &p->err) && store_piece(t, p, space, &p->err) && is_ours_still(t, &p->err);
	pthread_mutex_lock(&t->lock);
	if (ok)
		piece_is_stored(t, p);
	else
		p->state = PIECE_FAILED;
	wake(t);
}

static void *
work(void *arg)
{
	Tail	   *t = arg;
	WalWorkspace space;

	wal_workspace_init(&space, t->o.level);
	pthread_mutex_lock(&t->lock);
	for (;;)
	{
		Piece	   *p = next_piece(t);

		if (p != NULL)
			run_piece(t, p, &space);
		else if (t->n_unwanted > 0)
			remove_unwanted(t);
		else
			pthread_cond_wait(&t->work, &t->lock);
	}
	return NULL;
}

/* ---- in ---- */

static Piece *
free_piece(Tail *t)
{
	for (int i = 0; i < PIECES_AT_ONCE; i++)
		if (t->pieces[i].state == PIECE_FREE)
			return &t->pieces[i];
	return NULL;
}

/* The beginning of the segment once more, from the server's file: all of it was flushed. */
static bool
read_beginning(const Tail *t, const char *segment, size_t n, Bytes *out, DrError *err)
{
	char	   *path = psprintf("%s/pg_wal/%s", t->o.data_directory, segment);
	int			fd = open(path, O_RDONLY | O_CLOEXEC);
	bool		ok = fd >= 0;

	bytes_reserve(out, n);
	while (ok && out->len < n)
	{
		ssize_t		r = pread(fd, out->data + out->len, n - out->len, out->len);

		if (r < 0 && errno == EINTR)
			continue;
		ok = r > 0;
		out->len += ok ? r : 0;
	}
	if (!ok)
		dr_error(err, DR_IO, "could not read WAL file \"%s\": %s", path, fd < 0 ? strerror(errno) : "it is too short");
	if (fd >= 0)
		close(fd);
	pfree(path);
	return ok;
}

/* The lock is held, there is a free piece, and something to put into it. */
static bool
make_piece(Tail *t, DrError *err)
{
	Piece	   *p = free_piece(t);
	XLogRecPtr	begin = t->received - t->pending.len;
	XLogRecPtr	first = segment_begin(t, begin);

	p->plain.len = 0;
	p->since = t->pending_since;
	p->made_at = time_now();
	wal_segment_name(p->name.segment, t->tli, begin / t->o.segment_size, t->o.segment_size);
	if (t->pieces_of_segment >= PIECES_OF_A_SEGMENT)
	{
		if (!read_beginning(t, p->name.segment, begin - first, &p->plain, err))
			return false;
		t->incarnation++;
		t->pieces_of_segment = 0;
		begin = first;
	}
	bytes_append(&p->plain, t->pending.data, t->pending.len);
	t->pending.len = 0;
	t->pieces_of_segment++;
	p->begin = begin;
	p->end = t->received;
	p->name.incarnation = t->incarnation;
	p->name.offset = (uint32) (begin - first);
	p->state = PIECE_WAITS;
	pthread_cond_signal(&t->work);
	return true;
}

/* The lock is held.  L2, L5, L6. */
static bool
may_begin_piece(const Tail *t)
{
	return t->pending.len > 0 && t->received >= t->must_cover && t->received > t->taken_end &&
		t->durable != InvalidXLogRecPtr && t->left_end <= t->durable;
}

/* The lock is held: the last byte of a segment has come (L4). */
static bool
end_segment(Tail *t, DrError *err)
{
	if (t->synchronous && may_begin_piece(t) && free_piece(t) != NULL)
	{
		if (!make_piece(t, err))
			return false;
	}
	else if (t->pending.len > 0)
	{
		if (t->left_end <= t->durable)
			t->left_since = t->pending_since;
		t->left_end = t->received;
		t->pending.len = 0;
	}
	t->pieces_of_segment = 0;
	return true;
}

/*
 * The lock is held.  May the next message end a segment, on whose last piece commits
 * wait?  Without a free piece it would be left to the archiver, and they to that.
 */
static bool
must_ship_end(const Tail *t)
{
	return t->synchronous && t->durable != InvalidXLogRecPtr && t->left_end <= t->durable &&
		t->o.segment_size - t->received % t->o.segment_size <= MESSAGE_MAX;
}

bool
tail_has_room(Tail *t)
{
	bool		room;

	pthread_mutex_lock(&t->lock);
	room = free_piece(t) != NULL ||
		(t->pending.len < Min(PENDING_MAX, t->o.segment_size) && !must_ship_end(t));
	pthread_mutex_unlock(&t->lock);
	return room;
}

bool
tail_feed(Tail *t, XLogRecPtr begin, const void *data, size_t n, DrError *err)
{
	const char *from = data;
	bool		ok = true;

	if (begin != t->received)
		return dr_error(err, DR_IO, "the WAL stream does not go on where it was");
	pthread_mutex_lock(&t->lock);
	while (ok && n > 0)
	{
		size_t		left = t->o.segment_size - t->received % t->o.segment_size;
		size_t		take = Min(n, left);

		if (t->pending.len == 0)
		{
			t->pending_since = time_now();
			t->pending_begun = monotonic_now();
		}
		bytes_append(&t->pending, from, take);
		t->received += take;
		from += take;
		n -= take;
		if (take == left)
			ok = end_segment(t, err);
	}
	pthread_mutex_unlock(&t->lock);
	return ok;
}

bool
tail_caught_up(Tail *t, DrError *err)
{
	char		segment[25];
	char		lsn[LSN_TEXT_MAX];

	if (t->received >= t->taken_end)
		return true;
	wal_segment_name(segment, t->tli, t->taken_end / t->o.segment_size - 1, t->o.segment_size);
	lsn_format(lsn, t->received);
	dr_error(err, DR_CONFLICT, "the repository has WAL of timeline %u that this server has not written", t->tli);
	dr_detail(err, "Segment \"%s\" is archived, and the server has come to %s.", segment, lsn);
	return dr_hint(err, "If another server writes the same timeline, stop the one that should not. If this one was set back to an "
				   "earlier state, restore from the repository, which has what it lost; or stop it, create standby.signal, "
				   "start it and promote it, so that it goes on with a timeline of its own.");
}

/* ---- out ---- */

/* The lock is held.  L1, L3, L4. */
static void
settle(Tail *t, XLogRecPtr until)
{
	char		last[25];

	t->settled = until;
	t->durable = Max(t->durable, until);
	for (int i = 0; i < PIECES_AT_ONCE; i++)
		if (t->pieces[i].state == PIECE_WAITS && t->pieces[i].end <= until)
			t->pieces[i].state = PIECE_FREE;
	advance(t);
	wal_segment_name(last, t->tli, until / t->o.segment_size - 1, t->o.segment_size);
	drop_where(t, segment_is_archived, last);
}

/*
 * That a segment is archived says nothing of those before it, when a crash has
 * taken the mark that they wait for the archiver.
 */
static void
look_at_pg_wal(Tail *t)
{
	XLogRecPtr	told;
	XLogRecPtr	until;
	bool		look;

	pthread_mutex_lock(&t->lock);
	told = t->archived_end;
	look = told > t->settled && t->look_at <= monotonic_now();
	pthread_mutex_unlock(&t->lock);
	if (!look)
		return;
	/* What we are told of needs no mark: the server sets it a moment later. */
	until = pg_wal_archived_until(&t->o, t->tli, told > t->first_segment ? told - t->o.segment_size : told);
	if (told > t->first_segment && until == told - t->o.segment_size)
		until = told;
	pthread_mutex_lock(&t->lock);
	if (until >= t->first_segment && until > t->settled)
		settle(t, until);
	t->look_at = monotonic_now() + LOOK_EVERY_US;
	pthread_mutex_unlock(&t->lock);
}

/* The lock is held. */
static int64
due_at(const Tail *t)
{
	if (!may_begin_piece(t))
		return INT64CONST(0x7fffffffffffffff);
	if (t->synchronous || t->pending.len >= PENDING_MAX)
		return 0;
	return t->pending_begun + (int64) t->interval_ms * 1000;
}

bool
tail_ship(Tail *t, DrError *err)
{
	uint64		woken;
	ssize_t		ignored = read(t->wakeup, &woken, sizeof(woken));
	bool		ok = true;

	(void) ignored;				/* nothing there: nobody woke us */
	look_at_pg_wal(t);
	pthread_mutex_lock(&t->lock);
	for (int i = 0; ok && i < PIECES_AT_ONCE; i++)
		if (t->pieces[i].state == PIECE_FAILED)
		{
			*err = t->pieces[i].err;
			ok = false;
		}
	if (ok && due_at(t) <= monotonic_now() && free_piece(t) != NULL)
		ok = make_piece(t, err);
	pthread_mutex_unlock(&t->lock);
	return ok;
}

int
tail_due_in(Tail *t)
{
	int64		at;
	int64		now = monotonic_now();

	pthread_mutex_lock(&t->lock);
	at = free_piece(t) == NULL ? now + 1000000 : due_at(t); /* a piece that ends wakes us */
	pthread_mutex_unlock(&t->lock);
	return (int) Max(Min((at - now + 999) / 1000, 1000), 0);
}

/* ---- what others say ---- */

void
tail_archived(Tail *t, const char *segment)
{
	WalFile		wal;
	XLogRecPtr	end;

	if (!wal_file_parse(segment, &wal) || wal.kind != KIND_WAL || wal.timeline != t->tli)
		return;
	end = (wal_segment_number(&wal, t->o.segment_size) + 1) * t->o.segment_size;
	pthread_mutex_lock(&t->lock);
	if (end > t->archived_end)
	{
		t->archived_end = end;
		t->look_at = 0;
	}
	pthread_mutex_unlock(&t->lock);
	wake(t);
}

void
tail_pace(Tail *t, int interval_ms, bool synchronous)
{
	pthread_mutex_lock(&t->lock);
	t->interval_ms = interval_ms;
	t->synchronous = synchronous;
	pthread_mutex_unlock(&t->lock);
	wake(t);
}

bool
tail_is_synchronous(Tail *t)
{
	bool		synchronous;

	pthread_mutex_lock(&t->lock);
	synchronous = t->synchronous;
	pthread_mutex_unlock(&t->lock);
	return synchronous;
}

/* The lock is held. */
static int64
earlier(int64 a, int64 b)
{
	return a == 0 || b < a ? b : a;
}

void
tail_status(Tail *t, TailStatus *s)
{
	memset(s, 0, sizeof(*s));
	pthread_mutex_lock(&t->lock);
	s->received = t->received;
	s->durable = t->durable;
	s->shipped_at = t->shipped_at;
	s->pieces = t->total_pieces;
	s->bytes = t->total_bytes;
	if (t->left_end > t->durable)
		s->waiting_since = t->left_since;
	for (int i = 0; i < PIECES_AT_ONCE; i++)
		if (t->pieces[i].state != PIECE_FREE && t->pieces[i].end > t->durable)
			s->waiting_since = earlier(s->waiting_since, t->pieces[i].since);
	if (t->pending.len > 0)
		s->waiting_since = earlier(s->waiting_since, t->pending_since);
	pthread_mutex_unlock(&t->lock);
}

/* ---- the beginning ---- */

/* L6.  A name that sorts behind the prefix, as all in a listing. */
static void
note_archived(Tail *t, const char *name)
{
	WalFile		wal;

	if (wal_file_parse(strrchr(name, '/') + 1, &wal) && wal.kind == KIND_WAL && wal.timeline == t->tli)
		t->taken_end = Max(t->taken_end, (wal_segment_number(&wal, t->o.segment_size) + 1) * t->o.segment_size);
}

/*
 * The incarnations that are there already, from this segment on and a little
 * before: we are the next one (L7), and what they left is known for removal.
 */
static bool
find_incarnation(Tail *t, uint64 segno, DrError *err)
{
	char		segment[25];
	Listing		l;

	wal_segment_name(segment, t->tli, segno - Min(segno, WAL_WINDOW), t->o.segment_size);
	if (!wal_list_after(t->o.repo, t->o.sysid, segment, &l, err))
		return false;
	t->incarnation = 1;
	for (size_t i = 0; i < l.n; i++)
	{
		TailName	name;

		if (!tail_name_parse(l.names[i], &name))
		{
			note_archived(t, l.names[i]);
			continue;
		}
		t->incarnation = Max(t->incarnation, name.incarnation + 1);
		remember(&t->stored, &t->n_stored, &name);
	}
	listing_free(&l);
	t->claimed_at = monotonic_now();
	return is_ours(t, t->first_segment, err);
}

static bool
start_threads(Tail *t, DrError *err)
{
	for (int i = 0; i < PIECES_AT_ONCE; i++)
	{
		pthread_t	thread;
		int			rc = pthread_create(&thread, NULL, work, t);

		if (rc != 0)
			return dr_error(err, DR_INTERNAL, "could not start a thread: %s", strerror(rc));
	}
	return true;
}

Tail *
tail_new(const WalSource *source, TimeLineID tli, XLogRecPtr flushed, XLogRecPtr *from, DrError *err)
{
	Tail	   *t = pg_malloc0(sizeof(*t));

	t->o = *source;
	t->tli = tli;
	t->interval_ms = 1000;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->work, NULL);
	t->must_cover = flushed;
	t->received = t->first_segment = t->archived_end = *from = segment_begin(t, flushed);
	t->wakeup = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (t->wakeup >= 0 && find_incarnation(t, flushed / t->o.segment_size, err) && start_threads(t, err))
		return t;
	if (t->wakeup < 0)
		dr_error(err, DR_INTERNAL, "could not create an event: %s", strerror(errno));
	return NULL;				/* the process ends with the op */
}
