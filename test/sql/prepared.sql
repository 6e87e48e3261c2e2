-- Statements with parameters that are used again: they mean what they say each time.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
SET SESSION AUTHORIZATION regress_dtx_app;
-- two phases each time, after which the node keeps its session as it is
SET dtx.one_phase = off;
SELECT dtx.exec('bank_a', 'CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 2)');

-- words that stand for a time are read at each call
SELECT dtx.exec('bank_a', 'CREATE TABLE moment (a int, t timestamptz)');
SELECT dtx.exec('bank_a', 'INSERT INTO moment VALUES ($1, ''now'')', '{1}');
SELECT dtx.exec('bank_a', 'INSERT INTO moment VALUES ($1, ''now'')', '{2}');
SELECT dtx.exec('bank_a', 'INSERT INTO moment VALUES ($1, now())', '{3}');
SELECT dtx.exec('bank_a', 'INSERT INTO moment VALUES ($1, now())', '{4}');
SELECT * FROM dtx.query('bank_a', 'SELECT count(DISTINCT t) FROM moment') AS t(moments int);
-- so are dates, in the session's style
BEGIN;
SET LOCAL DateStyle = 'SQL, MDY';
SELECT dtx.exec('bank_a', 'UPDATE t SET b = 3');
SELECT d = '2024-03-02' AS march FROM dtx.query('bank_a', 'SELECT DATE ''03/02/2024'' WHERE $1', '{t}') AS t(d date);
COMMIT;
BEGIN;
SET LOCAL DateStyle = 'SQL, DMY';
SELECT dtx.exec('bank_a', 'UPDATE t SET b = 3');
SELECT d = '2024-02-03' AS february FROM dtx.query('bank_a', 'SELECT DATE ''03/02/2024'' WHERE $1', '{t}') AS t(d date);
COMMIT;

-- tables that change between two calls
BEGIN;
SELECT dtx.exec('bank_a', 'UPDATE t SET b = $1', '{4}');
SELECT * FROM dtx.query('bank_a', 'SELECT * FROM t WHERE a = $1', '{1}') AS t(a int, b int);
COMMIT;
SELECT dtx.exec('bank_a', 'ALTER TABLE t ADD c text');
BEGIN;
SELECT dtx.exec('bank_a', 'UPDATE t SET b = $1', '{5}');
SELECT * FROM dtx.query('bank_a', 'SELECT * FROM t WHERE a = $1', '{1}') AS t(a int, b int, c text);
COMMIT;
SELECT dtx.exec('bank_a', 'INSERT INTO t (a) VALUES ($1)', '{7}');
SELECT dtx.exec('bank_a', 'ALTER TABLE t ALTER a TYPE text');
-- (the node has kept the type of the parameter: refused once, as by any driver that prepares)
SELECT dtx.exec('bank_a', 'INSERT INTO t (a) VALUES ($1)', '{seven}');
SELECT dtx.exec('bank_a', 'INSERT INTO t (a) VALUES ($1)', '{seven}');
BEGIN;
SELECT dtx.exec('bank_a', 'UPDATE t SET b = $1', '{6}');
SELECT dtx.exec('bank_a', 'DROP TABLE t; CREATE TABLE t (b int)');
SELECT dtx.exec('bank_a', 'UPDATE t SET b = $1', '{6}');
COMMIT;

-- statements that somebody else has forgotten: an error, and made anew by the next transaction
BEGIN;
SELECT dtx.exec('bank_a', 'INSERT INTO t (b) VALUES ($1)', '{1}');
SELECT dtx.exec('bank_a', 'DO $$ BEGIN EXECUTE ''DEALLOCATE ALL''; END $$');
\set VERBOSITY sqlstate
SELECT dtx.exec('bank_a', 'INSERT INTO t (b) VALUES ($1)', '{2}');
COMMIT;
\set VERBOSITY default
BEGIN;
SELECT dtx.exec('bank_a', 'INSERT INTO t (b) VALUES ($1)', '{1}');
SELECT dtx.exec('bank_a', 'INSERT INTO t (b) VALUES ($1)', '{2}');
COMMIT;
SELECT * FROM dtx.query('bank_a', 'SELECT b FROM t ORDER BY b') AS t(b int);

-- by exec and by query, with other numbers of arguments, in savepoints
BEGIN;
SELECT dtx.exec('bank_a', 'SELECT $1::int, 2', '{1}');
SELECT * FROM dtx.query('bank_a', 'SELECT $1::int, 2', '{1}') AS t(a int, b int);
SAVEPOINT s;
SELECT dtx.exec('bank_a', 'SELECT $1::int, 2', '{1,2}');
ROLLBACK TO s;
SELECT dtx.exec('bank_a', 'SELECT 1 / $1', '{1}');
SELECT dtx.exec('bank_a', 'SELECT 1 / $1', '{0}');
ROLLBACK TO s;
SELECT dtx.exec('bank_a', 'SELECT 1 / $1', '{1}');
SELECT dtx.exec('bank_a', 'UPDATE t SET b = b + $1', '{1}');
COMMIT;

-- a thousand different ones do not pile up
DO $$
BEGIN
    FOR i IN 1..1000 LOOP
        PERFORM dtx.exec('bank_a', format('UPDATE t SET b = %s WHERE b = $1', i), ARRAY['-1']);
        IF i % 100 = 0 THEN
            COMMIT;
        END IF;
    END LOOP;
END $$;
SELECT n <= 100 AS few FROM dtx.query('bank_a', 'SELECT count(*) FROM pg_prepared_statements') AS t(n int);
\i :end
