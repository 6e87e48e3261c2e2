-- Definitions of sagas: how they are read, and what is refused.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
SET SESSION AUTHORIZATION regress_dtx_app;
\pset format unaligned

--
-- What is read
--
SELECT dtx.saga_check('{"steps": [{"name": "a"}]}');
SELECT dtx.saga_check(NULL) IS NULL AS nothing;
CREATE FUNCTION explained(definition jsonb, document jsonb DEFAULT '{}') RETURNS SETOF jsonb LANGUAGE sql AS
$$ SELECT to_jsonb(e) - 'retry_waits' FROM dtx.saga_explain(definition, document) e $$;
SELECT jsonb_pretty(explained('{"steps": [{"name": "a"}]}'));
SELECT jsonb_pretty(explained('{
    "timeout": "2 days", "recovery": "forward", "concurrent": true,
    "retry": {"interval": "250 ms", "max_interval": "1 min", "factor": 1.5, "max_attempts": 7},
    "steps": [
        {"name": "book", "node": "bank_a", "timeout": 2.5,
         "action": "INSERT INTO t VALUES ($1, $2) RETURNING id",
         "compensation": "DELETE FROM t WHERE id = $3",
         "args": [1, "$.input.city", "$.steps.book.result.id"]},
        {"name": "pay", "after": ["book"], "recovery": "backward", "retry": {"interval": 3, "max_attempts": 0}}
    ]}', '{"input": {"city": "Rome"}, "steps": {"book": {"result": {"id": 17}}}}'));
-- null is as if it was not there
SELECT explained('{
    "timeout": null, "recovery": null, "concurrent": null, "retry": null,
    "steps": [{"name": "a", "node": null, "timeout": null, "action": null, "compensation": null, "args": null,
               "after": null, "when": null, "recovery": null,
               "retry": {"interval": null, "max_interval": null, "factor": null, "max_attempts": null}}]}') = explained('{"steps": [{"name": "a"}]}') AS same;

-- after: by default one after the other, or all at once
SELECT step, name, after FROM dtx.saga_explain('{"steps": [{"name": "a"}, {"name": "b"}, {"name": "c", "after": []},
    {"name": "d"}, {"name": "e", "after": ["b", "a", "f"]}, {"name": "f", "after": ["a"]}]}');
SELECT step, name, after FROM dtx.saga_explain('{"concurrent": true, "steps": [{"name": "a"}, {"name": "b"},
    {"name": "c", "after": ["b"]}, {"name": "d", "after": []}]}');
SELECT step, name, after FROM dtx.saga_explain('{"concurrent": false, "steps": [{"name": "a"}, {"name": "b"}]}');
-- names
SELECT name, octet_length(name), arguments FROM dtx.saga_explain(jsonb_build_object('steps', jsonb_build_array(
    jsonb_build_object('name', 'with "quotes" and $'), jsonb_build_object('name', repeat('ü', 31) || 'x'),
    jsonb_build_object('name', 'x', 'action', 'SELECT $1', 'args', '["$.steps.\"with \\\"quotes\\\" and $\".result"]'::jsonb))),
    '{"steps": {"with \"quotes\" and $": {"result": 5}}}');

-- times
SELECT name, timeout FROM dtx.saga_explain('{"steps": [
    {"name": "a", "timeout": 1}, {"name": "b", "timeout": 0.0001}, {"name": "c", "timeout": "500ms"},
    {"name": "d", "timeout": "2 s"}, {"name": "e", "timeout": "1 min"}, {"name": "f", "timeout": "1h30min"},
    {"name": "g", "timeout": "24 days"}, {"name": "h", "timeout": 2073600}, {"name": "i", "timeout": "PT3S"},
    {"name": "j", "timeout": "7"}]}');
