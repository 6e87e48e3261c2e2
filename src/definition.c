/*-------------------------------------------------------------------------
 *
 * definition.c
 *		What a saga consists of: reads its definition.
 *
 *		A definition is checked as a whole when it is given, by
 *		dtx_definition_parse(): what is wrong with it is found there, and not
 *		by the first saga that comes to the place.  From then on it is read
 *		by dtx_definition_load(), which repeats only what costs little.
 *
 * (1) Every error names its place: the step by number and name, and the field.
 * (2) Both ways of reading give the same.
 * (3) A definition that was accepted means the same for ever: no setting of
 *	   the reader's session has a say, except for the defaults of times.
 * (4) What a step reads is there before it runs: it refers only to steps that
 *	   it comes after, and a compensation also to its own action.
 * (5) No step waits for itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "definition.h"
#include "guc.h"
#include "statement.h"

#define STEPS_MAX 1000
#define NAME_MAX_BYTES 63
/* Milliseconds in an int hold a little more. */
#define DURATION_MAX_MS (24.0 * 24 * 60 * 60 * 1000)
#define RETRY_MIN_MS 10

typedef struct StepName
{
	const char *text;
	int			length;
	int			step;
} StepName;

/* Where the reading is, and what is known by then. */
typedef struct Reader
{
	bool		trusted;		/* was checked before */
	DtxSagaDefinition *definition;
	StepName   *names;			/* sorted */
	int			step;			/* or -1: outside of steps */
	const char *name;			/* of the step; or NULL */
	const char *object;			/* that the field is in, such as "retry"; or NULL */
	const char *field;			/* or NULL */
	int			element;		/* of the field, an array; or -1 */
} Reader;

/* What a step inherits from the saga. */
typedef struct Defaults
{
	DtxRetry	retry;			/* 0, and -1 attempts: not given */
	bool		concurrent;
	bool		forward;
} Defaults;

enum
{
	SAGA_STEPS, SAGA_CONCURRENT, SAGA_RECOVERY, SAGA_TIMEOUT, SAGA_RETRY, SAGA_FIELDS
};
static const char *const saga_fields[] = {
	"steps", "concurrent", "recovery", "timeout", "retry"
};

enum
{
	STEP_NAME, STEP_NODE, STEP_ACTION, STEP_COMPENSATION, STEP_ARGS, STEP_AFTER,
	STEP_WHEN, STEP_TIMEOUT, STEP_RETRY, STEP_RECOVERY, STEP_FIELDS
};
static const char *const step_fields[] = {
	"name", "node", "action", "compensation", "args", "after",
	"when", "timeout", "retry", "recovery"
};

enum
{
	RETRY_INTERVAL, RETRY_MAX_INTERVAL, RETRY_FACTOR, RETRY_MAX_ATTEMPTS, RETRY_FIELDS
};
static const char *const retry_fields[] = {
	"interval", "max_interval", "factor", "max_attempts"
};

/*
 * Errors
 */

/* Such as: steps[2] ("pay"), field "retry.interval" */
static char *
place(const Reader *reader)
{
	StringInfoData text;

	initStringInfo(&text);
	if (reader->step >= 0)
		appendStringInfo(&text, "steps[%d]", reader->step);
	if (reader->name != NULL)
		appendStringInfo(&text, " (\"%s\")", reader->name);
	if (reader->field != NULL)
	{
		appendStringInfo(&text, "%sfield \"", text.len > 0 ? ", " : "");
		if (reader->object != NULL)
			appendStringInfo(&text, "%s.", reader->object);
		appendStringInfoString(&text, reader->field);
		if (reader->element >= 0)
			appendStringInfo(&text, "[%d]", reader->element);
		appendStringInfoChar(&text, '"');
	}
	if (text.len == 0)
		appendStringInfoString(&text, "the whole");
	return text.data;
}

/* Raise an error; "what" is said of the place, without a full stop. */
DTX_NORETURN static void fail(const Reader *reader, const char *what,...) pg_attribute_printf(2, 3);

static void
fail(const Reader *reader, const char *what,...)
{
	StringInfoData text;

	initStringInfo(&text);
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, what);
		needed = appendStringInfoVA(&text, what, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&text, needed);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid saga definition"),
			 errdetail_internal("%s: %s.", place(reader), text.data)));
}

/* Errors of PostgreSQL's own parsers are in the definition, too. */
static void
add_place(void *arg)
{
	Reader	   *reader = arg;

	if (reader->element >= 0)
		errhint("A string that begins with \"$.\" is a path; for the text itself write {\"literal\": \"...\"}.");
	errcontext("%s of a saga definition", place(reader));
}

static void
enter_parser(Reader *reader, ErrorContextCallback *callback)
{
	callback->callback = add_place;
	callback->arg = reader;
	callback->previous = error_context_stack;
	error_context_stack = callback;
}

