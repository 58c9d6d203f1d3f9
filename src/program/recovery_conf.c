/*
 * recovery_conf.c
 *	  What a restored cluster needs to recover itself.
 *
 * Settings are appended to the restored postgresql.auto.conf, where the last
 * one wins; every recovery target that is not asked for is emptied, because an
 * older restore may have left one and the server takes only one.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "program/recovery_conf.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>

/* How often a standby asks for what comes next: the tail grows about as often. */
#define STANDBY_RETRY	"1s"

/* ---- quoting ---- */

static void
append(Bytes *b, const char *text)
{
	bytes_append(b, text, strlen(text));
}

/* name = 'value' as a line of a configuration file. */
static void
append_setting(Bytes *b, const char *name, const char *value)
{
	append(b, name);
	append(b, " = '");
	for (const char *p = value; *p != '\0'; p++)
	{
		if (*p == '\'' || *p == '\\')
			bytes_append(b, p, 1);
		bytes_append(b, p, 1);
	}
	append(b, "'\n");
}

/* One word for the shell, with the server's own % escapes escaped. */
static void
append_word(Bytes *b, const char *word)
{
	append(b, " '");
	for (const char *p = word; *p != '\0'; p++)
	{
		if (*p == '\'')
			append(b, "'\\''");
		else
		{
			if (*p == '%')
				bytes_append(b, p, 1);
			bytes_append(b, p, 1);
		}
	}
	append(b, "'");
}

static bool
restore_command(const Restore *r, const RecoveryOptions *o, char **out, DrError *err)
{
	char		self[MAXPGPATH];
	ssize_t		n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char	   *quick;
	bool		is_there;
	Bytes		b = {0};

	if (n < 0)
		return dr_error(err, DR_IO, "could not find this program's own path: %s", strerror(errno));
	self[n] = '\0';
	quick = psprintf("%s-wal-get", self);
	is_there = access(quick, X_OK) == 0;
	append_word(&b, is_there ? quick : self);
	append(&b, is_there ? " --repository" : " wal-get --repository");
	pfree(quick);
	append_word(&b, o->access->url);
	append(&b, " --key-file");
	append_word(&b, o->access->key_file);
	if (o->access->credentials_file != NULL)
	{
		append(&b, " --credentials-file");
		append_word(&b, o->access->credentials_file);
	}
	append(&b, " --system-identifier ");
	append(&b, r->manifest.info.system_identifier);
	if (o->standby)
		append(&b, " --wait");
	append(&b, " \"%f\" \"%p\"");
	bytes_append(&b, "", 1);
	*out = (char *) b.data + 1;	/* without the first blank; small, kept to the end */
	return true;
}

/* ---- configuration files ---- */

static char *
config_base(const Restore *r, const RecoveryOptions *o)
{
	return pg_strdup(o->config_dir ? o->config_dir : r->pgdata);
}

static bool
check_config_dir(const Restore *r, const RecoveryOptions *o, DrError *err)
{
	struct stat st;

	if (o->config_dir == NULL)
		return true;
	if (r->config_files == 0)
		return dr_error(err, DR_CONFIG, "--config-dir was given, but the backup's configuration files lie in its data directory");
	if (stat(o->config_dir, &st) != 0 ? errno != ENOENT : !S_ISDIR(st.st_mode))
		return dr_error(err, DR_CONFIG, "\"%s\" is not a directory", o->config_dir);
	if (errno != ENOENT && access(o->config_dir, W_OK) != 0)
		return dr_error(err, DR_CONFIG, "could not write into directory \"%s\": %s", o->config_dir, strerror(errno));
	return true;
}

/* write_frontier, which comes last, could not write others. */
static bool
check_text(const char *what, const char *text, DrError *err)
{
	json_t	   *string = json_string(text ? text : "");
	bool		ok = string != NULL;

	json_decref(string);
	return ok || dr_error(err, DR_CONFIG, "%s is not UTF-8", what);
}

bool
recovery_check(const Restore *r, const RecoveryOptions *o, DrError *err)
{
	return check_config_dir(r, o, err) &&
		check_text("the repository's URL", o->access->url, err) &&
		check_text("the recovery target", o->target->text, err);
}

static bool
copy_file(const char *from, const char *to, mode_t mode, DrError *err)
{
	char		buf[65536];
	int			in = open(from, O_RDONLY | O_CLOEXEC);
	int			out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode & 0777);
	ssize_t		n = -1;
	bool		ok = in >= 0 && out >= 0;

	while (ok && (n = read(in, buf, sizeof(buf))) > 0)
		ok = write(out, buf, n) == n;
	ok = ok && n == 0 && fsync(out) == 0;
	if (!ok)
		dr_error(err, DR_IO, "could not copy \"%s\" to \"%s\": %s", from, to, strerror(errno));
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	return ok;
}

