# Something fails in the session at every point of its commit: an error, no
# memory, pg_terminate_backend.  The client's answer is true, the coordinator
# survives, nothing stays behind.
use strict;
use warnings;
use DtxCluster;
use DtxOutcome;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => 'dtx.scan_interval = 100ms');
plan skip_all => 'no fault points' unless $c->has_faults;
my $o = DtxOutcome->new($c);
my $log = $c->log_mark('c');

# Arm the point at its first pass, its second, ..., until it has no more.
# $expect: what must be true in the end.
sub walk
{
	my ($point, $action, $expect, %opt) = @_;
	my $k = 0;
	for (;; $k++)
	{
		$o->calm;
		my $answer = $o->attempt($opt{end}, armed => sub {
			$o->fault(@$_) foreach @{ $opt{also} || [] };
			$o->fault($point, $action, $k);
		});
		my $hit = $o->fault_hits($point) > $k;
		$o->fault_reset;
		my $seen = "$answer->{said} " . $o->truth;
		if (!$hit)
		{
			is($seen, $opt{plain} || 'committed committed', "$point is passed $k times");
			last;
		}
		# who is terminated may have heard "COMMIT" before
		$o->forget_session if $action eq 'terminate';
		my $heard = $opt{said} || $expect;
		$heard = "(lost|$heard)" if $action eq 'terminate';
		like($seen, qr/^$heard $expect$/, "$action at pass $k of $point") or diag $answer->{text};
		last if $k >= ($opt{most} || 9);
	}
	cmp_ok($k, '>', 0, "$point is passed at all");
	return;
}

foreach my $action (qw(error nomem terminate))
{
	# an end of the session waits until it would wait: both outcomes are true
	my $late = $action eq 'terminate' ? '(aborted|committed)' : 'aborted';

	# one more statement per branch
	walk('branch_begin', $action, 'aborted', end => "SELECT dtx.exec('a', 'SELECT 1');\n"
		  . "SELECT dtx.exec('b', 'SELECT 1');\nCOMMIT");
	walk($_, $action, 'aborted') foreach qw(prepare_before prepare_sent);
	walk($_, $action, $late) foreach qw(prepare_gathered record_written);
	walk($_, $action, 'committed') foreach qw(commit_begin commit_sent commit_done);
	walk('commit_wait', $action, 'committed', most => 2);
	walk('commit_warning', $action, 'committed', also => [ [ 'commit_begin', 'error' ] ]);

	# branches that are open, and branches that are prepared
	walk($_, $action, 'aborted', end => 'ROLLBACK', said => 'committed', plain => 'committed aborted')
	  foreach qw(abort_begin abort_sent);
	walk($_, $action, 'aborted', also => [ [ 'record_written', 'error' ] ], plain => 'aborted aborted')
	  foreach qw(abort_begin abort_sent);
}

unlike($c->log_since('c', $log), qr/all server processes terminated/,
	'the coordinator has not crashed');
$c->check_invariants;
done_testing();
