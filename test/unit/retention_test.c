/*
 * retention_test.c
 *	  Policies, and what they keep: tables of inventories, and random ones (P1-P5
 *	  in core/retention.h).
 */
#include "unit.h"

#include "core/retention.h"

#define SEG			(16 * 1024 * 1024)
#define MAX_BACKUPS	64
#define MAX_WAL		600

static const char *const ids = "20300101T000000Z-full-%06x";

/* ---- a made-up repository ---- */

typedef struct World
{
	BackupInfo	infos[MAX_BACKUPS];
	RetentionBackup backups[MAX_BACKUPS];
	char		names[2][MAX_WAL][40];
	char	   *files[2][MAX_WAL];
	WalSet		wal;
	History		histories[1];
	Retention	r;
} World;

static void
world_init(World *w, const char *policy)
{
	DrError		err;

	memset(w, 0, sizeof(*w));
	w->wal.files = w->files[0];
	w->wal.noted = w->files[1];
	history_single(&w->histories[0], 1);
	assert_ok(retention_parse(&w->r.policy, policy, &err), err);
	w->r.segment_size = SEG;
	w->r.histories = w->histories;
	w->r.n_histories = 1;
	w->r.wal = &w->wal;
	w->r.backups = w->backups;
}

static void
world_free(World *w)
{
	history_free(&w->histories[0]);
}

/* Start and stop lie in one segment. */
static RetentionBackup *
add_backup(World *w, TimeLineID tli, uint64 segno, int64 stopped_at)
{
	BackupInfo *b = &w->infos[w->r.n];
	RetentionBackup *v = &w->backups[w->r.n];

	snprintf(b->id, sizeof(b->id), ids, (unsigned) w->r.n);
	strcpy(b->system_identifier, "7");
	b->wal_segment_size = SEG;
	b->timeline = tli;
	b->start_lsn = segno * SEG + 0x28;
	b->stop_lsn = segno * SEG + 0x100;
	b->stopped_at = stopped_at;
	v->info = b;
	v->has_packs = true;
	w->r.n++;
	return v;
}

static void
add_segment(World *w, TimeLineID tli, uint64 segno)
{
	size_t		n = w->wal.n;

	wal_segment_name(w->names[0][n], tli, segno, SEG);
	snprintf(w->names[1][n], sizeof(w->names[1][n]), "%.24s.frontier", w->names[0][n]);
	w->files[0][n] = w->names[0][n];
	w->files[1][n] = w->names[1][n];
	w->wal.n = w->wal.n_noted = n + 1;
}

/* ---- the policy's text ---- */

static void
test_parse(void **state)
{
	static const struct
	{
		const char *text;
		bool		good;
		int64		pitr;		/* hours */
		int			periods[N_PERIODS];
	}			cases[] = {
		{"pitr 7d, daily 7, weekly 4, monthly 12", true, 168, {7, 4, 12, 0}},
		{"yearly 3,pitr 36h", true, 36, {0, 0, 0, 3}},
		{"  weekly   2  ", true, 0, {0, 2, 0, 0}},
		{"pitr 2w", true, 336, {0}},
		{"", true, 0, {0}},
		{"  ", true, 0, {0}},
		{"pitr 7", false, 0, {0}},
		{"pitr 7m", false, 0, {0}},
		{"pitr 7days", false, 0, {0}},
		{"pitr 0d", false, 0, {0}},
		{"pitr -1d", false, 0, {0}},
		{"pitr 1d, pitr 2d", false, 0, {0}},
		{"daily 7d", false, 0, {0}},
		{"daily", false, 0, {0}},
		{"daily 0", false, 0, {0}},
		{"daily 100001", false, 0, {0}},
		{"daily 99999999999999", false, 0, {0}},
		{"daily 1,", false, 0, {0}},
		{",daily 1", false, 0, {0}},
		{"daily 1 weekly 1", false, 0, {0}},
		{"hourly 1", false, 0, {0}},
		{"Daily 1", false, 0, {0}},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		RetentionPolicy p;
		DrError		err;
		bool		ok = retention_parse(&p, cases[i].text, &err);

		if (ok != cases[i].good ||
			(ok && (p.pitr != cases[i].pitr * (DAY_US / 24) || memcmp(p.periods, cases[i].periods, sizeof(p.periods)) != 0)))
			fail_msg("\"%s\": %s", cases[i].text, ok ? "taken" : "refused");
	}
}

