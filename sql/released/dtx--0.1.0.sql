\echo Use "CREATE EXTENSION dtx CASCADE" to load this file. \quit

-- Tables are written by the library alone and read through views; see 99_grants.
-- No constraint here may be deferred: rows are also written while a
-- transaction commits, when deferred checks have already been made.

-- CREATE EXTENSION takes a schema that exists; it must not be somebody else's.
DO $$
BEGIN
    IF (SELECT n.nspowner FROM pg_catalog.pg_namespace n WHERE n.nspname OPERATOR(pg_catalog.=) 'dtx')
       OPERATOR(pg_catalog.<>)
       (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) CURRENT_USER) THEN
        RAISE EXCEPTION 'schema "dtx" exists and belongs to another role'
            USING ERRCODE = 'duplicate_schema', HINT = 'Drop or rename it first.';
    END IF;
END $$;

-- The coordinator's name for as long as the extension lives: through restarts,
-- promotions and restores.
CREATE TABLE dtx.lineage (
    lineage     bigint NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT lineage_pkey PRIMARY KEY (lineage)
);
COMMENT ON TABLE dtx.lineage IS
    'The name of this coordinator, the same through restarts, promotions and restores.';
INSERT INTO dtx.lineage (lineage)
SELECT ('x' || pg_catalog.substr(pg_catalog.md5(
            pg_catalog.gen_random_uuid()::text || pg_catalog.gen_random_uuid()::text), 1, 16)
       )::bit(64)::bigint;

-- One row per run of the server in which dtx was used here, with the place it
-- ran in and how it followed from the life before it.
CREATE TABLE dtx.life (
    number              bigint GENERATED ALWAYS AS IDENTITY,
    life                bigint NOT NULL,
    parent              bigint,
    cause               text NOT NULL
        CONSTRAINT life_cause_check CHECK (cause IN
            ('created', 'restart', 'promotion', 'restore', 'copy', 'other database', 'other system')),
    started_at          timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    system_identifier   bigint NOT NULL,
    timeline            bigint NOT NULL,
    database            oid NOT NULL,
    inode               bigint NOT NULL,
    born_at             bigint NOT NULL,
    first_xid           xid8 NOT NULL,
    trusted             boolean NOT NULL,
    adopted_at          timestamptz,
    presumed_abort_at   timestamptz,
    note                text,
    CONSTRAINT life_pkey PRIMARY KEY (life)
);
COMMENT ON TABLE dtx.life IS
    'Runs of this coordinator: place, parent, cause, and whether an operator has adopted them.';

