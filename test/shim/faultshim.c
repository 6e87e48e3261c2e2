/*
 * faultshim.c
 *		What disks and clocks do at the worst moment, for one server.
 *
 *		Loaded by LD_PRELOAD (test/perl/DtxFault.pm compiles it and writes its
 *		files).  Two files control it, and take effect at once:
 *
 *		$DTX_SHIM		while it exists, one rule a line:
 *
 *						CALL ACTION PATH
 *
 *			CALL	fsync (fdatasync as well), write (pwrite, pwritev), grow
 *					(a write beyond the end of the file), create (open with
 *					O_CREAT), rename
 *			ACTION	EIO, ENOSPC: the call fails so.  KILL: the process is
 *					killed instead.  DOWN: its parent, the postmaster, too.
 *					With a ! behind it, it happens once, to one process.
 *			PATH	a part of the file's path
 *
 *		$DTX_SHIM.clock	eight bytes, the number of microseconds that the wall
 *						clock is off; monotonic clocks are left alone
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const char *rules;
static volatile const int64_t *clock_offset;

#define REAL(name) \
	static __typeof__(name) *real; \
	if (real == NULL) \
		real = (__typeof__(name) *) dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void
begin(void)
{
	char		path[4096];
	int			fd;
	void	   *map;

	rules = getenv("DTX_SHIM");
	if (rules == NULL)
		return;
	rules = strdup(rules);		/* PostgreSQL's title is written over it */
	snprintf(path, sizeof(path), "%s.clock", rules);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return;
	map = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
	if (map != MAP_FAILED)
		clock_offset = map;
	close(fd);
}

/* The errno that a call is to fail with, or 0.  path, or where fd points to. */
static int
fault(const char *call, int fd, const char *path)
{
	char		name[4096];
	char		link[64];
	char		wanted[32];
	char		action[32];
	char		part[256];
	int			result = 0;
	int			saved = errno;
	FILE	   *file;

	if (rules == NULL || access(rules, R_OK) != 0)
	{
		errno = saved;
		return 0;
	}
	if (path == NULL)
	{
		ssize_t		length;

		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		length = readlink(link, name, sizeof(name) - 1);
		name[length < 0 ? 0 : length] = '\0';
		path = name;
	}
	file = fopen(rules, "r");
	while (file != NULL && result == 0 &&
		   fscanf(file, "%31s %31s %255s", wanted, action, part) == 3)
	{
		char	   *once = strchr(action, '!');

		if (strcmp(wanted, call) != 0 || strstr(path, part) == NULL)
			continue;
		/* whoever removes the file is the one */
		if (once != NULL && unlink(rules) != 0)
			break;
		if (once != NULL)
			*once = '\0';
		if (strcmp(action, "DOWN") == 0)
			kill(getppid(), SIGKILL);
		if (strcmp(action, "DOWN") == 0 || strcmp(action, "KILL") == 0)
			kill(getpid(), SIGKILL);
		result = strcmp(action, "ENOSPC") == 0 ? ENOSPC : EIO;
	}
	if (file != NULL)
		fclose(file);
	errno = saved;
	return result;
}

static int
write_fault(int fd, off_t end)
{
	struct stat status;
	int			result = fault("write", fd, NULL);

	if (result == 0 && rules != NULL && fstat(fd, &status) == 0 && end > status.st_size)
		result = fault("grow", fd, NULL);
	return result;
}

#define FAIL_IF(expression) \
	do { \
		int			failure = (expression); \
		if (failure != 0) \
		{ \
			errno = failure; \
			return -1; \
		} \
	} while (0)

int
fsync(int fd)
{
	REAL(fsync);
	FAIL_IF(fault("fsync", fd, NULL));
	return real(fd);
}

int
fdatasync(int fd)
{
	REAL(fdatasync);
	FAIL_IF(fault("fsync", fd, NULL));
	return real(fd);
}

ssize_t
write(int fd, const void *data, size_t size)
{
	REAL(write);
	FAIL_IF(fault("write", fd, NULL));
	return real(fd, data, size);
}

ssize_t
pwrite(int fd, const void *data, size_t size, off_t at)
{
	REAL(pwrite);
	FAIL_IF(write_fault(fd, at + (off_t) size));
	return real(fd, data, size, at);
}

ssize_t
pwritev(int fd, const struct iovec *data, int count, off_t at)
{
	off_t		end = at;

	REAL(pwritev);
	for (int i = 0; i < count; i++)
		end += (off_t) data[i].iov_len;
	FAIL_IF(write_fault(fd, end));
	return real(fd, data, count, at);
}

int
posix_fallocate(int fd, off_t at, off_t size)
{
	int			failure = write_fault(fd, at + size);

	REAL(posix_fallocate);
	return failure != 0 ? failure : real(fd, at, size);
}

int
rename(const char *from, const char *to)
{
	REAL(rename);
	FAIL_IF(fault("rename", -1, to));
	return real(from, to);
}

int
open(const char *path, int flags,...)
{
	mode_t		mode = 0;

	REAL(open);
	if (flags & O_CREAT)
	{
		va_list		arguments;

		va_start(arguments, flags);
		mode = va_arg(arguments, mode_t);
		va_end(arguments);
		FAIL_IF(fault("create", -1, path));
	}
	return real(path, flags, mode);
}

int
gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	int			result;
	int64_t		microseconds;

	REAL(gettimeofday);
	result = real(now, zone);
	if (result == 0 && clock_offset != NULL && *clock_offset != 0)
	{
		microseconds = (int64_t) now->tv_sec * 1000000 + now->tv_usec + *clock_offset;
		now->tv_sec = microseconds / 1000000;
		now->tv_usec = microseconds % 1000000;
	}
	return result;
}

time_t
time(time_t *where)
{
	struct timeval now;

	gettimeofday(&now, NULL);
	if (where != NULL)
		*where = now.tv_sec;
	return now.tv_sec;
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
	int			result;

	REAL(clock_gettime);
	result = real(clock, now);
	if (result == 0 && clock == CLOCK_REALTIME && clock_offset != NULL)
		now->tv_sec += *clock_offset / 1000000;
	return result;
}
