-- Savepoints and exception blocks: what is undone on the node, and only that.
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
SELECT dtx.exec('bank_a', 'CREATE TABLE note (t text)');
SELECT dtx.exec('bank_b', 'CREATE TABLE note (t text)');
CREATE FUNCTION put(node name, t text) RETURNS void LANGUAGE sql AS
$$ SELECT dtx.exec(node, 'INSERT INTO note VALUES ($1)', ARRAY[t], 1) $$;
-- what is there, and that both banks and the local table have the same
CREATE FUNCTION put_all(t text) RETURNS void LANGUAGE sql AS
$$ SELECT put('bank_a', t), put('bank_b', t); INSERT INTO ledger (note) VALUES (t) $$;
CREATE FUNCTION notes(OUT bank_a text, OUT bank_b text, OUT here text) LANGUAGE sql AS $$
    SELECT (SELECT t FROM dtx.query('bank_a', 'SELECT string_agg(t, '' '' ORDER BY t) FROM note') AS t(t text)),
           (SELECT t FROM dtx.query('bank_b', 'SELECT string_agg(t, '' '' ORDER BY t) FROM note') AS t(t text)),
           (SELECT string_agg(note, ' ' ORDER BY note) FROM ledger) $$;
CREATE FUNCTION forget() RETURNS void LANGUAGE sql AS
$$ SELECT dtx.exec('bank_a', 'DELETE FROM note'), dtx.exec('bank_b', 'DELETE FROM note'); DELETE FROM ledger $$;

--
-- ROLLBACK TO, RELEASE, and going on
--
BEGIN;
SELECT put_all('a');
SAVEPOINT one;
SELECT put_all('b');
SAVEPOINT two;
SELECT put_all('c');
ROLLBACK TO two;
SELECT notes();
SELECT put_all('d');
ROLLBACK TO two;
ROLLBACK TO two;
SELECT put_all('e');
RELEASE two;
SELECT put_all('f');
SELECT notes();
ROLLBACK TO one;
SELECT put_all('g');
RELEASE one;
SELECT put_all('h');
COMMIT;
SELECT notes();
SELECT forget();

-- nothing is called between ROLLBACK TO and COMMIT
BEGIN;
SELECT put_all('a');
SAVEPOINT one;
SELECT put_all('b');
ROLLBACK TO one;
COMMIT;
SELECT notes();
SELECT forget();
-- the same, to be committed in one phase
BEGIN;
SELECT put('bank_a', 'a');
SAVEPOINT one;
SELECT put('bank_a', 'b');
ROLLBACK TO one;
COMMIT;
SELECT notes();
SELECT forget();
-- nothing is called between RELEASE and COMMIT, or without either
BEGIN;
SAVEPOINT one;
SELECT put_all('a');
RELEASE one;
COMMIT;
BEGIN;
SAVEPOINT one;
SELECT put_all('b');
SAVEPOINT two;
SELECT put_all('c');
COMMIT;
SELECT notes();
SELECT forget();
-- a released savepoint inside of one that is rolled back
BEGIN;
SELECT put_all('a');
SAVEPOINT one;
SAVEPOINT two;
SELECT put_all('b');
RELEASE two;
SELECT put_all('c');
ROLLBACK TO one;
SELECT put_all('d');
COMMIT;
SELECT notes();
SELECT forget();
-- what was released stays when a later one, which does nothing there, is rolled back
BEGIN;
SELECT put('bank_a', 'a');
SAVEPOINT one;
SELECT put('bank_a', 'b');
RELEASE one;
SAVEPOINT two;
ROLLBACK TO two;
SELECT put('bank_b', 'c');
ROLLBACK TO two;
SELECT put('bank_a', 'd');
RELEASE two;
COMMIT;
SELECT notes();
SELECT forget();
-- savepoints with the same name, and many levels at once
BEGIN;
SAVEPOINT s;
SELECT put_all('a');
SAVEPOINT s;
SAVEPOINT s;
SAVEPOINT s;
SELECT put_all('b');
ROLLBACK TO s;
SELECT put_all('c');
RELEASE s;
RELEASE s;
SELECT put_all('d');
ROLLBACK TO s;
SELECT put_all('e');
RELEASE s;
ROLLBACK TO s;
SELECT put_all('f');
COMMIT;
SELECT notes();
SELECT forget();
-- of two nodes one is used only inside
BEGIN;
SELECT put('bank_a', 'a');
SAVEPOINT one;
SELECT put('bank_b', 'b');
ROLLBACK TO one;
SELECT put('bank_a', 'c');
COMMIT;
SELECT notes();
SELECT forget();
-- the first use of a node is inside a subtransaction that is rolled back
BEGIN;
SAVEPOINT one;
SELECT put_all('a');
ROLLBACK TO one;
COMMIT;
SELECT notes();
BEGIN;
SAVEPOINT one;
SELECT put_all('a');
ROLLBACK TO one;
SELECT put_all('b');
SAVEPOINT two;
SELECT put_all('c');
COMMIT;
SELECT notes();
SELECT forget();
-- everything is rolled back in the end
BEGIN;
SELECT put_all('a');
SAVEPOINT one;
SELECT put_all('b');
RELEASE one;
ROLLBACK;
SELECT notes();
-- rolled back while an error is there
BEGIN;
SELECT put_all('a');
SAVEPOINT one;
SELECT put_all('b');
SELECT 1 / 0;
COMMIT;
SELECT notes();

