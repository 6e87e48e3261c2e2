-- TCC: a try reserves at once, a confirm or a cancel ends it later.

CREATE FUNCTION dtx.tcc_try(
    node name, try text, confirm text, cancel text, args jsonb DEFAULT NULL, gid text DEFAULT NULL)
RETURNS jsonb
AS 'MODULE_PATHNAME', 'dtx_tcc_try'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.tcc_try(name, text, text, text, jsonb, text) IS
    'Runs a try on a node at once, in a transaction of its own there, and returns its first row. When this transaction '
    'commits it is confirmed, when it or the savepoint rolls back it is cancelled. With a gid it belongs to that TCC '
    'transaction instead, if this one commits. args is a JSON array: the parameters of all three statements.';

CREATE FUNCTION dtx.tcc_begin(gid text DEFAULT NULL, timeout interval DEFAULT NULL) RETURNS text
AS 'MODULE_PATHNAME', 'dtx_tcc_begin'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.tcc_begin(text, interval) IS
    'Begins a TCC transaction that several local transactions take part in; returns its gid. '
    'When the timeout passes before dtx.tcc_confirm, it is cancelled.';

CREATE FUNCTION dtx.tcc_confirm(gid text) RETURNS void
AS 'MODULE_PATHNAME', 'dtx_tcc_confirm'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.tcc_confirm(text) IS
    'Confirms a TCC transaction, if this transaction commits: then all that was tried in it is confirmed. '
    'Saying it again has no effect.';

CREATE FUNCTION dtx.tcc_cancel(gid text) RETURNS void
AS 'MODULE_PATHNAME', 'dtx_tcc_cancel'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.tcc_cancel(text) IS
    'Cancels a TCC transaction, if this transaction commits: then all that was tried in it is cancelled. '
    'Saying it again has no effect.';
