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

CREATE VIEW dtx.stat AS
SELECT * FROM dtx.counters();
COMMENT ON VIEW dtx.stat IS
    'Counters of dtx since the server started, over all its databases.';

CREATE VIEW dtx.waits AS
SELECT * FROM dtx.wait_edges();
COMMENT ON VIEW dtx.waits IS
    'Who waits for whom, here (node is null) and on all nodes, asked at this moment over the user''s own mappings. '
    'waiter and blocker are global transactions, as dtx_<life>_*_<nonce>, or null; a blocker without pid is prepared.';
