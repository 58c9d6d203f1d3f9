/*
 * restore_test.c
 *	  Restores of a manifest with extents and with packs of an earlier backup:
 *	  what is fetched, that the bytes are right, and that damage is found.
 */
#include "unit.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "flow/fetch.h"
#include "flow/restore.h"

#define SYSID	"7"
#define PARENT	"20260130T120000Z-full-0a1b2c"
#define CHILD	"20260131T120000Z-incremental-0a1b2c"
#define PICKED	SYSID "/backup/" PARENT "/pack-00000001"
#define SMALL	(10 * 1024)
#define LARGE	(16 * BLCKSZ)

static char top[64];
static Repository repo;
static int	runs;

/* ---- a store that counts ---- */

static StoreOps counting;
static const StoreOps *counted;
static atomic_int gets;
static atomic_int ranges;
static _Atomic uint64 bytes;

static StoreResult
count_get(Store *store, const char *name, size_t max, Bytes *out, DrError *err)
{
	StoreResult r = counted->get(store, name, max, out, err);

	gets++;
	bytes += out->len;
	return r;
}

static StoreResult
count_range(Store *store, const char *name, uint64 offset, size_t n, Bytes *out, DrError *err)
{
	ranges++;
	bytes += n;
	assert_string_equal(name, PICKED);
	return counted->get_range(store, name, offset, n, out, err);
}

/* ---- a backup that takes much from its parent ---- */

/* A pack under construction: its frames' raw bytes one after the other. */
typedef struct Pack
{
	uint32		number;
	SealBuffer	b;
	Codec		codec;
	Bytes		raw;
	Frame		frames[64];
	size_t		at[64];			/* in raw */
	int			n;
	uint32		used[64];		/* how often */
	uint64		size;
	uint8		sha256[32];
	ObjectName	name;
} Pack;

static Pack picked;				/* of the parent, mostly not used */
static Pack wanted;				/* of the parent, used as a whole */
static Pack own;

static void
pack_begin(Pack *p, uint32 number, const char *backup, uint32 n)
{
	memset(p, 0, sizeof(*p));
	p->number = number;
	seal_buffer_init(&p->b, 1024 * 1024);
	codec_init(&p->codec, 1);
	name_pack(p->name, SYSID, backup, n);
}

/* A frame of n random bytes, or of zeros. */
static void
pack_add(Pack *p, size_t n, bool zeros)
{
	static uint8 stored[FRAME_BOUND];
	size_t		stored_n;
	Frame	   *f = &p->frames[p->n];
	DrError		err;

	bytes_reserve(&p->raw, n);
	if (zeros)
		memset(p->raw.data + p->raw.len, 0, n);
	else
		random_bytes(p->raw.data + p->raw.len, n);
	assert_ok(codec_compress(&p->codec, p->raw.data + p->raw.len, n, stored, sizeof(stored), &stored_n, &err), err);
	*f = (Frame) {p->number, (uint32) p->b.length, (uint32) stored_n, (uint32) n, crc32c(p->raw.data + p->raw.len, n)};
	p->at[p->n++] = p->raw.len;
	p->raw.len += n;
	seal_buffer_append(&p->b, stored, stored_n);
}

static void
pack_end(Pack *p)
{
	DrError		err;

	assert_ok(repository_seal(&repo, &p->b, CODEC_NONE, 0, 0, p->name, &err), err);
	assert_int_equal(repository_put(&repo, &p->b, p->name, p->sha256, &err), STORE_OK);
	p->size = p->b.size;
	seal_buffer_free(&p->b);
	codec_free(&p->codec);
}

/* A file under construction. */
typedef struct File
{
	ManifestFile m;
	Frame		frames[64];
	Extent		extents[64];
	Bytes		content;
} File;

static uint32
file_frame(File *f, Pack *p, int frame)
{
	f->frames[f->m.n_frames] = p->frames[frame];
	p->used[frame]++;
	return f->m.n_frames++;
}

static void
file_extent(File *f, const Pack *p, int frame, uint32 which, uint32 skip, uint32 n)
{
	f->extents[f->m.n_extents++] = (Extent) {which, skip, n};
	bytes_append(&f->content, p->raw.data + p->at[frame] + skip, n);
}

