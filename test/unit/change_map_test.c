/*
 * change_map_test.c
 *	  The change map's files: made here byte by byte, read by the program's code.
 */
#include "unit.h"

#include <sys/stat.h>
#include <unistd.h>

#include "core/bytes.h"
#include "core/change_map.h"
#include "flow/change_map_files.h"

#define SYSID		7123456789012345678
#define SYSID_TEXT	"7123456789012345678"
#define SEGMENT		131072

/* ---- making files ---- */

static void
begin_file(Bytes *b, uint32 flags, XLogRecPtr from, XLogRecPtr to, uint64 entries)
{
	memset(b, 0, sizeof(*b));
	bytes_append(b, CHANGE_MAP_MAGIC, 8);
	bytes_append_u32(b, CHANGE_MAP_VERSION);
	bytes_append_u32(b, flags);
	bytes_append_u64(b, SYSID);
	bytes_append_u32(b, 1);
	bytes_append_u32(b, 0);
	bytes_append_u64(b, from);
	bytes_append_u64(b, to);
	bytes_append_u64(b, entries);
	bytes_append_u64(b, 0);
}

static void
begin_relation(Bytes *b, uint32 spc, uint32 db, uint32 rel, uint32 limit, uint32 chunks)
{
	bytes_append(b, "R", 1);
	bytes_append_u32(b, spc);
	bytes_append_u32(b, db);
	bytes_append_u32(b, rel);
	bytes_append_u32(b, limit);
	bytes_append_u32(b, chunks);
}

static void
add_array(Bytes *b, uint32 number, int n, const uint16 *blocks)
{
	bytes_append_u32(b, number);
	bytes_append_u32(b, n);
	for (int i = 0; i < n; i++)
		bytes_append_u16(b, blocks[i]);
}

/* Every "step"th block from "first" on. */
static void
add_bitmap(Bytes *b, uint32 number, uint32 first, uint32 step)
{
	uint8		bitmap[CHANGE_MAP_BITMAP_BYTES] = {0};
	uint32		n = 0;

	for (uint32 i = first; i < CHANGE_MAP_CHUNK_BLOCKS; i += step, n++)
		bitmap[i / 8] |= (uint8) (1 << (i % 8));
	bytes_append_u32(b, number);
	bytes_append_u32(b, n);
	bytes_append(b, bitmap, sizeof(bitmap));
}

static void
end_file(Bytes *b)
{
	bytes_append_u32(b, crc32c(b->data, b->len));
}

/* A file in which every kind of entry is. */
static void
make_sample(Bytes *b)
{
	static const uint16 blocks[] = {0, 7, 65535};
	static const uint16 one[] = {5};

	begin_file(b, 0, 0x1000028, 0x2000028, 4);
	begin_relation(b, 1663, 5, 16384, PG_UINT32_MAX, 2);
	add_array(b, 0, 3, blocks);
	add_bitmap(b, 2, 1, 3);
	begin_relation(b, 1664, 0, 1262, 1, 1);
	add_array(b, 0, 1, one);
	bytes_append(b, "D", 1);
	bytes_append_u32(b, 1663);
	bytes_append_u32(b, 16400);
	bytes_append(b, "T", 1);
	bytes_append_u32(b, 16500);
	end_file(b);
}

static bool
add(ChangeMap *m, const Bytes *b, ChangeMapRange *range, DrError *err)
{
	/* A copy of exactly this length: reading beyond it is seen. */
	uint8	   *copy = pg_malloc(b->len + 1);
	bool		ok;

	memcpy(copy + 1, b->data, b->len);
	ok = change_map_add(m, copy + 1, b->len, SYSID_TEXT, range, err);
	free(copy);
	return ok;
}

static ChangeMap *
map_of(Bytes *files, int n)
{
	ChangeMap  *m = change_map_new();

	for (int i = 0; i < n; i++)
	{
		ChangeMapRange range;
		DrError		err;

		end_file(&files[i]);
		assert_ok(add(m, &files[i], &range, &err), err);
		bytes_free(&files[i]);
	}
	return m;
}

static uint32
segment_of(const char *path)
{
	const char *dot = strrchr(path, '.');

	return dot ? (uint32) atoi(dot + 1) : 0;
}

static FileChanges
ask(const ChangeMap *m, const char *path)
{
	FileChanges c;

	change_map_file(m, path, segment_of(path), SEGMENT, &c);
	return c;
}

