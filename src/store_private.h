/*-------------------------------------------------------------------------
 *
 * store_private.h
 *		What the files that read and write dtx tables have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_STORE_PRIVATE_H
#define DTX_STORE_PRIVATE_H

#include "executor/spi.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/relcache.h"

/*
 * Work on the tables as their owner, with a search path that nobody else can
 * fill, and with a snapshot of this moment for whatever is only read.
 */
typedef struct StoreContext
{
	Oid			save_user;
	int			save_sec_context;
	int			guc_level;
} StoreContext;

extern void dtx_store_enter(StoreContext *context);
extern void dtx_store_leave(StoreContext *context);
extern uint64 dtx_store_run(const char *sql, bool read_only, int count, Oid *types,
							Datum *values, const char *nulls);
extern uint64 dtx_store_run_kept(SPIPlanPtr *plan, const char *sql, bool read_only, int count,
								 Oid *types, Datum *values, const char *nulls);

extern Relation dtx_store_open_table(const char *name, LOCKMODE lock, const char *index, Oid *indexid);

/* Rows that are written without SQL. */
typedef struct StoreRows StoreRows;

extern StoreRows *store_rows_begin(const char *table, const char *index, int column_count);
extern void store_rows_end(StoreRows *rows);
extern void store_rows_insert(StoreRows *rows, const Datum *values, const bool *nulls);
extern bool store_rows_find(StoreRows *rows, const Datum *values, const bool *nulls,
							Datum **found_values, bool **found_nulls);
extern bool store_rows_find_free(StoreRows *rows, Datum xid, Datum nonce, Datum **found_values,
								 bool **found_nulls);
extern void store_rows_update(StoreRows *rows, const Datum *values, const bool *nulls);

/* Of the statement that ran last. */
static inline Datum
column(uint64 row, int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, isnull);
}

static inline uint64
column_u64(uint64 row, int number)
{
	bool		isnull;
	Datum		value = column(row, number, &isnull);

	return isnull ? 0 : (uint64) DatumGetInt64(value);
}

static inline Oid
column_oid(uint64 row, int number)
{
	bool		isnull;

	return DatumGetObjectId(column(row, number, &isnull));
}

static inline bool
column_bool(uint64 row, int number)
{
	bool		isnull;
	Datum		value = column(row, number, &isnull);

	return !isnull && DatumGetBool(value);
}

static inline Datum
u64_datum(uint64 value)
{
	return Int64GetDatum((int64) value);
}

static inline Datum
text_or_null(const char *value, char *null)
{
	*null = value == NULL ? 'n' : ' ';
	return value == NULL ? (Datum) 0 : CStringGetTextDatum(value);
}

#endif							/* DTX_STORE_PRIVATE_H */
