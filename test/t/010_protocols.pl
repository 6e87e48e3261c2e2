# The same transfers by every way a driver can send them: simple, extended and
# prepared protocol, COPY with a trigger, a single string of statements.
use strict;
use warnings;
use DtxCluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)]);
my $dir = PostgreSQL::Test::Utils::tempdir;
my $expected = 1000;

foreach my $protocol (qw(simple extended prepared))
{
	append_to_file("$dir/$protocol.sql", q{
\set amount 2
BEGIN;
SELECT dtx.exec('a', 'UPDATE account SET balance = balance - $1 WHERE id = 1', ARRAY[:amount::text], 1);
SELECT dtx.exec('b', 'UPDATE account SET balance = balance + $1 WHERE id = 1', ARRAY[:amount::text], 1);
INSERT INTO ledger (note, amount) VALUES ('} . $protocol . q{', :amount);
COMMIT;
});
	my ($stdout, $stderr) = ('', '');
	$c->_as_app(undef, sub {
		my ($server) = @_;
		IPC::Run::run([ 'pgbench', '-n', '-c', '2', '-t', '10', '-M', $protocol, '-f', "$dir/$protocol.sql",
				'-h', '127.0.0.1', '-p', $server->port, 'bank' ], '>', \$stdout, '2>', \$stderr);
	});
	like($stdout, qr{transactions actually processed: 20/20}, "$protocol protocol: all transfers are done")
	  or diag $stderr;
	$expected -= 40;
	is($c->balance('a'), $expected, 'bank a has paid');
	is($c->ledger_count($protocol), 20, 'and the ledger knows');
}

# the rows of a COPY, each sent on by a trigger: all in one transaction
$c->as_app(q{
	CREATE TABLE payment (id int, amount int);
	CREATE FUNCTION pay() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM dtx.exec('a', 'UPDATE account SET balance = balance - $1 WHERE id = $2', ARRAY[NEW.amount, NEW.id]::text[], 1);
		PERFORM dtx.exec('b', 'UPDATE account SET balance = balance + $1 WHERE id = $2', ARRAY[NEW.amount, NEW.id]::text[], 1);
		RETURN NEW;
	END $$;
	CREATE TRIGGER pay BEFORE INSERT ON payment FOR EACH ROW EXECUTE FUNCTION pay();
});
my ($rc, $stdout, $stderr) = $c->app_psql("COPY payment FROM STDIN;\n2\t10\n3\t10\n2\t5\n\\.\n");
is($rc, 0, 'COPY into a table whose trigger pays') or diag $stderr;
is($c->balance('a', 2) . ' ' . $c->balance('b', 3), '985 1010', 'has paid each row');
($rc, $stdout, $stderr) = $c->app_psql("COPY payment FROM STDIN;\n2\t10\n99\t10\n\\.\n");
like($stderr, qr/affected 0 rows instead of 1/, 'a row that cannot be paid ends the COPY');
is($c->balance('a', 2) . ' ' . $c->as_app('SELECT count(*) FROM payment'), '985 3', 'and nothing of it stays');

# one string, as drivers send it: one transaction
($rc, $stdout, $stderr) = $c->app_psql(q{
	SELECT dtx.exec('a', 'UPDATE account SET balance = 0 WHERE id = 4')\;
	SELECT dtx.exec('b', 'UPDATE account SET balance = -1 WHERE id = 4');
});
is($c->balance('a', 4), 1000, 'a string of several statements is undone as a whole');

$c->check_invariants;
done_testing();