/* "everything", or "limit: block block ..." (at most eight) */
static const char *
answer(const ChangeMap *m, const char *path)
{
	static char text[256];
	FileChanges c = ask(m, path);
	uint32		block = 0;
	size_t		n;

	if (c.everything)
		return "everything";
	n = c.limit == PG_UINT32_MAX ? snprintf(text, sizeof(text), "none:") : snprintf(text, sizeof(text), "%u:", c.limit);
	for (int i = 0; i < 8 && (block = change_map_next(&c, block)) != PG_UINT32_MAX; i++)
		n += snprintf(text + n, sizeof(text) - n, " %u", block++);
	return text;
}

/* ---- tests ---- */

static void
test_answers(void **state)
{
	static const struct
	{
		const char *path;
		const char *answer;
	}			cases[] = {
		{"base/5/16384", "none: 0 7 65535"},
		{"base/5/16384.1", "none: 1 4 7 10 13 16 19 22"},
		{"base/5/16384.2", "none:"},
		{"base/5/16385", "none:"},
		{"base/6/16384", "none:"},
		{"global/1262", "1: 5"},
		{"global/1262.1", "0:"},
		{"global/1260", "none:"},
		{"base/16400/1", "everything"},
		{"base/16401/1", "none:"},
		{"pg_tblspc/16400/PG_15_202209061/16400/1", "none:"},
		{"pg_tblspc/16500/PG_15_202209061/5/16384", "everything"},
		{"pg_tblspc/16501/PG_15_202209061/5/16384", "none:"},
		/* of which nothing can be known */
		{"base/5/16384_fsm", "everything"}, {"base/5/16384_vm", "everything"}, {"base/5/16384_init", "everything"},
		{"base/5/PG_VERSION", "everything"}, {"base/16384", "everything"}, {"16384", "everything"},
		{"pg_xact/0000", "everything"}, {"base/5/0", "everything"}, {"base/99999999999/16384", "everything"},
		{"base/5/4294967296", "everything"}, {"base//16384", "everything"}, {"", "everything"},
	};
	Bytes		b;
	ChangeMap  *m = change_map_new();
	ChangeMapRange range;
	DrError		err;
	FileChanges c;

	make_sample(&b);
	assert_ok(add(m, &b, &range, &err), err);
	assert_int_equal(range.timeline, 1);
	assert_int_equal(range.from, 0x1000028);
	assert_int_equal(range.to, 0x2000028);
	assert_false(range.unsafe);
	for (int i = 0; i < (int) lengthof(cases); i++)
		if (strcmp(answer(m, cases[i].path), cases[i].answer) != 0)
			fail_msg("%s: %s", cases[i].path, answer(m, cases[i].path));

	/* A path and a number that do not belong together. */
	change_map_file(m, "base/5/16384.1", 2, SEGMENT, &c);
	assert_true(c.everything);
	assert_int_equal(change_map_next(&c, 5), 5);
	assert_int_equal(change_map_next(&c, SEGMENT), PG_UINT32_MAX);
	c = ask(m, "base/5/16384");
	assert_int_equal(change_map_next(&c, 8), 65535);
	assert_int_equal(change_map_next(&c, 65536), PG_UINT32_MAX);
	assert_int_equal(change_map_next(&c, PG_UINT32_MAX), PG_UINT32_MAX);
	bytes_free(&b);
	change_map_free(m);
}

/* Where a relation was cut, seen from its files. */
static void
test_limits(void **state)
{
	static const struct
	{
		uint32		limit;
		const char *first;
		const char *second;
		const char *third;
	}			cases[] = {
		{0, "0:", "0:", "0:"},
		{1, "1:", "0:", "0:"},
		{SEGMENT - 1, "131071:", "0:", "0:"},
		{SEGMENT, "none:", "0:", "0:"},
		{SEGMENT + 1, "none:", "1:", "0:"},
		{2 * SEGMENT, "none:", "none:", "0:"},
		{PG_UINT32_MAX, "none:", "none:", "none:"},
	};

	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		Bytes		b[1];
		ChangeMap  *m;

		begin_file(&b[0], 0, 1, 2, 1);
		begin_relation(&b[0], 1663, 5, 10, cases[i].limit, 0);
		m = map_of(b, 1);
		if (strcmp(answer(m, "base/5/10"), cases[i].first) != 0 ||
			strcmp(answer(m, "base/5/10.1"), cases[i].second) != 0 ||
			strcmp(answer(m, "base/5/10.2"), cases[i].third) != 0)
			fail_msg("limit %u", cases[i].limit);
		change_map_free(m);
	}
}

