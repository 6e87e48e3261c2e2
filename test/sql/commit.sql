-- COMMIT: all or nothing, in one phase or two, and what it leaves behind.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
SET SESSION AUTHORIZATION regress_dtx_app;
\pset format unaligned
CREATE VIEW balances AS
SELECT 'bank_a' AS node, * FROM dtx.query('bank_a', 'SELECT id, balance FROM account') AS t(id int, balance bigint)
UNION ALL
SELECT 'bank_b', * FROM dtx.query('bank_b', 'SELECT id, balance FROM account') AS t(id int, balance bigint);
CREATE FUNCTION take(node name, amount int) RETURNS bigint LANGUAGE sql AS
$$ SELECT dtx.exec(node, 'UPDATE account SET balance = balance - $1 WHERE id = 1', ARRAY[amount::text], 1) $$;
-- counters of dtx.stat since the last call
CREATE TABLE seen AS SELECT * FROM dtx.stat;
CREATE FUNCTION counted(OUT two_phases bigint, OUT one_phase bigint, OUT aborted bigint, OUT not_prepared bigint,
    OUT left_pending bigint) LANGUAGE plpgsql AS $$
DECLARE
    n record;
    s record;
BEGIN
    SELECT * INTO s FROM seen;
    SELECT * INTO n FROM dtx.stat;
    two_phases := n.committed - s.committed;
    one_phase := n.one_phase - s.one_phase;
    aborted := n.aborted - s.aborted;
    not_prepared := n.prepare_failed - s.prepare_failed;
    left_pending := n.left_pending - s.left_pending;
    DELETE FROM seen;
    INSERT INTO seen SELECT * FROM dtx.stat;
END $$;

--
-- One phase or two
--
-- a single writer
SELECT take('bank_a', 1);
SELECT * FROM counted();
BEGIN;
SELECT take('bank_a', 1);
SELECT take('bank_a', 1);
COMMIT;
SELECT * FROM counted();
-- and others that only read
BEGIN;
SELECT take('bank_a', 1);
SELECT count(*) FROM balances;
COMMIT;
SELECT * FROM counted();
-- writing by a function, in a SELECT
SELECT dtx.exec('bank_b', 'CREATE FUNCTION add() RETURNS void LANGUAGE sql AS ''UPDATE account SET balance = balance + 1''');
SELECT dtx.exec('bank_b', 'SELECT add()');
SELECT * FROM counted();
-- nobody writes
SELECT count(*) FROM balances;
SELECT * FROM counted();
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM balances;
ROLLBACK;
SELECT * FROM counted();
-- two phases: two writers; one and the local database; one, and the gid is asked for;
-- when told so; under SERIALIZABLE
BEGIN;
SELECT take('bank_a', 1), take('bank_b', -1);
COMMIT;
SELECT * FROM counted();
BEGIN;
INSERT INTO ledger (note) VALUES ('local');
SELECT take('bank_a', 1);
COMMIT;
SELECT * FROM counted();
BEGIN;
SELECT take('bank_b', 1);
INSERT INTO ledger (note) VALUES ('after');
COMMIT;
SELECT * FROM counted();
BEGIN;
SELECT dtx.current_gid() IS NOT NULL;
SELECT take('bank_a', 1);
COMMIT;
SELECT * FROM counted();
SET dtx.one_phase = off;
SELECT take('bank_a', 1);
RESET dtx.one_phase;
SELECT * FROM counted();
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT take('bank_a', 1);
COMMIT;
SELECT * FROM counted();
-- one of them by a function
BEGIN;
SELECT dtx.exec('bank_b', 'SELECT add()');
SELECT take('bank_a', 1);
COMMIT;
SELECT * FROM counted();
-- rolled back
BEGIN;
SELECT take('bank_a', 1), take('bank_b', -1);
ROLLBACK;
SELECT * FROM counted();
SELECT * FROM balances WHERE id = 1 ORDER BY node;

--
-- Deferred constraints and triggers of a node
--
SELECT dtx.exec('bank_a', $x$
    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
    CREATE FUNCTION says_no() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN RAISE EXCEPTION ''vetoed %'', NEW.id USING ERRCODE = ''XY001'', DETAIL = ''as asked for''; END';
    CREATE TABLE veto (id int);
    CREATE CONSTRAINT TRIGGER veto AFTER INSERT ON veto DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION says_no()$x$);
SELECT * FROM counted();
-- in one phase
SELECT dtx.exec('bank_a', 'INSERT INTO child VALUES (1, 1)');
SELECT dtx.exec('bank_a', 'INSERT INTO veto VALUES (1)');
SELECT * FROM counted();
-- in two: all of it is undone
BEGIN;
INSERT INTO ledger (note) VALUES ('refused');
SELECT take('bank_b', 100);
SELECT dtx.exec('bank_a', 'INSERT INTO child VALUES (1, 1)');
COMMIT;
BEGIN;
INSERT INTO ledger (note) VALUES ('refused');
SELECT dtx.exec('bank_a', 'INSERT INTO veto VALUES (2)');
SELECT take('bank_b', 100);
COMMIT;
SELECT * FROM counted();
SELECT count(*) FROM ledger WHERE note = 'refused';
SELECT * FROM balances WHERE id = 1 ORDER BY node;
SELECT * FROM dtx.query('bank_a', 'SELECT (SELECT count(*) FROM child), (SELECT count(*) FROM veto)') AS t(c int, v int);
-- found early
BEGIN;
SELECT take('bank_b', 100);
SAVEPOINT s;
SELECT dtx.exec('bank_a', 'INSERT INTO child VALUES (1, 1)');
SELECT dtx.exec('bank_a', 'SET CONSTRAINTS ALL IMMEDIATE');
ROLLBACK TO s;
SELECT take('bank_b', -100);
COMMIT;
-- satisfied in the end
BEGIN;
SELECT dtx.exec('bank_a', 'INSERT INTO child VALUES (1, 1)');
SELECT take('bank_b', 0);
SELECT dtx.exec('bank_a', 'INSERT INTO parent VALUES (1)');
COMMIT;
SELECT * FROM dtx.query('bank_a', 'TABLE child') AS t(id int, parent int);
SELECT * FROM counted();
-- a deferred constraint of the local database: refused before anything is prepared
CREATE TABLE local_parent (id int PRIMARY KEY);
CREATE TABLE local_child (id int REFERENCES local_parent DEFERRABLE INITIALLY DEFERRED);
BEGIN;
INSERT INTO local_child VALUES (1);
SELECT take('bank_a', 1), take('bank_b', 1);
COMMIT;
SELECT * FROM counted();
SELECT * FROM balances WHERE id = 1 ORDER BY node;

