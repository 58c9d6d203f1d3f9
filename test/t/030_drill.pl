# Drills: what they measure and find, that their verdict can fail and says why, that a sandbox
# reaches nobody, and that nothing is left of it, however it ends (Z1 to Z7).
use strict;
use warnings;
use FindBin;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Ledger;
use PgDr::Test qw(run_program wait_until campaign random_seed process_gone);
use Test::More;
use Time::HiRes qw(usleep time);

my @steps = slurp_file("$FindBin::Bin/../../src/protocol.h") =~ /^\s*X\("(drill\.[a-z._]+)",/mg;
ok(@steps >= 9, "the steps are known: @steps");

my $node = PgDr::Test->create('main', wal_segsize => 1, conf => "restart_after_crash = on\nmax_prepared_transactions = 5\n");
my $top = $node->basedir;
my $drills = "$top/drills";
my $traps = "$top/traps";
mkdir $_, 0700 or die $! for $drills, $traps, "$top/space";
sub sql { return $node->safe_psql('postgres', $_[0]) }

sub configure
{
	my ($lines) = @_;
	$node->append_conf('postgresql.conf', $lines);
	$node->reload;
	usleep(300_000);
	return;
}

# dr_drill() with these arguments: its row.
sub drill
{
	my ($arguments) = @_;
	my $row = JSON::PP::decode_json(sql('SELECT to_jsonb(d) FROM dr_drill(' . ($arguments // '') . ') AS d'));
	note "$row->{id}: $row->{status} " . ($row->{error} // '');
	return $row;
}
sub verdicts { my ($row) = @_; return map { $_->{name} => $_->{verdict} } @{ $row->{checks} } }
sub error_of { my ($statement) = @_; my (undef, undef, $err) = $node->psql('postgres', $statement); return $err }

# --- before there can be one
sql('CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 20000) g; CREATE INDEX ON t (g)');
like(error_of('SELECT dr_drill()'), qr/no directory for drills is configured.*HINT:.*pg_dr\.drill_directory/s, 'a drill wants a directory');
is(sql(q{SELECT status, detail, hint FROM dr_status WHERE concern = 'drill'}),
	'warning|no backup has been restored to try it|Set pg_dr.drill_directory and call dr_drill().', 'dr_status says that there was none');
configure("pg_dr.drill_directory = '$drills'");
for my $case (
	[ q{scenario => 'second_repository'}, qr/needs a second repository/ ],
	[ q{scenario => 'elsewhere'}, qr/not a scenario/ ],
	[ q{target_time => 'infinity'}, qr/no moment/ ],
	[ q{keep => NULL}, qr/may be null/ ])
{
	like(error_of("SELECT dr_drill($case->[0])"), $case->[1], "dr_drill($case->[0]) is refused");
}
like(error_of('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT dr_drill()'), qr/isolation level "repeatable read"/, 'an old snapshot would not see the row');
is(drill()->{status}, 'failed', 'without a backup a drill fails');
like(sql('SELECT error FROM dr_drills'), qr/no complete backup|holds no cluster|nothing of cluster/, 'and says so');

# --- a configuration that is full of traps, and a server that is somebody's subscriber
my $publisher = PostgreSQL::Test::Cluster->new('publisher');
$publisher->init(allows_streaming => 'logical');
$publisher->start;
$publisher->safe_psql('postgres', 'CREATE TABLE feed (a int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE feed');
sql('CREATE TABLE feed (a int PRIMARY KEY)');
sql('CREATE SUBSCRIPTION s CONNECTION $$' . $publisher->connstr('postgres') . '$$ PUBLICATION p');
$node->wait_for_subscription_sync($publisher, 's');
$node->append_conf('postgresql.conf', <<"END");
archive_cleanup_command = 'touch $traps/archive_cleanup_command'
recovery_end_command = 'touch $traps/recovery_end_command'
external_pid_file = '$traps/pid'
shared_buffers = 64MB
hot_standby = on
data_directory = '@{[ $node->data_dir ]}'
END
$node->restart;
sql('ALTER DATABASE template1 ALLOW_CONNECTIONS false');
my $pid_file = slurp_file("$traps/pid");
sql(q{ALTER SYSTEM SET recovery_end_command = 'touch } . "$traps/auto'");
sql(q{ALTER SYSTEM SET recovery_min_apply_delay = 0});
sql(q{CREATE DATABASE "a trap"});
$node->safe_psql('a trap', 'CREATE TABLE u AS SELECT 1 AS a');
sql(q{ALTER DATABASE "a trap" SET session_preload_libraries = 'no_such_library'});
sql("CREATE TABLESPACE space LOCATION '$top/space'; CREATE TABLE in_space TABLESPACE space AS SELECT g FROM generate_series(1, 1000) g");
sql(q{BEGIN; INSERT INTO t VALUES (-1, 'prepared'); PREPARE TRANSACTION 'x'});
my $backup = $node->full_backup;

# What the sandbox says of itself.
my %settings = (
	listen_addresses => '', archive_mode => 'off', shared_preload_libraries => '', session_preload_libraries => '',
	local_preload_libraries => '', max_logical_replication_workers => '0', primary_conninfo => '', primary_slot_name => '',
	max_wal_senders => '0', autovacuum => 'off', jit => 'off', ssl => 'off', logging_collector => 'off', archive_cleanup_command => '',
	recovery_end_command => '', archive_library => '', synchronous_standby_names => '', 'pg_dr.repositories' => '',
	dynamic_shared_memory_type => 'mmap', unix_socket_directories => '../socket', port => '65432');
$settings{archive_command} = '(disabled)';
while (my ($name, $value) = each %settings)
{
	sql("INSERT INTO dr.drill_check VALUES ('setting $name', 'postgres', 'SHOW $name', '$value')");
}
sql(q{INSERT INTO dr.drill_check VALUES
	('in a database with traps', 'a trap', 'SELECT a FROM u', '1'),
	('prepared', 'postgres', 'SELECT gid FROM pg_prepared_xacts', 'x'),
	('tablespace', 'postgres', 'SELECT pg_tablespace_location(oid) ~ ''/pg_dr_drill_[^/]+/tablespaces/\d+$'' FROM pg_tablespace WHERE spcname = ''space''', 'true'),
	('subscription', 'postgres', 'SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL', '0'),
	('rows', 'postgres', 'SELECT count(*) >= 20000 FROM t', 'true'),
	('null', 'postgres', 'SELECT NULL', NULL),
	('memory', 'postgres', 'SELECT pg_size_bytes(current_setting(''shared_buffers'')) <= 32 * 1024 * 1024', 'true'),
	('not asked', 'postgres', 'SELECT 1', '2'),
	('not of this', 'postgres', 'SELECT 1', '2')});
sql(q{UPDATE dr.drill_check SET expected = 't' WHERE expected = 'true'});
sql(q{UPDATE dr.drill_check SET enabled = false WHERE name = 'not asked'});
sql(q{UPDATE dr.drill_check SET scenario = 'point_in_time' WHERE name = 'not of this'});
configure('pg_dr.drill_memory = 64MB');

# --- a live cluster, written to all the time
my $ledger = PgDr::Ledger->new($node);
my $load = $ledger->start(2);
wait_until('there is load', sub { sql('SELECT count(*) FROM ledger') > 100 });
my $slot = $publisher->safe_psql('postgres', 'SELECT active_pid FROM pg_replication_slots');
my $log = -s $publisher->logfile;
my $row = drill();
kill 'TERM', map { $_->{run}{KIDS}[0]{PID} } @{ $load->{runs} };
cmp_ok($ledger->finish($load), '>', 100, 'commits were acknowledged meanwhile');
is($row->{status}, 'passed', 'a drill of a live cluster passes') or diag JSON::PP->new->pretty->encode($row);
is($row->{backup}, $backup, 'of its backup');
my %verdicts = verdicts($row);
is(join(' ', map { "$_=$verdicts{$_}" } grep { $verdicts{$_} ne 'ok' } sort keys %verdicts), '', 'every check is ok');
is(join(' ', grep { !exists $verdicts{$_} } qw(recovery queries amcheck checksums)), '', 'what is always checked was checked');
ok(exists $verdicts{'assertion setting listen_addresses'} && !exists $verdicts{'assertion not asked'} && !exists $verdicts{'assertion not of this'}, 'and what the DBA wants, as far as he wants');
is(sql(qq{SELECT rto = restore_time + recovery_time + start_time AND rto > '10ms' AND rpo < '10s' AND rpo >= '0' AND checks_time > '0'
	AND recovery_point > now() - interval '5 min' AND bytes > 2e7 AND wal_bytes > 0 FROM dr.drill WHERE id = '$row->{id}'}), 't', 'times, bytes and the recovery point are measured');
is($publisher->safe_psql('postgres', 'SELECT active_pid FROM pg_replication_slots'), $slot, 'the subscription keeps its slot');
unlike(slurp_file($publisher->logfile, $log), qr/is active for PID|START_REPLICATION/, 'and the copy never asked for it');
is_deeply([ map { s{.*/}{}r } glob "$traps/*" ], ['pid'], 'no command of the restored configuration ran');
is(slurp_file("$traps/pid"), $pid_file, 'nor is the pid file another');
nothing_left('a drill');
is(sql(q{SELECT status FROM dr_status WHERE concern = 'drill'}), 'ok', 'dr_status is content');

# --- an idle cluster loses nothing: what was flushed came back (the server may write of itself just before a drill begins)
sql('SELECT pg_create_restore_point($$x$$), pg_switch_wal()');
$node->wait_archived;
for (1 .. 5)
{
	wait_until('all is shipped', sub { sql(q{SELECT durable >= pg_current_wal_flush_lsn() FROM dr.tail()}) eq 't' });
	$row = drill();
	last if sql("SELECT rpo = '0' FROM dr.drill WHERE id = '$row->{id}'") eq 't';
}
is(sql("SELECT rpo = '0' FROM dr.drill WHERE id = '$row->{id}'"), 't', 'when all was shipped, nothing would be lost');

# --- points in time
sql(q{DELETE FROM dr.drill_check WHERE name LIKE 'not %'; UPDATE dr.drill_check SET scenario = 'latest' WHERE name = 'tablespace'});
$row = drill(q{scenario => 'point_in_time'});
is($row->{status}, 'passed', 'point_in_time chooses a moment') or diag $row->{error};
like($row->{target}, qr/^lsn /, 'and says which');
sql('CREATE TABLE late (a int)');
my $moment = sql('SELECT clock_timestamp()');
usleep(20_000);
sql('INSERT INTO late VALUES (1)');
sql(q{INSERT INTO dr.drill_check VALUES ('late', 'postgres', 'SELECT count(*) FROM late', '0', 'point_in_time')});
$node->wait_archived;
$row = drill("target_time => '$moment'");
is($row->{status}, 'passed', 'and takes one') or diag $row->{error};
is($row->{scenario}, 'point_in_time', 'which makes it that scenario');
like($row->{target}, qr/^time /, 'and says so');
is(drill("target_time => now() + interval '1 hour'")->{status}, 'failed', 'one that nobody can reach fails');
nothing_left('points in time');

# --- the verdict can fail, and says which
sql(q{UPDATE dr.drill_check SET expected = '-1' WHERE name = 'prepared'});
$row = drill('amcheck => false');
is($row->{status}, 'failed', 'a wrong assertion fails');
like($row->{error}, qr/1 of the drill's checks failed.*assertion prepared: it is "x", not "-1"/, 'and is named');
my %later = verdicts($row);
is($later{amcheck}, 'skipped', 'pg_amcheck may be left out');
is($later{'assertion rows'}, 'ok', 'the others are asked all the same');
sql(q{UPDATE dr.drill_check SET sql = 'SELECT nothing', expected = 'x' WHERE name = 'prepared'});
like(drill('amcheck => false')->{error}, qr/column "nothing" does not exist/, 'so does one that can not be asked');
sql(q{DELETE FROM dr.drill_check WHERE name = 'prepared'});
like(error_of('SELECT dr.run_drill(scenario => $$nowhere$$)'), qr/not a scenario/, 'run_drill raises what dr_drill raises');

sql(q{SELECT dr_set_objective('latest', '1 ms', NULL)});
$row = drill('amcheck => false');
is($row->{status}, 'missed objective', 'a missed objective is a verdict');
like($row->{error}, qr/RTO was missed/, 'and says which');
is(sql(q{SELECT status FROM dr_status WHERE concern = 'objective'}), 'critical', 'dr_status says so');
like(error_of('SELECT dr.run_drill()'), qr/missed objective.*RTO/, 'run_drill makes an ERROR of it');
sql(q{SELECT dr_set_objective('latest', '1 hour', '1 hour')});
is(drill('amcheck => false')->{rto_met}, JSON::PP::true, 'an objective can be met');
is(sql(q{SELECT status FROM dr_status WHERE concern = 'objective'}), 'ok', 'dr_status is content');

my $store = $node->repository;
damaged('a lost segment', sub { $store->remove($_[0]) }, qr/0000000100000000000000[0-9A-F]{2}/, $node->wal_object(second_segment()));
damaged('a damaged segment', sub { $store->flip($_[0]) }, qr/./, $node->wal_object(second_segment()));
damaged('a corrupt pack', sub { $store->flip($_[0]) }, qr/pack-/, ($node->objects(qr{\Q$backup\E/pack-}))[0]);
is(drill('amcheck => false')->{status}, 'passed', 'and when all is well again it passes');

# --- a library that recovery could not do without
configure("pg_dr.drill_preload = 'pg_stat_statements'");
sql(q{UPDATE dr.drill_check SET expected = 'pg_stat_statements' WHERE name = 'setting shared_preload_libraries'});
$row = drill('amcheck => false');
is($row->{status}, 'passed', 'a library that was named is loaded, and no other') or diag $row->{error};
configure("pg_dr.drill_preload = 'no_such_library'");
$row = drill('amcheck => false');
is($row->{status}, 'failed', 'one that is not there');
like($row->{error}, qr/did not come up.*could not access file "no_such_library"/s, 'is named');
nothing_left('a server that does not come up');
configure("pg_dr.drill_preload = ''");
sql(q{UPDATE dr.drill_check SET expected = '' WHERE name = 'setting shared_preload_libraries'});

# --- limits
configure('pg_dr.drill_max_size = 1MB');
like(drill()->{error}, qr/larger than a drill may be/, 'a cluster may be too large');
configure('pg_dr.drill_max_size = 0');
SKIP:
{
	my $small = $ENV{PGDR_SMALL_FS} or skip 'NOT TESTED: a full file system (could not be mounted)', 2;
	mkdir "$small/drills", 0700;
	configure("pg_dr.drill_directory = '$small/drills'");
	like(drill()->{error}, qr/not enough room for a drill/, 'there may be no room');
	is_deeply([ glob "$small/drills/*" ], ["$small/drills/pg_dr_drill.lock"], 'then nothing is left');
	File::Path::rmtree("$small/drills");
	configure("pg_dr.drill_directory = '$drills'");
}
chmod 0777, $drills;
like(drill()->{error}, qr/can be written to by others/, 'a directory that is everybody\'s is refused');
chmod 0700, $drills;
configure("pg_dr.drill_directory = '" . $node->data_dir . "/base'");
like(drill()->{error}, qr/in the server's data directory/, 'and one in the data directory');
configure("pg_dr.drill_directory = '$drills'");

# --- one at a time; a backup beside it
my ($finish) = held('drill.ready');
like(error_of('SELECT dr_drill()'), qr/a drill is already running.*dr_cancel/s, 'a second drill is refused');
like(($node->program('drill', '--directory', $drills))[2], qr/another drill is at work/, 'also by the program');
is(sql(q{SELECT kind || ' ' || phase FROM dr_progress}), 'drill held at drill.ready', 'dr_progress shows it');
$node->full_backup;
my $id = sql('SELECT backup FROM dr_progress');
sql("SELECT dr_cancel('$id')");
like(($finish->())[2], qr/drill \S+ cancelled/, 'it can be cancelled');
is(sql("SELECT status FROM dr_drills WHERE id = '$id'"), 'cancelled', 'its row says so');
nothing_left('cancel');

# --- a sandbox that is kept
$row = drill('keep => true, amcheck => false');
ok(-d $row->{kept}, 'a sandbox can be kept');
is_deeply([ inside($row->{kept}) ], [], 'without anything that runs');
is(drill('amcheck => false')->{status}, 'passed', 'the next drill');
ok(-d $row->{kept}, 'leaves it alone');
my $again = IPC::Run::start([ "$row->{kept}/start" ], '<', \undef, '>', \my $ignored, '2>&1');
my @psql = ('psql', '-XAt', '-h', "$row->{kept}/socket", '-p', 65432, 'postgres', '-c', 'SHOW archive_mode');
chdir "$row->{kept}/socket";
$psql[3] = '/proc/self/cwd';
wait_until('it runs again', sub { IPC::Run::run(\@psql, '>', \my $out, '2>', \my $err); $out eq "off\n" });
chdir '/';
pass('it can be started, as harmless');
$again->signal('INT');
$again->finish;
File::Path::rmtree($row->{kept});

# --- without a server
my ($exit, $out, $err) = $node->program('drill', '--directory', $drills, '--scenario', 'latest', '--rto', 3600);
is($exit, 0, 'pg_dr drill') or diag $err;
like($out, qr/^Drill \S+: passed\n.*RTO .*objective 3600\.000 s: met.*amcheck +ok/ms, 'reports');
isnt(($node->program('drill', '--directory', $drills, '--rto', 0.001, '--no-amcheck'))[0], 0, 'its exit status is the verdict');
nothing_left('pg_dr drill');
{
	local $ENV{PG_DR_HOLD_AT} = 'drill.ready';
	my $run = IPC::Run::start([ 'pg_dr', 'drill', $node->access, '--directory', $drills ], '<', \undef, '>', \my $o, '2>', \my $e, IPC::Run::timeout(60));
	$run->pump until $e =~ /held at step/;
	cmp_ok(scalar(my @there = inside($drills)), '>', 3, 'a server runs there');
	$run->signal('INT');
	$run->finish;
	like($e, qr/the drill was stopped/, 'it can be interrupted');
	nothing_left('an interrupted pg_dr drill');
}

# --- kill -9, at every step and at random moments, of whoever
random_seed();
my %victims = (
	child => sub { kill 9, $node->agents; return },
	worker => sub { kill 9, $node->process(qr/: pg_dr drill /); return },
	sandbox => sub { kill 9, grep { PgDr::Test::command_line($_) =~ /postgres\0-D/ } inside($drills); return },
	terminate => sub { sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_dr drill'}); return },
	postmaster => sub { $node->machine_dies; return });
my @at = campaign() ? @steps : (qw(drill.planned drill.started drill.ready drill.done));
for my $step (@at)
{
	for my $victim (campaign() ? qw(child worker postmaster) : $step eq 'drill.started' ? qw(worker postmaster) : 'child')
	{
		next if $victim eq 'child' && $step =~ /row|done/;
		my ($done, $segment) = held($step);
		$victims{$victim}->();
		$done->();
		clean_again("kill -9 of the $victim at $step", $segment);
	}
}
for my $trial (1 .. (campaign() ? 50 : 5))
{
	my $victim = (qw(child worker postmaster sandbox terminate))[ campaign() ? int rand 5 : $trial - 1 ];
	my $delay = rand 1.2;
	my $done = $node->start_backup('SELECT dr_drill()');
	usleep($delay * 1e6);
	my $segment = segment();
	$victims{$victim}->();
	$done->();
	clean_again(sprintf('kill -9 of the %s after %.2f s', $victim, $delay), $segment);
}
is(drill()->{status}, 'passed', 'after all of that a drill passes');
is($publisher->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), 1, 'and no slot came to be');
nothing_left('the last one');
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# The second segment behind the backup's start.
sub second_segment
{
	sql('SELECT pg_create_restore_point($$y$$), pg_switch_wal()') for 1 .. 3;
	$node->wait_archived;
	return sql("SELECT pg_walfile_name(start_lsn + 2 * 1048576) FROM dr_backups WHERE id = '$backup'");
}

# With an object damaged, a drill fails and says so; put back, it is as before.
sub damaged
{
	my ($what, $damage, $message, $object) = @_;
	my $bytes = $store->read($object);
	$damage->($object);
	my $row = drill("backup => '$backup', amcheck => false");
	is($row->{status}, 'failed', "$what: the drill fails");
	like($row->{error}, $message, "$what: and says what");
	note $row->{error};
	$store->remove($object) if $store->exists($object);
	$store->write($object, $bytes);
	nothing_left($what);
	return;
}

# Processes that work inside of a directory.
sub inside
{
	my ($directory) = @_;
	return map { m{/proc/(\d+)/} } grep { index(readlink($_) // '', "$directory/") == 0 } glob '/proc/[0-9]*/cwd';
}

# The System V segment of the sandbox's server, and who made it.
sub segment
{
	my ($file) = glob "$drills/pg_dr_drill_*/data/postmaster.pid";
	my @lines = $file && -e $file ? split /\n/, eval { slurp_file($file) } // '' : ();
	return @lines > 6 && $lines[6] =~ /(\d+)\s+(\d+)/ ? { pid => $lines[0], id => $2 } : undef;
}

sub segment_is_there
{
	my ($segment) = @_;
	for (split /\n/, slurp_file('/proc/sysvipc/shm'))
	{
		my (undef, $id, undef, undef, $creator) = split;
		return 1 if $id eq $segment->{id} && $creator eq $segment->{pid};
	}
	return 0;
}

sub nothing_left
{
	my ($when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is_deeply([ grep { !/\.lock$/ } glob "$drills/*" ], [], "$when: no directory is left");
	is_deeply([ inside($drills) ], [], "$when: no process is left");
	return;
}

# dr_drill() that waits at a step: what waits for its end, and the sandbox's shared memory.
sub held
{
	my ($step) = @_;
	my $offset = -s $node->logfile;
	$node->hold_at($step);
	usleep(200_000);
	my $done = $node->start_backup('SELECT dr_drill(amcheck => false)');
	$node->wait_held($step, $offset);
	my $segment = segment();
	$node->hold_at('');
	return ($done, $segment);
}

# The server runs, or is started; soon nothing is left.
sub clean_again
{
	my ($what, $segment) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until("$what: no process is left", sub { !inside($drills) });
	$node->append_conf('postgresql.conf', "pg_dr.debug_hold_at = ''");
	$node->start if !$node->{_pid} || process_gone($node->{_pid});
	$node->poll_query_until('postgres', 'SELECT true');
	wait_until("$what: the directory is removed", sub { !grep { !/\.lock$/ } glob "$drills/*" });
	$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM dr_drills WHERE status = 'running'});
	nothing_left($what);
	ok(!$segment || !segment_is_there($segment), "$what: no shared memory is left" . ($segment ? '' : ' (there was none yet)'));
	return;
}
