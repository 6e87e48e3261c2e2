# Participants die during a commit: a backend terminated or killed, a server
# killed and started again.  The answer is true, and the rest is done within a
# second after the node is back.
use strict;
use warnings;
use DtxCluster;
use DtxOutcome;
use Test::More;
use Time::HiRes qw(time sleep);

my $c = DtxCluster->setup(nodes => [qw(a b d)]);
plan skip_all => 'no fault points' unless $c->has_faults;
my $o = DtxOutcome->new($c);
my $slowest = 0;

$c->as_super(q{
	CREATE TABLE slow (seconds float);
	CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN PERFORM pg_sleep(NEW.seconds); RETURN NULL; END';
	CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION take_time();
	GRANT ALL ON slow TO app}, node => 'b');
$o->attempt('COMMIT');
$o->truth;

# A session that leaves something wakes the scanner, however long that sleeps.
sub scan_interval
{
	my ($value) = @_;
	$c->as_super("ALTER SYSTEM SET dtx.scan_interval = '$value'");
	$c->as_super('SELECT pg_reload_conf()');
	$c->wait_for('the setting', sub { $c->as_super('SHOW dtx.scan_interval') eq $value });
	return;
}
scan_interval('1min');
$o->calm;
foreach my $left_at (qw(commit_begin prepare_sent))
{
	$o->begin;
	$o->fault($left_at, 'error');
	$o->send_end;
	my $said = $o->answer->{said};
	my $begun = time();
	is($o->truth, $said, "$left_at: the scanner is woken");
	cmp_ok(time() - $begun, '<', 20, 'at once');
}
scan_interval('5s');

# what happens to b
my %disaster = (
	'its backend terminated' => sub { $o->ask('b', q{SELECT pg_terminate_backend(pid)
		FROM pg_stat_activity WHERE query ~ 'PREPARE' AND usename = 'app'}) },
	'its backend killed' => sub {
		my $pid = $o->ask('b', q{SELECT pid FROM pg_stat_activity WHERE query ~ 'PREPARE TRANS' AND usename = 'app'});
		my $mark = $c->log_mark('b');
		kill 'KILL', $pid;
		$c->wait_restarted('b', $mark);
	},
	'its server killed' => sub { $o->kill9('b'); $c->start('b') });

# when: while it prepares, all prepared, decided, one committed
foreach my $when (
	[ 'Pf', undef,              'aborted' ],
	[ 'Pa', 'prepare_gathered', 'committed' ],
	[ 'D',  'commit_begin',     'committed' ],
	[ 'Q',  'commit_sent',      'committed' ])
{
	my ($column, $point, $expect) = @$when;
	foreach my $what (sort keys %disaster)
	{
		$o->calm;
		$o->begin($point ? () : (with => q{SELECT dtx.exec('b', 'INSERT INTO slow VALUES (30)')}));
		$o->fault($point, 'wait') if $point;
		$o->send_end;
		if ($point) { $c->wait_fault($point) }
		else
		{
			$c->wait_for('PREPARE', sub { $o->ask('b',
				q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}) eq '1' });
		}
		$disaster{$what}->();
		$o->fault_reset if $point;
		my $answer = $o->answer;
		my $begun = time();
		is("$answer->{said} " . $o->truth, "$expect $expect", "$column, $what: $expect") or diag $answer->{text};
		my $took = time() - $begun;
		$slowest = $took if $took > $slowest;
		is($answer->{state}, '08006', 'the client hears that the connection is lost') if $column eq 'Pf';
	}
}
diag sprintf 'clean %.2f s after COMMIT at the latest, with b back', $slowest;
cmp_ok($slowest, '<', 4.5, 'each sooner than dtx.scan_interval');

# The server stays away for a while: COMMIT does not wait for it, the others are
# not delayed, and when it is back it is cleaned at once.
foreach my $down (1, 4)
{
	$o->calm;
	$o->begin;
	$o->fault('commit_begin', 'wait');
	$o->send_end;
	$c->wait_fault('commit_begin');
	$o->kill9('b');
	$o->fault_reset;
	my $answer = $o->answer;
	is("$answer->{said} $answer->{state}", 'committed 01DTX', 'COMMIT with a server gone succeeds with a WARNING');
	cmp_ok($answer->{seconds}, '<', 10, 'without waiting long');
	my $session = $c->app_session;
	foreach my $i (1 .. $down * 2)
	{
		sleep 0.5;
		my $begun = time();
		$session->query($c->transfer_sql('c', 'd', 1));
		is($session->{stderr}, '', "another transfer while b is down, $i");
		cmp_ok(time() - $begun, '<', 4, 'takes no longer than ever');
		next if $i > 1;
		$o->fault('commit_begin', 'error');
		$session->query($c->transfer_sql('c', 'd', 1));
		$session->{stderr} = '';
		my $left_at = time();
		ok($c->poll_until(sub { $o->ask('d', 'SELECT count(*) FROM pg_prepared_xacts') == 0 }),
			'one that is left to the scanner is finished');
		cmp_ok(time() - $left_at, '<', 4.5, 'sooner than dtx.scan_interval');
	}
	$session->quit;
	like($o->ask('c', q{SELECT state || ' ' || failure_count || ' ' || last_error FROM dtx.nodes WHERE node = 'b'}),
		qr/^failing \d+ .*could not connect/s, 'dtx.nodes says what is wrong');
	$c->start('b');
	my $begun = time();
	is($o->truth, 'committed', "b is back after $down s, and commits");
	my $took = time() - $begun;
	diag sprintf 'clean %.2f s after the start of b', $took;
	cmp_ok($took, '<', 4.5, 'sooner than dtx.scan_interval');
}

$c->check_invariants;
done_testing();
