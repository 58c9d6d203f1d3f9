/*
 * manifest_test.c
 *	  What the manifest's writer writes, its reader reads; and lengths that lie.
 */
#include "unit.h"

#include "core/codec.h"
#include "core/manifest.h"

#define SYSID	"7300000000000000001"
#define ID		"20260102T000000Z-incremental-bada55"
#define PARENT	"20260101T000000Z-full-c0ffee"
#define NAME	SYSID "/backup/" ID "/manifest"

static BackupInfo
sample_info(void)
{
	BackupInfo	info = {
		.id = ID,.kind = "incremental",.label = pg_strdup("nightly"),.system_identifier = SYSID,
		.server_version_num = 150018,.control_version = 1300,.catalog_version = 202209061,
		.block_size = BLCKSZ,.segment_blocks = 131072,.wal_segment_size = 16 * 1024 * 1024,
		.data_checksums = true,.timeline = 3,.start_lsn = UINT64CONST(0x500000028),.started_at = INT64CONST(1767312000000000),
		.data_directory = pg_strdup("/data"),.host = pg_strdup("here"),.parent = pg_strdup(PARENT),.lineage = 7,
		.stop_lsn = UINT64CONST(0x500000100),.stop_timeline = 3,.stopped_at = INT64CONST(1767312001000000),
		.backup_label = pg_strdup("START\n"),.tablespace_map = pg_strdup(""),
		.bytes_read = 12345,.bytes_changed = UINT64CONST(1) << 40,
		.full_scan = pg_strdup("not at all")
	};

	return info;
}

static const Frame plain_frames[] = {{1, 0, 100, FRAME_MAX, 11}, {2, 0, 300, 5, 12}};
static const Frame taken_frames[] = {
	{PACK_INHERITED + 2, 4096, 1000, FRAME_MAX, 21}, {PACK_INHERITED + 1, 0, PG_UINT32_MAX, BLCKSZ, 22}, {1, 100, 50, 3 * BLCKSZ, 23}
};
static const Extent taken_extents[] = {
	{2, 0, BLCKSZ}, {0, 2 * BLCKSZ, FRAME_MAX - 2 * BLCKSZ}, {2, BLCKSZ, 2 * BLCKSZ}, {0, 0, BLCKSZ}
};
static const Frame control_frames[] = {{2, 300, 60, BLCKSZ, 31}};

static const ManifestFile files[] = {
	{FILE_ANY, 0600, -5, FRAME_MAX + 5, 99, "base/1/1", 2, plain_frames, 0, NULL},
	{FILE_MAIN, 0640, INT64CONST(1) << 40, FRAME_MAX + 2 * BLCKSZ, 0, "base/1/2", 3, taken_frames, 4, taken_extents},
	{FILE_ANY, 0600, 7, 0, 0, "base/1/3", 0, NULL, 0, NULL},
	{FILE_CONTROL, 0600, 8, BLCKSZ, 98, "global/pg_control", 1, control_frames, 0, NULL},
};

static const ManifestPack packs[] = {
	{1, 1000, {1}, 2, 150, SYSID "/backup/" ID "/pack-00000001"},
	{2, 2000, {2}, 2, 360, SYSID "/backup/" ID "/pack-00000002"},
	{PACK_INHERITED + 1, UINT64CONST(1) << 33, {3}, 1, PG_UINT32_MAX, SYSID "/backup/" PARENT "/pack-00000017"},
	{PACK_INHERITED + 2, 64 * 1024 * 1024, {4}, 1, 1000, SYSID "/backup/20251231T000000Z-full-0ddba1/pack-00000001"},
};

static const CorruptPage corrupt = {140000, 1, 2, UINT64CONST(0x400000000), "base/1/2"};

static void
assert_file(const ManifestFile *a, const ManifestFile *b)
{
	assert_int_equal(a->class, b->class);
	assert_int_equal(a->mode, b->mode);
	assert_true(a->mtime == b->mtime);
	assert_true(a->size == b->size);
	assert_int_equal(a->crc, b->crc);
	assert_string_equal(a->path, b->path);
	assert_int_equal(a->n_frames, b->n_frames);
	assert_int_equal(a->n_extents, b->n_extents);
	if (b->n_frames > 0)
		assert_memory_equal(a->frames, b->frames, sizeof(Frame) * b->n_frames);
	if (b->n_extents > 0)
		assert_memory_equal(a->extents, b->extents, sizeof(Extent) * b->n_extents);
}

static void
assert_pack(const ManifestPack *a, const ManifestPack *b)
{
	assert_int_equal(a->number, b->number);
	assert_true(a->size == b->size);
	assert_memory_equal(a->sha256, b->sha256, 32);
	assert_int_equal(a->frames, b->frames);
	assert_true(a->used == b->used);
	assert_string_equal(a->name, b->name);
}

