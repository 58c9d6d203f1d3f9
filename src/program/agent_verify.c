/*
 * agent_verify.c
 *	  The agent's ops that look for damage: verify, in the repository, and
 *	  check_pages, in the running server's files.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include <sys/resource.h>

#include "flow/check_pages.h"
#include "program/agent.h"
#include "program/ticker.h"

#define VERIFY_NICE		5

static bool
bad_request(DrError *err, const char *op)
{
	return dr_error(err, DR_INTERNAL, "protocol violation: op \"%s\" lacks a value or has a wrong one", op);
}

/* ---- what the database knows ---- */

static bool
add_known(Agent *a, json_t *row)
{
	const char *name;
	const char *hash = json_string_value(json_array_get(row, 2));
	json_int_t	size;
	VerifyKnown *k;

	if (json_unpack(row, "[s, I]", &name, &size) != 0 || !name_valid(name) || size < 0)
		return false;
	a->known = array_room(a->known, a->n_known, sizeof(VerifyKnown));
	k = memset(&a->known[a->n_known], 0, sizeof(VerifyKnown));
	if (hash != NULL && (strlen(hash) != 64 || !hex_decode(hash, k->sha256, 32)))
		return false;
	k->name = pg_strdup(name);
	k->size = (uint64) size;
	k->has_hash = hash != NULL;
	k->proven = json_is_true(json_array_get(row, 3));
	a->n_known++;
	return true;
}

/* In parts, before verify. */
bool
agent_known(Agent *a, json_t *request, DrError *err)
{
	json_t	   *objects = json_object_get(request, "objects");
	json_t	   *row;
	size_t		i;

	a->has_catalogue = true;
	json_array_foreach(objects, i, row)
		if (!add_known(a, row))
			return bad_request(err, "known");
	agent_emit(json_pack("{s:s}", "event", "done"));
	return true;
}

static void
forget_known(Agent *a)
{
	for (size_t i = 0; i < a->n_known; i++)
		free(a->known[i].name);
	free(a->known);
	a->known = NULL;
	a->n_known = 0;
	a->has_catalogue = false;
}

/* ---- verify ---- */

static void
emit_sound(void *arg, const char *name, uint64 size, const uint8 sha256[32])
{
	agent_emit_object(name, size, sha256);
}

static json_t *
texts(char *const *v, size_t n)
{
	json_t	   *array = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(array, json_lossy(v[i]));
	return array;
}

static void
emit_finding(void *arg, const VerifyFinding *f)
{
	agent_emit(json_pack("{s:s, s:s, s:o, s:s, s:s, s:o, s:o, s:I}", "event", "damaged", "name", f->object,
						 "message", json_lossy(f->problem), "severity", verify_severity_name(f->severity),
						 "hint", f->hint, "backups", texts(f->backups, f->n_backups),
						 "files", texts(f->files, Min(f->n_files, VERIFY_FILES_MAX)),
						 "n_files", (json_int_t) f->n_files));
}

static void
emit_verified(void *arg, const char *id, bool sound)
{
	agent_emit(json_pack("{s:s, s:s, s:b}", "event", "verified", "backup", id, "sound", sound));
}

static void
emit_verify_progress(void *arg)
{
	Verify	   *v = arg;

	pthread_mutex_lock(&v->lock);
	agent_emit(json_pack("{s:s, s:s, s:I, s:I, s:I}", "event", "progress", "phase", v->bytes_total > 0 ? "reading" : "listing",
						 "bytes_done", (json_int_t) v->bytes, "bytes_total", (json_int_t) Max(v->bytes_total, v->bytes),
						 "files_done", (json_int_t) v->objects));
	pthread_mutex_unlock(&v->lock);
}

