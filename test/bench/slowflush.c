/*
 * slowflush.c
 *		A disk that is slower than this one: each flush of a server takes so
 *		many microseconds longer.  For LD_PRELOAD, with DTX_FLUSH_US.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void
wait_for_disk(void)
{
	static long us = -1;
	struct timespec left;

	if (us < 0)
		us = getenv("DTX_FLUSH_US") ? atol(getenv("DTX_FLUSH_US")) : 0;
	left.tv_sec = us / 1000000;
	left.tv_nsec = us % 1000000 * 1000;
	while (nanosleep(&left, &left) != 0)
		;
}

int
fsync(int fd)
{
	static int	(*real) (int);

	if (real == NULL)
		real = (int (*) (int)) dlsym(RTLD_NEXT, "fsync");
	wait_for_disk();
	return real(fd);
}

int
fdatasync(int fd)
{
	static int	(*real) (int);

	if (real == NULL)
		real = (int (*) (int)) dlsym(RTLD_NEXT, "fdatasync");
	wait_for_disk();
	return real(fd);
}
