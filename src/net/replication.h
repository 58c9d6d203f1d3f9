/*
 * replication.h
 *	  A physical streaming connection to the server whose WAL is shipped (libpq).
 *
 * One thread uses it.  Errors are DR_IO, or DR_ACCESS with the line that
 * pg_hba.conf lacks.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_REPLICATION_H
#define PGDR_REPLICATION_H

#include "core/error.h"
#include "core/names.h"

typedef struct Replication Replication;

/* The server's view of itself. */
typedef struct ReplicationSource
{
	char		system_identifier[24];
	TimeLineID	timeline;
	XLogRecPtr	flushed;		/* when it was asked */
} ReplicationSource;

typedef struct ReplicationMessage
{
	XLogRecPtr	begin;			/* of data */
	const char *data;			/* NULL: none; valid until the next call */
	size_t		n;
	XLogRecPtr	server_end;		/* with data: how far the server could have sent then */
	bool		reply_wanted;
} ReplicationMessage;

/* conninfo: as libpq takes it; the application name is always pg_dr. */
extern Replication *replication_open(const char *conninfo, ReplicationSource *source, DrError *err);
extern bool replication_start(Replication *r, TimeLineID tli, XLogRecPtr from, DrError *err);

/* The backend that sends. */
extern int	replication_pid(const Replication *r);

/* The socket, to wait on. */
extern int	replication_socket(const Replication *r);

/*
 * What has arrived; *got is false when there is nothing yet.  False: the stream
 * has ended or broken.
 */
extern bool replication_receive(Replication *r, ReplicationMessage *message, bool *got, DrError *err);

/* Tell the server how far WAL is received and durable. */
extern bool replication_report(Replication *r, XLogRecPtr received, XLogRecPtr durable, DrError *err);

extern void replication_close(Replication *r);

#endif							/* PGDR_REPLICATION_H */
