# A cluster with everything in it, destroyed, and restored from repository and key alone.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test qw(run_program);
use Test::More;

# pg_wal is a link, one tablespace is outside and one inside the data directory.
my $outside = PostgreSQL::Test::Utils::tempdir_short();
mkdir "$outside/$_" for qw(ts1 ts1_moved);
my $node = PgDr::Test->create('main', initdb => [ '--waldir', "$outside/wal" ]);
my $inside = $node->data_dir . '/ts_inside';
mkdir $inside;
$node->safe_psql('postgres', "CREATE TABLESPACE ts1 LOCATION '$outside/ts1'");
$node->safe_psql('postgres', "CREATE TABLESPACE ts2 LOCATION '$inside'");
$node->safe_psql('postgres', 'CREATE DATABASE second');
$node->safe_psql('postgres', q{CREATE DATABASE "odd ""name" TABLESPACE ts1});

$node->safe_psql($_, q{
	CREATE TABLE plain (id int PRIMARY KEY, t text);
	INSERT INTO plain SELECT g, repeat(md5(g::text), 4) FROM generate_series(1, 20000) g;
	CREATE INDEX ON plain (t);
	CREATE TABLE "Quoted ""table" AS SELECT g AS a FROM generate_series(1, 1000) g;
	CREATE TABLE in_ts1 (a int, b text) TABLESPACE ts1;
	INSERT INTO in_ts1 SELECT g, md5(g::text) FROM generate_series(1, 5000) g;
	CREATE TABLE in_ts2 (a int, b text) TABLESPACE ts2;
	INSERT INTO in_ts2 SELECT g, md5(g::text) FROM generate_series(1, 5000) g;
	CREATE TABLE toasted AS SELECT g, (SELECT string_agg(md5((g * i)::text), '') FROM generate_series(1, 400) i) AS t
		FROM generate_series(1, 50) g;
	CREATE UNLOGGED TABLE unlogged (a int PRIMARY KEY);
	INSERT INTO unlogged SELECT generate_series(1, 1000);
	CREATE TABLE empty (a int);
	CREATE MATERIALIZED VIEW matview AS SELECT count(*) FROM plain;
	SELECT lo_from_bytea(0, decode(repeat(md5(g::text), 200), 'hex')) FROM generate_series(1, 20) g;
	VACUUM ANALYZE;
	}) for 'postgres', 'second', 'odd "name';

# A temporary table lives through the backup, and must not be in it.
my $session = $node->background_psql('postgres');
$session->query_safe('CREATE TEMP TABLE temporary AS SELECT generate_series(1, 10000) a');
my $temporary = $node->data_dir . '/' . $session->query_safe(q{SELECT pg_relation_filepath('temporary')}) =~ s/\s+$//r;	# 16 leaves a newline
ok(-s $temporary, 'a temporary table has a file');

my $id = $node->full_backup;
is_deeply([ $node->listed ], [$id], 'pg_dr list shows it');
like(($node->program('list'))[1], qr/^  \Q$id\E  completed  full  ended .* stored; a restore fetches [\d.]+ \w+ in \d+ requests$/m,
	'with what a restore fetches');

# What is written after the backup comes back from the archive.
$node->safe_psql($_, q{
	INSERT INTO plain SELECT g, 'later' FROM generate_series(20001, 25000) g;
	UPDATE plain SET t = 'changed' WHERE id % 7 = 0;
	DELETE FROM in_ts1 WHERE a % 3 = 0;
	CREATE TABLE after_backup TABLESPACE ts2 AS SELECT generate_series(1, 3000) a;
	DROP TABLE "Quoted ""table";
	VACUUM}) for 'postgres', 'second';
$node->safe_psql('postgres', 'CREATE DATABASE third');
$node->safe_psql('third', 'CREATE TABLE t AS SELECT generate_series(1, 100) a');
$session->quit;
my $before = $node->checksums;
$node->wait_archived;

# The independent reader agrees with what the program wrote.
my ($exit, $out) = $node->reader('verify');
is($exit, 0, 'the independent reader finds no problem') or diag $out;
my $extracted = $node->basedir . '/extracted';
($exit, $out) = $node->reader('extract', '--backup', $id, $extracted);
is($exit, 0, 'the independent reader extracts the backup') or diag $out;
for my $path (qw(postmaster.pid postmaster.opts pg_dynshmem/pg_dr.lineage pg_dr pg_wal/archive_status/000000010000000000000001.done))
{
	ok(!-f "$extracted/$path", "$path is not in the backup");
}
ok(-e "$extracted/$_", "$_ is in the backup") for qw(PG_VERSION global/pg_control base pg_wal pg_replslot pg_dynshmem backup_label);
is(scalar(my @found = glob("$extracted/base/*/t*_*")), 0, 'no temporary relation is in the backup');

$node->destroy("$outside/ts1", "$outside/wal");

# Refusals, before anything is written.
my $busy = PostgreSQL::Test::Utils::tempdir();
append_to_file("$busy/file", "precious\n");
($exit, $out, my $err) = $node->program('restore', '--pgdata', $busy);
isnt($exit, 0, 'a directory that is not empty is refused');
like($err, qr/not empty/, 'and says so');
is(slurp_file("$busy/file"), "precious\n", 'and is left alone');
($exit, undef, $err) = $node->program('restore', '--pgdata', "$busy/new", '--backup', '20200101T000000Z-full-000000');
isnt($exit, 0, 'an unknown backup is refused');
like($err, qr/20200101T000000Z-full-000000/, 'by its name');
ok(!-e "$busy/new", 'and nothing is written');

my $moved = PostgreSQL::Test::Utils::tempdir_short();
my $inside_new = PostgreSQL::Test::Utils::tempdir_short();
my $again = $node->restored('again',
	args => [ '--backup', $id, '--tablespace', "$outside/ts1=$outside/ts1_moved", '--tablespace', "$inside=$inside_new/ts2" ]);
is($again->checksums, $before, 'every row is back');
is($again->safe_psql('postgres', 'SELECT count(*) FROM unlogged'), 0, 'unlogged tables are empty');
is($again->safe_psql('postgres', q{SELECT string_agg(pg_tablespace_location(oid), ' ' ORDER BY spcname)
	FROM pg_tablespace WHERE spcname ~ '^ts'}), "$outside/ts1_moved $inside_new/ts2", 'tablespaces are where they were sent');
is($again->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()'), $node->system_identifier, 'it is the same cluster');
like($again->safe_psql('postgres', 'SELECT pg_walfile_name(pg_current_wal_lsn())'), qr/^00000002/, 'on a new timeline');

# A copy does not archive before it is adopted, and nobody has lost anything.
$again->safe_psql('postgres', 'INSERT INTO empty VALUES (1)');
$again->safe_psql('postgres', 'SELECT dr_adopt()');
my $second = $again->full_backup;
is_deeply([ sort $again->listed ], [ sort $id, $second ], 'the adopted copy makes backups');
$again->sound('restored cluster');

# The same again without moving anything: the places are free now.
File::Path::rmtree([ "$outside/ts1_moved", "$inside_new/ts2" ]);
my $third = $node->restored('third', args => [ '--backup', $id, '--target-timeline', '1' ]);
is($third->checksums, $before, 'the first backup still restores');
$third->sound('second restore');

done_testing();
