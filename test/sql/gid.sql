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
-- asked again: the answer stays
SELECT dtx.outcome(:'first'), dtx.outcome(:'rolled_back'), dtx.outcome(:'refused'), dtx.outcome(:'in_savepoint');
RESET SESSION AUTHORIZATION;
CALL dtx.recover() \g /dev/null
VACUUM FREEZE ledger;
SELECT dtx.outcome(:'first'), dtx.outcome(:'rolled_back'), dtx.outcome(:'refused'), dtx.outcome(:'in_savepoint');
\i :end
