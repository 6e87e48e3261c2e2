/*-------------------------------------------------------------------------
 *
 * client.c
 *		One client of the chaos run: random global transactions, and a line
 *		of history for each.
 *
 *		client CONNINFO SEED NUMBER NODES ACCOUNTS KEYS
 *
 *		NODES is a string like "abde".  Ends at SIGTERM.  A line of history:
 *
 *			number <tab> kind <tab> answer <tab> gid <tab> operations
 *
 *		kind: transfer, append, snapshot, read, tcc, saga, run; answer: ok, fail,
 *		or unknown when nobody answered a COMMIT.  operations, separated by
 *		blanks:
 *
 *			a:node:key:value	appended
 *			x:node:key:value	appended, and rolled back to a savepoint
 *			r:node:key:1,2,3	read
 *			m:node:amount		money moved
 *			s:total				the sum of all balances that was read
 *			t:node:name			a TCC branch that was tried
 *			u:node:name			the same, rolled back to a savepoint
 *			f:node:name			a step of a saga
 *
 *		A transaction appends the same values on all its nodes' lists in the
 *		order of nodes, so that two of them do not wait for each other in a
 *		circle more often than they have to.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libpq-fe.h>

static volatile sig_atomic_t ending = 0;
static const char *conninfo;
static const char *nodes;
static int	accounts;
static int	keys;
static int	number;
static long serial = 0;
static unsigned short state[3];
static PGconn *connection = NULL;
static char operations[4 * 1024 * 1024];
static char gid[100];
static char run_error[8];

static void
end(__attribute__((unused)) int signal_number)
{
	ending = 1;
}

static int
dice(int sides)
{
	return (int) (erand48(state) * sides);
}

static void
note(const char *format,...)
{
	va_list		arguments;
	size_t		length = strlen(operations);

	va_start(arguments, format);
	/* a history that lacks something would be worse than none */
	if (vsnprintf(operations + length, sizeof(operations) - length, format, arguments) >= (int) (sizeof(operations) - length))
		abort();
	va_end(arguments);
}

/* The first value, or NULL after an error; *answered says whether there was one. */
static char *
run(int *answered, const char *format,...)
{
	static char value[1024 * 1024];
	static char sql[2 * 1024 * 1024];
	va_list		arguments;
	PGresult   *result;
	int			ok;

	va_start(arguments, format);
	vsnprintf(sql, sizeof(sql), format, arguments);
	va_end(arguments);
	result = PQexec(connection, sql);
	ok = PQresultStatus(result) == PGRES_TUPLES_OK || PQresultStatus(result) == PGRES_COMMAND_OK;
	*answered = 1;
	if (!ok)
	{
		const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);

		/* what is said of a COMMIT, and certain: see README */
		if (PQstatus(connection) != CONNECTION_OK || sqlstate == NULL ||
			strcmp(sqlstate, "08007") == 0 || strncmp(sqlstate, "57P", 3) == 0 ||
			strcmp(sqlstate, "XX000") == 0)
			*answered = 0;
		snprintf(value, sizeof(value), "%s", sqlstate ? sqlstate : "-----");
		snprintf(run_error, sizeof(run_error), "%.5s", value);
	}
	else
		snprintf(value, sizeof(value), "%s", PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) :
				 PQcmdStatus(result));
	PQclear(result);
	return ok ? value : NULL;
}

/* Some nodes, at least two, in order. */
static int
choose(char *chosen)
{
	int			count = 0;
	int			all = (int) strlen(nodes);

	do
	{
		count = 0;
		for (int i = 0; i < all; i++)
			if (dice(2))
				chosen[count++] = nodes[i];
	} while (count < 2);
	chosen[count] = '\0';
	return count;
}

static int
move_money(char node, int amount)
{
	int			answered;

	note(" m:%c:%d", node, amount);
	return run(&answered, "SELECT dtx.%s('%c', 'UPDATE account SET balance = balance + $1 WHERE id = $2',"
			   " ARRAY['%d', '%d'], expect => 1)", dice(4) ? "exec" : "send", node, amount,
			   1 + dice(accounts)) != NULL;
}

static int
append(char node, char kind)
{
	int			answered;
	int			key = 1 + dice(keys);
	long		value = (long) number * 10000000 + ++serial;

	note(" %c:%c:%d:%ld", kind, node, key, value);
	return run(&answered, "SELECT dtx.exec('%c', 'UPDATE list SET items = items || $1::bigint WHERE key = $2',"
			   " ARRAY['%ld', '%d'], expect => 1)", node, value, key) != NULL;
}

