# docs/faults.md has every fault at every moment, once in its overview and once in
# detail, and every test that it names exists.
use strict;
use warnings;
use Test::More;

my @columns = qw(W Pf Pa D Q F R);
my @rows = (1 .. 8, '8b', 9 .. 15, '15b', 16, 17);
my ($top) = grep { -e "$_/docs/faults.md" } '.', $ENV{TESTDIR} || '.', '../..';

sub text
{
	my ($file) = @_;
	local $/;
	open my $in, '<', $file or return;
	return scalar <$in>;
}
# The cells of a line of a table.
sub cells { my ($line) = @_; $line =~ s/^\|\s*|\s*\|\s*$//g; return split /\s*\|\s*/, $line, -1; }

my (%overview, %detail, $row);
foreach my $line (split /\n/, text("$top/docs/faults.md"))
{
	if ($line =~ /^\| \[(\w+)\]\(#row-\1\) \|/)
	{
		my (undef, undef, @outcomes) = cells($line);
		is(scalar @outcomes, scalar @columns, "row $1 of the overview has a cell for each column");
		@{ $overview{$1} }{@columns} = @outcomes;
	}
	elsif ($line =~ /^## Row (\w+)$/) { $row = $1 }
	elsif ($line =~ /^## /) { undef $row }
	elsif (defined $row && $line =~ /^\| (\w+) \|/)
	{
		my ($column, $outcome, $shown_by, $more) = cells($line);
		fail("row $row $column is there once") if $detail{$row}{$column};
		$detail{$row}{$column} = { outcome => $outcome, shown_by => $shown_by, more => $more };
	}
}
is(join(' ', sort keys %overview), join(' ', sort @rows), 'the overview has all rows');
is(join(' ', sort keys %detail), join(' ', sort @rows), 'so have the details');

my %source;
foreach my $row (@rows)
{
	my @bad;
	push @bad, 'columns ' . join ' ', sort keys %{ $detail{$row} }
	  if join(' ', sort keys %{ $detail{$row} }) ne join(' ', sort @columns);
	foreach my $column (@columns)
	{
		my $cell = $detail{$row}{$column} or next;
		push @bad, "$column: the overview says otherwise" if $cell->{outcome} ne $overview{$row}{$column};
		push @bad, "$column: no outcome" if $cell->{outcome} eq '';
		# a test, or why there is none
		push @bad, "$column: no test, and no reason"
		  unless $cell->{shown_by} =~ /^`\w+\.(pl|sql|spec)` "[^"]+"$/ || $cell->{shown_by} =~ /^cannot happen: \w+ \w+/;
		my $all = "$cell->{shown_by} $cell->{more}";
		while ($all =~ /`(\w+\.(pl|sql|spec))`(?: "([^"]+)")?/g)
		{
			my ($file, $kind, $label) = ($1, $2, $3);
			my ($path) = grep { -e "$top/$_" } map { "test/$_/$file" } $kind eq 'pl' ? qw(t chaos/t chaos/slow) : $kind eq 'sql' ? 'sql' : 'specs';
			if (!$path) { push @bad, "$column: there is no $file"; next }
			$source{$path} = text("$top/$path") unless exists $source{$path};
			next unless defined $label;
			if (my ($of, $in) = $label =~ /^row (\w+) (\w+)$/)
			{
				# the test itself looks whether it has shown it
				push @bad, "$column: $file does not look what it has shown"
				  unless $source{$path} =~ /^use DtxFault;/m && $source{$path} =~ /^\$f->(all|cells)_shown;/m;
				push @bad, "$column: row $of $in is another cell" unless "$of $in" eq "$row $column";
			}
			elsif (index($source{$path}, $label) < 0) { push @bad, "$column: $file has no \"$label\"" }
		}
	}
	is(join("\n", @bad), '', "row $row: each cell has an outcome and a test that exists");
}
done_testing();
