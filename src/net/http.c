/*
 * http.c
 *	  The HTTP engine.
 *
 * The one idea: libcurl's multi interface belongs to one thread.  A caller
 * hangs its job on a list, wakes that thread and sleeps until the job is done.
 * Nothing of a job but its place on the lists and "done" is shared.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "net/http.h"

#include <curl/curl.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "core/seal.h"

#define IDLE_HANDLES	16
#define BUFFER_SIZE		(256 * 1024)
#define STALL_BYTES		1024	/* a second; fewer is standing still */
#define TIME_BASE_S		60		/* whole time of a request: this, and */
#define TIME_RATE		(64 * 1024) /* its bytes at this many a second */
#define PAUSE_FIRST_US	100000
#define PAUSE_MOST_US	10000000

typedef struct Job
{
	struct Job *next;
	const HttpRequest *request;
	HttpReply  *reply;
	DrError    *err;
	HttpResult	result;
	bool		done;			/* under the engine's lock */

	CURL	   *easy;
	struct curl_slist *headers;
	size_t		sent;
	size_t		body_start;		/* what the lent buffer held */
	int64		started;
	const char *broken;			/* why we ended it, or NULL */
	bool		refused;		/* and whether that is final */
	char		text[CURL_ERROR_SIZE];
} Job;

struct Http
{
	CURLM	   *multi;
	char	   *ca_file;
	bool		proxy;
	int			connect_s;
	int			stall_s;
	pthread_t	thread;

	pthread_mutex_t lock;
	pthread_cond_t changed;		/* a job is done, or patience has changed */
	Job		   *pending;		/* under lock */
	int			patience_s;		/* under lock */
	bool		closing;		/* under lock */

	Job		   *running;		/* the thread's */
	CURL	   *idle[IDLE_HANDLES];
	int			n_idle;
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void
init_curl(void)
{
	curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* ---- what libcurl calls ---- */

static size_t
on_read(char *to, size_t size, size_t count, void *arg)
{
	Job		   *job = arg;
	size_t		n = Min(size * count, job->request->body_length - job->sent);

	memcpy(to, (const char *) job->request->body + job->sent, n);
	job->sent += n;
	return n;
}

/* A connection that was kept may turn out to be closed: then libcurl sends the body again. */
static int
on_seek(void *arg, curl_off_t offset, int origin)
{
	Job		   *job = arg;

	if (origin != SEEK_SET || offset < 0 || (size_t) offset > job->request->body_length)
		return CURL_SEEKFUNC_FAIL;
	job->sent = (size_t) offset;
	return CURL_SEEKFUNC_OK;
}

static size_t
end_job(Job *job, const char *why, bool refused)
{
	job->broken = why;
	job->refused = refused;
	return 0;
}

/* Somebody made it longer: that is damage, not bad luck. */
static const char too_long[] = "the reply is longer than it may be";

static size_t
on_body(char *data, size_t size, size_t count, void *arg)
{
	Job		   *job = arg;
	Bytes	   *body = &job->reply->body;
	size_t		n = size * count;
	size_t		held = body->len - job->body_start;
	curl_off_t	announced = -1;
	int64		limit = TIME_BASE_S;

	if (job->reply->status >= 300)
	{
		bytes_append(body, data, Min(n, HTTP_ERROR_BODY_MAX - held));
		return held + n > HTTP_ERROR_BODY_MAX ? 0 : n;	/* the rest is of no interest */
	}
	curl_easy_getinfo(job->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &announced);
	if (held + n > job->request->reply_max ||
		(announced > 0 && (uint64) announced > job->request->reply_max))
		return end_job(job, too_long, true);
	limit += ((int64) held + Max(announced, 0) + (int64) job->request->body_length) / TIME_RATE;
	if (monotonic_now() - job->started > limit * 1000000)
		return end_job(job, "the reply takes too long", false);
	if (held == 0 && announced > 0)
		bytes_reserve(body, (size_t) announced);
	bytes_append(body, data, n);
	return n;
}

/* Kept as "name\0value\0", names in lower case. */
static size_t
on_header(char *line, size_t size, size_t count, void *arg)
{
	Job		   *job = arg;
	Bytes	   *headers = &job->reply->headers;
	size_t		n = size * count;
	size_t		name = 0;
	size_t		value;
	size_t		end = n;

	if (n > 5 && strncmp(line, "HTTP/", 5) == 0)
	{
		long		status = 0;

		curl_easy_getinfo(job->easy, CURLINFO_RESPONSE_CODE, &status);
		job->reply->status = (int) status;
		headers->len = 0;		/* those of a 100 are not the reply's */
		return n;
	}
	while (name < n && line[name] != ':')
		name++;
	value = name + 1;
	while (value < n && (line[value] == ' ' || line[value] == '\t'))
		value++;
	while (end > value && (unsigned char) line[end - 1] <= ' ')
		end--;
	if (name == n || memchr(line, '\0', n) != NULL)
		return n;
	if (headers->len + n + 2 > HTTP_HEADERS_MAX)
		return end_job(job, "the reply's headers are longer than they may be", true);
	for (size_t i = 0; i < name; i++)
		line[i] = pg_ascii_tolower((unsigned char) line[i]);
	bytes_append(headers, line, name);
	bytes_append(headers, "", 1);
	bytes_append(headers, line + value, end > value ? end - value : 0);
	bytes_append(headers, "", 1);
	return n;
}

/* ---- a job's life, in the engine's thread ---- */

static void
set_limits(Http *http, Job *job)
{
	CURL	   *e = job->easy;

	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);	/* H2 */
	curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 1L);	/* H4 */
	curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 2L);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(e, CURLOPT_BUFFERSIZE, (long) BUFFER_SIZE);
	curl_easy_setopt(e, CURLOPT_UPLOAD_BUFFERSIZE, (long) BUFFER_SIZE);
	if (http->ca_file != NULL)
		curl_easy_setopt(e, CURLOPT_CAINFO, http->ca_file);
	if (!http->proxy)
		curl_easy_setopt(e, CURLOPT_NOPROXY, "*");

	/* H1.  The write callback limits the whole time of a reply with a body. */
	curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT, (long) http->connect_s);
	curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, (long) STALL_BYTES);
	curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, (long) http->stall_s);
	if (job->request->reply_max <= HTTP_ERROR_BODY_MAX)
		curl_easy_setopt(e, CURLOPT_TIMEOUT, (long) (TIME_BASE_S + job->request->body_length / TIME_RATE));
}

