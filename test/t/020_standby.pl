# A standby that knows nothing but the repository: it follows seconds behind,
# promotes, and the old primary that comes back can't harm the new history.
# And the process that fetches ahead of recovery (wal_spool.c).
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use IPC::Run ();
use POSIX ();
use PgDr::Ledger;
use PgDr::Test qw(run_program wait_until flip process_gone pretend_recovery);
use Test::More;
use Time::HiRes qw(sleep time);

my $node = PgDr::Test->create('main', wal_segsize => 1, store => [ severable => 1 ], conf => "pg_dr.wal_ship_interval = 500ms\n");
my $ledger = PgDr::Ledger->new($node);
$node->full_backup;
$ledger->add(10);

# --- it follows
my $standby = $node->restored('standby', args => ['--standby'], wait => 0, conf => "fsync = on\n"); # only what is clean leaves the page cache
my $spool = $standby->data_dir . '/pg_wal/pg_dr.spool';
# The processes that work in a spool: the one that waits, and its child that fetches.
sub at_work
{
	my ($directory) = @_;
	my @there = grep { (readlink("/proc/$_/cwd") // '') eq $directory } map { m{(\d+)$} } glob '/proc/[0-9]*';
	my ($child) = grep { my $parent = PgDr::Test::parent($_); grep { $_ == $parent } @there } @there;
	return $child ? (PgDr::Test::parent($child), $child) : ();
}
sub follows { my ($n) = @_; return $standby->safe_psql('postgres', 'SELECT count(*) FROM ledger') >= $n }
wait_until('the standby has what the primary had', sub { follows(10) });
is($standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'a standby');
like($standby->safe_psql('postgres', 'SHOW restore_command'), qr{/pg_dr-wal-get' --repository .* --wait "%f" "%p"$}, 'by what is quick');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_wal_receiver'), 0, 'without a connection to its primary');
$ledger->add(5);
my $begin = time;
wait_until('the standby follows in the tail', sub { follows(15) }, 30);
note sprintf 'seen after %.1f s', time - $begin;
my $current = 'SELECT pg_walfile_name(pg_current_wal_lsn())';
my $before = $node->safe_psql('postgres', $current);
$node->safe_psql('postgres', 'CREATE TABLE bulk AS SELECT g, md5(g::text) FROM generate_series(1, 200000) g');
my $after = $node->safe_psql('postgres', $current);
$ledger->add(5);
wait_until('the standby follows over many segments', sub { follows(20) }, 60);
is($standby->safe_psql('postgres', 'SELECT count(*) FROM bulk'), 200000, 'and has what was in them');
like($standby->safe_psql('postgres', q{SELECT status, detail FROM dr_status WHERE concern = 'recovery'}), qr/^ok\|a standby that follows the repository/, 'dr_status says so');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM dr_recovery_windows'), 1, 'the views work there');
ok(-S "$spool/socket", 'a process fetches ahead');
SKIP:
{
	my $pg_wal = $standby->data_dir . '/pg_wal';
	my @replayed = map { "$pg_wal/$_" } grep { /^[0-9A-F]{24}$/ && $_ gt $before && $_ lt $after } slurp_dir($pg_wal);
	skip 'on tmpfs, which has no page cache to give back', 2 if `stat -f -c %T '$pg_wal'` =~ /^tmpfs/;
	cmp_ok(scalar @replayed, '>', 5, 'many segments were replayed');
	is(`fincore -b -n -o RES @replayed` =~ s/\s//gr, '0' x @replayed, 'and are not in the page cache any more');
}

# --- a store that is away is no end of WAL: the standby waits
$node->repository->away;
$standby->wait_for_log(qr/The standby waits for it/);
sleep 1;
is($standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'with the store away it stays a standby');
$node->repository->back;
$ledger->add(1);
wait_until('it follows again', sub { follows(21) }, 60);

# --- the process that fetches ahead dies: nothing is lost
my ($supervisor, $worker) = at_work($spool);
ok($worker, 'the process that fetches ahead works in its directory, below one that waits for it');
cmp_ok(slurp_file("/proc/$worker/oom_score_adj"), '>=', 500, 'and goes first when memory runs out');
kill 9, $worker;
$ledger->add(1);
wait_until('it follows without, or with another', sub { follows(22) }, 60);

# --- failover: the primary is lost, the standby has what the repository has, and is adopted
my $load = $ledger->start;
sleep 2;
$node->machine_dies;
$ledger->finish($load);
wait_until('everything that was shipped is replayed', sub {
		my $one = $standby->safe_psql('postgres', 'SELECT pg_last_wal_replay_lsn()');
		sleep 3;
		return $standby->safe_psql('postgres', 'SELECT pg_last_wal_replay_lsn()') eq $one }, 60);
$standby->promote;
wait_until('the process that fetches ahead goes when recovery ends', sub { !-e $spool }, 10);
my $missing = $ledger->missing($standby);
cmp_ok($ledger->{lost_seconds}, '<', 5, "promoted: $missing commits, of $ledger->{lost_seconds} s, were not in the repository");
$ledger->forget_missing($standby);
$ledger->add(3);
$standby->safe_psql('postgres', 'SELECT dr_adopt()');
$standby->wait_archived;
$standby->poll_query_until('postgres', q{SELECT state = 'streaming' FROM dr.tail()});
ok($standby->archived('00000002.history'), 'the new timeline is archived');

# --- the old primary comes back: it may not write, and what it writes for itself harms nobody
my $offset = -s $node->logfile;
$node->start;
$node->safe_psql('postgres', 'CREATE TABLE split_brain AS SELECT 1 AS a');
$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
$node->wait_for_log(qr/may not write to the repository.*dr_adopt/s, $offset);
pass('the old primary is told that another copy writes, and what to do');
$ledger->add(3);
$standby->wait_archived;
my $id = $standby->full_backup;
$node->stop;
for my $copy ($standby->restored('after'), $standby->restored('across', args => [ '--backup', ($standby->listed)[0] ]))
{
	is($ledger->missing($copy), 0, $copy->name . ': the new history is whole');
	is($copy->safe_psql('postgres', q{SELECT to_regclass('split_brain') IS NULL}), 't', $copy->name . ': and has nothing of the old primary');
	$copy->stop;
}
is($standby->safe_psql('postgres', 'SELECT count(*) FROM dr.timelines()'), 2, 'two timelines');
$standby->stop;

# --- a split brain: a copy made by the file system has the token, too.  Each name has one history,
# the loser is told, and what it has shipped of its own future is not taken for the winner's
my $one = PgDr::Test->create('one', wal_segsize => 1, conf => "pg_dr.wal_ship_interval = 200ms\n");
$one->full_backup;
$one->stop;
my $two = PgDr::Test->new('two');
@$two{qw(repository key_file system_identifier)} = (@$one{qw(repository key_file)}, undef);
system_or_bail('cp', '-a', $one->data_dir, $two->data_dir);
$two->own_address;
for my $brain ($one, $two)
{
	$brain->start;
	$brain->safe_psql('postgres', 'CREATE TABLE of_' . $brain->name . ' (a int)');
}
my $won = $one->wait_archived;
$offset = 0;
$two->safe_psql('postgres', q{SELECT pg_create_restore_point('x'), pg_switch_wal()});
$two->wait_for_log(qr/could not archive file "\Q$won\E".*already archived with other content.*Two servers write the same timeline/s);
pass('the loser is told what happened, and what to do');
for my $brain ($two, $one, $two)
{
	$brain->safe_psql('postgres', 'INSERT INTO of_' . $brain->name . ' SELECT generate_series(1, 100)');
	sleep 1;
}
like($two->safe_psql('postgres', q{SELECT status, detail FROM dr_status WHERE concern = 'archiving'}), qr/^critical.*(other content|has not written)/, 'dr_status says so');
$one->poll_query_until('postgres', "SELECT durable >= pg_current_wal_flush_lsn() FROM dr.tail()");
$_->stop('immediate') for $one, $two;
my $winner = $one->restored('winner');
is($winner->safe_psql('postgres', q{SELECT count(*), to_regclass('of_two') IS NULL FROM of_one}), '100|t', 'what comes back is the history of the one, to its end');
$winner->stop;

# --- whoever inherits it, as a server does that is the first process of a container, sees it end well
SKIP:
{
	my $prctl = { x86_64 => 157, aarch64 => 167 }->{ (POSIX::uname())[4] } or skip 'no number for prctl() here', 6;
	my $inherit = sub { syscall($prctl, 36, $_[0], 0, 0, 0) == 0 or die "prctl: $!" };	# PR_SET_CHILD_SUBREAPER
	my $server = $one->basedir . '/server';
	my @wal_get = ('wal-get', '--system-identifier', $one->system_identifier, $one->access, $won, pretend_recovery($server), { timeout => 60 });
	$inherit->(1);
	is((run_program(@wal_get))[0], 0, 'a segment, and a process that stays');
	$inherit->(0);
	($supervisor, $worker) = at_work("$server/pg_wal/pg_dr.spool");
	is(PgDr::Test::parent($supervisor), $$, 'is inherited');
	kill $_, $supervisor for qw(HUP INT QUIT TERM USR1 USR2 PIPE ALRM);
	kill 9, $worker;
	is(waitpid($supervisor, 0), $supervisor, 'the one that fetches dies by a signal');
	is($?, 0, 'the one that is inherited does not');
	ok(!-e "$server/pg_wal/pg_dr.spool", 'and cleans up');
	is((run_program(@wal_get))[0], 0, 'the next question is answered');
	unlink "$server/postmaster.pid";
}

# --- a file system that is mounted anew, or not yet
SKIP:
{
	skip 'this store is no directory', 5 unless $one->repository->is_directory;
	my $place = $one->repository->place;
	my $server = $one->basedir . '/mounted';
	my @wal_get = ('wal-get', '--system-identifier', $one->system_identifier, $one->access, '--wait', $won, pretend_recovery($server));
	is((run_program(@wal_get))[0], 0, 'a segment, and a process that stays');
	my @before = at_work("$server/pg_wal/pg_dr.spool");
	rename $place, "$place.old" or die $!;
	system_or_bail('cp', '-a', "$place.old", $place);
	is(eval { (run_program(@wal_get, { timeout => 60 }))[0] }, 0, 'the same directory, another file system: the next one');
	is_deeply([ at_work("$server/pg_wal/pg_dr.spool") ], \@before, 'by the same process, which knows what recovery asked for');
	unlink "$server/postmaster.pid";
	wait_until('it goes with its server', sub { !at_work("$server/pg_wal/pg_dr.spool") });
	rename $place, "$place.new" or die $!;
	my $err = '';
	my $run = IPC::Run::start([ 'pg_dr', @wal_get ], '<', \undef, '>', \my $out, '2>', \$err, IPC::Run::timeout(60));
	$run->pump until $err =~ /waits/ || !$run->pumpable;
	mkdir $place;
	sleep 3;
	rmdir $place;
	rename "$place.new", $place or die $!;
	$run->finish;
	is($?, 0, 'a directory that is not mounted yet, and an empty one: it waits');
	like($err, qr/could not open repository.*mount the file system.*The standby waits/s, 'and says why');
}

# --- the spool goes with its server
ok(!-e $spool, 'nothing is left of the spool');

done_testing();
