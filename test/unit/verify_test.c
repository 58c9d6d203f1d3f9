/*
 * verify_test.c
 *	  What only depth "pages" sees, because every seal and every hash is right: made
 *	  here, since no server makes it.  And what is read how often (V2, V3 in flow/verify.h).
 */
#include "unit.h"
#include "scratch.h"

#include <sys/stat.h>
#include <unistd.h>

#include "storage/bufpage.h"

#include "core/manifest.h"
#include "flow/verify.h"
#include "flow/wal.h"

#define TIMELINE	1
#include "wal_make.h"

#define PAGES		20
#define FULL		"20260101T000000Z-full-000001"
#define INCREMENT	"20260102T000000Z-incremental-000002"
#define FILE_PATH	"base/5/100.1"	/* its blocks begin with the segment's first */
#define SEGMENT_BLOCKS	131072

/* ---- what is in it ---- */

/* What is to be wrong with it. */
typedef struct Wrong
{
	int			torn;			/* page of the full backup; -1: none */
	int			newer;			/* page that is torn, and newer than the start */
	int			beyond;			/* page with an LSN beyond the backup's end */
	int			recorded;		/* page that is torn, and said to be in the manifest */
	int			torn_increment; /* page of the increment's own frame */
	bool		frame_crc;		/* the manifest says another one */
	bool		record;			/* of WAL */
} Wrong;

static const Wrong nothing = {-1, -1, -1, -1, -1, false, false};

static XLogRecPtr start_lsn;
static XLogRecPtr stop_lsn;

static void
make_page(char *page, uint32 block, XLogRecPtr lsn)
{
	PageHeader	h = (PageHeader) page;
	uint16		expected;
	uint16		found;
	bool		sound;

	for (int i = 0; i < BLCKSZ; i++)
		page[i] = (char) (i * block);
	memset(h, 0, SizeOfPageHeaderData);
	PageXLogRecPtrSet(h->pd_lsn, lsn);
	h->pd_lower = SizeOfPageHeaderData;
	h->pd_upper = h->pd_special = BLCKSZ;
	h->pd_pagesize_version = BLCKSZ | 4;
	page_judge(page, block, true, PG_UINT64_MAX, &expected, &found, &lsn, &sound);
	h->pd_checksum = expected;
}

/* One frame of these pages is the whole pack. */
static Frame
put_pack(Repository *repo, const char *id, const char *pages, size_t n, ManifestPack *pack, ObjectName name)
{
	Frame		frame = {.pack = 1,.raw = (uint32) n,.crc = crc32c(pages, n)};
	uint8	   *out = pg_malloc(FRAME_BOUND);
	size_t		stored;
	Codec		codec;
	DrError		err;

	codec_init(&codec, 1);
	assert_ok(codec_compress(&codec, pages, n, out, FRAME_BOUND, &stored, &err), err);
	codec_free(&codec);
	frame.stored = (uint32) stored;
	name_pack(name, SYSID, id, 1);
	memset(pack, 0, sizeof(*pack));
	pack->name = name;
	pack->number = 1;
	pack->frames = 1;
	pack->used = stored;
	pack->size = put_sealed(repo, name, CODEC_NONE, out, stored, 0, 0, pack->sha256);
	free(out);
	return frame;
}

static void
put_manifest(Repository *repo, const char *id, const char *parent, const ManifestFile *file, const CorruptPage *corrupt,
			 const ManifestPack *packs, int n_packs)
{
	BackupInfo	info = {.system_identifier = SYSID,.server_version_num = PG_VERSION_NUM,.block_size = BLCKSZ,
		.segment_blocks = SEGMENT_BLOCKS,.wal_segment_size = SEGMENT,.data_checksums = true,.timeline = TIMELINE,
		.lineage = 1,.stop_timeline = TIMELINE,.data_directory = "/d",.host = "h",.backup_label = "l",.tablespace_map = "",
	.start_lsn = start_lsn,.stop_lsn = stop_lsn,.started_at = 1,.stopped_at = 2,.parent = unconstify(char *, parent)};
	ManifestFile control = {.class = FILE_CONTROL,.mode = 0600,.path = "global/pg_control"};
	ManifestWriter *w;
	const Bytes *content;
	uint64		plain;
	uint32		crc;
	uint8		hash[32];
	ObjectName	name;
	DrError		err;

	strcpy(info.id, id);
	strcpy(info.kind, parent == NULL ? "full" : "incremental");
	w = manifest_writer_new(&info);
	manifest_write_directory(w, 0700, "base");
	manifest_write_directory(w, 0700, "base/5");
	manifest_write_file(w, file);
	manifest_write_directory(w, 0700, "global");
	manifest_write_file(w, &control);
	if (corrupt != NULL)
		manifest_write_corrupt(w, corrupt);
	for (int i = 0; i < n_packs; i++)
		manifest_write_pack(w, &packs[i]);
	assert_ok(manifest_writer_finish(w, &info, &content, &plain, &crc, &err), err);
	name_manifest(name, SYSID, id);
	put_sealed(repo, name, CODEC_ZSTD, content->data, content->len, plain, crc, hash);
	manifest_writer_free(w);
}

