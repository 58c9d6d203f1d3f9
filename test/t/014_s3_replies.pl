# What a hostile or failing S3 server answers, what is done about it, and how it
# is said: one clear error that names object or repository, with a HINT.  Nothing
# that a server says makes pg_dr believe in what is not there, or hang.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use PgDr::S3;
use PgDr::Test qw(run_program);
use IPC::Run ();
use Test::More;
use Time::HiRes qw(time);

my $s3 = PgDr::S3->scripted('--page', 3);
my ($history) = map { PgDr::S3::file("data/pg_wal/0000000$_.history", "1\t0/3000000\tno recovery target specified\n") } 2, 3;
my $good = $s3->url('good', retry => 2, stall => 2);
my @archive = ({ op => 'archive', name => '00000002.history' });

# ---- the server is all right

{
	my @events = $s3->agent($good, { op => 'check' });
	is_deeply([ map { $_->{status} } grep { $_->{event} eq 'check' && $_->{name} ne 'encryption' } @events ],
		[ ('ok') x (grep { $_->{event} eq 'check' && $_->{name} ne 'encryption' } @events) ], 'a server that keeps the rules passes the probe');
	is_deeply([ grep { m{/probe/} } @{ $s3->control({})->{objects} } ], [], 'a probe leaves nothing behind');
	is(($s3->agent($good, @archive))[-1]{event}, 'done', 'a file is archived');
	my ($exit, $out) = $s3->program($good, 'list');
	is($exit, 0, 'pg_dr list') and like($out, qr/cluster 7/, 'shows the cluster');
}

# ---- what is tried again, and succeeds

