# Transfers over two banks and a local ledger, by an ordinary role: all or nothing.
use strict;
use warnings;
use DtxCluster;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)]);
my ($rc, $stdout, $stderr);

($rc, $stdout, $stderr) = $c->transfer('a', 'b', 100);
is($rc, 0, 'a transfer over two banks commits') or diag $stderr;
is($stdout, "1\n1", 'exec returns the rows changed');
is($stderr, '', 'without any message');
is($c->balance('a'), 900, 'the money has left bank a');
is($c->balance('b'), 1100, 'and has come to bank b');
is($c->ledger_count, 1, 'and the ledger knows');

($rc) = $c->transfer('c', 'a', 50);
is($rc, 0, 'a transfer from the coordinator itself commits');
is($c->balance('c') . ' ' . $c->balance('a'), '950 950', 'on both');

# the bank that refuses comes first, then last
foreach my $case ([ 'a', 'b' ], [ 'c', 'b' ])
{
	my ($from, $to) = @$case;
	my $before = join ' ', map { $c->balance($_) } qw(a b c);
	($rc, $stdout, $stderr) = $c->transfer($from, $to, 5000);
	isnt($rc, 0, "$from to $to: a transfer of more than there is fails");
	like($stderr, qr/violates check constraint "account_balance_check"/, 'with the refusal of the bank');
	is(join(' ', map { $c->balance($_) } qw(a b c)), $before, 'and changes no balance');
}
($rc, $stdout, $stderr) = $c->app_psql(q{
	BEGIN;
	INSERT INTO ledger (note, amount) VALUES ('refused', 1);
	SELECT dtx.exec('a', 'UPDATE account SET balance = balance + 5000 WHERE id = 1');
	SELECT dtx.exec('b', 'UPDATE account SET balance = balance - 5000 WHERE id = 1');
	COMMIT;
});
like($stderr, qr/account_balance_check/, 'the last bank refuses');
is($c->balance('a'), 950, 'the first one keeps nothing');
is($c->ledger_count('refused'), 0, 'nor does the ledger');

($rc, $stdout, $stderr) = $c->app_psql(q{
	BEGIN;
	SELECT dtx.exec('a', 'UPDATE account SET balance = balance - 1 WHERE id = 1', expect => 1);
	SELECT dtx.exec('b', 'UPDATE account SET balance = balance + 1 WHERE id = 99', expect => 1);
	COMMIT;
});
isnt($rc, 0, 'another number of rows than expected is an error');
is($c->balance('a'), 950, 'and undoes the rest');

($rc) = $c->transfer('a', 'b', 10, end => 'ROLLBACK');
is($rc, 0, 'a rollback');
is($c->balance('a') . ' ' . $c->balance('b'), '950 1100', 'changes nothing');

$c->check_invariants;
done_testing();
