#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# expect_caught.sh SIM PATCH: runs a simulator with a planted bug, which must fail with the message
# that the patch expects.
set -uo pipefail
expected=$(sed -n 's/^Expect: //p' "$2")
if said=$(timeout -k 5 60 "$1" --seed 1 --nodes 20 2>&1); then
    echo "not caught: $2"
    echo "$said"
    exit 1
fi
if ! grep -Eq -- "$expected" <<<"$said"; then
    echo "caught otherwise than by \"$expected\": $2"
    echo "$said"
    exit 1
fi
echo "$(basename "$2" .patch): $(grep -E -- "$expected" <<<"$said" | tail -n 1)"
