/*-------------------------------------------------------------------------
 *
 * compat.h
 *		What differs between PostgreSQL 15 and 18, in one place.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_COMPAT_H
#define DTX_COMPAT_H

#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_database.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "foreign/foreign.h"
#include "nodes/parsenodes.h"
#include "replication/walsender_private.h"
#include "utils/acl.h"
#include "utils/guc.h"

/* 18 has pg_noreturn before a function instead of an attribute after it. */
#if PG_VERSION_NUM >= 180000
#define DTX_NORETURN pg_noreturn
#else
#define DTX_NORETURN pg_attribute_noreturn()
#endif

/* 18 dropped the last argument of ExecutorRun. */
#if PG_VERSION_NUM >= 180000
#define DTX_EXECUTE_ONCE_ARGUMENT
#define DTX_EXECUTE_ONCE
#else
#define DTX_EXECUTE_ONCE_ARGUMENT , bool execute_once
#define DTX_EXECUTE_ONCE , execute_once
#endif

/* 16 replaced the per-catalog privilege checks by object_aclcheck(). */
static inline AclResult
dtx_server_aclcheck(Oid serverid, Oid roleid)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ForeignServerRelationId, serverid, roleid, ACL_USAGE);
#else
	return pg_foreign_server_aclcheck(serverid, roleid, ACL_USAGE);
#endif
}

static inline AclResult
dtx_function_aclcheck(Oid functionid, Oid roleid)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ProcedureRelationId, functionid, roleid, ACL_EXECUTE);
#else
	return pg_proc_aclcheck(functionid, roleid, ACL_EXECUTE);
#endif
}

/* 16 lets a membership exclude SET ROLE. */
static inline bool
dtx_can_become(Oid member, Oid roleid)
{
#if PG_VERSION_NUM >= 160000
	return member_can_set_role(member, roleid);
#else
	return is_member_of_role(member, roleid);
#endif
}

static inline bool
dtx_owns_database(Oid database, Oid roleid)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, database, roleid);
#else
	return pg_database_ownercheck(database, roleid);
#endif
}

/* 18 wrapped RETURNING lists into a clause of their own. */
#if PG_VERSION_NUM >= 180000
#define DTX_RETURNING(stmt) \
	((stmt)->returningClause ? (stmt)->returningClause->exprs : NIL)
#else
#define DTX_RETURNING(stmt) ((stmt)->returningList)
#endif

/* MERGE ... RETURNING came with 17. */
#if PG_VERSION_NUM >= 180000
#define DTX_MERGE_RETURNING(stmt) DTX_RETURNING(stmt)
#elif PG_VERSION_NUM >= 170000
#define DTX_MERGE_RETURNING(stmt) ((stmt)->returningList)
#else
#define DTX_MERGE_RETURNING(stmt) NIL
#endif

/* 18 turned the flag into a bit mask, and so did minor releases before it. */
static inline bool
dtx_sync_standbys_defined(void)
{
#ifdef SYNC_STANDBY_DEFINED
	return (((volatile WalSndCtlData *) WalSndCtl)->sync_standbys_status &
			SYNC_STANDBY_DEFINED) != 0;
#else
	return ((volatile WalSndCtlData *) WalSndCtl)->sync_standbys_defined;
#endif
}

/* 17 dropped BackendId for ProcNumber; both index an array of MaxBackends. */
#if PG_VERSION_NUM >= 170000
#include "storage/procnumber.h"
#define DTX_MY_PROC_INDEX ((int) MyProcNumber)
#else
#include "storage/backendid.h"
#define DTX_MY_PROC_INDEX ((int) MyBackendId - 1)
#endif

/* 17 renamed the variable. */
#if PG_VERSION_NUM >= 170000
#define DTX_OLDEST_CLOG_XID (TransamVariables->oldestClogXid)
#else
#define DTX_OLDEST_CLOG_XID (ShmemVariableCache->oldestClogXid)
#endif

/* 17 can also ask for a stronger lock. */
#if PG_VERSION_NUM >= 170000
#define DTX_LOCK_HELD(tag, mode) LockHeldByMe(tag, mode, false)
#else
#define DTX_LOCK_HELD(tag, mode) LockHeldByMe(tag, mode)
#endif

/* 17 has a resource owner in the place of the memory context. */
#if PG_VERSION_NUM >= 170000
#define DTX_CREATE_WAIT_EVENT_SET(context, count) CreateWaitEventSet(NULL, count)
#else
#define DTX_CREATE_WAIT_EVENT_SET(context, count) CreateWaitEventSet(context, count)
#endif

/*
 * A search path with nothing in it but pg_catalog, inside of a nest level of
 * settings.  17 remembers what a path means; before, to set it cost as much as
 * a look into an index, and there was another way.
 */
static inline void
dtx_push_search_path(void)
{
#if PG_VERSION_NUM >= 170000
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
#else
	OverrideSearchPath path = {.schemas = list_make1_oid(PG_CATALOG_NAMESPACE)};

	PushOverrideSearchPath(&path);
	list_free(path.schemas);
#endif
}

static inline void
dtx_pop_search_path(void)
{
#if PG_VERSION_NUM < 170000
	PopOverrideSearchPath();
#endif
}

/* shm_mq_send(queue, length, data, nowait, force_flush), without waiting or with. */
#define DTX_SHM_MQ_SEND(queue, length, data) shm_mq_send(queue, length, data, true, true)
#define DTX_SHM_MQ_SEND_WAIT(queue, length, data) shm_mq_send(queue, length, data, false, true)

/*
 * libpq-be.h wants GSSAPI's headers, which PostgreSQL's packages do not bring
 * along.  The socket is the first member of Port from 15 to 18.
 */
#define DTX_CLIENT_SOCKET (*(pgsocket *) MyProcPort)

#endif							/* DTX_COMPAT_H */
