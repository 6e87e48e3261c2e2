/*-------------------------------------------------------------------------
 *
 * statement.c
 *		What a string of branch SQL consists of.
 *
 *		The string is taken apart by PostgreSQL's own grammar, so that what
 *		would end the branch's transaction is refused before it is sent: only
 *		statements at the top of the string can do that, since inside a
 *		transaction block no function or procedure is able to.
 *
 * (1) Every result that the node will send is known beforehand: one per
 *	   statement.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"

#include "compat.h"
#include "statement.h"

/* How many columns a target list has; any if a star is among them. */
static int
count_targets(List *targets)
{
	ListCell   *cell;

	foreach(cell, targets)
	{
		Node	   *value = lfirst_node(ResTarget, cell)->val;
		List	   *fields = NIL;

		if (IsA(value, ColumnRef))
			fields = ((ColumnRef *) value)->fields;
		else if (IsA(value, A_Indirection))
			fields = ((A_Indirection *) value)->indirection;
		if (fields != NIL && IsA(llast(fields), A_Star))
			return DTX_COLUMNS_ANY;
	}
	return targets == NIL ? DTX_COLUMNS_NONE : list_length(targets);
}

static int
select_columns(SelectStmt *select)
{
	if (select->intoClause != NULL)
		return DTX_COLUMNS_NONE;
	while (select->op != SETOP_NONE)
		select = select->larg;
	if (select->valuesLists != NIL)
		return list_length(linitial_node(List, select->valuesLists));
	if (select->targetList == NIL)
		return DTX_COLUMNS_ANY; /* a SELECT of nothing */
	return count_targets(select->targetList);
}

static void
refuse(const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s is not allowed in a branch", what),
			 errhint("%s", hint)));
}

#define HINT_TRANSACTION \
	"A branch begins and ends with the transaction of this session; say COMMIT, ROLLBACK or SAVEPOINT here."
#define HINT_SESSION \
	"The connection outlives the branch; use SET LOCAL, or set it for the role on the node."

/* Refuse what a branch must not do. */
static void
check_allowed(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_TransactionStmt:
			switch (((TransactionStmt *) statement)->kind)
			{
				case TRANS_STMT_COMMIT:
					refuse("COMMIT", HINT_TRANSACTION);
					break;
				case TRANS_STMT_ROLLBACK:
					refuse("ROLLBACK", HINT_TRANSACTION);
					break;
				case TRANS_STMT_PREPARE:
					refuse("PREPARE TRANSACTION", HINT_TRANSACTION);
					break;
				default:
					refuse("transaction control", HINT_TRANSACTION);
			}
			break;
		case T_VariableSetStmt:
			{
				VariableSetStmt *set = (VariableSetStmt *) statement;

				if (set->name != NULL && pg_strncasecmp(set->name, "dtx.", 4) == 0)
					refuse("setting a parameter of dtx",
						   "dtx keeps its own state in them.");
				if (set->name != NULL && pg_strcasecmp(set->name, "session_authorization") == 0)
					refuse("SET SESSION AUTHORIZATION",
						   "Use a user mapping that connects as that role.");
				if (set->kind == VAR_SET_MULTI && strcmp(set->name, "TRANSACTION") == 0)
					break;
				if (!set->is_local)
					refuse(set->name != NULL && pg_strcasecmp(set->name, "role") == 0 ?
						   "SET ROLE" : "SET or RESET for the session", HINT_SESSION);
				break;
			}
		case T_DiscardStmt:
			refuse("DISCARD", HINT_SESSION);
			break;
		case T_ListenStmt:
		case T_UnlistenStmt:
			refuse("LISTEN or UNLISTEN", HINT_SESSION);
			break;
		case T_LoadStmt:
			refuse("LOAD", HINT_SESSION);
			break;
		case T_PrepareStmt:
		case T_DeallocateStmt:
			refuse("PREPARE or DEALLOCATE", "Give the values as parameters instead.");
			break;
		case T_CopyStmt:
			if (((CopyStmt *) statement)->filename == NULL)
				refuse("COPY with the client",
					   "Pass the rows as parameters, for example by unnest($1::text[]).");
			break;
		default:
			break;
	}
}

