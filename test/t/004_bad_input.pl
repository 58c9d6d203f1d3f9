# What users and strangers get wrong: each is refused, says why, and does nothing.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test qw(run_program pretend_recovery);
use Test::More;

my $top = PostgreSQL::Test::Utils::tempdir();
my ($exit, $out, $err);

program_help_ok('pg_dr');
program_version_ok('pg_dr');

# Key files.
($exit) = run_program('key', 'generate', "$top/good.key");
is($exit, 0, 'key generate');
is((stat "$top/good.key")[2] & 07777, 0600, 'the key file is private');
like(slurp_file("$top/good.key"), qr/^pgdr-key-1-[0-9a-f]{64}-[0-9a-f]{8}$/m, 'and in the documented form');
($exit, undef, $err) = run_program('key', 'generate', "$top/good.key");
isnt($exit, 0, 'key generate never overwrites a key');
like($err, qr/exists/, 'and says so');

my ($key) = slurp_file("$top/good.key") =~ /^(pgdr-key-1-.*)$/m;
(my $typo = $key) =~ s/-1-(.)/'-1-' . ($1 eq '0' ? '1' : '0')/e;
my %bad_keys = (
	empty => '', comments => "# nothing\n", typo => "$typo\n", twice => "$key\n$key\n", short => substr($key, 0, 40) . "\n",
	binary => join('', map { chr } 0 .. 255), long => 'x' x 100000, 'other-version' => $key =~ s/key-1/key-2/r . "\n");
for my $name (sort keys %bad_keys)
{
	append_to_file("$top/$name.key", $bad_keys{$name});
	chmod 0600, "$top/$name.key";
}
append_to_file("$top/public.key", "$key\n");
chmod 0644, "$top/public.key";

my $node = PgDr::Test->create('main', wal_segsize => 1);
my $id = $node->full_backup;
my $repository = $node->repository;
my $absent = $repository->absent_url;

# [what, arguments, message]
for my $case (
	[ 'no command', [], qr/usage|try|command/i ],
	[ 'unknown command', ['destroy'], qr/destroy/ ],
	[ 'unknown option', [ 'list', $node->access, '--frobnicate' ], qr/frobnicate/ ],
	[ 'no repository', [ 'list', '--key-file', $node->{key_file} ], qr/--repository/ ],
	[ 'no key file', [ 'list', $repository->arguments ], qr/--key-file/ ],
	[ 'no data directory', [ 'restore', $node->access ], qr/--pgdata/ ],
	[ 'a stray argument', [ 'list', $node->access, 'stray' ], qr/stray/ ],
	[ 'a repository that is not there', [ 'list', $node->access(url => $absent) ], qr/absent/ ],
	[ 'a place that is no repository', [ 'list', $node->access(url => $repository->empty_url) ], qr/repository\.json|repository/ ],
	[ 'a relative file URL', [ 'list', $node->access(url => 'file://relative/dir') ], qr/relative|absolute/ ],
	[ 'an unknown scheme', [ 'list', $node->access(url => 'ftp://host/dir') ], qr/ftp/ ],
	[ 'no URL at all', [ 'list', $node->access(url => $repository->url =~ s{^\w+:/}{}r) ], qr/repository|URL/ ],
	[ 'a foreign key', [ 'list', $node->access(key_file => "$top/good.key") ], qr/key/ ],
	[ 'key none', [ 'list', $node->access(key_file => 'none') ], qr/key/ ],
	[ 'an absent key', [ 'list', $node->access(key_file => "$top/absent.key") ], qr/absent\.key/ ],
	[ 'a public key file', [ 'list', $node->access(key_file => "$top/public.key") ], qr/public\.key/ ],
	map { [ "key file: $_", [ 'list', $node->access(key_file => "$top/$_.key") ], qr/\Q$_\E\.key/ ] } sort keys %bad_keys)
{
	my ($what, $arguments, $message) = @$case;
	($exit, $out, $err) = run_program(@$arguments);
	ok($exit > 0, "$what: refused");
	like($err, $message, "$what: and says why");
	unlike("$out$err", qr/[0-9a-f]{64}/, "$what: no key in the message");
}


