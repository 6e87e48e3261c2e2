-- What people look at: atomic commit and flows together.

-- Who may see what is another role's.
CREATE FUNCTION dtx.may_see_all() RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_catalog.pg_has_role('pg_monitor', 'MEMBER')
    OR EXISTS (SELECT FROM pg_catalog.pg_roles r
                WHERE r.rolname IN ('dtx_monitor', 'dtx_operator') AND pg_catalog.pg_has_role(r.oid, 'MEMBER'));
COMMENT ON FUNCTION dtx.may_see_all() IS
    'Is the current user a member of pg_monitor, dtx_monitor or dtx_operator?';

-- A view that is a UNION ALL itself is no barrier, whatever it says: the planner
-- flattens it first.  So there is a query around each.

-- Global transactions: those of atomic commit that are decided and not
-- forgotten, and flows.
CREATE VIEW dtx.transactions WITH (security_barrier) AS
SELECT * FROM (
SELECT dtx.gid_text(d.life, d.xid, d.nonce) AS gid,
       'commit'::text AS pattern,
       CASE WHEN EXISTS (SELECT FROM dtx.branch x
                          WHERE x.life = d.life AND x.xid = d.xid AND x.nonce = d.nonce AND x.state = 'held')
            THEN 'held' ELSE 'committing' END AS state,
       pg_catalog.pg_get_userbyid(d.owner) AS owner,
       d.decided_at,
       pg_catalog.cardinality(d.branches) AS branch_count,
       NULL::timestamptz AS submitted_at, NULL::timestamptz AS finished_at, NULL::timestamptz AS deadline_at,
       NULL::timestamptz AS next_at, false AS paused, NULL::text AS sqlstate, NULL::text AS reason
  FROM dtx.decision d
 WHERE pg_catalog.pg_has_role(d.owner, 'MEMBER') OR dtx.may_see_all()
UNION ALL
SELECT dtx.gid_text(c.life, c.xid, c.nonce), 'commit', 'committed',
       pg_catalog.pg_get_userbyid(c.owner), c.decided_at, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL
  FROM dtx.committed c
 WHERE pg_catalog.pg_has_role(c.owner, 'MEMBER') OR dtx.may_see_all()
UNION ALL
SELECT COALESCE(t.name, dtx.gid_text(t.life, t.xid, t.nonce)), t.pattern, t.state,
       pg_catalog.pg_get_userbyid(t.owner),
       CASE WHEN t.state IN ('committed', 'aborted') THEN t.finished_at END,
       CASE t.pattern WHEN 'saga' THEN pg_catalog.cardinality(t.nodes)
            ELSE (SELECT pg_catalog.count(*) FROM dtx.step s
                   WHERE s.xid = t.xid AND s.nonce = t.nonce AND s.operation = 'try')::integer END,
       t.created_at, t.finished_at, t.deadline_at, t.due_at, t.paused, t.sqlstate, t.reason
  FROM dtx.transaction t
 WHERE pg_catalog.pg_has_role(t.owner, 'MEMBER') OR dtx.may_see_all()
) every;
COMMENT ON VIEW dtx.transactions IS
    'Global transactions: of atomic commit those that are decided to commit and not yet forgotten (committed are '
    'those whose outcome is kept for dtx.outcome to tell); sagas and TCC until dtx.retention after their end.';