static void
file_write(ManifestWriter *w, File *f, const char *path, FileClass class)
{
	f->m.path = path;
	f->m.class = class;
	f->m.mode = 0600;
	f->m.mtime = 1700000000;
	f->m.size = f->content.len;
	f->m.crc = f->m.n_extents > 0 ? 0 : crc32c(f->content.data, f->content.len);
	f->m.frames = f->frames;
	f->m.extents = f->extents;
	manifest_write_file(w, &f->m);
}

static void
write_pack(ManifestWriter *w, const Pack *p)
{
	ManifestPack m = {.number = p->number,.size = p->size,.name = p->name};

	memcpy(m.sha256, p->sha256, 32);
	for (int i = 0; i < p->n; i++)
	{
		m.frames += p->used[i];
		m.used += (uint64) p->used[i] * p->frames[i].stored;
	}
	manifest_write_pack(w, &m);
}

static File mixed;				/* extents from all three packs */
static File whole;				/* two frames, one after the other */
static File control;

static void
make_packs(void)
{
	pack_begin(&picked, PACK_INHERITED + 1, PARENT, 1);
	for (int i = 0; i < 40; i++)
		pack_add(&picked, i == 5 ? SMALL : LARGE, false);
	pack_end(&picked);
	pack_begin(&wanted, PACK_INHERITED + 2, PARENT, 2);
	for (int i = 0; i < 2; i++)
		pack_add(&wanted, LARGE, false);
	pack_end(&wanted);
	pack_begin(&own, 1, CHILD, 1);
	pack_add(&own, FRAME_MAX, false);
	pack_add(&own, 3 * BLCKSZ + 100, true);
	pack_add(&own, 8192, false);
	pack_end(&own);
}

/*
 * Of the picked pack: 3 and 4 adjoin, 6 lies behind a small gap, 12 is far
 * away, 39 is the last; none of them in that order, and one of them not used.
 */
static void
make_files(void)
{
	uint32		f4 = file_frame(&mixed, &picked, 4);
	uint32		f39 = file_frame(&mixed, &picked, 39);
	uint32		f3 = file_frame(&mixed, &picked, 3);
	uint32		f6 = file_frame(&mixed, &picked, 6);
	uint32		w1 = file_frame(&mixed, &wanted, 1);
	uint32		o0 = file_frame(&mixed, &own, 0);

	file_frame(&mixed, &picked, 12);
	file_extent(&mixed, &own, 0, o0, BLCKSZ, BLCKSZ);
	file_extent(&mixed, &picked, 39, f39, 0, LARGE);
	file_extent(&mixed, &picked, 3, f3, BLCKSZ, LARGE - BLCKSZ);
	file_extent(&mixed, &own, 0, o0, 5 * BLCKSZ, 100 * BLCKSZ);
	file_extent(&mixed, &picked, 6, f6, 0, LARGE);
	file_extent(&mixed, &wanted, 1, w1, 0, LARGE);
	file_extent(&mixed, &picked, 4, f4, 3 * BLCKSZ, 2 * BLCKSZ);
	file_extent(&mixed, &picked, 4, f4, 0, BLCKSZ);
	file_extent(&mixed, &own, 0, o0, 0, 1000);	/* not even whole blocks are required */

	file_frame(&whole, &wanted, 0);
	file_frame(&whole, &own, 1);
	bytes_append(&whole.content, wanted.raw.data + wanted.at[0], LARGE);
	bytes_append(&whole.content, own.raw.data + own.at[1], 3 * BLCKSZ + 100);
	file_frame(&control, &own, 2);
	bytes_append(&control.content, own.raw.data + own.at[2], 8192);
}

