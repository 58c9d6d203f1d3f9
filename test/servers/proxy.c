/*
 * proxy.c
 *	  A TCP proxy that misbehaves when told to, for tests and measurements.
 *
 *	  proxy TARGET_PORT      127.0.0.1; prints the port that it listens on
 *
 * Commands on standard input, one a line, each answered by a line; at its end
 * the proxy ends:
 *
 *	  delay MS            each request waits so long (the first bytes that the
 *	                      client sends after the server has sent some)
 *	  reset P             a share P of the requests ends in a reset
 *	  outage MODE         none | refuse (reset at once, all connections) |
 *	                      blackhole (nothing moves any more)
 *	  at DIR N WHAT TIMES up | down, after N bytes: reset | stall | trickle | half;
 *	                      TIMES connections, counted from now
 *	  count               connections, requests, faults
 *
 * One thread for each direction of a connection; bytes go through a pipe by
 * splice(2), so that delaying costs no copying.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHUNK	(256 * 1024)

enum {OUTAGE_NONE, OUTAGE_REFUSE, OUTAGE_BLACKHOLE};
enum {FAULT_RESET, FAULT_STALL, FAULT_TRICKLE, FAULT_HALF};
static const char *const fault_names[] = {"reset", "stall", "trickle", "half"};

static atomic_int delay_ms;
static _Atomic double reset_share;
static atomic_int outage;
static atomic_int fault_up;		/* the direction of what follows */
static atomic_int fault_what;
static atomic_long fault_at;
static atomic_int fault_left;	/* connections that it is still to strike */
static atomic_int fault_generation;
static atomic_long n_connections, n_requests, n_faults;
static int	target_port;

typedef struct Connection
{
	int			client;
	int			server;
	atomic_bool answered;		/* the server has sent something since the client did */
	atomic_bool dead;
	atomic_int	users;
} Connection;

typedef struct Direction
{
	Connection *c;
	bool		up;
	int			from;
	int			to;
	int			generation;		/* of the armed fault that "bytes" counts for */
	long		bytes;
	bool		struck;
	bool		trickle;
} Direction;

