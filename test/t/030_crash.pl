# The session is killed with -9 at every point of its commit, and the server
# starts anew by itself: recovery ends all branches as the commit record says,
# and dtx.outcome tells the same, now and later.
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

sub crash_at
{
	my ($point, $skip, $expect, %opt) = @_;
	my $answer = $o->attempt($opt{end}, gid => 1, armed => sub {
		$o->fault(@$_) foreach @{ $opt{also} || [] };
		$o->fault($point, 'crash', $skip);
	});
	my $begun = time();
	my $truth = $o->truth;
	note sprintf '%s: clean after %.2f s', $point, time() - $begun;
	is("$answer->{said} $truth", "lost $expect", "$point, pass $skip: $expect");
	$outcome{ $o->gid } = $expect;
	# until the postmaster has noticed, its transaction is in progress
	my $outcome;
	$c->wait_for('an outcome', sub {
		($outcome = $o->ask('c', "SELECT dtx.outcome('" . $o->gid . "')")) ne 'in progress'
	});
	is($outcome, $expect, 'and dtx.outcome knows');
	return;
}

$o->attempt('COMMIT');
$o->truth;
crash_at('branch_begin', 0, 'aborted', end => q{SELECT dtx.exec('a', 'SELECT 1'); COMMIT});
crash_at($_, 0, 'aborted')
  foreach qw(prepare_before prepare_sent prepare_gathered record_written);
crash_at(@$_, 'committed')
  foreach ([ 'commit_begin', 0 ], [ 'commit_sent', 0 ], [ 'commit_sent', 1 ], [ 'commit_wait', 0 ], [ 'commit_done', 0 ]);
crash_at('commit_warning', 0, 'committed', also => [ [ 'commit_begin', 'error' ] ]);
crash_at('remote_answered', 1, 'committed');
crash_at('abort_begin', 0, 'aborted', end => 'ROLLBACK');
crash_at(@$_, 'aborted', also => [ [ 'record_written', 'error' ] ])
  foreach ([ 'abort_begin', 0 ], [ 'abort_sent', 0 ]);

my $restarts = () = $c->log_text('c') =~ /all server processes terminated/g;
is($restarts, scalar(keys %outcome), 'each of them was a crash of the whole server');
is($c->as_super('SELECT count(*) FROM dtx.life'), 1 + $restarts, 'and began a life');

$c->stop('c', 'fast');
$c->start('c');
my @wrong = grep { $o->ask('c', "SELECT dtx.outcome('$_')") ne $outcome{$_} } keys %outcome;
is("@wrong", '', 'a restart later all outcomes are the same');
$c->check_invariants(kept => scalar grep { $_ eq 'committed' } values %outcome);
done_testing();