/* The highest parameter, and whether there are strings and functions. */
static bool
find_values(Node *node, void *context)
{
	DtxStatement *statement = context;

	if (node == NULL)
		return false;
	if (IsA(node, ParamRef))
		statement->parameters = Max(statement->parameters, ((ParamRef *) node)->number);
	if (IsA(node, A_Const) && !((A_Const *) node)->isnull &&
		nodeTag(&((A_Const *) node)->val) == T_String)
		statement->literals = true;
	if (IsA(node, FuncCall))
		statement->calls = true;
	return raw_expression_tree_walker(node, find_values, context);
}

static void
describe(Node *tree, DtxStatement *statement)
{
	statement->columns = DTX_COLUMNS_NONE;
	switch (nodeTag(tree))
	{
		case T_SelectStmt:
			statement->plannable = true;
			statement->columns = select_columns((SelectStmt *) tree);
			break;
		case T_InsertStmt:
			statement->plannable = statement->writes = true;
			statement->columns = count_targets(DTX_RETURNING((InsertStmt *) tree));
			break;
		case T_UpdateStmt:
			statement->plannable = statement->writes = true;
			statement->columns = count_targets(DTX_RETURNING((UpdateStmt *) tree));
			break;
		case T_DeleteStmt:
			statement->plannable = statement->writes = true;
			statement->columns = count_targets(DTX_RETURNING((DeleteStmt *) tree));
			break;
		case T_MergeStmt:
			statement->plannable = statement->writes = true;
			statement->columns = count_targets(DTX_MERGE_RETURNING((MergeStmt *) tree));
			break;
		case T_ExplainStmt:
		case T_CallStmt:
			/* a CALL returns a row only if it has output arguments */
			statement->columns = 1;
			break;
		case T_VariableShowStmt:
			statement->columns =
				strcmp(((VariableShowStmt *) tree)->name, "all") == 0 ? 3 : 1;
			break;
		case T_FetchStmt:
			if (!((FetchStmt *) tree)->ismove)
				statement->columns = 1;
			break;
		default:
			break;
	}
}

/* A syntax error is in the branch SQL, not in the statement that carries it. */
static void
place_syntax_error(void *sql)
{
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) sql);
	}
}

/*
 * Take a string apart into a list of DtxStatement.  Raises an error for what
 * a branch must not do, and for an empty string.
 */
List *
dtx_statements_parse(const char *sql)
{
	List	   *trees;
	List	   *result = NIL;
	ListCell   *cell;
	bool		save = standard_conforming_strings;
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = place_syntax_error,
		.arg = unconstify(char *, sql)
	};

	error_context_stack = &callback;

	/* Read it as the node will: nodes with the other setting are refused. */
	standard_conforming_strings = true;
	PG_TRY();
	{
		trees = raw_parser(sql, RAW_PARSE_DEFAULT);
	}
	PG_FINALLY();
	{
		standard_conforming_strings = save;
	}
	PG_END_TRY();
	error_context_stack = callback.previous;

	foreach(cell, trees)
	{
		RawStmt    *tree = lfirst_node(RawStmt, cell);
		DtxStatement *statement = palloc0(sizeof(DtxStatement));

		check_allowed(tree->stmt);
		statement->text = sql + Max(tree->stmt_location, 0);
		statement->length = tree->stmt_len > 0 ? tree->stmt_len :
			(int) strlen(statement->text);
		describe(tree->stmt, statement);
		statement->calls = !statement->plannable;
		if (statement->plannable)
			(void) find_values(tree->stmt, statement);
		result = lappend(result, statement);
	}
	if (result == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("branch SQL is empty")));
	return result;
}
