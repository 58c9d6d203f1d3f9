# Point-in-time recovery: each kind of target, each action, each bad target.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test qw(wait_until);
use Test::More;

my $node = PgDr::Test->create('main', wal_segsize => 1);
$node->safe_psql('postgres', 'CREATE TABLE t (a int, at timestamptz DEFAULT clock_timestamp())');
my $early = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
$node->safe_psql('postgres', 'INSERT INTO t VALUES (0)');
my $id = $node->full_backup;

# Row n is written, then the moment after it is noted in every way there is.
my (%time, %lsn, %xid);
for my $n (1 .. 4)
{
	$xid{$n} = $node->safe_psql('postgres', "BEGIN; INSERT INTO t VALUES ($n); SELECT pg_current_xact_id(); COMMIT");
	$lsn{$n} = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
	$node->safe_psql('postgres', "SELECT pg_create_restore_point('after $n')");
	select undef, undef, undef, 0.05;
	$time{$n} = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
	select undef, undef, undef, 0.05;
}
$node->wait_archived;
my $ahead = $node->safe_psql('postgres', "SELECT pg_current_wal_lsn() + 16777216::numeric");
my $gone_xid = $xid{4} + 1000;
$node->destroy;

my $count = 0;

sub rows
{
	return $_[0]->safe_psql('postgres', q{SELECT string_agg(a::text, ' ' ORDER BY a) FROM t});
}

# [what, arguments, rows that are then there]
for my $case (
	[ 'end', [], '0 1 2 3 4' ],
	[ 'time', [ '--target-time', $time{2} ], '0 1 2' ],
	[ 'lsn', [ '--target-lsn', $lsn{3} ], '0 1 2 3' ],
	[ 'xid', [ '--target-xid', $xid{1} ], '0 1' ],
	[ 'name', [ '--target-name', 'after 2' ], '0 1 2' ],
	[ 'immediate', ['--target-immediate'], '0' ])
{
	my ($what, $arguments, $expected) = @$case;
	my $restored = $node->restored('to_' . $what, args => [ '--backup', $id, @$arguments, @$arguments ? ('--target-action', 'promote') : () ]);
	is(rows($restored), $expected, "target $what: the rows of that moment");
	ok(-e $restored->data_dir . '/pg_wal', "target $what: promoted") if $restored->safe_psql('postgres', 'SELECT NOT pg_is_in_recovery()') eq 't';
	$restored->stop;
}

# Actions.
my $paused = $node->restored('paused', args => [ '--target-lsn', $lsn{2}, '--target-action', 'pause' ], wait => 0);
$paused->poll_query_until('postgres', q{SELECT pg_get_wal_replay_pause_state() = 'paused'});
is(rows($paused), '0 1 2', 'pause: readable at the target');
$paused->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
$paused->wait_recovered;
is(rows($paused), '0 1 2', 'pause: resumed, it is promoted there');
$paused->stop;

my $shut = $node->restored('shut', args => [ '--target-lsn', $lsn{1}, '--target-action', 'shutdown' ], start => 0);
like($shut->start_fails, qr/shutdown at recovery target/, 'shutdown: the server stops at the target');

my $standby = $node->restored('standby', args => ['--standby'], wait => 0);
$standby->poll_query_until('postgres', q{SELECT count(*) = 5 FROM t});
is($standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'standby: stays in recovery');
$standby->stop;

# Targets that are refused before a byte is written.  [arguments, message]
for my $case (
	[ [ '--target-time', 'yesterday-ish' ], qr/yesterday-ish/ ],
	[ [ '--target-time', '2026-13-01 00:00:00+00' ], qr/2026-13-01/ ],
	[ [ '--target-time', '2026-01-01 13am' ], qr/13am/ ],
	[ [ '--target-time', 'infinity' ], qr/infinity/ ],
	[ [ '--target-time', '' ], qr/time/ ],
	[ [ '--target-time', $early ], qr/no backup is old enough/ ],
	[ [ '--target-lsn', '0' ], qr/"0" is not a WAL location/ ],
	[ [ '--target-lsn', '0/zz' ], qr/zz/ ],
	[ [ '--target-lsn', '0/100' ], qr/no backup is old enough/ ],
	[ [ '--target-xid', 'ten' ], qr/ten/ ],
	[ [ '--target-name', '' ], qr/restore point's name/ ],
	[ [ '--target-name', 'x' x 64 ], qr/restore point's name/ ],
	[ [ '--target-timeline', '9' ], qr/00000009\.history.* does not exist/ ],
	[ [ '--target-timeline', 'soon' ], qr/"soon" is not a timeline/ ],
	[ [ '--target-lsn', $lsn{1}, '--target-xid', $xid{1} ], qr/only one recovery target/ ],
	[ [ '--target-time', $time{1} =~ s/\+.*//r ], qr/zone/ ],
	[ [ '--target-immediate', '--target-action', 'explode' ], qr/explode/ ],
	[ [ '--target-action', 'promote' ], qr/needs a recovery target/ ])
{
	my ($arguments, $message) = @$case;
	my ($refused, $exit, undef, $err) = $node->try_restore('refused' . ++$count, @$arguments);
	isnt($exit, 0, "refused: @$arguments");
	like($err, $message, 'and says why');
	ok(!-e $refused->data_dir . '/global', 'and nothing is written');
}

# Targets that nobody can know to be wrong: the server must not promote short of them.
for my $case (
	[ 'lsn', [ '--target-lsn', $ahead ] ],
	[ 'xid', [ '--target-xid', $gone_xid ] ],
	[ 'name', [ '--target-name', 'never made' ] ],
	[ 'time', [ '--target-time', '2100-01-01 00:00:00+00' ] ])
{
	my ($what, $arguments) = @$case;
	my ($short, $exit, undef, $err) = $node->try_restore('short_' . $what, @$arguments);
	if ($exit != 0)
	{
		like($err, qr/can't be reached|lies after the archived WAL/, "a $what beyond the archive is refused at once");
		next;
	}
	$short->own_address;
	like($short->start_fails, qr/recovery ended before configured recovery target was reached/, "a $what beyond the archive is not called success");
}

done_testing();
