-- PREPARE TRANSACTION on the coordinator: whoever ends that transaction
-- decides for its branches.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
GRANT EXECUTE ON PROCEDURE dtx.recover(bigint, bigint, bigint) TO regress_dtx_app;
SET SESSION AUTHORIZATION regress_dtx_app;
\pset format unaligned
\pset tuples_only on
\pset null (null)
SELECT dtx.exec('bank_a', 'CREATE TABLE note (t text UNIQUE DEFERRABLE INITIALLY DEFERRED)'),
       dtx.exec('bank_b', 'CREATE TABLE note (t text)');
CREATE FUNCTION put(t text) RETURNS void LANGUAGE sql AS $$
    SELECT dtx.exec('bank_a', 'INSERT INTO note VALUES ($1)', ARRAY[t], 1),
           dtx.exec('bank_b', 'INSERT INTO note VALUES ($1)', ARRAY[t], 1);
    INSERT INTO ledger (note) VALUES (t) $$;
CREATE FUNCTION notes(OUT bank_a text, OUT bank_b text, OUT here text) LANGUAGE sql AS $$
    SELECT (SELECT t FROM dtx.query('bank_a', 'SELECT string_agg(t, '' '' ORDER BY t) FROM note') AS t(t text)),
           (SELECT t FROM dtx.query('bank_b', 'SELECT string_agg(t, '' '' ORDER BY t) FROM note') AS t(t text)),
           (SELECT string_agg(note, ' ' ORDER BY note) FROM ledger) $$;
-- what is prepared, and where
CREATE FUNCTION prepared() RETURNS TABLE (name text, count bigint) LANGUAGE sql AS $$
    SELECT database || CASE WHEN gid LIKE 'dtx\_%' THEN ' a branch' ELSE ' ' || gid END, count(*)
      FROM pg_prepared_xacts WHERE database LIKE 'dtx\_regression\_%' GROUP BY 1 ORDER BY 1 $$;

--
-- committed, by another session than the one that prepared
--
BEGIN;
SELECT put('one');
SELECT dtx.current_gid() AS gid \gset
PREPARE TRANSACTION 'regress outer';
SELECT * FROM prepared();
SELECT notes();
SELECT dtx.outcome(:'gid');
-- recovery leaves it alone
CALL dtx.recover();
SELECT * FROM prepared();
SELECT dtx.outcome(:'gid');
-- and shows it
SET SESSION AUTHORIZATION DEFAULT;
SET dtx.stuck_after = 0;
SELECT node, branch, state, reason, call FROM dtx.stuck ORDER BY node;
RESET dtx.stuck_after;
-- neither the servers nor the extension can be dropped before it ends
SET lock_timeout = '100ms';
DROP SERVER bank_a CASCADE;
DROP EXTENSION dtx;
RESET lock_timeout;
\c -
SET SESSION AUTHORIZATION regress_dtx_app;
COMMIT PREPARED 'regress outer';
SELECT dtx.outcome(:'gid');
CALL dtx.recover() \g /dev/null
SELECT * FROM prepared();
SELECT notes();
SELECT dtx.outcome(:'gid');

--
-- rolled back
--
BEGIN;
SELECT put('two');
SELECT dtx.current_gid() AS gid \gset
PREPARE TRANSACTION 'regress outer';
SELECT * FROM prepared();
ROLLBACK PREPARED 'regress outer';
SELECT dtx.outcome(:'gid');
CALL dtx.recover() \g /dev/null
SELECT * FROM prepared();
SELECT notes();

--
-- refused: then it is not prepared anywhere
--
-- by a branch
BEGIN;
SELECT put('one');
PREPARE TRANSACTION 'regress outer';
CALL dtx.recover() \g /dev/null
SELECT * FROM prepared();
-- by this server, after the branches were prepared
BEGIN;
SELECT put('three');
PREPARE TRANSACTION 'regress outer';
BEGIN;
SELECT put('four');
SELECT dtx.current_gid() AS gid \gset
PREPARE TRANSACTION 'regress outer';
CALL dtx.recover() \g /dev/null
SELECT * FROM prepared();
SELECT dtx.outcome(:'gid');
COMMIT PREPARED 'regress outer';
BEGIN;
SELECT put('five');
CREATE TEMPORARY TABLE here (i int);
PREPARE TRANSACTION 'regress outer';
CALL dtx.recover() \g /dev/null
SELECT * FROM prepared();
SELECT notes();

--
-- one writing branch, too, is prepared; those that only read are not
--
BEGIN;
SELECT dtx.exec('bank_a', 'INSERT INTO note VALUES (''six'')');
SELECT * FROM dtx.query('bank_b', 'SELECT 1') AS t(i int);
PREPARE TRANSACTION 'regress outer';
SELECT * FROM prepared();
COMMIT PREPARED 'regress outer';
CALL dtx.recover() \g /dev/null
SELECT notes();
-- nothing but questions, and nothing but a name
BEGIN;
SELECT * FROM dtx.query('bank_b', 'SELECT 1') AS t(i int);
PREPARE TRANSACTION 'regress outer';
SELECT * FROM prepared();
COMMIT PREPARED 'regress outer';
BEGIN;
SELECT dtx.current_gid() AS gid \gset
PREPARE TRANSACTION 'regress outer';
SELECT dtx.outcome(:'gid');
COMMIT PREPARED 'regress outer';
SELECT dtx.outcome(:'gid');
-- what was sent and not waited for
BEGIN;
SELECT dtx.send('bank_a', 'INSERT INTO note VALUES (''seven'')'), dtx.send('bank_b', 'INSERT INTO note VALUES (''seven'')');
PREPARE TRANSACTION 'regress outer';
COMMIT PREPARED 'regress outer';
CALL dtx.recover() \g /dev/null
SELECT notes();
-- two of them at once, ended in the other order and differently
BEGIN;
SELECT put('eight');
PREPARE TRANSACTION 'regress outer 1';
BEGIN;
SELECT put('nine');
PREPARE TRANSACTION 'regress outer 2';
SELECT * FROM prepared();
COMMIT PREPARED 'regress outer 2';
ROLLBACK PREPARED 'regress outer 1';
CALL dtx.recover() \g /dev/null
SELECT * FROM prepared();
SELECT notes();
\i :end
