# Who we are to the store: each source of credentials, renewal while the program
# runs, and what is said when a source fails.  Nothing of it goes through a proxy.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use HTTP::Tiny;
use JSON::PP ();
use PgDr::S3;
use PgDr::Test qw(run_program);
use PostgreSQL::Test::Utils ();
use Test::More;
use Time::HiRes qw(time);

my $s3 = PgDr::S3->scripted;
my $services = PgDr::S3->start(command => [ "$FindBin::Bin/../servers/credentials-scripted" ]);
my $url = $s3->url('who', retry => 5);
is(($s3->agent($url))[-1]{event}, 'done', 'a repository made with the keys of a file');

my %temporary = (AKIDTEMP => [ 'secret-of-temp', 'token-of-temp' ]);
$s3->control({ keys => \%temporary });

# Nothing of this machine's own environment counts; proxies lead nowhere.
my $home = PostgreSQL::Test::Utils::tempdir_short();
my %nothing = (HOME => $home, AWS_EC2_METADATA_SERVICE_ENDPOINT => 'http://127.0.0.1:9');
delete $ENV{$_} for grep { /^AWS_|_proxy$/i } keys %ENV;
my $service = "http://127.0.0.1:$services->{port}";
my $token = PgDr::S3::file('web.token', "the-web-token\n");
my $container = PgDr::S3::file('container.token', "the-container-token\n");

sub say_to_services
{
	my ($order) = @_;
	my $reply = HTTP::Tiny->new->post("$service/_control", { content => JSON::PP::encode_json($order) });
	return JSON::PP::decode_json($reply->{content});
}

sub normal { say_to_services({ keys => [ 'AKIDTEMP', 'secret-of-temp', 'token-of-temp' ], lifetime => 3600, fail => [ 0, 0 ], body => undef }); return }

sub list
{
	my ($environment, @arguments) = @_;
	return run_program('list', '--repository', $url, '--key-file', PgDr::S3::key_file(), @arguments, { env => { %nothing, %$environment } });
}

my %web = (AWS_WEB_IDENTITY_TOKEN_FILE => $token, AWS_ROLE_ARN => 'arn:aws:iam::1:role/r', AWS_ENDPOINT_URL_STS => "$service/sts");
my %full = (AWS_CONTAINER_CREDENTIALS_FULL_URI => "$service/container", AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE => $container);
my %instance = (AWS_EC2_METADATA_SERVICE_ENDPOINT => $service);
my $json = PgDr::S3::file('answer.json', '{"Version":1,"AccessKeyId":"AKIDTEMP","SecretAccessKey":"secret-of-temp","SessionToken":"token-of-temp"}');
my $process = PgDr::S3::file('process', "[default]\ncredential_process = /bin/sh -c 'cat \"$json\"'\n");
my $profiles = PgDr::S3::file('profiles', "; two\n[default]\naws_access_key_id = AKIDOTHER\naws_secret_access_key = x\n\n[ backup ]\r\naws_access_key_id=AKIDTEMP\r\naws_secret_access_key = secret-of-temp\r\naws_session_token = token-of-temp\r\n");
my $config = PgDr::S3::file('config', "[profile web]\nrole_arn = arn:aws:iam::1:role/r\nweb_identity_token_file = $token\n[profile chained]\nsource_profile = default\n");

# ---- each source

for my $row (
	[ 'the environment', { AWS_ACCESS_KEY_ID => 'AKIDTEMP', AWS_SECRET_ACCESS_KEY => 'secret-of-temp', AWS_SESSION_TOKEN => 'token-of-temp' } ],
	[ 'web identity', \%web ],
	[ 'the container by full address', \%full ],
	[ 'the container, token in the environment', { AWS_CONTAINER_CREDENTIALS_FULL_URI => "$service/container", AWS_CONTAINER_AUTHORIZATION_TOKEN => 'the-container-token' } ],
	[ 'instance metadata', \%instance ],
	[ 'a shared credentials file and a profile', { AWS_SHARED_CREDENTIALS_FILE => $profiles, AWS_PROFILE => 'backup' } ],
	[ 'a config file\'s web identity', { AWS_CONFIG_FILE => $config, AWS_PROFILE => 'web', AWS_ENDPOINT_URL_STS => "$service/sts" } ],
	[ 'a file that was named before all else', { %instance, AWS_ACCESS_KEY_ID => 'other', AWS_SECRET_ACCESS_KEY => 'x' }, '--credentials-file', $process ])
{
	my ($name, $environment, @arguments) = @$row;
	my ($exit, undef, $err) = list({ %$environment, HTTP_PROXY => 'http://127.0.0.1:9' }, @arguments);
	is($exit, 0, "credentials from $name") or diag $err;
}

# The store's requests may take a proxy; those for credentials must not.
{
	my ($exit, undef, $err) = list({ %web, http_proxy => 'http://127.0.0.1:9', all_proxy => 'http://127.0.0.1:9' });
	isnt($exit, 0, 'a proxy that is not there is used for the store');
	like($err, qr/could not read object/, 'for the store only: the credentials were had');
	is(list({ %web, http_proxy => 'http://127.0.0.1:9', no_proxy => '127.0.0.1' }) + 0, 0, 'no_proxy is heard');
}

# ---- renewal

