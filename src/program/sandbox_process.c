/*
 * sandbox_process.c
 *	  Programs that run in a sandbox: how they start, and that none is left.
 *
 * One idea: the kernel ends them when we die (PR_SET_PDEATHSIG), and whatever
 * escapes that has its working directory in the sandbox, by which it is found.
 *
 * A crash leaves processes that are about to end; whoever removes the sandbox
 * waits for them.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "program/sandbox.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/names.h"

#define NAP_US			20000
#define GENTLE_US		8000000 /* a server that stops at once takes five seconds with a deaf child */
#define KILLED_US		5000000

extern char **environ;

/* ---- starting ---- */

char *
process_program(const char *program, DrError *err)
{
	char		self[MAXPGPATH];
	ssize_t		n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char	   *path;

	if (n < 0)
	{
		dr_error(err, DR_IO, "could not find this program's own path: %s", strerror(errno));
		return NULL;
	}
	self[n] = '\0';
	get_parent_directory(self);
	path = psprintf("%s/%s", self, program);
	if (access(path, X_OK) != 0)
	{
		dr_error(err, DR_CONFIG, "could not execute \"%s\": %s", path, strerror(errno));
		dr_hint(err, "A drill needs the server's programs beside this one.");
		pfree(path);
		return NULL;
	}
	return path;
}

/* Ours, but for what leads libpq and the server elsewhere. */
static char **
make_environment(const char *options)
{
	int			n = 0;
	char	  **out;

	while (environ[n] != NULL)
		n++;
	out = pg_malloc(sizeof(char *) * (n + 3));
	n = 0;
	for (char **v = environ; *v != NULL; v++)
		if (strncmp(*v, "PG", 2) != 0 && strncmp(*v, "LC_", 3) != 0 && strncmp(*v, "LANG", 4) != 0)
			out[n++] = *v;
	out[n++] = "LC_ALL=C";
	if (options != NULL)
		out[n++] = psprintf("PGOPTIONS=%s", options);
	out[n] = NULL;
	return out;
}

/* PostgreSQL's programs find their files by the path that they were started with. */
static char **
with_path(char *const *argv, char *path)
{
	int			n = 0;
	char	  **out;

	while (argv[n] != NULL)
		n++;
	out = pg_malloc(sizeof(char *) * (n + 1));
	memcpy(out, argv, sizeof(char *) * (n + 1));
	out[0] = path;
	return out;
}

/* In the new process, a copy of one with threads: system calls only. */
_Noreturn static void
become(const char *path, char *const *argv, char *const *environment, const char *directory, int output,
	   int death_signal, int pass_fd, pid_t parent)
{
	struct sigaction standard = {.sa_handler = SIG_DFL};
	sigset_t	none;
	int			null = open("/dev/null", O_RDONLY);

	for (int sig = 1; sig < NSIG; sig++)
		sigaction(sig, &standard, NULL);
	sigemptyset(&none);

	/* A parent that died before prctl() took effect sends no signal. */
	if (prctl(PR_SET_PDEATHSIG, death_signal) != 0 || getppid() != parent || setpgid(0, 0) != 0 ||
		chdir(directory) != 0 || null < 0 || dup2(null, STDIN_FILENO) < 0 ||
		dup2(output, STDOUT_FILENO) < 0 || dup2(output, STDERR_FILENO) < 0 ||
		(pass_fd >= 0 && (pass_fd == 3 ? fcntl(3, F_SETFD, 0) : dup2(pass_fd, 3)) < 0))
		_exit(127);
	close_range(pass_fd >= 0 ? 4 : 3, ~0U, 0);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(path, argv, environment);
	_exit(127);
}

