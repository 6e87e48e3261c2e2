# What a saga does follows from what is on disk, whatever synchronous_commit says.
use strict;
use warnings;
use DtxCluster;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], extension_nodes => 1, conf => "
wal_writer_delay = 10s
", conf_c => "
synchronous_commit = off
dtx.retry_interval = 100ms
");
plan skip_all => 'no fault points' unless $c->has_faults;

# Nobody else is to flush what a commit has not waited for.
sub stop_wal_writer
{
	my ($name) = @_;
	kill 'STOP', $c->as_super(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'}, node => $name);
	return;
}

sub saga
{
	my (%opt) = @_;
	my $second = $opt{second} || 'UPDATE account SET balance = balance + 10 WHERE id = 1';
	return qq({"steps": [
		{"name": "debit", "node": "a", "action": "UPDATE account SET balance = balance - 10 WHERE id = 1",
		 "compensation": "UPDATE account SET balance = balance + 10 WHERE id = 1"},
		{"name": "credit", "node": "b", "action": "$second", "compensation": "UPDATE account SET balance = balance - 10 WHERE id = 1"}]});
}

# --- submitted without waiting for the disk, and the server lost as soon as a step is sent
$c->as_app('SELECT dtx.exec(\'a\', \'SELECT 1\')');
$c->as_app("SELECT dtx.saga_submit('{\"steps\": [{\"name\": \"x\", \"node\": \"a\"}, {\"name\": \"y\", \"node\": \"b\"}]}', 'first')");
$c->as_app(q{SELECT dtx.wait('first')});
stop_wal_writer('c');
$c->fault('flow_sent', 'crash_server');
$c->app_psql("BEGIN; SELECT dtx.saga_submit('" . saga() . "', 'one'); COMMIT");
$c->wait_down;
$c->start('c');
is($c->as_super(q{SELECT count(*) FROM dtx.transactions WHERE gid = 'one'}), 1, 'what was sent had been submitted');
is($c->as_app(q{SELECT dtx.wait('one', '60s')}), 'committed', 'and comes to its end');
is($c->balance('a') . ' ' . $c->balance('b'), '990 1010', 'each step once');

# --- turned back, which is not forgotten once a compensation was sent
$c->as_super('CREATE TABLE mood (refuse bool); INSERT INTO mood VALUES (true); GRANT SELECT ON mood TO app', node => 'b');
# the third thing that is sent is the compensation
stop_wal_writer('c');
$c->fault('flow_sent', 'crash_server', 2);
$c->app_psql("SELECT dtx.saga_submit('" . saga(second => 'UPDATE account SET balance = balance + 10 / (SELECT CASE WHEN refuse THEN 0 ELSE 1 END FROM mood) WHERE id = 1') . "', 'two')");
$c->wait_down;
# now it would be accepted
$c->as_super('UPDATE mood SET refuse = false', node => 'b');
$c->start('c');
is($c->as_app(q{SELECT dtx.wait('two', '60s')}), 'aborted', 'a saga that has turned back stays so');
is($c->balance('a') . ' ' . $c->balance('b'), '990 1010', 'and is undone');

# --- a participant whose role does not wait for the disk either
$c->as_super('ALTER ROLE app SET synchronous_commit = off', node => 'a', db => 'postgres');
$c->kill9('c');
$c->start('c');
$c->fault('flow_answered', 'wait', 1);
stop_wal_writer('a');
$c->app_psql("SELECT dtx.saga_submit('" . saga() . "', 'three')");
# the first answer is written down; the second step has been answered as well
$c->wait_fault('flow_answered');
$c->kill9('a');
$c->start('a');
$c->fault_reset;
is($c->as_app(q{SELECT dtx.wait('three', '60s')}), 'committed', 'a participant is lost after it has answered');
is($c->balance('a') . ' ' . $c->balance('b'), '980 1020', 'and has what it said it had done');
$c->check_invariants(total => 30000);
done_testing();
