-- The participant's side of sagas and TCC: dtx.apply, dtx.apply_try,
-- dtx.open_tries, dtx.ongoing, dtx.saga_context, called as a coordinator does.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
\pset format unaligned
\pset tuples_only on
CREATE FUNCTION connection(role text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF role <> ALL (COALESCE(dblink_get_connections(), '{}')) THEN
        PERFORM dblink_connect(role, format('host=127.0.0.1 port=%s dbname=%s user=regress_dtx_%s password=regress-%s',
            current_setting('port'), current_database(), role, role));
    END IF;
    RETURN role;
END $$;
-- one call of dtx.apply in another session; fields of a request: step, op, sql, args, ms, xid
CREATE FUNCTION apply(requests jsonb, budget int DEFAULT 0, watermark text DEFAULT '0', role text DEFAULT 'app',
    lineage bigint DEFAULT 1)
    RETURNS TABLE (step text, verdict text, sqlstate text, message text, result text) LANGUAGE sql AS $$
    SELECT r->>'step', a[n * 4 - 3], a[n * 4 - 2], a[n * 4 - 1], a[n * 4]
      FROM (SELECT format('CALL dtx.apply(%s, %L, %s, %L, %L, %L, %L, %L, %L, %L, %L, %L, %L, %L)',
                lineage, watermark, budget,
                array_agg(COALESCE(r->>'xid', '100') ORDER BY n), array_agg(7 ORDER BY n), array_agg(r->>'step' ORDER BY n),
                array_agg(r->>'op' ORDER BY n), array_agg(3 ORDER BY n), array_agg('a gid'::text ORDER BY n),
                array_agg('name of ' || (r->>'step') ORDER BY n),
                array_agg(COALESCE(r->>'sql', '') ORDER BY n),
                array_agg(CASE WHEN r ? 'sql' THEN n ELSE 0 END ORDER BY n),
                array_agg(r->>'args' ORDER BY n), array_agg(COALESCE(r->>'ms', '0') ORDER BY n)) AS call
              FROM jsonb_array_elements(requests) WITH ORDINALITY AS e(r, n)) c,
           dblink(connection(role), call) AS t(a text[]),
           jsonb_array_elements(requests) WITH ORDINALITY AS e(r, n)
     ORDER BY n $$;
CREATE FUNCTION apply_try(step int, try text, confirm text, cancel text, arguments text DEFAULT NULL, ms int DEFAULT 0,
    role text DEFAULT 'app')
    RETURNS SETOF text LANGUAGE sql AS $$
    SELECT a::text FROM dblink(connection(role), format('CALL dtx.apply_try(1, 2, %L, 7, %s, %L, 3, %L, 4, %L, %L, %L, %L, %s)',
        '100', step, 'a gid', '50', try, confirm, cancel, arguments, ms)) AS t(a text[]) $$;
-- what the other session does besides
CREATE FUNCTION run(sql text, role text DEFAULT 'app') RETURNS SETOF text LANGUAGE sql AS $$
    SELECT * FROM dblink(connection(role), sql) AS t(x text) $$;
CREATE VIEW barrier AS SELECT step, state, pg_get_userbyid(owner) AS owner, result FROM dtx.barrier ORDER BY xid, step;

SET SESSION AUTHORIZATION regress_dtx_app;
CREATE TABLE account (id int PRIMARY KEY, balance numeric CHECK (balance >= 0), note text, changed_at timestamptz);
INSERT INTO account VALUES (1, 100), (2, 100);
GRANT ALL ON account TO PUBLIC;
RESET SESSION AUTHORIZATION;

-- an action is applied once, and answered with its first row
SELECT * FROM apply('[{"step": 1, "op": "action", "sql": "UPDATE account SET balance = balance - $2 WHERE id = $1 RETURNING id, balance", "args": "{1,30}"}]');
SELECT * FROM apply('[{"step": 1, "op": "action", "sql": "UPDATE account SET balance = balance - $2 WHERE id = $1 RETURNING id, balance", "args": "{1,30}"}]');
SELECT id, balance FROM account ORDER BY id;
SELECT * FROM barrier;
-- refused: nothing of it is left, and it may come again
SELECT * FROM apply('[{"step": 2, "op": "action", "sql": "UPDATE account SET balance = balance - $2 WHERE id = $1", "args": "{1,300}"}]');
SELECT * FROM apply('[{"step": 2, "op": "action", "sql": "UPDATE account SET balance = balance - $2 WHERE id = $1", "args": "{1,3}"}]');
-- compensation, twice; a late action is blocked
SELECT * FROM apply('[{"step": 1, "op": "compensation", "sql": "UPDATE account SET balance = balance + 30 WHERE id = 1 RETURNING balance"}]');
SELECT * FROM apply('[{"step": 1, "op": "compensation", "sql": "UPDATE account SET balance = balance + 30 WHERE id = 1 RETURNING balance"}]');
SELECT * FROM apply('[{"step": 1, "op": "action", "sql": "UPDATE account SET balance = 0"}]');
-- compensation of what never came: it must not come later
SELECT * FROM apply('[{"step": 3, "op": "compensation", "sql": "UPDATE account SET balance = 0"}]');
SELECT * FROM apply('[{"step": 3, "op": "compensation", "sql": "UPDATE account SET balance = 0"}]');
SELECT * FROM apply('[{"step": 3, "op": "action", "sql": "UPDATE account SET balance = 0"}]');
-- a compensation that fails may come again
SELECT * FROM apply('[{"step": 2, "op": "compensation", "sql": "SELECT 1 / 0"}]');
SELECT * FROM apply('[{"step": 2, "op": "compensation"}]');
-- operations of the other pattern do not fit
SELECT * FROM apply('[{"step": 2, "op": "confirm"}, {"step": 2, "op": "cancel"}]');
SELECT id, balance FROM account ORDER BY id;
SELECT * FROM barrier;

-- another role, superuser or not, gets nothing of it
SELECT * FROM apply('[{"step": 2, "op": "action", "sql": "UPDATE account SET balance = 0"},
    {"step": 1, "op": "compensation", "sql": "UPDATE account SET balance = 0"}]', role => 'other');
SELECT * FROM apply('[{"step": 4, "op": "action", "sql": "SELECT current_user, session_user"}]', role => 'other');
SELECT * FROM apply('[{"step": 4, "op": "compensation"}]');
SELECT run('SELECT count(*) FROM dtx.barrier');

-- parameters have the types that the statement gives them
CREATE TABLE typed (a int, b numeric, c text, d timestamptz, e jsonb, f bool, g int[], h bytea);
ALTER TABLE typed OWNER TO regress_dtx_app;
SELECT * FROM apply(jsonb_build_array(jsonb_build_object('step', 5, 'op', 'action',
    'sql', 'INSERT INTO typed VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING a, b, c, d = ''2020-01-01 00:00+00'' AS d, e, f, g, h',
    'args', ARRAY['1', '2.50', E'it''s "c", \\ {}', '2020-01-01 00:00+00', '{"k": [1]}', 'true', '{1,2}', '\x00ff']::text)));
SELECT * FROM apply('[{"step": 6, "op": "action", "sql": "INSERT INTO typed (a, c) VALUES ($1, $2) RETURNING *", "args": "{NULL,NULL}"}]');
SELECT * FROM apply('[
    {"step": 10, "op": "action", "sql": "SELECT $1 AS a, $3::int + 1 AS b", "args": "{x,y,3,z}"},
    {"step": 11, "op": "action", "sql": "SELECT $1::int", "args": "{x}"},
    {"step": 12, "op": "action", "sql": "SELECT $1::int, $2::int", "args": "{1}"},
    {"step": 13, "op": "action", "sql": "SELECT $1::int", "args": "no array"},
    {"step": 14, "op": "action", "sql": "SELEC 1"},
    {"step": 15, "op": "action", "sql": "COMMIT"},
    {"step": 16, "op": "action", "sql": "SAVEPOINT s"},
    {"step": 17, "op": "action", "sql": "COPY account TO stdout"},
    {"step": 18, "op": "action", "sql": "SELECT pg_sleep(0)"},
    {"step": 9, "op": "action", "sql": "DECLARE c CURSOR WITH HOLD FOR SELECT 1"},
    {"step": 19, "op": "action", "sql": ""},
    {"step": 20, "op": "action", "sql": "SELECT g, array[g] AS h FROM generate_series(1, 3) g"},
    {"step": 21, "op": "action", "sql": "CALL dtx.apply(1,''0'',0,''{}'',''{}'',''{}'',''{}'',''{}'',''{}'',''{}'',''{}'',''{}'',''{}'',''{}'')"},
    {"step": 22, "op": "action", "sql": "CALL dtx.apply_try(1,1,''1'',1,1,NULL,1,''1'',1,NULL,NULL,NULL,NULL,NULL)"}]');
-- a kept statement is made anew when its types have changed
SELECT * FROM apply('[{"step": 23, "op": "action", "sql": "INSERT INTO typed (a) VALUES ($1) RETURNING a", "args": "{5}"}]');
ALTER TABLE typed ALTER a TYPE text;
SELECT * FROM apply('[{"step": 24, "op": "action", "sql": "INSERT INTO typed (a) VALUES ($1) RETURNING a", "args": "{five}"}]');
SELECT run('SET search_path = pg_temp, public');
SELECT run('CREATE TEMP TABLE typed (a bool)');
SELECT * FROM apply('[{"step": 25, "op": "action", "sql": "INSERT INTO typed (a) VALUES ($1) RETURNING a", "args": "{yes}"}]');
SELECT run('RESET search_path');
SELECT run('DROP TABLE pg_temp.typed');
SELECT * FROM apply('[{"step": 26, "op": "action", "sql": "INSERT INTO typed (a) VALUES ($1) RETURNING a", "args": "{six}"}]');
-- more statements than are kept
SELECT count(*), sum((result->>'v')::int) FROM (
    SELECT a.result::jsonb AS result FROM generate_series(1000, 1599) s,
        apply(jsonb_build_array(jsonb_build_object('step', s, 'op', 'action', 'sql', format('SELECT $1::int + %s AS v', s), 'args', '{1}'))) a) x;

-- several statements: the last row that there is
SELECT * FROM apply('[
    {"step": 30, "op": "action", "sql": "CREATE TABLE made (i int); INSERT INTO made VALUES (1), (2) RETURNING i; UPDATE made SET i = i + 10"},
    {"step": 31, "op": "action", "sql": "DO $$BEGIN INSERT INTO made VALUES (3); END$$; SELECT array_agg(i ORDER BY i) FROM made;"},
    {"step": 32, "op": "action", "sql": "INSERT INTO made VALUES (4); SELECT 1 / 0"}]');
SELECT * FROM made ORDER BY i;
CREATE PROCEDURE proc(a int, INOUT b int) LANGUAGE plpgsql AS $$ BEGIN b := a * b; END $$;
CREATE PROCEDURE committing() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
SELECT * FROM apply('[
    {"step": 33, "op": "action", "sql": "CALL proc(2, 21)"},
    {"step": 34, "op": "action", "sql": "CALL proc($1, $2)", "args": "{3,4}"},
    {"step": 35, "op": "action", "sql": "CALL committing()"},
    {"step": 36, "op": "action", "sql": "EXPLAIN (COSTS OFF) SELECT"}]');

-- steps of a batch are undone one by one
SELECT * FROM apply('[
    {"step": 40, "op": "action", "sql": "INSERT INTO account VALUES (40, 1)"},
    {"step": 41, "op": "action", "sql": "INSERT INTO account VALUES (41, 1), (40, 1)"},
    {"step": 40, "op": "action", "sql": "INSERT INTO account VALUES (40, 1)"},
    {"step": 42, "op": "action", "sql": "INSERT INTO account VALUES (42, 1)"},
    {"step": 40, "op": "compensation", "sql": "DELETE FROM account WHERE id = 40"}]');
SELECT id, balance FROM account ORDER BY id;
-- what one has set is not there for the next, nor after the call
SELECT * FROM apply('[
    {"step": 43, "op": "action", "sql": "SET LOCAL work_mem = ''1MB''; SET lock_timeout = ''7s''; SELECT current_setting(''work_mem''), current_setting(''lock_timeout'')"},
    {"step": 44, "op": "action", "sql": "SELECT current_setting(''work_mem'') = ''1MB'', current_setting(''lock_timeout'')"},
    {"step": 45, "op": "action", "sql": "SET work_mem = ''2MB''; SELECT 1 / 0"},
    {"step": 46, "op": "action", "sql": "SELECT current_setting(''work_mem'') = ''2MB''"}]');
SELECT run('SHOW lock_timeout');
GRANT regress_dtx_other TO regress_dtx_app;
SELECT * FROM apply('[
    {"step": 47, "op": "action", "sql": "SET ROLE regress_dtx_other; SELECT current_user"},
    {"step": 48, "op": "action", "sql": "SELECT current_user"}]');
SELECT run('SELECT current_user');
REVOKE regress_dtx_other FROM regress_dtx_app;
SELECT step, state, owner FROM barrier WHERE step IN (47, 48);

-- deferred checks are made in the step that deferred them
CREATE TABLE child (account int CONSTRAINT child_account REFERENCES account DEFERRABLE INITIALLY DEFERRED,
    n int CONSTRAINT child_n UNIQUE DEFERRABLE);
ALTER TABLE child OWNER TO regress_dtx_app;
SELECT * FROM apply('[
    {"step": 50, "op": "action", "sql": "INSERT INTO child VALUES (50, 50); INSERT INTO account VALUES (50, 1)"},
    {"step": 51, "op": "action", "sql": "INSERT INTO child VALUES (51, 51)"},
    {"step": 52, "op": "action", "sql": "INSERT INTO child VALUES (52, 52); INSERT INTO account VALUES (52, 1)"},
    {"step": 50, "op": "compensation", "sql": "DELETE FROM account WHERE id = 50; DELETE FROM child WHERE account = 50"}]');
SELECT * FROM child ORDER BY n;
-- SET CONSTRAINTS would hold for other steps: alone only
SELECT * FROM apply('[
    {"step": 53, "op": "action", "sql": "SET CONSTRAINTS ALL IMMEDIATE; INSERT INTO child VALUES (1, 53)"},
    {"step": 54, "op": "action", "sql": "INSERT INTO child VALUES (54, 54); INSERT INTO account VALUES (54, 1)"}]');
SELECT * FROM apply('[{"step": 53, "op": "action", "sql": "SET CONSTRAINTS child_n DEFERRED; INSERT INTO child VALUES (1, 53), (2, 53); UPDATE child SET n = 530 WHERE account = 2"}]');
SELECT * FROM apply('[{"step": 55, "op": "action", "sql": "SET CONSTRAINTS child_n DEFERRED; INSERT INTO child VALUES (1, 53)"}]');
-- many of them, in subtransactions of their own, with failures in between
CREATE FUNCTION many(i int, fail boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO child SELECT 1, i * 100000 + n FROM generate_series(1, 10000) n;
    BEGIN
        INSERT INTO child SELECT -1, i * 100000 + 20000 + n FROM generate_series(1, 10000) n;
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
        INSERT INTO child SELECT 2, i * 100000 + 40000 + n FROM generate_series(1, 10000) n;
    END;
    IF fail THEN
        INSERT INTO child VALUES (-2, i);
    END IF;
END $$;
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        IF NEW.n % 5000 = 0 THEN
            INSERT INTO seen SELECT gid || ', ' || step || ', ' || attempt || ', ' || operation, NEW.n FROM dtx.saga_context();
            RAISE division_by_zero;
        END IF;
    EXCEPTION WHEN division_by_zero THEN
        INSERT INTO seen SELECT gid || ', ' || step || ', ' || attempt || ', ' || operation, NEW.n FROM dtx.saga_context();
    END;
    RETURN NULL;
END $$;
CREATE TABLE seen (context text, n int CONSTRAINT seen_n UNIQUE DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE seen OWNER TO regress_dtx_app;
CREATE CONSTRAINT TRIGGER look AFTER INSERT ON child DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look();
SELECT * FROM apply('[
    {"step": 60, "op": "action", "sql": "SELECT many(60, false)"},
    {"step": 61, "op": "action", "sql": "SELECT many(61, true)"},
    {"step": 62, "op": "action", "sql": "SELECT many(62, false)"},
    {"step": 63, "op": "action", "sql": "SELECT many(63, true)"},
    {"step": 64, "op": "action", "sql": "INSERT INTO child VALUES (64, 64); INSERT INTO account VALUES (64, 1)"},
    {"step": 65, "op": "action", "sql": "INSERT INTO child VALUES (65, 65)"}]');
SELECT count(*), count(DISTINCT n), min(account) FROM child;
SELECT * FROM seen ORDER BY n;
DROP TRIGGER look ON child;

-- time limits
SELECT * FROM apply('[{"step": 70, "op": "action", "sql": "INSERT INTO account VALUES (70, 1); SELECT pg_sleep(60)", "ms": 100}]');
SELECT * FROM apply('[
    {"step": 71, "op": "action", "sql": "INSERT INTO account VALUES (71, 1); SELECT pg_sleep(60)", "ms": 100},
    {"step": 72, "op": "action", "sql": "INSERT INTO account VALUES (72, 1)", "ms": 50000},
    {"step": 73, "op": "action", "sql": "INSERT INTO account VALUES (73, 1)"}]', 50000);
-- too long for a batch, and no time left for the others
SELECT * FROM apply('[
    {"step": 72, "op": "action", "sql": "SELECT 1 / 0", "ms": 1000},
    {"step": 74, "op": "action", "sql": "INSERT INTO account VALUES (74, 1); SELECT pg_sleep(60)", "ms": 50000},
    {"step": 75, "op": "action", "sql": "INSERT INTO account VALUES (75, 1)"}]', 500);
SELECT * FROM apply('[
    {"step": 76, "op": "action", "sql": "INSERT INTO account VALUES (76, 1); SELECT pg_sleep(60)"},
    {"step": 77, "op": "action", "sql": "INSERT INTO account VALUES (77, 1)"}]', 100);
-- alone it may take the time that it needs
SELECT * FROM apply('[{"step": 76, "op": "action", "sql": "INSERT INTO account VALUES (76, 1); SELECT pg_sleep(0.2)"}]', 10);
SELECT id FROM account WHERE id >= 70 ORDER BY id;
-- an operation's own 57014 is its own
SELECT * FROM apply('[
    {"step": 78, "op": "action", "sql": "DO $$BEGIN RAISE query_canceled; END$$"},
    {"step": 79, "op": "action", "sql": "SELECT ''next''"}]');
-- a cancel of the call is not swallowed
SELECT run('SET statement_timeout = ''100ms''');
SELECT * FROM apply('[
    {"step": 80, "op": "action", "sql": "INSERT INTO account VALUES (80, 1)"},
    {"step": 81, "op": "action", "sql": "SELECT pg_sleep(60)"}]');
SELECT run('RESET statement_timeout');
SELECT count(*) FROM account WHERE id = 80;
-- errors carry their detail; "not done yet" is one of them
SELECT * FROM apply('[
    {"step": 82, "op": "action", "sql": "DO $$BEGIN RAISE ''no room'' USING detail = ''The hotel is full.'', errcode = ''P0123''; END$$"},
    {"step": 83, "op": "action", "sql": "SELECT dtx.ongoing()"},
    {"step": 84, "op": "action", "sql": "SELECT dtx.ongoing(''the parcel is 50% there'')"}]');
SELECT dtx.ongoing('anywhere');

-- dtx.saga_context, also in functions
CREATE FUNCTION context() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT c::text FROM dtx.saga_context() c); END $$;
SELECT context();
SELECT * FROM apply('[
    {"step": 85, "op": "action", "sql": "SELECT context()"},
    {"step": 86, "op": "action", "sql": "SELECT 1 / 0"},
    {"step": 85, "op": "compensation", "sql": "SELECT context(), 2 AS two"}]');
SELECT run('SELECT context()');

-- TCC: confirm
SELECT apply_try(100, 'UPDATE account SET balance = balance - $2 WHERE id = $1 RETURNING balance',
    'UPDATE account SET note = ''confirmed '' || $2 || context() WHERE id = $1 RETURNING note',
    'UPDATE account SET balance = balance + $2 WHERE id = $1', '{2,10}');
SELECT apply_try(100, 'UPDATE account SET balance = 0', NULL, NULL);
SELECT life, xid, nonce, step, registrar_life, registrar_xid, registrar_nonce, owner, seconds BETWEEN 0 AND 1000
  FROM dtx.open_tries(1);
SELECT * FROM apply('[{"step": 100, "op": "confirm"}]');
SELECT * FROM apply('[{"step": 100, "op": "confirm"}, {"step": 100, "op": "cancel"}, {"step": 100, "op": "action"}, {"step": 100, "op": "compensation"}]');
SELECT apply_try(100, 'UPDATE account SET balance = 0', NULL, NULL);
-- cancel
SELECT apply_try(101, 'UPDATE account SET balance = balance - $2 WHERE id = $1', NULL,
    'UPDATE account SET balance = balance + $2 WHERE id = $1 RETURNING balance', '{2,10}');
SELECT * FROM apply('[{"step": 101, "op": "cancel"}]');
SELECT * FROM apply('[{"step": 101, "op": "cancel"}, {"step": 101, "op": "confirm"}]');
SELECT apply_try(101, 'UPDATE account SET balance = 0', NULL, NULL);
-- cancel before try, confirm without try
SELECT * FROM apply('[{"step": 102, "op": "cancel"}, {"step": 102, "op": "cancel"}, {"step": 102, "op": "confirm"}, {"step": 103, "op": "confirm"}]');
SELECT apply_try(102, 'UPDATE account SET balance = 0', NULL, NULL);
-- nothing to confirm with
SELECT apply_try(104, NULL, NULL, NULL);
SELECT * FROM apply('[{"step": 104, "op": "confirm"}]');
-- a confirm that fails may come again
SELECT apply_try(105, 'INSERT INTO account VALUES (105, 1)', 'UPDATE account SET balance = balance - 2 WHERE id = 105', NULL);
SELECT * FROM apply('[{"step": 105, "op": "confirm"}]');
UPDATE account SET balance = 2 WHERE id = 105;
SELECT * FROM apply('[{"step": 105, "op": "confirm"}]');
-- errors of a try are raised as they are
CREATE FUNCTION failed_try(step int, sql text, ms int DEFAULT 0) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM apply_try(step, sql, NULL, NULL, NULL, ms);
    RETURN 'no error';
EXCEPTION WHEN OTHERS OR query_canceled THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
SELECT failed_try(106, 'UPDATE account SET balance = -1');
SELECT failed_try(106, 'INSERT INTO child VALUES (-1, -1)');
SELECT failed_try(106, 'SELECT pg_sleep(60)', 100);
SELECT failed_try(106, 'SELEC');
SELECT run('SELECT context()');
SELECT apply_try(106, 'SELECT context()', NULL, NULL);
-- another role neither confirms nor sees it
SELECT * FROM apply('[{"step": 106, "op": "confirm"}, {"step": 106, "op": "cancel"}]', role => 'other');
SELECT apply_try(106, 'SELECT 1', NULL, NULL, role => 'other');
SELECT run('SELECT count(*) FROM dtx.open_tries(1)', 'other'), run('SELECT count(*) FROM dtx.open_tries(1)'),
    run('SELECT count(*) FROM dtx.open_tries(2)');

-- the watermark: rows of the caller below it go, open tries and other lineages stay
SELECT * FROM apply('[{"step": 1, "op": "action", "xid": 99, "sql": "SELECT"}]', lineage => 2);
SELECT * FROM apply('[{"step": 1, "op": "action", "xid": 99}, {"step": 1, "op": "action", "xid": 101}]');
SELECT * FROM apply('[{"step": 2, "op": "action", "xid": 101}]', watermark => '100');
SELECT count(*) > 10, count(*) FILTER (WHERE xid = '99') FROM dtx.barrier WHERE lineage = 1;
SELECT * FROM apply('[{"step": 3, "op": "action", "xid": 101}]', watermark => '101');
SELECT lineage, xid, step, state, owner::regrole FROM dtx.barrier WHERE state = 'tried' OR xid <> '100' ORDER BY 1, 2, 3;
SELECT step, owner::regrole FROM dtx.barrier WHERE lineage = 1 AND xid = '100' AND state <> 'tried';

-- called by itself only, and before anything is deferred
SET SESSION AUTHORIZATION regress_dtx_app;
CALL dtx.apply(1, '0', 0, '{200}', '{1}', '{1}', '{action}', '{1}', '{NULL}', '{NULL}', '{SELECT context()}', '{1}', '{NULL}', '{0}');
BEGIN;
CALL dtx.apply(1, '0', 0, '{200}', '{1}', '{1}', '{action}', '{1}', '{gid}', '{name}', '{}', '{0}', '{NULL}', '{0}');
CALL dtx.apply(1, '0', 0, '{200}', '{1}', '{2}', '{action}', '{1}', '{gid}', '{name}', '{"INSERT INTO child VALUES (-1, -1)"}', '{1}', '{NULL}', '{0}');
CALL dtx.apply(1, '0', 0, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}');
COMMIT;
BEGIN;
SAVEPOINT s;
CALL dtx.apply(1, '0', 0, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}');
ROLLBACK;
DO $$ DECLARE a text[]; BEGIN CALL dtx.apply(1, '0', 0, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', a); END $$;
BEGIN READ ONLY;
CALL dtx.apply(1, '0', 0, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}');
ROLLBACK;
-- arguments that make no sense
CALL dtx.apply(NULL, '0', 0, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}');
CALL dtx.apply(1, NULL, 0, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}');
CALL dtx.apply(1, '0', -1, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}');
CALL dtx.apply(1, '0', 0, NULL, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}');
CALL dtx.apply(1, '0', 0, '{1}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}');
CALL dtx.apply(1, '0', 0, '{NULL}', '{1}', '{1}', '{action}', '{1}', '{gid}', '{name}', '{}', '{0}', '{NULL}', '{0}');
CALL dtx.apply(1, '0', 0, '{1}', '{1}', '{1}', '{act}', '{1}', '{gid}', '{name}', '{}', '{0}', '{NULL}', '{0}');
CALL dtx.apply(1, '0', 0, '{1}', '{1}', '{1}', '{try}', '{1}', '{gid}', '{name}', '{}', '{0}', '{NULL}', '{0}');
CALL dtx.apply(1, '0', 0, '{1}', '{1}', '{1}', '{action}', '{1}', '{gid}', '{name}', '{SELECT}', '{2}', '{NULL}', '{0}');
CALL dtx.apply(1, '0', 0, '{1}', '{1}', '{1}', '{action}', '{1}', '{gid}', '{name}', '{NULL}', '{0}', '{NULL}', '{0}');
CALL dtx.apply(1, '0', 0, '{1}', '{1}', '{1}', '{action}', '{1}', '{gid}', '{name}', '{}', '{0}', '{NULL}', '{-1}');
CALL dtx.apply_try(NULL, 1, '1', 1, 1, 'gid', 1, '1', 1, 'SELECT', 'SELECT', 'SELECT', NULL, 0);
CALL dtx.apply_try(1, 1, '1', NULL, 1, 'gid', 1, '1', 1, 'SELECT', 'SELECT', 'SELECT', NULL, 0);
CALL dtx.apply_try(1, 1, '1', 1, 1, 'gid', 1, '1', 1, 'SELECT', 'SELECT', 'SELECT', NULL, -1);
CALL dtx.apply_try(1, 1, '1', 1, 1, NULL, NULL, NULL, NULL, 'SELECT 1 AS one', NULL, NULL, NULL, NULL);
RESET SESSION AUTHORIZATION;
SELECT count(*) FROM dtx.barrier WHERE xid = '200';

SELECT dblink_disconnect(c) FROM unnest(dblink_get_connections()) c;
\pset format aligned
\pset tuples_only off
\i :end
