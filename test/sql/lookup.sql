-- One flow among many is found by its gid, without a look at the others.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
\pset format unaligned
\pset tuples_only on
-- many that are over, with and without a name, and what was said of them
INSERT INTO dtx.transaction (xid, nonce, life, name, pattern, state, owner, definition, nodes, created_at, finished_at)
SELECT (1000000 + i)::text::xid8, i, 4711, CASE WHEN i % 2 = 0 THEN 'order ' || i END,
       CASE WHEN i % 10 = 0 THEN 'tcc' ELSE 'saga' END, 'aborted', 'regress_dtx_app'::regrole,
       '{"steps": [{"name": "one"}, {"name": "two"}]}', CASE WHEN i % 10 = 0 THEN '{}' ELSE '{0,0}'::oid[] END, now(), now()
  FROM generate_series(1, 20000) i;
INSERT INTO dtx.step (xid, nonce, step, operation, state, attempt_count, sent_at, answered_at)
SELECT xid, nonce, s, CASE pattern WHEN 'tcc' THEN 'try' ELSE 'action' END, 'done', 1, now(), now()
  FROM dtx.transaction, generate_series(1, 2) s;
INSERT INTO dtx.event (actor, gid, event, detail)
SELECT 'dtx', COALESCE(name, dtx.gid_text(life, xid, nonce)), 'turned back', 'by the test' FROM dtx.transaction;
INSERT INTO dtx.committed (life, xid, nonce, owner, decided_at)
SELECT 815, xid, nonce, owner, now() FROM dtx.transaction;
VACUUM ANALYZE dtx.transaction, dtx.step, dtx.event, dtx.committed;
-- how many pages a query reads, once everything is in its caches
CREATE FUNCTION pages(sql text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    told json;
BEGIN
    FOR i IN 1 .. 2 LOOP
        EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, TIMING off, FORMAT JSON) ' || sql INTO told;
    END LOOP;
    RETURN (told->0->'Plan'->>'Shared Hit Blocks')::int + (told->0->'Plan'->>'Shared Read Blocks')::int;
END $$;
CREATE FUNCTION few(sql text) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN n < 200 THEN 'few' ELSE n::text END FROM pages(sql) n $$;
GRANT EXECUTE ON FUNCTION pages(text), few(text) TO PUBLIC;
SET max_parallel_workers_per_gather = 0;
-- by who may see all, and by the owner
CREATE FUNCTION look(what text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws('|', what, gid, few(format('SELECT * FROM dtx.%I WHERE gid = %L', what, gid)))
      FROM unnest(ARRAY['order 4710', 'order 4712', 'dtx_0000000000001267_f54a7_0000000000001267', 'dtx_000000000000032f_f54a7_0000000000001267']) gid $$;
SELECT look(what) FROM unnest(ARRAY['transactions', 'steps', 'branches', 'history']) what;
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT look(what) FROM unnest(ARRAY['transactions', 'steps', 'branches', 'history']) what;
SELECT gid, few(format('SELECT dtx.diagram(%L)', gid))
  FROM unnest(ARRAY['order 4710', 'order 4712', 'dtx_0000000000001267_f54a7_0000000000001267']) gid;
SELECT few($$SELECT dtx.wait('order 4712')$$);
-- a saga of as many steps as there may be
SELECT dtx.saga_submit(jsonb_build_object('concurrent', true, 'steps',
    (SELECT jsonb_agg(jsonb_build_object('name', 'step ' || i || ' ' || md5(i::text))) FROM generate_series(1, 1000) i)), 'long');
SELECT dtx.wait('long', '1 min');
SELECT few($$SELECT * FROM dtx.steps WHERE gid = 'long'$$);
SELECT count(DISTINCT name), min(name), max(step) FROM dtx.steps WHERE gid = 'long' AND state = 'done';
-- what they find
SELECT pattern, state, branch_count FROM dtx.transactions WHERE gid = 'order 4712';
SELECT pattern, state, branch_count FROM dtx.transactions WHERE gid = 'dtx_0000000000001267_f54a7_0000000000001267';
SELECT pattern, state, branch_count FROM dtx.transactions WHERE gid = 'dtx_000000000000032f_f54a7_0000000000001267';
SELECT step, operation FROM dtx.steps WHERE gid = 'order 4710' ORDER BY step;
SELECT event, detail FROM dtx.history WHERE gid = 'dtx_0000000000001267_f54a7_0000000000001267';
-- and what is another role's stays hidden
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_dtx_other;
CREATE FUNCTION pg_temp.leak(t text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$
BEGIN
    RAISE NOTICE 'seen %', t;
    RETURN true;
END $$;
SELECT count(*) FROM dtx.transactions WHERE gid = 'order 4712' AND pg_temp.leak(gid);
SELECT count(*) FROM dtx.steps WHERE gid = 'order 4712' AND pg_temp.leak(gid);
SELECT count(*) FROM dtx.history WHERE gid = 'order 4712' AND pg_temp.leak(gid);
SELECT look('transactions');
RESET SESSION AUTHORIZATION;
DELETE FROM dtx.transaction;
DELETE FROM dtx.step;
DELETE FROM dtx.committed;
\i :end
