-- TCC: bound to a local transaction, and over several of them.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
GRANT EXECUTE ON PROCEDURE dtx.scan_once(interval, bigint) TO regress_dtx_app;
GRANT EXECUTE ON PROCEDURE dtx.recover(bigint, bigint, bigint) TO regress_dtx_app;
\connect :bank_a
SET client_min_messages = warning;
CREATE EXTENSION dtx CASCADE;
SET SESSION AUTHORIZATION regress_dtx_app;
ALTER TABLE account ADD frozen bigint NOT NULL DEFAULT 0;
\connect :bank_b
SET client_min_messages = warning;
CREATE EXTENSION dtx CASCADE;
SET SESSION AUTHORIZATION regress_dtx_app;
ALTER TABLE account ADD frozen bigint NOT NULL DEFAULT 0;
\connect :coordinator
CREATE TABLE lineage AS SELECT lineage FROM dtx.lineage;
GRANT SELECT ON lineage TO regress_dtx_app;
CREATE FUNCTION alerts() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS $$
    SELECT concat_ws('|', state, reason, call = (SELECT call FROM dtx.stuck s WHERE s.gid = a.gid), ended_at IS NOT NULL)
      FROM dtx.alert a ORDER BY number $$;
SET SESSION AUTHORIZATION regress_dtx_app;
\pset format unaligned
\pset tuples_only on
\pset null (null)
-- money is reserved, then taken or given back
CREATE FUNCTION reserve(node name, id int, amount int, gid text DEFAULT NULL) RETURNS jsonb LANGUAGE sql AS $$
    SELECT dtx.tcc_try(node,
        'UPDATE account SET balance = balance - $1, frozen = frozen + $1 WHERE id = $2 RETURNING balance, frozen',
        'UPDATE account SET frozen = frozen - $1 WHERE id = $2',
        'UPDATE account SET balance = balance + $1, frozen = frozen - $1 WHERE id = $2',
        jsonb_build_array(amount, id), gid) $$;
CREATE FUNCTION balances(OUT bank_a text, OUT bank_b text, OUT here bigint) LANGUAGE sql AS $$
    SELECT (SELECT t FROM dtx.query('bank_a', 'SELECT string_agg(balance || ''+'' || frozen, '' '' ORDER BY id) FROM account') AS t(t text)),
           (SELECT t FROM dtx.query('bank_b', 'SELECT string_agg(balance || ''+'' || frozen, '' '' ORDER BY id) FROM account') AS t(t text)),
           (SELECT count(*) FROM ledger) $$;
-- what the banks have of it
CREATE FUNCTION barrier(node name) RETURNS text LANGUAGE sql AS $$
    SELECT t FROM lineage, dtx.query(node, 'SELECT count(*) || '' open'' FROM dtx.open_tries(' || lineage || ')') AS t(t text) $$;