bool
agent_verify(Agent *a, json_t *request, DrError *err)
{
	Verify		v = {.repo = &a->repo,.system_identifier = a->system_identifier,.jobs = a->jobs,
		.known = a->known,.n_known = a->n_known,.has_catalogue = a->has_catalogue,
	.object = emit_sound,.finding = emit_finding,.verified = emit_verified};
	const char *depth;
	const char **running;
	json_int_t	max_rate = 0;
	Ticker		ticker;
	bool		ok;

	if (json_unpack(request, "{s:s, s:s, s?I}", "backup", &v.backup, "depth", &depth, "max_rate", &max_rate) != 0 ||
		!verify_depth_parse(depth, &v.depth) || max_rate < 0 ||
		(running = agent_running(request, &v.n_running)) == NULL)
		return bad_request(err, "verify");
	v.max_rate = max_rate > 0 ? (uint64) max_rate : a->max_rate;
	v.running = running;
	pthread_mutex_init(&v.lock, NULL);
	setpriority(PRIO_PROCESS, 0, VERIFY_NICE);	/* the server comes first; no harm if refused */
	ticker_start(&ticker, emit_verify_progress, &v);
	ok = verify_run(&v, err);
	ticker_stop(&ticker);
	if (ok)
		agent_emit(json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "event", "done", "backup", v.id[0] ? v.id : "all",
							 "backups", (json_int_t) v.backups, "objects", (json_int_t) v.objects,
							 "bytes", (json_int_t) v.bytes, "bytes_skipped", (json_int_t) v.bytes_skipped));
	pthread_mutex_destroy(&v.lock);
	free(running);
	forget_known(a);
	return ok;
}

/* ---- check_pages ---- */

/* Of another thread, which is told now and then. */
static XLogRecPtr
flushed_now(void *arg, uint64 *count)
{
	Agent	   *a = arg;
	XLogRecPtr	lsn;

	pthread_mutex_lock(&a->lock);
	lsn = a->flushed;
	*count = a->flushes;
	pthread_mutex_unlock(&a->lock);
	return lsn;
}

static void
emit_page(void *arg, const CheckedPage *page)
{
	char		lsn[LSN_TEXT_MAX];
	json_t	   *o;

	lsn_format(lsn, page->page.lsn);
	o = json_pack("{s:s, s:o, s:I, s:s, s:i, s:i, s:s}", "event", "corrupt_page", "path", json_lossy(page->page.path),
				  "block", (json_int_t) page->page.block, "message", page->problem,
				  "expected", page->page.expected, "found", page->page.found, "lsn", lsn);
	if (page->sound_copy[0] != '\0')
		json_object_set_new(o, "sound_copy", json_string(page->sound_copy));
	agent_emit(o);
}

static void
on_warning(void *arg, const char *message)
{
	agent_emit_warning(message);
}

static void
emit_check_progress(void *arg)
{
	const char *phase;
	uint64		bytes;
	uint64		total;
	uint64		files;

	check_pages_progress(arg, &phase, &bytes, &total, &files);
	agent_emit(json_pack("{s:s, s:s, s:I, s:I, s:I}", "event", "progress", "phase", phase, "bytes_done", (json_int_t) bytes,
						 "bytes_total", (json_int_t) Max(total, bytes), "files_done", (json_int_t) files));
}

bool
agent_check_pages(Agent *a, json_t *request, DrError *err)
{
	CheckPages	c = {.repo = &a->repo,.system_identifier = a->system_identifier,.data_directory = a->data_directory,
	.phase = "counting",.flushed = flushed_now,.flushed_arg = a,.found = emit_page,.warning = on_warning,.arg = a};
	json_int_t	max_rate = 0;
	json_int_t	segment_blocks;
	const char *text;
	XLogRecPtr	lsn;
	int			checksums;
	Ticker		ticker;
	bool		ok;

	if (json_unpack(request, "{s:b, s:I, s:s, s?I}", "data_checksums", &checksums, "segment_blocks", &segment_blocks,
					"lsn", &text, "max_rate", &max_rate) != 0 || segment_blocks < 1 || max_rate < 0 || !lsn_parse(text, &lsn))
		return bad_request(err, "check_pages");
	pthread_mutex_lock(&a->lock);
	a->flushed = Max(a->flushed, lsn);
	pthread_mutex_unlock(&a->lock);
	pthread_mutex_init(&c.lock, NULL);
	c.checksums = checksums;
	c.segment_blocks = (uint32) segment_blocks;
	c.max_rate = max_rate > 0 ? (uint64) max_rate : a->max_rate;
	setpriority(PRIO_PROCESS, 0, VERIFY_NICE);
	ticker_start(&ticker, emit_check_progress, &c);
	ok = check_pages_run(&c, err);
	ticker_stop(&ticker);
	if (ok)
		agent_emit(json_pack("{s:s, s:I, s:I}", "event", "done", "bytes", (json_int_t) c.bytes, "pages", (json_int_t) c.n_found));
	pthread_mutex_destroy(&c.lock);
	return ok;
}
