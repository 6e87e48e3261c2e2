/*-------------------------------------------------------------------------
 *
 * branch.c
 *		One participant's part of a global transaction.
 *
 *		closed		-> open			dtx_branch_run, when BEGIN is answered
 *		open		-> preparing	dtx_branch_send_prepare, _send_commit
 *		preparing	-> prepared		dtx_branch_get_prepared
 *		preparing	-> finished		dtx_branch_get_committed (one phase)
 *		prepared	-> finishing	the COMMIT callback (twophase.c)
 *		finishing	-> finished		the same, when answered
 *		any			-> lost			the connection breaks
 *
 * (1) Savepoints of the session exist over there only from the first
 *	   statement that needs them, and are undone or released in the string of
 *	   the next: a subtransaction that does nothing on a node costs nothing
 *	   there, and a loop of them leaves no pile.
 * (2) levels, levels_wanted and rollback_to say what exists over there, as
 *	   far as it was answered: a string that fails half-way leaves them true.
 * (3) The marker is set in the same string as BEGIN and goes with that
 *	   transaction: without it nothing is prepared or committed.
 * (4) Values are written in the session's styles on both sides.  libpq hears of
 *	   a style over there only at the end of a string, so that a change of
 *	   style is a string of its own, and the reset of a session sets it again.
 * (5) A connection serves one (server, role) pair, and one transaction at a
 *	   time; what an earlier one has set for the session is reset first.
 * (6) Of a string that is not waited for (dtx.send), levels are taken as if it
 *	   had succeeded.  Its error belongs to the subtransaction that sent it: if
 *	   another one hears of it, the branch is lost until that has rolled back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timeout.h"

#include "branch.h"
#include "compat.h"
#include "fault.h"
#include "guc.h"
#include "statement.h"

/* ------------------------------------------------------- connections kept */

typedef struct ConnectionKey
{
	Oid			serverid;
	Oid			roleid;
	int			tries;			/* for TCC: no branch is open on it */
} ConnectionKey;

typedef struct ConnectionEntry
{
	ConnectionKey key;
	DtxConnection *connection;
} ConnectionEntry;

static HTAB *connections = NULL;

static DtxConnection *
kept_connection(Oid serverid, const char *node, Oid roleid, bool tries, bool *reused)
{
	ConnectionKey key = {serverid, roleid, tries};
	ConnectionEntry *entry;
	bool		found;

	if (connections == NULL)
	{
		HASHCTL		info = {0};

		info.keysize = sizeof(ConnectionKey);
		info.entrysize = sizeof(ConnectionEntry);
		connections = hash_create("dtx connections", 16, &info, HASH_ELEM | HASH_BLOBS);
	}
	entry = hash_search(connections, &key, HASH_ENTER, &found);
	if (!found)
		entry->connection = NULL;
	if (entry->connection == NULL)
		entry->connection = dtx_remote_new(serverid, node, roleid, tries ? "dtxtry" : "dtx");

	/* it may have been renamed */
	strlcpy(entry->connection->node, node, NAMEDATALEN);
	if (entry->connection->stale)
		dtx_remote_close(entry->connection);
	*reused = entry->connection->open;
	if (!entry->connection->open)
	{
		PG_TRY();
		{
			dtx_remote_connect(entry->connection);
		}
		PG_CATCH();
		{
			dtx_remote_close(entry->connection);
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	return entry->connection;
}

/*
 * The session's connection to a node as a role; it may have to be opened.
 * reused tells whether it was open before, so that it may have died since.
 */
DtxConnection *
dtx_branch_connection(Oid serverid, const char *node, Oid roleid, bool *reused)
{
	return kept_connection(serverid, node, roleid, false, reused);
}

/* The one on which it tries, confirms and cancels, each by itself. */
DtxConnection *
dtx_try_connection(Oid serverid, const char *node, Oid roleid, bool *reused)
{
	return kept_connection(serverid, node, roleid, true, reused);
}

/* At the end of a transaction: keep no more than the setting allows. */
void
dtx_connections_release(void)
{
	HASH_SEQ_STATUS scan;
	ConnectionEntry *entry;
	int			kept = 0;
	Oid			session_user = GetSessionUserId();

	if (connections == NULL)
		return;
	hash_seq_init(&scan, connections);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->connection == NULL || !entry->connection->open)
			continue;
		/* another role's connection is not left lying around */
		if (kept >= dtx_max_connections || entry->connection->stale ||
			entry->connection->roleid != session_user)
			dtx_remote_close(entry->connection);
		else
			kept++;
	}
}

/* -------------------------------------------------------- strings to send */

/* A statement's columns, when the node counts its rows. */
#define COLUMNS_COUNTED (-2)
/* So many statements a node keeps for one connection. */
#define PREPARED_MAX 64

/* What the next result answers. */
typedef enum StepKind
{
	STEP_OTHER,
	STEP_BEGIN,
	STEP_ROLLBACK_TO,
	STEP_RELEASE,
	STEP_SAVEPOINT,
	STEP_PREPARED,
	STEP_DEALLOCATED,
	STEP_OWN_PREPARED,
	STEP_USER,
	STEP_XID
} StepKind;

typedef struct Step
{
	StepKind	kind;
	int			argument;		/* level; columns of a user's statement */
} Step;

typedef struct Script
{
	StringInfoData sql;
	int			count;
	int			room;
	Step	   *steps;
	DtxPrepared prepared;		/* of STEP_PREPARED */
	int			level;			/* of the subtransaction that it belongs to */
	bool		ahead;			/* its answers are not waited for */
	bool		undone;			/* its subtransaction has rolled back */
} Script;