/* Read a list; with "change", lock it and write it back with one more. */
static int
read_list(char node, int change)
{
	int			answered;
	int			key = 1 + dice(keys);
	char	   *items = run(&answered, "SELECT items FROM dtx.query('%c', 'SELECT array_to_string(items, '','') FROM list"
							" WHERE key = %d%s') AS t(items text)", node, key, change ? " FOR UPDATE" : "");
	long		value;

	if (items == NULL)
		return 0;
	note(" r:%c:%d:%s", node, key, items);
	if (!change)
		return 1;
	value = (long) number * 10000000 + ++serial;
	note(" a:%c:%d:%ld", node, key, value);
	return run(&answered, "SELECT dtx.exec('%c', 'UPDATE list SET items = string_to_array(NULLIF($1, ''''), '','')::bigint[]"
			   " || $2::bigint WHERE key = $3', ARRAY['%s', '%ld', '%d'], expect => 1)",
			   node, items, value, key) != NULL;
}

/*
 * A TCC branch: the payer's reserves money, the payee's gets it when it is
 * confirmed.  Each operation leaves its mark in the table "effect".
 */
static int
try_branch(char node, int amount, char kind)
{
	int			answered;
	long		name = (long) number * 10000000 + ++serial;

	note(" %c:%c:%ld", kind, node, name);
	return run(&answered, "SELECT dtx.tcc_try('%c',"
			   " 'WITH e AS (INSERT INTO effect VALUES ($1, $2, ''try'')) UPDATE purse SET balance = balance - $3::bigint, held = held + $3::bigint WHERE id = $4::int',"
			   " 'WITH e AS (INSERT INTO effect VALUES ($1, $2, ''confirm'')) UPDATE purse SET held = held - $3::bigint, balance = balance + $5::bigint WHERE id = $4::int',"
			   " 'WITH e AS (INSERT INTO effect VALUES ($1, $2, ''cancel'')) UPDATE purse SET held = held - $3::bigint, balance = balance + $3::bigint + 0 * $5::bigint WHERE id = $4::int',"
			   " '[\"%s\", \"%ld\", %d, %d, %d]')",
			   node, gid, name, amount > 0 ? 0 : -amount, 1 + dice(accounts), amount > 0 ? amount : 0) != NULL;
}

/* A saga that moves money between purses; some are refused at their end. */
static void
make_saga(const char *chosen, int count, char *definition, size_t size)
{
	int			amount = 1 + dice(50);
	int			payer = dice(count);
	int			refused = dice(4) == 0;
	size_t		length = 0;

	length += snprintf(definition + length, size - length, "{\"concurrent\": %s, \"steps\": [",
					   dice(2) ? "true" : "false");
	for (int i = 0; i < count; i++)
	{
		long		name = (long) number * 10000000 + ++serial;

		note(" f:%c:%ld", chosen[i], name);
		length += snprintf(definition + length, size - length,
						   "%s{\"name\": \"%ld\", \"node\": \"%c\","
						   " \"action\": \"WITH e AS (INSERT INTO effect VALUES ($1, $2, ''action'')) UPDATE purse SET balance = balance + $3::bigint / $5::bigint WHERE id = $4::int\","
						   " \"compensation\": \"WITH e AS (INSERT INTO effect VALUES ($1, $2, ''compensation'')) UPDATE purse SET balance = balance - $3::bigint WHERE id = $4::int\","
						   " \"args\": [\"$.input.gid\", \"%ld\", %d, %d, %d]}",
						   i > 0 ? ", " : "", name, chosen[i], name,
						   i == payer ? -amount * (count - 1) : amount, 1 + dice(accounts),
						   refused && i == count - 1 ? 0 : 1);
	}
	snprintf(definition + length, size - length, "]}");
}

