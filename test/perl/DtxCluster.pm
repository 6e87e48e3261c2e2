# Several PostgreSQL servers for one test: a coordinator with dtx and the banks
# that it reaches as nodes.
#
#     use DtxCluster;                  # or: use DtxCluster qw(netns); see cut()
#     my $c = DtxCluster->setup(nodes => [qw(a b)]);
#     my ($rc, $out, $err) = $c->transfer('a', 'b', 100);
#     $c->check_invariants;
#
# Every server, the coordinator too, has a database "bank" with
#
#     account (id int PRIMARY KEY, owner text, balance bigint CHECK (balance >= 0))
#
# owned by role app, ids 1 to 10 with 1000 units each.  The coordinator has the
# foreign servers (named as the nodes), mappings for app with a password that
# the nodes really ask for, the table ledger, and in builds with fault points
# the functions public.dtx_fault*, for superusers only.
#
# The superuser comes in by Unix socket and so is never touched by cut();
# app, and dtx as app, by TCP over 127.0.0.1.
package DtxCluster;

use strict;
use warnings;

use Carp;
use Cwd;
use DtxInvariants;
use IPC::Run;
use IPC::SysV qw(IPC_RMID);
use List::Util qw(shuffle);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# Planted so that check_invariants can search the logs for it.
our $password = 'planted-password-4711';

my $opening_balance = 10 * 1000;
my @clusters;

# "use DtxCluster qw(netns)": run the whole test in a network namespace of its
# own, where nft can drop what it likes without root.  Has to happen before
# PostgreSQL::Test::Utils takes STDOUT away, which it does after compilation.
sub import
{
	my ($class, @want) = @_;

	# a test that hangs must not hang everything after it
	$SIG{ALRM} = sub { die "test took too long\n" };
	alarm($ENV{DTX_TEST_TIMEOUT} || 900);

	# PostgreSQL::Test::Utils turns STDERR to a file that is gone once the test
	# has passed when run again: what it dies of is said where all can see it
	$SIG{__DIE__} = sub { diag "died: $_[0]" if defined $^S && !$^S };

	return unless grep { $_ eq 'netns' } @want;
	$ENV{PATH} .= ':/usr/sbin:/sbin';
	if (!$ENV{DTX_IN_NETNS})
	{
		my @unshare = qw(unshare --net --map-current-user --keep-caps);
		if (system("@unshare sh -c 'ip link set lo up && nft add table inet dtx' >/dev/null 2>&1") != 0)
		{
			print "1..0 # SKIP no private network namespace with nft here\n";
			exit 0;
		}
		$ENV{DTX_IN_NETNS} = 1;
		exec @unshare, '--', $^X, (map { "-I$_" } @INC), $0, @ARGV;
	}
	system('ip link set lo up') == 0 or die "could not bring up the network";
	return;
}

##########################################################################
# Making the servers
##########################################################################

# setup(coordinator => 'c', nodes => [qw(a b)],
#       conf => "settings for all", conf_c => "settings for server c only",
#       preload_nodes => 1    the nodes preload dtx as well
#       extension_nodes => 1  the nodes have the extension, as sagas and TCC need
#       fsync => 1            for tests that lose more than processes
#       dtx => 0)             servers only, without the extension
sub setup
{
	my ($class, %opt) = @_;
	my $coordinator = $opt{coordinator} || 'c';
	my @nodes = @{ $opt{nodes} || [qw(a b)] };
	my $self = bless {
		coordinator => $coordinator,
		nodes       => \@nodes,
		names       => [ $coordinator, @nodes ],
		server      => {},
		hung        => {},
	}, $class;
	push @clusters, $self;

	$self->_create($_, %opt) foreach @{ $self->{names} };
	$self->_start_and_fill($_) foreach @{ $self->{names} };
	$self->_fill_coordinator unless defined $opt{dtx} && !$opt{dtx};
	if ($opt{extension_nodes})
	{
		$self->as_super('CREATE EXTENSION dtx CASCADE', node => $_) foreach @nodes;
	}
	return $self;
}

