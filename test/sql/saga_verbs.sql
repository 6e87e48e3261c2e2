-- What operators and owners do with sagas: dtx.retry_now, dtx.pause, dtx.resume,
-- dtx.skip_step, dtx.saga_compensate, dtx.saga_forward, dtx.force_end; dtx.stuck;
-- and who may see and do what.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
\i :here/sql/common/saga.psql
CREATE ROLE regress_dtx_monitor LOGIN IN ROLE dtx_operator;
CREATE FUNCTION events(gid text) RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS $$
    SELECT concat_ws('|', actor, branch, event, detail) FROM dtx.event e WHERE e.gid = events.gid ORDER BY number $$;
CREATE FUNCTION alerts() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS $$
    SELECT concat_ws('|', gid, branch, state, reason, call, ended_at IS NOT NULL) FROM dtx.alert ORDER BY number $$;
-- open ones that say the same as dtx.stuck, and all of them
CREATE FUNCTION alike() RETURNS text LANGUAGE sql SECURITY DEFINER AS $$
    SELECT concat_ws(' of ', (SELECT count(*) FROM dtx.alert a JOIN dtx.stuck s USING (node, gid, branch, state, reason, last_error, call) WHERE ended_at IS NULL),
                     (SELECT count(*) FROM dtx.alert WHERE ended_at IS NULL)) $$;
CREATE VIEW stuck AS SELECT gid, branch, node, state, reason, last_error, call FROM dtx.stuck ORDER BY gid, branch;
GRANT SELECT ON stuck TO PUBLIC;
SET SESSION AUTHORIZATION regress_dtx_app;
\pset format unaligned
\pset tuples_only on
-- never due by itself once it has failed
\set saga '{"retry": {"interval": "20 days", "max_interval": "20 days"}, "steps": [{"name": "one", "node": "bank_a", "action": "SELECT sample(1, 1)", "compensation": "SELECT sample(1, -1)"}, {"name": "two", "node": "bank_b", "action": "SELECT sample(1, 1)", "compensation": "SELECT sample(1, -1)"}, {"name": "three", "node": "bank_a", "action": "SELECT sample(1, 1)", "compensation": "SELECT sample(1, -1)"}]}'

--
-- dtx.retry_now: of what waits
--
SELECT answer('bank_b', 'two', 'action', '{unknown}');
SELECT dtx.saga_submit(:'saga', 'waits');
SELECT attempted('waits', 'two', 1);
SELECT dtx.wait('waits', '0');
SELECT dtx.retry_now('waits', 'it is there again');
SELECT dtx.wait('waits', '1 min');
SELECT * FROM told('waits');
SELECT * FROM events('waits');
-- what is over stays so
SELECT dtx.retry_now('waits', 'x');
SELECT dtx.pause('waits', 'x');
SELECT dtx.resume('waits', 'x');
SELECT dtx.skip_step('waits', 'two', NULL, 'x');
SELECT dtx.saga_compensate('waits', 'x');
SELECT dtx.saga_forward('waits', 'x');
SELECT dtx.force_end('waits', 'aborted', 'x');
SELECT * FROM events('waits');

--
-- dtx.pause, dtx.resume
--
SELECT empty_effects();
BEGIN;
SELECT dtx.saga_submit(:'saga', 'paused');
SELECT dtx.pause('paused', 'from the beginning');
COMMIT;
SELECT dtx.wait('paused', '0');
RESET SESSION AUTHORIZATION;
CALL dtx.scan_once('20 days');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT * FROM stuck;
SELECT dtx.pause('paused', 'twice');
SELECT dtx.retry_now('paused', 'x');
SELECT * FROM effects;
CALL dtx.saga_run(:'saga', 'paused');
SELECT dtx.resume('paused', 'go on');
SELECT dtx.wait('paused', '0') IN ('running', 'held');
SELECT attempted('paused', 'two', 1);
SELECT dtx.resume('paused', 'twice');
SELECT dtx.pause('paused', 'in the middle');
SELECT answer('bank_b', 'two', 'action', NULL);
RESET SESSION AUTHORIZATION;
CALL dtx.scan_once('20 days');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.resume('paused', 'go on'), dtx.retry_now('paused', 'now');
SELECT dtx.wait('paused', '1 min');
SELECT * FROM effects;
SELECT * FROM events('paused');

