-- What of the session reaches a branch, and what a branch leaves in its session: nothing.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
SET SESSION AUTHORIZATION regress_dtx_app;
\pset format unaligned
\pset tuples_only on
CREATE FUNCTION of_branch(setting text, node name DEFAULT 'bank_a') RETURNS text LANGUAGE sql AS
$$ SELECT v FROM dtx.query(node, 'SELECT current_setting($1, true)', ARRAY[setting]) AS t(v text) $$;
CREATE FUNCTION all_of_branch() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(s || ' ' || of_branch(s), ', ') FROM unnest(ARRAY['lock_timeout', 'statement_timeout',
        'idle_in_transaction_session_timeout', 'synchronous_commit', 'client_connection_check_interval']) s $$;

--
-- Limits and settings that arrive
--
SELECT all_of_branch();
SET dtx.branch_lock_timeout = '3s';
SET dtx.branch_idle_timeout = '7s';
SELECT all_of_branch();
SET lock_timeout = '1234ms';
SET statement_timeout = '56s';
SET synchronous_commit = 'off';
SELECT all_of_branch();
SET dtx.branch_lock_timeout = 0;
SET lock_timeout = 0;
SET statement_timeout = 0;
SET dtx.branch_idle_timeout = 0;
SELECT all_of_branch();
-- for one transaction; those of the next are its own
BEGIN;
SET LOCAL lock_timeout = '4s';
SET LOCAL synchronous_commit = 'local';
SELECT all_of_branch();
-- a branch keeps what it has begun with
SET LOCAL lock_timeout = '5s';
SELECT of_branch('lock_timeout'), of_branch('lock_timeout', 'bank_b');
-- unless it is told
SELECT dtx.exec('bank_a', 'SET LOCAL lock_timeout = ''6s''');
SELECT of_branch('lock_timeout'), of_branch('lock_timeout', 'bank_b');
COMMIT;
SELECT all_of_branch();
RESET ALL;
SELECT all_of_branch();

-- isolation and access mode
CREATE FUNCTION mode_of_branch() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(of_branch(s), ', ') FROM unnest(ARRAY['transaction_isolation', 'transaction_read_only',
        'transaction_deferrable']) s $$;
SELECT mode_of_branch();
BEGIN ISOLATION LEVEL READ UNCOMMITTED;
SELECT mode_of_branch();
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT mode_of_branch();
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT mode_of_branch();
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT mode_of_branch();
COMMIT;
BEGIN READ ONLY;
SELECT mode_of_branch();
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0');
COMMIT;
SET default_transaction_isolation = 'repeatable read';
SET default_transaction_read_only = on;
SELECT mode_of_branch();
RESET default_transaction_isolation;
RESET default_transaction_read_only;
-- read only from here on: a branch that is open stays as it was, a new one is read only
BEGIN;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 1000');
SET TRANSACTION READ ONLY;
SELECT of_branch('transaction_read_only'), of_branch('transaction_read_only', 'bank_b');
COMMIT;

--
-- What a branch changes for its session is gone in the next one
--
CREATE FUNCTION pid() RETURNS int LANGUAGE sql AS
$$ SELECT p FROM dtx.query('bank_a', 'SELECT pg_backend_pid()') AS t(p int) $$;
CREATE FUNCTION leftovers() RETURNS text LANGUAGE sql AS $$
    SELECT l FROM dtx.query('bank_a', $x$SELECT concat_ws(', ',
        'role ' || current_user,
        'work_mem ' || (current_setting('work_mem') = '77kB'),
        'setting ' || current_setting('regress.setting', true),
        'table ' || to_regclass('pg_temp.leftover')::text,
        'temp tables ' || (SELECT count(*) FROM pg_class WHERE relname = 'leftover'),
        'statements ' || (SELECT count(*) FROM pg_prepared_statements WHERE name NOT LIKE 'dtx%'),
        'cursors ' || (SELECT count(*) FROM pg_cursors WHERE name <> ''),
        'channels ' || (SELECT count(*) FROM pg_listening_channels()),
        'locks ' || (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()))$x$)
        AS t(l text) $$;
\connect :bank_a
CREATE SEQUENCE number;
GRANT USAGE ON SEQUENCE number TO regress_dtx_app;
GRANT regress_dtx_other TO regress_dtx_app;
CREATE FUNCTION litter() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('work_mem', '77kB', false);
    PERFORM set_config('regress.setting', 'left', false);
    PERFORM set_config('role', 'regress_dtx_other', false);
    PERFORM nextval('number');
    EXECUTE 'CREATE TEMP TABLE leftover (a int) ON COMMIT PRESERVE ROWS';
    EXECUTE 'PREPARE leftover AS SELECT 1';
    EXECUTE 'DECLARE leftover CURSOR WITH HOLD FOR SELECT 1';
    EXECUTE 'LISTEN leftover';
    PERFORM pg_advisory_lock(4711), pg_advisory_lock_shared(4712), pg_advisory_lock(4711);