-- The status table of atomic commit: a row that is committed is the decision
-- to commit.  Forgotten when every branch is proven committed.
CREATE TYPE dtx.branch_record AS (
    node                oid,
    role                oid,
    system_identifier   bigint,
    database            oid,
    timeline            bigint,
    xid                 xid8
);
CREATE TABLE dtx.decision (
    life        bigint NOT NULL,
    xid         xid8 NOT NULL,
    nonce       bigint NOT NULL,
    owner       oid NOT NULL,
    asked       boolean NOT NULL,
    decided_at  timestamptz NOT NULL,
    branches    dtx.branch_record[] NOT NULL,
    CONSTRAINT decision_pkey PRIMARY KEY (life, xid)
) WITH (autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
COMMENT ON TABLE dtx.decision IS
    'Global transactions that are decided to commit and not yet forgotten.';

-- Transactions that are over and that somebody may still ask for: those that
-- called dtx.current_gid().  Kept for dtx.retention.
CREATE TABLE dtx.committed (
    life        bigint NOT NULL,
    xid         xid8 NOT NULL,
    nonce       bigint NOT NULL,
    owner       oid NOT NULL,
    decided_at  timestamptz NOT NULL,
    CONSTRAINT committed_pkey PRIMARY KEY (life, xid)
);
CREATE INDEX committed_decided_at_idx ON dtx.committed (decided_at);
COMMENT ON TABLE dtx.committed IS
    'Global transactions that have committed on all nodes, kept for dtx.outcome to tell.';

-- What the scanner knows of single branches: those it has finished of a
-- decision that still has others, and those that a person has to look at.
CREATE TABLE dtx.branch (
    life            bigint NOT NULL,
    xid             xid8 NOT NULL,
    nonce           bigint NOT NULL,
    branch          integer NOT NULL,
    node            oid NOT NULL,
    state           text NOT NULL
        CONSTRAINT branch_state_check CHECK (state IN ('pending', 'held', 'done')),
    outcome         text
        CONSTRAINT branch_outcome_check CHECK (outcome IN ('committed', 'aborted')),
    reason          text,
    last_error      text,
    attempt_count   integer NOT NULL DEFAULT 0,
    first_seen_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    tried_at        timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    CONSTRAINT branch_pkey PRIMARY KEY (life, xid, nonce, branch)
) WITH (autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE dtx.branch IS
    'Branches that the scanner has finished, could not finish, or holds.';

-- Where branches of this coordinator may be found: (server, role) pairs,
-- written before the first branch there.
CREATE TABLE dtx.node (
    server          oid NOT NULL,
    role            oid NOT NULL,
    first_used_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    CONSTRAINT node_pkey PRIMARY KEY (server, role)
);
COMMENT ON TABLE dtx.node IS
    'Servers that have been used as nodes, and by which roles.';

-- What operators did, and what dtx found that it could not have done.
CREATE TABLE dtx.event (
    number      bigint GENERATED ALWAYS AS IDENTITY,
    at          timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    actor       name NOT NULL,
    gid         text,
    branch      integer,
    event       text NOT NULL,
    detail      text,
    CONSTRAINT event_pkey PRIMARY KEY (number)
);
COMMENT ON TABLE dtx.event IS
    'History of operator acts and of branches that somebody else ended.';

-- What an operator should know of: rows of dtx.stuck that are older than
-- dtx.stuck_after.
CREATE TABLE dtx.alert (
    number      bigint GENERATED ALWAYS AS IDENTITY,
    raised_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    ended_at    timestamptz,
    node        text,
    gid         text,
    branch      integer,
    state       text NOT NULL,
    reason      text NOT NULL,
    last_error  text,
    call        text NOT NULL,
    CONSTRAINT alert_pkey PRIMARY KEY (number)
);
CREATE INDEX alert_open_idx ON dtx.alert (gid, branch) WHERE ended_at IS NULL;
COMMENT ON TABLE dtx.alert IS
    'Branches that stayed prepared or held for longer than dtx.stuck_after; ended_at when that was over. '
    'Raised by the scanner together with a LOG message and NOTIFY dtx_alert.';

-- Two numbers as they are written in a gid.
CREATE FUNCTION dtx.life_text(life bigint) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN pg_catalog.lpad(pg_catalog.to_hex(life), 16, '0');
COMMENT ON FUNCTION dtx.life_text(bigint) IS
    'A life as operators write it: 16 hexadecimal digits.';

CREATE FUNCTION dtx.gid_text(life bigint, xid xid8, nonce bigint, branch integer DEFAULT NULL)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 'dtx_' || pg_catalog.lpad(pg_catalog.to_hex(life), 16, '0')
    || '_' || pg_catalog.to_hex(xid::text::bigint)
    || '_' || pg_catalog.lpad(pg_catalog.to_hex(nonce), 16, '0')
    || CASE WHEN branch IS NULL THEN '' ELSE '_' || pg_catalog.to_hex(branch) END;
COMMENT ON FUNCTION dtx.gid_text(bigint, xid8, bigint, integer) IS
    'The name of a global transaction, or of one of its branches.';
-- Atomic commit: what applications call.

CREATE FUNCTION dtx.exec(node name, sql text, args text[] DEFAULT '{}', expect bigint DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'dtx_exec'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.exec(name, text, text[], bigint) IS
    'Runs SQL on a node as a part of this transaction; returns the number of rows affected or returned. '
    '$1...$n in the SQL are the args. With expect, another number is an error (21000). '
    'COMMIT makes it permanent on all nodes and here, or nowhere (two-phase commit, presumed abort).';

CREATE FUNCTION dtx.send(node name, sql text, args text[] DEFAULT '{}', expect bigint DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'dtx_send'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.send(name, text, text[], bigint) IS
    'As dtx.exec, but does not wait for the answer, so that nodes work side by side. '
    'Errors come up at the next use of the node or at COMMIT.';

CREATE FUNCTION dtx.query(node name, sql text, args text[] DEFAULT '{}')
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dtx_query'
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100;
COMMENT ON FUNCTION dtx.query(name, text, text[]) IS
    'The rows of a query that runs on a node as a part of this transaction; needs a column definition list.';

CREATE FUNCTION dtx.current_gid() RETURNS text
AS 'MODULE_PATHNAME', 'dtx_current_gid'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.current_gid() IS
    'The name of this global transaction. Its outcome is kept for dtx.retention, for dtx.outcome to tell.';

CREATE FUNCTION dtx.outcome(gid text) RETURNS text
AS 'MODULE_PATHNAME', 'dtx_outcome'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.outcome(text) IS
    'What became of a global transaction: committed, aborted, in progress or unknown. '
    'committed and aborted never change.';

CREATE FUNCTION dtx.snapshot(nodes name[]) RETURNS void
AS 'MODULE_PATHNAME', 'dtx_snapshot'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.snapshot(name[]) IS
    'Opens read-only REPEATABLE READ branches on the nodes that show every global transaction '
    'of this coordinator whole: all of it or nothing. Commits are held up for a round trip.';
-- What operators look at and call.

CREATE FUNCTION dtx.check_setup(OUT severity text, OUT problem text, OUT hint text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dtx_check_setup'
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 5;
COMMENT ON FUNCTION dtx.check_setup() IS
    'What is wrong with this database as a coordinator; no rows when all is well.';

CREATE FUNCTION dtx.check_node(node name, OUT severity text, OUT problem text, OUT hint text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dtx_check_node'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 5;
COMMENT ON FUNCTION dtx.check_node(name) IS
    'What is wrong with a node, found by connecting to it as the current user; no rows when all is well.';

CREATE FUNCTION dtx.node_states(
    OUT server oid, OUT state text, OUT reached_at timestamptz, OUT failing_since timestamptz,
    OUT failure_count integer, OUT last_error text, OUT pending_count integer, OUT held_count integer,
    OUT prepared_used integer, OUT prepared_max integer,
    OUT connections_used integer, OUT connections_max integer,
    OUT version integer, OUT round_trip_ms double precision)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dtx_node_states'
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION dtx.node_states() IS
    'What shared memory knows of the nodes that the user may use; read through dtx.nodes.';

CREATE FUNCTION dtx.counters(
    OUT committed bigint, OUT one_phase bigint, OUT aborted bigint, OUT prepare_failed bigint,
    OUT left_pending bigint, OUT finished_commit bigint, OUT finished_rollback bigint,
    OUT held bigint, OUT passes bigint, OUT connects bigint, OUT deadlocks bigint)
AS 'MODULE_PATHNAME', 'dtx_counters'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.counters() IS
    'Counters since the server started; read through dtx.stat.';

CREATE FUNCTION dtx.database_state(OUT life bigint, OUT adopted boolean)
AS 'MODULE_PATHNAME', 'dtx_database_state'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.database_state() IS
    'The present life of this database, and whether it may send anything to nodes.';

CREATE PROCEDURE dtx.recover(
    INOUT finished bigint DEFAULT NULL, INOUT "left" bigint DEFAULT NULL, INOUT held bigint DEFAULT NULL)
AS 'MODULE_PATHNAME', 'dtx_recover'
LANGUAGE C;
COMMENT ON PROCEDURE dtx.recover(bigint, bigint, bigint) IS
    'One full pass over all nodes now, by the code of the scanner: '
    'how many branches were finished, left for later, and held for an operator.';

CREATE FUNCTION dtx.resolve(gid text, branch integer, outcome text, note text) RETURNS void
AS 'MODULE_PATHNAME', 'dtx_resolve'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.resolve(text, integer, text, text) IS
    'An operator says how a held branch ends: committed or aborted. '
    'Refused when it contradicts a decision that is known.';

CREATE FUNCTION dtx.adopt(life text, note text) RETURNS void
AS 'MODULE_PATHNAME', 'dtx_adopt'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.adopt(text, text) IS
    'Of the present life: this copy is the coordinator now, the original is gone for good. '
    'Of an earlier one: no commit of it is missing here, so its undecided branches are rolled back.';

CREATE FUNCTION dtx.create_restore_point(name text, OUT node name, OUT lsn pg_lsn)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dtx_create_restore_point'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 5;
COMMENT ON FUNCTION dtx.create_restore_point(text) IS
    'A restore point of that name here (node is null) and on all nodes, between the commits of global '
    'transactions: recovered to it, all servers together have whole transactions only.';

CREATE FUNCTION dtx.sessions(OUT pid integer, OUT identity text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dtx_sessions_list'
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION dtx.sessions() IS
    'Processes of this server that have a global transaction open, and how its sessions on nodes are called.';

CREATE FUNCTION dtx.wait_edges(
    OUT node name, OUT waiter text, OUT waiter_pid integer, OUT blocker text, OUT blocker_pid integer,
    OUT lock text, OUT seconds double precision, OUT statement text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dtx_wait_edges'
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION dtx.wait_edges() IS
    'Who waits for whom here and on all nodes that the current user has a mapping for; read through dtx.waits.';

-- Nodes of this database: servers that were used, as far as one may see them.
CREATE VIEW dtx.nodes WITH (security_barrier) AS
SELECT s.srvname AS node, n.state, n.reached_at, n.failing_since, n.failure_count, n.last_error,
       n.pending_count, n.held_count, n.prepared_used, n.prepared_max,
       n.connections_used, n.connections_max, n.version, n.round_trip_ms
  FROM dtx.node_states() n
  JOIN pg_catalog.pg_foreign_server s ON s.oid = n.server;
COMMENT ON VIEW dtx.nodes IS
    'What is known of every node that was used, without connecting to it.';

-- Global transactions that are decided and not forgotten.
CREATE VIEW dtx.transactions WITH (security_barrier) AS
SELECT dtx.gid_text(d.life, d.xid, d.nonce) AS gid,
       CASE WHEN EXISTS (SELECT FROM dtx.branch x
                          WHERE x.life = d.life AND x.xid = d.xid AND x.nonce = d.nonce AND x.state = 'held')
            THEN 'held' ELSE 'committing' END AS state,
       pg_catalog.pg_get_userbyid(d.owner) AS owner,
       d.decided_at,
       pg_catalog.cardinality(d.branches) AS branch_count
  FROM dtx.decision d
 WHERE pg_catalog.pg_has_role(d.owner, 'MEMBER')
    OR pg_catalog.pg_has_role('pg_monitor', 'MEMBER')
UNION ALL
SELECT dtx.gid_text(c.life, c.xid, c.nonce), 'committed',
       pg_catalog.pg_get_userbyid(c.owner), c.decided_at, NULL
  FROM dtx.committed c
 WHERE pg_catalog.pg_has_role(c.owner, 'MEMBER')
    OR pg_catalog.pg_has_role('pg_monitor', 'MEMBER');
COMMENT ON VIEW dtx.transactions IS
    'Global transactions that are decided to commit and not yet forgotten; '
    'committed are those whose outcome is kept for dtx.outcome to tell.';

-- Their branches, and those that are held without a decision.
CREATE VIEW dtx.branches WITH (security_barrier) AS
SELECT dtx.gid_text(d.life, d.xid, d.nonce) AS gid, b.ordinality::integer AS branch,
       COALESCE(s.srvname, b.node::text) AS node,
       pg_catalog.pg_get_userbyid(b.role) AS role,
       COALESCE(x.state, 'pending') AS state,
       'committed' AS outcome, x.reason, x.last_error,
       COALESCE(x.attempt_count, 0) AS attempt_count,
       d.decided_at AS since
  FROM dtx.decision d
 CROSS JOIN pg_catalog.unnest(d.branches) WITH ORDINALITY b
  LEFT JOIN dtx.branch x ON x.life = d.life AND x.xid = d.xid AND x.nonce = d.nonce
        AND x.branch = b.ordinality
  LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid = b.node
 WHERE pg_catalog.pg_has_role(d.owner, 'MEMBER')
    OR pg_catalog.pg_has_role('pg_monitor', 'MEMBER')
UNION ALL
SELECT dtx.gid_text(x.life, x.xid, x.nonce), x.branch, COALESCE(s.srvname, x.node::text),
       NULL, x.state, x.outcome, x.reason, x.last_error, x.attempt_count, x.first_seen_at
  FROM dtx.branch x
  LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid = x.node
 WHERE pg_catalog.pg_has_role('pg_monitor', 'MEMBER')
   AND NOT EXISTS (SELECT FROM dtx.decision d
                    WHERE d.life = x.life AND d.xid = x.xid AND d.nonce = x.nonce);
COMMENT ON VIEW dtx.branches IS
    'Branches that are not known to have ended.';

-- What a person has to look at, and what to call.
CREATE VIEW dtx.stuck WITH (security_barrier) AS
SELECT b.node, b.gid, b.branch, b.state,
       pg_catalog.clock_timestamp() - b.since AS age,
       COALESCE(b.reason, CASE WHEN n.failing_since IS NOT NULL
                               THEN 'the node is not reached since ' || n.failing_since::text
                               ELSE 'the scanner has not finished it yet' END) AS reason,
       COALESCE(b.last_error, n.last_error) AS last_error,
       CASE WHEN p.gid IS NOT NULL THEN pg_catalog.format('COMMIT PREPARED %L', p.gid)
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
 WHERE b.state <> 'done'
   AND (b.state = 'held' OR b.since < pg_catalog.clock_timestamp()
        - COALESCE(pg_catalog.current_setting('dtx.stuck_after', true), '60s')::interval)
UNION ALL
SELECT NULL, NULL, NULL, 'held', pg_catalog.clock_timestamp() - l.started_at,
       'this database runs in another place than before (' || l.cause ||
       '): it sends nothing to nodes until it is adopted',
       NULL, pg_catalog.format('SELECT dtx.adopt(%L, %L)', dtx.life_text(l.life), 'why')
  FROM dtx.database_state() p
  JOIN dtx.life l ON l.life = p.life
 WHERE NOT p.adopted AND pg_catalog.pg_has_role('pg_monitor', 'MEMBER');
COMMENT ON VIEW dtx.stuck IS
    'Branches that are held, or unfinished for longer than dtx.stuck_after: why, and the call that resolves it.';

CREATE VIEW dtx.stat AS
SELECT * FROM dtx.counters();
COMMENT ON VIEW dtx.stat IS
    'Counters of dtx since the server started, over all its databases.';

CREATE VIEW dtx.waits AS
SELECT * FROM dtx.wait_edges();
COMMENT ON VIEW dtx.waits IS
    'Who waits for whom, here (node is null) and on all nodes, asked at this moment over the user''s own mappings. '
    'waiter and blocker are global transactions, as dtx_<life>_*_<nonce>, or null; a blocker without pid is prepared.';
-- Everyone may use dtx as far as USAGE on servers goes; tables are read
-- through views; what decides an outcome is granted by the DBA.
GRANT USAGE ON SCHEMA dtx TO PUBLIC;

REVOKE ALL ON dtx.lineage, dtx.life, dtx.decision, dtx.committed, dtx.branch, dtx.node, dtx.event,
    dtx.alert FROM PUBLIC;
GRANT SELECT ON dtx.life, dtx.event, dtx.alert TO pg_monitor;
GRANT SELECT ON dtx.nodes, dtx.transactions, dtx.branches, dtx.stuck, dtx.stat, dtx.waits TO PUBLIC;

REVOKE EXECUTE ON PROCEDURE dtx.recover(bigint, bigint, bigint) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION dtx.resolve(text, integer, text, text), dtx.adopt(text, text),
    dtx.create_restore_point(text) FROM PUBLIC;
