# ALTER EXTENSION dtx UPDATE from 0.1.0: with branches in doubt, with sagas
# half-way, and to the same objects as CREATE EXTENSION makes.
use strict;
use warnings;
use DtxCluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], extension_nodes => 1, conf_c => "dtx.scan_interval = 100ms
dtx.retry_interval = 100ms");
my ($top) = grep { -e "$_/sql/released" } '.', $ENV{TESTDIR} || '.', '../..';

# --- objects are the same
my $objects = q{
	WITH member AS (
		SELECT d.classid, d.objid, pg_describe_object(d.classid, d.objid, 0) AS what
		  FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
		 WHERE e.extname = 'dtx' AND d.deptype = 'e')
	SELECT what || ': ' || COALESCE(
		CASE classid
			WHEN 'pg_proc'::regclass THEN pg_get_functiondef(objid) || (SELECT proacl::text FROM pg_proc p WHERE p.oid = objid)
			WHEN 'pg_class'::regclass THEN
				(SELECT concat_ws(E'\n', c.relkind, c.relacl::text, c.reloptions::text,
					CASE WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid) END,
					(SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, pg_get_expr(f.adbin, f.adrelid)), ', ' ORDER BY a.attnum)
					   FROM pg_attribute a LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
					  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
					(SELECT string_agg(pg_get_constraintdef(k.oid), ', ' ORDER BY conname) FROM pg_constraint k WHERE k.conrelid = c.oid),
					(SELECT string_agg(pg_get_triggerdef(g.oid), ', ' ORDER BY tgname) FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT tgisinternal),
					(SELECT string_agg(pg_get_indexdef(i.indexrelid), ', ' ORDER BY indexrelid::regclass::text) FROM pg_index i WHERE i.indrelid = c.oid))
				  FROM pg_class c WHERE c.oid = objid)
		END, '') || COALESCE(obj_description(objid, classid::regclass::name), '')
	  FROM member ORDER BY what COLLATE "C"
};
$c->as_super("CREATE DATABASE $_", db => 'postgres') foreach qw(fresh updated);
$c->as_super('CREATE EXTENSION dtx CASCADE', db => 'fresh');
$c->as_super(q{CREATE EXTENSION dtx VERSION '0.1.0' CASCADE}, db => 'updated');
my $members = q{SELECT pg_describe_object(classid, objid, 0) FROM pg_depend d JOIN pg_extension e ON e.oid = refobjid
	WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND extname = 'dtx'};
my @before = split /\n/, $c->as_super($members, db => 'updated');
like(($c->super_psql(q{SELECT dtx.current_gid()}, db => 'updated'))[2], qr/different versions.*ALTER EXTENSION dtx UPDATE/s,
	'the library says what is to be done');
$c->as_super('ALTER EXTENSION dtx UPDATE', db => 'updated');
is($c->as_super($objects, db => 'updated'), $c->as_super($objects, db => 'fresh'), 'the same objects as anew');
is($c->as_super('SELECT dtx.current_gid() IS NOT NULL', db => 'updated'), 't', 'which work');

# --- branches in doubt: one decided and one that is not
my $session = $c->app_session;

