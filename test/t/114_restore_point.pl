# dtx.create_restore_point: all servers, recovered to it, have whole
# transactions only.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use DtxFault;
use Test::More;
use Time::HiRes qw(sleep);

my $c = DtxCluster->setup(nodes => [qw(a b)], conf => $archiving, conf_c => 'dtx.scan_interval = 100ms
dtx.lockout_timeout = 10s');
my $f = DtxFault->new($c);
my @names = qw(c a b);
# a superuser of all, and its mappings: the right to create restore points
$c->as_super(q{CREATE ROLE keeper SUPERUSER LOGIN PASSWORD 'keeps'}, node => $_) foreach @names;
$c->as_super(qq{CREATE USER MAPPING FOR keeper SERVER $_ OPTIONS (user 'keeper', password 'keeps')}) foreach qw(a b);
$c->transfer('a', 'b', 1);
archive_all($c);

sub create { my ($name) = @_; return $c->super_psql("SET SESSION AUTHORIZATION keeper; SELECT node, lsn FROM dtx.create_restore_point('$name')"); }

# --- what it refuses
like(($c->app_psql(q{SELECT * FROM dtx.create_restore_point('x')}))[2], qr/permission denied/, 'not everybody may');
like((create(''))[2], qr/must have 1 to 63 bytes/, 'not without a name');
like((create('x' x 64))[2], qr/must have 1 to 63 bytes/, 'not with one that is too long');
$c->as_super(q{DROP USER MAPPING FOR keeper SERVER b});
like((create('nowhere'))[2], qr/has no user mapping for node "b"/, 'not without a mapping for every node');
$c->as_super(q{CREATE USER MAPPING FOR keeper SERVER b OPTIONS (user 'app', password '} . $DtxCluster::password . q{')});
like((create('no_right'))[2], qr/permission denied.*Other servers may have a restore point of that name/s, 'not without the right there');
$c->as_super(q{ALTER USER MAPPING FOR keeper SERVER b OPTIONS (SET user 'keeper', SET password 'keeps')});
$c->hang('b');
like((create('hung'))[2], qr/ERROR/, 'not while a node hangs');
$c->resume('b');
is(($c->transfer('a', 'b', 1))[0], 0, 'commits go on after all that');
if ($c->has_faults)
{
	foreach my $how (qw(terminate error))
	{
		$c->fault('restore_point_quiet', $how);
		isnt((create('broken'))[0], 0, "$how while commits are held up");
		is(($c->transfer('a', 'b', 1))[2], '', 'and they go on');
	}
}

# --- a point under load, and load after it
# (half of it leaves the end of its branches to the scanner)
my @load = ($c->start_load(clients => 2), $c->start_load(clients => 2, settings => '-c dtx.commit_wait=0'));
sleep 0.5;
my ($rc, $out, $err) = create('together');
is($err, '', 'a restore point under load');
is(join(' ', sort map { (split /\|/)[0] } split /\n/, $out), ' a b', 'on all servers');
sleep 0.5;
is(join('', map { $c->stop_load($_) } @load), '', 'nobody was disturbed');
# after the point: must not be there later
is(($c->transfer('a', 'b', 500, from_id => 5, to_id => 5, note => 'too late'))[0], 0, 'a transfer after it');
$c->check_invariants(name => 'before the disaster');
is($c->ledger_count('too late'), 1, 'it is there');

# --- all are lost, and recovered to the point, as docs/operations.md has it
recover_all($c, 'together');
adopt_all($c, 'all servers are recovered to together');
ok($c->wait_clean(40), 'what was undecided at that moment is rolled back');
is($c->ledger_count('too late'), 0, 'nothing of what came after the point is there');
is($c->total, 30000, 'and of what came before everything or nothing');
is($c->as_super(q{SELECT node, gid, state, reason FROM dtx.stuck}), '', 'nothing is stuck');
is(($c->transfer('a', 'b', 1))[2], '', 'and it goes on');
$c->check_invariants(log => 0);
done_testing();
