# SPDX-License-Identifier: Apache-2.0
# One non-recursive Makefile: `make`, demo, test, fuzz, bench ARGS=.., check-source, install PREFIX=.., deb-deps, clean.
# SAN=address|undefined|thread builds into its own folder.

comma := ,
SAN    ?=
BUILD  ?= build$(if $(SAN),-$(SAN))
PREFIX ?= /usr/local
ARGS   ?=
WERROR ?= 1
FUZZ_SECONDS ?= 30 # for each target of `make fuzz`

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition -Wundef \
        -Wwrite-strings -Wformat=2 -Wpointer-arith -Wvla $(if $(filter 1,$(WERROR)),-Werror)
SANFLAGS := $(if $(filter address,$(SAN)),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined) \
            $(if $(filter undefined,$(SAN)),-fsanitize=undefined -fno-sanitize-recover=undefined) \
            $(if $(filter thread,$(SAN)),-fsanitize=thread)

CFLAGS ?= -O2 -g
ALL_CFLAGS := -std=gnu17 -D_GNU_SOURCE $(CFLAGS) -fPIC -fvisibility=default $(WARN) $(SANFLAGS) -I. -I$(BUILD)/gen -Ilib/api/include -MD -MP
LDFLAGS += $(SANFLAGS)

objs = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
base := $(wildcard lib/base/*.c)
loop := lib/net/loop.c lib/net/link_session.c $(wildcard lib/net/rpc_*.c)
net  := $(filter-out $(loop),$(wildcard lib/net/*.c))
core := $(wildcard lib/core/*.c)
api  := $(wildcard lib/api/*.c)
raylet := $(wildcard raylet/*.c)
gcs  := $(wildcard gcs/*.c)
protos := $(patsubst %.proto,%,$(wildcard proto/*.proto))
store_client := objstore/client.c objstore/copy.c
objstore := $(filter-out $(store_client),$(wildcard objstore/*.c))
lib := $(BUILD)/lib
archives := $(lib)/libbase.a $(lib)/libnet.a $(lib)/libcore.a $(lib)/libraylet.a $(lib)/libgcs.a $(lib)/libobjstore.a \
            $(lib)/libloop.a $(lib)/libproto.a
libray := $(lib)/libray.so
static := $(lib)/libray.a

unit     := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(wildcard tests/unit/*_test.c)) \
            $(patsubst tests/contract/%.c,$(BUILD)/tests/unit/%,$(wildcard tests/contract/*_test.c))
drivers  := $(patsubst tests/drivers/%.c,$(BUILD)/tests/drivers/%,$(wildcard tests/drivers/*.c)) \
            $(patsubst tests/drivers/%.cpp,$(BUILD)/tests/drivers/%,$(wildcard tests/drivers/*.cpp))
fuzzers  := $(patsubst tests/fuzz/%_fuzz.c,$(BUILD)/tests/fuzz/%_fuzz,$(wildcard tests/fuzz/*_fuzz.c))
examples := $(patsubst docs/examples/%.c,$(BUILD)/examples/%,$(wildcard docs/examples/*.c))
bins     := $(BUILD)/bin/raylet $(BUILD)/bin/gcs_server $(BUILD)/bin/ray
parallel := $(if $(wildcard docs/examples/parallel_map/main.c),$(BUILD)/examples/parallel_map)
sim      := $(if $(wildcard tests/sim/*.c),$(BUILD)/tests/sim/sim)
plants   := $(patsubst tests/sim/plants/%.patch,$(BUILD)/tests/sim/plant_%,$(wildcard tests/sim/plants/*.patch))
refs     := $(if $(wildcard tests/sim/refs/*.c),$(BUILD)/tests/sim/refs/refs) \
            $(patsubst tests/sim/refs/plants/%.patch,$(BUILD)/tests/sim/refs/plant_%,$(wildcard tests/sim/refs/plants/*.patch))
machines := $(if $(wildcard tests/sim/machines/*.c),$(BUILD)/tests/sim/machines/machines) \
            $(patsubst tests/sim/machines/plants/%.patch,$(BUILD)/tests/sim/machines/plant_%,$(wildcard tests/sim/machines/plants/*.patch))
bench    := $(if $(wildcard tests/bench/*.c),$(BUILD)/tests/bench/bench)

.PHONY: all demo test unit cluster fuzz bench check-source install deb-deps clean examples tests FORCE
all: $(bins) $(libray) $(static) $(examples) $(parallel) compile_commands.json
examples: $(examples) $(parallel)
tests: $(unit) $(drivers) $(fuzzers) $(sim) $(plants) $(refs) $(machines) $(bench)

# Messages from proto/; only *_rpc.c and *_codec.c see them. Generated code is not ours to warn about.
$(BUILD)/gen/proto/%.pb-c.c $(BUILD)/gen/proto/%.pb-c.h: proto/%.proto
	@mkdir -p $(BUILD)/gen
	protoc-c --c_out=$(BUILD)/gen $<
.SECONDARY: $(protos:%=$(BUILD)/gen/%.pb-c.c)
$(call objs,$(wildcard gcs/*_rpc.c gcs/*_codec.c raylet/*_codec.c)) $(BUILD)/tests/unit/message_test: | $(protos:%=$(BUILD)/gen/%.pb-c.h)
$(BUILD)/obj/proto/%.pb-c.o: $(BUILD)/gen/proto/%.pb-c.c
	@mkdir -p $(@D)
	$(CC) -std=gnu17 $(CFLAGS) $(SANFLAGS) -fPIC -w -I$(BUILD)/gen -c $< -o $@
$(BUILD)/obj/raylet/cluster_view_pick.o: ALL_CFLAGS += -O3 # loops over a thousand nodes: several at once
$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c $< -o $@

# gRPC is opened when it is needed, never linked (lib/net/rpc_library.h): by the name in the library that the headers came with.
grpc_name = $(or $(shell readelf -d $$($(CC) -print-file-name=libgrpc_unsecure.so) | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p'),$(error install libgrpc-dev))
$(BUILD)/obj/lib/net/rpc_library.o: ALL_CFLAGS += -DRPC_LIBRARY='"$(grpc_name)"'

$(lib)/libbase.a: $(call objs,$(base))
$(lib)/libnet.a: $(call objs,$(net))
$(lib)/libcore.a: $(call objs,$(core))
$(lib)/libraylet.a: $(call objs,$(raylet))
$(lib)/libloop.a: $(call objs,$(loop))
$(lib)/libgcs.a: $(call objs,$(gcs))
$(lib)/libproto.a: $(patsubst %,$(BUILD)/obj/%.pb-c.o,$(protos))
$(lib)/libobjstore.a: $(call objs,$(objstore) $(wildcard $(store_client)))
$(archives):
	@mkdir -p $(@D)
	@rm -f $@
	$(AR) rcs $@ $^

$(libray): $(call objs,$(api) $(core) $(wildcard $(store_client)) $(net) $(base)) lib/api/libray.map
	@mkdir -p $(@D)
	$(CC) -shared -o $@.1 $(filter %.o,$^) $(LDFLAGS) -Wl,-soname,libray.so.1 -Wl,--build-id \
	    -Wl,--version-script=lib/api/libray.map -lmsgpackc -lpthread -lm
	ln -sf libray.so.1 $@

# For fully static programs: in one object, so that its constructors come along; of its names only
# the public ones are seen.
$(BUILD)/static/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -DRAY_STATIC -c $< -o $@
$(static): $(filter-out %/start.o,$(call objs,$(api) $(core) $(wildcard $(store_client)) $(net) $(base))) $(BUILD)/static/lib/core/start.o
	@mkdir -p $(@D)
	@rm -f $@
	$(LD) -r -o $(BUILD)/static/ray.o $^
	objcopy --wildcard --keep-global-symbol='ray_*' $(BUILD)/static/ray.o
	$(AR) rcs $@ $(BUILD)/static/ray.o

$(BUILD)/bin/raylet: $(call objs,$(wildcard cmd/raylet/*.c)) $(lib)/libraylet.a $(lib)/libobjstore.a $(lib)/libgcs.a $(lib)/libproto.a $(lib)/libloop.a $(lib)/libnet.a $(lib)/libbase.a
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LDFLAGS) -levent_core -lprotobuf-c -lpthread

$(BUILD)/bin/ray: $(call objs,$(wildcard cmd/ray/*.c)) $(lib)/libraylet.a $(lib)/libobjstore.a $(lib)/libgcs.a $(lib)/libproto.a $(lib)/libloop.a $(lib)/libnet.a $(lib)/libbase.a
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LDFLAGS) -levent_core -lprotobuf-c -ljansson -lpthread -lm

$(BUILD)/bin/gcs_server: $(call objs,$(wildcard cmd/gcs_server/*.c)) $(lib)/libgcs.a $(lib)/libproto.a $(lib)/libloop.a $(lib)/libbase.a
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LDFLAGS) -levent_core -lhiredis -lprotobuf-c -lpthread

user = -L$(lib) -lray -Wl,-rpath,'$$ORIGIN/$(1)' -lpthread -lm
$(BUILD)/examples/%: docs/examples/%.c $(libray)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MF $@.d -o $@ $< $(LDFLAGS) $(call user,../lib) -lz
$(BUILD)/examples/parallel_map: docs/examples/parallel_map/main.c $(wildcard docs/examples/parallel_map/*.[ch]) $(libray)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MF $@.so.d -shared -o $(lib)/libcollatz.so docs/examples/parallel_map/collatz.c $(LDFLAGS) -L$(lib) -lray
	$(CC) $(ALL_CFLAGS) -MF $@.d -o $@ $< $(LDFLAGS) -L$(lib) -lcollatz $(call user,../lib)
$(BUILD)/tests/drivers/%: tests/drivers/%.c $(libray)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MF $@.d -o $@ $< $(LDFLAGS) $(call user,../../lib)
$(BUILD)/tests/drivers/%: tests/drivers/%.cpp $(libray)
	@mkdir -p $(@D)
	$(CXX) -std=c++17 $(CFLAGS) -Wall -Wextra -Wpedantic $(if $(filter 1,$(WERROR)),-Werror) $(SANFLAGS) -Ilib/api/include -MMD -MP -MF $@.d \
	    -o $@ $< $(LDFLAGS) $(call user,../../lib)
unit_deps = $(call objs,$(api)) $(lib)/libcore.a $(lib)/libraylet.a $(lib)/libobjstore.a $(lib)/libgcs.a $(lib)/libproto.a $(lib)/libloop.a $(lib)/libnet.a $(lib)/libbase.a
define unit_link
@mkdir -p $(@D)
$(CC) $(ALL_CFLAGS) -MF $@.d -o $@ $(filter-out %.h %.inc,$^) $(LDFLAGS) -lcheck -lsubunit -lrt -lmsgpackc -levent_core -lhiredis -ljansson -lprotobuf-c -lpthread -lm
endef
$(BUILD)/tests/unit/%: tests/unit/%.c $(unit_deps)
	$(unit_link)
$(BUILD)/tests/unit/%: tests/contract/%.c $(unit_deps)
	$(unit_link)
$(BUILD)/tests/fuzz/%_fuzz: tests/fuzz/%_fuzz.c $(if $(FUZZ_MAIN),,$(call objs,tests/fuzz/run_corpus.c)) $(unit_deps)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MF $@.d -o $@ $(filter-out %.h %.txt,$^) $(LDFLAGS) $(FUZZ_MAIN) -lmsgpackc -levent_core -lprotobuf-c -lpthread -lm
sim_deps = $(call objs,$(wildcard tests/sim/*.c)) $(lib)/libraylet.a $(lib)/libgcs.a $(lib)/libcore.a $(lib)/libobjstore.a $(lib)/libnet.a $(lib)/libbase.a
$(BUILD)/tests/sim/sim: $(sim_deps)
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LDFLAGS) -lpthread -lm
refs_deps = $(call objs,$(wildcard tests/sim/refs/*.c) tests/sim/clock.c) $(lib)/libcore.a $(lib)/libobjstore.a $(lib)/libnet.a $(lib)/libbase.a
$(BUILD)/tests/sim/refs/refs: $(refs_deps)
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LDFLAGS) -lpthread -lm
machines_deps = $(call objs,$(wildcard tests/sim/machines/*.c) tests/sim/clock.c) $(lib)/libraylet.a $(lib)/libgcs.a $(lib)/libbase.a
$(BUILD)/tests/sim/machines/machines: $(machines_deps)
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LDFLAGS) -lpthread -lm
# A simulator with a bug in one file: a patched copy of it, instead of it.
planted = $(patsubst %.c,$(BUILD)/obj/%.o,$(shell sed -n 's,^+++ b/,,p' $<))
define plant
@mkdir -p $(@D)
cp $(patsubst $(BUILD)/obj/%.o,%.c,$(planted)) $@.c
patch -s -F 0 $@.c $<
$(CC) $(filter-out -MMD -MP,$(ALL_CFLAGS)) -c $@.c -o $@.o
$(CC) -o $@ $@.o $(filter-out $(planted),$(filter %.o %.a,$^)) $(LDFLAGS) -lpthread -lm
endef
$(BUILD)/tests/sim/plant_%: tests/sim/plants/%.patch $(sim_deps)
	$(plant)
$(BUILD)/tests/sim/refs/plant_%: tests/sim/refs/plants/%.patch $(refs_deps)
	$(plant)
$(BUILD)/tests/sim/machines/plant_%: tests/sim/machines/plants/%.patch $(machines_deps)
	$(plant)
$(BUILD)/tests/bench/bench: $(call objs,$(wildcard tests/bench/*.c)) $(lib)/libraylet.a $(lib)/libobjstore.a $(lib)/libgcs.a $(lib)/libproto.a $(lib)/libloop.a $(lib)/libnet.a $(lib)/libbase.a $(libray)
	@mkdir -p $(@D)
	$(CC) -o $@ $(filter %.o %.a,$^) $(LDFLAGS) -levent_core -lprotobuf-c $(call user,../../lib)

demo: all
	$(BUILD)/examples/wordcount $(ARGS)

unit: $(unit) $(fuzzers) $(sim) $(plants) $(refs) $(machines)
	tests/run_unit.sh $(BUILD)
# Cluster tests wait more than they work: several at a time, in folders and networks of their own. What needs the
# machine for itself comes after them.
CLUSTER_TESTS ?= tests/cluster
pytest = SAN=$(SAN) RAY_TEST_BUILD=$(abspath $(BUILD)) /usr/bin/python3 -m pytest -q -p no:cacheprovider
cluster: all tests
	$(pytest) -m "not alone" -n $$((2 * $$(nproc))) --maxprocesses=16 $(CLUSTER_TESTS)
	$(pytest) -m alone $(CLUSTER_TESTS) || test $$? -eq 5 # no such test among these
test: all tests
	tests/run_unit.sh $(BUILD)
	+$(MAKE) cluster
# New inputs for the fuzzers, by libFuzzer if clang has it, else by run_corpus.c; what libFuzzer finds is kept in
# BUILD-fuzz/fuzz/NAME, what ends a run beside it. One target: make fuzz FUZZERS=frame.
FUZZERS ?= $(patsubst tests/fuzz/%_fuzz.c,%,$(wildcard tests/fuzz/*_fuzz.c))
clang_fuzz := CC=clang-14 SANFLAGS="-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined" \
              FUZZ_MAIN=-fsanitize=fuzzer
fuzz:
	+@if printf 'int LLVMFuzzerTestOneInput(void){return 0;}' | clang-14 -fsanitize=fuzzer -x c -o /dev/null - 2>/dev/null; \
	then $(MAKE) BUILD=$(BUILD)-fuzz $(clang_fuzz) $(addprefix fuzz-,$(FUZZERS)); \
	else $(MAKE) BUILD=$(BUILD)-fuzz SAN=address $(addprefix fuzz-,$(FUZZERS)); fi
fuzz-%: $(BUILD)/tests/fuzz/%_fuzz
	@mkdir -p $(BUILD)/fuzz/$*
	cd $(BUILD)/fuzz && $(abspath $<) -max_total_time=$(FUZZ_SECONDS) -timeout=20 -close_fd_mask=3 -print_final_stats=1 \
	    $(abspath $(BUILD))/fuzz/$* $(CURDIR)/tests/fuzz/corpus/$* >$*.log 2>&1 || { tail -n 60 $*.log; exit 1; }
	@grep -ahE '^stat::number_of_executed_units|runs$$' $(BUILD)/fuzz/$*.log | sed 's/^/$*: /'
.PRECIOUS: $(BUILD)/tests/fuzz/%_fuzz
bench: all $(bench)
	$(BUILD)/tests/bench/bench $(ARGS)
check-source: all
	deploy/check-source.sh $(BUILD)
deb-deps:
	deploy/deps.sh build test

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include/ray
	install -m 755 $(bins) $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(libray).1 $(DESTDIR)$(PREFIX)/lib/libray.so.1
	ln -sf libray.so.1 $(DESTDIR)$(PREFIX)/lib/libray.so
	install -m 644 $(static) $(DESTDIR)$(PREFIX)/lib
	install -m 644 lib/api/include/ray/*.h $(DESTDIR)$(PREFIX)/include/ray
	sed 's|@PREFIX@|$(abspath $(PREFIX))|' deploy/ray.pc.in > $(DESTDIR)$(PREFIX)/lib/pkgconfig/ray.pc

sources := $(base) $(loop) $(net) $(core) $(api) $(raylet) $(gcs) $(wildcard objstore/*.c) \
           $(wildcard cmd/*/*.c docs/examples/*.c docs/examples/*/*.c tests/*/*.c tests/sim/*/*.c)
compile_commands.json: FORCE
	@printf '%s\n' $(sources) | awk -v q='"' 'BEGIN { printf "[" } { printf "%s\n{%sdirectory%s:%s$(CURDIR)%s,%sfile%s:%s%s%s,%scommand%s:%s%s -c %s%s}", \
	    sep, q,q,q,q, q,q,q,$$0,q, q,q,q,"cc -std=gnu17 -D_GNU_SOURCE $(WARN) -I. -I$(BUILD)/gen -Ilib/api/include",$$0,q; sep = "," } END { print "\n]" }' > $(BUILD)/$@.new
	@cmp -s $(BUILD)/$@.new $@ && rm $(BUILD)/$@.new || mv $(BUILD)/$@.new $@

clean:
	rm -rf $(BUILD) build build-* compile_commands.json

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
