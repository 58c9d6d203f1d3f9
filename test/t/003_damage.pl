# Any single damaged, missing or swapped object is found before it does harm, and named.
#
# A restored cluster is good only when restore, recovery and every wal-get are; so a
# trial damages one object that the restore needs and asks that something fails and
# says the object's name.
use strict;
use warnings;
use File::Copy qw(copy);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test qw(campaign random_seed wait_until);
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
	wait_until('the end of the archive is noted', sub { $node->archived("$last.frontier") });
	my $sum = $node->checksums;
	$node->destroy;

	my $repository = $node->repository;
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
		damaged($node, "$sealed: flipped $what", $name, sub { $repository->flip($name) });
		damaged($node, "$sealed: cut $what", $name, sub { $repository->write($name, substr $repository->read($name), 0, -1) });
		damaged($node, "$sealed: emptied $what", $name, sub { $repository->write($name, '') });
		damaged($node, "$sealed: longer $what", $name, sub { $repository->write($name, $repository->read($name) . 'x') });
		damaged($node, "$sealed: missing $what", $name, sub { $repository->remove($name) });
	}

	# Sound objects in the wrong place.
	damaged($node, "$sealed: a segment under another's name", $wal[1], sub { $repository->copy($wal[2], $wal[1]) });
	damaged($node, "$sealed: a segment in place of a pack", $packs[0], sub { $repository->copy($wal[2], $packs[0]) });
	damaged($node, "$sealed: a pack in place of the manifest", $backup, sub { $repository->copy($packs[0], $backup) });

	SKIP:
	{
		skip 'only directories have links: a link in place of a segment', 1 unless $repository->is_directory;
		my $path = $repository->path($wal[1]);
		damaged($node, "$sealed: a link in place of a segment", $wal[1],
			sub { rename $path, "$path-moved" or die $!; symlink "$path-moved", $path or die $! });
		unlink "$path-moved";
	}

	# Random bytes of random objects.
	my @needed = ($backup, @packs, @wal, map { $_->[1] } @kinds[ 0, 1 ]);
	for my $trial (1 .. (campaign() ? 200 : 20))
	{
		my $name = $needed[ rand @needed ];
		my $at = int rand($repository->size($name));
		my $removed = rand() < 0.2;
		damaged($node, "$sealed: trial $trial, " . ($removed ? 'removed' : "8 bytes at $at"), $name,
			sub { $removed ? $repository->remove($name) : $repository->flip($name, $at) });
	}

	# What is not ours is left alone, and in nobody's way.
	my @strangers = ('lost+found', 'keys/00000001.bak', 'keys/x', substr($backup, 0, -8) . 'pack-1',
		substr($wal[0], 0, -24) . 'ffffffff', substr($wal[0], 0, -24) . '.hidden', $node->system_identifier . '/wal/notes.txt');
	$repository->write($_, 'not a pg_dr object') for @strangers;
	my $good = $node->restored("good_$sealed");
	is(scalar(grep { $repository->exists($_) } @strangers), scalar @strangers, "$sealed: what is not ours is still there");
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
	damaged($one, "$theirs of another repository", $ours, sub { $one->repository->write($ours, $two->repository->read($theirs)) });
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
	my $kept = $node->repository->read($name);
	$damage->();
	my $missing = !$node->repository->exists($name);

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
		($exit, $said) = recovery_fails($node, $what) if $missing;
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
	my ($reader_exit) = $node->reader('verify');
	isnt($reader_exit, 0, "$what: the independent reader agrees") unless $missing && $name =~ /manifest$/;
	$node->repository->remove($name) unless $missing;
	$node->repository->write($name, $kept);
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