static void
assert_info(const BackupInfo *a, const BackupInfo *b)
{
	char	   *x = backup_info_begin_json(a);
	char	   *y = backup_info_begin_json(b);

	assert_string_equal(x, y);
	free(x);
	free(y);
	x = backup_info_end_json(a);
	y = backup_info_end_json(b);
	assert_string_equal(x, y);
	free(x);
	free(y);
}

static void
test_round_trip(void **state)
{
	BackupInfo	info = sample_info();
	BackupInfo	back;
	ManifestWriter *w = manifest_writer_new(&info);
	ManifestReader *r;
	const Bytes *content;
	uint64		length;
	uint32		crc;
	Record		record;
	DrError		err;
	uint64		bytes = 0;
	uint64		requests = 0;

	manifest_write_tablespace(w, "16384", "/elsewhere");
	manifest_write_directory(w, 0700, "base");
	for (int i = 0; i < (int) lengthof(files); i++)
	{
		if (files[i].class == FILE_CONTROL)
			manifest_write_directory(w, 0750, "global");
		manifest_write_file(w, &files[i]);
	}
	manifest_write_corrupt(w, &corrupt);
	for (int i = 0; i < (int) lengthof(packs); i++)
	{
		manifest_write_pack(w, &packs[i]);
		pack_restore_cost(&packs[i], &bytes, &requests);
	}
	assert_ok(manifest_writer_finish(w, &info, &content, &length, &crc, &err), err);
	assert_int_equal(info.files, 4);
	assert_int_equal(info.directories, 2);
	assert_int_equal(info.frames, 6);
	assert_true(info.bytes == 2 * FRAME_MAX + 5 + 3 * BLCKSZ);
	assert_int_equal(info.packs, 2);
	assert_int_equal(info.bytes_stored, 3000);
	assert_int_equal(info.inherited_packs, 2);
	assert_true(info.bytes_referenced == (uint64) PG_UINT32_MAX + 1000);
	assert_int_equal(info.corrupt_pages, 1);
	assert_true(info.restore_bytes == bytes && info.restore_requests == requests);

	r = manifest_reader_new(content->data, content->len, length, crc, NAME, &back, &err);
	assert_ok(r != NULL, err);
	assert_string_equal(back.parent, PARENT);
	assert_int_equal(back.lineage, 7);
	assert_ok(manifest_next(r, &record, &err), err);
	assert_int_equal(record.type, RECORD_TABLESPACE);
	assert_ok(manifest_next(r, &record, &err), err);
	assert_int_equal(record.type, RECORD_DIRECTORY);
	for (int i = 0; i < (int) lengthof(files); i++)
	{
		if (files[i].class == FILE_CONTROL)
			assert_ok(manifest_next(r, &record, &err), err);
		assert_ok(manifest_next(r, &record, &err), err);
		assert_int_equal(record.type, RECORD_FILE);
		assert_file(&record.u.file, &files[i]);
	}
	assert_ok(manifest_next(r, &record, &err), err);
	assert_int_equal(record.type, RECORD_CORRUPT);
	assert_int_equal(record.u.corrupt.block, corrupt.block);
	for (int i = 0; i < (int) lengthof(packs); i++)
	{
		assert_ok(manifest_next(r, &record, &err), err);
		assert_int_equal(record.type, RECORD_PACK);
		assert_pack(&record.u.pack, &packs[i]);
	}
	assert_ok(manifest_next(r, &record, &err), err);
	assert_int_equal(record.type, RECORD_END);
	assert_info(&back, &info);
	assert_true(back.bytes_changed == UINT64CONST(1) << 40);
	assert_string_equal(back.full_scan, "not at all");
	manifest_reader_free(r);
	manifest_writer_free(w);
	backup_info_free(&info);
	backup_info_free(&back);
}

/* A pack of which little is used is read piece by piece, another as a whole. */
static void
test_restore_cost(void **state)
{
	ManifestPack pack = {.size = 32 * 1024 * 1024,.frames = 2,.used = 100000};
	uint64		bytes = 1;
	uint64		requests = 1;

	assert_false(pack_read_whole(&pack));
	pack_restore_cost(&pack, &bytes, &requests);
	assert_true(bytes > 1 + pack.used && bytes < 1 + pack.used + 100000);
	assert_int_equal(requests, 1 + 3);
	pack.used = pack.size - 10000;
	assert_true(pack_read_whole(&pack));
	pack_restore_cost(&pack, &bytes, &requests);
	assert_true(bytes > pack.size && requests == 1 + 3 + 1);
}

/* ---- lengths that lie ---- */

/* Of the address sanitizer; its header is not everywhere. */
extern int	__sanitizer_install_malloc_and_free_hooks(void (*) (const volatile void *, size_t), void (*) (const volatile void *));

static volatile size_t largest;

static void
note_malloc(const volatile void *p, size_t n)
{
	largest = Max(largest, n);
}

