/*
 * retention.c
 *	  Which backups and which WAL a policy keeps, and why.
 *
 * Every rule only ever adds to what is kept.  Rules look at whole backups
 * first; then once more at all of them, which keeps those broken ones that they
 * would choose if they were whole.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/retention.h"

#include <time.h>

#define COUNT_MAX	100000

/* ---- the policy's text; src/server/guc.c refuses the same ---- */

static bool
bad_policy(DrError *err, const char *item)
{
	dr_error(err, DR_CONFIG, "\"%s\" is not a rule of retention", item);
	return dr_hint(err, "Write it as in: pitr 7d, daily 7, weekly 4, monthly 12, yearly 3. Each of them at most once.");
}

static bool
parse_rule(RetentionPolicy *p, const char *word, long count, const char *unit)
{
	static const char *const names[N_PERIODS] = {"daily", "weekly", "monthly", "yearly"};

	if (strcmp(word, "pitr") == 0)
	{
		int64		hours = strcmp(unit, "h") == 0 ? 1 : strcmp(unit, "d") == 0 ? 24 :
			strcmp(unit, "w") == 0 ? 7 * 24 : 0;

		if (p->pitr != 0 || hours == 0)
			return false;
		p->pitr = count * hours * (DAY_US / 24);
		snprintf(p->pitr_text, sizeof(p->pitr_text), "%ld%s", count, unit);
		return true;
	}
	for (int i = 0; i < N_PERIODS; i++)
		if (strcmp(word, names[i]) == 0 && p->periods[i] == 0 && unit[0] == '\0')
		{
			p->periods[i] = (int) count;
			return true;
		}
	return false;
}

bool
retention_parse(RetentionPolicy *p, const char *text, DrError *err)
{
	char	   *copy = pg_strdup(text);
	char	   *rest = copy;
	char	   *item;
	bool		ok = true;

	memset(p, 0, sizeof(*p));
	p->everything = text[strspn(text, " \t\n\v\f\r")] == '\0';
	while (!p->everything && ok && (item = strsep(&rest, ",")) != NULL)
	{
		char		word[16];
		char		unit[4] = "";
		long		count;
		int			end = 0;

		ok = (sscanf(item, " %15[a-z] %6ld%3[a-z] %n", word, &count, unit, &end) == 3 ||
			  (unit[0] = '\0', sscanf(item, " %15[a-z] %6ld %n", word, &count, &end) == 2)) &&
			end > 0 && item[end] == '\0' && count >= 1 && count <= COUNT_MAX && parse_rule(p, word, count, unit);
		if (!ok)
			bad_policy(err, item);
	}
	free(copy);
	return ok;
}

/* ---- backups ---- */

static uint64
first_segment(const Retention *r, const BackupInfo *b)
{
	return b->start_lsn / r->segment_size;
}

static uint64
last_segment(const Retention *r, const BackupInfo *b)
{
	return b->stop_lsn == 0 ? 0 : (b->stop_lsn - 1) / r->segment_size;
}

/* Its WAL is of one timeline. */
static bool
has_wal(const Retention *r, const BackupInfo *b)
{
	char		file[25];

	for (uint64 segno = first_segment(r, b); segno <= last_segment(r, b); segno++)
	{
		wal_segment_name(file, b->timeline, segno, r->segment_size);
		if (!wal_set_has(r->wal, file))
			return false;
	}
	return true;
}

/* On a way that counts, or on another timeline? */
static bool
on_way(const Retention *r, const BackupInfo *b)
{
	for (int i = 0; i < r->n_histories; i++)
		if (plan_on_history(b, &r->histories[i]))
			return true;
	return false;
}

static bool
is_clean(const RetentionBackup *b)
{
	return b->info->corrupt_pages == 0;
}

static void
keep(RetentionBackup *b, bool broken, const char *fmt,...) pg_attribute_printf(3, 4);

