# A node votes no, cannot prepare, or takes too long; somebody cancels: the
# whole transaction is rolled back everywhere, and the message says why.
# With postgres_fdw in the same transaction that is not so for its part.
use strict;
use warnings;
use DtxCluster;
use DtxOutcome;
use Test::More;
use Time::HiRes qw(time);

my $c = DtxCluster->setup(nodes => [qw(a b d e)], conf_d => 'max_prepared_transactions = 0',
	conf_e => 'max_prepared_transactions = 1', conf_c => 'dtx.scan_interval = 100ms');
my $o = DtxOutcome->new($c);

$c->as_super(q{
	CREATE TABLE slow (seconds float);
	CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN PERFORM pg_sleep(NEW.seconds); RETURN NULL; END';
	CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION take_time();
	CREATE TABLE unsure (i int UNIQUE DEFERRABLE INITIALLY DEFERRED);
	GRANT ALL ON slow, unsure TO app}, node => 'b');

# --- what PostgreSQL cannot prepare, or refuses at the end
foreach my $case (
	[ 'a deferred constraint', 'INSERT INTO unsure VALUES (1), (1)', '23505', qr/duplicate key.*DETAIL:  Key \(i\)=\(1\) already exists/s ],
	[ 'NOTIFY',                'NOTIFY hello',                       '0A000', qr/HINT:/ ],
	[ 'a temporary table',     'CREATE TEMP TABLE t (i int)',        '0A000', qr/temporary/ ],
	[ 'a cursor WITH HOLD',    'DECLARE c CURSOR WITH HOLD FOR SELECT 1', '0A000', qr/WITH HOLD/ ])
{
	my ($what, $sql, $state, $pattern) = @$case;
	my $answer = $o->attempt('COMMIT', with => "SELECT dtx.exec('b', '$sql')");
	is("$answer->{said} " . ($answer->{state} || '') . ' ' . $o->truth, "aborted $state aborted", "$what on b: nothing is committed");
	like($answer->{text}, $pattern, 'the message says why');
	like($answer->{text}, qr/node "b"/, 'and where');
}
is($o->attempt('COMMIT')->{said} . ' ' . $o->truth, 'committed committed', 'the session goes on');

# NOTIFY alone: delivered only if all commit
my $listener = $c->super_session(node => 'b');
$listener->query('LISTEN hello');
foreach my $end (qw(ROLLBACK COMMIT))
{
	$o->session->query("BEGIN; SELECT dtx.exec('b', \$\$NOTIFY hello, '$end'\$\$);
		SELECT dtx.exec('a', 'UPDATE account SET owner = owner'); INSERT INTO ledger (note) VALUES ('$end'); $end");
}
my $heard = '';
$c->wait_for('the notification', sub { ($heard) = $listener->query('SELECT 1'); $heard =~ /hello/ });
like($heard, qr/"hello" with payload "COMMIT"/, 'a notification comes with COMMIT');
unlike($heard, qr/ROLLBACK/, 'and not with ROLLBACK');
$listener->quit;

# --- no room for prepared transactions
my $answer = $o->attempt('COMMIT', with => q{SELECT dtx.exec('d', 'UPDATE account SET owner = owner')});
is("$answer->{said} $answer->{state} " . $o->truth, 'aborted 55000 aborted', 'max_prepared_transactions = 0 on d');
like($answer->{text}, qr/node "d"/, 'the message names the node');
like($answer->{text}, qr/max_prepared_transactions/, 'and the setting');

$c->as_super(q{BEGIN; CREATE TABLE other (); PREPARE TRANSACTION 'somebody else'}, node => 'e');
$answer = $o->attempt('COMMIT', with => q{SELECT dtx.exec('e', 'UPDATE account SET owner = owner')});
is("$answer->{said} $answer->{state} " . $o->truth, 'aborted 53200 aborted', 'all prepared transactions of e are in use');
like($answer->{text}, qr/node "e"/, 'the message names the node');
like($answer->{text}, qr/max_prepared_transactions/, 'and the setting');
$c->as_super(q{ROLLBACK PREPARED 'somebody else'}, node => 'e');
is($o->attempt('COMMIT', with => q{SELECT dtx.exec('e', 'UPDATE account SET owner = owner')})->{said} . ' ' . $o->truth,
	'committed committed', 'with room it commits');

# --- cancel and time limits
sub sleeps { return $o->ask('b', q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}) eq '1'; }
sub session_pid { return $o->ask('c', q{SELECT pid FROM pg_stat_activity WHERE usename = 'app'}); }

