# Lives: one per run of the server, written down before anything can be prepared
# under its name.  What carries no life of this coordinator is not its own.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use Test::More;

# nothing reaches the disk by chance
my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => "synchronous_commit = off
wal_writer_delay = 10s
bgwriter_delay = 10s
autovacuum = off
dtx.scan_interval = 100ms");
plan skip_all => 'no fault points' unless $c->has_faults;
my ($rc, $stdout, $stderr);

sub life_of { my ($gid) = $_[0] =~ /(dtx_[0-9a-f]{16})_/; return substr $gid, 4; }
sub lives { return $c->as_super('SELECT dtx.life_text(life) FROM dtx.life ORDER BY number'); }

# Killed while the very first transaction of a run prepares; returns its branches.
sub killed_at_first
{
	$c->fault('prepare_gathered', 'crash_server');
	$c->transfer('a', 'b', 1);
	$c->wait_down;
	local $c->{names} = $c->{nodes};
	return $c->prepared;
}

##########################################################################
# The first transaction
##########################################################################

$c->as_super('CHECKPOINT');    # the extension itself is there
is($c->as_super('SELECT count(*) FROM dtx.life'), 0, 'no life before somebody needs it');
foreach my $when ('after CREATE EXTENSION', 'after a restart')
{
	my @branches = killed_at_first();
	is(@branches, 2, "killed in the first transaction $when: both branches are prepared");
	$c->start('c');
	ok($c->wait_clean, 'they are rolled back, without anyone connecting');
	like(lives(), qr/^@{[ life_of($branches[0]) ]}$/m, 'their life was written down before');
}
is(state_lives($c), 'created, restart, restart', 'each start was a restart');

##########################################################################
# Restarts
##########################################################################

$c->stop('c', 'fast');
$c->start('c');
wait_life($c);
is(state_lives($c), 'created, restart, restart, restart', 'so is a clean one');
my $mark = $c->log_mark('c');
$c->fault('branch_begin', 'crash');
$c->transfer('a', 'b', 1);
$c->wait_restarted('c', $mark);
wait_life($c);
is(state_lives($c), 'created, restart, restart, restart, restart', 'and that after the crash of a session');
is($c->as_super('SELECT count(DISTINCT life), count(*) FILTER (WHERE trusted),
	count(*) FILTER (WHERE parent IS NULL) FROM dtx.life'), '5|5|1', 'all of them differ, in one line');
is($c->as_super(q{SELECT count(*) FROM dtx.life a JOIN dtx.life b ON b.life = a.parent
	WHERE a.number > b.number}), 4, 'each knows the one before it');
($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1);
is($stderr, '', 'and transactions go on');
$c->check_invariants(name => 'after restarts');

##########################################################################
# Names that are not ours
##########################################################################

my $present = present_life($c);
my ($oldest) = split /\n/, lives();
my $past = $c->as_super(q{SELECT to_hex(pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)});
my $nonce = '0123456789abcdef';
my @foreign = (
	'dtx', 'dtx_', 'dtx_x', 'other', 'DTX_1',
	"dtx_deadbeefdeadbeef_${past}_${nonce}_1",          # a life of somebody else
	"dtx_\U$present\E_${past}_${nonce}_1X",
	"dtx_${present}_0${past}_${nonce}_1",               # we write no leading zero
	"dtx_${present}_${past}_${nonce}_01",
	"dtx_${present}_${past}_${nonce}_0",
	"dtx_${present}_${past}_${nonce}_1 ",
	"dtx_${present}_${past}_${nonce}_1_1",
	"dtx_${present}_${past}_${nonce}",                  # names no branch
	"dtx_${present}_${past}_123_1",
	"xdtx_${present}_${past}_${nonce}_1");
my @own = ("dtx_${present}_${past}_${nonce}_1", "dtx_${oldest}_${past}_${nonce}_1");

my $count = 0;
sub prepare_by_hand
{
	my ($gid) = @_;
	$count++;
	return $c->as_app("BEGIN; CREATE TABLE t$count (); PREPARE TRANSACTION '$gid'", node => 'b');
}
prepare_by_hand($_) foreach @foreign, @own;
sub there { return join "\n", sort split /\n/, $c->as_super('SELECT gid FROM pg_prepared_xacts', node => 'b'); }

# (the scanner may have been there first)
$c->as_super('CALL dtx.recover()');
is(there(), join("\n", sort @foreign), 'of look-alikes, those of our lives are ended, and all others are left');
$c->as_app("ROLLBACK PREPARED '$_'", node => 'b') foreach split /\n/, there();

# of a transaction in the future nothing is prepared: it is gone
prepare_by_hand("dtx_${present}_ffffffff_${nonce}_1");
$c->as_super('CALL dtx.recover()');
is(there(), '', 'a transaction that cannot be is rolled back');

##########################################################################
# A new lineage
##########################################################################

my $lineage = $c->as_super('SELECT lineage FROM dtx.lineage');
my $session = $c->app_session;
$session->query($c->transfer_sql('a', 'b', 1, from_id => 5, to_id => 5, end => 'SELECT 1'));
like(($c->super_psql("SET lock_timeout = '200ms'; DROP EXTENSION dtx"))[2], qr/lock timeout|cannot drop/,
	'while a transaction uses dtx the extension stays');
$session->query('COMMIT');
is($session->{stderr}, '', 'and the transaction commits');
end_session($session);
$c->wait_for('no branch to be open', sub { ($c->super_psql('DROP EXTENSION dtx'))[0] == 0 });
$c->as_super('CREATE EXTENSION dtx');
prepare_by_hand("dtx_${present}_${past}_${nonce}_1");
($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1);
is($stderr, '', 'the extension made anew works at once');
isnt($c->as_super('SELECT lineage FROM dtx.lineage'), $lineage, 'with another lineage');
is(state_lives($c), 'created', 'and no life but its own');
# what was committed and waits to be forgotten would be counted as well
$c->wait_for('everything to be forgotten', sub { $c->as_super('SELECT count(*) FROM dtx.decision') == 0 });
is($c->as_super('CALL dtx.recover()'), '0|0|0', 'branches of earlier lineages');
is(there(), "dtx_${present}_${past}_${nonce}_1", 'are left alone');
$c->as_app("ROLLBACK PREPARED 'dtx_${present}_${past}_${nonce}_1'", node => 'b');
$c->check_invariants(name => 'at the end');

##########################################################################
# Another place
##########################################################################

# as if the last run had been elsewhere
my $cause = 'created';
foreach my $place ([ inode => 'copy' ], [ born_at => 'copy' ], [ timeline => 'restore' ],
	[ system_identifier => 'other system' ])
{
	my ($column, $expected) = @$place;
	$c->as_super("UPDATE dtx.life SET $column = 4711, adopted_at = now() WHERE number = (SELECT max(number) FROM dtx.life)");
	$c->stop('c', 'fast');
	$c->start('c');
	wait_life($c);
	is(state_lives($c), $cause .= ", $expected", "another $column: $expected");
	($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1);
	like($stderr, qr/not adopted as a coordinator/, 'which is not adopted');
}
done_testing();
