/*-------------------------------------------------------------------------
 *
 * store.c
 *		The only reader and writer of dtx tables (those of flows: store_flow.c).
 *
 *		dtx.lineage		this coordinator
 *		dtx.life		its runs
 *		dtx.node		where branches may be
 *		dtx.decision	global transactions decided to commit
 *		dtx.committed	those that are over, kept for who asks
 *		dtx.branch		single branches that need more than one look
 *		dtx.event		what operators did
 *
 * (1) What decides an outcome is read with a snapshot taken at that moment,
 *	   never with the transaction's.
 * (2) The status row is written without SPI, since that happens once in
 *	   every COMMIT; everything else may take its time.
 * (3) Everything here runs as the owner of the schema: callers have checked
 *	   what the user may do.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "utils/xid8.h"

#include "compat.h"
#include "store.h"
#include "store_private.h"

static Oid
schema_owner(Oid schema)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(schema));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("extension dtx is not installed in this database"),
				 errhint("CREATE EXTENSION dtx CASCADE;")));
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

void
dtx_store_enter(StoreContext *context)
{
	GetUserIdAndSecContext(&context->save_user, &context->save_sec_context);
	SetUserIdAndSecContext(schema_owner(get_namespace_oid(DTX_SCHEMA, true)),
						   context->save_sec_context | SECURITY_LOCAL_USERID_CHANGE);
	context->guc_level = NewGUCNestLevel();
	dtx_push_search_path();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetLatestSnapshot());
}

void
dtx_store_leave(StoreContext *context)
{
	PopActiveSnapshot();
	SPI_finish();
	dtx_pop_search_path();
	AtEOXact_GUC(true, context->guc_level);
	SetUserIdAndSecContext(context->save_user, context->save_sec_context);
}

/* Run one statement; its rows are in SPI_tuptable. */
uint64
dtx_store_run(const char *sql, bool read_only, int count, Oid *types, Datum *values,
			  const char *nulls)
{
	int			result = SPI_execute_with_args(sql, count, types, values, nulls,
											   read_only, 0);

	if (result < 0)
		elog(ERROR, "dtx query failed: %s: %s", SPI_result_code_string(result), sql);
	return SPI_processed;
}

/* The same for a statement that runs often: it is planned once per session. */
uint64
dtx_store_run_kept(SPIPlanPtr *plan, const char *sql, bool read_only, int count, Oid *types,
				   Datum *values, const char *nulls)
{
	int			result;

	if (*plan == NULL)
	{
		/* what its parameters are makes no difference to how it is done */
		SPIPlanPtr	made = SPI_prepare_cursor(sql, count, types, CURSOR_OPT_GENERIC_PLAN);

		if (made == NULL || SPI_keepplan(made) != 0)
			elog(ERROR, "dtx query cannot be prepared: %s", sql);
		*plan = made;
	}
	result = SPI_execute_plan(*plan, values, nulls, read_only, 0);
	if (result < 0)
		elog(ERROR, "dtx query failed: %s: %s", SPI_result_code_string(result), sql);
	return SPI_processed;
}

/* Open a table of dtx, and find an index of it. */
Relation
dtx_store_open_table(const char *name, LOCKMODE lock, const char *index, Oid *indexid)
{
	Oid			schema = get_namespace_oid(DTX_SCHEMA, true);
	Oid			table = OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;

	if (!OidIsValid(table))
		(void) schema_owner(InvalidOid);
	*indexid = get_relname_relid(index, schema);
	return table_open(table, lock);
}

/* The status table: each transaction needs it twice. */
static Oid	decision_known = InvalidOid;

static void
decision_changed(Datum arg, int cacheid, uint32 hash)
{
	decision_known = InvalidOid;
}

static Oid
decision_table(void)
{
	static bool registered = false;
	Oid			schema;

	if (OidIsValid(decision_known))
		return decision_known;
	if (!registered)
	{
		CacheRegisterSyscacheCallback(NAMESPACEOID, decision_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(RELOID, decision_changed, (Datum) 0);
	}
	registered = true;
	schema = get_namespace_oid(DTX_SCHEMA, true);
	if (OidIsValid(schema))
		decision_known = get_relname_relid("decision", schema);
	if (!OidIsValid(decision_known))
		(void) schema_owner(InvalidOid);
	return decision_known;
}

/* ---------------------------------------------------------------- identity */

/* The version of the SQL objects, NULL without the extension. */
bool
dtx_store_version(char **version)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		found;

	*version = NULL;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetLatestSnapshot());
	found = dtx_store_run("SELECT extversion FROM pg_catalog.pg_extension"
				" WHERE extname OPERATOR(pg_catalog.=) 'dtx'", true, 0, NULL, NULL, NULL) > 0;
	if (found)
		*version = MemoryContextStrdup(caller, SPI_getvalue(SPI_tuptable->vals[0],
															SPI_tuptable->tupdesc, 1));
	PopActiveSnapshot();
	SPI_finish();
	return found;
}

uint64
dtx_store_lineage(void)
{
	StoreContext context;
	uint64		lineage;

	dtx_store_enter(&context);
	if (dtx_store_run("SELECT lineage FROM dtx.lineage", true, 0, NULL, NULL, NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("table dtx.lineage does not have exactly one row")));
	lineage = column_u64(0, 1);
	dtx_store_leave(&context);
	return lineage;
}