# while PREPARE is on its way
$o->begin(with => q{SELECT dtx.exec('b', 'INSERT INTO slow VALUES (30)')});
my $pid = session_pid();
$o->send_end;
$c->wait_for('the sleep in PREPARE', \&sleeps);
my $begun = time();
$o->ask('c', "SELECT pg_cancel_backend($pid)");
$answer = $o->answer;
is("$answer->{said} $answer->{state}", 'aborted 57014', 'a cancel ends COMMIT while a node prepares');
cmp_ok(time() - $begun, '<', 10, 'at once');
is($o->truth, 'aborted', 'nothing is committed');
$c->wait_for('the node to notice', sub { !sleeps() });

# statement_timeout is off in COMMIT, on both sides; dtx.prepare_timeout is not
$answer = $o->attempt('COMMIT', before => q{SET statement_timeout = '300ms'; SET dtx.prepare_timeout = '700ms'},
	with => q{SELECT dtx.exec('b', 'INSERT INTO slow VALUES (30)')});
like("$answer->{said} $answer->{state}", qr/^aborted (40003|57014)$/, 'a PREPARE that takes too long');
cmp_ok($answer->{seconds}, '<', 10, 'ends within dtx.prepare_timeout');
is($o->truth, 'aborted', 'nothing is committed');
$answer = $o->attempt('COMMIT', before => q{SET statement_timeout = 0; SET dtx.prepare_timeout = '10s'},
	with => q{SELECT dtx.exec('b', 'INSERT INTO slow VALUES (1.2)')});
is($answer->{said} . ' ' . $o->truth, 'committed committed', 'a slow PREPARE within it is no trouble');

# All answers are taken in before the first error: a refuses at once, b takes
# its time, and is rolled back by the session itself.
$c->as_super(q{CREATE TABLE unsure (i int UNIQUE DEFERRABLE INITIALLY DEFERRED); GRANT ALL ON unsure TO app}, node => 'a');
my $was = $o->session->query(q{SELECT * FROM dtx.query('b', 'SELECT pg_backend_pid()') AS t(pid int)});
$answer = $o->attempt('COMMIT', with => q{SELECT dtx.exec('a', 'INSERT INTO unsure VALUES (1), (1)');
	SELECT dtx.exec('b', 'INSERT INTO slow VALUES (0.7)')}, armed => sub { $o->hold_scanner if $c->has_faults });
ok($c->poll_until(sub { $o->prepared_count == 0 }), 'one refuses while another prepares: the session undoes both');
$o->fault_reset if $c->has_faults;
is("$answer->{said} $answer->{state} " . $o->truth, 'aborted 23505 aborted', 'and says why');
cmp_ok($answer->{seconds}, '>', 0.7, 'the answer of the other is waited for');
is($o->session->query(q{SELECT * FROM dtx.query('b', 'SELECT pg_backend_pid()') AS t(pid int)}), $was,
	'and its connection is kept');