PgDr::S3::file("data/pg_wal/0000000$_.history", "1\t0/3000000\tx\n") for 2 .. 4;
# An agent that has its credentials from the instance, whatever it is told to do.
sub instance_agent
{
	my (@ops) = @_;
	my %without = %$s3;
	delete $without{run};
	return (bless \%without, 'PgDr::S3')->agent($url,
		[ environment => [ "HOME=$home", "AWS_EC2_METADATA_SERVICE_ENDPOINT=$service" ], credentials_file => undef ], @ops);
}

{
	# The keys that the services give live for 6 seconds: each is asked for again before that.
	say_to_services({ lifetime => 6 });
	my $before = @{ say_to_services({})->{log} };
	my @events = instance_agent(map { ({ sleep => 4 }, { op => 'archive', name => "0000000$_.history" }) } 2 .. 4);
	is($events[-1]{event}, 'done', 'credentials of 6 seconds, used for longer');
	cmp_ok(scalar(@{ say_to_services({})->{log} }) - $before, '>=', 9, 'since they were asked for again');
	normal();
}
{
	# The store calls them expired before their time: they are asked for again, once.
	$s3->control({ keys => { AKIDTEMP => [ 'secret-of-temp', 'another-token' ] } });
	say_to_services({ keys => [ 'AKIDTEMP', 'secret-of-temp', 'token-of-temp' ] });
	my ($exit, undef, $err) = list(\%instance);
	isnt($exit, 0, 'what the store does not take fails');
	like($err, qr/credentials have expired/, 'and says so');
	say_to_services({ keys => [ 'AKIDTEMP', 'secret-of-temp', 'another-token' ] });
	is((list(\%instance))[0], 0, 'and what it takes does not');
	$s3->control({ keys => \%temporary });
	normal();
}

# ---- what goes wrong

for my $row (
	[ 'a service that fails now and then', \%web, { fail => [ 503, 2 ] }, 0, qr// ],
	[ 'nothing anywhere', {}, {}, 1, qr/no credentials.*HINT:  Set pg_dr\.credentials_file/s ],
	[ 'instance metadata disabled', { AWS_EC2_METADATA_DISABLED => 'true' }, {}, 1, qr/AWS_EC2_METADATA_DISABLED/ ],
	[ 'half of an environment', { AWS_ACCESS_KEY_ID => 'x' }, {}, 1, qr/AWS_SECRET_ACCESS_KEY is not/ ],
	[ 'a role that may not', { %web, AWS_ROLE_ARN => 'arn:aws:iam::1:role/other' }, {}, 1, qr/security token service refuses.*AccessDenied.*trust policy/s ],
	[ 'no token file', { %web, AWS_WEB_IDENTITY_TOKEN_FILE => '/nonexistent' }, {}, 1, qr/web identity token file/ ],
	[ 'a token that the container refuses', { %full, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE => $token }, {}, 1, qr/container's credentials service refuses.*401/ ],
	[ 'a container address that is not of this machine', { %full, AWS_CONTAINER_CREDENTIALS_FULL_URI => 'http://192.0.2.1/x' }, {}, 1, qr/may not be used.*https/s ],
	[ 'STS over plain http elsewhere', { %web, AWS_ENDPOINT_URL_STS => 'http://192.0.2.1/x' }, {}, 1, qr/may not be used/ ],
	[ 'nonsense instead of JSON', \%full, { body => '<html>' }, 1, qr/does not answer with credentials/ ],
	[ 'nonsense instead of XML', \%web, { body => '{}' }, 1, qr/does not answer with credentials/ ],
	[ 'an endless answer', \%full, { body => 'x' x 100_000 }, 1, qr/longer than it may be/ ],
	[ 'keys with a line break', \%full, { keys => [ "AKID\r\nx: y", 's', 't' ] }, 1, qr/characters that no access key has/ ],
	[ 'keys that have expired', \%full, { lifetime => -5 }, 1, qr/have expired already/ ],
	[ 'a role name that is a path', \%instance, { body => '../../x' }, 1, qr/names no role|no credentials/ ],
	[ 'a profile that is not there', { AWS_SHARED_CREDENTIALS_FILE => $profiles, AWS_PROFILE => 'nobody' }, {}, 1, qr/no profile "nobody"/ ],
	[ 'a profile of another profile', { AWS_CONFIG_FILE => $config, AWS_PROFILE => 'chained' }, {}, 1, qr/not supported/ ])
{
	my ($name, $environment, $order, $expected, $words) = @$row;
	say_to_services($order);
	my $start = time();
	my ($exit, $out, $err) = list($environment);
	normal();
	is($exit, $expected, "$name: exit $expected");
	like($err, $words, "$name: said");
	unlike($err, qr/secret-of-temp|token-of-temp|the-web-token/, "$name: no secret shown");
	cmp_ok(time() - $start, '<', 40, "$name: in time");
}

for my $row (
	[ 'a process that fails', '/bin/false', qr/credential_process "\/bin\/false" failed/ ],
	[ 'a process that is not there', '/nonexistent/program x', qr/could not run credential_process/ ],
	[ 'a quote that is not closed', '/bin/echo "x', qr/a quote is not closed/ ],
	[ 'a process that says too much', '/bin/sh -c "yes | head -c 200000"', qr/failed|too much/ ],
	[ 'a process that says nothing of use', '/bin/echo hello', qr/does not answer with credentials/ ])
{
	my ($name, $line, $words) = @$row;
	my ($exit, undef, $err) = list({}, '--credentials-file', PgDr::S3::file('bad', "[default]\ncredential_process = $line\n"));
	is($exit, 1, "$name: exit 1");
	like($err, $words, "$name: said");
}

done_testing();
