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

/* Write gid into buffer, which has DTX_GID_SIZE bytes. */
void
dtx_gid_format(const DtxGid *gid, char *buffer)
{
	int			length;

	length = snprintf(buffer, DTX_GID_SIZE, "dtx_%016llx_%llx_%016llx",
					  (unsigned long long) gid->life,
					  (unsigned long long) gid->xid,
					  (unsigned long long) gid->nonce);
	if (gid->branch > 0)
		snprintf(buffer + length, DTX_GID_SIZE - length, "_%x", gid->branch);
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

/* 64 random bits, never zero, which stands for "none". */
uint64
dtx_random64(void)
{
	uint64		value;

	do
	{
		if (!pg_strong_random(&value, sizeof(value)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random bits")));
	} while (value == 0);
	return value;
}
