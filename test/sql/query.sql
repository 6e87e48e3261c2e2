-- dtx.query: rows with a column definition list.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
SET SESSION AUTHORIZATION regress_dtx_app;

SELECT * FROM dtx.query('bank_a', 'SELECT id, owner FROM account ORDER BY id') AS t(id int, owner text);
SELECT upper(owner), id + 1 AS next FROM dtx.query('bank_a', 'TABLE account') AS t(id int, owner text, balance bigint)
 WHERE balance > 1 ORDER BY id DESC LIMIT 2;
SELECT * FROM dtx.query('bank_a', 'SELECT id FROM account WHERE owner = $1', ARRAY['bert']) AS t(id int);
-- in the order of the node
SELECT * FROM dtx.query('bank_a', 'SELECT id FROM account ORDER BY id DESC') AS t(id int);
-- no rows
SELECT * FROM dtx.query('bank_a', 'SELECT * FROM account WHERE false') AS t(id int, owner text, balance bigint);
-- a column may have any name, "status" too
SELECT * FROM dtx.query('bank_a', 'SELECT ''INSERT 0 1'' AS status') AS t(status text);
SELECT * FROM dtx.query('bank_a', 'SELECT ''INSERT 0 1'' AS status') AS t(x text);
SELECT * FROM dtx.query('bank_a', 'SELECT 1 AS "Two Words"') AS t("Other Words" int);
-- what returns rows and writes
BEGIN;
SELECT * FROM dtx.query('bank_a', 'INSERT INTO account VALUES (4, ''dirk'', 10) RETURNING id, balance * 2')
    AS t(id int, twice bigint);
SELECT * FROM dtx.query('bank_a', 'UPDATE account SET balance = balance + 1 WHERE id > $1 RETURNING *', ARRAY['2'])
    AS t(id int, owner text, balance bigint);
SELECT * FROM dtx.query('bank_a', 'WITH gone AS (DELETE FROM account WHERE id = 4 RETURNING owner) SELECT * FROM gone')
    AS t(owner text);
COMMIT;
SELECT * FROM dtx.query('bank_a', 'SELECT * FROM account ORDER BY id') AS t(id int, owner text, balance bigint);
-- several statements: the rows of the last one
SELECT * FROM dtx.query('bank_a', 'UPDATE account SET balance = 1000; SELECT sum(balance) FROM account') AS t(sum bigint);
SELECT * FROM dtx.query('bank_a', 'SELECT id, owner FROM account; SELECT * FROM account; SELECT 7') AS t(seven int);
-- statements that are not queries, but return rows
SELECT * FROM dtx.query('bank_a', 'SHOW search_path') AS t(path text);
SELECT * FROM dtx.query('bank_a', 'EXPLAIN (COSTS OFF) SELECT * FROM account') AS t(plan text);
BEGIN;
SELECT dtx.exec('bank_a', 'DECLARE c CURSOR FOR SELECT id, owner FROM account ORDER BY id');
SELECT * FROM dtx.query('bank_a', 'FETCH 2 FROM c') AS t(id int, owner text);
SELECT * FROM dtx.query('bank_a', 'FETCH 2 FROM c') AS t(id int, owner text);
SELECT * FROM dtx.query('bank_a', 'FETCH 2 FROM c') AS t(id int, owner text);
COMMIT;

--
-- Refused
--
SELECT dtx.query('bank_a', 'SELECT 1');
SELECT * FROM dtx.query('bank_a', 'SELECT 1');
SELECT * FROM dtx.query('bank_a', 'SELECT id, owner FROM account') AS t(id int);
SELECT * FROM dtx.query('bank_a', 'SELECT id FROM account') AS t(id int, owner text);
SELECT * FROM dtx.query('bank_a', 'SELECT * FROM account WHERE false') AS t(id int);
SELECT * FROM dtx.query('bank_a', 'SELECT owner FROM account WHERE id = 1') AS t(owner int);
SELECT * FROM dtx.query('bank_a', 'UPDATE account SET balance = 0') AS t(id int);
SELECT * FROM dtx.query('bank_a', 'CREATE TABLE refused ()') AS t(id int);
SELECT * FROM dtx.query('bank_a', 'SELECT 1; DELETE FROM account') AS t(id int);
SELECT * FROM dtx.query(NULL, 'SELECT 1') AS t(id int);
SELECT * FROM dtx.query('bank_a', NULL) AS t(id int);
SELECT * FROM dtx.query('bank_a', 'SELECT * FROM account ORDER BY id') AS t(id int, owner text, balance bigint);
-- and after a refusal all goes on
BEGIN;
SAVEPOINT a;
SELECT * FROM dtx.query('bank_a', 'UPDATE account SET balance = 0 RETURNING id, owner') AS t(id int);
ROLLBACK TO a;
SELECT * FROM dtx.query('bank_a', 'SELECT sum(balance) FROM account') AS t(sum bigint);
COMMIT;