static void
leave_parser(ErrorContextCallback *callback)
{
	error_context_stack = callback->previous;
}

/*
 * JSON
 */

static bool
is_object(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data);
}

static bool
is_array(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data);
}

static char *
expect_text(const Reader *reader, const JsonbValue *value)
{
	if (value->type != jbvString)
		fail(reader, "must be a string");
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static bool
expect_bool(const Reader *reader, const JsonbValue *value)
{
	if (value->type != jbvBool)
		fail(reader, "must be true or false");
	return value->val.boolean;
}

static double
as_double(const JsonbValue *value)
{
	return DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
											  NumericGetDatum(value->val.numeric)));
}

/*
 * Take an object apart: values[i] is the one of names[i], and JSON's null if it
 * has none.  Refuses other fields.
 */
static void
read_object(Reader *reader, JsonbContainer *object, const char *what,
			const char *const *names, int count, JsonbValue *values)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbValue	key;
	JsonbValue	value;

	for (int i = 0; i < count; i++)
		values[i].type = jbvNull;
	(void) JsonbIteratorNext(&iterator, &value, false);
	while (JsonbIteratorNext(&iterator, &key, true) == WJB_KEY)
	{
		int			i;

		(void) JsonbIteratorNext(&iterator, &value, true);
		for (i = 0; i < count; i++)
		{
			if (strlen(names[i]) == key.val.string.len &&
				memcmp(names[i], key.val.string.val, key.val.string.len) == 0)
				break;
		}
		if (i == count)
		{
			StringInfoData known;

			initStringInfo(&known);
			for (i = 0; i < count; i++)
				appendStringInfo(&known, "%s%s", i > 0 ? ", " : "", names[i]);
			reader->field = pnstrdup(key.val.string.val, key.val.string.len);
			fail(reader, "is not a field of %s; those are %s", what, known.data);
		}
		values[i] = value;
	}
}

/* The i-th element of an array, which is i in the next error's place, too. */
static JsonbValue *
read_element(Reader *reader, JsonbContainer *array, int i)
{
	reader->element = i;
	return getIthJsonbValueFromContainer(array, i);
}

/* A time in ms: a number of seconds, or text as PostgreSQL reads intervals. */
static int
read_duration(Reader *reader, const JsonbValue *value)
{
	double		ms;

	if (value->type == jbvNumeric)
		ms = as_double(value) * 1000;
	else if (value->type == jbvString)
	{
		ErrorContextCallback callback;
		Interval   *interval;

		enter_parser(reader, &callback);
		interval = DatumGetIntervalP(DirectFunctionCall3(interval_in,
														 CStringGetDatum(expect_text(reader, value)),
														 ObjectIdGetDatum(InvalidOid),
														 Int32GetDatum(-1)));
		leave_parser(&callback);
		ms = interval->time / 1000.0 +
			((double) interval->day + interval->month * (double) DAYS_PER_MONTH) * SECS_PER_DAY * 1000.0;
	}
	else
		fail(reader, "must be a number of seconds, or text such as \"500 ms\"");

	if (!(ms > 0))
		fail(reader, "must be greater than 0");
	if (ms > DURATION_MAX_MS)
		fail(reader, "must be at most 24 days");
	return Max(1, (int) rint(ms));
}

/* Overwrite what a retry object gives; the rest stays. */
static void
read_retry(Reader *reader, const JsonbValue *value, DtxRetry *retry)
{
	JsonbValue	values[RETRY_FIELDS];
	JsonbValue *v;

	if (value->type == jbvNull)
		return;
	reader->field = "retry";
	if (!is_object(value))
		fail(reader, "must be an object");
	reader->object = "retry";
	read_object(reader, value->val.binary.data, "\"retry\"", retry_fields, RETRY_FIELDS, values);

	v = &values[RETRY_INTERVAL];
	reader->field = "interval";
	if (v->type != jbvNull)
		retry->interval_ms = Max(RETRY_MIN_MS, read_duration(reader, v));

	v = &values[RETRY_FACTOR];
	reader->field = "factor";
	if (v->type != jbvNull)
	{
		if (v->type != jbvNumeric)
			fail(reader, "must be a number");
		retry->factor = as_double(v);
		if (!(retry->factor >= 1))
			fail(reader, "must be at least 1");
	}

	v = &values[RETRY_MAX_ATTEMPTS];
	reader->field = "max_attempts";
	if (v->type != jbvNull)
	{
		double		attempts = v->type == jbvNumeric ? as_double(v) : -1;

		if (!(attempts >= 0 && attempts <= PG_INT32_MAX && attempts == floor(attempts)))
			fail(reader, "must be a whole number, at least 0");
		retry->max_attempts = (int) attempts;
	}

	v = &values[RETRY_MAX_INTERVAL];
	reader->field = "max_interval";
	if (v->type != jbvNull)
		retry->max_interval_ms = Max(RETRY_MIN_MS, read_duration(reader, v));
	if (retry->max_interval_ms > 0 && retry->max_interval_ms < retry->interval_ms)
	{
		if (v->type == jbvNull)
			reader->field = "interval";
		fail(reader, v->type == jbvNull ? "must not be greater than \"max_interval\"" :
			 "must not be less than \"interval\"");
	}
	reader->object = NULL;
	reader->field = NULL;
}