# while a statement runs
$o->begin;
$o->send_end(q{SELECT dtx.exec('b', 'SELECT pg_sleep(30)')});
$c->wait_for('the sleep', \&sleeps);
$begun = time();
$o->ask('c', "SELECT pg_cancel_backend($pid)");
$answer = $o->answer;
is("$answer->{said} $answer->{state}", 'aborted 57014', 'a cancel ends a statement on a node');
cmp_ok(time() - $begun, '<', 10, 'at once');
$o->send_end('COMMIT');
$o->answer;
is($o->truth, 'aborted', 'and nothing is committed');
$c->wait_for('the node to notice', sub { !sleeps() });
$answer = $o->attempt(q{SELECT dtx.exec('b', 'SELECT pg_sleep(30)'); COMMIT}, before => q{SET statement_timeout = '500ms'});
is("$answer->{said} $answer->{state}", 'aborted 57014', 'so does statement_timeout');
cmp_ok($answer->{seconds}, '<', 10, 'in time');
is($o->truth, 'aborted', 'and nothing is committed');
$o->forget_session;

# the client goes away in the middle of COMMIT
if ($c->has_faults)
{
	$o->begin;
	$o->fault('commit_begin', 'sleep:500');
	$o->send_end;
	$c->wait_for('phase two', sub { $o->fault_hits('commit_begin') > 0 });
	$o->session->{run}->kill_kill(grace => 0);
	delete $o->{session};
	is($o->truth, 'committed', 'a client that goes away in phase two leaves a committed transaction');
}

# --- postgres_fdw
$c->as_super(q{
	CREATE EXTENSION postgres_fdw;
	CREATE SERVER f FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '}
	  . $c->server('a')->port . qq{', dbname 'bank');
	CREATE USER MAPPING FOR app SERVER f OPTIONS (user 'app', password '$DtxCluster::password');
	GRANT USAGE ON FOREIGN SERVER f TO app;
	CREATE FOREIGN TABLE account_of_a (id int, owner text, balance bigint) SERVER f OPTIONS (table_name 'account');
	GRANT ALL ON account_of_a TO app});
sub foreign_owner { return $o->ask('a', 'SELECT owner FROM account WHERE id = 5'); }

my $change = q{UPDATE account_of_a SET owner = '%s' WHERE id = 5};
my $refused = q{SELECT dtx.exec('b', 'INSERT INTO unsure VALUES (1), (1)')};

# Used for the first time after the last dtx.exec, it commits before dtx prepares.
$o->session->query('SELECT 1');
$answer = $o->attempt('COMMIT', with => "$refused; " . sprintf($change, 'too early'));
is("$answer->{said} " . $o->truth . ' ' . foreign_owner(), 'aborted aborted too early',
	'postgres_fdw, when first used after all dtx.exec, is committed although dtx is refused');

# From its next dtx.exec on dtx prepares before.
$answer = $o->attempt('COMMIT', with => sprintf($change, 'both'));
is("$answer->{said} " . $o->truth . ' ' . foreign_owner(), 'committed committed both', 'both commit');
$answer = $o->attempt('COMMIT', with => sprintf($change, 'refused') . "; $refused");
is("$answer->{said} " . $o->truth . ' ' . foreign_owner(), 'aborted aborted both',
	'a refusal in phase one of dtx stops postgres_fdw as well');

# It is not atomic: what fails here after its commit leaves it committed.
if ($c->has_faults)
{
	my $rival = $c->app_session;
	$rival->query(q{BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(amount) FROM ledger;
		INSERT INTO ledger (note, amount) VALUES ('rival', 1)});
	$o->begin(before => 'SET default_transaction_isolation = serializable',
		with => 'SELECT sum(amount) FROM ledger; ' . sprintf($change, 'alone'));
	$o->fault('record_written', 'wait');
	$o->send_end;
	$c->wait_fault('record_written');
	$rival->query('COMMIT');
	$o->fault_reset;
	$answer = $o->answer;
	is("$answer->{said} $answer->{state} " . $o->truth, 'aborted 40001 aborted',
		'a serialization failure at the local COMMIT rolls back all of dtx');
	is(foreign_owner(), 'alone', 'and nothing of postgres_fdw');
	$rival->quit;
}

$c->check_invariants;
done_testing();
