# pg_dr: one make builds the module (this file, PGXS) and the program (src/program/Makefile).
EXTENSION = pg_dr
EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" pg_dr.control)
DATA = sql/pg_dr--$(EXTVERSION).sql

MODULE_big = pg_dr
OBJS = $(patsubst %.c,%.o,$(wildcard src/server/*.c))

PG_CPPFLAGS = -Isrc -DPGDR_VERSION='"$(EXTVERSION)"'
PG_CFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-field-initializers -Wno-sign-compare
REGRESS = $(patsubst sql/%.sql,%,$(sort $(wildcard sql/[0-9]*.sql)))
REGRESS_OPTS = --inputdir=. --outputdir=test/output --load-extension=pg_dr

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
override with_llvm = no
include $(PGXS)

$(OBJS): pg_dr.control $(wildcard src/*.h src/server/*.h)

PROGRAM_MAKE = $(MAKE) -C src/program PG_CONFIG='$(PG_CONFIG)' EXTVERSION='$(EXTVERSION)'

all: program-all
install: program-install
uninstall: program-uninstall
clean: program-clean

# Static, because make looks for no implicit rule for a phony target.
PROGRAM_TARGETS = program-all program-install program-uninstall program-clean
.PHONY: $(PROGRAM_TARGETS) unit
$(PROGRAM_TARGETS): program-%:
	+$(PROGRAM_MAKE) $*

unit:
	$(MAKE) -C test/unit PG_CONFIG='$(PG_CONFIG)' EXTVERSION='$(EXTVERSION)' check