--
-- A refused compensation is held at once
--
SELECT empty_effects();
SELECT answer('bank_a', 'three', 'action', '{refused}'), answer('bank_b', 'two', 'compensation', '{refused}');
CALL dtx.saga_run(:'saga', 'held');
SELECT * FROM told('held');
SELECT * FROM stuck;
SELECT * FROM alerts();
SELECT alike();
SELECT dtx.wait('held', '1 min');
-- what makes no sense
SELECT dtx.pause('held', 'x');
SELECT dtx.resume('held', 'x');
SELECT dtx.saga_compensate('held', 'x');
SELECT dtx.saga_forward('held', 'x');
SELECT dtx.skip_step('held', 'three', NULL, 'x');
SELECT dtx.skip_step('held', 'nowhere', NULL, 'x');
SELECT dtx.skip_step('held', NULL, NULL, 'x');
SELECT dtx.retry_now('held', '');
SELECT dtx.retry_now('held', NULL);
SELECT dtx.retry_now(NULL, 'x');
SELECT dtx.retry_now('nowhere', 'x');
SELECT dtx.force_end('held', 'whatever', 'x');
SELECT dtx.force_end('held', NULL, 'x');
-- tried again: refused again
SELECT dtx.retry_now('held', 'again');
SELECT attempted('held', 'two', 1, 'compensation'), dtx.wait('held', '1 min');
-- another number of attempts: it is done
SELECT answer('bank_b', 'two', 'compensation', NULL);
SELECT dtx.retry_now('held', 'and again');
SELECT dtx.wait('held', '1 min');
SELECT * FROM told('held');
SELECT * FROM effects;
SELECT * FROM events('held');
SELECT * FROM alerts();
SELECT * FROM stuck;

--
-- dtx.skip_step: a compensation, done by hand
--
SELECT empty_effects();
SELECT answer('bank_b', 'two', 'compensation', '{refused,refused}');
CALL dtx.saga_run(:'saga', 'skipped');
SELECT call FROM stuck \gset
SELECT regexp_replace(:'call', 'NULL', quote_literal('{"by": "hand"}')) AS call \gset
:call;
SELECT dtx.wait('skipped', '1 min');
SELECT * FROM told('skipped');
SELECT * FROM effects;
SELECT * FROM events('skipped');
SELECT answer('bank_b', 'two', 'compensation', NULL);
-- an action: the saga goes on with that result; on the way back it is compensated, if it was done
SELECT empty_effects();
SELECT answer('bank_b', 'two', 'action', '{unknown}'), answer('bank_a', 'three', 'action', NULL);
SELECT dtx.saga_submit(jsonb_set(:'saga', '{steps,2}', '{"name": "use", "node": "bank_a", "action": "SELECT $1 AS x", "args": ["$.steps.two.result.n"]}'), 'skip forward');
SELECT attempted('skip forward', 'two', 1);
SELECT dtx.skip_step('skip forward', 'two', '{"n": "said"}', 'I know');
SELECT dtx.wait('skip forward', '1 min');
SELECT * FROM told('skip forward');
SELECT dtx.saga_submit(:'saga', 'skip back');
SELECT attempted('skip back', 'two', 1);
SELECT answer('bank_a', 'three', 'action', '{refused}');
-- the last step, not yet to be sent, may be skipped as well
SELECT dtx.skip_step('skip back', 'two', NULL, 'I believe');
SELECT dtx.wait('skip back', '1 min');
SELECT * FROM told('skip back');
SELECT * FROM effects;
SELECT answer('bank_a', 'three', 'action', NULL);

--
-- dtx.saga_compensate
--
SELECT empty_effects();
SELECT answer('bank_b', 'two', 'action', '{unknown}');
SELECT dtx.saga_submit(:'saga', 'compensated');
SELECT attempted('compensated', 'two', 1);
SELECT dtx.saga_compensate('compensated', 'not wanted any more');
SELECT dtx.wait('compensated', '1 min');
SELECT * FROM told('compensated');
SELECT * FROM effects;
SELECT * FROM events('compensated');
CALL dtx.saga_run(:'saga', 'compensated');
-- before it has begun
BEGIN;
SELECT dtx.saga_submit(:'saga', 'never begun');
SELECT dtx.saga_compensate('never begun', 'not wanted');
COMMIT;
SELECT dtx.wait('never begun', '1 min');
SELECT * FROM told('never begun');
SELECT * FROM effects;

