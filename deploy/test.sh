#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the tests need, builds, and passes them.
set -euo pipefail
cd "$(dirname "$0")/.."
deploy/deps.sh build test
make -s -j"$(nproc)" all tests
exec make -s test
