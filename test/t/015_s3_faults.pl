# Bad weather: a store whose server fails now and then, behind a network that
# drops connections, stalls, and goes away for a while.  Backup, archiving and
# restore get through without help, or fail clearly and lose nothing.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use PgDr::S3;
use PgDr::Test qw(campaign run_program wait_until);
use PostgreSQL::Test::Utils ();
use Test::More;
use Time::HiRes qw(time usleep);

my $OUTAGE = campaign() ? 60 : 4;
my $LONG_OUTAGE = campaign() ? 600 : 15;
my @long = campaign() ? () : (retry => 5);

my $s3 = PgDr::S3->scripted;
my $proxy = $s3->proxy;

my @weather = (
	{ key => '.', share => 0.025, status => 503, code => 'SlowDown' },
	{ share => 0.025, status => 500, code => 'InternalError' });

# Rows that do not compress, so that there are packs to lose; and some that change.
sub cluster
{
	my ($name, @parameters) = @_;
	my $node = PgDr::Test->create($name, repository => $s3->repository($name, $proxy, @parameters), conf => "checkpoint_timeout = 1h\n");
	$node->safe_psql('postgres', q{
		CREATE TABLE noise AS SELECT g AS id, (SELECT string_agg(sha256((g * 100 + i)::text::bytea), '') FROM generate_series(1, 60) i) AS bytes
			FROM generate_series(1, 50000) g;
		ALTER TABLE noise ALTER bytes SET STORAGE EXTERNAL;
		CREATE TABLE ledger (at timestamptz DEFAULT clock_timestamp(), amount int);
		CHECKPOINT});
	return $node;
}

sub everything_once
{
	my ($node, @ids) = @_;
	my $system = $node->system_identifier;
	my %known = map { $_ => 1 } @ids;
	is_deeply([ grep { m{^\d+/backup/([^/]+)/} && !$known{$1} } $node->repository->objects ], [], 'nothing is left of anything but the backups');
	is_deeply([ grep { $_->{state} !~ /^completed/ } $node->listing ], [], 'which are complete');
	return;
}

# ---- now and then

{
	my $node = cluster('weather', retry => 300, stall => 5);
	$s3->rules(@weather);
	$proxy->tell('reset 0.02');
	my $finish = $node->start_backup;
	for my $second (1 .. 3)
	{
		$node->safe_psql('postgres', 'INSERT INTO ledger (amount) SELECT g FROM generate_series(1, 1000) g; SELECT pg_switch_wal()');
		$proxy->tell('outage refuse') if $second == 1;
		usleep(300_000);
	}
	sleep $OUTAGE;
	$proxy->tell('outage none');
	my ($exit, $id, $err) = $finish->();
	chomp $id;
	is($exit, 0, "a backup gets through 5% errors, 2% resets and an outage of $OUTAGE s") or diag $err;
	$node->safe_psql('postgres', 'INSERT INTO ledger (amount) SELECT g FROM generate_series(1, 1000) g');
	my $before = $node->checksums;
	$node->wait_archived;
	pass('archiving catches up');
	everything_once($node, $id);
	$node->destroy;
	my $restored = $node->restored('weathered');
	is($restored->checksums, $before, 'and what was archived is restored, in the same weather');
	$restored->stop;
	is(scalar(grep { $_->[2] =~ /uploads|uploadId/ } $s3->requests('PUT|POST')), 0, 'no multipart upload was ever begun');
	$s3->rules();
	$proxy->tell('reset 0');
	note $proxy->tell('count');
}

# ---- for long

