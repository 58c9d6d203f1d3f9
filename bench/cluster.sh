# The cluster of the benchmarks: one server, pg_dr and pgBackRest with a repository
# each, the archiver switched to the tool whose turn it is; sourced by them.
# They set HERE, JOBS, STORE, DELAY and, when they like, MORE_PGBACKREST.

TOP=
finish() {
	[ -n "$TOP" ] || return
	stop_clusters "$TOP"
	[ -z "${CEPH:-}" ] || "$PGDR_TOP/test/servers/ceph" stop "$CEPH"
	as_root rm -rf "$TOP"
}
trap finish EXIT
trap 'exit 130' INT TERM
die() { echo "bench: $*" >&2; exit 1; }

install_packages $BUILD_PACKAGES pgbackrest python3 || die "packages"
build || die "build"
TOP=$(private_directory bench) || die "no directory"

DATA=$TOP/data PORT=6297
sql() { as_postgres psql -h "$TOP" -p $PORT -U postgres -d postgres -X -q -At -v ON_ERROR_STOP=1 "$@"; }
measure() { as_root /usr/bin/python3 "$HERE/measure.py" "$@"; }

URL=file://$TOP/pg_dr MORE_SETTINGS= MORE_ARGUMENTS=
PGBACKREST_REPOSITORY="repo1-path=$TOP/pgbackrest"
[ "$STORE" = file ] || . "$HERE/s3.sh"
as_postgres mkdir "$TOP/pg_dr" &&
	as_postgres pg_dr key generate "$TOP/dr.key" >/dev/null || die "key"
as_postgres initdb -D "$DATA" -k -A trust -U postgres -E UTF8 --no-locale -N >/dev/null || die "initdb"
as_postgres tee -a "$DATA/postgresql.conf" >/dev/null <<END
listen_addresses = ''
unix_socket_directories = '$TOP'
port = $PORT
shared_buffers = 1GB
max_wal_size = 16GB
checkpoint_timeout = 1h
autovacuum = off
synchronous_commit = off
max_locks_per_transaction = 256
shared_preload_libraries = 'pg_dr'
archive_mode = on
archive_command = 'true'
pg_dr.repositories = 'main=$URL'
$MORE_SETTINGS
pg_dr.encryption_key_file = '$TOP/dr.key'
pg_dr.jobs = $JOBS
pg_dr.compression_level = 1
END
as_postgres tee "$TOP/pgbackrest.conf" >/dev/null <<END
[global]
$PGBACKREST_REPOSITORY
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=$(head -c 30 /dev/urandom | base64)
repo1-bundle=y
repo1-retention-full=99
compress-type=zst
compress-level=1
process-max=$JOBS
start-fast=y
log-path=$TOP
lock-path=$TOP/lock
spool-path=$TOP/spool
log-level-console=warn
log-level-file=off
${MORE_PGBACKREST:-}
[bench]
pg1-path=$DATA
pg1-port=$PORT
pg1-socket-path=$TOP
pg1-user=postgres
END
as_postgres pg_ctl -s -w -D "$DATA" -l "$TOP/log" start || die "start"

# archive_with LIBRARY COMMAND: the archiver's way from now on; returns when it has archived something.
archive_with() {
	local segment
	sql -c "ALTER SYSTEM SET archive_library = '$1'" -c "ALTER SYSTEM SET archive_command = '$2'" -c "SELECT pg_reload_conf()" >/dev/null
	sleep 1
	segment=$(sql -c "SELECT pg_logical_emit_message(true, '', '') IS NULL" -c "SELECT pg_walfile_name(pg_switch_wal())" | tail -n 1)
	until as_root test -e "$DATA/pg_wal/archive_status/$segment.done"; do sleep 0.2; done
}

use_pg_dr() { archive_with pg_dr ''; }
use_pgbackrest() { archive_with '' "pgbackrest --config=$TOP/pgbackrest.conf --stanza=bench archive-push %p"; }
