# Every way to stop a backup: the child is gone, the server is out of backup mode,
# the row says what happened, and what was stored is no backup.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test qw(process_gone wait_until);
use Test::More;

my $node = PgDr::Test->create('main', wal_segsize => 1);
$node->safe_psql('postgres', 'CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 20000) g');
$node->wait_archived;	# who is first to write makes the repository

# Each begins with a backup that is held in its middle.  [what, status, sub(node, backup id, caller pid, worker pid)]
my @ways = (
	[ 'dr_cancel', qr/cancelled/, sub { $_[0]->safe_psql('postgres', "SELECT dr_cancel('$_[1]')") } ],
	[ 'pg_cancel_backend of the caller', qr/cancelled/, sub { $_[0]->safe_psql('postgres', "SELECT pg_cancel_backend($_[2])") } ],
	[ 'pg_terminate_backend of the caller', qr/cancelled/, sub { $_[0]->safe_psql('postgres', "SELECT pg_terminate_backend($_[2])") } ],
	[ 'pg_terminate_backend of the worker', qr/interrupted|failed|cancelled/, sub { $_[0]->safe_psql('postgres', "SELECT pg_terminate_backend($_[3])") } ],
	[ 'fast shutdown', qr/interrupted|failed|cancelled/, sub { $_[0]->stop('fast'); $_[0]->start } ],
	[ 'immediate shutdown', qr/interrupted|failed/, sub { $_[0]->stop('immediate'); $_[0]->start } ]);

for my $way (@ways)
{
	for my $step ('backup.scanned', 'backup.pack_stored', 'backup.copied', 'backup.wal_present')
	{
		my ($what, $status, $stop) = @$way;
		$what .= " at $step";
		my @before = $node->listed;
		my $offset = -s $node->logfile;
		$node->hold_at($step);
		my $finish = $node->start_backup;
		$node->wait_held($step, $offset);
		my $id = $node->safe_psql('postgres', q{SELECT id FROM dr_backups WHERE status = 'running'});
		my ($agent) = $node->agents;
		my $worker = PgDr::Test::parent($agent);
		my $caller = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE query ~ '^SELECT dr_backup' AND backend_type = 'client backend'});
		ok($id && $agent && $worker && $caller, "$what: under way");
		$node->append_conf('postgresql.conf', "pg_dr.debug_hold_at = ''");
		$node->reload;

		$stop->($node, $id, $caller, $worker);
		my ($exit) = $finish->();
		isnt($exit, 0, "$what: dr_backup does not return an id");
		wait_until("$what: the child is gone", sub { process_gone($agent) });
		wait_until("$what: the worker is gone", sub { process_gone($worker) });
		$node->poll_query_until('postgres', "SELECT status <> 'running' FROM dr_backups WHERE id = '$id'");
		like($node->safe_psql('postgres', "SELECT status FROM dr_backups WHERE id = '$id'"), $status, "$what: the row says so");
		is_deeply([ $node->listed ], \@before, "$what: there is no such backup");

		# Out of backup mode: full-page writes are forced only while a backup runs, and the next one starts at once.
		is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_progress_basebackup}), 0, "$what: no backup in progress");
	}
}

# A statement timeout is a cancel like any other.
$node->hold_at('backup.scanned');
my ($exit, undef, $err) = $node->psql('postgres', q{SET statement_timeout = '1s'; SELECT dr_backup('full')});
isnt($exit, 0, 'statement_timeout ends dr_backup');
like($err, qr/statement timeout/, 'as the server says it');
$node->hold_at('');
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM dr_backups WHERE status = 'running'});

# wait => false: the session may go, the backup goes on.
my $id = $node->safe_psql('postgres', q{SELECT dr_backup('full', wait => false)});
$node->poll_query_until('postgres', "SELECT status NOT IN ('running', 'requested', 'starting') FROM dr_backups WHERE id = '$id'");
is_deeply([ grep { $_ eq $id } $node->listed ], [$id], 'wait => false: the backup is made without us');