/* In the second pass, it concerns broken ones only. */
static void
keep(RetentionBackup *b, bool broken, const char *fmt,...)
{
	size_t		n;
	va_list		args;

	if (broken && b->whole)
		return;
	if (b->reason[0] != '\0')
		strlcat(b->reason, "; ", sizeof(b->reason));
	else if (broken)
		snprintf(b->reason, sizeof(b->reason), "%s is missing, but it would be kept otherwise: ",
				 b->has_packs ? "WAL" : "a pack");
	n = strlen(b->reason);
	va_start(args, fmt);
	vsnprintf(b->reason + n, sizeof(b->reason) - n, fmt, args);
	va_end(args);
	b->keep = true;
}

/* ---- candidates, in an order ---- */

typedef struct Candidates
{
	RetentionBackup **v;
	size_t		n;
} Candidates;

static int
compare_stop(const void *a, const void *b)
{
	const BackupInfo *x = (*(RetentionBackup *const *) a)->info;
	const BackupInfo *y = (*(RetentionBackup *const *) b)->info;

	if (x->stop_lsn != y->stop_lsn)
		return x->stop_lsn < y->stop_lsn ? -1 : 1;
	return strcmp(x->id, y->id);
}

static int
compare_time_newest_first(const void *a, const void *b)
{
	const BackupInfo *x = (*(RetentionBackup *const *) a)->info;
	const BackupInfo *y = (*(RetentionBackup *const *) b)->info;

	if (x->stopped_at != y->stopped_at)
		return x->stopped_at > y->stopped_at ? -1 : 1;
	return compare_stop(b, a);
}

/* Those on a history (NULL: any); broken ones too, if asked for; from the future only with "future". */
static Candidates
candidates(const Retention *r, const History *h, bool broken, bool future,
		   int (*compare) (const void *, const void *))
{
	Candidates	c = {pg_malloc(sizeof(RetentionBackup *) * (r->n + 1)), 0};

	for (size_t i = 0; i < r->n; i++)
	{
		RetentionBackup *b = &r->backups[i];

		if ((b->whole || broken) && (future || b->info->stopped_at <= r->now) &&
			(h == NULL || plan_on_history(b->info, h)))
			c.v[c.n++] = b;
	}
	qsort(c.v, c.n, sizeof(c.v[0]), compare);
	return c;
}

/* ---- the newest ---- */

/* The last one, and the last without corrupt pages. */
static void
keep_last(const Candidates *c, bool broken)
{
	if (c->n > 0)
		keep(c->v[c->n - 1], broken, "newest");
	for (size_t i = c->n; i-- > 0;)
		if (is_clean(c->v[i]))
		{
			if (i < c->n - 1)
				keep(c->v[i], broken, "newest without corrupt pages");
			break;
		}
}

static void
keep_newest(const Retention *r, bool broken)
{
	Candidates	all = candidates(r, NULL, broken, true, compare_time_newest_first);

	for (int i = 0; i < r->n_histories; i++)
	{
		Candidates	c = candidates(r, &r->histories[i], broken, true, compare_stop);

		if (i == 0 || r->histories[i].v[r->histories[i].n - 1].tli != r->histories[0].v[r->histories[0].n - 1].tli)
			keep_last(&c, broken);
		free(c.v);
	}
	if (all.n > 0 && !all.v[0]->keep)
		keep(all.v[0], broken, "newest");
	for (size_t i = 0; i < all.n && all.v[i]->info->stopped_at > r->now; i++)
		keep(all.v[i], broken, "it ended in the future, or the clock is wrong");
	free(all.v);
}

/* ---- pitr ---- */

/*
 * The last one that had ended when the time began, rather one without corrupt
 * pages; NULL: none had.  What lies behind another one in WAL can't have ended
 * before it, whatever the clock said: a clock that was behind makes no old base.
 */
static RetentionBackup *
base_of(const Candidates *c, int64 begin)
{
	RetentionBackup *any = NULL;
	RetentionBackup *clean = NULL;
	int64		ended = PG_INT64_MIN;

	for (size_t i = 0; i < c->n; i++)
	{
		ended = Max(ended, c->v[i]->info->stopped_at);
		if (ended > begin)
			break;
		any = c->v[i];
		if (is_clean(any))
			clean = any;
	}
	return clean != NULL ? clean : any;
}

