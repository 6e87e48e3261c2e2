# The status table stays small, whatever goes through it: rows are forgotten in
# batches, and their room is used again.  test/bench/flat shows it over 100,000
# transactions.
use strict;
use warnings;
use DtxCluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $clients = 8;
my $part = 9_600;    # more than the scanner forgets before it makes room
my $c = DtxCluster->setup(nodes => [qw(a)], conf => 'autovacuum = off');

# Pages of the table, and rows that are not yet forgotten.
sub pages { return $c->as_super(q{SELECT pg_relation_size('dtx.decision') / 8192}); }
sub rows { return $c->as_super('SELECT count(*) FROM dtx.decision'); }

# two phases, as there is a local change; different accounts, so that clients do
# not wait for each other
$c->as_super("INSERT INTO account SELECT i, 'bench', 0 FROM generate_series(11, 5000) i", node => 'a');
my $script = PostgreSQL::Test::Utils::tempdir('flat') . '/transfer.sql';
append_to_file($script, q{\set id random(11, 5000)
BEGIN;
SELECT dtx.exec('a', 'UPDATE account SET balance = balance + 1 WHERE id = $1', ARRAY[:id::text], expect => 1);
INSERT INTO ledger (amount) VALUES (1);
COMMIT;
});
sub run_load
{
	my ($out, $err) = ('', '');
	$c->_as_app(undef, sub {
		my ($server) = @_;
		local @ENV{qw(PGHOST PGPORT PGDATABASE)} = ('127.0.0.1', $server->port, 'bank');
		IPC::Run::run([ 'pgbench', '-n', '-c', $clients, '-j', 2, '-t', $part / $clients, '-f', $script ],
			'>', \$out, '2>', \$err) or die "pgbench: $err";
	});
	return like($out, qr{number of transactions actually processed: $part/$part}, "$part transactions");
}

run_load();
my $before = pages();
run_load();
my $after = pages();
note sprintf 'dtx.decision: %d pages, then %d pages; %d rows', $before, $after, rows();
cmp_ok($after, '<', $before * 1.5, 'the same again does not make the table larger by as much');
cmp_ok($c->as_super(q{SELECT pg_relation_size('dtx.branch') / 8192}), '<=', 2, 'dtx.branch is not touched');
is($c->as_super('SELECT committed, one_phase, left_pending FROM dtx.stat'), 2 * $part . '|0|0', 'all of it went through two phases');
$c->wait_for('everything to be forgotten', sub { rows() == 0 });
is($c->prepared_count, 0, 'nothing is left prepared');
is($c->as_super('SELECT sum(balance) FROM account WHERE id > 10', node => 'a'), $c->as_super('SELECT sum(amount) FROM ledger'),
	'the node has seen what was committed here');
done_testing();