/* All lives, oldest first, allocated in the caller's context. */
List *
dtx_store_lives(void)
{
	MemoryContext caller = CurrentMemoryContext;
	StoreContext context;
	List	   *lives = NIL;
	uint64		count;

	dtx_store_enter(&context);
	count = dtx_store_run("SELECT life, parent, cause, trusted, adopted_at IS NOT NULL,"
				" presumed_abort_at IS NOT NULL, first_xid, system_identifier,"
				" timeline, database, inode, born_at"
				" FROM dtx.life ORDER BY number", true, 0, NULL, NULL, NULL);
	for (uint64 row = 0; row < count; row++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);
		DtxLife    *life = palloc0(sizeof(DtxLife));

		life->life = column_u64(row, 1);
		life->parent = column_u64(row, 2);
		life->cause = pstrdup(SPI_getvalue(SPI_tuptable->vals[row],
										   SPI_tuptable->tupdesc, 3));
		life->trusted = column_bool(row, 4);
		life->adopted = column_bool(row, 5);
		life->presumed_abort = column_bool(row, 6);
		life->first_xid = column_u64(row, 7);
		life->place.system_identifier = column_u64(row, 8);
		life->place.timeline = (uint32) column_u64(row, 9);
		life->place.database = column_oid(row, 10);
		life->place.inode = (int64) column_u64(row, 11);
		life->place.born_at = (int64) column_u64(row, 12);
		lives = lappend(lives, life);
		MemoryContextSwitchTo(spi);
	}
	dtx_store_leave(&context);
	return lives;
}

void
dtx_store_add_life(const DtxLife *life)
{
	StoreContext context;
	Oid			types[] = {INT8OID, INT8OID, TEXTOID, BOOLOID, BOOLOID, XID8OID,
	INT8OID, INT8OID, OIDOID, INT8OID, INT8OID};
	Datum		values[] = {u64_datum(life->life), u64_datum(life->parent),
		CStringGetTextDatum(life->cause), BoolGetDatum(life->trusted),
		BoolGetDatum(life->adopted), u64_datum(life->first_xid),
		u64_datum(life->place.system_identifier), Int64GetDatum(life->place.timeline),
		ObjectIdGetDatum(life->place.database), Int64GetDatum(life->place.inode),
	Int64GetDatum(life->place.born_at)};

	dtx_store_enter(&context);
	dtx_store_run("INSERT INTO dtx.life (life, parent, cause, trusted, adopted_at, first_xid,"
		" system_identifier, timeline, database, inode, born_at) VALUES"
		" ($1, NULLIF($2, 0), $3, $4, CASE WHEN $5 THEN pg_catalog.clock_timestamp() END,"
		" $6, $7, $8, $9, $10, $11)",
		false, lengthof(types), types, values, NULL);
	dtx_store_leave(&context);
}

/* An operator vouches for a life; false if there is no such life. */
bool
dtx_store_adopt(uint64 life, bool present, const char *note)
{
	StoreContext context;
	Oid			types[] = {INT8OID, BOOLOID, TEXTOID};
	char		nulls[] = "   ";
	Datum		values[] = {u64_datum(life), BoolGetDatum(present),
	text_or_null(note, &nulls[2])};
	uint64		count;

	dtx_store_enter(&context);
	count = dtx_store_run("UPDATE dtx.life SET"
				" adopted_at = CASE WHEN $2 THEN pg_catalog.clock_timestamp() ELSE adopted_at END,"
				" presumed_abort_at = CASE WHEN $2 THEN presumed_abort_at ELSE pg_catalog.clock_timestamp() END,"
				" note = $3 WHERE life = $1", false, 3, types, values, nulls);
	dtx_store_leave(&context);
	return count == 1;
}

/* ------------------------------------------------------------------- nodes */

static bool
find_node(Oid serverid, Oid roleid, bool *tries)
{
	Oid			indexid;
	Relation	relation = dtx_store_open_table("node", AccessShareLock, "node_pkey", &indexid);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;
	bool		isnull;

	ScanKeyInit(&key[0], 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(serverid));
	ScanKeyInit(&key[1], 2, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(roleid));
	scan = systable_beginscan(relation, indexid, true, snapshot, 2, key);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	if (found)
		*tries = DatumGetBool(heap_getattr(tuple, 4, RelationGetDescr(relation), &isnull));
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);
	return found;
}

bool
dtx_store_node_known(Oid serverid, Oid roleid)
{
	bool		tries;

	return find_node(serverid, roleid, &tries);
}

/* Is it known that the role has TCC branches there? */
bool
dtx_store_node_tries(Oid serverid, Oid roleid)
{
	bool		tries;

	return find_node(serverid, roleid, &tries) && tries;
}

/* Has anybody used the server? */
bool
dtx_store_server_known(Oid serverid)
{
	Oid			indexid;
	Relation	relation = dtx_store_open_table("node", AccessShareLock, "node_pkey", &indexid);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	bool		found;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(serverid));
	scan = systable_beginscan(relation, indexid, true, snapshot, 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);
	return found;
}

