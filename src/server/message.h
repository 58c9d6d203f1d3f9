/*
 * message.h
 *	  Lines that are spoken with the program: building requests, reading events.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_MESSAGE_H
#define PGDR_MESSAGE_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

#include "compat.h"

/* ---- requests: begin, values, end ---- */

extern void dr_request_begin(StringInfo buf, const char *op);
extern void dr_request_text(StringInfo buf, const char *key, const char *value);	/* NULL: null */
extern void dr_request_int(StringInfo buf, const char *key, int64 value);
extern void dr_request_bool(StringInfo buf, const char *key, bool value);
extern void dr_request_lsn(StringInfo buf, const char *key, XLogRecPtr value);
extern void dr_request_time(StringInfo buf, const char *key, TimestampTz value);
extern void dr_request_texts(StringInfo buf, const char *key, List *values);
extern void dr_request_end(StringInfo buf);

/* A text that the protocol can carry?  (UTF-8, or ASCII where the database's encoding is another.) */
extern bool dr_text_is_sendable(const char *text);

/* 2026-01-31T12:00:00.123456Z */
extern char *dr_time_text(TimestampTz t);

/* ---- events ---- */

typedef struct DrEvent
{
	char	   *name;			/* "progress", "done", ... */
	Jsonb	   *body;
	MemoryContext context;		/* of everything that the getters return */
} DrEvent;

/*
 * Take a line of len bytes apart; ERROR when it is no event.  The line is
 * hostile: it is changed where it holds what this database can't.
 */
extern void dr_event_parse(char *line, int len, MemoryContext context, DrEvent *event);

/* The same for an object that is no event, but pg_dr restore's note (recovery.c). */
extern void dr_note_parse(char *text, int len, MemoryContext context, DrEvent *note);
extern bool dr_event_is(const DrEvent *event, const char *name);

/* Each raises an ERROR when the value has the wrong type or, if required, is not there. */
extern char *dr_event_text(const DrEvent *event, const char *key, bool required);
extern TimestampTz dr_event_time(const DrEvent *event, const char *key);	/* microseconds since 1970; 0 stays 0 */
extern List *dr_event_texts(const DrEvent *event, const char *key);
extern int64 dr_event_int(const DrEvent *event, const char *key);	/* never negative */
extern bool dr_event_bool(const DrEvent *event, const char *key);	/* not there: false */
extern XLogRecPtr dr_event_lsn(const DrEvent *event, const char *key);
extern bool dr_event_sha256(const DrEvent *event, const char *key, uint8 *sha256);	/* false: null */

/* A copy of a text joins the list, both in this context: an event lasts until the next one. */
extern List *dr_keep_text(MemoryContext context, List *list, const char *text);

/* Any value, as JSON; NULL: there is none. */
extern char *dr_event_json(const DrEvent *event, const char *key);

/* An event "error" as an ERROR of ours; nothing else in the archiver has the first one's SQLSTATE. */
#define DR_ERRCODE_LINEAGE	ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE

pg_noreturn extern void dr_event_raise(const DrEvent *event);

/* Bytes that are no text in this database become '?'. */
extern void dr_sanitize(char *text, int len, bool keep_controls);

pg_noreturn extern void dr_protocol_error(const char *why);

#endif							/* PGDR_MESSAGE_H */
