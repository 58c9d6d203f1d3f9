# pg_dr restore --delta: into another state of the same cluster, and into nothing else (X5 to X9).
#
# What it leaves must be, file by file, what a restore into an empty directory leaves.
use strict;
use warnings;
use Digest::SHA;
use File::Path qw(make_path rmtree);
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test qw(run_program hold_and_kill flip);
use Test::More;

# As in 001: pg_wal is a link, one tablespace is outside and one inside the data directory.
my $outside = PostgreSQL::Test::Utils::tempdir_short();
mkdir "$outside/$_" for qw(ts1 elsewhere);
my $node = PgDr::Test->create('main', wal_segsize => 1, initdb => [ '--waldir', "$outside/wal" ]);
my $data = $node->data_dir;
mkdir "$data/ts_inside";
$node->safe_psql('postgres', "CREATE TABLESPACE ts1 LOCATION '$outside/ts1'");
$node->safe_psql('postgres', "CREATE TABLESPACE ts2 LOCATION '$data/ts_inside'");
$node->safe_psql('postgres', q{
	CREATE TABLE plain (id int PRIMARY KEY, t text);
	INSERT INTO plain SELECT g, repeat(md5(g::text), 4) FROM generate_series(1, 20000) g;
	CREATE TABLE in_ts1 TABLESPACE ts1 AS SELECT g, md5(g::text) FROM generate_series(1, 20000) g;
	CREATE TABLE in_ts2 TABLESPACE ts2 AS SELECT g, md5(g::text) FROM generate_series(1, 5000) g;
	CREATE TABLE dropped AS SELECT generate_series(1, 5000) a;
	CREATE UNLOGGED TABLE unlogged AS SELECT generate_series(1, 1000) a;
	CREATE TABLE empty (a int);
	VACUUM ANALYZE});
my %file = map { $_ => $node->safe_psql('postgres', "SELECT pg_relation_filepath('$_')") } qw(plain in_ts1 in_ts2 dropped plain_pkey);
my $id = $node->full_backup;

# Changes of every kind, which recovery brings back.
$node->safe_psql('postgres', q{
	UPDATE plain SET t = 'changed' WHERE id % 1000 = 0;
	INSERT INTO in_ts1 SELECT g, 'later' FROM generate_series(1, 1000) g;
	DROP TABLE dropped;
	CREATE TABLE later TABLESPACE ts2 AS SELECT generate_series(1, 3000) a;
	TRUNCATE empty});
$node->safe_psql('postgres', 'CREATE DATABASE other');
my $before = $node->checksums;
$node->wait_archived;

# --- refusals, while the server runs: nothing is written
my @delta = ('restore', '--delta', '--pgdata');
my $pid_file = "$data/postmaster.pid";
refused('a running server', $data, qr/a server may be running.*postmaster\.pid/s, qr/Stop the server/);
rename $pid_file, "$outside/pid" or die $!;
refused('a running server without its pid file', $data, qr/a server is using directory "\Q$data\E"/, qr/Stop it/);
rename "$outside/pid", $pid_file or die $!;

# A copy made by the file system: its links lead into the running server.
my $copy = PostgreSQL::Test::Utils::tempdir() . '/copy';
system('cp', '-a', $data, $copy) == 0 or die;
unlink "$copy/postmaster.pid";
refused('a copy whose links lead into a running server', $copy, qr/a server is using directory "\Q$copy\/pg_wal"/, qr/Stop it/);
unlink "$copy/pg_wal";
refused('a copy whose tablespaces do', $copy, qr/a server is using directory "\Q$outside\E\/ts1"/, qr/--tablespace/);
ok(-e "$copy/global/pg_control", 'and nothing is removed');
rmtree($copy);
is($node->checksums, $before, 'the server has not noticed');
$node->stop;

# --- refusals: what is not this cluster's
refused('a directory that is not empty, without --delta', $data, qr/is not empty/, qr/--delta/, [ 'restore', '--pgdata' ]);
my $busy = PostgreSQL::Test::Utils::tempdir();
append_to_file("$busy/file", "precious\n");
refused('a directory of something else', $busy, qr/no global\/pg_control/, qr/same cluster/);
my $stranger = PgDr::Test->new('stranger');
$stranger->init(extra => [ '-U', 'postgres' ]);
refused('another cluster', $stranger->data_dir, qr/belongs to cluster \d+/, qr/same cluster/);
rename $stranger->data_dir . '/global/pg_control', "$outside/other_control" or die $!;
make_path($stranger->data_dir . '/pg_dr');
append_to_file($stranger->data_dir . '/pg_dr/restoring', "1234567/$id");
refused('an interrupted restore of another cluster', $stranger->data_dir, qr/interrupted restore of another cluster/, qr/same cluster/);
rename "$data/PG_VERSION", "$outside/PG_VERSION" or die $!;
refused('a directory without PG_VERSION', $data, qr/PG_VERSION/, qr/same cluster/);
rename "$outside/PG_VERSION", "$data/PG_VERSION" or die $!;
rename "$data/global/pg_control", "$outside/pg_control" or die $!;
refused('a directory without pg_control', $data, qr/no global\/pg_control/, qr/same cluster/);
system('cp', '-a', "$outside/pg_control", "$data/global/pg_control");
flip("$data/global/pg_control", 16);
refused('a directory with a damaged pg_control', $data, qr/pg_control is damaged/, qr/same cluster/);
rename "$outside/pg_control", "$data/global/pg_control" or die $!;

