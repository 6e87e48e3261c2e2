/*-------------------------------------------------------------------------
 *
 * node.c
 *		Nodes: foreign servers of dblink_fdw, and this database itself.
 *
 *		What has to be true before a branch may be opened, and the two
 *		functions that tell an operator what is not.
 *
 * (1) Before the first branch of a role on a server, the pair is written
 *	   down and committed: after a crash the scanner knows where to look.
 * (2) While a transaction has a branch, the server and the mapping are
 *	   locked against DROP.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/twophase.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "postmaster/bgworker_internals.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "guc.h"
#include "life.h"
#include "node.h"
#include "remote.h"
#include "store.h"

#define NODE_WRAPPER "dblink_fdw"
/* How long a session waits for the scanner of its database to start. */
#define READY_TIMEOUT_MS 15000

/*
 * Find a node and check that the role may use it.
 */
ForeignServer *
dtx_node_lookup(const char *name, Oid roleid)
{
	ForeignServer *server = GetForeignServerByName(name, true);

	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("node \"%s\" does not exist", name),
				 errhint("A node is a foreign server: CREATE SERVER %s FOREIGN DATA WRAPPER dblink_fdw OPTIONS (...).",
						 quote_identifier(name))));
	if (strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, NODE_WRAPPER) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("foreign server \"%s\" cannot be a node", name),
				 errdetail("Its foreign-data wrapper is \"%s\".",
						   GetForeignDataWrapper(server->fdwid)->fdwname),
				 errhint("Nodes are servers of %s.", NODE_WRAPPER)));
	if (dtx_server_aclcheck(server->serverid, roleid) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FOREIGN_SERVER, name);
	if (!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(roleid),
							   ObjectIdGetDatum(server->serverid)) &&
		!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
							   ObjectIdGetDatum(server->serverid)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" has no user mapping for node \"%s\"",
						GetUserNameFromId(roleid, false), name),
				 errhint("CREATE USER MAPPING FOR %s SERVER %s OPTIONS (user '...', password '...');",
						 quote_identifier(GetUserNameFromId(roleid, false)),
						 quote_identifier(name))));
	return server;
}

/*
 * What was looked up once.  Whatever it follows from is in catalogs, so that it
 * holds until one of these changes.
 */
static List *known_nodes = NIL;
static bool known_nodes_stale = false;

static void
catalog_changed(Datum arg, int cacheid, uint32 hash)
{
	known_nodes_stale = true;
}

/*
 * The same for a session that does it all the time.  The result holds until
 * the next call.
 */
const DtxKnownNode *
dtx_node_find(const char *name, Oid roleid)
{
	static const int caches[] = {
		FOREIGNSERVEROID, FOREIGNDATAWRAPPEROID, USERMAPPINGOID,
		AUTHOID, AUTHMEMROLEMEM, DATABASEOID
	};
	static bool registered = false;
	ForeignServer *server;
	DtxKnownNode *node;
	Oid			mappingid;
	ListCell   *cell;
	MemoryContext old;

	if (!registered)
		for (int i = 0; i < lengthof(caches); i++)
			CacheRegisterSyscacheCallback(caches[i], catalog_changed, (Datum) 0);
	registered = true;
	if (known_nodes_stale)
	{
		list_free_deep(known_nodes);
		known_nodes = NIL;
		known_nodes_stale = false;
	}
	foreach(cell, known_nodes)
	{
		node = lfirst(cell);
		if (node->roleid == roleid && strcmp(node->name, name) == 0)
			return node;
	}
	server = dtx_node_lookup(name, roleid);
	mappingid = GetUserMapping(roleid, server->serverid)->umid;
	old = MemoryContextSwitchTo(TopMemoryContext);
	node = palloc0(sizeof(DtxKnownNode));
	strlcpy(node->name, server->servername, NAMEDATALEN);
	node->roleid = roleid;
	node->serverid = server->serverid;
	node->mappingid = mappingid;
	known_nodes = lappend(known_nodes, node);
	MemoryContextSwitchTo(old);
	return node;
}

/*
 * This database's entry, once its life is written down.  With to_send, only
 * if it may also send something to nodes.
 */