-- what is given wins over what is set: bounds give way to each other
SELECT name, retry_interval, retry_max_interval, retry_factor, retry_max_attempts FROM dtx.saga_explain('{"steps": [
    {"name": "a"},
    {"name": "b", "retry": {"interval": "5 min"}},
    {"name": "c", "retry": {"max_interval": "20 ms"}},
    {"name": "d", "retry": {"interval": "1 ms", "max_interval": 0.001}},
    {"name": "e", "retry": {"factor": 1}},
    {"name": "f", "retry": {"factor": 1e308, "max_attempts": 2147483647}}]}');
SELECT name, retry_interval, retry_max_interval, retry_factor, retry_max_attempts FROM dtx.saga_explain('{
    "retry": {"interval": 2, "max_interval": 4, "factor": 3, "max_attempts": 5}, "steps": [
    {"name": "a"},
    {"name": "b", "retry": {}},
    {"name": "c", "retry": {"interval": 3}},
    {"name": "d", "retry": {"interval": 5, "max_interval": 5}},
    {"name": "e", "retry": {"max_attempts": 0, "factor": 1}}]}');

-- grows from attempt to attempt up to the bound, a fifth more or less, and never below 10 ms
SELECT name, i, extract(epoch FROM min(wait)) >= 0.8 * expected - 0.001 AND extract(epoch FROM max(wait)) <= 1.2 * expected + 0.001 AS as_expected,
       min(wait) < max(wait) AS varies
  FROM generate_series(1, 200) n, dtx.saga_explain('{"steps": [
    {"name": "a"},
    {"name": "b", "retry": {"interval": 2, "factor": 1}},
    {"name": "c", "retry": {"interval": "100 ms", "factor": 1.5, "max_interval": "500 ms"}},
    {"name": "d", "retry": {"interval": 60, "factor": 1e400, "max_interval": "24 days"}}]}',
    jsonb_build_object('input', n)), unnest(retry_waits) WITH ORDINALITY w(wait, i),
    LATERAL (SELECT least(CASE name WHEN 'a' THEN 60 WHEN 'b' THEN 60 WHEN 'c' THEN 0.5 ELSE 2073600 END,
        CASE name WHEN 'a' THEN 2 ^ (i - 1) WHEN 'b' THEN 2 WHEN 'c' THEN 0.1 * 1.5 ^ (i - 1)
             ELSE CASE i WHEN 1 THEN 60 ELSE 3000000 END END) AS expected) e
 GROUP BY name, i, expected ORDER BY name, i;
SELECT min(wait) AS least, max(wait) <= '12 ms' AS bounded
  FROM generate_series(1, 100) n, dtx.saga_explain('{"steps": [{"name": "a", "retry": {"interval": "10 ms", "max_interval": "10 ms"}}]}',
    jsonb_build_object('input', n)), unnest(retry_waits) w(wait);

-- SQL: nothing to run, several statements, and where a $ is no parameter
SELECT name, action_parameters a, compensation_parameters c, arguments FROM dtx.saga_explain($json${"steps": [
    {"name": "empty", "action": "", "compensation": ""},
    {"name": "several", "action": "CREATE TABLE t (); DROP TABLE t", "compensation": "DO $$BEGIN END$$"},
    {"name": "compensation only", "compensation": "SELECT $1", "args": [7]},
    {"name": "more for the action", "action": "SELECT $2", "compensation": "SELECT $1", "args": [1, 2]},
    {"name": "more for the compensation", "action": "SELECT $1;", "compensation": "SELECT $3, $1", "args": [1, 2, 3]},
    {"name": "not parameters", "action": "SELECT '$3', \"$4\", $$ $5 $$, $a$ $6 $$ $b$ $7 $a$, a$8, E'\\'$9', E'a' -- $10 \n '\\'$11' /* $12 /* $13 */ $14 */, U&'\\0061$15' -- $16\n, '\\', $1 --'$17 FROM \"a\"\"$18\"", "args": [1]},
    {"name": "close by", "action": "SELECT 1+$1,$2::int,a[$3],b.c$9 FROM t WHERE d=$4 AND e=-$5--$9", "args": [1, 2, 3, 4, 5]},
    {"name": "strings", "action": "SELECT 'it''s $9', e'it''s \\\\', 'e'\n'\\', x'1f', '\\' || $1", "args": [1]}
    ]}$json$);

