# An xid that was never flushed is handed out again after a crash: what was
# prepared under it before has nothing to do with who commits under it now.
use strict;
use warnings;
use DtxCluster;
use DtxOutcome;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b d)], conf_c => 'dtx.scan_interval = 100ms');
plan skip_all => 'no fault points' unless $c->has_faults;
my $o = DtxOutcome->new($c);
is(($c->transfer('a', 'b', 1))[0], 0, 'nodes a and b are known');
is(($c->transfer('c', 'd', 1))[0], 0, 'and d');
$c->check_invariants;

# Xids without any WAL: room for those that the start itself takes.
my @idle = map { $c->super_session } 1 .. 6;
$_->query_safe('BEGIN; SELECT pg_current_xact_id()') foreach @idle;

$o->fault('prepare_gathered', 'crash_server');
my $session = $c->app_session;
$c->start_query($session, q{BEGIN;
	SELECT dtx.current_gid();
	SELECT dtx.exec('a', 'UPDATE account SET balance = balance - 100 WHERE id = 2');
	SELECT dtx.exec('b', 'UPDATE account SET balance = balance + 100 WHERE id = 2');
	COMMIT});
my ($stdout) = $c->finish_query($session);
my ($old) = $stdout =~ /(dtx_\w+)/;
my ($xid) = $old =~ /^dtx_[0-9a-f]+_([0-9a-f]+)_/;
note "$old, xid $xid";

# Keep the scanner from a and b for a while.
foreach my $node (qw(a b))
{
	$c->as_super(q{ALTER ROLE app PASSWORD 'not this one'}, node => $node);
	is($o->ask($node, 'SELECT count(*) FROM pg_prepared_xacts'), 1, "prepared on $node");
}
$o->restart;
cmp_ok($o->ask('c', 'SELECT pg_snapshot_xmax(pg_current_snapshot())'), '<=', hex $xid,
	'after the restart the xid is in the future');
is($o->ask('c', "SELECT dtx.outcome('$old')"), 'aborted', 'and its transaction aborted');

# Take all xids before it, then commit with that one.
$session = $c->app_session;
$stdout = '';
while ($stdout !~ /^dtx_[0-9a-f]+_\Q$xid\E_/m)
{
	$stdout = $session->query(q{ROLLBACK; BEGIN; SELECT dtx.current_gid()});
	my ($got) = $stdout =~ /dtx_[0-9a-f]+_([0-9a-f]+)_/;
	last if !$got || hex $got > hex $xid;
}
my ($new) = $stdout =~ /(dtx_\w+)/;
like($new, qr/^dtx_[0-9a-f]+_\Q$xid\E_/, 'the xid is handed out again');
$session->query(q{UPDATE account SET balance = balance - 10 WHERE id = 2;
	SELECT dtx.exec('d', 'UPDATE account SET balance = balance + 10 WHERE id = 2')});
$o->fault('commit_begin', 'error');
$session->{stderr} = '';
$session->query('COMMIT');
unlike($session->{stderr}, qr/ERROR|FATAL/, 'and its new transaction commits');
is($o->ask('c', "SELECT pg_xact_status('" . hex($xid) . "')"), 'committed', 'the xid is committed now');
$c->wait_for('the new branch to end', sub { $o->ask('d', 'SELECT count(*) FROM pg_prepared_xacts') == 0 });

is($o->ask($_, 'SELECT count(*) FROM pg_prepared_xacts'), 1, "still prepared on $_") foreach qw(a b);
$c->as_super("ALTER ROLE app PASSWORD '$DtxCluster::password'", node => $_) foreach qw(a b);
ok($c->wait_clean(40), 'the scanner comes to a and b again');
is(join(' ', map { $c->balance($_, 2) } qw(a b c d)), '1000 1000 990 1010',
	'old branches are rolled back, the new one is committed');
is($o->ask('c', "SELECT dtx.outcome('$old')"), 'aborted', 'the old transaction is still aborted');
is($o->ask('c', "SELECT dtx.outcome('$new')"), 'committed', 'the new one is committed');
$c->check_invariants(kept => 1);
done_testing();
