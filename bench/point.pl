# bench/point's runs, with the tests' own cluster and ledger.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Ledger;
use PgDr::Test;
use Test::More;
use Time::HiRes qw(sleep time);

$| = 1;
my ($runs, $clients) = @ENV{qw(RUNS CLIENTS)};
my $node = PgDr::Test->create('main', wal_segsize => $ENV{SEGMENT}, conf => <<"END");
pg_dr.wal_ship_interval = $ENV{INTERVAL}
synchronous_standby_names = '$ENV{SYNCHRONOUS}'
max_wal_size = 1GB
autovacuum = off
END
my $ledger = PgDr::Ledger->new($node);
$node->full_backup;
$node->poll_query_until('postgres', q{SELECT state = 'streaming' FROM dr.tail()});

sub say_line { note "@_"; return }

# Stored in a minute: pieces are removed again, so the tail itself counts them.
sub rate
{
	my ($what, $seconds) = @_;
	my $query = q{SELECT (SELECT pieces FROM dr.tail()) + (SELECT archived_count FROM pg_stat_archiver)};
	my $before = $node->safe_psql('postgres', $query);
	sleep $seconds;
	my $n = $node->safe_psql('postgres', $query) - $before;
	say_line(sprintf '%s: %d pieces and segments in %d s, %d PUT an hour', $what, $n, $seconds, $n * 3600 / $seconds);
	return;
}
my $minute = $ENV{SECONDS_OF_RATES};
sleep 5;
rate('idle', $minute);
my $load = $ledger->start($clients, 400_000);
rate("$clients clients commit all the time", $minute);
$node->stop('immediate');
my $n = $ledger->finish($load);
say_line(sprintf '%d commits acknowledged, %d a second', $n, $n / $minute);

my (@lost, @seconds);
for my $run (1 .. $runs)
{
	$node->start;
	$ledger->reset;
	$node->poll_query_until('postgres', q{SELECT state = 'streaming' AND durable IS NOT NULL FROM dr.tail()});
	my $id = $run % 10 == 1 ? $node->full_backup : '';
	my $load = $ledger->start($clients);
	sleep 1.5 + rand 2;
	$node->machine_dies;
	my $acknowledged = $ledger->finish($load);
	my $copy = $node->restored("copy_$run", conf => "synchronous_standby_names = ''\n");
	push @lost, $ledger->missing($copy);
	push @seconds, $ledger->{lost_seconds};
	say_line(sprintf 'run %d: %d acknowledged, %d missing, %.3f s', $run, $acknowledged, $lost[-1], $seconds[-1]);
	$copy->stop('immediate');
	File::Path::rmtree($copy->data_dir);
}
@lost = sort { $a <=> $b } @lost;
@seconds = sort { $a <=> $b } @seconds;
sub quantile { my ($p, @v) = @_; return $v[ int($p * $#v + 0.5) ] }
say_line(sprintf 'seconds of acknowledged commits missing: p50 %.3f, p90 %.3f, p99 %.3f, most %.3f', map { quantile($_, @seconds) } 0.5, 0.9, 0.99, 1);
say_line(sprintf 'commits missing: p50 %d, p90 %d, p99 %d, most %d', map { quantile($_, @lost) } 0.5, 0.9, 0.99, 1);
$node->stop('immediate') if -e $node->data_dir . '/postmaster.pid';
done_testing();