# wal-get: 1 means "not there", and only that; everything else must abort recovery.  By both of its names, and
# where a server that recovers would want the file, too: there, a process stays behind for the next one.
my $system = $node->system_identifier;
my @wal_get = ('--system-identifier', $system, $node->access);
my ($first) = sort map { m{/([0-9A-F]{24})$} ? $1 : () } $node->objects(qr{/wal/});
my $there = pretend_recovery("$top/server");
for my $how ([ 'pg_dr', "$top/w" ], [ 'pg_dr', $there ], [ 'pg_dr-wal-get', "$top/w" ], [ 'pg_dr-wal-get', $there ])
{
	my ($program, $to) = @$how;
	my $get = sub { return run_program($program eq 'pg_dr' ? 'wal-get' : (), @_, { program => $program }) };
	my $where = "$program, $to";
	for my $case (
		[ 'an absent segment', [ @wal_get, '0000000100000000000000F0', $to ], sub { $_[0] == 1 } ],
		[ 'an absent history file', [ @wal_get, '00000009.history', $to ], sub { $_[0] == 1 } ],
		[ 'an absurd name', [ @wal_get, '../../etc/passwd', $to ], sub { $_[0] > 125 } ],
		[ 'a foreign key', [ @wal_get[ 0, 1 ], $node->access(key_file => "$top/good.key"), '000000010000000000000001', $to ], sub { $_[0] > 125 } ],
		[ 'no repository', [ @wal_get[ 0, 1 ], $node->access(url => $absent), '000000010000000000000001', $to ], sub { $_[0] > 125 } ],
		[ 'a target that can\'t be written', [ @wal_get, $first, "$top/no/such/w" ], sub { $_[0] > 125 } ],
		[ 'missing arguments', [ @wal_get, '000000010000000000000001' ], sub { $_[0] > 125 } ],
		[ 'an unknown option', [ @wal_get, '--so-what', $first, $to ], sub { $_[0] > 125 } ],
		[ 'no arguments', [], sub { $_[0] > 125 } ])
	{
		my ($what, $arguments, $right) = @$case;
		($exit, undef, $err) = $get->(@$arguments);
		ok($right->($exit), "$where: $what: exit $exit");
		isnt($err, '', "$where: $what: which is explained") if $exit > 125;
		ok(!-e $to, "$where: $what: no file");
	}
	($exit) = $get->(@wal_get, $first, $to);
	is($exit, 0, "$where: a segment that is there");
	is(-s $to, 1 << 20, 'whole');
	unlink $to;
}

unlink "$top/server/postmaster.pid";