void
dtx_store_add_nodes(const DtxRequest *requests, int count)
{
	StoreContext context;

	dtx_store_enter(&context);
	for (int i = 0; i < count; i++)
	{
		Oid			types[] = {OIDOID, OIDOID, BOOLOID};
		Datum		values[] = {ObjectIdGetDatum(requests[i].serverid),
		ObjectIdGetDatum(requests[i].roleid), BoolGetDatum(requests[i].tries)};

		dtx_store_run("INSERT INTO dtx.node AS n (server, role, tries) VALUES ($1, $2, $3)"
			" ON CONFLICT ON CONSTRAINT node_pkey DO UPDATE SET tries = true"
			" WHERE EXCLUDED.tries AND NOT n.tries",
			false, 3, types, values, NULL);
	}
	dtx_store_leave(&context);
}

/* All nodes whose server still exists, allocated in the caller's context. */
List *
dtx_store_nodes(void)
{
	MemoryContext caller = CurrentMemoryContext;
	StoreContext context;
	List	   *nodes = NIL;
	DtxNodeRow *last = NULL;
	uint64		count;

	dtx_store_enter(&context);
	count = dtx_store_run("SELECT n.server, COALESCE(r.oid, 0::oid), n.tries FROM dtx.node n"
				" JOIN pg_catalog.pg_foreign_server s ON s.oid = n.server"
				" LEFT JOIN pg_catalog.pg_roles r ON r.oid = n.role"
				" ORDER BY n.server, n.first_used_at DESC", true, 0, NULL, NULL, NULL);
	for (uint64 row = 0; row < count; row++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);
		Oid			serverid = column_oid(row, 1);

		if (last == NULL || last->serverid != serverid)
		{
			last = palloc0(sizeof(DtxNodeRow));
			last->serverid = serverid;
			nodes = lappend(nodes, last);
		}
		if (OidIsValid(column_oid(row, 2)))
			last->roles = lappend_oid(last->roles, column_oid(row, 2));
		if (OidIsValid(column_oid(row, 2)) && column_bool(row, 3))
			last->try_roles = lappend_oid(last->try_roles, column_oid(row, 2));
		MemoryContextSwitchTo(spi);
	}
	dtx_store_leave(&context);
	return nodes;
}

/* Does a decision that is not forgotten name the server (as that role)? */
bool
dtx_store_server_in_use(Oid serverid, Oid roleid)
{
	StoreContext context;
	Oid			types[] = {OIDOID, OIDOID};
	Datum		values[] = {ObjectIdGetDatum(serverid), ObjectIdGetDatum(roleid)};
	bool		found;

	dtx_store_enter(&context);
	found = dtx_store_run("SELECT FROM dtx.decision d, pg_catalog.unnest(d.branches) WITH ORDINALITY b"
				" WHERE (b.node = $1 OR $1 = 0::oid) AND (b.role = $2 OR $2 = 0::oid)"
				" AND NOT EXISTS (SELECT FROM dtx.branch x WHERE x.life = d.life AND x.xid = d.xid"
				" AND x.nonce = d.nonce AND x.branch = b.ordinality AND x.state = 'done')"
				" UNION ALL"
				" SELECT FROM dtx.branch x WHERE x.state = 'held'"
				" AND (x.node = $1 OR $1 = 0::oid) AND $2 = 0::oid LIMIT 1",
				true, 2, types, values, NULL) > 0;
	dtx_store_leave(&context);
	return found;
}

/* --------------------------------------------------------------- decisions */

/*
 * Write the status row.  Called while the transaction commits: once its
 * commit record is flushed, the global transaction is committed.
 */
void
dtx_store_decide(const DtxGid *gid, Oid owner, bool asked,
				 const DtxBranchRecord *records, int count)
{
	Relation	relation = table_open(decision_table(), RowExclusiveLock);
	TupleDesc	desc = RelationGetDescr(relation);
	Oid			element = get_element_type(TupleDescAttr(desc, 6)->atttypid);
	TupleDesc	element_desc = lookup_rowtype_tupdesc(element, -1);
	Datum	   *elements = palloc(sizeof(Datum) * Max(count, 1));
	Datum		values[7];
	bool		nulls[7] = {false};
	HeapTuple	tuple;

	for (int i = 0; i < count; i++)
	{
		const DtxBranchRecord *record = &records[i];
		Datum		fields[6] = {
			ObjectIdGetDatum(record->serverid),
			ObjectIdGetDatum(record->roleid),
			u64_datum(record->identity.system_identifier),
			ObjectIdGetDatum(record->identity.database),
			Int64GetDatum(record->identity.timeline),
			u64_datum(record->xid)
		};
		bool		no_nulls[6] = {false};

		elements[i] = HeapTupleGetDatum(heap_form_tuple(element_desc, fields, no_nulls));
	}
	ReleaseTupleDesc(element_desc);

	values[0] = u64_datum(gid->life);
	values[1] = u64_datum(gid->xid);
	values[2] = u64_datum(gid->nonce);
	values[3] = ObjectIdGetDatum(owner);
	values[4] = BoolGetDatum(asked);
	values[5] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[6] = PointerGetDatum(construct_array(elements, count, element, -1, false, TYPALIGN_DOUBLE));
	tuple = heap_form_tuple(desc, values, nulls);
	CatalogTupleInsert(relation, tuple);
	table_close(relation, NoLock);	/* who drops the table waits for our end */
}

/*
 * Is there a row of this very transaction, as of now?  *other is set if there
 * is one of that xid, but another nonce.
 */
