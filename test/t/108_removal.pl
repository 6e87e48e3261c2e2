# Row 11 of docs/faults.md: servers, mappings, roles and the extension are dropped,
# passwords and rights taken away, at every moment of a transaction.
use strict;
use warnings;
use DtxCluster;
use DtxFault;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => "dtx.scan_interval = 100ms
dtx.max_backoff = 1s
dtx.stuck_after = 0
dtx.connect_timeout = 2s");
plan skip_all => 'no fault points' unless $c->has_faults;
my $f = DtxFault->new($c);
my $password = $DtxCluster::password;


# One more role, on which nothing of PostgreSQL depends: it has rights and
# mappings as anybody has them.
$c->as_super("CREATE ROLE passer LOGIN PASSWORD '$password';
	GRANT ALL ON ledger TO PUBLIC; GRANT USAGE ON SEQUENCE ledger_id_seq TO PUBLIC;
	GRANT USAGE ON FOREIGN SERVER a, b TO PUBLIC;
	CREATE USER MAPPING FOR PUBLIC SERVER a OPTIONS (user 'app', password '$password');
	CREATE USER MAPPING FOR PUBLIC SERVER b OPTIONS (user 'app', password '$password')");
$f->attempt('COMMIT');
$f->truth;
sub letter { my ($letter) = $_[0] =~ /^(Pf|P|[A-Z])/; return $_[0] eq 'Pl' ? 'Pf' : $letter eq 'P' ? 'Pa' : $letter; }
my %expected = (W => 'C', Pf => 'C', Pl => 'C', Pa => 'C', Pr => 'C', D => 'C', Q => 'C', F => 'C', Fl => 'C', R => 'Cw', Ru => 'A');

##########################################################################
# DROP here
##########################################################################

my @drops = ('DROP SERVER b CASCADE', 'DROP USER MAPPING FOR app SERVER b', 'DROP OWNED BY app CASCADE',
	'DROP EXTENSION dtx CASCADE', 'DROP EXTENSION dblink CASCADE');
my $drop_role = 'DROP ROLE passer';
# "refused", "waits", or what else came of it; nothing of it stays
sub drop
{
	my ($sql) = @_;
	my ($rc, undef, $stderr) = $c->super_psql("\\set VERBOSITY verbose
		SET client_min_messages = error; SET lock_timeout = '100ms'; BEGIN; $sql; ROLLBACK");
	return $stderr =~ /ERROR:  55006/ ? 'refused' : $stderr =~ /ERROR:  55P03/ ? 'waits' : $stderr =~ /ERROR/ ? $stderr : 'allowed';
}
foreach my $column (qw(W Pf Pl Pa Pr D Q F Fl R Ru))
{
	$f->stop_in($column);
	my %came = map { $_ => drop($_) } @drops;
	my $answer = $f->go_on;
	foreach my $sql (@drops)
	{
		$f->cell('11 ' . letter($column), "$column, $sql", $came{$sql}, qr/^(refused|waits)$/);
	}
	$f->cell('11 ' . letter($column), "$column, drops do not disturb", $f->verdict($answer), $expected{$column});
}
$f->calm;
$f->wait_until('it to be forgotten', sub { $f->ask('c', 'SELECT count(*) FROM dtx.decision') eq '0' });
foreach my $sql (@drops)
{
	my $came;
	# the look that finds the node clean may still be under way
	$c->poll_until(sub { ($came = drop($sql)) eq 'allowed' });
	$f->cell('11 F', "forgotten, $sql", $came, 'allowed');
}

# A role that uses mappings for PUBLIC.
{
	my $g = DtxFault->new($c, no_gate => 1, id => 2, outcomes => $f->{outcomes}, shown => $f->{shown});
	local $ENV{PGUSER} = 'passer';
	local $ENV{PGPASSWORD} = $password;
	local $c->server('c')->{_host} = '127.0.0.1';
	$g->{session} = $c->server('c')->background_psql('bank', on_error_stop => 0);
	$g->{session}->query('\\set VERBOSITY verbose');
	foreach my $column (qw(W Pf Pl Pa Pr D Q F Fl R Ru))
	{
		delete local $ENV{PGUSER};
		local $c->server('c')->{_host} = $c->server('a')->{_host};
		$g->stop_in($column);
		my $came = drop($drop_role);
		my $answer = $g->go_on;
		$g->cell('11 ' . letter($column), "$column, $drop_role", $came, 'refused');
		$g->cell('11 ' . letter($column), "$column, $drop_role does not disturb", $g->verdict($answer), $expected{$column});
	}
	$g->forget_session;
}

##########################################################################
# Changes over there
##########################################################################

sub reject
{
	my ($reject) = @_;
	my $file = $c->server('b')->data_dir . '/pg_hba.conf';
	open my $hba, '>', $file or die $!;
	print $hba "local all all trust\n", $reject ? "host all app 127.0.0.1/32 reject\n" : '', "host all all 127.0.0.1/32 scram-sha-256\n";
	close $hba;
	$c->as_super('SELECT pg_reload_conf()', node => 'b');
	return;
}
my %change = (
	'the password is another' => [ sub { $f->ask('b', q{ALTER ROLE app PASSWORD 'another'}) },
		sub { $f->ask('b', "ALTER ROLE app PASSWORD '$password'") }, qr/password authentication failed/ ],
	'the role may not log in' => [ sub { $f->ask('b', q{ALTER ROLE app NOLOGIN}) },
		sub { $f->ask('b', q{ALTER ROLE app LOGIN}) }, qr/is not permitted to log in/ ],
	'the role may not connect to the database' => [ sub { $f->ask('b', q{REVOKE CONNECT ON DATABASE bank FROM app, PUBLIC}) },
		sub { $f->ask('b', q{GRANT CONNECT ON DATABASE bank TO app, PUBLIC}) }, qr/permission denied for database/ ],
	'pg_hba.conf rejects it' => [ sub { reject(1) }, sub { reject(0) }, qr/pg_hba\.conf rejects/ ]);
foreach my $what (sort keys %change)
{
	my ($break, $mend, $message) = @{ $change{$what} };
	foreach my $column ($what =~ /password/ ? qw(W Pf Pa Pr D Q F Fl R Ru) : qw(D))
	{
		$f->stop_in($column);
		$break->();
		# whoever is connected stays so; then nobody is
		my @pids = $f->backends('b');
		$f->signal('TERM', 'b', @pids) if @pids;
		my $answer = $f->go_on;
		if ($column =~ /^(Pa|Pr|D|Q|R|Ru)$/)
		{
			$f->wait_until('an alarm', sub {
				$f->ask('c', q{SELECT string_agg(last_error, ' ') FROM (SELECT last_error FROM dtx.nodes UNION ALL SELECT last_error FROM dtx.stuck) e}) =~ $message });
			is($f->prepared_on('b'), 1, "$column, $what: the branch waits, and the views say why");
		}
		# the reload of pg_hba.conf takes a moment
		$mend->();
		my $cw = { %expected, W => 'A', Pf => 'A', map { $_ => 'Cw' } qw(Pa Pr D Q R) };
		$f->cell('11 ' . letter($column), "$column, $what for a while", $f->verdict($answer), $cw->{$column});
	}
}

# W: rights on a table are gone when the next statement comes
$f->stop_in('W');
$f->ask('b', 'REVOKE ALL ON account FROM app');
$f->send_end(q{SELECT dtx.exec('b', 'UPDATE account SET balance = balance WHERE id = 1')});
my $answer = $f->answer;
is($answer->{state}, '42501', 'rights on a table are gone: the statement fails');
$f->go_on;
$f->ask('b', 'GRANT ALL ON account TO app');
$f->cell('11 W', 'rights on a table are gone', $f->verdict($answer), 'A');
# they do not matter to what is prepared
$f->stop_in('D');
$f->ask('b', 'REVOKE ALL ON account FROM app');
$f->cell('11 D', 'rights on a table are gone', $f->verdict($f->go_on), 'C');
$f->ask('b', 'GRANT ALL ON account TO app');

# The owner of a prepared transaction is dropped there, which PostgreSQL allows:
# only a superuser of b can end it.
foreach my $column (qw(D R Ru))
{
	$f->calm;
	$c->as_super("CREATE ROLE gone LOGIN PASSWORD '$password'; GRANT ALL ON account, gate TO gone", node => 'b');
	$c->as_super(q{ALTER USER MAPPING FOR app SERVER b OPTIONS (SET user 'gone')});
	$f->stop_in($column);
	my $verb = $column eq 'Ru' ? 'ROLLBACK' : 'COMMIT';
	$c->as_super('DROP OWNED BY gone; DROP ROLE gone', node => 'b');
	$f->signal('TERM', 'b', split /\n/, $f->ask('b', q{SELECT pid FROM pg_stat_activity WHERE client_addr IS NOT NULL}));
	$answer = $f->go_on;
	$f->wait_until('an alarm', sub { $f->ask('c', q{SELECT string_agg(last_error, ' ') FROM (SELECT last_error FROM dtx.nodes UNION ALL SELECT last_error FROM dtx.stuck) e})
		=~ /"gone"/ });
	# a role made anew with that name is not the owner
	$c->as_super("CREATE ROLE gone LOGIN PASSWORD '$password'", node => 'b');
	$f->wait_until('it to be stuck', sub { $f->ask('c', q{SELECT string_agg(state, ' ') FROM dtx.stuck WHERE node = 'b' AND gid IS NOT NULL}) =~ /held|pending/ });
	note $f->ask('c', q{SELECT * FROM dtx.stuck});
	$f->ask('c', 'CALL dtx.recover()');
	is($f->prepared_on('b'), 1, "$column: a role of the same name does not end it");
	$c->as_super("$verb PREPARED '@{[ $f->gid ]}_2'", node => 'b');
	$f->cell('11 ' . letter($column), "$column, the owner is dropped over there, and a superuser there ends the branch",
		$f->verdict($answer), $column eq 'Ru' ? 'A' : 'Cw');
	$f->wait_until('nothing to be stuck', sub { $f->ask('c', q{SELECT count(*) FROM dtx.stuck}) eq '0' });
	$c->as_super(q{ALTER USER MAPPING FOR app SERVER b OPTIONS (SET user 'app')});
	$f->calm;
	$c->as_super('DROP OWNED BY gone; DROP ROLE gone', node => 'b');
}

$f->all_shown;
$c->check_invariants(kept => $f->kept);
done_testing();
