-- Where dtx can be called: functions, blocks, triggers, procedures, statements.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
SET SESSION AUTHORIZATION regress_dtx_app;
CREATE VIEW balances AS
SELECT 'bank_a' AS node, * FROM dtx.query('bank_a', 'SELECT id, balance FROM account') AS t(id int, balance bigint)
UNION ALL
SELECT 'bank_b', * FROM dtx.query('bank_b', 'SELECT id, balance FROM account') AS t(id int, balance bigint);

-- two nodes in one statement
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = balance - 1 WHERE id = 1') AS a,
       dtx.exec('bank_b', 'UPDATE account SET balance = balance + 1 WHERE id = 1') AS b;
SELECT * FROM balances WHERE id = 1 ORDER BY node;
SELECT a.owner, b.owner
  FROM dtx.query('bank_a', 'SELECT id, owner FROM account') AS a(id int, owner text)
  JOIN dtx.query('bank_b', 'SELECT id, owner FROM account') AS b(id int, owner text) USING (id)
 ORDER BY id;
-- once for each row, with the values of the row
INSERT INTO ledger (note)
SELECT format('account %s: %s', i, dtx.exec('bank_' || n, 'UPDATE account SET owner = owner WHERE id = $1', ARRAY[i::text]))
  FROM unnest(ARRAY['a', 'b']) n, generate_series(2, 4) i ORDER BY n, i;
TABLE ledger;
SELECT i, q.* FROM generate_series(1, 3) i,
       LATERAL dtx.query('bank_a', 'SELECT owner FROM account WHERE id = $1', ARRAY[i::text]) AS q(owner text) ORDER BY i;
UPDATE ledger SET note = 'changed ' || dtx.exec('bank_b', 'UPDATE account SET balance = balance + 1 WHERE id = 1') WHERE id < 3;
SELECT * FROM balances WHERE id = 1 ORDER BY node;
DELETE FROM ledger WHERE dtx.exec('bank_b', 'UPDATE account SET balance = balance - 2 WHERE id = 1') < 1;
CREATE TABLE copied AS SELECT * FROM dtx.query('bank_a', 'SELECT id, owner FROM account') AS t(id int, owner text);
SELECT * FROM copied ORDER BY id;

-- outside of a transaction each call is one of its own: the first stays
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 500 WHERE id = 2');
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = -1 WHERE id = 2');
SELECT * FROM balances WHERE id = 2 ORDER BY node;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 1000 WHERE id = 2');
-- a string of several statements is one transaction
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0 WHERE id = 2')\; SELECT dtx.exec('bank_b', 'UPDATE account SET balance = -1 WHERE id = 2');
SELECT * FROM balances WHERE id = 2 ORDER BY node;

