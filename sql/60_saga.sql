-- Sagas: a definition is JSON, checked as a whole when it is given.

CREATE FUNCTION dtx.saga_check(definition jsonb) RETURNS void
AS 'MODULE_PATHNAME', 'dtx_saga_check'
LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION dtx.saga_check(jsonb) IS
    'Check the definition of a saga: an error that names the place of whatever is wrong with it.';

-- The document has "input", and "steps" with the "result" of each by its name.
CREATE FUNCTION dtx.saga_explain(
    definition jsonb, document jsonb DEFAULT '{}',
    OUT step integer, OUT name text, OUT node text, OUT after text[], OUT runs boolean,
    OUT action_parameters integer, OUT compensation_parameters integer, OUT arguments text[], OUT result_of text[],
    OUT recovery text, OUT timeout interval, OUT retry_interval interval, OUT retry_max_interval interval,
    OUT retry_factor double precision, OUT retry_max_attempts integer, OUT retry_waits interval[], OUT saga_timeout interval)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dtx_saga_explain'
LANGUAGE C VOLATILE STRICT PARALLEL SAFE ROWS 5;
COMMENT ON FUNCTION dtx.saga_explain(jsonb, jsonb) IS
    'How the definition of a saga is read, one row for each step, with what is set by default; '
    'and for some input and results, which steps would run with which arguments. Runs nothing.';

CREATE FUNCTION dtx.saga_submit(definition jsonb, gid text DEFAULT NULL, input jsonb DEFAULT NULL)
RETURNS text
AS 'MODULE_PATHNAME', 'dtx_saga_submit'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.saga_submit(jsonb, text, jsonb) IS
    'Submits a saga in this transaction: it runs when, and only if, that commits. Returns its gid. '
    'The same gid again with the same definition and input has no effect; with another it is an error (42710).';

CREATE FUNCTION dtx.saga_define(name text, definition jsonb) RETURNS integer
AS 'MODULE_PATHNAME', 'dtx_saga_define'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.saga_define(text, jsonb) IS
    'Keeps a definition under a name, as a new version if it differs from the newest; returns the version. '
    'Only the owner of a name may add versions. Running sagas keep theirs.';

CREATE FUNCTION dtx.saga_start(name text, input jsonb DEFAULT NULL, gid text DEFAULT NULL)
RETURNS text
AS 'MODULE_PATHNAME', 'dtx_saga_start'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.saga_start(text, jsonb, text) IS
    'Submits a saga with the newest definition of that name, as the current user; otherwise as dtx.saga_submit.';

CREATE PROCEDURE dtx.saga_run(
    definition jsonb DEFAULT NULL, gid text DEFAULT NULL, input jsonb DEFAULT NULL, name text DEFAULT NULL,
    INOUT state text DEFAULT NULL)
AS 'MODULE_PATHNAME', 'dtx_saga_run'
LANGUAGE C;
COMMENT ON PROCEDURE dtx.saga_run(jsonb, text, jsonb, text, text) IS
    'Submits a saga (a definition, or the name of one), commits, and drives it in this session at once. '
    'Returns its state; raises the error of the step that refused when everything is compensated. '
    'If the session ends meanwhile, the workers go on.';

CREATE FUNCTION dtx.saga_compensate(gid text, note text) RETURNS void
AS 'MODULE_PATHNAME', 'dtx_saga_compensate'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.saga_compensate(text, text) IS
    'Turns a saga back that is running or held: what it has done is compensated.';

CREATE FUNCTION dtx.saga_forward(gid text, note text) RETURNS void
AS 'MODULE_PATHNAME', 'dtx_saga_forward'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dtx.saga_forward(text, text) IS
    'Drives a saga forward whatever it takes: refusals are retried, no timeout turns it back. '
    'Refused on the way back, when something may be compensated already.';