# A smart shutdown waits for sessions, not for a backup that nobody waits for.
my $offset = -s $node->logfile;
$node->hold_at('backup.pack_stored');
$id = $node->safe_psql('postgres', q{SELECT dr_backup('full', wait => false)});
$node->wait_held('backup.pack_stored', $offset);
my ($agent) = $node->agents;
$node->append_conf('postgresql.conf', "pg_dr.debug_hold_at = ''");
$node->stop('smart');
wait_until('the child is gone', sub { process_gone($agent) });
$node->start;
$node->poll_query_until('postgres', "SELECT status <> 'running' FROM dr_backups WHERE id = '$id'");
like($node->safe_psql('postgres', "SELECT status FROM dr_backups WHERE id = '$id'"), qr/interrupted|failed|cancelled/, 'smart shutdown: the row says so');
is_deeply([ grep { $_ eq $id } $node->listed ], [], 'smart shutdown: there is no such backup');

# How far it is: to the one who waits, and to others.
my $megabytes = $node->safe_psql('postgres', 'SELECT sum(pg_database_size(oid)) / 1048576 FROM pg_database');
my $rate = int($megabytes / 7);
$node->append_conf('postgresql.conf', "pg_dr.max_rate = '${rate}MB'");
$node->reload;
$node->safe_psql('postgres', 'SELECT pg_sleep(0.5)');
my $began = time;
my $finish = $node->start_backup;
$node->poll_query_until('postgres', 'SELECT bytes_done > 0 AND bytes_total > bytes_done AND percent BETWEEN 1 AND 99 AND files_total > 0 FROM dr_progress');
pass('dr_progress shows bytes, files and percent while it runs');
my ($status, $out, $said) = $finish->();
is($status, 0, 'a throttled backup succeeds');
cmp_ok(time - $began, '>=', 5, 'and is as slow as pg_dr.max_rate says');
like($said, qr{NOTICE:  backup \S+: copying, \d+%, \d+ \w+ of \d+ \w+, \d+ \w+/s, \d+ s left}, 'the one who waits is told how far it is');
$node->append_conf('postgresql.conf', 'pg_dr.max_rate = 0');
$node->reload;
$node->safe_psql('postgres', 'SELECT pg_sleep(0.5)');

# Two at a time: the second is refused or waits; it never disturbs the first.
$offset = -s $node->logfile;
$node->hold_at('backup.pack_stored');
my $first = $node->start_backup;
$node->wait_held('backup.pack_stored', $offset);
$node->append_conf('postgresql.conf', "pg_dr.debug_hold_at = ''");
$node->reload;
($exit, undef, $err) = $node->psql('postgres', q{SELECT dr_backup('full')});
isnt($exit, 0, 'a second backup at the same time is refused');
like($err, qr/running|in progress/, 'and says why');
$node->safe_psql('postgres', q{SELECT dr_cancel(id) FROM dr_backups WHERE status = 'running'});
$first->();

# DROP EXTENSION, DROP DATABASE and CREATE DATABASE behave while one runs.
$node->safe_psql('postgres', 'CREATE DATABASE other');
$offset = -s $node->logfile;
$node->hold_at('backup.pack_stored');
$first = $node->start_backup;
$node->wait_held('backup.pack_stored', $offset);
$node->append_conf('postgresql.conf', "pg_dr.debug_hold_at = ''");
$node->reload;
my $timed_out = 0;
$node->psql('postgres', 'DROP DATABASE other', timeout => 20, timed_out => \$timed_out);
is($timed_out, 0, 'DROP DATABASE does not hang behind a backup');
$node->psql('postgres', 'CREATE DATABASE another', timeout => 20, timed_out => \$timed_out);
is($timed_out, 0, 'nor does CREATE DATABASE');
$node->safe_psql('postgres', q{SELECT dr_cancel(id) FROM dr_backups WHERE status = 'running'});
$first->();

$id = $node->full_backup;
my $sum = $node->checksums;
$node->wait_archived;
$node->destroy;
my $restored = $node->restored('restored');
is($restored->checksums, $sum, 'after all of that a backup restores');
$restored->sound;

done_testing();
