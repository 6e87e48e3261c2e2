/*-------------------------------------------------------------------------
 *
 * remote.c
 *		Connections to nodes: the only caller of dblink.
 *
 *		closed	-> open		dtx_remote_connect
 *		open	-> waiting	dtx_remote_send
 *		waiting	-> open		dtx_remote_drain, when the end is seen
 *		any		-> closed	dtx_remote_close
 *
 * (1) Only functions of dblink that fail on an unknown connection name are
 *	   used: dblink_exec and dblink would open a connection of their own and
 *	   commit at once.
 * (2) Each statement sent has one result, so that callers know how many to
 *	   fetch: dblink cannot tell an empty result from the end.
 * (3) Send, poll, answered_ok and close never throw, also outside of a
 *	   transaction and while interrupts are held.  The rest may.
 * (4) No connection string and no host leaves this file in a message.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dirent.h>
#include <poll.h>
#include <sys/stat.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "utils/builtins.h"
#include "utils/elog.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "deadline.h"
#include "fault.h"
#include "guc.h"
#include "nothrow.h"
#include "remote.h"
#include "session.h"

typedef enum DblinkFunction
{
	DBLINK_CONNECT,
	DBLINK_DISCONNECT,
	DBLINK_SEND_QUERY,
	DBLINK_IS_BUSY,
	DBLINK_GET_RESULT,
	DBLINK_ERROR_MESSAGE,
	DBLINK_FUNCTIONS
} DblinkFunction;

static const struct
{
	const char *name;
	int			argument_count;
}			dblink_function[DBLINK_FUNCTIONS] = {
	[DBLINK_CONNECT] = {"dblink_connect", 2},
	[DBLINK_DISCONNECT] = {"dblink_disconnect", 1},
	[DBLINK_SEND_QUERY] = {"dblink_send_query", 2},
	[DBLINK_IS_BUSY] = {"dblink_is_busy", 1},
	[DBLINK_GET_RESULT] = {"dblink_get_result", 1},
	[DBLINK_ERROR_MESSAGE] = {"dblink_error_message", 1},
};

/* With any of these a user can work on a connection that he can name. */
static const char *const dblink_borrowing[] = {
	"dblink", "dblink_exec", "dblink_open", "dblink_fetch", "dblink_close",
	"dblink_send_query", "dblink_get_result", "dblink_disconnect",
	"dblink_cancel_query"
};

/* The most that a server's own option may ask for. */
#define CONNECT_TIMEOUT_MAX_S 60
/* A signal that comes just before we wait is noticed after this. */
#define SIGNAL_PAUSE_MS 50

static FmgrInfo functions[DBLINK_FUNCTIONS];
static bool functions_ready = false;
static uint32 connection_number = 0;

/* The schema that dblink is in. */
static Oid
dblink_schema(void)
{
	Relation	relation = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			schema = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("dblink"));
	scan = systable_beginscan(relation, ExtensionNameIndexId, true, NULL, 1, &key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
		schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	if (!OidIsValid(schema))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension dblink is not installed in this database"),
				 errhint("CREATE EXTENSION dtx CASCADE;")));
	return schema;
}

/* Look up dblink's functions, once per session. */
static void
functions_init(void)
{
	static const Oid types[] = {TEXTOID, TEXTOID};
	Oid			schema;

	if (functions_ready)
		return;
	schema = dblink_schema();
	for (int i = 0; i < DBLINK_FUNCTIONS; i++)
	{
		/* by OID: users of dtx need no right to dblink's schema */
		oidvector  *arguments = buildoidvector(types, dblink_function[i].argument_count);
		Oid			function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
											   CStringGetDatum(dblink_function[i].name),
											   PointerGetDatum(arguments),
											   ObjectIdGetDatum(schema));

		if (!OidIsValid(function))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("function \"%s\" of extension dblink does not exist",
							dblink_function[i].name)));
		fmgr_info_cxt(function, &functions[i], TopMemoryContext);
	}
	functions_ready = true;
}