-- args: values, paths, literals
SELECT a.i, a.value FROM dtx.saga_explain('{"steps": [{"name": "a", "action":
    "SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18", "args": [
    1.50, true, false, null, "", "text ''\" \\ü", "$", "$x", "lax $.input", {"a": [1, "$.input"]}, [1, null, {"literal": 1}], [], {},
    {"literal": "$.input"}, {"literal": null}, {"literal": {"literal": 5}}, {"literal": 1, "other": 2}, {"literal": 1e3}]}]}'),
    unnest(arguments) WITH ORDINALITY a(value, i);
SELECT a.i, a.value FROM dtx.saga_explain('{"steps": [{"name": "a"}, {"name": "b", "action":
    "SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13", "args": [
    "$.input.number", "$.input.text", "$.input.yes", "$.input.none", "$.input.missing", "$.input.list", "$.input.list[1]",
    "$.input.object", "$.input.list[*] ? (@ > $.input.list[0])", "$.input.text.number.abs()", "$.steps.a.result.id",
    "$.steps.a.result.list[last]", "$.input.list.size()"]}]}',
    '{"input": {"number": 12.50, "text": "a \"b\"", "yes": true, "none": null, "list": [1, 2, 3], "object": {"k": "v"}},
      "steps": {"a": {"result": {"id": 5, "list": [6, 7]}}}}') AS e,
    unnest(e.arguments) WITH ORDINALITY a(value, i) WHERE e.name = 'b';
-- of whose result
SELECT name, result_of FROM dtx.saga_explain('{"steps": [{"name": "a"}, {"name": "b"}, {"name": "c",
    "action": "SELECT $1, $2", "compensation": "SELECT $4", "args": ["$.input.x", "$.steps.a.result", "$.steps.c.result", 3]}]}');
-- through other steps, listed later or earlier
SELECT name, after, result_of FROM dtx.saga_explain('{"steps": [
    {"name": "c", "after": ["b"], "action": "SELECT $1", "args": ["$.steps.a.result"]},
    {"name": "b", "after": ["a"]}, {"name": "a", "after": []}]}');

-- when
SELECT name, runs FROM dtx.saga_explain('{"concurrent": true, "steps": [
    {"name": "a", "when": "$.input.vip == true"}, {"name": "b", "when": "$.input.amount > 100 && !($.input.amount > 1000)"},
    {"name": "c", "when": "$.input.vip"}, {"name": "d", "when": "$.input.amount"}, {"name": "e", "when": "$.input.missing == 1"},
    {"name": "f", "when": "exists($.input.missing)"}, {"name": "g", "when": "strict $.input.missing.x == 1"},
    {"name": "h", "when": "$.input.amount == \"text\""}, {"name": "i", "when": "$.input.amount / 0 == 1"},
    {"name": "j", "when": "($.steps.a.result > 1) is unknown", "after": ["a"]},
    {"name": "k", "when": "$.steps.a.result.code like_regex \"^x\" || $.steps.b.result starts with \"y\"", "after": ["a", "b"]},
    {"name": "l", "when": "true"}, {"name": "m"}]}',
    '{"input": {"vip": true, "amount": 500}, "steps": {"a": {"result": {"code": "xy"}}}}');

