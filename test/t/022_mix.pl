# A random mix of what a cluster goes through: load, checkpoints, switches,
# crashes, backups, failovers to restored copies and to standbys, restores to
# points noted on the way.  Nothing that was acknowledged and shipped is ever missing.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Ledger;
use PgDr::Test qw(campaign random_seed wait_until);
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = random_seed();
my ($node, $ledger, @points, $copies, $generation);

sub shipped
{
	my $lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
	$node->poll_query_until('postgres', "SELECT durable >= '$lsn' FROM dr.tail()") or die 'the tail is not shipped';
	return;
}

sub load
{
	my $load = $ledger->start;
	sleep 0.2 + rand 0.8;
	kill 'TERM', $load->{pid};
	$ledger->finish($load);
	# A commit may have been acknowledged to nobody: it is there all the same.
	return;
}

sub crash { $node->machine_dies; $node->start; is($ledger->missing($node), 0, 'a crash restart loses nothing'); return }
sub restart { $node->restart; return }
sub backup { $node->full_backup; return }
sub sql { my ($sql) = @_; return sub { $node->safe_psql('postgres', $sql); return } }

# Somewhere to come back to: by location, time, transaction or name.
sub point
{
	my $name = 'point_' . @points . "_$generation";
	$ledger->add(1);
	my ($xid, $n) = split /\|/, $node->safe_psql('postgres', 'INSERT INTO ledger (n) VALUES (' . -(1 + @points + 1000 * $generation) . ') RETURNING pg_current_xact_id(), n');
	sleep 0.01;
	my $time = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
	sleep 0.01;
	my $count = $node->safe_psql('postgres', 'SELECT count(*) FROM ledger');
	$node->safe_psql('postgres', "SELECT pg_create_restore_point('$name')");
	my $lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
	$ledger->add(1);	# there is something behind it
	push @points, { 'target-name' => $name, 'target-time' => $time, 'target-lsn' => $lsn, 'target-xid' => $xid,
		count => $count, generation => $generation, had => { map { $_ => 1 } $node->listed } };
	return;
}

sub copy
{
	my (@arguments) = @_;
	my $name = 'copy_' . ++$copies;
	return $node->restored($name, args => \@arguments, wait => !grep { $_ eq '--standby' } @arguments);
}

sub restore
{
	shipped();
	my $copy = copy();
	is($ledger->missing($copy), 0, 'a restore has everything');
	$copy->teardown_node;
	return;
}

sub recover_to_point
{
	my ($point) = @_;
	$point //= $points[ rand @points ] // return;
	shipped();
	my ($kind) = (qw(target-name target-time target-lsn target-xid))[ rand 4 ];
	# A backup from before it; the newest one may lie behind a name or a transaction.
	my @backups = grep { $point->{had}{$_} } $node->listed;
	my $copy = copy("--$kind", $point->{$kind}, '--target-action', 'promote', $kind =~ /name|xid/ ? ('--backup', $backups[ rand @backups ]) : ());
	is($copy->safe_psql('postgres', 'SELECT count(*) FROM ledger'), $point->{count}, "recovered to $kind $point->{$kind} of timeline $point->{generation}");
	$copy->teardown_node;
	return;
}

# The next primary is a copy; what the old one had not shipped is gone for good.
sub take_over
{
	my ($next) = @_;
	$next->safe_psql('postgres', 'SELECT dr_adopt()');
	my $missing = $ledger->missing($next);
	cmp_ok($ledger->{lost_seconds}, '<', 5, "failover: $missing commits of $ledger->{lost_seconds} s were not shipped");
	$ledger->forget_missing($next);
	my $end = $next->safe_psql('postgres', 'SELECT max(ends) FROM dr.timelines()');
	@points = grep { $next->safe_psql('postgres', "SELECT '$_->{'target-lsn'}'::pg_lsn < '$end'::pg_lsn") eq 't' } @points;
	$node = $next;
	$generation++;
	$node->poll_query_until('postgres', q{SELECT state = 'streaming' FROM dr.tail()});
	shipped();	# a timeline of which nothing is in the repository can't be restored
	return;
}

sub failover_to_copy
{
	my $load = $ledger->start;
	sleep 0.5 + rand;
	$node->system_identifier;
	$node->machine_dies;
	$ledger->finish($load);
	take_over(copy());
	return;
}

sub failover_to_standby
{
	my $standby = copy('--standby');
	my $load = $ledger->start;
	sleep 0.5 + rand 2;
	$node->system_identifier;
	$node->machine_dies;
	$ledger->finish($load);
	wait_until('the standby has everything', sub {
			my $one = $standby->safe_psql('postgres', 'SELECT pg_last_wal_replay_lsn()');
			sleep 3;
			return $standby->safe_psql('postgres', 'SELECT pg_last_wal_replay_lsn()') eq $one });
	$standby->promote;
	take_over($standby);
	return;
}

my @actions = (
	[ 4, load => \&load ], [ 2, checkpoint => sql('CHECKPOINT') ], [ 3, switch => sql('SELECT pg_switch_wal()') ],
	[ 2, crash => \&crash ], [ 1, restart => \&restart ], [ 1, backup => \&backup ], [ 3, point => \&point ],
	[ 2, restore => \&restore ], [ 2, recover => \&recover_to_point ],
	[ 1, 'failover to a copy' => \&failover_to_copy ], [ 1, 'failover to a standby' => \&failover_to_standby ]);
my @weighted = map { my $action = $_; ($action) x $action->[0] } @actions;

for my $run (1 .. (campaign() ? 20 : 1))
{
	srand($seed + $run);
	($generation, @points) = (1);
	$node = PgDr::Test->create("main_$run", wal_segsize => (1, 1, 16)[ rand 3 ], conf => "pg_dr.wal_ship_interval = 300ms\nrestart_after_crash = on\n");
	$ledger = PgDr::Ledger->new($node);
	$node->full_backup;
	point();
	for my $step (1 .. 12)
	{
		my $action = $weighted[ rand @weighted ];
		note "run $run (seed $seed), step $step: $action->[1]";
		$action->[2]->();
		$node->poll_query_until('postgres', q{SELECT state = 'streaming' FROM dr.tail()});
	}
	# Always: both kinds of failover, and points on both sides of them.
	failover_to_copy() if $generation < 2;
	point();
	failover_to_standby();
	load();
	recover_to_point($_) for @points;
	restore();
	is($node->safe_psql('postgres', 'SELECT count(*) FROM dr_sync()') >= 0, 1, 'the inventory');
	is($node->safe_psql('postgres', 'SELECT bool_and(latest_lsn IS NOT NULL) FROM dr_recovery_windows'), 't', 'every backup has its window');
	$node->stop('immediate');
}

done_testing();
