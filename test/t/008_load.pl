# A backup under load: pgbench; tables, databases and tablespaces that come and go; VACUUM FULL,
# truncation and extension at random.
# The copy, stopped at an LSN that was noted, is exactly the cluster of that LSN.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test qw(campaign random_seed);
use Test::More;

for my $round (1 .. (campaign() ? 20 : 2))
{
	my $seed = random_seed();
	my $node = PgDr::Test->create("main$round", conf => <<'END');
autovacuum_naptime = 1s
checkpoint_timeout = 30s
max_wal_size = 64MB
END
	$node->command_ok([ 'pgbench', '-i', '-q', '-s', '3', '-n' ], 'pgbench -i');

	# Money is neither made nor lost: every transaction moves the same sum through all four tables.
	$node->safe_psql('postgres', q{
		CREATE TABLE churn (id bigserial PRIMARY KEY, pad text);
		CREATE INDEX ON churn (md5(pad));
		CREATE TABLE wiped (id int, pad text)});
	my $ddl = $node->basedir . '/ddl.sql';
	my @spaces = map { $node->basedir . "/space$_" } 0 .. 2;
	mkdir $_ or die "$_: $!" for @spaces;
	append_to_file($ddl, <<'END' =~ s/BASEDIR/$node->basedir/er);
\set n random(1, 1000000)
\set what random(1, 13)
\if :what <= 3
INSERT INTO churn (pad) SELECT repeat(md5((:n + g)::text), 10) FROM generate_series(1, 200) g;
\elif :what = 4
DELETE FROM churn WHERE id > (SELECT max(id) - 1500 FROM churn);
\elif :what = 5
VACUUM churn;
\elif :what = 6
CREATE TABLE t_:client_id AS SELECT g, md5(g::text) AS m FROM generate_series(1, 2000) g;
CREATE INDEX ON t_:client_id (m);
DROP TABLE t_:client_id;
\elif :what = 7
CREATE DATABASE d_:client_id STRATEGY wal_log;
DROP DATABASE d_:client_id;
\elif :what = 8
CREATE DATABASE d_:client_id STRATEGY file_copy;
DROP DATABASE d_:client_id;
\elif :what = 9
CREATE TABLESPACE s_:client_id LOCATION 'BASEDIR/space:client_id';
CREATE TABLE s_:client_id TABLESPACE s_:client_id AS SELECT g FROM generate_series(1, 5000) g;
DROP TABLE s_:client_id;
DROP TABLESPACE s_:client_id;
\elif :what = 10
TRUNCATE wiped;
INSERT INTO wiped SELECT g, repeat('x', 500) FROM generate_series(1, 1000) g;
\elif :what = 11
VACUUM FULL wiped;
\elif :what = 12
CREATE UNLOGGED TABLE u_:client_id AS SELECT generate_series(1, 500) a;
ALTER TABLE u_:client_id SET LOGGED;
DROP TABLE u_:client_id;
\else
CREATE TEMP TABLE x AS SELECT generate_series(1, 2000) a;
DROP TABLE x;
\endif
END
	my $seconds = campaign() ? 25 : 12;
	my @load = map { IPC::Run::start([ 'pgbench', '-n', '-T', $seconds, '--random-seed', $seed, @$_, $node->connstr('postgres') ],
			'<', \undef, '>', '/dev/null', '2>', "$ddl.$$_[1].err", IPC::Run::timeout(300)) }
		([ '-c', '4', '-j', '2' ], [ '-c', '3', '-f', $ddl ]);

	select undef, undef, undef, 1.5;
	my $id = $node->full_backup;
	ok($load[0]->pumpable, 'the load outlived the backup');

	# The moment: nobody writes while it is noted.
	my ($lsn, $sums, $dump) = split /\|/, $node->safe_psql('postgres', q{
		BEGIN;
		LOCK TABLE pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history IN SHARE MODE;
		LOCK TABLE churn, wiped IN SHARE MODE;
		SELECT pg_current_wal_insert_lsn() || '|' || (SELECT sum(abalance) FROM pgbench_accounts) || ' '
			|| (SELECT count(*) FROM pgbench_history) || '|'
			|| (SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM churn t);
		COMMIT});
	ok($_->finish, 'the load ran to its end') or diag map { slurp_file($_) } glob "$ddl.*.err" for @load;
	$node->wait_archived;
	$node->destroy(@spaces);

	# Recovery makes tablespaces again that came and went, and wants their directories.
	mkdir $_ or die "$_: $!" for @spaces;
	my $copy = $node->restored("copy$round", args => [ '--target-lsn', $lsn, '--target-action', 'promote' ]);
	my ($accounts, $history) = split / /, $sums;
	is($copy->safe_psql('postgres', q{SELECT count(*) FROM pgbench_history}), $history, 'every transaction up to the moment, none after it');
	is($copy->safe_psql('postgres', q{SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM churn t}), $dump,
		'the churned table is that of the moment');
	is($copy->safe_psql('postgres', qq{
		SELECT (SELECT sum(abalance) FROM pgbench_accounts) = $accounts
		   AND (SELECT sum(bbalance) FROM pgbench_branches) = $accounts
		   AND (SELECT sum(tbalance) FROM pgbench_tellers) = $accounts
		   AND (SELECT coalesce(sum(delta), 0) FROM pgbench_history) = $accounts}), 't', 'the ledger balances');
	$copy->sound("round $round");
	$_->clean_node for $node, $copy;
}

done_testing();
