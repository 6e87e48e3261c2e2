-- Sagas from submission to their end: dtx.saga_submit, dtx.saga_run, dtx.wait,
-- dtx.saga_define, dtx.saga_start, and what their steps come to.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
\i :here/sql/common/saga.psql
SET SESSION AUTHORIZATION regress_dtx_app;
\pset format unaligned
\pset tuples_only on

--
-- From a to b: submitted here, applied there
--
\set transfer '{"steps": [{"name": "take", "node": "bank_a", "action": "SELECT * FROM sample($1, -$2::bigint)", "compensation": "SELECT * FROM sample($1, $2)", "args": [1, "$.input.amount"]}, {"name": "give", "node": "bank_b", "action": "SELECT * FROM sample($1, $2)", "compensation": "SELECT * FROM sample($1, -$2::bigint)", "args": [1, "$.input.amount"]}]}'
SELECT dtx.saga_submit(:'transfer', 'first', '{"amount": 100}');
SELECT dtx.wait('first', '1 min');
SELECT * FROM told('first');
SELECT * FROM effects;
-- the same gid again: accepted, no effect
SELECT dtx.saga_submit(:'transfer', 'first', '{"amount": 100}');
SELECT dtx.wait('first', '1 min');
CALL dtx.saga_run(:'transfer', 'first', '{"amount": 100}');
SELECT * FROM effects;
-- refused with another definition, input, pattern or owner
SELECT dtx.saga_submit(:'transfer', 'first', '{"amount": 101}');
SELECT dtx.saga_submit(:'transfer', 'first');
SELECT dtx.saga_submit(jsonb_set(:'transfer', '{timeout}', '60'), 'first', '{"amount": 100}');
-- the order of keys means nothing
SELECT dtx.saga_submit('{"steps": [{"args": [], "action": "SELECT 1", "node": "bank_a", "name": "x"}]}', 'keys');
SELECT dtx.saga_submit('{"steps": [{"name": "x", "node": "bank_a", "action": "SELECT 1", "args": []}]}', 'keys');
SELECT dtx.wait('keys', '1 min');
-- a rollback leaves nothing, also of a part
BEGIN;
SELECT dtx.saga_submit(:'transfer', 'rolled back', '{"amount": 1}');
SELECT state FROM dtx.transactions WHERE gid = 'rolled back';
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT dtx.saga_submit(:'transfer', 'rolled back', '{"amount": 1}');
ROLLBACK TO s;
INSERT INTO ledger (note) VALUES ('went on');
COMMIT;
SELECT dtx.wait('rolled back');
SELECT count(*) FROM dtx.transactions WHERE gid = 'rolled back';
SELECT count(*) FROM dtx.branches WHERE gid = 'rolled back';
-- not before COMMIT
BEGIN;
SELECT dtx.saga_submit(:'transfer', 'late', '{"amount": 1}');
SELECT dtx.wait('late');
ROLLBACK;
-- together with local work, a name that is made, and other transactions of dtx
BEGIN;
INSERT INTO ledger (note) VALUES ('with a saga');
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = balance + 0 WHERE id = 2');
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = balance + 0 WHERE id = 2');
SELECT dtx.saga_submit(:'transfer', input => '{"amount": 5}') AS gid \gset
COMMIT;
SELECT :'gid' ~ '^dtx_[0-9a-f]{16}_[0-9a-f]+_[0-9a-f]{16}$', dtx.wait(:'gid', '1 min');
SELECT state FROM dtx.transactions WHERE gid = :'gid';
SELECT note, count(*) FROM ledger GROUP BY note ORDER BY note;
-- prepared by its client: goes on with COMMIT PREPARED
BEGIN;
SELECT dtx.saga_submit(:'transfer', 'prepared', '{"amount": 7}');
PREPARE TRANSACTION 'regress saga';
SELECT dtx.wait('prepared', '0');
COMMIT PREPARED 'regress saga';
SELECT dtx.wait('prepared', '1 min');

--
-- Refused: what was done is undone
--
SELECT empty_effects();
SELECT dtx.saga_submit(:'transfer', 'too much', '{"amount": 5000}');
SELECT dtx.wait('too much', '1 min');
SELECT * FROM told('too much');
SELECT * FROM effects;
SELECT answer('bank_b', 'give', 'action', '{refused}');
CALL dtx.saga_run(:'transfer', 'say no', '{"amount": 50}');
SELECT * FROM told('say no');
SELECT * FROM effects;
-- again: the same answer
CALL dtx.saga_run(:'transfer', 'say no', '{"amount": 50}');
\echo :LAST_ERROR_SQLSTATE
SELECT answer('bank_b', 'give', 'action', NULL);
SELECT * FROM effects;
-- within dtx.saga_run the rows of a step are the business error's
CALL dtx.saga_run('{"steps": [{"name": "twice", "node": "bank_a", "action": "INSERT INTO account VALUES (1)"}]}', 'twice');
\echo :LAST_ERROR_SQLSTATE

