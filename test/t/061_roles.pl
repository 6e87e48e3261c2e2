# The scanner ends each branch with the rights of the role whose branch it is.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => "dtx.scan_interval = 100ms
dtx.sweep_interval = 1s
dtx.max_backoff = 1s
dtx.stuck_after = 0
dtx.commit_wait = 0
allow_system_table_mods = on");
plan skip_all => 'no fault points' unless $c->has_faults;
my ($rc, $stdout, $stderr);
my $password = $DtxCluster::password;

# three more roles: a clerk and a guest with rights of their own on the nodes,
# and an admin who is superuser there
foreach my $name (qw(c a b))
{
	$c->as_super("CREATE ROLE clerk LOGIN PASSWORD '$password'; CREATE ROLE guest LOGIN PASSWORD '$password';
		CREATE ROLE admin LOGIN @{[ $name eq 'c' ? '' : 'SUPERUSER' ]} PASSWORD '$password';
		GRANT ALL ON account TO clerk, guest, admin;", node => $name);
}
foreach my $role (qw(clerk guest admin))
{
	$c->as_super("GRANT USAGE ON FOREIGN SERVER $_ TO $role; CREATE USER MAPPING FOR $role SERVER $_
		OPTIONS (user '$role', password '$password')") foreach qw(a b);
}

# Commit a transfer as a role, so that the scanner has to end its branches.
sub pending_as
{
	my ($role, $id, $point) = @_;
	$c->fault($point || 'commit_begin', 'error');
	local $ENV{PGUSER} = $role;
	my $server = $c->server('c');
	local $server->{_host} = '127.0.0.1';
	local $ENV{PGUSER} = $role;
	local $ENV{PGPASSWORD} = $password;
	my ($out, $err);
	$server->psql('bank', "BEGIN;
		SELECT dtx.exec('a', 'UPDATE account SET balance = balance - 10 WHERE id = $id');
		SELECT dtx.exec('b', 'UPDATE account SET balance = balance + 10 WHERE id = $id');
		COMMIT", stdout => \$out, stderr => \$err);
	return $err;
}
sub owners { return join ' ', map { $c->as_super(q{SELECT string_agg(owner, ' ' ORDER BY owner) FROM pg_prepared_xacts}, node => $_) } @_; }

##########################################################################
# Each role for itself
##########################################################################

is(pending_as($_, 1), '', "$_: committed") foreach qw(admin app clerk guest);
ok($c->wait_clean(40), 'the scanner ends the branches of all of them');
is($c->balance('a') . '/' . $c->balance('b'), '960/1040', 'as committed');

# the role that has used the node last has a password that is not right any more
$c->as_super("ALTER ROLE guest PASSWORD 'changed'", node => $_) foreach qw(a b);
$c->as_super('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $$guest$$', node => $_) foreach qw(a b);
is(pending_as('clerk', 2), '', 'another role commits');
ok($c->wait_clean(40), 'and its branches are ended all the same');

# branches of the role with the wrong password come first
$c->as_super("ALTER ROLE guest PASSWORD '$password'", node => $_) foreach qw(a b);
$c->fault('scan_begin', 'wait');
$c->wait_fault('scan_begin');
is(pending_as('guest', 3), '', 'the role commits');
is(pending_as('clerk', 4), '', 'another one, too');
foreach my $node (qw(a b))
{
	$c->as_super("ALTER ROLE guest PASSWORD 'changed'", node => $node);
	$c->as_super('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ($$guest$$, $$clerk$$)', node => $node);
}
$c->fault_reset;
$c->wait_for('the branches of the other role', sub { owners(qw(a b)) eq 'guest guest' });
pass('one role\'s wrong password does not stop the branches of another');
$c->wait_for('dtx.stuck to tell', sub {
	$c->as_super(q{SELECT count(*) FROM dtx.stuck WHERE last_error ~ 'password authentication failed for user "guest"'}) == 2 });
is(owners(qw(a b)), 'guest guest', 'nobody ends them with other rights, not even a superuser of the node');
$c->as_super("ALTER USER MAPPING FOR guest SERVER $_ OPTIONS (SET password 'changed')") foreach qw(a b);
ok($c->wait_clean(40), 'with the right password they are ended');

##########################################################################
# A role without a mapping
##########################################################################

$c->fault('scan_begin', 'wait');
$c->wait_fault('scan_begin');
is(pending_as('guest', 5), '', 'the role commits once more');
# DROP would be refused: as if its catalog had been damaged
$c->as_super(q{DELETE FROM pg_user_mapping WHERE umuser = 'guest'::regrole});
$c->as_super('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $$guest$$', node => $_) foreach qw(a b);
$c->fault_reset;
$c->wait_for('it to be stuck', sub { $c->as_super(q{SELECT count(*) FROM dtx.stuck WHERE state = 'held'}) == 2 });
like($c->as_super('SELECT reason FROM dtx.stuck WHERE node = $$a$$'), qr/"guest"/, 'without a mapping it is held, and the reason says whose it is');
$c->as_super('CALL dtx.recover()');
is(owners(qw(a b)), 'guest guest', 'nobody ends it with other rights');
is(pending_as('clerk', 6), '', 'another role commits');
$c->wait_for('the branches of the other role', sub { owners(qw(a b)) eq 'guest guest' });
pass('and is not in the way of others');
$c->as_super("CREATE USER MAPPING FOR guest SERVER $_ OPTIONS (user 'guest', password 'changed')") foreach qw(a b);
ok($c->wait_clean(40), 'with a mapping it is ended');
$c->wait_for('nothing to be stuck', sub { $c->as_super('SELECT count(*) FROM dtx.stuck') == 0 });

##########################################################################
# A role without USAGE
##########################################################################

$c->fault('scan_begin', 'wait');
$c->wait_fault('scan_begin');
is(pending_as('guest', 5), '', 'the role commits once more');
$c->as_super('REVOKE USAGE ON FOREIGN SERVER a, b FROM guest');
$c->as_super('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $$guest$$', node => $_) foreach qw(a b);
$c->fault_reset;
$c->wait_for('dtx.stuck to tell', sub {
	$c->as_super(q{SELECT count(*) FROM dtx.stuck WHERE last_error ~ 'permission denied for foreign server'}) == 2 });
is(owners(qw(a b)), 'guest guest', 'rights that were taken away are not used');
$c->as_super('GRANT USAGE ON FOREIGN SERVER a, b TO guest');
ok($c->wait_clean(40), 'with them its branches are ended');

##########################################################################
# A role that uses a mapping for PUBLIC
##########################################################################

# such a role can be dropped as far as PostgreSQL goes
$c->as_super("CREATE ROLE passer LOGIN PASSWORD '$password'; GRANT USAGE ON FOREIGN SERVER a, b TO PUBLIC;
	CREATE USER MAPPING FOR PUBLIC SERVER a OPTIONS (user 'app', password '$password');
	CREATE USER MAPPING FOR PUBLIC SERVER b OPTIONS (user 'app', password '$password')");
is(pending_as('passer', 8), '', 'a role with a mapping for PUBLIC commits');
ok($c->wait_clean(40), 'and the scanner ends its branches');
sub drop_role { my (%opt) = @_; return ($c->super_psql('DROP ROLE passer', %opt))[2]; }
sub scanner_waits { $c->fault('scan_begin', 'wait'); $c->wait_fault('scan_begin'); return; }

# undecided: the session dies while a node is away
$c->fault('prepare_gathered', 'wait');
my $session;
{
	local $ENV{PGUSER} = 'passer';
	local $ENV{PGPASSWORD} = $password;
	local $c->server('c')->{_host} = '127.0.0.1';
	$session = $c->server('c')->background_psql('bank', on_error_stop => 0);
}
$c->start_query($session, q{BEGIN;
	SELECT dtx.exec('a', 'UPDATE account SET balance = balance - 10 WHERE id = 8');
	SELECT dtx.exec('b', 'UPDATE account SET balance = balance + 10 WHERE id = 8');
	COMMIT});
$c->wait_fault('prepare_gathered');
$c->stop('b', 'immediate');
$c->as_super(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'passer'});
end_session($session);
$c->fault_reset;
like(drop_role(), qr/ERROR:  cannot drop a role while branches depend on it/, 'DROP ROLE is refused while a branch of it is undecided');
$c->start('b');
ok($c->wait_clean(40), 'which is rolled back');
is($c->balance('b', 8), 1010, 'and left no trace');

# decided
scanner_waits();
is(pending_as('passer', 8), '', 'the role commits once more');
like(drop_role(), qr/ERROR:  cannot drop a role while branches depend on it/, 'DROP ROLE is refused while a branch of it is decided');
# another database does not know
is(drop_role(db => 'postgres'), '', 'DROP ROLE in another database is not');
$c->fault_reset;
ok($c->wait_clean(40), 'but its branches are ended by a role whose mapping connects as the same user');
is($c->balance('b', 8), 1020, 'as decided');

##########################################################################
# A server that moves while the old one still answers
##########################################################################

my ($pa, $pb) = map { $c->server($_)->port } qw(a b);
$c->as_super("ALTER SERVER a OPTIONS (SET port '$pb')");
$c->as_super("ALTER SERVER b OPTIONS (SET port '$pa')");
is(pending_as('app', 7), '', 'committed over servers that have changed places');
ok($c->wait_clean(40), 'the scanner looks where they are now');
is($c->balance('a', 7) . '/' . $c->balance('b', 7), '1010/990', 'and so did the session');

is($c->total(qw(a b)), 20000, 'no money was lost or made');
$c->check_invariants(name => 'in the end');
done_testing();
