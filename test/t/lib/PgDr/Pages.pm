# What a restored directory, not yet started, must have of a data directory: block by block.
#
#   my @problems = PgDr::Pages::differences($live_data_dir, $restored_data_dir, $start_lsn);
#
# A page whose LSN lies before the backup's start was not written since: it must be in the backup,
# byte for byte (clusters with data checksums: without them hint bits may differ).  A page with a
# later LSN is WAL's business.  The live server must have had a checkpoint, so that its files are
# what it has in memory.  Free space maps and visibility maps are left out: their changes
# carry no LSN; what reads them is checked in the started copy.
package PgDr::Pages;

use strict;
use warnings;
use File::Find ();

my $PAGE = 8192;
my $ZEROS = "\0" x $PAGE;

# Files of main forks, relative: path => size; those of unlogged relations are not among them.
sub relation_files
{
	my ($directory) = @_;
	my (%files, %unlogged);
	for my $top ('base', 'global', glob "$directory/pg_tblspc/*")
	{
		my $path = $top =~ m{^/} ? $top : "$directory/$top";
		(my $name = $path) =~ s{^\Q$directory\E/}{};
		my $real = -l $path ? readlink $path : $path;
		next unless -d $real;
		File::Find::find({ no_chdir => 1, wanted => sub {
			return unless m{/(\d+)(_init|\.\d+)?$} && -f;
			my $fork = $2 // '';
			(my $relative = $_) =~ s{^\Q$real\E}{$name};
			if ($fork eq '_init') { $relative =~ s/_init$//; $unlogged{$relative} = 1; return }
			$files{$relative} = -s;
		} }, $real);
	}
	delete @files{ grep { (my $first = $_) =~ s/\.\d+$//; $unlogged{$first} } keys %files };
	return \%files;
}

sub lsn_number
{
	my ($high, $low) = map { hex } split m{/}, $_[0];
	return ($high << 32) + $low;
}

sub page_lsn { my ($high, $low) = unpack 'LL', substr $_[0], 0, 8; return ($high << 32) + $low }

sub slurp
{
	open my $file, '<:raw', $_[0] or return;
	local $/;
	return scalar <$file>;
}

sub differences
{
	my ($live, $restored, $start_lsn) = @_;
	my $start = lsn_number($start_lsn);
	my ($have, $want) = (relation_files($restored), relation_files($live));
	my (@problems, $compared);
	for my $path (sort keys %$want)
	{
		my $there = slurp("$live/$path") // next;
		my $here = exists $have->{$path} ? slurp("$restored/$path") : undef;
		for (my $at = 0; $at < length $there; $at += $PAGE)
		{
			my $page = substr $there, $at, $PAGE;
			next if $page eq $ZEROS ? !defined $here || $at >= length $here || substr($here, $at, $PAGE) eq $ZEROS : page_lsn($page) >= $start;
			$compared++;
			my $copy = defined $here && $at < length $here ? substr $here, $at, $PAGE : undef;
			next if defined $copy && $copy eq $page;
			# SP-GiST keeps hints in its first page, and logs nothing of them.
			next if $at == 0 && unpack('S', substr $page, -2) == 0xFF82;
			# A page of zeros that was written after the start: WAL does that again.
			next if $page eq $ZEROS && page_lsn($copy) >= $start;
			push @problems, sprintf '%s block %d: %s', $path, $at / $PAGE,
				!defined $here ? sprintf('no such file (LSN %X/%X)', page_lsn($page) >> 32, page_lsn($page) & 0xffffffff) : !defined $copy ? 'file is too short' :
				sprintf 'differs (LSN %X/%X, not %X/%X)', (map { page_lsn($_) >> 32, page_lsn($_) & 0xffffffff } $copy, $page);
		}
		push @problems, "$path is longer: " . length($here) . ', not ' . length $there
			if defined $here && length $here > length $there && substr($here, length $there) =~ /[^\0]/
			&& page_lsn(substr $here, length $there, $PAGE) < $start;
	}
	return ($compared, @problems);
}

1;
