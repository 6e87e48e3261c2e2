# The coordinator's server is killed with -9 at every point of a commit and of
# recovery itself.  After its start everything is ended as the commit record
# says, without anyone connecting.
use strict;
use warnings;
use DtxCluster;
use DtxOutcome;
use Test::More;
use Time::HiRes qw(time);

my $c = DtxCluster->setup(nodes => [qw(a b)]);
plan skip_all => 'no fault points' unless $c->has_faults;
my $o = DtxOutcome->new($c);
my %outcome;
my $slowest = 0;

# After the restart only the nodes are looked at until they are clean.
sub recovers
{
	my ($expect, $name) = @_;
	$o->restart;
	my $begun = time();
	my $truth = $o->truth;
	$slowest = time() - $begun if time() - $begun > $slowest;
	is($truth, $expect, "$name: $expect");
	$outcome{ $o->gid } = $expect;
	is($o->ask('c', "SELECT dtx.outcome('" . $o->gid . "')"), $expect, 'and dtx.outcome knows');
	return;
}

sub crash_at
{
	my ($point, $skip, $expect, %opt) = @_;
	my $answer = $o->attempt($opt{end}, gid => 1, armed => sub {
		$o->fault(@$_) foreach @{ $opt{also} || [] };
		$o->fault($point, 'crash_server', $skip);
	});
	is($answer->{said}, 'lost', "killed at $point, pass $skip");
	recovers($expect, $point);
	return;
}

$o->attempt('COMMIT');
$o->truth;
crash_at($_, 0, 'aborted')
  foreach qw(prepare_before prepare_sent prepare_gathered record_written);
crash_at(@$_, 'committed')
  foreach ([ 'commit_begin', 0 ], [ 'commit_sent', 0 ], [ 'commit_sent', 1 ], [ 'commit_done', 0 ]);
crash_at('abort_sent', 0, 'aborted', also => [ [ 'record_written', 'error' ] ]);

# Killed while the scanner ends what a session has left to it.
foreach my $case (
	[ 'scan_begin',         'commit_begin', 'committed' ],
	[ 'scan_listed',        'commit_begin', 'committed' ],
	[ 'scan_before_finish', 'commit_begin', 'committed' ],
	[ 'scan_after_finish',  'commit_begin', 'committed' ],
	[ 'scan_before_forget', 'commit_begin', 'committed' ],
	[ 'scan_before_finish', 'prepare_sent', 'aborted' ],
	[ 'scan_after_finish',  'prepare_sent', 'aborted' ])
{
	my ($point, $left_at, $expect) = @$case;
	$o->begin(gid => 1);
	$o->fault($left_at, 'error');
	$o->fault($point, 'crash_server');
	$o->send_end;
	like($o->answer->{said}, qr/^(lost|$expect)$/, "$expect, and killed at $point");
	recovers($expect, $point);
}

diag sprintf 'clean %.2f s after the start at the latest', $slowest;
cmp_ok($slowest, '<', 4.5, 'each of them sooner than dtx.scan_interval');
$c->check_invariants(kept => scalar grep { $_ eq 'committed' } values %outcome);
done_testing();
