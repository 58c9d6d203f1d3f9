/*
 * agent.c
 *	  The data plane on standard input and output (doc/PROTOCOL.md).
 *
 * A control thread reads requests all the time, so that a cancel, and the end
 * of standard input, are heard whatever the main thread does: when the module
 * is gone, so are we.  The main thread runs one op after the other.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "program/agent.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "core/step.h"

#define ALIVE_EVERY_S	20

static pthread_mutex_t out_lock = PTHREAD_MUTEX_INITIALIZER;

static const struct
{
	const char *name;
	bool		(*run) (Agent *a, json_t *request, DrError *err);
	bool		needs_open;
}			ops[] = {
	{"open", agent_open, false},
	{"archive", agent_archive, true},
	{"backup", agent_backup, true},
	{"adopt", agent_adopt, true},
	{"check", agent_check, true},
	{"sync", agent_sync, true},
	{"known", agent_known, true},
	{"verify", agent_verify, true},
	{"check_pages", agent_check_pages, true},
	{"tail", agent_tail, true},
	{"expire", agent_expire, true},
	{"drill", agent_drill, true},
	{"sweep", agent_sweep, false},
};

/* ---- out ---- */

void
agent_emit(json_t *object)
{
	char	   *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
	size_t		n;
	size_t		done = 0;

	json_decref(object);
	if (text == NULL)
	{
		fprintf(stderr, "could not encode an event\n");
		_exit(EXIT_FAILURE);
	}
	n = strlen(text);
	text[n++] = '\n';			/* in place of the NUL */
	pthread_mutex_lock(&out_lock);
	while (done < n)
	{
		ssize_t		w = write(STDOUT_FILENO, text + done, n - done);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			_exit(EXIT_FAILURE);	/* nobody listens any more */
		done += w;
	}
	pthread_mutex_unlock(&out_lock);
	free(text);
}

json_t *
json_lossy(const char *text)
{
	json_t	   *s = json_string(text);
	char	   *copy;

	if (s != NULL)
		return s;
	copy = pg_strdup(text);
	for (char *p = copy; *p != '\0'; p++)
		if (*p & 0x80)
			*p = '?';
	s = json_string(copy);
	free(copy);
	return s;
}

json_t *
json_hex(const uint8 *data, size_t n)
{
	char		hex[129];

	Assert(n <= 64);
	hex_encode(data, n, hex);
	return json_string(hex);
}

const char **
agent_running(json_t *request, size_t *n)
{
	json_t	   *array = json_object_get(request, "running");
	const char **ids = pg_malloc(sizeof(char *) * (json_array_size(array) + 1));

	for (*n = 0; *n < json_array_size(array); ++*n)
	{
		const char *id = json_string_value(json_array_get(array, *n));

		if (id == NULL || !backup_id_valid(id))
		{
			free(ids);
			return NULL;
		}
		ids[*n] = id;
	}
	return ids;
}

void
agent_emit_error(const DrError *err, bool fatal)
{
	json_t	   *o = json_pack("{s:s, s:s, s:o}", "event", "error", "code", dr_code_name(err->code),
							  "message", json_lossy(err->message));

	if (err->detail[0] != '\0')
		json_object_set_new(o, "detail", json_lossy(err->detail));
	if (err->hint[0] != '\0')
		json_object_set_new(o, "hint", json_lossy(err->hint));
	if (fatal)
		json_object_set_new(o, "fatal", json_true());
	agent_emit(o);
}

void
agent_emit_warning(const char *message)
{
	agent_emit(json_pack("{s:s, s:o}", "event", "warning", "message", json_lossy(message)));
}

void
agent_emit_object(const char *name, uint64 size, const uint8 sha256[32])
{
	agent_emit(json_pack("{s:s, s:s, s:I, s:o}", "event", "object", "name", name,
						 "size", (json_int_t) size, "sha256", json_hex(sha256, 32)));
}

static void
emit_held(const char *step)
{
	agent_emit(json_pack("{s:s, s:s}", "event", "held", "step", step));
}

/* ---- in ---- */

static void
protocol_failure(const char *why)
{
	DrError		err;

	dr_error(&err, DR_INTERNAL, "protocol violation: %s", why);
	agent_emit_error(&err, true);
	_exit(EXIT_FAILURE);
}