sub _create
{
	my ($self, $name, %opt) = @_;
	my $preload = $name eq $self->{coordinator} || $opt{preload_nodes};
	my $server = PostgreSQL::Test::Cluster->new($name);

	$server->init;    # an initdb each: system identifiers must differ
	$server->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'
restart_after_crash = on
fsync = " . ($opt{fsync} ? 'on' : 'off') . "
dynamic_shared_memory_type = mmap    # in the data directory: no leftovers
log_statement = none    # a logged CREATE USER MAPPING shows its password
max_connections = 200
max_prepared_transactions = 50
shared_preload_libraries = '" . ($preload ? 'dtx' : '') . "'
" . ($opt{conf} || '') . "\n" . ($opt{"conf_$name"} || '') . "\n");
	open my $hba, '>', $server->data_dir . '/pg_hba.conf' or die $!;
	print $hba "local all all trust\nlocal replication all trust\n"
	  . "host all all 127.0.0.1/32 scram-sha-256\n";
	close $hba;
	$self->{server}{$name} = $server;
	return;
}

sub _start_and_fill
{
	my ($self, $name) = @_;
	$self->server($name)->start;
	$self->server($name)->safe_psql('postgres', qq{
		CREATE ROLE app LOGIN PASSWORD '$password';
		CREATE DATABASE bank OWNER app;
		\\connect bank
		SET ROLE app;
		CREATE TABLE account (id int PRIMARY KEY, owner text,
			balance bigint CHECK (balance >= 0));
		INSERT INTO account SELECT i, '$name' || i, 1000 FROM generate_series(1, 10) i;
	});
	return;
}

sub _fill_coordinator
{
	my ($self) = @_;
	$self->as_super(q{
		CREATE EXTENSION dtx CASCADE;
		DO $$
		DECLARE f regprocedure;
		BEGIN
			FOR f IN SELECT objid FROM pg_depend d JOIN pg_extension e ON e.oid = refobjid
				WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
				  AND classid = 'pg_proc'::regclass AND extname = 'dblink'
			LOOP
				EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
			END LOOP;
		END $$;
		CREATE TABLE ledger (id serial PRIMARY KEY, note text, amount bigint);
		ALTER TABLE ledger OWNER TO app;
	} . join '', map { $self->node_sql($_) } @{ $self->{nodes} });

	# only a build with fault points has these
	my ($rc) = $self->super_psql(q{
		CREATE FUNCTION public.dtx_fault(point text, action text, skip int DEFAULT 0)
			RETURNS void AS '$libdir/dtx', 'dtx_fault' LANGUAGE C;
		CREATE FUNCTION public.dtx_fault_hits(point text)
			RETURNS bigint AS '$libdir/dtx', 'dtx_fault_hits' LANGUAGE C;
		CREATE FUNCTION public.dtx_fault_waiting(point text)
			RETURNS boolean AS '$libdir/dtx', 'dtx_fault_waiting' LANGUAGE C;
		CREATE FUNCTION public.dtx_fault_reset()
			RETURNS void AS '$libdir/dtx', 'dtx_fault_reset' LANGUAGE C;
		REVOKE EXECUTE ON FUNCTION dtx_fault, dtx_fault_hits, dtx_fault_waiting,
			dtx_fault_reset FROM PUBLIC;
	});
	$self->{has_faults} = $rc == 0;
	return;
}

# The SQL that makes server $name a node for app; options may be overridden.
sub node_sql
{
	my ($self, $name, %option) = @_;
	%option = (
		host => '127.0.0.1', port => $self->server($name)->port, dbname => 'bank',
		connect_timeout => 2, tcp_user_timeout => 2000, keepalives => 1,
		keepalives_idle => 2, keepalives_interval => 1, keepalives_count => 2,
		%option);
	my $options = join ', ', map { "$_ '$option{$_}'" } sort keys %option;
	return qq{
		CREATE SERVER $name FOREIGN DATA WRAPPER dblink_fdw OPTIONS ($options);
		CREATE USER MAPPING FOR app SERVER $name OPTIONS (user 'app', password '$password');
		GRANT USAGE ON FOREIGN SERVER $name TO app;
	};
}

# The PostgreSQL::Test::Cluster object of a server; the coordinator's by default.
sub server
{
	my ($self, $name) = @_;
	$name = $self->{coordinator} unless defined $name;
	return $self->{server}{$name} || croak "no server \"$name\"";
}

