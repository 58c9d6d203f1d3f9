/*
 * wal_spool.c
 *	  A process that fetches WAL ahead of recovery.
 *
 * restore_command runs once per file, and recovery waits for it.  So the first
 * wal-get leaves a process behind (of the server's user, in a session of its
 * own) that keeps the repository open and fetches what recovery will want next,
 * several files at once, into
 *
 *		<directory of the destination>/pg_dr.spool/		socket, lock, <file>, temporaries
 *
 * A later wal-get asks for its file by the socket and renames it into place.
 * How far it fetches ahead doubles with each file that was wanted, up to
 * SPOOL_FILES or SPOOL_BYTES, and is nothing after one that does not exist: a
 * standby that waits for the next segment costs one question a time.
 *
 * Only the file that is asked for is ever called absent, by wal_serve's rules;
 * what fetching ahead did not find, or could not get, is asked for again.
 *
 * The process is there only for a server that recovers: it goes when that is
 * gone or has been promoted, when nobody asks for a while, or when its directory
 * is gone.  Its parent, which does nothing else, removes the directory, whatever
 * it dies of; what is left after both die, the next one clears away.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres_fe.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/step.h"
#include "flow/wal_serve.h"
#include "program/agent.h"
#include "program/wal_ask.h"
#include "program/wal_spool.h"

#define SPOOL_FILES		32
#define SPOOL_BYTES		(512 * 1024 * 1024)
#define SPOOL_THREADS	4
#define NICE			10
#define IDLE_S			30
#define QUESTION_S		5		/* a question is one line, written at once */

typedef enum EntryState
{
	ENTRY_FREE,
	ENTRY_WAITS,
	ENTRY_RUNS,
	ENTRY_THERE,				/* in the directory */
	ENTRY_NOT					/* absent or failed: of no importance until it is asked for */
} EntryState;

typedef struct Entry
{
	EntryState	state;
	char		file[25];
	TimeLineID	timeline;
	uint64		segno;
	bool		unwanted;		/* when it has run, it goes */
} Entry;

typedef struct Spool
{
	Access		access;
	Repository	repo;
	bool		wait;			/* as WalAsk says */
	bool		doubtful;		/* something failed: open it anew */
	bool		closed;			/* that failed, too */
	WalServe	serve;
	char		digest[ASK_DIGEST_MAX + 1]; /* of the options */
	TimeLineID	newest;			/* timeline of which a segment was asked for */
	History		history;		/* its; n is 0 until it is needed */

	pthread_mutex_t lock;
	pthread_cond_t work;
	pthread_cond_t done;
	Entry		entries[SPOOL_FILES];
	int			ahead;			/* files to fetch after the one that is asked for */
	int			threads;
} Spool;

/* ---- files ---- */

static bool
io_error(DrError *err, const char *path)
{
	return dr_error(err, DR_IO, "could not write \"%s\": %s", path, strerror(errno));
}

/*
 * A file that nobody else writes, whole, its bytes on the disk.  Not synced: the
 * server does that with every file that it gets, and would wait for the file
 * system's journal behind us.  Through the page cache: it is read at once.
 */
static bool
write_temporary(const char *temporary, const Bytes *plain, DrError *err)
{
	int			fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	size_t		done = 0;
	bool		ok = fd >= 0;

	while (ok && done < plain->len)
	{
		ssize_t		w = write(fd, plain->data + done, plain->len - done);

		if (w < 0 && errno == EINTR)
			continue;
		ok = w > 0;
		done += ok ? w : 0;
	}
	/* An error of the disk is told once: the server's own fsync would not hear of it. */
	if (ok && sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER) != 0)
		ok = errno != EIO && errno != ENOSPC && errno != EDQUOT;
	if (fd >= 0)
		ok = close(fd) == 0 && ok;
	if (!ok)
	{
		io_error(err, temporary);
		unlink(temporary);
	}
	return ok;
}

