/*-------------------------------------------------------------------------
 *
 * client.c
 *		Transfers by two-phase commit, written by hand with libpq: what dtx
 *		is measured against.
 *
 *		Each client is a thread with a connection to each of three servers.
 *		A transfer takes five round trips: BEGIN and the payer's UPDATE, BEGIN
 *		and the payee's (both at once with --overlap), PREPARE TRANSACTION on
 *		both at once, a log row on the coordinator, COMMIT PREPARED on both at
 *		once.  Counts and command tags are checked.  The updates and the log
 *		row are prepared statements.  Nothing finishes what this program
 *		leaves behind when it dies, and nothing removes log rows.
 *
 *		Ends after --transactions of each client, or at SIGALRM.  Writes a
 *		line for each transfer in the format of "pgbench --log".
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include <libpq-fe.h>

enum
{
	COORDINATOR,
	PAYER,
	PAYEE,
	SERVERS
};

typedef struct Client
{
	pthread_t	thread;
	int			number;
	unsigned short random[3];
	PGconn	   *connection[SERVERS];
	FILE	   *log;
} Client;

static const char *conninfo[SERVERS];
static int	accounts = 10000;
static long transactions = 0;
static int	overlap = 0;
static const char *log_prefix = NULL;
static volatile sig_atomic_t ending = 0;

static void
end(__attribute__((unused)) int signal_number)
{
	ending = 1;
}

static void
die(const char *format,...)
{
	va_list		arguments;

	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(1);
}

/* Take one result in; it must have this tag. */
static void
expect(PGconn *connection, const char *tag)
{
	PGresult   *result = PQgetResult(connection);

	if (result == NULL || strcmp(PQcmdStatus(result), tag) != 0)
		die("\"%s\" instead of \"%s\": %s", result ? PQcmdStatus(result) : "", tag,
			PQerrorMessage(connection));
	PQclear(result);
}

static void
expect_end(PGconn *connection)
{
	if (PQgetResult(connection) != NULL)
		die("more results than statements: %s", PQerrorMessage(connection));
}

static void
send_string(PGconn *connection, const char *sql)
{
	if (!PQsendQuery(connection, sql))
		die("could not send: %s", PQerrorMessage(connection));
}

/* One string, whose statements are prepared: BEGIN costs no round trip. */
static void
send_update(PGconn *connection, int amount, int account)
{
	char		sql[100];

	snprintf(sql, sizeof(sql), "BEGIN; EXECUTE change('%d', '%d')", amount, account);
	send_string(connection, sql);
}

static void
get_update(PGconn *connection)
{
	expect(connection, "BEGIN");
	expect(connection, "UPDATE 1");
	expect_end(connection);
}

static void
transfer(Client *client, long number)
{
	PGconn	   *payer = client->connection[PAYER];
	PGconn	   *payee = client->connection[PAYEE];
	int			amount = 1 + (int) (erand48(client->random) * 100);
	int			from = 1 + (int) (erand48(client->random) * accounts);
	int			to = 1 + (int) (erand48(client->random) * accounts);
	char		gid[64];
	char		sql[100];
	const char *values[1] = {gid};
	PGresult   *result;

	snprintf(gid, sizeof(gid), "client_%d_%d_%ld", (int) getpid(), client->number, number);

	send_update(payer, amount, from);
	if (!overlap)
		get_update(payer);
	send_update(payee, amount, to);
	if (overlap)
		get_update(payer);
	get_update(payee);

	snprintf(sql, sizeof(sql), "PREPARE TRANSACTION '%s'", gid);
	send_string(payer, sql);
	send_string(payee, sql);
	expect(payer, "PREPARE TRANSACTION");
	expect_end(payer);
	expect(payee, "PREPARE TRANSACTION");
	expect_end(payee);

	result = PQexecPrepared(client->connection[COORDINATOR], "decide", 1, values, NULL, NULL, 0);
	if (strcmp(PQcmdStatus(result), "INSERT 0 1") != 0)
		die("no log row: %s", PQerrorMessage(client->connection[COORDINATOR]));
	PQclear(result);

	snprintf(sql, sizeof(sql), "COMMIT PREPARED '%s'", gid);
	send_string(payer, sql);
	send_string(payee, sql);
	expect(payer, "COMMIT PREPARED");
	expect_end(payer);
	expect(payee, "COMMIT PREPARED");
	expect_end(payee);
}