/* ---- tables ---- */

/*
 * Backups on days of 2030 (the first is a Tuesday), one a day at noon; WAL from
 * the first day on, one segment each.  "c": corrupt pages, "p": a pack is
 * missing, "o": of a timeline that is on no way.  "-5": day 5 has no segment.
 */
static void
test_rules(void **state)
{
	static const struct
	{
		const char *what;
		const char *policy;
		const char *backups;
		int			day;		/* of the clock */
		const char *kept;
		int			wal_from;	/* day; 0: all */
	}			cases[] = {
		{"nothing but the newest", "daily 1", "1 2 3", 3, "3", 3},
		{"the base and what days choose", "pitr 3d, daily 2", "1 2 5 6 7 8 9", 9, "6 8 9", 6},
		{"inside the window the base leads everywhere", "pitr 5d", "1 2 3 4 5 6 7", 7, "2 7", 2},
		{"the window is not full yet", "pitr 7d", "3 4 5", 5, "3 5", 3},
		{"a gap", "pitr 4d", "1 2 3 4 5 6 7 -5", 7, "3 5 6 7", 3},
		{"a gap before the base blocks nothing", "pitr 2d", "1 2 3 4 5 6 7 -3", 7, "5 7", 5},
		{"days that have a backup count", "daily 3", "1 2 3 20", 20, "2 3 20", 20},
		{"weeks", "weekly 2", "1 2 7 8 9 13", 13, "2 13", 13},
		{"weeks of two years", "weekly 2", "1 6 7", 7, "6 7", 7},
		{"months", "monthly 2", "1 30 31 32 40", 40, "31 40", 40},
		{"years", "yearly 1", "1 2", 2, "2", 2},
		{"corrupt pages: the newest without stays", "daily 1", "1 2c", 2, "1 2", 2},
		{"corrupt pages: the base is one without", "pitr 3d", "1 2 3c 4c 5 6 7", 7, "2 7", 2},
		{"a pack is missing: the neighbours stay", "daily 1", "1 2 3p", 3, "2 3", 2},
		{"a pack is missing: it goes as a whole one would", "daily 1", "1 2p 3", 3, "3", 3},
		{"WAL is missing", "daily 2", "1 2 3 4 -3", 4, "2 3 4", 4},
		{"none is whole", "daily 1", "1p 2p", 2, "1 2", 0},
		{"everything", "", "1 2 3", 3, "1 2 3", 0},
		{"another timeline counts for days only", "pitr 3d, daily 3", "1 2 3o 4o 8 9", 9, "2 8 9 4", 2},
		{"another timeline is no base", "pitr 3d", "1 2 5o 8 9", 9, "2 9", 2},
		{"a backup from the future", "daily 1", "1 2 3 50", 4, "3 50", 3},
		{"the clock runs ahead", "pitr 3d", "1 2 3 4 5 6 7 8 9", 900, "7 9", 7},
		{"the clock runs behind", "pitr 3d", "1 2 3 4 5 6 7 8 9", 5, "2 6 7 8 9", 2},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		static World w;
		char		kept[200] = "";
		int64		begin = INT64CONST(1893412800) * 1000000;	/* day 0, noon: 2029-12-31 */

		world_init(&w, cases[i].policy);
		for (const char *p = cases[i].backups; *p != '\0'; p += strcspn(p, " "), p += *p == ' ')
		{
			char	   *end;
			long		day = strtol(p, &end, 10);
			RetentionBackup *b;

			if (day < 0)
				continue;
			b = add_backup(&w, *end == 'o' ? 2 : 1, day, begin + day * DAY_US);
			w.infos[w.r.n - 1].corrupt_pages = *end == 'c';
			b->has_packs = *end != 'p';
		}
		for (int tli = 1; tli <= 2; tli++)
			for (int day = 1; day <= 50; day++)
			{
				char		gap[8];

				snprintf(gap, sizeof(gap), "-%d", day);
				if (strstr(cases[i].backups, gap) == NULL)
					add_segment(&w, tli, day);
			}
		w.r.clock = begin + cases[i].day * DAY_US + 1;
		w.r.newest_wal = 0;
		retention_judge(&w.r);
		for (size_t k = 0; k < w.r.n; k++)
		{
			char		want[8];
			char		list[200];
			bool		wanted;
			int			day = (int) (w.infos[k].start_lsn / SEG);

			snprintf(want, sizeof(want), " %d ", day);
			snprintf(list, sizeof(list), " %s ", cases[i].kept);
			wanted = strstr(list, want) != NULL;
			snprintf(kept + strlen(kept), sizeof(kept) - strlen(kept), " %d:%s", day, w.backups[k].reason);
			if (w.backups[k].keep != wanted)
				fail_msg("%s: day %d is %s (%s)", cases[i].what, day, wanted ? "not kept" : "kept", w.backups[k].reason);
			assert_true(w.backups[k].reason[0] != '\0');
		}
		if ((int) w.r.keep_from != cases[i].wal_from)
			fail_msg("%s: WAL from day %d", cases[i].what, (int) w.r.keep_from);
		world_free(&w);
	}
}