CREATE FUNCTION wait_flow(gid text) RETURNS text LANGUAGE sql AS $$ SELECT dtx.wait(gid, '20s') $$;
CREATE FUNCTION fails(sql text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE sql;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ' ' || sqlerrm;
END $$;
-- waits until so many tries are open: what the background cancels
CREATE FUNCTION settled(a int DEFAULT 0, b int DEFAULT 0) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 1000 LOOP
        IF barrier('bank_a') = a || ' open' AND barrier('bank_b') = b || ' open' THEN
            RETURN 'settled';
        END IF;
        PERFORM pg_sleep(0.02);
    END LOOP;
    RETURN barrier('bank_a') || ' ' || barrier('bank_b');
END $$;

--
-- bound: COMMIT confirms
--
BEGIN;
SELECT reserve('bank_a', 1, 100);
SELECT reserve('bank_b', 1, 50);
-- others see at once what is reserved
SELECT balances();
-- a session that leaves
\c -
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT settled();
SELECT balances();
BEGIN;
SELECT reserve('bank_a', 1, 100);
SELECT reserve('bank_b', 1, 50);
INSERT INTO ledger (note) VALUES ('one');
SELECT dtx.current_gid() AS gid \gset
COMMIT;
SELECT balances();
SELECT wait_flow(:'gid');
SELECT pattern, state, branch_count FROM dtx.transactions WHERE gid = :'gid' AND pattern = 'tcc';
SELECT step, node, operation, state, role FROM dtx.steps WHERE gid = :'gid' ORDER BY step, operation DESC;
-- saying it again has no effect: decided by the COMMIT, under its gid
SELECT dtx.tcc_confirm(:'gid');
SELECT replace(fails(format('SELECT dtx.tcc_cancel(%L)', :'gid')), :'gid', 'gid');
SELECT dtx.outcome(:'gid');

--
-- ROLLBACK cancels
--
BEGIN;
SELECT reserve('bank_a', 2, 100);
SELECT reserve('bank_b', 2, 100);
ROLLBACK;
SELECT settled();
SELECT balances();
-- also after an error
BEGIN;
SELECT reserve('bank_a', 2, 100);
SELECT 1/0;
COMMIT;
SELECT settled();
SELECT balances();

--
-- a try that is refused raises the node's error
--
BEGIN;
SELECT reserve('bank_a', 2, 100);
SELECT reserve('bank_b', 2, 100000);
COMMIT;
SELECT settled();
SELECT balances();
SELECT fails($$SELECT dtx.tcc_try('bank_b', 'UPDATE account SET balance = -1', NULL, NULL)$$);
-- caught, the others stay
BEGIN;
SELECT reserve('bank_a', 2, 100);
SELECT fails($$SELECT reserve('bank_b', 2, 100000)$$);
SELECT reserve('bank_b', 2, 100);
COMMIT;
SELECT balances();

--
-- savepoints
--
BEGIN;
SELECT reserve('bank_a', 3, 10);
SAVEPOINT s;
SELECT reserve('bank_a', 3, 20);
SAVEPOINT t;
SELECT reserve('bank_b', 3, 40);
RELEASE t;
ROLLBACK TO s;
-- what it had reserved is free for the next try
SELECT reserve('bank_a', 3, 1);
COMMIT;
SELECT settled();
SELECT balances();
-- nothing is left to confirm
BEGIN;
SAVEPOINT s;
SELECT reserve('bank_a', 3, 20);
ROLLBACK TO s;
INSERT INTO ledger (note) VALUES ('two');
SELECT dtx.current_gid() AS gid \gset
COMMIT;
SELECT settled();
SELECT balances();
SELECT count(*) FROM dtx.transactions WHERE gid = :'gid' AND pattern = 'tcc';
-- a subtransaction that commits
DO $$
BEGIN
    BEGIN
        PERFORM reserve('bank_a', 3, 5);
    EXCEPTION WHEN OTHERS THEN
        RAISE;
    END;
    BEGIN
        PERFORM reserve('bank_b', 3, 5);
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
        NULL;
    END;
END $$;
SELECT settled();
SELECT balances();

--
-- together with dtx.exec
--
BEGIN;
SELECT reserve('bank_a', 1, 100);
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = balance + 7 WHERE id = 2', expect => 1);
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = balance - 7 WHERE id = 2', expect => 1);
INSERT INTO ledger (note) VALUES ('three');
COMMIT;
SELECT settled();
SELECT balances();
BEGIN;
SELECT reserve('bank_a', 1, 100);
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = balance + 7 WHERE id = 2', expect => 1);
ROLLBACK;
SELECT settled();
SELECT balances();
-- on the same row: ends by its lock timeout
SET lock_timeout = '300ms';
BEGIN;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = balance + 7 WHERE id = 2', expect => 1);
\set SHOW_CONTEXT never
SELECT reserve('bank_a', 2, 100);
\set SHOW_CONTEXT errors
ROLLBACK;
RESET lock_timeout;
SELECT settled();
-- tried first, then changed: the confirm comes after the branch
BEGIN;
SELECT reserve('bank_a', 2, 100);
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = balance + 7 WHERE id = 2', expect => 1);
COMMIT;
SELECT settled();
SELECT balances();

--
-- what is checked before anything is sent
--
SELECT dtx.tcc_try('bank_a', 'SELECT $1::int, $2::int', NULL, NULL, '[1]');
SELECT dtx.tcc_try('bank_a', 'SELECT 1', 'SELECT $1::int', NULL);
SELECT dtx.tcc_try('bank_a', 'SELECT 1', NULL, NULL, '[1]');
SELECT dtx.tcc_try('bank_a', 'SELECT 1', NULL, NULL, '1');
SELECT dtx.tcc_try('bank_a', 'SELECT 1', NULL, NULL, '{"a": 1}');
SELECT dtx.tcc_try('bank_a', 'SELECT 1; SELECT $1', NULL, NULL, '[1]');
SELECT dtx.tcc_try('bank_a', 'SELEC', NULL, NULL);
SELECT dtx.tcc_try('bank_a', 'COMMIT', NULL, NULL);
SELECT dtx.tcc_try('bank_a', 'SELECT 1', 'ROLLBACK', NULL);
SELECT dtx.tcc_try('bank_a', 'SELECT 1', NULL, 'PREPARE TRANSACTION ''x''');
SELECT dtx.tcc_try(NULL, 'SELECT 1', NULL, NULL);
SELECT dtx.tcc_try('bank_a', NULL, NULL, NULL);
SELECT dtx.tcc_try('bank_x', 'SELECT 1', NULL, NULL);
BEGIN READ ONLY;
SELECT dtx.tcc_try('bank_a', 'SELECT 1', NULL, NULL);
ROLLBACK;
-- values of all kinds
SELECT dtx.tcc_try('bank_a', 'SELECT $1 AS s, $2 AS n, $3::int + 1 AS i, $4::jsonb AS j, $5::boolean AS b, $6 AS x',
                   NULL, NULL, $$["it's \"so\" \\ {x}", null, 41, {"k": [1, null]}, true, 1.50]$$);
-- nothing to return
SELECT dtx.tcc_try('bank_a', 'CREATE TABLE made (i int)', 'DROP TABLE made', NULL);
SELECT settled();
-- without dtx over there
SET SESSION AUTHORIZATION DEFAULT;
CREATE SERVER here FOREIGN DATA WRAPPER dblink_fdw OPTIONS (host '127.0.0.1', dbname 'postgres');
DO $$ BEGIN EXECUTE format('ALTER SERVER here OPTIONS (ADD port %L)', current_setting('port')); END $$;
CREATE USER MAPPING FOR regress_dtx_app SERVER here OPTIONS (user 'regress_dtx_app', password 'regress-app');
SELECT dtx.tcc_try('here', 'SELECT 1', NULL, NULL);
SET SESSION AUTHORIZATION regress_dtx_other;
SELECT dtx.tcc_try('bank_a', 'SELECT 1', NULL, NULL);
SET SESSION AUTHORIZATION DEFAULT;
GRANT USAGE ON FOREIGN SERVER here TO regress_dtx_app;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.tcc_try('here', 'SELECT 1', NULL, NULL);

--
-- over several transactions
--
SELECT dtx.tcc_begin('order 1');
SELECT dtx.tcc_begin('order 1');
SELECT reserve('bank_a', 1, 1, 'order 1');
BEGIN;
SELECT reserve('bank_b', 1, 1, 'order 1');
SELECT reserve('bank_b', 2, 1, 'order 1');
COMMIT;
-- this one is cancelled by itself
BEGIN;
SELECT reserve('bank_b', 3, 400, 'order 1');
ROLLBACK;
BEGIN;
SELECT reserve('bank_b', 3, 1, 'order 1');
SAVEPOINT s;
SELECT reserve('bank_b', 3, 400, 'order 1');
ROLLBACK TO s;
SELECT reserve('bank_b', 3, 2, 'order 1');
COMMIT;
SELECT state, branch_count, next_at FROM dtx.transactions WHERE gid = 'order 1';
SELECT step, node, operation, state FROM dtx.steps WHERE gid = 'order 1' ORDER BY step;
SELECT settled(1, 4);
SELECT balances();
SELECT dtx.tcc_confirm('order 1');
SELECT wait_flow('order 1');
SELECT balances();
SELECT settled();
-- repeated, refused
SELECT dtx.tcc_confirm('order 1');
SELECT dtx.tcc_cancel('order 1');
SELECT reserve('bank_a', 1, 1, 'order 1');
SELECT settled();
-- cancelled
SELECT dtx.tcc_begin('order 2', '1 hour');
SELECT reserve('bank_a', 1, 300, 'order 2'), reserve('bank_b', 1, 300, 'order 2');
SELECT dtx.tcc_cancel('order 2');
SELECT wait_flow('order 2');
SELECT balances();
SELECT dtx.tcc_cancel('order 2');
SELECT dtx.tcc_confirm('order 2');
SELECT reserve('bank_a', 1, 1, 'order 2');
-- a decision that is rolled back is none
SELECT dtx.tcc_begin('order 3');
BEGIN;
SELECT reserve('bank_a', 1, 3, 'order 3');
SELECT dtx.tcc_confirm('order 3');
ROLLBACK;
SELECT state, branch_count FROM dtx.transactions WHERE gid = 'order 3';
-- all in one
BEGIN;
SELECT reserve('bank_a', 1, 3, 'order 3');
SELECT dtx.tcc_confirm('order 3');
SELECT reserve('bank_a', 1, 3, 'order 3');
ROLLBACK;
BEGIN;
SELECT dtx.tcc_begin() AS gid \gset
SELECT reserve('bank_a', 1, 3, :'gid');
SELECT reserve('bank_a', 1, 4);
SELECT dtx.tcc_confirm(:'gid');
COMMIT;
SELECT wait_flow(:'gid');
SELECT settled();
SELECT balances();
-- nothing was tried
SELECT dtx.tcc_confirm('order 3');
SELECT wait_flow('order 3');
-- whose it is
SET SESSION AUTHORIZATION DEFAULT;
GRANT USAGE ON FOREIGN SERVER bank_a TO regress_dtx_other;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.tcc_begin('order 4');
SET SESSION AUTHORIZATION regress_dtx_other;
SELECT dtx.tcc_confirm('order 4');
SELECT dtx.tcc_cancel('order 4');
SELECT dtx.tcc_try('bank_a', 'SELECT 1', NULL, NULL, NULL, 'order 4');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.tcc_confirm('order 5');
SELECT dtx.tcc_confirm(NULL);
SELECT dtx.tcc_begin('dtx_1');
SELECT dtx.tcc_begin('order 5', '0');

--
-- the timeout cancels
--
SELECT dtx.tcc_begin('order 6', '1 hour');
SELECT reserve('bank_a', 1, 6, 'order 6'), reserve('bank_b', 1, 6, 'order 6');
CALL dtx.scan_once() \g /dev/null
SELECT state FROM dtx.transactions WHERE gid = 'order 6';
SET SESSION AUTHORIZATION DEFAULT;
SET dtx.clock_offset = '2h';
SET SESSION AUTHORIZATION regress_dtx_app;
-- it has passed, whether or not a worker has seen that
SELECT dtx.tcc_confirm('order 6');
SELECT reserve('bank_a', 1, 6, 'order 6');
CALL dtx.scan_once();
SET SESSION AUTHORIZATION DEFAULT;
RESET dtx.clock_offset;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT state, sqlstate, reason FROM dtx.transactions WHERE gid = 'order 6';
SELECT balances();

--
-- a confirm that is refused waits for a person
--
BEGIN;
SELECT dtx.tcc_try('bank_a', 'SELECT 1 AS tried', 'SELECT 1/(balance - balance) FROM account WHERE id = 1', NULL);
SELECT dtx.current_gid() AS gid \gset
SET client_min_messages = error;
COMMIT;
RESET client_min_messages;
SELECT wait_flow(:'gid');
SELECT operation, state, sqlstate, error FROM dtx.steps WHERE gid = :'gid' ORDER BY 1 DESC;
SELECT replace(reason, :'gid', 'gid'), last_error, replace(call, :'gid', 'gid') FROM dtx.stuck;
SELECT alerts();
SELECT dtx.tcc_confirm(:'gid');
SELECT dtx.skip_step(:'gid', '1', NULL, 'done by hand');
SELECT wait_flow(:'gid');
SELECT count(*) FROM dtx.stuck;
-- it stays as it is over there
CALL dtx.recover();
SELECT settled(1);

--
-- what is not decided is for its application, not for an operator
--
SELECT dtx.tcc_begin('order 7');
SELECT reserve('bank_a', 1, 6, 'order 7');
SELECT dtx.retry_now('order 7', 'why');
SELECT dtx.skip_step('order 7', '1', NULL, 'why');
SELECT dtx.force_end('order 7', 'committed', 'why');
SELECT dtx.pause('order 7', 'why');
SELECT dtx.tcc_confirm('order 7');
SELECT state, paused FROM dtx.transactions WHERE gid = 'order 7';
SELECT dtx.resume('order 7', 'why');
SELECT wait_flow('order 7');

--
-- while it is needed nothing can be dropped
--
SELECT dtx.tcc_begin('order 8');
SELECT reserve('bank_a', 1, 6, 'order 8');
SET SESSION AUTHORIZATION DEFAULT;
SET client_min_messages = warning;
DROP SERVER bank_a CASCADE;
DROP USER MAPPING FOR regress_dtx_app SERVER bank_a;
DROP EXTENSION dtx;
RESET client_min_messages;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.tcc_cancel('order 8');
SELECT wait_flow('order 8');

--
-- PREPARE TRANSACTION: whoever ends it decides
--
BEGIN;
SELECT reserve('bank_a', 3, 30);
SELECT reserve('bank_b', 3, 30, 'order 4');
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = balance + 30 WHERE id = 2', expect => 1);
SELECT dtx.current_gid() AS gid \gset
PREPARE TRANSACTION 'regress tcc';
CALL dtx.recover() \g /dev/null
SELECT t FROM dtx.query('bank_a', 'SELECT frozen FROM account WHERE id = 3') AS t(t int);
COMMIT PREPARED 'regress tcc';
SELECT wait_flow(:'gid');
CALL dtx.recover() \g /dev/null
SELECT balances();
SELECT dtx.tcc_confirm('order 4');
SELECT wait_flow('order 4');
BEGIN;
SELECT reserve('bank_b', 3, 30);
PREPARE TRANSACTION 'regress tcc';
CALL dtx.recover() \g /dev/null
SELECT t FROM dtx.query('bank_b', 'SELECT frozen FROM account WHERE id = 3') AS t(t int);
ROLLBACK PREPARED 'regress tcc';
SELECT settled(1);
SELECT balances();

--
-- a cancel that is refused: of a transaction with a name, which holds it
--
\set refused 'SELECT 1/count(*) FROM account WHERE id = 9'
SELECT dtx.tcc_begin('order 9');
SELECT dtx.tcc_try('bank_a', 'SELECT 1 AS tried', NULL, :'refused', NULL, 'order 9');
SELECT dtx.tcc_cancel('order 9');
SELECT wait_flow('order 9');
SELECT reason, last_error, call FROM dtx.stuck;
SELECT call FROM dtx.stuck \gset
:call;
SELECT wait_flow('order 9');
SELECT step, operation, state, error FROM dtx.steps WHERE gid = 'order 9' ORDER BY operation;
SELECT event, detail FROM dtx.history WHERE gid = 'order 9' ORDER BY at;
-- and of a transaction that was rolled back, where the scanner is at it
BEGIN;
SELECT dtx.tcc_try('bank_a', 'SELECT 1 AS tried', NULL, :'refused');
SELECT dtx.tcc_try('bank_b', 'SELECT 1 AS tried', NULL, :'refused');
SELECT dtx.current_gid() AS gid \gset
ROLLBACK;
SET SESSION AUTHORIZATION DEFAULT;
CALL dtx.recover();
SET dtx.stuck_after = 0;
SELECT node, branch, state, reason, last_error, replace(call, :'gid', 'gid') FROM dtx.stuck ORDER BY node;
-- an operator leaves one as it is
SELECT dtx.skip_step(:'gid', '1', NULL, '');
SELECT replace(fails(format('SELECT dtx.skip_step(%L, %L, NULL, %L)', :'gid', s, 'x')), :'gid', 'gid') FROM unnest(ARRAY['3', '-1', 'one']) s;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT replace(fails(format('SELECT dtx.skip_step(%L, %L, NULL, %L)', :'gid', 1, 'x')), :'gid', 'gid');
SET SESSION AUTHORIZATION DEFAULT;
SELECT call FROM dtx.stuck WHERE node = 'bank_a' \gset
:call;
CALL dtx.recover();
SELECT branch, node, state, replace(reason, current_user, 'me') FROM dtx.branches ORDER BY branch;
SELECT node, branch FROM dtx.stuck;
SELECT branch, event, detail FROM dtx.event WHERE gid = :'gid' ORDER BY number;
SELECT replace(fails(:'call'), :'gid', 'gid');
-- what was refused and is not any more is cancelled; what was skipped is not
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.exec(node, 'INSERT INTO account VALUES (9, ''zoe'', 0)') FROM unnest(ARRAY['bank_a', 'bank_b']) node;
SET SESSION AUTHORIZATION DEFAULT;
CALL dtx.recover() \g /dev/null
SELECT count(*) FROM dtx.stuck;
SELECT branch, node, state FROM dtx.branches ORDER BY branch;
RESET dtx.stuck_after;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT settled(3);

SET SESSION AUTHORIZATION DEFAULT;
SET client_min_messages = warning;
DROP SERVER here CASCADE;
\i :end
