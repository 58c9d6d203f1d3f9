/*
 * plan.c
 *	  What a restore does, or why it can't be done.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/plan.h"

const char *
target_kind_name(TargetKind kind)
{
	static const char *const names[] = {NULL, "time", "lsn", "xid", "name", "immediate"};

	return names[kind];
}

bool
target_parse(Target *t, TargetKind kind, const char *text, DrError *err)
{
	t->kind = kind;
	t->text = text;
	if (kind == TARGET_TIME && !time_parse(text, &t->time))
	{
		dr_error(err, DR_CONFIG, "\"%s\" is not a time that leaves nothing to guess", text);
		return dr_hint(err, "Write it with its zone: 2026-01-31 12:00:00+01.");
	}
	if (kind == TARGET_LSN && !lsn_parse(text, &t->lsn))
	{
		dr_error(err, DR_CONFIG, "\"%s\" is not a WAL location", text);
		return dr_hint(err, "Write it as in 0/3000028.");
	}
	if (kind == TARGET_XID &&
		(text[0] == '\0' || strlen(text) > 20 || strspn(text, "0123456789") != strlen(text)))
		return dr_error(err, DR_CONFIG, "\"%s\" is not a transaction id", text);
	if (kind == TARGET_NAME && (text[0] == '\0' || strlen(text) > 63 || strpbrk(text, "\n\r") != NULL))
		return dr_error(err, DR_CONFIG, "the restore point's name must have 1 to 63 characters");
	return true;
}

bool
plan_on_history(const BackupInfo *b, const History *h)
{
	const TimelineEntry *e = history_find(h, b->timeline);

	return e != NULL && (e->end == InvalidXLogRecPtr || b->stop_lsn <= e->end);
}

bool
plan_backup_suits(const BackupInfo *b, const History *h, const Target *t)
{
	if (!plan_on_history(b, h))
		return false;
	if (t->kind == TARGET_TIME)
		return b->stopped_at <= t->time;
	if (t->kind == TARGET_LSN)
		return b->stop_lsn <= t->lsn;
	return true;
}

bool
wal_set_has(const WalSet *wal, const char *file)
{
	size_t		lo = 0;
	size_t		hi = wal->n;

	while (lo < hi)
	{
		size_t		mid = (lo + hi) / 2;
		int			c = strcmp(file, wal->files[mid]);

		if (c == 0)
			return true;
		if (c < 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	return false;
}

/* The lowest of some segments from segno on that the history uses; 0: none. */
static uint64
lowest_from(char *const *files, size_t count, const History *h, uint64 segno, uint32 size)
{
	uint64		lowest = 0;

	for (size_t i = 0; i < count; i++)
	{
		char		file[25];
		WalFile		w;
		uint64		n;

		strlcpy(file, files[i], sizeof(file));
		if (!wal_file_parse(file, &w))
			continue;
		n = wal_segment_number(&w, size);
		if (n >= segno && (lowest == 0 || n < lowest) &&
			history_segment_timeline(h, n, size) == w.timeline)
			lowest = n;
	}
	return lowest;
}

void
wal_set_add(WalSet *wal, const char *segment)
{
	size_t		at = wal->n;

	wal->files = pg_realloc(wal->files, sizeof(char *) * (wal->n + 1));
	for (; at > 0 && strcmp(wal->files[at - 1], segment) > 0; at--)
		wal->files[at] = wal->files[at - 1];
	wal->files[at] = pg_strdup(segment);
	wal->n++;
}

uint64
plan_row_end(const BackupInfo *b, const History *h, const WalSet *wal, char segment[25])
{
	uint32		size = b->wal_segment_size;
	uint64		segno = b->start_lsn / size;

	for (;; segno++)
	{
		wal_segment_name(segment, history_segment_timeline(h, segno, size), segno, size);
		if (!wal_set_has(wal, segment))
			return segno;
	}
}

/*
 * Say that segno is missing.  next: a segment behind it that is there; noted: a
 * segment from it on of which there is a note; 0: none.
 */
static bool
missing_segment(DrError *err, const BackupInfo *b, const History *h, uint64 segno, uint64 next,
				uint64 noted, const char *consequence)
{
	uint32		size = b->wal_segment_size;
	char		file[25];
	char		later[25];
	char		from[LSN_TEXT_MAX];
	char		to[LSN_TEXT_MAX];
	ObjectName	name;

	wal_segment_name(file, history_segment_timeline(h, segno, size), segno, size);
	name_wal(name, b->system_identifier, file);
	dr_error(err, DR_DAMAGED, "WAL segment \"%s\" is missing from the repository", file);
	lsn_format(from, segno * size);
	if (next > 0)
	{
		wal_segment_name(later, history_segment_timeline(h, next, size), next, size);
		lsn_format(to, next * size);
		dr_detail(err, "Object \"%s\" does not exist, but \"%s\" does: WAL from %s to %s is missing.",
				  name, later, from, to);
	}
	else if (noted > 0)
	{
		ObjectName	note;

		wal_segment_name(later, history_segment_timeline(h, noted, size), noted, size);
		name_frontier(note, b->system_identifier, later);
		dr_detail(err, "Object \"%s\" does not exist, but \"%s\" says that the archive reached segment %s.",
				  name, note, later);
	}
	else
		dr_detail(err, "Object \"%s\" does not exist: WAL from %s on is missing.", name, from);
	return dr_hint(err, "%s", consequence);
}