# True in a build with fault points.  Tests of faults begin with
#     plan skip_all => 'no fault points' unless $c->has_faults;
sub has_faults { return $_[0]->{has_faults}; }

##########################################################################
# SQL.  Options: node => name (the coordinator), db => name (bank), timeout => s
##########################################################################

sub _psql
{
	my ($self, $sql, %opt) = @_;
	my ($stdout, $stderr) = ('', '');
	my $rc = eval { $self->server($opt{node})->psql($opt{db} || 'bank', $sql,
		stdout => \$stdout, stderr => \$stderr,
		timeout => $opt{timeout} || $PostgreSQL::Test::Utils::timeout_default,
		on_error_die => $opt{die}) };
	# psql found no server, and was gone before it had been told what to do
	return (2, $stdout, "psql has ended: $@") if $@ =~ /Broken pipe/ && !$opt{die};
	die $@ if $@;
	return ($rc, $stdout, $stderr);
}

# Run code with connections to a server made by app over TCP.
sub _as_app
{
	my ($self, $name, $code) = @_;
	my $server = $self->server($name);
	local $server->{_host} = '127.0.0.1';
	local $ENV{PGUSER} = 'app';
	local $ENV{PGPASSWORD} = $password;
	return $code->($server);
}

# As superuser: (exit code, stdout, stderr), or stdout and death on an error.
sub super_psql { my ($self, $sql, %opt) = @_; return $self->_psql($sql, %opt); }
sub as_super { my ($self, $sql, %opt) = @_; return ($self->_psql($sql, %opt, die => 1))[1]; }

# The same as app.
sub app_psql
{
	my ($self, $sql, %opt) = @_;
	return $self->_as_app($opt{node}, sub { $self->_psql($sql, %opt) });
}
sub as_app { my ($self, $sql, %opt) = @_; return ($self->app_psql($sql, %opt, die => 1))[1]; }

# A session of app that stays open (PostgreSQL::Test::BackgroundPsql): query(),
# query_safe(), quit().  Errors stay in $session->{stderr} until you clear it.
sub app_session
{
	my ($self, %opt) = @_;
	return $self->_as_app($opt{node}, sub { _session($_[0], %opt) });
}

sub super_session { my ($self, %opt) = @_; return _session($self->server($opt{node}), %opt); }

sub _session
{
	my ($server, %opt) = @_;
	my $session = $server->background_psql($opt{db} || 'bank', on_error_stop => 0);
	# the time limit is for each query, not for all of them
	$session->set_query_timer_restart;
	return $session;
}

# Send SQL in a session without waiting for it; finish_query waits, or sees
# psql end because its server died, and returns (stdout, stderr).
sub start_query
{
	my ($self, $session, $sql) = @_;
	$session->{timeout}->start;
	# not query_until: it throws away what has come after its mark
	$session->{stdin} .= "$sql\n;\n\\echo dtx_done\n\\warn dtx_done\n";
	$session->{run}->pump_nb while length $session->{stdin};
	return;
}

sub finish_query
{
	my ($self, $session) = @_;
	$session->{timeout}->start;
	# not pump_until: it complains when psql ends, which is what many tests want
	foreach my $stream (qw(stdout stderr))
	{
		while ($session->{$stream} !~ /dtx_done\n/ && $session->{run}->pumpable)
		{
			croak "no answer, but: $session->{stdout}$session->{stderr}" if $session->{timeout}->is_expired;
			$session->{run}->pump;
		}
	}
	my ($stdout, $stderr) = @$session{qw(stdout stderr)};
	$session->{stdout} = $session->{stderr} = '';
	s/\n?dtx_done\n// foreach $stdout, $stderr;
	return ($stdout, $stderr);
}

# What finish_query would wait for has already come?
sub query_finished
{
	my ($self, $session) = @_;
	$session->{run}->pump_nb if $session->{run}->pumpable;
	return $session->{stdout} =~ /dtx_done\n/ || !$session->{run}->pumpable;
}

##########################################################################
# Money
##########################################################################