/* What was sent, and is not answered yet as far as anybody has looked. */
struct DtxPending
{
	Script		script;
	DtxCall		call;
};

static void
script_init(Script *script)
{
	initStringInfo(&script->sql);
	script->count = 0;
	script->room = 16;
	script->steps = palloc(sizeof(Step) * script->room);
	script->level = GetCurrentTransactionNestLevel();
	script->ahead = false;
	script->undone = false;
}

static void
script_free(Script *script)
{
	pfree(script->sql.data);
	pfree(script->steps);
}

static void
script_step(Script *script, StepKind kind, int argument)
{
	if (script->count == script->room)
		script->steps = repalloc(script->steps, sizeof(Step) * (script->room *= 2));
	script->steps[script->count].kind = kind;
	script->steps[script->count].argument = argument;
	script->count++;
}

/*
 * Away with what an earlier transaction has left in the session.  One that
 * was prepared can only have left settings behind, and statements that were
 * counted; settings only if something was run that names a function, apart
 * from triggers, for whose sake every so many branches are taken to have left
 * some.  Everything else goes in a transaction of its own: otherwise it
 * would belong to the branch, which then could not choose its isolation
 * level, and would undo it by its rollback.
 */
#define RESET_WHOLE \
	"BEGIN; CLOSE ALL; UNLISTEN *; DEALLOCATE ALL; DISCARD TEMP; DISCARD SEQUENCES; " \
	"RESET SESSION AUTHORIZATION; RESET ALL; SET DateStyle = '%s'; SET IntervalStyle = '%s'; COMMIT; "
#define RESET_WHOLE_RESULTS 11

/*
 * The marker and the session's settings, its name for the deadlock detector
 * among them, for servers before 14 and since.
 */
#define PREPARE_BEGIN \
	"PREPARE dtx_begin(text, text, text, text, text, text, text, text) AS SELECT pg_catalog.concat(" \
	"pg_catalog.set_config('dtx.branch', $1, true), " \
	"pg_catalog.set_config('lock_timeout', $2, false), " \
	"pg_catalog.set_config('idle_in_transaction_session_timeout', $3, false), " \
	"pg_catalog.set_config('synchronous_commit', $4, false), " \
	"pg_catalog.set_config('DateStyle', $6, false), " \
	"pg_catalog.set_config('IntervalStyle', $7, false), " \
	"pg_catalog.set_config('application_name', $8, false), " \
	"pg_catalog.set_config('extra_float_digits', '3', false)"
#define PREPARE_BEGIN_14 \
	", pg_catalog.set_config('client_connection_check_interval', '1s', false), " \
	"pg_catalog.set_config('idle_session_timeout', $5, false)"

/*
 * At the end: the branch's xid, and an error if the marker is not there any
 * more (the name of a setting that does not exist says so).  Session-level
 * advisory locks go, and the session gets its own role back, since whoever
 * prepares owns the branch.  It has its own role nearly always: setting it
 * all the same would make the node go through all of its settings.
 */
#define PREPARE_CHECK \
	"PREPARE dtx_check(text) AS SELECT CASE WHEN " \
	"pg_catalog.current_setting('dtx.branch', true) OPERATOR(pg_catalog.=) $1 " \
	"AND pg_catalog.pg_advisory_unlock_all() IS NOT NULL " \
	"AND (current_user OPERATOR(pg_catalog.=) %s AND session_user OPERATOR(pg_catalog.=) %s " \
	"OR pg_catalog.set_config('session_authorization', NULL, false) IS NOT NULL) " \
	"THEN pg_catalog.pg_current_xact_id()::text " \
	"ELSE pg_catalog.current_setting('branch lost its transaction') END; "
#define OWN_STATEMENTS 2
/* Counting prepared statements takes the node as long as a small UPDATE. */
#define COUNT_STATEMENTS \
	"SELECT pg_catalog.count(*)::text FROM pg_catalog.pg_prepared_statement(); "
/* Without a reason they are counted, and settings reset, after so many branches. */
#define COUNT_EVERY 64

static const char *
isolation_name(void)
{
	switch (XactIsoLevel)
	{
		case XACT_READ_UNCOMMITTED:
			return "READ UNCOMMITTED";
		case XACT_REPEATABLE_READ:
			return "REPEATABLE READ";
		case XACT_SERIALIZABLE:
			return "SERIALIZABLE";
		default:
			return "READ COMMITTED";
	}
}

/* What dtx itself says in every branch is parsed and planned once. */
static void
script_own(Script *script, DtxConnection *connection)
{
	const char *user = quote_literal_cstr(connection->user);

	appendStringInfo(&script->sql, "%s%s); ", PREPARE_BEGIN,
					 connection->version >= 140000 ? PREPARE_BEGIN_14 : "");
	appendStringInfo(&script->sql, PREPARE_CHECK, user, user);
	script_step(script, STEP_OTHER, 0);
	script_step(script, STEP_OWN_PREPARED, 0);
}

/* The values of a branch's session settings, as PREPARE_BEGIN takes them. */
static void
settings_of_session(DtxBranch *branch, char *values)
{
	static struct
	{
		int			lock_timeout;
		int			idle_timeout;
		int			connection_idle_timeout;
		int			commit;
		DtxStyles	styles;
		char		identity[DTX_IDENTITY_SIZE];
	}			now, before;
	static char made[DTX_SETTINGS_SIZE];

	now.lock_timeout = LockTimeout > 0 ? LockTimeout : dtx_branch_lock_timeout_ms;
	now.idle_timeout = dtx_branch_idle_timeout_ms;
	now.connection_idle_timeout = dtx_connection_idle_timeout_ms;
	now.commit = synchronous_commit;
	now.styles = branch->connection->styles;
	memcpy(now.identity, branch->identity, sizeof(now.identity));
	/* nearly always they are those of the last time; what is not used is zero */
	if (made[0] == '\0' || memcmp(&now, &before, sizeof(now)) != 0)
	{
		before = now;
		snprintf(made, sizeof(made), "'%d', '%d', '%s', '%d', '%s', '%s', '%s'",
				 now.lock_timeout, now.idle_timeout,
				 GetConfigOption("synchronous_commit", false, false),
				 now.connection_idle_timeout, now.styles.date, now.styles.interval,
				 now.identity);
	}
	memcpy(values, made, sizeof(made));
}