static Datum
call_dblink(DblinkFunction function, ReturnSetInfo *rsinfo, Datum first, Datum second)
{
	LOCAL_FCINFO(fcinfo, 2);
	Datum		result;

	InitFunctionCallInfoData(*fcinfo, &functions[function],
							 dblink_function[function].argument_count,
							 InvalidOid, NULL, (Node *) rsinfo);
	fcinfo->args[0].value = first;
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = second;
	fcinfo->args[1].isnull = false;
	result = FunctionCallInvoke(fcinfo);
	return result;
}

/* All connections of this process, so that changed options are noticed. */
static List *all_connections = NIL;

static void
options_changed(Datum arg, int cacheid, uint32 hash)
{
	ListCell   *cell;

	foreach(cell, all_connections)
	{
		DtxConnection *connection = lfirst(cell);

		if (hash == 0 ||
			(cacheid == FOREIGNSERVEROID && connection->server_hash == hash) ||
			(cacheid == USERMAPPINGOID && connection->mapping_hash == hash))
			connection->stale = true;
	}
}

/* A closed connection, which the caller keeps for as long as it likes. */
DtxConnection *
dtx_remote_new(Oid serverid, const char *node, Oid roleid, const char *prefix)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	DtxConnection *connection = palloc0(sizeof(DtxConnection));

	snprintf(connection->name, NAMEDATALEN, "%s$%u", prefix, ++connection_number);
	strlcpy(connection->node, node, NAMEDATALEN);
	connection->serverid = serverid;
	connection->roleid = roleid;
	connection->state = dtx_node_state(MyDatabaseId, serverid, true);
	connection->socket = -1;
	connection->name_text = CStringGetTextDatum(connection->name);
	if (connection_number == 1)
	{
		CacheRegisterSyscacheCallback(FOREIGNSERVEROID, options_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(USERMAPPINGOID, options_changed, (Datum) 0);
	}
	all_connections = lappend(all_connections, connection);
	MemoryContextSwitchTo(old);
	if (connection->state == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many nodes"),
				 errhint("Raise dtx.max_nodes and restart the server.")));
	return connection;
}

void
dtx_remote_free(DtxConnection *connection)
{
	dtx_remote_close(connection);
	all_connections = list_delete_ptr(all_connections, connection);
	pfree(DatumGetPointer(connection->name_text));
	pfree(connection);
}

/* What may be told of libpq's reason: what the server said, not where it is. */
static char *
connect_reason(const char *detail)
{
	const char *said = NULL;
	const char *next;
	char	   *reason;

	if (detail == NULL)
		return pstrdup("The connection attempt failed.");
	for (next = detail; (next = strstr(next, "failed: ")) != NULL;)
		said = next += strlen("failed: ");
	if (said == NULL && strstr(detail, "translate host name") != NULL)
		return pstrdup("The host name cannot be resolved.");
	if (said == NULL)
		return pstrdup("The connection attempt failed.");
	reason = pstrdup(said);
	reason[strcspn(reason, "\n")] = '\0';
	return reason;
}

/* Close once more what could not be closed when that was due. */
static void
get_rid_of(DtxConnection *connection)
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		call_dblink(DBLINK_DISCONNECT, NULL, connection->name_text, (Datum) 0);
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_CONNECTION_DOES_NOT_EXIST)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
	}
	PG_END_TRY();
	connection->unclosed = false;
}

#define SETUP_COLUMNS 11
static const char setup_query[] =
"SELECT pg_catalog.pg_is_in_recovery()::text,"
" (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),"
" (SELECT oid::text FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()),"
" CASE WHEN pg_catalog.pg_is_in_recovery() THEN '0' ELSE"
" pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END,"
" pg_catalog.current_setting('server_version_num'),"
" pg_catalog.current_setting('standard_conforming_strings'),"
" current_user::text,"
" COALESCE(pg_catalog.current_setting('dtx.loopback', true), 'off'),"
" CASE WHEN pg_catalog.current_setting('server_version_num')::int OPERATOR(pg_catalog.>=) 140000"
" THEN pg_catalog.set_config('idle_session_timeout', '%d', false) END,"
" pg_catalog.set_config('DateStyle', '%s', false),"
" pg_catalog.set_config('IntervalStyle', '%s', false)";