--
-- dtx.saga_forward: no way back, refusals are asked again
--
SELECT empty_effects();
SELECT answer('bank_b', 'two', 'action', '{unknown,refused,unknown}');
SELECT dtx.saga_submit(:'saga'::jsonb || '{"timeout": "1 h"}', 'forward');
SELECT attempted('forward', 'two', 1);
SELECT dtx.saga_forward('forward', 'whatever it takes');
SELECT dtx.saga_forward('forward', 'twice');
SELECT dtx.retry_now('forward', 'now');
SELECT attempted('forward', 'two', 2);
RESET SESSION AUTHORIZATION;
SET dtx.clock_offset = '2 h';
CALL dtx.scan_once();
RESET dtx.clock_offset;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT * FROM told('forward');
SELECT dtx.saga_compensate('forward', 'or rather not');
SELECT dtx.wait('forward', '1 min');
SELECT * FROM effects;

--
-- Too many attempts: held
--
SELECT empty_effects();
SELECT answer('bank_b', 'two', 'action', '{unknown,unknown,unknown}');
\set few '{"retry": {"interval": "10 ms", "max_attempts": 2}}'
CALL dtx.saga_run(:'saga'::jsonb || :'few', 'few');
SELECT * FROM told('few');
SELECT * FROM stuck;
SELECT alike();
SELECT dtx.retry_now('few', 'again');
SELECT dtx.wait('few', '1 min');
SELECT attempted('few', 'two', 2), dtx.wait('few', '1 min');
SELECT dtx.saga_forward('few', 'go');
SELECT attempted('few', 'two', 2), dtx.wait('few', '1 min');
SELECT dtx.saga_compensate('few', 'enough');
SELECT dtx.wait('few', '1 min');
SELECT * FROM told('few');
SELECT * FROM effects;
SELECT answer('bank_b', 'two', 'action', NULL);
-- several at once
SELECT answer('bank_a', 'one', 'action', '{unknown,unknown}'), answer('bank_b', 'two', 'action', '{unknown,unknown}');
CALL dtx.saga_run(:'saga'::jsonb || :'few' || '{"concurrent": true}', 'both');
SELECT count(*) > 0 FROM stuck WHERE gid = 'both';
SELECT dtx.skip_step('both', 'one', NULL, 'first');
SELECT dtx.skip_step('both', 'two', NULL, 'second');
SELECT dtx.wait('both', '1 min');
SELECT name, operation, state FROM dtx.steps WHERE gid = 'both' ORDER BY step;
SELECT answer('bank_a', 'one', 'action', NULL), answer('bank_b', 'two', 'action', NULL);

--
-- dtx.force_end
--
SELECT empty_effects();
SELECT answer('bank_b', 'two', 'action', '{unknown}');
SELECT dtx.saga_submit(:'saga', 'forced ' || s) FROM unnest(ARRAY['committed', 'aborted']) s;
SELECT attempted('forced committed', 'two', 1), attempted('forced aborted', 'two', 1);
SELECT dtx.force_end('forced ' || s, s, 'lost') FROM unnest(ARRAY['committed', 'aborted']) s;
SELECT gid, dtx.wait(gid, '0'), reason, finished_at IS NOT NULL, next_at FROM dtx.transactions WHERE gid LIKE 'forced%' ORDER BY gid;
SELECT * FROM effects;
SELECT * FROM events('forced aborted');
CALL dtx.saga_run(:'saga', 'forced aborted');
SELECT answer('bank_b', 'two', 'action', NULL);

