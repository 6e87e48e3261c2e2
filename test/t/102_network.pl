# Row 4 of docs/faults.md: the network loses requests, or answers, or both, at
# every moment of a transaction.  036_partition.pl looks closer at Pf and D.
use strict;
use warnings;
use DtxCluster qw(netns);
use DtxFault;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => 'dtx.scan_interval = 100ms
dtx.connect_timeout = 1s');
plan skip_all => 'no fault points' unless $c->has_faults;
my $f = DtxFault->new($c);
$c->as_super(q{ALTER SERVER b OPTIONS (SET connect_timeout '1', SET tcp_user_timeout '1000')});
$f->attempt('COMMIT');
$f->truth;

my %lost = (dport => 'requests are lost', sport => 'answers are lost', both => 'nothing passes');
my %expected = (W => 'A', Pf => 'A', Pl => 'Cw', Pa => 'Cw', Pr => 'Cw', D => 'Cw', Q => 'Cw', F => 'C', Fl => 'C', R => 'Cw', Ru => 'A');
sub letter { my ($letter) = $_[0] =~ /^(Pf|P|[A-Z])/; return $_[0] eq 'Pl' ? 'Pf' : $letter eq 'P' ? 'Pa' : $letter; }
# b may never hear that a connection has ended, and is to let go of its branch
# before the next transfer gives up waiting for the row
my $limits = q{SET dtx.prepare_timeout = '3s'; SET dtx.commit_wait = '400ms'; SET dtx.branch_idle_timeout = '5s'};

foreach my $direction (qw(dport sport both))
{
	foreach my $column (qw(W Pf Pl Pa Pr D Q F Fl R Ru))
	{
		$f->stop_in($column, before => $limits);
		$c->cut('b', $direction eq 'both' ? undef : $direction);
		my $answer = $f->go_on;
		# which truth it is on b while the network is cut
		if ($column eq 'W' || $column =~ /^(Pa|Pr|D|Q)$/)
		{
			is($f->prepared_on('b'), ($column eq 'W' xor $direction eq 'sport') ? 0 : 1,
				"$column, $lost{$direction}: b " . ($direction eq 'sport' ? 'has done it' : 'has not'));
		}
		# the scanner is not stopped by it
		$f->wait_until('a', sub { $f->prepared_on('a') == 0 });
		$c->heal;
		# PREPARE had arrived before, and is answered
		my $expected = $column eq 'Pf' && $direction eq 'dport' ? 'Cw' : $expected{$column};
		$f->cell('4 ' . letter($column), "$column, $lost{$direction}", $f->verdict($answer), $expected);
	}
}

# one way after the other, while the scanner is at work
$f->stop_in('R', before => $limits);
$c->cut('b', 'sport');
my $answer = $f->go_on;
$f->wait_until('b to fail', sub { $f->ask('c', q{SELECT state FROM dtx.nodes WHERE node = 'b'}) eq 'failing' });
$c->heal;
$c->cut('b', 'dport');
my $failures = $f->ask('c', q{SELECT failure_count FROM dtx.nodes WHERE node = 'b'});
$f->wait_until('one more try', sub { $f->ask('c', q{SELECT failure_count FROM dtx.nodes WHERE node = 'b'}) ne $failures });
$c->heal;
$f->cell('4 R', 'answers are lost, then requests', $f->verdict($answer), 'Cw');

$f->all_shown;
$c->check_invariants(kept => $f->kept);
done_testing();
