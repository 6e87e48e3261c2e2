-- States of flows and steps: the moves that there are.
\getenv here PG_ABS_SRCDIR
\set begin :here '/sql/common/begin.psql'
\set end :here '/sql/common/end.psql'
\i :begin
\if :skip
\quit
\endif
SET SESSION AUTHORIZATION regress_dtx_app;
\pset format unaligned
SELECT * FROM dtx.state_transitions() ORDER BY object, from_state, to_state;
-- each move once
SELECT object, from_state, to_state FROM dtx.state_transitions() GROUP BY 1, 2, 3 HAVING count(*) > 1;
-- from every state but the last ones there is a way to the end
WITH RECURSIVE reach(object, state) AS (
    VALUES ('saga', 'committed'), ('saga', 'aborted'), ('tcc', 'committed'), ('tcc', 'aborted'),
           ('step', 'done'), ('step', 'skipped')
    UNION
    SELECT t.object, t.from_state FROM dtx.state_transitions() t JOIN reach r ON r.object = t.object AND r.state = t.to_state
)
SELECT object, from_state FROM dtx.state_transitions() EXCEPT SELECT * FROM reach;
-- and out of those, none
SELECT * FROM dtx.state_transitions() WHERE object <> 'step' AND from_state IN ('committed', 'aborted');
SELECT * FROM dtx.state_transitions() WHERE object = 'step' AND from_state IN ('done', 'skipped') AND to_state <> from_state;
RESET SESSION AUTHORIZATION;
SELECT object = 'step' AS step, string_agg(DISTINCT to_state, ' ' ORDER BY to_state)
  FROM dtx.state_transitions() GROUP BY 1 ORDER BY 1 DESC;
\i :end
