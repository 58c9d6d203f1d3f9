/*
 * child.c
 *	  The program as a child of this process: spawn, talk, stop.
 *
 * One idea: a process that is attached to shared memory must neither die by
 * signal nor block, so everything that can is in a child, and nothing that the
 * child does or fails to do keeps its parent from answering interrupts.
 *
 * The child leads a session of its own: the signals that the postmaster and
 * pg_cancel_backend send to the parent's process group are for the parent, who
 * decides what they mean for the child.
 *
 * A crash of the parent leaves no child: the kernel kills it (PR_SET_PDEATHSIG),
 * and it ends by itself when its standard input does.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "access/xlog.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "utils/memutils.h"
#include "utils/pidfile.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "child.h"
#include "pg_dr.h"
#include "protocol.h"
#include "shmem.h"

#define HELLO_TIMEOUT_MS	10000
#define SEND_TIMEOUT_MS		60000
#define SILENCE_TIMEOUT_MS	(10 * 60 * 1000)	/* longer than requests to a store are tried again */
#define ARCHIVER_SILENCE_MS	(60 * 1000) /* it hears of a shutdown only between files */
#define STOPPING_SILENCE_MS	(10 * 1000)
#define STOPPING_AGAIN_MS	(2 * 1000)
#define KILL_TIMEOUT_MS		5000
#define LOG_LINE_MAX		1000
#define READ_SIZE			65536

struct DrChild
{
	dlist_node	node;			/* in children */
	MemoryContext context;
	MemoryContext event_context;	/* of the last event */

	pid_t		pid;			/* 0: reaped */
	int			status;			/* when reaped */
	int			sock;
	int			err;			/* its standard error */

	StringInfoData in;			/* received */
	int			in_done;		/* up to here it is used */
	bool		eof;
	bool		busy;			/* a request is not yet answered */
	bool		held;

	char		log_line[LOG_LINE_MAX + 1];
	int			log_len;
};

/* The children of this process. */
static dlist_head children = DLIST_STATIC_INIT(children);

/* The latch was set while we waited, perhaps for somebody else. */
static bool latch_was_set = false;

bool
dr_child_is_held(const DrChild *child)
{
	return child->held;
}

bool
dr_child_is_idle(const DrChild *child)
{
	return !child->busy && !child->eof;
}

/* ---- spawn ---- */

static void
program_path(char *path)
{
	char		directory[MAXPGPATH];

	strlcpy(directory, my_exec_path, MAXPGPATH);
	get_parent_directory(directory);
	join_path_components(path, directory, "pg_dr");
}

static void
require_program(const char *path)
{
	if (access(path, X_OK) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("could not execute program \"%s\": %m", path),
				 errhint("The program is a part of pg_dr: install pg_dr again.")));
}

static void
close_from(int first, int limit)
{
#ifdef SYS_close_range
	if (syscall(SYS_close_range, first, ~0U, 0) == 0)
		return;
#endif
	for (int fd = first; fd < limit; fd++)
		close(fd);
}

/*
 * In the new process, which is still a copy of a PostgreSQL process: nothing
 * but system calls, and no way back.
 */