/* What was not given is as the settings say, but never against what was. */
static void
complete_retry(DtxRetry *retry)
{
	if (retry->max_interval_ms == 0)
		retry->max_interval_ms = Max(dtx_retry_max_interval_default_ms, retry->interval_ms);
	if (retry->interval_ms == 0)
		retry->interval_ms = Min(dtx_retry_interval_default_ms, retry->max_interval_ms);
	if (retry->factor == 0)
		retry->factor = 2;
	if (retry->max_attempts < 0)
		retry->max_attempts = 0;
}

/* Is "recovery" forward? */
static bool
read_recovery(Reader *reader, const JsonbValue *value, bool inherited)
{
	char	   *text;

	if (value->type == jbvNull)
		return inherited;
	reader->field = "recovery";
	text = value->type == jbvString ? expect_text(reader, value) : "";
	if (strcmp(text, "forward") == 0)
		return true;
	if (strcmp(text, "backward") != 0)
		fail(reader, "must be \"backward\" or \"forward\"");
	return false;
}

/*
 * Names of steps
 */

static int
compare_names(const void *a, const void *b)
{
	const StepName *left = a;
	const StepName *right = b;

	if (left->length != right->length)
		return left->length < right->length ? -1 : 1;
	return memcmp(left->text, right->text, left->length);
}

/* The number of a step, or -1. */
static int
find_step(const Reader *reader, const char *text, int length)
{
	StepName	key = {.text = text, .length = length};
	StepName   *found = bsearch(&key, reader->names, reader->definition->step_count,
								sizeof(StepName), compare_names);

	return found == NULL ? -1 : found->step;
}

/* Read all names, which references need before the steps are read. */
static void
read_names(Reader *reader, JsonbContainer *steps)
{
	DtxSagaDefinition *definition = reader->definition;

	reader->names = palloc(definition->step_count * sizeof(StepName));
	reader->field = "name";
	for (int i = 0; i < definition->step_count; i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(steps, i);
		JsonbValue *name = NULL;
		JsonbValue	buffer;

		reader->step = i;
		if (!is_object(element))
		{
			reader->field = NULL;
			fail(reader, "must be an object");
		}
		name = getKeyJsonValueFromContainer(element->val.binary.data, "name", 4, &buffer);
		if (name == NULL || name->type != jbvString)
			fail(reader, "must be a string");
		if (name->val.string.len < 1 || name->val.string.len > NAME_MAX_BYTES)
			fail(reader, "must have 1 to %d bytes", NAME_MAX_BYTES);
		definition->steps[i].name = expect_text(reader, name);
		reader->names[i].text = definition->steps[i].name;
		reader->names[i].length = name->val.string.len;
		reader->names[i].step = i;
	}
	qsort(reader->names, definition->step_count, sizeof(StepName), compare_names);
	for (int i = 1; i < definition->step_count; i++)
	{
		if (compare_names(&reader->names[i - 1], &reader->names[i]) == 0)
		{
			reader->step = Max(reader->names[i - 1].step, reader->names[i].step);
			reader->name = reader->names[i].text;
			fail(reader, "steps[%d] has the same name",
				 Min(reader->names[i - 1].step, reader->names[i].step));
		}
	}
	reader->step = -1;
	reader->field = NULL;
}

/*
 * Statements
 */

/* Continues a string after its closing quote: blanks with a line end, a quote. */
static const char *
skip_continuation(const char *p)
{
	bool		line_end = false;

	for (;;)
	{
		if (*p == '\n' || *p == '\r')
			line_end = true;
		if (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r' ||
			*p == '\f' || *p == '\v')
			p++;
		else if (p[0] == '-' && p[1] == '-')
			p += strcspn(p, "\n\r");
		else
			break;
	}
	return line_end && *p == '\'' ? p + 1 : NULL;
}