/*
 * How this session writes values.  Their texts are looked up when something
 * has changed; what is not used of the buffers is zero.
 */
void
dtx_remote_styles(DtxStyles *styles)
{
	static DtxStyles now;
	static int	date_style = -1;
	static int	date_order = -1;
	static int	interval_style = -1;

	if (date_style != DateStyle || date_order != DateOrder || interval_style != IntervalStyle)
	{
		memset(&now, 0, sizeof(now));
		strlcpy(now.date, GetConfigOption("DateStyle", false, false), sizeof(now.date));
		strlcpy(now.interval, GetConfigOption("IntervalStyle", false, false),
				sizeof(now.interval));
		date_style = DateStyle;
		date_order = DateOrder;
		interval_style = IntervalStyle;
	}
	*styles = now;
}

/* Learn who is at the other end, and refuse what cannot be a node. */
static void
setup(DtxConnection *connection)
{
	DtxResult	result;
	DtxNode    *state = connection->state;
	DtxTime begun = dtx_now();
	TupleDesc	expected = dtx_text_columns(SETUP_COLUMNS);
	bool		in_recovery;
	bool		loopback;
	bool		conforming;
	char	   *timeline;
	char	   *sql;

	dtx_remote_styles(&connection->styles);
	sql = psprintf(setup_query, dtx_connection_idle_timeout_ms,
				   connection->styles.date, connection->styles.interval);
	if (!dtx_remote_send(connection, sql, 1))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("lost connection to node \"%s\"", connection->node)));
	dtx_remote_get(connection, expected, CurrentMemoryContext, &result);
	{
		TupleTableSlot *slot = MakeSingleTupleTableSlot(expected, &TTSOpsMinimalTuple);
		char	   *value[SETUP_COLUMNS];

		if (result.rows == NULL || result.count != 1 || !tuplestore_gettupleslot(result.rows, true, false, slot))
			elog(ERROR, "node \"%s\" did not say who it is", connection->node);
		slot_getallattrs(slot);
		for (int i = 0; i < SETUP_COLUMNS; i++)
			value[i] = slot->tts_isnull[i] ? pstrdup("") : TextDatumGetCString(slot->tts_values[i]);
		ExecDropSingleTupleTableSlot(slot);
		tuplestore_end(result.rows);

		in_recovery = strcmp(value[0], "true") == 0;
		connection->identity.system_identifier = strtou64(value[1], NULL, 10);
		connection->identity.database = atooid(value[2]);
		timeline = value[3];
		connection->identity.timeline = (uint32) strtoul(timeline, NULL, 16);
		connection->version = atoi(value[4]);
		conforming = strcmp(value[5], "on") == 0;
		strlcpy(connection->user, value[6], NAMEDATALEN);
		loopback = strcmp(value[7], "on") == 0;
	}
	if (!dtx_remote_drain(connection))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("lost connection to node \"%s\"", connection->node)));
	SpinLockAcquire(&state->mutex);
	state->version = connection->version;
	state->round_trip_us = (int) (dtx_now() - begun);
	SpinLockRelease(&state->mutex);

	if (in_recovery)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("node \"%s\" is a standby", connection->node),
				 errhint("Set target_session_attrs to read-write in the server's options, with all hosts.")));
	if (!conforming)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("node \"%s\" has standard_conforming_strings off", connection->node),
				 errhint("Set it on there for this role and database.")));
	if (connection->identity.system_identifier == GetSystemIdentifier() &&
		connection->identity.database == MyDatabaseId && !loopback)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("node \"%s\" is this very database", connection->node),
				 errdetail("Its branch and the local transaction would not see each other's work, and could wait for each other for ever."),
				 errhint("If that is meant: ALTER SERVER %s OPTIONS (ADD options '-c dtx.loopback=on').",
						 quote_identifier(connection->node))));
}

