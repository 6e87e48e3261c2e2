/*-------------------------------------------------------------------------
 *
 * remote.h
 *		Connections to nodes: the only caller of dblink.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_REMOTE_H
#define DTX_REMOTE_H

#include "access/tupdesc.h"
#include "nodes/execnodes.h"
#include "utils/tuplestore.h"

#include "dtx.h"
#include "shmem.h"

#define DTX_TAG_SIZE 64
#define DTX_SETTINGS_SIZE 256

/* How values are written, here or there. */
typedef struct DtxStyles
{
	char		date[64];
	char		interval[32];
} DtxStyles;

typedef struct DtxConnection
{
	char		name[NAMEDATALEN];	/* what dblink knows it by */
	char		node[NAMEDATALEN];	/* the server */
	Oid			serverid;
	Oid			roleid;
	DtxNode    *state;			/* what all sessions know of the node */
	bool		open;
	bool		waiting;		/* sent, and the end of its results not seen */
	int			results_left;	/* of what was sent */
	bool		used;			/* something was sent since it was opened */
	bool		ended_by_commit;	/* more than settings may be left of it */
	uint64		entered;		/* life in which dtx_node_enter() found it written down */
	bool		kept_ours;		/* it has no prepared statements but ours */
	bool		count_due;		/* something that may have prepared some ran */
	bool		touched;		/* something that may have set a parameter ran */
	uint32		ends;			/* branches that ended on it */
	char		settings[DTX_SETTINGS_SIZE];	/* that it has, if that is known */
	bool		answer_due;		/* nothing has been fetched of what was sent */
	DtxStyles	styles;			/* of the session over there, as libpq knows them */
	int			socket;			/* to wait on, or -1 if it is not known */
	bool		own_prepared;	/* what dtx itself says there is prepared */
	List	   *prepared;		/* of DtxPrepared: statements kept over there */
	bool		stale;			/* options have changed: reconnect */
	bool		has_sessions;	/* dtx.sessions() exists over there */
	bool		unclosed;		/* closing it failed: dblink still has it */
	uint32		server_hash;
	uint32		mapping_hash;
	int			version;		/* server_version_num */
	DtxIdentity identity;
	char		user[NAMEDATALEN];	/* current_user over there */
	Datum		name_text;		/* its name, for dblink */
} DtxConnection;

/* A statement with parameters that the node keeps for the session. */
typedef struct DtxPrepared
{
	char	   *sql;			/* as the user wrote it */
	bool		for_rows;		/* dtx.query, or dtx.exec */
	char		name[24];
	int			columns;
	int			parameters;
	bool		counted;
	bool		writes;
	bool		calls;
	bool		once;			/* not to be used again */
} DtxPrepared;

/* What came of what was sent. */
typedef enum DtxAnswer
{
	DTX_ANSWER_NONE,			/* the node is still at it */
	DTX_ANSWER_THERE,			/* something can be fetched, or the connection broke */
	DTX_ANSWER_UNKNOWN			/* could not find out */
} DtxAnswer;

/* One result. */
typedef struct DtxResult
{
	bool		is_rows;		/* rows, or a command tag */
	char		tag[DTX_TAG_SIZE];
	int64		count;			/* of rows, or from the tag */
	Tuplestorestate *rows;		/* NULL if none */
	TupleDesc	desc;
} DtxResult;

extern DtxConnection *dtx_remote_new(Oid serverid, const char *node, Oid roleid,
									 const char *prefix);
extern void dtx_remote_connect(DtxConnection *connection);
extern bool dtx_remote_was_turned_down(ErrorData *error);
extern void dtx_remote_close(DtxConnection *connection);
extern void dtx_remote_free(DtxConnection *connection);
extern bool dtx_remote_send(DtxConnection *connection, const char *sql, int results);
extern DtxAnswer dtx_remote_poll(DtxConnection *connection);
extern bool dtx_remote_answered_ok(DtxConnection *connection);
extern void dtx_remote_styles(DtxStyles *styles);
extern void dtx_remote_pause(DtxConnection **connections, int count, int timeout_ms);
extern void dtx_remote_forget_prepared(DtxConnection *connection);
extern void dtx_remote_get(DtxConnection *connection, TupleDesc expected,
						   MemoryContext rows_context, DtxResult *result);
extern bool dtx_remote_drain(DtxConnection *connection);
extern void dtx_remote_run(DtxConnection *connection, const char *sql, DtxResult *result);
extern char *dtx_result_value(DtxResult *result, int row);
extern TupleDesc dtx_text_columns(int count);
extern ErrorData *dtx_remote_error(DtxConnection *connection, const char *doing,
								   bool *from_node);
extern bool dtx_sqlstate_is_lost(int sqlstate);
extern bool dtx_remote_role_may_call(Oid roleid);

#endif							/* DTX_REMOTE_H */
