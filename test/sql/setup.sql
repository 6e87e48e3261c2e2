-- The extension, dtx.check_setup, dtx.check_node, and servers that change.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
-- what a DBA finds
SELECT extname, extversion, n.nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'dtx';
ALTER EXTENSION dtx SET SCHEMA public;
CREATE EXTENSION dtx SCHEMA public;
-- every object has a comment
SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'dtx'::regnamespace AND relkind IN ('r', 'v')
   AND obj_description(c.oid, 'pg_class') IS NULL;
SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'dtx'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;

--
-- dtx.check_setup: nothing to complain about (fsync may be off in tests)
--
CREATE FUNCTION check_setup(OUT severity text, OUT problem text, OUT hint text) RETURNS SETOF record LANGUAGE sql AS
$$ SELECT c.severity, c.problem, c.hint FROM dtx.check_setup() c WHERE c.problem NOT LIKE 'fsync%' $$;
\x on
SELECT * FROM check_setup();
-- each finding, and gone again
GRANT EXECUTE ON FUNCTION dblink_exec(text, text) TO PUBLIC;
SELECT * FROM check_setup();
REVOKE EXECUTE ON FUNCTION dblink_exec(text, text) FROM PUBLIC;
SET dtx.branch_lock_timeout = 0;
SELECT * FROM check_setup();
SET lock_timeout = '1s';
SELECT * FROM check_setup();
RESET lock_timeout;
RESET dtx.branch_lock_timeout;
SET dtx.branch_idle_timeout = 0;
SELECT * FROM check_setup();
RESET dtx.branch_idle_timeout;
SELECT * FROM check_setup();
-- an ordinary role may ask as well
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT count(*) FROM dtx.check_setup() WHERE problem NOT LIKE 'fsync%';

--
-- dtx.check_node
--
SELECT * FROM dtx.check_node('bank_a');
SELECT * FROM dtx.check_node('nowhere');
SELECT * FROM dtx.check_node(NULL);
RESET SESSION AUTHORIZATION;
DO $$
DECLARE
    n text;
BEGIN
    FOREACH n IN ARRAY ARRAY['plain', 'no_password', 'wrong_password', 'no_database', 'no_server', 'itself'] LOOP
        EXECUTE format('CREATE SERVER %I FOREIGN DATA WRAPPER dblink_fdw OPTIONS (host ''127.0.0.1'', port %L, dbname %L)',
            n, CASE n WHEN 'no_server' THEN '1' ELSE current_setting('port') END,
            CASE n WHEN 'no_database' THEN 'dtx_regression_none' WHEN 'itself' THEN 'dtx_regression_c' ELSE 'dtx_regression_a' END);
        IF n <> 'plain' THEN
            EXECUTE format('ALTER SERVER %I OPTIONS (ADD keepalives_idle ''10'', ADD tcp_user_timeout ''15000'')', n);
        END IF;
        EXECUTE format('CREATE USER MAPPING FOR regress_dtx_app SERVER %I OPTIONS (user ''regress_dtx_app'')', n);
        IF n <> 'no_password' THEN
            EXECUTE format('ALTER USER MAPPING FOR regress_dtx_app SERVER %I OPTIONS (ADD password %L)', n,
                CASE n WHEN 'wrong_password' THEN 'planted' ELSE 'regress-app' END);
        END IF;
        EXECUTE format('GRANT USAGE ON FOREIGN SERVER %I TO regress_dtx_app', n);
    END LOOP;
END $$;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT * FROM dtx.check_node('plain');
SELECT severity, problem FROM dtx.check_node('no_password') WHERE problem LIKE 'the user mapping%';
SELECT * FROM dtx.check_node('wrong_password');
SELECT * FROM dtx.check_node('no_database');
SELECT * FROM dtx.check_node('no_server');
SELECT * FROM dtx.check_node('itself');
SET SESSION AUTHORIZATION regress_dtx_other;
SELECT * FROM dtx.check_node('bank_a');
SET SESSION AUTHORIZATION regress_dtx_app;
-- nothing is left open by it
SELECT count(*) FROM dtx.check_node('bank_a'), generate_series(1, 3);
RESET SESSION AUTHORIZATION;
SELECT dblink_get_connections() IS NULL AS none_open;

-- nor does it keep a server from being dropped; nor a use that failed
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.exec('wrong_password', 'SELECT 1');
RESET SESSION AUTHORIZATION;
CALL dtx.recover() \g /dev/null
SET client_min_messages = warning;
DROP SERVER plain CASCADE;
DROP SERVER no_server CASCADE;
DROP SERVER wrong_password CASCADE;
RESET client_min_messages;