/*
 * The sockets that this process has open: dblink does not tell which one it
 * has opened, but waiting on it beats asking again and again.
 */
static Bitmapset *
open_sockets(void)
{
	Bitmapset  *sockets = NULL;
	DIR		   *directory = AllocateDir("/proc/self/fd");
	struct dirent *entry;

	while ((entry = ReadDirExtended(directory, "/proc/self/fd", DEBUG1)) != NULL)
	{
		struct stat status;
		int			fd = atoi(entry->d_name);

		if (entry->d_name[0] != '.' && fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode))
			sockets = bms_add_member(sockets, fd);
	}
	if (directory != NULL)
		FreeDir(directory);
	return sockets;
}

/* On 15 the option goes before our own bound. */
static void
check_connect_timeout(DtxConnection *connection)
{
	List	   *options = list_concat_copy(GetForeignServer(connection->serverid)->options,
										   GetUserMapping(connection->roleid,
														  connection->serverid)->options);
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst(cell);
		int			seconds;

		if (strcmp(option->defname, "connect_timeout") != 0)
			continue;
		seconds = atoi(defGetString(option));
		if (seconds <= 0 || seconds > CONNECT_TIMEOUT_MAX_S)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("option connect_timeout of node \"%s\" must be between 1 and %d",
							connection->node, CONNECT_TIMEOUT_MAX_S),
					 errdetail("Otherwise recovery could wait for this node without limit.")));
	}
}

/* Did the node itself turn the connection down, as it says in the detail? */
bool
dtx_remote_was_turned_down(ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION &&
		error->detail != NULL && strncmp(error->detail, "FATAL:", 6) == 0 &&
		strstr(error->detail, "the database system is") == NULL;
}

/* What libpq reads while it connects; a copy, NULL: not set. */
static char *
environment(const char *name)
{
	const char *value = getenv(name);

	return value != NULL ? pstrdup(value) : NULL;
}

static void
set_environment(const char *name, const char *value)
{
	if (value != NULL)
		setenv(name, value, 1);
	else
		unsetenv(name);
}

/*
 * Open the connection as its role: dblink takes that role's user mapping and
 * checks its rights.  Bounded by dtx.connect_timeout.
 */