DtxDatabase *
dtx_node_database(bool to_send)
{
	static DtxDatabase *database = NULL;
	DtxTime deadline = 0;
	bool		looked_again = false;

	dtx_require_preload();
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("dtx cannot be used on a standby"),
				 errhint("Connect to the primary.")));
	if (database == NULL)
		database = dtx_database(MyDatabaseId, true);
	if (database == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many databases use dtx"),
				 errhint("Raise dtx.max_databases and restart the server.")));

	for (;;)
	{
		DtxDatabaseState state = *(volatile DtxDatabaseState *) &database->state;

		/* what the last scanner found may be over: have it looked at again */
		if (!looked_again &&
			(state == DTX_DATABASE_MISMATCH || state == DTX_DATABASE_TEMPLATE))
		{
			SpinLockAcquire(&database->mutex);
			if (database->scanner_pid == 0)
				database->state = state = DTX_DATABASE_STARTING;
			SpinLockRelease(&database->mutex);
			looked_again = true;
		}
		switch (state)
		{
			case DTX_DATABASE_READY:
				pg_read_barrier();
				ConditionVariableCancelSleep();
				return database;
			case DTX_DATABASE_UNADOPTED:
				ConditionVariableCancelSleep();
				if (!to_send)
					return database;
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("this database is not adopted as a coordinator"),
						 errdetail("It runs in another place than before: it may be a copy whose original still runs."),
						 errhint("If the original is gone for good: SELECT dtx.adopt('%016llx', 'why').",
								 (unsigned long long) pg_atomic_read_u64(&database->life))));
				break;
			case DTX_DATABASE_MISMATCH:
				ConditionVariableCancelSleep();
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("library and SQL objects of dtx have different versions"),
						 errdetail("The library is version %s.", DTX_VERSION),
						 errhint("ALTER EXTENSION dtx UPDATE, or restart the server with the right library.")));
				break;
			case DTX_DATABASE_TEMPLATE:
				ConditionVariableCancelSleep();
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("a template database cannot be a coordinator")));
				break;
			case DTX_DATABASE_STARTING:
			case DTX_DATABASE_NO_EXTENSION:
				break;
		}
		if (deadline == 0)
		{
			deadline = dtx_later(dtx_now(), READY_TIMEOUT_MS);
			ConditionVariablePrepareToSleep(&database->changed);
		}
		else if (dtx_now() > deadline)
		{
			ConditionVariableCancelSleep();
			ereport(ERROR,
					(errcode(ERRCODE_CANNOT_CONNECT_NOW),
					 errmsg("dtx is not ready in this database"),
					 errdetail("Its scanner has not started."),
					 errhint("CREATE EXTENSION must be committed, and max_worker_processes must leave room: see dtx.check_setup() and the server's log.")));
		}
		dtx_database_wake(database);
		(void) ConditionVariableTimedSleep(&database->changed, 100, PG_WAIT_EXTENSION);
	}
}

static bool
is_registered(Oid serverid, Oid roleid, bool tries)
{
	return tries ? dtx_store_node_tries(serverid, roleid) : dtx_store_node_known(serverid, roleid);
}

/* Have the scanner write a (server, role) pair down. */
static void
register_node(DtxDatabase *database, Oid serverid, Oid roleid, bool tries)
{
	DtxTime deadline = dtx_later(dtx_now(), READY_TIMEOUT_MS);

	ConditionVariablePrepareToSleep(&database->changed);
	while (!is_registered(serverid, roleid, tries))
	{
		bool		asked = false;

		if (dtx_now() > deadline)
		{
			ConditionVariableCancelSleep();
			ereport(ERROR,
					(errcode(ERRCODE_CANNOT_CONNECT_NOW),
					 errmsg("dtx could not register the node"),
					 errdetail("The scanner of this database did not answer."),
					 errhint("See the server's log.  A server or role created in this transaction must be committed first.")));
		}
		SpinLockAcquire(&database->mutex);
		for (int i = 0; i < database->request_count; i++)
			asked = asked || (database->requests[i].serverid == serverid &&
							  database->requests[i].roleid == roleid &&
							  database->requests[i].tries >= tries);
		if (!asked && database->request_count < DTX_REQUESTS_MAX)
		{
			database->requests[database->request_count].serverid = serverid;
			database->requests[database->request_count].roleid = roleid;
			database->requests[database->request_count].tries = tries;
			database->request_count++;
		}
		SpinLockRelease(&database->mutex);
		dtx_database_wake(database);
		(void) ConditionVariableTimedSleep(&database->changed, 100, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
}

/*
 * The scanner must see what the branch was opened with, also if this
 * transaction does not commit.
 */
static void
check_committed(const DtxKnownNode *node, Oid mappingid)
{
	HeapTuple	tuples[2];

	tuples[0] = SearchSysCache1(FOREIGNSERVEROID, ObjectIdGetDatum(node->serverid));
	tuples[1] = SearchSysCache1(USERMAPPINGOID, ObjectIdGetDatum(mappingid));
	for (int i = 0; i < 2; i++)
	{
		if (!HeapTupleIsValid(tuples[i]))
			continue;
		if (TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuples[i]->t_data)))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("node \"%s\" was made or changed in this transaction", node->name),
					 errhint("COMMIT first, then use it.")));
		ReleaseSysCache(tuples[i]);
	}
}

