# Copies of a coordinator, and transactions left in doubt for them to find.
#
#     use DtxCluster;
#     use DtxCopy;
#     my %doubt = leave_in_doubt($c);          # the coordinator is down now
#     cold_copy($c, 'c', 'copy');
#     $c->start('copy');
#     $c->as_super('SELECT ...', node => 'copy');
#
# And all servers recovered to one restore point:
#     my $c = DtxCluster->setup(conf => $archiving, ...);
#     archive_all($c);                         # a base backup of each, and their WAL
#     ...
#     recover_all($c, 'point');                # as docs/operations.md has it
#     adopt_all($c, 'why');
package DtxCopy;

use strict;
use warnings;

use Cwd;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(leave_in_doubt open_in_doubt end_session cold_copy add_server
  $archiving archive_all recover_all adopt_all
  scanner_activity state_lives present_life wait_life);

# Settings of servers whose WAL is to be archived.
our $archiving = "wal_level = replica
max_wal_senders = 4
archive_mode = on
archive_command = 'true'
";

# Leave a session of app that waits with its branches prepared and undecided:
# $amount from account $id of a to b.  Returns the session and the branches as
# "node gid".
sub open_in_doubt
{
	my ($c, $amount, $id, %opt) = @_;
	my %before = map { $_ => 1 } $c->prepared;
	$c->fault('prepare_gathered', 'wait');
	my $session = $c->app_session;
	$c->start_query($session,
		$c->transfer_sql('a', 'b', $amount, from_id => $id, to_id => $id, %opt));
	$c->wait_fault('prepare_gathered');
	return ($session, grep { !$before{$_} } $c->prepared);
}

# Kill the coordinator while two transfers from a to b are under way: 100 on
# account 1, which is decided to commit, and 10 on account 2, which is not
# decided.  Both are prepared on both nodes.  Returns their branches, each as
# "node gid": (decided => [...], undecided => [...]).
sub leave_in_doubt
{
	my ($c) = @_;
	my ($session, @undecided) = open_in_doubt($c, 10, 2);
	my %undecided = map { $_ => 1 } @undecided;
	$c->fault('commit_begin', 'crash_server');
	$c->transfer('a', 'b', 100);
	$c->wait_down;
	end_session($session);
	# its own server is down: ask the nodes only
	local $c->{names} = $c->{nodes};
	return (undecided => \@undecided,
		decided => [ grep { !$undecided{$_} } $c->prepared ]);
}

# The end of a session whose server may be gone.
sub end_session
{
	my ($session) = @_;
	eval { $session->quit };
	return;
}

# A server object beside the others, for a data directory still to be made.  It
# is reached by its name, and belongs to neither sums nor checks.
sub add_server
{
	my ($c, $name) = @_;
	my $server = PostgreSQL::Test::Cluster->new($name);
	$c->{server}{$name} = $server;
	return $server;
}

# Copy the data directory of a server that is down, as backup tools do.
sub cold_copy
{
	my ($c, $from, $name) = @_;
	my $server = add_server($c, $name);
	system_or_bail('cp', '-a', $c->server($from)->data_dir, $server->data_dir);
	unlink $server->data_dir . '/postmaster.pid';
	$server->append_conf('postgresql.conf', 'port = ' . $server->port);
	return $server;
}

# Archive the WAL of all servers from now on, and take a base backup of each.
sub archive_all
{
	my ($c) = @_;
	foreach my $name (@{ $c->{names} })
	{
		my $archive = $c->{archive}{$name} = Cwd::realpath(PostgreSQL::Test::Utils::tempdir("archive_$name"));
		$c->as_super("ALTER SYSTEM SET archive_command = 'cp %p $archive/%f.tmp && mv $archive/%f.tmp $archive/%f'",
			node => $name);
		$c->as_super('SELECT pg_reload_conf()', node => $name);
		$c->server($name)->backup('base');
	}
	return;
}

# All servers are lost, and recovered from backup and archive to a restore point.
# They have the addresses of the lost ones, as the mappings have it.
sub recover_all
{
	my ($c, $point) = @_;
	foreach my $name (@{ $c->{names} })
	{
		my $segment = $c->as_super('SELECT pg_walfile_name(pg_switch_wal())', node => $name);
		$c->wait_for("the archive of $name", sub { -s "$c->{archive}{$name}/$segment" });
	}
	foreach my $name (@{ $c->{names} })
	{
		my $port = $c->server($name)->port;
		$c->stop($name, 'immediate');
		my $restored = add_server($c, "restored_$name");
		$restored->init_from_backup($c->server($name), 'base');
		$restored->append_conf('postgresql.conf', "port = $port
archive_mode = off
restore_command = 'cp $c->{archive}{$name}/%f %p'
recovery_target_name = '$point'
recovery_target_action = promote");
		$restored->{_port} = $port;
		append_to_file($restored->data_dir . '/recovery.signal', '');
		$c->{server}{$name} = $restored;
	}
	# the coordinator last: its scanner finds all nodes
	foreach my $name (@{ $c->{nodes} }, $c->{coordinator})
	{
		$c->start($name);
		$c->wait_for("$name to be recovered", sub { ($c->super_psql('SELECT pg_is_in_recovery()', node => $name))[1] eq 'f' });
	}
	$c->wait_for('the coordinator to find out', sub { scanner_activity($c) eq 'dtx: waits to be adopted' });
	return;
}

# Say of the present life, and of those before it, that no commit is missing.
sub adopt_all
{
	my ($c, $why) = @_;
	my @earlier = split /\n/, $c->as_super(q{SELECT dtx.life_text(life) FROM dtx.life ORDER BY number DESC});
	my $present = shift @earlier;
	$c->as_super("SELECT dtx.adopt('$present', '$why')");
	$c->wait_for('it to be adopted', sub { scanner_activity($c) ne 'dtx: waits to be adopted' });
	foreach my $life (@earlier)
	{
		my ($status, undef, $message) = $c->super_psql("SELECT dtx.adopt('$life', '$why')");
		die $message unless $status == 0 || $message =~ /needs no adoption/;
	}
	return;
}

# What the scanner of a database shows of itself, or nothing.
sub scanner_activity
{
	my ($c, %opt) = @_;
	my $db = delete $opt{db} || 'bank';
	return $c->as_super(qq{SELECT query FROM pg_stat_activity
		WHERE backend_type = 'dtx scanner' AND datname = '$db'}, %opt, db => 'postgres');
}

# The causes of all lives, oldest first.
sub state_lives
{
	my ($c, %opt) = @_;
	return $c->as_super(q{SELECT string_agg(cause, ', ' ORDER BY number) FROM dtx.life}, %opt);
}

sub present_life
{
	my ($c, %opt) = @_;
	return $c->as_super('SELECT dtx.life_text(life) FROM dtx.database_state()', %opt);
}

# Wait until the scanner of this run has written its life down.
sub wait_life
{
	my ($c, %opt) = @_;
	return $c->wait_for('a life', sub { present_life($c, %opt) ne '' });
}

1;