-- SQL and PL/pgSQL functions
CREATE FUNCTION transfer(from_node name, to_node name, amount bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM dtx.exec(from_node, 'UPDATE account SET balance = balance - $1 WHERE id = 2', ARRAY[amount::text], 1);
    PERFORM dtx.exec(to_node, 'UPDATE account SET balance = balance + $1 WHERE id = 2', ARRAY[amount::text], 1);
    INSERT INTO ledger (note) VALUES (format('%s from %s to %s', amount, from_node, to_node));
    RETURN 'done';
END $$;
CREATE FUNCTION total() RETURNS numeric LANGUAGE sql AS 'SELECT sum(balance) FROM balances';
SELECT transfer('bank_a', 'bank_b', 100);
SELECT transfer('bank_a', 'bank_b', 1000);
SELECT transfer('bank_b', 'bank_a', 50);
SELECT * FROM balances WHERE id = 2 ORDER BY node;
SELECT total();
SELECT note FROM ledger ORDER BY id DESC LIMIT 2;
-- prepared statements of the session
PREPARE move(bigint) AS SELECT transfer('bank_a', 'bank_b', $1);
EXECUTE move(1);
EXECUTE move(2);
DEALLOCATE move;

-- DO blocks
DO $$
BEGIN
    FOR i IN 1..5 LOOP
        PERFORM transfer('bank_a', 'bank_b', i);
    END LOOP;
END $$;
DO $$
BEGIN
    FOR i IN 1..5 LOOP
        PERFORM transfer('bank_a', 'bank_b', i * 300);
    END LOOP;
END $$;
SELECT * FROM balances WHERE id = 2 ORDER BY node;

-- triggers
CREATE FUNCTION mirror() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM dtx.exec('bank_b', 'UPDATE account SET owner = $1 WHERE id = $2', ARRAY[NEW.owner, NEW.id::text], 1);
    RETURN NEW;
END $$;
CREATE TRIGGER mirror BEFORE UPDATE ON copied FOR EACH ROW EXECUTE FUNCTION mirror();
UPDATE copied SET owner = owner || ' of b' WHERE id < 3;
SELECT * FROM dtx.query('bank_b', 'SELECT id, owner FROM account ORDER BY id') AS t(id int, owner text);
INSERT INTO copied VALUES (77, 'not there');
UPDATE copied SET owner = owner || ' twice';
SELECT * FROM copied ORDER BY id;
SELECT * FROM dtx.query('bank_b', 'SELECT id, owner FROM account ORDER BY id') AS t(id int, owner text);
DROP TRIGGER mirror ON copied;
-- a deferred one calls dtx while the transaction commits
CREATE CONSTRAINT TRIGGER mirror_later AFTER UPDATE ON copied DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION mirror();
BEGIN;
UPDATE copied SET owner = 'later' WHERE id = 1;
SELECT * FROM dtx.query('bank_b', 'SELECT id, owner FROM account WHERE id = 1') AS t(id int, owner text);
COMMIT;
SELECT * FROM dtx.query('bank_b', 'SELECT id, owner FROM account WHERE id = 1') AS t(id int, owner text);
UPDATE copied SET owner = 'later still';
SELECT * FROM dtx.query('bank_b', 'SELECT id, owner FROM account ORDER BY id') AS t(id int, owner text);

-- procedures: COMMIT and ROLLBACK inside end the global transaction, each time
CREATE PROCEDURE pay(amounts bigint[]) LANGUAGE plpgsql AS $$
DECLARE
    amount bigint;
BEGIN
    FOREACH amount IN ARRAY amounts LOOP
        PERFORM transfer('bank_b', 'bank_a', amount);
        IF amount % 2 = 0 THEN
            COMMIT;
        ELSE
            ROLLBACK;
        END IF;
    END LOOP;
    PERFORM transfer('bank_b', 'bank_a', 7);
END $$;
CALL pay('{10,1,20,3}');
SELECT * FROM balances WHERE id = 2 ORDER BY node;
CALL pay('{10,1,5000}');
SELECT * FROM balances WHERE id = 2 ORDER BY node;
SELECT total();
DO $$
BEGIN
    PERFORM dtx.exec('bank_a', 'UPDATE account SET balance = 1 WHERE id = 3');
    COMMIT AND CHAIN;
    PERFORM dtx.exec('bank_a', 'UPDATE account SET balance = 2 WHERE id = 3');
    ROLLBACK AND CHAIN;
    PERFORM dtx.exec('bank_b', 'UPDATE account SET balance = 3 WHERE id = 3');
END $$;
SELECT * FROM balances WHERE id = 3 ORDER BY node;

-- cursors
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM balances ORDER BY node, id;
FETCH 2 FROM c;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0 WHERE id = 3');
FETCH 2 FROM c;
COMMIT;
BEGIN;
DECLARE c CURSOR WITH HOLD FOR SELECT node, id FROM balances WHERE id = 3 ORDER BY node;
COMMIT;
FETCH ALL FROM c;
CLOSE c;
DO $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT * FROM dtx.query('bank_a', 'SELECT id FROM account ORDER BY id') AS t(id int) LOOP
        PERFORM dtx.exec('bank_b', 'UPDATE account SET balance = balance + 1 WHERE id = $1', ARRAY[r.id::text], 1);
        COMMIT;
    END LOOP;
END $$;

-- the same node as two roles: two branches, of which each does not see the other
\connect :bank_a
SET SESSION AUTHORIZATION regress_dtx_other;
CREATE TABLE private (who text);
\connect :coordinator
DO $$ BEGIN
    EXECUTE $x$CREATE USER MAPPING FOR regress_dtx_other SERVER bank_a OPTIONS (user 'regress_dtx_other', password 'regress-other')$x$;
END $$;
GRANT USAGE ON FOREIGN SERVER bank_a TO regress_dtx_other;
SET SESSION AUTHORIZATION regress_dtx_other;
CREATE FUNCTION as_other() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM dtx.exec('bank_a', 'INSERT INTO private VALUES (current_user)');
    RETURN (SELECT who FROM dtx.query('bank_a', 'SELECT current_user || '' sees '' || balance FROM public.account WHERE id = 1') AS t(who text));
EXCEPTION WHEN insufficient_privilege THEN
    RETURN 'refused: ' || SQLERRM;
END $$;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.exec('bank_a', 'GRANT SELECT ON account TO regress_dtx_other');
BEGIN;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 123 WHERE id = 1');
SELECT as_other();
SELECT * FROM dtx.query('bank_a', 'SELECT current_user || '' sees '' || balance FROM account WHERE id = 1') AS t(who text);
COMMIT;
SELECT as_other();
BEGIN;
SELECT as_other();
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = -123 WHERE id = 1');
COMMIT;
SET SESSION AUTHORIZATION regress_dtx_other;
SELECT * FROM dtx.query('bank_a', 'TABLE private') AS t(who text);
\i :end