--
-- Unknown and ongoing are asked again
--
SELECT empty_effects();
SELECT answer('bank_a', 'take', 'action', '{unknown,ongoing,ongoing,unknown}');
SELECT answer('bank_b', 'give', 'action', '{ongoing,unknown,refused}');
SELECT answer('bank_a', 'take', 'compensation', '{unknown,ongoing}');
\set patient '{"retry": {"interval": "10 ms", "max_interval": "20 ms"}, "steps": [{"name": "take", "node": "bank_a", "action": "SELECT * FROM sample($1, -$2::bigint)", "compensation": "SELECT * FROM sample($1, $2)", "args": [1, "$.input.amount"]}, {"name": "give", "node": "bank_b", "action": "SELECT * FROM sample($1, $2)", "compensation": "SELECT * FROM sample($1, -$2::bigint)", "args": [1, "$.input.amount"]}]}'
SELECT dtx.saga_submit(:'patient', 'patient', '{"amount": 10}');
SELECT dtx.wait('patient', '1 min');
SELECT * FROM told('patient');
SELECT * FROM effects;
-- what an SQLSTATE means is a matter of rules; the longest decides
RESET SESSION AUTHORIZATION;
INSERT INTO dtx.error_rule VALUES ('55', 'refused'), ('55006', 'unknown');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT answer('bank_b', 'give', 'action', '{unknown}');
SELECT answer('bank_a', 'take', 'action', NULL), answer('bank_a', 'take', 'compensation', NULL);
CALL dtx.saga_run(:'patient', 'rule 1', '{"amount": 10}');
RESET SESSION AUTHORIZATION;
DELETE FROM dtx.error_rule WHERE sqlstate = '55006';
INSERT INTO dtx.error_rule VALUES ('5', 'refused');
INSERT INTO dtx.error_rule VALUES ('55000', 'whatever');
SET SESSION AUTHORIZATION regress_dtx_app;
\c -
SET SESSION AUTHORIZATION regress_dtx_app;
CALL dtx.saga_run(:'patient', 'rule 2', '{"amount": 10}');
\echo :LAST_ERROR_SQLSTATE
RESET SESSION AUTHORIZATION;
DELETE FROM dtx.error_rule WHERE NOT built_in;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT answer('bank_b', 'give', 'action', NULL);

--
-- Order, conditions, results
--
SELECT empty_effects();
SELECT dtx.saga_submit('{"steps": [
    {"name": "a", "node": "bank_a", "after": [], "action": "SELECT sample(1, 1)", "compensation": "SELECT sample(1, -1)"},
    {"name": "b", "node": "bank_a", "after": ["a"], "action": "SELECT sample(1, 2)", "compensation": "SELECT sample(1, -2)"},
    {"name": "c", "node": "bank_a", "after": ["a"], "action": "SELECT sample(1, 3)", "compensation": "SELECT sample(1, -3)"},
    {"name": "d", "node": "bank_a", "after": ["b", "c"], "action": "SELECT sample(1, 4)", "compensation": "SELECT sample(1, -4)"},
    {"name": "e", "node": "bank_a", "after": ["d"], "action": "SELECT 1 / 0"}]}', 'graph');
SELECT dtx.wait('graph', '1 min');
-- b and c are concurrent, all else is in order
SELECT string_agg(CASE WHEN step IN ('b', 'c') THEN '?' ELSE step END, ' ' ORDER BY number),
       array_agg(step || operation ORDER BY number) FILTER (WHERE step IN ('b', 'c')) IN (
           SELECT ARRAY[x[1] || 'action', x[2] || 'action', y[1] || 'compensation', y[2] || 'compensation']
             FROM (VALUES ('{b,c}'::text[]), ('{c,b}')) AS v(x), (VALUES ('{b,c}'::text[]), ('{c,b}')) AS w(y)) AS in_order
  FROM effect_a;
