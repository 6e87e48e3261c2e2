/*-------------------------------------------------------------------------
 *
 * session.h
 *		Sessions with an open global transaction, for all to see.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_SESSION_H
#define DTX_SESSION_H

#include "nodes/pg_list.h"

#include "dtx.h"

/* "dtx:" life ":" nonce ":" microseconds, all hexadecimal */
#define DTX_IDENTITY_SIZE 56
#define DTX_DETAIL_SIZE 2048

/* A global transaction, as the branch sessions of it are named. */
typedef struct DtxIdentityName
{
	uint64		life;
	uint64		nonce;
	uint64		begun;			/* microseconds since 2000 */
} DtxIdentityName;

typedef struct DtxSession
{
	pid_t		pid;
	Oid			database;
	Oid			roleid;			/* the session's */
	DtxIdentityName name;
} DtxSession;

extern Size dtx_session_shmem_size(void);
extern void dtx_session_shmem_init(void);

extern void dtx_session_begin(const DtxIdentityName *name);
extern void dtx_session_end(void);
extern List *dtx_sessions(void);
extern int	dtx_session_count(Oid roleid);
extern void dtx_session_waits(bool waits);
extern bool dtx_session_waits_long(Oid database, int ms);
extern bool dtx_session_cancel(const DtxIdentityName *name, const char *detail);
extern bool dtx_session_was_chosen(char *detail);
extern void dtx_session_rename_cancel(ErrorData *error);
extern void dtx_identity_format(const DtxIdentityName *name, char *buffer);
extern bool dtx_identity_parse(const char *text, DtxIdentityName *name);

#endif							/* DTX_SESSION_H */
