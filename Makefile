# dtx: distributed transactions inside PostgreSQL
MODULE_big = dtx
EXTENSION  = dtx
DTX_VERSION = 0.2.0
PGFILEDESC = "dtx - distributed transactions"

OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))

# The install script is joined from modules, so that each area has a file.
SQL_MODULES = $(sort $(wildcard sql/[0-9][0-9]_*.sql))
SQL_SCRIPT  = sql/$(EXTENSION)--$(DTX_VERSION).sql
# What a version has added is joined with the head of its upgrade script.
UPGRADE_MODULES = $(filter-out sql/00_% sql/10_% sql/20_%,$(SQL_MODULES))
UPGRADE_SCRIPT  = sql/$(EXTENSION)--0.1.0--0.2.0.sql
DATA_built  = $(SQL_SCRIPT) $(UPGRADE_SCRIPT)
DATA        = $(wildcard sql/released/*.sql)

PG_CFLAGS  = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers -Wno-clobbered
# Fault points are for tests only: make DTX_FAULTS=1
ifdef DTX_FAULTS
PG_CPPFLAGS += -DDTX_FAULTS
endif

REGRESS        = $(notdir $(basename $(sort $(wildcard test/sql/*.sql))))
REGRESS_OPTS   = --inputdir=test --load-extension=dblink
ISOLATION      = $(notdir $(basename $(sort $(wildcard test/specs/*.spec))))
ISOLATION_OPTS = --inputdir=test --load-extension=dblink --load-extension=dtx
TAP_TESTS      = 1
PROVE_TESTS    = test/t/*.pl
PROVE_FLAGS    = -I test/perl

EXTRA_CLEAN = $(SQL_SCRIPT) $(UPGRADE_SCRIPT) output_iso

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(wildcard src/*.h)

$(SQL_SCRIPT): $(SQL_MODULES)
	cat $^ > $@

$(UPGRADE_SCRIPT): sql/upgrade/0.1.0--0.2.0.sql $(UPGRADE_MODULES)
	cat $^ > $@

# pg_isolation_regress wants expected/ below its output directory
installcheck: output_iso/expected
output_iso/expected:
	mkdir -p output_iso && ln -sfn ../expected $@

.PHONY: test
test:
	PG_CONFIG=$(PG_CONFIG) bash test/run