/* BEGIN, the marker, and the session's settings. */
static void
script_begin(Script *script, DtxBranch *branch)
{
	StringInfo	sql = &script->sql;
	DtxConnection *connection = branch->connection;
	bool		as_before;
	char		values[DTX_SETTINGS_SIZE];

	settings_of_session(branch, values);
	as_before = connection->used && !connection->ended_by_commit && connection->kept_ours &&
		!connection->touched && connection->own_prepared &&
		connection->ends % COUNT_EVERY != 0 && strcmp(connection->settings, values) == 0;
	if (connection->used && !as_before)
	{
		bool		whole = connection->ended_by_commit || !connection->kept_ours;

		if (whole)
		{
			appendStringInfo(sql, RESET_WHOLE,
							 connection->styles.date, connection->styles.interval);
			dtx_remote_forget_prepared(connection);
		}
		else
			appendStringInfoString(sql, "RESET ALL; ");
		for (int i = 0; i < (whole ? RESET_WHOLE_RESULTS : 1); i++)
			script_step(script, STEP_OTHER, 0);
	}
	appendStringInfoString(sql, "BEGIN ISOLATION LEVEL ");
	appendStringInfoString(sql, branch->snapshot ? "REPEATABLE READ" : isolation_name());
	if (XactReadOnly || branch->snapshot)
		appendStringInfoString(sql, " READ ONLY");
	if (XactDeferrable)
		appendStringInfoString(sql, " DEFERRABLE");
	appendStringInfoString(sql, "; ");
	script_step(script, STEP_BEGIN, 0);

	if (!connection->own_prepared)
		script_own(script, connection);
	if (as_before)
	{
		appendStringInfoString(sql, "SET LOCAL dtx.branch = '");
		appendStringInfoString(sql, branch->nonce);
		appendStringInfoString(sql, "'; ");
	}
	else
		appendStringInfo(sql, "EXECUTE dtx_begin('%s', %s); ", branch->nonce, values);
	script_step(script, STEP_OTHER, 0);
	memcpy(branch->settings, values, DTX_SETTINGS_SIZE);
	/* until the branch is prepared: by a rollback they would be lost again */
	connection->settings[0] = '\0';
	connection->touched = false;
	if (StatementTimeout > 0)
	{
		appendStringInfo(sql, "SET LOCAL statement_timeout = %d; ", StatementTimeout);
		script_step(script, STEP_OTHER, 0);
	}
	branch->styles = connection->styles;
}

/* Bring the savepoints over there to the level of the session. */
static void
script_savepoints(Script *script, DtxBranch *branch, int level)
{
	StringInfo	sql = &script->sql;

	if (branch->rollback_to > 0)
	{
		appendStringInfo(sql, "ROLLBACK TO SAVEPOINT s%d; ", branch->rollback_to);
		script_step(script, STEP_ROLLBACK_TO, branch->rollback_to);
	}
	if (branch->levels > branch->levels_wanted)
	{
		appendStringInfo(sql, "RELEASE SAVEPOINT s%d; ", branch->levels_wanted + 1);
		script_step(script, STEP_RELEASE, branch->levels_wanted);
	}
	for (int i = branch->levels_wanted + 1; i <= level; i++)
	{
		appendStringInfo(sql, "SAVEPOINT s%d; ", i);
		script_step(script, STEP_SAVEPOINT, i);
	}
}

/* A statement that the node has kept for this SQL; NULL if it has none. */
static DtxPrepared *
find_prepared(DtxConnection *connection, DtxCall *call)
{
	ListCell   *cell;

	foreach(cell, connection->prepared)
	{
		DtxPrepared *prepared = lfirst(cell);

		if (!prepared->once && prepared->for_rows == (call->expected != NULL) &&
			strcmp(prepared->sql, call->sql) == 0)
			return prepared;
	}
	return NULL;
}

static void
keep_prepared(DtxConnection *connection, DtxPrepared *made)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	DtxPrepared *prepared = palloc(sizeof(DtxPrepared));

	*prepared = *made;
	prepared->sql = pstrdup(made->sql);
	connection->prepared = lappend(connection->prepared, prepared);
	MemoryContextSwitchTo(old);
}

/*
 * Of "SELECT *" nobody here knows the columns, and dblink has to: let the
 * node count the rows, each of them computed whole.
 */
static void
append_statement(StringInfo sql, DtxStatement *statement, bool counted)
{
	if (counted)
		appendStringInfoString(sql, "WITH dtx_rows AS (");
	appendBinaryStringInfo(sql, statement->text, statement->length);
	if (counted)
		appendStringInfoString(sql, "\n) SELECT pg_catalog.count(dtx_rows) FROM dtx_rows");
	appendStringInfoString(sql, "\n; ");
}

static void
check_parameters(int parameters, int count)
{
	if (parameters != count)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("branch SQL has %d parameters, but args has %d elements",
						parameters, count)));
}