void
dtx_remote_connect(DtxConnection *connection)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext work = AllocSetContextCreate(caller, "dtx connect", ALLOCSET_SMALL_SIZES);
	Oid			save_user;
	int			save_sec_context;
	char	   *save_timeout;
	char	   *save_encoding;
	Bitmapset  *volatile sockets = NULL;
	char		seconds[16];

	functions_init();
	dtx_remote_close(connection);
	MemoryContextSwitchTo(work);
	save_timeout = environment("PGCONNECT_TIMEOUT");
	save_encoding = environment("PGCLIENTENCODING");
	snprintf(seconds, sizeof(seconds), "%d", dtx_connect_timeout_s);
	connection->server_hash = GetSysCacheHashValue1(FOREIGNSERVEROID,
													ObjectIdGetDatum(connection->serverid));
	connection->mapping_hash = GetSysCacheHashValue1(USERMAPPINGOID,
													 ObjectIdGetDatum(GetUserMapping(connection->roleid,
																					 connection->serverid)->umid));
	connection->stale = false;
	check_connect_timeout(connection);
	GetUserIdAndSecContext(&save_user, &save_sec_context);

	PG_TRY();
	{
		/* 15 blocks in libpq, which takes this; 16 and later wait for us */
		set_environment("PGCONNECT_TIMEOUT", seconds);
		/* dblink sets it otherwise, and our RESET ALL would undo that */
		set_environment("PGCLIENTENCODING", GetDatabaseEncodingName());
		dtx_deadline_start(dtx_connect_timeout_s * 1000 + 100);
		if (connection->unclosed)
			get_rid_of(connection);
		SetUserIdAndSecContext(connection->roleid,
							   save_sec_context | SECURITY_LOCAL_USERID_CHANGE);
		sockets = open_sockets();
		call_dblink(DBLINK_CONNECT, NULL, connection->name_text,
					CStringGetTextDatum(connection->node));
		SetUserIdAndSecContext(save_user, save_sec_context);
		connection->open = true;
		connection->waiting = false;
		connection->ended_by_commit = false;
		connection->kept_ours = true;
		connection->count_due = connection->touched = false;
		connection->settings[0] = '\0';
		sockets = bms_del_members(open_sockets(), sockets);
		connection->socket = bms_membership(sockets) == BMS_SINGLETON ?
			bms_singleton_member(sockets) : -1;
		setup(connection);
		connection->used = false;
		dtx_deadline_stop();
	}
	PG_CATCH();
	{
		ErrorData  *error;
		bool		from_node;
		bool		late = dtx_deadline_passed();

		dtx_deadline_stop();
		SetUserIdAndSecContext(save_user, save_sec_context);
		set_environment("PGCONNECT_TIMEOUT", save_timeout);
		set_environment("PGCLIENTENCODING", save_encoding);
		MemoryContextSwitchTo(caller);
		error = dtx_remote_error(connection, "opening a connection", &from_node);
		dtx_remote_close(connection);
		if (error->sqlerrcode == ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION ||
			(late && error->sqlerrcode == ERRCODE_QUERY_CANCELED))
			ereport(ERROR,
					(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
					 errmsg("could not connect to node \"%s\"", connection->node),
					 errdetail_internal("%s", late ? "timeout expired" :
										connect_reason(error->detail))));
		if (error->sqlerrcode == ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED)
			ereport(ERROR,
					(errcode(error->sqlerrcode),
					 errmsg("could not connect to node \"%s\"", connection->node),
					 errdetail_internal("%s", error->detail ? error->detail : error->message),
					 errhint("The user mapping needs a password, and the node has to ask for it: "
							 "trust, peer and similar methods are refused for ordinary roles.")));
		ReThrowError(error);
	}
	PG_END_TRY();
	set_environment("PGCONNECT_TIMEOUT", save_timeout);
	set_environment("PGCLIENTENCODING", save_encoding);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(work);
	dtx_count(DTX_STAT_CONNECTS, 1);
}

/* The node has none of our statements any more.  Does not throw. */
void
dtx_remote_forget_prepared(DtxConnection *connection)
{
	ListCell   *cell;

	foreach(cell, connection->prepared)
	{
		pfree(((DtxPrepared *) lfirst(cell))->sql);
		pfree(lfirst(cell));
	}
	list_free(connection->prepared);
	connection->prepared = NIL;
	connection->own_prepared = false;
	connection->kept_ours = false;
}

void
dtx_remote_close(DtxConnection *connection)
{
	if (!connection->open)
		return;
	connection->open = false;
	connection->waiting = false;
	connection->socket = -1;
	dtx_remote_forget_prepared(connection);
	DTX_NOTHROW_BEGIN();
	{
		DTX_FAULT("remote_close");
		call_dblink(DBLINK_DISCONNECT, NULL, connection->name_text, (Datum) 0);
	}
	DTX_NOTHROW_FAILED();
	{
		/* it may also have been closed behind our back */
		connection->unclosed = true;
	}
	DTX_NOTHROW_END();
}

