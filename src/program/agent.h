/*
 * agent.h
 *	  The data plane on standard input and output: what its files share.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_AGENT_H
#define PGDR_AGENT_H

#include <jansson.h>

#include "flow/ahead.h"
#include "flow/backup.h"
#include "flow/frontier.h"
#include "flow/queue.h"
#include "flow/repository.h"
#include "flow/tail.h"
#include "flow/verify.h"
#include "program/access.h"

typedef struct Agent
{
	Queue		requests;		/* json_t *, from the control thread */
	atomic_bool working;		/* see agent_alive */
	bool		alive_started;
	pthread_mutex_t lock;		/* of backup and tail */
	Backup	   *backup;			/* the running one, for flush and cancel */
	Tail	   *tail;			/* the running one, for archived and pace */
	XLogRecPtr	flushed;		/* that the module has said last, for check_pages, */
	uint64		flushes;		/* and how often it did */

	/* since open */
	bool		opened;
	Repository	repo;
	Frontier	frontier;
	Ahead	   *ahead;			/* from the first file on */
	pthread_mutex_t lineage_lock;	/* of the next five */
	uint32		lineage_generation;	/* that made us the writer */
	int64		lineage_checked;	/* when nobody had been adopted yet; see monotonic_now; 0: never */
	TimeLineID	claimed;		/* whose segments may be archived, see tail_claim.h; 0: none yet; */
	uint64		claimed_first;	/* these, */
	uint64		claimed_last;	/* both included */
	char		system_identifier[21];
	uint32		wal_segment_size;
	char	   *data_directory;
	Access		access;			/* for ops that open it anew, and for other programs */
	int			jobs;
	int			level;
	uint64		max_rate;
	char	   *hold_at;

	/* what the database knows, for the next verify */
	VerifyKnown *known;
	size_t		n_known;
	bool		has_catalogue;
} Agent;

/* One line out; takes the object over.  Any thread. */
extern void agent_emit(json_t *object);
extern void agent_emit_error(const DrError *err, bool fatal);
extern void agent_emit_warning(const char *message);

/*
 * From now on, or no longer: say that we are alive every few seconds, because a
 * slow network is no reason to kill us.  Only where every request to the store
 * has an end of its own.
 */
extern void agent_alive(Agent *a, bool working);

/* A text that may hold anything: bytes that are not UTF-8 become '?'. */
extern json_t *json_lossy(const char *text);
extern json_t *json_hex(const uint8 *data, size_t n);

/* The ids in a request's "running", as long as it lives, to be freed; NULL: one is none. */
extern const char **agent_running(json_t *request, size_t *n);

/* {"event":"object",...} */
extern void agent_emit_object(const char *name, uint64 size, const uint8 sha256[32]);

/* When memory runs out, we go before the server does. */
extern void volunteer_for_oom(void);

/* Before something is stored, by any thread: has no other copy been adopted? */
extern bool agent_may_store(void *agent, DrError *err);

/* What is stored is this server's WAL. */
extern WalSource agent_wal_source(Agent *a);

/* agent_tail.c: a control line for the tail; false: it is none. */
extern bool agent_tail_control(Agent *a, const char *op, json_t *request);

/* The ops: true, or err.  Each emits its own done. */
extern bool agent_open(Agent *a, json_t *request, DrError *err);
extern bool agent_archive(Agent *a, json_t *request, DrError *err);
extern bool agent_adopt(Agent *a, json_t *request, DrError *err);
extern bool agent_check(Agent *a, json_t *request, DrError *err);
extern bool agent_known(Agent *a, json_t *request, DrError *err);
extern bool agent_verify(Agent *a, json_t *request, DrError *err);
extern bool agent_check_pages(Agent *a, json_t *request, DrError *err);
extern bool agent_sync(Agent *a, json_t *request, DrError *err);
extern bool agent_tail(Agent *a, json_t *request, DrError *err);
extern bool agent_backup(Agent *a, json_t *request, DrError *err);
extern bool agent_expire(Agent *a, json_t *request, DrError *err);
extern bool agent_drill(Agent *a, json_t *request, DrError *err);
extern bool agent_sweep(Agent *a, json_t *request, DrError *err);

/* pg_dr agent */
extern int	agent_main(int argc, char **argv);

#endif							/* PGDR_AGENT_H */