static void
reset_both(Connection *c)
{
	struct linger now = {1, 0};

	if (atomic_exchange(&c->dead, true))
		return;
	atomic_fetch_add(&n_faults, 1);
	setsockopt(c->client, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	setsockopt(c->server, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	shutdown(c->server, SHUT_RDWR);
	/* A close with pending readers sends no reset; disconnecting does. */
	connect(c->client, &(struct sockaddr) {.sa_family = AF_UNSPEC}, sizeof(struct sockaddr));
}

/* Wait for bytes, ready to notice an outage.  False: the connection is over. */
static bool
wait_readable(Direction *d)
{
	for (;;)
	{
		struct pollfd p = {d->from, POLLIN, 0};
		int			mode = atomic_load(&outage);

		if (mode == OUTAGE_REFUSE)
			reset_both(d->c);
		if (atomic_load(&d->c->dead))
			return false;
		if (mode == OUTAGE_BLACKHOLE)
			usleep(50000);
		else if (poll(&p, 1, 50) > 0)
			return true;
	}
}

static void
new_request(Direction *d)
{
	int			ms = atomic_load(&delay_ms);

	atomic_fetch_add(&n_requests, 1);
	if (ms > 0)
		usleep(ms * 1000);
	if (drand48() < atomic_load(&reset_share))
		reset_both(d->c);
}

/* How many bytes may pass before the armed fault strikes; *what: then. */
static long
until_fault(Direction *d, int *what)
{
	int			generation = atomic_load(&fault_generation);
	long		left;

	*what = -1;
	if (d->generation != generation)
	{
		d->generation = generation;
		d->bytes = 0;
		d->struck = false;
	}
	if (d->struck || atomic_load(&fault_left) <= 0 || atomic_load(&fault_up) != d->up)
		return CHUNK;
	left = atomic_load(&fault_at) - d->bytes;
	if (left > 0)
		return left < CHUNK ? left : CHUNK;
	if (atomic_fetch_sub(&fault_left, 1) <= 0)
		return CHUNK;
	d->struck = true;
	*what = atomic_load(&fault_what);
	return CHUNK;
}

/* False: nothing more goes this way. */
static bool
strike(Direction *d, int what)
{
	if (what == FAULT_RESET)
		reset_both(d->c);
	else
		atomic_fetch_add(&n_faults, 1);
	if (what == FAULT_HALF)
		shutdown(d->to, SHUT_WR);
	while (what == FAULT_STALL && !atomic_load(&d->c->dead))
	{
		char		byte;

		/* Until the client gives up. */
		if (recv(d->c->client, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
			break;
		usleep(50000);
	}
	d->trickle = what == FAULT_TRICKLE;
	return d->trickle;
}

static bool
move(Direction *d, int *pipe_fd, long most)
{
	ssize_t		n = splice(d->from, NULL, pipe_fd[1], NULL, d->trickle ? 1 : most, SPLICE_F_MOVE);

	if (n <= 0)
		return false;
	if (d->up)
	{
		if (atomic_exchange(&d->c->answered, false))
			new_request(d);
	}
	else
		atomic_store(&d->c->answered, true);
	if (atomic_load(&d->c->dead))
		return false;
	d->bytes += n;
	while (n > 0)
	{
		ssize_t		w = splice(pipe_fd[0], NULL, d->to, NULL, n, SPLICE_F_MOVE);

		if (w <= 0)
			return false;
		n -= w;
	}
	if (d->trickle)
		sleep(1);
	return true;
}

static void *
direction_thread(void *arg)
{
	Direction  *d = arg;
	Connection *c = d->c;
	int			pipe_fd[2];
	int			what;

	if (pipe(pipe_fd) != 0)
		exit(1);
	fcntl(pipe_fd[1], F_SETPIPE_SZ, CHUNK);
	while (wait_readable(d))
	{
		long		most = until_fault(d, &what);

		if ((what >= 0 && !strike(d, what)) || !move(d, pipe_fd, most))
			break;
	}
	shutdown(d->to, SHUT_WR);
	if (d->struck || atomic_load(&c->dead))
		shutdown(d->from, SHUT_RDWR);
	close(pipe_fd[0]);
	close(pipe_fd[1]);
	free(d);
	if (atomic_fetch_sub(&c->users, 1) == 1)
	{
		close(c->client);
		close(c->server);
		free(c);
	}
	return NULL;
}

static void
start_direction(Connection *c, bool up)
{
	Direction  *d = calloc(1, sizeof(*d));
	pthread_t	thread;

	*d = (Direction) {.c = c, .up = up, .from = up ? c->client : c->server, .to = up ? c->server : c->client,
	.generation = atomic_load(&fault_generation)};
	if (pthread_create(&thread, NULL, direction_thread, d) != 0)
		exit(1);
	pthread_detach(thread);
}

static void
serve(int client)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(target_port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	Connection *c = calloc(1, sizeof(*c));
	int			one = 1;

	atomic_fetch_add(&n_connections, 1);
	c->client = client;
	c->server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(c->server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (atomic_load(&outage) == OUTAGE_REFUSE || connect(c->server, (struct sockaddr *) &to, sizeof(to)) != 0)
	{
		setsockopt(client, SOL_SOCKET, SO_LINGER, &(struct linger) {1, 0}, sizeof(struct linger));
		close(client);
		close(c->server);
		free(c);
		return;
	}
	c->answered = true;			/* the first bytes are a request, too */
	c->users = 2;
	start_direction(c, true);
	start_direction(c, false);
}

static void *
accept_thread(void *arg)
{
	int			listener = *(int *) arg;

	for (;;)
	{
		int			client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (client >= 0)
			serve(client);
		else
			usleep(1000);
	}
}

static bool
arm(const char *arguments)
{
	char		direction[8];
	char		what[16];
	long		at;
	int			times;

	if (sscanf(arguments, "%7s %ld %15s %d", direction, &at, what, &times) != 4)
		return false;
	for (int i = 0; i < 4; i++)
		if (strcmp(what, fault_names[i]) == 0)
		{
			atomic_store(&fault_left, 0);
			atomic_store(&fault_up, strcmp(direction, "up") == 0);
			atomic_store(&fault_what, i);
			atomic_store(&fault_at, at);
			atomic_fetch_add(&fault_generation, 1);
			atomic_store(&fault_left, times);
			return true;
		}
	return false;
}

static bool
command(char *line)
{
	char		word[16];

	if (sscanf(line, "delay %15s", word) == 1)
		atomic_store(&delay_ms, atoi(word));
	else if (sscanf(line, "reset %15s", word) == 1)
		atomic_store(&reset_share, atof(word));
	else if (sscanf(line, "outage %15s", word) == 1)
		atomic_store(&outage, strcmp(word, "refuse") == 0 ? OUTAGE_REFUSE :
					 strcmp(word, "blackhole") == 0 ? OUTAGE_BLACKHOLE : OUTAGE_NONE);
	else if (strncmp(line, "at ", 3) == 0)
		return arm(line + 3);
	else if (strncmp(line, "count", 5) == 0)
	{
		printf("connections %ld requests %ld faults %ld\n", atomic_load(&n_connections),
			   atomic_load(&n_requests), atomic_load(&n_faults));
		return true;
	}
	else
		return false;
	printf("ok\n");
	return true;
}

int
main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t	size = sizeof(address);
	int			listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	pthread_t	thread;
	char		line[256];

	if (argc != 2 || (target_port = atoi(argv[1])) <= 0)
	{
		fprintf(stderr, "usage: proxy TARGET_PORT\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	srand48(getenv("PGDR_SEED") ? atol(getenv("PGDR_SEED")) : 1);
	if (bind(listener, (struct sockaddr *) &address, size) != 0 || listen(listener, 128) != 0 ||
		getsockname(listener, (struct sockaddr *) &address, &size) != 0 ||
		pthread_create(&thread, NULL, accept_thread, &listener) != 0)
	{
		perror("proxy");
		return 1;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("%d\n", ntohs(address.sin_port));
	while (fgets(line, sizeof(line), stdin) != NULL)
		if (!command(line))
			printf("what? %s", line);
		else if (strncmp(line, "at ", 3) == 0)
			printf("ok\n");
	return 0;
}
