-- dtx.current_gid and dtx.outcome.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
SET SESSION AUTHORIZATION regress_dtx_app;
-- the same throughout a transaction, another one in the next
BEGIN;
SELECT dtx.current_gid() AS first \gset
SELECT :'first' ~ '^dtx_[0-9a-f]{16}_[0-9a-f]+_[0-9a-f]{16}$' AS well_formed;
SAVEPOINT s;
SELECT dtx.current_gid() = :'first' AS same;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = balance - 1 WHERE id = 1');
ROLLBACK TO s;
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = balance - 1 WHERE id = 1');
SELECT dtx.current_gid() = :'first' AS same;
SELECT dtx.outcome(:'first');
COMMIT;
SELECT dtx.outcome(:'first');
BEGIN;
SELECT dtx.current_gid() <> :'first' AS another;
-- of another transaction, in this one
SELECT dtx.outcome(:'first');
COMMIT;
RESET SESSION AUTHORIZATION;
SELECT dblink_connect('second', format('host=127.0.0.1 port=%s dbname=dtx_regression_c user=regress_dtx_app password=regress-app',
    current_setting('port')));
SET SESSION AUTHORIZATION regress_dtx_app;

-- aborted: by ROLLBACK, by an error, by a node that refuses
BEGIN;
SELECT dtx.current_gid() AS rolled_back \gset
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0 WHERE id = 1');
ROLLBACK;
SELECT dtx.outcome(:'rolled_back');
BEGIN;
SELECT dtx.current_gid() AS failed \gset
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0 WHERE id = 1');
SELECT 1 / 0;
COMMIT;
SELECT dtx.outcome(:'failed');
SELECT dtx.exec('bank_b', 'CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)');
BEGIN;
SELECT dtx.current_gid() AS refused \gset
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 0 WHERE id = 1');
SELECT dtx.exec('bank_b', 'INSERT INTO child VALUES (1)');
COMMIT;
SELECT dtx.outcome(:'refused');
-- asked for in a subtransaction that is rolled back: the transaction is the same
BEGIN;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 900 WHERE id = 1');
SAVEPOINT s;
SELECT dtx.current_gid() AS in_savepoint \gset
ROLLBACK TO s;
COMMIT;
SELECT dtx.outcome(:'in_savepoint');

-- committed without any branch; by a reader; read only; serializable; outside of a transaction
BEGIN;
SELECT dtx.current_gid() AS alone \gset
COMMIT;
SELECT dtx.outcome(:'alone');
BEGIN;
SELECT dtx.exec('bank_a', 'SELECT * FROM account');
SELECT dtx.current_gid() AS reader \gset
COMMIT;
SELECT dtx.outcome(:'reader');
BEGIN READ ONLY;
SELECT dtx.current_gid() AS read_only \gset
SELECT dtx.exec('bank_a', 'SELECT * FROM account');
COMMIT;
SELECT dtx.outcome(:'read_only');
SELECT dtx.current_gid() AS implicit \gset
SELECT dtx.outcome(:'implicit');

-- in progress, as another session sees it
RESET SESSION AUTHORIZATION;
BEGIN;
SELECT dtx.current_gid() AS running \gset
SELECT outcome FROM dblink('second', format('SELECT dtx.outcome(%L)', :'running')) AS t(outcome text);
COMMIT;
SELECT outcome FROM dblink('second', format('SELECT dtx.outcome(%L)', :'running')) AS t(outcome text);
SELECT gid FROM dblink('second', 'BEGIN; SELECT dtx.current_gid()') AS t(gid text) \gset
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.outcome(:'gid');
RESET SESSION AUTHORIZATION;
SELECT dblink_exec('second', 'ROLLBACK');
SELECT dtx.outcome(:'gid');
SELECT dblink_disconnect('second');
SET SESSION AUTHORIZATION regress_dtx_app;