{
	my $node = cluster('outage', stall => 2, @long);
	my $first = $node->full_backup;
	my $finish = $node->start_backup;
	usleep(500_000);
	$proxy->tell('outage refuse');
	my $start = time();
	$node->safe_psql('postgres', 'INSERT INTO ledger (amount) VALUES (1); SELECT pg_switch_wal(); INSERT INTO ledger (amount) VALUES (2); SELECT pg_switch_wal()');
	my ($exit, undef, $err) = $finish->();
	if ($exit == 0)
	{
		# It was faster than the outage; the next one isn't.
		($exit, undef, $err) = $node->start_backup->();
	}
	isnt($exit, 0, "an outage of $LONG_OUTAGE s fails the backup");
	like($err, qr/could not \w+ (object|repository)/, 'which says what failed');
	like($err, qr/HINT/, 'and what to do');
	sleep $LONG_OUTAGE - (time() - $start) if time() - $start < $LONG_OUTAGE;
	cmp_ok(scalar(glob_ready($node)), '>=', 2, 'pg_wal keeps what could not be archived');
	like($node->safe_psql('postgres', "SELECT status || detail FROM dr_status WHERE concern = 'archiving'"), qr/^critical.*failed/s, 'dr_status says so');
	$proxy->tell('outage none');
	my $second = $node->full_backup;
	my $before = $node->checksums;
	$node->wait_archived;
	is(scalar(glob_ready($node)), 0, 'everything is archived afterwards');
	$node->destroy;
	is($node->restored('after')->checksums, $before, 'and restores');
	ok((grep { $_ eq $second } $node->listed) && (grep { $_ eq $first } $node->listed), 'the earlier backup is still there');
}

sub glob_ready { my ($node) = @_; my @ready = glob $node->data_dir . '/pg_wal/archive_status/*.ready'; return @ready }

# ---- nobody waits for the network who wants to go

{
	my $node = cluster('hanging', retry => 300, stall => 20);
	my $finish = $node->start_backup;
	wait_until('it copies', sub { $node->safe_psql('postgres', 'SELECT count(*) FROM dr_progress WHERE bytes_done > 0') });
	$proxy->tell('outage blackhole');
	usleep(500_000);
	my $id = $node->safe_psql('postgres', 'SELECT backup FROM dr_progress');
	my $start = time();
	if ($id ne '')
	{
		$node->safe_psql('postgres', "SELECT dr_cancel('$id')");
		my ($exit) = $finish->();
		isnt($exit, 0, 'a cancelled backup ends while the network hangs');
		cmp_ok(time() - $start, '<', 20, 'soon');
	}
	else { $finish->(); note 'it was faster' }
	$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
	$start = time();
	PostgreSQL::Test::Utils::system_or_bail('pg_ctl', '-s', '-w', '-t', '120', '-m', 'fast', '-D', $node->data_dir, 'stop');
	cmp_ok(time() - $start, '<', 60, 'and so does the server');
	$node->{_pid} = undef;
	$proxy->tell('outage none');
	$node->start;
	$node->wait_archived;
	pass('afterwards it archives');
	$node->stop;
}

# ---- at a chosen byte

{
	# What does not compress, and is longer than a socket's buffers want to hide.
	my $noise = join '', map { pack 'L', int rand 2**32 } 1 .. 100_000;
	my $n = 10;
	my $url = $proxy->url('bytes', retry => 12, stall => 2);
	is(($proxy->agent($url))[-1]{event}, 'done', 'repository made');
	for my $direction ('up', 'down')
	{
		for my $at (0, 1, 150, 300_000)
		{
			next if $at > 1000 && $direction eq 'down';    # replies are short here
			for my $what ('reset', 'stall', 'half', 'trickle')
			{
				next if $what eq 'trickle' && $at > 0;
				my $name = sprintf '%08X.history', ++$n;
				PgDr::S3::file("data/pg_wal/$name", $noise);
				my @all = $proxy->tell("at $direction 100000000 reset 0");
				my $start = time();
				$proxy->tell("at $direction $at $what 1");
				my @events = $proxy->agent($url, { op => 'archive', name => $name });
				is($events[-1]{event}, 'done', "$what after $at bytes $direction: tried again") or diag PgDr::S3::error_of($events[-1]);
				cmp_ok(time() - $start, '<', 30, "$what after $at bytes $direction: in time");
			}
		}
	}
}

done_testing();