# What would be lost with it.
system('cp', $node->{key_file}, "$data/dr.key");
refused('a key file in the directory', $data, qr/the key file .* lies in a directory that is restored/, qr/Move it/,
	[ 'restore', $node->access(key_file => "$data/dr.key"), '--delta', '--pgdata' ]) unless $node->{key_file} eq 'none';
unlink "$data/dr.key";
append_to_file("$outside/wal/notes.txt", "precious\n");
refused('a pg_wal that leads to more than WAL', $data, qr/holds more than WAL.*notes\.txt/s, qr/move away/);
unlink "$outside/wal/notes.txt";
append_to_file("$outside/elsewhere/file", "precious\n");
refused('a tablespace to where its link does not lead', $data, qr/\Q$outside\E\/elsewhere" is not empty/, qr/link for this tablespace/,
	undef, '--tablespace', "$outside/ts1=$outside/elsewhere");

# --- the yardstick: the same backup in an empty directory
mkdir "$outside/$_" for qw(plain1 plain2);
my @mapping = ('--tablespace', "$outside/ts1=$outside/plain1", '--tablespace', "$data/ts_inside=$outside/plain2");
my ($plain) = $node->try_restore('plain', '--backup', $id, @mapping);
my %plain = tree($plain->data_dir, 'mtimes');
ok(keys %plain > 500, 'the restored files are known');

# --- over the newer state
my ($rewritten, $of) = delta('the newer state');
ok($rewritten > 0 && $rewritten < $of / 2, "only what differs is written: $rewritten of $of");
recovers('the newer state');

# --- over what it has just left: nothing is written
delta('the state that recovery left');
my %was = tree($data, 'inodes');
($rewritten) = delta('its own work');
is($rewritten, 0, 'nothing is written when nothing differs');
my %is = tree($data, 'inodes');
is_deeply(\%is, \%was, 'every file is the same one') or diag_trees(\%is, \%was);

# --- one block
flip("$data/$file{plain}", 3 * 8192 + 100, 4);
($rewritten) = delta('one damaged block');
is($rewritten, 8192, 'one block is written');

# --- damage of every kind
append_to_file("$outside/precious", "precious\n");
make_path("$outside/precious_dir", "$outside/unknown", "$outside/ts1/PG_99_1");
append_to_file("$outside/$_/file", "precious\n") for qw(precious_dir unknown ts1/PG_99_1);
append_to_file("$outside/ts1/notes.txt", "precious\n");
my ($version) = glob "$outside/ts1/PG_1*";
sub damage
{
	flip("$data/$file{in_ts1}", 8192 * 5);
	flip("$data/$file{in_ts2}", 8192);
	append_to_file("$data/$file{plain}", 'x' x 20000);
	truncate "$data/$file{plain_pkey}", 8192 * 3 + 100 or die $!;
	unlink "$data/$file{dropped}", "$data/pg_hba.conf" or die $!;

	# Files that a server would read, or that are simply too much.
	append_to_file("$data/$_", "x\n")
	  for qw(standby.signal recovery.signal backup_label tablespace_map postmaster.opts promote recovery.conf backup_label.old
		base/1/99999 base/pgsql_tmp global/pg_internal.init pg_wal/000000010000000000000099 pg_wal/00000009.history pg_stat_tmp/x
		pg_wal/archive_status/000000010000000000000099.ready pg_dynshmem/pg_dr.lineage pg_dr/other), "\xff\xfe", 'a b';
	append_to_file("$data/postgresql.auto.conf", "recovery_target_name = 'nowhere'\n");
	make_path("$data/extra/dir", "$data/pg_replslot/slot", "$data/base/77777", "$version/77777");
	append_to_file("$_/file", "x\n") for "$data/extra/dir", "$data/pg_replslot/slot", "$data/base/77777", "$version/77777";
	chmod 0500, "$data/extra/dir";

	# Of another type.
	unlink "$data/pg_ident.conf" or die $!;
	make_path("$data/pg_ident.conf/dir");
	rmtree("$data/pg_multixact");
	append_to_file("$data/pg_multixact", "a file\n");
	unlink "$data/base/1/$_" for 2619, 2608, 1249;
	symlink "$outside/precious", "$data/base/1/2619" or die $!;
	system('mkfifo', "$data/base/1/2608") == 0 or die;
	link "$outside/precious", "$data/base/1/1249" or die $!;
	rmtree("$data/pg_xact");
	symlink "$outside/precious_dir", "$data/pg_xact" or die $!;
	symlink "$outside/precious_dir", "$data/pg_wal/archive_status/link" or die $!;
	rmtree("$data/pg_dr");
	symlink "$outside/precious_dir", "$data/pg_dr" or die $!;
	symlink "$outside/unknown", "$data/pg_tblspc/99999" or die $!;

	# Closed to their owner.
	chmod 0400, "$data/$file{in_ts1}", "$data/PG_VERSION";
	chmod 0500, "$data/base/1";
	chmod 0, "$data/pg_subtrans";
	return;
}
damage();
my $said;
($rewritten, $of, $said) = delta('damage of every kind');
ok($rewritten < $of / 10, "little of it is written: $rewritten of $of");
like($said, qr/link "pg_tblspc\/99999" is removed; what it led to, "\Q$outside\E\/unknown", is left/, 'an unknown tablespace is named');
is(slurp_file("$outside/$_"), "precious\n", "$_ is as it was")
  for qw(precious precious_dir/file unknown/file ts1/PG_99_1/file ts1/notes.txt);