--
-- Errors of the node inside an exception block
--
CREATE FUNCTION try(node name, sql text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN dtx.exec(node, sql) || ' rows';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
BEGIN;
SELECT put_all('a');
SELECT try('bank_a', 'INSERT INTO account VALUES (1, ''again'', 1)');
SELECT put_all('b');
SELECT try('bank_a', 'UPDATE account SET balance = -1');
SELECT try('bank_a', 'INSERT INTO note VALUES (''x''); SELECT 1/0; INSERT INTO note VALUES (''y'')');
SELECT try('bank_a', 'INSERT INTO note VALUES (''c'')');
SELECT try('bank_b', 'SELEKT 1');
SELECT try('bank_b', 'SELECT nothing');
SELECT try('bank_a', 'INSERT INTO note VALUES ($1)');
SELECT notes();
COMMIT;
SELECT notes();
SELECT forget();
-- as the very first thing in the branch
BEGIN;
SELECT try('bank_a', 'SELEKT 1');
SELECT try('bank_b', 'SELECT nothing');
SELECT put_all('a');
COMMIT;
SELECT notes();
SELECT forget();
BEGIN;
SELECT try('bank_a', 'SELECT 1/0');
SELECT try('bank_a', 'SELECT 1/0');
SELECT try('bank_b', 'SELEKT');
COMMIT;
BEGIN;
SELECT try('bank_a', 'SELECT 1/0');
SAVEPOINT one;
SELECT try('bank_a', 'INSERT INTO note VALUES (''a'')');
SELECT try('bank_a', 'SELECT 1/0');
ROLLBACK TO one;
SELECT try('bank_a', 'INSERT INTO note VALUES (''b'')');
SELECT try('bank_a', 'SELECT 1/0');
COMMIT;
SELECT notes();
SELECT forget();
-- a string that this server can read, and the node cannot
RESET SESSION AUTHORIZATION;
\connect :bank_a
ALTER ROLE regress_dtx_app IN DATABASE dtx_regression_a SET backslash_quote = off;
\connect :coordinator
SET SESSION AUTHORIZATION regress_dtx_app;
-- as the very first thing
BEGIN;
SELECT try('bank_a', $$SELECT E'\''$$);
SELECT put_all('a');
COMMIT;
-- later: it fails the whole branch, since it has no savepoint before it
BEGIN;
SELECT put_all('b');
SELECT try('bank_a', $$SELECT E'\''$$);
SELECT try('bank_a', 'SELECT 1');
COMMIT;
-- in a block that has used the node before, it is undone with the block
BEGIN;
SELECT put_all('c');
SAVEPOINT one;
SELECT put_all('d');
SELECT dtx.exec('bank_a', $$SELECT E'\''$$);
ROLLBACK TO one;
SELECT put_all('e');
COMMIT;
SELECT notes();
SELECT forget();
-- a statement with parameters that fails, again and again
DO $$
BEGIN
    FOR i IN 1..20 LOOP
        BEGIN
            PERFORM dtx.exec('bank_a', 'INSERT INTO account SELECT $1::int, ''x'', 1 / ($1 % 2)', ARRAY[(1000 + i)::text]);
        EXCEPTION WHEN division_by_zero THEN
            NULL;
        END;
    END LOOP;
END $$;
SELECT count, prepared <= 100 AS few FROM dtx.query('bank_a', 'SELECT (SELECT count(*) FROM account WHERE id > 1000),
    (SELECT count(*) FROM pg_prepared_statements)') AS t(count int, prepared int);
-- nested blocks: the inner one fails, the outer one, both
DO $$
BEGIN
    PERFORM put_all('a');
    BEGIN
        PERFORM put_all('b');
        BEGIN
            PERFORM put_all('c');
            PERFORM dtx.exec('bank_b', 'SELECT 1/0');
        EXCEPTION WHEN division_by_zero THEN
            PERFORM put_all('d');
        END;
        BEGIN
            PERFORM put_all('e');
        EXCEPTION WHEN division_by_zero THEN
            PERFORM put_all('never');
        END;
    EXCEPTION WHEN division_by_zero THEN
        PERFORM put_all('never');
    END;
    BEGIN
        PERFORM put_all('f');
        BEGIN
            PERFORM put_all('g');
            RAISE unique_violation;
        EXCEPTION WHEN division_by_zero THEN
            PERFORM put_all('never');
        END;
    EXCEPTION WHEN unique_violation THEN
        PERFORM put_all('h');
        BEGIN
            PERFORM dtx.exec('bank_a', 'INSERT INTO account VALUES (1, ''again'', 1)');
        EXCEPTION WHEN unique_violation THEN
            PERFORM put_all('i');
        END;
    END;
END $$;
SELECT notes();
SELECT forget();
-- an error that nobody catches undoes all of it
DO $$
BEGIN
    PERFORM put_all('a');
    BEGIN
        PERFORM put_all('b');
    EXCEPTION WHEN division_by_zero THEN
        PERFORM put_all('never');
    END;
    PERFORM dtx.exec('bank_b', 'SELECT 1/0');
END $$;
SELECT notes();

--
-- Thousands of blocks leave no pile over there
--
-- How many subtransactions a branch has open is seen by what its next row
-- is written with: each has an xid of its own, given in the order of depth.
CREATE FUNCTION depth(node name) RETURNS bigint LANGUAGE sql AS $$
    SELECT dtx.exec(node, 'INSERT INTO note VALUES (''depth'')');
    SELECT d FROM dtx.query(node, 'SELECT max(xmin::text::bigint) - pg_current_xact_id()::text::bigint
        FROM note WHERE t = ''depth''') AS t(d bigint) $$;
BEGIN;
SELECT depth('bank_a');
SAVEPOINT one;
SELECT depth('bank_a') > 0 AS deeper;
ROLLBACK;
-- none of these blocks fails
DO $$
BEGIN
    FOR i IN 1..3000 LOOP
        BEGIN
            PERFORM dtx.exec('bank_a', 'SELECT $1', ARRAY[i::text]);
        EXCEPTION WHEN division_by_zero THEN
            NULL;
        END;
    END LOOP;
    RAISE NOTICE 'few prepared statements: %', (SELECT n <= 100 FROM dtx.query('bank_a',
        'SELECT count(*) FROM pg_prepared_statements') AS t(n int));
    RAISE NOTICE 'depth at the end: %', depth('bank_a');
END $$;
-- all of them fail
DO $$
BEGIN
    FOR i IN 1..1000 LOOP
        BEGIN
            PERFORM dtx.exec('bank_a', 'SELECT 1 / $1', ARRAY['0']);
        EXCEPTION WHEN division_by_zero THEN
            NULL;
        END;
    END LOOP;
    RAISE NOTICE 'few prepared statements: %', (SELECT n <= 100 FROM dtx.query('bank_a',
        'SELECT count(*) FROM pg_prepared_statements') AS t(n int));
    RAISE NOTICE 'depth at the end: %', depth('bank_a');
END $$;
-- what one block has done stays when the next one fails
DO $$
BEGIN
    BEGIN
        PERFORM put_all('a');
    EXCEPTION WHEN division_by_zero THEN
        NULL;
    END;
    BEGIN
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
        NULL;
    END;
    BEGIN
        PERFORM dtx.exec('bank_b', 'SELECT 1 / 0');
    EXCEPTION WHEN division_by_zero THEN
        NULL;
    END;
END $$;
SELECT notes();
-- every other one, with a block around them, and blocks that do nothing there
DO $$
DECLARE
    kept bigint;
BEGIN
    PERFORM depth('bank_a');
    BEGIN
        FOR i IN 1..3000 LOOP
            BEGIN
                IF i % 3 = 0 THEN
                    PERFORM put('bank_a', 'n' || i);
                END IF;
                IF i % 2 = 0 THEN
                    RAISE division_by_zero;
                END IF;
            EXCEPTION WHEN division_by_zero THEN
                NULL;
            END;
        END LOOP;
    EXCEPTION WHEN unique_violation THEN
        NULL;
    END;
    SELECT n INTO kept FROM dtx.query('bank_a', 'SELECT count(*) FROM note WHERE t LIKE ''n%''') AS t(n int);
    RAISE NOTICE '% rows of 500 are kept', kept;
END $$;
\i :end