/* Send a string that will have so many results; false if that is impossible. */
bool
dtx_remote_send(DtxConnection *connection, const char *sql, int results)
{
	volatile bool sent = false;
	int			save_client = client_min_messages;
	int			save_log = log_min_messages;

	if (!connection->open)
		return false;
	/* dblink says in a NOTICE what it also returns */
	client_min_messages = log_min_messages = ERROR;
	DTX_NOTHROW_BEGIN();
	{
		Datum		text;

		DTX_FAULT("remote_send");
		text = CStringGetTextDatum(sql);
		sent = DatumGetInt32(call_dblink(DBLINK_SEND_QUERY, NULL,
										 connection->name_text, text)) == 1;
		pfree(DatumGetPointer(text));
	}
	DTX_NOTHROW_FAILED();
	{
		sent = false;
	}
	DTX_NOTHROW_END();
	client_min_messages = save_client;
	log_min_messages = save_log;
	connection->waiting = connection->waiting || sent;
	connection->results_left = sent ? results : connection->results_left;
	connection->answer_due = sent;
	connection->used = true;
	return sent;
}

/* Has the node answered?  Failing to find out is not an answer. */
DtxAnswer
dtx_remote_poll(DtxConnection *connection)
{
	volatile DtxAnswer answer = DTX_ANSWER_UNKNOWN;

	if (!connection->open)
		return DTX_ANSWER_UNKNOWN;
	DTX_NOTHROW_BEGIN();
	{
		DTX_FAULT("remote_is_busy");
		answer = DatumGetInt32(call_dblink(DBLINK_IS_BUSY, NULL,
										   connection->name_text, (Datum) 0)) != 0 ?
			DTX_ANSWER_NONE : DTX_ANSWER_THERE;
	}
	DTX_NOTHROW_FAILED();
	{
		answer = DTX_ANSWER_UNKNOWN;
	}
	DTX_NOTHROW_END();
	/* it has been read: the socket would not tell of it any more */
	if (answer == DTX_ANSWER_THERE)
		connection->answer_due = false;
	return answer;
}

/*
 * What was sent has come back without an error, as far as that can be told
 * before its result is fetched.  To be asked when there is an answer.
 */
bool
dtx_remote_answered_ok(DtxConnection *connection)
{
	volatile bool ok = false;

	if (!connection->open)
		return false;
	DTX_NOTHROW_BEGIN();
	{
		text	   *message;

		DTX_FAULT("remote_answered");
		message = DatumGetTextPP(call_dblink(DBLINK_ERROR_MESSAGE, NULL,
											 connection->name_text, (Datum) 0));
		ok = VARSIZE_ANY_EXHDR(message) == 2 && memcmp(VARDATA_ANY(message), "OK", 2) == 0;
	}
	DTX_NOTHROW_FAILED();
	{
		ok = false;
	}
	DTX_NOTHROW_END();
	return ok;
}

/*
 * Wait until one of the connections has something to read, or for the time.
 * Signals are not waited for: callers that can be cancelled come back often.
 * Never throws.
 */
void
dtx_remote_pause(DtxConnection **connections, int count, int timeout_ms)
{
	struct pollfd sockets[16];

	if (count > lengthof(sockets))
		count = 0;
	for (int i = 0; i < count; i++)
	{
		if (connections[i]->socket < 0)
		{
			count = 0;
			break;
		}
		sockets[i].fd = connections[i]->socket;
		sockets[i].events = POLLIN;
	}
	if (count == 0)
		pg_usleep(100);
	else
		(void) poll(sockets, count, timeout_ms);
}

/*
 * Wait for the beginning of an answer.  Most answers come whole, so that
 * nothing in dblink has to wait any more; it would do so at a higher price.
 */
static void
wait_for_answer(DtxConnection *connection)
{
	connection->answer_due = false;
	if (connection->socket < 0)
		return;
	/* it has hardly come already: look once it has */
	dtx_session_waits(true);
	do
	{
		dtx_remote_pause(&connection, 1, SIGNAL_PAUSE_MS);
		CHECK_FOR_INTERRUPTS();
		if (!PostmasterIsAlive())
			proc_exit(1);
	} while (dtx_remote_poll(connection) == DTX_ANSWER_NONE);
	dtx_session_waits(false);
}

