# A database made from the coordinator's by CREATE DATABASE ... TEMPLATE is a
# copy like any other: it leaves the branches of the original alone.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)],
	conf_c => "dtx.scan_interval = 100ms\ndtx.sweep_interval = 1s\ndtx.max_backoff = 1s");
plan skip_all => 'no fault points' unless $c->has_faults;
my ($rc, $stdout, $stderr);
my @copy = (db => 'copy');
my @heir = (db => 'heir');

sub held { return $c->as_super(q{SELECT count(*) FROM dtx.branches WHERE state = 'held'}, @_); }

# in doubt on nodes that are down, so that the original cannot end it
sub in_doubt_and_away
{
	my %doubt = leave_in_doubt($c);
	$c->kill9($_) foreach qw(a b);
	$c->start('c');
	wait_life($c);
	return %doubt;
}

my %doubt = in_doubt_and_away();
($rc, $stdout, $stderr) = $c->super_psql('CREATE DATABASE copy TEMPLATE bank', db => 'postgres');
is($stderr, '', 'a database can be made from one with branches in doubt');
like($c->as_super('SELECT problem FROM dtx.check_setup()', @copy),
	qr/^this database is not adopted as a coordinator/m, 'it is found to be a copy');
is(state_lives($c, @copy), 'created, restart, other database', 'and knows of which kind');
($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1, @copy);
like($stderr, qr/not adopted as a coordinator.*HINT: .*dtx\.adopt\('@{[ present_life($c, @copy) ]}'/s,
	'it begins no transaction');
is($c->as_super(q{SELECT count(*) FROM dtx.stuck WHERE call LIKE 'SELECT dtx.adopt%'}, @copy), 1,
	'and shows the call');

$c->start($_) foreach qw(a b);
ok($c->wait_clean, 'the original finishes its branches');
$c->check_invariants(name => 'original beside a copy');
is($c->balance('a') . '/' . $c->balance('b', 2), '900/1000', 'as they were decided');

##########################################################################
# Adopted too early, while the original is at work
##########################################################################

my ($undecided, @undecided) = open_in_doubt($c, 10, 2);
$c->fault('commit_begin', 'wait');
my $decided = $c->app_session;
$c->start_query($decided, $c->transfer_sql('a', 'b', 10));
$c->wait_fault('commit_begin');
is($c->prepared_count, 4, 'branches of the original are under way');

$c->as_super("SELECT dtx.adopt('@{[ present_life($c, @copy) ]}', 'too early')", @copy);
$c->wait_for('the copy to see them', sub { held(@copy) == 4 });
is($c->as_super('CALL dtx.recover()', @copy), '0|0|4', 'the adopted copy holds all of them');
is($c->prepared_count, 4, 'and touches none');
my ($gid) = $undecided[0] =~ /(dtx_.*)_\d+$/;
is($c->as_super("SELECT dtx.outcome('$gid')", @copy), 'unknown', 'it does not know how they end');
is($c->as_super("SELECT dtx.outcome('$gid')"), 'in progress', 'the original does');

$c->fault_reset;
foreach my $session ($undecided, $decided)
{
	($stdout, $stderr) = $c->finish_query($session);
	is($stderr, '', 'the original commits its transaction');
	end_session($session);
}
$c->wait_for('the copy to see that they are gone', sub { held(@copy) == 0 });
is($c->as_super(q{SELECT count(*), string_agg(DISTINCT detail, '') FROM dtx.event WHERE event = 'gone'}, @copy),
	'4|no longer prepared on the node; not ended by dtx', 'and writes it down');
($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1, @copy, from_id => 3, to_id => 3);
is($stderr, '', 'an adopted copy can begin transactions of its own');
($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1, from_id => 3, to_id => 3);
is($stderr, '', 'beside those of the original');

##########################################################################
# In place of the original
##########################################################################

%doubt = in_doubt_and_away();
$c->as_super('CREATE DATABASE heir TEMPLATE bank', db => 'postgres');
$c->as_super('DROP DATABASE bank WITH (FORCE)', db => 'postgres');
$c->start($_) foreach qw(a b);
$c->as_super('SELECT FROM dtx.check_setup()', @heir);
$c->wait_for('the heir to find out', sub { scanner_activity($c, @heir) eq 'dtx: waits to be adopted' });
$c->wait_for('the copy to see them', sub { held(@copy) == 4 });
is($c->prepared_count, 4, 'without the original nobody touches its branches');

my ($lost) = $undecided[0] =~ /dtx_([0-9a-f]{16})_/;
my $life = present_life($c, @heir);
$c->as_super("SELECT dtx.adopt('$life', 'original is dropped')", @heir);
$c->wait_for('the decided ones', sub { $c->prepared_count == 2 });
is_deeply([ $c->prepared ], [ sort @{ $doubt{undecided} } ], 'its heir, adopted, commits what has a row');
$c->wait_for('the others', sub { held(@heir) == 2 });
is($c->balance('a'), 790, 'that money has moved');
my ($old) = $doubt{undecided}[0] =~ /dtx_([0-9a-f]{16})_/;
$c->as_super("SELECT dtx.adopt('$old', 'copied after its end')", @heir);
ok($c->wait_clean, 'and rolls the rest back when their life is adopted');
is($c->total(qw(a b)), 20000, 'no money was lost or made');
is(join("\n", $c->log_grep(qr/PANIC|TRAP:|terminated by signal (4|6|7|8|11)/)), '', 'no server has crashed by a bug');

done_testing();