-- a step that is not wanted; nothing of it is compensated
SELECT empty_effects();
\set choice '{"steps": [{"name": "ask", "node": "bank_a", "action": "SELECT $1::int AS n", "args": ["$.input"]}, {"name": "small", "node": "bank_a", "when": "$.steps.ask.result.n < 10", "action": "SELECT sample(1, 1)", "compensation": "SELECT sample(1, -1)"}, {"name": "large", "node": "bank_b", "when": "$.steps.ask.result.n >= 10", "action": "SELECT sample(1, 1)", "compensation": "SELECT sample(1, -1)"}, {"name": "end", "node": "bank_b", "action": "SELECT 100 / ($1::int - 13)", "args": ["$.input"]}]}'
CALL dtx.saga_run(:'choice', 'small', '5');
SELECT * FROM told('small');
CALL dtx.saga_run(:'choice', 'large', '13');
SELECT * FROM told('large');
SELECT * FROM effects;
-- what values become of
SELECT dtx.saga_submit($${"steps": [
    {"name": "one", "node": "bank_a", "action": "SELECT 1.50 AS n, 'it''s \"\\ ü' AS t, NULL AS z, ARRAY[1, NULL] AS l, true AS y, 'x' AS x UNION ALL SELECT 2, '', '', '{}', false, ''"},
    {"name": "none", "node": "bank_a", "action": "UPDATE account SET balance = 0 WHERE id = -1 RETURNING id"},
    {"name": "no rows", "node": "bank_b", "action": "SET LOCAL work_mem = '1MB'"},
    {"name": "use", "node": "bank_b", "action": "SELECT $1::numeric AS n, $2 || $7 AS t, $3 AS z, $4::jsonb AS l, $5::boolean AS y, $6::jsonb AS none, $8::text IS NULL AS missing",
     "args": ["$.steps.one.result.n", "$.steps.one.result.t", "$.steps.one.result.z", "$.steps.one.result.l", "$.steps.one.result.y", "$.steps.none.result", "$.input.\"a b\"", "$.input.missing"]}]}$$,
    'values', '{"a b": "''\\\" $1 {},NULL"}');
SELECT dtx.wait('values', '1 min');
SELECT step, name, result FROM dtx.steps WHERE gid = 'values' ORDER BY step;

--
-- Here, without a node
--
SELECT dtx.saga_submit('{"steps": [{"name": "x", "action": "SELECT current_user, session_user, c.step, c.attempt, c.operation, c.gid FROM dtx.saga_context() c"},
    {"name": "y", "action": "INSERT INTO ledger (note) VALUES ($1) RETURNING note", "compensation": "DELETE FROM ledger WHERE note = $1", "args": ["$.steps.x.result.gid"]}]}', 'here');
SELECT dtx.wait('here', '1 min');
SELECT * FROM told('here');
CALL dtx.saga_run('{"steps": [{"name": "y", "action": "INSERT INTO ledger (note) VALUES ($1) RETURNING note", "compensation": "DELETE FROM ledger WHERE note = $1", "args": ["here again"]}, {"name": "z", "action": "SELECT 1 / 0"}]}', 'here again');
SELECT note FROM ledger WHERE note LIKE 'here%';
-- not for superusers, nor for who may not log in
RESET SESSION AUTHORIZATION;
SELECT dtx.saga_submit('{"steps": [{"name": "x", "action": "SELECT 1"}]}', 'superuser');
BEGIN;
SET LOCAL dtx.allow_superuser_steps = on;
SELECT dtx.saga_submit('{"steps": [{"name": "x", "action": "SELECT 1"}]}', 'superuser');
ROLLBACK;
CREATE ROLE regress_dtx_nobody;
SET SESSION AUTHORIZATION regress_dtx_nobody;
SELECT dtx.saga_submit('{"steps": [{"name": "x", "action": "SELECT 1"}]}', 'nobody');
SELECT dtx.saga_submit('{"steps": [{"name": "x", "node": "bank_a", "action": "SELECT 1"}]}', 'nobody');
RESET SESSION AUTHORIZATION;
DROP ROLE regress_dtx_nobody;
SET SESSION AUTHORIZATION regress_dtx_app;

--
-- Empty steps, steps without compensation
--
CALL dtx.saga_run('{"steps": [{"name": "nothing"}, {"name": "nor this", "compensation": "SELECT 1 / 0"}]}', 'empty');
SELECT empty_effects();
CALL dtx.saga_run('{"steps": [{"name": "keeps", "node": "bank_a", "action": "SELECT sample(1, 1)"}, {"name": "no", "node": "bank_a", "action": "SELECT 1 / 0", "compensation": "SELECT sample(1, 17)"}]}', 'keeps');
SELECT * FROM told('keeps');
SELECT * FROM effects;

