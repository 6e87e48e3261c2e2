# Each call that the COMMIT and ABORT callbacks make fails: nothing is thrown,
# no answer is taken for another, the scanner does what they could not.
use strict;
use warnings;
use DtxCluster;
use DtxOutcome;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => 'dtx.scan_interval = 20ms');
plan skip_all => 'no fault points' unless $c->has_faults;
my $o = DtxOutcome->new($c);
my $log = $c->log_mark('c');

# The point is armed at pass 0, 1, ... of what comes with the end of the
# transaction.  Whatever the client hears must be true.
sub walk
{
	my ($point, $action, $name, %opt) = @_;
	my $k = 0;
	my @bad;
	for (;; $k++)
	{
		$o->calm;
		my $answer = $o->attempt($opt{end}, before => $opt{before}, armed => sub {
			$o->hold_scanner;
			$o->fault(@$_) foreach @{ $opt{also} || [] };
			$o->fault($point, $action, $k);
		});
		my $hit = $o->fault_hits($point) > $k;
		$o->fault_reset;
		$o->forget_session if $action eq 'terminate' || $point eq 'remote_close';
		my $said = ($opt{end} || 'COMMIT') eq 'ROLLBACK' && $answer->{said} ne 'lost' ? 'aborted' : $answer->{said};
		my $truth = $o->truth;
		last if !$hit;
		push @bad, "pass $k: $said, but $truth ($answer->{text})"
		  unless $truth eq $said || ($said eq 'lost' && $truth =~ /^(committed|aborted)$/);
		last if $k >= ($opt{most} || 9);
	}
	is("@bad", '', "$name: $action at $point");
	cmp_ok($k, '>=', $opt{least}, "at $k passes of $point");
	return;
}

foreach my $action (qw(error nomem terminate))
{
	walk('remote_send',     $action, 'COMMIT', least => 4);    # PREPARE and COMMIT PREPARED, twice
	walk('remote_get',      $action, 'PREPARE', least => 6);   # three answers each
	walk('remote_is_busy',  $action, 'COMMIT', least => 2, most => 3);
	walk('remote_answered', $action, 'COMMIT', least => 2);
	walk('remote_close',    $action, 'COMMIT', least => 2, before => 'SET dtx.max_connections = 0');

	walk('remote_send',  $action, 'ROLLBACK', least => 2, end => 'ROLLBACK');
	walk('remote_close', $action, 'ROLLBACK', least => 2, end => 'ROLLBACK',
		before => 'SET dtx.max_connections = 0');
	walk('remote_send', $action, 'abort after PREPARE', least => 4,
		also => [ [ 'record_written', 'error' ] ]);
	walk('remote_close', $action, 'abort during PREPARE', least => 2,
		also => [ [ 'prepare_sent', 'error' ] ]);
}

# several of them fail in one callback
foreach my $case (
	[ 'committed', 'commit_begin', 'commit_warning', 'remote_close' ],
	[ 'committed', 'commit_sent',  'remote_close',   'commit_warning' ],
	[ 'committed', 'remote_is_busy', 'remote_answered', 'commit_done', 'commit_warning', 'remote_close' ],
	[ 'aborted', 'record_written', 'abort_begin', 'abort_sent', 'remote_close' ],
	[ 'aborted', 'prepare_sent',   'abort_begin', 'remote_close', 'abort_sent' ])
{
	my ($expect, @points) = @$case;
	foreach my $action (qw(error nomem))
	{
		$o->calm;
		my $answer = $o->attempt('COMMIT', before => 'SET dtx.max_connections = 0',
			armed => sub { $o->fault($_, $action) foreach @points });
		$o->fault_reset;
		is("$answer->{said} " . $o->truth, "$expect $expect", "$action at all of @points");
		$o->forget_session;
	}
}

# An answer that could not be asked for is not an answer: b has not even read
# COMMIT PREPARED when it is killed.
$o->calm;
$o->begin;
$o->hold_scanner;
$o->fault('commit_begin', 'sleep:3000');    # b is to hang by then
$o->send_end;
$c->wait_for('phase two', sub { $o->fault_hits('commit_begin') > 0 });
$c->hang('b');
$o->fault('remote_is_busy', 'error', 1);    # first a is asked, then b
my $answer = $o->answer;
is($answer->{said}, 'committed', 'b hangs, and asking for its answer fails: COMMIT succeeds');
$o->fault_reset;
$o->kill9('b');
$c->start('b');
is($o->truth, 'committed', 'and b commits after its restart');

# A branch that only read has no second phase; it ends all the same.
$o->calm;
$o->forget_session;
$o->ask('b', q{UPDATE account SET owner = 'first' WHERE id = 9});
foreach my $point ('', 'commit_begin', 'commit_sent')
{
	my $session = $o->session;
	foreach my $owner (qw(first second))
	{
		$session->query(q{BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO ledger (note) VALUES ('read');
			SELECT dtx.exec('a', 'UPDATE account SET owner = owner WHERE id = 9')});
		is($session->query(q{SELECT * FROM dtx.query('b', 'SELECT owner FROM account WHERE id = 9') AS t(owner text)}),
			$owner, "$point: a branch reads what is there now");
		$o->ask('b', q{UPDATE account SET owner = 'second' WHERE id = 9});
		$o->fault($point, 'error') if $point;
		$session->{stderr} = '';
		$session->query('COMMIT');
		unlike($session->{stderr}, qr/ERROR/, 'COMMIT succeeds');
		$o->fault_reset;
		ok($c->poll_until(sub { $o->ask('b', q{SELECT count(*) FROM pg_stat_activity
			WHERE usename = 'app' AND state LIKE 'idle in trans%'}) eq '0' }), 'and ends it');
		$o->calm;
	}
	$o->ask('b', q{UPDATE account SET owner = 'first' WHERE id = 9});
}

# A connection that could not be closed is no obstacle to the next one.
$o->calm;
foreach my $end (qw(COMMIT ROLLBACK))
{
	$o->forget_session;
	$answer = $o->attempt($end, before => 'SET dtx.max_connections = 0',
		armed => sub { $o->fault('remote_close', 'nomem') });
	$o->truth;
	$answer = eval { $o->attempt('COMMIT') } || { said => $@ };
	is($answer->{said}, 'committed', "a connection that could not be closed at $end: the next transfer commits");
	$o->truth;
}

unlike($c->log_since('c', $log), qr/all server processes terminated/,
	'the coordinator has not crashed');
$c->check_invariants;
done_testing();