static bool
row_is_visible(const char *table, const char *index, const DtxGid *gid, bool *other)
{
	Oid			indexid;
	Relation	relation = dtx_store_open_table(table, AccessShareLock, index, &indexid);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&key[0], 1, BTEqualStrategyNumber, F_INT8EQ, u64_datum(gid->life));
	ScanKeyInit(&key[1], 2, BTEqualStrategyNumber, F_XID8EQ, u64_datum(gid->xid));
	scan = systable_beginscan(relation, indexid, true, snapshot, 2, key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		nonce = heap_getattr(tuple, 3, RelationGetDescr(relation), &isnull);

		found = (uint64) DatumGetInt64(nonce) == gid->nonce;
		*other = *other || !found;
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);
	return found;
}

/*
 * Is the transaction decided to commit?  Rows move in the order of the looks.
 * other (may be NULL) tells that the name is not that of the transaction
 * which had the xid.
 */
bool
dtx_store_decided(const DtxGid *gid, bool *other)
{
	bool		ignored = false;

	other = other ? other : &ignored;
	*other = false;
	return row_is_visible("decision", "decision_pkey", gid, other) ||
		row_is_visible("committed", "committed_pkey", gid, other);
}

/* Does the decision have this branch on the server that is asked about? */
DtxBranchPlace
dtx_store_branch_place(const DtxGid *gid, const DtxIdentity *identity)
{
	StoreContext context;
	Oid			types[] = {INT8OID, XID8OID, INT8OID, INT8OID, INT8OID, OIDOID};
	Datum		values[] = {u64_datum(gid->life), u64_datum(gid->xid),
		u64_datum(gid->nonce), Int64GetDatum(gid->branch),
	u64_datum(identity->system_identifier), ObjectIdGetDatum(identity->database)};
	DtxBranchPlace place;

	dtx_store_enter(&context);
	if (dtx_store_run("SELECT COALESCE(pg_catalog.bool_or(b.system_identifier = $5 AND b.database = $6), false)"
			" FROM dtx.decision d LEFT JOIN pg_catalog.unnest(d.branches) WITH ORDINALITY b ON b.ordinality = $4"
			" WHERE d.life = $1 AND d.xid = $2 AND d.nonce = $3 GROUP BY d.life",
			true, lengthof(types), types, values, NULL) == 0)
		place = DTX_BRANCH_IS_FORGOTTEN;
	else
		place = column_bool(0, 1) ? DTX_BRANCH_IS_HERE : DTX_BRANCH_IS_ELSEWHERE;
	dtx_store_leave(&context);
	return place;
}

/*
 * Local transactions that are prepared with a status row in them.  The row
 * cannot be seen, but the lock on its table can.
 */
List *
dtx_store_subtrees(void)
{
	MemoryContext caller = CurrentMemoryContext;
	StoreContext context;
	List	   *result = NIL;
	uint64		count;

	dtx_store_enter(&context);
	count = dtx_store_run("SELECT p.transaction::text::bigint, p.gid FROM pg_catalog.pg_prepared_xacts p"
				" JOIN pg_catalog.pg_locks x ON x.pid IS NULL AND x.locktype = 'transactionid'"
				" AND x.transactionid = p.transaction AND x.granted"
				" JOIN pg_catalog.pg_locks l ON l.pid IS NULL AND l.locktype = 'relation'"
				" AND l.virtualtransaction = x.virtualtransaction"
				" AND l.relation = 'dtx.decision'::pg_catalog.regclass"
				" AND l.mode = 'RowExclusiveLock'"
				" WHERE p.database = pg_catalog.current_database()", true, 0, NULL, NULL, NULL);
	for (uint64 row = 0; row < count; row++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);
		DtxSubtree *subtree = palloc0(sizeof(DtxSubtree));
		uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());

		/* the newest xid8 that it can be */
		subtree->xid = (next & ~(uint64) PG_UINT32_MAX) | column_u64(row, 1);
		if (subtree->xid >= next)
			subtree->xid -= UINT64CONST(1) << 32;
		subtree->gid = pstrdup(SPI_getvalue(SPI_tuptable->vals[row],
											SPI_tuptable->tupdesc, 2));
		result = lappend(result, subtree);
		MemoryContextSwitchTo(spi);
	}
	dtx_store_leave(&context);
	return result;
}

/* The rows of a query about this server, as text, in the caller's context. */
char	 ***
dtx_store_rows(const char *sql, int columns, int *count)
{
	MemoryContext caller = CurrentMemoryContext;
	StoreContext context;
	char	 ***rows;
	MemoryContext spi;

	dtx_store_enter(&context);
	*count = (int) dtx_store_run(sql, true, 0, NULL, NULL, NULL);
	spi = MemoryContextSwitchTo(caller);
	rows = palloc(sizeof(char **) * Max(*count, 1));
	for (int row = 0; row < *count; row++)
	{
		rows[row] = palloc(sizeof(char *) * columns);
		for (int i = 0; i < columns; i++)
			rows[row][i] = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, i + 1);
	}
	MemoryContextSwitchTo(spi);
	dtx_store_leave(&context);
	return rows;
}

static void
lock_decisions(LOCKMODE mode)
{
	ResourceOwner save_owner = CurrentResourceOwner;
	Oid			table = decision_table();

	CurrentResourceOwner = TopTransactionResourceOwner;
	LockRelationOid(table, mode);
	CurrentResourceOwner = save_owner;
}

/*
 * Whoever wants to drop the extension waits for the end of this transaction:
 * without it nobody could end its branches.
 */
void
dtx_store_lock(void)
{
	lock_decisions(AccessShareLock);
}

