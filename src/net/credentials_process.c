/*
 * credentials_process.c
 *	  Credentials from a program that the DBA named: credential_process.
 *
 * No shell: the line is split into words and executed.  The program gets 60
 * seconds and then is killed; its errors go where ours go.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include <fcntl.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "core/names.h"
#include "net/credentials_private.h"

#define PROCESS_LIMIT_MS	60000

extern char **environ;

/* ---- the command line ---- */

/* One word into *to, which moves on; false: a quote is not closed. */
static bool
split_word(const char **from, char **to)
{
	char		quote = '\0';
	const char *p = *from;

	for (; *p != '\0' && (quote != '\0' || (*p != ' ' && *p != '\t')); p++)
	{
		if (quote == '\0' && (*p == '\'' || *p == '"'))
			quote = *p;
		else if (quote != '\0' && *p == quote)
			quote = '\0';
		else if (*p == '\\' && quote != '\'' && p[1] != '\0')
			*(*to)++ = *++p;
		else
			*(*to)++ = *p;
	}
	*(*to)++ = '\0';
	*from = p;
	return quote == '\0';
}

char **
process_split(const char *line)
{
	size_t		n = strlen(line);
	size_t		words_size = sizeof(char *) * (n / 2 + 2);
	char	  **words = pg_malloc0(words_size + n + 2);
	char	   *to = (char *) words + words_size;
	int			count = 0;

	for (;;)
	{
		line += strspn(line, " \t");
		if (*line == '\0')
			break;
		words[count++] = to;
		if (!split_word(&line, &to))
		{
			free(words);
			return NULL;
		}
	}
	if (count > 0)
		return words;
	free(words);
	return NULL;
}

/* ---- running it ---- */

static bool
start(char **words, int out, pid_t *pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t	none;
	sigset_t	defaults;
	int			status;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
	posix_spawnattr_init(&attributes);
	sigemptyset(&none);
	sigfillset(&defaults);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &defaults);
	posix_spawnattr_setpgroup(&attributes, 0);	/* so that what it starts can be killed with it */
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
	status = posix_spawnp(pid, words[0], &actions, &attributes, words, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	errno = status;
	return status == 0;
}

/* All that it says until it closes its output; -1: too long, too late. */
static ssize_t
hear(int fd, char *buf, size_t size)
{
	int64		end = monotonic_now() / 1000 + PROCESS_LIMIT_MS;
	size_t		n = 0;

	while (n < size)
	{
		struct pollfd p = {fd, POLLIN, 0};
		int64		left = end - monotonic_now() / 1000;
		ssize_t		r;

		if (left <= 0 || poll(&p, 1, (int) left) == 0)
			return -1;
		r = read(fd, buf + n, size - n);
		if (r == 0)
			return (ssize_t) n;
		if (r < 0 && errno != EINTR)
			return -1;
		n += Max(r, 0);
	}
	return -1;
}

static bool
end_process(pid_t pid, bool heard)
{
	int			status = -1;

	if (!heard)
		kill(-pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status == 0;
}

bool
process_credentials(const char *line, Credentials *out, DrError *err)
{
	char	  **words = process_split(line);
	char	   *reply = pg_malloc(CREDENTIALS_REPLY_MAX);
	int			pipe_fd[2] = {-1, -1};
	pid_t		pid;
	ssize_t		n = -1;
	bool		ok = false;

	if (words == NULL)
		dr_error(err, DR_CONFIG, "credential_process is no command line: a quote is not closed, or it is empty");
	else if (pipe2(pipe_fd, O_CLOEXEC) != 0 || !start(words, pipe_fd[1], &pid))
		dr_error(err, DR_REFUSED, "could not run credential_process \"%s\": %s", words[0], strerror(errno));
	else
	{
		close(pipe_fd[1]);
		pipe_fd[1] = -1;
		n = hear(pipe_fd[0], reply, CREDENTIALS_REPLY_MAX);
		if (!end_process(pid, n >= 0) || n < 0)
		{
			dr_error(err, DR_IO, "credential_process \"%s\" failed", words[0]);
			dr_detail(err, n < 0 ? "It did not answer within 60 seconds, or with too much." : "Its exit status was not 0.");
			dr_hint(err, "Run it by hand, as the user that runs PostgreSQL. What it says on standard error is in the log.");
		}
		else
			ok = credentials_from_json(reply, n, "SessionToken", "credential_process", out, err);
	}
	for (int i = 0; i < 2; i++)
		if (pipe_fd[i] >= 0)
			close(pipe_fd[i]);
	OPENSSL_cleanse(reply, CREDENTIALS_REPLY_MAX);
	free(reply);
	free(words);
	return ok;
}

/* ---- JSON ---- */

bool
credentials_from_json(const char *data, size_t n, const char *token_name, const char *where,
					  Credentials *out, DrError *err)
{
	json_t	   *o = json_loadb(data, n, 0, NULL);
	const char *access_key = json_string_value(json_object_get(o, "AccessKeyId"));
	const char *secret_key = json_string_value(json_object_get(o, "SecretAccessKey"));
	const char *token = json_string_value(json_object_get(o, token_name));
	const char *expiration = json_string_value(json_object_get(o, "Expiration"));
	int64		expires = 0;
	bool		ok = access_key != NULL && secret_key != NULL && access_key[0] != '\0' && secret_key[0] != '\0' &&
		(expiration == NULL || time_parse(expiration, &expires));

	if (ok)
	{
		out->access_key = pg_strdup(access_key);
		out->secret_key = pg_strdup(secret_key);
		out->session_token = token != NULL && token[0] != '\0' ? pg_strdup(token) : NULL;
		out->expires = expires / 1000000;
	}
	else
	{
		dr_error(err, DR_IO, "%s does not answer with credentials", where);
		dr_detail(err, "Expected is a JSON object with AccessKeyId, SecretAccessKey and, if any, %s and Expiration.", token_name);
	}
	json_decref(o);
	return ok;
}
