/*
 * expire_test.c
 *	  Retention in real directories, with backups that share packs (E1-E4 in
 *	  flow/expire.h): whatever ends a run, every manifest has its packs.
 */
#include "unit.h"
#include "scratch.h"

#include <sys/stat.h>
#include <unistd.h>

#include "flow/expire.h"

#define SEG		(16 * 1024 * 1024)
#define DAY_0	(INT64CONST(1893412800) * 1000000)	/* 2029-12-31, noon */
#define SYSID	"7"

/* ---- what is in it ---- */

/* The same day again is a second later, for time passes between two runs. */
static void
on_day(int day)
{
	static int	calls = 0;

	time_set_ahead(0);
	time_set_ahead(DAY_0 + day * DAY_US + ++calls * INT64CONST(1000000) - time_now());
}

static void
id_of(char id[PGDR_BACKUP_ID_MAX + 1], int day, bool full)
{
	char		when[TIME_TEXT_MAX];

	time_format(when, DAY_0 + day * DAY_US);
	snprintf(id, PGDR_BACKUP_ID_MAX + 1, "%.4s%.2s%.2sT%.2s%.2s%.2sZ-%s-%06x", when, when + 5, when + 8, when + 11,
			 when + 14, when + 17, full ? "full" : "incremental", (unsigned) day);
}

/* One of day's own packs, and those of others: "1.1 2.3" are number 1 of day 1's and 3 of day 2's. */
static void
put_backup(Repository *repo, int day, int own, const char *others)
{
	BackupInfo	info = {.system_identifier = SYSID, .block_size = BLCKSZ, .segment_blocks = 131072,
		.wal_segment_size = SEG, .timeline = 1, .lineage = 1, .stop_timeline = 1, .data_directory = "/d", .host = "h",
		.backup_label = "l", .tablespace_map = "", .start_lsn = (uint64) day * SEG + 0x28, .stop_lsn = (uint64) day * SEG + 0x100,
		.started_at = DAY_0 + day * DAY_US, .stopped_at = DAY_0 + day * DAY_US};
	ManifestWriter *w;
	ManifestPack pack = {0};
	ManifestFile control = {.class = FILE_CONTROL,.mode = 0600,.path = "global/pg_control"};
	char		parent[PGDR_BACKUP_ID_MAX + 1];
	const Bytes *content;
	uint64		plain;
	uint32		crc;
	uint8		hash[32];
	ObjectName	name;
	DrError		err;
	char		segment[25];

	on_day(day);
	id_of(info.id, day, others[0] == '\0');
	strcpy(info.kind, others[0] == '\0' ? "full" : "incremental");
	id_of(parent, day - 1, day == 2);
	info.parent = others[0] == '\0' ? NULL : parent;
	w = manifest_writer_new(&info);
	manifest_write_directory(w, 0700, "global");
	manifest_write_file(w, &control);
	for (pack.number = 1; pack.number <= (uint32) own; pack.number++)
	{
		name_pack(name, SYSID, info.id, pack.number);
		pack.name = name;
		pack.size = put_sealed(repo, name, CODEC_NONE, "pack", 4, 0, 0, hash);
		manifest_write_pack(w, &pack);
	}
	pack.number = PACK_INHERITED + 1;
	for (const char *p = others; *p != '\0'; p += strcspn(p, " "), p += *p == ' ', pack.number++)
	{
		char		id[PGDR_BACKUP_ID_MAX + 1];
		char	   *number;
		int			from = (int) strtol(p, &number, 10);

		id_of(id, from, from == 1);
		name_pack(name, SYSID, id, (uint32) atoi(number + 1));
		pack.name = name;
		manifest_write_pack(w, &pack);
	}
	assert_ok(manifest_writer_finish(w, &info, &content, &plain, &crc, &err), err);
	name_manifest(name, SYSID, info.id);
	put_sealed(repo, name, CODEC_ZSTD, content->data, content->len, plain, crc, hash);
	manifest_writer_free(w);
	wal_segment_name(segment, 1, day, SEG);
	name_wal(name, SYSID, segment);
	put_sealed(repo, name, CODEC_ZSTD, "wal", 3, 3, 0, hash);
	name_frontier(name, SYSID, segment);
	put_sealed(repo, name, CODEC_NONE, "", 0, 0, 0, hash);
}

