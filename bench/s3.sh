# bench/run's object storage: a Ceph gateway of one node; sourced by it.
# Both tools speak https to the same endpoint.  pgBackRest wants a host's name
# in the certificate, and an address it may resolve: localhost.

install_packages ceph-mon ceph-osd radosgw ceph-common openssl python3-boto3 || die "packages"
CEPH=${TMPDIR:-/tmp}/pgdr_t_ceph.$$
"$PGDR_TOP/test/servers/ceph" start "$CEPH" 8 >/dev/null || { CEPH=; die "ceph"; }
set -a
eval "$(as_root cat "$CEPH/env")"
set +a
s3_tool() { "$PGDR_TOP/test/servers/s3-tool" "$@"; }
s3_tool make-bucket bench-pgdr && s3_tool make-bucket bench-pgbackrest || die "buckets"
as_root ceph --admin-daemon "$CEPH/client.gateway.asok" config set debug_rgw 1/1 >/dev/null || die "log"

PORT_S3=${PGDR_S3_ENDPOINT##*:}
if [ "$DELAY" -gt 0 ]; then
	# The proxy takes commands from a pipe that stays open; what it says is of no interest but its port.
	gcc -O2 -pthread -o "/tmp/pgdr_t_proxy.$$" "$PGDR_TOP/test/servers/proxy.c" && mkfifo "/tmp/pgdr_t_pipe.$$" || die "proxy"
	"/tmp/pgdr_t_proxy.$$" "$PORT_S3" <"/tmp/pgdr_t_pipe.$$" >"/tmp/pgdr_t_port.$$" &
	exec 7>"/tmp/pgdr_t_pipe.$$"
	until [ -s "/tmp/pgdr_t_port.$$" ]; do sleep 0.1; done
	PORT_S3=$(head -n 1 "/tmp/pgdr_t_port.$$")
	rm -f "/tmp/pgdr_t_proxy.$$" "/tmp/pgdr_t_pipe.$$" "/tmp/pgdr_t_port.$$"
fi
as_postgres tee "$TOP/credentials" >/dev/null <<END
[default]
aws_access_key_id = $PGDR_S3_ACCESS_KEY
aws_secret_access_key = $PGDR_S3_SECRET_KEY
END
as_postgres chmod 0600 "$TOP/credentials"
URL="s3://bench-pgdr/bench?endpoint=https://127.0.0.1:$PORT_S3&ca_file=$PGDR_S3_CA"
MORE_SETTINGS="pg_dr.credentials_file = '$TOP/credentials'"
MORE_ARGUMENTS="--credentials-file $TOP/credentials"
PGBACKREST_REPOSITORY="repo1-type=s3
repo1-path=/bench
repo1-s3-bucket=bench-pgbackrest
repo1-s3-endpoint=localhost
repo1-s3-region=us-east-1
repo1-s3-uri-style=path
repo1-s3-key=$PGDR_S3_ACCESS_KEY
repo1-s3-key-secret=$PGDR_S3_SECRET_KEY
repo1-storage-host=localhost
repo1-storage-port=${PGDR_S3_ENDPOINT##*:}
repo1-storage-ca-file=$PGDR_S3_CA"

stored() { s3_tool list "bench-${1//_/}" | awk -F'\t' '{ n += $2 } END { print n + 0 }'; }

# What the gateway was asked in between, from its log.
requests_begin() { REQUESTS_FROM=$(as_root stat -c %s "$CEPH/log/client.gateway"); }
requests_end() {
	sleep 1
	as_root tail -c +"$((REQUESTS_FROM + 1))" "$CEPH/log/client.gateway" | awk -v tool="$1" -v what="$2" '
		/beast: / && match($0, /"(GET|PUT|POST|HEAD|DELETE) [^ ]+/) {
			split(substr($0, RSTART + 1, RLENGTH - 1), r, " ")
			kind = r[1] == "GET" && r[2] ~ /^\/[^\/]+\/?\?/ ? "LIST" : r[1]
			n[kind]++
		}
		END { printf "%s %s: ", tool, what; for (k in n) printf "%d %s  ", n[k], k; print "" }' | tee -a "${RESULTS%.tsv}.requests"
}

# pg_dr alone, through the proxy, which adds nothing or DELAY ms to each request.
compare_delays() {
	local run delay figures
	for run in $(seq "$RUNS"); do
		for delay in 0 "$DELAY"; do
			echo "delay $delay" >&7
			sql -c CHECKPOINT
			figures=$(run_measured pg_dr $(backup_command pg_dr)) || exit
			row "$delay" backup $figures 0
			requests_begin
			figures=$(run_measured pg_dr $(restore_command pg_dr)) || exit
			row "$delay" restore $figures 0
			requests_end "$delay" restore
			as_root rm -rf "$TOP/restored"
		done
	done
	/usr/bin/python3 - "$RESULTS" "$bytes" <<-'END' | tee "${RESULTS%.tsv}.txt"
		import collections, statistics, sys
		runs = collections.defaultdict(list)
		for line in open(sys.argv[1]):
		    delay, what, wall, *_ = line.split('\t')
		    runs[what, int(delay)].append(float(wall))
		print(f'\n{int(sys.argv[2]) / 1e9:.2f} GB, medians')
		for what in 'backup', 'restore':
		    without, with_delay = (statistics.median(runs[key]) for key in sorted(k for k in runs if k[0] == what))
		    print(f'{what:8} {without:6.2f} s without, {with_delay:6.2f} s with the delay: {with_delay / without:.3f}')
	END
}
