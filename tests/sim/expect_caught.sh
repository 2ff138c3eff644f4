#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# expect_caught.sh SIM PATCH: runs a simulator with a planted bug, seed after seed until one fails,
# with the message that the patch expects.
set -uo pipefail
expected=$(sed -n 's/^Expect: //p' "$2")
for seed in 1 2 3 4 5 6 7 8; do
    said=$(timeout -k 5 60 "$1" --seed "$seed" --nodes 20 2>&1) && continue
    if ! grep -Eq -- "$expected" <<<"$said"; then
        echo "caught otherwise than by \"$expected\": $2"
        echo "$said"
        exit 1
    fi
    echo "$(basename "$2" .patch): $(grep -E -- "$expected" <<<"$said" | tail -n 1)"
    exit 0
done
echo "not caught: $2"
echo "$said"
exit 1
