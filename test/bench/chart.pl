# Draws docs/twophase.svg or docs/saga.svg, with title and note as arguments, from lines "clients, side, title, transfers a second,
# ratio" (tabs between) on stdin.  Bars by number of clients, with the ratio that
# is printed in the table.  No fonts or scripts from elsewhere; with colours for
# light and for dark.
use strict;
use warnings;

my ($title, $note) = @ARGV;
$title //= 'Transfers between two servers per second';
$note //= 'fsync on; medians of alternating runs; in brackets: how many times as fast dtx is';
my (@clients, %rows, $most);
while (<STDIN>)
{
	chomp;
	my ($clients, $side, $title, $tps, $ratio) = split /\t/, $_, -1;
	push @clients, $clients unless $rows{$clients};
	push @{ $rows{$clients} }, { side => $side, title => $title, tps => $tps, ratio => $ratio };
	$most = $tps if !defined $most || $tps > $most;
}
die "nothing to draw\n" unless @clients;

my ($left, $bar, $line, $width) = (250, 330, 20, 760);
my $y = 62;
my $body = '';
sub text
{
	my ($x, $y, $class, $text) = @_;
	$text =~ s/&/&amp;/g;
	$text =~ s/</&lt;/g;
	$body .= qq{<text x="$x" y="$y" class="$class">$text</text>\n};
}
foreach my $clients (@clients)
{
	text(16, $y + 4, 'head', $clients == 1 ? '1 client' : "$clients clients");
	$y += 12;
	foreach my $row (@{ $rows{$clients} })
	{
		my $length = sprintf '%.1f', $row->{tps} / $most * $bar;
		my $class = $row->{side} =~ /^dtx/ ? 'dtx' : 'other';
		text($left - 8, $y + 14, 'name', $row->{title});
		$body .= qq{<rect x="$left" y="} . ($y + 3) . qq{" width="$length" height="14" rx="2" class="$class"/>\n};
		text(sprintf('%.1f', $left + $length + 6), $y + 14, 'value',
			sprintf('%.0f', $row->{tps}) . ($row->{ratio} ne '' ? "  (dtx: \x{d7} $row->{ratio})" : ''));
		$y += $line;
	}
	$y += 22;
}
my $height = $y - 6;
binmode STDOUT, ':utf8';
print <<"X";
<svg xmlns="http://www.w3.org/2000/svg" width="$width" height="$height" viewBox="0 0 $width $height" role="img" aria-label="$title, by number of clients">
<style>
.back { fill: #ffffff }
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.head { font-size: 13px; font-weight: 600 }
.name { text-anchor: end }
.note { fill: #57606a }
.dtx { fill: #0969da }
.other { fill: #8c959f }
\@media (prefers-color-scheme: dark) {
.back { fill: #0d1117 }
text { fill: #e6edf3 }
.note { fill: #9198a1 }
.dtx { fill: #4493f8 }
.other { fill: #6e7681 }
}
</style>
<rect width="$width" height="$height" class="back"/>
<text x="16" y="24" class="title">$title</text>
<text x="16" y="42" class="note">$note</text>
$body</svg>
X
