# dtx.outcome of a COMMIT whose answer was lost, asked by many at once: they all
# hear the same, and it never changes.
use strict;
use warnings;
use DtxCluster;
use DtxFault;
use Test::More;
use Time::HiRes qw(sleep);

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => 'dtx.scan_interval = 100ms');
plan skip_all => 'no fault points' unless $c->has_faults;

my %expected = (prepare_before => 'aborted', prepare_sent => 'aborted', prepare_gathered => 'aborted',
	record_written => 'aborted', commit_begin => 'committed', commit_sent => 'committed', commit_done => 'committed');
my %all;
foreach my $point (sort keys %expected)
{
	foreach my $how (qw(terminate crash wait))
	{
		my $mark = $c->log_mark('c');
		my $lost = $c->app_session;
		$c->start_query($lost, 'BEGIN; SELECT dtx.current_gid()');
		my ($out) = $c->finish_query($lost);
		my ($gid) = $out =~ /(dtx_\w+)/;
		$c->fault($point, $how);
		$c->start_query($lost, $c->transfer_sql('a', 'b', 1, note => $gid) =~ s/^BEGIN;\n//r);
		if ($how eq 'wait')
		{
			# asked while it is not over: nobody may hear that it is aborted
			$c->wait_fault($point);
			my @askers = map { $c->app_session } 1 .. 4;
			$c->start_query($_, "SELECT dtx.outcome('$gid')") foreach @askers;
			my %said = map { my ($o) = $c->finish_query($_); chomp $o; ($o => 1) } @askers;
			is(join(' ', sort keys %said), $point =~ /^commit/ ? 'committed' : 'in progress', "$point: while it is not over");
			$_->quit foreach @askers;
			$c->fault_reset;
			my (undef, $err) = $c->finish_query($lost);
			is($err =~ s/^(WARNING|DETAIL|HINT|psql).*\n?//mgr, '', "$point: it goes on");
			$lost->quit;
			is($c->as_app("SELECT dtx.outcome('$gid')"), 'committed', "$point: and has committed");
			$all{$gid} = 'committed';
			next;
		}
		eval { $c->finish_query($lost) };
		eval { $lost->quit };
		$c->wait_restarted('c', $mark) if $how eq 'crash';

		# eight at once, twice each
		my @askers = map { $c->app_session } 1 .. 8;
		my %said;
		foreach my $round (1 .. 2)
		{
			$c->start_query($_, "SELECT dtx.outcome('$gid')") foreach @askers;
			foreach my $asker (@askers)
			{
				my ($answer) = $c->finish_query($asker);
				chomp $answer;
				$said{$answer}++;
			}
		}
		$_->quit foreach @askers;
		delete $said{'in progress'};
		# who is terminated after the last moment to stop goes on to the end
		my $wanted = $how eq 'crash' ? $expected{$point} : $c->ledger_count($gid) ? 'committed' : 'aborted';
		is(join(' ', sort keys %said), %said ? $wanted : '', "$point, $how: all hear the same");
		is($c->as_app("SELECT dtx.outcome('$gid')"), $wanted, "$point, $how: which is what happened");
		is($c->ledger_count($gid), $wanted eq 'committed' ? 1 : 0, "$point, $how: here, too");
		$all{$gid} = $wanted;
	}
}
# it never changes
sub still
{
	my ($what) = @_;
	is_deeply({ map { $_ => $c->as_app("SELECT dtx.outcome('$_')") } keys %all }, \%all, $what);
	return;
}
still('they all say so still');
$c->wait_clean;
still('when everything is finished');
$c->stop('c', 'fast');
$c->start('c');
still('after a restart');
$c->check_invariants(kept => scalar(grep { $_ eq 'committed' } values %all), outcomes => \%all);
done_testing();