/* Without parameters: the statements as they are. */
static void
script_plain(Script *script, DtxCall *call, bool *wrote, bool *calls)
{
	List	   *statements = dtx_statements_parse(call->sql);
	DtxStatement *last = llast(statements);
	ListCell   *cell;

	if (call->expected != NULL && last->columns == DTX_COLUMNS_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("branch SQL returns no rows"),
				 errhint("Use dtx.exec for statements that return none.")));
	if (list_length(statements) == 1)
		check_parameters(last->parameters, 0);
	*wrote = true;
	foreach(cell, statements)
	{
		DtxStatement *statement = lfirst(cell);
		bool		counted = statement->columns == DTX_COLUMNS_ANY &&
			(statement != last || call->expected == NULL);

		*wrote = *wrote && statement->writes;
		*calls = *calls || statement->calls;
		append_statement(&script->sql, statement, counted);
		script_step(script, STEP_USER, counted ? COLUMNS_COUNTED : statement->columns);
	}
}

/*
 * With parameters: one statement, which the node keeps if it means the same
 * every time, so that then it has only to be executed.
 */
static void
script_prepared(Script *script, DtxBranch *branch, DtxCall *call, bool *wrote, bool *calls)
{
	static uint32 statement_number = 0;
	StringInfo	sql = &script->sql;
	DtxConnection *connection = branch->connection;
	DtxPrepared *prepared = find_prepared(connection, call);
	Datum	   *values;
	bool	   *nulls;
	int			count;

	deconstruct_array(call->arguments, TEXTOID, -1, false, TYPALIGN_INT,
					  &values, &nulls, &count);
	if (prepared == NULL)
	{
		List	   *statements = dtx_statements_parse(call->sql);
		DtxStatement *statement = llast(statements);

		if (list_length(statements) > 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("branch SQL with parameters must be one statement")));
		if (!statement->plannable)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("this kind of statement cannot have parameters"),
					 errdetail("Only SELECT, INSERT, UPDATE, DELETE, MERGE and VALUES can.")));
		if (call->expected != NULL && statement->columns == DTX_COLUMNS_NONE)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("branch SQL returns no rows"),
					 errhint("Use dtx.exec for statements that return none.")));
		if (list_length(connection->prepared) >= PREPARED_MAX)
		{
			appendStringInfoString(sql, "DEALLOCATE ALL; ");
			script_step(script, STEP_OTHER, 0);
			dtx_remote_forget_prepared(connection);
			script_own(script, connection);
		}
		prepared = &script->prepared;
		prepared->sql = unconstify(char *, call->sql);
		prepared->for_rows = call->expected != NULL;
		snprintf(prepared->name, sizeof(prepared->name), "dtx_%u", ++statement_number);
		prepared->columns = statement->columns;
		prepared->parameters = statement->parameters;
		prepared->writes = statement->writes;
		prepared->calls = statement->calls;
		/* 'now', '02.03.2026' and * may mean something else the next time */
		prepared->once = statement->literals || statement->columns == DTX_COLUMNS_ANY;
		prepared->counted = statement->columns == DTX_COLUMNS_ANY && call->expected == NULL;
		check_parameters(prepared->parameters, count);
		appendStringInfo(sql, "PREPARE %s AS ", prepared->name);
		append_statement(sql, statement, prepared->counted);
		script_step(script, STEP_PREPARED, 0);
	}
	check_parameters(prepared->parameters, count);

	appendStringInfoString(sql, "EXECUTE ");
	appendStringInfoString(sql, prepared->name);
	appendStringInfoChar(sql, '(');
	for (int i = 0; i < count; i++)
	{
		if (i > 0)
			appendStringInfoString(sql, ", ");
		appendStringInfoString(sql, nulls[i] ? "NULL" :
							   quote_literal_cstr(TextDatumGetCString(values[i])));
	}
	appendStringInfoString(sql, "); ");
	script_step(script, STEP_USER, prepared->counted ? COLUMNS_COUNTED : prepared->columns);
	if (prepared->once)
	{
		appendStringInfo(sql, "DEALLOCATE %s; ", prepared->name);
		script_step(script, STEP_DEALLOCATED, 0);
	}
	*wrote = prepared->writes;
	*calls = prepared->calls;
}

/* The user's SQL, and the question whether it has written, if that is not plain. */
static void
script_user(Script *script, DtxBranch *branch, DtxCall *call, bool *wrote)
{
	bool		calls = false;

	if (call->arguments != NULL && ArrayGetNItems(ARR_NDIM(call->arguments),
												  ARR_DIMS(call->arguments)) > 0)
		script_prepared(script, branch, call, wrote, &calls);
	else
		script_plain(script, call, wrote, &calls);
	if (calls)
		branch->connection->count_due = branch->connection->touched = true;
	if (!*wrote)
	{
		appendStringInfoString(&script->sql, "SELECT pg_catalog.pg_current_xact_id_if_assigned()::text");
		script_step(script, STEP_XID, 0);
	}
}

/* A savepoint over there has come or gone. */
static void
step_level(DtxBranch *branch, Step *step)
{
	switch (step->kind)
	{
		case STEP_ROLLBACK_TO:
			branch->rollback_to = 0;
			branch->levels = Max(step->argument, branch->levels_wanted);
			break;
		case STEP_RELEASE:
			branch->levels = step->argument;
			break;
		case STEP_SAVEPOINT:
			branch->levels = branch->levels_wanted = step->argument;
			break;
		default:
			break;
	}
}