is(join(' ', sort map { s{.*/}{}r } glob "$outside/precious_dir/*"), 'file', 'nothing was written through a link');
rmtree([ "$outside/ts1/PG_99_1", "$outside/ts1/notes.txt" ]);
recovers('damage of every kind');

# --- interrupted at every step
my @steps = grep { /^(restore|delta)\./ } slurp_file("$FindBin::Bin/../../src/protocol.h") =~ /^\s*X\("([a-z._]+)",/mg;
ok(scalar(grep { /^delta/ } @steps), 'the steps are known');
delta('before the kills');
for my $step (@steps)
{
	flip("$data/$file{plain}", 8192 * 7);
	append_to_file("$data/extra", "x\n");
	like(hold_and_kill($step, @delta, $data, $node->access, '--backup', $id), qr/held at step "?\Q$step\E/, "$step: reached");
	is(-e "$data/global/pg_control" ? 1 : 0, $step =~ /planned|control/ ? 1 : 0, "$step: it can't be started");
	delta("interrupted at $step");
}
recovers('interruptions');

# An interrupted restore into an empty directory is gone on with, too.
my $half = PgDr::Test->new('half');
mkdir "$outside/$_" for qw(half1 half2);
my @half = ('--tablespace', "$outside/ts1=$outside/half1", '--tablespace', "$data/ts_inside=$outside/half2");
hold_and_kill('restore.first_pack', 'restore', '--pgdata', $half->data_dir, $node->access, '--backup', $id, @half);
ok(-e $half->data_dir . '/pg_dr/restoring', 'a restore is interrupted');
my ($exit, undef, $err) = $node->program('restore', '--pgdata', $half->data_dir, @half);
like($err, qr/interrupted restore.*--delta/s, 'another one names the way to go on');
($exit) = $node->program('restore', '--delta', '--pgdata', $half->data_dir, '--backup', $id, @half);
is($exit, 0, 'which goes on');
same_tree('the interrupted restore', $half->data_dir);

# Into an empty directory it is a plain restore; with another place for a tablespace the old one is left.
rmtree([ $half->data_dir, glob("$outside/half[12]/*") ]);
($exit) = $node->program('restore', '--delta', '--pgdata', $half->data_dir, '--backup', $id, @half);
is($exit, 0, '--delta into a directory that is not there');
same_tree('a directory that was not there', $half->data_dir);
mkdir "$outside/moved" or die $!;
($rewritten, $of, $said) = delta('a tablespace that moves', '--tablespace', "$outside/ts1=$outside/moved");
like($said, qr/link "pg_tblspc\/\d+" is removed; what it led to, "\Q$outside\E\/ts1", is left/, 'its old place is named');
ok(-e $version, 'and left');
recovers('a tablespace that moved');

# A pg_wal that leads into the directory itself becomes a plain one.
unlink "$data/pg_wal" or die $!;
make_path("$data/wal_inside/archive_status");
append_to_file("$data/wal_inside/000000010000000000000077", "x\n");
symlink "$data/wal_inside", "$data/pg_wal" or die $!;
delta('a pg_wal inside', '--tablespace', "$outside/ts1=$outside/moved");
ok(!-l "$data/pg_wal", 'the link is a directory now');
recovers('a pg_wal inside');

# A data directory and a tablespace that are reached by links.
my $alias = PostgreSQL::Test::Utils::tempdir_short();
symlink $data, "$alias/data" or die $!;
symlink "$outside/moved", "$alias/moved" or die $!;
flip("$data/$file{plain}", 8192 * 7);
($exit, undef, $err) = $node->program('restore', '--delta', '--pgdata', "$alias/data", '--backup', $id,
	'--tablespace', "$outside/ts1=$alias/moved", '--tablespace', "$data/ts_inside=$alias/data/ts_inside");
is($exit, 0, 'by links') or diag $err;
same_tree('by links', $data);
recovers('by links');

$node->start;
$node->sound('after all of that');
done_testing();

# ------------------------------------------------------------------------------------------

sub refused
{
	my ($what, $directory, $message, $hint, $command, @more) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %was = tree($directory, 'inodes');
	my @command = $command ? @$command : @delta;
	my ($exit, undef, $err) = run_program(@command, $directory, ((grep { $_ eq '--key-file' } @command) ? () : $node->access), @more);
	isnt($exit, 0, "$what is refused");
	like($err, $message, "$what: and says why");
	like($err, qr/HINT: .*$hint/s, "$what: and what to do");
	my %is = tree($directory, 'inodes');
	# A running server writes, and removes, what it likes.
	is_deeply(\%is, \%was, "$what: nothing is touched") or diag_trees(\%is, \%was) unless $what =~ /^a (running|copy)/;
	return;
}

# A delta restore of the backup into the node's own directory: (bytes rewritten, of, stderr).
sub delta
{
	my ($what, @more) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($exit, $out, $err) = $node->program(@delta, $data, '--backup', $id, @more);
	is($exit, 0, "$what: pg_dr restore --delta") or BAIL_OUT($err);
	my ($written, $all) = $out =~ /^Rewritten: (\d+) of (\d+) bytes/m or fail("$what: says how much was rewritten");
	same_tree($what, $data);
	return ($written, $all, $err);
}

sub recovers
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$node->start;
	$node->wait_recovered;
	is($node->checksums, $before, "$what: every row is back");
	$node->safe_psql('postgres', 'UPDATE plain SET t = t || t; CREATE TABLE more TABLESPACE ts1 AS SELECT * FROM plain');
	$node->stop;
	return;
}

sub same_tree
{
	my ($what, $directory) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %is = tree($directory, 'mtimes');
	is_deeply(\%is, \%plain, "$what: file by file what a restore into an empty directory leaves") or diag_trees(\%is, \%plain);
	return;
}

sub diag_trees
{
	my ($is, $should) = @_;
	diag "$_: " . ($is->{$_} // 'is not there') . ', not ' . ($should->{$_} // 'there')
	  for grep { ($is->{$_} // '') ne ($should->{$_} // '') } sort keys %{ { %$is, %$should } };
	return;
}

# Path => what is there, of a whole data directory and its tablespaces (of these, our version's part).
sub tree
{
	my ($top, $more) = @_;
	my %tree;
	my @todo = ('');
	while (defined(my $dir = shift @todo))
	{
		opendir my $handle, "$top/$dir" or next;	# closed, or gone
		for my $name (grep { !/^\.\.?$/ } readdir $handle)
		{
			my $path = $dir eq '' ? $name : "$dir/$name";
			next if $path eq 'ts_inside';
			next if $dir =~ m{^pg_tblspc/\d+$} && $name !~ /^PG_1/;
			my $followed = $path eq 'pg_wal' || $path =~ m{^pg_tblspc/\d+$};
			my @stat = $followed ? stat "$top/$path" : lstat "$top/$path" or next;
			my $mode = sprintf '%o', $stat[2];
			if (-d _)
			{
				# Of links' targets the mode is somebody else's business.
				$tree{$path} = $followed ? 'directory' : $mode;
				push @todo, $path;
				next;
			}
			# What a restore writes itself is dated, and names places.
			if ($path =~ m{^pg_dr/restored\.json$}) { $tree{$path} = $mode; next }
			my $ours = $path =~ /^(postgresql\.auto\.conf|recovery\.signal|backup_label|global\/pg_control)$/;
			$tree{$path} = join ' ', $mode, $stat[7], (-f _ && -r _ ? Digest::SHA->new(1)->addfile("$top/$path")->hexdigest : ()),
			  ($more eq 'inodes' && !$ours ? $stat[1] : ()), ($ours ? () : $stat[9]);
		}
	}
	return %tree;
}
