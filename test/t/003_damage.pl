# Any single damaged, missing or swapped object is found before it does harm, and named.
#
# A restored cluster is good only when restore, recovery and every wal-get are; so a
# trial damages one object that the restore needs and asks that something fails and
# says the object's name.
use strict;
use warnings;
use File::Copy qw(copy move);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test qw(campaign flip random_seed reader wait_until);
use Test::More;

random_seed();

for my $encryption (1, 0)
{
	my $sealed = $encryption ? 'sealed' : 'clear';
	my $node = PgDr::Test->create("main_$sealed", encryption => $encryption, wal_segsize => 1);
	$node->safe_psql('postgres', 'CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 5000) g');
	my $id = $node->full_backup;
	$node->safe_psql('postgres', 'INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 30000) g');
	my $last = $node->wait_archived;
	wait_until('the end of the archive is noted', sub { -e $node->object_path($node->wal_object($last)) . '.frontier' });
	my $sum = $node->checksums;
	$node->destroy;

	my ($backup) = $node->objects(qr{/backup/\Q$id\E/manifest$});
	my @packs = $node->objects(qr{/backup/\Q$id\E/pack-});
	my @wal = $node->objects(qr{/wal/[0-9A-F]{8}/[0-9A-F]{24}$});
	my ($start) = $node->listing;
	@wal = grep { substr($_, -24) ge segment_of($start->{start_lsn}) && substr($_, -24) le $last } @wal;
	my @kinds = (
		[ 'repository.json', 'repository.json' ],
		[ 'keyring', ($node->objects(qr{^keys/}))[-1] ],
		[ 'manifest', $backup ],
		[ 'pack', $packs[0] ],
		[ 'first segment', $wal[0] ],
		[ 'middle segment', $wal[ @wal / 2 ] ],
		[ 'last segment', $wal[-1] ]);
	ok(@wal > 3, 'a few segments are needed');

	for my $kind (@kinds)
	{
		my ($what, $name) = @$kind;
		damaged($node, "$sealed: flipped $what", $name, sub { flip($_[0]) });
		damaged($node, "$sealed: cut $what", $name, sub { truncate $_[0], (-s $_[0]) - 1 });
		damaged($node, "$sealed: emptied $what", $name, sub { truncate $_[0], 0 });
		damaged($node, "$sealed: longer $what", $name, sub { append_to_file($_[0], 'x') });
		damaged($node, "$sealed: missing $what", $name, sub { unlink $_[0] });
	}

	# Sound objects in the wrong place.
	damaged($node, "$sealed: a segment under another's name", $wal[1], sub { copy($node->object_path($wal[2]), $_[0]) });
	damaged($node, "$sealed: a segment in place of a pack", $packs[0], sub { copy($node->object_path($wal[2]), $_[0]) });
	damaged($node, "$sealed: a pack in place of the manifest", $backup, sub { copy($node->object_path($packs[0]), $_[0]) });

	damaged($node, "$sealed: a link in place of a segment", $wal[1],
		sub { copy($_[0], "$_[0]-moved"); unlink $_[0]; symlink "$_[0]-moved", $_[0] or die $! });
	unlink $node->object_path("$wal[1]-moved");

	# Random bytes of random objects.
	my @needed = ($backup, @packs, @wal, map { $_->[1] } @kinds[ 0, 1 ]);
	for my $trial (1 .. (campaign() ? 200 : 20))
	{
		my $name = $needed[ rand @needed ];
		my $at = int rand(-s $node->object_path($name));
		my $removed = rand() < 0.2;
		damaged($node, "$sealed: trial $trial, " . ($removed ? 'removed' : "8 bytes at $at"), $name,
			sub { $removed ? unlink $_[0] : flip($_[0], $at) });
	}

	# What is not ours is left alone, and in nobody's way.
	my @strangers = map { "$node->{repository}/$_" } 'lost+found', 'keys/00000001.bak', 'keys/x', substr($backup, 0, -8) . 'pack-1',
		substr($wal[0], 0, -24) . 'ffffffff', substr($wal[0], 0, -24) . '.hidden', $node->system_identifier . '/wal/notes.txt';
	append_to_file($_, 'not a pg_dr object') for @strangers;
	my $good = $node->restored("good_$sealed");
	is(scalar(grep { -e } @strangers), scalar @strangers, "$sealed: what is not ours is still there");
	is($good->checksums, $sum, "$sealed: with everything put right it restores");
	$good->stop;
}

