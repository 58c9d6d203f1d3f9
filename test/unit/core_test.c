/*
 * core_test.c
 *	  Names, times, checksums, pages, timelines and plans: tables of cases.
 */
#include "unit.h"

#include "storage/bufpage.h"

#include "core/bytes.h"
#include "core/names.h"
#include "core/page.h"
#include "core/plan.h"

static void
test_names(void **state)
{
	static const struct
	{
		const char *name;
		ObjectKind	kind;
	}			cases[] = {
		{"7/wal/00000001/000000010000000000000003", KIND_WAL},
		{"7/wal/00000002/000000010000000000000003", KIND_UNKNOWN},
		{"7/wal/00000001/000000010000000000000003.partial", KIND_PARTIAL},
		{"7/wal/00000001/000000010000000000000003.frontier", KIND_FRONTIER},
		{"7/wal/00000002/000000010000000000000003.frontier", KIND_UNKNOWN},
		{"7/wal/00000001/00000001.frontier", KIND_UNKNOWN},
		{"7/wal/00000001/000000010000000000000003.00000001.00000000", KIND_TAIL},
		{"7/wal/00000002/000000010000000000000003.00000001.00000000", KIND_UNKNOWN},
		{"7/wal/00000001/000000010000000000000003.00000000.00000000", KIND_UNKNOWN},
		{"7/wal/00000001/000000010000000000000003.00000001.0000000g", KIND_UNKNOWN},
		{"7/wal/00000001/000000010000000000000003.0000000a.00000000", KIND_UNKNOWN},
		{"7/wal/00000001/000000010000000000000003.00000001.00000000.0", KIND_UNKNOWN},
		{"7/wal/00000001/000000010000000000000003.00000028.backup", KIND_BACKUP_HISTORY},
		{"7/wal/00000002/00000002.history", KIND_HISTORY},
		{"7/wal/00000000/00000000.history", KIND_UNKNOWN},
		{"7/wal/0000000a/0000000a.history", KIND_UNKNOWN},
		{"7/backup/20260131T120000Z-full-0a1b2c/manifest", KIND_MANIFEST},
		{"7/backup/20260131T120000Z-full-0a1b2c/pack-00000001", KIND_PACK},
		{"7/backup/20260131T120000Z-full-0a1b2c/pack-00000000", KIND_UNKNOWN},
		{"7/backup/20260131T120000Z-full-0A1B2C/manifest", KIND_UNKNOWN},
		{"7/backup/20260131T120000Z-fall-0a1b2c/manifest", KIND_UNKNOWN},
		{"7/lineage/00000001", KIND_LINEAGE},
		{"7/expire/00000001", KIND_EXPIRY},
		{"7/expire/00000000", KIND_UNKNOWN},
		{"7/expire/x/00000001", KIND_UNKNOWN},
		{"7/../8/lineage/00000001", KIND_UNKNOWN},
		{"/7/lineage/00000001", KIND_UNKNOWN},
		{"x/lineage/00000001", KIND_UNKNOWN},
		{"", KIND_UNKNOWN},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
		if (object_kind(cases[i].name) != cases[i].kind)
			fail_msg("%s: kind %d", cases[i].name, object_kind(cases[i].name));
}

static void
test_name_grammar(void **state)
{
	static const char *const good[] = {"a", "a/b", "A-1_x.y/z"};
	static const char *const bad[] = {"", "/a", "a/", "a//b", ".a", "a/.b", "a/../b", "a b", "a\\b", "a\nb", "\xc3\xa9"};
	static const char *const good_paths[] = {"a", "a b/c", "..a/b", ".x"};
	static const char *const bad_paths[] = {"", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/."};

	for (int i = 0; i < (int) lengthof(good); i++)
		assert_true(name_valid(good[i]));
	for (int i = 0; i < (int) lengthof(bad); i++)
		assert_false(name_valid(bad[i]));
	for (int i = 0; i < (int) lengthof(good_paths); i++)
		assert_true(path_valid(good_paths[i]));
	for (int i = 0; i < (int) lengthof(bad_paths); i++)
		assert_false(path_valid(bad_paths[i]));
}

static void
test_times(void **state)
{
	static const struct
	{
		const char *text;
		int64		us;			/* -1: refused */
	}			cases[] = {
		{"1970-01-01 00:00:01Z", 1000000},
		{"1970-01-01T01:00:00+01", 0},
		{"1970-01-01 00:00:00.5+00:00", 500000},
		{"1970-01-01 00:00:00.1234567Z", 123456},
		{"2026-06-31 00:00:00Z", -1},
		{"2026-02-29 00:00:00Z", -1},
		{"2024-02-29 00:00:00Z", INT64CONST(1709164800000000)},
		{"2026-01-01 24:00:00Z", -1},
		{"2026-01-01 12:00:00", -1},
		{"2026-01-01", -1},
		{"2026-01-01 12:00:00 Europe/Berlin", -1},
		{"infinity", -1},
		{"nan", -1},
		{"13am", -1},
		{"2026-01-01 12:00:00+99", -1},
		{"294277-01-01 00:00:00Z", -1},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		int64		us = -2;
		bool		ok = time_parse(cases[i].text, &us);

		if (ok != (cases[i].us >= 0) || (ok && us != cases[i].us))
			fail_msg("%s: %s %lld", cases[i].text, ok ? "taken" : "refused", (long long) us);
	}
}

static void
test_crc(void **state)
{
	pg_attribute_aligned(8) uint8 data[100000];

	assert_int_equal(crc32c("123456789", 9), 0xE3069283);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8) (i * i >> 3);
	for (size_t cut = 0; cut <= sizeof(data); cut += 9973)
		assert_int_equal(crc32c_combine(crc32c(data, cut), crc32c(data + cut, sizeof(data) - cut), sizeof(data) - cut),
						 crc32c(data, sizeof(data)));
}

static void
test_relation_names(void **state)
{
	static const struct
	{
		const char *name;
		int			fork;		/* -1: not a relation's file */
		uint32		segment;
	}			cases[] = {
		{"16384", FILE_MAIN, 0}, {"16384.1", FILE_MAIN, 1}, {"16384_fsm", FILE_FSM, 0},
		{"16384_vm.12", FILE_VM, 12}, {"16384_init", FILE_INIT, 0}, {"16384_x", -1, 0},
		{"016384", -1, 0}, {"16384.", -1, 0}, {"16384.01", -1, 0}, {"t3_16384", -1, 0},
		{"PG_VERSION", -1, 0}, {"pg_filenode.map", -1, 0}, {"", -1, 0},
	};
	RelationFile r;

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		bool		ok = relation_file_parse(cases[i].name, &r);

		if (ok != (cases[i].fork >= 0) || (ok && (r.fork != (FileClass) cases[i].fork || r.segment != cases[i].segment)))
			fail_msg("%s", cases[i].name);
	}
	assert_true(temp_relation_name("t3_16384"));
	assert_true(temp_relation_name("t3_16384_fsm"));
	assert_true(temp_relation_name("t3_16384.1"));
	assert_false(temp_relation_name("t_16384"));
	assert_false(temp_relation_name("16384"));
	assert_true(relation_directory("base/5"));
	assert_true(relation_directory("global"));
	assert_true(relation_directory("pg_tblspc/16390/PG_15_202209061/5"));
	assert_false(relation_directory("pg_tblspc/16390/PG_15_202209061"));
	assert_false(relation_directory("base"));
	assert_false(relation_directory("pg_wal"));
}

