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
        CONSTRAINT branch_state_check CHECK (state IN ('pending', 'held', 'skipped', 'done')),
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
-- written before the first branch there; "tries": TCC branches as well.
CREATE TABLE dtx.node (
    server          oid NOT NULL,
    role            oid NOT NULL,
    first_used_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    tries           boolean NOT NULL DEFAULT false,
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
    'Branches and steps that are held, or unfinished for longer than dtx.stuck_after; ended_at when that was over. '
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

-- who asks for one transaction, or for what was done about it, has its name
CREATE INDEX committed_gid_idx ON dtx.committed (dtx.gid_text(life, xid, nonce));
CREATE INDEX event_gid_idx ON dtx.event (gid) WHERE gid IS NOT NULL;