--
-- Values arrive as they were, whatever the styles of session and node
--
\connect :bank_a
ALTER ROLE regress_dtx_app IN DATABASE dtx_regression_a SET DateStyle = 'German';
ALTER ROLE regress_dtx_app IN DATABASE dtx_regression_a SET IntervalStyle = 'sql_standard';
ALTER ROLE regress_dtx_app IN DATABASE dtx_regression_a SET TimeZone = 'Asia/Tokyo';
ALTER ROLE regress_dtx_app IN DATABASE dtx_regression_a SET extra_float_digits = 0;
ALTER ROLE regress_dtx_app IN DATABASE dtx_regression_a SET bytea_output = 'escape';
\connect :coordinator
SET SESSION AUTHORIZATION regress_dtx_app;
SELECT dtx.exec('bank_a', 'CREATE TABLE value (d date, t timestamptz, s timestamp, i interval, k interval, f float8, g real, b bytea, n numeric, j jsonb, a text[])');
CREATE FUNCTION same_values() RETURNS boolean LANGUAGE sql AS $$
    SELECT ROW(v.*) = ROW('2024-02-03'::date, '2024-02-03 04:05:06.789012+00'::timestamptz,
            '2024-12-11 10:09:08'::timestamp, '-1 year -2 months +3 days -4 hours'::interval, '-1 day -2:03:04'::interval, 0.1::float8 + 0.2,
            1.1::real / 3, '\x00ff5c27'::bytea, 'NaN'::numeric, '{"a": [1, null]}'::jsonb, ARRAY['a', NULL, 'b"c'])
      FROM dtx.query('bank_a', 'TABLE value') AS v(d date, t timestamptz, s timestamp, i interval, k interval, f float8, g real, b bytea, n numeric, j jsonb, a text[])
$$;
CREATE FUNCTION store_values() RETURNS bigint LANGUAGE sql AS $$
    SELECT dtx.exec('bank_a', 'DELETE FROM value');
    SELECT dtx.exec('bank_a', 'INSERT INTO value VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)',
        ARRAY['2024-02-03'::date::text, '2024-02-03 04:05:06.789012+00'::timestamptz::text,
            '2024-12-11 10:09:08'::timestamp::text, '-1 year -2 months +3 days -4 hours'::interval::text, '-1 day -2:03:04'::interval::text,
            (0.1::float8 + 0.2)::text, (1.1::real / 3)::text, '\x00ff5c27'::bytea::text, 'NaN',
            '{"a": [1, null]}', ARRAY['a', NULL, 'b"c']::text]);
$$;
DO $$
DECLARE
    date_style text;
    interval_style text;
    zone text;
    seen int := 0;
BEGIN
    FOREACH date_style IN ARRAY ARRAY['ISO, MDY', 'ISO, DMY', 'SQL, DMY', 'SQL, MDY', 'Postgres, DMY', 'Postgres, MDY', 'German, DMY'] LOOP
        FOREACH interval_style IN ARRAY ARRAY['postgres', 'postgres_verbose', 'sql_standard', 'iso_8601'] LOOP
            FOREACH zone IN ARRAY ARRAY['UTC', 'America/New_York', 'Asia/Kathmandu'] LOOP
                PERFORM set_config('DateStyle', date_style, true), set_config('IntervalStyle', interval_style, true),
                        set_config('TimeZone', zone, true);
                PERFORM store_values();
                -- as the first statement of a branch
                COMMIT;
                PERFORM set_config('DateStyle', date_style, true), set_config('IntervalStyle', interval_style, true),
                        set_config('TimeZone', zone, true);
                IF same_values() THEN
                    seen := seen + 1;
                ELSE
                    RAISE NOTICE 'not the same with % % %', date_style, interval_style, zone;
                END IF;
            END LOOP;
        END LOOP;
    END LOOP;
    RAISE NOTICE '% of 84 are the same', seen;
END $$;
\i :end