static void
store_manifest(void)
{
	BackupInfo	info = {.id = CHILD,.kind = "incremental",.system_identifier = SYSID,.server_version_num = PG_VERSION_NUM,
		.block_size = BLCKSZ,.segment_blocks = RELSEG_SIZE,.wal_segment_size = 1024 * 1024,.timeline = 1,.lineage = 1,.start_lsn = 0x2000028,
		.data_directory = "/nowhere",.parent = PARENT,.stop_lsn = 0x2000100,.stop_timeline = 1,.backup_label = "label"};
	ManifestWriter *w = manifest_writer_new(&info);
	const Bytes *content;
	uint64		plain_length;
	uint32		crc;
	uint8		hash[32];
	ObjectName	name;
	SealBuffer	b;
	File		empty = {0};
	DrError		err;

	manifest_write_directory(w, 0700, "base");
	manifest_write_directory(w, 0700, "base/5");
	file_write(w, &mixed, "base/5/100", FILE_MAIN);
	file_write(w, &whole, "base/5/101", FILE_MAIN);
	file_write(w, &empty, "base/5/102", FILE_MAIN);
	manifest_write_directory(w, 0700, "global");
	file_write(w, &control, "global/pg_control", FILE_CONTROL);
	write_pack(w, &own);
	write_pack(w, &picked);
	write_pack(w, &wanted);
	assert_ok(manifest_writer_finish(w, &info, &content, &plain_length, &crc, &err), err);
	seal_buffer_init(&b, content->len);
	seal_buffer_append(&b, content->data, content->len);
	name_manifest(name, SYSID, CHILD);
	assert_ok(repository_seal(&repo, &b, CODEC_ZSTD, plain_length, crc, name, &err), err);
	assert_int_equal(repository_put(&repo, &b, name, hash, &err), STORE_OK);
	seal_buffer_free(&b);
	manifest_writer_free(w);
}

static int
make_top(void **state)
{
	RepositoryAccess access = {.key_file = "none"};
	char		url[96];
	DrError		err;

	strcpy(top, "/tmp/pgdr_t_unit.XXXXXX");
	if (mkdtemp(top) == NULL)
		return -1;
	snprintf(url, sizeof(url), "file://%s/repository", top);
	access.url = url;
	if (mkdir(url + 7, 0700) != 0 || !repository_open(&repo, &access, true, &err))
		return -1;
	make_packs();
	make_files();
	store_manifest();
	counted = repo.store->ops;
	counting = *counted;
	counting.get = count_get;
	counting.get_range = count_range;
	repo.store->ops = &counting;
	return 0;
}

static int
remove_top(void **state)
{
	char		command[128];

	repository_close(&repo);
	snprintf(command, sizeof(command), "rm -rf '%s'", top);
	return system(command);
}

/* ---- restores ---- */

/* Into a new directory, or (delta) into that of the run before. */
static bool
run(bool delta, Restore *r, DrError *err)
{
	BackupEntry entry = {.id = CHILD};
	char		path[96];
	Bytes		control_bytes = {0};
	bool		ok;

	runs += !delta;
	snprintf(path, sizeof(path), "%s/data%d", top, runs);
	assert_ok(restore_prepare(r, &repo, SYSID, &entry, path, err), *err);
	r->jobs = 2;
	r->delta = delta;
	assert_ok(restore_check_targets(r, err), *err);
	gets = ranges = bytes = 0;
	ok = restore_files(r, &control_bytes, err);
	if (ok)
	{
		assert_int_equal(control_bytes.len, control.content.len);
		assert_memory_equal(control_bytes.data, control.content.data, control_bytes.len);
	}
	bytes_free(&control_bytes);
	return ok;
}

static void
file_path(const char *name, char out[160])
{
	snprintf(out, 160, "%s/data%d/%s", top, runs, name);
}

static void
assert_content(const char *name, const Bytes *content)
{
	char		path[160];
	struct stat st;
	uint8	   *data = malloc(content->len + 1);
	int			fd;

	file_path(name, path);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	assert_int_equal(st.st_size, content->len);
	assert_int_equal(st.st_mtime, 1700000000);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(read(fd, data, content->len), content->len);
	assert_true(content->len == 0 || memcmp(data, content->data, content->len) == 0);
	close(fd);
	free(data);
}

static void
assert_restored(void)
{
	Bytes		nothing = {0};

	assert_content("base/5/100", &mixed.content);
	assert_content("base/5/101", &whole.content);
	assert_content("base/5/102", &nothing);
}