/* An empty page is fine only when all of it is zero; others are judged by LSN and sum. */
static void
test_pages(void **state)
{
	static PGAlignedBlock page;
	uint16		expected;
	uint16		found;
	XLogRecPtr	lsn;
	bool		sound;

	memset(page.data, 0, BLCKSZ);
	assert_int_equal(page_judge(page.data, 0, true, 100, &expected, &found, &lsn, &sound), PAGE_OK);
	page.data[BLCKSZ - 1] = 1;
	assert_int_equal(page_judge(page.data, 0, true, 100, &expected, &found, &lsn, &sound), PAGE_CORRUPT);

	memset(page.data, 0, BLCKSZ);	/* as PageInit, which is the server's */
	((PageHeader) page.data)->pd_lower = SizeOfPageHeaderData;
	((PageHeader) page.data)->pd_upper = ((PageHeader) page.data)->pd_special = BLCKSZ;
	PageSetPageSizeAndVersion((Page) page.data, BLCKSZ, PG_PAGE_LAYOUT_VERSION);
	PageSetLSN((Page) page.data, (XLogRecPtr) 50);
	assert_int_equal(page_judge(page.data, 7, true, 100, &expected, &found, &lsn, &sound), PAGE_CORRUPT);
	((PageHeader) page.data)->pd_checksum = expected;
	assert_int_equal(page_judge(page.data, 7, true, 100, &expected, &found, &lsn, &sound), PAGE_OK);
	assert_int_equal(page_judge(page.data, 8, true, 100, &expected, &found, &lsn, &sound), PAGE_CORRUPT);
	assert_int_equal(page_judge(page.data, 8, false, 100, &expected, &found, &lsn, &sound), PAGE_OK);
	((PageHeader) page.data)->pd_special = SizeOfPageHeaderData;	/* before pd_upper */
	assert_int_equal(page_judge(page.data, 8, false, 100, &expected, &found, &lsn, &sound), PAGE_CORRUPT);
	PageSetLSN((Page) page.data, (XLogRecPtr) 150);
	assert_int_equal(page_judge(page.data, 8, true, 100, &expected, &found, &lsn, &sound), PAGE_NEW_LSN);
	assert_false(sound);
}