# What 0.1.0 left: take away from this database what it did not have.
sub downgrade
{
	my $keep = join ', ', map { "'$_'" } map { s/'/''/gr } @before;
	my $old = slurp_file("$top/sql/released/dtx--0.1.0.sql");
	my $views = join '', map { $old =~ /(CREATE VIEW dtx\.$_ .*?;\nCOMMENT ON VIEW dtx\.$_ .*?;\n)/s ? $1 : die "no view $_" }
	  qw(transactions branches stuck);
	$c->as_super("SET dtx.allow_drop_in_doubt = on;
		DROP TRIGGER error_rules_changed ON dtx.error_rule;
		DO \$\$
		DECLARE r record;
		BEGIN
			FOR r IN SELECT i.type, i.identity FROM pg_depend d JOIN pg_extension e ON e.oid = refobjid,
					pg_identify_object(d.classid, d.objid, 0) i
				WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND extname = 'dtx'
				  AND (pg_describe_object(classid, objid, 0) NOT IN ($keep)
				       OR i.identity IN ('dtx.stuck', 'dtx.branches', 'dtx.transactions'))
				  AND i.type IN ('view', 'function', 'procedure', 'sequence', 'table')
				ORDER BY CASE i.identity WHEN 'dtx.stuck' THEN 0 WHEN 'dtx.branches' THEN 1 ELSE 2 END,
					CASE i.type WHEN 'view' THEN 0 WHEN 'function' THEN 1 WHEN 'sequence' THEN 2 ELSE 3 END, i.identity = 'dtx.may_see_all()', i.identity
			LOOP
				EXECUTE format('ALTER EXTENSION dtx DROP %s %s', r.type, r.identity);
				-- those of identity columns go with their tables
				IF r.type <> 'sequence' THEN
					EXECUTE format('DROP %s %s', r.type, r.identity);
				END IF;
			END LOOP;
		END \$\$;
		ALTER TABLE dtx.node DROP COLUMN tries;
		DROP INDEX dtx.committed_gid_idx, dtx.event_gid_idx;
		$views
		ALTER EXTENSION dtx ADD VIEW dtx.transactions;
		ALTER EXTENSION dtx ADD VIEW dtx.branches;
		ALTER EXTENSION dtx ADD VIEW dtx.stuck;
		GRANT SELECT ON dtx.transactions, dtx.branches, dtx.stuck TO PUBLIC;
		UPDATE pg_extension SET extversion = '0.1.0' WHERE extname = 'dtx'");
	return;
}

sub scanner_pid { return $c->as_super(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dtx scanner' AND datname = 'bank'}); }

my $err;
$c->as_super(q{ALTER SYSTEM SET dtx.commit_wait = '100ms'});
$c->as_super('SELECT pg_reload_conf()');
# undecided: its session waits with everything prepared, and dies later
if ($c->has_faults)
{
	$c->fault('prepare_gathered', 'wait');
	$c->start_query($session, $c->transfer_sql('a', 'b', 5, note => 'undecided', from_id => 2, to_id => 2));
	$c->wait_fault('prepare_gathered');
}
# decided, and its node away
if ($c->has_faults)
{
	$c->fault('commit_begin', 'error');
	(undef, undef, $err) = $c->transfer('a', 'b', 7, note => 'decided');
	like($err, qr/WARNING:.*not confirmed it yet/, 'a transfer is committed, and left to the scanner');
}
# (the scanner may have been faster with that one)
$c->kill9('c');
$c->start('c');
$c->hang('a');
downgrade();
my $pid = scanner_pid();
$c->as_super("SELECT pg_terminate_backend($pid)") if $pid;
$c->wait_for('the scanner to look', sub { ($c->app_psql('SELECT dtx.current_gid()'))[2] =~ /different versions/ });
pass('nothing goes with objects of 0.1.0');
$c->resume('a');
$c->as_super('ALTER EXTENSION dtx UPDATE');
is($c->as_super(q{SELECT extversion FROM pg_extension WHERE extname = 'dtx'}), '0.2.0', 'updated');
is($c->as_super($objects), $c->as_super($objects, db => 'fresh'), 'the same objects again');
ok($c->wait_clean(60), 'branches of before are finished');
is($c->ledger_count('decided'), 1, 'what was decided is committed') if $c->has_faults;
is($c->balance('b'), 1007, 'on the node, too') if $c->has_faults;
is($c->ledger_count('undecided'), 0, 'what was not is rolled back') if $c->has_faults;
is($c->balance('b', 2), 1000, 'on the node, too') if $c->has_faults;

# --- sagas half-way, while the objects have another version than the library
my $definition = q({"steps": [
	{"name": "debit", "node": "a", "action": "UPDATE account SET balance = balance - 10 WHERE id = 3", "compensation": "UPDATE account SET balance = balance + 10 WHERE id = 3"},
	{"name": "credit", "node": "b", "action": "UPDATE account SET balance = balance + 10 WHERE id = 3"}]});
$c->stop('b', 'immediate');
$c->as_app("SELECT dtx.saga_submit('$definition', 'half-way')");
$c->wait_for('the first step', sub {
	$c->as_super(q{SELECT count(*) FROM dtx.steps WHERE gid = 'half-way' AND state = 'done'}) == 1 });
$c->as_super(q{UPDATE pg_extension SET extversion = '0.1.9' WHERE extname = 'dtx'});
$c->as_super(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type IN ('dtx scanner', 'dtx flow worker')});
$c->start('b');
$c->wait_for('the scanner to look', sub {
	($c->app_psql(q{SELECT dtx.saga_submit('{"steps": [{"name": "x", "node": "a"}]}')}))[2] =~ /different versions/ });
$c->wait_for('the log', sub { $c->log_text('c') =~ /SQL objects of database \d+ have version 0\.1\.9/ });
is($c->balance('b', 3), 1000, 'nothing is sent');
$c->as_super(q{UPDATE pg_extension SET extversion = '0.2.0' WHERE extname = 'dtx'});
is($c->as_app(q{SELECT dtx.wait('half-way', '60s')}), 'committed', 'then it goes on');
is($c->balance('a', 3) . ' ' . $c->balance('b', 3), '990 1010', 'each step once');

# --- a participant that has 0.1.0 only
$c->as_super(q{DROP EXTENSION dtx CASCADE; CREATE EXTENSION dtx VERSION '0.1.0' CASCADE}, node => 'b');
$c->kill9('c');
$c->start('c');
like(($c->app_psql("SELECT dtx.saga_submit('$definition', 'old participant')"))[2],
	qr/not installed in the database of node "b", or is too old there.*ALTER EXTENSION dtx UPDATE/s,
	'a participant that is too old is refused, with a hint');
$c->as_super('ALTER EXTENSION dtx UPDATE', node => 'b');
is($c->as_app("SELECT dtx.saga_submit('$definition', 'old participant')"), 'old participant', 'and accepted when updated');
is($c->as_app(q{SELECT dtx.wait('old participant', '60s')}), 'committed', 'and works');
done_testing();
