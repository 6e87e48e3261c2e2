/*-------------------------------------------------------------------------
 *
 * gid.c
 *		Names of global transactions and of their branches.
 *
 *		dtx_<life>_<xid8>_<nonce>[_<branch>], all hexadecimal
 *
 * (1) One builder, one parser: whatever the parser accepts, the builder
 *	   writes back unchanged, so foreign gids that only look alike are left
 *	   alone.
 * (2) No user's text is in a gid: pg_prepared_xacts is readable by everyone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "dtx.h"

/*
 * Write a number in so many hexadecimal digits, or in as few as it takes (0);
 * returns where it ends.  Names are made in every transaction, and snprintf
 * takes ten times as long.
 */
char *
dtx_hex(char *to, uint64 value, int digits)
{
	if (digits == 0)
		for (digits = 1; digits < 16 && value >> (4 * digits) != 0;)
			digits++;
	for (int i = digits - 1; i >= 0; i--, value >>= 4)
		to[i] = "0123456789abcdef"[value & 15];
	to[digits] = '\0';
	return to + digits;
}

/* Write gid into buffer, which has DTX_GID_SIZE bytes. */
void
dtx_gid_format(const DtxGid *gid, char *buffer)
{
	char	   *end = buffer;

	memcpy(end, "dtx_", 4);
	end = dtx_hex(end + 4, gid->life, 16);
	*end++ = '_';
	end = dtx_hex(end, gid->xid, 0);
	*end++ = '_';
	end = dtx_hex(end, gid->nonce, 16);
	if (gid->branch > 0)
	{
		*end++ = '_';
		end = dtx_hex(end, gid->branch, 0);
	}
	Assert(end < buffer + DTX_GID_SIZE);
}

/* Read one hexadecimal number and what must follow it; NULL if it is not so. */
static const char *
parse_hex(const char *text, int digits_min, int digits_max, uint64 *value)
{
	int			digits = 0;

	*value = 0;
	while ((*text >= '0' && *text <= '9') || (*text >= 'a' && *text <= 'f'))
	{
		if (++digits > digits_max)
			return NULL;
		*value = *value << 4 |
			(uint64) (*text <= '9' ? *text - '0' : *text - 'a' + 10);
		text++;
	}
	return digits >= digits_min ? text : NULL;
}

/* Is text one of our gids?  If so, take it apart. */
bool
dtx_gid_parse(const char *text, DtxGid *gid)
{
	const char *p = text;
	uint64		branch = 0;
	char		again[DTX_GID_SIZE];

	if (strncmp(p, "dtx_", 4) != 0)
		return false;
	if ((p = parse_hex(p + 4, 16, 16, &gid->life)) == NULL || *p++ != '_')
		return false;
	if ((p = parse_hex(p, 1, 16, &gid->xid)) == NULL || *p++ != '_')
		return false;
	if ((p = parse_hex(p, 16, 16, &gid->nonce)) == NULL)
		return false;
	if (*p == '_' && (p = parse_hex(p + 1, 1, 6, &branch)) == NULL)
		return false;
	if (*p != '\0')
		return false;
	gid->branch = (int) branch;
	dtx_gid_format(gid, again);
	return strcmp(again, text) == 0;
}

/* A life as users write it: 16 hexadecimal digits. */
bool
dtx_life_parse(const char *text, uint64 *life)
{
	const char *end = parse_hex(text, 16, 16, life);

	return end != NULL && *end == '\0';
}

/*
 * 64 random bits, never zero, which stands for "none".  They are fetched for
 * several transactions at once, and in this process: a forked child must not
 * go on with its parent's.
 */
uint64
dtx_random64(void)
{
	static uint64 values[32];
	static int	left = 0;
	static pid_t owner = 0;
	uint64		value;

	do
	{
		if (left == 0 || owner != MyProcPid)
		{
			left = 0;
			if (!pg_strong_random(values, sizeof(values)))
				ereport(ERROR,
						(errcode(ERRCODE_INTERNAL_ERROR),
						 errmsg("could not generate random bits")));
			left = lengthof(values);
			owner = MyProcPid;
		}
		value = values[--left];
	} while (value == 0);
	return value;
}