/* What is in the way is kept beside, never overwritten: as .before-restore, .before-restore.2, ... */
static bool
make_way(const char *path, DrError *err)
{
	char	   *aside;
	struct stat st;
	bool		ok;

	if (lstat(path, &st) != 0)
		return true;
	aside = psprintf("%s.before-restore", path);
	for (int n = 2; lstat(aside, &st) == 0; n++)
	{
		pfree(aside);
		aside = psprintf("%s.before-restore.%d", path, n);
	}
	ok = rename(path, aside) == 0 ||
		dr_error(err, DR_IO, "could not rename \"%s\": %s", path, strerror(errno));
	pfree(aside);
	return ok;
}

/* Move what is staged below "from" to below "to". */
static bool
install_config(const char *from, const char *to, DrError *err)
{
	DIR		   *dir = opendir(from);
	struct dirent *de;
	bool		ok = dir != NULL;

	if (!ok)
		return dr_error(err, DR_IO, "could not open directory \"%s\": %s", from, strerror(errno));
	if (mkdir(to, 0755) != 0 && errno != EEXIST)
		ok = dr_error(err, DR_IO, "could not create directory \"%s\": %s", to, strerror(errno));
	while (ok && (de = readdir(dir)) != NULL)
	{
		char	   *source;
		char	   *target;
		struct stat st;

		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
			continue;
		source = psprintf("%s/%s", from, de->d_name);
		target = psprintf("%s/%s", to, de->d_name);
		if (lstat(source, &st) != 0)
			ok = dr_error(err, DR_IO, "could not stat \"%s\": %s", source, strerror(errno));
		else if (S_ISDIR(st.st_mode))
			ok = install_config(source, target, err);
		else
			ok = make_way(target, err) && copy_file(source, target, st.st_mode, err) &&
				unlink(source) == 0;
		pfree(source);
		pfree(target);
	}
	closedir(dir);
	return ok && rmdir(from) == 0;
}

/*
 * Directories that include_dir names must exist, even those that were empty.
 * Only relative ones, below the configuration directory.
 */
static void
make_include_directories(const char *base, const char *text)
{
	for (const char *line = text; *line != '\0';)
	{
		char		name[256];
		const char *p = line + strspn(line, " \t");

		if (strncmp(p, "include_dir", 11) == 0 &&
			sscanf(p + 11, " = '%255[^'\n]", name) != 1 && sscanf(p + 11, " '%255[^'\n]", name) != 1)
			name[0] = '\0';
		if (strncmp(p, "include_dir", 11) == 0 && path_valid(name))
		{
			char	   *dir = psprintf("%s/%s", base, name);

			mkdir(dir, 0755);	/* if it can't be made, the server says so */
			pfree(dir);
		}
		line += strcspn(line, "\n");
		line += *line == '\n';
	}
}

static bool
read_text(const char *path, Bytes *out)
{
	char		buf[65536];
	int			fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t		n = -1;

	while (fd >= 0 && (n = read(fd, buf, sizeof(buf))) > 0)
		bytes_append(out, buf, n);
	bytes_append(out, "", 1);
	if (fd >= 0)
		close(fd);
	return n == 0;
}

static void
append_place(Bytes *b, const char *setting, const char *base, const char *file)
{
	char	   *path = psprintf("%s/%s", base, file);

	if (access(path, F_OK) == 0)
		append_setting(b, setting, path);
	pfree(path);
}

/*
 * A configuration from outside names the places that it was in: say at its end
 * where everything is now.
 */
static bool
point_config(const Restore *r, const char *base, DrError *err)
{
	char	   *conf = psprintf("%s/postgresql.conf", base);
	Bytes		text = {0};
	Bytes		add = {0};
	int			fd;
	bool		ok;

	if (!read_text(conf, &text))
	{
		bytes_free(&text);
		return true;			/* under another name: the DBA knows which */
	}
	make_include_directories(base, (char *) text.data);
	append(&add, "\n# Added by pg_dr restore: where everything is now\n");
	append_setting(&add, "data_directory", r->pgdata);
	append_place(&add, "hba_file", base, "pg_hba.conf");
	append_place(&add, "ident_file", base, "pg_ident.conf");
	if (strcmp(base, r->pgdata) == 0)
		append_setting(&add, "external_pid_file", "");
	fd = open(conf, O_WRONLY | O_APPEND | O_CLOEXEC);
	ok = fd >= 0 && write(fd, add.data, add.len) == (ssize_t) add.len && fsync(fd) == 0;
	if (!ok)
		dr_error(err, DR_IO, "could not write \"%s\": %s", conf, strerror(errno));
	if (fd >= 0)
		close(fd);
	bytes_free(&text);
	bytes_free(&add);
	pfree(conf);
	return ok;
}

static bool
place_config_files(const Restore *r, const RecoveryOptions *o, DrError *err)
{
	char	   *stage = psprintf("%s/" RESTORE_CONFIG_STAGE, r->pgdata);
	char	   *base = config_base(r, o);
	bool		ok;

	if (r->config_files == 0)
		return true;
	ok = install_config(stage, base, err) && point_config(r, base, err);
	pfree(stage);
	free(base);
	return ok;
}