/*
 * The role is about to open a branch on the server: check what depends on
 * the session, and keep server and mapping from being dropped.
 */
void
dtx_node_enter(const DtxKnownNode *node)
{
	Oid			mappingid = node->mappingid;
	Oid			roleid = node->roleid;
	Oid			session_user = GetSessionUserId();
	ResourceOwner save_owner = CurrentResourceOwner;

	/* a subtransaction that rolls back leaves the branch open */
	CurrentResourceOwner = TopTransactionResourceOwner;
	LockDatabaseObject(ForeignServerRelationId, node->serverid, 0, AccessShareLock);
	CurrentResourceOwner = save_owner;
	/* what has changed until we had the lock is known now */
	if (known_nodes_stale)
	{
		if (!SearchSysCacheExists1(FOREIGNSERVEROID, ObjectIdGetDatum(node->serverid)))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("node \"%s\" does not exist", node->name)));
		mappingid = GetUserMapping(roleid, node->serverid)->umid;
	}
	check_committed(node, mappingid);
	CurrentResourceOwner = TopTransactionResourceOwner;
	LockDatabaseObject(UserMappingRelationId, mappingid, 0, AccessShareLock);
	CurrentResourceOwner = save_owner;

	/*
	 * A connection of dblink belongs to the session.  Who could have become
	 * that role anyhow gains nothing by it; anybody else must not be able to
	 * call dblink.
	 */
	if (roleid != session_user && !superuser_arg(session_user) &&
		!dtx_can_become(session_user, roleid) &&
		dtx_remote_role_may_call(session_user))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" could borrow the connection of role \"%s\" to node \"%s\"",
						GetUserNameFromId(session_user, false),
						GetUserNameFromId(roleid, false), node->name),
				 errdetail("Connections of dblink belong to the whole session, and the role may execute functions of dblink."),
				 errhint("REVOKE EXECUTE ON the functions of dblink FROM PUBLIC; see dtx.check_setup().")));
}

/*
 * See to it that the (server, role) pair is written down and committed, so
 * that after a crash the scanner knows where to look: for TCC branches as well
 * if there are to be any.
 */
void
dtx_node_register(Oid serverid, Oid roleid, bool tries)
{
	/* such a row goes only with its server, or with everything of this life */
	static struct
	{
		uint64		life;
		Oid			serverid;
		Oid			roleid;
		bool		tries;
	}			seen[32];
	static int	seen_last = 0;
	DtxDatabase *database = dtx_node_database(true);
	uint64		life = pg_atomic_read_u64(&database->life);
	DtxNode    *node;
	bool		is_new;

	for (int i = 0; i < lengthof(seen); i++)
		if (seen[i].serverid == serverid && seen[i].roleid == roleid && seen[i].life == life &&
			(seen[i].tries || !tries))
			return;
	if (!is_registered(serverid, roleid, tries))
	{
		is_new = !dtx_store_server_known(serverid);
		register_node(database, serverid, roleid, tries);
		node = dtx_node_state(MyDatabaseId, serverid, true);
		if (is_new && node != NULL)
			dtx_node_new(node);
	}
	seen_last = (seen_last + 1) % lengthof(seen);
	seen[seen_last].life = life;
	seen[seen_last].serverid = serverid;
	seen[seen_last].roleid = roleid;
	seen[seen_last].tries = tries;
}

/* ------------------------------------------------------------ findings */

