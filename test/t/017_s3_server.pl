# What only a real S3 server shows: Object Lock, permissions that its own policy
# takes away, a full bucket, no multipart uploads after a kill; and verification.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();
use PgDr::Store;
use PgDr::Test qw(run_program wait_until);
use PostgreSQL::Test::Utils ();
use Test::More;

# ---- verification: sound, and not

{
	my $node = PgDr::Test->create('verified', store => [ kind => 's3' ]);
	my $repository = $node->repository;
	$node->safe_psql('postgres', 'CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 100000) g');
	my $first = $node->full_backup;
	my $second = $node->full_backup;
	is($node->safe_psql('postgres', 'SELECT * FROM dr_verify()'), '', 'dr_verify finds nothing in a sound backup');
	my ($exit, $out) = $node->program('verify');
	is($exit, 0, 'pg_dr verify: exit 0') and like($out, qr/\Q$second\E is sound: \d+ objects/, 'of the latest');

	my ($pack) = $repository->objects(qr{\Q$second\E/pack-});
	my ($other) = $repository->objects(qr{\Q$first\E/pack-});
	my ($manifest) = $repository->objects(qr{\Q$second\E/manifest});
	my $segment = $node->wal_object($node->safe_psql('postgres', "SELECT pg_walfile_name(stop_lsn - 1) FROM dr_backups WHERE id = '$second'"));
	for my $row (
		[ 'a flipped pack', $pack, sub { $repository->flip($pack) }, qr/SHA-256|damaged/ ],
		[ 'a missing pack', $pack, sub { $repository->remove($pack) }, qr/does not exist/ ],
		[ 'a longer pack', $pack, sub { $repository->write($pack, $repository->read($pack) . 'x') }, qr/longer|SHA-256/ ],
		[ 'another pack in its place', $pack, sub { $repository->copy($other, $pack) }, qr/SHA-256|longer|shorter/ ],
		[ 'a flipped manifest', $manifest, sub { $repository->flip($manifest) }, qr/damaged/ ],
		[ 'an emptied manifest', $manifest, sub { $repository->write($manifest, '') }, qr/short|damaged/ ],
		[ 'a flipped segment', $segment, sub { $repository->flip($segment) }, qr/damaged|not what this database recorded/ ],
		[ 'a missing segment', $segment, sub { $repository->remove($segment) }, qr/does not exist/ ])
	{
		my ($name, $object, $damage, $words) = @$row;
		my $bytes = $repository->read($object);
		$damage->();
		my @found = split /\n/, $node->safe_psql('postgres', 'SELECT object, problem FROM dr_verify()');
		is(scalar @found, 1, "$name: one finding");
		like($found[0], qr/^\Q$object\E\|.*$words/, "$name: which names it");
		my ($exit, undef, $err) = $node->program('verify', '--backup', $second);
		is($exit, 1, "$name: pg_dr verify fails");
		like($err, qr/\Q$object\E/, "$name: and names it");
		is(($node->program('verify', '--backup', $first))[0], 0, "$name: the other backup is sound");
		$repository->write($object, $bytes);
	}
	# Somebody with the key replaces pack and manifest by sound ones: only the catalogue knows.
	$node->safe_psql('postgres', "UPDATE dr.object SET sha256 = sha256('x') WHERE name = '$pack'");
	like($node->safe_psql('postgres', 'SELECT object, problem FROM dr_verify()'), qr/^\Q$pack\E\|.*not what this database recorded/, 'the catalogue\'s checksums count');
	is($node->safe_psql('postgres', "SELECT count(*) FROM dr_verify('$first', 'pages')"), 0, 'the first one is sound to depth pages');
	my (undef, undef, $err) = $node->psql('postgres', "SELECT dr_verify('nonsense')");
	like($err, qr/not the id of a backup/, 'so is what is no id');
	$node->stop;
}

# ---- Object Lock

{
	# Ceph 16 ignores If-None-Match where it keeps versions.
	my $bucket = PgDr::Store::S3::make_bucket('--object-lock');
	my $node = PgDr::Test->create('locked', store => [ kind => 's3', bucket => $bucket,
			query => { lock => 'governance', lock_days => 2, create_only => 'check' } ]);
	my $repository = $node->repository;
	$node->full_backup;
	$node->wait_archived;
	my %until = map { $_ => retained($bucket, $repository->key($_)) } $repository->objects;
	is_deeply([ grep { !m{^probe/} && (!$until{$_} || $until{$_} < time() + 40 * 3600) } sort keys %until ], [], 'every object is locked for two days');
	my @checks = split /\n/, $node->safe_psql('postgres', "SELECT name || ' ' || status FROM dr_check() WHERE name = 'object_lock'");
	is_deeply(\@checks, ['object_lock ok'], 'dr_check says that locks are honoured');
	my $locks = q{SELECT status FROM dr_status WHERE concern = 'locks'};
	is($node->safe_psql('postgres', $locks), 'ok', 'dr_status says that nothing will be unlocked soon');
	is($node->safe_psql('postgres', "UPDATE dr.object SET stored_at = now() - interval '40 hours', verified_at = NULL; $locks"), 'warning', 'and when something will be,');
	is($node->safe_psql('postgres', "UPDATE dr.object SET stored_at = now() - interval '3 days'; $locks"), 'critical', 'or is');

	PgDr::Store::S3::tool('retain', $bucket, $repository->key($_), 5) for keys %until;
	is($node->safe_psql('postgres', 'SELECT * FROM dr_verify()'), '', 'a locked backup is sound');
	my @needed = grep { m{/backup/|^keys/|^repository\.json$|/lineage/} } keys %until;
	is_deeply([ grep { retained($bucket, $repository->key($_)) < time() + 40 * 3600 } sort @needed ], [], 'verification extends locks that would lapse');
	$node->stop;

	my $plain = PgDr::Test->create('unlockable', store => [ kind => 's3', query => { lock => 'governance', lock_days => 2 } ]);
	my (undef, undef, $err) = $plain->psql('postgres', "SELECT dr_backup('full')");
	like($err, qr/refused the request.*HINT.*Object Lock/s, 'a bucket without Object Lock is named');
	$plain->stop('immediate');
}