--
-- Forward recovery: refusals are asked again
--
SELECT empty_effects();
SELECT answer('bank_a', 'pivot', 'action', '{refused,refused}'), answer('bank_b', 'after', 'action', '{refused}');
CALL dtx.saga_run('{"timeout": "1 h", "retry": {"interval": "10 ms"}, "steps": [
    {"name": "before", "node": "bank_a", "action": "SELECT sample(1, 1)", "compensation": "SELECT sample(1, -1)"},
    {"name": "pivot", "node": "bank_a", "recovery": "forward", "action": "SELECT sample(1, 1)"},
    {"name": "after", "node": "bank_b", "recovery": "forward", "action": "SELECT sample(1, 1)"}]}', 'pivot');
SELECT * FROM told('pivot');
SELECT answer('bank_a', 'pivot', 'action', NULL), answer('bank_b', 'after', 'action', NULL);

--
-- Time limits
--
SELECT empty_effects();
SELECT answer('bank_b', 'give', 'action', '{ongoing}');
SELECT dtx.saga_submit(:'transfer'::jsonb || '{"timeout": "1 h", "retry": {"interval": "2 h", "max_interval": "2 h"}}', 'timeout', '{"amount": 3}');
SELECT attempted('timeout', 'give', 1);
-- nothing is due yet
RESET SESSION AUTHORIZATION;
CALL dtx.scan_once();
SELECT state FROM dtx.transactions WHERE gid = 'timeout';
SET dtx.clock_offset = '61 min';
CALL dtx.scan_once();
RESET dtx.clock_offset;
SELECT state, sqlstate, reason FROM dtx.transactions WHERE gid = 'timeout';
SELECT * FROM told('timeout');
SELECT * FROM effects;
SELECT answer('bank_b', 'give', 'action', '{ongoing,ongoing}');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.saga_submit(:'transfer'::jsonb || '{"retry": {"interval": "2 h", "max_interval": "2 h"}}', 'horizon', '{"amount": 3}');
SELECT attempted('horizon', 'give', 1);
RESET SESSION AUTHORIZATION;
CALL dtx.scan_once('1 h');
CALL dtx.scan_once('3 h');
SELECT * FROM told('horizon');
CALL dtx.scan_once(horizon => '3 h');
CALL dtx.scan_once('3 h');
SELECT * FROM told('horizon');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT answer('bank_b', 'give', 'action', NULL);
-- of one attempt: an answer that does not come is unknown
CALL dtx.saga_run('{"steps": [{"name": "long", "node": "bank_a", "timeout": "50 ms", "retry": {"interval": "10 ms"}, "action": "SELECT pg_sleep(CASE c.attempt WHEN 1 THEN 100 ELSE 0 END) FROM dtx.saga_context() c"}]}', 'long');
SELECT state, attempt_count FROM dtx.steps WHERE gid = 'long';

--
-- Whatever sessions and workers begin with
--
SELECT empty_effects();
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT dtx.saga_submit(:'transfer', 'serializable', '{"amount": 1}');
COMMIT;
SELECT dtx.wait('serializable', '1 min');
SET default_transaction_isolation = 'serializable';
SET search_path = '';
SET standard_conforming_strings = off;
SET synchronous_commit = off;
SET DateStyle = 'German';
CALL dtx.saga_run(:'transfer', 'settings', '{"amount": 2}');
SHOW transaction_isolation;
CALL dtx.saga_run(:'transfer', 'settings 2', '{"amount": 50000}');
RESET ALL;
SET default_transaction_read_only = on;
CALL dtx.saga_run(:'transfer', 'never', '{"amount": 3}');
RESET ALL;
SELECT * FROM effects;
-- in another role, and back; in a procedure
RESET SESSION AUTHORIZATION;
DO $$ BEGIN
    EXECUTE $x$CREATE USER MAPPING FOR regress_dtx_other SERVER bank_a OPTIONS (user 'regress_dtx_app', password 'regress-app')$x$;