/* Take one answer in. */
static void
step_done(DtxBranch *branch, Script *script, Step *step, DtxCall *call, DtxResult *result)
{
	switch (step->kind)
	{
		case STEP_BEGIN:
			branch->connection->ended_by_commit = false;
			branch->connection->kept_ours = false;	/* until it is known */
			if (strcmp(result->tag, "BEGIN") != 0)
				elog(ERROR, "unexpected answer \"%s\" to BEGIN", result->tag);
			branch->state = DTX_BRANCH_OPEN;
			break;
		case STEP_ROLLBACK_TO:
		case STEP_RELEASE:
		case STEP_SAVEPOINT:
			if (!script->ahead)
				step_level(branch, step);
			break;
		case STEP_DEALLOCATED:
			/* the last one */
			pfree(((DtxPrepared *) llast(branch->connection->prepared))->sql);
			pfree(llast(branch->connection->prepared));
			branch->connection->prepared = list_delete_last(branch->connection->prepared);
			break;
		case STEP_OWN_PREPARED:
			branch->connection->own_prepared = true;
			break;
		case STEP_PREPARED:
			keep_prepared(branch->connection, &script->prepared);
			break;
		case STEP_USER:
			if (step->argument == COLUMNS_COUNTED && result->rows != NULL)
			{
				char	   *value = dtx_result_value(result, 0);

				result->count = value ? strtoi64(value, NULL, 10) : 0;
			}
			call->result = *result;
			break;
		case STEP_XID:
			{
				char	   *value = dtx_result_value(result, 0);

				branch->asked = true;
				branch->wrote = branch->wrote || value != NULL;
				break;
			}
		case STEP_OTHER:
			break;
	}
}

/* Rows of this step, as far as dblink has to know. */
static TupleDesc
step_columns(Step *step, DtxCall *call, bool last_user)
{
	if (step->kind == STEP_USER)
	{
		if (last_user && call->expected != NULL)
			return call->expected;
		return dtx_text_columns(Max(step->argument, 1));
	}
	if (step->kind == STEP_OTHER)
		return dtx_text_columns(Max(step->argument, 1));
	return NULL;
}

DTX_NORETURN static void
raise_lost(DtxBranch *branch, ErrorData *reason)
{
	if (branch->failed_level > 0)
		ereport(ERROR,
				(errcode(ERRCODE_IN_FAILED_SQL_TRANSACTION),
				 errmsg("branch on node \"%s\" has failed", branch->connection->node),
				 errdetail("A statement that dtx.send gave it has failed; its error was raised before."),
				 errhint("Roll back to a savepoint from before dtx.send.")));
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("lost connection to node \"%s\"", branch->connection->node),
			 reason ? errdetail("%s", reason->message) : 0,
			 errhint("What the transaction did there is rolled back; the whole transaction can only be rolled back.")));
}

void
dtx_branch_raise_lost(DtxBranch *branch)
{
	raise_lost(branch, NULL);
}

/* Take in the answers to a script; *done counts them. */
static void
take_answers(DtxBranch *branch, Script *script, DtxCall *call, volatile int *done)
{
	DtxConnection *connection = branch->connection;
	MemoryContext caller = CurrentMemoryContext;
	int			user_last = -1;

	for (int i = 0; i < script->count; i++)
		if (script->steps[i].kind == STEP_USER)
			user_last = i;
	for (; *done < script->count; (*done)++)
	{
		DtxResult	result;
		bool		last_user = *done == user_last;
		Step	   *step = &script->steps[*done];

		dtx_remote_get(connection, step_columns(step, call, last_user),
					   last_user ? call->rows_context : caller, &result);
		step_done(branch, script, step, call, &result);
		if (result.rows != NULL && !(last_user && call->expected != NULL))
			tuplestore_end(result.rows);
	}
	if (!dtx_remote_drain(connection))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("node \"%s\" closed the connection", connection->node)));
}

/* The branch is of no use any more. */
static void
lose(DtxBranch *branch)
{
	if (branch->state == DTX_BRANCH_OPEN)
		branch->state = DTX_BRANCH_LOST;
}

/*
 * Inside PG_CATCH: something failed after so many answers.  Leaves the branch
 * saying what has been done over there, and raises the error as the node's.
 * Returns true if the connection was found dead before anything was begun,
 * and false if what failed is undone already.
 */
static bool
script_failed(DtxBranch *branch, Script *script, DtxCall *call, int done,
			  MemoryContext caller)
{
	DtxConnection *connection = branch->connection;
	int			user_first = script->count;
	ErrorData  *error;
	bool		from_node;
	bool		lost;			/* the connection */

	for (int i = script->count - 1; i >= 0; i--)
		if (script->steps[i].kind == STEP_USER)
			user_first = i;
	MemoryContextSwitchTo(caller);
	error = dtx_remote_error(connection, "statement", &from_node);

	/* raised here about what the node sent */
	if (!from_node && done >= user_first)
		error->context = psprintf("%s%srows from node \"%s\"",
								  error->context ? error->context : "",
								  error->context ? "\n" : "", connection->node);
	if (error->sqlerrcode == ERRCODE_DATATYPE_MISMATCH && done >= user_first &&
		strstr(error->message, "FROM clause rowtype") != NULL)
	{
		error->message = psprintf("rows from node \"%s\" do not have the expected columns",
								  connection->node);
		error->hint = call->expected != NULL ?
			"The column definition list must have as many columns as the query returns." :
			"Use dtx.query with a column definition list.";
	}
	lost = dtx_sqlstate_is_lost(error->sqlerrcode) || !connection->open;
	if (!lost && !from_node && dtx_remote_poll(connection) != DTX_ANSWER_THERE)
	{
		/*
		 * Cancelled here while the node is still at it.  What it has done by
		 * then, savepoints included, can only be undone as a whole.
		 */
		dtx_remote_close(connection);
		lose(branch);
		ReThrowError(error);
	}
	if (!lost && done < user_first &&
		(!from_node || (done > 0 && !connection->own_prepared)))
	{
		/* nobody knows which savepoints there are */
		dtx_remote_close(connection);
		lose(branch);
		ReThrowError(error);
	}
	if (!lost)
		lost = !dtx_remote_drain(connection);
	/* a statement that is kept may have been outrun by DDL */
	if (!lost && (error->sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED ||
				  error->sqlerrcode == ERRCODE_INVALID_SQL_STATEMENT_NAME))
		dtx_remote_forget_prepared(connection);
	if (!lost && script->undone && from_node && done >= user_first)
	{
		/* the next string begins by rolling back */
		FreeErrorData(error);
		return false;
	}
	if (!lost)
	{
		/*
		 * A string that the node cannot even parse has made no savepoint, and
		 * fails the whole transaction there.
		 */
		if (script->ahead ? done < user_first : branch->levels_wanted < script->level)
			lose(branch);
		/* what this subtransaction undoes by failing is not what failed */
		else if (script->level < GetCurrentTransactionNestLevel() &&
				 branch->state == DTX_BRANCH_OPEN)
		{
			branch->failed_level = script->level;
			lose(branch);
		}
		/* it failed while the session was reset: away with it */
		if (branch->state == DTX_BRANCH_CLOSED && done > 0)
			dtx_remote_close(connection);
		ReThrowError(error);
	}
	dtx_remote_close(connection);
	if (branch->state != DTX_BRANCH_CLOSED || !branch->reused || branch->snapshot ||
		(script->level < GetCurrentTransactionNestLevel() && !script->undone))
	{
		lose(branch);
		raise_lost(branch, error);
	}
	FreeErrorData(error);
	return !script->undone;
}

