# The checker of histories itself: each anomaly, planted, is found.
use strict;
use warnings;
use DtxHistory;
use Test::More;

# Lines of history, and what is there at the end.
sub found
{
	my ($lines, %final) = @_;
	my $h = DtxHistory->new(total => 4000);
	$h->add($_) foreach @$lines;
	foreach my $list (keys %final) { my ($node, $key) = split / /, $list; $h->final($node, $key, $final{$list}); }
	my %found = $h->anomalies;
	return join ' ', sort keys %found;
}

my $good = [ "1.1\tappend\tok\tg1\ta:a:1:11 a:b:1:12", "2.1\tappend\tok\tg2\tr:a:1:11 a:a:1:21",
	"3.1\tappend\tunknown\tg3\ta:a:1:31", "4.1\tappend\tfail\tg4\ta:a:1:41", "5.1\tread\tok\t-\ts:4000" ];
is(found($good, 'a 1' => [ 11, 21, 31 ], 'b 1' => [12]), '', 'a good history');
is(found($good, 'a 1' => [ 11, 21 ],     'b 1' => [12]), '', 'and one in which the unanswered did not happen');
is(found($good, 'a 1' => [ 11, 21, 41 ], 'b 1' => [12]), 'G1a', 'what failed is there');
is(found($good, 'a 1' => [ 11, 21, 99 ], 'b 1' => [12]), 'G1a', 'what nobody wrote is there');
is(found([ "1.1\tappend\tok\tg1\tx:a:1:11 a:a:1:12" ], 'a 1' => [ 11, 12 ]), 'G1a', 'what was rolled back to a savepoint is there');
is(found([ @$good, "6.1\tappend\tok\tg6\tr:a:1:11,21,41" ], 'a 1' => [ 11, 21 ], 'b 1' => [12]), 'G1a order', 'G1a: a read of what failed');
is(found([ "1.1\tappend\tok\tg1\ta:a:1:11 a:a:1:12", "2.1\tappend\tok\tg2\tr:a:1:11" ], 'a 1' => [ 11, 12 ]), 'G1b', 'G1b: a read in the middle');
is(found([ "1.1\tappend\tok\tg1\ta:a:1:11 a:a:2:12", "2.1\tappend\tok\tg2\ta:a:1:21 a:a:2:22" ],
		'a 1' => [ 11, 21 ], 'a 2' => [ 22, 12 ]), 'G0 G1c', 'G0: writes in a circle');
is(found([ "1.1\tappend\tok\tg1\ta:a:1:11 a:b:2:12", "2.1\tappend\tok\tg2\ta:a:1:21 a:b:2:22" ],
		'a 1' => [ 11, 21 ], 'b 2' => [ 22, 12 ]), '', 'over two nodes nobody promises an order of unrelated lists');
is(found([ "1.1\tappend\tok\tg1\tr:a:2:21 a:a:1:11", "2.1\tappend\tok\tg2\tr:a:1:11 a:a:2:21" ],
		'a 1' => [11], 'a 2' => [21]), 'G1c', 'G1c: each has read the other');
is(found([ "1.1\tappend\tok\tg1\tr:a:1: a:a:1:11", "2.1\tappend\tok\tg2\tr:a:1: a:a:1:21" ],
		'a 1' => [21]), 'lost', 'a lost update');
is(found([ "1.1\tappend\tok\tg1\ta:a:1:11", "2.1\tappend\tok\tg2\ta:a:1:21", "3.1\tappend\tok\tg3\tr:a:1:21,11" ],
		'a 1' => [ 11, 21 ]), 'order', 'a list that was in another order');
is(found([ "1.1\tread\tok\t-\ts:3990" ]), 'skew', 'a sum that was read in the middle of a commit');
is(found([ "1.1\tsnapshot\tok\t-\ts:3990" ]), 'snapshot', 'which must not happen in a snapshot');

my $h = DtxHistory->new;
$h->add($_) foreach @$good;
$h->final('a', 1, [ 11, 21, 21 ]);
$h->final('b', 1, [12]);
is_deeply([ map { "$_->{gid} $_->{answer} @{ $_->{there} }" } $h->fates({ g1 => 1, g2 => 1 }) ],
	[ 'g1 committed 1 1 1', 'g2 committed 1 2', 'g3 unknown 0 0', 'g4 aborted 0 0' ],
	'what became of each transaction');
is_deeply({ $h->counts }, { 'append ok' => 2, 'append unknown' => 1, 'append fail' => 1, 'read ok' => 1 }, 'counted');

done_testing();