/* What there is of backups: "1:m12 2:m" are day 1's manifest and its packs 1 and 2, day 2's manifest. */
static void
contents(Repository *repo, char out[256])
{
	Listing		l;
	DrError		err;
	int			last = 0;

	out[0] = '\0';
	assert_ok(repository_list(repo, SYSID "/backup/", true, &l, &err), err);
	for (size_t i = 0; i < l.n; i++)
	{
		const char *slash = strrchr(l.names[i], '/');
		int			day = (int) strtol(slash - 6, NULL, 16);
		size_t		n = strlen(out);

		if (day != last)
			n += snprintf(out + n, 256 - n, "%s%d:", n > 0 ? " " : "", day);
		last = day;
		snprintf(out + n, 256 - n, "%s", slash[1] == 'm' ? "m" : l.names[i] + strlen(l.names[i]) - 1);
	}
	listing_free(&l);
}

/* ---- running it ---- */

typedef struct Told
{
	char		text[8192];
	int			allowed;		/* how often it may store and remove yet; -1: for ever */
} Told;

static bool
may_store(void *arg, DrError *err)
{
	Told	   *t = arg;

	if (t->allowed == 0)
		return dr_error(err, DR_LINEAGE, "no more");
	if (t->allowed > 0)
		t->allowed--;
	return true;
}

static void
tell(void *arg, const char *what, const char *name, uint64 bytes, const char *reason)
{
	Told	   *t = arg;
	size_t		n = strlen(t->text);

	snprintf(t->text + n, sizeof(t->text) - n, "%s|%s|%s\n", what, name, reason);
}

static void
tell_removed(void *arg, const char *object)
{
}

static void
tell_expired(void *arg, const char *backup, bool left)
{
	tell(arg, left ? "expired, packs are left" : "expired", backup, 0, "");
}

static void
tell_expired_wal(void *arg, const char *first, const char *last)
{
	tell(arg, "expired wal", first, 0, last);
}

static bool
run(Repository *repo, int day, const char *policy, const char *running, Told *t, DrError *err)
{
	const char *ids[1] = {running};
	Expire		e = {.repo = repo,.system_identifier = SYSID,.wal_segment_size = SEG,.policy = policy,.timeline = 1,
		.running = ids,.n_running = running != NULL,.may_store = may_store,.row = tell,.removed = tell_removed,
		.expired = tell_expired,.expired_wal = tell_expired_wal,.arg = t};

	on_day(day);
	e.clock = time_now();
	t->text[0] = '\0';
	return expire_run(&e, err);
}

static void
must_run(Repository *repo, int day, const char *policy, Told *t)
{
	DrError		err;

	assert_ok(run(repo, day, policy, NULL, t, &err), err);
}

static void
must_hold(Repository *repo, const char *expected)
{
	char		found[256];

	contents(repo, found);
	assert_string_equal(found, expected);
}

/* A full backup, and two that need some of it. */
static Repository
three(void)
{
	Repository	repo = new_repository();

	put_backup(&repo, 1, 3, "");
	put_backup(&repo, 2, 2, "1.1 1.2");
	put_backup(&repo, 3, 1, "1.1 2.2");
	return repo;
}

/* E2, E3: packs live as long as somebody names them. */
static void
test_shared_packs(void **state)
{
	Repository	repo = three();
	Told		t = {.allowed = -1};
	bool		marked;
	char		id[PGDR_BACKUP_ID_MAX + 1];
	DrError		err;

	must_run(&repo, 3, "daily 1", &t);
	must_hold(&repo, "1:m123 2:m12 3:m1");
	id_of(id, 1, true);
	assert_ok(expire_is_marked(&repo, SYSID, id, &marked, &err), err);
	assert_true(marked);
	id_of(id, 3, false);
	assert_ok(expire_is_marked(&repo, SYSID, id, &marked, &err), err);
	assert_false(marked);
	must_run(&repo, 3, "daily 1", &t);
	must_hold(&repo, "1:1 2:2 3:m1");
	assert_non_null(strstr(t.text, "expired, packs are left|20300101T120000Z-full-000001"));
	assert_non_null(strstr(t.text, "expired wal|000000010000000000000001|000000010000000000000002"));
	must_run(&repo, 3, "daily 1", &t);
	assert_null(strstr(t.text, "mark|"));
	assert_non_null(strstr(t.text, "keep backup|20300101T120000Z-full-000001|it has expired, but others need packs of it"));
	must_hold(&repo, "1:1 2:2 3:m1");

	/* What it shared goes with the last one that names it: at once or, being nobody's by then, after a week. */
	put_backup(&repo, 12, 1, "");
	must_run(&repo, 12, "daily 1", &t);
	must_run(&repo, 12, "daily 1", &t);
	must_run(&repo, 12, "daily 1", &t);
	must_run(&repo, 12, "daily 1", &t);
	must_hold(&repo, "12:m1");
	repository_close(&repo);
}

