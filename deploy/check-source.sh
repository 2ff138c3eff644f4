#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The style gate: deploy/check-source.sh BUILD. Prints each finding; exits 1 if there is one.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
build=${1:-build}
bad=0
finding() {
    echo "check-source: $*"
    bad=1
}

# Files of the tree, those not yet committed too; a removed one is none.
files() {
    git ls-files -co --exclude-standard -- "$@" | sort -u | while read -r f; do [ -f "$f" ] && echo "$f"; done
}
mapfile -t sources < <(files '*.c' '*.h')
mapfile -t headers < <(files '*.h')
mapfile -t scripts < <(files '*.sh' .ci/run)
mapfile -t texts < <(files '*.c' '*.h' '*.py' '*.sh' '*.md' Makefile .ci/run)

clang-format-14 --dry-run -Werror "${sources[@]}" || finding "formatting: clang-format-14 -i the files above"
shellcheck "${scripts[@]}" || finding "shellcheck"

for f in "${sources[@]}"; do
    [ "$f" = docs/examples/square.c ] && continue # shown verbatim in the README
    head -n 1 "$f" | grep -q 'SPDX-License-Identifier: Apache-2.0' || finding "$f: first line must hold the licence"
done
for h in "${headers[@]}"; do
    case $h in
    lib/api/include/*) guard=$(basename "$h" .h | tr '[:lower:]' '[:upper:]') guard=RAY_${guard}_H ;;
    *) guard=$(echo "${h%.h}_H" | tr 'a-z/-' 'A-Z__') ;;
    esac
    grep -q "^#ifndef $guard$" "$h" || finding "$h: guard must be $guard"
    [ "$(basename "$h")" = value.h ] && continue # a part of ray.h
    echo "#include \"$h\"" | gcc -std=gnu17 -D_GNU_SOURCE -I. -Ilib/api/include -fsyntax-only -x c - || finding "$h does not compile alone"
done

# Banned calls, and sleeping in tests.
grep -nE '\b(sprintf|strcpy|strcat|gets|atoi|system)\(' "${sources[@]}" && finding "a banned call"
files 'tests/*.c' | xargs -r grep -nE '\b(sleep|usleep)\(' && finding "tests wait for conditions, they do not sleep"

grep -nE '\b(TO''DO|X''XX|HA''CK)\b' "${texts[@]}" && finding "finish it, or say FIX""ME: with the consequence"
grep -nE '\bFIX''ME($|[^:A-Z]|: *$)' "${texts[@]}" && finding "FIX""ME: names a known corner and its consequence"
# shellcheck disable=SC2016
sed -n '/^#include <ray\/ray.h>/,/^```/p' README.md | grep -v '^```' | diff - docs/examples/square.c || finding "README.md and docs/examples/square.c differ"

# Each invariant that a module names is named by a test (INV-n, or inv_n in a test's name).
for inv in $(files '*.c' '*.h' 'docs/*.md' | grep -v '^tests/' | xargs grep -hoE 'INV-[0-9]+' | sort -u); do
    grep -rqiE "inv[-_]${inv#INV-}([^0-9]|\$)" tests || finding "no test names $inv"
done

# Arrows point one way; foreign interfaces are fenced.
grep -nE '#include "(raylet|lib/core|lib/api|gcs)/' lib/base/*.[ch] lib/net/*.[ch] && finding "lib/base and lib/net know nobody above them"
grep -nE '#include "(raylet|gcs|lib/api)/' lib/core/*.[ch] && finding "lib/core includes neither raylet nor the API"
grep -nE '#include "lib/(core|api)/' raylet/*.[ch] && finding "raylet includes neither lib/core nor the API"
grep -nE '#include "(raylet|lib/(core|api))/' gcs/*.[ch] && finding "gcs includes neither raylet, lib/core nor the API"
grep -nE '#include "gcs/' raylet/*.[ch] cmd/raylet/*.[ch] | grep -vE '"gcs/(client|node_view).h"' && finding "of gcs only gcs/client.h and node_view.h are for others"
grep -nE '#include "(raylet|gcs|lib/net)/' lib/api/*.[ch] && finding "lib/api stands on lib/core"
grep -nE '#include "[^/"]+"' "${sources[@]}" | grep -v '^docs/examples/' && finding "paths of includes start at the root"
grep -ln 'event2/' "${sources[@]}" | grep -v '^lib/net/loop.c$' && finding "libevent belongs to lib/net/loop.c"
grep -ln 'hiredis/' "${sources[@]}" | grep -vE '^(gcs/(redis_link|store_redis).c|tests/)' && finding "hiredis belongs to gcs/redis_link.c and store_redis.c"
grep -lnE '<grpc/' "${sources[@]}" | grep -v '^lib/net/rpc_' && finding "gRPC belongs to lib/net/rpc_*"
grep -nE '#include "lib/net/rpc_private.h"' "${sources[@]}" | grep -v '^lib/net/rpc_' && finding "rpc_private.h is for lib/net/rpc_*"
grep -ln 'msgpack.h' "${sources[@]}" | grep -v '^lib/api/value.c$' && finding "msgpack belongs to lib/api/value.c"

grep -ln '"proto/.*pb-c.h"' "${sources[@]}" | grep -vE '(_(rpc|codec)|message_test).c$' && finding "generated messages are for *_rpc.c and *_codec.c"
for f in $(files 'proto/*.proto'); do
    grep -q "^$(sha256sum <"$f" | cut -d' ' -f1) $f " proto/VERSIONS || finding "$f changed: say so in proto/VERSIONS"
done

# Magics are unique.
grep -hoE '^#define [A-Z_]+_MAGIC +0x[0-9a-fA-F]+' "${sources[@]}" | awk '{print tolower($3)}' | sort | uniq -d | grep . && finding "two structs share a magic"

# What decides touches no socket, clock, thread or file.
for m in lib/core/submit lib/core/inbox lib/core/ref_table raylet/lease raylet/lease_queue raylet/worker_pool raylet/worker_policy raylet/channel_table raylet/resources lib/net/frame lib/net/link_session lib/core/borrow lib/core/borrow_digest lib/core/credit objstore/store objstore/store_record objstore/store_entry objstore/store_lend objstore/store_copy objstore/store_check objstore/word_map gcs/rows gcs/commit gcs/kv gcs/node_sync gcs/pubsub objstore/store_key raylet/cluster_view raylet/cluster_view_column raylet/cluster_view_pick raylet/spill raylet/seek; do
    o=$build/obj/$m.o
    [ -f "$o" ] || { finding "$o is missing: make first"; continue; }
    nm -u "$o" | awk '{print $2}' |
        grep -vE '^(x(malloc|calloc|calloc_sparse|realloc|strdup)|try_alloc|free|assert_fail|err_set|mem(cpy|set|move|cmp)|str(cmp|ncmp|len|nlen)|snprintf|qsort|abort|__stack_chk_fail|__(asan|ubsan|tsan)_.*|_GLOBAL_OFFSET_TABLE_|res(ources|_set)_.*|ref_table_.*|record_.*|borrow_.*|worker_policy_.*|arena_.*|rows_.*|row_.*|value_.*|strtoull|__isoc23_strtoull|word_map_.*|unique_id_eq|node_sync_.*|lease_[a-z_]*|__popcountdi2|store_[a-z_]*|view_[a-z_]*|cluster_view_remove|mem(cpy|set|move|cmp|chr))$' &&
        finding "$m calls what a deciding module must not"
done

# The archives prove the arrows: what a lower box lacks is not found in a higher one.
defined() { nm --defined-only "$build/lib/lib$1.a" 2>/dev/null | awk 'NF == 3 && $2 ~ /[TDBRVW]/ {print $3}' | sort -u; }
for arrow in base:net base:core base:raylet base:gcs base:loop net:loop core:loop loop:core loop:raylet loop:gcs proto:gcs proto:net net:core net:raylet net:gcs core:raylet core:gcs gcs:raylet gcs:core raylet:core; do
    low=${arrow%:*} high=${arrow#*:}
    comm -12 <(nm -u "$build/lib/lib$low.a" | awk '$1 == "U" {print $2}' | sort -u | comm -23 - <(defined "$low")) \
        <(defined "$high") | grep -vE '^(__(asan|odr_asan|ubsan|tsan)|DW\.ref)' && finding "lib$low.a calls up into lib$high.a"
done

# The library's face.
readelf -d "$build/lib/libray.so.1" | grep -E 'NEEDED.*(grpc|event|hiredis)' && finding "libray links a daemon's library"
for f in "$build"/bin/*; do
    readelf -d "$f" | grep -E 'NEEDED.*grpc' && finding "$f links gRPC, which lib/net/rpc_library opens when it is needed"
done
nm -D --defined-only "$build/lib/libray.so.1" | awk '$2 != "A" {print $3}' | grep -vE '@@?(RAY_1|RAY_CORE_PRIVATE)$' && finding "libray exports a name without a version"

for std in c11 c17 c2x; do
    for cc in gcc clang-14; do
        for f in docs/examples/square.c tests/unit/api_header_test.c; do
            $cc -std=$std -Wall -Wextra -Wpedantic -Werror -I. -Ilib/api/include -fsyntax-only $f || finding "ray.h in $f under $cc -std=$std"
        done
    done
done
for std in c++17 c++20; do
    g++ -std=$std -Wall -Wextra -Wpedantic -Werror -I. -Ilib/api/include -fsyntax-only tests/unit/api_header_test.cpp || finding "ray.h under g++ -std=$std"
done

[ "$bad" -eq 0 ] && echo "check-source: fine"
exit "$bad"