END $$;
GRANT USAGE ON FOREIGN SERVER bank_a TO regress_dtx_other;
GRANT regress_dtx_other TO regress_dtx_app;
SET SESSION AUTHORIZATION regress_dtx_app;
SET ROLE regress_dtx_other;
CALL dtx.saga_run('{"steps": [{"name": "x", "node": "bank_a", "action": "SELECT $1 AS x", "args": ["$.input"]}, {"name": "y", "action": "SELECT current_user"}]}', 'other role', '"x"');
CALL dtx.saga_run('{"steps": [{"name": "x", "node": "bank_a", "action": "SELECT 1 / 0"}]}', 'other role 2');
RESET ROLE;
SELECT owner, state FROM dtx.transactions WHERE gid LIKE 'other role%' ORDER BY gid;
SELECT result FROM dtx.steps WHERE gid = 'other role' ORDER BY step;
RESET SESSION AUTHORIZATION;
REVOKE regress_dtx_other FROM regress_dtx_app;
SET SESSION AUTHORIZATION regress_dtx_app;
CREATE PROCEDURE several(n int) LANGUAGE plpgsql AS $$
DECLARE
    s text;
BEGIN
    FOR i IN 1 .. n LOOP
        CALL dtx.saga_run('{"steps": [{"name": "x", "node": "bank_a", "action": "SELECT $1::int", "args": ["$.input"]}]}', 'several ' || i, to_jsonb(i), state => s);
        RAISE NOTICE '%', s;
    END LOOP;
END $$;
CALL several(2);
-- long, wide and large
SELECT dtx.saga_submit(jsonb_build_object('steps', jsonb_agg(jsonb_build_object('name', 's' || i, 'node', CASE WHEN i % 2 = 0 THEN 'bank_a' ELSE 'bank_b' END,
    'action', 'SELECT sample(2, 1)', 'compensation', 'SELECT sample(2, -1)') || CASE WHEN concurrent THEN '{"after": []}' ELSE '{}'::jsonb END ORDER BY i)), 'many ' || concurrent)
  FROM generate_series(1, 300) i, unnest(ARRAY[true, false]) concurrent GROUP BY concurrent ORDER BY concurrent;
SELECT dtx.wait('many true', '1 min'), dtx.wait('many false', '1 min');
SELECT gid, count(*) FROM dtx.steps WHERE gid LIKE 'many%' AND state = 'done' GROUP BY gid ORDER BY gid;
SELECT gid, count(*), count(DISTINCT step) FROM effect_a WHERE gid LIKE 'many%' GROUP BY gid ORDER BY gid;
CALL dtx.saga_run('{"steps": [{"name": "x", "node": "bank_a", "action": "SELECT repeat($1, 3) AS big", "args": ["$.input"]}, {"name": "y", "action": "SELECT length($1) AS length", "args": ["$.steps.x.result.big"]},
    {"name": "z", "node": "bank_b", "action": "SELECT length($1) AS length, md5($1) AS md5", "args": ["$.steps.x.result.big"]}]}', 'very large', to_jsonb(repeat('x''\"ü', 300000)));
SELECT result FROM dtx.steps WHERE gid = 'very large' AND name <> 'x' ORDER BY step;
SELECT md5(repeat('x''\"ü', 900000));

--
-- Names
--
SELECT dtx.saga_define('move', '{"steps": [{"name": "v1", "node": "bank_a", "action": "SELECT 1 AS v"}]}');
SELECT dtx.saga_define('move', '{"steps": [{"name": "v1", "node": "bank_a", "action": "SELECT 1 AS v"}]}');
SELECT dtx.saga_start('move', gid => 'named 1');
BEGIN;
SELECT dtx.saga_define('move', '{"steps": [{"name": "v2", "node": "bank_a", "action": "SELECT 2 AS v"}]}');
SELECT dtx.saga_start('move', gid => 'named 2');
COMMIT;
CALL dtx.saga_run(name => 'move', gid => 'named 3', input => '1');
SELECT dtx.wait('named 1', '1 min'), dtx.wait('named 2', '1 min');
SELECT gid, name, result FROM dtx.steps WHERE gid LIKE 'named%' ORDER BY gid;
-- repeated after a new version: it is another definition
SELECT dtx.saga_start('move', gid => 'named 1');
SELECT dtx.saga_start('move', gid => 'named 2');
SELECT dtx.saga_submit('{"steps": [{"name": "v1", "node": "bank_a", "action": "SELECT 1 AS v"}]}', 'named 1');
SELECT dtx.saga_define('move', '{"steps": []}');
SELECT dtx.saga_define('', '{"steps": [{"name": "x"}]}');
SELECT dtx.saga_define(NULL, '{"steps": [{"name": "x"}]}');
SELECT dtx.saga_define('x', NULL);
SELECT dtx.saga_start('nowhere');
SELECT dtx.saga_start(NULL);
CALL dtx.saga_run(name => 'nowhere');
CALL dtx.saga_run(:'transfer', name => 'move');
CALL dtx.saga_run();
-- somebody else's name: run by everybody as himself, defined by its owner
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_dtx_other;
SELECT dtx.saga_define('move', '{"steps": [{"name": "v3", "node": "bank_a", "action": "SELECT 3 AS v"}]}');
SELECT dtx.saga_start('move', gid => 'of other');
SELECT dtx.wait('of other', '1 min');
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_dtx_app;