/* A descriptor of so many text columns. */
TupleDesc
dtx_text_columns(int count)
{
	static TupleDesc one = NULL;
	TupleDesc	desc;
	MemoryContext old = CurrentMemoryContext;

	/* nearly every result */
	if (count == 1 && one != NULL)
		return one;
	if (count == 1)
		MemoryContextSwitchTo(TopMemoryContext);
	desc = CreateTemplateTupleDesc(count);
	for (int i = 1; i <= count; i++)
		TupleDescInitBuiltinEntry(desc, (AttrNumber) i, psprintf("c%d", i), TEXTOID, -1, 0);
	MemoryContextSwitchTo(old);
	if (count == 1)
		one = desc;
	return desc;
}

/* The first column of the only row of a result, or of its next row; or NULL. */
static char *
first_value(Tuplestorestate *rows, TupleDesc desc)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	char	   *value = NULL;

	if (tuplestore_gettupleslot(rows, true, false, slot))
	{
		bool		isnull;
		Datum		datum = slot_getattr(slot, 1, &isnull);

		if (!isnull)
			value = TextDatumGetCString(datum);
	}
	ExecDropSingleTupleTableSlot(slot);
	return value;
}

/* The first column of the next row of a result of text columns; NULL if none. */
char *
dtx_result_value(DtxResult *result, int row)
{
	return result->rows == NULL ? NULL : first_value(result->rows, result->desc);
}

/* The number at the end of a command tag. */
static int64
tag_count(const char *tag)
{
	const char *space = strrchr(tag, ' ');

	if (space == NULL || space[1] < '0' || space[1] > '9')
		return 0;
	return strtoi64(space + 1, NULL, 10);
}

/*
 * Fetch one result, waiting for it if need be.  "expected" says what rows
 * would look like (NULL: one text column).  Rows are put into a tuplestore
 * in rows_context.  Raises the node's error as dblink makes it: callers
 * catch it and have dtx_remote_error() make it presentable.
 */
void
dtx_remote_get(DtxConnection *connection, TupleDesc expected,
			   MemoryContext rows_context, DtxResult *result)
{
	ReturnSetInfo rsinfo = {0};
	ExprContext econtext = {0};

	if (expected == NULL)
		expected = dtx_text_columns(1);
	econtext.type = T_ExprContext;
	econtext.ecxt_per_query_memory = rows_context;
	econtext.ecxt_per_tuple_memory = CurrentMemoryContext;
	rsinfo.type = T_ReturnSetInfo;
	rsinfo.econtext = &econtext;
	rsinfo.expectedDesc = expected;
	rsinfo.allowedModes = SFRM_Materialize;

	if (connection->answer_due)
		wait_for_answer(connection);
	if (connection->results_left > 0)
		connection->results_left--;
	memset(result, 0, sizeof(DtxResult));
	DTX_FAULT("remote_get");
	call_dblink(DBLINK_GET_RESULT, &rsinfo, connection->name_text, (Datum) 0);

	result->desc = rsinfo.setDesc;
	if (rsinfo.setResult == NULL)
	{
		result->is_rows = true; /* none, or the end */
		return;
	}

	/* A tag comes as a row of one column that is called "status". */
	if (rsinfo.setDesc->natts == 1 &&
		strcmp(NameStr(TupleDescAttr(rsinfo.setDesc, 0)->attname), "status") == 0 &&
		!(expected->natts == 1 &&
		  strcmp(NameStr(TupleDescAttr(expected, 0)->attname), "status") == 0))
	{
		char	   *tag = first_value(rsinfo.setResult, rsinfo.setDesc);

		strlcpy(result->tag, tag ? tag : "", DTX_TAG_SIZE);
		result->count = tag_count(result->tag);
		tuplestore_end(rsinfo.setResult);
		return;
	}
	result->is_rows = true;
	result->rows = rsinfo.setResult;
	result->count = tuplestore_tuple_count(rsinfo.setResult);
}

