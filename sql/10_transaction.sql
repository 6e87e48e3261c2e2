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
    'What became of a global transaction: committed, aborted, in progress or unknown; of a TCC transaction what '
    'was decided, of a saga how it has ended. committed and aborted never change, until they are forgotten.';

CREATE FUNCTION dtx.snapshot(nodes name[]) RETURNS void
AS 'MODULE_PATHNAME', 'dtx_snapshot'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.snapshot(name[]) IS
    'Opens read-only REPEATABLE READ branches on the nodes that show every global transaction '
    'of this coordinator whole: all of it or nothing. Commits are held up for a round trip.';
