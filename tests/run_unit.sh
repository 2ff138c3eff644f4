#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs the unit tests, the fuzzers' corpora and the simulations of a build folder, as many at a time as there are CPUs.
set -uo pipefail
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cpus=$(nproc)
started=0
: >"$work/ended"
run() {
    local log=$work/$1.log status=0
    shift
    timeout -k 5 300 "$@" >"$log" 2>&1 || status=$?
    if [ $status -eq 0 ]; then
        echo passed >>"$work/ended"
    else
        echo "FAILED with status $status: $*
$(tail -n 40 "$log")"
    fi
}
start() {
    while [ "$(jobs -rp | wc -l)" -ge "$cpus" ]; do
        wait -n
    done
    started=$((started + 1))
    run $started "$@" &
}
# The simulations first: they take longest.
for t in "$build"/tests/sim/{sim,refs/refs,machines/machines}; do
    [ -x "$t" ] && start "$t"
done
for t in tests/sim/plants/*.patch tests/sim/refs/plants/*.patch tests/sim/machines/plants/*.patch; do
    plant=$build/$(dirname "$(dirname "$t")")/plant_$(basename "$t" .patch)
    [ -x "$plant" ] && start tests/sim/expect_caught.sh "$plant" "$t"
done
for t in "$build"/tests/unit/*_test; do
    [ -x "$t" ] && start "$t"
done
for t in "$build"/tests/fuzz/*_fuzz; do
    [ -x "$t" ] && start "$t" tests/fuzz/corpus/"$(basename "$t" _fuzz)"/*
done
wait
passed=$(wc -l <"$work/ended")
echo "unit: $passed passed, $((started - passed)) failed"
[ "$passed" -eq "$started" ]