static void *
run(void *argument)
{
	Client	   *client = argument;

	for (long i = 0; !ending && (transactions == 0 || i < transactions); i++)
	{
		struct timeval begun;
		struct timeval done;

		gettimeofday(&begun, NULL);
		transfer(client, i);
		gettimeofday(&done, NULL);
		if (client->log)
			fprintf(client->log, "%d %ld %ld 0 %ld %ld\n", client->number, i,
					(done.tv_sec - begun.tv_sec) * 1000000L + done.tv_usec - begun.tv_usec,
					(long) done.tv_sec, (long) done.tv_usec);
	}
	return NULL;
}

static void
simple(PGconn *connection, const char *sql)
{
	PGresult   *result = PQexec(connection, sql);

	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die("%s: %s", sql, PQerrorMessage(connection));
	PQclear(result);
}

static void
open_client(Client *client, int number)
{
	client->number = number;
	client->random[0] = (unsigned short) number;
	client->random[1] = (unsigned short) getpid();
	for (int i = 0; i < SERVERS; i++)
	{
		client->connection[i] = PQconnectdb(conninfo[i]);
		if (PQstatus(client->connection[i]) != CONNECTION_OK)
			die("%s", PQerrorMessage(client->connection[i]));
	}
	simple(client->connection[PAYER],
		   "PREPARE change AS UPDATE account SET balance = balance - $1 WHERE id = $2");
	simple(client->connection[PAYEE],
		   "PREPARE change AS UPDATE account SET balance = balance + $1 WHERE id = $2");
	simple(client->connection[COORDINATOR],
		   "PREPARE decide(text) AS INSERT INTO decision VALUES ($1)");
	if (log_prefix)
	{
		char		path[1024];

		snprintf(path, sizeof(path), "%s.%d.%d", log_prefix, (int) getpid(), number);
		if ((client->log = fopen(path, "w")) == NULL)
			die("could not create \"%s\"", path);
	}
}

int
main(int argc, char **argv)
{
	static const struct option options[] = {
		{"clients", required_argument, NULL, 'c'},
		{"transactions", required_argument, NULL, 't'},
		{"accounts", required_argument, NULL, 'a'},
		{"log", required_argument, NULL, 'l'},
		{"overlap", no_argument, NULL, 'o'},
		{NULL}
	};
	int			clients = 1;
	Client	   *client;
	int			c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		switch (c)
		{
			case 'c':
				clients = atoi(optarg);
				break;
			case 't':
				transactions = atol(optarg);
				break;
			case 'a':
				accounts = atoi(optarg);
				break;
			case 'l':
				log_prefix = optarg;
				break;
			case 'o':
				overlap = 1;
				break;
			default:
				return 2;
		}
	}
	if (argc - optind != SERVERS || clients < 1)
		die("usage: client [--clients N] [--transactions N] [--accounts N] [--log PREFIX] [--overlap] "
			"COORDINATOR PAYER PAYEE");
	for (int i = 0; i < SERVERS; i++)
		conninfo[i] = argv[optind + i];

	signal(SIGALRM, end);
	client = calloc(clients, sizeof(Client));
	for (int i = 0; i < clients; i++)
		open_client(&client[i], i);
	for (int i = 0; i < clients; i++)
		if (pthread_create(&client[i].thread, NULL, run, &client[i]) != 0)
			die("could not start a thread");
	for (int i = 0; i < clients; i++)
		pthread_join(client[i].thread, NULL);
	for (int i = 0; i < clients; i++)
	{
		if (client[i].log && fclose(client[i].log) != 0)
			die("could not write the log");
		for (int j = 0; j < SERVERS; j++)
			PQfinish(client[i].connection[j]);
	}
	return 0;
}
