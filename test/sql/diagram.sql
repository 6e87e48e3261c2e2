-- dtx.diagram and dtx.history: what happened with flows.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
\set ECHO errors
SET client_min_messages = warning;
\connect :bank_a
SET client_min_messages = warning;
CREATE EXTENSION dtx CASCADE;
\connect :bank_b
SET client_min_messages = warning;
CREATE EXTENSION dtx CASCADE;
\connect :coordinator
\set ECHO all
\set SHOW_CONTEXT never
-- times, and what else differs
CREATE FUNCTION drawn(gid text) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(regexp_replace(regexp_replace(dtx.diagram(gid),
        '\+\d+\.\d+ s', '+T s', 'g'), ' at [-0-9]+ [0-9:]+[-+][0-9:]+', ' at TIME'), 'dtx_[0-9a-f_]{35,}', 'GID', 'g') $$;
GRANT EXECUTE ON FUNCTION drawn(text) TO PUBLIC;
\pset format unaligned
\pset tuples_only on
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.saga_define('transfer', '{"steps": [
    {"name": "take", "node": "bank_a",
     "action": "UPDATE account SET balance = balance - $1 WHERE id = $2 RETURNING balance",
     "compensation": "UPDATE account SET balance = balance + $1 WHERE id = $2",
     "args": ["$.input.amount", "$.input.payer"]},
    {"name": "note", "when": "$.input.amount > 500"},
    {"name": "give", "node": "bank_b",
     "action": "UPDATE account SET balance = balance + $1 WHERE id = $2",
     "compensation": "UPDATE account SET balance = balance - $1 WHERE id = $2",
     "args": ["$.input.amount", "$.input.payee"]}]}');

--
-- a saga that commits, with the name that dtx makes and with one of its own
--
SELECT dtx.saga_start('transfer', '{"amount": 10, "payer": 1, "payee": 1}') AS gid \gset
SELECT dtx.wait(:'gid', '1 min');
SELECT drawn(:'gid');
CALL dtx.saga_run(name => 'transfer', input => '{"amount": 600, "payer": 1, "payee": 2}', gid => 'order 4711');
SELECT drawn('order 4711');

--
-- one that is refused, and undone; text that means something to Mermaid
--
CALL dtx.saga_run('{"steps": [
    {"name": "take; <first> #1 100%", "node": "bank_a", "action": "UPDATE account SET balance = balance - 1 WHERE id = 3",
     "compensation": "UPDATE account SET balance = balance + 1 WHERE id = 3"},
    {"name": "here", "action": "INSERT INTO ledger (note) VALUES (''x'')", "compensation": "DELETE FROM ledger WHERE note = ''x''"},
    {"name": "fail", "node": "bank_b", "action": "DO $$ BEGIN RAISE ''no; 100%% <not> # possible\nsecond line''; END $$"}]}',
    gid => 'refused');
SELECT drawn('refused');
SELECT event, detail, actor, step FROM dtx.history WHERE gid = 'refused' ORDER BY at;

--
-- one that is tried again, and what operators do
--
CREATE TABLE here (id int);
SELECT dtx.saga_submit('{"retry": {"interval": "1 h", "max_interval": "1 h"}, "steps": [
    {"name": "first", "node": "bank_a", "action": "SELECT 1"},
    {"name": "second", "node": "bank_b", "action": "SELECT * FROM missing"}]}', 'stuck one');
DO $$
BEGIN
    FOR i IN 1 .. 600 LOOP
        EXIT WHEN EXISTS (SELECT FROM dtx.steps WHERE gid = 'stuck one' AND attempt_count > 0 AND name = 'second');
        PERFORM pg_sleep(0.1);
        PERFORM pg_stat_clear_snapshot();
    END LOOP;
END $$;
SELECT drawn('stuck one');
SELECT dtx.pause('stuck one', 'look at it; first');
SELECT drawn('stuck one');
SELECT dtx.resume('stuck one', 'looked');
SELECT dtx.skip_step('stuck one', 'second', '{"by": "hand"}', 'done by hand');
SELECT dtx.wait('stuck one', '1 min');
SELECT drawn('stuck one');

--
-- TCC: bound to a local transaction, and with a name
--
CREATE FUNCTION reserve(amount int, gid text DEFAULT NULL) RETURNS jsonb LANGUAGE sql AS $$
    SELECT dtx.tcc_try('bank_a', 'UPDATE account SET balance = balance - $1 WHERE id = 2 RETURNING balance',
        'SELECT', 'UPDATE account SET balance = balance + $1 WHERE id = 2', jsonb_build_array(amount), gid) $$;
BEGIN;
SELECT reserve(10);
SELECT dtx.current_gid() AS gid \gset
COMMIT;
SELECT dtx.wait(:'gid', '1 min');
SELECT drawn(:'gid');
SELECT dtx.tcc_begin('reservation');
SELECT reserve(10, 'reservation');
SELECT dtx.tcc_cancel('reservation');
SELECT dtx.wait('reservation', '1 min');
SELECT drawn('reservation');

--
-- whose it is
--
SELECT dtx.diagram('no such');
SELECT dtx.diagram(NULL) IS NULL;
SET SESSION AUTHORIZATION regress_dtx_other;
SELECT dtx.diagram('order 4711');
SELECT count(*) FROM dtx.history;
RESET SESSION AUTHORIZATION;
GRANT dtx_monitor TO regress_dtx_other;
SET SESSION AUTHORIZATION regress_dtx_other;
SELECT drawn('order 4711') LIKE 'sequenceDiagram%committed%';
SELECT count(*) > 0 FROM dtx.history;
RESET SESSION AUTHORIZATION;
REVOKE dtx_monitor FROM regress_dtx_other;
-- also as another role than the session's
SET ROLE regress_dtx_other;
SELECT dtx.diagram('order 4711');
RESET ROLE;
\i :end
