-- Everyone may use dtx as far as USAGE on servers goes; tables are read
-- through views; what decides an outcome is granted by the DBA.
GRANT USAGE ON SCHEMA dtx TO PUBLIC;

REVOKE ALL ON dtx.lineage, dtx.life, dtx.decision, dtx.committed, dtx.branch, dtx.node, dtx.event,
    dtx.alert, dtx.saga, dtx.transaction, dtx.step, dtx.error_rule, dtx.barrier FROM PUBLIC;
GRANT SELECT ON dtx.life, dtx.event, dtx.alert TO pg_monitor, dtx_monitor, dtx_operator;
GRANT SELECT ON dtx.nodes, dtx.transactions, dtx.steps, dtx.branches, dtx.stuck, dtx.stat, dtx.waits TO PUBLIC;
GRANT SELECT ON dtx.error_rule TO PUBLIC;
GRANT INSERT, UPDATE, DELETE ON dtx.error_rule TO dtx_operator;

REVOKE EXECUTE ON PROCEDURE dtx.recover(bigint, bigint, bigint), dtx.scan_once(interval, bigint) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION dtx.resolve(text, integer, text, text), dtx.adopt(text, text),
    dtx.create_restore_point(text) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE dtx.recover(bigint, bigint, bigint), dtx.scan_once(interval, bigint) TO dtx_operator;
GRANT EXECUTE ON FUNCTION dtx.resolve(text, integer, text, text) TO dtx_operator;
