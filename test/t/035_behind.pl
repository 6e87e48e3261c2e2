# Somebody ends a branch behind dtx's back.  Rolled back after the decision: it
# is held, shown and alarmed until an operator closes it.  Committed: the xid
# proves it.  "Gone" alone proves nothing.
use strict;
use warnings;
use DtxCluster;
use DtxOutcome;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => 'dtx.scan_interval = 50ms');
plan skip_all => 'no fault points' unless $c->has_faults;
my $o = DtxOutcome->new($c);
$o->attempt('COMMIT');
$o->truth;

# A session stops at a point, and somebody ends its branch on b.
sub meddled
{
	my ($point, $verb) = @_;
	$o->calm;
	$o->begin(gid => 1);
	$o->fault($point, 'wait');
	$o->send_end;
	$c->wait_fault($point);
	my $gid = $o->ask('b', q{SELECT gid FROM pg_prepared_xacts});
	is($gid, $o->gid . '_2', 'the branch is prepared');
	$c->as_super("$verb PREPARED '$gid'", node => 'b');
	$o->fault_reset;
	return $o->answer;
}

# Two more looks at all nodes.
sub passes { $o->ask('c', 'CALL dtx.recover()') foreach 1, 2; return; }

foreach my $point (qw(prepare_gathered commit_begin))
{
	my $answer = meddled($point, 'ROLLBACK');
	my $gid = $o->gid;
	is("$answer->{said} $answer->{state}", 'committed 01DTX', "rolled back by hand at $point: COMMIT succeeds with a WARNING");
	$c->wait_for('the branch to be held', sub {
		$o->ask('c', "SELECT state FROM dtx.branches WHERE gid = '$gid' AND branch = 2") eq 'held'
	});
	my ($reason, $call) = split /\|/, $o->ask('c', "SELECT reason, call FROM dtx.stuck WHERE gid = '$gid' AND node = 'b'");
	like($reason, qr/decided to commit, but rolled back on the node by somebody else/, 'dtx.stuck says why');
	like($call, qr/^SELECT dtx\.resolve\('\Q$gid\E', 2, /, 'and what to call');
	is($o->ask('c', "SELECT actor || ' ' || event FROM dtx.event WHERE gid = '$gid' AND branch = 2"), 'dtx held', 'dtx.event has it, once');
	like($c->log_text('c'), qr/branch "\Q$gid\E_2" on node "b" is held: /, 'the log too');
	passes();
	is($o->ask('c', "SELECT state FROM dtx.transactions WHERE gid = '$gid'"), 'held', 'it stays so');
	is($o->ask('c', "SELECT count(*) FROM dtx.event WHERE gid = '$gid' AND branch = 2"), 1, 'without more noise');
	is($o->ask('c', 'SELECT sum(held_count) FROM dtx.nodes'), 1, 'dtx.nodes counts it');
	is($o->ask('c', "SELECT dtx.outcome('$gid')"), 'committed', 'dtx.outcome tells the decision');

	# through a restart
	$o->kill9('c');
	$o->forget_session;
	$c->start('c');
	$c->wait_for('the branch to be held', sub {
		$o->ask('c', "SELECT state FROM dtx.stuck WHERE gid = '$gid' AND node = 'b'") eq 'held'
	});
	is($o->ask('c', "SELECT dtx.outcome('$gid')"), 'committed', 'also after a restart');
	passes();
	is($o->ask('c', q{SELECT count(*) FROM dtx.decision}), 1, 'the decision is not forgotten');

	# the operator
	my ($rc, undef, $err) = $c->super_psql("SELECT dtx.resolve('$gid', 2, 'aborted', 'it is')");
	like($err, qr/cannot resolve.*is committed/s, 'dtx.resolve refuses what contradicts the decision');
	($rc, undef, $err) = $c->super_psql("SELECT dtx.resolve('$gid', 2, 'committed', '')");
	like($err, qr/note is required/, 'and wants to know why');
	$c->as_super('UPDATE account SET balance = balance + 1 WHERE id = 1', node => 'b');
	$c->as_super("SELECT dtx.resolve('$gid', 2, 'committed', 'booked by hand')");
	$c->wait_for('the branch to be closed', sub { $o->ask('c', 'SELECT count(*) FROM dtx.decision') eq '0' });
	is($o->truth, 'committed', 'repaired and resolved, all is well');
	is($o->ask('c', "SELECT event || ': ' || detail FROM dtx.event WHERE gid = '$gid' AND actor <> 'dtx'"),
		'resolved as committed: booked by hand', 'dtx.event has the note');
	is($o->ask('c', 'SELECT count(*) FROM dtx.stuck'), 0, 'nothing is stuck');
	is($o->ask('c', "SELECT dtx.outcome('$gid')"), 'committed', 'dtx.outcome is the same for ever');
}

foreach my $point (qw(prepare_gathered commit_begin))
{
	my $answer = meddled($point, 'COMMIT');
	like("$answer->{said} " . ($answer->{state} || ''), qr/^committed (01DTX)?$/, "committed by hand at $point: COMMIT succeeds");
	is($o->truth, 'committed', 'and is right');
	$c->wait_for('it to be forgotten', sub { $o->ask('c', 'SELECT count(*) FROM dtx.decision') eq '0' });
	is($o->ask('c', "SELECT count(*) FROM dtx.event WHERE gid = '" . $o->gid . "'"), 0, 'nothing is held: the xid proves it');
}

# Just before the scanner comes: "does not exist" is not an answer.
foreach my $verb (qw(ROLLBACK COMMIT))
{
	$o->calm;
	$o->begin(gid => 1);
	$o->fault('commit_begin', 'error');
	$o->fault('scan_before_finish', 'wait', 1);    # a comes first, then b
	$o->send_end;
	is($o->answer->{said}, 'committed', 'a transfer is left to the scanner');
	$c->wait_fault('scan_before_finish');
	my ($node, $gid) = split / /, ($c->prepared)[0];
	my ($branch) = $gid =~ /(\d)$/;
	$c->as_super("$verb PREPARED '$gid'", node => $node);
	$o->fault_reset;
	if ($verb eq 'ROLLBACK')
	{
		ok($c->poll_until(sub { $o->ask('c', "SELECT state FROM dtx.stuck WHERE gid = '" . $o->gid . "'") eq 'held' }),
			'rolled back by hand under its eyes: held');
		$c->as_super('UPDATE account SET balance = balance ' . ($node eq 'a' ? '-' : '+') . ' 1 WHERE id = 1', node => $node);
		$c->as_super("SELECT dtx.resolve('" . $o->gid . "', $branch, 'committed', 'booked by hand')");
	}
	$c->wait_for('it to be forgotten', sub { $o->ask('c', 'SELECT count(*) FROM dtx.decision') eq '0' });
	is($o->truth, 'committed', $verb eq 'COMMIT' ? 'committed by hand under its eyes' : 'and resolved');
}

# The same while the coordinator is away.
foreach my $verb (qw(COMMIT ROLLBACK))
{
	$o->calm;
	$o->begin(gid => 1);
	$o->fault('commit_begin', 'crash_server');
	$o->send_end;
	$o->answer;
	my $gid = $o->gid;
	$c->as_super("$verb PREPARED '${gid}_2'", node => 'b');
	$o->restart;
	if ($verb eq 'COMMIT')
	{
		is($o->truth, 'committed', 'committed by hand while the coordinator was down');
		$c->wait_for('it to be forgotten', sub { $o->ask('c', 'SELECT count(*) FROM dtx.decision') eq '0' });
		next;
	}
	$c->wait_for('the branch to be held', sub {
		$o->ask('c', "SELECT state FROM dtx.stuck WHERE gid = '$gid' AND node = 'b'") eq 'held'
	});
	pass('rolled back by hand while the coordinator was down: held');
	$c->as_super('UPDATE account SET balance = balance + 1 WHERE id = 1', node => 'b');
	$c->as_super("SELECT dtx.resolve('$gid', 2, 'committed', 'booked by hand')");
	is($o->truth, 'committed', 'and resolved');
}

# A branch of a transaction that aborts may be rolled back by anybody.
$o->calm;
$o->begin(gid => 1);
$o->fault('record_written', 'crash_server');
$o->send_end;
$o->answer;
$c->as_super("ROLLBACK PREPARED '" . $o->gid . "_2'", node => 'b');
$o->restart;
is($o->truth, 'aborted', 'rolled back by hand what was to be rolled back');
is($o->ask('c', "SELECT dtx.outcome('" . $o->gid . "')"), 'aborted', 'dtx.outcome says so');
is($o->ask('c', 'SELECT count(*) FROM dtx.stuck'), 0, 'nothing is stuck');

# The branch is busy in somebody's hands, or not ours to end: tried again.
$o->calm;
$o->begin;
$o->fault('commit_begin', 'wait');
$o->send_end;
$c->wait_fault('commit_begin');
$c->as_super(q{ALTER ROLE app RENAME TO app_was}, node => 'b');
$o->fault_reset;
is($o->answer->{said}, 'committed', 'a transfer');
$c->as_super(qq{ALTER ROLE app_was RENAME TO app; ALTER ROLE app PASSWORD '$DtxCluster::password'}, node => 'b');
is($o->truth, 'committed', 'and committed');

# A superuser may do things on dtx's connections by dblink: noticed at COMMIT.
$c->as_super(join '', map { "CREATE USER MAPPING FOR CURRENT_USER SERVER $_ OPTIONS (user 'app', password '$DtxCluster::password');" } qw(a b));
my $super = $c->super_session;
my %message = (
	'dblink_disconnect(name)'                => qr/ERROR:  08\d\d\d: |ERROR:  lost connection to node/,
	q{dblink_exec(name, 'COMMIT')}           => qr/ERROR:  branch on node "b" lost its transaction/,
	q{dblink_exec(name, 'ROLLBACK')}         => qr/ERROR:  branch on node "b" lost its transaction/,
	q{dblink_exec(name, 'COMMIT; BEGIN')}    => qr/ERROR:  branch on node "b" lost its transaction/,
	q{dblink_exec(name, 'ROLLBACK; BEGIN; UPDATE account SET owner = owner')} => qr/ERROR:  branch on node "b" lost its transaction/);
foreach my $call (sort keys %message)
{
	# in b's part there is no money, it may be committed by this
	$super->query(q{BEGIN; INSERT INTO ledger (note) VALUES ('meddled');
		SELECT dtx.exec('a', 'UPDATE account SET balance = balance + 7 WHERE id = 4');
		SELECT dtx.exec('b', 'UPDATE account SET owner = $1 WHERE id = 4', ARRAY['meddled'])});
	# the name of b's connection is the last one
	$super->query("SELECT $call FROM unnest(dblink_get_connections()) name ORDER BY substr(name, 5)::int DESC LIMIT 1");
	$super->{stderr} = '';
	$super->query('COMMIT');
	like($super->{stderr}, $message{$call}, "$call in a branch: COMMIT fails");
	ok($c->wait_clean(40), 'nothing stays prepared');
	is($c->balance('a', 4) . $c->ledger_count('meddled'), '10000', 'a and the coordinator have nothing');
}
$super->quit;

$c->check_invariants(kept => 8);
done_testing();
