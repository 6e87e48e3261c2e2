-- What is refused, and that nothing is lost by it.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
CREATE FOREIGN DATA WRAPPER regress_other_wrapper;
CREATE SERVER other_wrapper FOREIGN DATA WRAPPER regress_other_wrapper;
GRANT USAGE ON FOREIGN SERVER other_wrapper TO regress_dtx_app;
CREATE SERVER "No Mapping" FOREIGN DATA WRAPPER dblink_fdw;
GRANT USAGE ON FOREIGN SERVER "No Mapping" TO regress_dtx_app;
CREATE SERVER no_usage FOREIGN DATA WRAPPER dblink_fdw;
CREATE USER MAPPING FOR regress_dtx_app SERVER no_usage OPTIONS (user 'regress_dtx_app', password 'planted');
-- servers like bank_a, but for something
DO $$
DECLARE
    r record;
BEGIN
    FOR r IN VALUES ('wrong_password', current_setting('port'), 'dtx_regression_a', 'planted', ''),
                    ('no_password', current_setting('port'), 'dtx_regression_a', NULL, ''),
                    ('no_database', current_setting('port'), 'dtx_regression_none', 'regress-app', ''),
                    ('no_server', '1', 'dtx_regression_a', 'planted', ''),
                    ('no_host', NULL, 'dtx_regression_a', 'planted', ''),
                    ('itself', current_setting('port'), 'dtx_regression_c', 'regress-app', ''),
                    ('itself_allowed', current_setting('port'), 'dtx_regression_c', 'regress-app', '-c dtx.loopback=on')
    LOOP
        EXECUTE format('CREATE SERVER %I FOREIGN DATA WRAPPER dblink_fdw OPTIONS (dbname %L)', r.column1, r.column3);
        IF r.column2 IS NULL THEN
            EXECUTE format('ALTER SERVER %I OPTIONS (ADD host %L)', r.column1, repeat('x', 300));
        ELSE
            EXECUTE format('ALTER SERVER %I OPTIONS (ADD host ''127.0.0.1'', ADD port %L)', r.column1, r.column2);
        END IF;
        IF r.column5 <> '' THEN
            EXECUTE format('ALTER SERVER %I OPTIONS (ADD options %L)', r.column1, r.column5);
        END IF;
        EXECUTE format('CREATE USER MAPPING FOR regress_dtx_app SERVER %I OPTIONS (user ''regress_dtx_app'')', r.column1);
        IF r.column4 IS NOT NULL THEN
            EXECUTE format('ALTER USER MAPPING FOR regress_dtx_app SERVER %I OPTIONS (ADD password %L)', r.column1, r.column4);
        END IF;
        EXECUTE format('GRANT USAGE ON FOREIGN SERVER %I TO regress_dtx_app', r.column1);
    END LOOP;
END $$;
SET SESSION AUTHORIZATION regress_dtx_app;

