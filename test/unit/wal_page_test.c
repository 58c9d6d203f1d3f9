/*
 * wal_page_test.c
 *	  WAL that is made here, page by page, and broken in every way that is looked at.
 */
#include "unit.h"

#include "core/wal_page.h"
#include "wal_make.h"

/* One segment and a half of records, a switch, and some more. */
static void
make_wal(void)
{
	memset(wal, 0, sizeof(wal));
	at = BASE;
	before = 0;
	n_records = 0;
	page_header(0);
	for (uint32 i = 0; at < BASE + SEGMENT + SEGMENT / 2; i++)
		record(24 + i % 300 + (i % 97 == 0 ? 40000 : 0), 10, 0);
	record(24, RM_XLOG_ID, XLOG_SWITCH);
	at = BASE + 2 * SEGMENT;
	for (uint32 i = 0; i < 100; i++)
		record(100 + i, 10, 0);
}

static bool
check(XLogRecPtr start, XLogRecPtr stop, DrError *err)
{
	WalCheck	c;

	wal_check_begin(&c, SYSID, TIMELINE, SEGMENT, start, stop);
	while (!wal_check_complete(&c))
		if (!wal_check_segment(&c, wal + (c.at - c.at % SEGMENT - BASE), err))
			return false;
	return true;
}

static void
test_sound(void **state)
{
	DrError		err;

	make_wal();
	assert_ok(check(starts[0], at, &err), err);
	for (int i = 1; i < n_records; i += 37)
		assert_ok(check(starts[i], at, &err), err);
	for (int i = 1; i < n_records; i += 41)
	{
		XLogRecPtr	stop = starts[i];

		assert_ok(check(starts[0], stop, &err), err);
	}
	for (int i = 0; i < SEGMENTS; i++)
		if (i != 2)
			assert_ok(wal_check_pages(wal + i * SEGMENT, SYSID, TIMELINE, SEGMENT, BASE + i * SEGMENT, &err), err);
	/* A later timeline of the same history may read it; an earlier one not. */
	assert_ok(wal_check_pages(wal, SYSID, TIMELINE + 1, SEGMENT, BASE, &err), err);
	assert_false(wal_check_pages(wal, SYSID, TIMELINE - 1, SEGMENT, BASE, &err));
	assert_false(wal_check_pages(wal, "1", TIMELINE, SEGMENT, BASE, &err));
	assert_false(wal_check_pages(wal, SYSID, TIMELINE, SEGMENT, BASE + SEGMENT, &err));
}

/* Any bit of what was written, but for padding and what follows a switch. */
static void
test_every_bit(void **state)
{
	DrError		err;
	int			missed = 0;
	int			tried = 0;

	make_wal();
	for (XLogRecPtr p = starts[0]; p < at; p += 131)
	{
		uint8	   *byte = wal + (p - BASE);
		bool		padding = false;

		if (p >= starts[n_records - 101] + 24 && p < BASE + 2 * SEGMENT)
			continue;
		/* Between the end of a record and the next one; also the short header's own padding. */
		for (int i = 0; i + 1 < n_records; i++)
			padding |= p < starts[i + 1] && p >= starts[i + 1] - 7 && starts[i + 1] % XLOG_BLCKSZ > SizeOfXLogLongPHD;
		/* One of a page's flags is a hint for archivers. */
		if (padding || p % XLOG_BLCKSZ == 2 || (p % XLOG_BLCKSZ >= 16 && p % XLOG_BLCKSZ < 40))
			continue;
		*byte ^= 1 << (p % 8);
		tried++;
		if (check(starts[0], at, &err))
			missed++;
		*byte ^= 1 << (p % 8);
	}
	assert_true(tried > 5000);
	assert_int_equal(missed, 0);
}