--
-- dtx.nodes: what is known without connecting
--
\x off
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT node, state FROM dtx.nodes ORDER BY node;
SELECT dtx.exec('bank_a', 'SELECT 1');
RESET SESSION AUTHORIZATION;
CALL dtx.recover() \g /dev/null
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT node, state, failure_count, last_error, pending_count, held_count, version = current_setting('server_version_num')::int AS version,
       round_trip_ms > 0 AS measured
  FROM dtx.nodes ORDER BY node;
SELECT prepared_used, prepared_max = current_setting('max_prepared_transactions')::int AS prepared_max,
       connections_used > 0 AS connections_used, connections_max = current_setting('max_connections')::int AS connections_max
  FROM dtx.nodes WHERE node = 'bank_a';

--
-- Servers and mappings that change between two transactions
--
CREATE FUNCTION where_am_i(node name) RETURNS text LANGUAGE sql AS
$$ SELECT d FROM dtx.query(node, 'SELECT current_database() || '' as '' || current_user') AS t(d text) $$;
SELECT where_am_i('bank_a');
-- another database
RESET SESSION AUTHORIZATION;
ALTER SERVER bank_a OPTIONS (SET dbname 'dtx_regression_b');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT where_am_i('bank_a');
RESET SESSION AUTHORIZATION;
ALTER SERVER bank_a OPTIONS (SET dbname 'dtx_regression_a');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT where_am_i('bank_a');
-- another user, and a password that is wrong
RESET SESSION AUTHORIZATION;
ALTER USER MAPPING FOR regress_dtx_app SERVER bank_a OPTIONS (SET user 'regress_dtx_other', SET password 'regress-other');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT where_am_i('bank_a');
RESET SESSION AUTHORIZATION;
ALTER USER MAPPING FOR regress_dtx_app SERVER bank_a OPTIONS (SET user 'regress_dtx_app', SET password 'planted');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT where_am_i('bank_a');
RESET SESSION AUTHORIZATION;
ALTER USER MAPPING FOR regress_dtx_app SERVER bank_a OPTIONS (SET password 'regress-app');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT where_am_i('bank_a');
-- by another session, while this one has the connection open
RESET SESSION AUTHORIZATION;
SET password_encryption = 'scram-sha-256';
CREATE ROLE regress_dtx_admin SUPERUSER LOGIN PASSWORD 'regress-admin';
SELECT dblink_connect('second', format('host=127.0.0.1 port=%s dbname=dtx_regression_c user=regress_dtx_admin password=regress-admin',
    current_setting('port')));
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT where_am_i('bank_a');
RESET SESSION AUTHORIZATION;
SELECT dblink_exec('second', 'ALTER SERVER bank_a OPTIONS (SET dbname ''dtx_regression_b'')');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT where_am_i('bank_a');
-- in the middle of a transaction: its branch goes on where it is, the next one moves
BEGIN;
SELECT where_am_i('bank_a');
RESET SESSION AUTHORIZATION;
SELECT dblink_exec('second', 'ALTER SERVER bank_a OPTIONS (SET dbname ''dtx_regression_a'')');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT where_am_i('bank_a');
COMMIT;
SELECT where_am_i('bank_a');
-- DROP waits for a transaction that has a branch there
BEGIN;
SELECT where_am_i('bank_a');
RESET SESSION AUTHORIZATION;
SELECT dblink_exec('second', 'SET lock_timeout = ''50ms''');
SELECT dblink_exec('second', 'DROP SERVER bank_a CASCADE', false);
SELECT dblink_exec('second', 'DROP USER MAPPING FOR regress_dtx_app SERVER bank_a', false);
COMMIT;
SELECT dblink_exec('second', 'SET lock_timeout = 0');
-- renamed, dropped, made again
CALL dtx.recover() \g /dev/null
ALTER SERVER bank_a RENAME TO bank_z;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT where_am_i('bank_a');
SELECT where_am_i('bank_z');
RESET SESSION AUTHORIZATION;
SET client_min_messages = warning;
DROP SERVER bank_z CASCADE;
RESET client_min_messages;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT where_am_i('bank_z');
RESET SESSION AUTHORIZATION;
DO $$ BEGIN
    EXECUTE format('CREATE SERVER bank_z FOREIGN DATA WRAPPER dblink_fdw OPTIONS (host ''127.0.0.1'', port %L, dbname ''dtx_regression_b'')',
        current_setting('port'));
    EXECUTE 'CREATE USER MAPPING FOR regress_dtx_app SERVER bank_z OPTIONS (user ''regress_dtx_app'', password ''regress-app'')';
    EXECUTE 'GRANT USAGE ON FOREIGN SERVER bank_z TO regress_dtx_app';
END $$;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT where_am_i('bank_z');
RESET SESSION AUTHORIZATION;
SELECT dblink_disconnect('second');
DROP ROLE regress_dtx_admin;
\i :end