bool
spool_write(const char *path, const Bytes *plain, DrError *err)
{
	char	   *temporary = psprintf("%s.pg_dr", path);
	bool		ok = write_temporary(temporary, plain, err);

	if (ok)
	{
		step_reached("walget.fetched");
		ok = rename(temporary, path) == 0 || io_error(err, path);
	}
	pfree(temporary);
	return ok;
}

/* ---- fetching ahead; the working directory is the spool's ---- */

static void
run_entry(Spool *s, Entry *e, Bytes *plain)
{
	SealHeader	header;
	DrError		err;
	char		temporary[64];
	bool		there;

	snprintf(temporary, sizeof(temporary), "%s.%d", e->file, (int) (e - s->entries));
	e->state = ENTRY_RUNS;
	pthread_mutex_unlock(&s->lock);
	there = wal_fetch(&s->repo, s->access.system_identifier, e->file, plain, &header, &err) == STORE_OK &&
		write_temporary(temporary, plain, &err);
	pthread_mutex_lock(&s->lock);

	/* Under its own name only while it is wanted: else somebody may have asked for it again. */
	if (there && e->unwanted)
		unlink(temporary);
	else if (there)
		there = rename(temporary, e->file) == 0;
	e->state = e->unwanted ? ENTRY_FREE : there ? ENTRY_THERE : ENTRY_NOT;
	pthread_cond_broadcast(&s->done);
}

static void *
work(void *arg)
{
	Spool	   *s = arg;
	Bytes		plain = {0};	/* kept from one segment to the next */

	pthread_mutex_lock(&s->lock);
	for (;;)
	{
		Entry	   *next = NULL;

		for (int i = 0; i < SPOOL_FILES; i++)
		{
			Entry	   *e = &s->entries[i];

			if (e->state == ENTRY_WAITS && (next == NULL || e->segno < next->segno))
				next = e;
		}
		if (next != NULL)
			run_entry(s, next, &plain);
		else
			pthread_cond_wait(&s->work, &s->lock);
	}
	return NULL;
}

/* The lock is held. */
static Entry *
find_entry(Spool *s, TimeLineID tli, uint64 segno)
{
	for (int i = 0; i < SPOOL_FILES; i++)
	{
		Entry	   *e = &s->entries[i];

		if (e->state != ENTRY_FREE && !e->unwanted && e->timeline == tli && e->segno == segno)
			return e;
	}
	return NULL;
}

/* The lock is held. */
static void
drop_entry(Entry *e)
{
	if (e->state == ENTRY_THERE)
		unlink(e->file);
	e->unwanted = e->state == ENTRY_RUNS;
	if (!e->unwanted)
		e->state = ENTRY_FREE;
}

/* The lock is held. */
static void
add_entry(Spool *s, TimeLineID tli, uint64 segno)
{
	for (int i = 0; i < SPOOL_FILES; i++)
	{
		Entry	   *e = &s->entries[i];

		if (e->state != ENTRY_FREE)
			continue;
		memset(e, 0, sizeof(*e));
		wal_segment_name(e->file, tli, segno, s->serve.segment_size);
		e->timeline = tli;
		e->segno = segno;
		e->state = ENTRY_WAITS;
		return;
	}
}

/* Files to fetch ahead at most: the server needs the room more than we do. */
static int
limit(const Spool *s)
{
	struct statvfs fs;
	uint64		room = SPOOL_BYTES;

	if (statvfs(".", &fs) == 0)
		room = Min(room, (uint64) fs.f_bavail * fs.f_frsize / 4);
	return (int) Min(room / s->serve.segment_size, SPOOL_FILES - SPOOL_THREADS);
}