--
-- The node
--
SELECT dtx.exec('nowhere', 'SELECT 1');
SELECT dtx.exec('other_wrapper', 'SELECT 1');
SELECT dtx.exec('No Mapping', 'SELECT 1');
SELECT dtx.exec('no_usage', 'SELECT 1');
SELECT dtx.exec('wrong_password', 'SELECT 1');
-- (PostgreSQL's detail differs between versions)
\set VERBOSITY terse
SELECT dtx.exec('no_password', 'SELECT 1');
\set VERBOSITY default
SELECT dtx.exec('no_database', 'SELECT 1');
SELECT dtx.exec('no_server', 'SELECT 1');
SELECT dtx.exec('no_host', 'SELECT 1');
SELECT dtx.exec('', 'SELECT 1');
SELECT * FROM dtx.query('nowhere', 'SELECT 1') AS t(a int);
SELECT * FROM dtx.query('no_usage', 'SELECT 1') AS t(a int);
-- refused in one block, the rest is committed
BEGIN;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 999 WHERE id = 1');
SAVEPOINT s;
SELECT dtx.exec('wrong_password', 'SELECT 1');
ROLLBACK TO s;
SELECT dtx.exec('nowhere', 'SELECT 1');
ROLLBACK TO s;
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = 1001 WHERE id = 1');
COMMIT;
SELECT * FROM dtx.query('bank_a', 'SELECT balance FROM account WHERE id = 1') AS t(a int);
SELECT * FROM dtx.query('bank_b', 'SELECT balance FROM account WHERE id = 1') AS t(b int);

-- this database itself, unless the server's options allow it
SELECT dtx.exec('itself', 'INSERT INTO ledger (note) VALUES (''itself'')');
BEGIN;
INSERT INTO ledger (note) VALUES ('here');
SELECT dtx.exec('itself_allowed', 'INSERT INTO ledger (note) VALUES (''loopback'')');
SELECT note FROM ledger;
COMMIT;
SELECT note FROM ledger ORDER BY note;
BEGIN;
INSERT INTO ledger (note) VALUES ('here');
SELECT dtx.exec('itself_allowed', 'INSERT INTO ledger (note) VALUES (''loopback'')');
ROLLBACK;
SELECT note FROM ledger ORDER BY note;
DELETE FROM ledger;

--
-- The SQL: each as the first statement of a string, and as a later one
--
CREATE FUNCTION refused(sql text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM dtx.exec('bank_a', sql);
    RETURN 'NOT REFUSED';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
SELECT dtx.exec('bank_a', 'CREATE TABLE note (t text)');
\pset format unaligned
\pset tuples_only on
SELECT refused('');
SELECT refused('  ; ;; -- nothing');
SELECT refused('/* nothing */');
BEGIN;
SELECT dtx.exec('bank_a', 'INSERT INTO note VALUES (''before'')');
SELECT s, refused(s), refused('INSERT INTO note VALUES (''first''); ' || s || '; INSERT INTO note VALUES (''last'')') = refused(s) AS as_second
  FROM unnest(ARRAY[
    'COMMIT', 'END', 'commit and chain', 'ROLLBACK', 'ABORT', '/**/ ROLLBACK WORK AND CHAIN',
    'BEGIN', 'START TRANSACTION', 'PREPARE TRANSACTION ''x''', 'COMMIT PREPARED ''x''',
    'ROLLBACK PREPARED ''x''', 'SAVEPOINT s', 'ROLLBACK TO s2', 'RELEASE s2',
    'SET ROLE regress_dtx_other', 'RESET ROLE', 'SET SESSION AUTHORIZATION regress_dtx_other',
    'RESET SESSION AUTHORIZATION', 'SET LOCAL SESSION AUTHORIZATION regress_dtx_other',
    'SET work_mem = ''1MB''', 'SET SESSION work_mem = ''1MB''', 'SET TIME ZONE 0',
    'SET search_path = pg_catalog', 'RESET work_mem', 'RESET ALL',
    'SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY', 'SET NAMES ''LATIN1''',
    'SET LOCAL dtx.branch = ''x''', 'SET LOCAL dtx.loopback = on',
    'SET LOCAL "DTX.Branch" = ''x''', 'SET LOCAL "Session_Authorization" = ''x''', 'DISCARD ALL', 'DISCARD TEMP',
    'LISTEN x', 'UNLISTEN *', 'LOAD ''plpgsql''', 'PREPARE p AS SELECT 1', 'EXECUTE p',
    'DEALLOCATE ALL', 'COPY note FROM STDIN', 'COPY note TO STDOUT', 'COPY (SELECT 1) TO STDOUT',
    'VACUUM note', 'CREATE DATABASE regression_refused'
  ]) WITH ORDINALITY v(s, n) ORDER BY n;
-- nothing of these has left anything, nor undone anything
SELECT string_agg(t, ' ') FROM dtx.query('bank_a', 'TABLE note') AS t(t text);
SELECT dtx.exec('bank_a', 'INSERT INTO note VALUES (''after'')');
COMMIT;
SELECT string_agg(t, ' ') FROM dtx.query('bank_a', 'TABLE note') AS t(t text);
-- nobody catches it: everything is rolled back
BEGIN;
SELECT dtx.exec('bank_a', 'INSERT INTO note VALUES (''before'')');
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = 0');
SELECT dtx.exec('bank_a', 'COMMIT; INSERT INTO note VALUES (''never'')');
SELECT dtx.exec('bank_a', 'INSERT INTO note VALUES (''never'')');
COMMIT;
SELECT string_agg(t, ' ') FROM dtx.query('bank_a', 'TABLE note') AS t(t text);
SELECT * FROM dtx.query('bank_b', 'SELECT sum(balance) FROM account') AS t(sum bigint);
-- with hints
SELECT dtx.exec('bank_a', 'SET work_mem = ''1MB''');
SELECT dtx.exec('bank_a', 'SET ROLE regress_dtx_other');
SELECT dtx.exec('bank_a', 'SET SESSION AUTHORIZATION regress_dtx_other');
SELECT dtx.exec('bank_a', 'PREPARE p AS SELECT 1');
SELECT dtx.exec('bank_a', 'COPY note FROM STDIN');
SELECT dtx.exec('bank_a', 'SET LOCAL dtx.branch = ''x''');
-- by dtx.query as well
SELECT * FROM dtx.query('bank_a', 'COMMIT; SELECT 1') AS t(a int);
SELECT * FROM dtx.query('bank_a', 'SELECT 1; ROLLBACK; SELECT 2') AS t(a int);
-- what looks like it, but is not
SELECT dtx.exec('bank_a', 'SELECT ''COMMIT; ROLLBACK''; SELECT $x$; COMMIT; $x$; -- COMMIT;
    /* ; ROLLBACK; */ SELECT 1 AS "; COMMIT; "');
SELECT dtx.exec('bank_a', 'SELECT E''\'''', ''\''; SELECT 2');
SELECT dtx.exec('bank_a', 'SET LOCAL work_mem = ''2MB''; SET TRANSACTION READ ONLY; SET CONSTRAINTS ALL IMMEDIATE');

--
-- From inside of the node: there it is PostgreSQL that refuses
--
SELECT dtx.exec('bank_a', $x$
    CREATE PROCEDURE commits() LANGUAGE plpgsql AS 'BEGIN INSERT INTO note VALUES (''procedure''); COMMIT; END';
    CREATE PROCEDURE rolls_back() LANGUAGE plpgsql AS 'BEGIN ROLLBACK; END';
    CREATE FUNCTION runs(sql text) RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE sql; END' $x$);
BEGIN;
SELECT dtx.exec('bank_a', 'INSERT INTO note VALUES (''before 2'')');
SELECT refused('CALL commits()');
SELECT refused('CALL rolls_back()');
SELECT refused('DO $$ BEGIN COMMIT; END $$');
SELECT refused('DO $$ BEGIN ROLLBACK; END $$');
SELECT refused('DO $$ BEGIN EXECUTE ''COMMIT''; END $$');
SELECT refused('SELECT runs(''COMMIT'')');
SELECT refused('SELECT runs(''ROLLBACK'')');
SELECT refused('SELECT runs(''PREPARE TRANSACTION ''''x'''''')');
SELECT refused('SELECT runs(''SAVEPOINT x'')');
SELECT refused('SELECT runs(''COPY note TO STDOUT'')');
SELECT refused('SELECT runs(''SET SESSION AUTHORIZATION regress_dtx_other'')');
SELECT refused('SELECT set_config(''role'', ''regress_dtx_other'', false)');
COMMIT;
SELECT string_agg(t, ', ' ORDER BY t) FROM dtx.query('bank_a', 'TABLE note') AS t(t text);

-- the marker of the branch is taken away: it does not commit, in one phase or two
BEGIN;
SELECT dtx.exec('bank_a', 'INSERT INTO note VALUES (''tampered 1'')');
SELECT dtx.exec('bank_a', 'SELECT set_config(''dtx.branch'', ''x'', true)');
COMMIT;
BEGIN;
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = 0');
SELECT dtx.exec('bank_a', 'INSERT INTO note VALUES (''tampered 2''); SELECT set_config(''dtx.branch'', NULL, false)');
COMMIT;
BEGIN;
SELECT dtx.exec('bank_a', 'INSERT INTO note VALUES (''fine''); SELECT set_config(''dtx.branch'', current_setting(''dtx.branch''), true)');
COMMIT;
SELECT string_agg(t, ', ' ORDER BY t) FROM dtx.query('bank_a', 'TABLE note') AS t(t text);
SELECT * FROM dtx.query('bank_b', 'SELECT sum(balance) FROM account') AS t(sum bigint);

--
-- A role taken in the branch by set_config: the branch ends as its own role
--
\connect :bank_a
GRANT regress_dtx_other TO regress_dtx_app;
\connect :coordinator
SET SESSION AUTHORIZATION regress_dtx_app;
BEGIN;
SELECT dtx.exec('bank_a', 'GRANT INSERT ON note TO regress_dtx_other');
SELECT dtx.exec('bank_a', 'SELECT set_config(''role'', ''regress_dtx_other'', false)');
SELECT * FROM dtx.query('bank_a', 'SELECT current_user') AS t(u text);
SELECT dtx.exec('bank_a', 'INSERT INTO note VALUES (''as other'')');
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = 1 WHERE id = 3');
COMMIT;
SELECT * FROM dtx.query('bank_a', 'SELECT current_user') AS t(u text);
BEGIN;
SELECT dtx.exec('bank_a', 'SELECT set_config(''role'', ''regress_dtx_other'', true)');
SELECT dtx.exec('bank_a', 'INSERT INTO note VALUES (''as other too'')');
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = 2 WHERE id = 3');
COMMIT;
SELECT * FROM dtx.query('bank_a', 'SELECT current_user') AS t(u text);
BEGIN;
SELECT dtx.exec('bank_a', 'SELECT set_config(''role'', ''regress_dtx_other'', false)');
ROLLBACK;
SELECT * FROM dtx.query('bank_a', 'SELECT current_user') AS t(u text);
SELECT string_agg(t, ', ' ORDER BY t) FROM dtx.query('bank_a', 'TABLE note') AS t(t text);

--
-- The session
--
-- PREPARE TRANSACTION without dtx is as ever; with it, see subtree
BEGIN;
INSERT INTO ledger (note) VALUES ('prepared');
PREPARE TRANSACTION 'regress outer';
COMMIT PREPARED 'regress outer';
SELECT note FROM ledger;
SELECT string_agg(t, ', ' ORDER BY t) FROM dtx.query('bank_a', 'TABLE note') AS t(t text);

-- a parallel worker
CREATE FUNCTION hidden(what text) RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS $$
BEGIN
    RETURN CASE what WHEN 'exec' THEN dtx.exec('bank_a', 'SELECT 1')::text
                     WHEN 'query' THEN (SELECT a FROM dtx.query('bank_a', 'SELECT 1') AS t(a text))
                     ELSE dtx.current_gid() END;
END $$;
SELECT set_config(CASE WHEN current_setting('server_version_num')::int < 160000
    THEN 'force_parallel_mode' ELSE 'debug_parallel_query' END, 'regress', false);
\set VERBOSITY terse
SELECT hidden('exec');
SELECT hidden('query');
SELECT hidden('gid');
\set VERBOSITY default
SELECT dtx.exec('bank_a', 'SELECT 1');
SELECT set_config(CASE WHEN current_setting('server_version_num')::int < 160000
    THEN 'force_parallel_mode' ELSE 'debug_parallel_query' END, 'off', false);
\i :end