--
-- Who may see and act
--
SELECT answer('bank_b', 'two', 'action', '{unknown}');
SELECT dtx.saga_submit(:'saga', 'mine');
SELECT attempted('mine', 'two', 1);
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_dtx_other;
SELECT count(*) FROM dtx.transactions;
SELECT count(*) FROM dtx.steps;
SELECT count(*) FROM dtx.branches;
SELECT dtx.wait('mine', '0');
SELECT dtx.retry_now('mine', 'x');
SELECT dtx.force_end('mine', 'aborted', 'x');
SELECT dtx.saga_submit(:'saga', 'mine');
SELECT dtx.saga_submit('{"steps": [{"name": "x"}]}', 'mine');
CALL dtx.scan_once();
INSERT INTO dtx.error_rule VALUES ('99', 'refused');
SELECT count(*) FROM dtx.event;
-- who may look only
RESET SESSION AUTHORIZATION;
GRANT dtx_monitor TO regress_dtx_other;
SET SESSION AUTHORIZATION regress_dtx_other;
SELECT gid, state, owner FROM dtx.transactions WHERE gid = 'mine';
SELECT name, state FROM dtx.steps WHERE gid = 'mine' ORDER BY step;
SELECT step, operation, state FROM dtx.branches WHERE gid = 'mine' ORDER BY branch;
SELECT dtx.wait('mine', '0');
SELECT dtx.retry_now('mine', 'x');
SELECT dtx.pause('mine', 'x');
SELECT dtx.skip_step('mine', 'two', NULL, 'x');
SELECT dtx.saga_compensate('mine', 'x');
SELECT dtx.saga_forward('mine', 'x');
SELECT dtx.force_end('mine', 'aborted', 'x');
SELECT count(*) > 0 FROM dtx.event;
RESET SESSION AUTHORIZATION;
REVOKE dtx_monitor FROM regress_dtx_other;
-- operators
SET SESSION AUTHORIZATION regress_dtx_monitor;
SELECT gid, state, owner FROM dtx.transactions WHERE gid = 'mine';
SELECT dtx.pause('mine', 'by an operator');
CALL dtx.scan_once();
INSERT INTO dtx.error_rule VALUES ('99', 'refused');
DELETE FROM dtx.error_rule WHERE sqlstate = '99';
SELECT dtx.resume('mine', 'by an operator'), dtx.retry_now('mine', 'by an operator');
SELECT dtx.wait('mine', '1 min');
SELECT * FROM events('mine');
RESET SESSION AUTHORIZATION;
SELECT answer('bank_b', 'two', 'action', NULL);

-- a verb of a transaction that is rolled back did not happen
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT answer('bank_b', 'two', 'action', '{unknown}');
SELECT dtx.saga_submit(:'saga', 'rolled back');
SELECT attempted('rolled back', 'two', 1);
BEGIN;
SELECT dtx.saga_compensate('rolled back', 'x');
SELECT state FROM dtx.transactions WHERE gid = 'rolled back';
ROLLBACK;
BEGIN READ ONLY;
SELECT dtx.retry_now('rolled back', 'x');
ROLLBACK;
SELECT state FROM dtx.transactions WHERE gid = 'rolled back';
SELECT * FROM events('rolled back');
SELECT dtx.retry_now('rolled back', 'x');
SELECT dtx.wait('rolled back', '1 min');
SELECT answer('bank_b', 'two', 'action', NULL);

--
-- On the way back: nothing is to be compensated of what was refused, was not
-- sent, or has no compensation
--
SELECT answer('bank_a', 'one', 'compensation', '{refused}'), answer('bank_a', 'three', 'action', '{refused}');
CALL dtx.saga_run(jsonb_insert(jsonb_insert(:'saga', '{steps,1}', '{"name": "note", "node": "bank_b", "action": "SELECT 1"}'),
    '{steps,4}', '{"name": "last", "node": "bank_b", "action": "SELECT 1", "compensation": "SELECT 1"}'), 'nothing');
SELECT dtx.skip_step('nothing', 'three', NULL, 'x');
SELECT dtx.skip_step('nothing', 'note', NULL, 'x');
SELECT dtx.skip_step('nothing', 'last', NULL, 'x');
SELECT dtx.skip_step('nothing', 'two', NULL, 'x');
SELECT dtx.skip_step('nothing', 'one', NULL, 'x');
SELECT dtx.wait('nothing', '1 min');
SELECT name, operation, state FROM dtx.steps WHERE gid = 'nothing' ORDER BY step, operation;
SELECT answer('bank_a', 'one', 'compensation', NULL), answer('bank_a', 'three', 'action', NULL);
RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_dtx_monitor;
DROP ROLE regress_dtx_monitor;
\i :end
