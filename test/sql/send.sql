-- dtx.send: statements that are not waited for.
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
\pset null (null)
CREATE FUNCTION balance(node name, id int) RETURNS bigint LANGUAGE sql AS $$
    SELECT b FROM dtx.query(node, 'SELECT balance FROM account WHERE id = $1', ARRAY[id::text]) AS t(b bigint) $$;
CREATE FUNCTION send(node name, id int, amount int, expect bigint DEFAULT 1) RETURNS void LANGUAGE sql AS $$
    SELECT dtx.send(node, 'UPDATE account SET balance = balance + $1 WHERE id = $2',
                    ARRAY[amount::text, id::text], expect) $$;
-- an error of the node, without what may differ
CREATE FUNCTION fails(sql text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE sql;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate || ' ' || sqlerrm;
END $$;

-- Waits until its counterpart runs on the other node.
CREATE FUNCTION meet(me text, other text) RETURNS text LANGUAGE sql AS $f$
    SELECT format($q$DO $x$ BEGIN
        PERFORM set_config('application_name', %L, true);
        WHILE NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = %L)
        LOOP PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP; END $x$$q$, me, other) $f$;

--
-- both nodes work at the same time, each waiting to see the other do so
--
BEGIN;
SET LOCAL statement_timeout = '20s';
SELECT dtx.send('bank_a', meet('at_a', 'at_b')), dtx.send('bank_b', meet('at_b', 'at_a'));
COMMIT;
BEGIN;
SELECT send('bank_b', 1, 10), send('bank_a', 1, -10);
COMMIT;
SELECT balance('bank_a', 1), balance('bank_b', 1);

-- several to one node keep their order
BEGIN;
SELECT dtx.send('bank_a', 'CREATE TABLE note (t text)');
SELECT dtx.send('bank_a', 'INSERT INTO note VALUES ($1)', ARRAY['one']);
SELECT dtx.send('bank_a', 'INSERT INTO note VALUES ($1)', ARRAY['two']);
SELECT t FROM dtx.query('bank_a', 'SELECT string_agg(t, '' '' ORDER BY ctid) FROM note') AS t(t text);
ROLLBACK;

-- rolled back, it has never happened
BEGIN;
SELECT send('bank_a', 1, -100), send('bank_b', 1, 100);
ROLLBACK;
SELECT balance('bank_a', 1), balance('bank_b', 1);

-- a query's rows are not wanted; nothing is written, nothing is prepared
BEGIN;
SELECT dtx.send('bank_a', 'SELECT * FROM account');
SELECT dtx.send('bank_b', 'SELECT id, owner FROM account WHERE id < $1', ARRAY['3'], 2);
COMMIT;

--
-- errors: at the next use of the node, or at COMMIT
--
BEGIN;
SELECT send('bank_a', 1, -100000);
SELECT balance('bank_b', 1);
SELECT balance('bank_a', 1);
COMMIT;
BEGIN;
SELECT send('bank_a', 1, -100000), send('bank_b', 1, 100000);
COMMIT;
BEGIN;
SELECT send('bank_a', 99, 1);
COMMIT;
BEGIN;
SELECT dtx.send('bank_a', 'SELECT 1/0'), send('bank_b', 1, 1);
COMMIT;
BEGIN;
SELECT dtx.send('bank_a', 'SELEKT');
ROLLBACK;
SELECT dtx.send('bank_a', NULL);
SELECT dtx.send(NULL, 'SELECT 1');
SELECT dtx.send('bank_x', 'SELECT 1');
SELECT dtx.send('bank_a', 'SELECT $1::int', ARRAY['1', '2']);
SELECT balance('bank_a', 1), balance('bank_b', 1);