static bool
starts_word(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || IS_HIGHBIT_SET(c);
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The end of a string that begins before p. */
static const char *
skip_string(const char *p, bool backslashes)
{
	while (*p != '\0')
	{
		if (*p == '\\' && backslashes && p[1] != '\0')
			p += 2;
		else if (*p++ == '\'')
		{
			/* two quotes are one, and begin the string anew just as well */
			const char *more = backslashes ? skip_continuation(p) : NULL;

			if (backslashes && *p == '\'')
				p++;
			else if (more != NULL)
				p = more;
			else
				break;
		}
	}
	return p;
}

/* The end of a comment; p is after what opens it. */
static const char *
skip_comment(const char *p)
{
	int			depth = 1;

	while (*p != '\0' && depth > 0)
	{
		if (p[0] == '/' && p[1] == '*')
		{
			depth++;
			p += 2;
		}
		else if (p[0] == '*' && p[1] == '/')
		{
			depth--;
			p += 2;
		}
		else
			p++;
	}
	return p;
}

/*
 * The highest $n of a string that PostgreSQL's grammar accepts.  Reads what
 * the scanner of PostgreSQL reads with standard_conforming_strings, as far as
 * a "$" can be in it.
 */
static int
highest_parameter(const char *p)
{
	int			highest = 0;

	while (*p != '\0')
	{
		if (starts_word(*p))
		{
			const char *word = p;

			while (starts_word(*p) || is_digit(*p) || *p == '$')
				p++;
			if (*p == '\'')
				p = skip_string(p + 1, p - word == 1 && (*word == 'e' || *word == 'E'));
		}
		else if (is_digit(*p))
		{
			while (is_digit(*p) || starts_word(*p))
				p++;
		}
		else if (*p == '\'')
			p = skip_string(p + 1, false);
		else if (*p == '"')
		{
			p += 1 + strcspn(p + 1, "\"");
			if (*p == '"')
				p++;
		}
		else if (p[0] == '-' && p[1] == '-')
			p += strcspn(p, "\n\r");
		else if (p[0] == '/' && p[1] == '*')
			p = skip_comment(p + 2);
		else if (p[0] == '$' && is_digit(p[1]))
		{
			int			number = 0;

			for (p++; is_digit(*p); p++)
				number = number > 100000 ? number : number * 10 + (*p - '0');
			/* there is no $0 */
			highest = Max(highest, number == 0 ? PG_INT32_MAX : number);
		}
		else if (p[0] == '$')
		{
			const char *end = p + 1;

			if (starts_word(*end))
			{
				while (starts_word(*end) || is_digit(*end))
					end++;
			}
			if (*end == '$')
			{
				char	   *tag = pnstrdup(p, end + 1 - p);
				const char *close = strstr(end + 1, tag);

				p = close != NULL ? close + strlen(tag) : end + strlen(end);
				pfree(tag);
			}
			else
				p++;
		}
		else
			p++;
	}
	return highest;
}

/*
 * How many parameters a statement has, the highest $n.  Checks it, unless that
 * was done before; what the grammar and highest_parameter() see differently is
 * refused, so that (2) holds.
 */
static int
read_statement(Reader *reader, const char *sql)
{
	int			parameters = highest_parameter(sql);
	ErrorContextCallback callback;
	List	   *statements;
	DtxStatement *first;

	if (reader->trusted)
		return parameters;
	enter_parser(reader, &callback);
	statements = dtx_statements_parse(sql);
	leave_parser(&callback);
	first = linitial(statements);
	if (parameters > 0 && (list_length(statements) > 1 || !first->plannable))
		fail(reader, "with parameters it must be one SELECT, INSERT, UPDATE, DELETE or MERGE");
	if (parameters != (list_length(statements) == 1 ? first->parameters : 0))
		fail(reader, "its parameters cannot be counted");
	return parameters;
}

/* SQL, or NULL when there is nothing to run. */
static char *
read_sql(Reader *reader, const JsonbValue *value, int *parameters)
{
	char	   *sql;

	*parameters = 0;
	if (value->type == jbvNull)
		return NULL;
	sql = expect_text(reader, value);
	if (sql[0] == '\0')
		return NULL;
	*parameters = read_statement(reader, sql);
	return sql;
}

/*
 * Paths
 */

static JsonPath *
read_path(Reader *reader, char *text)
{
	ErrorContextCallback callback;
	JsonPath   *path;

	enter_parser(reader, &callback);
	path = DatumGetJsonPathP(DirectFunctionCall1(jsonpath_in, CStringGetDatum(text)));
	leave_parser(&callback);
	return path;
}

static bool
next_is_key(JsonPathItem *item, JsonPathItem *next, const char *key)
{
	int			length;
	char	   *text;

	if (!jspGetNext(item, next) || next->type != jpiKey)
		return false;
	if (key == NULL)
		return true;
	text = jspGetString(next, &length);
	return length == strlen(key) && memcmp(text, key, length) == 0;
}

/*
 * Which step is it that a path from the root leads to?  -1: none, but the
 * input.  With "result", only that of a step will do.
 */
static int
read_reference(const Reader *reader, JsonPathItem *root, bool result)
{
	JsonPathItem field;
	JsonPathItem name;
	JsonPathItem last;
	char	   *text;
	int			length;
	int			step;

	if (next_is_key(root, &field, "input"))
		return -1;
	if (!next_is_key(root, &field, "steps") ||
		!next_is_key(&field, &name, NULL) ||
		(result && !next_is_key(&name, &last, "result")))
	{
		if (result)
			fail(reader, "a string that begins with \"$.\" is a path to $.input or $.steps.<name>.result; "
				 "for the text itself write {\"literal\": \"...\"}");
		fail(reader, "paths must begin with $.input or $.steps.<name>");
	}
	text = jspGetString(&name, &length);
	step = find_step(reader, text, length);
	if (step < 0)
		fail(reader, "there is no step \"%.*s\"", length, text);
	return step;
}

/* Check all the references of a path, to steps in "readable" only. */
static void
check_path(const Reader *reader, JsonPathItem *item, bool result, const Bitmapset *readable)
{
	JsonPathItem part;
	JsonPathItem end;

	check_stack_depth();
	switch (item->type)
	{
		case jpiRoot:
			{
				int			step = read_reference(reader, item, result);

				if (step >= 0 && !bms_is_member(step, readable))
					fail(reader, "step \"%s\" does not come before it",
						 reader->definition->steps[step].name);
				break;
			}
		case jpiAnd:
		case jpiOr:
		case jpiEqual:
		case jpiNotEqual:
		case jpiLess:
		case jpiGreater:
		case jpiLessOrEqual:
		case jpiGreaterOrEqual:
		case jpiAdd:
		case jpiSub:
		case jpiMul:
		case jpiDiv:
		case jpiMod:
		case jpiStartsWith:
			jspGetLeftArg(item, &part);
			check_path(reader, &part, result, readable);
			jspGetRightArg(item, &part);
			check_path(reader, &part, result, readable);
			break;
		case jpiNot:
		case jpiIsUnknown:
		case jpiExists:
		case jpiFilter:
		case jpiPlus:
		case jpiMinus:
			jspGetArg(item, &part);
			check_path(reader, &part, result, readable);
			break;
		case jpiLikeRegex:
			jspInitByBuffer(&part, item->base, item->content.like_regex.expr);
			check_path(reader, &part, result, readable);
			break;
		case jpiIndexArray:
			for (int i = 0; i < item->content.array.nelems; i++)
			{
				bool		range = jspGetArraySubscript(item, &part, &end, i);

				check_path(reader, &part, result, readable);
				if (range)
					check_path(reader, &end, result, readable);
			}
			break;
		case jpiVariable:
			fail(reader, "a path cannot have variables");
			break;
		default:
			/* literals and methods, whose arguments are literals */
			break;
	}
	if (jspGetNext(item, &part))
		check_path(reader, &part, result, readable);
}

/*
 * Steps
 */

/* A value as text, or NULL for null. */
static char *
value_as_text(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return NULL;
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(value->val.numeric)));
		case jbvBinary:
			return JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
		default:
			elog(ERROR, "unexpected type of JSON value: %d", (int) value->type);
			return NULL;
	}
}