static void
note_free(const volatile void *p)
{
}

typedef struct Lie
{
	const char *what;
	char		type;
	uint32		length;			/* of the record; 0: as long as it is */
	uint32		n_frames;
	uint32		frames;			/* that are there */
	uint32		n_extents;
	uint32		extents;
} Lie;

static void
append_lie(Bytes *b, const Lie *lie)
{
	Bytes		record = {0};
	uint8		file[1 + 4 + 8 + 8 + 4] = {FILE_MAIN};

	put_u64(file + 13, (uint64) lie->extents * BLCKSZ);
	bytes_append(&record, file, sizeof(file));
	bytes_append_u16(&record, 1);
	bytes_append(&record, "a", 1);
	bytes_append_u32(&record, lie->n_frames);
	for (uint32 i = 0; i < lie->frames; i++)
		for (int k = 0; k < 5; k++)
			bytes_append_u32(&record, k == 3 ? BLCKSZ : 1);
	if (lie->type == RECORD_EXTENTS)
		bytes_append_u32(&record, lie->n_extents);
	for (uint32 i = 0; i < lie->extents; i++)
	{
		bytes_append_u32(&record, 0);
		bytes_append_u32(&record, 0);
		bytes_append_u32(&record, BLCKSZ);
	}
	bytes_append(b, &lie->type, 1);
	bytes_append_u32(b, lie->length ? lie->length : (uint32) record.len);
	bytes_append(b, record.data, record.len);
	bytes_free(&record);
}

/* Is the record read?  *most is the largest allocation that it took. */
static bool
read_lie(const Lie *lie, size_t *most)
{
	BackupInfo	info = sample_info();
	BackupInfo	back;
	char	   *begin = backup_info_begin_json(&info);
	Bytes		plain = {0};
	size_t		bound;
	uint8	   *content;
	size_t		n;
	ManifestReader *r;
	Record		record;
	DrError		err;
	bool		ok;

	bytes_append(&plain, "PGDRMANI\1\0\0\0", 12);
	bytes_append(&plain, "B", 1);
	bytes_append_u32(&plain, (uint32) strlen(begin));
	bytes_append(&plain, begin, strlen(begin));
	append_lie(&plain, lie);
	bound = ZSTD_compressBound(plain.len);
	content = malloc(bound);
	n = ZSTD_compress(content, bound, plain.data, plain.len, 1);
	r = manifest_reader_new(content, n, plain.len, crc32c(plain.data, plain.len), NAME, &back, &err);
	assert_ok(r != NULL, err);
	largest = 0;
	ok = manifest_next(r, &record, &err);
	*most = largest;
	if (!ok)
		assert_int_equal(err.code, DR_DAMAGED);
	manifest_reader_free(r);
	backup_info_free(&back);
	backup_info_free(&info);
	bytes_free(&plain);
	free(content);
	free(begin);
	return ok;
}

static void
test_lying_lengths(void **state)
{
	static const Lie honest = {"honest", 'G', 0, 2, 2, 3, 3};
	static const Lie lies[] = {
		{"frames", 'F', 0, PG_UINT32_MAX, 1, 0, 0},
		{"frames that wrap to what is there", 'F', 0, 0x40000002, 2, 0, 0},	/* times 20: 5 * 2^32 + 40 */
		{"frames with extents", 'G', 0, PG_UINT32_MAX, 1, 1, 1},
		{"frames with extents that wrap", 'G', 0, 0x40000001, 1, 1, 1},
		{"extents", 'G', 0, 1, 1, PG_UINT32_MAX, 1},
		{"extents that wrap to what is there", 'G', 0, 1, 1, 0x40000003, 3},	/* times 12: 3 * 2^32 + 36 */
		{"no extents are counted", 'G', 0, 1, 1, 0, 1},
		{"one extent more", 'G', 0, 1, 1, 2, 1},
		{"one extent less", 'G', 0, 1, 1, 1, 2},
		{"frames take the extents' count", 'G', 0, 2, 1, 1, 1},
		{"a record of 64 MB", 'G', 64 * 1024 * 1024, 1, 1, 1, 1},
		{"a record of 4 GB", 'G', PG_UINT32_MAX, 1, 1, 1, 1},
	};
	size_t		most;

	__sanitizer_install_malloc_and_free_hooks(note_malloc, note_free);
	assert_true(read_lie(&honest, &most));
	for (int i = 0; i < (int) lengthof(lies); i++)
	{
		if (read_lie(&lies[i], &most))
			fail_msg("%s: read", lies[i].what);
		if (most > 256 * 1024)
			fail_msg("%s: %zu bytes allocated", lies[i].what, most);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_restore_cost),
		cmocka_unit_test(test_lying_lengths),
	};

	return cmocka_run_group_tests_name("manifest", tests, NULL, NULL);
}
