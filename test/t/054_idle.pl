# A scanner without work leaves, and is there again when somebody needs it.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use Test::More;
use Time::HiRes qw(time);

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => "dtx.scan_interval = 100ms
dtx.sweep_interval = 1h
dtx.scanner_idle_timeout = 1s
dtx.max_backoff = 1s
dtx.stuck_after = 0
dtx.commit_wait = 300ms");
plan skip_all => 'no fault points' unless $c->has_faults;
my ($rc, $stdout, $stderr);
sub away { return scanner_activity($c) eq ''; }

($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1);
is($stderr, '', 'a transfer');
$c->wait_for('the scanner to leave', \&away);
pass('a scanner without work leaves');
is(state_lives($c), 'created', 'its life goes on');
is($c->as_super('SELECT count(*) FROM dtx.decision'), 0, 'it has left no row behind');

foreach my $i (1 .. 20)
{
	($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1);
	last if $stderr ne '';
}
is($stderr, '', 'transactions do not wait for it');
$c->wait_for('rows to be forgotten', sub { $c->as_super('SELECT count(*) FROM dtx.decision') == 0 });
pass('it comes for rows that can be forgotten');

$c->wait_for('the scanner to leave', \&away);
$c->fault('commit_begin', 'error');
my $start = time();
$c->transfer('a', 'b', 1);
ok($c->wait_clean(40), 'it comes for branches that a session could not end');
cmp_ok(time() - $start, '<', 30, 'at once');

# COMMIT does not wait for a node that missed the bound
$c->wait_for('the scanner to leave', \&away);
$c->fault('commit_begin', 'wait');
my $session = $c->app_session;
$c->start_query($session, $c->transfer_sql('a', 'b', 1));
$c->wait_fault('commit_begin');
$c->hang('b');
$c->fault_reset;
($stdout, $stderr) = $c->finish_query($session);
like($stderr, qr/WARNING:  transaction is committed, but 1 of its branches has not confirmed it yet/, 'a node hangs at COMMIT');
like($c->as_super(q{SELECT state FROM dtx.nodes WHERE node = 'b'}), qr/^(slow|failing)$/, 'dtx.nodes shows it');
isnt(scanner_activity($c), '', 'while branches wait the scanner stays') if $c->poll_until(sub { !away() }, 5);
$c->wait_for('the node to fail', sub { $c->as_super(q{SELECT state FROM dtx.nodes WHERE node = 'b'}) eq 'failing' });
$start = time();
$c->poll_until(sub { time() - $start > 2 });
isnt(scanner_activity($c), '', 'longer than its idle time');
$c->resume('b');
ok($c->wait_clean(40), 'and ends them when the node answers');
$c->wait_for('the node to be reachable', sub { $c->as_super(q{SELECT state FROM dtx.nodes WHERE node = 'b'}) eq 'reachable' });
end_session($session);
$c->wait_for('the scanner to leave', \&away);
pass('then it leaves');

# what nobody has told it of
my $gid = sprintf 'dtx_%s_%s_0123456789abcdef_1', present_life($c),
  $c->as_super(q{SELECT to_hex(pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)});
$c->as_app("BEGIN; CREATE TABLE orphan (); PREPARE TRANSACTION '$gid'", node => 'b');
$c->as_super("ALTER SYSTEM SET dtx.sweep_interval = '1s'", db => 'postgres');
$c->server('c')->reload;
ok($c->wait_clean(40), 'after dtx.sweep_interval it looks at all nodes');

$c->check_invariants;
done_testing();