static void
read_argument(Reader *reader, const JsonbValue *value, DtxArgument *argument)
{
	argument->of_step = -1;
	if (value->type == jbvString && value->val.string.len >= 2 &&
		strncmp(value->val.string.val, "$.", 2) == 0)
	{
		JsonPathItem root;

		argument->path = read_path(reader, expect_text(reader, value));
		jspInit(&root, argument->path);
		if (root.type != jpiRoot)
			fail(reader, "must be a path, without operators around it");
		argument->of_step = read_reference(reader, &root, true);
	}
	else if (is_object(value) && JsonContainerSize(value->val.binary.data) == 1)
	{
		JsonbValue	buffer;
		JsonbValue *literal = getKeyJsonValueFromContainer(value->val.binary.data,
														   "literal", 7, &buffer);

		argument->value = value_as_text(literal != NULL ? literal : value);
	}
	else
		argument->value = value_as_text(value);
}

static void
read_arguments(Reader *reader, const JsonbValue *value, DtxSagaStep *step)
{
	JsonbContainer *array;

	if (value->type == jbvNull)
		return;
	if (!is_array(value))
		fail(reader, "must be an array");
	array = value->val.binary.data;
	step->argument_count = JsonContainerSize(array);
	step->arguments = palloc0(step->argument_count * sizeof(DtxArgument));
	for (int i = 0; i < step->argument_count; i++)
		read_argument(reader, read_element(reader, array, i), &step->arguments[i]);
	reader->element = -1;
}

/* Which steps come before, by default the one above. */
static Bitmapset *
read_after(Reader *reader, const JsonbValue *value, bool concurrent)
{
	JsonbContainer *array;
	Bitmapset  *after = NULL;
	int			count;

	if (value->type == jbvNull)
		return concurrent || reader->step == 0 ? NULL : bms_make_singleton(reader->step - 1);
	if (!is_array(value))
		fail(reader, "must be an array");
	array = value->val.binary.data;
	count = JsonContainerSize(array);
	for (int i = 0; i < count; i++)
	{
		JsonbValue *name = read_element(reader, array, i);
		int			step;

		if (name->type != jbvString)
			fail(reader, "must be a string");
		step = find_step(reader, name->val.string.val, name->val.string.len);
		if (step < 0)
			fail(reader, "there is no step \"%.*s\"", name->val.string.len, name->val.string.val);
		if (bms_is_member(step, after))
			fail(reader, "names step \"%.*s\" again", name->val.string.len, name->val.string.val);
		after = bms_add_member(after, step);
	}
	reader->element = -1;
	return after;
}

