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