/* ---- random ones ---- */

static uint32 seed;

static uint32
pick(uint32 n)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % n;
}

static const char *const policies[] = {
	"pitr 7d, daily 7, weekly 4, monthly 12", "pitr 1d", "pitr 12h, daily 1", "daily 3", "weekly 2, yearly 1",
	"pitr 3w", "pitr 30d, monthly 2",
};

/* An hour's WAL is a segment; a backup in about one of eight hours. */
static void
random_world(World *w, int64 begin, int hours)
{
	world_init(w, policies[pick(lengthof(policies))]);
	for (int hour = 1; hour <= hours; hour++)
	{
		if (pick(40) > 0)
			add_segment(w, 1, hour);
		if (w->r.n < MAX_BACKUPS && pick(8) == 0)
		{
			RetentionBackup *b = add_backup(w, 1, hour, begin + hour * (DAY_US / 24));

			w->infos[w->r.n - 1].corrupt_pages = pick(6) == 0;
			b->has_packs = pick(10) > 0;
		}
	}
}

/* Can the hour be recovered with these backups and this WAL? */
static bool
recoverable(const World *w, const WalSet *wal, int hour, bool kept_only)
{
	char		segment[25];

	for (size_t i = 0; i < w->r.n; i++)
	{
		const RetentionBackup *b = &w->backups[i];

		if (b->whole && (b->keep || !kept_only) && b->info->start_lsn / SEG <= (uint64) hour &&
			plan_row_end(b->info, &w->histories[0], wal, segment) > (uint64) hour)
			return true;
	}
	return false;
}

static void
what_is_left(const World *w, WalSet *after, char **files)
{
	after->files = files;
	after->noted = w->wal.noted;
	after->n_noted = w->wal.n_noted;
	for (size_t i = 0; i < w->wal.n; i++)
	{
		WalFile		wal;

		assert_true(wal_file_parse(w->wal.files[i], &wal));
		if (retention_needs_segment(&w->r, wal.timeline, wal_segment_number(&wal, SEG)))
			after->files[after->n++] = w->wal.files[i];
	}
}