static void
read_step(Reader *reader, JsonbContainer *object, const Defaults *defaults)
{
	DtxSagaStep *step = &reader->definition->steps[reader->step];
	JsonbValue	values[STEP_FIELDS];
	int			parameters;

	reader->name = step->name;
	read_object(reader, object, "a step", step_fields, STEP_FIELDS, values);

	reader->field = "node";
	if (values[STEP_NODE].type != jbvNull)
	{
		step->node = expect_text(reader, &values[STEP_NODE]);
		if (step->node[0] == '\0')
			fail(reader, "must not be empty");
	}
	reader->field = "action";
	step->action = read_sql(reader, &values[STEP_ACTION], &step->action_parameters);
	reader->field = "compensation";
	step->compensation = read_sql(reader, &values[STEP_COMPENSATION], &step->compensation_parameters);
	reader->field = "args";
	read_arguments(reader, &values[STEP_ARGS], step);
	parameters = Max(step->action_parameters, step->compensation_parameters);
	if (parameters != step->argument_count)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("step \"%s\" has %d %s, but its SQL has %d %s", step->name,
						step->argument_count, step->argument_count == 1 ? "arg" : "args",
						parameters, parameters == 1 ? "parameter" : "parameters")));
	reader->field = "after";
	step->after = read_after(reader, &values[STEP_AFTER], defaults->concurrent);
	reader->field = "when";
	if (values[STEP_WHEN].type != jbvNull)
		step->when = read_path(reader, expect_text(reader, &values[STEP_WHEN]));
	reader->field = "timeout";
	step->timeout_ms = values[STEP_TIMEOUT].type == jbvNull ? dtx_step_timeout_ms :
		read_duration(reader, &values[STEP_TIMEOUT]);
	step->retry = defaults->retry;
	read_retry(reader, &values[STEP_RETRY], &step->retry);
	complete_retry(&step->retry);
	step->forward = read_recovery(reader, &values[STEP_RECOVERY], defaults->forward);
	reader->field = NULL;
}

/* Raise an error that names a cycle, which is among the steps not settled. */
DTX_NORETURN static void
fail_cycle(Reader *reader, const Bitmapset *settled)
{
	DtxSagaDefinition *definition = reader->definition;
	int		   *path = palloc((definition->step_count + 1) * sizeof(int));
	int			length = 0;
	int			start;
	Bitmapset  *seen = NULL;
	StringInfoData text;

	/* from any of them backwards, until one comes again */
	for (start = 0; bms_is_member(start, settled); start++)
		;
	while (!bms_is_member(start, seen))
	{
		seen = bms_add_member(seen, start);
		path[length++] = start;
		start = bms_next_member(bms_difference(definition->steps[start].after, settled), -1);
	}
	initStringInfo(&text);
	appendStringInfoString(&text, definition->steps[start].name);
	do
	{
		length--;
		appendStringInfo(&text, " -> %s", definition->steps[path[length]].name);
	} while (path[length] != start);

	reader->step = start;
	reader->name = definition->steps[start].name;
	reader->field = "after";
	fail(reader, "steps wait for each other: %s", text.data);
}

/*
 * Check the steps together: no cycles, and nothing is read from a step that
 * may come later.
 */
static void
check_graph(Reader *reader)
{
	DtxSagaDefinition *definition = reader->definition;
	int			count = definition->step_count;
	int		   *queue = palloc(count * sizeof(int));
	int		   *missing = palloc(count * sizeof(int));
	Bitmapset **earlier = palloc0(count * sizeof(Bitmapset *));
	Bitmapset  *settled = NULL;
	int			queued = 0;

	for (int i = 0; i < count; i++)
	{
		missing[i] = bms_num_members(definition->steps[i].after);
		if (missing[i] == 0)
			queue[queued++] = i;
	}
	for (int next = 0; next < queued; next++)
	{
		int			i = queue[next];
		int			j = -1;

		CHECK_FOR_INTERRUPTS();
		settled = bms_add_member(settled, i);
		while ((j = bms_next_member(definition->steps[i].after, j)) >= 0)
			earlier[i] = bms_add_member(bms_add_members(earlier[i], earlier[j]), j);
		j = -1;
		while ((j = bms_next_member(definition->steps[i].before, j)) >= 0)
		{
			if (--missing[j] == 0)
				queue[queued++] = j;
		}
	}
	if (queued < count)
		fail_cycle(reader, settled);

	for (int i = 0; i < count; i++)
	{
		DtxSagaStep *step = &definition->steps[i];
		JsonPathItem root;

		reader->step = i;
		reader->name = step->name;
		if (step->when != NULL)
		{
			reader->field = "when";
			jspInit(&root, step->when);
			check_path(reader, &root, false, earlier[i]);
		}
		reader->field = "args";
		for (int a = 0; a < step->argument_count; a++)
		{
			/* from here on only the compensation has them */
			if (a == step->action_parameters)
				earlier[i] = bms_add_member(earlier[i], i);
			if (step->arguments[a].path == NULL)
				continue;
			reader->element = a;
			jspInit(&root, step->arguments[a].path);
			check_path(reader, &root, true, earlier[i]);
		}
		reader->element = -1;
	}
}

