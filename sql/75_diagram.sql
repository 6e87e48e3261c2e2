-- What really happened with a flow, for people: its history, and a drawing.

-- What the library and operators did to flows that one may see.
CREATE VIEW dtx.history WITH (security_barrier) AS
SELECT e.gid, e.branch AS step, e.at, e.actor, e.event, e.detail
  FROM dtx.event e
 WHERE EXISTS (SELECT FROM dtx.transaction t
                WHERE COALESCE(t.name, dtx.gid_text(t.life, t.xid, t.nonce)) = e.gid
                  AND (pg_catalog.pg_has_role(t.owner, 'MEMBER') OR dtx.may_see_all()));
COMMENT ON VIEW dtx.history IS
    'What happened to sagas and TCC besides their steps: turned back, held, and what operators did.';
GRANT SELECT ON dtx.history TO PUBLIC;

-- Text for a line of a diagram: one line, not too long, nothing that Mermaid
-- would take for its own.
CREATE FUNCTION dtx.diagram_text(line text, most integer DEFAULT 100) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
    pg_catalog.replace(pg_catalog.replace(
        CASE WHEN pg_catalog.length(line) > most THEN pg_catalog."left"(line, most - 3) || '...' ELSE line END,
    '#', E'\x01'), ';', '#59;'), '%', '#37;'), '<', '#lt;'), '>', '#gt;'), E'\x01', '#35;'), E'\n', ' ');
COMMENT ON FUNCTION dtx.diagram_text(text, integer) IS
    'Text as dtx.diagram writes it: shortened, on one line, and escaped for Mermaid.';

-- As the caller, by views that show him what is his.
CREATE FUNCTION dtx.diagram(gid text) RETURNS text
LANGUAGE plpgsql STABLE STRICT PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    flow record;
    line record;
    begun_at timestamptz;
    nodes text[];
    drawn text;
BEGIN
    SELECT t.* INTO flow FROM dtx.transactions t WHERE t.gid = diagram.gid AND t.submitted_at IS NOT NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'flow "%" does not exist', gid USING ERRCODE = 'undefined_object',
            DETAIL = 'It was never committed here, or ended longer than dtx.retention ago, or is not yours.',
            HINT = 'dtx.transactions shows what you may see.';
    END IF;
    SELECT array_agg(n.node ORDER BY n.first, n.node) INTO nodes
      FROM (SELECT s.node, min(s.step) AS first FROM dtx.steps s
             WHERE s.gid = diagram.gid AND s.node IS NOT NULL GROUP BY s.node) n;
    -- tries come before the COMMIT that writes their transaction down
    SELECT least(flow.submitted_at, min(s.sent_at)) INTO begun_at FROM dtx.steps s WHERE s.gid = diagram.gid;
    drawn := 'sequenceDiagram' || E'\n    participant C as coordinator';
    FOR i IN 1 .. coalesce(cardinality(nodes), 0) LOOP
        drawn := drawn || format(E'\n    participant N%s as %s', i, dtx.diagram_text(nodes[i]));
    END LOOP;
    -- a line for each thing that happened: when, what is before its time, and
    -- what is after it
    FOR line IN
        WITH step AS MATERIALIZED (
            SELECT s.*, coalesce('N' || array_position(nodes, s.node), 'C') AS place,
                   dtx.diagram_text(CASE s.operation WHEN 'action' THEN s.name WHEN 'compensation' THEN 'undo ' || s.name
                                    ELSE s.operation || ' ' || s.name END) AS what,
                   dtx.diagram_text(concat_ws(': ', CASE WHEN s.state <> 'skipped' THEN s.sqlstate END, s.error)) AS error_text
              FROM dtx.steps s
             WHERE s.gid = diagram.gid),
        happened AS (
        SELECT begun_at AS at, 0 AS rank, 0 AS step, 'Note over C: ' AS before,
               format('%s %s of %s, begun at %s', CASE flow.pattern WHEN 'tcc' THEN 'TCC' ELSE flow.pattern END,
                      dtx.diagram_text(gid), dtx.diagram_text(flow.owner), to_char(begun_at, 'YYYY-MM-DD HH24:MI:SSOF')) AS after
        UNION ALL
        SELECT flow.submitted_at, 1, 0, 'Note over C: ', 'COMMIT, which confirms' WHERE flow.submitted_at > begun_at
        UNION ALL
        SELECT s.sent_at, 2, s.step, format('C->>%s: ', s.place), s.what FROM step s WHERE s.sent_at IS NOT NULL
        UNION ALL
        -- what came of it, at the last attempt
        SELECT s.answered_at, 3, s.step,
               format(CASE WHEN s.sent_at IS NULL THEN 'Note over C: ' WHEN s.state IN ('done', 'skipped') THEN '%s-->>C: ' ELSE '%s--xC: ' END, s.place),
               CASE WHEN s.sent_at IS NULL THEN s.what || ' ' ELSE '' END
               || CASE WHEN s.state = 'skipped' AND s.sent_at IS NOT NULL AND s.operation IN ('compensation', 'cancel')
                            AND s.error IS NULL THEN 'there was nothing to undo'
                       WHEN s.state = 'pending' THEN 'no success'
                       ELSE s.state END
               || CASE WHEN s.attempt_count > 1 THEN format(', attempt %s', s.attempt_count) ELSE '' END
               || CASE WHEN s.result IS NOT NULL AND s.result <> 'null' THEN ', ' || dtx.diagram_text(s.result::text, 60) ELSE '' END
               || CASE WHEN s.error_text = '' THEN ''
                       WHEN s.state = 'done' THEN ' (before that ' || s.error_text || ')'
                       ELSE ', ' || s.error_text END
               || CASE WHEN s.state = 'pending' AND s.next_at IS NOT NULL
                       THEN format(', again at +%s s', round(extract(epoch FROM s.next_at - begun_at), 3)) ELSE '' END
          FROM step s WHERE s.answered_at IS NOT NULL
        UNION ALL
        SELECT h.at, 4, 0, 'Note over C: ',
               dtx.diagram_text(CASE WHEN h.actor = 'dtx' THEN '' ELSE h.actor || ': ' END
                                || h.event || CASE WHEN h.detail IS NULL THEN '' ELSE ': ' || h.detail END, 140)
          FROM dtx.history h WHERE h.gid = diagram.gid
        UNION ALL
        SELECT coalesce(flow.finished_at, 'infinity'), 9, 0, 'Note over C: ',
               flow.state || CASE WHEN flow.paused THEN ', paused' ELSE '' END
               || CASE WHEN flow.reason IS NULL THEN '' ELSE ': ' || dtx.diagram_text(flow.reason) END)
        SELECT h.* FROM happened h ORDER BY h.rank = 9, h.at, h.rank, h.step
    LOOP
        drawn := drawn || E'\n    ' || line.before
            || CASE WHEN line.rank = 0 THEN ''
                    WHEN line.at = 'infinity' THEN 'now '
                    ELSE format('+%s s ', round(extract(epoch FROM line.at - begun_at), 3)) END
            || line.after;
    END LOOP;
    RETURN drawn || E'\n';
END
$$;
COMMENT ON FUNCTION dtx.diagram(text) IS
    'What has happened with a saga or TCC transaction, with times since it was begun, as a Mermaid sequence diagram.';