--
-- savepoints: an error belongs to the subtransaction that sent
--
-- the same one hears of it: undone with it
BEGIN;
SELECT send('bank_a', 1, -1);
SAVEPOINT one;
SELECT send('bank_a', 1, -100000);
SELECT balance('bank_a', 1);
ROLLBACK TO one;
SELECT balance('bank_a', 1);
SELECT send('bank_b', 1, 1);
COMMIT;
SELECT balance('bank_a', 1), balance('bank_b', 1);

-- undone before anybody has heard of it
BEGIN;
SELECT send('bank_a', 1, -1);
SAVEPOINT one;
SELECT send('bank_a', 1, -100000);
ROLLBACK TO one;
SELECT balance('bank_a', 1);
SELECT send('bank_b', 1, 1);
COMMIT;
BEGIN;
SELECT send('bank_a', 1, -1), send('bank_b', 1, 1);
SAVEPOINT one;
SELECT send('bank_a', 1, -100000);
ROLLBACK TO one;
COMMIT;
SELECT balance('bank_a', 1), balance('bank_b', 1);

-- the first statement of a branch, undone with its subtransaction
BEGIN;
SAVEPOINT one;
SELECT send('bank_a', 1, -100000);
ROLLBACK TO one;
SELECT send('bank_a', 1, -1), send('bank_b', 1, 1);
COMMIT;
SELECT balance('bank_a', 1), balance('bank_b', 1);

-- heard of in an inner one: catching it there does not help
BEGIN;
SELECT send('bank_a', 1, -100000);
SELECT fails($$SELECT balance('bank_a', 1)$$);
SELECT fails($$SELECT balance('bank_a', 1)$$);
SELECT balance('bank_b', 1);
COMMIT;
BEGIN;
SELECT send('bank_a', 1, -1), send('bank_b', 1, 1);
SAVEPOINT far;
SELECT send('bank_a', 1, -100000);
SAVEPOINT near;
SELECT balance('bank_a', 1);
ROLLBACK TO near;
SELECT balance('bank_a', 1);
ROLLBACK TO far;
SELECT balance('bank_a', 1);
COMMIT;
SELECT balance('bank_a', 1), balance('bank_b', 1);

-- the same when its subtransaction was released into an outer one
BEGIN;
SELECT send('bank_a', 1, -1), send('bank_b', 1, 1);
SAVEPOINT far;
SAVEPOINT near;
SELECT send('bank_a', 1, -100000);
RELEASE near;
SELECT balance('bank_a', 1);
ROLLBACK TO far;
SELECT balance('bank_a', 1);
COMMIT;
SELECT balance('bank_a', 1), balance('bank_b', 1);
BEGIN;
SELECT send('bank_b', 1, 1);
SAVEPOINT near;
SELECT send('bank_a', 1, -100000);
RELEASE near;
SELECT fails($$SELECT balance('bank_a', 1)$$);
COMMIT;

-- a count that is not the expected one, in the same way
BEGIN;
SELECT send('bank_b', 1, 1);
SAVEPOINT one;
SELECT send('bank_a', 99, -1);
SELECT fails($$SELECT balance('bank_a', 1)$$);
SELECT balance('bank_a', 1);
ROLLBACK TO one;
SELECT send('bank_a', 1, -1);
COMMIT;
SELECT balance('bank_a', 1), balance('bank_b', 1);

-- deferred constraints speak at COMMIT
SELECT dtx.exec('bank_a', 'CREATE TABLE once (i int UNIQUE DEFERRABLE INITIALLY DEFERRED)');
BEGIN;
SELECT dtx.send('bank_a', 'INSERT INTO once VALUES (1), (1)'), send('bank_b', 1, 1);
COMMIT;
SELECT dtx.exec('bank_a', 'DROP TABLE once');

-- a connection that died since is replaced
SELECT balance('bank_a', 1), balance('bank_b', 1);
SELECT dtx.exec('bank_b', $$SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = 'dtx_regression_a' AND usename = current_user$$);
SELECT send('bank_a', 1, 1), send('bank_b', 1, -1);
SELECT balance('bank_a', 1), balance('bank_b', 1);
\i :end
