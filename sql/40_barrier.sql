-- The participant's side: an operation is applied once.

-- One row per step: the proof that commits together with its effect.
CREATE TABLE dtx.barrier (
    lineage         bigint NOT NULL,
    xid             xid8 NOT NULL,
    nonce           bigint NOT NULL,
    step            integer NOT NULL,
    state           text NOT NULL
        CONSTRAINT barrier_state_check CHECK (state IN
            ('done', 'compensated', 'tried', 'confirmed', 'cancelled', 'void')),
    owner           oid NOT NULL,
    applied_at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    result          jsonb,
    life            bigint,
    registrar_life  bigint,
    registrar_xid   xid8,
    registrar_nonce bigint,
    gid             text,
    confirm         text,
    cancel          text,
    arguments       text[],
    CONSTRAINT barrier_pkey PRIMARY KEY (lineage, xid, nonce, step)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX barrier_tried_idx ON dtx.barrier (lineage) WHERE state = 'tried';
COMMENT ON TABLE dtx.barrier IS
    'What coordinators have had applied here, one row per step: the row commits together with the effect, '
    'so that nothing is applied twice and nothing that was cancelled is applied later.';

-- Apply a batch of operations, each in a subtransaction of its own, all in one
-- transaction.  Called by coordinators, as the role that the steps belong to.
-- The arrays have an element for each operation; "texts" are the statements,
-- "which" says which one (0: none).
CREATE PROCEDURE dtx.apply(
    lineage bigint, watermark xid8, budget_ms integer,
    xids xid8[], nonces bigint[], steps integer[], operations text[], attempts integer[],
    gids text[], names text[], texts text[], which integer[], arguments text[], timeouts integer[],
    INOUT answers text[] DEFAULT NULL)
AS 'MODULE_PATHNAME', 'dtx_apply'
LANGUAGE C;
COMMENT ON PROCEDURE dtx.apply(bigint, xid8, integer, xid8[], bigint[], integer[], text[], integer[],
    text[], text[], text[], integer[], text[], integer[], text[]) IS
    'The participant''s side of sagas and TCC, called by coordinators: applies a batch of operations once each, '
    'and forgets what is below the watermark. Four answers for each: what became of it, SQLSTATE, message, result.';

-- The first operation of a TCC branch.
CREATE PROCEDURE dtx.apply_try(
    lineage bigint, life bigint, xid xid8, nonce bigint, step integer, gid text,
    registrar_life bigint, registrar_xid xid8, registrar_nonce bigint,
    try text, confirm text, cancel text, arguments text[], timeout_ms integer,
    INOUT answers text[] DEFAULT NULL)
AS 'MODULE_PATHNAME', 'dtx_apply_try'
LANGUAGE C;
COMMENT ON PROCEDURE dtx.apply_try(bigint, bigint, xid8, bigint, integer, text, bigint, xid8, bigint,
    text, text, text, text[], integer, text[]) IS
    'The participant''s side of TCC, called by coordinators: runs a try once, and keeps what confirms and cancels it.';

-- The ends of TCC branches that one transaction has tried.  All or none: an
-- error says that nothing of it is done.
CREATE PROCEDURE dtx.apply_end(
    lineage bigint, xid xid8, nonce bigint, steps integer[], operations text[], timeout_ms integer)
AS 'MODULE_PATHNAME', 'dtx_apply_end'
LANGUAGE C;
COMMENT ON PROCEDURE dtx.apply_end(bigint, xid8, bigint, integer[], text[], integer) IS
    'The participant''s side of TCC, called by coordinators: confirms and cancels tries of one transaction, '
    'or raises an error and has done none of it.';

-- What a participant has applied for open TCC branches, for the coordinator's scanner.
CREATE FUNCTION dtx.open_tries(
    lineage bigint, OUT life bigint, OUT xid xid8, OUT nonce bigint, OUT step integer,
    OUT registrar_life bigint, OUT registrar_xid xid8, OUT registrar_nonce bigint,
    OUT owner name, OUT seconds double precision)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dtx_open_tries'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION dtx.open_tries(bigint) IS
    'TCC branches of a coordinator that are tried here and neither confirmed nor cancelled.';

CREATE FUNCTION dtx.ongoing(message text DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'dtx_ongoing'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.ongoing(text) IS
    'Inside an operation: it is not done yet, ask again at the same interval. '
    'Undoes what the operation has done in this attempt (raises DTX01).';

CREATE FUNCTION dtx.saga_context(
    OUT gid text, OUT step text, OUT attempt integer, OUT operation text)
AS 'MODULE_PATHNAME', 'dtx_saga_context'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.saga_context() IS
    'Inside an operation: whose it is, which attempt, and whether it is the action or the compensation '
    '(for TCC: try, confirm or cancel). Null outside of one.';
