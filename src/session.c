/*-------------------------------------------------------------------------
 *
 * session.c
 *		Sessions with an open global transaction, for all to see.
 *
 *		Each backend has a slot: who it is, which global transaction it has
 *		open, and whether that has been chosen to end a deadlock.  The
 *		sessions of its branches are named after it on the nodes, by their
 *		application_name, which so has to be set once and not in every
 *		transaction; the first half of a transaction's nonce is the same number.
 *
 * (1) A slot speaks of one transaction at a time: whoever chooses it names
 *	   that, and if it is over meanwhile nothing happens.
 * (2) The signal is sent while the slot is locked, and the end of the
 *	   transaction takes back a cancel that came of it, so that it does not hit
 *	   the next one.
 * (3) Nothing here throws but dtx_sessions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "deadline.h"
#include "session.h"

typedef struct Slot
{
	slock_t		mutex;
	bool		open;
	PGPROC	   *proc;
	volatile DtxTime waits_since;	/* for a node; 0: it does not; own writes only */
	DtxSession	session;
	bool		chosen;			/* by the deadlock detector */
	char		detail[DTX_DETAIL_SIZE];
} Slot;

static Slot *slots = NULL;
static int	slot_count = 0;
static bool am_open = false;	/* so that others need not look */

static int
count_slots(void)
{
	return MaxBackends + NUM_AUXILIARY_PROCS;
}

Size
dtx_session_shmem_size(void)
{
	return mul_size(count_slots(), sizeof(Slot));
}

void
dtx_session_shmem_init(void)
{
	bool		found;

	slots = ShmemInitStruct("dtx sessions", dtx_session_shmem_size(), &found);
	slot_count = count_slots();
	if (found)
		return;
	memset(slots, 0, dtx_session_shmem_size());
	for (int i = 0; i < slot_count; i++)
		SpinLockInit(&slots[i].mutex);
}

/*
 * A nonce for a transaction of this session.  Its first half is that of the
 * session: the slot, so that no two have the same, and a few random bits.
 */
uint64
dtx_session_nonce(void)
{
	static uint32 session = 0;
	static pid_t owner = 0;

	/* MAX_BACKENDS is twice that, which nobody has */
	Assert(DTX_MY_PROC_INDEX < (1 << 17));
	if (owner != MyProcPid)
	{
		/* not zero, which stands for none */
		session = (uint32) DTX_MY_PROC_INDEX << 14 | (uint32) (dtx_random64() % 0x3fff + 1);
		owner = MyProcPid;
	}
	return (uint64) session << 32 | (uint32) dtx_random64();
}

void
dtx_session_begin(const DtxTransactionName *name)
{
	Slot	   *slot = &slots[DTX_MY_PROC_INDEX];

	SpinLockAcquire(&slot->mutex);
	slot->session.pid = MyProcPid;
	slot->proc = MyProc;
	slot->waits_since = 0;
	slot->session.database = MyDatabaseId;
	slot->session.roleid = GetSessionUserId();
	slot->session.name = *name;
	slot->open = true;
	slot->chosen = false;
	SpinLockRelease(&slot->mutex);
	am_open = true;
}

void
dtx_session_end(void)
{
	Slot	   *slot = &slots[DTX_MY_PROC_INDEX];
	bool		chosen;

	SpinLockAcquire(&slot->mutex);
	slot->open = false;
	chosen = slot->chosen;
	slot->chosen = false;
	SpinLockRelease(&slot->mutex);
	am_open = false;
	if (chosen)
		QueryCancelPending = false;
}

/* All sessions of this server with an open global transaction. */
List *
dtx_sessions(void)
{
	List	   *result = NIL;

	for (int i = 0; i < slot_count; i++)
	{
		DtxSession *session = palloc(sizeof(DtxSession));
		bool		open;

		SpinLockAcquire(&slots[i].mutex);
		open = slots[i].open;
		*session = slots[i].session;
		SpinLockRelease(&slots[i].mutex);
		if (open)
			result = lappend(result, session);
		else
			pfree(session);
	}
	return result;
}