END $$;
GRANT USAGE ON SEQUENCE number TO regress_dtx_other;
GRANT CREATE, TEMP ON DATABASE dtx_regression_a TO regress_dtx_other;
-- what a branch can leave behind and still be prepared
CREATE FUNCTION litter_prepared() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('work_mem', '77kB', false);
    PERFORM set_config('regress.setting', 'left', false);
    PERFORM set_config('role', 'regress_dtx_other', false);
    PERFORM nextval('number');
    EXECUTE 'PREPARE leftover AS SELECT 1';
    PERFORM pg_advisory_lock(4711), pg_advisory_lock(4711);
END $$;
\connect :coordinator
SET SESSION AUTHORIZATION regress_dtx_app;
CREATE TABLE kept_pid AS SELECT pid();
-- committed in one phase
BEGIN;
SELECT leftovers();
SELECT dtx.exec('bank_a', 'SELECT litter()');
SELECT leftovers();
COMMIT;
SELECT leftovers();
SELECT pid() = pid AS same_connection FROM kept_pid;
SELECT dtx.exec('bank_a', 'SELECT currval(''number'')');
-- rolled back
BEGIN;
SELECT dtx.exec('bank_a', 'SELECT litter()');
ROLLBACK;
SELECT leftovers();
SELECT pid() = pid AS same_connection FROM kept_pid;
-- committed in two
BEGIN;
INSERT INTO ledger (note) VALUES ('two phases');
SELECT dtx.exec('bank_a', 'SELECT litter_prepared()');
SELECT leftovers();
COMMIT;
SELECT leftovers();
SELECT pid() = pid AS same_connection FROM kept_pid;
-- a temporary table or LISTEN of one transaction does not stop the next from being prepared
BEGIN;
SELECT dtx.exec('bank_a', 'SELECT litter()');
COMMIT;
BEGIN;
INSERT INTO ledger (note) VALUES ('two phases');
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 1000');
COMMIT;
SELECT leftovers();
-- an advisory lock of the session does not outlive its transaction: others get
-- it, even when this session does nothing more
BEGIN;
INSERT INTO ledger (note) VALUES ('two phases');
SELECT dtx.exec('bank_a', 'SELECT pg_advisory_lock(4713)');
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 1000');
COMMIT;
BEGIN;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 1000; SELECT pg_advisory_lock(4714)');
COMMIT;
BEGIN;
SELECT dtx.exec('bank_a', 'SELECT pg_advisory_lock(4715)');
COMMIT;
BEGIN;
SELECT dtx.exec('bank_a', 'SELECT pg_advisory_lock(4716)');
ROLLBACK;
SELECT pid() = pid AS same_connection FROM kept_pid;
BEGIN;
SELECT dtx.exec('bank_a', 'SELECT pg_advisory_lock(4717)');
ROLLBACK;
RESET SESSION AUTHORIZATION;
DO $$
BEGIN
    -- a rollback is not waited for
    FOR i IN 1..500 LOOP
        EXIT WHEN NOT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
            WHERE locktype = 'advisory' AND datname = 'dtx_regression_a');
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
SELECT count(*) AS advisory_locks FROM pg_locks l JOIN pg_database d ON d.oid = l.database
 WHERE locktype = 'advisory' AND datname = 'dtx_regression_a';
SET SESSION AUTHORIZATION regress_dtx_app;

--
-- How many connections a session keeps
--
RESET SESSION AUTHORIZATION;
GRANT EXECUTE ON FUNCTION dblink_get_connections() TO regress_dtx_app;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT coalesce(cardinality(dblink_get_connections()), 0);
SELECT of_branch('lock_timeout'), of_branch('lock_timeout', 'bank_b');
SELECT cardinality(dblink_get_connections());
SET dtx.max_connections = 1;
SELECT of_branch('lock_timeout'), of_branch('lock_timeout', 'bank_b');
SELECT cardinality(dblink_get_connections());
SET dtx.max_connections = 0;
BEGIN;
SELECT of_branch('lock_timeout'), of_branch('lock_timeout', 'bank_b');
SELECT cardinality(dblink_get_connections());
COMMIT;
SELECT coalesce(cardinality(dblink_get_connections()), 0);
RESET SESSION AUTHORIZATION;
-- refused settings
SET dtx.max_connections = -1;
-- (17 and later name the unit once more)
\set VERBOSITY sqlstate
SET dtx.connect_timeout = 0;
\set VERBOSITY default
SET dtx.no_such_setting = 1;
SET SESSION AUTHORIZATION regress_dtx_app;
SET dtx.scan_interval = 1;
SET dtx.retention = '1d';
SET dtx.stuck_after = 1;
SET dtx.synchronous_failover = on;
SET dtx.max_nodes = 1;
\i :end
