# The checker of invariants itself: each violation, planted, is found.
use strict;
use warnings;
use DtxCluster;
use DtxInvariants;
use PostgreSQL::Test::Utils;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)]);

is(($c->transfer('a', 'b', 10))[0], 0, 'a transfer');
is_deeply({ DtxInvariants::broken($c, kept => 0) }, {}, 'a healthy cluster breaks nothing');

# Only these invariants are broken, and what is said of the first matches.
sub breaks
{
	my ($name, $pattern, $what, %opt) = @_;
	my %broken = DtxInvariants::broken($c, timeout => 0.1, %opt);
	is(join(' ', sort keys %broken), $name, "$what: found");
	like(join("\n", @{ $broken{$name} || [] }), $pattern, "$what: said");
	return;
}

my $gid = $c->as_app(q{BEGIN; SELECT dtx.current_gid();
	SELECT dtx.exec('a', 'UPDATE account SET balance = balance WHERE id = 1');
	SELECT dtx.exec('b', 'UPDATE account SET balance = balance WHERE id = 1'); COMMIT});
($gid) = $gid =~ /^(dtx_\w+)$/m;
ok($gid, 'a transaction that asked for its gid');
is_deeply([ DtxInvariants::journal($c, kept => 1) ], [], 'it is over, and its outcome is kept');

breaks('I1', qr/twice|once/, 'an effect that is there twice',
	fates => [ { gid => 'x', answer => 'committed', there => [ 1, 2 ] } ]);
breaks('I1', qr/in part: 1 0/, 'a transaction that is there in part',
	fates => [ { gid => 'x', answer => 'unknown', there => [ 1, 0 ] } ]);
breaks('I1', qr/heard COMMIT/, 'a commit that is lost',
	fates => [ { gid => 'x', answer => 'committed', there => [ 0, 0 ] } ]);
breaks('I1', qr/heard an error/, 'an abort that is there',
	fates => [ { gid => 'x', answer => 'aborted', there => [ 1, 1 ] } ]);
is_deeply({ DtxInvariants::broken($c, fates => [
		{ gid => 'x', answer => 'unknown',   there => [ 1, 1 ] }, { gid => 'y', answer => 'unknown', there => [ 0, 0 ] },
		{ gid => 'z', answer => 'committed', there => [ 1, 1 ] }, { gid => 'w', answer => 'aborted', there => [ 0, 0 ] } ]) },
	{}, 'fates that are right');

breaks('I2', qr/was aborted, and is committed/, 'an outcome that has changed', outcomes => { $gid => 'aborted' });
is_deeply({ DtxInvariants::broken($c, outcomes => { $gid => 'committed' }) }, {}, 'an outcome that has not');

my $life = (split /_/, $gid)[1];
$c->as_super("BEGIN; CREATE TABLE planted (); PREPARE TRANSACTION 'dtx_ffffffffffffffff_1_0_1'", node => 'a');
breaks('I3', qr/prepared on a dtx_ffffffffffffffff_1_0_1/, 'a branch that was left');
$c->as_super("ROLLBACK PREPARED 'dtx_ffffffffffffffff_1_0_1'", node => 'a');

append_to_file($c->server->logfile, "LOG:  dtx: branch \"${gid}_1\" on node \"a\" rolled back\n");
breaks('I4', qr/a branch of $gid was rolled back/, 'a rollback of what is committed');
is_deeply({ DtxInvariants::broken($c, log => 0) }, {}, 'which only the log tells');
# the rest of the log is that line's
my $log = $c->log_text('c');
$log =~ s/branch "\Q$gid\E_1".*\n//;
open my $file, '>', $c->server->logfile or die $!;
print $file $log;
close $file;

$c->as_super('UPDATE account SET balance = balance + 1 WHERE id = 1', node => 'a');
breaks('I7', qr/there are 30001, and should be 30000/, 'money that was made');
$c->as_super('ALTER TABLE account DROP CONSTRAINT account_balance_check; UPDATE account SET balance = balance - 2001 WHERE id = 1;
	UPDATE account SET balance = balance + 2000 WHERE id = 2', node => 'a');
breaks('I7', qr/1 accounts of a are negative/, 'a negative balance');
$c->as_super('UPDATE account SET balance = balance + 2000 WHERE id = 1; UPDATE account SET balance = balance - 2000 WHERE id = 2',
	node => 'a');

breaks('I8', qr/theirs on b is gone/, 'somebody else\'s transaction that is gone', foreign => ['b theirs']);
$c->as_super("BEGIN; CREATE TABLE theirs (); PREPARE TRANSACTION 'theirs'", node => 'b');
is_deeply({ DtxInvariants::broken($c, foreign => ['b theirs']) }, {}, 'somebody else\'s transaction that is there');
$c->as_super("ROLLBACK PREPARED 'theirs'", node => 'b');

append_to_file($c->server('b')->logfile, "PANIC:  planted\n");
breaks('I9', qr/b: PANIC/, 'a PANIC');
is_deeply({ DtxInvariants::broken($c, log => 0) }, {}, 'which a test can expect');
open $file, '>', $c->server('b')->logfile or die $!;
close $file;

# held by a lock: the scanner would forget a row that is finished
$c->as_super(q{INSERT INTO dtx.decision SELECT life, '9'::xid8, 1, 10, false, now(), '{}' FROM dtx.life LIMIT 1});
my %broken = DtxInvariants::broken($c, timeout => 0.1, kept => 7);
ok($broken{I11}, 'a row in the journal, or outcomes that are missing');
like("@{ $broken{I11} }", qr/1 outcomes are kept, and should be 7/, 'said');
$c->as_super('DELETE FROM dtx.decision');

$c->as_super("INSERT INTO dtx.event (actor, event, detail) VALUES ('x', 'x', '$DtxCluster::password')");
breaks('I13', qr/it is in dtx\.event/, 'a password in a table');
$c->as_super('DELETE FROM dtx.event');
append_to_file($c->server('a')->logfile, "LOG:  $DtxCluster::password\n");
breaks('I13', qr/^a: LOG/, 'a password in a log');
open $file, '>', $c->server('a')->logfile or die $!;
close $file;

my $size = DtxInvariants::scanner_size($c);
ok($size->{memory} > 0 && $size->{sockets} > 0, 'the size of the scanner');
breaks('I14', qr/it has \d+ kB, and had/, 'a scanner that has grown',
	scanner => { memory => -20_000, sockets => $size->{sockets} });
breaks('I14', qr/sockets/, 'a scanner that has more connections',
	scanner => { memory => $size->{memory}, sockets => -20 });

$c->check_invariants(kept => 1, total => 30000);
done_testing();
