# What test/run, quickstart and bench/run share; bash, sourced.
# Debian 12 or later, as root or as a user who may sudo.

PGDR_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PG_MAJOR=${PG_MAJOR:-15}
PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/$PG_MAJOR/bin/pg_config}
BUILD_PACKAGES="postgresql-$PG_MAJOR postgresql-server-dev-$PG_MAJOR gcc libc6-dev make libjansson-dev libzstd-dev libssl-dev libcurl4-openssl-dev libexpat1-dev libpq-dev"

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
# Nothing of the caller's environment or directory reaches what postgres runs.
as_postgres() {
	as_root runuser -u postgres -- env -i -C / HOME=/var/lib/postgresql LANG=C.UTF-8 TERM="${TERM:-dumb}" \
		PATH="$(dirname "$PG_CONFIG"):/usr/local/bin:/usr/bin:/bin" "$@"
}

# install_packages PACKAGE...: those that are missing, and no cluster of Debian's with them.
install_packages() {
	local missing=() package no_cluster=/etc/postgresql-common/createcluster.d/pg_dr-build.conf
	for package; do
		[ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	echo "installing ${missing[*]}"
	as_root mkdir -p "$(dirname $no_cluster)"
	echo "create_main_cluster = false" | as_root tee $no_cluster >/dev/null
	as_root apt-get update -qq &&
		as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
	local status=$?
	as_root rm -f $no_cluster
	return $status
}

# build [clean]: in the checkout, then install into PostgreSQL's directories.
build() {
	if [ "${1:-}" = clean ]; then
		make -s -C "$PGDR_TOP" clean PG_CONFIG="$PG_CONFIG" || return
	fi
	make -s -C "$PGDR_TOP" -j2 PG_CONFIG="$PG_CONFIG" &&
		as_root make -s -C "$PGDR_TOP" install PG_CONFIG="$PG_CONFIG"
}

# private_directory NAME: a new directory of user postgres, on standard output.
private_directory() { as_postgres mktemp -d "${TMPDIR:-/tmp}/pgdr_t_$1.XXXXXX"; }

# stop_clusters DIRECTORY: every server whose data directory lies below.
stop_clusters() {
	local pid_file
	as_root find "$1" -name postmaster.pid 2>/dev/null | while read -r pid_file; do
		as_postgres pg_ctl -s -w -m immediate -D "$(dirname "$pid_file")" stop 2>/dev/null </dev/null
	done
	return 0
}