/* The lock is held.  After this segment, "ahead" more; what is not among them goes. */
static void
fetch_ahead(Spool *s, TimeLineID tli, uint64 segno)
{
	for (int i = 0; i < SPOOL_FILES; i++)
	{
		Entry	   *e = &s->entries[i];

		if (e->state != ENTRY_FREE &&
			(e->timeline != tli || e->segno < segno || e->segno > segno + s->ahead))
			drop_entry(e);
	}
	for (int i = 1; i <= s->ahead; i++)
		if (find_entry(s, tli, segno + i) == NULL)
			add_entry(s, tli, segno + i);
	pthread_cond_broadcast(&s->work);
}

static void
start_threads(Spool *s)
{
	pthread_t	thread;

	for (; s->threads < SPOOL_THREADS; s->threads++)
		if (pthread_create(&thread, NULL, work, s) != 0)
			break;				/* with none, nothing is fetched ahead */
}

/* ---- the repository ---- */

/*
 * After a failure: the directory may have been mounted anew, credentials and
 * permissions put right.  What recovery has asked for before is not forgotten
 * (cut_at_switch).
 */
static bool
reopen(Spool *s, DrError *err)
{
	bool		busy = true;

	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < SPOOL_FILES; i++)
		if (s->entries[i].state != ENTRY_FREE)
			drop_entry(&s->entries[i]);
	while (busy)
	{
		busy = false;
		for (int i = 0; i < SPOOL_FILES; i++)
			busy |= s->entries[i].state == ENTRY_RUNS;
		if (busy)
			pthread_cond_wait(&s->done, &s->lock);
	}
	if (!s->closed)
		repository_close(&s->repo);
	s->closed = !access_open_for_recovery(&s->access, s->wait, &s->repo, err);
	s->doubtful = s->closed;
	pthread_mutex_unlock(&s->lock);
	return !s->closed;
}

/* ---- answers ---- */

/* Was it fetched ahead?  If it is on its way, wait for it. */
static bool
is_there(Spool *s, const WalFile *wal)
{
	uint64		segno;
	Entry	   *e;
	bool		there;

	if (s->serve.segment_size == 0)
		return false;
	segno = wal_segment_number(wal, s->serve.segment_size);
	pthread_mutex_lock(&s->lock);
	e = find_entry(s, wal->timeline, segno);
	if (e != NULL && e->state != ENTRY_NOT)
	{
		s->ahead = Min(s->ahead * 2 + 1, limit(s));
		fetch_ahead(s, wal->timeline, segno);
	}
	while (e != NULL && (e->state == ENTRY_WAITS || e->state == ENTRY_RUNS))
		pthread_cond_wait(&s->done, &s->lock);
	there = e != NULL && e->state == ENTRY_THERE;
	if (e != NULL)
		e->state = ENTRY_FREE;	/* the file is the asker's now */
	pthread_mutex_unlock(&s->lock);
	return there;
}

static StoreResult
fetch_now(Spool *s, const char *file, const WalFile *wal, DrError *err)
{
	Bytes		plain = {0};
	StoreResult r = wal_serve(&s->serve, file, &plain, err);

	if (r == STORE_OK && !spool_write(file, &plain, err))
		r = STORE_FAILED;
	bytes_free(&plain);
	if (wal->kind != KIND_WAL || s->serve.segment_size == 0)
		return r;
	start_threads(s);
	pthread_mutex_lock(&s->lock);
	s->ahead = r == STORE_OK && s->threads > 0 ? Min(Max(s->ahead, 1), limit(s)) : 0;
	fetch_ahead(s, wal->timeline, wal_segment_number(wal, s->serve.segment_size));
	pthread_mutex_unlock(&s->lock);
	return r;
}

/* ---- timelines ---- */

/*
 * Recovery that asked for a newer timeline's segment, and then for an older one's
 * because the former is not there yet, would replay the latter beyond the point
 * at which the newer timeline left it.  It gets zeros from there on, and comes
 * again.
 */