# Names that are no UTF-8: refused before anything is written, where they can't be written.
my @latin = ([ 'a target', [ $node->access, '--target-name', "caf\xe9" ], qr/the recovery target is not UTF-8/ ]);
if ($repository->is_directory)
{
	symlink $repository->place, "$top/r\xe9p" or die "symlink: $!";
	push @latin, [ 'a repository', [ $node->access(url => "file://$top/r\xe9p") ], qr/the repository's URL is not UTF-8/ ];
}
for my $case (@latin)
{
	my ($what, $arguments, $message) = @$case;
	($exit, undef, $err) = run_program('restore', @$arguments, '--pgdata', "$top/latin");
	isnt($exit, 0, "$what that is not UTF-8: refused");
	like($err, $message, 'and says why');
	ok(!-e "$top/latin", 'and nothing is written');
}
system_or_bail('cp', '-p', $node->{key_file}, "$top/cl\xe9.key");
my $latin = PgDr::Test->new('latin');
($exit) = run_program('restore', $node->access(key_file => "$top/cl\xe9.key"), '--pgdata', $latin->data_dir);
is($exit, 0, 'a key file of any name will do');
$latin->own_address;
$latin->start;
$latin->wait_recovered;
$latin->teardown_node;

# Too little memory is no answer either, wherever it runs out.  (Of a request to an object store it is tried again, for long.)
if ($repository->is_directory)
{
	my $get = sub {
		my ($limit, @arguments) = @_;
		my ($status, undef, $said) = run_program('-c', "ulimit $limit && exec \"\$0\" \"\$@\"", @arguments, { program => 'sh' });
		unlink "$top/w";
		return ($status, $said);
	};
	my @alone = ('pg_dr', 'wal-get', @wal_get, $first, "$top/w");
	my ($enough) = grep { ($get->("-v $_", @alone))[0] == 0 } map { 10_000 + 2_000 * $_ } 1 .. 100;
	for my $case (
		[ 'pg_dr wal-get', map { [ $get->("-v $_", @alone) ] } map { $enough - 250 * $_ } 1 .. 40 ],
		[ 'pg_dr-wal-get', map { [ $get->("-d $_", 'pg_dr-wal-get') ] } map { 50 * $_ } 1 .. 12 ])
	{
		my ($what, @got) = @$case;
		ok(scalar(grep { $_->[1] =~ /out of memory/ } @got), "$what runs out of memory");
		is_deeply([ grep { $_ > 0 && $_ <= 125 } map { $_->[0] } @got ], [], 'and aborts recovery');
	}
}

# SQL: refused with a clean error.  [statement, message]
for my $case (
	[ q{SELECT dr_backup('ful')}, qr/ful/ ],
	[ q{SELECT dr_backup(NULL)}, qr/null|kind/i ],
	[ q{SELECT dr_cancel('no such backup')}, qr/no such backup/ ],
	[ qq{SELECT dr_cancel('$id')}, qr/\Q$id\E|not running/ ],
	[ q{SET pg_dr.repositories = 'main=file:///tmp/x'}, qr/cannot be changed|parameter/ ],
	[ q{SET pg_dr.nonsense = 1}, qr/nonsense/ ])
{
	my ($sql, $message) = @$case;
	($exit, $out, $err) = $node->psql('postgres', $sql);
	isnt($exit, 0, "refused: $sql");
	like($err, $message, 'and says why');
}

# Nobody but whom the DBA trusts.
$node->safe_psql('postgres', 'CREATE ROLE nobody LOGIN; CREATE ROLE watcher LOGIN IN ROLE pg_monitor');
for my $sql (q{SELECT dr_backup('full')}, q{SELECT dr_adopt()}, q{SELECT dr_sync()}, q{SELECT dr_cancel('x')}, 'SELECT * FROM dr_backups')
{
	($exit, undef, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', 'nobody' ]);
	like($err, qr/permission denied/, "not for everybody: $sql");
}
($exit) = $node->psql('postgres', 'SELECT * FROM dr_backups', extra_params => [ '-U', 'watcher' ]);
is($exit, 0, 'pg_monitor may look');
for my $setting ('pg_dr.encryption_key_file', 'pg_dr.repositories')
{
	($exit, $out, $err) = $node->psql('postgres', "SHOW $setting", extra_params => [ '-U', 'nobody' ]);
	isnt($exit, 0, "$setting is for superusers");
}

# Settings that are wrong when the server runs: the backup says so, the server lives on.
my $since = $node->alive_since;
for my $case (
	[ 'pg_dr.repositories', q{''}, qr/repositories/ ],
	[ 'pg_dr.repositories', q{'main=gopher://x'}, qr/gopher|repositories/ ],
	[ 'pg_dr.repositories', q{'file:///tmp/x'}, qr/repositories|name/ ],
	[ 'pg_dr.encryption_key_file', q{''}, qr/encryption_key_file/ ],
	[ 'pg_dr.encryption_key_file', "'$top/absent.key'", qr/absent\.key/ ],
	[ 'pg_dr.encryption_key_file', "'$top/typo.key'", qr/typo\.key/ ],
	[ 'pg_dr.encryption_key_file', "'$top/good.key'", qr/key/ ],
	[ 'pg_dr.encryption_key_file', q{'none'}, qr/key/ ])
{
	my ($setting, $value, $message) = @$case;
	my $conf = slurp_file($node->data_dir . '/postgresql.conf');
	$node->append_conf('postgresql.conf', "$setting = $value");
	my $offset = -s $node->logfile;
	$node->reload;
	($exit, $out, $err) = $node->psql('postgres', q{SELECT pg_sleep(0.3); SELECT dr_backup('full')});
	# A value that the setting itself refuses stays in the log, and the old one in force.
	if ($exit == 0) { like(slurp_file($node->logfile, $offset), qr/invalid value for parameter "\Q$setting\E"/, "$setting = $value: refused") }
	else { like($err, $message, "$setting = $value: dr_backup says why") }
	unlink $node->data_dir . '/postgresql.conf';
	$node->append_conf('postgresql.conf', $conf);
	$node->reload;
	# Every process must have read this file before it changes again.
	$node->safe_psql('postgres', 'SELECT pg_sleep(0.5)');
}
is($node->alive_since, $since, 'the server never restarted');
$node->safe_psql('postgres', q{SELECT pg_sleep(0.3); SELECT dr_backup('full')});
pass('and makes backups again');
$node->stop;

done_testing();