static void
test_structure(void **state)
{
	DrError		err;
	XLogRecPtr	end;
	uint8		page[XLOG_BLCKSZ];

	/* A page of zeros, one that is missing, two exchanged. */
	make_wal();
	memset(wal + 20 * XLOG_BLCKSZ, 0, XLOG_BLCKSZ);
	assert_false(check(starts[0], at, &err));
	assert_non_null(strstr(err.detail, "empty"));
	assert_false(wal_check_pages(wal, SYSID, TIMELINE, SEGMENT, BASE, &err));

	make_wal();
	memcpy(page, wal + 20 * XLOG_BLCKSZ, XLOG_BLCKSZ);
	memcpy(wal + 20 * XLOG_BLCKSZ, wal + 21 * XLOG_BLCKSZ, XLOG_BLCKSZ);
	memcpy(wal + 21 * XLOG_BLCKSZ, page, XLOG_BLCKSZ);
	assert_false(check(starts[0], at, &err));
	assert_non_null(strstr(err.detail, "another address"));

	/* A segment of another cluster. */
	make_wal();
	wal[SEGMENT + 24] ^= 1;
	assert_false(check(starts[0], at, &err));
	assert_non_null(strstr(err.detail, "another cluster"));

	/* A record that is whole, but follows another one than it says. */
	make_wal();
	before = 77;
	end = at;
	record(200, 10, 0);
	assert_ok(check(starts[0], end, &err), err);
	assert_false(check(starts[0], at, &err));
	assert_non_null(strstr(err.detail, "does not follow"));

	/* Recovery would end there: no record. */
	make_wal();
	assert_false(check(starts[0], at + 1000, &err));
	assert_non_null(strstr(err.detail, "no record"));

	/* The backup ends inside of a record. */
	make_wal();
	assert_false(check(starts[0], starts[50] + 8, &err));
	assert_non_null(strstr(err.detail, "No record ends"));

	/* A length that no record has. */
	make_wal();
	memset(wal + (starts[30] - BASE), 0xff, 4);
	assert_false(check(starts[0], at, &err));
	assert_non_null(strstr(err.detail, "impossible length"));
}

/* After a crash in the middle of a record, the next page says that it was given up. */
static void
test_overwritten(void **state)
{
	DrError		err;
	XLogRecPtr	last;
	XLogPageHeaderData h;
	uint32		offset;

	memset(wal, 0, sizeof(wal));
	at = BASE;
	before = 0;
	n_records = 0;
	page_header(0);
	for (int i = 0; i < 50; i++)
		record(150, 10, 0);
	last = before;
	record(20000, 10, 0);
	at = BASE + 2 * XLOG_BLCKSZ;
	memset(wal + (at - BASE), 0, sizeof(wal) - (at - BASE));
	offset = (uint32) (at - BASE);
	before = last;
	record(100, RM_XLOG_ID, 0xD0);
	assert_false(check(starts[0], at, &err));
	memcpy(&h, wal + offset, sizeof(h));
	h.xlp_info |= XLP_FIRST_IS_OVERWRITE_CONTRECORD;
	memcpy(wal + offset, &h, sizeof(h));
	assert_ok(check(starts[0], at, &err), err);
}

/* Wherever the record ends that was under way when the segment began, if it does. */
static void
test_first_record(void **state)
{
	XLogRecPtr	base = BASE + SEGMENT;

	memset(wal, 0, sizeof(wal));
	for (uint32 length = 24; length < 3 * XLOG_BLCKSZ; length++)
	{
		at = base - 64;
		n_records = 0;
		for (record(length, 10, 0); before < base; record(24, 10, 0))
			;
		assert_int_equal(wal_first_record(wal + SEGMENT, SEGMENT, base), before);
	}
	memset(wal + SEGMENT + XLOG_BLCKSZ, 0, SEGMENT - XLOG_BLCKSZ);
	assert_int_equal(wal_first_record(wal + SEGMENT, SEGMENT, base), InvalidXLogRecPtr);
}

/* However much of a segment was written: up to the last record of which all was. */
static void
test_whole_until(void **state)
{
	static uint8 part[SEGMENT];

	make_wal();
	for (int s = 0; s < 2; s++)
	{
		XLogRecPtr	begin = BASE + s * SEGMENT;

		for (uint32 n = 0; n < SEGMENT; n += 1000)
		{
			XLogRecPtr	expected = begin;

			memset(part, 0, SEGMENT);
			memcpy(part, wal + s * SEGMENT, n);
			for (int i = 0; i < n_records && ends[i] <= begin + n; i++)
				expected = Max(expected, ends[i]);
			assert_int_equal(wal_whole_until(part, n, SYSID, TIMELINE, SEGMENT, begin), expected);
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sound),
		cmocka_unit_test(test_every_bit),
		cmocka_unit_test(test_structure),
		cmocka_unit_test(test_overwritten),
		cmocka_unit_test(test_first_record),
		cmocka_unit_test(test_whole_until),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
