/*-------------------------------------------------------------------------
 *
 * definition.h
 *		What a saga consists of, as its definition says.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_DEFINITION_H
#define DTX_DEFINITION_H

#include "nodes/bitmapset.h"
#include "utils/jsonb.h"
#include "utils/jsonpath.h"

#include "flow.h"

/* A parameter: a value, or where to find it. */
typedef struct DtxArgument
{
	char	   *value;			/* as text; NULL is SQL's null */
	JsonPath   *path;			/* NULL: it is the value */
	int			of_step;		/* number of the step whose result it is, or -1 */
} DtxArgument;

typedef struct DtxRetry
{
	int			interval_ms;	/* after the first attempt */
	int			max_interval_ms;
	double		factor;			/* from attempt to attempt */
	int			max_attempts;	/* then it is held; 0: never */
} DtxRetry;

typedef struct DtxSagaStep
{
	char	   *name;
	char	   *node;			/* NULL: this database */
	char	   *action;			/* NULL: empty, counts as done */
	char	   *compensation;	/* NULL: nothing to undo */
	int			action_parameters;	/* the first so many arguments are its own */
	int			compensation_parameters;
	int			argument_count;
	DtxArgument *arguments;
	Bitmapset  *after;			/* numbers of steps, from 0 */
	Bitmapset  *before;			/* those that come after it */
	JsonPath   *when;			/* NULL: always */
	int			timeout_ms;		/* of one attempt; 0: none */
	DtxRetry	retry;
	bool		forward;		/* a refusal is retried */
} DtxSagaStep;

typedef struct DtxSagaDefinition
{
	int			step_count;
	DtxSagaStep *steps;
	int			timeout_ms;		/* of the whole; 0: none */
} DtxSagaDefinition;

/*
 * Read a definition, in the current memory context.  Raises 22023 with the
 * place in it for anything that is wrong, unknown fields included.  Does not
 * look whether nodes exist.
 */
extern DtxSagaDefinition *dtx_definition_parse(Jsonb *definition);

/* The same, much faster, for one that was accepted before. */
extern DtxSagaDefinition *dtx_definition_load(Jsonb *definition);

/*
 * A step's parameter as text, NULL for SQL's null.  document is
 * {"input": ..., "steps": {"<name>": {"result": ...}}}.
 */
extern char *dtx_definition_argument(const DtxArgument *argument, Jsonb *document);

/* Is the step to be run?  Not if its predicate fails, or gives no answer. */
extern bool dtx_definition_when(const DtxSagaStep *step, Jsonb *document);

/* How long to wait after so many attempts, with jitter. */
extern int	dtx_retry_interval_ms(const DtxRetry *retry, int attempts);

#endif							/* DTX_DEFINITION_H */