/*
 * Something depends on how this transaction ends, also when it is prepared:
 * dtx_store_subtrees() finds it by this.
 */
void
dtx_store_lock_subtree(void)
{
	lock_decisions(RowExclusiveLock);
}

/*
 * The branches on these servers that are decided to commit and that nobody
 * has seen committed: the server of each, allocated in the caller's context.
 * finished are the transactions of this life whose sessions have seen it of
 * all their branches, in order.
 */
List *
dtx_store_unfinished(uint64 life, const uint64 *finished, int count, List *serverids)
{
	MemoryContext caller = CurrentMemoryContext;
	StoreContext context;
	Oid			types[] = {OIDARRAYOID};
	Datum	   *elements = palloc(sizeof(Datum) * list_length(serverids));
	Datum		values[1];
	uint64		rows;
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, serverids)
		elements[foreach_current_index(cell)] = ObjectIdGetDatum(lfirst_oid(cell));
	values[0] = PointerGetDatum(construct_array(elements, list_length(serverids),
												OIDOID, sizeof(Oid), true, TYPALIGN_INT));
	dtx_store_enter(&context);
	rows = dtx_store_run("SELECT d.life, d.xid, b.node"
			   " FROM dtx.decision d CROSS JOIN pg_catalog.unnest(d.branches) WITH ORDINALITY b"
			   " WHERE b.node = ANY ($1) AND NOT EXISTS (SELECT FROM dtx.branch x"
			   " WHERE x.life = d.life AND x.xid = d.xid AND x.nonce = d.nonce"
			   " AND x.branch = b.ordinality AND x.state = 'done')",
			   true, 1, types, values, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		uint64		xid = column_u64(row, 2);
		MemoryContext spi;

		if (column_u64(row, 1) == life &&
			bsearch(&xid, finished, count, sizeof(uint64), dtx_compare_u64) != NULL)
			continue;
		spi = MemoryContextSwitchTo(caller);
		result = lappend_oid(result, column_oid(row, 3));
		MemoryContextSwitchTo(spi);
	}
	dtx_store_leave(&context);
	return result;
}

/* Branches on a node that are decided to commit and not known to have. */
List *
dtx_store_open_branches(Oid serverid)
{
	MemoryContext caller = CurrentMemoryContext;
	StoreContext context;
	List	   *result = NIL;
	Oid			types[] = {OIDOID};
	Datum		values[] = {ObjectIdGetDatum(serverid)};
	uint64		count;

	dtx_store_enter(&context);
	count = dtx_store_run("SELECT d.life, d.xid, d.nonce, b.ordinality, b.node, b.role,"
				" b.system_identifier, b.database, b.timeline, b.xid,"
				" x.state = 'held', x.outcome IS NOT NULL, x.attempt_count::bigint"
				" FROM dtx.decision d CROSS JOIN pg_catalog.unnest(d.branches) WITH ORDINALITY b"
				" LEFT JOIN dtx.branch x ON x.life = d.life AND x.xid = d.xid"
				" AND x.nonce = d.nonce AND x.branch = b.ordinality"
				" WHERE b.node = $1 AND x.state IS DISTINCT FROM 'done'"
				" ORDER BY d.decided_at", true, 1, types, values, NULL);
	for (uint64 row = 0; row < count; row++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);
		DtxOpenBranch *branch = palloc0(sizeof(DtxOpenBranch));

		branch->gid.life = column_u64(row, 1);
		branch->gid.xid = column_u64(row, 2);
		branch->gid.nonce = column_u64(row, 3);
		branch->gid.branch = (int) column_u64(row, 4);
		branch->record.serverid = column_oid(row, 5);
		branch->record.roleid = column_oid(row, 6);
		branch->record.identity.system_identifier = column_u64(row, 7);
		branch->record.identity.database = column_oid(row, 8);
		branch->record.identity.timeline = (uint32) column_u64(row, 9);
		branch->record.xid = column_u64(row, 10);
		branch->held = column_bool(row, 11);
		branch->resolved = column_bool(row, 12);
		branch->attempt_count = (int) column_u64(row, 13);
		result = lappend(result, branch);
		MemoryContextSwitchTo(spi);
	}
	dtx_store_leave(&context);
	return result;
}

/* What is written of branches on a node, apart from those that are done. */
List *
dtx_store_branch_rows(Oid serverid)
{
	MemoryContext caller = CurrentMemoryContext;
	StoreContext context;
	List	   *result = NIL;
	Oid			types[] = {OIDOID};
	Datum		values[] = {ObjectIdGetDatum(serverid)};
	uint64		count;

	dtx_store_enter(&context);
	count = dtx_store_run("SELECT life, xid, nonce, branch::bigint, state = 'held',"
				" outcome = 'committed', outcome = 'aborted', state = 'skipped'"
				" FROM dtx.branch WHERE node = $1 AND state <> 'done'",
				true, 1, types, values, NULL);
	for (uint64 row = 0; row < count; row++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);
		DtxBranchRow *branch = palloc0(sizeof(DtxBranchRow));

		branch->gid.life = column_u64(row, 1);
		branch->gid.xid = column_u64(row, 2);
		branch->gid.nonce = column_u64(row, 3);
		branch->gid.branch = (int) column_u64(row, 4);
		branch->held = column_bool(row, 5);
		branch->outcome = column_bool(row, 6) ? DTX_OUTCOME_COMMITTED :
			column_bool(row, 7) ? DTX_OUTCOME_ABORTED : DTX_OUTCOME_UNKNOWN;
		branch->skipped = column_bool(row, 8);
		result = lappend(result, branch);
		MemoryContextSwitchTo(spi);
	}
	dtx_store_leave(&context);
	return result;
}