pg_noreturn static void
become_program(const char *path, int sock, int err, pid_t parent, int fd_limit)
{
	static char *const arguments[] = {"pg_dr", "agent", NULL};
	static char *const environment[] = {"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC", NULL};
	struct sigaction default_action;
	sigset_t	none;

	memset(&default_action, 0, sizeof(default_action));
	default_action.sa_handler = SIG_DFL;
	sigemptyset(&none);
	for (int sig = 1; sig < NSIG; sig++)
		sigaction(sig, &default_action, NULL);

	/* A parent that died before prctl() took effect sends no signal. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent ||
		sock <= STDERR_FILENO || err <= STDERR_FILENO ||
		setsid() < 0 ||
		dup2(sock, STDIN_FILENO) < 0 || dup2(sock, STDOUT_FILENO) < 0 ||
		dup2(err, STDERR_FILENO) < 0)
		_exit(127);
	close_from(STDERR_FILENO + 1, fd_limit);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(path, arguments, environment);
	_exit(127);
}

/* With all signals blocked, no handler of ours can run in the child. */
static pid_t
spawn(const char *path, int sock, int err)
{
	pid_t		parent = getpid();
	struct rlimit limit = {0};
	int			fd_limit;
	sigset_t	all;
	sigset_t	saved;
	pid_t		pid;
	int			save_errno;

	getrlimit(RLIMIT_NOFILE, &limit);
	fd_limit = limit.rlim_cur < 1024 * 1024 ? (int) limit.rlim_cur : 1024 * 1024;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &saved);
	pid = fork();
	if (pid == 0)
		become_program(path, sock, err, parent, fd_limit);
	save_errno = errno;
	sigprocmask(SIG_SETMASK, &saved, NULL);
	errno = save_errno;
	return pid;
}

static void
close_pair(int *pair)
{
	close(pair[0]);
	close(pair[1]);
}

static void
start_process(DrChild *child)
{
	char		path[MAXPGPATH];
	int			sock[2];
	int			err[2];

	program_path(path);
	require_program(path);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock) != 0)
		ereport(ERROR,
				(errcode_for_socket_access(), errmsg("could not create socket pair: %m")));
	if (pipe2(err, O_CLOEXEC) != 0)
	{
		close_pair(sock);
		ereport(ERROR,
				(errcode_for_file_access(), errmsg("could not create pipe: %m")));
	}
	child->pid = spawn(path, sock[1], err[1]);
	if (child->pid < 0)
	{
		int			save_errno = errno;

		child->pid = 0;
		close_pair(sock);
		close_pair(err);
		errno = save_errno;
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not fork program \"%s\": %m", path)));
	}
	close(sock[1]);
	close(err[1]);
	child->sock = sock[0];
	child->err = err[0];
	ReserveExternalFD();
	ReserveExternalFD();
	fcntl(child->sock, F_SETFL, O_NONBLOCK);
	fcntl(child->err, F_SETFL, O_NONBLOCK);
}

/* ---- its standard error, line by line into our log ---- */

static void
log_line(DrChild *child)
{
	child->log_line[child->log_len] = '\0';
	dr_sanitize(child->log_line, child->log_len, false);
	if (child->log_len > 0)
		ereport(LOG, (errmsg_internal("pg_dr agent: %s", child->log_line)));
	child->log_len = 0;
}

/* What there is, but no more than a few lines: we have other things to do. */
static void
drain_stderr(DrChild *child)
{
	char		buf[4096];
	ssize_t		n = -1;

	if (child->err < 0)
		return;
	for (int reads = 0; reads < 16 && (n = read(child->err, buf, sizeof(buf))) > 0; reads++)
	{
		for (ssize_t i = 0; i < n; i++)
		{
			if (buf[i] == '\n' || child->log_len == LOG_LINE_MAX)
				log_line(child);
			if (buf[i] != '\n')
				child->log_line[child->log_len++] = buf[i];
		}
	}
	if (n == 0)					/* closed */
	{
		log_line(child);
		close(child->err);
		ReleaseExternalFD();
		child->err = -1;
	}
}

/* ---- stop ---- */

/* True when it is gone; status is set. */
static bool
reap(DrChild *child, int timeout_ms)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);

	while (child->pid != 0)
	{
		pid_t		r = waitpid(child->pid, &child->status, WNOHANG);

		if (r == child->pid || (r < 0 && errno != EINTR))
		{
			child->pid = 0;
			break;
		}
		if (GetCurrentTimestamp() >= until)
			return false;
		drain_stderr(child);	/* it may wait for us to read */
		pg_usleep(5000);
	}
	return true;
}

static void
close_ends(DrChild *child)
{
	drain_stderr(child);
	if (child->sock >= 0)
	{
		close(child->sock);
		ReleaseExternalFD();
	}
	if (child->err >= 0)
	{
		log_line(child);
		close(child->err);
		ReleaseExternalFD();
	}
	child->sock = child->err = -1;
}

