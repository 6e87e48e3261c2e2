# The network loses requests, or answers, during PREPARE and during COMMIT
# PREPARED: the same error, opposite truths, and one outcome after healing.
use strict;
use warnings;
use DtxCluster qw(netns);
use DtxOutcome;
use Test::More;
use Time::HiRes qw(time sleep);

my $c = DtxCluster->setup(nodes => [qw(a b d)]);
plan skip_all => 'no fault points' unless $c->has_faults;
my $o = DtxOutcome->new($c);
$o->attempt('COMMIT');
$o->truth;
is(($c->transfer('c', 'd', 1))[0], 0, 'd is known');

# dport: requests are lost; sport: answers are; undef: both
my %lost = (dport => 'requests are lost', sport => 'answers are lost', both => 'nothing passes');
my $slowest = 0;

# Heal, and see how it ends.
sub heals_to
{
	my ($expect, $name) = @_;
	$c->heal;
	my $begun = time();
	is($o->truth, $expect, "$name: $expect after healing");
	my $took = time() - $begun;
	$slowest = $took if $took > $slowest;
	$o->calm;
	return;
}

# --- COMMIT PREPARED
my %said;
foreach my $direction (qw(dport sport both))
{
	$o->begin(gid => 1, before => q{SET dtx.commit_wait = '1s'});
	$o->fault('commit_begin', 'wait');
	$o->send_end;
	$c->wait_fault('commit_begin');
	$c->cut('b', $direction eq 'both' ? undef : $direction);
	$o->fault_reset;
	my $answer = $o->answer;
	is("$answer->{said} $answer->{state}", 'committed 01DTX', "COMMIT PREPARED, $lost{$direction}: COMMIT succeeds with a WARNING");
	cmp_ok($answer->{seconds}, '<', 5, 'within its bound');
	($said{$direction} = $answer->{text}) =~ s/dtx_\w+|\d+/./g;
	is($o->ask('b', 'SELECT count(*) FROM pg_prepared_xacts'), $direction eq 'sport' ? 0 : 1,
		$direction eq 'sport' ? 'b has committed' : 'b has not');
	is($o->ask('c', "SELECT dtx.outcome('" . $o->gid . "')"), 'committed', 'dtx.outcome knows');

	# nobody else waits for b
	my $begun = time();
	is(($c->transfer('c', 'd', 1))[0], 0, 'a transfer to d');
	cmp_ok(time() - $begun, '<', 1.9, 'does not wait');
	$c->wait_for('b to be found missing', sub { $o->ask('c', q{SELECT state FROM dtx.nodes WHERE node = 'b'}) eq 'failing' })
	  if $direction eq 'both';
	heals_to('committed', $lost{$direction});
}
is($said{dport}, $said{sport}, 'the client cannot tell them apart');

# --- PREPARE
foreach my $direction (qw(dport sport both))
{
	$o->begin(gid => 1, before => q{SET dtx.prepare_timeout = '800ms'});
	$o->fault('prepare_before', 'wait');
	$o->send_end;
	$c->wait_fault('prepare_before');
	$c->cut('b', $direction eq 'both' ? undef : $direction);
	$o->fault_reset;
	my $answer = $o->answer;
	is("$answer->{said} $answer->{state}", 'aborted 40003', "PREPARE, $lost{$direction}: COMMIT fails");
	cmp_ok($answer->{seconds}, '<', 5, 'within dtx.prepare_timeout');
	($said{$direction} = $answer->{text}) =~ s/dtx_\w+|\d+/./g;
	is($o->ask('b', 'SELECT count(*) FROM pg_prepared_xacts'), $direction eq 'sport' ? 1 : 0,
		$direction eq 'sport' ? 'b is prepared' : 'b is not');
	is($o->ask('c', "SELECT dtx.outcome('" . $o->gid . "')"), 'aborted', 'dtx.outcome knows');
	heals_to('aborted', $lost{$direction});
}
is($said{dport}, $said{sport}, 'the client cannot tell them apart');

# --- one phase: an answer that is lost is not known
$o->session->query(q{SET dtx.prepare_timeout = '800ms'; BEGIN;
	SELECT dtx.exec('b', 'UPDATE account SET owner = $1 WHERE id = 3', ARRAY['one phase'])});
$c->cut('b', 'sport');
$o->send_end;
my $answer = $o->answer;
is("$answer->{said} $answer->{state}", 'aborted 08007', 'one phase, the answer is lost: not known');
is($o->ask('b', 'SELECT owner FROM account WHERE id = 3'), 'one phase', 'here it is committed');
$c->heal;
$o->calm;
$o->session->query(q{BEGIN; SELECT dtx.exec('b', 'UPDATE account SET owner = $1 WHERE id = 3', ARRAY['not at all'])});
$c->cut('b', 'dport');
$o->send_end;
$answer = $o->answer;
is("$answer->{said} $answer->{state}", 'aborted 08007', 'the request is lost: not known');
is($o->ask('b', 'SELECT owner FROM account WHERE id = 3'), 'one phase', 'here it is not');
$c->heal;

# --- connections reset instead of silently dropped
$o->calm;
$o->begin;
$o->fault('commit_begin', 'wait');
$o->send_end;
$c->wait_fault('commit_begin');
$c->cut('b', undef, 'reject with tcp reset');
$o->fault_reset;
$answer = $o->answer;
is("$answer->{said} $answer->{state}", 'committed 01DTX', 'a reset during COMMIT PREPARED');
heals_to('committed', 'reset');

diag sprintf 'clean %.2f s after healing at the latest', $slowest;
# a connect that began before has to send its packet again
cmp_ok($slowest, '<', 15, 'and soon after each healing');
$c->check_invariants(kept => 3);
done_testing();