-- The steps of flows: operations that were answered, and those of sagas that
-- were not.
CREATE VIEW dtx.steps WITH (security_barrier) AS
SELECT COALESCE(t.name, dtx.gid_text(t.life, t.xid, t.nonce)) AS gid, t.pattern, k.step,
       COALESCE(k.name, k.step::text) AS name,
       CASE WHEN COALESCE(k.node, 0::oid) = 0::oid THEN NULL ELSE COALESCE(s.srvname, k.node::text) END AS node,
       pg_catalog.pg_get_userbyid(COALESCE(o.role, t.owner)) AS role,
       COALESCE(o.operation, 'action') AS operation,
       COALESCE(o.state, 'pending') AS state,
       COALESCE(o.attempt_count, 0) AS attempt_count,
       o.sent_at, o.answered_at, o.next_at, o.sqlstate, o.error, o.result,
       t.created_at AS submitted_at, t.finished_at, t.direction, t.paused
  FROM dtx.transaction t
  LEFT JOIN dtx.saga g ON g.saga = t.saga
 CROSS JOIN LATERAL (-- the definition is taken apart once: it may be large
                     SELECT n.ordinality::integer AS step, n.node, n.step ->> 'name' AS name
                       FROM ROWS FROM (pg_catalog.unnest(t.nodes),
                                       pg_catalog.jsonb_array_elements(COALESCE(t.definition, g.definition) -> 'steps'))
                            WITH ORDINALITY n(node, step) WHERE t.pattern = 'saga'
                      UNION ALL
                     SELECT x.step, x.node, NULL FROM dtx.step x
                      WHERE t.pattern = 'tcc' AND x.xid = t.xid AND x.nonce = t.nonce AND x.operation = 'try') k
  LEFT JOIN dtx.step o ON o.xid = t.xid AND o.nonce = t.nonce AND o.step = k.step
  LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid = k.node
 WHERE pg_catalog.pg_has_role(t.owner, 'MEMBER') OR dtx.may_see_all();
COMMENT ON VIEW dtx.steps IS
    'The operations of sagas and TCC, answered or not; node is null for this database.';

-- Branches of atomic commit, those that are held without a decision, and
-- steps of flows that are not over.
CREATE VIEW dtx.branches WITH (security_barrier) AS
SELECT * FROM (
SELECT dtx.gid_text(d.life, d.xid, d.nonce) AS gid, b.ordinality::integer AS branch,
       COALESCE(s.srvname, b.node::text) AS node,
       pg_catalog.pg_get_userbyid(b.role) AS role,
       COALESCE(x.state, 'pending') AS state,
       'committed' AS outcome, x.reason, x.last_error,
       COALESCE(x.attempt_count, 0) AS attempt_count,
       d.decided_at AS since,
       NULL::text AS step, NULL::text AS operation
  FROM dtx.decision d
 CROSS JOIN pg_catalog.unnest(d.branches) WITH ORDINALITY b
  LEFT JOIN dtx.branch x ON x.life = d.life AND x.xid = d.xid AND x.nonce = d.nonce
        AND x.branch = b.ordinality
  LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid = b.node
 WHERE pg_catalog.pg_has_role(d.owner, 'MEMBER') OR dtx.may_see_all()
UNION ALL
SELECT dtx.gid_text(x.life, x.xid, x.nonce), x.branch, COALESCE(s.srvname, x.node::text),
       NULL, x.state, x.outcome, x.reason, x.last_error, x.attempt_count, x.first_seen_at, NULL, NULL
  FROM dtx.branch x
  LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid = x.node
 WHERE dtx.may_see_all()
   AND NOT EXISTS (SELECT FROM dtx.decision d
                    WHERE d.life = x.life AND d.xid = x.xid AND d.nonce = x.nonce)
UNION ALL
SELECT p.gid, p.step, p.node, p.role, p.state, NULL, NULL, p.error, p.attempt_count,
       COALESCE(p.sent_at, p.submitted_at), p.name, p.operation
  FROM dtx.steps p
 WHERE p.finished_at IS NULL
) every;
COMMENT ON VIEW dtx.branches IS
    'Branches of atomic commit that are not known to have ended, and the steps of sagas and TCC that are not over.';