static void
script_send(DtxBranch *branch, Script *script)
{
	branch->asked = false;
	if (!dtx_remote_send(branch->connection, script->sql.data, script->count))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not send to node \"%s\"", branch->connection->node)));
}

/*
 * Send a string and take in its answers.  False if the connection was found
 * dead before anything was begun: then it can be tried again.
 */
static bool
script_run(DtxBranch *branch, Script *script, DtxCall *call)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile int done = 0;
	volatile bool again = false;

	PG_TRY();
	{
		script_send(branch, script);
		take_answers(branch, script, call, &done);
	}
	PG_CATCH();
	{
		again = script_failed(branch, script, call, done, caller);
	}
	PG_END_TRY();
	return !again;
}

/*
 * Have the node write values as this session does: the connection when no
 * branch is open, else the branch.  False if the connection was found dead
 * before anything was begun.
 */
static bool
follow_styles(DtxBranch *branch, int level)
{
	DtxConnection *connection = branch->connection;
	bool		open = branch->state == DTX_BRANCH_OPEN;
	DtxStyles  *there = open ? &branch->styles : &connection->styles;
	DtxStyles	here;
	Script		script;
	DtxCall		call = {0};

	dtx_remote_styles(&here);
	if (strcmp(here.date, there->date) == 0 && strcmp(here.interval, there->interval) == 0)
		return true;
	script_init(&script);
	if (open)
		script_savepoints(&script, branch, level);
	appendStringInfo(&script.sql, "SELECT pg_catalog.concat("
					 "pg_catalog.set_config('DateStyle', '%s', %s), "
					 "pg_catalog.set_config('IntervalStyle', '%s', %s))",
					 here.date, open ? "true" : "false",
					 here.interval, open ? "true" : "false");
	script_step(&script, STEP_OTHER, 0);
	if (!script_run(branch, &script, &call))
		return false;
	*there = here;
	return true;
}

/*
 * Write down what the node is to be told for a call: the beginning of the
 * branch, savepoints, the user's SQL.  False if the connection was found dead
 * before anything was begun.
 */
static bool
script_call(Script *script, DtxBranch *branch, DtxCall *call)
{
	int			level = GetCurrentTransactionNestLevel();
	bool		wrote;

	if (branch->state == DTX_BRANCH_CLOSED)
	{
		branch->connection = dtx_branch_connection(branch->connection->serverid,
												   branch->connection->node,
												   branch->connection->roleid,
												   &branch->reused);
		branch->levels = branch->levels_wanted = 1;
		branch->rollback_to = 0;
		/* answers to the end of an earlier transaction */
		if (!dtx_remote_drain(branch->connection))
			return false;
	}
	if (!follow_styles(branch, level))
		return false;
	script_init(script);
	if (branch->state == DTX_BRANCH_CLOSED)
		script_begin(script, branch);
	DTX_FAULT("branch_begin");
	script_savepoints(script, branch, level);
	script_user(script, branch, call, &wrote);
	/* from here on it may have written, whatever happens */
	branch->wrote = branch->wrote || wrote;
	return true;
}

static void
check_expected(DtxBranch *branch, DtxCall *call)
{
	if (call->counts && call->result.count != call->expect)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("statement on node \"%s\" affected " INT64_FORMAT " rows instead of " INT64_FORMAT,
						branch->connection->node, call->result.count, call->expect)));
}

/* Before a branch is begun: replace its connection if it has died since. */
void
dtx_branch_prove_alive(DtxBranch *branch)
{
	DtxConnection *connection = branch->connection;
	MemoryContext caller = CurrentMemoryContext;
	volatile bool alive = false;

	if (!branch->reused)
		return;
	PG_TRY();
	{
		DtxResult	result;

		if (dtx_remote_drain(connection))
		{
			dtx_remote_run(connection, "SELECT 1", &result);
			alive = dtx_remote_drain(connection);
		}
	}
	PG_CATCH();
	{
		ErrorData  *error;
		bool		from_node;

		MemoryContextSwitchTo(caller);
		error = dtx_remote_error(connection, "statement", &from_node);
		dtx_remote_close(connection);
		if (!dtx_sqlstate_is_lost(error->sqlerrcode))
			ReThrowError(error);
	}
	PG_END_TRY();
	if (!alive)
		branch->connection = dtx_branch_connection(connection->serverid, connection->node,
												   connection->roleid, &branch->reused);
}

