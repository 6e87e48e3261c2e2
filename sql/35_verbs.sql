-- What applications and operators call for flows of all patterns.

CREATE FUNCTION dtx.wait(gid text, timeout interval DEFAULT NULL) RETURNS text
AS 'MODULE_PATHNAME', 'dtx_wait'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.wait(text, interval) IS
    'Waits until a saga or TCC transaction is over or held, or the time has passed; returns its state then.';

CREATE PROCEDURE dtx.scan_once(horizon interval DEFAULT NULL, INOUT answers bigint DEFAULT NULL)
AS 'MODULE_PATHNAME', 'dtx_scan_once'
LANGUAGE C;
COMMENT ON PROCEDURE dtx.scan_once(interval, bigint) IS
    'Drives all flows that are due, or will be within the horizon, in this session by the code of the workers, '
    'until nothing is left to do now; says how many operations were answered.';

CREATE FUNCTION dtx.retry_now(gid text, note text) RETURNS void
AS 'MODULE_PATHNAME', 'dtx_retry_now'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.retry_now(text, text) IS
    'What of a flow waits for a retry, or is held, is tried again at once.';

CREATE FUNCTION dtx.pause(gid text, note text) RETURNS void
AS 'MODULE_PATHNAME', 'dtx_pause'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.pause(text, text) IS
    'Nothing more of a flow is sent until dtx.resume; what is on its way may still be applied.';

CREATE FUNCTION dtx.resume(gid text, note text) RETURNS void
AS 'MODULE_PATHNAME', 'dtx_resume'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.resume(text, text) IS
    'Goes on with a flow that was paused.';

CREATE FUNCTION dtx.skip_step(gid text, step text, result jsonb, note text) RETURNS void
AS 'MODULE_PATHNAME', 'dtx_skip_step'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.skip_step(text, text, jsonb, text) IS
    'A step counts as settled with that result, whatever became of it: its action while the flow goes forward, '
    'its compensation on the way back. On the way back a skipped action is compensated if it may have been done. '
    'A try that was rolled back, and whose cancel its node refuses, is left as it is.';

CREATE FUNCTION dtx.force_end(gid text, state text, note text) RETURNS void
AS 'MODULE_PATHNAME', 'dtx_force_end'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.force_end(text, text, text) IS
    'Gives a flow up as committed or aborted; what is not done, or not undone, stays so.';