void
dr_child_stop(DrChild *child, int grace_ms)
{
	if (child == NULL)
		return;
	HOLD_INTERRUPTS();			/* ereport looks for them, and the rest must be done */

	/* First of all, so that an exit in the middle doesn't begin again. */
	dlist_delete(&child->node);
	if (child->sock >= 0)
		shutdown(child->sock, SHUT_RDWR);	/* its standard input ends, and so does it */
	if (!reap(child, grace_ms))
	{
		kill(child->pid, SIGKILL);
		if (!reap(child, KILL_TIMEOUT_MS))
			ereport(LOG,
					(errmsg("pg_dr program (PID %d) does not die", (int) child->pid),
					 errdetail("It probably waits for a device or a network file system.")));
	}
	close_ends(child);
	MemoryContextDelete(child->context);
	RESUME_INTERRUPTS();
}

void
dr_child_stop_all(void)
{
	while (!dlist_is_empty(&children))
		dr_child_stop(dlist_head_element(DrChild, node, &children), DR_GRACE_NONE);
}

static void
stop_all_at_exit(int code, Datum arg)
{
	dr_child_stop_all();
}

/* ---- waiting ---- */

/*
 * What a process must not leave undone while it waits.  The archiver's signals
 * have other meanings: a shutdown request ends the wait with an ERROR, which
 * the archive module turns into "not archived".
 */
static void
absorb_interrupts(void)
{
	if (MyBackendType != B_ARCHIVER)
	{
		CHECK_FOR_INTERRUPTS();
		return;
	}
	if (ProcSignalBarrierPending)
		ProcessProcSignalBarrier();
	if (ShutdownRequestPending)
		ereport(ERROR,
				(errcode(ERRCODE_ADMIN_SHUTDOWN),
				 errmsg("the archiver was asked to stop")));
}

static int
wait_for_child(DrChild *child, int event, int timeout_ms)
{
	int			rc = WaitLatchOrSocket(MyLatch,
									   WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | event,
									   child->sock, timeout_ms, PG_WAIT_EXTENSION);

	if (rc & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		latch_was_set = true;
	}
	absorb_interrupts();
	return rc;
}

void
dr_child_give_latch_back(void)
{
	if (latch_was_set)
		SetLatch(MyLatch);
	latch_was_set = false;
}

pg_noreturn static void
raise_death(DrChild *child)
{
	absorb_interrupts();		/* they may be the reason */
	child->eof = true;
	if (!reap(child, 1000))
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("the pg_dr program closed its connection")));
	if (WIFEXITED(child->status) && WEXITSTATUS(child->status) == 127)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not execute the pg_dr program"),
				 errhint("Install pg_dr again; the server log may say more.")));
	ereport(ERROR,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("the pg_dr program ended unexpectedly: %s", wait_result_to_str(child->status)),
			 errhint("What it said last is in the server log.")));
}

/* ---- sending ---- */

static void
send_line(DrChild *child, StringInfo line)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SEND_TIMEOUT_MS);
	int			done = 0;

	if (line->len > PGDR_LINE_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("request to the pg_dr program is longer than %d bytes", PGDR_LINE_MAX)));
	while (done < line->len)
	{
		ssize_t		n = send(child->sock, line->data + done, line->len - done, MSG_NOSIGNAL);

		if (n > 0)
			done += n;
		else if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
			raise_death(child);
		else if (GetCurrentTimestamp() >= until)
			ereport(ERROR,
					(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
					 errmsg("the pg_dr program does not read its requests")));
		else
			wait_for_child(child, WL_SOCKET_WRITEABLE, 1000);
	}
}

void
dr_child_request(DrChild *child, StringInfo request)
{
	/* What it said without being asked would be taken for the answer. */
	if (child->busy || child->in.len > child->in_done)
		dr_protocol_error("It has not been asked yet.");
	child->busy = true;
	send_line(child, request);
}