static void
test_merging(void **state)
{
	static const uint16 a[] = {1, 3, 5};
	static const uint16 c[] = {2, 3, 9};
	Bytes		b[4];
	ChangeMap  *m;

	begin_file(&b[0], 0, 1, 2, 1);
	begin_relation(&b[0], 1663, 5, 10, 100, 1);
	add_array(&b[0], 1, 3, a);
	begin_file(&b[1], 0, 2, 3, 2);
	begin_relation(&b[1], 1663, 5, 10, 50, 2);
	add_array(&b[1], 0, 3, c);
	add_array(&b[1], 1, 3, c);
	begin_relation(&b[1], 1663, 5, 11, PG_UINT32_MAX, 1);
	add_array(&b[1], 0, 3, a);
	begin_file(&b[2], 0, 3, 4, 1);
	begin_relation(&b[2], 1663, 5, 10, PG_UINT32_MAX, 0);
	begin_file(&b[3], 0, 4, 5, 1);
	bytes_append(&b[3], "D", 1);
	bytes_append_u32(&b[3], 1663);
	bytes_append_u32(&b[3], 6);
	m = map_of(b, 4);
	assert_string_equal(answer(m, "base/5/10"), "50: 2 3 9 65537 65538 65539 65541 65545");
	assert_string_equal(answer(m, "base/5/11"), "none: 1 3 5");
	assert_string_equal(answer(m, "base/6/11"), "everything");
	change_map_free(m);
}

/* Arrays and bitmaps in each order, held against a plain list of what must be there. */
static void
test_shapes(void **state)
{
	for (int shape = 0; shape < 8; shape++)
	{
		static bool expected[CHANGE_MAP_CHUNK_BLOCKS];
		Bytes		b[3];
		ChangeMap  *m;
		FileChanges f;
		uint32		next = 0;

		memset(expected, 0, sizeof(expected));
		for (int i = 0; i < 3; i++)
		{
			uint32		step = (shape >> i) & 1 ? 7 : 31;	/* 9363 or 2115 blocks */
			uint32		first = i * 5;

			begin_file(&b[i], 0, i + 1, i + 2, 1);
			begin_relation(&b[i], 1663, 5, 10, PG_UINT32_MAX, 1);
			if (step == 7)
				add_bitmap(&b[i], 3, first, step);
			else
			{
				uint16		blocks[CHANGE_MAP_ARRAY_MAX];
				int			n = 0;

				for (uint32 block = first; block < CHANGE_MAP_CHUNK_BLOCKS; block += step)
					blocks[n++] = (uint16) block;
				add_array(&b[i], 3, n, blocks);
			}
			for (uint32 block = first; block < CHANGE_MAP_CHUNK_BLOCKS; block += step)
				expected[block] = true;
		}
		m = map_of(b, 3);
		f = ask(m, "base/5/10.1");
		for (uint32 block = 0; block < CHANGE_MAP_CHUNK_BLOCKS; block++)
		{
			if (!expected[block])
				continue;
			if (change_map_next(&f, next) != block + CHANGE_MAP_CHUNK_BLOCKS)
				fail_msg("shape %d: block %u", shape, block);
			next = block + CHANGE_MAP_CHUNK_BLOCKS + 1;
		}
		assert_int_equal(change_map_next(&f, next), PG_UINT32_MAX);
		change_map_free(m);
	}
}

static void
test_many_relations(void **state)
{
	Bytes		b[1];
	ChangeMap  *m;
	uint16		block;

	begin_file(&b[0], 0, 1, 2, 5000);
	for (uint32 i = 1; i <= 5000; i++)
	{
		block = (uint16) i;
		begin_relation(&b[0], 1663, i % 3 + 1, i, PG_UINT32_MAX, 1);
		add_array(&b[0], 0, 1, &block);
	}
	m = map_of(b, 1);
	for (uint32 i = 1; i <= 5000; i++)
	{
		char		path[32];
		FileChanges c;

		snprintf(path, sizeof(path), "base/%u/%u", i % 3 + 1, i);
		c = ask(m, path);
		assert_int_equal(change_map_next(&c, 0), i);
	}
	change_map_free(m);
}

static void
test_unsafe(void **state)
{
	ChangeMap  *m = change_map_new();
	ChangeMapRange range;
	DrError		err;
	Bytes		b;

	begin_file(&b, CHANGE_MAP_UNSAFE, 1, 2, 0);
	bytes_append_u16(&b, 7);
	bytes_append(&b, "because", 7);
	end_file(&b);
	assert_ok(add(m, &b, &range, &err), err);
	assert_true(range.unsafe);
	assert_string_equal(range.reason, "because");
	bytes_free(&b);
	change_map_free(m);
}