/* ---- settings ---- */

/* As the server reads it before it knows any time zone: not even Z. */
static void
append_time(Bytes *b, const char *setting, int64 time)
{
	char		text[TIME_TEXT_MAX];

	time_format(text, time);
	*strchr(text, 'T') = ' ';
	strcpy(strchr(text, 'Z'), "+00");
	append_setting(b, setting, text);
}

static void
append_target(Bytes *b, const RecoveryOptions *o)
{
	static const struct
	{
		const char *setting;
		TargetKind	kind;
	}			settings[] = {
		{"recovery_target", TARGET_IMMEDIATE},
		{"recovery_target_time", TARGET_TIME},
		{"recovery_target_lsn", TARGET_LSN},
		{"recovery_target_xid", TARGET_XID},
		{"recovery_target_name", TARGET_NAME},
	};
	const Target *t = o->target;
	char		timeline[16] = "latest";

	/* Emptied first: the server wants to see only one set at any moment. */
	for (int i = 0; i < (int) lengthof(settings); i++)
		if (settings[i].kind != t->kind)
			append_setting(b, settings[i].setting, "");
	for (int i = 0; i < (int) lengthof(settings); i++)
		if (settings[i].kind == t->kind && t->kind == TARGET_TIME)
			append_time(b, settings[i].setting, t->time);
		else if (settings[i].kind == t->kind)
			append_setting(b, settings[i].setting, t->kind == TARGET_IMMEDIATE ? "immediate" : t->text);
	append_setting(b, "recovery_target_inclusive", t->exclusive ? "off" : "on");
	if (!o->standby)
		snprintf(timeline, sizeof(timeline), "%u", o->plan->timeline);
	append_setting(b, "recovery_target_timeline", timeline);
	append_setting(b, "recovery_target_action", o->action ? o->action : "pause");
}

static bool
write_settings(Restore *r, const RecoveryOptions *o, DrError *err)
{
	char	   *path = psprintf("%s/postgresql.auto.conf", r->pgdata);
	char	   *command = NULL;
	Bytes		text = {0};
	bool		ok;

	read_text(path, &text);		/* none is fine */
	text.len--;					/* its NUL */
	if (!restore_command(r, o, &command, err))
		return false;
	append(&text, "\n# Added by pg_dr restore\n");
	append_setting(&text, "restore_command", command);
	append_setting(&text, "primary_conninfo", "");
	append_setting(&text, "primary_slot_name", "");
	if (o->standby)
		append_setting(&text, "wal_retrieve_retry_interval", STANDBY_RETRY);
	append_target(&text, o);

	/* It would come upon what is missing or damaged before it comes to the target. */
	if (o->plan->no_read_ahead)
		append_setting(&text, "recovery_prefetch", "off");
	ok = restore_write_file(r, "postgresql.auto.conf", text.data, text.len, err);
	bytes_free(&text);
	pfree(path);
	return ok;
}

/* What dr_status compares recovery's end with. */
static bool
write_frontier(Restore *r, const RecoveryOptions *o, DrError *err)
{
	const BackupInfo *info = &r->manifest.info;
	const char *kind = target_kind_name(o->target->kind);
	char		frontier[LSN_TEXT_MAX];
	char		stop[LSN_TEXT_MAX];
	char		now[TIME_TEXT_MAX];
	json_t	   *object;
	char	   *text;
	bool		ok;

	lsn_format(frontier, o->plan->frontier);
	lsn_format(stop, info->stop_lsn);
	time_format(now, time_now());
	object = json_pack("{s:s, s:s, s:s, s:s, s:I, s:s, s:s, s:o, s:o, s:b, s:s}",
					   "backup", info->id, "repository", o->access->url,
					   "system_identifier", info->system_identifier, "stop_lsn", stop,
					   "frontier_timeline", (json_int_t) o->plan->frontier_timeline,
					   "frontier_segment", o->plan->last_segment, "frontier_lsn", frontier,
					   "target_kind", kind ? json_string(kind) : json_null(),
					   "target_value", o->target->text ? json_string(o->target->text) : json_null(),
					   "standby", o->standby, "restored_at", now);
	text = object ? json_dumps(object, JSON_INDENT(2)) : NULL;
	json_decref(object);
	if (text == NULL)
		return dr_error(err, DR_INTERNAL, "could not make \"%s\"", PGDR_RESTORED_FILE);
	ok = restore_write_file(r, PGDR_RESTORED_FILE, text, strlen(text), err);
	free(text);
	return ok;
}

bool
recovery_write(Restore *r, const RecoveryOptions *o, DrError *err)
{
	const char *label = r->manifest.info.backup_label;

	/* tablespace_map is not written: the links exist, perhaps to other places. */
	return place_config_files(r, o, err) &&
		write_settings(r, o, err) &&
		write_frontier(r, o, err) &&
		restore_write_file(r, "backup_label", label, strlen(label), err) &&
		restore_write_file(r, o->standby ? "standby.signal" : "recovery.signal", "", 0, err);
}
