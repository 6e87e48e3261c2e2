# A participant of sagas and TCC that does not preload dtx; and one that dies, or
# is stopped, while it applies a batch.
use strict;
use warnings;
use DtxCluster;
use Test::More;

my $c = DtxCluster->setup(nodes => ['a']);
$c->as_super('CREATE EXTENSION dtx CASCADE', node => 'a');
foreach my $server (qw(c a))
{
	$c->as_app(q{
		CREATE TABLE child (account int REFERENCES account DEFERRABLE INITIALLY DEFERRED);
		CREATE FUNCTION context() RETURNS text LANGUAGE sql AS 'SELECT c::text FROM dtx.saga_context() c';
	}, node => $server);
}

# A call of dtx.apply: a list of [step, operation, statement, arguments, timeout].
sub call
{
	my (@requests) = @_;
	my $list = sub { my ($type, @values) = @_; 'ARRAY[' . join(', ', @values) . "]::$type\[]" };
	my $quote = sub { my ($text) = @_; return 'NULL' unless defined $text; $text =~ s/'/''/g; return "'$text'" };
	my $n = 0;
	return "CALL dtx.apply(1, '0', 4000, " . join(', ',
		$list->('xid8', map { "'100'" } @requests), $list->('bigint', map { 7 } @requests),
		$list->('int', map { $_->[0] } @requests), $list->('text', map { "'$_->[1]'" } @requests),
		$list->('int', map { 1 } @requests), $list->('text', map { "'gid'" } @requests),
		$list->('text', map { "'step $_->[0]'" } @requests), $list->('text', map { $quote->($_->[2] // '') } @requests),
		$list->('int', map { $n++; defined $_->[2] ? $n : 0 } @requests),
		$list->('text', map { $quote->($_->[3]) } @requests), $list->('int', map { $_->[4] || 0 } @requests)) . ')';
}
sub balances { return $c->as_super(q{SELECT string_agg(balance::text, ' ' ORDER BY id) FROM account WHERE id <= 2}, node => $_[0]); }
sub rows { return $c->as_super(q{SELECT string_agg(step || ' ' || state, ', ' ORDER BY step) FROM dtx.barrier}, node => $_[0]); }
my @move = ([ 1, 'action', 'UPDATE account SET balance = balance - $1 WHERE id = 1', '{10}' ],
	[ 2, 'action', 'UPDATE account SET balance = balance + $1 WHERE id = 2 RETURNING balance', '{10}' ]);
my $moved = '{done,NULL,NULL,NULL,done,NULL,NULL,"{\"balance\": 1010}"}';

##########################################################################
# dtx is not preloaded
##########################################################################

is($c->as_super('SHOW shared_preload_libraries', node => 'a'), '', 'a does not preload dtx');
foreach my $time ('once', 'once more')
{
	is($c->as_app(call(@move), node => 'a'), $moved, "a batch, $time");
	is(balances('a'), '990 1010', 'is applied once');
}
is($c->as_app(call([ 3, 'action', 'SELECT context()' ], [ 4, 'action', 'INSERT INTO child VALUES (-1)' ],
		[ 5, 'action', 'INSERT INTO child VALUES (1)' ]), node => 'a'),
	'{done,NULL,NULL,"{\"context\": \"(gid,\\\\\\"step 3\\\\\\",1,action)\"}",failed,23503,'
	  . '"insert or update on table \"child\" violates foreign key constraint \"child_account_fkey\": Key (account)=(-1) is not present in table \"account\".",NULL,'
	  . 'done,NULL,NULL,NULL}', 'context, and deferred triggers');
is($c->as_app(call([ 6, 'action', 'SELECT pg_sleep(100)', undef, 100 ]), node => 'a'),
	'{failed,57014,"operation timed out",NULL}', 'a time limit');
is($c->as_app(call([ 6, 'action', 'SELECT pg_sleep(100)' ], [ 7, 'action', 'SELECT 1' ]), node => 'a'),
	'{slow,NULL,NULL,NULL,"given back",NULL,NULL,NULL}', 'the time of a batch');
is($c->as_app(call([ 1, 'compensation', 'UPDATE account SET balance = balance + 10 WHERE id = 1' ],
		[ 2, 'compensation', 'UPDATE account SET balance = balance - 10 WHERE id = 2' ]), node => 'a'),
	'{done,NULL,NULL,NULL,done,NULL,NULL,NULL}', 'compensations');
is($c->as_app(q{CALL dtx.apply_try(1, 2, '100', 7, 8, 'gid', 3, '50', 4, 'SELECT $1::int', 'SELECT $1 || context() AS confirmed', NULL, '{1}', 0)},
		node => 'a'), '{done,NULL,NULL,"{\"int4\": 1}"}', 'a try');
is($c->as_app('SELECT life, xid, nonce, step, registrar_life, registrar_xid, registrar_nonce, owner FROM dtx.open_tries(1)', node => 'a'),
	'2|100|7|8|3|50|4|app', 'is listed');
is($c->as_app(call([ 8, 'confirm' ]), node => 'a'),
	'{done,NULL,NULL,"{\"confirmed\": \"1(gid,8,1,confirm)\"}"}', 'and confirmed');
is(balances('a'), '1000 1000', 'as it was in the beginning');

##########################################################################
# Stopped in the middle
##########################################################################

my $session = $c->app_session(node => 'a');
my $pid = $session->query('SELECT pg_backend_pid()');
foreach my $how ('cancel', 'terminate')
{
	$c->start_query($session, call([ 10, 'action', 'UPDATE account SET balance = 0 WHERE id = 1' ], [ 11, 'action', 'SELECT pg_sleep(100)', undef, 90_000 ])
		=~ s/, 4000, /, 0, /r);
	$c->wait_for('the step to sleep', sub {
		$c->as_super("SELECT wait_event FROM pg_stat_activity WHERE pid = $pid", node => 'a') eq 'PgSleep' });
	$c->as_super("SELECT pg_${how}_backend($pid)", node => 'a');
	my (undef, $stderr) = $c->finish_query($session);
	like($stderr, $how eq 'cancel' ? qr/canceling statement due to user request/ : qr/terminating connection/,
		"$how is meant for the whole call");
	is(rows('a'), '1 compensated, 2 compensated, 3 done, 5 done, 8 confirmed', 'nothing of the batch is left');
	is(balances('a'), '1000 1000', 'nor of what it did');
	next if $how eq 'terminate';
	is($session->query('SELECT context()'), '(,,,)', 'and the session goes on');
}
eval { $session->quit };

##########################################################################
# Crashes
##########################################################################

SKIP:
{
	skip 'no fault points', 8 unless $c->has_faults;
	foreach my $point (qw(apply_begin apply_before_commit))
	{
		my $mark = $c->log_mark('c');
		$c->fault($point, 'crash');
		my ($rc) = $c->app_psql(call(@move));
		isnt($rc, 0, "a crash at $point");
		$c->wait_restarted('c', $mark);
		is(rows('c'), '', 'leaves nothing');
		is(balances('c'), '1000 1000', 'of either');
	}
	is($c->as_app(call(@move)), $moved, 'sent again it is applied');
	is(balances('c'), '990 1010', 'once');
}

done_testing;