/* The server stops at a record that begins at the target or behind it, and fails where there is none. */
static bool
check_lsn_target(const Plan *plan, const BackupInfo *b, const WalSet *wal, const Target *t, DrError *err)
{
	XLogRecPtr	last = wal->last_record != InvalidXLogRecPtr ? wal->last_record : plan->end - 1;
	char		stop[LSN_TEXT_MAX];
	char		to[LSN_TEXT_MAX];
	char		end[LSN_TEXT_MAX];

	if (t->lsn >= b->stop_lsn && t->lsn <= last)
		return true;
	lsn_format(stop, b->stop_lsn);
	lsn_format(to, last);
	lsn_format(end, plan->end);
	dr_error(err, DR_CONFIG, "target location %s can't be reached with backup %s", t->text, b->id);
	if (last >= b->stop_lsn)
		dr_detail(err, "From this backup, every location from %s to %s can; its WAL ends at %s.", stop, to, end);
	else
		dr_detail(err, "No record of WAL begins behind the backup's end at %s.", stop);
	if (t->lsn < b->stop_lsn)
		return dr_hint(err, "Choose an earlier backup, or a later target.");
	return dr_hint(err, t->lsn > plan->end ? "The WAL that you ask for was never archived, or lies behind a gap." :
				   "No record begins there or behind it: give an earlier location, or none to recover all that there is.");
}

/* Targets that PostgreSQL would find out about only after hours of recovery. */
static bool
check_time_target(const Plan *plan, const BackupInfo *b, const WalSet *wal, const Target *t, DrError *err)
{
	char		text[TIME_TEXT_MAX];

	if (t->time > wal->reached_at)
	{
		time_format(text, wal->reached_at);
		dr_error(err, DR_CONFIG, "target time \"%s\" lies after the archived WAL", t->text);
		dr_detail(err, "The last segment, \"%s\", was archived at %s.", plan->last_segment, text);
		return dr_hint(err, "Give an earlier time, or none to recover all that there is.");
	}
	if (t->time >= b->stopped_at)
		return true;
	time_format(text, b->stopped_at);
	dr_error(err, DR_CONFIG, "target time \"%s\" can't be reached with backup %s", t->text, b->id);
	dr_detail(err, "The backup is consistent from %s on.", text);
	return dr_hint(err, "Choose an earlier backup, or a later target.");
}

/* Where the row ends, and what of it there is behind. */
static void
find_end(Plan *plan, const BackupInfo *b, const History *h, const WalSet *wal, uint64 *end)
{
	uint32		size = b->wal_segment_size;
	char		segment[25];

	*end = plan_row_end(b, h, wal, segment);
	plan->frontier = *end * size;
	plan->end = Max(plan->frontier, wal->tail_end);
	if (*end > b->start_lsn / size)
	{
		plan->frontier_timeline = history_segment_timeline(h, *end - 1, size);
		wal_segment_name(plan->last_segment, plan->frontier_timeline, *end - 1, size);
	}
}

bool
plan_make(Plan *plan, const BackupInfo *b, const History *h, const WalSet *wal, const Target *t,
		  DrError *err)
{
	uint32		size = b->wal_segment_size;
	uint64		last_needed = (b->stop_lsn - 1) / size;
	uint64		end;
	uint64		next;
	uint64		noted;

	memset(plan, 0, sizeof(*plan));
	plan->backup = b;
	plan->timeline = h->v[h->n - 1].tli;
	if (!plan_on_history(b, h))
	{
		dr_error(err, DR_CONFIG, "backup %s is not on the way to timeline %u", b->id, plan->timeline);
		return dr_hint(err, "Choose another backup, or another --target-timeline.");
	}
	find_end(plan, b, h, wal, &end);
	next = lowest_from(wal->files, wal->n, h, end, size);
	noted = lowest_from(wal->noted, wal->n_noted, h, end, size);
	/* A crash in the middle of archiving leaves some without the ones before. */
	plan->gap = noted > 0 || lowest_from(wal->files, wal->n, h, end + WAL_WINDOW + 1, size) > 0;
	if (end <= last_needed)
		return missing_segment(err, b, h, end, next, noted,
							   "The backup needs it to become consistent. Choose another backup, "
							   "or bring the object back from a copy.");
	if (t->kind == TARGET_IMMEDIATE)
		return true;			/* before any gap */
	if (t->kind == TARGET_LSN)
		return check_lsn_target(plan, b, wal, t, err);
	if (plan->gap && (t->kind != TARGET_TIME || t->time > wal->reached_at))
		return missing_segment(err, b, h, end, next, noted,
							   "Recovery can't go past this gap: give --target-lsn or --target-time before it, "
							   "a backup after it, or bring the object back from a copy.");
	if (t->kind == TARGET_TIME)
		return check_time_target(plan, b, wal, t, err);
	if (plan->end < h->v[h->n - 1].begin)
		return missing_segment(err, b, h, end, next, noted,
							   "The target timeline can't be reached: give an earlier --target-timeline, "
							   "or bring the object back from a copy.");
	return true;
}