--
-- Refused at submission
--
SELECT dtx.saga_submit(NULL);
SELECT dtx.saga_submit('{"steps": [{"name": "x", "node": "nowhere", "action": "SELECT 1"}]}');
SELECT dtx.saga_submit('{"steps": [{"name": "x", "nod": "bank_a"}]}');
SELECT dtx.saga_submit(:'transfer', '');
SELECT dtx.saga_submit(:'transfer', repeat('x', 129));
SELECT dtx.saga_submit(:'transfer', 'dtx_mine');
BEGIN READ ONLY;
SELECT dtx.saga_submit(:'transfer', 'read only');
ROLLBACK;
BEGIN;
CALL dtx.saga_run(:'transfer', 'in a block', '{"amount": 1}');
ROLLBACK;
DO $$ BEGIN PERFORM dtx.wait('nowhere'); END $$;
SELECT dtx.wait(NULL);
SELECT dtx.wait('first', '-1 s');
-- a node without the extension, and one that is away
RESET SESSION AUTHORIZATION;
DO $$
DECLARE
    n text;
BEGIN
    EXECUTE format('CREATE SERVER bank_n FOREIGN DATA WRAPPER dblink_fdw OPTIONS (host ''127.0.0.1'', port %L, dbname ''postgres'')', current_setting('port'));
    CREATE SERVER bank_o FOREIGN DATA WRAPPER dblink_fdw OPTIONS (host '127.0.0.1', port '1', dbname 'postgres');
    FOREACH n IN ARRAY ARRAY['bank_n', 'bank_o'] LOOP
        EXECUTE format('CREATE USER MAPPING FOR regress_dtx_app SERVER %I OPTIONS (user ''regress_dtx_app'', password ''regress-app'')', n);
        EXECUTE format('GRANT USAGE ON FOREIGN SERVER %I TO regress_dtx_app', n);
    END LOOP;
END $$;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.saga_submit('{"steps": [{"name": "x", "node": "bank_n", "action": "SELECT 1"}]}', 'no extension');
SELECT count(*) FROM dtx.transactions WHERE gid = 'no extension';
BEGIN;
SELECT dtx.saga_submit('{"steps": [{"name": "x", "node": "bank_o", "action": "SELECT 1"}]}', 'away');
ROLLBACK;

--
-- What an error means is heeded from the commit of its rule on, by workers and
-- in sessions
--
\set ruled '{"retry": {"interval": "20 days", "max_interval": "20 days"}, "steps": [{"name": "ruled", "node": "bank_b", "action": "SELECT sample(1, 1)", "compensation": "SELECT sample(1, -1)"}]}'
SELECT dtx.saga_submit(:'ruled', 'heeded 1');
SELECT dtx.wait('heeded 1', '1 min');
CALL dtx.saga_run(:'ruled', 'heeded 2');
SELECT answer('bank_b', 'ruled', 'action', '{unknown}');
RESET SESSION AUTHORIZATION;
INSERT INTO dtx.error_rule VALUES ('55006', 'refused');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.saga_submit(:'ruled', 'heeded 3');
SELECT dtx.wait('heeded 3', '5 s');
SET statement_timeout = '5 s';
CALL dtx.saga_run(:'ruled', 'heeded 4');
RESET statement_timeout;
RESET SESSION AUTHORIZATION;
UPDATE dtx.error_rule SET result = 'unknown' WHERE sqlstate = '55006';
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.saga_submit(:'ruled', 'heeded 5');
SELECT attempted('heeded 5', 'ruled', 1);
SELECT state, sqlstate FROM dtx.steps WHERE gid = 'heeded 5';
SELECT dtx.saga_compensate('heeded 5', 'x');
SELECT dtx.wait('heeded 5', '1 min');
RESET SESSION AUTHORIZATION;
DELETE FROM dtx.error_rule WHERE NOT built_in;
\i :end