/*
 * Run the user's SQL in the branch, which is begun if need be.  Can be
 * cancelled while it waits.
 */
void
dtx_branch_run(DtxBranch *branch, DtxCall *call)
{
	bool		ok;

	dtx_branch_settle(branch);
	if (branch->state == DTX_BRANCH_LOST)
		raise_lost(branch, NULL);
	do
	{
		Script		script;

		ok = script_call(&script, branch, call);
		if (ok)
		{
			ok = script_run(branch, &script, call);
			script_free(&script);
		}
	} while (!ok);
	check_expected(branch, call);
}

/* The same without waiting for the answer: dtx_branch_settle takes it in. */
void
dtx_branch_send(DtxBranch *branch, DtxCall *call)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext old;
	DtxPending *pending;
	volatile bool ok;

	dtx_branch_settle(branch);
	if (branch->state == DTX_BRANCH_LOST)
		raise_lost(branch, NULL);
	old = MemoryContextSwitchTo(TopTransactionContext);
	pending = palloc0(sizeof(DtxPending));
	pending->call = *call;
	pending->call.sql = pstrdup(call->sql);
	if (call->arguments != NULL)
		pending->call.arguments = DatumGetArrayTypePCopy(PointerGetDatum(call->arguments));
	pending->call.rows_context = TopTransactionContext;
	do
	{
		ok = script_call(&pending->script, branch, &pending->call);
		if (!ok)
			continue;
		pending->script.ahead = true;
		PG_TRY();
		{
			script_send(branch, &pending->script);
		}
		PG_CATCH();
		{
			ok = !script_failed(branch, &pending->script, &pending->call, 0, caller);
		}
		PG_END_TRY();
	} while (!ok);
	for (int i = 0; i < pending->script.count; i++)
		step_level(branch, &pending->script.steps[i]);
	branch->pending = pending;
	MemoryContextSwitchTo(old);
}

/*
 * Take in the answer to what was sent and not waited for.  Raises its error,
 * unless what was sent is undone already.
 */
void
dtx_branch_settle(DtxBranch *branch)
{
	DtxPending *pending = branch->pending;
	MemoryContext caller = CurrentMemoryContext;
	volatile int done = 0;
	volatile bool again = false;
	volatile bool failed = false;

	if (pending == NULL)
		return;
	branch->pending = NULL;
	PG_TRY();
	{
		take_answers(branch, &pending->script, &pending->call, &done);
	}
	PG_CATCH();
	{
		again = script_failed(branch, &pending->script, &pending->call, done, caller);
		failed = true;
	}
	PG_END_TRY();
	if (again)
		dtx_branch_run(branch, &pending->call);
	else if (!failed && !pending->script.undone)
	{
		bool		as_expected = !pending->call.counts ||
			pending->call.result.count == pending->call.expect;

		if (!as_expected && pending->script.level < GetCurrentTransactionNestLevel())
		{
			branch->failed_level = pending->script.level;
			lose(branch);
		}
		check_expected(branch, &pending->call);
	}
}

/* A subtransaction has committed into its parent. */
void
dtx_branch_subcommit(DtxBranch *branch, int level)
{
	if (branch->levels_wanted >= level)
		branch->levels_wanted = level - 1;
	/* what fails in it from now on fails in its parent */
	if (branch->pending != NULL && branch->pending->script.level >= level)
		branch->pending->script.level = level - 1;
	if (branch->failed_level >= level)
		branch->failed_level = level - 1;
}

/* A subtransaction has rolled back.  Nothing is sent, nothing throws. */
void
dtx_branch_subabort(DtxBranch *branch, int level)
{
	if (branch->levels_wanted >= level)
	{
		/* the savepoint there is this one's, not of an earlier sibling */
		if (branch->rollback_to == 0 || branch->rollback_to > level)
			branch->rollback_to = level;
		branch->levels_wanted = level - 1;
		branch->styles.date[0] = '\0';	/* whatever they are then */
	}
	if (branch->pending != NULL && branch->pending->script.level >= level)
		branch->pending->script.undone = true;
	if (branch->failed_level >= level && branch->connection->open)
	{
		branch->failed_level = 0;
		branch->state = DTX_BRANCH_OPEN;
	}
}

/* --------------------------------------------------------- first phase */

static void
append_rollback_to(StringInfo sql, DtxBranch *branch, int *results)
{
	if (branch->rollback_to > 0)
	{
		appendStringInfo(sql, "ROLLBACK TO SAVEPOINT s%d; ", branch->rollback_to);
		(*results)++;
	}
}

static void
make_end(char *sql, const char *verb, const char *gid)
{
	size_t		verb_length = strlen(verb);
	size_t		gid_length = strlen(gid);

	memcpy(sql, verb, verb_length);
	memcpy(sql + verb_length, gid, gid_length);
	strcpy(sql + verb_length + gid_length, "'");
}

/* Now that the gid is known: what will end the branch, made while one may fail. */
void
dtx_branch_make_ends(DtxBranch *branch)
{
	make_end(branch->finish_sql, "COMMIT PREPARED '", branch->gid);
	make_end(branch->undo_sql, "ROLLBACK PREPARED '", branch->gid);
}