#define SEG (16 * 1024 * 1024)

static const char history_text[] = "1\t0/5000000\tno recovery target specified\n\n2\t0/8000100\tpromoted\n";

static void
test_history(void **state)
{
	History		h;
	DrError		err;

	assert_ok(history_parse(&h, 3, history_text, strlen(history_text), "00000003.history", &err), err);
	assert_int_equal(h.n, 3);
	assert_int_equal(history_segment_timeline(&h, 4, SEG), 1);
	assert_int_equal(history_segment_timeline(&h, 5, SEG), 2);
	assert_int_equal(history_segment_timeline(&h, 8, SEG), 3);
	assert_int_equal(history_find(&h, 2)->end, 0x8000100);
	history_free(&h);
	assert_false(history_parse(&h, 2, history_text, strlen(history_text), "x", &err));
	assert_false(history_parse(&h, 3, "2\t0/8\n1\t0/9\n", 12, "x", &err));
	assert_false(history_parse(&h, 3, "nonsense\n", 9, "x", &err));
}

/* "tli.seg tli.seg" as names; room for 16. */
static size_t
segment_list(const char *text, char (*names)[40], char **files, const char *suffix)
{
	size_t		n = 0;

	for (const char *p = text; *p != '\0'; p += strcspn(p, " "), p += *p == ' ')
	{
		wal_segment_name(names[n], p[0] - '0', atoi(p + 2), SEG);
		strcat(names[n], suffix);
		files[n] = names[n];
		n++;
	}
	return n;
}

