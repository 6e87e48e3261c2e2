# The decision is durable before anything of it leaves: with synchronous_commit
# off in the session, and with a synchronous standby that does not confirm.
use strict;
use warnings;
use DtxCluster;
use DtxOutcome;
use Test::More;
use Time::HiRes qw(sleep);

# nobody but dtx flushes the WAL
my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => "wal_writer_delay = 10s
wal_writer_flush_after = 1GB
wal_level = replica
max_wal_senders = 4
dtx.scan_interval = 50ms");
plan skip_all => 'no fault points' unless $c->has_faults;
my $o = DtxOutcome->new($c);
$o->attempt('COMMIT');
$o->truth;

# --- synchronous_commit = off
my $off = 'SET synchronous_commit = off';
foreach my $point (qw(commit_begin commit_sent commit_done))
{
	my $answer = $o->attempt('COMMIT', before => $off, gid => 1,
		armed => sub { $o->fault($point, 'crash_server') });
	$o->restart;
	is("$answer->{said} " . $o->truth, 'lost committed', "synchronous_commit = off, the server killed at $point");
	is($o->ask('c', "SELECT dtx.outcome('" . $o->gid . "')"), 'committed', 'dtx.outcome knows');
}
foreach my $wait ('2s', '0')
{
	my $answer = $o->attempt('COMMIT', before => "$off; SET dtx.commit_wait = '$wait'", gid => 1);
	$o->kill9('c');
	$o->forget_session;
	$c->start('c');
	is("$answer->{said} " . $o->truth, 'committed committed', "the server killed after COMMIT, with dtx.commit_wait = $wait");
	is($o->ask('c', "SELECT dtx.outcome('" . $o->gid . "')"), 'committed', 'dtx.outcome knows');
}

# --- a synchronous standby that is not there
sub standby
{
	my ($name) = @_;
	$o->calm;
	$c->as_super("ALTER SYSTEM SET synchronous_standby_names = '$name'");
	$c->as_super('SELECT pg_reload_conf()');
	$c->wait_for('the setting', sub { $c->as_super('SHOW synchronous_standby_names') eq $name });
	return;
}

sub waits
{
	return $o->ask('c', q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND usename = 'app'}) eq '1';
}

# What is prepared now, and what after some passes of the scanner.
sub stays_prepared
{
	my ($name) = @_;
	is($o->prepared_count, 2, "$name: both branches are prepared");
	my $passes = $o->ask('c', 'SELECT passes FROM dtx.stat');
	$c->poll_until(sub { $o->ask('c', 'SELECT passes FROM dtx.stat') > $passes + 3 }, 1.5);
	is($o->prepared_count, 2, 'and still are when the scanner has looked');
	return;
}

foreach my $commit ('on', 'off', 'local')
{
	standby('nobody');
	$o->begin(before => "SET synchronous_commit = $commit");
	$o->send_end;
	$c->wait_for('COMMIT to wait', \&waits);
	stays_prepared("synchronous_commit = $commit");
	standby_gone();
	my $answer = $o->answer;
	# with a WARNING, if the session sees that a moment before it is told
	is($answer->{said}, 'committed', 'COMMIT succeeds when nothing is to be waited for');
	is($o->truth, 'committed', 'and is committed');
}

sub standby_gone
{
	$c->as_super(q{SET synchronous_commit = local; ALTER SYSTEM RESET synchronous_standby_names});
	$c->as_super('SELECT pg_reload_conf()');
	return;
}

foreach my $how (qw(cancel terminate))
{
	standby('nobody');
	$o->begin(before => 'SET synchronous_commit = on');
	$o->send_end;
	$c->wait_for('COMMIT to wait', \&waits);
	$o->ask('c', "SELECT pg_${how}_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND usename = 'app'");
	my $answer = $o->answer;
	is($answer->{said}, $how eq 'cancel' ? 'committed' : 'lost', "$how during the wait");
	like($answer->{text}, qr/synchronous replication/, 'PostgreSQL says what may be missing');
	like($answer->{text}, qr/2 of its branches have not confirmed/, 'dtx what is left') if $how eq 'cancel';
	stays_prepared($how);
	standby_gone();
	is($o->truth, 'committed', 'committed when nothing is to be waited for any more');
	$o->forget_session;
}

$c->check_invariants(kept => 5);
done_testing();