/* P2: behind the base, what its WAL does not lead to without a gap. */
static void
keep_window(const Retention *r, const History *h, bool broken)
{
	Candidates	c = candidates(r, h, broken, false, compare_stop);
	RetentionBackup *base = base_of(&c, r->now - r->policy.pitr);
	uint64		reached = 0;
	bool		passed = false;
	char		segment[25];

	if (base != NULL)
		keep(base, broken, "base of pitr: every moment of the last %s", r->policy.pitr_text);
	else if (c.n > 0)
	{
		base = c.v[0];
		keep(base, broken, "base of pitr: oldest, and younger than %s", r->policy.pitr_text);
	}
	for (size_t i = 0; i < c.n; i++)
	{
		RetentionBackup *b = c.v[i];

		passed |= b == base;
		if (!passed || (b != base && last_segment(r, b->info) < reached))
			continue;
		if (b != base)
			keep(b, broken, is_clean(base) ? "WAL has a gap before it" : "older ones hold corrupt pages");
		if (is_clean(b))
		{
			base = b;			/* the next ones are held against this */
			reached = plan_row_end(b->info, h, r->wal, segment);
		}
	}
	free(c.v);
}

/* ---- days, weeks, months, years ---- */

/* Which one a time lies in, and its name. */
static int64
period_of(RetentionPeriod period, int64 us, char name[32])
{
	time_t		seconds = (time_t) (us / 1000000);
	struct tm	tm;

	gmtime_r(&seconds, &tm);
	switch (period)
	{
		case PERIOD_DAY:
			strftime(name, 32, "daily %Y-%m-%d", &tm);
			return us / DAY_US;
		case PERIOD_WEEK:
			strftime(name, 32, "weekly %G-W%V", &tm);
			return (us / DAY_US + 3) / 7;	/* the first day of 1970 was a Thursday */
		case PERIOD_MONTH:
			strftime(name, 32, "monthly %Y-%m", &tm);
			return tm.tm_year * 12 + tm.tm_mon;
		default:
			strftime(name, 32, "yearly %Y", &tm);
			return tm.tm_year;
	}
}

/* Of one period the newest, rather one of a way that counts, rather one without corrupt pages. */
static bool
is_better(const Retention *r, const RetentionBackup *a, const RetentionBackup *b)
{
	bool		way = on_way(r, a->info);

	if (way != on_way(r, b->info))
		return way;
	return is_clean(a) && !is_clean(b);
}

static void
keep_periods(const Retention *r, RetentionPeriod period, bool broken)
{
	Candidates	c = candidates(r, NULL, broken, false, compare_time_newest_first);
	size_t		i = 0;

	for (int n = 0; n < r->policy.periods[period] && i < c.n; n++)
	{
		char		name[32];
		char		other[32];
		int64		which = period_of(period, c.v[i]->info->stopped_at, name);
		RetentionBackup *best = c.v[i];

		for (i++; i < c.n && period_of(period, c.v[i]->info->stopped_at, other) == which; i++)
			if (is_better(r, c.v[i], best))
				best = c.v[i];
		keep(best, broken, "%s", name);
	}
	free(c.v);
}

/* ---- the whole ---- */

static void
apply_rules(const Retention *r, bool broken)
{
	keep_newest(r, broken);
	for (int i = 0; r->policy.pitr > 0 && i < r->n_histories; i++)
		if (i == 0 || r->histories[i].v[r->histories[i].n - 1].tli != r->histories[0].v[r->histories[0].n - 1].tli)
			keep_window(r, &r->histories[i], broken);
	for (int period = 0; period < N_PERIODS; period++)
		keep_periods(r, period, broken);
}

/* P3 */
static int64
believed_clock(const Retention *r)
{
	int64		newest = r->newest_wal <= r->clock ? r->newest_wal : 0;

	for (size_t i = 0; i < r->n; i++)
		if (r->backups[i].info->stopped_at <= r->clock)
			newest = Max(newest, r->backups[i].info->stopped_at);
	return newest == 0 ? r->clock : Min(r->clock, newest + RETENTION_CLOCK_LEAD);
}