/* E1: what a changed policy keeps again is not marked any more. */
static void
test_changed_policy(void **state)
{
	Repository	repo = three();
	Told		t = {.allowed = -1};
	bool		marked;
	char		id[PGDR_BACKUP_ID_MAX + 1];
	DrError		err;

	must_run(&repo, 3, "daily 1", &t);
	must_run(&repo, 3, "daily 2", &t);
	must_hold(&repo, "1:12 2:m12 3:m1");
	id_of(id, 2, false);
	assert_ok(expire_is_marked(&repo, SYSID, id, &marked, &err), err);
	assert_false(marked);
	must_run(&repo, 3, "daily 1", &t);
	must_hold(&repo, "1:12 2:m12 3:m1");
	must_run(&repo, 3, "", &t);
	must_run(&repo, 3, "", &t);
	must_hold(&repo, "1:12 2:m12 3:m1");
	repository_close(&repo);
}

/* E4: an incremental backup at work may need any pack. */
static void
test_running(void **state)
{
	Repository	repo = three();
	Told		t = {.allowed = -1};
	DrError		err;

	must_run(&repo, 3, "daily 1", &t);
	assert_ok(run(&repo, 3, "daily 1", "20300103T130000Z-incremental-0a1b2c", &t, &err), err);
	assert_non_null(strstr(t.text, "could not remove|20300103T130000Z-incremental-0a1b2c|"));
	must_hold(&repo, "1:m123 2:m12 3:m1");
	assert_ok(run(&repo, 3, "daily 1", "20300103T130000Z-full-0a1b2c", &t, &err), err);
	must_hold(&repo, "1:1 2:2 3:m1");
	repository_close(&repo);
}

/* E3: nobody knows what a damaged manifest names. */
static void
test_damaged_manifest(void **state)
{
	Repository	repo = three();
	Told		t = {.allowed = -1};
	char		id[PGDR_BACKUP_ID_MAX + 1];
	ObjectName	name;
	const char *names[] = {name};
	uint8		hash[32];
	DrError		err;

	must_run(&repo, 3, "daily 1", &t);
	id_of(id, 3, false);
	name_manifest(name, SYSID, id);
	assert_true(store_remove(repo.store, names, 1, &err));
	sha256("junk", 4, hash);
	assert_int_equal(store_put(repo.store, name, "junk", 4, hash, &err), STORE_OK);
	must_run(&repo, 3, "daily 1", &t);
	assert_non_null(strstr(t.text, "could not remove|7/backup/20300103T120000Z-incremental-000003/manifest|"));
	must_hold(&repo, "1:m123 2:m12 3:m1");
	repository_close(&repo);
}

/* Every manifest that there is has its packs. */
static void
check_whole(Repository *repo)
{
	Told		t = {.allowed = -1};
	Expire		e = {.repo = repo,.system_identifier = SYSID,.wal_segment_size = SEG,.policy = "",.timeline = 1,
		.dry_run = true,.row = tell,.arg = &t,.clock = time_now()};
	ExpireMark	mark = {0};
	Holdings	h = {.repo = repo,.sysid = SYSID,.segment_size = SEG,.timeline = 1,.mark = &mark};
	DrError		err;

	assert_ok(expire_run(&e, &err), err);
	h.retention.policy.everything = true;
	assert_ok(holdings_load(&h, &err), err);
	for (size_t i = 0; i < h.n_backups; i++)
		assert_true(!h.backups[i].has_manifest || (h.backups[i].has_packs && h.backups[i].verdict->whole));
	holdings_free(&h);
}

/* E6: another cluster is adopted between any two steps; the next run that may goes on. */
static void
test_ended_anywhere(void **state)
{
	for (int allowed = 0; allowed < 8; allowed++)
	{
		Repository	repo = three();
		Told		t = {.allowed = -1};
		DrError		err;

		must_run(&repo, 3, "daily 1", &t);
		put_backup(&repo, 12, 1, "2.2");
		t.allowed = allowed;
		(void) run(&repo, 12, "daily 1", NULL, &t, &err);
		check_whole(&repo);
		t.allowed = -1;
		for (int i = 0; i < 3; i++)
		{
			must_run(&repo, 12, "daily 1", &t);
			check_whole(&repo);
		}
		must_hold(&repo, "2:2 12:m1");
		repository_close(&repo);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shared_packs),
		cmocka_unit_test(test_changed_policy),
		cmocka_unit_test(test_running),
		cmocka_unit_test(test_damaged_manifest),
		cmocka_unit_test(test_ended_anywhere),
	};

	return cmocka_run_group_tests_name("expire", tests, make_top, remove_top);
}