static DtxSagaDefinition *
read_definition(Jsonb *json, bool trusted)
{
	Reader		reader = {.trusted = trusted, .step = -1, .element = -1};
	Defaults	defaults = {.retry.max_attempts = -1};
	DtxSagaDefinition *definition = palloc0(sizeof(DtxSagaDefinition));
	JsonbValue	values[SAGA_FIELDS];
	JsonbContainer *steps;

	if (!JB_ROOT_IS_OBJECT(json))
		fail(&reader, "must be an object");
	read_object(&reader, &json->root, "a saga", saga_fields, SAGA_FIELDS, values);
	reader.field = "concurrent";
	if (values[SAGA_CONCURRENT].type != jbvNull)
		defaults.concurrent = expect_bool(&reader, &values[SAGA_CONCURRENT]);
	defaults.forward = read_recovery(&reader, &values[SAGA_RECOVERY], false);
	reader.field = "timeout";
	if (values[SAGA_TIMEOUT].type != jbvNull)
		definition->timeout_ms = read_duration(&reader, &values[SAGA_TIMEOUT]);
	read_retry(&reader, &values[SAGA_RETRY], &defaults.retry);

	reader.field = "steps";
	if (!is_array(&values[SAGA_STEPS]))
		fail(&reader, "must be an array");
	steps = values[SAGA_STEPS].val.binary.data;
	definition->step_count = JsonContainerSize(steps);
	if (definition->step_count < 1 || definition->step_count > STEPS_MAX)
		fail(&reader, "must have 1 to %d elements", STEPS_MAX);
	definition->steps = palloc0(definition->step_count * sizeof(DtxSagaStep));
	reader.definition = definition;
	read_names(&reader, steps);
	for (int i = 0; i < definition->step_count; i++)
	{
		reader.step = i;
		read_step(&reader, getIthJsonbValueFromContainer(steps, i)->val.binary.data, &defaults);
	}
	for (int i = 0; i < definition->step_count; i++)
	{
		int			before = -1;

		while ((before = bms_next_member(definition->steps[i].after, before)) >= 0)
			definition->steps[before].before = bms_add_member(definition->steps[before].before, i);
	}
	if (!trusted)
		check_graph(&reader);
	return definition;
}

DtxSagaDefinition *
dtx_definition_parse(Jsonb *definition)
{
	return read_definition(definition, false);
}

DtxSagaDefinition *
dtx_definition_load(Jsonb *definition)
{
	return read_definition(definition, true);
}

/*
 * Evaluation
 */

/*
 * Call jsonb_path_query_first() or jsonb_path_match(): silently, so that what
 * is missing or of another type gives NULL.
 */
static bool
call_path(PGFunction function, Jsonb *document, JsonPath *path, Datum *result)
{
	LOCAL_FCINFO(fcinfo, 4);
	Jsonb		variables;

	SET_VARSIZE(&variables, VARHDRSZ + sizeof(variables.root.header));
	variables.root.header = JB_FOBJECT;
	InitFunctionCallInfoData(*fcinfo, NULL, 4, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = JsonbPGetDatum(document);
	fcinfo->args[1].value = PointerGetDatum(path);
	fcinfo->args[2].value = JsonbPGetDatum(&variables);
	fcinfo->args[3].value = BoolGetDatum(true);
	for (int i = 0; i < 4; i++)
		fcinfo->args[i].isnull = false;
	*result = function(fcinfo);
	return !fcinfo->isnull;
}

char *
dtx_definition_argument(const DtxArgument *argument, Jsonb *document)
{
	Datum		result;
	Jsonb	   *found;
	JsonbValue	value;

	if (argument->path == NULL)
		return argument->value;
	if (!call_path(jsonb_path_query_first, document, argument->path, &result))
		return NULL;
	found = DatumGetJsonbP(result);
	if (!JsonbExtractScalar(&found->root, &value))
		return JsonbToCString(NULL, &found->root, VARSIZE(found));
	return value_as_text(&value);
}

bool
dtx_definition_when(const DtxSagaStep *step, Jsonb *document)
{
	Datum		result;

	if (step->when == NULL)
		return true;
	return call_path(jsonb_path_match, document, step->when, &result) && DatumGetBool(result);
}

int
dtx_retry_interval_ms(const DtxRetry *retry, int attempts)
{
	double		ms = retry->interval_ms * pow(retry->factor, Max(attempts, 1) - 1);

	/* also when it is infinite */
	if (!(ms < retry->max_interval_ms))
		ms = retry->max_interval_ms;
	ms *= 0.8 + 0.4 * pg_prng_double(&pg_global_prng_state);
	return (int) Min(Max(ms, RETRY_MIN_MS), PG_INT32_MAX);
}

/*
 * SQL
 */

PG_FUNCTION_INFO_V1(dtx_saga_check);
PG_FUNCTION_INFO_V1(dtx_saga_explain);

/* dtx.saga_check(definition): an error for whatever is wrong with it. */
Datum
dtx_saga_check(PG_FUNCTION_ARGS)
{
	(void) dtx_definition_parse(PG_GETARG_JSONB_P(0));
	PG_RETURN_VOID();
}

static Interval *
interval_of_ms(int ms)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = ms * INT64CONST(1000);
	return interval;
}

