#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs Debian 12 packages that are missing: deploy/deps.sh [build] [test]
set -euo pipefail

build=(
    gcc            # the compiler
    libc6-dev      # its headers
    make           # the build
    libevent-dev   # loop of the daemons
    libmsgpack-dev # values, in Ray's cross-language encoding
    libgrpc-dev    # between machines: C-core only
    libprotobuf-c-dev   # its messages, and the GCS's rows
    protobuf-c-compiler # from proto/
    libjansson-dev # JSON of commands
    libhiredis-dev # Redis's protocol, where the GCS keeps its tables
    libxxhash-dev  # hashes of files that go between machines; only its header is used
    redis-server   # keeps the tables of a head's GCS
    iproute2       # the nodes of first-run.sh, and of tests, have networks of their own
    zlib1g-dev     # the word count example reads .gz
    pkg-config     # how users link
)
test=(
    check              # unit tests
    libsubunit-dev     # check's own dependency when linking
    python3            # cluster tests
    python3-pytest     # cluster tests
    python3-pytest-xdist # several of them at a time: they wait more than they work
    python3-grpcio     # speaks to the GCS as Ray's tools do
    procps             # what runs, in the tests
    iproute2           # ip and ss: nodes with networks of their own, cables cut, connections reset
    clang-format-14    # make check-source
    clang-14           # a second compiler
    clang-tidy-14      # deploy/tidy.sh
    libclang-rt-14-dev # its libFuzzer, for make fuzz
    git                # make check-source asks it for the files of the tree
    g++                # the public header in C++
    patch              # plants bugs for the simulator to catch
    shellcheck         # make check-source
)

want=()
for set in "${@:-build}"; do
    case $set in
    build) want+=("${build[@]}") ;;
    test) want+=("${test[@]}") ;;
    *) echo "usage: deploy/deps.sh [build] [test]" >&2; exit 2 ;;
    esac
done

missing=()
for package in "${want[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

run=(env)
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "missing packages: ${missing[*]}; install them as root" >&2; exit 1; }
    run=(sudo env)
fi
echo "installing: ${missing[*]}"
apt=("${run[@]}" DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null