/*
 * Note what the scanner found of a branch: "pending", "held" or "done".  What
 * an operator has skipped meanwhile stays so.
 */
void
dtx_store_branch(const DtxGid *gid, Oid serverid, const char *state,
				 const char *reason, const char *error)
{
	StoreContext context;
	Oid			types[] = {INT8OID, XID8OID, INT8OID, INT4OID, OIDOID, TEXTOID,
	TEXTOID, TEXTOID};
	char		nulls[] = "        ";
	Datum		values[] = {u64_datum(gid->life), u64_datum(gid->xid),
		u64_datum(gid->nonce), Int32GetDatum(gid->branch),
		ObjectIdGetDatum(serverid), CStringGetTextDatum(state),
	text_or_null(reason, &nulls[6]), text_or_null(error, &nulls[7])};

	dtx_store_enter(&context);
	dtx_store_run("INSERT INTO dtx.branch AS b (life, xid, nonce, branch, node, state, reason,"
		" last_error, attempt_count) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1)"
		" ON CONFLICT ON CONSTRAINT branch_pkey DO UPDATE SET state = EXCLUDED.state,"
		" reason = EXCLUDED.reason, last_error = COALESCE(EXCLUDED.last_error, b.last_error),"
		" attempt_count = b.attempt_count + 1, tried_at = pg_catalog.clock_timestamp()"
		" WHERE b.state NOT IN ('done', 'skipped')",
		false, lengthof(types), types, values, nulls);
	dtx_store_leave(&context);
}

/* A branch waits for the end of a local transaction, for so long already. */
void
dtx_store_branch_waits(const DtxGid *gid, Oid serverid, const char *reason, double seconds)
{
	StoreContext context;
	Oid			types[] = {INT8OID, XID8OID, INT8OID, INT4OID, OIDOID, TEXTOID, FLOAT8OID};
	Datum		values[] = {u64_datum(gid->life), u64_datum(gid->xid),
		u64_datum(gid->nonce), Int32GetDatum(gid->branch),
		ObjectIdGetDatum(serverid), CStringGetTextDatum(reason), Float8GetDatum(seconds)};

	dtx_store_enter(&context);
	dtx_store_run("INSERT INTO dtx.branch (life, xid, nonce, branch, node, state, reason, first_seen_at)"
		" VALUES ($1, $2, $3, $4, $5, 'pending', $6,"
		" pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $7))"
		" ON CONFLICT ON CONSTRAINT branch_pkey DO UPDATE SET state = 'pending', reason = $6",
		false, lengthof(types), types, values, NULL);
	dtx_store_leave(&context);
}

/* An operator asks for an outcome of a branch. */
void
dtx_store_branch_outcome(const DtxGid *gid, Oid serverid, DtxOutcome outcome)
{
	StoreContext context;
	Oid			types[] = {INT8OID, XID8OID, INT8OID, INT4OID, TEXTOID, OIDOID};
	Datum		values[] = {u64_datum(gid->life), u64_datum(gid->xid),
		u64_datum(gid->nonce), Int32GetDatum(gid->branch),
		CStringGetTextDatum(outcome == DTX_OUTCOME_COMMITTED ? "committed" : "aborted"),
	ObjectIdGetDatum(serverid)};

	dtx_store_enter(&context);
	dtx_store_run("INSERT INTO dtx.branch (life, xid, nonce, branch, node, state, outcome)"
		" VALUES ($1, $2, $3, $4, $6, 'pending', $5)"
		" ON CONFLICT ON CONSTRAINT branch_pkey DO UPDATE SET outcome = $5, state = 'pending'",
		false, 6, types, values, NULL);
	dtx_store_leave(&context);
}

/*
 * An operator leaves a try as it is that its node does not let us end; false if
 * there is none.
 */
bool
dtx_store_try_skip(const DtxGid *gid, const char *reason)
{
	StoreContext context;
	Oid			types[] = {INT8OID, XID8OID, INT8OID, INT4OID, TEXTOID};
	Datum		values[] = {u64_datum(gid->life), u64_datum(gid->xid),
		u64_datum(gid->nonce), Int32GetDatum(gid->branch), CStringGetTextDatum(reason)};
	bool		found;

	dtx_store_enter(&context);
	/* only what is decided has been sent, and has an error */
	found = dtx_store_run("UPDATE dtx.branch SET state = 'skipped', reason = $5 WHERE life = $1 AND xid = $2"
						  " AND nonce = $3 AND branch = $4 AND state = 'pending' AND last_error IS NOT NULL",
						  false, lengthof(types), types, values, NULL) > 0;
	dtx_store_leave(&context);
	return found;
}

/* A branch without decision is over. */
void
dtx_store_branch_gone(const DtxGid *gid)
{
	StoreContext context;
	Oid			types[] = {INT8OID, XID8OID, INT8OID, INT4OID};
	Datum		values[] = {u64_datum(gid->life), u64_datum(gid->xid),
	u64_datum(gid->nonce), Int32GetDatum(gid->branch)};

	dtx_store_enter(&context);
	dtx_store_run("DELETE FROM dtx.branch WHERE life = $1 AND xid = $2 AND nonce = $3 AND branch = $4",
		false, 4, types, values, NULL);
	dtx_store_leave(&context);
}