/* Connection lost, or about to be: what was begun there is rolled back. */
bool
dtx_sqlstate_is_lost(int sqlstate)
{
	return ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_CONNECTION_EXCEPTION ||
		sqlstate == ERRCODE_ADMIN_SHUTDOWN ||
		sqlstate == ERRCODE_CRASH_SHUTDOWN ||
		sqlstate == ERRCODE_CANNOT_CONNECT_NOW ||
		sqlstate == ERRCODE_IDLE_SESSION_TIMEOUT ||
		sqlstate == ERRCODE_IDLE_IN_TRANSACTION_SESSION_TIMEOUT;
}

/*
 * Fetch what is left of what was sent, waiting for it, and forget it.  False
 * if the connection is no longer good; it is closed then.
 */
bool
dtx_remote_drain(DtxConnection *connection)
{
	volatile bool lost = !connection->open;
	volatile int rounds_left = connection->results_left + 3;

	while (connection->waiting && !lost)
	{
		volatile bool end = connection->results_left == 0;
		MemoryContext caller = CurrentMemoryContext;

		/* a node that never comes to an end is no good */
		CHECK_FOR_INTERRUPTS();
		if (rounds_left-- <= 0)
		{
			lost = true;
			break;
		}
		PG_TRY();
		{
			DtxResult	result;

			dtx_remote_get(connection, NULL, caller, &result);
			if (result.rows != NULL)
				tuplestore_end(result.rows);
		}
		PG_CATCH();
		{
			ErrorData  *error;
			bool		from_node;

			MemoryContextSwitchTo(caller);
			error = dtx_remote_error(connection, "", &from_node);
			/* not the node's error, but somebody who does not want to wait */
			if (!from_node && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
				ReThrowError(error);
			lost = dtx_sqlstate_is_lost(error->sqlerrcode);
			end = false;
			FreeErrorData(error);
		}
		PG_END_TRY();
		if (end)
			connection->waiting = false;
	}
	if (lost)
		dtx_remote_close(connection);
	return !lost;
}

/*
 * Inside PG_CATCH: take the error over, in the current memory context, with
 * the node's name in the place of dblink's connection.  Tells whether the
 * error is an answer of the node, or something that went wrong here.
 */
ErrorData *
dtx_remote_error(DtxConnection *connection, const char *doing, bool *from_node)
{
	ErrorData  *error = CopyErrorData();
	char	   *found;

	FlushErrorState();
	*from_node = false;
	if (error->context != NULL &&
		(found = strstr(error->context,
						psprintf("while executing query on dblink connection named \"%s\"",
								 connection->name))) != NULL)
	{
		char	   *rest = strchr(found, '\n');

		*from_node = true;
		*found = '\0';
		error->context = psprintf("%s%s on node \"%s\"%s", error->context, doing,
								  connection->node, rest ? rest : "");
	}
	else
		dtx_session_rename_cancel(error);
	return error;
}

/* Send, wait, and take the only result.  Errors as from dtx_remote_get. */
void
dtx_remote_run(DtxConnection *connection, const char *sql, DtxResult *result)
{
	if (!dtx_remote_send(connection, sql, 1))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("lost connection to node \"%s\"", connection->node)));
	dtx_remote_get(connection, NULL, CurrentMemoryContext, result);
}

/*
 * May the role call a function of dblink that works on a named connection?
 * dblink's connections belong to the whole session, so such a role could use
 * a branch that was opened for somebody else.
 */
bool
dtx_remote_role_may_call(Oid roleid)
{
	Oid			extension = get_extension_oid("dblink", false);
	Relation	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		may = false;

	ScanKeyInit(&key[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(ExtensionRelationId));
	ScanKeyInit(&key[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, 2, key);
	while (!may && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);
		char	   *name;

		if (form->classid != ProcedureRelationId || form->deptype != DEPENDENCY_EXTENSION)
			continue;
		name = get_func_name(form->objid);
		for (int i = 0; name != NULL && i < lengthof(dblink_borrowing); i++)
			if (strcmp(name, dblink_borrowing[i]) == 0 &&
				dtx_function_aclcheck(form->objid, roleid) == ACLCHECK_OK)
				may = true;
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return may;
}