static bool
cut_at_switch(Spool *s, const char *file, const WalFile *wal, DrError *err)
{
	const TimelineEntry *e;
	uint64		begin;
	uint64		zeros;
	int			fd;
	bool		ok;

	if (wal->timeline >= s->newest)
		return true;
	if (s->history.n == 0 && !wal_history(&s->repo, s->access.system_identifier, s->newest, &s->history, err))
		return err->code == DR_ABSENT;	/* recovery has it from elsewhere */
	e = history_find(&s->history, wal->timeline);
	begin = wal_segment_number(wal, s->serve.segment_size) * s->serve.segment_size;
	if (e == NULL || e->end == InvalidXLogRecPtr || e->end >= begin + s->serve.segment_size)
		return true;
	zeros = Max(e->end, begin) - begin;
	fd = open(file, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	ok = fd >= 0 && ftruncate(fd, zeros) == 0 && ftruncate(fd, s->serve.segment_size) == 0 && fsync(fd) == 0;
	if (!ok)
		dr_error(err, DR_IO, "could not write \"%s\": %s", file, strerror(errno));
	if (fd >= 0)
		close(fd);
	return ok;
}

/* As wal_ask.h says; malloc'd. */
static char *
answer(Spool *s, const char *file)
{
	WalFile		wal;
	DrError		err;
	StoreResult r;
	json_t	   *error;
	char	   *text;
	char	   *line;

	if (!wal_file_parse(file, &wal))
	{
		dr_error(&err, DR_CONFIG, "\"%s\" is not the name of a WAL file", file);
		r = STORE_FAILED;
	}
	else if (s->doubtful && !reopen(s, &err))
		r = STORE_FAILED;
	else
		r = wal.kind == KIND_WAL && is_there(s, &wal) ? STORE_OK : fetch_now(s, file, &wal, &err);
	if (r != STORE_FAILED && wal.kind == KIND_WAL && wal.timeline > s->newest)
	{
		history_free(&s->history);
		s->newest = wal.timeline;
	}
	if (r == STORE_OK && wal.kind == KIND_WAL && !cut_at_switch(s, file, &wal, &err))
		r = STORE_FAILED;
	if (r != STORE_FAILED)
		return pg_strdup(r == STORE_OK ? ASK_STORED : ASK_ABSENT);
	s->doubtful = true;
	error = json_pack("{s:i, s:o, s:o, s:o}", "code", (int) err.code, "message", json_lossy(err.message),
					  "detail", json_lossy(err.detail), "hint", json_lossy(err.hint));
	text = json_dumps(error, JSON_COMPACT);
	line = psprintf(ASK_FAILED "%s", text ? text : "{}");
	free(text);
	json_decref(error);
	return line;
}

/*
 * Recovery has read the segment before the one that it asks for, and nobody reads
 * that again soon: the page cache is for data files, and new pages come cheaper
 * when old ones are given back.
 */
static void
give_back_cache(const Spool *s, const char *file)
{
	WalFile		wal;
	uint64		segno = 0;
	char		path[3 + 24 + 1] = "../";
	int			fd;

	if (s->serve.segment_size > 0 && wal_file_parse(file, &wal) && wal.kind == KIND_WAL)
		segno = wal_segment_number(&wal, s->serve.segment_size);
	if (segno == 0)
		return;
	wal_segment_name(path + 3, wal.timeline, segno - 1, s->serve.segment_size);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return;					/* recovery has it elsewhere */
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
}

/* ---- the process ---- */

/* False: for others than us, go. */
static bool
hear(Spool *s, int fd)
{
	char		line[128];
	char		digest[ASK_DIGEST_MAX + 1];
	char		file[64];
	char	   *reply;

	if (!read_line(fd, line, sizeof(line), QUESTION_S) || sscanf(line, "%16s %63s", digest, file) != 2)
		return true;
	if (strcmp(digest, s->digest) != 0)
		return false;			/* the end of the connection tells */
	reply = answer(s, file);
	give_back_cache(s, file);
	write_line(fd, reply);		/* who doesn't listen any more asks again */
	free(reply);
	return true;
}

static bool
is_in(const char *data_directory, const char *name)
{
	char	   *path = psprintf("%s/%s", data_directory, name);
	bool		there = access(path, F_OK) == 0;

	pfree(path);
	return there;
}

/*
 * A server that recovers: only for one we stay.  pg_rewind, which runs a
 * restore_command, too, and reads the directory of who has just been promoted,
 * stumbles over what comes and goes there.
 */
static bool
recovery_is_there(const char *data_directory)
{
	char	   *path = psprintf("%s/postmaster.pid", data_directory);
	FILE	   *file = fopen(path, "r");
	long		pid;
	bool		there = file != NULL && fscanf(file, "%ld", &pid) == 1 &&
		(kill((pid_t) labs(pid), 0) == 0 || errno != ESRCH) &&
		(is_in(data_directory, "standby.signal") || is_in(data_directory, "recovery.signal"));

	if (file != NULL)
		fclose(file);
	pfree(path);
	return there;
}

/* Where it lies, by its name: pg_wal may be a link.  malloc'd; NULL: there is none. */
static char *
data_directory_of(const char *path)
{
	char	   *directory = pg_strdup(path);
	char	   *real;

	get_parent_directory(directory);
	get_parent_directory(directory);
	real = realpath(directory[0] ? directory : ".", NULL);
	free(directory);
	return real;
}

static void
clear_directory(void)
{
	DIR		   *dir = opendir(".");
	struct dirent *entry;

	while (dir != NULL && (entry = readdir(dir)) != NULL)
		if (strcmp(entry->d_name, "lock") != 0 && entry->d_name[0] != '.')
			unlink(entry->d_name);
	if (dir != NULL)
		closedir(dir);
}

static void
run(Spool *s, int listener, const char *data_directory)
{
	struct pollfd p = {.fd = listener, .events = POLLIN};
	int			idle = 0;
	bool		more = true;

	while (more && idle < IDLE_S && access("socket", F_OK) == 0 && recovery_is_there(data_directory))
	{
		int			fd;

		idle++;
		if (poll(&p, 1, 1000) <= 0 || (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
			continue;
		more = hear(s, fd);
		close(fd);
		idle = 0;
	}
}

static int
listen_here(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX,.sun_path = "socket"};
	int			fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && (bind(fd, (struct sockaddr *) &address, sizeof(address)) != 0 || listen(fd, 4) != 0))
	{
		close(fd);
		return -1;
	}
	return fd;
}

/* Of what the server's process had open, nothing may stay open with us. */
static void
detach(int directory, int ready)
{
	int			null;
	int			first = Min(directory, ready);
	int			second = Max(directory, ready);

	setsid();
	if (first > 3)
		close_range(3, first - 1, 0);
	if (second > first + 1)
		close_range(first + 1, second - 1, 0);
	close_range(second + 1, ~0U, 0);
	null = open("/dev/null", O_RDWR);
	for (int fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
}

/* Says "ready" by the pipe, or nothing. */
_Noreturn static void
serve(const WalAsk *ask, int ready, const char *data_directory)
{
	Spool		s = {.access = ask->access,.wait = ask->wait,.lock = PTHREAD_MUTEX_INITIALIZER,.work = PTHREAD_COND_INITIALIZER,
	.done = PTHREAD_COND_INITIALIZER};
	int			listener;
	DrError		err;

	/* Whoever waits for us leaves the processor to us; whoever doesn't is recovery at work. */
	setpriority(PRIO_PROCESS, 0, NICE);
	volunteer_for_oom();
	ask_digest(ask, s.digest);
	if (access_open_for_recovery(&ask->access, ask->wait, &s.repo, &err) && (listener = listen_here()) >= 0)
	{
		s.serve = (WalServe) {.repo = &s.repo,.sysid = ask->access.system_identifier,.threads = SPOOL_THREADS};
		if (write(ready, "1", 1) == 1)
		{
			close(ready);
			run(&s, listener, data_directory);
		}
	}
	_exit(EXIT_SUCCESS);
}

/*
 * What the asker leaves behind becomes a child of the server where that is the
 * first process of a container; and a child that dies by a signal is to the
 * server a reason to restart.  So what may die has a parent of its own, one of
 * its kind at a time (the lock, held for life), that waits for it, cleans up, is
 * deaf to signals, and ends well.
 */
_Noreturn static void
supervise(const WalAsk *ask, const char *data_directory, int directory, int ready)
{
	sigset_t	all;
	sigset_t	before;
	struct stat st;
	pid_t		pid;
	int			lock;

	wal_verdict(EXIT_SUCCESS);	/* nobody acts on ours, nor on our child's */
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &before);
	detach(directory, ready);
	if (fchdir(directory) != 0 ||
		(lock = open("lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)) < 0 ||
		flock(lock, LOCK_EX | LOCK_NB) != 0 || fstat(lock, &st) != 0 || st.st_nlink == 0)
		_exit(EXIT_SUCCESS);
	clear_directory();
	pid = fork();
	if (pid == 0)
	{
		sigprocmask(SIG_SETMASK, &before, NULL);
		serve(ask, ready, data_directory);
	}
	close(ready);
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	clear_directory();
	unlink("lock");
	rmdir("../" SPOOL_DIR);
	_exit(EXIT_SUCCESS);
}

/* ---- the asker ---- */

static void
start_process(const WalAsk *ask, const char *data_directory, int directory)
{
	int			ready[2];
	char		byte;
	pid_t		pid;

	if (pipe2(ready, O_CLOEXEC) != 0)
		return;
	pid = fork();
	if (pid == 0)
	{
		close(ready[0]);
		supervise(ask, data_directory, directory, ready[1]);
	}
	close(ready[1]);
	if (pid > 0)
		while (read(ready[0], &byte, 1) < 0 && errno == EINTR)
			;
	close(ready[0]);
}

static const char *
text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static SpoolAnswer
understand(const char *answer, int directory, const WalAsk *ask, DrError *err)
{
	json_t	   *reply;

	if (strcmp(answer, ASK_STORED) == 0)
		return ask_take(directory, ask) ? SPOOL_STORED : SPOOL_NONE;
	if (strcmp(answer, ASK_ABSENT) == 0)
		return SPOOL_ABSENT;
	if (strncmp(answer, ASK_FAILED, strlen(ASK_FAILED)) != 0 || (reply = json_loads(answer + strlen(ASK_FAILED), 0, NULL)) == NULL)
		return SPOOL_NONE;
	dr_error(err, (DrCode) json_integer_value(json_object_get(reply, "code")), "%s", text_of(reply, "message"));
	dr_detail(err, "%s", text_of(reply, "detail"));
	dr_hint(err, "%s", text_of(reply, "hint"));
	json_decref(reply);
	return SPOOL_FAILED;
}

SpoolAnswer
spool_ask(const WalAsk *ask, DrError *err)
{
	char	   *data_directory = data_directory_of(ask->path);
	int			directory = -1;
	char		answer[ASK_ANSWER_MAX];
	SpoolAnswer result = SPOOL_NONE;
	int			fd;

	if (data_directory != NULL && recovery_is_there(data_directory))
		directory = ask_open_directory(ask->path, true);
	if (directory < 0)
	{
		free(data_directory);
		return SPOOL_NONE;
	}
	fd = ask_connect(directory);
	if (fd < 0)
	{
		start_process(ask, data_directory, directory);
		fd = ask_connect(directory);
	}
	if (fd >= 0 && ask_question(fd, ask, answer))
		result = understand(answer, directory, ask, err);
	if (fd >= 0)
		close(fd);
	close(directory);
	free(data_directory);
	return result;
}