/*
 * From the start of the first backup that pitr counts on; without pitr, from
 * that of the newest.  Where no backup is on a way, all WAL may be of use.
 */
static uint64
needed_from(const Retention *r)
{
	uint64		from = PG_UINT64_MAX;

	for (int i = 0; i < r->n_histories; i++)
	{
		Candidates	c = candidates(r, &r->histories[i], false, false, compare_stop);
		RetentionBackup *base = NULL;

		if (c.n > 0 && r->policy.pitr > 0)
			base = base_of(&c, r->now - r->policy.pitr);
		if (c.n > 0 && base == NULL)
			base = r->policy.pitr > 0 ? c.v[0] : c.v[c.n - 1];
		free(c.v);
		if (base == NULL)
			return 0;
		from = Min(from, first_segment(r, base->info));
	}
	return r->n_histories == 0 ? 0 : from;
}

void
retention_judge(Retention *r)
{
	size_t		whole = 0;

	r->now = believed_clock(r);
	r->keep_from = 0;
	for (size_t i = 0; i < r->n; i++)
	{
		RetentionBackup *b = &r->backups[i];

		b->whole = b->has_packs && has_wal(r, b->info);
		b->keep = false;
		b->reason[0] = '\0';
		whole += b->whole;
	}
	if (r->policy.everything || whole == 0)
	{
		for (size_t i = 0; i < r->n; i++)
			keep(&r->backups[i], false, r->policy.everything ? "pg_dr.retention is empty" : "no backup is whole");
		return;
	}
	apply_rules(r, false);
	apply_rules(r, true);
	r->keep_from = needed_from(r);
	for (size_t i = 0; i < r->n; i++)
		if (!r->backups[i].keep)
			strlcpy(r->backups[i].reason, "no rule keeps it", RETENTION_REASON_MAX);
}

bool
retention_needs_segment(const Retention *r, TimeLineID tli, uint64 segno)
{
	if (segno >= r->keep_from)
		return true;
	for (size_t i = 0; i < r->n; i++)
	{
		const BackupInfo *b = r->backups[i].info;

		if (r->backups[i].keep && b->timeline == tli &&
			segno >= first_segment(r, b) && segno <= last_segment(r, b))
			return true;
	}
	return false;
}

/* ---- what would be left ---- */

static bool
lost(DrError *err, const BackupInfo *b, const char *what)
{
	dr_error(err, DR_INTERNAL, "without that WAL, %s", what);
	return dr_detail(err, "This concerns backup %s.", b->id);
}

static bool
check_backup(const Retention *r, const BackupInfo *b, const History *h, const WalSet *after, DrError *err)
{
	char		segment[25];
	uint64		was = plan_row_end(b, h, r->wal, segment);
	uint64		is = plan_row_end(b, h, after, segment);
	Target		end = {.kind = TARGET_END};
	Plan		plan;
	DrError		gap;

	if (is == was)
		return true;
	if (is <= last_segment(r, b))
		return lost(err, b, "a backup that is kept could not be restored");
	if (first_segment(r, b) >= r->keep_from)
		return lost(err, b, "moments that are promised could not be recovered");
	/* It ends earlier than it did: then nobody may take that for the end of all. */
	if (plan_make(&plan, b, h, after, &end, &gap))
		return lost(err, b, "a restore would not notice that there had been more");
	return true;
}

bool
retention_check(const Retention *r, const WalSet *after, DrError *err)
{
	for (size_t i = 0; i < r->n; i++)
	{
		const RetentionBackup *b = &r->backups[i];
		History		own;
		bool		ok = true;

		if (!b->keep || !b->whole)
			continue;
		for (int k = 0; ok && k < r->n_histories; k++)
			if (plan_on_history(b->info, &r->histories[k]))
				ok = check_backup(r, b->info, &r->histories[k], after, err);
		if (ok && !on_way(r, b->info))
		{
			history_single(&own, b->info->timeline);
			ok = check_backup(r, b->info, &own, after, err);
			history_free(&own);
		}
		if (!ok)
			return false;
	}
	return true;
}