PG_FUNCTION_INFO_V1(dtx_check_setup);
PG_FUNCTION_INFO_V1(dtx_check_node);
PG_FUNCTION_INFO_V1(dtx_node_states);
PG_FUNCTION_INFO_V1(dtx_counters);
PG_FUNCTION_INFO_V1(dtx_database_state);

static void
finding(ReturnSetInfo *rsinfo, const char *severity, const char *problem, const char *hint)
{
	Datum		values[3];
	bool		nulls[3] = {false, false, hint == NULL};

	values[0] = CStringGetTextDatum(severity);
	values[1] = CStringGetTextDatum(problem);
	values[2] = hint ? CStringGetTextDatum(hint) : (Datum) 0;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static int
int_setting(const char *name)
{
	const char *value = GetConfigOption(name, true, false);

	return value ? atoi(value) : 0;
}

/*
 * dtx.check_setup(): what is wrong with this database as a coordinator.  No
 * rows when all is well.
 */
Datum
dtx_check_setup(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	if (dtx_shared == NULL)
	{
		finding(rsinfo, "error", "dtx was not loaded when the server started",
				"Add dtx to shared_preload_libraries in postgresql.conf and restart the server.");
		return (Datum) 0;
	}
	if (max_prepared_xacts == 0)
		finding(rsinfo, "warning",
				"max_prepared_transactions is 0: this server can coordinate, but cannot be a participant",
				"Set it to at least the number of global transactions that may commit here at the same time, and restart.");
	if (RecoveryInProgress())
		finding(rsinfo, "error", "this server is a standby: dtx works on the primary only", NULL);
	else
	{
		DtxDatabase *database = dtx_database(MyDatabaseId, true);

		if (database == NULL)
			finding(rsinfo, "error", "too many databases use dtx",
					"Raise dtx.max_databases and restart the server.");
		else
		{
			/* give a scanner that is only just needed the time to start */
			for (int i = 0; i < 30 && database->state == DTX_DATABASE_STARTING; i++)
			{
				dtx_database_wake(database);
				CHECK_FOR_INTERRUPTS();
				pg_usleep(100000L);
			}
			if (database->state == DTX_DATABASE_STARTING)
				finding(rsinfo, "error", "the scanner of this database does not start: nothing would be recovered",
						"Raise max_worker_processes (one for the launcher, one for each database that uses dtx, and two more) and restart.");
			if (database->state == DTX_DATABASE_MISMATCH)
				finding(rsinfo, "error", "library and SQL objects of dtx have different versions",
						"ALTER EXTENSION dtx UPDATE, or restart the server with the right library.");
			if (database->state == DTX_DATABASE_TEMPLATE)
				finding(rsinfo, "error", "this is a template database, which cannot be a coordinator", NULL);
			if (database->state == DTX_DATABASE_UNADOPTED)
				finding(rsinfo, "error", "this database is not adopted as a coordinator: nothing is sent to nodes",
						psprintf("If the original is gone for good: SELECT dtx.adopt('%016llx', 'why').",
								 (unsigned long long) pg_atomic_read_u64(&database->life)));
		}
	}
	if (OidIsValid(get_namespace_oid(DTX_SCHEMA, true)))
	{
		ListCell   *cell;

		foreach(cell, dtx_store_nodes())
			if (dtx_node_state(MyDatabaseId, ((DtxNodeRow *) lfirst(cell))->serverid, true) == NULL)
			{
				finding(rsinfo, "error", "some nodes have no room in shared memory: nobody looks after them",
						"Raise dtx.max_nodes and restart the server.");
				break;
			}
	}
	if (max_worker_processes < 4)
		finding(rsinfo, "warning",
				psprintf("max_worker_processes is %d: launcher, scanner and workers for failing nodes may not find room",
						 max_worker_processes),
				"Raise it to at least 8 and restart.");
	if (dtx_remote_role_may_call(ACL_ID_PUBLIC))
		finding(rsinfo, "warning",
				"PUBLIC may execute functions of dblink: branches of security definer functions are refused",
				"REVOKE EXECUTE on them FROM PUBLIC; the README shows how.");
	if (int_setting("lock_timeout") == 0 && dtx_branch_lock_timeout_ms == 0)
		finding(rsinfo, "warning",
				"neither lock_timeout nor dtx.branch_lock_timeout is set: a deadlock over several nodes would last for ever",
				"Set dtx.branch_lock_timeout to a few seconds.");
	if (dtx_branch_idle_timeout_ms == 0)
		finding(rsinfo, "warning",
				"dtx.branch_idle_timeout is 0: a branch whose coordinator vanished keeps its locks",
				"Set dtx.branch_idle_timeout to a minute or so.");
	if (!enableFsync)
		finding(rsinfo, "warning", "fsync is off: a crash may lose decisions that nodes already follow",
				"Set fsync to on.");
	return (Datum) 0;
}

/* A warning once 80 % of something are used. */
static void
check_room(ReturnSetInfo *rsinfo, const char *what, int used, int limit, const char *setting)
{
	if (limit > 0 && used >= limit * 0.8)
		finding(rsinfo, "warning", psprintf("%d of %d %s are used, %d are left", used, limit, what,
											Max(limit - used, 0)),
				psprintf("Raise %s on the node.", setting));
}

/*
 * dtx.check_node(node): the same of one node, by connecting to it as the
 * current user.
 */
Datum
dtx_check_node(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *name = NameStr(*PG_GETARG_NAME(0));
	MemoryContext caller = CurrentMemoryContext;
	ForeignServer *server;
	DtxConnection *connection;
	UserMapping *mapping;
	ListCell   *cell;
	bool		keepalives = false;
	bool		user_timeout = false;
	bool		password = false;
	bool		local = false;

	InitMaterializedSRF(fcinfo, 0);
	dtx_require_preload();
	server = dtx_node_lookup(name, GetUserId());
	mapping = GetUserMapping(GetUserId(), server->serverid);
	foreach(cell, server->options)
	{
		DefElem    *option = lfirst(cell);

		keepalives = keepalives || strcmp(option->defname, "keepalives_idle") == 0;
		user_timeout = user_timeout || strcmp(option->defname, "tcp_user_timeout") == 0;
		local = local || (strcmp(option->defname, "host") == 0 && defGetString(option)[0] == '/');
	}
	foreach(cell, mapping->options)
	{
		DefElem    *option = lfirst(cell);

		password = password || strcmp(option->defname, "password") == 0;
	}
	if (!password)
		finding(rsinfo, "warning", "the user mapping has no password: only a superuser can connect by it",
				"ALTER USER MAPPING ... OPTIONS (ADD password '...'), and have the node ask for it.");
	if (!local && (!keepalives || !user_timeout))
		finding(rsinfo, "warning", "the server's options set no keepalives_idle or no tcp_user_timeout: a connection that was cut silently is noticed late",
				"ALTER SERVER ... OPTIONS (ADD keepalives_idle '10', ADD keepalives_interval '5', ADD keepalives_count '3', ADD tcp_user_timeout '15000').");

	connection = dtx_remote_new(server->serverid, name, GetUserId(), "dtxcheck");
	PG_TRY();
	{
		DtxResult	result;
		char	   *value;

		dtx_remote_connect(connection);
		dtx_remote_run(connection,
					   "SELECT pg_catalog.concat_ws(',',"
					   " (SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_xacts),"
					   " pg_catalog.current_setting('max_prepared_transactions'),"
					   " (SELECT pg_catalog.sum(numbackends) FROM pg_catalog.pg_stat_database),"
					   " pg_catalog.current_setting('max_connections'))", &result);
		value = dtx_result_value(&result, 0);
		if (value != NULL)
		{
			int			prepared = 0;
			int			prepared_max = 0;
			int			used = 0;
			int			used_max = 0;

			sscanf(value, "%d,%d,%d,%d", &prepared, &prepared_max, &used, &used_max);
			SpinLockAcquire(&connection->state->mutex);
			connection->state->prepared_used = prepared;
			connection->state->prepared_max = prepared_max;
			connection->state->connections_used = used;
			connection->state->connections_max = used_max;
			SpinLockRelease(&connection->state->mutex);
			if (prepared_max == 0)
				finding(rsinfo, "error", "max_prepared_transactions is 0 on the node: it cannot take part in atomic commit",
						"Set it there to at least the number of global transactions at the same time, and restart it.");
			check_room(rsinfo, "prepared transactions", prepared, prepared_max, "max_prepared_transactions");
			check_room(rsinfo, "connections", used, used_max, "max_connections");
		}
		if (connection->version < 140000)
			finding(rsinfo, "warning",
					psprintf("the node runs PostgreSQL %d, which does not notice that a coordinator vanished while a branch waits for a lock",
							 connection->version / 10000),
					"PostgreSQL 14 or later does.");
		if (connection->state->round_trip_us > 50000)
			finding(rsinfo, "warning",
					psprintf("a round trip takes %d ms", connection->state->round_trip_us / 1000),
					"Every statement and both phases of COMMIT wait for it.");
		dtx_node_reached(connection->state);
		dtx_remote_free(connection);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		/* what the caller wants is his own business; the rest is a finding */
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		{
			dtx_remote_free(connection);
			PG_RE_THROW();
		}
		FlushErrorState();
		dtx_remote_free(connection);
		finding(rsinfo, "error", psprintf("%s%s%s", error->message,
										  error->detail ? ": " : "",
										  error->detail ? error->detail : ""),
				error->hint);
	}
	PG_END_TRY();
	return (Datum) 0;
}

/* dtx.nodes reads this: what shared memory knows of this database's nodes. */
Datum
dtx_node_states(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *nodes;
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	if (dtx_shared == NULL)
		return (Datum) 0;
	nodes = dtx_store_nodes();
	foreach(cell, nodes)
	{
		DtxNodeRow *row = lfirst(cell);
		DtxNode    *entry = dtx_node_state(MyDatabaseId, row->serverid, false);
		DtxNode		node = {0};
		Datum		values[14] = {0};
		bool		nulls[14] = {0};

		if (dtx_server_aclcheck(row->serverid, GetUserId()) != ACLCHECK_OK &&
			!is_member_of_role(GetUserId(), ROLE_PG_MONITOR))
			continue;
		if (entry != NULL)
		{
			SpinLockAcquire(&entry->mutex);
			node = *entry;
			SpinLockRelease(&entry->mutex);
		}
		values[0] = ObjectIdGetDatum(row->serverid);
		values[1] = CStringGetTextDatum(node.failures > 0 ? "failing" :
										node.hung ? "slow" :
										node.uncertain != node.clean ? "to be checked" :
										node.reached_at ? "reachable" : "not tried");
		values[2] = TimestampTzGetDatum(node.reached_at);
		nulls[2] = node.reached_at == 0;
		values[3] = TimestampTzGetDatum(node.failing_since);
		nulls[3] = node.failing_since == 0;
		values[4] = Int32GetDatum(node.failures);
		values[5] = CStringGetTextDatum(node.last_error);
		nulls[5] = node.last_error[0] == '\0';
		values[6] = Int32GetDatum(node.pending);
		values[7] = Int32GetDatum(node.held);
		values[8] = Int32GetDatum(node.prepared_used);
		values[9] = Int32GetDatum(node.prepared_max);
		values[10] = Int32GetDatum(node.connections_used);
		values[11] = Int32GetDatum(node.connections_max);
		nulls[8] = nulls[9] = node.prepared_max == 0;
		nulls[10] = nulls[11] = node.connections_max == 0;
		values[12] = Int32GetDatum(node.version);
		nulls[12] = node.version == 0;
		values[13] = Float8GetDatum(node.round_trip_us / 1000.0);
		nulls[13] = node.round_trip_us == 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* dtx.stat reads this: counters since the server started. */
Datum
dtx_counters(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[DTX_STAT_COUNT];
	bool		nulls[DTX_STAT_COUNT] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	for (int i = 0; i < DTX_STAT_COUNT; i++)
		values[i] = Int64GetDatum(dtx_shared == NULL ? 0 :
								  (int64) pg_atomic_read_u64(&dtx_shared->counters[i]));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* The present life of this database as text, and whether it is adopted. */
Datum
dtx_database_state(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[2] = {0};
	bool		nulls[2] = {true, true};
	DtxDatabase *database = dtx_shared ? dtx_database(MyDatabaseId, false) : NULL;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (database != NULL && pg_atomic_read_u64(&database->life) != 0)
	{
		values[0] = Int64GetDatum((int64) pg_atomic_read_u64(&database->life));
		values[1] = BoolGetDatum(database->state == DTX_DATABASE_READY);
		nulls[0] = nulls[1] = false;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
