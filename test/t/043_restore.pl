# The coordinator restored from an older cold copy, in the very place of the
# lost one: it holds what it cannot know, and leaves what came after the copy.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use PostgreSQL::Test::Utils;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => "dtx.scan_interval = 100ms");
plan skip_all => 'no fault points' unless $c->has_faults;
my ($rc, $stdout, $stderr);
my $data = $c->server('c')->data_dir;

sub restore
{
	system_or_bail('rm', '-rf', $data);
	system_or_bail('cp', '-a', "$data.saved", $data);
	unlink "$data/postmaster.pid";
	$c->start('c');
	wait_life($c);
	return;
}
sub node_counts { local $c->{names} = $c->{nodes}; return $c->prepared_count; }

# the copy is taken at a moment when one transfer is decided, one is not
my %early = leave_in_doubt($c);
$c->kill9($_) foreach qw(a b);    # and the nodes are away, so that it stays so
system_or_bail('cp', '-a', $data, "$data.saved");
$c->start('c');
wait_life($c);
my $second = present_life($c);
$c->stop('c', 'immediate');
$c->start($_) foreach qw(a b);

##########################################################################
# Restored in time
##########################################################################

restore();
is(state_lives($c), 'created, copy', 'another directory in the same place is a copy');
unlike($c->as_super('SELECT string_agg(dtx.life_text(life), $$ $$) FROM dtx.life'), qr/$second/,
	'it knows nothing of the life after the copy was taken');
is(node_counts(), 4, 'nothing is ended');
$c->as_super("SELECT dtx.adopt('@{[ present_life($c) ]}', 'restored')");
$c->wait_for('the decided ones', sub { $c->prepared_count == 2 });
is_deeply([ $c->prepared ], [ sort @{ $early{undecided} } ], 'adopted, it commits what has a row');
my ($old) = $early{undecided}[0] =~ /dtx_([0-9a-f]{16})_/;
$c->wait_for('the rest to be held', sub {
	$c->as_super(q{SELECT count(*) FROM dtx.stuck WHERE state = 'held'}) == 2 });
$c->as_super("SELECT dtx.adopt('$old', 'nobody committed since')");
ok($c->wait_clean, 'and ends the rest when the old life is adopted');
$c->check_invariants(name => 'restored in time');

##########################################################################
# Restored too late: the lost coordinator has gone on
##########################################################################

my ($session) = open_in_doubt($c, 10, 2);
$c->fault_reset;
$c->finish_query($session);
end_session($session);
my %late = leave_in_doubt($c);
restore();
is(state_lives($c), 'created, copy', 'restored once more');
$c->as_super("SELECT dtx.adopt('@{[ present_life($c) ]}', 'restored')");
($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1, from_id => 3, to_id => 3);
is($stderr, '', 'it goes on');
$c->wait_for('the nodes to be scanned', sub {
	$c->as_super(q{SELECT count(*) FROM dtx.nodes WHERE state = 'reachable'}) == 2 });
$c->wait_for('decisions of the copy to be found committed', sub {
	$c->as_super('SELECT count(*) FROM dtx.decision') == 0 });
pass('what it had decided is proven by the nodes, and forgotten');
is($c->as_super('CALL dtx.recover()'), '0|0|0', 'of a life that it never knew');
is_deeply([ sort $c->prepared ], [ sort @{ $late{decided} }, @{ $late{undecided} } ],
	'it neither commits nor rolls back anything');
my ($gid) = $late{decided}[0] =~ /(dtx_.*)_\d+$/;
is($c->as_super("SELECT dtx.outcome('$gid')"), 'unknown', 'nor does it pretend to know its outcome');

foreach my $branch (@{ $late{decided} }, @{ $late{undecided} })
{
	my ($node, $gid) = split / /, $branch;
	$c->as_super("ROLLBACK PREPARED '$gid'", node => $node);
}
$c->check_invariants(name => 'at the end');
system_or_bail('rm', '-rf', "$data.saved");
done_testing();
