# Parallel archiving: a backlog drains several segments at once, each read once
# and stored once, acknowledged in the server's order; a death repeats work and
# loses nothing.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use IPC::Run ();
use PgDr::Test qw(run_program wait_until);
use Test::More;

my $node = PgDr::Test->create('main', wal_segsize => 1, conf => "pg_dr.wal_ship_interval = 0\npg_dr.jobs = 4\n");
my $status = $node->data_dir . '/pg_wal/archive_status';
$node->safe_psql('postgres', 'CREATE TABLE t (a int, b text)');
$node->full_backup;

sub ready { return grep { s/\.ready$// } slurp_dir($status) }

# A backlog of so many segments, written while the archiver stands still; their names.
sub backlog
{
	my ($segments) = @_;
	kill 'STOP', $node->archiver;
	while (ready() < $segments)
	{
		$node->safe_psql('postgres', q{INSERT INTO t SELECT g, repeat(md5(g::text), 10) FROM generate_series(1, 10000) g});
	}
	return sort(grep { /^[0-9A-F]{24}$/ } ready());	# the last backup's history file may be among them
}

# The archiver goes on, and looks at once.
sub go_on
{
	kill 'CONT', $node->archiver;
	kill 'HUP', $node->archiver;
	return;
}

# --- each once: one read of a file, no segment opened twice, one object each
my @names = backlog(60);
my $agent = $node->archiver_agent;
my $trace = $node->basedir . '/trace';
SKIP:
{
	skip 'strace is not installed', 2 if system('which strace >/dev/null 2>&1') != 0;
	my $strace = IPC::Run::start([ 'strace', '-f', '-qq', '-e', 'trace=openat,execve', '-o', $trace, '-p', $agent ],
		'>', \my $out, '2>', \my $err);
	sleep 1;
	if (!-s $trace && $err && $err =~ /not permitted/i) { $strace->kill_kill; go_on(); skip 'strace may not attach', 2 }
	go_on();
	wait_until('the backlog is gone', sub { ready() == 0 });
	$strace->kill_kill;
	my $calls = slurp_file($trace);
	my %opened;
	$opened{$1}++ while $calls =~ m{openat\([^"]*"[^"]*/pg_wal/([0-9A-F]{24})"}g;
	is_deeply([ grep { ($opened{$_} // 0) != 1 } @names ], [], 'every segment was opened once');
	unlike($calls, qr/execve/, 'nothing was executed');
}
go_on();
wait_until('the backlog is gone', sub { ready() == 0 });
is_deeply([ grep { !$node->archived($_) } @names ], [], 'every segment is in the repository');

# --- in the server's order, history files first (what an inventory has seen first has no time yet)
my @log = $node->safe_psql('postgres', "SELECT file FROM dr_wal_files WHERE file ~ '^[0-9A-F]{24}\$' AND archived_at IS NOT NULL ORDER BY archived_at");
is_deeply([ split /\n/, $log[0] ], [ sort(split /\n/, $log[0]) ], 'acknowledged in order');

# --- a death in the middle: the child, the machine (006_archive.pl: the archiver)
for my $victim (qw(child machine))
{
	@names = backlog(40);
	my $sum = $node->checksums;
	go_on();
	my $want = 20;
	wait_until('some are archived', sub { ready() < $want + 15 });
	if ($victim eq 'child') { kill 9, $node->archiver_agent // 0 }
	else { $node->machine_dies; $node->start; $node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') }
	wait_until("$victim: the backlog is gone", sub { $node->raw_connect_works && ready() == 0 });
	is_deeply([ grep { !$node->archived($_) } @names ], [], "$victim: every segment is in the repository");
	$node->wait_archived;
	my $copy = $node->restored("copy_$victim");
	is($copy->checksums, $sum, "$victim: which bring everything back");
	$copy->teardown_node;
}

# --- a crash that leaves later ones without an earlier one: recovery ends there, and says nothing else;
# but a hole that had been acknowledged is damage
$node->safe_psql('postgres', 'INSERT INTO t SELECT g FROM generate_series(1, 50000) g');
my $last = $node->wait_archived;
wait_until('the end is noted', sub { $node->archived("$last.frontier") });
$node->stop;
my @all = sort map { m{/([0-9A-F]{24})$} ? $1 : () } $node->objects(qr{/wal/});
my ($hole) = $all[-2];
my $object = $node->wal_object($hole);
my $bytes = $node->repository->read($object);
$node->repository->remove($object);
my ($copy, $exit, undef, $err) = $node->try_restore('noted');
isnt($exit, 0, 'a hole before a note: refused');
like($err, qr/\Q$hole\E.*missing/, 'and named');
$node->repository->remove($_) for grep { m{([0-9A-F]{24})\.frontier$} && $1 ge $hole } $node->objects(qr{/wal/});
($exit) = run_program('wal-get', '--system-identifier', $node->system_identifier, $node->access, $hole, $node->basedir . '/w');
is($exit, 1, 'without a note it never came: recovery may end there');
($copy, $exit, undef, $err) = $node->try_restore('never');
is($exit, 0, 'and a restore plans so') or diag $err;
$node->repository->write($object, $bytes);
($exit) = run_program('wal-get', '--system-identifier', $node->system_identifier, $node->access, $hole, $node->basedir . '/w');
is($exit, 0, 'it is there again');

done_testing();