/* Segments on the way from a backup at 0/3000028..0/3000100 on timeline 1. */
static void
test_plan(void **state)
{
	static const struct
	{
		const char *what;
		int			timelines;	/* 1, or 3 as history_text */
		const char *wal;		/* "tli.seg", in order */
		TargetKind	kind;
		const char *target;
		const char *error;		/* NULL: fine */
		XLogRecPtr	frontier;
		const char *noted;		/* as wal, in frontier objects */
		XLogRecPtr	tail_end;
	}			cases[] = {
		{"to the end", 1, "1.3 1.4", TARGET_END, NULL, NULL, 5 * SEG, NULL, 0},
		{"the backup's own segment is missing", 1, "1.4", TARGET_END, NULL, "000000010000000000000003", 0, NULL, 0},
		{"gap", 1, "1.3 1.37", TARGET_END, NULL, "000000010000000000000004", 0, NULL, 0},
		{"a crash while several were on their way", 1, "1.3 1.5 1.36", TARGET_END, NULL, NULL, 4 * SEG, NULL, 0},
		{"the same, but it had been archived", 1, "1.3 1.5", TARGET_END, NULL, "000000010000000000000004", 0, "1.5", 0},
		{"time before a gap", 1, "1.3 1.37", TARGET_TIME, "1970-01-01 00:00:09Z", NULL, 4 * SEG, NULL, 0},
		{"time after what was archived", 1, "1.3 1.4", TARGET_TIME, "1970-01-01 00:00:11Z", "lies after", 0, NULL, 0},
		{"lsn in the tail", 1, "1.3 1.4", TARGET_LSN, "0/5000200", NULL, 5 * SEG, NULL, 0x5000300},
		{"lsn behind the tail", 1, "1.3 1.4", TARGET_LSN, "0/5000301", "can't be reached", 0, NULL, 0x5000300},
		{"the target timeline has a tail alone", 3, "1.3 1.4 2.5 2.6 2.7", TARGET_END, NULL, NULL, 8 * SEG, NULL, 8 * SEG + 0x300},
		{"lsn before a gap", 1, "1.3 1.5", TARGET_LSN, "0/3000200", NULL, 4 * SEG, NULL, 0},
		{"lsn behind a gap", 1, "1.3 1.5", TARGET_LSN, "0/5000200", "can't be reached", 0, NULL, 0},
		{"lsn before consistency", 1, "1.3 1.4", TARGET_LSN, "0/3000050", "can't be reached", 0, NULL, 0},
		{"immediate needs no more", 1, "1.3 1.5", TARGET_IMMEDIATE, NULL, NULL, 4 * SEG, NULL, 0},
		{"time before the backup's end", 1, "1.3", TARGET_TIME, "1970-01-01 00:00:01Z", "can't be reached", 0, NULL, 0},
		{"across timelines", 3, "1.3 1.4 2.5 2.6 2.7 3.8", TARGET_END, NULL, NULL, 9 * SEG, NULL, 0},
		{"the old timeline went on", 3, "1.3 1.4 1.5 1.6 2.5 2.6 2.7 3.8", TARGET_END, NULL, NULL, 9 * SEG, NULL, 0},
		{"the switch segment is missing", 3, "1.3 1.4 1.5 2.6 2.7 3.8", TARGET_END, NULL, "000000020000000000000005", 0, NULL, 0},
		{"notes of what is there", 1, "1.3 1.4", TARGET_END, NULL, NULL, 5 * SEG, "1.3 1.4", 0},
		{"the newest is missing", 1, "1.3 1.4", TARGET_END, NULL, "000000010000000000000005", 0, "1.3 1.5", 0},
		{"the newest two are missing", 1, "1.3 1.4", TARGET_TIME, "1970-01-01 00:00:11Z", "000000010000000000000005", 0, "1.6", 0},
		{"lsn before the missing end", 1, "1.3 1.4", TARGET_LSN, "0/4000200", NULL, 5 * SEG, "1.5", 0},
		{"noted on a timeline that was left", 3, "1.3 1.4 2.5 2.6 2.7 3.8", TARGET_END, NULL, NULL, 9 * SEG, "1.6 2.9", 0},
		{"the target timeline has nothing", 3, "1.3 1.4 2.5 2.6 2.7", TARGET_END, NULL, "000000030000000000000008", 0, NULL, 0},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		BackupInfo	b = {.id = "20260131T120000Z-full-0a1b2c", .system_identifier = "7", .wal_segment_size = SEG,
		.timeline = 1, .start_lsn = 0x3000028, .stop_lsn = 0x3000100, .stopped_at = 5000000};
		char		names[2][16][40];
		char	   *files[2][16];
		WalSet		wal = {.files = files[0],.noted = files[1],.tail_end = cases[i].tail_end,.reached_at = 10000000};
		Target		t = {0};
		History		h;
		Plan		plan;
		DrError		err = {0};
		bool		ok;

		wal.n = segment_list(cases[i].wal, names[0], files[0], "");
		wal.n_noted = segment_list(cases[i].noted ? cases[i].noted : "", names[1], files[1], ".frontier");
		if (cases[i].timelines == 1)
			history_single(&h, 1);
		else
			assert_true(history_parse(&h, 3, history_text, strlen(history_text), "h", &err));
		assert_ok(target_parse(&t, cases[i].kind, cases[i].target, &err), err);
		ok = plan_make(&plan, &b, &h, &wal, &t, &err);
		if (ok != (cases[i].error == NULL) || (!ok && strstr(err.message, cases[i].error) == NULL) ||
			(ok && plan.frontier != cases[i].frontier))
			fail_msg("%s: %s %s", cases[i].what, ok ? "planned" : err.message, err.detail);
		history_free(&h);
	}
}

