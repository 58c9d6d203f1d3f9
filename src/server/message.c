/*
 * message.c
 *	  Lines that are spoken with the program: building requests, reading events.
 *
 * One idea: what the program says is foreign input.  Whatever is wrong with it
 * becomes an ERROR "protocol violation" of this one operation, and every number
 * and text is checked where it is read.  All of this works in a process without
 * transaction and database, the archiver.
 *
 * A crash here leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/numeric.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "message.h"
#include "pg_dr.h"

/* ---- texts ---- */

/* Does the database's encoding hold UTF-8 as it comes? */
static bool
holds_utf8(void)
{
	return GetDatabaseEncoding() == PG_UTF8 || GetDatabaseEncoding() == PG_SQL_ASCII;
}

/* Length of the character at text, which has len bytes left; -1 when it is none that we can have. */
static int
character_length(const char *text, int len)
{
	if (!IS_HIGHBIT_SET(*text))
		return 1;
	return holds_utf8() ? pg_encoding_verifymbchar(PG_UTF8, text, len) : -1;
}

void
dr_sanitize(char *text, int len, bool keep_controls)
{
	for (int i = 0; i < len;)
	{
		int			n = character_length(text + i, len - i);

		if (n < 1 || (!keep_controls && ((unsigned char) text[i] < ' ' || text[i] == 0x7f)))
		{
			text[i] = '?';
			n = 1;
		}
		i += n;
	}
}

bool
dr_text_is_sendable(const char *text)
{
	int			len = strlen(text);
	int			n;

	for (; len > 0; text += n, len -= n)
	{
		n = character_length(text, len);
		if (n < 1)
			return false;
	}
	return true;
}

char *
dr_time_text(TimestampTz t)
{
	pg_time_t	seconds = timestamptz_to_time_t(t);
	int			micros = t % USECS_PER_SEC;
	struct pg_tm *tm;

	if (micros < 0)				/* before 2000 */
		micros += USECS_PER_SEC;
	tm = pg_gmtime(&seconds);
	return psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ",
					tm->tm_year + 1900, tm->tm_mon + 1, tm->tm_mday,
					tm->tm_hour, tm->tm_min, tm->tm_sec, micros);
}

/* ---- requests ---- */

static void
append_text(StringInfo buf, const char *text)
{
	int			len = strlen(text);

	/* Paths are bytes, whatever this database's encoding. */
	if (pg_encoding_verifymbstr(PG_UTF8, text, len) != len)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("\"%s\" is not valid UTF-8", text),
				 errdetail("pg_dr keeps names and paths as UTF-8.")));
	escape_json(buf, text);
}

static void
append_key(StringInfo buf, const char *key)
{
	appendStringInfo(buf, ",\"%s\":", key);
}

void
dr_request_begin(StringInfo buf, const char *op)
{
	appendStringInfo(buf, "{\"op\":\"%s\"", op);
}

void
dr_request_text(StringInfo buf, const char *key, const char *value)
{
	append_key(buf, key);
	if (value == NULL)
		appendStringInfoString(buf, "null");
	else
		append_text(buf, value);
}

void
dr_request_int(StringInfo buf, const char *key, int64 value)
{
	append_key(buf, key);
	appendStringInfo(buf, INT64_FORMAT, value);
}

void
dr_request_bool(StringInfo buf, const char *key, bool value)
{
	append_key(buf, key);
	appendStringInfoString(buf, value ? "true" : "false");
}

void
dr_request_lsn(StringInfo buf, const char *key, XLogRecPtr value)
{
	append_key(buf, key);
	appendStringInfo(buf, "\"%X/%X\"", LSN_FORMAT_ARGS(value));
}

void
dr_request_time(StringInfo buf, const char *key, TimestampTz value)
{
	append_key(buf, key);
	appendStringInfo(buf, "\"%s\"", dr_time_text(value));
}

void
dr_request_texts(StringInfo buf, const char *key, List *values)
{
	const char *separator = "";
	ListCell   *cell;

	append_key(buf, key);
	appendStringInfoChar(buf, '[');
	foreach(cell, values)
	{
		appendStringInfoString(buf, separator);
		append_text(buf, (char *) lfirst(cell));
		separator = ",";
	}
	appendStringInfoChar(buf, ']');
}

void
dr_request_end(StringInfo buf)
{
	appendStringInfoString(buf, "}\n");
}

/* ---- events ---- */

void
dr_protocol_error(const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("protocol violation by the pg_dr program"),
			 errdetail("%s", why),
			 errhint("Install module and program from one build and restart the server.")));
}

pg_noreturn static void
wrong_value(const DrEvent *event, const char *key)
{
	dr_protocol_error(psprintf("Value \"%s\" of event \"%s\" is missing or has a wrong type.",
							   key, event->name));
}

/*
 * jsonb_in raises errors of its own; they become ours.  It touches nothing but
 * memory, so that catching its error needs no subtransaction.
 */
static Jsonb *
parse_json(char *line, MemoryContext context)
{
	MemoryContext caller = MemoryContextSwitchTo(context);
	Jsonb	   *volatile body = NULL;

	PG_TRY();
	{
		body = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(line)));
	}
	PG_CATCH();
	{
		if (geterrcode() == ERRCODE_OUT_OF_MEMORY)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		dr_protocol_error("A line is not JSON.");
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	return body;
}

void
dr_note_parse(char *text, int len, MemoryContext context, DrEvent *note)
{
	dr_sanitize(text, len, true);
	if (strlen(text) != len)
		dr_protocol_error("A line contains a NUL.");
	note->name = "?";
	note->context = context;
	note->body = parse_json(text, context);
	if (!JB_ROOT_IS_OBJECT(note->body))
		dr_protocol_error("A line is not an object.");
}