static void
check_newest(const World *w, uint32 first_seed)
{
	const RetentionBackup *newest = NULL;
	const RetentionBackup *clean = NULL;

	for (size_t i = 0; i < w->r.n; i++)
		if (w->backups[i].whole)
		{
			newest = &w->backups[i];
			if (newest->info->corrupt_pages == 0)
				clean = newest;
		}
	if ((newest != NULL && !newest->keep) || (clean != NULL && !clean->keep))
		fail_msg("seed %u: the newest goes", first_seed);
}

static void
test_random(void **state)
{
	static World w;
	static bool keep_before[MAX_BACKUPS];
	int64		begin = INT64CONST(1893412800) * 1000000;

	for (uint32 round = 0; round < 3000; round++)
	{
		int			hours = 24 + (int) pick(MAX_WAL - 24);
		uint32		first_seed = seed = round;
		WalSet		after = {0};
		char	   *files[MAX_WAL];
		DrError		err;

		random_world(&w, begin, hours);
		w.r.clock = begin + hours * (DAY_US / 24) + pick(48) * (DAY_US / 24);
		w.r.newest_wal = begin + hours * (DAY_US / 24);
		retention_judge(&w.r);
		check_newest(&w, first_seed);
		what_is_left(&w, &after, files);
		if (!retention_check(&w.r, &after, &err))
			fail_msg("seed %u: %s %s", first_seed, err.message, err.detail);

		/* P2 */
		for (int hour = 1; hour <= hours; hour++)
			if (w.r.policy.pitr > 0 && begin + hour * (DAY_US / 24) > w.r.now - w.r.policy.pitr &&
				recoverable(&w, &w.wal, hour, false) && !recoverable(&w, &after, hour, true))
				fail_msg("seed %u: hour %d of %d was promised", first_seed, hour, hours);

		/* P3: ten years later nothing has gone that had not a day after the last sign of life */
		w.r.clock = w.r.newest_wal + DAY_US;
		retention_judge(&w.r);
		for (size_t i = 0; i < w.r.n; i++)
			keep_before[i] = w.backups[i].keep;
		w.r.clock += 3650 * DAY_US;
		retention_judge(&w.r);
		for (size_t i = 0; i < w.r.n; i++)
			assert_int_equal(w.backups[i].keep, keep_before[i]);

		/* a clock that was set back */
		w.r.clock = begin + pick(hours) * (DAY_US / 24);
		retention_judge(&w.r);
		check_newest(&w, first_seed);
		for (size_t i = 0; i < w.r.n; i++)
			if (w.infos[i].stopped_at > w.r.clock && w.backups[i].whole)
				assert_true(w.backups[i].keep);
		world_free(&w);
	}
}

/* What would be lost unnoticed is not let go. */
static void
test_check(void **state)
{
	static World w;
	WalSet		after = {0};
	char	   *files[2];
	DrError		err;

	world_init(&w, "daily 2");
	add_backup(&w, 1, 1, DAY_US);
	add_backup(&w, 1, 4, 5 * DAY_US);
	for (int segno = 1; segno <= 4; segno++)
		add_segment(&w, 1, segno);
	w.r.clock = 5 * DAY_US;
	retention_judge(&w.r);
	assert_true(retention_needs_segment(&w.r, 1, 1));
	assert_false(retention_needs_segment(&w.r, 1, 2));
	assert_true(retention_needs_segment(&w.r, 1, 4));
	files[0] = w.files[0][0];
	files[1] = w.files[0][3];
	after.files = files;
	after.n = 2;
	assert_false(retention_check(&w.r, &after, &err));	/* segment 4 alone could be a crash's */
	assert_non_null(strstr(err.message, "would not notice"));
	after.noted = &w.files[1][1];
	after.n_noted = 1;
	assert_ok(retention_check(&w.r, &after, &err), err);
	after.n = 0;
	assert_false(retention_check(&w.r, &after, &err));
	assert_non_null(strstr(err.message, "could not be restored"));
	world_free(&w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_check),
	};

	return cmocka_run_group_tests_name("retention", tests, NULL, NULL);
}