/* A location is reached when a record begins at it or behind it. */
static void
test_location(void **state)
{
	static const struct
	{
		const char *lsn;
		XLogRecPtr	tail_end;
		XLogRecPtr	last_record;
		const char *detail;		/* NULL: fine */
	}			cases[] = {
		{"0/4000200", 0, 0x4000200, NULL},
		{"0/4000201", 0, 0x4000200, "every location from 0/3000100 to 0/4000200 can"},
		{"0/5000100", 0x5000300, 0x5000100, NULL},
		{"0/5000200", 0x5000300, 0x5000100, "to 0/5000100 can"},
		{"0/5000400", 0x5000300, 0x5000100, "to 0/5000100 can; its WAL ends at 0/5000300"},
		{"0/3000100", 0, 0x30000D8, "No record of WAL begins behind the backup's end"},
		{"0/4FFFFFF", 0, 0, NULL},
		{"0/5000000", 0, 0, "to 0/4FFFFFF can"},
		{"0/5000300", 0x5000300, 0, "to 0/50002FF can"},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		BackupInfo	b = {.id = "20260131T120000Z-full-0a1b2c", .system_identifier = "7", .wal_segment_size = SEG,
		.timeline = 1, .start_lsn = 0x3000028, .stop_lsn = 0x3000100};
		char		names[16][40];
		char	   *files[16];
		WalSet		wal = {.files = files,.tail_end = cases[i].tail_end,.last_record = cases[i].last_record};
		Target		t = {0};
		History		h;
		Plan		plan;
		DrError		err = {0};

		wal.n = segment_list("1.3 1.4", names, files, "");
		history_single(&h, 1);
		assert_ok(target_parse(&t, TARGET_LSN, cases[i].lsn, &err), err);
		if (plan_make(&plan, &b, &h, &wal, &t, &err) != (cases[i].detail == NULL) ||
			(cases[i].detail != NULL && strstr(err.detail, cases[i].detail) == NULL))
			fail_msg("%s: %s", cases[i].lsn, err.detail);
		history_free(&h);
	}
}

static void
test_targets(void **state)
{
	static const struct
	{
		TargetKind	kind;
		const char *text;
		bool		good;
	}			cases[] = {
		{TARGET_LSN, "0/3000028", true}, {TARGET_LSN, "0/", false}, {TARGET_LSN, "3000028", false},
		{TARGET_LSN, "0/123456789", false}, {TARGET_XID, "731", true}, {TARGET_XID, "-1", false},
		{TARGET_XID, "", false}, {TARGET_NAME, "before upgrade", true}, {TARGET_NAME, "", false},
		{TARGET_NAME, "a\nb", false}, {TARGET_TIME, "yesterday", false},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		Target		t = {0};
		DrError		err;

		if (target_parse(&t, cases[i].kind, cases[i].text, &err) != cases[i].good)
			fail_msg("\"%s\"", cases[i].text);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_name_grammar),
		cmocka_unit_test(test_times),
		cmocka_unit_test(test_crc),
		cmocka_unit_test(test_relation_names),
		cmocka_unit_test(test_pages),
		cmocka_unit_test(test_history),
		cmocka_unit_test(test_plan),
		cmocka_unit_test(test_location),
		cmocka_unit_test(test_targets),
	};

	return cmocka_run_group_tests_name("core", tests, NULL, NULL);
}