void
dr_child_control(DrChild *child, StringInfo line)
{
	send_line(child, line);
}

/* ---- receiving ---- */

/* Move what is used out of the way, then read what there is. */
static bool
fill_buffer(DrChild *child)
{
	StringInfo	in = &child->in;
	ssize_t		n;

	if (child->eof)
		return false;
	if (child->in_done > 0)
	{
		in->len -= child->in_done;
		memmove(in->data, in->data + child->in_done, in->len);
		child->in_done = 0;
	}
	if (in->len >= PGDR_LINE_MAX)
		dr_protocol_error("A line is too long.");
	enlargeStringInfo(in, READ_SIZE);
	n = recv(child->sock, in->data + in->len, READ_SIZE, 0);
	if (n > 0)
		in->len += n;
	else if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
		child->eof = true;
	return n > 0;
}

/* What every event means for the child itself. */
static void
note_event(DrChild *child, const DrEvent *event)
{
	if (dr_event_is(event, "done") || dr_event_is(event, "error"))
		child->busy = false;
	if (dr_event_is(event, "held"))
	{
		child->held = true;
		ereport(LOG,
				(errmsg("pg_dr held at step %s", dr_event_text(event, "step", true))));
	}
}

static bool
take_line(DrChild *child, DrEvent *event)
{
	char	   *line = child->in.data + child->in_done;
	char	   *end = memchr(line, '\n', child->in.len - child->in_done);

	if (end == NULL)
		return false;
	*end = '\0';
	child->in_done += end - line + 1;
	MemoryContextReset(child->event_context);
	dr_event_parse(line, end - line, child->event_context, event);
	note_event(child, event);
	return true;
}

bool
dr_child_receive(DrChild *child, int timeout_ms, DrEvent *event)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);

	absorb_interrupts();
	for (;;)
	{
		long		left;

		drain_stderr(child);
		if (take_line(child, event))
			return true;
		if (fill_buffer(child))
			continue;
		if (child->eof)
			raise_death(child);
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
		if (left <= 0)
			return false;
		/* Not longer than a second: standard error isn't in the wait. */
		if (wait_for_child(child, WL_SOCKET_READABLE, Min(left, 1000)) & WL_LATCH_SET)
			return false;
	}
}

/* ---- conversations ---- */

