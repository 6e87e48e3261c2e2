-- dtx.exec: what it returns, parameters, expect.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
SET SESSION AUTHORIZATION regress_dtx_app;

--
-- Rows affected or returned
--
\pset format unaligned
\pset tuples_only on
BEGIN;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = balance - 1');
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = balance - 1 WHERE id = 2');
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = balance - 1 WHERE id = 99');
SELECT dtx.exec('bank_a', 'INSERT INTO account SELECT i, ''new'', 5 FROM generate_series(11, 17) i');
SELECT dtx.exec('bank_a', 'DELETE FROM account WHERE id > 15');
SELECT dtx.exec('bank_a', 'SELECT id FROM account');
SELECT dtx.exec('bank_a', 'SELECT id, owner, balance FROM account WHERE id < 3');
SELECT dtx.exec('bank_a', 'SELECT id FROM account WHERE false');
SELECT dtx.exec('bank_a', 'SELECT * FROM account');
SELECT dtx.exec('bank_a', 'SELECT account.*, 1 FROM account WHERE id = 1');
SELECT dtx.exec('bank_a', 'SELECT * FROM account WHERE false');
SELECT dtx.exec('bank_a', 'TABLE account');
SELECT dtx.exec('bank_a', 'VALUES (1, 2), (3, 4)');
SELECT dtx.exec('bank_a', 'SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3');
SELECT dtx.exec('bank_a', 'SELECT * FROM account WHERE id = 1 UNION ALL SELECT * FROM account WHERE id = 2');
SELECT dtx.exec('bank_a', 'SELECT');
SELECT dtx.exec('bank_a', 'SELECT 1 -- a comment at the end');
SELECT dtx.exec('bank_a', '/* one /* in another */ */ SELECT * FROM account -- at the end');
SELECT dtx.exec('bank_a', 'SELECT 1;');
SELECT dtx.exec('bank_a', ';;SELECT 1;;');
SELECT dtx.exec('bank_a', 'SELECT id FROM account WHERE id < 3 FOR UPDATE');
SELECT dtx.exec('bank_a', 'SELECT * FROM account WHERE id < 3 FOR UPDATE');
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 7 WHERE id > 10 RETURNING id');
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 8 WHERE id > 10 RETURNING *');
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 9 WHERE id > 98 RETURNING *');
SELECT dtx.exec('bank_a', 'INSERT INTO account VALUES (21, ''x'', 1), (22, ''y'', 2) RETURNING id, owner');
SELECT dtx.exec('bank_a', 'INSERT INTO account VALUES (23, ''x'', 1), (24, ''y'', 2) RETURNING *');
SELECT dtx.exec('bank_a', 'DELETE FROM account WHERE id > 22 RETURNING *');
SELECT dtx.exec('bank_a', 'WITH x AS (SELECT 1 AS a UNION SELECT 2) SELECT a FROM x');
SELECT dtx.exec('bank_a', 'WITH x AS (SELECT 1 AS a UNION SELECT 2) SELECT * FROM x');
SELECT dtx.exec('bank_a', 'WITH x AS (SELECT 21 AS a UNION SELECT 22) DELETE FROM account USING x WHERE id = a');
SELECT dtx.exec('bank_a', 'WITH x AS (UPDATE account SET balance = 3 WHERE id > 10 RETURNING id) SELECT id FROM x');
SELECT dtx.exec('bank_a', 'WITH x AS (UPDATE account SET balance = 4 WHERE id > 10 RETURNING *) SELECT count(*) FROM x');
SELECT dtx.exec('bank_a', 'MERGE INTO account USING (VALUES (1), (99)) v(i) ON id = i
    WHEN MATCHED THEN UPDATE SET owner = ''merged''
    WHEN NOT MATCHED THEN INSERT VALUES (i, ''merged'', 0)');
-- several statements: the last one counts
SELECT dtx.exec('bank_a', 'DELETE FROM account WHERE id > 10; UPDATE account SET balance = 1000');
SELECT dtx.exec('bank_a', 'SELECT * FROM account; SELECT id, id FROM account; DELETE FROM account WHERE id = 3');
SELECT dtx.exec('bank_a', 'SELECT id, owner FROM account; SELECT * FROM account;');
-- what affects no rows
SELECT dtx.exec('bank_a', 'CREATE TABLE made (a int, b text)');
SELECT dtx.exec('bank_a', 'INSERT INTO made VALUES (1, ''one''); CREATE INDEX ON made (a); ANALYZE made');
SELECT dtx.exec('bank_a', 'TRUNCATE made; DROP TABLE made; CREATE TABLE made AS SELECT generate_series(1, 4) AS a');
SELECT dtx.exec('bank_a', 'SELECT a INTO made_too FROM made');
SELECT dtx.exec('bank_a', 'SET LOCAL work_mem = ''1MB''');
SELECT dtx.exec('bank_a', 'LOCK TABLE made');
SELECT dtx.exec('bank_a', 'DO $$ BEGIN DELETE FROM made WHERE a > 2; END $$');
SELECT dtx.exec('bank_a', 'EXPLAIN (COSTS OFF) SELECT * FROM made WHERE a = 1');
SELECT dtx.exec('bank_a', 'SHOW transaction_isolation');
SELECT dtx.exec('bank_a', 'CREATE PROCEDURE empty_made() LANGUAGE sql AS ''DELETE FROM made''');
SELECT dtx.exec('bank_a', 'CREATE PROCEDURE out_made(INOUT n int, INOUT m int) LANGUAGE plpgsql AS
    ''BEGIN SELECT count(*), 5 INTO n, m FROM made; END''');
SELECT dtx.exec('bank_a', 'CALL empty_made()');
SELECT dtx.exec('bank_a', 'CREATE PROCEDURE one_made(INOUT n int) LANGUAGE plpgsql AS
    ''BEGIN SELECT count(*) INTO n FROM made; END''');
SELECT dtx.exec('bank_a', 'CALL one_made(1)');
SAVEPOINT before_call;
SELECT dtx.exec('bank_a', 'CALL out_made(1, 2)');
ROLLBACK TO before_call;
SELECT * FROM dtx.query('bank_a', 'CALL out_made(1, 2)') AS t(n int, m int);
SELECT dtx.exec('bank_a', 'DECLARE c CURSOR FOR SELECT id FROM account ORDER BY id');
SELECT dtx.exec('bank_a', 'FETCH 2 FROM c');
SELECT dtx.exec('bank_a', 'MOVE 1 FROM c');
SELECT dtx.exec('bank_a', 'CLOSE c');
ROLLBACK;
\pset format aligned
\pset tuples_only off
SELECT * FROM dtx.query('bank_a', 'SELECT * FROM account ORDER BY id') AS t(id int, owner text, balance bigint);
SELECT * FROM dtx.query('bank_a', 'SELECT to_regclass(''made'') IS NULL, to_regclass(''made_too'') IS NULL')
    AS t(made boolean, made_too boolean);

--
-- Parameters
--
SELECT dtx.exec('bank_a', 'CREATE TABLE value (id int, t text, n numeric, b bytea, a int[], d date)');
SELECT dtx.exec('bank_a', 'INSERT INTO value VALUES ($1, $2, $3, $4, $5, $6)',
    ARRAY['1', 'plain', '1.50', '\x00ff', '{1,2}', '2024-02-29']);
SELECT dtx.exec('bank_a', 'INSERT INTO value VALUES ($1, $2, $3, $4, $5, $6)',
    ARRAY['2', NULL, NULL, NULL, NULL, NULL]);
SELECT dtx.exec('bank_a', 'INSERT INTO value (id, t) VALUES ($1, $2)', ARRAY['3', 'it''s "quoted"']);
SELECT dtx.exec('bank_a', 'INSERT INTO value (id, t) VALUES ($1, $2)', ARRAY['4', 'back\slash \'' \\ \n']);
SELECT dtx.exec('bank_a', 'INSERT INTO value (id, t) VALUES ($1, $2)', ARRAY['5', U&'\00fc\4e2d\+01f600']);
SELECT dtx.exec('bank_a', 'INSERT INTO value (id, t) VALUES ($1, $2)', ARRAY['6', E'two\nlines\tand tab']);
SELECT dtx.exec('bank_a', 'INSERT INTO value (id, t) VALUES ($1, $2)', ARRAY['7', '']);
SELECT dtx.exec('bank_a', 'INSERT INTO value (id, t) VALUES ($1, $2)',
    ARRAY['8', '''); DROP TABLE value; --']);
SELECT dtx.exec('bank_a', 'INSERT INTO value (id, t) VALUES ($1, $2)', ARRAY['9', '$1 $2 %s $$ :x']);
SELECT dtx.exec('bank_a', 'INSERT INTO value (id, t) VALUES ($1, $2)', ARRAY['10', 'NULL']);
SELECT dtx.exec('bank_a', 'INSERT INTO value (id, a, b) VALUES ($1, $2::int[], $3::bytea)',
    ARRAY['11', ARRAY[3, NULL, 5]::text, '\xdeadbeef'::bytea::text]);
SELECT * FROM dtx.query('bank_a', 'SELECT id, t, n, b, a, d, length(t) FROM value ORDER BY id')
    AS v(id int, t text, n numeric, b bytea, a int[], d date, length int);
-- as many rows as an array has
SELECT dtx.exec('bank_a', 'INSERT INTO value (id, t) SELECT * FROM unnest($1::int[], $2::text[])',
    ARRAY['{21,22,23}', ARRAY['a,b', 'c"d', NULL]::text]);
-- the same one twice, and in any order
SELECT dtx.exec('bank_a', 'DELETE FROM value WHERE id = $2 OR id = $2 + 1 OR t = $1', ARRAY['a,b', '22']);
-- $1 within a literal or a comment is not one
SELECT * FROM dtx.query('bank_a', 'SELECT ''$2'', $1::text /* $3 */', ARRAY['first']) AS t(a text, b text);
-- types are those of the place, or as written
SELECT * FROM dtx.query('bank_a', 'SELECT $1, pg_typeof($2::interval), pg_typeof($3 + 1), pg_typeof($4 || ''x'')',
    ARRAY['x', '1 day', '4', 'y']) AS t(a text, b text, c text, d text);
SELECT dtx.exec('bank_a', 'SELECT pg_typeof($1)', ARRAY['x']);
SELECT * FROM dtx.query('bank_a', 'SELECT id, t FROM value WHERE id = $1 AND b IS NULL', ARRAY['3']) AS t(id int, t text);
SELECT dtx.exec('bank_a', 'UPDATE value SET n = n + $1, d = d + $2::int WHERE id = 1', ARRAY['0.25', '1']);
SELECT * FROM dtx.query('bank_a', 'SELECT n, d FROM value WHERE id = 1') AS t(n numeric, d date);
SELECT dtx.exec('bank_a', 'SELECT * FROM value WHERE id = ANY ($1)', ARRAY['{1,2,3}']);
SELECT dtx.exec('bank_a', 'UPDATE value SET t = $1 WHERE id < $2 RETURNING *', ARRAY['changed', '4']);
SELECT dtx.exec('bank_a', 'WITH x AS (DELETE FROM value WHERE id > $1 RETURNING *) SELECT count(*) FROM x', ARRAY['0']);
-- in every place where an expression can be
SELECT dtx.exec('bank_a', 'SELECT id FROM generate_series(1, $3) id ORDER BY id LIMIT $1 OFFSET $2', ARRAY['2', '1', '9']);
SELECT dtx.exec('bank_a', 'WITH x AS (SELECT $1::int AS a) INSERT INTO value (id, t) SELECT a, (SELECT $2::text) FROM x', ARRAY['51', 'x']);
SELECT dtx.exec('bank_a', 'INSERT INTO account VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET balance = $4 WHERE account.id = $5 RETURNING balance + $6',
    ARRAY['1', 'x', '0', '1000', '1', '1']);
SELECT dtx.exec('bank_a', 'MERGE INTO value USING (VALUES ($1::int), ($2)) v(i) ON value.id = i
    WHEN MATCHED AND $3 THEN UPDATE SET t = $4 WHEN NOT MATCHED THEN INSERT (id, t) VALUES (i, $5)',
    ARRAY['51', '52', 'true', 'y', 'z']);
SELECT * FROM dtx.query('bank_a', 'SELECT id, CASE WHEN t = $1 THEN ARRAY[$2, $3] END, sum(id) FILTER (WHERE id > $4) OVER (PARTITION BY $5)
      FROM value WHERE id BETWEEN $6 AND $7 AND (id, t) IN (($8, $9), ($10, $11)) GROUP BY id, t HAVING count(*) = $12 ORDER BY id',
    ARRAY['y', 'a', 'b', '0', '1', '50', '60', '51', 'y', '52', 'z', '1']) AS t(id int, a text[], sum int);
SELECT dtx.exec('bank_a', 'DELETE FROM value USING (SELECT $1::int UNION ALL VALUES ($2::int)) x(i) WHERE id = i', ARRAY['51', '52']);
-- refused: a value that does not fit, too few, too many
SELECT dtx.exec('bank_a', 'INSERT INTO value (id) VALUES ($1)', ARRAY['many']);
SELECT dtx.exec('bank_a', 'INSERT INTO value (id) VALUES ($1)', ARRAY['99999999999']);
SELECT dtx.exec('bank_a', 'INSERT INTO value (id, t) VALUES ($1, $2)', ARRAY['1']);
SELECT dtx.exec('bank_a', 'INSERT INTO value (id) VALUES ($1)', ARRAY['1', '2']);
SELECT dtx.exec('bank_a', 'INSERT INTO value (id) VALUES ($1)');
SELECT dtx.exec('bank_a', 'INSERT INTO value (id) VALUES (1)', ARRAY['1']);
SELECT dtx.exec('bank_a', 'INSERT INTO value (id) VALUES ($2)', ARRAY['1', '2']);
-- refused: where no parameters can be
SELECT dtx.exec('bank_a', 'INSERT INTO value (id) VALUES ($1); SELECT 1', ARRAY['1']);
SELECT dtx.exec('bank_a', 'CREATE TABLE t (a int DEFAULT $1)', ARRAY['1']);
SELECT dtx.exec('bank_a', 'CALL empty_made($1)', ARRAY['1']);
SELECT * FROM dtx.query('bank_a', 'SELECT count(*) FROM value') AS t(count int);
-- no array is an empty one; two dimensions are read in their order
SELECT dtx.exec('bank_a', 'INSERT INTO value (id) VALUES (31)', NULL);
SELECT dtx.exec('bank_a', 'INSERT INTO value (id, t) VALUES ($1, $2), ($3, $4)', '{{32,x},{33,y}}');
SELECT dtx.exec('bank_a', 'DELETE FROM value WHERE id = $1', '[5:5]={31}');
-- by name
SELECT dtx.exec(node => 'bank_a', sql => 'DELETE FROM value WHERE id > $1', args => ARRAY['30'], expect => 2);
-- a long one
SELECT dtx.exec('bank_a', 'INSERT INTO value (id, t) VALUES (41, $1)', ARRAY[repeat('xy''\', 100000)]);
SELECT * FROM dtx.query('bank_a', 'SELECT length(t), md5(t) = md5($1) FROM value WHERE id = 41',
    ARRAY[repeat('xy''\', 100000)]) AS t(length int, same boolean);

--
-- Null where something is needed
--
SELECT dtx.exec(NULL, 'SELECT 1');
SELECT dtx.exec('bank_a', NULL);

--
-- expect
--
BEGIN;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = balance - 1 WHERE id = 1', expect => 1);
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = balance - 1 WHERE id = 99', expect => 0);
SELECT dtx.exec('bank_a', 'SELECT * FROM account', expect => 3);
COMMIT;
\set VERBOSITY sqlstate
BEGIN;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = balance - 1 WHERE id = 1', expect => 2);
COMMIT;
\set VERBOSITY default
BEGIN;
INSERT INTO ledger (note) VALUES ('not to be seen');
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = balance + 1 WHERE id = 1', expect => 1);
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = balance - 1 WHERE id = 99', expect => 1);
COMMIT;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0', expect => 1);
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0 WHERE id = 1', expect => -1);
SELECT balance FROM dtx.query('bank_a', 'SELECT id, balance FROM account ORDER BY id') AS t(id int, balance bigint);
SELECT balance FROM dtx.query('bank_b', 'SELECT id, balance FROM account ORDER BY id') AS t(id int, balance bigint);
SELECT count(*) FROM ledger;
\i :end