static void
set_request(Job *job)
{
	CURL	   *e = job->easy;
	const HttpRequest *r = job->request;

	curl_easy_setopt(e, CURLOPT_URL, r->url);
	curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1L);	/* it was signed as it is */
	curl_easy_setopt(e, CURLOPT_PRIVATE, job);
	curl_easy_setopt(e, CURLOPT_ERRORBUFFER, job->text);
	curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(e, CURLOPT_WRITEDATA, job);
	curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(e, CURLOPT_HEADERDATA, job);
	if (r->body != NULL)
	{
		curl_easy_setopt(e, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(e, CURLOPT_READFUNCTION, on_read);
		curl_easy_setopt(e, CURLOPT_READDATA, job);
		curl_easy_setopt(e, CURLOPT_SEEKFUNCTION, on_seek);
		curl_easy_setopt(e, CURLOPT_SEEKDATA, job);
		curl_easy_setopt(e, CURLOPT_INFILESIZE_LARGE, (curl_off_t) r->body_length);
	}
	else if (strcmp(r->method, "HEAD") == 0)
		curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
	else
		curl_easy_setopt(e, CURLOPT_HTTPGET, 1L);
	curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, r->method);
	for (int i = 0; r->headers != NULL && r->headers[i] != NULL; i++)
		job->headers = curl_slist_append(job->headers, r->headers[i]);
	job->headers = curl_slist_append(job->headers, "Expect:");
	curl_easy_setopt(e, CURLOPT_HTTPHEADER, job->headers);
}

static void
release_handle(Http *http, CURL *easy)
{
	if (http->n_idle < IDLE_HANDLES)
		http->idle[http->n_idle++] = easy;
	else
		curl_easy_cleanup(easy);
}

static void
finish_job(Http *http, Job *job, HttpResult result)
{
	for (Job **at = &http->running; *at != NULL; at = &(*at)->next)
		if (*at == job)
		{
			*at = job->next;
			break;
		}
	if (job->easy != NULL)
	{
		curl_multi_remove_handle(http->multi, job->easy);
		curl_easy_reset(job->easy);
		release_handle(http, job->easy);
	}
	curl_slist_free_all(job->headers);
	pthread_mutex_lock(&http->lock);
	job->result = result;
	job->done = true;
	pthread_cond_broadcast(&http->changed);
	pthread_mutex_unlock(&http->lock);
}

static void
start_job(Http *http, Job *job)
{
	job->easy = http->n_idle > 0 ? http->idle[--http->n_idle] : curl_easy_init();
	job->next = http->running;
	http->running = job;
	if (job->easy != NULL)
	{
		set_limits(http, job);
		set_request(job);
		job->started = monotonic_now();
		if (curl_multi_add_handle(http->multi, job->easy) == CURLM_OK)
			return;
	}
	dr_error(job->err, DR_INTERNAL, "libcurl does not take the request");
	finish_job(http, job, HTTP_REFUSED);
}