static void
put_wal(Repository *repo, const Wrong *wrong)
{
	WalWorkspace space;

	memset(wal, 0, sizeof(wal));
	at = BASE;
	before = 0;
	n_records = 0;
	page_header(0);
	while (at < BASE + SEGMENT + 1000)
		record(300, 10, 0);
	start_lsn = starts[7];
	stop_lsn = at;
	if (wrong->record)
		wal[starts[500] - BASE + 100] ^= 1;
	wal_workspace_init(&space, 1);
	for (int i = 0; i < 2; i++)
	{
		Bytes		plain = {wal + i * SEGMENT, SEGMENT, SEGMENT};
		char		file[25];
		ObjectName	name;
		uint8		hash[32];
		DrError		err;

		wal_segment_name(file, TIMELINE, BASE / SEGMENT + i, SEGMENT);
		name_wal(name, SYSID, file);
		assert_ok(wal_seal(repo, &space, &plain, name, &err), err);
		assert_int_equal(repository_put(repo, &space.sealed, name, hash, &err), STORE_OK);
	}
	wal_workspace_free(&space);
}

/* A full backup of one file, and an increment that takes all but two blocks of it from there. */
static void
put_backups(Repository *repo, const Wrong *wrong)
{
	char	   *pages = aligned_malloc(PAGES * BLCKSZ);
	ManifestPack packs[2];
	ObjectName	names[2];
	Frame		frames[2];
	Extent		extents[] = {{1, 0, 10 * BLCKSZ}, {0, 0, 2 * BLCKSZ}, {1, 12 * BLCKSZ, 8 * BLCKSZ}};
	ManifestFile file = {.class = FILE_MAIN,.mode = 0600,.path = FILE_PATH,.size = PAGES * BLCKSZ,.n_frames = 1};
	CorruptPage corrupt = {.block = SEGMENT_BLOCKS + wrong->recorded,.path = FILE_PATH};

	put_wal(repo, wrong);
	for (int i = 0; i < PAGES; i++)
	{
		make_page(pages + i * BLCKSZ, SEGMENT_BLOCKS + i, i == wrong->newer ? start_lsn + 100 : i == wrong->beyond ? stop_lsn + 100 : 1000);
		if (i == wrong->torn || i == wrong->newer || i == wrong->recorded)
			pages[i * BLCKSZ + 5000] ^= 1;
	}
	frames[1] = put_pack(repo, FULL, pages, PAGES * BLCKSZ, &packs[0], names[0]);
	file.frames = &frames[1];
	frames[1].crc ^= wrong->frame_crc;
	file.crc = frames[1].crc;
	put_manifest(repo, FULL, NULL, &file, wrong->recorded >= 0 ? &corrupt : NULL, packs, 1);

	for (int i = 0; i < 2; i++)
		make_page(pages + i * BLCKSZ, SEGMENT_BLOCKS + 10 + i, 2000);
	if (wrong->torn_increment >= 0)
		pages[wrong->torn_increment * BLCKSZ + 5000] ^= 1;
	packs[1] = packs[0];
	packs[1].number = frames[1].pack = PACK_INHERITED + 1;
	frames[0] = put_pack(repo, INCREMENT, pages, 2 * BLCKSZ, &packs[0], names[1]);
	file.frames = frames;
	file.n_frames = 2;
	file.extents = extents;
	file.n_extents = lengthof(extents);
	file.crc = 0;
	put_manifest(repo, INCREMENT, FULL, &file, wrong->recorded >= 0 ? &corrupt : NULL, packs, 2);
	free(pages);
}

/* ---- looking at it ---- */

static char findings[4000];

static void
note_object(void *arg, const char *name, uint64 size, const uint8 sha256[32])
{
}

/* severity, object, number of backups, first file, problem */
static void
note_finding(void *arg, const VerifyFinding *f)
{
	size_t		n = strlen(findings);

	snprintf(findings + n, sizeof(findings) - n, "%s %s %zu %s %s\n", verify_severity_name(f->severity), f->object, f->n_backups,
			 f->n_files > 0 ? f->files[0] : "-", f->problem);
}

static void
note_verified(void *arg, const char *id, bool sound)
{
}

static Verify
look(Repository *repo, const char *backup, VerifyDepth depth, const VerifyKnown *known, size_t n)
{
	Verify		v = {.repo = repo,.system_identifier = SYSID,.backup = backup,.depth = depth,.jobs = 2,.known = known,.n_known = n,
	.object = note_object,.finding = note_finding,.verified = note_verified};
	DrError		err;

	pthread_mutex_init(&v.lock, NULL);
	findings[0] = '\0';
	assert_ok(verify_run(&v, &err), err);
	return v;
}