--
-- What is refused
--
\set VERBOSITY default
CREATE FUNCTION refused(definition jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    state text; message text; detail text; hint text; context text;
BEGIN
    PERFORM dtx.saga_check(definition);
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
    -- PostgreSQL's own words for wrong paths are not the same in all versions
    IF message ~ 'jsonpath' THEN message := 'of jsonpath'; detail := ''; END IF;
    RETURN concat_ws(' | ', state, message, nullif(detail, ''), nullif(hint, ''),
        nullif(split_part(context, E'\n', 1), 'SQL statement "SELECT dtx.saga_check(definition)"'));
END $$;
-- of a definition of one step, two steps, and their fields
CREATE FUNCTION refused_step(VARIADIC fields text[]) RETURNS text LANGUAGE sql AS
$$ SELECT refused(('{"steps": [' || string_agg(format('{"name": "%s", %s}', chr(96 + i::int), field), ', ' ORDER BY i) || ']}')::jsonb)
     FROM unnest(fields) WITH ORDINALITY f(field, i) $$;
-- as a client sees it
SELECT dtx.saga_check('{"steps": [{"name": "book"}, {"name": "pay", "retry": {"interval": 0}}]}');
SELECT dtx.saga_check('{"steps": [{"name": "pay", "action": "SELECT $1, $2, $3", "args": [1, 2]}]}');
SELECT dtx.saga_check('{"steps": [{"name": "pay", "action": "SELEC 1"}]}');
SELECT * FROM dtx.saga_explain('{"steps": []}');
\pset tuples_only on
-- the whole
SELECT refused('1');
SELECT refused('null');
SELECT refused('[]');
SELECT refused('{}');
SELECT refused('{"steps": [{"name": "a"}], "stpes": 1}');
-- steps
SELECT refused('{"steps": null}');
SELECT refused('{"steps": {}}');
SELECT refused('{"steps": "a"}');
SELECT refused('{"steps": []}');
SELECT refused('{"steps": [{"name": "a"}, "b"]}');
SELECT refused('{"steps": [{"name": "a"}, null]}');
SELECT refused('{"steps": [{"name": "a"}, []]}');
SELECT refused(jsonb_build_object('steps', jsonb_agg(jsonb_build_object('name', i)))) FROM generate_series(1, 3) i;
SELECT refused(jsonb_build_object('steps', jsonb_agg(jsonb_build_object('name', i::text)))) FROM generate_series(1, 1000) i;
SELECT refused(jsonb_build_object('steps', jsonb_agg(jsonb_build_object('name', i::text)))) FROM generate_series(1, 1001) i;
-- name
SELECT refused('{"steps": [{}]}');
SELECT refused('{"steps": [{"name": null}]}');
SELECT refused('{"steps": [{"name": ""}]}');
SELECT refused(jsonb_build_object('steps', jsonb_build_array(jsonb_build_object('name', repeat('x', 63)))));
SELECT refused(jsonb_build_object('steps', jsonb_build_array(jsonb_build_object('name', repeat('x', 64)))));
SELECT refused(jsonb_build_object('steps', jsonb_build_array(jsonb_build_object('name', repeat('ü', 32)))));
SELECT refused('{"steps": [{"name": "x"}, {"name": "b"}, {"name": "a"}, {"name": "b"}]}');
-- fields of a step
SELECT refused_step('"acton": "SELECT 1"');
SELECT refused_step('"Action": "SELECT 1"');
SELECT refused_step('"node": 1');
SELECT refused_step('"node": ""');
SELECT refused_step('"action": 1');
SELECT refused_step('"action": ["SELECT 1"]');
SELECT refused_step('"compensation": true');
-- SQL
SELECT refused_step('"action": "SELEC 1"');
SELECT refused_step('"node": "bank_a"', '"compensation": "COMMIT"');
SELECT refused_step('"action": "SELECT 1; ROLLBACK"');
SELECT refused_step('"action": "PREPARE TRANSACTION ''x''"');
SELECT refused_step('"action": "SAVEPOINT s"');
SELECT refused_step('"action": "SET work_mem = 64"');
SELECT refused_step('"action": "SET LOCAL work_mem = 64"');
SELECT refused_step('"action": "LISTEN x"');
SELECT refused_step('"action": "COPY t FROM STDIN"');
SELECT refused_step('"action": " "');
SELECT refused_step('"action": "-- nothing"');
SELECT refused_step('"action": "SELECT ''open"');
-- parameters
SELECT refused_step('"action": "SELECT $1; SELECT 1", "args": [1]');
SELECT refused_step('"action": "SELECT 1; SELECT $1", "args": [1]');
SELECT refused_step('"action": "CALL p($1)", "args": [1]');
SELECT refused_step('"action": "SELECT $1"');
SELECT refused_step('"action": "SELECT $1", "args": []');
SELECT refused_step('"action": "SELECT 1", "args": [1]');
SELECT refused_step('"action": "SELECT $1", "compensation": "SELECT $2", "args": [1, 2, 3]');
SELECT refused_step('"action": "SELECT $3", "compensation": "SELECT $1", "args": [1, 2]');
SELECT refused_step('"args": [1]');
SELECT refused_step('"action": "SELECT $1000000", "args": [1]');
SELECT refused_step('"action": "SELECT $0"');
SELECT refused_step('"action": "SELECT ''$1''", "args": [1]');
-- args
SELECT refused_step('"args": {"a": 1}');
SELECT refused_step('"args": "$.input"');
SELECT refused_step('"action": "SELECT $1", "args": ["$."]');
SELECT refused_step('"action": "SELECT $1", "args": ["$.5"]');
SELECT refused_step('"action": "SELECT $1, $2", "args": [1, "$.Input.x"]');
SELECT refused_step('"action": "SELECT $1", "args": ["$.*"]');
SELECT refused_step('"action": "SELECT $1", "args": ["$.input.a + 1"]');
SELECT refused_step('"action": "SELECT $1", "args": ["$.steps"]');
SELECT refused_step('"action": "SELECT $1", "args": ["$.steps.x.result"]');
SELECT refused_step('"node": "n"', '"action": "SELECT $1", "args": ["$.steps.a.result"]');
SELECT refused_step('"node": "n"', '"action": "SELECT $1", "args": ["$.steps.a"]');
SELECT refused_step('"node": "n"', '"action": "SELECT $1", "args": ["$.steps.a.id"]');
SELECT refused_step('"node": "n"', '"action": "SELECT $1", "args": ["$.steps.*.result"]');
-- to steps that do not come before
SELECT refused_step('"action": "SELECT $1", "args": ["$.steps.b.result"]', '"node": "n"');
SELECT refused_step('"action": "SELECT $1", "args": ["$.steps.a.result"]');
SELECT refused_step('"action": "SELECT $1", "compensation": "SELECT $1", "args": ["$.steps.a.result"]');
SELECT refused_step('"compensation": "SELECT $1", "args": ["$.steps.a.result"]');
SELECT refused_step('"compensation": "SELECT $1", "args": ["$.steps.b.result"]', '"node": "n"');
SELECT refused_step('"node": "n"', '"after": [], "action": "SELECT $1", "args": ["$.steps.a.result"]');
SELECT refused_step('"node": "n"', '"action": "SELECT $1", "args": ["$.input.x[*] ? (@ == $.steps.b.result)"]');
SELECT refused_step('"node": "n"', '"action": "SELECT $1", "args": ["$.input.x[*] ? (@ == $.steps.a.result)"]');
SELECT refused_step('"node": "n"', '"action": "SELECT $1", "args": ["$.input[0 to $.steps.b.result]"]');
SELECT refused_step('"action": "SELECT $1", "args": ["$.input ? (@.a == $x)"]');
-- after
SELECT refused_step('"after": "b"', '"node": "n"');
SELECT refused_step('"after": [1]');
SELECT refused_step('"after": ["b", null]', '"after": []');
SELECT refused_step('"after": ["x"]');
SELECT refused_step('"node": "n"', '"after": ["a", "a"]');
SELECT refused_step('"after": ["a"]');
SELECT refused_step('"after": ["b"]', '"after": ["a"]');
SELECT refused_step('"after": ["b"]', '"node": "n"');
SELECT refused_step('"after": []', '"after": ["a", "d"]', '"after": ["b"]', '"after": ["c"]', '"after": ["d"]');
-- when
SELECT refused_step('"when": true');
SELECT refused_step('"when": ""');
SELECT refused_step('"when": "$.input =="');
SELECT refused_step('"when": "$.other == 1"');
SELECT refused_step('"when": "$ == 1"');
SELECT refused_step('"when": "$.steps.x.result == 1"');
SELECT refused_step('"when": "$.steps.a.result == 1"');
SELECT refused_step('"when": "$.steps.b.result == 1"', '"node": "n"');
SELECT refused_step('"node": "n"', '"when": "$.input.a == 1 && (exists($.steps.a ? (@.x like_regex \"y\")) || !($.steps.b.result + -1 > 0))"');
SELECT refused_step('"node": "n"', '"when": "$.steps.a.result == 1"');
SELECT refused_step('"when": "$v == 1"');
-- times
SELECT refused_step('"timeout": 0');
SELECT refused_step('"timeout": -1');
SELECT refused_step('"timeout": "0 s"');
SELECT refused_step('"timeout": "-1 s"');
SELECT refused_step('"timeout": "soon"');
SELECT refused_step('"timeout": ""');
SELECT refused_step('"timeout": true');
SELECT refused_step('"timeout": "25 days"');
SELECT refused_step('"timeout": "1 mon"');
SELECT refused_step('"timeout": 2073601');
SELECT refused_step('"timeout": 1e400');
SELECT refused('{"steps": [{"name": "a"}], "timeout": 0}');
SELECT refused('{"steps": [{"name": "a"}], "timeout": "never"}');
-- retry
SELECT refused_step('"retry": 5');
SELECT refused_step('"retry": [1]');
SELECT refused_step('"retry": {"intervall": 1}');
SELECT refused_step('"retry": {"interval": 0}');
SELECT refused_step('"retry": {"interval": "x"}');
SELECT refused_step('"retry": {"max_interval": -1}');
SELECT refused_step('"retry": {"max_interval": "40 days"}');
SELECT refused_step('"retry": {"interval": 5, "max_interval": 4}');
SELECT refused_step('"retry": {"factor": 0.99}');
SELECT refused_step('"retry": {"factor": "2"}');
SELECT refused_step('"retry": {"max_attempts": -1}');
SELECT refused_step('"retry": {"max_attempts": 1.5}');
SELECT refused_step('"retry": {"max_attempts": 2147483648}');
SELECT refused_step('"retry": {"max_attempts": "3"}');
SELECT refused('{"steps": [{"name": "a"}], "retry": {"factor": 0}}');
SELECT refused('{"steps": [{"name": "a"}], "retry": {"factors": 2}}');
SELECT refused('{"steps": [{"name": "a", "retry": {"interval": 5}}], "retry": {"max_interval": 4}}');
SELECT refused('{"steps": [{"name": "a", "retry": {"max_interval": 1}}], "retry": {"interval": 2}}');
-- recovery, concurrent
SELECT refused_step('"recovery": "sideways"');
SELECT refused_step('"recovery": true');
SELECT refused('{"steps": [{"name": "a"}], "recovery": "Forward"}');
SELECT refused('{"steps": [{"name": "a"}], "concurrent": "yes"}');
SELECT refused('{"steps": [{"name": "a"}], "concurrent": 1}');
-- the session's settings have no say
SET standard_conforming_strings = off;
SELECT name, action_parameters FROM dtx.saga_explain('{"steps": [{"name": "a", "action": "SELECT ''x'', $1", "args": [1]}]}');
SET backslash_quote = off;
SELECT refused_step(E'"action": "SELECT ''\\\\'', $1", "args": [1]');
RESET standard_conforming_strings;
RESET backslash_quote;
SET IntervalStyle = sql_standard;
SELECT timeout = interval '1 hour 2 minutes' FROM dtx.saga_explain('{"steps": [{"name": "a", "timeout": "1 hour 2 minutes"}]}');
RESET IntervalStyle;
\pset tuples_only off
\i :end
