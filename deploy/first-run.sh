#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs what a build needs, builds, and counts the words of a corpus: [FOLDER...]
set -euo pipefail
cd "$(dirname "$0")/.."
deploy/deps.sh build
make -s -j"$(nproc)" all
exec build/examples/wordcount "$@"