bool
process_start(const Sandbox *s, char *const *argv, const char *output, int death_signal, int pass_fd,
			  const char *options, pid_t *pid, DrError *err)
{
	char	   *path = argv[0][0] == '/' ? pg_strdup(argv[0]) : process_program(argv[0], err);
	char	  **arguments = with_path(argv, path);
	char	   *file = sandbox_path(s, output);
	char	  **environment = make_environment(options);
	pid_t		parent = getpid();
	int			fd = path ? open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;

	*pid = -1;
	if (fd >= 0 && (*pid = fork()) == 0)
		become(path, arguments, environment, s->pgdata, fd, death_signal, pass_fd, parent);
	if (path != NULL && fd < 0)
		dr_error(err, DR_IO, "could not open \"%s\": %s", file, strerror(errno));
	else if (path != NULL && *pid < 0)
		dr_error(err, DR_IO, "could not fork \"%s\": %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	free(environment);
	free(arguments);
	free(path);
	pfree(file);
	return *pid > 0;
}

bool
process_wait(pid_t pid, int timeout_ms, int *status)
{
	int64		until = monotonic_now() + (int64) timeout_ms * 1000;

	for (;;)
	{
		pid_t		r = waitpid(pid, status, WNOHANG);

		if (r == pid || (r < 0 && errno != EINTR))
			return true;
		if (timeout_ms >= 0 && monotonic_now() >= until)
			return false;
		usleep(NAP_US);
	}
}

/* ---- ending ---- */

/* What /proc says of a process, without the kernel's word for "removed". */
static bool
proc_link(const char *pid, const char *what, char *out, size_t size)
{
	char		path[64];
	ssize_t		n;
	char	   *deleted;

	snprintf(path, sizeof(path), "/proc/%.20s/%s", pid, what);
	n = readlink(path, out, size - 1);
	if (n < 0)
		return false;
	out[n] = '\0';
	deleted = strstr(out, " (deleted)");
	if (deleted != NULL && deleted[10] == '\0')
		*deleted = '\0';
	return true;
}

/* Z3.  A shell that somebody left there is not ours. */
static bool
is_ours(const char *pid, const char *directory, bool *is_server)
{
	static const char *const programs[] = {"postgres", "pg_dr", "pg_dr-wal-get", "pg_amcheck", "pg_checksums"};
	char		link[MAXPGPATH];
	size_t		n = strlen(directory);
	const char *name;

	if (pid[strspn(pid, "0123456789")] != '\0' || atoi(pid) == getpid() ||
		!proc_link(pid, "cwd", link, sizeof(link)) ||
		strncmp(link, directory, n) != 0 || (link[n] != '/' && link[n] != '\0') ||
		!proc_link(pid, "exe", link, sizeof(link)))
		return false;
	name = strrchr(link, '/') ? strrchr(link, '/') + 1 : link;
	*is_server = strcmp(name, "postgres") == 0;
	for (int i = 0; i < (int) lengthof(programs); i++)
		if (strcmp(name, programs[i]) == 0)
			return true;
	return false;
}

/* How many there are; those that are a server's get one signal, others another. */
static int
signal_all(const char *directory, int to_server, int to_others, int *example)
{
	DIR		   *proc = opendir("/proc");
	struct dirent *de;
	int			found = 0;
	bool		is_server;

	while (proc != NULL && (de = readdir(proc)) != NULL)
	{
		if (!is_ours(de->d_name, directory, &is_server))
			continue;
		*example = atoi(de->d_name);
		if (to_server != 0)
			kill(*example, is_server ? to_server : to_others);
		found++;
	}
	if (proc != NULL)
		closedir(proc);
	return found;
}

/* Who is dead, but not reaped, works nowhere. */
static bool
all_gone(const char *directory, int64 patience, int *example)
{
	int64		until = monotonic_now() + patience;

	while (signal_all(directory, 0, 0, example) > 0)
	{
		if (monotonic_now() >= until)
			return false;
		usleep(NAP_US);
	}
	return true;
}

bool
processes_end(const char *directory, DrError *err)
{
	int			example = 0;

	/* A server that stops at once takes its shared memory with it; one that is killed doesn't. */
	signal_all(directory, SIGQUIT, SIGTERM, &example);
	if (all_gone(directory, GENTLE_US, &example))
		return true;
	signal_all(directory, SIGKILL, SIGKILL, &example);
	if (all_gone(directory, KILLED_US, &example))
		return true;
	dr_error(err, DR_IO, "process %d in sandbox \"%s\" does not end", example, directory);
	return dr_detail(err, "It probably waits for a device or a network file system.");
}