/*
 * Forget decisions of this life whose branches have all committed.  Of those
 * that somebody may ask for, the outcome is kept.
 */
void
dtx_store_forget_finished(uint64 life, const uint64 *xids, int count)
{
	StoreContext context;
	Oid			types[] = {INT8OID, get_array_type(XID8OID)};
	Datum	   *elements = palloc(sizeof(Datum) * count);
	Datum		values[2];

	for (int i = 0; i < count; i++)
		elements[i] = u64_datum(xids[i]);
	values[0] = u64_datum(life);
	values[1] = PointerGetDatum(construct_array(elements, count, XID8OID, 8, true, TYPALIGN_DOUBLE));

	dtx_store_enter(&context);
	dtx_store_run("WITH gone AS (DELETE FROM dtx.decision WHERE life = $1 AND xid = ANY ($2) RETURNING *)"
		" INSERT INTO dtx.committed SELECT life, xid, nonce, owner, decided_at FROM gone WHERE asked",
		false, 2, types, values, NULL);
	/* a pass may have proven some of their branches at the same time */
	dtx_store_run("DELETE FROM dtx.branch WHERE life = $1 AND xid = ANY ($2) AND state = 'done'",
		false, 2, types, values, NULL);
	dtx_store_leave(&context);
}

/* The same for those whose branches the scanner has proven one by one. */
int64
dtx_store_forget_done(void)
{
	StoreContext context;
	int64		count;

	dtx_store_enter(&context);
	/* what an operator has settled on a server that nobody can list any more */
	dtx_store_run("UPDATE dtx.branch x SET state = 'done'"
		" WHERE ((x.outcome IS NOT NULL AND x.state <> 'done') OR x.state = 'skipped')"
		" AND NOT EXISTS (SELECT FROM pg_catalog.pg_foreign_server s WHERE s.oid = x.node)",
		false, 0, NULL, NULL, NULL);
	count = dtx_store_run("WITH gone AS (DELETE FROM dtx.decision d WHERE pg_catalog.cardinality(d.branches) ="
				" (SELECT pg_catalog.count(*) FROM dtx.branch x WHERE x.life = d.life AND x.xid = d.xid"
				" AND x.nonce = d.nonce AND x.state = 'done'"
				" AND x.branch BETWEEN 1 AND pg_catalog.cardinality(d.branches)) RETURNING *)"
				" INSERT INTO dtx.committed SELECT life, xid, nonce, owner, decided_at FROM gone WHERE asked",
				false, 0, NULL, NULL, NULL);
	/* of these, and of those that a session forgot just when they were proven */
	dtx_store_run("DELETE FROM dtx.branch x WHERE x.state = 'done' AND NOT EXISTS"
		" (SELECT FROM dtx.decision d WHERE d.life = x.life AND d.xid = x.xid AND d.nonce = x.nonce)",
		false, 0, NULL, NULL, NULL);
	dtx_store_leave(&context);
	return count;
}

/* Outcomes that nobody came for. */
void
dtx_store_forget_old(int retention_min)
{
	StoreContext context;
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(retention_min)};

	dtx_store_enter(&context);
	dtx_store_run("DELETE FROM dtx.committed WHERE decided_at < pg_catalog.now() - pg_catalog.make_interval(mins => $1)",
		false, 1, types, values, NULL);
	dtx_store_run("DELETE FROM dtx.alert WHERE ended_at < pg_catalog.now() - pg_catalog.make_interval(mins => $1)",
		false, 1, types, values, NULL);
	dtx_store_run("DELETE FROM dtx.node n WHERE NOT EXISTS (SELECT FROM"
		" pg_catalog.pg_foreign_server s WHERE s.oid = n.server)",
		false, 0, NULL, NULL, NULL);
	dtx_store_leave(&context);
}

/* Where is this branch, which is held, or decided to commit and not done? */
bool
dtx_store_branch_find(const DtxGid *gid, Oid *serverid)
{
	StoreContext context;
	Oid			types[] = {INT8OID, XID8OID, INT8OID, INT4OID};
	Datum		values[] = {u64_datum(gid->life), u64_datum(gid->xid),
	u64_datum(gid->nonce), Int32GetDatum(gid->branch)};
	bool		found;

	dtx_store_enter(&context);
	found = dtx_store_run("SELECT node, state = 'done' FROM dtx.branch WHERE life = $1 AND xid = $2 AND nonce = $3"
				" AND branch = $4"
				" UNION ALL SELECT b.node, false FROM dtx.decision d,"
				" pg_catalog.unnest(d.branches) WITH ORDINALITY b"
				" WHERE d.life = $1 AND d.xid = $2 AND d.nonce = $3 AND b.ordinality = $4"
				" ORDER BY 2 DESC", true, 4, types, values, NULL) > 0;
	if (found)
	{
		*serverid = column_oid(0, 1);
		found = !column_bool(0, 2);
	}
	dtx_store_leave(&context);
	return found;
}

