# A cold copy of the coordinator, started beside it or in its place: it sends
# nothing to any node until it is adopted, and guesses nothing afterwards.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf => 'log_connections = on
log_statement = all', conf_c => "log_statement = none\ndtx.deadlock_interval = 0");
plan skip_all => 'no fault points' unless $c->has_faults;

# What nodes a and b have heard from anybody's dblink since.
my %mark;
sub mark { %mark = map { $_ => $c->log_mark($_) } qw(a b); return; }
sub heard { return join "\n", map { my $n = $_; grep { /user=app|authorized: user=app|PREPARED '/ } split /\n/, $c->log_since($n, $mark{$n}) } qw(a b); }

my @copy = (node => 'copy');
my %doubt = leave_in_doubt($c);
is(@{ $doubt{decided} } . @{ $doubt{undecided} }, '22', 'four branches are left prepared');
cold_copy($c, 'c', 'copy');

##########################################################################
# Beside the original
##########################################################################

mark();
$c->start('copy');
$c->wait_for('the copy to find out', sub { scanner_activity($c, @copy) eq 'dtx: waits to be adopted' });
is(state_lives($c, @copy), 'created, copy', 'a copy knows that it is one');

my $life = present_life($c, @copy);
my ($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1, @copy);
isnt($rc, 0, 'it begins no transaction');
like($stderr, qr/ERROR:  this database is not adopted as a coordinator/, 'but says why');
like($stderr, qr/HINT:  If the original is gone for good: SELECT dtx\.adopt\('$life', 'why'\)/,
	'and what to do');
foreach my $sql ('SELECT dtx.current_gid()', "SELECT * FROM dtx.query('a', 'SELECT 1') AS t(i int)")
{
	($rc, $stdout, $stderr) = $c->app_psql($sql, @copy);
	like($stderr, qr/not adopted as a coordinator/, "$sql: refused as well");
}
($rc, $stdout, $stderr) = $c->super_psql('CALL dtx.recover()', @copy);
like($stderr, qr/not adopted as a coordinator/, 'recovery by hand is refused');
my ($gid, $branch) = $doubt{undecided}[0] =~ /(dtx_.*)_(\d+)$/;
($rc, $stdout, $stderr) = $c->super_psql("SELECT dtx.resolve('$gid', $branch, 'aborted', 'mine')", @copy);
like($stderr, qr/not adopted as a coordinator/, 'and so is a decision by hand');

like($c->as_super('SELECT problem, hint FROM dtx.check_setup()', @copy),
	qr/^this database is not adopted as a coordinator: nothing is sent to nodes\|.*dtx\.adopt\('$life', 'why'\)/m,
	'dtx.check_setup() says so');
is($c->as_super(q{SELECT node, gid, state, reason, call FROM dtx.stuck WHERE call LIKE '%adopt%'}, @copy),
	"||held|this database runs in another place than before (copy): it sends nothing to nodes until it is adopted|SELECT dtx.adopt('$life', 'why')",
	'dtx.stuck shows the copy itself, with the call');
is($c->as_super("SELECT dtx.outcome('$gid')", @copy), 'unknown',
	'the copy cannot know what became of an undecided transaction');
is($c->as_super(qq{SELECT dtx.outcome('@{[ $doubt{decided}[0] =~ /(dtx_.*)_\d+$/ ]}')}, @copy), 'committed',
	'but it knows of a decision');

# clean restart, crash restart
$c->stop('copy', 'fast');
$c->start('copy');
$c->wait_for('the copy to find out again', sub { scanner_activity($c, @copy) eq 'dtx: waits to be adopted' });
$c->kill9('copy');
$c->start('copy');
$c->wait_for('the copy to find out again', sub { scanner_activity($c, @copy) eq 'dtx: waits to be adopted' });
is(state_lives($c, @copy), 'created, copy, copy, copy', 'a restart does not make an original of it');
($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1, @copy);
like($stderr, qr/not adopted as a coordinator/, 'still refused');
isnt(present_life($c, @copy), $life, 'each of its runs has a life of its own');

is(heard(), '', 'the nodes have heard nothing of the copy');

$c->start('c');
ok($c->wait_clean, 'the original finishes its branches beside the copy');
is(join(' ', map { $c->balance('a', $_) . '/' . $c->balance('b', $_) } 1, 2), '900/1100 1000/1000',
	'the decided transfer is committed, the other one is not');
is(state_lives($c), 'created, restart', 'the original had a restart, whatever the copies do');
$c->check_invariants(name => 'original beside a copy', log => 0);

my ($session, @branches) = open_in_doubt($c, 10, 2);
mark();
$c->super_psql('CALL dtx.recover()', @copy);
is(heard(), '', 'branches of the original at work are not looked at by the copy');
$c->fault_reset;
($stdout, $stderr) = $c->finish_query($session);
is($stderr, '', 'and the original commits them');
end_session($session);
$c->stop('copy', 'immediate');

##########################################################################
# In its place
##########################################################################

%doubt = leave_in_doubt($c);
cold_copy($c, 'c', 'heir');
my @heir = (node => 'heir');
$c->start('heir');
wait_life($c, @heir);
my ($lost) = $doubt{undecided}[0] =~ /dtx_([0-9a-f]{16})_/;    # the life that was killed
$life = present_life($c, @heir);

sub adopt { my ($of, $note) = @_; return ($c->super_psql("SELECT dtx.adopt('$of', '$note')", @heir))[2]; }
like(adopt('123', 'why'), qr/ERROR:  "123" is not a life/, 'adopt: something that is no life');
like(adopt('00000000deadbeef', 'why'), qr/ERROR:  life "00000000deadbeef" does not exist/, 'adopt: an unknown life');
like(adopt($lost, 'why'), qr/ERROR:  the present life is not adopted yet\nHINT:  SELECT dtx\.adopt\('$life'/,
	'adopt: an old life before the present one');
like(adopt($life, ''), qr/ERROR:  a note is required/, 'adopt: without a note');
($rc, $stdout, $stderr) = $c->app_psql("SELECT dtx.adopt('$life', 'why')", @heir);
like($stderr, qr/ERROR:  permission denied for function adopt/, 'adopt: by an ordinary role');

is($c->as_super("BEGIN; SELECT dtx.adopt('$life', 'why'); ROLLBACK", @heir), '', 'an adoption rolled back');
like(($c->transfer('a', 'b', 1, @heir))[2], qr/not adopted as a coordinator/, 'is none');

my $call = $c->as_super(q{SELECT call FROM dtx.stuck WHERE call LIKE '%adopt%'}, @heir);
is($c->as_super($call, @heir), '', 'the call that dtx.stuck shows adopts the copy');
{
	local $c->{names} = [qw(a b)];
	$c->wait_for('the decided branches', sub { $c->prepared_count == 2 });
	is_deeply([ $c->prepared ], [ sort @{ $doubt{undecided} } ], 'it commits what has a row');
	$c->wait_for('the rest to be held', sub {
		$c->as_super(q{SELECT count(*) FROM dtx.branches WHERE state = 'held'}, @heir) == 2 });
	is($c->as_super('CALL dtx.recover()', @heir), '0|0|2', 'and holds the rest');
	is_deeply([ $c->prepared ], [ sort @{ $doubt{undecided} } ], 'which is left prepared');
}
is($c->balance('a') . '/' . $c->balance('b'), '800/1200', 'the decided transfer has arrived');
my @stuck = split /\n/, $c->as_super(q{SELECT node, gid || '_' || branch, state, reason, call
	FROM dtx.stuck ORDER BY node}, @heir);
is(@stuck, 2, 'dtx.stuck shows both held branches');
foreach my $i (0, 1)
{
	my ($node, $gid) = split / /, $doubt{undecided}[$i];
	my ($whole, $number) = $gid =~ /(.*)_(\d+)$/;
	is($stuck[$i], "$node|$gid|held|the coordinator was promoted, restored or copied since: "
		  . "a commit of that life may be missing here|SELECT dtx.resolve('$whole', $number, 'committed or aborted?', 'why')",
		"$node: gid, reason and call");
}
($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1, @heir, from_id => 3, to_id => 3);
is($stderr, '', 'the adopted copy is a coordinator');
like(adopt($life, 'again'), qr/ERROR:  life "$life" needs no adoption/, 'adopt: the present life again');
like($c->as_super('SELECT note FROM dtx.life WHERE adopted_at IS NOT NULL', @heir), qr/^why$/, 'the note is kept');

# one branch by hand, as shown; the other with all of its life
my ($shown) = $stuck[0] =~ /\|(SELECT dtx\.resolve.*)$/;
like(($c->super_psql($shown, @heir))[2], qr/ERROR:  invalid outcome "committed or aborted\?"/,
	'the call that dtx.stuck shows for a branch leaves the choice to the operator');
$shown =~ s/committed or aborted\?/aborted/;
is($c->as_super($shown, @heir), '', 'who makes it');
$c->wait_for('it to be rolled back', sub {
	$c->as_super('SELECT count(*) FROM pg_prepared_xacts', node => 'a') == 0 });
is($c->as_super('SELECT count(*) FROM pg_prepared_xacts', node => 'b'), 1, 'ends that one');
my ($other) = $stuck[1] =~ /\|(SELECT dtx\.resolve.*)$/;
$other =~ s/committed or aborted\?/committed/;
like(($c->super_psql($other, @heir))[2],
	qr/ERROR:  cannot resolve a branch .* as committed\nDETAIL:  Another of its branches was resolved otherwise/,
	'the other branch cannot be resolved otherwise');
is($c->as_super("SELECT dtx.adopt('$lost', 'nothing is missing')", @heir), '', 'the old life is adopted');
$c->wait_for('the other branch', sub {
	$c->as_super('SELECT count(*) FROM pg_prepared_xacts', node => 'b') == 0 });
is($c->balance('a', 2) . '/' . $c->balance('b', 2), '990/1010', 'the undecided transfer is rolled back');
$c->wait_for('nothing to be stuck', sub { $c->as_super('SELECT count(*) FROM dtx.stuck', @heir) == 0 });
pass('nothing is stuck any more');
like(adopt($lost, 'again'), qr/ERROR:  life "$lost" needs no adoption/, 'adopt: an old life again');
is($c->as_super(q{SELECT string_agg(event || ': ' || detail, '; ' ORDER BY number) FROM dtx.event
	WHERE actor = session_user}, @heir),
	"adopted life $life: why; resolved as aborted: why; adopted life $lost: nothing is missing",
	'dtx.event has all of it');

$c->kill9('heir');
$c->start('heir');
wait_life($c, @heir);
like(state_lives($c, @heir), qr/^created, restart, copy, restart$/, 'from now on a restart is one');
($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1, @heir, from_id => 3, to_id => 3);
is($stderr, '', 'after which it goes on');
is($c->total(qw(a b)), 20000, 'no money was lost or made');
is(join("\n", $c->log_grep(qr/PANIC|TRAP:|terminated by signal (4|6|7|8|11)/, qw(c a b copy heir))), '',
	'no server has crashed by a bug');

done_testing();