for my $row (
	[ 'SlowDown', { status => 503, code => 'SlowDown' } ],
	[ 'a 500', { status => 500, code => 'InternalError' } ],
	[ 'a 503 without words', { status => 503, empty => 1 } ],
	[ 'a 429 with Retry-After', { status => 429, code => 'TooMany', headers => { 'Retry-After' => '1' } } ],
	[ 'RequestTimeout, a 400', { status => 400, code => 'RequestTimeout' } ],
	[ 'ConditionalRequestConflict', { method => 'PUT', status => 409, code => 'ConditionalRequestConflict' } ],
	[ 'a connection closed before the reply', { do => 'close' } ],
	[ 'a connection closed within the request', { method => 'PUT', do => 'close_in_body', value => 10 } ],
	[ 'an object stored, the answer lost', { method => 'PUT', do => 'close_after' }, 'keeps' ],
	[ 'a reply that is cut', { method => 'GET', key => 'repository', do => 'cut', value => 20 } ],
	[ 'a reply shorter than announced', { method => 'GET', key => 'repository', do => 'wrong_length' } ],
	[ 'a 200 that holds an error', { method => 'PUT', do => 'hidden_error', value => 'InternalError' }, 'keeps' ],
	[ 'a server that hangs', { method => 'PUT', do => 'delay', value => 4 } ],
	[ 'a clock that is wrong', { do => 'skew', value => 7200, times => 1 << 30 } ],
	[ 'a redirect', { method => 'PUT', status => 307, code => 'TemporaryRedirect', headers => { Location => "http://localhost:$s3->{port}/bucket/good/7/wal/00000002/00000002.history" } } ],
	[ '304 for what is taken', { method => 'PUT', do => 'not_modified', times => 1 << 30 }, 'again' ])
{
	my ($name, $rule, $twice) = @$row;
	my $prefix = 'retry' . $name =~ s/\W//gr;
	my $url = $s3->url($prefix, retry => 10, stall => 2);
	$s3->rules();
	is(($s3->agent($url))[-1]{event}, 'done', "$name: repository made") or next;
	$s3->rules({ times => 2, %$rule, key => $rule->{key} // 'history' });
	my $start = time();
	my @events = $s3->agent($url, @archive);
	is($events[-1]{event}, 'done', "$name: archived nevertheless") or diag PgDr::S3::error_of($events[-1]);
	cmp_ok(time() - $start, '<', 30, "$name: in time");
	$s3->rules();
	is(scalar(grep { m{/$prefix/7/wal/} } @{ $s3->control({})->{objects} }), 1, "$name: stored once");
}

# ---- what is an error at once, or when patience is over

sub failing
{
	my ($name, $rules, $expected, $hint, $run) = @_;
	$s3->rules(@$rules);
	my $start = time();
	my $said = $run->();
	my $took = time() - $start;
	$s3->rules();
	like($said, $expected, "$name: said");
	like($said, $hint, "$name: and what to do");
	cmp_ok($took, '<', 40, "$name: in time");
	unlike($said, qr/secret-of-scripted/, "$name: no secret is shown");
	return;
}

sub listing_says
{
	my ($url, $with) = @_;
	return sub {
		my ($exit, $out, $err) = ($with // $s3)->program($url, 'list');
		isnt($exit, 0, 'it fails');
		return $err;
	};
}

sub agent_says
{
	my ($url, @ops) = @_;
	return sub { return PgDr::S3::error_of(($s3->agent($url, @ops))[-1]) };
}

sub wal_get_exit
{
	my ($url) = @_;
	return sub {
		my ($exit, undef, $err) = $s3->program($url, 'wal-get', '--system-identifier', '7', '000000010000000000000009', "$history.got");
		cmp_ok($exit, '>', 125, 'wal-get aborts recovery');
		return $err;
	};
}

{
	my $with = sub { my %other = %$s3; delete $other{run}; $other{credentials} = PgDr::S3::credentials(@_); return bless \%other, 'PgDr::S3' };
	failing('wrong secret', [], qr/secret key does not match/, qr/Correct the credentials/, listing_says($good, $with->('AKIDSCRIPTED', 'other')));
	failing('unknown key', [], qr/does not know the access key/, qr/Correct the credentials/, listing_says($good, $with->('AKIDOTHER', 'other')));
	failing('expired token', [], qr/credentials have expired/, qr/Renew them/, listing_says($good, $with->('AKIDSCRIPTED', 'secret-of-scripted', 'old')));
}
failing('missing bucket', [], qr/repository\.json.*bucket does not exist/s, qr/Create the bucket/, listing_says($s3->url('good', bucket => 'nobucket')));
failing('missing bucket, in recovery', [], qr/bucket does not exist/, qr/Create the bucket/, wal_get_exit($s3->url('good', bucket => 'nobucket')));
failing('wrong region', [], qr/another region/, qr/region=us-east-1/, listing_says($s3->url('good', region => 'eu-west-9')));
failing('PUT not allowed', [ { method => 'PUT', status => 403, code => 'AccessDenied' } ], qr/could not write object.*access is denied/, qr/s3:PutObject/, agent_says($s3->url('denied')));
failing('GET not allowed', [ { method => 'GET', key => '.', status => 403, code => 'AccessDenied' } ], qr/could not read object.*access is denied/, qr/s3:GetObject/, listing_says($good));
failing('LIST not allowed', [ { method => 'GET', key => '^$', status => 403, code => 'AccessDenied' } ], qr/could not list repository.*access is denied/, qr/s3:ListBucket/, listing_says($good));
failing('403 without a body', [ { status => 403, empty => 1 } ], qr/access is denied/, qr/Allow the access key/, listing_says($good));
failing('quota', [ { method => 'PUT', status => 403, code => 'QuotaExceeded' } ], qr/quota is used up/, qr/Make room/, agent_says($good, { op => 'archive', name => '00000003.history' }));
failing('another region by redirect', [ { status => 301, code => 'PermanentRedirect', headers => { 'x-amz-bucket-region' => 'eu-central-1' } } ], qr/another endpoint/, qr/region/, listing_says($good));
failing('a redirect to nowhere good', [ { status => 307, code => 'TemporaryRedirect', headers => { Location => 'http://192.0.2.1/bucket' } } ], qr/could not read/, qr/DETAIL|HINT/, listing_says($good));
failing('redirects without end', [ { status => 307, code => 'TemporaryRedirect', headers => { Location => "http://localhost:$s3->{port}/bucket" } } ], qr/could not read/, qr/HINT/, listing_says($good));
failing('a proxy answers 404', [ { method => 'GET', key => '.', status => 404, body => '<html>not found</html>' } ], qr/could not read object/, qr/S3 server/, wal_get_exit($good));
failing('a proxy answers 200 to a PUT', [ { method => 'PUT', do => 'html' } ], qr/did not confirm/, qr/S3 server/, agent_says($s3->url('html')));
failing('no listing', [ { key => '^$', status => 200, body => '<html>hello</html>' } ], qr/no listing/, qr/S3 server/, listing_says($good));
failing('a listing with entities', [ { key => '^$', do => 'entities' } ], qr/document type declaration/, qr/S3 server/, listing_says($good));
failing('a listing that repeats itself', [ { key => '^$', do => 'repeat' } ], qr/does not advance|no listing/, qr/S3 server/, listing_says($good));
failing('an endless reply', [ { method => 'GET', key => 'json', do => 'endless' } ], qr/longer than it may be/, qr/HINT/, listing_says($good));
failing('endless headers', [ { method => 'GET', key => 'json', do => 'endless_headers' } ], qr/headers|Too large/, qr/HINT/, listing_says($good));
failing('overwrites', [ { method => 'PUT', do => 'ignore_condition' } ], qr/lets an object be replaced/, qr/create_only=check/, agent_says($s3->url('overwrites')));
failing('overwrites in a race', [ { method => 'PUT', key => 'race', do => 'racy' } ], qr/eight writers/, qr/create_only=check/, agent_says($s3->url('races')));
failing('confirms and forgets', [ { method => 'PUT', do => 'lie' } ], qr/replaced|does not exist|not listed/, qr/./, agent_says($s3->url('lies')));
failing('stores something else', [ { method => 'PUT', do => 'spoil' } ], qr/other bytes than were sent/, qr/Don't trust/, agent_says($s3->url('spoils')));
failing('hides what was stored', [ { key => '^$', do => 'hide' } ], qr/not listed/, qr/consistent/, agent_says($s3->url('hides')));
failing('an outage', [ { status => 503, code => 'SlowDown' } ], qr/overloaded/, qr/Look at the store/, listing_says($good));
failing('nobody there', [], qr/Failed to connect|Couldn't connect/i, qr/Check the endpoint/, listing_says($s3->url('good', endpoint => 'http://127.0.0.1:9', retry => 2)));

# A standby waits for what may pass or be put right elsewhere, and says why; what is wrong with its own options it says at once.
for my $row (
	[ 'access denied', { status => 403, code => 'AccessDenied' }, qr/access is denied.*s3:GetObject.*The standby waits/s ],
	[ 'a 403 without a body', { status => 403, empty => 1 }, qr/access is denied.*The standby waits/s ],
	[ 'an expired token', { status => 400, code => 'ExpiredToken' }, qr/credentials have expired.*Renew them.*The standby waits/s ],
	[ 'keys that are not known yet', { status => 403, code => 'InvalidAccessKeyId' }, qr/does not know the access key.*The standby waits/s ],
	[ 'a wrong clock', { status => 403, code => 'RequestTimeTooSkewed' }, qr/clock.*The standby waits/s ],
	[ 'no bucket', { status => 404, code => 'NoSuchBucket' }, qr/bucket does not exist.*The standby waits/s ],
	[ 'an empty bucket', { status => 404, code => 'NoSuchKey' }, qr/not a pg_dr repository.*The standby waits/s ])
{
	my ($name, $rule, $expected) = @$row;
	my ($out, $err) = ('', '');
	$s3->rules($rule);
	my $run = IPC::Run::start([ 'pg_dr', 'wal-get', '--repository', $good, '--key-file', PgDr::S3::key_file(), '--credentials-file', $s3->{credentials},
			'--system-identifier', '7', '--wait', '00000002.history', "$history.got" ], '<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(90));
	$run->pump until $err =~ /\n.*waits/s || !$run->pumpable;
	$s3->rules();
	$run->finish;
	is($?, 0, "standby, $name: it waits, and gets the file");
	like($err, $expected, "standby, $name: said meanwhile");
	unlink "$history.got";
}
for my $row (
	[ 'wrong region', $s3->url('good', region => 'eu-west-9'), PgDr::S3::key_file(), qr/another region/ ],
	[ 'wrong parameter', $s3->url('good', lokc => 'governance'), PgDr::S3::key_file(), qr/unknown parameter/ ],
	[ 'wrong key', $good, 'none', qr/no key file was given/ ],
	[ 'no key', $good, '/nonexistent.key', qr/could not open key file/ ])
{
	my ($name, $url, $key_file, $expected) = @$row;
	my ($exit, undef, $err) = run_program('wal-get', '--repository', $url, '--key-file', $key_file, '--credentials-file', $s3->{credentials},
		'--system-identifier', '7', '--wait', '00000002.history', "$history.got", { timeout => 60 });
	cmp_ok($exit, '>', 125, "standby, $name: aborts recovery");
	like($err, $expected, "standby, $name: and says why");
}

# Other rules of these servers, which cost something, but no data.
for my $row (
	[ 'ignores wrong MD5s', { method => 'PUT', key => 'md5', do => 'accept_md5' }, 'content_md5', qr/ignores Content-MD5/ ],
	[ 'has no ranges', { method => 'GET', do => 'ignore_range' }, 'ranged_read', qr/can't be read/ ],
	[ 'may not delete', { method => 'POST|DELETE', key => '', status => 403, code => 'AccessDenied' }, 'remove', qr/can't remove/ ],
	[ 'has another clock', { do => 'skew', value => 300 }, 'clock', qr/300 s|299 s|301 s/ ])
{
	my ($name, $rule, $finding, $expected) = @$row;
	$s3->rules(map { { %$rule, method => $_ } } split /\|/, $rule->{method} // 'HEAD');
	my ($said) = grep { $_->{event} eq 'check' && $_->{name} eq $finding } $s3->agent($s3->url('costs'), [ writer => JSON::PP::true ], { op => 'check' });
	$s3->rules();
	like($said->{detail}, $expected, "$name: the probe says so");
}
{
	$s3->rules({ method => 'PUT', do => 'opaque' });
	is(($s3->agent($s3->url('opaque')))[-1]{event}, 'done', 'ETags that are no MD5s: content decides');
	$s3->rules({ method => 'PUT', do => 'ignore_condition' });
	my @events = $s3->agent($s3->url('asked', create_only => 'check'));
	is($events[-1]{event}, 'done', 'create_only=check makes do with a server that overwrites');
	$s3->rules();
	is(scalar(grep { $_->[1] =~ m{asked/probe/\w+/first} } $s3->requests('PUT')), 1, 'since it asks first');
}

# Hostile names in a listing are no objects.
{
	$s3->rules({ key => '^$', do => 'strangers' });
	my ($exit, $out, $err) = $s3->program($good, 'list');
	$s3->rules();
	is($exit, 0, 'a listing with hostile names is read');
	unlike($out . $err, qr/passwd/, 'but not believed');
}

# Credentials that change while the program runs are read again.
{
	my $file = $s3->{credentials};
	$s3->control({ keys => { NEWKEY => [ 'new-secret', undef ] } });
	failing('keys were changed at the server', [], qr/does not know the access key/, qr/Correct/, listing_says($good));
	PostgreSQL::Test::Utils::append_to_file($file, "\n");
	my $new = PgDr::S3::credentials('NEWKEY', 'new-secret');
	rename $new, $file or die $!;
	is(($s3->program($good, 'list'))[0], 0, 'new keys are taken from the file');
	chmod 0644, $file;
	failing('a file that others can read', [], qr/only its owner can read/, qr/chmod 0600/, listing_says($good));
	chmod 0600, $file;
	$s3->control({ keys => { AKIDSCRIPTED => [ 'secret-of-scripted', undef ] } });
	rename PgDr::S3::credentials('AKIDSCRIPTED', 'secret-of-scripted'), $file or die $!;
}

# ---- TLS

{
	my ($certificate, $key) = PgDr::S3::certificate('127.0.0.1');
	my ($other_certificate, $other_key) = PgDr::S3::certificate('other.example');
	my $tls = PgDr::S3->scripted('--tls', $certificate, $key);
	my $misnamed = PgDr::S3->scripted('--tls', $other_certificate, $other_key);
	my @made = $tls->agent($tls->url('tls', ca_file => $certificate));
	is($made[-1]{event}, 'done', 'TLS with a certificate authority of one\'s own');
	failing('untrusted certificate', [], qr/certificate/i, qr/ca_file/, listing_says($tls->url('tls'), $tls));
	failing('certificate of another name', [], qr/does not match|no alternative certificate/i, qr/host name/, listing_says($misnamed->url('tls', ca_file => $other_certificate), $misnamed));
	failing('ca_file is missing', [], qr/could not read the certificates/, qr/PEM/, listing_says($tls->url('tls', ca_file => '/nonexistent.pem'), $tls));
	failing('plain http to a TLS port', [], qr/./, qr/HINT/, listing_says($tls->url('tls', endpoint => "http://127.0.0.1:$tls->{port}", retry => 2), $tls));
}

# ---- URLs

for my $row (
	[ 's3://b', qr/does not name a bucket/ ],
	[ 's3://bucket/a//b', qr/prefix/ ],
	[ 's3://bucket/../x', qr/prefix/ ],
	[ 's3://bucket/p?lock=compliance', qr/only one of/ ],
	[ 's3://bucket/p?lock=forever&lock_days=3', qr/wrong value for "lock"/ ],
	[ 's3://bucket/p?sse_customer_key=abc', qr/SSE-C/ ],
	[ 's3://bucket/p?secret_key=abc', qr/holds credentials/ ],
	[ 's3://bucket/p?endpoint=http://store.example', qr/without TLS/ ],
	[ 's3://bucket/p?endpoint=https://user:pw@store.example', qr/malformed endpoint/ ],
	[ 's3://bucket/p?endpoint=https://store.example/path', qr/malformed endpoint/ ],
	[ 's3://bucket/p?storage_class=a%0d%0ab', qr/wrong value/ ],
	[ 's3://bucket/p?retry=soon', qr/wrong value/ ],
	[ 's3://bucket/p?lokc=governance', qr/unknown parameter/ ])
{
	my ($url, $expected) = @$row;
	my ($exit, undef, $err) = $s3->program($url, 'list');
	is($exit, 1, "$url is refused") and like($err, $expected, 'with the reason');
	like($err, qr/HINT/, 'and a hint');
}

# ---- what archiving costs: each segment one PUT, one listing for all of them, and a look at the lineage once a second

{
	my %magic = (15 => 0xD110, 16 => 0xD113, 17 => 0xD116, 18 => 0xD118);
	my ($major) = qx(pg_config --version) =~ /(\d+)/;
	my $size = 1 << 20;
	my @names = map { sprintf '0000000100000000%08X', $_ } 1 .. 40;
	unlink $history, $history =~ s/2\.history$/3.history/r;	# the timeline is the one that is written
	for my $name (@names)
	{
		my $header = pack 'S S L Q L L Q L L', $magic{$major}, 2, 1, hex(substr $name, 8) * $size, 0, 0, 7, $size, 8192;
		PgDr::S3::file("data/pg_wal/$name", $header . join '', map { pack 'L', rand 2**32 } 1 .. ($size - 40) / 4);
		PgDr::S3::file("data/pg_wal/archive_status/$name.ready", '');
	}
	my $url = $s3->url('costs');
	$s3->agent($url);
	$s3->control({ clear => \0 });
	my $before = @{ $s3->control({})->{log} };
	my $begin = time();
	my @events = $s3->agent($url, map { { op => 'archive', name => $_ } } @names);
	is(scalar(grep { $_->{event} eq 'done' } @events), 41, 'a backlog of 40 segments is archived');
	my @log = @{ $s3->control({})->{log} };
	splice @log, 0, $before;
	my @puts = grep { $_->[0] eq 'PUT' } @log;
	is_deeply([ sort map { m{/wal/00000001/([0-9A-F]{24})$} ? $1 : () } map { $_->[1] } @puts ], \@names, 'each segment is one PUT');
	cmp_ok(@puts - @names, '<=', 2 + time() - $begin, 'and a note once a second');
	is(scalar(grep { $_->[2] =~ /list-type/ && $_->[1] . $_->[2] =~ /wal/ } @log), 1, 'the WAL is listed once');
	cmp_ok(scalar(grep { $_->[0] eq 'GET' } @log), '<', 10 + 2 * (time() - $begin), 'few other requests: ' . scalar(grep { $_->[0] eq 'GET' } @log));
	cmp_ok($s3->control({})->{most_at_once}, '>', 2, 'several at once');
}

done_testing();
