# kill -9 at every step (src/protocol.h): nothing partial is believed, a rerun
# succeeds, and the death of a child never restarts the server.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test qw(run_program hold_and_kill);
use Test::More;

my @steps = slurp_file("$FindBin::Bin/../../src/protocol.h") =~ /^\s*X\("([a-z._]+)",/mg;
ok(@steps > 15, 'the steps are known: ' . @steps);

my $node = PgDr::Test->create('main', wal_segsize => 1, conf => <<'END');
restart_after_crash = on
pg_dr.wal_ship_interval = 0		# its child would come to a step first: 018_wal.pl
END
$node->safe_psql('postgres', 'CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 5000) g');
SKIP:
{
	last if $node->repository->is_directory;
	@steps = grep { $_ ne 'store.linked' } @steps;
	skip 'only directories have that step: store.linked', 1;
}
$node->wait_archived;	# who is first to write makes the repository

# A session that lives through every death of a child.
my $survivor = $node->background_psql('postgres');
$survivor->query_safe('CREATE TEMP TABLE mine AS SELECT 1 AS a');
my $since = $node->alive_since;
my $offset = 0;

# Full and incremental by turns: the steps are the same.
my $turn = 0;
sub next_kind { return "SELECT dr_backup('" . ($turn++ % 2 ? 'full' : 'incremental') . "')" }

# --- the child of a backup
for my $step (grep { /^(backup|store)\./ } @steps)
{
	my @before = $node->listed;
	$offset = -s $node->logfile;
	$node->hold_at($step);
	my $finish = $node->start_backup(next_kind());
	$node->wait_held($step, $offset);
	my ($agent) = $step eq 'store.linked' ? ($node->agents, $node->archiver_agent) : $node->agents;
	ok($agent, "$step: a child waits there");
	$node->hold_at('');
	kill 9, $agent;
	my ($exit, undef, $err) = $finish->();
	isnt($exit, 0, "$step: dr_backup fails when its child dies") unless $step eq 'store.linked';
	like($survivor->query_safe('SELECT a FROM mine'), qr/^1$/, "$step: other sessions live on");
	is($node->alive_since, $since, "$step: the server did not restart");
	is($node->safe_psql('postgres', q{SELECT count(*) FROM dr_backups WHERE status = 'running'}), 0, "$step: no row says running");

	# Before its manifest is stored a backup does not exist; after that it does, and is whole.
	my %was = map { $_ => 1 } @before;
	my @new = grep { !$was{$_} } $node->listed;
	is(scalar @new, 0, "$step: nothing partial is listed") unless $step =~ /manifest_stored|store\.linked/;
	push @before, @new;
	my $again = $node->full_backup;
	is_deeply([ sort $node->listed ], [ sort @before, $again ], "$step: the next one succeeds");
}

# --- the archiver's child
for my $step (grep { /^archive\./ } @steps)
{
	$offset = -s $node->logfile;
	$node->hold_at($step);
	$node->safe_psql('postgres', q{SELECT pg_create_restore_point('x'), pg_switch_wal()});
	$node->wait_held($step, $offset);
	$node->hold_at('');
	kill 9, $node->archiver_agent;
	$node->wait_archived;
	is($node->alive_since, $since, "$step: the server did not restart, and the segment arrives");
	like($survivor->query_safe('SELECT a FROM mine'), qr/^1$/, "$step: other sessions live on");
}
$survivor->quit;

# --- the postmaster, at every step of a backup, of its worker and of the archiver
for my $step (grep { /^(module|backup|archive|store)\./ } @steps)
{
	my %was = map { $_ => 1 } $node->listed;
	$offset = -s $node->logfile;
	$node->hold_at($step);
	my $finish = $node->start_backup(next_kind());
	$node->safe_psql('postgres', 'SELECT pg_switch_wal()') if $step =~ /archive/;
	$node->wait_held($step, $offset);
	$node->machine_dies;
	pass("$step: no child outlives the postmaster");
	$finish->();
	my @new = grep { !$was{$_} } $node->listed;
	is(scalar @new, 0, "$step: nothing partial is listed") unless $step =~ /manifest_stored|module\.done|store\.linked/;
	$node->append_conf('postgresql.conf', "pg_dr.debug_hold_at = ''");
	$node->start;
	$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM dr_backups WHERE status = 'running'});
	pass("$step: leftovers are marked after the restart");
}
my $id = $node->full_backup;
$node->safe_psql('postgres', 'UPDATE t SET md5 = md5(md5) WHERE g % 50 = 1');
$node->safe_psql('postgres', 'SELECT dr_backup()');
is($node->safe_psql('postgres', 'SELECT parent FROM dr_backups ORDER BY started_at DESC, id DESC LIMIT 1'), $id, 'the change map outlives it, too');
my $sum = $node->checksums;
$node->wait_archived;
my ($exit, $out) = $node->reader('verify');
is($exit, 0, 'after all of that the repository is sound') or diag $out;
$node->destroy;

# --- pg_dr restore (024_delta.pl has the steps of --delta): what a killed one left is no cluster, and a fresh directory works
for my $step (grep { /^restore\./ } @steps)
{
	my $new = PgDr::Test->new('killed_' . $step =~ s/\W/_/gr);
	@$new{qw(repository key_file)} = @$node{qw(repository key_file)};
	my $err = hold_and_kill($step, 'restore', $new->access, '--pgdata', $new->data_dir);
	like($err, qr/held at step "?\Q$step\E/, "$step: reached");
	my $bootable = -e $new->data_dir . '/global/pg_control';
	ok(!$bootable, "$step: it can't be started") unless $step eq 'restore.control';
	File::Path::rmtree($new->data_dir);
	my ($exit) = $new->program('restore', '--pgdata', $new->data_dir);
	is($exit, 0, "$step: the next restore succeeds");
}

# --- pg_dr wal-get: no half segment under the name that recovery reads
for my $step (grep { /^walget\./ } @steps)
{
	my $to = $node->basedir . '/RECOVERYXLOG';
	my ($segment) = reverse grep { /\/[0-9A-F]{24}$/ } $node->objects(qr{/wal/});
	my @wal_get = ('wal-get', $node->access,
		'--system-identifier', $node->system_identifier, substr($segment, -24), $to);
	like(hold_and_kill($step, @wal_get), qr/held at step "?\Q$step\E/, "$step: reached");
	ok(!-e $to, "$step: no file of that name");
	is((run_program(@wal_get))[0], 0, "$step: the next one succeeds");
	is(-s $to, 1 << 20, "$step: whole");
}

my $restored = $node->restored('restored');
is($restored->checksums, $sum, 'and the last backup restores');
$restored->sound;

done_testing();
