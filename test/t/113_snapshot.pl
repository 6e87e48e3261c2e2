# dtx.snapshot: totals over nodes that are right under load, and what it does
# when something goes wrong while it holds commits up.
use strict;
use warnings;
use DtxCluster;
use DtxFault;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => 'dtx.scan_interval = 100ms
dtx.lockout_timeout = 4s');
my $f = DtxFault->new($c);

sub total_sql
{
	my ($snapshot) = @_;
	return 'BEGIN; ' . ($snapshot ? q{SELECT dtx.snapshot('{a,b}') \g /dev/null
} : '') . q{SELECT sum(total) FROM (
		SELECT total FROM dtx.query('a', 'SELECT sum(balance) FROM account') AS t(total bigint)
		UNION ALL
		SELECT total FROM dtx.query('b', 'SELECT sum(balance) FROM account') AS t(total bigint)) s;
	COMMIT;};
}
# Sums of many reads that are wrong.
sub wrong
{
	my ($reads, $snapshot) = @_;
	my $out = $c->as_app(join '', map { total_sql($snapshot) . "\n" } 1 .. $reads);
	my @sums = grep { /^\d+$/ } split /\n/, $out;
	is(scalar @sums, $reads, "$reads totals were read" . ($snapshot ? ' in snapshots' : ''));
	return scalar grep { $_ != 20000 } @sums;
}

# --- under load
my $load = $c->start_load(names => [qw(a b)], clients => 4);
is(wrong(150, 1), 0, 'under load every total in a snapshot is right');
note wrong(150, 0), ' of 150 without a snapshot were wrong';
# some leave the end of their branches to the scanner
my $hasty = $c->start_load(names => [qw(a b)], clients => 4, settings => '-c dtx.commit_wait=0');
is(wrong(20, 1), 0, 'also if there is always something left to the scanner');
$c->stop_load($hasty);
# two at once
my @sessions = map { $c->app_session } 1 .. 2;
$c->start_query($_, join '', map { total_sql(1) . "\n" } 1 .. 30) foreach @sessions;
my @sums = map { my ($out, $err) = $c->finish_query($_); is($err, '', 'no error'); grep { /^\d+$/ } split /\n/, $out } @sessions;
is(scalar(grep { $_ == 20000 } @sums), 60, 'two sessions that take snapshots at the same time');
$c->stop_load($load);
$c->check_invariants(name => 'after the load');

# --- what it refuses
sub refused
{
	my ($sql, $pattern, $what) = @_;
	my ($rc, undef, $err) = $c->app_psql($sql);
	like($err, $pattern, $what);
	return;
}
refused(q{BEGIN; SAVEPOINT s; SELECT dtx.snapshot('{a}')}, qr/must not be called in a subtransaction/, 'not in a subtransaction');
refused(q{BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT dtx.snapshot('{a}')}, qr/serializable/, 'not under SERIALIZABLE');
refused(q{SELECT dtx.snapshot('{a, nobody}')}, qr/node "nobody" does not exist/, 'not of a node that does not exist');
refused(q{SELECT dtx.snapshot('{}')}, qr/must not be empty/, 'not of no node');
refused(q{SELECT dtx.snapshot(ARRAY['a', NULL]::name[])}, qr/must not contain null/, 'not of null');
refused(q{BEGIN; SELECT dtx.exec('a', 'SELECT 1'); SELECT dtx.snapshot('{a}')}, qr/ERROR/, 'not of a node that is in use');
refused(q{BEGIN; SELECT dtx.snapshot('{a}'); SELECT dtx.exec('a', 'UPDATE account SET balance = 0')},
	qr/read-only transaction/, 'nothing is written in it');
is(($c->transfer('a', 'b', 1))[0], 0, 'commits go on after all that');

# --- a node that hangs: commits of others go on after dtx.lockout_timeout
my $session = $c->app_session;
my $other = $c->app_session;
$session->query_safe(q{BEGIN; SELECT dtx.snapshot('{a,b}'); COMMIT});
SKIP:
{
	skip 'no fault points', 12 unless $c->has_faults;

	# stopped while it holds commits up, with b hanging
	$c->fault('snapshot_quiet', 'sleep:2000');
	$c->start_query($session, q{SELECT dtx.snapshot('{a,b}')});
	$c->wait_for('the quiet moment', sub { $c->fault_hits('snapshot_quiet') > 0 });
	$c->hang('b');
	my ($out, $err) = $c->finish_query($session);
	like($err, qr/nodes did not answer within dtx\.lockout_timeout/, 'a node hangs: the snapshot gives up');
	# nothing is held up any more: a transaction of a alone and of the coordinator
	is(($c->app_psql(q{BEGIN; SELECT dtx.exec('a', 'UPDATE account SET balance = balance WHERE id = 3');
		INSERT INTO ledger (note, amount) VALUES ('beside', 1); COMMIT}))[0], 0, 'and others commit, though b still hangs');
	$c->resume('b');

	# whoever holds commits up dies
	foreach my $how ('terminate', 'crash')
	{
		my $mark = $c->log_mark('c');
		$c->fault('snapshot_quiet', $how);
		my $victim = $c->app_session;
		$c->start_query($victim, q{SELECT dtx.snapshot('{a,b}')});
		eval { $c->finish_query($victim) };
		eval { $victim->quit };
		$c->wait_restarted('c', $mark) if $how eq 'crash';
		my ($rc, undef, $stderr) = $c->transfer('a', 'b', 1);
		is($stderr, '', "$how of who holds commits up: they go on");
	}

	# an error, and the next snapshot
	$c->fault('snapshot_quiet', 'error');
	my ($rc, undef, $stderr) = $c->app_psql(q{SELECT dtx.snapshot('{a,b}')});
	isnt($rc, 0, 'an error while commits are held up');
	is(wrong(1, 1), 0, 'and the next snapshot is right');

	# a decision that was left to the scanner is waited for
	$c->fault('commit_begin', 'error');
	$c->fault('scan_begin', 'wait');
	($rc, undef, $stderr) = $c->transfer('a', 'b', 7);
	is($rc, 0, 'a transfer that is decided, and left to the scanner');
	my $reader = $c->app_session;
	$c->start_query($reader, total_sql(1));
	sleep 0.3;
	ok(!$c->query_finished($reader), 'a snapshot waits for it')
	  or diag join "\n", $c->finish_query($reader);
	is(($c->app_psql(q{BEGIN; SELECT dtx.exec('a', 'UPDATE account SET balance = balance WHERE id = 4'); COMMIT}))[0], 0,
		'but does not hold others up meanwhile');
	$c->fault_reset;
	($out, $err) = $c->finish_query($reader);
	like($out, qr/^20000$/m, 'and then shows it whole') or diag $err;

	# one that the scanner cannot finish
	$c->fault('commit_begin', 'error');
	$c->fault('scan_begin', 'wait');
	$c->transfer('a', 'b', 7);
	(undef, undef, $stderr) = $c->app_psql(q{SET dtx.prepare_timeout = '300ms'; SELECT dtx.snapshot('{a,b}')});
	like($stderr, qr/branches of earlier transactions are not finished on node/, 'it gives up after dtx.prepare_timeout');
	$c->fault_reset;
}

$_->quit foreach $session, $other, @sessions;
$c->check_invariants;
done_testing();
