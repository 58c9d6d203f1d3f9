/*
 * replication.c
 *	  A physical streaming connection to the server whose WAL is shipped.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "net/replication.h"

#include <libpq-fe.h>

#include "core/bytes.h"

#define WAL_DATA_HEADER		25	/* 'w', begin, end of WAL, time */
#define KEEPALIVE_SIZE		18	/* 'k', end of WAL, time, reply wanted */
#define EPOCH_2000_US		INT64CONST(946684800000000)

struct Replication
{
	PGconn	   *conn;
	char	   *message;		/* libpq's, of the last call */
};

static uint64
get_be64(const char *p)
{
	uint64		v = 0;

	for (int i = 0; i < 8; i++)
		v = v << 8 | (uint8) p[i];
	return v;
}

static void
put_be64(char *p, uint64 v)
{
	for (int i = 7; i >= 0; i--, v >>= 8)
		p[i] = (char) (v & 0xff);
}

/* libpq's messages end in a line feed, and may have several lines. */
static bool
failed(DrError *err, DrCode code, const char *what, const char *why)
{
	char		line[1024];

	strlcpy(line, why, sizeof(line));
	for (size_t n = strlen(line); n > 0 && line[n - 1] == '\n';)
		line[--n] = '\0';
	for (char *p = line; *p != '\0'; p++)
		if (*p == '\n')
			*p = ' ';
	return dr_error(err, code, "%s: %s", what, line);
}

static bool
refused(const PGconn *conn, DrError *err)
{
	const char *why = PQerrorMessage(conn);

	failed(err, DR_CONFIG, "could not connect to the server to stream its WAL", why);
	if (strstr(why, "pg_hba.conf") != NULL || strstr(why, "authentication") != NULL)
		return dr_hint(err, "Add the line \"local replication %s peer\" to pg_hba.conf and reload, or set "
					   "pg_dr.wal_conninfo.", PQuser(conn) ? PQuser(conn) : "postgres");
	if (strstr(why, "max_wal_senders") != NULL)
		return dr_hint(err, "Raise max_wal_senders by one.");
	return dr_hint(err, "Set pg_dr.wal_conninfo to what reaches this server.");
}

static bool
identify(Replication *r, ReplicationSource *source, DrError *err)
{
	PGresult   *result = PQexec(r->conn, "IDENTIFY_SYSTEM");
	bool		ok = PQresultStatus(result) == PGRES_TUPLES_OK && PQntuples(result) == 1 && PQnfields(result) >= 3;

	if (!ok)
		failed(err, DR_IO, "could not identify the server whose WAL is streamed", PQerrorMessage(r->conn));
	else
	{
		strlcpy(source->system_identifier, PQgetvalue(result, 0, 0), sizeof(source->system_identifier));
		source->timeline = (TimeLineID) strtoul(PQgetvalue(result, 0, 1), NULL, 10);
		ok = lsn_parse(PQgetvalue(result, 0, 2), &source->flushed) ||
			dr_error(err, DR_IO, "could not identify the server whose WAL is streamed: \"%s\" is not a WAL location",
					 PQgetvalue(result, 0, 2));
	}
	PQclear(result);
	return ok;
}

Replication *
replication_open(const char *conninfo, ReplicationSource *source, DrError *err)
{
	/* Later ones win over those inside of conninfo. */
	const char *const keywords[] = {"dbname", "replication", "application_name", "connect_timeout", NULL};
	const char *const values[] = {conninfo, "true", "pg_dr", "10", NULL};
	Replication *r = pg_malloc0(sizeof(*r));

	r->conn = PQconnectdbParams(keywords, values, 1);
	if (r->conn == NULL || PQstatus(r->conn) != CONNECTION_OK)
		refused(r->conn, err);
	else if (identify(r, source, err))
		return r;
	replication_close(r);
	return NULL;
}

bool
replication_start(Replication *r, TimeLineID tli, XLogRecPtr from, DrError *err)
{
	char		lsn[LSN_TEXT_MAX];
	char	   *command;
	PGresult   *result;
	bool		ok;

	lsn_format(lsn, from);
	command = psprintf("START_REPLICATION PHYSICAL %s TIMELINE %u", lsn, tli);
	result = PQexec(r->conn, command);
	ok = PQresultStatus(result) == PGRES_COPY_BOTH ||
		failed(err, DR_IO, "could not start streaming WAL", PQerrorMessage(r->conn));
	PQclear(result);
	pfree(command);
	return ok;
}

int
replication_pid(const Replication *r)
{
	return PQbackendPID(r->conn);
}

int
replication_socket(const Replication *r)
{
	return PQsocket(r->conn);
}

static bool
parse(Replication *r, int n, ReplicationMessage *m, DrError *err)
{
	memset(m, 0, sizeof(*m));
	if (r->message[0] == 'w' && n >= WAL_DATA_HEADER)
	{
		m->begin = get_be64(r->message + 1);
		m->server_end = get_be64(r->message + 9);
		m->data = r->message + WAL_DATA_HEADER;
		m->n = n - WAL_DATA_HEADER;
		return true;
	}
	if (r->message[0] == 'k' && n >= KEEPALIVE_SIZE)
	{
		m->reply_wanted = r->message[17] != 0;
		return true;
	}
	return dr_error(err, DR_IO, "the server sent an unknown message in its WAL stream");
}

bool
replication_receive(Replication *r, ReplicationMessage *message, bool *got, DrError *err)
{
	int			n;

	PQfreemem(r->message);
	r->message = NULL;
	*got = false;
	n = PQgetCopyData(r->conn, &r->message, 1);
	if (n == 0)
	{
		if (!PQconsumeInput(r->conn))
			return failed(err, DR_IO, "the WAL stream broke", PQerrorMessage(r->conn));
		n = PQgetCopyData(r->conn, &r->message, 1);
	}
	if (n == 0)
		return true;
	if (n < 0)
	{
		PGresult   *result = PQgetResult(r->conn);

		failed(err, DR_IO, "the WAL stream ended", PQerrorMessage(r->conn));
		PQclear(result);
		return false;
	}
	*got = true;
	return parse(r, n, message, err);
}

bool
replication_report(Replication *r, XLogRecPtr received, XLogRecPtr durable, DrError *err)
{
	char		status[1 + 8 * 4 + 1] = {'r'};

	put_be64(status + 1, received);
	put_be64(status + 9, durable);
	put_be64(status + 17, durable);
	put_be64(status + 25, (uint64) (time_now() - EPOCH_2000_US));
	return (PQputCopyData(r->conn, status, sizeof(status)) == 1 && PQflush(r->conn) == 0) ||
		failed(err, DR_IO, "the WAL stream broke", PQerrorMessage(r->conn));
}

void
replication_close(Replication *r)
{
	PQfreemem(r->message);
	PQfinish(r->conn);
	free(r);
}
