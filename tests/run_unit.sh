#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs the unit tests, the fuzzers' corpora and the simulations of a build folder.
set -uo pipefail
build=$1
passed=0
failed=0
run() {
    if timeout -k 5 300 "$@" >"$build/last.log" 2>&1; then
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
