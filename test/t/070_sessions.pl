# A hundred sessions at once.
use strict;
use warnings;
use DtxCluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $sessions = 100;
my $each = 4;
my $c = DtxCluster->setup(nodes => [qw(a b)], conf => 'max_connections = 300
max_prepared_transactions = 250', conf_c => 'dtx.branch_lock_timeout = 5min
dtx.prepare_timeout = 5min');

# one order of locks for all; some change their mind
my $script = PostgreSQL::Test::Utils::tempdir('sessions') . '/transfer.sql';
append_to_file($script, q{\set id random(1, 10)
\set amount random(-3, 3)
\set mind random(1, 4)
BEGIN;
SELECT dtx.exec('a', 'UPDATE account SET balance = balance - $1 WHERE id = $2', ARRAY[:amount, :id]::text[], expect => 1);
SELECT dtx.exec('b', 'UPDATE account SET balance = balance + $1 WHERE id = $2', ARRAY[:amount, :id]::text[], expect => 1);
\if :mind = 1
INSERT INTO ledger (note, amount) VALUES ('undone', :amount);
ROLLBACK;
\else
INSERT INTO ledger (note, amount) VALUES ('done', :amount);
COMMIT;
\endif
});
my ($out, $err) = ('', '');
$c->_as_app(undef, sub {
	my ($server) = @_;
	local @ENV{qw(PGHOST PGPORT PGDATABASE)} = ('127.0.0.1', $server->port, 'bank');
	IPC::Run::run([ 'pgbench', '-n', '-c', $sessions, '-j', 2, '-t', $each, '-f', $script ], '>', \$out, '2>', \$err)
	  or diag $err;
});
like($out, qr{number of transactions actually processed: @{[ $sessions * $each ]}/@{[ $sessions * $each ]}\n},
	"$sessions sessions at once, none of which fails") or diag $out, $err;
is($c->ledger_count('undone'), 0, 'what they undid is not there');
is($c->ledger_count('done'), $c->as_super('SELECT committed FROM dtx.stat'), 'what they committed is');
is($c->total('a'), 10000 - $c->as_super('SELECT coalesce(sum(amount), 0) FROM ledger'), 'here and on the nodes');
$c->check_invariants(name => 'after all');
$c->wait_for('the connections to be closed', sub {
	$c->as_super(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'}, node => 'a') <= 1 });
pass('no connection is left but that of the scanner');
done_testing();