-- What a person has to look at, and what to call.
CREATE VIEW dtx.stuck WITH (security_barrier) AS
SELECT * FROM (
SELECT b.node, b.gid, b.branch, b.state,
       pg_catalog.clock_timestamp() - b.since AS age,
       COALESCE(b.reason, CASE WHEN n.failing_since IS NOT NULL
                               THEN 'the node is not reached since ' || n.failing_since::text
                               ELSE 'the scanner has not finished it yet' END) AS reason,
       COALESCE(b.last_error, n.last_error) AS last_error,
       CASE WHEN p.gid IS NOT NULL THEN pg_catalog.format('COMMIT PREPARED %L', p.gid)
            -- a try of a transaction that is over, whose number comes after this
            WHEN b.state = 'pending' AND b.branch > 100000 AND b.reason = 'the node refused to end it'
            THEN pg_catalog.format('SELECT dtx.skip_step(%L, %L, NULL, %L)', b.gid, b.branch - 100000, 'why')
            WHEN b.state <> 'held' AND EXISTS
                 (SELECT FROM pg_catalog.pg_foreign_server s WHERE s.srvname = b.node)
            THEN 'CALL dtx.recover()'
            ELSE pg_catalog.format('SELECT dtx.resolve(%L, %s, %L, %L)',
                                   b.gid, b.branch, COALESCE(b.outcome, 'committed or aborted?'), 'why') END AS call
  FROM dtx.branches b
  LEFT JOIN dtx.nodes n ON n.node = b.node
  LEFT JOIN pg_catalog.pg_prepared_xacts p ON b.state = 'pending' AND b.outcome IS NULL
        AND p.database = pg_catalog.current_database()
        AND p.transaction::text = ('x' || pg_catalog.lpad(pg_catalog.right(pg_catalog.split_part(b.gid, '_', 3), 8), 8, '0'))::bit(32)::bigint::text
 WHERE b.state NOT IN ('done', 'skipped') AND b.operation IS NULL
   AND (b.state = 'held' OR b.since < pg_catalog.clock_timestamp()
        - COALESCE(pg_catalog.current_setting('dtx.stuck_after', true), '60s')::interval)
UNION ALL
SELECT NULL, NULL, NULL, 'held', pg_catalog.clock_timestamp() - l.started_at,
       'this database runs in another place than before (' || l.cause ||
       '): it sends nothing to nodes until it is adopted',
       NULL, pg_catalog.format('SELECT dtx.adopt(%L, %L)', dtx.life_text(l.life), 'why')
  FROM dtx.database_state() p
  JOIN dtx.life l ON l.life = p.life
 WHERE NOT p.adopted AND dtx.may_see_all()
UNION ALL
-- steps that are held, or are tried for long without success
SELECT p.node, p.gid, p.step, p.state,
       pg_catalog.clock_timestamp() - COALESCE(p.sent_at, p.answered_at),
       p.operation || ' of step "' || p.name || '"' ||
       CASE WHEN p.state = 'held' AND p.operation IN ('action', 'try') THEN ' is held'
            WHEN p.state = 'held' THEN ' was refused, or is held'
            ELSE ' has no success after ' || p.attempt_count || ' attempts' END,
       p.error,
       CASE WHEN p.state <> 'held' THEN pg_catalog.format('SELECT dtx.retry_now(%L, %L)', p.gid, 'why')
            WHEN p.operation = 'action' THEN pg_catalog.format('SELECT dtx.saga_compensate(%L, %L)', p.gid, 'why')
            ELSE pg_catalog.format('SELECT dtx.skip_step(%L, %L, NULL, %L)', p.gid, p.name, 'why') END
  FROM dtx.steps p
 WHERE p.finished_at IS NULL
   -- on the way back an action is not tried any more
   AND (p.direction = 'backward') = (p.operation IN ('compensation', 'cancel'))
   AND (p.state = 'held'
        OR (p.state = 'pending' AND NOT p.paused AND p.attempt_count > 0 AND p.sent_at < pg_catalog.clock_timestamp()
            - COALESCE(pg_catalog.current_setting('dtx.stuck_after', true), '60s')::interval
            -- it was answered: not done yet
            AND (SELECT r.result FROM dtx.error_rule r WHERE pg_catalog.starts_with(p.sqlstate, r.sqlstate)
                  ORDER BY pg_catalog.length(r.sqlstate) DESC LIMIT 1) IS DISTINCT FROM 'ongoing'))
UNION ALL
SELECT NULL, t.gid, NULL, 'paused', pg_catalog.clock_timestamp() - t.submitted_at,
       'an operator has paused it', NULL, pg_catalog.format('SELECT dtx.resume(%L, %L)', t.gid, 'why')
  FROM dtx.transactions t
 WHERE t.finished_at IS NULL AND t.submitted_at IS NOT NULL AND t.paused
) every;
COMMENT ON VIEW dtx.stuck IS
    'What is held, or unfinished for longer than dtx.stuck_after: why, and the call that resolves it.';