static int
work(const char *kind)
{
	char		chosen[32];
	int			count = choose(chosen);
	int			answered;

	if (strcmp(kind, "transfer") == 0)
	{
		int			amount = dice(20) == 0 ? 100000000 : 1 + dice(50);
		int			left = amount * (count - 1);
		int			payer = dice(count);

		for (int i = 0; i < count; i++)
			if (!move_money(chosen[i], i == payer ? -left : amount))
				return 0;
		if (dice(20) == 0 && run(&answered, "SELECT pg_sleep(0.3)") == NULL)
			return 0;
		return run(&answered, "INSERT INTO ledger (note, amount) VALUES ('%s', %d)", gid, amount) != NULL;
	}
	if (strcmp(kind, "append") == 0)
	{
		for (int i = 0; i < count; i++)
		{
			if (dice(5) == 0)
			{
				if (run(&answered, "SAVEPOINT s0") == NULL || !append(chosen[i], 'x') ||
					run(&answered, "ROLLBACK TO s0") == NULL)
					return 0;
			}
			if (dice(3) == 0 ? !read_list(chosen[i], 1) : !append(chosen[i], 'a'))
				return 0;
			/* two in one transaction: the first must never be seen alone */
			if (dice(4) == 0 && !append(chosen[i], 'a'))
				return 0;
			if (dice(3) == 0 && !read_list(chosen[i], 0))
				return 0;
		}
		return run(&answered, "INSERT INTO ledger (note, amount) VALUES ('%s', 0)", gid) != NULL;
	}
	if (strcmp(kind, "tcc") == 0)
	{
		int			amount = 1 + dice(50);
		int			payer = dice(count);

		for (int i = 0; i < count; i++)
		{
			if (dice(5) == 0 &&
				(run(&answered, "SAVEPOINT s0") == NULL || !try_branch(chosen[i], amount, 'u') ||
				 run(&answered, "ROLLBACK TO s0") == NULL))
				return 0;
			if (!try_branch(chosen[i], i == payer ? -amount * (count - 1) : amount, 't'))
				return 0;
		}
		/* both kinds of branches in one transaction */
		if (dice(3) == 0 && (!move_money(chosen[0], amount) || !move_money(chosen[1], -amount)))
			return 0;
		return run(&answered, "INSERT INTO ledger (note, amount) VALUES ('%s', %d)", gid, amount) != NULL;
	}
	if (strcmp(kind, "saga") == 0)
	{
		char		definition[8192];

		make_saga(chosen, count, definition, sizeof(definition));
		return run(&answered, "SELECT dtx.saga_submit('%s', '%s', '{\"gid\": \"%s\"}')", definition, gid, gid) != NULL;
	}
	/* sums, of one moment or not */
	{
		long		total = 0;

		if (strcmp(kind, "snapshot") == 0 &&
			run(&answered, "SELECT dtx.snapshot('{%c,%c,%c,%c}')", nodes[0], nodes[1], nodes[2], nodes[3]) == NULL)
			return 0;
		for (int i = 0; nodes[i]; i++)
		{
			char	   *sum = run(&answered, "SELECT sum FROM dtx.query('%c', 'SELECT sum(balance) FROM account')"
								  " AS t(sum bigint)", nodes[i]);

			if (sum == NULL)
				return 0;
			total += atol(sum);
		}
		note(" s:%ld", total);
		return 1;
	}
}

static void
transaction(void)
{
	int			answered = 1;
	int			what = dice(26);
	const char *kind = what < 10 ? "transfer" : what < 17 ? "append" : what < 19 ? "snapshot" :
		what < 20 ? "read" : what < 22 ? "tcc" : what < 25 ? "saga" : "run";
	int			writes = what < 17 || strcmp(kind, "tcc") == 0;
	const char *answer = "fail";
	char	   *value;
	static long count = 0;

	operations[0] = gid[0] = '\0';
	if (what >= 22)
		snprintf(gid, sizeof(gid), "saga_%d_%ld", number, ++serial);
	if (strcmp(kind, "run") == 0)
	{
		char		definition[8192];
		char		chosen[32];

		make_saga(chosen, choose(chosen), definition, sizeof(definition));
		if ((value = run(&answered, "CALL dtx.saga_run('%s', '%s', '{\"gid\": \"%s\"}')",
						 definition, gid, gid)) != NULL)
			answer = strcmp(value, "committed") == 0 ? "ok" : "unknown";
		else
			answer = answered && strcmp(run_error, "22012") == 0 ? "fail" : "unknown";
	}
	else if (run(&answered, "BEGIN") != NULL &&
		(!writes || ((value = run(&answered, "SELECT dtx.current_gid()")) != NULL &&
					 snprintf(gid, sizeof(gid), "%s", value) > 0)) &&
		work(kind))
	{
		if ((value = run(&answered, "COMMIT")) != NULL)
			answer = strcmp(value, "COMMIT") == 0 ? "ok" : "fail";
		else
			answer = answered ? "fail" : "unknown";
	}
	if (PQtransactionStatus(connection) != PQTRANS_IDLE && PQstatus(connection) == CONNECTION_OK)
		(void) run(&answered, "ROLLBACK");
	printf("%d.%ld\t%s\t%s\t%s\t%s\n", number, ++count, kind, answer, gid[0] ? gid : "-",
		   operations[0] ? operations + 1 : "-");
	fflush(stdout);
}

static void
ignore(__attribute__((unused)) void *arg, __attribute__((unused)) const PGresult *result)
{
}

int
main(int argc, char **argv)
{
	if (argc != 7)
		return 2;
	conninfo = argv[1];
	number = atoi(argv[3]);
	state[0] = (unsigned short) atoi(argv[2]);
	state[1] = (unsigned short) number;
	state[2] = 0x330e;
	nodes = argv[4];
	accounts = atoi(argv[5]);
	keys = atoi(argv[6]);
	signal(SIGTERM, end);
	while (!ending)
	{
		connection = PQconnectdb(conninfo);
		if (PQstatus(connection) != CONNECTION_OK)
		{
			PQfinish(connection);
			usleep(100000);
			continue;
		}
		PQsetNoticeReceiver(connection, ignore, NULL);
		while (!ending && PQstatus(connection) == CONNECTION_OK)
			transaction();
		PQfinish(connection);
	}
	return 0;
}