# A transfer as one string; an end of it may be the coordinator itself.
# Options: from_id, to_id (account 1), note, end => 'COMMIT' or what you like.
sub transfer_sql
{
	my ($self, $from, $to, $amount, %opt) = @_;
	my $change = sub {
		my ($name, $sign, $id) = @_;
		return "UPDATE account SET balance = balance $sign $amount WHERE id = $id;\n"
		  if $name eq $self->{coordinator};
		return "SELECT dtx.exec('$name', 'UPDATE account SET balance = balance $sign \$1 "
		  . "WHERE id = \$2', ARRAY['$amount', '$id'], expect => 1);\n";
	};
	return "BEGIN;\n"
	  . $change->($from, '-', $opt{from_id} || 1)
	  . $change->($to,   '+', $opt{to_id}   || 1)
	  . "INSERT INTO ledger (note, amount) VALUES ('"
	  . ($opt{note} || "$from to $to") . "', $amount);\n"
	  . (defined $opt{end} ? $opt{end} : 'COMMIT') . ";\n";
}

# Do it as app; returns (exit code, stdout, stderr).
sub transfer
{
	my ($self, $from, $to, $amount, %opt) = @_;
	return $self->app_psql($self->transfer_sql($from, $to, $amount, %opt), %opt);
}

sub balance
{
	my ($self, $name, $id) = @_;
	return $self->as_super('SELECT balance FROM account WHERE id = ' . ($id || 1), node => $name);
}

# Of one server, or of all together.
sub total
{
	my ($self, @names) = @_;
	my $sum = 0;
	$sum += $self->as_super('SELECT sum(balance) FROM account', node => $_)
	  foreach @names ? @names : @{ $self->{names} };
	return $sum;
}

sub ledger_count
{
	my ($self, $note) = @_;
	return $self->as_super('SELECT count(*) FROM ledger'
		  . (defined $note ? " WHERE note = '$note'" : ''));
}

# Transfers between random servers by many clients of app at once, until
# stop_load.  A client that loses its server connects again.  Options: clients,
# names of servers, settings => "-c name=value ..." of their sessions.
sub start_load
{
	my ($self, %opt) = @_;
	my @names = @{ $opt{names} || $self->{names} };
	my $dir = PostgreSQL::Test::Utils::tempdir('load');
	my @pids;
	foreach my $client (1 .. $opt{clients} || 4)
	{
		my $sql = '';
		foreach my $i (1 .. 50)
		{
			# one order of locks for all, or they deadlock across servers, where
			# nobody sees it; money goes both ways all the same
			my ($from, $to) = sort { $a cmp $b } (shuffle @names)[ 0, 1 ];
			$sql .= $self->transfer_sql($from, $to, (rand() < 0.5 ? -1 : 1) * (1 + int rand 20),
				note => 'load', from_id => 1 + int rand 10, to_id => 1 + int rand 10);
		}
		append_to_file("$dir/$client.sql", $sql);
		$self->_as_app(undef, sub {
			my ($server) = @_;
			my $pid = fork();
			die "fork: $!" unless defined $pid;
			if ($pid == 0)
			{
				@ENV{qw(PGHOST PGPORT PGDATABASE PGOPTIONS)} =
				  ('127.0.0.1', $server->port, 'bank', $opt{settings} || '');
				exec 'sh', '-c', "while [ ! -e $dir/stop ]; do
					psql -XAtq -f $dir/$client.sql >/dev/null 2>>$dir/$client.err || sleep 0.1
					done";
			}
			push @pids, $pid;
		});
	}
	return { dir => $dir, pids => \@pids };
}

# Returns the error messages that the clients saw.
sub stop_load
{
	my ($self, $load) = @_;
	append_to_file("$load->{dir}/stop", '');
	waitpid $_, 0 foreach @{ $load->{pids} };
	return join '', map { slurp_file($_) } glob "$load->{dir}/*.err";
}

##########################################################################
# Waiting
##########################################################################

# Poll until $code returns true; false when it did not in time.
sub poll_until
{
	my ($self, $code, $timeout) = @_;
	my $end = time() + ($timeout || $PostgreSQL::Test::Utils::timeout_default);
	for (my $pause = 0.005;; $pause *= 1.5)
	{
		return 1 if $code->();
		return 0 if time() > $end;
		sleep($pause < 0.05 ? $pause : 0.05);
	}
}