/* What an operator has said of another branch of the same transaction. */
DtxOutcome
dtx_store_resolved(const DtxGid *gid)
{
	StoreContext context;
	DtxGid		whole = *gid;
	char		name[DTX_GID_SIZE];
	Oid			types[] = {TEXTOID};
	Datum		values[1];
	DtxOutcome	outcome = DTX_OUTCOME_UNKNOWN;

	whole.branch = 0;
	dtx_gid_format(&whole, name);
	values[0] = CStringGetTextDatum(name);
	dtx_store_enter(&context);
	if (dtx_store_run("SELECT event = 'resolved as committed' FROM dtx.event WHERE gid = $1"
			" AND event IN ('resolved as committed', 'resolved as aborted')"
			" ORDER BY number DESC LIMIT 1", true, 1, types, values, NULL) > 0)
		outcome = column_bool(0, 1) ? DTX_OUTCOME_COMMITTED : DTX_OUTCOME_ABORTED;
	dtx_store_leave(&context);
	return outcome;
}

/*
 * Raise alerts for what is stuck, and end those that are not any more.
 * Returns how many are open; *raised are new ones, as text, the first few of
 * them; *flows_next is when an operation that has had no success for less than
 * that would be the next one, 0 if there is none.
 */
int
dtx_store_alerts(List **raised, TimestampTz *flows_next)
{
	MemoryContext caller = CurrentMemoryContext;
	StoreContext context;
	uint64		count;
	int			open;
	bool		isnull;

	*raised = NIL;
	dtx_store_enter(&context);
	dtx_store_run("UPDATE dtx.alert a SET ended_at = pg_catalog.clock_timestamp()"
		" WHERE a.ended_at IS NULL AND NOT EXISTS (SELECT FROM dtx.stuck s"
		" WHERE s.gid IS NOT DISTINCT FROM a.gid AND s.branch IS NOT DISTINCT FROM a.branch)",
		false, 0, NULL, NULL, NULL);
	count = dtx_store_run("INSERT INTO dtx.alert AS a (node, gid, branch, state, reason, last_error, call)"
				" SELECT s.node, s.gid, s.branch, s.state, s.reason, s.last_error, s.call FROM dtx.stuck s"
				" WHERE s.age >= pg_catalog.current_setting('dtx.stuck_after')::interval"
				/* whoever has paused a flow knows */
				" AND s.state <> 'paused'"
				" AND NOT EXISTS (SELECT FROM dtx.alert o WHERE o.ended_at IS NULL"
				" AND o.gid IS NOT DISTINCT FROM s.gid AND o.branch IS NOT DISTINCT FROM s.branch)"
				" RETURNING pg_catalog.concat_ws(': ', 'branch ' || branch || ' of \"' || gid || '\"' || COALESCE(' on node \"' || node || '\"', ''), reason)",
				false, 0, NULL, NULL, NULL);
	for (uint64 row = 0; row < Min(count, DTX_ALERTS_TOLD); row++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);

		*raised = lappend(*raised, SPI_getvalue(SPI_tuptable->vals[row],
												SPI_tuptable->tupdesc, 1));
		MemoryContextSwitchTo(spi);
	}
	if (count > 0)
	{
		Oid			types[] = {INT8OID};
		Datum		values[] = {Int64GetDatum((int64) count)};

		/* listeners look into the table: one message is enough */
		dtx_store_run("SELECT pg_catalog.pg_notify('dtx_alert', $1::text)", false, 1, types, values, NULL);
	}
	/* with a new snapshot, to see the new ones */
	dtx_store_run("SELECT pg_catalog.count(*) FROM dtx.alert WHERE ended_at IS NULL",
		false, 0, NULL, NULL, NULL);
	open = (int) column_u64(0, 1);
	dtx_store_run("SELECT pg_catalog.min(s.sent_at) + pg_catalog.current_setting('dtx.stuck_after')::interval"
				  " FROM dtx.transaction t JOIN dtx.step s ON s.xid = t.xid AND s.nonce = t.nonce"
				  " WHERE t.finished_at IS NULL AND s.state = 'pending'"
				  " AND s.sent_at > pg_catalog.clock_timestamp() - pg_catalog.current_setting('dtx.stuck_after')::interval",
				  false, 0, NULL, NULL, NULL);
	*flows_next = DatumGetTimestampTz(column(0, 1, &isnull));
	if (isnull)
		*flows_next = 0;
	dtx_store_leave(&context);
	return open;
}

/* Write down an act; gid may be NULL. */
void
dtx_store_event(const char *actor, const DtxGid *gid, const char *event, const char *detail)
{
	StoreContext context;
	char		global[DTX_GID_SIZE];
	Oid			types[] = {TEXTOID, TEXTOID, INT4OID, TEXTOID, TEXTOID};
	char		nulls[] = "     ";
	Datum		values[5];

	if (gid != NULL)
	{
		DtxGid		whole = *gid;

		whole.branch = 0;
		dtx_gid_format(&whole, global);
	}
	values[0] = CStringGetTextDatum(actor);
	values[1] = text_or_null(gid ? global : NULL, &nulls[1]);
	values[2] = Int32GetDatum(gid ? gid->branch : 0);
	if (gid == NULL || gid->branch == 0)
		nulls[2] = 'n';
	values[3] = CStringGetTextDatum(event);
	values[4] = text_or_null(detail, &nulls[4]);

	dtx_store_enter(&context);
	dtx_store_run("INSERT INTO dtx.event (actor, gid, branch, event, detail)"
		" VALUES ($1::name, $2, $3, $4, $5)", false, 5, types, values, nulls);
	dtx_store_leave(&context);
}
