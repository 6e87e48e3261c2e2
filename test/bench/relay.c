/*-------------------------------------------------------------------------
 *
 * relay.c
 *		Carries bytes between clients and servers, and counts round trips.
 *
 *		relay LISTEN:TARGET...	ports of 127.0.0.1
 *
 *		A round trip begins when a connection that owes no answer sends
 *		something, and is over when the server has said that it is ready
 *		(ReadyForQuery).  Connections must not be encrypted.  A step begins when that happens while no connection
 *		owes an answer: what is asked of several servers at once is one step.
 *		With one client that waits for each of its transactions, steps are
 *		what comes one after another.
 *
 *		At SIGTERM it prints "round_trips steps" and ends.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LISTENERS_MAX 8
#define PAIRS_MAX 256

typedef struct Pair
{
	int			client;
	int			server;
	int			owed;			/* asked, and not yet answered */
	/* where we are in what the server says */
	int			begun;
	unsigned char header[5];
	int			header_length;
	unsigned	body_left;
} Pair;

static Pair pairs[PAIRS_MAX];
static int	pair_count = 0;
static long round_trips = 0;
static long steps = 0;
static volatile sig_atomic_t ending = 0;

static void
end(__attribute__((unused)) int signal_number)
{
	ending = 1;
}

static void
die(const char *what)
{
	perror(what);
	exit(1);
}

static struct sockaddr_in
address(int port)
{
	struct sockaddr_in result = {0};

	result.sin_family = AF_INET;
	result.sin_port = htons(port);
	result.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return result;
}

static void
no_delay(int fd)
{
	int			on = 1;

	(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static int
write_all(int fd, const char *data, ssize_t length)
{
	while (length > 0)
	{
		ssize_t		written = write(fd, data, length);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return 0;
		data += written;
		length -= written;
	}
	return 1;
}

static void
asked(Pair *pair)
{
	int			owed = 0;

	if (pair->owed)
		return;
	for (int i = 0; i < pair_count; i++)
		owed += pairs[i].owed;
	round_trips++;
	if (owed == 0)
		steps++;
	pair->owed = 1;
}

/* Follow the server's messages to the end of an answer. */
static void
answered(Pair *pair, const unsigned char *data, ssize_t length)
{
	/* "no" to the question for encryption is a byte, and no message */
	if (!pair->begun && length > 0 && *data == 'N')
	{
		data++;
		length--;
		pair->owed = 0;
	}
	pair->begun = 1;
	while (length > 0)
	{
		if (pair->body_left > 0)
		{
			unsigned	part = pair->body_left < length ? pair->body_left : (unsigned) length;

			pair->body_left -= part;
			data += part;
			length -= part;
			if (pair->body_left == 0 && pair->header[0] == 'Z')
				pair->owed = 0;
			continue;
		}
		pair->header[pair->header_length++] = *data++;
		length--;
		if (pair->header_length == 5)
		{
			pair->header_length = 0;
			pair->body_left = ((unsigned) pair->header[1] << 24 | pair->header[2] << 16 |
							   pair->header[3] << 8 | pair->header[4]) - 4;
		}
	}
}

int
main(int argc, char **argv)
{
	int			listener[LISTENERS_MAX];
	int			target[LISTENERS_MAX];
	int			listeners = argc - 1;

	if (listeners < 1 || listeners > LISTENERS_MAX)
		return 2;
	signal(SIGTERM, end);
	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; i < listeners; i++)
	{
		int			port;
		int			on = 1;
		struct sockaddr_in here;

		if (sscanf(argv[i + 1], "%d:%d", &port, &target[i]) != 2)
			return 2;
		here = address(port);
		listener[i] = socket(AF_INET, SOCK_STREAM, 0);
		(void) setsockopt(listener[i], SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		if (bind(listener[i], (struct sockaddr *) &here, sizeof(here)) != 0 ||
			listen(listener[i], 64) != 0)
			die("could not listen");
	}

	while (!ending)
	{
		struct pollfd fds[LISTENERS_MAX + 2 * PAIRS_MAX];
		int			count = pair_count;

		for (int i = 0; i < listeners; i++)
			fds[i] = (struct pollfd) {listener[i], POLLIN, 0};
		for (int i = 0; i < count; i++)
		{
			fds[listeners + 2 * i] = (struct pollfd) {pairs[i].client, POLLIN, 0};
			fds[listeners + 2 * i + 1] = (struct pollfd) {pairs[i].server, POLLIN, 0};
		}
		/* a signal just before this is noticed at the next byte or second */
		if (poll(fds, listeners + 2 * count, 1000) < 0)
			continue;

		/* answers first: they may end what a request is to be counted with */
		for (int side = 1; side >= 0; side--)
			for (int i = 0; i < count; i++)
			{
				Pair	   *pair = &pairs[i];
				char		buffer[65536];
				ssize_t		length;

				if (pair->client < 0 || !fds[listeners + 2 * i + side].revents)
					continue;
				length = read(side ? pair->server : pair->client, buffer, sizeof(buffer));
				if (length > 0 && side)
					answered(pair, (unsigned char *) buffer, length);
				else if (length > 0 && buffer[0] != 'X')
					asked(pair);
				if (length <= 0 || !write_all(side ? pair->client : pair->server, buffer, length))
				{
					close(pair->client);
					close(pair->server);
					pair->client = pair->server = -1;
					pair->owed = 0;
				}
			}
		for (int i = 0; i < pair_count;)
		{
			if (pairs[i].client < 0)
				pairs[i] = pairs[--pair_count];
			else
				i++;
		}
		for (int i = 0; i < listeners; i++)
		{
			Pair	   *pair = &pairs[pair_count];
			struct sockaddr_in there = address(target[i]);

			if (!fds[i].revents || pair_count == PAIRS_MAX)
				continue;
			memset(pair, 0, sizeof(Pair));
			pair->client = accept(listener[i], NULL, NULL);
			if (pair->client < 0)
				continue;
			pair->server = socket(AF_INET, SOCK_STREAM, 0);
			if (connect(pair->server, (struct sockaddr *) &there, sizeof(there)) != 0)
				die("could not connect");
			no_delay(pair->client);
			no_delay(pair->server);
			pair_count++;
		}
	}
	printf("%ld %ld\n", round_trips, steps);
	return 0;
}