# Objects of another repository, opened by the same key, are not ours either.
my $one = PgDr::Test->create('one', wal_segsize => 1);
my $two = PgDr::Test->create('two', wal_segsize => 1, start => 0);
copy($one->{key_file}, $two->{key_file}) or die $!;
$two->start;
$two->safe_psql('postgres', 'CREATE EXTENSION pg_dr');
my %needed;
for my $node ($one, $two)
{
	my $id = $node->full_backup;
	my $first = $node->safe_psql('postgres', "SELECT pg_walfile_name(start_lsn) FROM dr_backups WHERE id = '$id'");
	$node->wait_archived;
	$needed{$node} = [ $node->wal_object($first), $node->objects(qr{/backup/\Q$id\E/(pack-00000001|manifest)$}), 'keys/00000001' ];
}
$one->destroy;
for my $i (0 .. $#{ $needed{$one} })
{
	my ($ours, $theirs) = ($needed{$one}[$i], $needed{$two}[$i]);
	damaged($one, "$theirs of another repository", $ours, sub { copy($two->object_path($theirs), $_[0]) or die $! });
}
$two->stop;

sub segment_of
{
	my ($high, $low) = map { hex } split '/', $_[0];
	return sprintf '%08X%08X%08X', 1, $high, $low >> 20;
}

# Damage one object for the time of a restore: who opens it fails, and says its name.
my $trials;

sub damaged
{
	my ($node, $what, $name, $damage) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $path = $node->object_path($name);
	copy($path, "$path.kept") or die "$path: $!";
	move("$path.kept", $node->basedir . '/kept') or die $!;
	chmod 0600, $path;
	$damage->($path);

	my ($exit, $said);
	if ($name =~ m{/wal/})
	{
		my $segment = substr($name, -24);
		my $to = $node->basedir . '/wal-get';
		($exit, undef, $said) = $node->program('wal-get', '--system-identifier', $node->system_identifier, $segment, $to);
		# Exit 1 is "not there": never for a hole, because recovery would end in it.
		ok($exit > 125, "$what: wal-get says so (exit $exit)");
		like($said, qr/\Q$name\E/, "$what: wal-get names it");
		ok(!-e $to, "$what: wal-get hands out nothing");
		($exit, $said) = recovery_fails($node, $what) unless -e $path;
	}
	else
	{
		my $new;
		($new, $exit, undef, $said) = $node->try_restore('t' . ++$trials);
		isnt($exit, 0, "$what: restore fails");
		ok(!-e $new->data_dir . '/global/pg_control', "$what: and leaves nothing that could be started");
		File::Path::rmtree($new->basedir);
	}
	like($said, qr/\Q$name\E/, "$what: and names it");

	# Without its manifest a backup does not exist: then nothing is damaged.
	my ($reader_exit) = reader('verify', '--repository', $node->{repository}, '--key-file', $node->{key_file});
	isnt($reader_exit, 0, "$what: the independent reader agrees") if -e $path || $name !~ /manifest$/;
	unlink $path;
	move($node->basedir . '/kept', $path) or die $!;
	return;
}

# A hole: either restore refuses, or recovery aborts; it never ends early and calls that the end.
sub recovery_fails
{
	my ($node, $what) = @_;
	my ($new, $exit, undef, $said) = $node->try_restore('t' . ++$trials);
	if ($exit == 0)
	{
		$new->own_address;
		$said = $new->start_fails;
		$exit = 1;
	}
	isnt($exit, 0, "$what: no restore across the hole");
	return ($exit, $said);
}

done_testing();