-- unknown: of another life
SELECT dtx.outcome('dtx_0123456789abcdef_2f0_0123456789abcdef');
-- an xid that is not there yet
SELECT dtx.outcome(regexp_replace(:'first', '_[0-9a-f]+_([0-9a-f]{16})$', '_ffffffffff_\1'));
SELECT dtx.outcome(regexp_replace(:'first', '_[0-9a-f]+_([0-9a-f]{16})$', '_7fffffff_\1'));
-- malformed
SELECT dtx.outcome(NULL);
SELECT dtx.outcome('');
SELECT dtx.outcome('dtx');
SELECT dtx.outcome('dtx_0123456789abcdef_2f0');
SELECT dtx.outcome('dtx_0123456789abcde_2f0_0123456789abcdef');
SELECT dtx.outcome('dtx_0123456789abcdef_2f0_0123456789abcdeg');
SELECT dtx.outcome('dtx_0123456789ABCDEF_2f0_0123456789abcdef');
SELECT dtx.outcome('dtx_0123456789abcdef_-2f_0123456789abcdef');
SELECT dtx.outcome(' dtx_0123456789abcdef_2f0_0123456789abcdef');
SELECT dtx.outcome('dtx_0123456789abcdef_2f0_0123456789abcdef_1_2');
SELECT dtx.outcome('dtx_0123456789abcdef_10000000000000000_0123456789abcdef');
-- of a TCC transaction: what was decided, not what became of who began it
SELECT dtx.tcc_begin() AS tcc \gset
SELECT dtx.outcome(:'tcc');
BEGIN;
SELECT dtx.tcc_confirm(:'tcc');
SELECT dtx.outcome(:'tcc');
ROLLBACK;
SELECT dtx.outcome(:'tcc');
SELECT dtx.pause(:'tcc', 'for the test');
SELECT dtx.tcc_confirm(:'tcc');
SELECT state, dtx.outcome(gid) FROM dtx.transactions WHERE gid = :'tcc';
-- an operator gives it up: it was decided all the same
SELECT dtx.force_end(:'tcc', 'aborted', 'for the test');
SELECT state, dtx.outcome(gid) FROM dtx.transactions WHERE gid = :'tcc';
SELECT dtx.tcc_begin() AS cancelled \gset
SELECT dtx.tcc_cancel(:'cancelled');
SELECT dtx.outcome(:'cancelled');
SELECT dtx.wait(:'cancelled', '1 min');
SELECT dtx.outcome(:'cancelled');
BEGIN;
SELECT dtx.tcc_begin() AS never \gset
SELECT dtx.outcome(:'never');
ROLLBACK;
SELECT dtx.outcome(:'never');
-- by the name that its application gave it, for who may see it
SELECT dtx.tcc_begin('order 1');
SELECT dtx.outcome('order 1');
SELECT dtx.tcc_cancel('order 1');
SELECT dtx.outcome('order 1');
SET SESSION AUTHORIZATION regress_dtx_other;
SELECT dtx.outcome('order 1');
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.outcome('order 2');
-- of a saga: how it has ended
BEGIN;
SELECT dtx.saga_submit('{"steps": [{"name": "nothing"}]}') AS saga \gset
SELECT dtx.pause(:'saga', 'for the test');
COMMIT;
SELECT dtx.outcome(:'saga');
SELECT dtx.resume(:'saga', 'for the test');
SELECT dtx.wait(:'saga', '1 min');
SELECT dtx.outcome(:'saga');
-- when it is forgotten nobody knows, whatever became of who began it
RESET SESSION AUTHORIZATION;
DELETE FROM dtx.transaction;
SELECT dtx.outcome(:'tcc'), dtx.outcome(:'cancelled'), dtx.outcome(:'never'), dtx.outcome(:'saga'), dtx.outcome('order 1');
SET SESSION AUTHORIZATION regress_dtx_app;
-- asked again: the answer stays
SELECT dtx.outcome(:'first'), dtx.outcome(:'rolled_back'), dtx.outcome(:'refused'), dtx.outcome(:'in_savepoint');
RESET SESSION AUTHORIZATION;
CALL dtx.recover() \g /dev/null
VACUUM FREEZE ledger;
SELECT dtx.outcome(:'first'), dtx.outcome(:'rolled_back'), dtx.outcome(:'refused'), dtx.outcome(:'in_savepoint');
\i :end
