# What a server acknowledged, held against what a restored one has.
#
#   my $ledger = PgDr::Ledger->new($node);      # CREATE TABLE ledger
#   $ledger->add(10);                           # ten commits, each acknowledged
#   my $load = $ledger->start;                  # a client that commits all the time
#   $node->machine_dies;
#   $ledger->finish($load);                     # what it got an answer for counts as acknowledged
#   is($ledger->missing($restored), 0);
package PgDr::Ledger;

use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Utils ();

sub new
{
	my ($class, $node) = @_;
	$node->safe_psql('postgres', 'CREATE TABLE ledger (n int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), filler text)');
	return bless { node => $node, next => 1, acknowledged => {}, files => 0 }, $class;
}

sub statement { return "INSERT INTO ledger (n, filler) VALUES ($_[0], repeat(md5('$_[0]'), 3)) RETURNING n, extract(epoch FROM at);\n" }

sub acknowledge
{
	my ($self, $lines) = @_;
	my $n = 0;
	for (split /\n/, $lines)
	{
		next unless /^(\d+)\|([\d.]+)$/;
		$self->{acknowledged}{$1} = $2;
		$n++;
	}
	return $n;
}

sub add
{
	my ($self, $n) = @_;
	$self->acknowledge($self->{node}->safe_psql('postgres', join '', map { statement($self->{next}++) } 1 .. $n));
	return;
}

# So many clients at once, which stop when the server does, or a signal comes, or they are through.
sub start
{
	my ($self, $clients, $statements) = @_;
	my @runs;
	for (1 .. $clients // 1)
	{
		my $base = $self->{node}->basedir . '/ledger.' . $self->{files}++;
		open my $script, '>', "$base.sql" or die "$base.sql: $!";
		print $script statement($self->{next}++) for 1 .. $statements // 50_000;
		close $script;
		push @runs, { out => "$base.out",
			run => IPC::Run::start([ 'psql', '-XAtq', '-d', $self->{node}->connstr('postgres'), '-f', "$base.sql" ],
				'<', \undef, '>', "$base.out", '2>', "$base.err") };
	}
	return { runs => \@runs, pid => $runs[0]{run}{KIDS}[0]{PID} };
}

# How many commits were acknowledged to them.
sub finish
{
	my ($self, $load) = @_;
	my $n = 0;
	for my $run (@{ $load->{runs} })
	{
		eval { $run->{run}->finish };
		$n += $self->acknowledge(PostgreSQL::Test::Utils::slurp_file($run->{out}));
	}
	return $n;
}

# Acknowledged commits that are not there.  And seconds between the last of them and the last one that is.
sub missing
{
	my ($self, $node) = @_;
	my %there = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', 'SELECT n FROM ledger');
	my @missing = grep { !$there{$_} } keys %{ $self->{acknowledged} };
	$self->{lost_seconds} = 0;
	if (@missing)
	{
		my $at = $self->{acknowledged};
		my ($last) = sort { $b <=> $a } map { $at->{$_} } @missing;
		my ($first) = sort { $a <=> $b } map { $at->{$_} } @missing;
		$self->{lost_seconds} = $last - $first;
	}
	return scalar @missing;
}

# From the beginning.
sub reset
{
	my ($self) = @_;
	$self->{node}->safe_psql('postgres', 'TRUNCATE ledger');
	$self->{acknowledged} = {};
	return;
}

# They never happened: a restored cluster goes on without them.
sub forget_missing
{
	my ($self, $node) = @_;
	my %there = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', 'SELECT n FROM ledger');
	delete $self->{acknowledged}{$_} for grep { !$there{$_} } keys %{ $self->{acknowledged} };
	$self->{node} = $node;
	return;
}

1;
