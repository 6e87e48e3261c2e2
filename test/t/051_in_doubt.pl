# While branches are in doubt: what is refused, what repairs them, and what an
# operator sees and can call.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => "dtx.scan_interval = 100ms
dtx.sweep_interval = 1s
dtx.max_backoff = 1s
dtx.stuck_after = 0");
plan skip_all => 'no fault points' unless $c->has_faults;
my ($rc, $stdout, $stderr);

# COMMIT a transfer of $amount while b is down: its branch there stays.
sub decided_without_b
{
	my ($amount, %opt) = @_;
	$c->fault('commit_begin', 'wait');
	my $session = $c->app_session(%opt);
	$c->start_query($session, $c->transfer_sql('a', 'b', $amount, %opt));
	$c->wait_fault('commit_begin');
	$c->stop('b', 'immediate');
	$c->fault_reset;
	my ($stdout, $stderr) = $c->finish_query($session);
	end_session($session);
	return $stderr;
}
sub refused
{
	my ($sql, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($rc, $stdout, $stderr);
	# locks of many tables are taken before the guard is asked: the scanner may
	# have some of them in another order
	do { ($rc, $stdout, $stderr) = $c->super_psql($sql) } while $stderr =~ /deadlock detected/;
	return like($stderr, qr/ERROR:  cannot drop $what while branches depend on it\nHINT: .*dtx\.recover\(\).*dtx\.stuck/, "refused: $sql");
}
sub stuck { return $c->as_super('SELECT node, branch, state, reason, last_error, call FROM dtx.stuck ORDER BY node, gid'); }
sub node_state { return $c->as_super("SELECT state FROM dtx.nodes WHERE node = '$_[0]'"); }

is($c->as_super('SELECT count(*) FROM dtx.nodes'), 0, 'dtx.nodes is empty before the first use');
$c->transfer('a', 'b', 1);
$c->wait_for('the nodes to be looked at', sub { node_state('a') eq 'reachable' && node_state('b') eq 'reachable' });
like($c->as_super(q{SELECT reached_at > now() - interval '1 minute', failing_since IS NULL, failure_count, last_error IS NULL,
	pending_count, held_count, prepared_max, version / 10000 >= 15, round_trip_ms > 0
	FROM dtx.nodes WHERE node = 'b'}), qr/^t\|t\|0\|t\|0\|0\|50\|t\|t$/, 'dtx.nodes tells what is known of a node');
ok($c->poll_until(sub { stuck() eq '' }), 'nothing is stuck');

##########################################################################
# Branches on a node that is down
##########################################################################

like(decided_without_b(100), qr/WARNING:  transaction is committed, but 1 of its branches has not confirmed it yet\nDETAIL:  Global transaction "dtx_[0-9a-f_]+"; node "b"\.\nHINT: /,
	'COMMIT succeeds with a warning');
my ($gid) = $c->as_super('SELECT gid FROM dtx.transactions') =~ /(.+)/;
$c->wait_for('the node to fail', sub { node_state('b') eq 'failing' });
$c->wait_for('a to be done', sub { $c->as_super(q{SELECT count(*) FROM dtx.stuck WHERE node = 'a'}) == 0 });
$c->wait_for('the reason', sub { stuck() =~ /could not connect/ });
like(stuck(), qr/^b\|2\|pending\|the node is not reached since [^|]*\|could not connect to node "b"[^|]*\|CALL dtx\.recover\(\)$/,
	'dtx.stuck tells node, branch, reason, error and call');
unlike($c->as_super(q{SELECT last_error FROM dtx.stuck}), qr/127\.0\.0\.1|port/, 'without the address');
is($c->as_super('SELECT gid, node, role, state, outcome FROM dtx.branches WHERE node = $$b$$'), "$gid|b|app|pending|committed", 'dtx.branches lists it');
is($c->as_super('SELECT gid, state, owner, branch_count FROM dtx.transactions'), "$gid|committing|app|2", 'dtx.transactions too');
like($c->as_super('CALL dtx.recover()'), qr/^0\|1\|0$/, 'dtx.recover counts it as left');

refused('DROP SERVER b CASCADE', 'a (server|user mapping)');
refused('DROP USER MAPPING FOR app SERVER b', 'a user mapping');
refused('DROP OWNED BY app CASCADE', 'a user mapping');
refused('DROP EXTENSION dtx', 'extension dtx');
refused('DROP EXTENSION dtx CASCADE', 'extension dtx');
refused('DROP EXTENSION dblink CASCADE', '\w.*');
refused('DROP SCHEMA dtx CASCADE', '\w.*');
($rc, $stdout, $stderr) = $c->app_psql('SET dtx.allow_drop_in_doubt = on');
like($stderr, qr/ERROR:  permission denied to set parameter/, 'only a superuser can do it all the same');
($rc, $stdout, $stderr) = $c->super_psql('SET dtx.allow_drop_in_doubt = on; BEGIN; DROP SERVER b CASCADE; ROLLBACK');
unlike($stderr, qr/ERROR/, 'who can');
is($c->as_super('SELECT count(*) FROM dtx.branches WHERE node = $$b$$'), 1, 'the branch is still known');
($rc, $stdout, $stderr) = $c->super_psql("SELECT dtx.resolve('$gid', 2, 'aborted', 'why')");
like($stderr, qr/ERROR:  /, 'it cannot be resolved as aborted');
is($c->as_super(q{SELECT count(*) FROM dtx.event}), 0, 'what was refused is no event');

# the node comes back at another port, where its password is another
my $b = $c->server('b');
$b->{_port} = PostgreSQL::Test::Cluster::get_free_port();
$b->append_conf('postgresql.conf', 'port = ' . $b->port);
$c->start('b');
$c->as_super("ALTER ROLE app PASSWORD 'another'", node => 'b');
is($c->prepared_count, 1, 'the branch waits on a node that has moved');
is($c->as_super("ALTER SERVER b OPTIONS (SET port '@{[ $b->port ]}')"), '', 'ALTER SERVER is allowed');
$c->wait_for('the password to be refused', sub { stuck() =~ /password authentication failed for user "app"/ });
pass('dtx.stuck shows that the password is wrong');
is($c->prepared_count, 1, 'the branch still waits');
is($c->as_super("ALTER USER MAPPING FOR app SERVER b OPTIONS (SET password 'another')"), '', 'ALTER USER MAPPING is allowed');
ok($c->wait_clean(40), 'and ends the branch');
is($c->balance('b'), 1101, 'with which the money arrives');
$c->wait_for('nothing to be stuck', sub { stuck() eq '' });
$c->wait_for('the node to be reachable', sub { node_state('b') eq 'reachable' });
is($c->as_super(q{SELECT failing_since IS NULL, failure_count, last_error IS NULL, pending_count FROM dtx.nodes WHERE node = 'b'}),
	't|0|t|0', 'dtx.nodes has forgotten its failures');

##########################################################################
# The call that is shown
##########################################################################

# the scanner waits in its next pass, so that only the call can do it
decided_without_b(100);
$c->wait_for('the call', sub { stuck() =~ /CALL dtx\.recover\(\)/ });
my $call = $c->as_super(q{SELECT call FROM dtx.stuck WHERE node = 'b'});
$c->start('b');
$c->wait_for('the branch to be ended', sub { $c->super_psql($call); $c->prepared_count == 0 });
is($c->balance('b'), 1201, 'CALL dtx.recover() can be called while the scanner is at work');

##########################################################################
# Ended behind our back
##########################################################################

decided_without_b(100);
($gid) = $c->as_super('SELECT gid FROM dtx.transactions') =~ /(.+)/;
$c->as_super("ALTER SERVER b OPTIONS (SET port '1')");    # not to be seen before
$c->start('b');
$c->as_super("ROLLBACK PREPARED '${gid}_2'", node => 'b');
$c->as_super("ALTER SERVER b OPTIONS (SET port '@{[ $b->port ]}')");
$c->wait_for('it to be held', sub { stuck() =~ /^b\|2\|held\|[^\n]*$/ });
is($c->as_super(q{SELECT node, gid, branch, reason, call FROM dtx.stuck}),
	"b|$gid|2|decided to commit, but rolled back on the node by somebody else|SELECT dtx.resolve('$gid', 2, 'committed', 'why')",
	'a branch that somebody rolled back after the decision is held');
like(join("\n", $c->log_grep(qr/dtx: branch ".*" on node "b" is held: decided to commit, but rolled back/, 'c')), qr/./, 'the log has it');
is($c->as_super('SELECT state FROM dtx.transactions'), 'held', 'and its transaction');
is($c->as_super(q{SELECT held_count FROM dtx.nodes WHERE node = 'b'}), 1, 'dtx.nodes counts it');
is($c->as_super('CALL dtx.recover()'), '0|0|1', 'and so does dtx.recover');
refused('DROP SERVER b CASCADE', 'a (server|user mapping)');
($rc, $stdout, $stderr) = $c->super_psql("SELECT dtx.resolve('$gid', 2, 'aborted', 'it is')");
like($stderr, qr/ERROR:  cannot resolve a branch of global transaction "$gid" as aborted\nDETAIL:  The transaction is committed/,
	'it cannot be resolved against the decision');
($rc, $stdout, $stderr) = $c->super_psql("SELECT dtx.resolve('$gid', 1, 'committed', 'that too')");
like($stderr, qr/ERROR:  branch 1 of global transaction "$gid" waits for nobody/, 'nor one that is done');
foreach my $bad ([ q{'dtx_1', 1, 'committed', 'x'}, 'is not the name of a global transaction' ],
	[ qq{'$gid', 2, 'perhaps', 'x'}, 'invalid outcome "perhaps"' ],
	[ qq{'$gid', 2, 'committed', ''}, 'a note is required' ],
	[ qq{'$gid', 99, 'committed', 'x'}, 'branch 99 of global transaction' ])
{
	($rc, $stdout, $stderr) = $c->super_psql("SELECT dtx.resolve($bad->[0])");
	like($stderr, qr/ERROR: .*$bad->[1]/, "resolve($bad->[0]) is refused");
}
$c->as_super('UPDATE account SET balance = balance + 100 WHERE id = 1', node => 'b');    # by hand, as the hint says
$call = $c->as_super('SELECT call FROM dtx.stuck');
is($c->as_super($call), '', 'the call that dtx.stuck shows');
$c->wait_for('nothing to be stuck', sub { stuck() eq '' });
$c->wait_for('it to be forgotten', sub { $c->as_super('SELECT count(*) FROM dtx.decision') == 0 });
is($c->as_super(q{SELECT string_agg(concat_ws(' ', actor = session_user, gid = '} . $gid . q{', branch, event, detail), '; ' ORDER BY number) FROM dtx.event}),
	'f t 2 held decided to commit, but rolled back on the node by somebody else; t t 2 resolved as committed why; f t 2 closed accepted by an operator',
	'settles it, and dtx.event has the whole story');

##########################################################################
# Given another name; given up
##########################################################################

decided_without_b(100);
is($c->as_super('ALTER SERVER b RENAME TO renamed'), '', 'ALTER SERVER ... RENAME is allowed');
$c->start('b');
ok($c->wait_clean(40), 'and does not matter');
$c->as_super('ALTER SERVER renamed RENAME TO b');
$c->check_invariants(name => 'in the end');

# the node is gone for good, so its server is dropped in spite of all
decided_without_b(100);
$c->wait_for('a to be done', sub { $c->as_super(q{SELECT count(*) FROM dtx.stuck}) == 1 });
is($c->as_super('SET client_min_messages = error; SET dtx.allow_drop_in_doubt = on; DROP SERVER b CASCADE'), '',
	'a superuser gives up a node');
like(stuck(), qr/^\d+\|2\|[^|]*\|[^|]+\|[^|]*\|SELECT dtx\.resolve\('dtx_[0-9a-f_]+', 2, 'committed', 'why'\)$/,
	'its branch is still stuck, with a call');
($call) = stuck() =~ /(SELECT dtx\.resolve.*)/;
is($c->as_super($call), '', 'which settles it');
$c->wait_for('nothing to be stuck', sub { stuck() eq '' });
$c->wait_for('it to be forgotten', sub { $c->as_super('SELECT count(*) FROM dtx.decision') == 0 });
$c->start('b');
is(join(' ', $c->prepared) =~ /^b dtx_/, 1, 'the branch itself is left to its node');

##########################################################################
# Afterwards everything goes
##########################################################################

$c->as_super('CREATE ROLE other LOGIN; ' . qq{CREATE USER MAPPING FOR other SERVER a OPTIONS (user 'app', password '$DtxCluster::password')});
foreach my $sql ('DROP USER MAPPING FOR app SERVER a', 'DROP USER MAPPING FOR other SERVER a; DROP ROLE other',
	'DROP EXTENSION dtx', 'DROP SERVER a CASCADE')
{
	$c->wait_for('the node to be found clean', sub { ($stderr = ($c->super_psql($sql))[2]) !~ /while branches depend/ });
	unlike($stderr, qr/ERROR/, "allowed: $sql");
}
done_testing();