# Unix time until which an object is locked, by the server's own words.
sub retained
{
	my ($bucket, $key) = @_;
	my ($date) = map { $_->[0] =~ /retain-until-date/i ? $_->[1] : () } map { [ split /: |\t/, ref $_ ? "$_->[0]\t$_->[1]" : $_, 2 ] } @{ PgDr::Store::S3::tool('head', $bucket, $key) };
	return 0 unless $date;
	my ($y, $m, $d, $h, $i) = $date =~ /(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d)/ or return 0;
	require Time::Local;
	return Time::Local::timegm(0, $i, $h, $d, $m - 1, $y);
}

# ---- the least that a writer and an auditor must be allowed, as doc/S3.md says

{
	my %server = PgDr::Store::S3::server();
	my $bucket = PgDr::Store::S3::make_bucket();
	my $document = PostgreSQL::Test::Utils::slurp_file("$FindBin::Bin/../../doc/S3.md");
	my ($writer, $auditor) = map {
		my $name = $_;
		my ($policy) = $document =~ /\*\*$name\*\*.*?```json\n(.*?)```/s or BAIL_OUT("doc/S3.md has no policy of the $name");
		$policy } 'Writer', 'Auditor';
	my %keys = map { ($_ => [ "AK$_$$", "SK$_$$" ]) } 'writer', 'auditor';
	PostgreSQL::Test::Utils::system_or_bail('radosgw-admin', split(' ', $server{admin}), 'user', 'create', "--uid=$_$$", "--display-name=$_",
		"--access-key=$keys{$_}[0]", "--secret=$keys{$_}[1]") for keys %keys;
	my @statements = map {
		my ($name, $policy) = @$_;
		s/BUCKET/$bucket/g, s/PREFIX/backups/g for $policy;
		map { $_->{Principal} = { AWS => ["arn:aws:iam:::user/$name$$"] }; $_ } @{ JSON::PP::decode_json($policy)->{Statement} }
	} ([ 'writer', $writer ], [ 'auditor', $auditor ]);

	my $node = PgDr::Test->create('allowed', start => 0, store => [ kind => 's3', bucket => $bucket, prefix => 'backups' ]);
	my $policy_file = $node->basedir . '/policy.json';
	PgDr::Store::spew($policy_file, JSON::PP::encode_json({ Version => '2012-10-17', Statement => \@statements }));
	PgDr::Store::S3::tool('put-bucket-policy', $bucket, $policy_file);
	my $as = sub {
		PgDr::Store::spew($node->repository->{credentials}, "[default]\naws_access_key_id = $keys{$_[0]}[0]\naws_secret_access_key = $keys{$_[0]}[1]\n");
		return;
	};
	$as->('writer');
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_dr; CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g');
	$node->full_backup;
	is($node->safe_psql('postgres', "SELECT status FROM dr_check() WHERE name = 'create_only'"), 'ok', 'the writer\'s permissions do');
	like($node->safe_psql('postgres', "SELECT detail FROM dr_check() WHERE name = 'remove'"), qr/can't remove/, 'and allow no removal, which the probe says');
	my $before = $node->checksums;
	# The bucket's owner, who looks into it for tests, may not read what the writer wrote.
	my $segment = $node->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');
	$node->poll_query_until('postgres', "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver") or die 'archiving';
	$node->stop;
	$as->('auditor');
	is(($node->program('verify'))[0], 0, 'the auditor may verify');
	my $restored = $node->restored('audited');
	is($restored->checksums, $before, 'and restore');
	my (undef, undef, $err) = $restored->psql('postgres', 'SELECT dr_adopt()');
	like($err, qr/access is denied.*s3:PutObject/s, 'but not write');
	$restored->stop;
}

# ---- a full bucket, and a kill in the middle

{
	my %server = PgDr::Store::S3::server();
	my $bucket = PgDr::Store::S3::make_bucket();
	my $node = PgDr::Test->create('full', store => [ kind => 's3', bucket => $bucket ]);
	$node->full_backup;
	my @admin = ('radosgw-admin', split(' ', $server{admin}), 'quota');
	my @scope = ('--quota-scope=bucket', "--bucket=$bucket");
	PostgreSQL::Test::Utils::system_or_bail(@admin, 'set', @scope, '--max-size=1048576');
	PostgreSQL::Test::Utils::system_or_bail(@admin, 'enable', @scope);
	my (undef, undef, $err) = $node->psql('postgres', "SELECT dr_backup('full')");
	like($err, qr/quota is used up/, 'a full bucket fails the backup');
	like($err, qr/HINT:.*[Mm]ake room/, 'and says what to do');
	PostgreSQL::Test::Utils::system_or_bail(@admin, 'disable', @scope);

	$node->hold_at('backup.pack_sealed');
	my $offset = -s $node->logfile;
	my $finish = $node->start_backup;
	$node->wait_held('backup.pack_sealed', $offset);
	kill 'KILL', $node->agents;
	$finish->();
	$node->hold_at('');
	is_deeply(PgDr::Store::S3::tool('list-multipart', $bucket), [], 'a killed backup leaves no multipart uploads');
	$node->full_backup;
	pass('and the next one succeeds');
	$node->stop;
}

done_testing();