static void
test_restore(void **state)
{
	Restore		r;
	DrError		err;

	assert_ok(run(false, &r, &err), err);
	assert_restored();
	assert_int_equal(gets, 2);	/* what is used as a whole */
	assert_int_equal(ranges, 1 + 3);	/* head; 3 to 6, 12, 39 */
	assert_true(bytes <= r.manifest.info.restore_bytes);
	assert_true((uint64) (gets + ranges) <= r.manifest.info.restore_requests);
	assert_int_equal(r.rewritten, r.manifest.info.bytes - control.content.len);
	restore_free(&r);
}

/* Invert a byte, or cut the file there. */
static void
damage_file(const char *path, off_t at, bool cut)
{
	int			fd = open(path, O_RDWR);
	uint8		byte;

	assert_true(fd >= 0);
	if (cut)
		assert_int_equal(ftruncate(fd, at), 0);
	else
	{
		assert_int_equal(pread(fd, &byte, 1, at), 1);
		byte ^= 0xff;
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	}
	close(fd);
}

/* X9: what differs is written, in blocks; and X5: an interrupted restore is gone on with. */
static void
test_delta(void **state)
{
	Restore		r;
	DrError		err;
	char		path[160];
	uint64		lost = 2 * BLCKSZ + 1000;
	uint64		zeros = 2 * BLCKSZ + 100;

	assert_ok(run(false, &r, &err), err);
	restore_free(&r);
	assert_ok(run(true, &r, &err), err);
	assert_true(r.delta);
	assert_int_equal(r.rewritten, 0);
	restore_free(&r);

	file_path("base/5/100", path);
	damage_file(path, 20 * BLCKSZ + 17, false);
	damage_file(path, mixed.content.len - lost, true);
	file_path("base/5/101", path);
	damage_file(path, whole.content.len - zeros, true);	/* zeros that are not there are written too */
	file_path("base/5/102", path);
	assert_int_equal(truncate(path, 100000), 0);
	assert_ok(run(true, &r, &err), err);
	assert_restored();
	assert_int_equal(r.rewritten, BLCKSZ + lost + zeros);
	restore_free(&r);
}

/* Where content byte "at" of a pack lies in its object. */
static off_t
sealed_at(size_t at)
{
	return object_chunk_at(at / SEAL_CHUNK) + at % SEAL_CHUNK;
}

static void
test_damage(void **state)
{
	const struct
	{
		const char *what;
		off_t		at;
		bool		cut;
		bool		noticed;
	}			cases[] = {
		{"the header", 20, false, true},
		{"the salt", SEAL_HEADER + 3, false, true},
		{"the commitment", OBJECT_HEAD - 1, false, true},
		{"the first range", sealed_at(picked.frames[3].offset + 7), false, true},
		{"the gap in it", sealed_at(picked.frames[5].offset + 7), false, true},
		{"a tag", object_chunk_at(picked.frames[12].offset / SEAL_CHUNK + 2) - 1, false, true},
		{"a frame that no extent uses", sealed_at(picked.frames[12].offset + 40000), false, true},
		{"the last chunk", picked.size - 1, false, true},
		{"cut by one", picked.size - 1, true, true},
		{"cut in a range", sealed_at(picked.frames[12].offset + 7), true, true},
		{"empty", 0, true, true},
		{"what is not fetched", sealed_at(picked.frames[25].offset), false, false},
	};
	char		path[256];
	char		copy[300];
	char		command[700];

	snprintf(path, sizeof(path), "%s/repository/%s", top, PICKED);
	snprintf(copy, sizeof(copy), "%s/copy", top);
	assert_int_equal(chmod(path, 0600), 0);
	for (int i = 0; i < (int) lengthof(cases); i++)
	{
		Restore		r;
		DrError		err = {0};
		bool		ok;

		snprintf(command, sizeof(command), "cp '%s' '%s'", path, copy);
		assert_int_equal(system(command), 0);
		damage_file(path, cases[i].at, cases[i].cut);
		ok = run(false, &r, &err);
		if (ok == cases[i].noticed || (!ok && (err.code != DR_DAMAGED || strstr(err.message, PICKED) == NULL)))
			fail_msg("%s: %s", cases[i].what, err.message);
		restore_free(&r);
		assert_int_equal(rename(copy, path), 0);
	}
	for (int other = 0; other < 2; other++)
	{
		Restore		r;
		DrError		err = {0};

		assert_int_equal(rename(path, copy), 0);
		if (other)				/* a sound object under this name */
		{
			snprintf(command, sizeof(command), "cp '%s/repository/%s' '%s'", top, wanted.name, path);
			assert_int_equal(system(command), 0);
		}
		assert_false(run(false, &r, &err));
		assert_int_equal(err.code, other ? DR_DAMAGED : DR_ABSENT);
		assert_non_null(strstr(err.message, PICKED));
		restore_free(&r);
		assert_int_equal(rename(copy, path), 0);
	}
}

