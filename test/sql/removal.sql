-- DROP EXTENSION, and CREATE EXTENSION again.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
CREATE FUNCTION where_am_i(node name) RETURNS text LANGUAGE sql AS
$$ SELECT d FROM dtx.query(node, 'SELECT current_database() || '' as '' || current_user') AS t(d text) $$;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT where_am_i('bank_b');
SELECT count(*) FROM dtx.check_node('bank_a');
BEGIN;
SELECT dtx.current_gid() AS old_gid \gset
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = 1001 WHERE id = 1');
COMMIT;
RESET SESSION AUTHORIZATION;
-- it goes
CALL dtx.recover() \g /dev/null
DROP EXTENSION dtx;
SELECT count(*) FROM pg_namespace WHERE nspname = 'dtx';
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT where_am_i('bank_b');
RESET SESSION AUTHORIZATION;
-- and comes, as another coordinator, which knows nothing of the first
CREATE EXTENSION dtx;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT where_am_i('bank_b');
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = 1000 WHERE id = 1');
BEGIN;
SELECT dtx.current_gid() AS gid \gset
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = 1000 WHERE id = 1');
COMMIT;
SELECT dtx.outcome(:'gid'), dtx.outcome(:'old_gid');
-- not while a transaction uses it
RESET SESSION AUTHORIZATION;
BEGIN;
SET LOCAL SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = 0 WHERE id = 1');
INSERT INTO ledger (note) VALUES ('dropped');
SET LOCAL SESSION AUTHORIZATION DEFAULT;
DROP EXTENSION dtx;
COMMIT;
SELECT count(*) FROM ledger;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT * FROM dtx.query('bank_b', 'SELECT balance FROM account WHERE id = 1') AS t(balance int);
\i :end
