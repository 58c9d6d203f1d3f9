# An incremental backup holds what the cluster holds: random schema changes, data changes, failovers, crashes
# and deaths of workers, and after each backup every page of the restored directory against the
# server's own.  Ten seeds in every run (two with a bucket), hundreds with --campaign; PGDR_SEED repeats one.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use PgDr::Pages;
use PgDr::Test qw(campaign random_seed wait_until);
use PostgreSQL::Test::Utils ();
use Test::More;
use Time::HiRes qw(sleep);

my $seed = random_seed();
my $SEEDS = $ENV{PGDR_SEEDS} // (campaign() ? 200 : ($ENV{PGDR_STORE} // 'file') eq 's3' ? 2 : 10);
my $ROUNDS = 4;
my $STEPS = 8;

my ($node, $copies, %tables, %databases, %tablespaces, %prepared, $names, $top, @gone);
my $scans = 0;
my $incrementals = 0;

sub sql { my ($sql, $database) = @_; return $node->safe_psql($database // 'postgres', $sql) }
sub pick { return $_[ rand @_ ] }
sub any { my ($hash) = @_; return pick(sort keys %$hash) }

# Tables by name => database they are in.
sub table
{
	my @names = grep { !defined $tables{$_}{prepared} } sort keys %tables;
	return pick(@names);
}

sub in { my ($table, $sql) = @_; return sql($sql, $tables{$table}{database}) }

my @index = (
	'USING btree (a)', 'USING hash (b)', 'USING gin (c)', 'USING gist (d)', 'USING spgist (e)', 'USING brin (a)',
	'USING btree (b) WHERE a % 3 = 0', 'USING btree (lower(b))', 'USING gist (d) INCLUDE (a)');

sub rows { my ($from, $n) = @_; return "SELECT g, md5(g::text), ARRAY[g % 17, g % 23], point(g % 100, g), 'x' || g, repeat(md5(g::text), " . int(rand 60) . ") FROM generate_series($from, $from + $n) g" }

sub create_table
{
	my $name = 't' . ++$names;
	my $database = rand() < 0.3 && %databases ? any(\%databases) : 'postgres';
	my $space = rand() < 0.3 && %tablespaces ? ' TABLESPACE ' . any(\%tablespaces) : '';
	my $unlogged = rand() < 0.15 ? 'UNLOGGED ' : '';
	$tables{$name} = { database => $database };
	in($name, "CREATE ${unlogged}TABLE $name (a int, b text, c int[], d point, e text, f text) WITH (fillfactor = " . pick(60, 100) . ")$space;
		INSERT INTO $name " . rows(1, int rand 1500));
	in($name, "CREATE INDEX ON $name $_") for grep { rand() < 0.3 } @index;
	return;
}

sub insert_rows { my $t = table() // return; in($t, "INSERT INTO $t " . rows(int rand 100000, int rand 1500)); return }
sub update_rows { my $t = table() // return; in($t, "UPDATE $t SET " . pick('a = a + 1', "b = b || 'u'", 'd = point(a, 1)', "f = repeat('z', 500)") . ' WHERE a % ' . (2 + int rand 20) . ' = 1'); return }
sub delete_rows { my $t = table() // return; in($t, "DELETE FROM $t WHERE a % " . (2 + int rand 5) . ' = 0'); return }

# The end of the file goes, and comes again with pages that WAL doesn't mention.
sub truncate_and_extend
{
	my $t = table() // return;
	my $file = $node->basedir . '/rows.txt';
	in($t, "COPY (SELECT * FROM $t LIMIT 400) TO '$file'; DELETE FROM $t WHERE ctid > '(" . int(rand 10) . ",0)'");
	in($t, "VACUUM $t");
	in($t, "COPY $t FROM '$file'") if rand() < 0.8;
	return;
}

sub on_table { my ($format) = @_; return sub { my $t = table() // return; in($t, sprintf $format, ($t) x ($format =~ s/%s/%s/g)); return } }

sub drop_table { return if keys %tables < 3; my $t = table() // return; in($t, "DROP TABLE $t"); delete $tables{$t}; return }

sub move_table { my $t = table() // return; in($t, "ALTER TABLE $t SET TABLESPACE " . (rand() < 0.4 || !%tablespaces ? 'pg_default' : any(\%tablespaces))); return }

sub create_database
{
	return if keys %databases >= 3;
	my $name = 'd' . ++$names;
	my $from = rand() < 0.4 && %databases ? any(\%databases) : 'template1';
	my $space = rand() < 0.3 && %tablespaces ? ' TABLESPACE ' . any(\%tablespaces) : '';
	my $strategy = $node->pg_version >= 15 ? ' STRATEGY ' . pick('file_copy', 'wal_log') : '';
	sql("CREATE DATABASE $name TEMPLATE $from$strategy$space");
	$databases{$name} = 1;
	my %copied = map { ($_ => 1) } grep { $tables{$_}{database} eq $from } keys %tables;
	return;
}

sub drop_database
{
	my @idle = grep { my $d = $_; !grep { $tables{$_}{database} eq $d && $tables{$_}{prepared} } keys %tables } sort keys %databases;
	my $name = pick(@idle) // return;
	sql("DROP DATABASE $name");
	delete $databases{$name};
	delete @tables{ grep { $tables{$_}{database} eq $name } keys %tables };
	return;
}

sub move_database
{
	my @idle = grep { my $d = $_; !grep { $tables{$_}{database} eq $d && $tables{$_}{prepared} } keys %tables } sort keys %databases;
	my $name = pick(@idle) // return;
	$node->psql('postgres', "ALTER DATABASE $name SET TABLESPACE " . (rand() < 0.5 || !%tablespaces ? 'pg_default' : any(\%tablespaces)));
	return;		# refused when tables of it lie there
}

sub create_tablespace
{
	return if keys %tablespaces >= 2;
	my $name = 's' . ++$names;
	mkdir "$top/$name" or die;
	sql("CREATE TABLESPACE $name LOCATION '$top/$name'");
	$tablespaces{$name} = 1;
	return;
}

sub drop_tablespace
{
	my $name = any(\%tablespaces) // return;
	my ($exit) = $node->psql('postgres', "DROP TABLESPACE $name");	# refused when it is used
	delete $tablespaces{$name} if $exit == 0;
	return;
}

# Two-phase: what is created, changed or dropped in it counts when it is decided.
sub prepare
{
	return if %prepared;
	my $t = table() // return;
	my $name = 't' . ++$names;
	in($t, "BEGIN; CREATE TABLE $name AS SELECT * FROM $t LIMIT 100; " .
		pick("DROP TABLE $t", "TRUNCATE $t", "INSERT INTO $t " . rows(1, 200)) . "; PREPARE TRANSACTION 'p$name'");
	$prepared{"p$name"} = $t;
	$tables{$t}{prepared} = 1;
	return;
}

sub decide
{
	my $name = any(\%prepared) // return;
	my $t = delete $prepared{$name};
	my $commit = rand() < 0.5;
	in($t, ($commit ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$name'");
	delete $tables{$t}{prepared};
	if ($commit)
	{
		(my $new = $name) =~ s/^p//;
		$tables{$new} = { database => $tables{$t}{database} };
		delete $tables{$t} if in($t, "SELECT count(*) FROM pg_class WHERE relname = '$t'") == 0;
	}
	return;
}

sub rollback { my $t = table() // return; in($t, "BEGIN; CREATE TABLE gone AS SELECT * FROM $t; TRUNCATE $t; INSERT INTO $t " . rows(1, 300) . '; ROLLBACK'); return }

sub crash { $node->stop('immediate'); $node->start; return }
sub restart { $node->restart; return }
sub kill_worker
{
	my $title = pick('pg_dr change map', 'pg_dr WAL worker', 'pg_dr launcher');
	sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = '$title'");
	return;
}

my @actions = (
	[ 4, \&insert_rows ], [ 4, \&update_rows ], [ 2, \&delete_rows ], [ 3, \&truncate_and_extend ], [ 3, \&create_table ],
	[ 1, \&drop_table ], [ 1, on_table('TRUNCATE %s') ], [ 2, on_table('VACUUM %s') ], [ 1, on_table('VACUUM FULL %s') ],
	[ 1, on_table('VACUUM FREEZE %s') ], [ 1, on_table('REINDEX TABLE %s') ], [ 1, on_table('ALTER TABLE %s SET UNLOGGED') ],
	[ 1, on_table('ALTER TABLE %s SET LOGGED') ], [ 1, on_table('ALTER TABLE %s ALTER e TYPE varchar(40)') ],
	[ 1, on_table('CREATE INDEX ON %s (a, b)') ], [ 1, \&move_table ], [ 1, \&create_database ], [ 1, \&drop_database ],
	[ 1, \&move_database ], [ 1, \&create_tablespace ], [ 1, \&drop_tablespace ], [ 1, \&prepare ], [ 2, \&decide ],
	[ 1, \&rollback ], [ 1, sub { sql("SELECT lo_from_bytea(0, decode(repeat('ab', 20000), 'hex'))"); return } ],
	[ 2, sub { sql('CHECKPOINT'); return } ], [ 1, sub { sql('SELECT pg_switch_wal()'); return } ],
	[ 1, \&crash ], [ 1, \&restart ], [ 1, \&kill_worker ], [ 0.5, \&failover ]);
my @weighted = map { my $action = $_; ($action->[1]) x (2 * $action->[0]) } @actions;

# Another machine takes over: a new timeline, on which the map knows nothing of before.
sub failover
{
	decide() while %prepared;
	sql('SELECT dr_backup()');	# which knows the tablespaces that the copy must have elsewhere
	$node->wait_archived;
	my $before = $node->checksums;
	my $next = $node->restored('next_' . ++$copies, args => [ elsewhere("next_$copies") ]);
	is($next->checksums, $before, 'a failover loses nothing');
	$node->destroy;
	push @gone, $node;
	$node = $next;
	sql('SELECT dr_adopt()');
	return;
}

# Writes that go on while a backup is made.
sub load
{
	my $script = "INSERT INTO ledger SELECT g, repeat('l', 200) FROM generate_series(1, 200) g; DELETE FROM ledger WHERE a % 7 = 3; UPDATE ledger SET a = a + 1 WHERE a % 11 = 1;\n" x 400;
	my $run = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$script, '>', \my $out, '2>', \my $err);
	return sub { $run->kill_kill; return };
}

sub check
{
	my ($id, $what, $start) = @_;
	my $copy = $node->restored('copy_' . ++$copies, args => [ '--backup', $id, elsewhere("copy_$copies") ], start => 0);
	sql('CHECKPOINT');
	my ($compared, @problems) = PgDr::Pages::differences($node->data_dir, $copy->data_dir, $start);
	is(join("\n", @problems[ 0 .. ($#problems > 20 ? 20 : $#problems) ]), '', "$what: $compared pages are the cluster's");
	return $copy;
}

# A copy's tablespaces have directories of their own.
sub elsewhere
{
	my ($label) = @_;
	return map { my ($name, $place) = split /\|/; ('--tablespace', "$place=$top/${label}_$name") }
	  split /\n/, sql("SELECT spcname, pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname ~ '^s' ORDER BY 1");
}

for my $run (1 .. $SEEDS)
{
	srand($seed + $run);
	(%tables, %databases, %tablespaces, %prepared) = ();
	$names = 0;
	$node = PgDr::Test->create("main_$run", conf => "autovacuum = off\nmax_prepared_transactions = 5\nfsync = off\nlog_min_messages = warning\nmax_wal_size = " . pick('64MB', '1GB') . "\n");
	$top = $node->basedir;
	sql('CREATE TABLE ledger (a int, b text)');
	create_table() for 1 .. 3;
	$node->full_backup;
	for my $round (1 .. $ROUNDS)
	{
		my @done;
		for (1 .. $STEPS) { pick(@weighted)->() }
		my $busy = rand() < 0.4 ? load() : undef;
		my ($exit, $id, $err) = $node->psql('postgres', "SELECT dr_backup('incremental')");
		$busy->() if $busy;
		is($exit, 0, "seed $seed + $run, round $round: a backup" . ($busy ? ' under load' : '')) or BAIL_OUT($err);
		$incrementals++;
		$scans++ if $err =~ /everything is read/;
		note "everything is read: $1" if $err =~ /everything is read: (.*)/;
		my $start = sql("SELECT start_lsn FROM dr_backups WHERE id = '$id'");
		my $copy = check($id, "seed $seed + $run, round $round", $start);
		if ($round == $ROUNDS)
		{
			decide() while %prepared;
			my $before = $node->checksums;
			$node->wait_archived;
			$copy->destroy;
			$copy = $node->restored("last_$run", args => [ '--backup', $id, elsewhere("last_$run") ]);
			is($copy->checksums, $before, "seed $seed + $run: every row");
			$copy->sound("seed $seed + $run");
		}
		PostgreSQL::Test::Utils::system_or_bail('rm', '-rf', $copy->data_dir, glob "$top/copy_* $top/last_*");
	}
	$node->teardown_node;
	PostgreSQL::Test::Utils::system_or_bail('rm', '-rf', map { $_->basedir } $node, splice @gone) if Test::More->builder->is_passing;
}
cmp_ok($scans, '<', $incrementals / 2, "$scans of $incrementals backups read everything");
done_testing();
