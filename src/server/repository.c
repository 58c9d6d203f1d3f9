/*
 * repository.c
 *	  What the program is told of the repository, and what its probe found.
 *
 * One idea: everything that the program needs to know goes over the socket in
 * one request, made from settings and, for credentials and proxies, from the
 * server's environment: the program's own environment and arguments hold
 * nothing.
 *
 * A probe says whether the store keeps the rules that backups rely on.  It
 * happens when a repository is created and when dr_check() asks; its findings
 * are kept in shared memory until housekeeping writes them into dr.probe.
 *
 * A crash here leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/xlog.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "pg_dr.h"
#include "protocol.h"
#include "repository.h"

extern char **environ;

void
dr_require_settings(void)
{
	char	   *name;
	char	   *url;

	if (!dr_primary_repository(&name, &url))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("no repository is configured"),
				 errhint("Set pg_dr.repositories, for example to 'main=file:///directory', and reload.")));
	if (dr_encryption_key_file[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("no encryption key is configured"),
				 errhint("Create a key with \"pg_dr key generate FILE\", set pg_dr.encryption_key_file to it, and reload.")));
}

/* What AWS's tools and libcurl read; nothing else of the environment is the program's business. */
static bool
is_wanted_variable(const char *variable, size_t n)
{
	static const char *const names[] = {"HOME", "http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy",
	"ALL_PROXY", "no_proxy", "NO_PROXY"};

	if (strncmp(variable, "AWS_", 4) == 0)
		return true;
	for (int i = 0; i < lengthof(names); i++)
	{
		if (strlen(names[i]) == n && strncmp(names[i], variable, n) == 0)
			return true;
	}
	return false;
}

static void
put_environment(StringInfo buf)
{
	List	   *wanted = NIL;

	for (char **v = environ; *v != NULL; v++)
	{
		const char *equals = strchr(*v, '=');
		int			n = strlen(*v);

		/* A value that can't be sent is none that AWS's tools could use; it must not be in a message. */
		if (equals != NULL && is_wanted_variable(*v, equals - *v) &&
			pg_encoding_verifymbstr(PG_UTF8, *v, n) == n)
			wanted = lappend(wanted, *v);
	}
	dr_request_texts(buf, "environment", wanted);
	list_free(wanted);
}

void
dr_open_request(StringInfo buf, bool writer)
{
	char	   *name;
	char	   *url;
	char		system_identifier[32];

	dr_require_settings();
	dr_primary_repository(&name, &url);
	snprintf(system_identifier, sizeof(system_identifier), UINT64_FORMAT, GetSystemIdentifier());
	dr_request_begin(buf, "open");
	dr_request_int(buf, "protocol", PGDR_PROTOCOL);
	dr_request_text(buf, "version", PGDR_VERSION);
	dr_request_text(buf, "repository_name", name);
	dr_request_text(buf, "repository", url);
	dr_request_text(buf, "key_file", dr_encryption_key_file);
	if (dr_credentials_file[0] != '\0')
		dr_request_text(buf, "credentials_file", dr_credentials_file);
	dr_request_text(buf, "system_identifier", system_identifier);
	dr_request_text(buf, "data_directory", DataDir);
	dr_request_int(buf, "wal_segment_size", wal_segment_size);
	dr_request_int(buf, "jobs", dr_jobs);
	dr_request_int(buf, "compression_level", dr_compression_level);
	dr_request_int(buf, "max_rate", dr_max_rate);
	dr_request_bool(buf, "writer", writer);
	/* A backup may wait for a store that is away for a while; a person and the archiver hear of it soon. */
	dr_request_bool(buf, "patient", writer && MyBackendType == B_BG_WORKER);
	dr_request_text(buf, "hold_at", dr_debug_hold_at);
	if (dr_debug_clock != 0)
		dr_request_int(buf, "clock_ahead", dr_debug_clock);
	put_environment(buf);
	dr_request_end(buf);
}

DrChild *
dr_child_open(bool writer)
{
	StringInfoData request;
	DrChild    *child;
	DrEvent		done;

	initStringInfo(&request);
	dr_open_request(&request, writer);
	child = dr_child_start();
	PG_TRY();
	{
		dr_child_request(child, &request);
		dr_child_finish(child, dr_probe_event, NULL, &done);
	}
	PG_CATCH();
	{
		dr_child_stop(child, DR_GRACE_NONE);
		PG_RE_THROW();
	}
	PG_END_TRY();
	pfree(request.data);
	return child;
}

/* ---- the probe ---- */

static const char *
known_status(const char *status)
{
	static const char *const known[] = {"ok", "warning", "critical"};

	for (int i = 0; i < lengthof(known); i++)
	{
		if (strcmp(status, known[i]) == 0)
			return known[i];
	}
	dr_protocol_error("A check has an unknown status.");
}

void
dr_check_parse(const DrEvent *event, DrCheckFinding *finding)
{
	if (!dr_event_is(event, "check"))
		dr_protocol_error(psprintf("Event \"%s\" was not expected.", event->name));
	finding->name = dr_event_text(event, "name", true);
	finding->status = known_status(dr_event_text(event, "status", true));
	finding->detail = dr_event_text(event, "detail", true);
	finding->hint = dr_event_text(event, "hint", false);
	finding->from_probe = dr_event_bool(event, "probe");
}

/*
 * Each probe begins with the same question.  Two at the same time would mix
 * their answers to the same questions, which does no harm.
 */
void
dr_probe_remember(const DrCheckFinding *finding)
{
	DrProbe    *probe;
	DrProbeRow	row = {0};
	char	   *name;
	char	   *url;

	if (dr_shared == NULL || !finding->from_probe || !dr_primary_repository(&name, &url))
		return;
	strlcpy(row.name, finding->name, sizeof(row.name));
	strlcpy(row.status, finding->status, sizeof(row.status));
	strlcpy(row.detail, dr_redacted(finding->detail), sizeof(row.detail));
	strlcpy(row.hint, finding->hint ? dr_redacted(finding->hint) : "", sizeof(row.hint));
	dr_lock(LW_EXCLUSIVE);
	probe = &dr_shared->probe;
	if (strcmp(finding->name, "create_only") == 0)
		probe->n = 0;
	if (probe->n < DR_PROBE_ROWS)
		probe->rows[probe->n++] = row;
	strlcpy(probe->repository, name, sizeof(probe->repository));
	probe->probed_at = GetCurrentTimestamp();
	probe->want_row = true;
	dr_unlock();
	dr_wake_launcher();
}

void
dr_probe_event(void *arg, const DrEvent *event)
{
	DrCheckFinding finding;

	dr_check_parse(event, &finding);
	dr_probe_remember(&finding);
}
