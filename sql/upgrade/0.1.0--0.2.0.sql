\echo Use "ALTER EXTENSION dtx UPDATE" to load this file. \quit

-- 0.1.0 to 0.2.0: flows.  The views that show them as well are made anew; make
-- joins this with the modules that 0.2.0 has added.
DROP VIEW dtx.stuck;
DROP VIEW dtx.branches;
DROP VIEW dtx.transactions;

ALTER TABLE dtx.node ADD COLUMN tries boolean NOT NULL DEFAULT false;
ALTER TABLE dtx.branch DROP CONSTRAINT branch_state_check,
    ADD CONSTRAINT branch_state_check CHECK (state IN ('pending', 'held', 'skipped', 'done'));
CREATE INDEX committed_gid_idx ON dtx.committed (dtx.gid_text(life, xid, nonce));
CREATE INDEX event_gid_idx ON dtx.event (gid) WHERE gid IS NOT NULL;
COMMENT ON TABLE dtx.alert IS
    'Branches and steps that are held, or unfinished for longer than dtx.stuck_after; ended_at when that was over. '
    'Raised by the scanner together with a LOG message and NOTIFY dtx_alert.';
COMMENT ON FUNCTION dtx.outcome(text) IS
    'What became of a global transaction: committed, aborted, in progress or unknown; of a TCC transaction what '
    'was decided, of a saga how it has ended. committed and aborted never change, until they are forgotten.';