/* ---- damage ---- */

static bool
refused(const Bytes *b)
{
	ChangeMap  *m = change_map_new();
	ChangeMapRange range;
	DrError		err = {0};
	bool		ok = add(m, b, &range, &err);

	change_map_free(m);
	return !ok && err.code == DR_DAMAGED && err.message[0] != '\0';
}

static void
test_damage(void **state)
{
	Bytes		b;
	Bytes		cut;
	size_t		whole;
	ChangeMap  *m = change_map_new();
	ChangeMapRange range;
	DrError		err;

	make_sample(&b);
	whole = b.len;
	for (size_t n = 0; n < whole; n++)
	{
		/* cut off, and cut off by somebody who can compute a checksum */
		cut = (Bytes) {b.data, n, b.cap};
		if (!refused(&cut))
			fail_msg("cut to %zu", n);
		if (n < whole - 4)
		{
			memset(&cut, 0, sizeof(cut));
			bytes_append(&cut, b.data, n);
			end_file(&cut);
			if (!refused(&cut))
				fail_msg("cut to %zu with a checksum", n);
			bytes_free(&cut);
		}
	}
	for (size_t i = 0; i < whole; i++)
	{
		b.data[i] ^= 0x10;
		if (!refused(&b))
			fail_msg("byte %zu", i);
		b.data[i] ^= 0x10;
	}
	assert_false(change_map_add(m, b.data, b.len, "7123456789012345679", &range, &err));
	bytes_free(&b);
	change_map_free(m);
}

/* Each byte set to values that are hostile somewhere, with a right checksum: whatever happens, nothing is overrun. */
static void
test_hostile(void **state)
{
	static const uint8 values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
	Bytes		b;
	size_t		head;

	make_sample(&b);
	head = b.len - 4;
	for (size_t i = 0; i < head; i++)
	{
		uint8		was = b.data[i];

		/* Of the bitmap's inside a sample will do. */
		if (i > 200 && i < 8000)
			continue;
		for (int v = 0; v < (int) lengthof(values); v++)
		{
			ChangeMap  *m = change_map_new();
			ChangeMapRange range;
			DrError		err;
			FileChanges c;

			b.data[i] = values[v];
			put_u32(b.data + head, crc32c(b.data, head));
			(void) add(m, &b, &range, &err);
			c = ask(m, "base/5/16384");
			(void) change_map_next(&c, 8);
			change_map_free(m);
		}
		b.data[i] = was;
	}
	bytes_free(&b);
}

/* What a hostile file may claim, one lie each. */
static void
test_lies(void **state)
{
	static const uint16 descending[] = {3, 2};
	static const uint16 twice[] = {3, 3};
	static const uint16 fine[] = {1, 2};
	static const char *const lies[] = {
		"descending", "twice", "chunk twice", "chunks descending", "chunk too far", "no blocks", "too many blocks",
		"bitmap's count", "more chunks", "fewer chunks", "too many chunks", "more entries", "fewer entries",
		"huge entries", "no relation", "no database", "no tablespace", "type", "range", "flags", "reason", NULL
	};

	for (int i = 0; lies[i] != NULL; i++)
	{
		const char *lie = lies[i];
		Bytes		b;
#define LIE(x) (strcmp(lie, x) == 0)

		begin_file(&b, LIE("flags") ? 4 : LIE("reason") ? 1 : 0, 5, LIE("range") ? 5 : 6,
				   LIE("more entries") ? 2 : LIE("fewer entries") ? 0 : LIE("huge entries") ? PG_UINT64_MAX : 1);
		if (LIE("reason"))
			bytes_append_u16(&b, 60000);
		if (LIE("no database") || LIE("type"))
		{
			bytes_append(&b, LIE("type") ? "X" : "D", 1);
			bytes_append_u32(&b, 1663);
			bytes_append_u32(&b, 0);
		}
		else
		{
			begin_relation(&b, LIE("no tablespace") ? 0 : 1663, 5, LIE("no relation") ? 0 : 10, PG_UINT32_MAX,
						   LIE("more chunks") ? 3 : LIE("fewer chunks") ? 1 : LIE("too many chunks") ? PG_UINT32_MAX : 2);
			add_array(&b, LIE("chunks descending") ? 9 : 1, 2,
					  LIE("descending") ? descending : LIE("twice") ? twice : fine);
			if (LIE("no blocks") || LIE("too many blocks"))
			{
				bytes_append_u32(&b, 2);
				bytes_append_u32(&b, LIE("no blocks") ? 0 : 65537);
			}
			add_bitmap(&b, LIE("chunk twice") ? 1 : LIE("chunk too far") ? 65536 : 8, 0, 9);
			if (LIE("bitmap's count"))
				b.data[b.len - 1] ^= 1;
		}
		end_file(&b);
		if (!refused(&b))
			fail_msg("%s", lie);
		bytes_free(&b);
	}
}