static bool
is_final(CURLcode code)
{
	return code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE ||
		code == CURLE_SSL_CERTPROBLEM || code == CURLE_SSL_ISSUER_ERROR ||
		code == CURLE_SSL_CRL_BADFILE || code == CURLE_SSL_INVALIDCERTSTATUS ||
		code == CURLE_URL_MALFORMAT;
}

/* What libcurl says of a job that has ended, as a result and a message. */
static HttpResult
judge(Job *job, CURLcode code)
{
	const char *text = job->text[0] != '\0' ? job->text : curl_easy_strerror(code);
	bool		transfer = code == CURLE_SEND_ERROR || code == CURLE_RECV_ERROR || code == CURLE_WRITE_ERROR;

	/* A server may answer and close before it has read, or we before it is through. */
	if (code == CURLE_OK || (transfer && job->broken == NULL && job->reply->status >= 300))
		return HTTP_REPLIED;
	if (job->broken != NULL)
		dr_error(job->err, job->broken == too_long ? DR_DAMAGED : DR_IO, "%s", job->broken);
	else if (is_final(code))
	{
		dr_error(job->err, DR_REFUSED, "%s", text);
		dr_hint(job->err, "The server's certificate must be for the endpoint's host name and signed by an authority "
				"that this machine trusts, or that the repository's ca_file=/path names.");
		return HTTP_REFUSED;
	}
	else
		dr_error(job->err, DR_IO, "%s", text);
	return job->refused ? HTTP_REFUSED : HTTP_BROKEN;
}

static void
stop_all(Http *http)
{
	while (http->running != NULL)
	{
		dr_error(http->running->err, DR_CANCELLED, "the request was stopped");
		finish_job(http, http->running, HTTP_STOPPED);
	}
}

static void
reap(Http *http)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(http->multi, &left)) != NULL)
	{
		CURLcode	code = message->data.result;
		char	   *job;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &job);
		finish_job(http, (Job *) job, judge((Job *) job, code));
	}
}

static void *
engine(void *arg)
{
	Http	   *http = arg;

	for (;;)
	{
		Job		   *job;
		bool		closing;
		bool		stopped;
		int			n;

		pthread_mutex_lock(&http->lock);
		job = http->pending;
		http->pending = NULL;
		closing = http->closing;
		stopped = http->patience_s == 0;
		pthread_mutex_unlock(&http->lock);
		while (job != NULL)
		{
			Job		   *next = job->next;

			start_job(http, job);
			job = next;
		}
		if (stopped || closing)
			stop_all(http);
		if (closing)
			return NULL;
		curl_multi_perform(http->multi, &n);
		reap(http);
		curl_multi_poll(http->multi, NULL, 0, http->running ? 1000 : 3600 * 1000, NULL);
	}
}

/* ---- for callers ---- */