static Datum
text_array(char **texts, int count)
{
	Datum	   *values = palloc(count * sizeof(Datum));
	bool	   *nulls = palloc(count * sizeof(bool));
	int			lower = 1;

	for (int i = 0; i < count; i++)
	{
		nulls[i] = texts[i] == NULL;
		values[i] = nulls[i] ? (Datum) 0 : CStringGetTextDatum(texts[i]);
	}
	if (count == 0)
		return PointerGetDatum(construct_empty_array(TEXTOID));
	return PointerGetDatum(construct_md_array(values, nulls, 1, &count, &lower,
											  TEXTOID, -1, false, TYPALIGN_INT));
}

/* How long the first waits would be. */
static Datum
waits_array(const DtxRetry *retry)
{
	Datum		values[8];

	for (int i = 0; i < lengthof(values); i++)
		values[i] = IntervalPGetDatum(interval_of_ms(dtx_retry_interval_ms(retry, i + 1)));
	return PointerGetDatum(construct_array(values, lengthof(values), INTERVALOID,
										   sizeof(Interval), false, TYPALIGN_DOUBLE));
}

/* dtx.saga_explain(definition, document): how it is read, and what it would do. */
Datum
dtx_saga_explain(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Jsonb	   *json = PG_GETARG_JSONB_P(0);
	Jsonb	   *document = PG_GETARG_JSONB_P(1);
	DtxSagaDefinition *definition;

	InitMaterializedSRF(fcinfo, 0);
	(void) dtx_definition_parse(json);
	definition = dtx_definition_load(json);
	for (int i = 0; i < definition->step_count; i++)
	{
		DtxSagaStep *step = &definition->steps[i];
		char	  **texts = palloc(Max(definition->step_count, step->argument_count) * sizeof(char *));
		int			count = 0;
		int			j = -1;
		int			a = 0;
		Datum		values[17];
		bool		nulls[17] = {0};

		CHECK_FOR_INTERRUPTS();
		values[a++] = Int32GetDatum(i);
		values[a++] = CStringGetTextDatum(step->name);
		nulls[a] = step->node == NULL;
		values[a++] = nulls[2] ? (Datum) 0 : CStringGetTextDatum(step->node);
		while ((j = bms_next_member(step->after, j)) >= 0)
			texts[count++] = definition->steps[j].name;
		values[a++] = text_array(texts, count);
		values[a++] = BoolGetDatum(dtx_definition_when(step, document));
		values[a++] = Int32GetDatum(step->action_parameters);
		values[a++] = Int32GetDatum(step->compensation_parameters);
		for (j = 0; j < step->argument_count; j++)
			texts[j] = dtx_definition_argument(&step->arguments[j], document);
		values[a++] = text_array(texts, step->argument_count);
		for (j = 0; j < step->argument_count; j++)
			texts[j] = step->arguments[j].of_step < 0 ? NULL :
				definition->steps[step->arguments[j].of_step].name;
		values[a++] = text_array(texts, step->argument_count);
		values[a++] = CStringGetTextDatum(step->forward ? "forward" : "backward");
		nulls[a] = step->timeout_ms == 0;
		values[a++] = IntervalPGetDatum(interval_of_ms(step->timeout_ms));
		values[a++] = IntervalPGetDatum(interval_of_ms(step->retry.interval_ms));
		values[a++] = IntervalPGetDatum(interval_of_ms(step->retry.max_interval_ms));
		values[a++] = Float8GetDatum(step->retry.factor);
		values[a++] = Int32GetDatum(step->retry.max_attempts);
		values[a++] = waits_array(&step->retry);
		nulls[a] = definition->timeout_ms == 0;
		values[a++] = IntervalPGetDatum(interval_of_ms(definition->timeout_ms));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