--
-- What cannot be prepared: refused with a hint, everywhere undone
--
BEGIN;
INSERT INTO ledger (note) VALUES ('refused');
SELECT dtx.exec('bank_a', 'CREATE TEMP TABLE scratch (a int)');
SELECT take('bank_b', 100);
COMMIT;
BEGIN;
INSERT INTO ledger (note) VALUES ('refused');
SELECT take('bank_a', 100);
SELECT dtx.exec('bank_a', 'DECLARE held CURSOR WITH HOLD FOR SELECT 1');
COMMIT;
-- NOTIFY with writes
BEGIN;
INSERT INTO ledger (note) VALUES ('refused');
SELECT take('bank_a', 100);
SELECT dtx.exec('bank_a', 'NOTIFY news');
COMMIT;
SELECT count(*) FROM ledger WHERE note = 'refused';
SELECT * FROM balances WHERE id = 1 ORDER BY node;

--
-- NOTIFY
--
RESET SESSION AUTHORIZATION;
SELECT dblink_connect('listener', format('host=127.0.0.1 port=%s dbname=dtx_regression_a user=regress_dtx_app password=regress-app',
    current_setting('port')));
SELECT dblink_exec('listener', 'LISTEN news');
-- its own query makes libpq read what has arrived
CREATE FUNCTION heard(expected text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    heard text;
    said text := '';
BEGIN
    FOR i IN 1..200 LOOP
        PERFORM * FROM dblink('listener', 'SELECT 1') AS t(a int);
        SELECT string_agg(extra, ', ') INTO heard FROM dblink_get_notify('listener');
        said := concat_ws(', ', nullif(said, ''), heard);
        EXIT WHEN said LIKE '%' || expected || '%';
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN said;
END $$;
SET SESSION AUTHORIZATION regress_dtx_app;
-- alone
SELECT dtx.exec('bank_a', 'NOTIFY news, ''one''');
-- with writes elsewhere
BEGIN;
SELECT dtx.exec('bank_a', 'NOTIFY news, ''two''');
SELECT take('bank_b', 1);
INSERT INTO ledger (note) VALUES ('notified');
COMMIT;
-- not when the transaction aborts, late or early
BEGIN;
SELECT dtx.exec('bank_a', 'NOTIFY news, ''never 1''');
ROLLBACK;
SELECT dtx.exec('bank_b', $x$
    CREATE FUNCTION says_no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''vetoed''; END';
    CREATE TABLE veto (id int);
    CREATE CONSTRAINT TRIGGER veto AFTER INSERT ON veto DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION says_no()$x$);
BEGIN;
SELECT dtx.exec('bank_a', 'SELECT pg_notify(''news'', ''never 2'')');
SELECT dtx.exec('bank_b', 'INSERT INTO veto VALUES (1)');
INSERT INTO ledger (note) VALUES ('refused');
COMMIT;
BEGIN;
SELECT dtx.exec('bank_a', 'SELECT pg_notify(''news'', ''never 3'')');
SELECT dtx.exec('bank_b', 'INSERT INTO veto VALUES (1)');
COMMIT;
-- in one phase, with writes
BEGIN;
SELECT take('bank_a', 1);
SELECT dtx.exec('bank_a', 'NOTIFY news, ''three''');
COMMIT;
RESET SESSION AUTHORIZATION;
SELECT heard('three');
SELECT dblink_disconnect('listener');
SET SESSION AUTHORIZATION regress_dtx_app;

--
-- The order of things does not matter: DDL, many branches, repeated COMMIT
--
BEGIN;
CREATE TABLE local_ddl (a int);
SELECT dtx.exec('bank_a', 'CREATE TABLE remote_ddl (a int)');
SELECT dtx.exec('bank_b', 'CREATE TABLE remote_ddl (a int)');
COMMIT;
COMMIT;
SELECT dtx.exec('bank_a', 'SELECT * FROM remote_ddl'), dtx.exec('bank_b', 'SELECT * FROM remote_ddl');
BEGIN;
SELECT dtx.exec('bank_a', 'DROP TABLE remote_ddl'), dtx.exec('bank_b', 'DROP TABLE remote_ddl');
DROP TABLE local_ddl;
ROLLBACK;
SELECT dtx.exec('bank_a', 'SELECT * FROM remote_ddl'), dtx.exec('bank_b', 'SELECT * FROM remote_ddl');
-- two hundred in a row, which leave nothing in the status table: see the end
SELECT FROM counted();
DO $$
BEGIN
    FOR i IN 1..200 LOOP
        PERFORM take('bank_a', 1), take('bank_b', -1);
        COMMIT;
    END LOOP;
END $$;
SELECT * FROM counted();
SELECT * FROM balances WHERE id = 1 ORDER BY node;
\i :end
