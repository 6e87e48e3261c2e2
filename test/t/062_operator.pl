# An operator without superuser rights, and what each role sees of the others.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => "dtx.scan_interval = 100ms
dtx.sweep_interval = 1s
dtx.max_backoff = 1s
dtx.stuck_after = 0");
plan skip_all => 'no fault points' unless $c->has_faults;
my ($rc, $stdout, $stderr);

# night may look and act, clerk is another application
$c->as_super(q{
	CREATE ROLE night LOGIN IN ROLE pg_monitor;
	GRANT EXECUTE ON PROCEDURE dtx.recover(bigint, bigint, bigint) TO night;
	GRANT EXECUTE ON FUNCTION dtx.resolve(text, integer, text, text), dtx.adopt(text, text) TO night;
	CREATE ROLE clerk LOGIN;
	GRANT USAGE ON FOREIGN SERVER a, b TO clerk;
});
sub as_role
{
	my ($role, $sql, %opt) = @_;
	local $ENV{PGUSER} = $role;
	($rc, $stdout, $stderr) = $c->super_psql($sql, %opt);
	return $stdout;
}
sub visible
{
	my ($role) = @_;
	return join ' ', map { as_role($role, "SELECT count(*) FROM dtx.$_") } qw(transactions branches stuck);
}

# one transaction of app is decided and waits for b
$c->fault('commit_begin', 'wait');
my $session = $c->app_session;
$c->start_query($session, $c->transfer_sql('a', 'b', 100));
$c->wait_fault('commit_begin');
$c->stop('b', 'immediate');
$c->fault_reset;
$c->finish_query($session);
end_session($session);
$c->wait_for('the other branch', sub { $c->as_super(q{SELECT count(*) FROM dtx.stuck}) == 1 });

is(visible('app'), '1 2 1', 'a role sees its own transaction');
is(visible('clerk'), '0 0 0', 'another role does not');
is(visible('night'), '1 2 1', 'a member of pg_monitor does');
as_role('clerk', 'SELECT last_error FROM dtx.nodes');
is($stderr, '', 'nodes are seen by whoever may use them');
$c->as_super('REVOKE USAGE ON FOREIGN SERVER b FROM clerk');
is(as_role('clerk', 'SELECT node FROM dtx.nodes'), 'a', 'and by nobody else');
is(as_role('clerk', 'SELECT life, cause FROM dtx.life'), '', 'lives are not seen');
like($stderr, qr/permission denied/, 'by ordinary roles');
is(as_role('night', 'SELECT cause FROM dtx.life'), 'created', 'but by operators');

##########################################################################
# What the operator calls
##########################################################################

my $gid = as_role('night', 'SELECT gid FROM dtx.stuck');
is(as_role('night', as_role('night', 'SELECT call FROM dtx.stuck')), '0|1|0', 'the operator runs the call that is shown');
as_role('night', 'SELECT dblink_get_connections()');
like($stderr, qr/permission denied/, 'and may not call dblink');
$c->as_super(q{GRANT EXECUTE ON FUNCTION dblink_get_connections() TO night});
is(as_role('night', 'CALL dtx.recover(); SELECT coalesce(cardinality(dblink_get_connections()), 0)'), "0|1|0\n0",
	'connections of other roles do not stay in his session');
as_role('night', "SELECT dtx.exec('a', 'SELECT 1')");
like($stderr, qr/permission denied for foreign server a/, 'the nodes are closed to him');

$c->as_super("ALTER SERVER b OPTIONS (SET port '1')");    # not to be seen before
$c->start('b');
$c->as_super("ROLLBACK PREPARED '${gid}_2'", node => 'b');
$c->as_super("ALTER SERVER b OPTIONS (SET port '@{[ $c->server('b')->port ]}')");
$c->wait_for('it to be held', sub { as_role('night', 'SELECT state FROM dtx.stuck') eq 'held' });
$c->as_super('UPDATE account SET balance = balance + 100 WHERE id = 1', node => 'b');
as_role('night', as_role('night', 'SELECT call FROM dtx.stuck'));
is($stderr, '', 'he settles a branch that is held');
$c->wait_for('nothing to be stuck', sub { as_role('night', 'SELECT count(*) FROM dtx.stuck') == 0 });
is($c->as_super(q{SELECT actor, event, detail FROM dtx.event WHERE event LIKE 'resolved%'}), 'night|resolved as committed|why', 'and dtx.event knows who it was');

my %doubt = leave_in_doubt($c);
cold_copy($c, 'c', 'copy');
my @copy = (node => 'copy');
$c->start('copy');
wait_life($c, @copy);
my $adopt = q{SELECT count(*) FROM dtx.stuck WHERE call LIKE '%adopt%'};
is(as_role('clerk', $adopt, @copy), '0', 'an ordinary role does not see that a copy waits to be adopted');
is(as_role('night', $adopt, @copy), '1', 'the operator does');
as_role('night', as_role('night', q{SELECT call FROM dtx.stuck WHERE call LIKE '%adopt%'}, @copy), @copy);
is($stderr, '', 'and adopts it');
$c->{names} = [qw(a b)];
$c->wait_for('the decided branches', sub { $c->prepared_count == 2 });
$c->wait_for('the others to be held', sub { as_role('night', q{SELECT count(*) FROM dtx.stuck WHERE state = 'held'}, @copy) == 2 });
my ($old) = $doubt{undecided}[0] =~ /dtx_([0-9a-f]{16})_/;
as_role('night', "SELECT dtx.adopt('$old', 'morning')", @copy);
ok($c->wait_clean, 'and ends what its old life has left');
is($c->as_super(q{SELECT string_agg(DISTINCT actor, ' ') FROM dtx.event WHERE event LIKE 'adopted%'}, @copy), 'night', 'dtx.event knows');
is($c->total(qw(a b)), 20000, 'no money was lost or made');
done_testing();
