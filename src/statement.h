/*-------------------------------------------------------------------------
 *
 * statement.h
 *		What a string of branch SQL consists of.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_STATEMENT_H
#define DTX_STATEMENT_H

#include "nodes/pg_list.h"

/* No rows come back, or nobody can tell how many columns they have. */
#define DTX_COLUMNS_NONE (-1)
#define DTX_COLUMNS_ANY 0

typedef struct DtxStatement
{
	const char *text;			/* into the string */
	int			length;
	int			columns;		/* of its rows, or as above */
	int			parameters;		/* highest $n, if it can have any */
	bool		literals;		/* has strings of its own, such as 'now' */
	bool		calls;			/* names a function, which may do anything */
	bool		plannable;		/* can have parameters */
	bool		writes;			/* certain to need the second phase */
} DtxStatement;

extern List *dtx_statements_parse(const char *sql);

#endif							/* DTX_STATEMENT_H */
