-- The local transaction status table: flows (sagas, TCC) and their steps.
-- Rows are written in the transaction of whoever submits, so that a flow exists
-- if and only if that committed.

-- Roles for people: created here once for the whole cluster, kept when the
-- extension goes.
DO $$
DECLARE
    r text;
BEGIN
    FOREACH r IN ARRAY ARRAY['dtx_monitor', 'dtx_operator'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) r) THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', r);
        END IF;
    END LOOP;
END $$;

-- Definitions of sagas that were given a name; versions stay as they are.
CREATE TABLE dtx.saga (
    saga        bigint GENERATED ALWAYS AS IDENTITY,
    name        text NOT NULL,
    version     integer NOT NULL,
    owner       oid NOT NULL,
    definition  jsonb NOT NULL,
    defined_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    CONSTRAINT saga_pkey PRIMARY KEY (saga),
    CONSTRAINT saga_name_version_key UNIQUE (name, version)
);
COMMENT ON TABLE dtx.saga IS
    'Definitions of sagas by name and version; running sagas keep the version that they began with.';

-- One row per flow.  (xid, nonce) names it here and on participants: xid of the
-- transaction that submitted it, and 64 random bits, since xids can be handed
-- out again.  What may be in state, pattern, direction and operation is data in
-- C (dtx.state_transitions() shows it) and checked there at every move: a CHECK
-- here would be read and compiled anew for every row, a twentieth of a saga.
CREATE TABLE dtx.transaction (
    xid             xid8 NOT NULL,
    nonce           bigint NOT NULL,
    life            bigint NOT NULL,
    name            text,
    pattern         text NOT NULL,
    state           text NOT NULL,
    direction       text NOT NULL DEFAULT 'forward',
    insist          boolean NOT NULL DEFAULT false,
    paused          boolean NOT NULL DEFAULT false,
    owner           oid NOT NULL,
    saga            bigint,
    definition      jsonb,
    input           jsonb,
    nodes           oid[] NOT NULL DEFAULT '{}',
    change_count    integer NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    deadline_at     timestamptz,
    due_at          timestamptz,
    finished_at     timestamptz,
    sqlstate        text,
    reason          text,
    CONSTRAINT transaction_pkey PRIMARY KEY (xid, nonce)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
-- Its gid: the name that the application gave it, or the one that dtx makes.  The
-- same expression as in the views, which find one flow by it.
CREATE UNIQUE INDEX transaction_gid_idx ON dtx.transaction (COALESCE(name, dtx.gid_text(life, xid, nonce)));
-- what has to be looked at, and when; nothing that is over is in it
CREATE INDEX transaction_due_idx ON dtx.transaction (due_at) WHERE finished_at IS NULL;
CREATE INDEX transaction_finished_idx ON dtx.transaction (finished_at) WHERE finished_at IS NOT NULL;
COMMENT ON TABLE dtx.transaction IS
    'Flows, one row for each: the local transaction status table. Read through dtx.transactions.';

-- What became of steps.  A step without a row has not been answered yet.
CREATE TABLE dtx.step (
    xid             xid8 NOT NULL,
    nonce           bigint NOT NULL,
    step            integer NOT NULL,
    operation       text NOT NULL,
    state           text NOT NULL,
    attempt_count   integer NOT NULL DEFAULT 0,
    sent_at         timestamptz,
    answered_at     timestamptz,
    next_at         timestamptz,
    sqlstate        text,
    error           text,
    result          jsonb,
    node            oid,
    role            oid,
    registrar_xid   xid8,
    registrar_nonce bigint,
    registrar_step  integer,
    CONSTRAINT step_pkey PRIMARY KEY (xid, nonce, step, operation)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
-- A try is known to its node by the transaction that has made it, and its number
-- in that; here is which one, where that is not the flow itself.
CREATE INDEX step_registrar_idx ON dtx.step (registrar_xid, registrar_nonce, registrar_step)
    WHERE registrar_xid IS NOT NULL;
COMMENT ON TABLE dtx.step IS
    'What became of the operations of flows, one row for each that was answered. Read through dtx.branches.';

-- What the error of an operation means; the longest prefix decides.
CREATE TABLE dtx.error_rule (
    sqlstate    text NOT NULL
        CONSTRAINT error_rule_sqlstate_check CHECK (sqlstate ~ '^[0-9A-Z]{2}([0-9A-Z]{3})?$'),
    result      text NOT NULL
        CONSTRAINT error_rule_result_check CHECK (result IN ('refused', 'unknown', 'ongoing')),
    built_in    boolean NOT NULL DEFAULT false,
    CONSTRAINT error_rule_pkey PRIMARY KEY (sqlstate)
);
COMMENT ON TABLE dtx.error_rule IS
    'What an SQLSTATE, or a class of them, says of an operation: refused (a business error), unknown (retried), '
    'ongoing (asked again). Without a rule it is unknown. The longest entry decides.';
INSERT INTO dtx.error_rule (sqlstate, result, built_in) VALUES
    ('21', 'refused', true), ('22', 'refused', true), ('23', 'refused', true),
    ('44', 'refused', true), ('P0', 'refused', true), ('DTX01', 'ongoing', true);
SELECT pg_catalog.pg_extension_config_dump('dtx.error_rule', 'WHERE NOT built_in');

-- Workers keep the rules in memory, and hear of a change when it commits.
CREATE FUNCTION dtx.error_rules_changed() RETURNS trigger
AS 'MODULE_PATHNAME', 'dtx_error_rules_changed'
LANGUAGE C;
COMMENT ON FUNCTION dtx.error_rules_changed() IS
    'Lets workers and sessions that drive flows read dtx.error_rule anew when this transaction commits.';
REVOKE EXECUTE ON FUNCTION dtx.error_rules_changed() FROM PUBLIC;
CREATE TRIGGER error_rules_changed AFTER INSERT OR UPDATE OR DELETE ON dtx.error_rule
    FOR EACH STATEMENT EXECUTE FUNCTION dtx.error_rules_changed();

CREATE FUNCTION dtx.state_transitions(OUT object text, OUT from_state text, OUT to_state text, OUT by text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dtx_state_transitions'
LANGUAGE C IMMUTABLE PARALLEL SAFE ROWS 30;
COMMENT ON FUNCTION dtx.state_transitions() IS
    'The states of sagas, of TCC and of their steps: every move that there is, and what makes it.';
