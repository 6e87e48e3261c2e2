-- What an ordinary role can do and see, and what not.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
-- another application, with its own mapping on bank_a
DO $$ BEGIN
    EXECUTE $x$CREATE USER MAPPING FOR regress_dtx_other SERVER bank_a OPTIONS (user 'regress_dtx_other', password 'regress-other')$x$;
END $$;
GRANT USAGE ON FOREIGN SERVER bank_a TO regress_dtx_other;
CREATE ROLE regress_dtx_monitor IN ROLE pg_monitor;
CREATE ROLE regress_dtx_nobody;

-- end to end by a role that has nothing but USAGE and a mapping
SET SESSION AUTHORIZATION regress_dtx_app;
BEGIN;
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = balance - 1 WHERE id = 1', expect => 1);
SELECT dtx.exec('bank_b', 'UPDATE account SET balance = balance + 1 WHERE id = 1', expect => 1);
SELECT dtx.current_gid() AS gid \gset
COMMIT;
SELECT dtx.outcome(:'gid');

-- tables are closed to it, for reading and writing
\pset format unaligned
\pset tuples_only on
CREATE FUNCTION try(sql text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE sql;
    RETURN 'ALLOWED';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
GRANT EXECUTE ON FUNCTION try(text) TO PUBLIC;
SELECT relname, c, try(format(c, relname))
  FROM pg_class CROSS JOIN unnest(ARRAY['SELECT FROM dtx.%I', 'INSERT INTO dtx.%I DEFAULT VALUES', 'DELETE FROM dtx.%I',
           'TRUNCATE dtx.%I', 'LOCK dtx.%I', 'DROP TABLE dtx.%I']) c
 WHERE relnamespace = 'dtx'::regnamespace AND relkind IN ('r', 'p') AND try(format(c, relname)) NOT LIKE '42501%'
 ORDER BY relname, c;
SELECT try('SELECT FROM dtx.decision');
SELECT try('DELETE FROM dtx.decision');
SELECT relname, try(format('SELECT FROM dtx.%I', relname))
  FROM pg_class WHERE relnamespace = 'dtx'::regnamespace AND relkind IN ('v', 'S') ORDER BY relname;
SELECT try('CREATE TABLE dtx.mine ()');
SELECT try('CREATE FUNCTION dtx.exec(text) RETURNS int LANGUAGE sql AS ''SELECT 1''');
SELECT try('CREATE OR REPLACE FUNCTION dtx.outcome(text) RETURNS text LANGUAGE sql AS ''SELECT ''''committed''''''');
-- functions for operators are refused
SELECT try('CALL dtx.recover()');
SELECT try(format('SELECT dtx.resolve(%L, 1, ''aborted'', ''x'')', :'gid'));
SELECT try('SELECT dtx.adopt(''0123456789abcdef'', ''x'')');
-- what may be executed by everyone
SELECT p.oid::regprocedure
  FROM pg_proc p WHERE pronamespace = 'dtx'::regnamespace AND has_function_privilege('regress_dtx_app', p.oid, 'EXECUTE')
 ORDER BY 1;
-- none of them runs as its owner
SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'dtx'::regnamespace AND prosecdef;
-- settings that everyone may change: they concern only himself
SELECT name FROM pg_settings WHERE name LIKE 'dtx.%' AND context = 'user' ORDER BY name;
\pset tuples_only off

-- its own transactions, and nobody else's
RESET SESSION AUTHORIZATION;
CALL dtx.recover() \g /dev/null
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT state, owner, gid = :'gid' AS mine FROM dtx.transactions;
SELECT node FROM dtx.nodes ORDER BY node;
SET SESSION AUTHORIZATION regress_dtx_other;
SELECT state, owner, gid = :'gid' AS mine FROM dtx.transactions;
SELECT count(*) FROM dtx.branches;
SELECT count(*) FROM dtx.stuck;
SELECT node FROM dtx.nodes ORDER BY node;
SELECT dtx.outcome(:'gid');
SET SESSION AUTHORIZATION regress_dtx_nobody;
SELECT count(*) FROM dtx.transactions;
SELECT node FROM dtx.nodes ORDER BY node;
SELECT dtx.exec('bank_a', 'SELECT 1');
-- a view that leaks what its function is asked first would be a hole
CREATE FUNCTION pg_temp.leak(t text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$
BEGIN
    RAISE NOTICE 'seen %', t;
    RETURN true;
END $$;
SELECT count(*) FROM dtx.transactions WHERE pg_temp.leak(gid);
SELECT count(*) FROM dtx.branches WHERE pg_temp.leak(gid);
SELECT count(*) FROM dtx.nodes WHERE pg_temp.leak(node::text);
SET SESSION AUTHORIZATION regress_dtx_monitor;
SELECT state, owner, gid = :'gid' AS that FROM dtx.transactions;
SELECT node FROM dtx.nodes ORDER BY node;
SELECT count(*) > 0 AS lives FROM dtx.life;
SELECT count(*) FROM dtx.event;
SELECT count(*) FROM dtx.decision;
CALL dtx.recover();

-- rights that are taken away are missed at the next call, also inside a transaction
SET SESSION AUTHORIZATION regress_dtx_other;
BEGIN;
SELECT dtx.exec('bank_a', 'SELECT 1');
SET SESSION AUTHORIZATION DEFAULT;
REVOKE USAGE ON FOREIGN SERVER bank_a FROM regress_dtx_other;
SET SESSION AUTHORIZATION regress_dtx_other;
SELECT dtx.exec('bank_a', 'SELECT 1');
ROLLBACK;
RESET SESSION AUTHORIZATION;
REVOKE USAGE ON FOREIGN SERVER bank_a FROM regress_dtx_other;
SET SESSION AUTHORIZATION regress_dtx_other;
SELECT dtx.exec('bank_a', 'SELECT 1');
SELECT node FROM dtx.nodes ORDER BY node;
RESET SESSION AUTHORIZATION;
GRANT USAGE ON FOREIGN SERVER bank_a TO regress_dtx_other;
-- SET ROLE: the branch is that of the role, and needs its rights
GRANT regress_dtx_other, regress_dtx_nobody TO regress_dtx_app;
SET SESSION AUTHORIZATION regress_dtx_app;
SET ROLE regress_dtx_other;
SELECT * FROM dtx.query('bank_a', 'SELECT current_user') AS t(u text);
SELECT dtx.exec('bank_b', 'SELECT 1');
SET ROLE regress_dtx_nobody;
SELECT dtx.exec('bank_a', 'SELECT 1');
RESET ROLE;
SELECT * FROM dtx.query('bank_a', 'SELECT current_user') AS t(u text);
BEGIN;
SELECT * FROM dtx.query('bank_a', 'SELECT current_user') AS t(u text);
SET LOCAL ROLE regress_dtx_other;
SELECT * FROM dtx.query('bank_a', 'SELECT current_user') AS t(u text);
COMMIT;

-- a mapping for PUBLIC
RESET SESSION AUTHORIZATION;
DO $$ BEGIN
    EXECUTE $x$CREATE USER MAPPING FOR PUBLIC SERVER bank_b OPTIONS (user 'regress_dtx_other', password 'regress-other')$x$;
END $$;
GRANT USAGE ON FOREIGN SERVER bank_b TO regress_dtx_nobody;
SET SESSION AUTHORIZATION regress_dtx_nobody;
SELECT * FROM dtx.query('bank_b', 'SELECT current_user') AS t(u text);
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT * FROM dtx.query('bank_b', 'SELECT current_user') AS t(u text);

-- passwords are in no view and no message
RESET SESSION AUTHORIZATION;
SELECT count(*) FROM dtx.nodes n WHERE n::text LIKE '%regress-%';
SELECT count(*) FROM dtx.check_node('bank_b') n WHERE n::text LIKE '%regress-%';
DROP OWNED BY regress_dtx_nobody;
REVOKE regress_dtx_other, regress_dtx_nobody FROM regress_dtx_app;
DROP ROLE regress_dtx_monitor, regress_dtx_nobody;
\i :end