static bool
start_engine(Http *http)
{
	sigset_t	all;
	sigset_t	before;
	bool		ok;

	http->multi = curl_multi_init();
	if (http->multi == NULL)
		return false;
	curl_multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, 64L);
	curl_multi_setopt(http->multi, CURLMOPT_PIPELINING, (long) CURLPIPE_NOTHING);

	/* libcurl's resolver threads inherit the mask, too. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ok = pthread_create(&http->thread, NULL, engine, http) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!ok)
		curl_multi_cleanup(http->multi);
	return ok;
}

Http *
http_open(const HttpOptions *options, DrError *err)
{
	Http	   *http;
	pthread_condattr_t clock;

	if (options->ca_file != NULL && access(options->ca_file, R_OK) != 0)
	{
		dr_error(err, DR_CONFIG, "could not read the certificates in \"%s\": %s", options->ca_file, strerror(errno));
		dr_hint(err, "ca_file must name a PEM file that the user who runs PostgreSQL can read.");
		return NULL;
	}
	pthread_once(&curl_once, init_curl);
	http = pg_malloc0(sizeof(*http));
	http->ca_file = options->ca_file ? pg_strdup(options->ca_file) : NULL;
	http->proxy = options->proxy;
	http->connect_s = options->connect_s > 0 ? options->connect_s : HTTP_CONNECT_S;
	http->stall_s = options->stall_s > 0 ? options->stall_s : HTTP_STALL_S;
	http->patience_s = options->patience_s > 0 ? options->patience_s : HTTP_PATIENCE_S;
	pthread_mutex_init(&http->lock, NULL);
	pthread_condattr_init(&clock);
	pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
	pthread_cond_init(&http->changed, &clock);
	pthread_condattr_destroy(&clock);
	if (start_engine(http))
		return http;
	dr_error(err, DR_INTERNAL, "could not start the HTTP engine");
	free(http->ca_file);
	free(http);
	return NULL;
}

void
http_close(Http *http)
{
	if (http == NULL)
		return;
	pthread_mutex_lock(&http->lock);
	http->closing = true;
	pthread_mutex_unlock(&http->lock);
	curl_multi_wakeup(http->multi);
	pthread_join(http->thread, NULL);
	while (http->n_idle > 0)
		curl_easy_cleanup(http->idle[--http->n_idle]);
	curl_multi_cleanup(http->multi);
	pthread_cond_destroy(&http->changed);
	pthread_mutex_destroy(&http->lock);
	free(http->ca_file);
	free(http);
}

HttpResult
http_send(Http *http, const HttpRequest *request, HttpReply *reply, DrError *err)
{
	Job		   *job = pg_malloc0(sizeof(*job));
	HttpResult	result;

	job->request = request;
	job->reply = reply;
	job->err = err;
	job->body_start = reply->body.len;
	reply->status = 0;
	reply->headers.len = 0;
	pthread_mutex_lock(&http->lock);
	job->next = http->pending;
	http->pending = job;
	curl_multi_wakeup(http->multi);
	while (!job->done)
		pthread_cond_wait(&http->changed, &http->lock);
	pthread_mutex_unlock(&http->lock);
	result = job->result;
	free(job);
	return result;
}

void
http_reply_free(HttpReply *reply)
{
	bytes_free(&reply->body);
	bytes_free(&reply->headers);
}

const char *
http_header(const HttpReply *reply, const char *name)
{
	const char *at = (const char *) reply->headers.data;
	const char *end = at + reply->headers.len;

	while (at < end)
	{
		const char *value = at + strlen(at) + 1;

		if (strcmp(at, name) == 0)
			return value;
		at = value + strlen(value) + 1;
	}
	return NULL;
}

int64
http_reply_time(const HttpReply *reply)
{
	const char *date = http_header(reply, "date");
	time_t		t = date ? curl_getdate(date, NULL) : -1;

	return t > 0 ? (int64) t : 0;
}

bool
http_status_is_transient(int status)
{
	return status == 408 || status == 429 || status == 500 || (status >= 502 && status <= 504);
}

/* Microseconds: full jitter, so that many clients do not come back together. */
static int64
random_pause(int failed)
{
	int64		most = PAUSE_FIRST_US;
	uint64		random;

	for (int i = 1; i < failed && most < PAUSE_MOST_US; i++)
		most *= 2;
	random_bytes((uint8 *) &random, sizeof(random));
	return (int64) (random % (uint64) Min(most, PAUSE_MOST_US));
}

static int64
retry_after_us(const HttpReply *reply)
{
	const char *value = reply ? http_header(reply, "retry-after") : NULL;
	long		seconds;

	if (value == NULL)
		return 0;
	if (value[0] >= '0' && value[0] <= '9')
		seconds = strtol(value, NULL, 10);
	else
		seconds = (long) (curl_getdate(value, NULL) - time(NULL));
	return (int64) Max(0, Min(seconds, 3600)) * 1000000;
}

bool
http_pause(Http *http, HttpAttempts *a, const HttpReply *reply)
{
	int64		asked = retry_after_us(reply);
	int64		now = monotonic_now();
	int64		until;
	struct timespec at;
	bool		patient;

	if (a->failed++ == 0)
		a->first_failure = now;
	until = now + Max(asked, random_pause(a->failed));
	at.tv_sec = until / 1000000;
	at.tv_nsec = until % 1000000 * 1000;
	pthread_mutex_lock(&http->lock);
	for (;;)
	{
		/* Not a try after the end of patience, but one at its end. */
		int64		end = a->first_failure + (int64) http->patience_s * 1000000;

		patient = now < end && now + asked <= end && http->patience_s > 0;
		if (!patient || monotonic_now() >= Min(until, end))
			break;
		pthread_cond_timedwait(&http->changed, &http->lock, &at);
	}
	pthread_mutex_unlock(&http->lock);
	return patient;
}

void
http_set_patience(Http *http, int seconds)
{
	pthread_mutex_lock(&http->lock);
	http->patience_s = seconds;
	pthread_cond_broadcast(&http->changed);
	pthread_mutex_unlock(&http->lock);
	curl_multi_wakeup(http->multi);
}

char *
http_encode(const char *text, bool keep_slash)
{
	char	   *out = pg_malloc(3 * strlen(text) + 1);
	char	   *to = out;

	for (; *text != '\0'; text++)
	{
		unsigned char c = (unsigned char) *text;

		if ((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
			strchr("-._~", c) != NULL || (c == '/' && keep_slash))
			*to++ = (char) c;
		else
			to += sprintf(to, "%%%02X", c);
	}
	*to = '\0';
	return out;
}