/* ---- directories ---- */

static void
write_file(const char *top, uint32 tli, XLogRecPtr from, XLogRecPtr to, const char *harm)
{
	char	   *path = psprintf("%s/pg_dr/map/%08X.%016llX.%016llX", top, tli, (unsigned long long) from, (unsigned long long) to);
	uint16		block = (uint16) from;
	FILE	   *file;
	Bytes		b;

	begin_file(&b, strcmp(harm, "unsafe") == 0 ? CHANGE_MAP_UNSAFE : 0,
			   strcmp(harm, "other") == 0 ? from + 1 : from, to, 1);
	put_u32(b.data + 24, tli);
	if (strcmp(harm, "unsafe") == 0)
	{
		bytes_append_u16(&b, 2);
		bytes_append(&b, "no", 2);
	}
	begin_relation(&b, 1663, 5, 10, PG_UINT32_MAX, 1);
	add_array(&b, 0, 1, &block);
	end_file(&b);
	if (strcmp(harm, "flipped") == 0)
		b.data[70] ^= 1;
	file = fopen(path, "w");
	assert_non_null(file);
	assert_int_equal(fwrite(b.data, 1, b.len, file), b.len);
	fclose(file);
	bytes_free(&b);
	pfree(path);
}

static void
test_load(void **state)
{
	static const struct
	{
		XLogRecPtr	from;
		XLogRecPtr	to;
		const char *says;		/* of blocks, or in an error */
		const char *detail;
	}			cases[] = {
		{10, 20, "none: 10", NULL},
		{10, 40, "none: 10 20", NULL},
		{12, 38, "none: 10 20", NULL},
		{20, 35, "none: 20", NULL},
		{20, 20, "none:", NULL},
		{200, 300, "none: 200 250", NULL},	/* by two that overlap */
		{5, 20, "from 0/5 to 0/A", NULL},
		{10, 50, "from 0/28 to 0/32", NULL},	/* what is known behind it begins at 50 */
		{290, 310, "from 0/12C to 0/136", NULL},
		{50, 60, "00000001.0000000000000032.000000000000003C", "checksum"},
		{60, 70, "00000001.000000000000003C.0000000000000046", "not all changes are known: no"},
		{70, 80, "00000001.0000000000000046.0000000000000050", "another file's"},
		{90, 95, "from 0/5A to 0/5F", NULL},	/* on another timeline only */
	};
	char		top[] = "/tmp/change_map_test.XXXXXX";
	char		command[64];

	assert_non_null(mkdtemp(top));
	snprintf(command, sizeof(command), "mkdir -p %s/pg_dr/map", top);
	assert_int_equal(system(command), 0);
	write_file(top, 1, 10, 20, "");
	write_file(top, 1, 20, 40, "");
	write_file(top, 1, 20, 30, "flipped");	/* nobody needs it */
	write_file(top, 1, 50, 60, "flipped");
	write_file(top, 1, 60, 70, "unsafe");
	write_file(top, 1, 70, 80, "other");
	write_file(top, 2, 90, 95, "");
	write_file(top, 1, 200, 270, "");
	write_file(top, 1, 250, 300, "");
	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		ChangeMap  *m;
		DrError		err = {0};
		bool		ok = change_map_load(top, SYSID_TEXT, 1, cases[i].from, cases[i].to, &m, &err);
		const char *says = ok ? answer(m, "base/5/10") : err.message;

		if (ok ? strcmp(says, cases[i].says) != 0 :
			strstr(says, cases[i].says) == NULL || strstr(err.detail, cases[i].detail ? cases[i].detail : "") == NULL)
			fail_msg("%d to %d: %s %s", (int) cases[i].from, (int) cases[i].to, says, err.detail);
		assert_int_equal(ok, cases[i].says[0] == 'n');
		change_map_free(m);
	}
	snprintf(command, sizeof(command), "rm -r %s", top);
	assert_int_equal(system(command), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_answers),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_merging),
		cmocka_unit_test(test_shapes),
		cmocka_unit_test(test_many_relations),
		cmocka_unit_test(test_unsafe),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_lies),
		cmocka_unit_test(test_load),
	};

	return cmocka_run_group_tests_name("change map", tests, NULL, NULL);
}
