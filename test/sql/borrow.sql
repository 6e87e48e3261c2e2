-- A security definer function's branch cannot be used by its caller.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
-- other owns functions that app may call; each has its own rights on bank_a
DO $$ BEGIN
    EXECUTE $x$CREATE USER MAPPING FOR regress_dtx_other SERVER bank_a OPTIONS (user 'regress_dtx_other', password 'regress-other')$x$;
END $$;
GRANT USAGE ON FOREIGN SERVER bank_a TO regress_dtx_other;
\connect :bank_a
SET SESSION AUTHORIZATION regress_dtx_other;
CREATE TABLE secret (t text);
INSERT INTO secret VALUES ('of other');
\connect :coordinator
SET SESSION AUTHORIZATION regress_dtx_other;
CREATE FUNCTION count_secret() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS
$$ SELECT dtx.exec('bank_a', 'SELECT * FROM public.secret') $$;
CREATE FUNCTION add_secret(t text) RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS
$$ SELECT dtx.exec('bank_a', 'INSERT INTO public.secret VALUES ($1)', ARRAY[t]) $$;

-- nobody may call dblink: allowed
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT count_secret();
SELECT dtx.exec('bank_a', 'SELECT * FROM secret');
BEGIN;
SELECT add_secret('by app, through the function');
SELECT dtx.exec('bank_a', 'UPDATE account SET balance = 999 WHERE id = 1');
COMMIT;
SELECT count_secret();

-- the attack: with a branch of other open, app tries dblink on its connection
BEGIN;
SELECT count_secret();
SAVEPOINT s;
SELECT dblink_get_connections();
ROLLBACK TO s;
SELECT * FROM dblink('dtx$1', 'SELECT t FROM secret') AS t(t text);
ROLLBACK TO s;
SELECT dblink_send_query('dtx$1', 'SELECT t FROM secret');
ROLLBACK TO s;
SELECT * FROM dblink_get_result('dtx$1') AS t(t text);
ROLLBACK TO s;
SELECT dblink_exec('dtx$1', 'INSERT INTO secret VALUES (''by app'')');
ROLLBACK TO s;
SELECT dblink_disconnect('dtx$1');
ROLLBACK TO s;
COMMIT;

-- each single function of dblink that works on a connection makes the branch refused
RESET SESSION AUTHORIZATION;
CREATE TABLE tried (f text, refused text);
GRANT ALL ON tried TO regress_dtx_app;
CREATE FUNCTION try_count() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN count_secret();
EXCEPTION WHEN insufficient_privilege THEN
    RETURN SQLERRM;
END $$;
GRANT EXECUTE ON FUNCTION try_count() TO PUBLIC;
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT p.oid FROM pg_depend JOIN pg_extension e ON e.oid = refobjid JOIN pg_proc p ON p.oid = objid
             WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND classid = 'pg_proc'::regclass
               AND extname = 'dblink' ORDER BY p.oid::regprocedure::text
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO regress_dtx_app', f);
        SET LOCAL SESSION AUTHORIZATION regress_dtx_app;
        INSERT INTO tried SELECT f, try_count();
        COMMIT;
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM regress_dtx_app', f);
    END LOOP;
END $$;
SELECT DISTINCT split_part(f, '(', 1) AS function, refused FROM tried ORDER BY 2, 1;
-- as a caller sees it; also through PUBLIC and through a role
GRANT EXECUTE ON FUNCTION dblink_get_result(text) TO PUBLIC;
SELECT problem, hint FROM dtx.check_setup() WHERE problem LIKE '%dblink%';
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT count_secret();
-- his own branches are not affected
SELECT dtx.exec('bank_a', 'SELECT * FROM account');
SET SESSION AUTHORIZATION regress_dtx_other;
SELECT count_secret();
RESET SESSION AUTHORIZATION;
REVOKE EXECUTE ON FUNCTION dblink_get_result(text) FROM PUBLIC;
SELECT problem, hint FROM dtx.check_setup() WHERE problem LIKE '%dblink%';
CREATE ROLE regress_dtx_group;
GRANT regress_dtx_group TO regress_dtx_app;
GRANT EXECUTE ON FUNCTION dblink_exec(text, text) TO regress_dtx_group;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT count_secret();
RESET SESSION AUTHORIZATION;
REVOKE EXECUTE ON FUNCTION dblink_exec(text, text) FROM regress_dtx_group;
DROP ROLE regress_dtx_group;
-- granted while a branch of other is open, or kept from before
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT count_secret();
RESET SESSION AUTHORIZATION;
GRANT EXECUTE ON FUNCTION dblink(text, text), dblink_get_connections() TO regress_dtx_app;
SET SESSION AUTHORIZATION regress_dtx_app;
-- (the connection of other is not kept at all)
SELECT coalesce(cardinality(dblink_get_connections()), 0) AS kept;
BEGIN;
SELECT dtx.exec('bank_a', 'SELECT 1');
SELECT cardinality(dblink_get_connections()) AS own;
COMMIT;
SELECT count_secret();
RESET SESSION AUTHORIZATION;
REVOKE EXECUTE ON FUNCTION dblink(text, text), dblink_get_connections() FROM regress_dtx_app;

-- one who is a member of the role could do it anyhow, and a superuser
GRANT regress_dtx_other TO regress_dtx_app;
GRANT EXECUTE ON FUNCTION dblink(text, text) TO regress_dtx_app;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT count_secret();
RESET SESSION AUTHORIZATION;
SELECT count_secret();
REVOKE regress_dtx_other FROM regress_dtx_app;
REVOKE EXECUTE ON FUNCTION dblink(text, text) FROM regress_dtx_app;
-- the function itself has no more rights than its owner
SET SESSION AUTHORIZATION regress_dtx_other;
CREATE FUNCTION of_app() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS
$$ SELECT dtx.exec('bank_b', 'SELECT * FROM public.account') $$;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT of_app();
\i :end