static bool
no_sink(void *arg, const FetchFrame *frame, const void *raw, DrError *err)
{
	*(int *) arg += 1;
	return true;
}

/* A manifest that is wrong about frames, or about the object's size: refused, not read beyond (F1, R4). */
static void
test_wrong_places(void **state)
{
	const struct
	{
		const char *what;
		int64		offset;		/* added */
		int64		stored;
		int64		size;
		bool		ok;
	}			cases[] = {
		{"as it is", 0, 0, 0, true},
		{"a frame behind the end", 100 * 1024 * 1024, 0, 0, false},
		{"a frame at the end of numbers", PG_UINT32_MAX - picked.frames[39].offset, 0, 0, false},
		{"a frame beyond the end", 1, 0, 0, false},
		{"a longer frame", 0, 1, 0, false},
		{"a shorter frame", 0, -1, 0, false},
		{"a frame at the wrong place", -1, 0, 0, false},
		{"an object that is longer", 0, 0, 16400, false},
		{"an object that is shorter", 0, 0, -16400, false},
		{"an object of no size", 0, 0, -(int64) picked.size, false},
	};

	for (int i = 0; i < 2 * (int) lengthof(cases); i++)
	{
		bool		whole_pack = i % 2;
		int			c = i / 2;
		int			seen = 0;
		FetchFrame *frame = pg_malloc0(sizeof(*frame));
		Fetch	   *f = fetch_new(&repo, 1, no_sink, &seen);
		DrError		err = {0};
		bool		ok;

		frame->frame = picked.frames[39];
		frame->frame.offset += cases[c].offset;
		frame->frame.stored += cases[c].stored;
		fetch_pack(f, picked.name, picked.size + cases[c].size, whole_pack, frame, 1);
		ok = fetch_finish(f, false, &err);
		/* Fetched as a whole it is what it is, as long as there is room for it. */
		if (ok != (cases[c].ok || (whole_pack && cases[c].size > 0)) || seen != ok ||
			(!ok && (err.code != DR_DAMAGED || strstr(err.message, PICKED) == NULL)))
			fail_msg("%s, %s: %s %s", cases[c].what, whole_pack ? "whole" : "ranges", err.message, err.detail);
	}
	/* An early chunk opens whatever the size; that it was sealed with another is noticed. */
	{
		FetchFrame *frame = pg_malloc0(sizeof(*frame));
		int			seen = 0;
		Fetch	   *f = fetch_new(&repo, 1, no_sink, &seen);
		DrError		err = {0};

		frame->frame = picked.frames[3];
		fetch_pack(f, picked.name, picked.size - 16400, false, frame, 1);
		assert_false(fetch_finish(f, false, &err));
		assert_non_null(strstr(err.detail, "not sealed with the size"));
	}
}

/* A pack's place by its number, whatever number. */
static void
test_numbers(void **state)
{
	Restore		r;
	DrError		err;
	const uint32 hostile[] = {0, 2, 3, PACK_INHERITED - 1, PACK_INHERITED, PACK_INHERITED + 3, PG_UINT32_MAX};

	assert_ok(run(false, &r, &err), err);
	for (int i = 0; i < (int) lengthof(hostile); i++)
		assert_null(restore_pack(&r, hostile[i]));
	assert_string_equal(restore_pack(&r, 1)->name, own.name);
	assert_string_equal(restore_pack(&r, PACK_INHERITED + 1)->name, picked.name);
	assert_string_equal(restore_pack(&r, PACK_INHERITED + 2)->name, wanted.name);
	restore_free(&r);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_restore),
		cmocka_unit_test(test_delta),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_wrong_places),
		cmocka_unit_test(test_numbers),
	};

	return cmocka_run_group_tests_name("restore", tests, make_top, remove_top);
}