# The same, but the test ends when the condition never comes.
sub wait_for
{
	my ($self, $what, $code, $timeout) = @_;
	return 1 if $self->poll_until($code, $timeout);
	croak "timed out waiting for $what";
}

# "node gid" of every transaction of dtx that is prepared somewhere.
sub prepared
{
	my ($self) = @_;
	return map {
		my $name = $_;
		map { "$name $_" } split /\n/,
		  $self->as_super(q{SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'dtx\_%' ORDER BY 1},
			node => $name, db => 'postgres')
	} @{ $self->{names} };
}

sub prepared_count { my ($self) = @_; return scalar(my @list = $self->prepared); }

# Wait until nothing of dtx is prepared anywhere; false when that never came.
sub wait_clean
{
	my ($self, $timeout) = @_;
	return 1 if $self->poll_until(sub { $self->prepared_count == 0 }, $timeout || 60);
	diag 'still prepared: ' . join ', ', $self->prepared;
	return 0;
}

##########################################################################
# Processes
##########################################################################

# Every process of a server: they all have its data directory as theirs.  A
# zombie has none, so the dead do not count.
sub _processes
{
	my ($self, $name) = @_;
	my $dir = Cwd::realpath($self->server($name)->data_dir);
	return map { m{/proc/(\d+)/} ? $1 : () }
	  grep { (readlink($_) || '') eq $dir } glob '/proc/[0-9]*/cwd';
}

sub _postmaster_alive
{
	my ($self, $name) = @_;
	my $pid = $self->server($name)->{_pid};
	return defined $pid && grep { $_ == $pid } $self->_processes($name);
}

# Kill a server and all its processes at once, as a lost machine would.
sub kill9
{
	my ($self, $name) = @_;
	delete $self->{hung}{$name};
	my @pids = $self->_processes($name);
	# the postmaster first: it must not see its children die
	if ($self->_postmaster_alive($name)) { $self->server($name)->kill9 }
	else { $self->server($name)->{_pid} = undef }
	kill 'KILL', @pids;
	$self->wait_for("the end of $name", sub { !$self->_processes($name) });
	return;
}

# Wait until a server is gone that was killed from inside (fault crash_server).
sub wait_down
{
	my ($self, $name) = @_;
	$name = $self->{coordinator} unless defined $name;
	$self->wait_for("$name to go down", sub { !$self->_postmaster_alive($name) });
	$self->kill9($name);
	return;
}

# Start a server that was killed.  The dead postmaster stays a zombie until init
# reaps it, and so long PostgreSQL believes its lock file: try again.
# (As in PostgreSQL's src/test/recovery/t/017_shm.pl.)
sub start
{
	my ($self, $name) = @_;
	my $server = $self->server($name);
	$self->wait_for("$name to start", sub {
		return 1 if $server->start(fail_ok => 1);
		$server->{_pid} = undef;
		return 0;
	});
	return;
}

sub stop { my ($self, $name, $mode) = @_; $self->resume($name); $self->server($name)->stop($mode); return; }

# A server that hangs: SIGSTOP to all of it, the postmaster first so that it
# starts no more.  resume() undoes it.
sub hang
{
	my ($self, $name) = @_;
	kill 'STOP', $self->server($name)->{_pid};
	kill 'STOP', $self->_processes($name);
	$self->{hung}{$name} = 1;
	return;
}

sub resume
{
	my ($self, $name) = @_;
	kill 'CONT', $self->_processes($name) if delete $self->{hung}{$name};
	return;
}

# Wait until a server whose backend crashed has started anew by itself.
# $mark: what log_mark($name) said before the crash.
sub wait_restarted
{
	my ($self, $name, $mark) = @_;
	$name = $self->{coordinator} unless defined $name;
	$self->wait_for("$name to restart after a crash", sub {
		$self->log_since($name, $mark) =~
		  /all server processes terminated.*database system is ready to accept connections/s
		  && ($self->super_psql('SELECT 1', node => $name))[0] == 0;
	});
	return;
}

##########################################################################
# Network: only after "use DtxCluster qw(netns)"
##########################################################################