/* What belongs to the running backup or tail; true when that is all. */
static bool
control(Agent *a, json_t *request, const char *op)
{
	bool		flush = strcmp(op, "flush") == 0;
	bool		cancel = strcmp(op, "cancel") == 0;
	const char *text = json_string_value(json_object_get(request, "lsn"));
	XLogRecPtr	lsn;

	if (agent_tail_control(a, op, request))
		return true;
	if (!flush && !cancel)
		return false;
	pthread_mutex_lock(&a->lock);
	if (a->backup != NULL && cancel)
		backup_cancel(a->backup);
	else if (text != NULL && lsn_parse(text, &lsn))
	{
		a->flushed = lsn;
		a->flushes++;
		if (a->backup != NULL)
			backup_flushed(a->backup, lsn);
	}
	pthread_mutex_unlock(&a->lock);
	return flush;				/* a cancel also wakes whoever waits for a request */
}

static void
handle_line(Agent *a, const char *line, size_t n)
{
	json_t	   *request = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL);
	const char *op = json_string_value(json_object_get(request, "op"));

	if (op == NULL)
		protocol_failure("a line is not a request");
	if (control(a, request, op))
		json_decref(request);
	else
		queue_push(&a->requests, request);
}

/* The module is gone, or wants us to go: all that may still be done is one small object. */
static void
leave(Agent *a)
{
	if (a->opened)
		frontier_flush(&a->frontier);
	_exit(EXIT_SUCCESS);
}

static void *
control_thread(void *arg)
{
	Agent	   *a = arg;
	char	   *buf = pg_malloc(PGDR_LINE_MAX);
	size_t		n = 0;

	for (;;)
	{
		ssize_t		r = read(STDIN_FILENO, buf + n, PGDR_LINE_MAX - n);
		char	   *start = buf;
		char	   *end;

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			leave(a);
		n += r;
		while ((end = memchr(start, '\n', n - (start - buf))) != NULL)
		{
			handle_line(a, start, end - start);
			start = end + 1;
		}
		n -= start - buf;
		memmove(buf, start, n);
		if (n == PGDR_LINE_MAX)
			protocol_failure("a line is too long");
	}
	return NULL;
}

/* ---- life ---- */

static void *
alive_thread(void *arg)
{
	Agent	   *a = arg;

	for (;;)
	{
		sleep(ALIVE_EVERY_S);
		if (atomic_load(&a->working))
			agent_emit(json_pack("{s:s}", "event", "alive"));
	}
	return NULL;
}

void
agent_alive(Agent *a, bool working)
{
	pthread_t	thread;

	if (a->repo.store->ops->set_patience == NULL)
		return;
	atomic_store(&a->working, working);
	if (!a->alive_started)
		a->alive_started = pthread_create(&thread, NULL, alive_thread, a) == 0;
}

void
volunteer_for_oom(void)
{
	int			fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0)
	{
		ssize_t		ignored = write(fd, "500", 3);	/* a preference, not a need */

		(void) ignored;
		close(fd);
	}
}

static void
dispatch(Agent *a, json_t *request)
{
	const char *op = json_string_value(json_object_get(request, "op"));
	DrError		err;

	if (strcmp(op, "cancel") == 0)
		return;					/* what it was meant for has ended */
	for (int i = 0; i < (int) lengthof(ops); i++)
	{
		if (strcmp(op, ops[i].name) != 0)
			continue;
		if (ops[i].needs_open && !a->opened)
			protocol_failure("open comes first");
		if (!ops[i].run(a, request, &err))
			agent_emit_error(&err, false);
		step_hold_at(a->hold_at ? a->hold_at : "", emit_held);
		return;
	}
	protocol_failure("unknown op");
}

int
agent_main(int argc, char **argv)
{
	Agent		a = {.lock = PTHREAD_MUTEX_INITIALIZER,.lineage_lock = PTHREAD_MUTEX_INITIALIZER};
	pthread_t	thread;
	json_t	   *request;

	signal(SIGPIPE, SIG_IGN);
	volunteer_for_oom();
	queue_init(&a.requests, 16);
	agent_emit(json_pack("{s:s, s:i, s:s}", "event", "hello", "protocol", PGDR_PROTOCOL,
						 "version", PGDR_VERSION));
	if (pthread_create(&thread, NULL, control_thread, &a) != 0)
		protocol_failure("could not start a thread");
	while ((request = queue_pop(&a.requests)) != NULL)
	{
		dispatch(&a, request);
		json_decref(request);
	}
	return EXIT_SUCCESS;
}
