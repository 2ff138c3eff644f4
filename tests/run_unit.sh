#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs the unit tests, the fuzzers' corpora and the simulations of a build folder.
set -uo pipefail
build=$1
passed=0
failed=0
# With gRPC's last threads the leak checker itself crashes now and then, which says nothing of the test: once more,
# without it.
run() {
    local status=0
    timeout -k 5 300 "$@" >"$build/last.log" 2>&1 || status=$?
    if [ $status -ne 0 ] && grep -q "LeakSanitizer has encountered a fatal error" "$build/last.log"; then
        status=0
        ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0" timeout -k 5 300 "$@" >"$build/last.log" 2>&1 || status=$?
    fi
    if [ $status -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $*"
        tail -n 40 "$build/last.log"
    fi
}
for t in "$build"/tests/unit/*_test; do
    [ -x "$t" ] && run "$t"
done
for t in "$build"/tests/fuzz/*_fuzz; do
    [ -x "$t" ] || continue
    name=$(basename "$t" _fuzz)
    run "$t" tests/fuzz/corpus/"$name"/*
done
[ -x "$build/tests/sim/sim" ] && run "$build/tests/sim/sim"
[ -x "$build/tests/sim/refs/refs" ] && run "$build/tests/sim/refs/refs"
[ -x "$build/tests/sim/machines/machines" ] && run "$build/tests/sim/machines/machines"
for t in tests/sim/plants/*.patch tests/sim/refs/plants/*.patch tests/sim/machines/plants/*.patch; do
    plant=$build/$(dirname "$(dirname "$t")")/plant_$(basename "$t" .patch)
    [ -x "$plant" ] && run tests/sim/expect_caught.sh "$plant" "$t"
done
echo "unit: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
