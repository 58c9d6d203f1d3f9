/*
 * agent_tail.c
 *	  The agent's op tail: a physical streaming client of its own server, which
 *	  ships what the server has flushed and reports as flushed what is durable.
 *
 * It ends when the stream does, or when a piece could not be stored; the module
 * starts it again.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "program/agent.h"

#include <poll.h>

#include "flow/tail.h"
#include "net/replication.h"

#define EMIT_EVERY_US		200000
#define TAKE_AT_ONCE		64
#define REST_MS				50
#define REPORT_EVERY_US		5000000	/* wal_sender_timeout is a minute; the DBA may have made it less */

typedef struct Stream
{
	Agent	   *agent;
	Replication *replication;
	ReplicationSource source;
	Tail	   *tail;
	int			received;		/* segments of older timelines that were stored first */
	TailStatus	reported;		/* to the server */
	int64		reported_at;
	TailStatus	emitted;		/* to the module */
	int64		emitted_at;
	bool		reply_wanted;
	bool		busy;			/* something came, and then it was all that there was */
	bool		more;			/* is here, in libpq's buffer: the socket would not tell */
} Stream;

bool
agent_tail_control(Agent *a, const char *op, json_t *request)
{
	bool		archived = strcmp(op, "archived") == 0;
	bool		pace = strcmp(op, "pace") == 0;
	const char *segment = json_string_value(json_object_get(request, "segment"));

	if (!archived && !pace)
		return false;
	pthread_mutex_lock(&a->lock);
	if (a->tail != NULL && archived && segment != NULL)
		tail_archived(a->tail, segment);
	if (a->tail != NULL && pace)
		tail_pace(a->tail, (int) json_integer_value(json_object_get(request, "interval_ms")),
				  json_is_true(json_object_get(request, "synchronous")));
	pthread_mutex_unlock(&a->lock);
	return true;
}

/* ---- the conversation with the server ---- */

static bool
take_what_came(Stream *s, DrError *err)
{
	ReplicationMessage m;
	bool		got = true;
	int			n = 0;

	/* Not for ever: what is due must be shipped, too. */
	for (s->busy = false; got && n < TAKE_AT_ONCE && tail_has_room(s->tail); n++)
	{
		if (!replication_receive(s->replication, &m, &got, err))
			return false;
		if (got && m.data != NULL)
		{
			if (!tail_feed(s->tail, m.begin, m.data, m.n, err))
				return false;
			s->busy = m.begin + m.n >= m.server_end;
			if (s->busy && !tail_caught_up(s->tail, err))
				return false;
		}
		s->reply_wanted |= got && m.reply_wanted;
	}
	s->more = got && n == TAKE_AT_ONCE;
	return true;
}

static bool
report(Stream *s, const TailStatus *now, DrError *err)
{
	int64		time = monotonic_now();

	if (!s->reply_wanted && now->durable == s->reported.durable && time - s->reported_at < REPORT_EVERY_US)
		return true;
	s->reported = *now;
	s->reported_at = time;
	s->reply_wanted = false;
	return replication_report(s->replication, now->received, now->durable, err);
}

/* ---- the conversation with the module ---- */

static void
emit(Stream *s, const TailStatus *now)
{
	char		lsn[LSN_TEXT_MAX];
	int64		time = monotonic_now();

	if ((now->durable == s->emitted.durable && now->waiting_since == s->emitted.waiting_since &&
		 now->pieces == s->emitted.pieces) ||
		time - s->emitted_at < EMIT_EVERY_US)
		return;
	s->emitted = *now;
	s->emitted_at = time;
	lsn_format(lsn, now->durable);
	agent_emit(json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "event", "shipped", "lsn", lsn,
						 "waiting_since", (json_int_t) now->waiting_since, "shipped_at", (json_int_t) now->shipped_at,
						 "pieces", (json_int_t) now->pieces, "bytes", (json_int_t) now->bytes));
}

/* ---- the loop ---- */

/*
 * The server sends with every flush.  To take each as it comes would cost more
 * than all else that is done with it; so while it is busy we let some come
 * together, unless commits wait for us, or they are soon to be shipped.
 */
static void
wait_for_something(Stream *s)
{
	struct pollfd fds[2] = {
		{.fd = tail_wakeup_fd(s->tail), .events = POLLIN},
		{.fd = replication_socket(s->replication), .events = POLLIN},
	};
	int			due = tail_due_in(s->tail);
	bool		rest = s->busy && due > 2 * REST_MS && !tail_is_synchronous(s->tail);

	if (s->more)
		return;
	poll(fds, tail_has_room(s->tail) && !rest ? 2 : 1, rest ? REST_MS : Min(due, (int) (EMIT_EVERY_US / 1000)));
}

static bool
stream(Stream *s, DrError *err)
{
	TailStatus	now;

	for (;;)
	{
		if (!take_what_came(s, err) || !tail_ship(s->tail, err))
			return false;
		tail_status(s->tail, &now);
		if (!report(s, &now, err))
			return false;
		emit(s, &now);
		wait_for_something(s);
	}
}

static bool
begin(Stream *s, const char *conninfo, int interval_ms, bool synchronous, XLogRecPtr *from, DrError *err)
{
	Agent	   *a = s->agent;
	WalSource	o = agent_wal_source(a);

	s->replication = replication_open(conninfo, &s->source, err);
	if (s->replication == NULL)
		return false;
	if (strcmp(s->source.system_identifier, a->system_identifier) != 0)
	{
		dr_error(err, DR_CONFIG, "pg_dr.wal_conninfo leads to another cluster");
		dr_detail(err, "Its system identifier is %s, not %s.", s->source.system_identifier, a->system_identifier);
		return dr_hint(err, "It must lead to this server itself.");
	}
	if (!pg_wal_store_received(&o, s->source.timeline, s->source.flushed, &s->received, err) ||
		(s->tail = tail_new(&o, s->source.timeline, s->source.flushed, from, err)) == NULL)
		return false;
	tail_pace(s->tail, interval_ms, synchronous);
	pthread_mutex_lock(&a->lock);
	a->tail = s->tail;
	pthread_mutex_unlock(&a->lock);
	return replication_start(s->replication, s->source.timeline, *from, err);
}

bool
agent_tail(Agent *a, json_t *request, DrError *err)
{
	Stream		s = {.agent = a};
	const char *conninfo;
	int			interval_ms;
	int			synchronous;
	XLogRecPtr	from;
	bool		ok;

	if (a->tail != NULL ||
		json_unpack(request, "{s:s, s:i, s:b}", "conninfo", &conninfo, "interval_ms", &interval_ms,
					"synchronous", &synchronous) != 0)
		return dr_error(err, DR_INTERNAL, "protocol violation: op \"tail\" lacks a value or comes twice");
	ok = begin(&s, conninfo, interval_ms, synchronous, &from, err);
	if (ok)
	{
		agent_emit(json_pack("{s:s, s:i, s:i}", "event", "streaming", "pid", replication_pid(s.replication),
							 "received", s.received));
		ok = stream(&s, err);
	}
	if (s.replication != NULL)
		replication_close(s.replication);
	return ok;
}