/* How many a role has open, in all its sessions. */
int
dtx_session_count(Oid roleid)
{
	int			count = 0;

	for (int i = 0; i < slot_count; i++)
	{
		SpinLockAcquire(&slots[i].mutex);
		count += slots[i].open && slots[i].session.roleid == roleid;
		SpinLockRelease(&slots[i].mutex);
	}
	return count;
}

/* This session begins, or ends, to wait for a node. */
void
dtx_session_waits(bool waits)
{
	if (am_open)
		slots[DTX_MY_PROC_INDEX].waits_since = waits ? dtx_now() : 0;
}

/*
 * Has a session of the database with an open global transaction waited for so
 * long, for a node or for a lock here?
 */
bool
dtx_session_waits_long(Oid database, int ms)
{
	DtxTime		now = dtx_now();
	TimestampTz from = GetCurrentTimestamp() - (int64) ms * 1000;
	bool		found = false;

	for (int i = 0; i < slot_count && !found; i++)
	{
		Slot	   *slot = &slots[i];

		SpinLockAcquire(&slot->mutex);
		if (slot->open && slot->session.database == database)
		{
			DtxTime		since = slot->waits_since;
			TimestampTz lock_since = (TimestampTz) pg_atomic_read_u64(&slot->proc->waitStart);

			found = (since != 0 && dtx_exceeds(since, now, ms)) ||
				(lock_since != 0 && lock_since <= from);
		}
		SpinLockRelease(&slot->mutex);
	}
	return found;
}

/* Have a transaction give way; false if it is not open here any more. */
bool
dtx_session_cancel(const DtxTransactionName *name, const char *detail)
{
	bool		found = false;

	for (int i = 0; i < slot_count && !found; i++)
	{
		Slot	   *slot = &slots[i];

		SpinLockAcquire(&slot->mutex);
		if (slot->open && slot->session.name.life == name->life &&
			slot->session.name.nonce == name->nonce)
		{
			found = true;
			slot->chosen = true;
			strlcpy(slot->detail, detail, DTX_DETAIL_SIZE);
			(void) kill(slot->session.pid, SIGINT);
		}
		SpinLockRelease(&slot->mutex);
	}
	return found;
}

/* Is it this session's transaction that was chosen?  Asked once. */
bool
dtx_session_was_chosen(char *detail)
{
	Slot	   *slot;
	bool		chosen;

	if (!am_open)
		return false;
	slot = &slots[DTX_MY_PROC_INDEX];
	SpinLockAcquire(&slot->mutex);
	chosen = slot->chosen;
	slot->chosen = false;
	if (chosen)
		memcpy(detail, slot->detail, DTX_DETAIL_SIZE);
	SpinLockRelease(&slot->mutex);
	return chosen;
}

/* A cancel that came of that is a deadlock. */
void
dtx_session_rename_cancel(ErrorData *error)
{
	char		detail[DTX_DETAIL_SIZE];

	if (error->sqlerrcode != ERRCODE_QUERY_CANCELED || !dtx_session_was_chosen(detail))
		return;
	error->sqlerrcode = ERRCODE_T_R_DEADLOCK_DETECTED;
	error->message = pstrdup("deadlock detected over several nodes");
	error->detail = pstrdup(detail);
	error->hint = pstrdup("Repeat the transaction. See the server's log of the coordinator for all statements.");
}

/* The name for a branch's session; buffer has DTX_IDENTITY_SIZE bytes. */
void
dtx_identity_format(uint64 life, uint32 session, char *buffer)
{
	char	   *end = buffer;

	memcpy(end, "dtx:", 4);
	end = dtx_hex(end + 4, life, 16);
	*end++ = ':';
	end = dtx_hex(end, session, 8);
	Assert(end < buffer + DTX_IDENTITY_SIZE);
}

bool
dtx_identity_parse(const char *text, uint64 *life, uint32 *session)
{
	unsigned long long parsed_life;
	unsigned int parsed_session;
	char		again[DTX_IDENTITY_SIZE];

	if (strlen(text) >= DTX_IDENTITY_SIZE ||
		sscanf(text, "dtx:%16llx:%8x", &parsed_life, &parsed_session) != 2)
		return false;
	*life = parsed_life;
	*session = parsed_session;
	dtx_identity_format(*life, *session, again);
	return strcmp(again, text) == 0;
}