static void
expect(const char *what, const Wrong *wrong, const char *words[], int n)
{
	Repository	repo = new_repository();
	uint64		lines = 0;

	put_backups(&repo, wrong);
	look(&repo, "all", VERIFY_OBJECTS, NULL, 0);
	if (findings[0] != '\0')
		fail_msg("%s at depth objects: %s", what, findings);
	lines = look(&repo, "all", VERIFY_PAGES, NULL, 0).findings;
	for (int i = 0; i < n; i++)
		if (strstr(findings, words[i]) == NULL)
			fail_msg("%s: \"%s\" is not in: %s", what, words[i], findings);
	if (lines != (n > 0))
		fail_msg("%s: %s", what, findings);
	repository_close(&repo);
}

static void
test_sound(void **state)
{
	Repository	repo = new_repository();
	Verify		v;
	uint64		size = 0;
	Listing		l;
	DrError		err;

	put_backups(&repo, &nothing);
	assert_true(repository_list(&repo, SYSID "/", true, &l, &err));
	for (size_t i = 0; i < l.n; i++)
		size += strstr(l.names[i], "manifest") == NULL ? l.sizes[i] : 0;
	for (VerifyDepth depth = VERIFY_CATALOGUE; depth <= VERIFY_PAGES; depth++)
	{
		v = look(&repo, "all", depth, NULL, 0);
		assert_string_equal(findings, "");
		assert_int_equal(v.backups, 2);
		assert_int_equal(v.objects, depth == VERIFY_CATALOGUE ? 0 : 7);
		/* V3; to depth pages each backup's WAL is followed by itself. */
		if (depth < VERIFY_PAGES)
			assert_int_equal(v.bytes, depth == VERIFY_CATALOGUE ? 0 : size);
		look(&repo, FULL, depth, NULL, 0);
		assert_string_equal(findings, "");
		v = look(&repo, "latest", depth, NULL, 0);
		assert_string_equal(v.id, INCREMENT);
		assert_string_equal(findings, "");
	}
	listing_free(&l);
	repository_close(&repo);
}

static void
test_pages(void **state)
{
	const char *torn[] = {"error", "/backup/" FULL "/pack-00000001 2 " FILE_PATH, "1 page in it is corrupt", "block 131076 "};
	const char *beyond[] = {"error", "/backup/" FULL "/pack-00000001 2 " FILE_PATH, "block 131079 "};
	const char *increment[] = {"error", "/backup/" INCREMENT "/pack-00000001 1 " FILE_PATH, "block 131083 "};
	const char *frame[] = {"error", "/backup/" FULL "/pack-00000001 2 ", "frame at offset 0"};
	const char *record[] = {"error", "/wal/00000001/000000010000000000000005 2 ", "A record's checksum is wrong"};
	Wrong		w;

	expect("nothing", &nothing, NULL, 0);
	w = nothing;
	w.torn = 4;
	expect("a torn page", &w, torn, lengthof(torn));
	w = nothing;
	w.newer = 5;
	expect("a page that WAL repairs", &w, NULL, 0);
	w = nothing;
	w.beyond = 7;
	expect("an LSN beyond the end", &w, beyond, lengthof(beyond));
	w = nothing;
	w.recorded = 8;
	expect("a page that is known to be corrupt", &w, NULL, 0);
	w = nothing;
	w.torn_increment = 1;
	expect("a torn page of an extent", &w, increment, lengthof(increment));
	w = nothing;
	w.frame_crc = true;
	expect("a frame's checksum", &w, frame, lengthof(frame));
	w = nothing;
	w.record = true;
	expect("a record of WAL", &w, record, lengthof(record));
	/* Blocks that the increment does not take from the full backup's frame. */
	w = nothing;
	w.torn = 10;
	torn[3] = "block 131082 ";
	expect("a torn page that only one backup uses", &w, torn, lengthof(torn));
}

/* V2 */
static void
test_proven(void **state)
{
	Repository	repo = new_repository();
	VerifyKnown known[16] = {0};
	Verify		v;
	Listing		l;
	DrError		err;

	put_backups(&repo, &nothing);
	assert_true(repository_list(&repo, SYSID "/", true, &l, &err));
	assert_true(l.n <= lengthof(known));
	for (size_t i = 0; i < l.n; i++)
		known[i] = (VerifyKnown) {l.names[i], l.sizes[i], false, {0}, true};
	for (VerifyDepth depth = VERIFY_OBJECTS; depth <= VERIFY_PAGES; depth++)
	{
		v = look(&repo, "all", depth, known, l.n);
		assert_string_equal(findings, "");
		assert_int_equal(v.bytes, 0);
		assert_true(v.bytes_skipped > 0);
	}
	/* It is listed with another size than was recorded. */
	for (size_t i = 0; i < l.n; i++)
		known[i].size += strstr(l.names[i], FULL "/pack") != NULL;
	v = look(&repo, "all", VERIFY_OBJECTS, known, l.n);
	assert_int_equal(v.errors, 1);
	assert_non_null(strstr(findings, "recorded"));
	listing_free(&l);
	repository_close(&repo);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_sound, make_top, remove_top),
		cmocka_unit_test_setup_teardown(test_pages, make_top, remove_top),
		cmocka_unit_test_setup_teardown(test_proven, make_top, remove_top),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
