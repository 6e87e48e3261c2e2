-- Errors of a node, lost connections, cancelled waits.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
SET SESSION AUTHORIZATION regress_dtx_app;
CREATE FUNCTION diagnose(sql text, node name DEFAULT 'bank_a',
    OUT state text, OUT message text, OUT detail text, OUT hint text, OUT context text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM dtx.exec(node, sql);
EXCEPTION WHEN OTHERS OR query_canceled THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
    -- of the context only what comes from there
    context := split_part(context, E'\nSQL statement "SELECT dtx.exec', 1);
END $$;
\x on
\pset format unaligned

--
-- All fields of the error arrive, with the node's name
--
SELECT dtx.exec('bank_a', $x$CREATE FUNCTION fails(state text, message text, detail text, hint text) RETURNS void
    LANGUAGE plpgsql AS 'BEGIN
        RAISE EXCEPTION USING ERRCODE = state, MESSAGE = message, DETAIL = detail, HINT = hint;
    END' $x$);
SELECT * FROM diagnose('SELECT fails(''XY123'', ''the message'', ''the detail'', ''the hint'')');
SELECT * FROM diagnose('SELECT fails(''23505'', ''100 % sure %s %n "quoted" \ '', ''two
lines'', ''ü中'')');
SELECT * FROM diagnose('UPDATE account SET balance = -1 WHERE id = 1');
SELECT * FROM diagnose('INSERT INTO account VALUES (1)', 'bank_b');
SELECT * FROM diagnose('SELECT * FROM nothing');
SELECT * FROM diagnose('SELECT 1 +');
SELECT * FROM diagnose('SELECT fails(''P0001'', ''first'', '''', ''''); SELECT fails(''P0001'', ''second'', '''', '''')');
SELECT * FROM diagnose('SELECT pg_read_file(''/etc/passwd'')');
SELECT * FROM diagnose('SELECT 1', 'nowhere');
-- as a client sees it
SELECT dtx.exec('bank_a', 'SELECT fails(''XY123'', ''the message'', ''the detail'', ''the hint'')');
SELECT * FROM dtx.query('bank_a', 'SELECT fails(''XY123'', ''the message'', ''the detail'', ''the hint'')') AS t(x text);
-- a password that does not fit is in no message
\x off
RESET SESSION AUTHORIZATION;
ALTER USER MAPPING FOR regress_dtx_app SERVER bank_b OPTIONS (SET password 'planted-password');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT d.*, d::text LIKE '%planted%' OR d::text LIKE '%127.0.0.1%' AS told FROM diagnose('SELECT 1', 'bank_b') d;
\x on
RESET SESSION AUTHORIZATION;
ALTER USER MAPPING FOR regress_dtx_app SERVER bank_b OPTIONS (SET password 'regress-app');
SET SESSION AUTHORIZATION regress_dtx_app;

--
-- A connection that was lost between two transactions is replaced
--
\x off
\pset format aligned
CREATE FUNCTION pid(node name) RETURNS int LANGUAGE sql AS
$$ SELECT p FROM dtx.query(node, 'SELECT pg_backend_pid()') AS t(p int) $$;
RESET SESSION AUTHORIZATION;
CREATE FUNCTION kill(pid int) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM pg_terminate_backend(pid);
    FOR i IN 1..1000 LOOP
        PERFORM pg_stat_clear_snapshot();
        IF NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = kill.pid) THEN
            RETURN 'killed';
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN 'still there';
END $$;
-- until no transaction is open in a database
CREATE FUNCTION gone(name text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    FOR i IN 1..1000 LOOP
        PERFORM pg_stat_clear_snapshot();
        EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = name AND backend_xid IS NOT NULL);
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT pid('bank_a') AS pid \gset
SELECT kill(:pid);
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 1001 WHERE id = 1');
SELECT pid('bank_a') <> :pid AS other_connection;
-- twice, with two nodes, the first statement inside a block
SELECT pid('bank_a') AS a, pid('bank_b') AS b \gset
SELECT kill(:a), kill(:b);
BEGIN;
SAVEPOINT s;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 1002 WHERE id = 1');
RELEASE s;
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = 1002 WHERE id = 1');
COMMIT;
SELECT * FROM dtx.query('bank_a', 'SELECT balance FROM account WHERE id = 1') AS t(a int),
              dtx.query('bank_b', 'SELECT balance FROM account WHERE id = 1') AS u(b int);

--
-- One that is lost in the middle: the transaction can only be rolled back
--
BEGIN;
INSERT INTO ledger (note) VALUES ('lost');
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0 WHERE id = 1');
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = 0 WHERE id = 1');
SELECT pid('bank_a') AS pid \gset
SELECT kill(:pid);
SAVEPOINT s;
SELECT state, message FROM diagnose('SELECT 1');
SELECT dtx.exec('bank_a', 'SELECT 1');
ROLLBACK TO s;
SELECT dtx.exec('bank_a', 'SELECT 1');
ROLLBACK TO s;
-- the other node is as it was
SELECT state, message FROM diagnose('UPDATE account SET balance = 1 WHERE id = 1', 'bank_b');
COMMIT;
SELECT * FROM dtx.query('bank_a', 'SELECT balance FROM account WHERE id = 1') AS t(a int),
              dtx.query('bank_b', 'SELECT balance FROM account WHERE id = 1') AS u(b int);
SELECT count(*) FROM ledger;
-- nobody has noticed it before COMMIT
BEGIN;
INSERT INTO ledger (note) VALUES ('lost');
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0 WHERE id = 1');
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = 0 WHERE id = 1');
SELECT pid('bank_a') AS pid \gset
SELECT kill(:pid);
\set VERBOSITY sqlstate
COMMIT;
\set VERBOSITY default
-- the same for a node that was only read, and for a single writer
BEGIN;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0 WHERE id = 1');
SELECT pid('bank_a') AS pid \gset
SELECT kill(:pid);
\set VERBOSITY sqlstate
COMMIT;
\set VERBOSITY default
SELECT * FROM dtx.query('bank_a', 'SELECT balance FROM account WHERE id = 1') AS t(a int),
              dtx.query('bank_b', 'SELECT balance FROM account WHERE id = 1') AS u(b int);
SELECT count(*) FROM ledger;
-- killed while it works
BEGIN;
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = 0 WHERE id = 1');
SELECT dtx.exec('bank_a', 'SELECT pg_terminate_backend(pg_backend_pid())');
COMMIT;
SELECT dtx.exec('bank_a', 'SELECT pg_terminate_backend(pg_backend_pid())');
SELECT dtx.exec('bank_a', 'SELECT 1');
-- left idle for too long
BEGIN;
SET LOCAL dtx.branch_idle_timeout = '10ms';
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0 WHERE id = 1');
DO $$ BEGIN PERFORM gone('dtx_regression_a'); END $$;
SELECT dtx.exec('bank_a', 'SELECT 1');
COMMIT;

--
-- Cancelled waits
--
SET statement_timeout = '200ms';
SELECT dtx.exec('bank_a', 'SELECT pg_sleep(60)');
SELECT * FROM dtx.query('bank_a', 'SELECT pg_sleep(60)') AS t(a text);
BEGIN;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0 WHERE id = 1');
SELECT dtx.exec('bank_b', 'SELECT pg_sleep(60)');
COMMIT;
RESET statement_timeout;
-- the locks are free, the next transaction works
SET lock_timeout = '30s';
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 1002 WHERE id = 1');
-- by the node's own limit
SET lock_timeout = 0;
BEGIN;
SELECT dtx.exec('bank_a', 'SET LOCAL statement_timeout = ''50ms''');
SELECT dtx.exec('bank_a', 'SELECT pg_sleep(60)');
ROLLBACK;
-- caught, and then?  What was done there is undone as a whole
BEGIN;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0 WHERE id = 1');
SAVEPOINT s;
SET LOCAL statement_timeout = '200ms';
SELECT dtx.exec('bank_a', 'SELECT pg_sleep(60)');
ROLLBACK TO s;
SELECT dtx.exec('bank_a', 'SELECT 1');
ROLLBACK TO s;
COMMIT;
BEGIN;
SAVEPOINT s;
SET LOCAL statement_timeout = '200ms';
SELECT dtx.exec('bank_a', 'SELECT pg_sleep(60)');
ROLLBACK TO s;
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = 0 WHERE id = 1');
\set VERBOSITY sqlstate
COMMIT;
\set VERBOSITY default
SELECT * FROM dtx.query('bank_a', 'SELECT balance FROM account WHERE id = 1') AS t(a int),
              dtx.query('bank_b', 'SELECT balance FROM account WHERE id = 1') AS u(b int);
-- a lock that somebody else has: dtx.branch_lock_timeout, the session's, a cancel
RESET SESSION AUTHORIZATION;
SELECT dblink_connect('holder', format('host=127.0.0.1 port=%s dbname=dtx_regression_a user=regress_dtx_app password=regress-app',
    current_setting('port')));
SELECT dblink_exec('holder', 'BEGIN');
SELECT dblink_exec('holder', 'UPDATE account SET owner = owner WHERE id = 2');
SET SESSION AUTHORIZATION regress_dtx_app;
\set SHOW_CONTEXT never
-- so that a limit that does not arrive fails, and does not hang
SET statement_timeout = '30s';
SET dtx.branch_lock_timeout = '100ms';
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0 WHERE id = 2');
SET dtx.branch_lock_timeout = '1h';
SET lock_timeout = '100ms';
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0 WHERE id = 2');
RESET lock_timeout;
SET statement_timeout = '100ms';
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0 WHERE id = 2');
RESET statement_timeout;
RESET SESSION AUTHORIZATION;
SELECT dblink_exec('holder', 'ROLLBACK');
SELECT dblink_disconnect('holder');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 1000 WHERE id = 2');
-- a branch in this database that waits for its own session
RESET SESSION AUTHORIZATION;
DO $$ BEGIN
    EXECUTE format('CREATE SERVER itself FOREIGN DATA WRAPPER dblink_fdw OPTIONS (host ''127.0.0.1'', port %L,
        dbname ''dtx_regression_c'', options ''-c dtx.loopback=on'')', current_setting('port'));
    EXECUTE 'CREATE USER MAPPING FOR regress_dtx_app SERVER itself OPTIONS (user ''regress_dtx_app'', password ''regress-app'')';
    EXECUTE 'GRANT USAGE ON FOREIGN SERVER itself TO regress_dtx_app';
END $$;
SET SESSION AUTHORIZATION regress_dtx_app;
INSERT INTO ledger (note) VALUES ('mine');
SET statement_timeout = '30s';
SET dtx.branch_lock_timeout = '50ms';
BEGIN;
UPDATE ledger SET note = 'local';
SELECT dtx.exec('itself', 'UPDATE ledger SET note = ''branch''');
COMMIT;
SELECT note FROM ledger;
\i :end
