# What the documentation tells people to paste into psql works, and prints what
# the documentation says.
#
# Every ```sql block of README.md, and every "```sql run" block of docs/*.md, is
# run in order in one psql session for each file, on one server with the
# settings of README's ```conf block.  An error fails the test, unless the
# ```text (or ```mermaid) block right below shows it.  Each line of such a block must
# be printed, in this order; errors and the like are looked for in stderr.
#
# Last, README has every setting with its default, and every view and function
# that people may call; docs/architecture.md has every fault point.
use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

$SIG{ALRM} = sub { die "test took too long\n" };
alarm($ENV{DTX_TEST_TIMEOUT} || 300);

# Fenced blocks of a file: { info, text, line }.
sub blocks
{
	my ($file) = @_;
	my ($number, $block, @blocks) = (0);
	open my $in, '<', $file or die "$file: $!";
	while (my $line = <$in>)
	{
		$number++;
		if ($line =~ /^```(.*?)\s*$/)
		{
			if ($block) { push @blocks, { %$block, end => $number }; undef $block }
			else { $block = { info => $1, text => '', line => $number } }
		}
		elsif ($block) { $block->{text} .= $line }
	}
	die "$file: block without end" if $block;
	return @blocks;
}

# What differs from run to run.
sub stable
{
	my ($line) = @_;
	$line =~ s/dtx_[0-9a-f]{16}_[0-9a-f]+_[0-9a-f]{16}/GID/g;
	$line =~ s/\b[0-9a-f]{16}\b/LIFE/g;
	$line =~ s/\+\d+\.\d{3} s /+T s /g;
	$line =~ s/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.\d]*[+-]\d\d/TIME/g;
	$line =~ s/\s+/ /g;
	$line =~ s/[-+]{3,}[-+ ]*/---/g;
	$line =~ s/ $//;
	return $line;
}

# The first line of $expected that $printed lacks; both are texts.
sub missing
{
	my ($expected, @printed) = @_;
	my %rest;
	foreach my $stream (0 .. $#printed)
	{
		$rest{$stream} = [ map { stable($_) } split /\n/, $printed[$stream] ];
	}
	LINE: foreach my $line (grep { /\S/ } split /\n/, $expected)
	{
		my $stream = $line =~ /^(ERROR|WARNING|NOTICE|DETAIL|HINT|CONTEXT|LOCATION):/ ? 1 : 0;
		while (@{ $rest{$stream} })
		{
			next LINE if shift @{ $rest{$stream} } eq stable($line);
		}
		return $line;
	}
	return;
}

my ($top) = grep { -e "$_/README.md" } '.', $ENV{TESTDIR} || '.', '../..';
my @readme = blocks("$top/README.md");
my $server = PostgreSQL::Test::Cluster->new('readme');
$server->init;
$server->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'\n");
$server->append_conf('postgresql.conf', $_->{text}) foreach grep { $_->{info} eq 'conf' } @readme;
# what a package would leave there: fsync is off in tests, which check_setup tells
$server->append_conf('postgresql.conf', "fsync = on\n");
open my $hba, '>', $server->data_dir . '/pg_hba.conf' or die $!;
print $hba "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
close $hba;
$server->start;

foreach my $file ("$top/README.md", sort glob "$top/docs/*.md")
{
	my @all = blocks($file);
	my $wanted = $file =~ /README/ ? qr/^sql\b/ : qr/^sql run$/;
	my (@run, $stdin);
	foreach my $i (0 .. $#all)
	{
		next unless $all[$i]{info} =~ $wanted;
		my $next = $all[ $i + 1 ];
		my $shown = $next && $next->{info} =~ /^(?:text|mermaid)$/ && $next->{line} == $all[$i]{end} + 2;
		push @run, { %{ $all[$i] }, expected => $shown ? $next->{text} : '' };
		$stdin .= "\\echo @@@\n\\warn @@@\n$all[$i]{text}\n";
	}
	next unless @run;
	my ($stdout, $stderr) = ('', '');
	IPC::Run::run([ 'psql', '-X', '-P', 'pager=off', '-h', $server->host, '-p', $server->port,
			'-d', $file =~ /README/ ? 'postgres' : 'ledger' ],
		'<', \$stdin, '>', \$stdout, '2>', \$stderr, IPC::Run::timeout(120));
	my @stdout = split /^@@@\n/m, $stdout;
	my @stderr = split /^@@@\n/m, $stderr;
	my $name = $file;
	$name =~ s,^.*/,,;
	foreach my $i (0 .. $#run)
	{
		my ($out, $err) = map { defined $_ ? $_ : '' } $stdout[ $i + 1 ], $stderr[ $i + 1 ];
		my $block = $run[$i];
		my $shown = () = $block->{expected} =~ /^ERROR/mg;
		# the rest of a failed transaction fails as well, and is not shown
		$err =~ s/^ERROR:  current transaction is aborted.*\n//mg if $shown;
		my $errors = () = $err =~ /^(ERROR|FATAL|psql:|invalid command)/mg;
		is($errors, $shown, "$name, line $block->{line}: runs" . ($shown ? ', with the error shown' : ''))
		  or diag $err;
		next unless $block->{expected};
		my $missing = missing($block->{expected}, $out, $err);
		is($missing, undef, "$name, line $block->{line}: prints what is shown")
		  or diag "printed:\n$out$err";
	}
}

my $readme = slurp_file("$top/README.md");
foreach my $setting (split /\n/, $server->safe_psql('ledger',
	q{SELECT format('`%s` | %s |', name, current_setting(name)) FROM pg_settings
	  WHERE name LIKE 'dtx.%' AND name NOT IN ('dtx.branch', 'dtx.loopback') ORDER BY name}))
{
	ok(index($readme, "| $setting") >= 0, "README has $setting");
}
foreach my $name (split /\n/, $server->safe_psql('ledger',
	q{SELECT 'dtx.' || relname FROM pg_class WHERE relnamespace = 'dtx'::regnamespace AND relkind = 'v'
	  UNION SELECT 'dtx.' || proname || '(' FROM pg_proc WHERE pronamespace = 'dtx'::regnamespace AND prorettype <> 'trigger'::regtype
	    AND proname NOT IN ('life_text', 'gid_text', 'node_states', 'counters', 'database_state',
      'apply', 'apply_try', 'apply_end', 'open_tries', 'may_see_all', 'diagram_text')}))
{
	ok(index($readme, $name) >= 0, "README has $name");
}
my %point = map { $_ => 1 } map { slurp_file($_) =~ /DTX_FAULT\("(\w+)"\)/g } glob "$top/src/*.c";
my $architecture = slurp_file("$top/docs/architecture.md");
is(join(' ', grep { $architecture !~ /`$_`/ } sort keys %point), '', 'architecture.md has every fault point');

done_testing;
