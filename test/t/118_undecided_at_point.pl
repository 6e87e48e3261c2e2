# What is under way at the moment of a restore point.  Decided, it is waited for.
# Undecided, it is rolled back after the recovery, even though the recovered
# coordinator hands out xids again that were used after the point.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use Test::More;
use Time::HiRes qw(sleep);

my $c = DtxCluster->setup(nodes => [qw(a b)], conf => $archiving, conf_c => "dtx.scan_interval = 100ms
dtx.lockout_timeout = 60s");
plan skip_all => 'no fault points' unless $c->has_faults;
is(($c->transfer('a', 'b', 1))[0], 0, 'both nodes are known');
$c->as_super(q{CREATE ROLE keeper SUPERUSER LOGIN PASSWORD 'keeps'}, node => $_) foreach qw(c a b);
$c->as_super(qq{CREATE USER MAPPING FOR keeper SERVER $_ OPTIONS (user 'keeper', password 'keeps')}) foreach qw(a b);
archive_all($c);

# A transfer of 10 on account $id that stops at a fault point; it writes on the
# nodes alone, so that nothing but its status row has its xid in the local log.
# Returns session and gid.
sub stop_at
{
	my ($id, $point) = @_;
	$c->fault($point, 'wait');
	my $session = $c->app_session;
	$session->{stdout} = '';
	my $out = $session->query(qq{BEGIN;
		SELECT dtx.exec('a', 'UPDATE account SET balance = balance - 10 WHERE id = $id');
		SELECT dtx.exec('b', 'UPDATE account SET balance = balance + 10 WHERE id = $id');
		SELECT dtx.current_gid()});
	my ($gid) = $out =~ /(dtx_\w+)/;
	$c->start_query($session, 'COMMIT');
	$c->wait_fault($point);
	return { session => $session, gid => $gid, xid => hex(($gid =~ /_([0-9a-f]+)_[0-9a-f]+$/)[0]) };
}
sub prepared_of { my ($t) = @_; return scalar grep { / $t->{gid}_/ } $c->prepared; }

# --- decided, and left to the scanner half-way: a point waits for it
$c->wait_for('everything to be forgotten', sub { $c->as_super('SELECT count(*) FROM dtx.decision') == 0 });
my $keeper = $c->super_session;
$keeper->query_safe('SET SESSION AUTHORIZATION keeper');
$c->fault('scan_begin', 'wait');
$c->fault('commit_sent', 'error');
is(($c->transfer('a', 'b', 7, from_id => 6, to_id => 6))[0], 0, 'a transfer that is decided, and left to the scanner');
$c->wait_for('its commit on a', sub { $c->balance('a', 6) == 993 });
is($c->balance('b', 6), 1000, 'committed on one node only');
$c->start_query($keeper, q{SELECT node FROM dtx.create_restore_point('whole')});
sleep 0.3;
ok(!$c->query_finished($keeper), 'a restore point waits for it');
is(($c->app_psql(q{BEGIN; SELECT dtx.exec('a', 'UPDATE account SET balance = balance WHERE id = 7'); COMMIT}))[0], 0,
	'but does not hold others up meanwhile');
$c->fault_reset;
is(($c->finish_query($keeper))[0], "\na\nb", 'until it is over');
is($c->balance('b', 6), 1007, 'and then it is whole');
is($c->as_super('SELECT count(*) FROM dtx.decision'), 0, 'and forgotten');

# in this order: the xid of the first is in the log by way of the second's row,
# those of the last two are not
my %t;
$t{prepared} = stop_at(2, 'prepare_gathered');
$t{recorded} = stop_at(3, 'record_written');
$t{newest} = stop_at(4, 'prepare_gathered');

# --- the point, with one more prepared between that of the coordinator and theirs
$c->fault('restore_point_here', 'wait');
$c->start_query($keeper, q{SELECT node FROM dtx.create_restore_point('moment')});
$c->wait_fault('restore_point_here');
$t{between} = stop_at(5, 'prepare_gathered');
is(prepared_of($t{$_}), 2, "$_: prepared on both nodes") foreach sort keys %t;
cmp_ok($t{newest}{xid}, '<', $t{between}{xid}, 'xids are handed out in this order');
$c->fault_reset;
is(($c->finish_query($keeper))[0], "\na\nb", 'the restore point');
$keeper->quit;

# --- all go on and commit, after it
foreach my $name (sort keys %t)
{
	my ($out, $err) = $c->finish_query($t{$name}{session});
	is($err, '', "$name: commits after the point");
	$t{$name}{session}->quit;
}
is($c->balance('b', $_), 1010, "account $_: it is there") foreach 2 .. 5;
$c->check_invariants(name => 'before the disaster', kept => 4);

# --- all servers are recovered to the point
recover_all($c, 'moment');
is(prepared_of($t{$_}), 2, "$_: prepared again") foreach sort keys %t;
foreach my $name (qw(newest between))
{
	$c->wait_for("the xid of $name to be handed out again", sub {
		$c->as_super("SELECT pg_current_xact_id()::text::bigint > $t{$name}{xid}") eq 't' });
	is($c->as_super("SELECT pg_xact_status('$t{$name}{xid}')"), 'committed', "$name: its xid has committed, of somebody else");
}
is($c->as_super("SELECT dtx.outcome('$t{$_}{gid}')"), 'unknown', "$_: nobody knows, before somebody says so") foreach sort keys %t;
adopt_all($c, 'all servers are recovered to moment');
is($c->as_super("SELECT dtx.outcome('$t{$_}{gid}')"), 'aborted', "$_: aborted, now that no commit is missing") foreach sort keys %t;
ok($c->wait_clean(40), 'all of them are rolled back');
is($c->as_super('SELECT node, gid, state, reason FROM dtx.stuck'), '', 'nothing is stuck');
is($c->balance('a', $_) . ' ' . $c->balance('b', $_), '1000 1000', "account $_: as at the moment of the point") foreach 2 .. 5;
is(($c->transfer('a', 'b', 1))[2], '', 'and it goes on');
$c->check_invariants(log => 0);
done_testing();