/* Ask the node to prepare; false if it cannot even be asked.  May throw. */
bool
dtx_branch_send_prepare(DtxBranch *branch)
{
	StringInfoData sql;
	int			results = 2;

	initStringInfo(&sql);
	append_rollback_to(&sql, branch, &results);
	branch->counted = branch->connection->count_due || ++branch->connection->ends % COUNT_EVERY == 0;
	if (branch->counted)
	{
		appendStringInfoString(&sql, COUNT_STATEMENTS);
		results++;
	}
	appendStringInfoString(&sql, "EXECUTE dtx_check('");
	appendStringInfoString(&sql, branch->nonce);
	appendStringInfoString(&sql, "'); PREPARE TRANSACTION '");
	appendStringInfoString(&sql, branch->gid);
	appendStringInfoChar(&sql, '\'');
	branch->state = DTX_BRANCH_PREPARING;
	return dtx_remote_send(branch->connection, sql.data, results);
}

/*
 * The first answer to either string: the branch's xid, unless it lost its
 * transaction.
 */
static uint64
get_checked_xid(DtxBranch *branch)
{
	DtxResult	result;
	char	   *value;
	uint64		xid;
	int			statements = list_length(branch->connection->prepared) + OWN_STATEMENTS;

	if (branch->rollback_to > 0)
		dtx_remote_get(branch->connection, NULL, CurrentMemoryContext, &result);
	if (branch->counted)
	{
		dtx_remote_get(branch->connection, NULL, CurrentMemoryContext, &result);
		value = dtx_result_value(&result, 0);
		statements = value ? atoi(value) : -1;
	}
	PG_TRY();
	{
		dtx_remote_get(branch->connection, NULL, CurrentMemoryContext, &result);
	}
	PG_CATCH();
	{
		if (geterrcode() == ERRCODE_UNDEFINED_OBJECT)
		{
			FlushErrorState();
			branch->refused = true;
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
					 errmsg("branch on node \"%s\" lost its transaction", branch->connection->node),
					 errdetail("Something ended the transaction there: what was done in the branch before may be committed or rolled back."),
					 errhint("Nothing but dtx may use the connections of dtx.")));
		}
		PG_RE_THROW();
	}
	PG_END_TRY();
	value = dtx_result_value(&result, 0);
	xid = value != NULL ? strtou64(value, NULL, 10) : 0;
	if (xid == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("node \"%s\" did not tell the transaction of its branch",
						branch->connection->node)));
	branch->connection->kept_ours = statements ==
		list_length(branch->connection->prepared) + OWN_STATEMENTS;
	branch->connection->count_due = false;
	return xid;
}

/*
 * Wait for the answer.  Raises the node's error; done only if the tag says
 * so: in a failed transaction PREPARE answers ROLLBACK.
 */
void
dtx_branch_get_prepared(DtxBranch *branch)
{
	DtxResult	result;

	branch->xid = get_checked_xid(branch);
	branch->ended = true;
	dtx_remote_get(branch->connection, NULL, CurrentMemoryContext, &result);
	branch->refused = strcmp(result.tag, "ROLLBACK") == 0;
	if (strcmp(result.tag, "PREPARE TRANSACTION") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_TRANSACTION_ROLLBACK),
				 errmsg("node \"%s\" did not prepare its branch", branch->connection->node),
				 errdetail("It answered \"%s\".", result.tag)));
	branch->state = DTX_BRANCH_PREPARED;
	memcpy(branch->connection->settings, branch->settings, DTX_SETTINGS_SIZE);
	(void) dtx_remote_drain(branch->connection);
}

/* The same for a commit in one phase. */
bool
dtx_branch_send_commit(DtxBranch *branch)
{
	StringInfoData sql;
	int			results = 3;

	initStringInfo(&sql);
	append_rollback_to(&sql, branch, &results);
	appendStringInfo(&sql, "EXECUTE dtx_check('%s'); COMMIT;"
					 " SELECT pg_catalog.pg_advisory_unlock_all()::text", branch->nonce);
	branch->state = DTX_BRANCH_PREPARING;
	branch->connection->ended_by_commit = true;
	return dtx_remote_send(branch->connection, sql.data, results);
}

void
dtx_branch_get_committed(DtxBranch *branch)
{
	DtxResult	result;

	(void) get_checked_xid(branch);
	branch->ended = true;
	dtx_remote_get(branch->connection, NULL, CurrentMemoryContext, &result);
	branch->refused = strcmp(result.tag, "ROLLBACK") == 0;
	if (strcmp(result.tag, "COMMIT") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_TRANSACTION_ROLLBACK),
				 errmsg("node \"%s\" did not commit its branch", branch->connection->node),
				 errdetail("It answered \"%s\".", result.tag)));
	branch->state = DTX_BRANCH_FINISHED;
	(void) dtx_remote_drain(branch->connection);
}

/*
 * Undo the branch without waiting for an answer.  True if something may be
 * left over there that the scanner has to look for.  Never throws.
 */
bool
dtx_branch_abort(DtxBranch *branch)
{
	DtxConnection *connection = branch->connection;

	switch (branch->state)
	{
		case DTX_BRANCH_CLOSED:
			/* BEGIN may have been sent */
			if (connection->waiting)
				dtx_remote_close(connection);
			return false;
		case DTX_BRANCH_OPEN:
			if (connection->waiting ||
				!dtx_remote_send(connection, "ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all()::text", 2))
				dtx_remote_close(connection);
			return false;
		case DTX_BRANCH_PREPARING:
			dtx_remote_close(connection);
			return true;
		case DTX_BRANCH_PREPARED:
			if (connection->waiting ||
				!dtx_remote_send(connection, branch->undo_sql, 1))
				dtx_remote_close(connection);
			return true;
		case DTX_BRANCH_LOST:
			dtx_remote_close(connection);
			return false;
		default:
			return false;
	}
}