sub _nft
{
	my ($rule) = @_;
	croak 'this test does not run in a network namespace' unless $ENV{DTX_IN_NETNS};
	system('nft', $rule) == 0 or croak "nft $rule";
	return;
}

# Cut the network to a server.  'dport': requests to it are lost; 'sport': its
# answers are lost; without: both.  $verdict: "drop", or "reject with tcp reset"
# (of requests: the reset itself is an answer).
sub cut
{
	my ($self, $name, $direction, $verdict) = @_;
	my $port = $self->server($name)->port;
	_nft('add table inet dtx');
	_nft('add chain inet dtx out { type filter hook output priority 0; }');
	_nft("add rule inet dtx out tcp $_ $port " . ($verdict || 'drop'))
	  foreach $direction ? $direction : $verdict ? 'dport' : qw(dport sport);
	return;
}

# All cuts together.
sub heal { _nft('flush ruleset'); return; }

##########################################################################
# Fault points of the coordinator (node => name for another server)
##########################################################################

sub fault
{
	my ($self, $point, $action, $skip, %opt) = @_;
	$self->as_super("SELECT public.dtx_fault('$point', '$action', " . ($skip || 0) . ')', %opt);
	return;
}

sub fault_hits { my ($self, $point, %opt) = @_; return $self->as_super("SELECT public.dtx_fault_hits('$point')", %opt); }
sub fault_reset { my ($self, %opt) = @_; $self->as_super('SELECT public.dtx_fault_reset()', %opt); return; }

# Wait until somebody waits at a point armed with "wait".
sub wait_fault
{
	my ($self, $point, %opt) = @_;
	return $self->wait_for("a wait at $point", sub { $self->fault_waiting($point, %opt) });
}

sub fault_waiting
{
	my ($self, $point, %opt) = @_;
	return $self->as_super("SELECT public.dtx_fault_waiting('$point')", %opt) eq 't';
}

##########################################################################
# Logs
##########################################################################

sub log_text { my ($self, $name) = @_; return slurp_file($self->server($name)->logfile); }
sub log_mark { my ($self, $name) = @_; return -s $self->server($name)->logfile; }
sub log_since { my ($self, $name, $mark) = @_; return slurp_file($self->server($name)->logfile, $mark); }

# Lines that match, of one server's log or of all, as "name: line".
sub log_grep
{
	my ($self, $pattern, @names) = @_;
	return map {
		my $name = $_;
		map { "$name: $_" } grep { /$pattern/ } split /\n/, $self->log_text($name)
	} @names ? @names : @{ $self->{names} };
}

##########################################################################
# What must hold after everything
##########################################################################

# All servers have to be up.  Options: name => text, timeout => seconds;
# kept => number of outcomes that are kept (current_gid() was called);
# log => 0: do not look into the logs; others as DtxInvariants.pm has them.
sub check_invariants
{
	my ($self, %opt) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return subtest $opt{name} || 'invariants' => sub {
		foreach my $invariant (@DtxInvariants::all)
		{
			my ($number, $what, $check) = @$invariant;
			is(join("\n", $check->($self, %opt)), '', "$number: $what");
		}
	};
}

sub opening_balance { return $opening_balance; }

# A server that was killed for good leaves a segment of System V shared memory,
# named in its postmaster.pid.
sub _free_shared_memory
{
	my ($pidfile) = @_;
	return unless -e $pidfile;
	my (undef, $id) = split ' ', (split /\n/, slurp_file($pidfile))[6] || '';
	shmctl($id, IPC_RMID, 0) if defined $id;
	return;
}

# PostgreSQL::Test::Cluster stops the servers in its own END block, which runs
# after this one, and cannot do so with one that hangs or died unnoticed.
END
{
	my $status = $?;
	alarm 0;
	foreach my $self (@clusters)
	{
		foreach my $name (keys %{ $self->{server} })
		{
			$self->resume($name);
			next if $self->_postmaster_alive($name);
			kill 'KILL', $self->_processes($name);
			$self->server($name)->{_pid} = undef;
			_free_shared_memory($self->server($name)->data_dir . '/postmaster.pid');
		}
	}
	$? = $status;
}

1;