static void
raise_warning(const DrEvent *event)
{
	char	   *message = dr_event_text(event, "message", true);
	char	   *detail = dr_event_text(event, "detail", false);
	char	   *hint = dr_event_text(event, "hint", false);

	ereport(WARNING,
			(errmsg_internal("%s", message),
			 detail ? errdetail_internal("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0));
}

/*
 * The archiver can't see a new configuration while it is in here.  For a child
 * that waits for ever it goes back and tries again.
 */
static void
check_hold(DrChild *child)
{
	if (child->held && MyBackendType == B_ARCHIVER && ConfigReloadPending)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("the settings changed while the pg_dr program was held")));
}

/*
 * Nobody tells the archiver, while it is at work on a file, that the server
 * wants to stop.  But the postmaster writes so; and as a smart shutdown lets
 * clients stay for as long as they like, our launcher must have gone, too.
 */
static bool
server_is_stopping(void)
{
	FILE	   *file;
	char		line[MAXPGPATH];
	bool		stopping = false;

	if (dr_launcher_is_there() || (file = AllocateFile("postmaster.pid", "r")) == NULL)
		return false;
	for (int i = 1; fgets(line, sizeof(line), file) != NULL; i++)
		stopping = i == LOCK_FILE_LINE_PM_STATUS && strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
	FreeFile(file);
	return stopping;
}

/*
 * The archiver tries a file three times, and that twice, before it lets the
 * server go: what did not work the first time gets less the next.
 */
static void
check_stopping(TimestampTz asked)
{
	static int	limit_ms = STOPPING_SILENCE_MS;
	int			limit = limit_ms;

	if (MyBackendType != B_ARCHIVER ||
		!TimestampDifferenceExceeds(asked, GetCurrentTimestamp(), limit) || !server_is_stopping())
		return;
	limit_ms = STOPPING_AGAIN_MS;
	ereport(ERROR,
			(errcode(ERRCODE_ADMIN_SHUTDOWN),
			 errmsg("the server is shutting down and the repository has not taken the file within %d seconds",
					limit / 1000),
			 errdetail("It stays in pg_wal and is archived after the next start.")));
}

/* To compress and store a segment of 1 GB takes its time; one of the usual size does not. */
static int
archiver_patience(void)
{
	return ARCHIVER_SILENCE_MS * Max(wal_segment_size / (64 * 1024 * 1024), 1);
}

void
dr_child_finish(DrChild *child, DrEventHandler handler, void *arg, DrEvent *done)
{
	TimestampTz asked = GetCurrentTimestamp();
	TimestampTz heard = asked;
	int			patience_ms = MyBackendType == B_ARCHIVER ? archiver_patience() : SILENCE_TIMEOUT_MS;

	for (;;)
	{
		if (!dr_child_receive(child, 1000, done))
		{
			check_hold(child);
			check_stopping(asked);
			if (TimestampDifferenceExceeds(heard, GetCurrentTimestamp(), patience_ms))
				ereport(ERROR,
						(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
						 errmsg("the pg_dr program has not answered for %d seconds",
								patience_ms / 1000)));
			continue;
		}
		heard = GetCurrentTimestamp();
		if (dr_event_is(done, "done"))
			return;
		if (dr_event_is(done, "error"))
			dr_event_raise(done);
		if (dr_event_is(done, "warning"))
			raise_warning(done);
		else if (!dr_event_is(done, "held") && !dr_event_is(done, "alive"))
		{
			if (handler == NULL)
				dr_protocol_error("An event was not expected.");
			handler(arg, done);
		}
	}
}

static void
hear_hello(DrChild *child)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), HELLO_TIMEOUT_MS);
	DrEvent		hello;
	int64		protocol;
	char	   *version;

	while (!dr_child_receive(child, 1000, &hello))
	{
		if (GetCurrentTimestamp() >= until)
			ereport(ERROR,
					(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
					 errmsg("the pg_dr program did not start within %d seconds",
							HELLO_TIMEOUT_MS / 1000)));
	}
	if (!dr_event_is(&hello, "hello"))
		dr_protocol_error("It did not say hello.");
	protocol = dr_event_int(&hello, "protocol");
	version = dr_event_text(&hello, "version", true);
	if (protocol != PGDR_PROTOCOL || strcmp(version, PGDR_VERSION) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("the pg_dr program is not of the module's version"),
				 errdetail("The module is version %s with protocol %d, the program version %s with protocol " INT64_FORMAT ".",
						   PGDR_VERSION, PGDR_PROTOCOL, version, protocol),
				 errhint("Install both from one build and restart the server.")));
}

DrChild *
dr_child_start(void)
{
	static bool registered = false;
	MemoryContext context;
	DrChild    *child;

	/* Not before_shmem_exit: the archiver's own callback there must stay the latest. */
	if (!registered)
		on_proc_exit(stop_all_at_exit, (Datum) 0);
	registered = true;

	context = AllocSetContextCreate(TopMemoryContext, "pg_dr child", ALLOCSET_DEFAULT_SIZES);
	child = MemoryContextAllocZero(context, sizeof(DrChild));
	child->context = context;
	child->event_context = AllocSetContextCreate(context, "pg_dr event", ALLOCSET_DEFAULT_SIZES);
	child->sock = child->err = -1;
	child->in.data = MemoryContextAlloc(context, READ_SIZE);
	child->in.maxlen = READ_SIZE;
	resetStringInfo(&child->in);
	dlist_push_head(&children, &child->node);

	PG_TRY();
	{
		start_process(child);
		hear_hello(child);
	}
	PG_CATCH();
	{
		dr_child_stop(child, DR_GRACE_NONE);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return child;
}
