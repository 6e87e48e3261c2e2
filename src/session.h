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

/* "dtx:" life ":" session, both hexadecimal */
#define DTX_IDENTITY_SIZE 32
#define DTX_DETAIL_SIZE 2048

/* A global transaction that is open. */
typedef struct DtxTransactionName
{
	uint64		life;
	uint64		nonce;			/* its first half is that of the session */
	uint64		begun;			/* microseconds since 2000 */
} DtxTransactionName;

/*
 * In the nonce of a flow, and in none of a transaction, whose first half begins
 * with the number of a process.
 */
#define DTX_NONCE_FLOW (UINT64CONST(1) << 63)

/* The part of a nonce that says whose transaction it is. */
#define DTX_NONCE_SESSION(nonce) ((uint32) ((nonce) >> 32))

typedef struct DtxSession
{
	pid_t		pid;
	Oid			database;
	Oid			roleid;			/* the session's */
	DtxTransactionName name;
} DtxSession;

extern Size dtx_session_shmem_size(void);
extern void dtx_session_shmem_init(void);

extern uint64 dtx_session_nonce(void);
extern void dtx_session_begin(const DtxTransactionName *name);
extern void dtx_session_end(void);
extern List *dtx_sessions(void);
extern int	dtx_session_count(Oid roleid);
extern void dtx_session_waits(bool waits);
extern bool dtx_session_waits_long(Oid database, int ms);
extern bool dtx_session_cancel(const DtxTransactionName *name, const char *detail);
extern bool dtx_session_was_chosen(char *detail);
extern void dtx_session_rename_cancel(ErrorData *error);
extern void dtx_identity_format(uint64 life, uint32 session, char *buffer);
extern bool dtx_identity_parse(const char *text, uint64 *life, uint32 *session);

#endif							/* DTX_SESSION_H */
