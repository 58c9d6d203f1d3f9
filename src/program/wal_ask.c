/*
 * wal_ask.c
 *	  How wal-get asks the process that fetches ahead of recovery.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres_fe.h"

#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "program/commands.h"
#include "program/wal_ask.h"

#define ANSWER_S		900		/* every request to a store ends before that */

enum
{
	OPT_WAIT = OPT_COMMAND
};

static volatile int verdict = EXIT_ABORT;

static void
leave(void)
{
	_exit(verdict);
}

void
wal_exit_by_verdict(void)
{
	if (atexit(leave) != 0)
		_exit(EXIT_ABORT);
}

int
wal_verdict(int status)
{
	return verdict = status;
}

const char *
ask_parse(WalAsk *ask, int argc, char **argv)
{
	static const struct option options[] = {ACCESS_OPTIONS,
	{"wait", no_argument, NULL, OPT_WAIT}, {NULL, 0, NULL, 0}};
	int			c;

	memset(ask, 0, sizeof(*ask));
	opterr = 0;					/* we say it ourselves */
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (c == OPT_WAIT)
			ask->wait = true;
		else if (!access_option(&ask->access, c, optarg))
			return argv[optind - 1];
	if (argc - optind == 2)
	{
		ask->file = argv[optind];
		ask->path = argv[optind + 1];
	}
	return NULL;
}

/* ---- lines ---- */

bool
read_line(int fd, char *line, size_t size, int timeout_s)
{
	size_t		n = 0;
	struct pollfd p = {.fd = fd, .events = POLLIN};

	while (n + 1 < size)
	{
		ssize_t		r;

		if (poll(&p, 1, timeout_s * 1000) <= 0)
			return false;
		r = read(fd, line + n, size - 1 - n);
		if (r <= 0)
			return false;
		n += r;
		line[n] = '\0';
		if (line[n - 1] == '\n')
		{
			line[n - 1] = '\0';
			return true;
		}
	}
	return false;
}

bool
write_line(int fd, const char *line)
{
	size_t		n = strlen(line);

	return send(fd, line, n, MSG_NOSIGNAL) == (ssize_t) n && send(fd, "\n", 1, MSG_NOSIGNAL) == 1;
}

/* ---- the process, and what it is asked ---- */

int
ask_open_directory(const char *path, bool create)
{
	char	   *directory = pg_strdup(path);
	char	   *status;
	char	   *spool;
	struct stat st;
	int			fd = -1;

	get_parent_directory(directory);
	status = psprintf("%s/archive_status", directory[0] ? directory : ".");
	spool = psprintf("%s/" SPOOL_DIR, directory[0] ? directory : ".");
	/* Only where a server wants it: not where somebody looks at a segment by hand. */
	if (access(status, F_OK) == 0 && (!create || mkdir(spool, 0700) == 0 || errno == EEXIST))
		fd = open(spool, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && (fstat(fd, &st) != 0 || st.st_uid != geteuid()))
	{
		close(fd);
		fd = -1;
	}
	pfree(status);
	pfree(spool);
	free(directory);
	return fd;
}

/* By way of /proc, because a socket's path must be short. */
int
ask_connect(int directory)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int			fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/socket", directory);
	if (fd >= 0 && connect(fd, (struct sockaddr *) &address, sizeof(address)) != 0)
	{
		close(fd);
		fd = -1;
	}
	return fd;
}

/* Both ends are one user's, so accidents are all that there is to tell apart: FNV-1a. */
void
ask_digest(const WalAsk *ask, char out[ASK_DIGEST_MAX + 1])
{
	const Access *a = &ask->access;
	const char *words[] = {PGDR_VERSION, ask->wait ? "wait" : "", a->url, a->key_file, a->credentials_file, a->system_identifier};
	uint64		hash = UINT64CONST(0xcbf29ce484222325);

	for (int i = 0; i < (int) lengthof(words); i++)
	{
		const char *p = words[i] ? words[i] : "";

		/* The end of a word counts, too. */
		do
			hash = (hash ^ (uint8) *p) * UINT64CONST(0x100000001b3);
		while (*p++ != '\0');
	}
	snprintf(out, ASK_DIGEST_MAX + 1, "%016llx", (unsigned long long) hash);
}

bool
ask_question(int fd, const WalAsk *ask, char answer[ASK_ANSWER_MAX])
{
	char		digest[ASK_DIGEST_MAX + 1];
	char		question[128];

	ask_digest(ask, digest);
	snprintf(question, sizeof(question), "%s %.63s", digest, ask->file);
	return write_line(fd, question) && read_line(fd, answer, ASK_ANSWER_MAX, ANSWER_S);
}

bool
ask_take(int directory, const WalAsk *ask)
{
	return renameat(directory, ask->file, AT_FDCWD, ask->path) == 0;
}