void
dr_event_parse(char *line, int len, MemoryContext context, DrEvent *event)
{
	dr_note_parse(line, len, context, event);
	event->name = dr_event_text(event, "event", true);
}

bool
dr_event_is(const DrEvent *event, const char *name)
{
	return strcmp(event->name, name) == 0;
}

/* NULL when it is not there, or null. */
static JsonbValue *
get_value(const DrEvent *event, const char *key)
{
	MemoryContext caller = MemoryContextSwitchTo(event->context);
	JsonbValue *value = getKeyJsonValueFromContainer(&event->body->root, key, strlen(key), NULL);

	MemoryContextSwitchTo(caller);
	return value == NULL || value->type == jbvNull ? NULL : value;
}

char *
dr_event_text(const DrEvent *event, const char *key, bool required)
{
	JsonbValue *value = get_value(event, key);
	char	   *text;

	if (value == NULL && !required)
		return NULL;
	if (value == NULL || value->type != jbvString)
		wrong_value(event, key);
	text = MemoryContextAlloc(event->context, value->val.string.len + 1);
	memcpy(text, value->val.string.val, value->val.string.len);
	text[value->val.string.len] = '\0';
	return text;
}

int64
dr_event_int(const DrEvent *event, const char *key)
{
	JsonbValue *value = get_value(event, key);
	char	   *text;
	char	   *end;
	long long	number;

	if (value == NULL || value->type != jbvNumeric)
		wrong_value(event, key);
	text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
	errno = 0;
	number = strtoll(text, &end, 10);
	if (errno != 0 || *end != '\0' || number < 0)
		wrong_value(event, key);
	pfree(text);
	return number;
}

List *
dr_event_texts(const DrEvent *event, const char *key)
{
	MemoryContext caller = MemoryContextSwitchTo(event->context);
	JsonbValue *value = get_value(event, key);
	List	   *texts = NIL;

	if (value == NULL || value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		wrong_value(event, key);
	for (uint32 i = 0; i < JsonContainerSize(value->val.binary.data); i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(value->val.binary.data, i);

		if (element->type != jbvString)
			wrong_value(event, key);
		texts = lappend(texts, pnstrdup(element->val.string.val, element->val.string.len));
	}
	MemoryContextSwitchTo(caller);
	return texts;
}

TimestampTz
dr_event_time(const DrEvent *event, const char *key)
{
	int64		us = dr_event_int(event, key);

	return us == 0 ? 0 : us - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
}

bool
dr_event_bool(const DrEvent *event, const char *key)
{
	JsonbValue *value = get_value(event, key);

	if (value == NULL)
		return false;
	if (value->type != jbvBool)
		wrong_value(event, key);
	return value->val.boolean;
}

XLogRecPtr
dr_event_lsn(const DrEvent *event, const char *key)
{
	bool		have_error = false;
	XLogRecPtr	lsn = pg_lsn_in_internal(dr_event_text(event, key, true), &have_error);

	if (have_error)
		wrong_value(event, key);
	return lsn;
}

bool
dr_event_sha256(const DrEvent *event, const char *key, uint8 *sha256)
{
	char	   *text = dr_event_text(event, key, false);

	if (text == NULL)
		return false;
	if (strlen(text) != 64 || strspn(text, "0123456789abcdef") != 64)
		wrong_value(event, key);
	hex_decode(text, 64, (char *) sha256);
	return true;
}

List *
dr_keep_text(MemoryContext context, List *list, const char *text)
{
	MemoryContext caller = MemoryContextSwitchTo(context);

	list = lappend(list, pstrdup(text));
	MemoryContextSwitchTo(caller);
	return list;
}

char *
dr_event_json(const DrEvent *event, const char *key)
{
	JsonbValue *value = get_value(event, key);
	MemoryContext caller = MemoryContextSwitchTo(event->context);
	Jsonb	   *json = value ? JsonbValueToJsonb(value) : NULL;
	char	   *text = json ? JsonbToCString(NULL, &json->root, VARSIZE(json)) : NULL;

	MemoryContextSwitchTo(caller);
	return text;
}

static int
error_code(const char *code)
{
	static const struct
	{
		const char *code;
		int			sqlstate;
	}			codes[] = {
		{"config", ERRCODE_CONFIG_FILE_ERROR},
		{"refused", ERRCODE_CONFIG_FILE_ERROR},
		{"key", ERRCODE_INVALID_PASSWORD},
		{"absent", ERRCODE_UNDEFINED_FILE},
		{"conflict", ERRCODE_DUPLICATE_FILE},
		{"lineage", DR_ERRCODE_LINEAGE},
		{"damaged", ERRCODE_DATA_CORRUPTED},
		{"io", ERRCODE_IO_ERROR},
		{"cancelled", ERRCODE_QUERY_CANCELED},
		{"internal", ERRCODE_INTERNAL_ERROR},
	};

	for (int i = 0; i < lengthof(codes); i++)
	{
		if (strcmp(code, codes[i].code) == 0)
			return codes[i].sqlstate;
	}
	return ERRCODE_INTERNAL_ERROR;
}

void
dr_event_raise(const DrEvent *event)
{
	int			sqlstate = error_code(dr_event_text(event, "code", true));
	char	   *message = dr_event_text(event, "message", true);
	char	   *detail = dr_event_text(event, "detail", false);
	char	   *hint = dr_event_text(event, "hint", false);

	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg_internal("%s", dr_shown(message)),
			 detail ? errdetail_internal("%s", dr_shown(detail)) : 0,
			 hint ? errhint("%s", dr_shown(hint)) : 0));
}
