#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# clang-tidy over the sources of the library and the daemons: deploy/tidy.sh [FILE...]. What .clang-tidy
# asks for, less what was looked at and is not so here. Prints each finding; exits 1 if there is one.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
make -s compile_commands.json

off=(
    clang-analyzer-unix.Malloc                          # does not see that list_remove takes an element off its list
    clang-analyzer-core.NullDereference                 # nor that a count of elements excludes NULL
    clang-analyzer-core.UndefinedBinaryOperatorResult   # nor that a view is filled where RAY_OK is returned
    bugprone-sizeof-expression                          # arrays of pointers have elements of sizeof(struct x *)
    bugprone-implicit-widening-of-multiplication-result # products of small constants
    bugprone-reserved-identifier                        # __libc_start_main is interposed on purpose;
    cert-dcl37-c                                        # the same under other names
    cert-dcl51-cpp
    bugprone-signed-char-misuse                         # msgpack's int8 is no character
    cert-str34-c
    bugprone-suspicious-memory-comparison               # equal options are equal bytes, NaN too
    cert-exp42-c
    cert-flp37-c
    cert-err34-c                                        # sscanf reads the kernel's own lines
    readability-function-size                           # two long switches over all kinds of frames and values
    readability-non-const-parameter                     # what assembler writes
)
checks=$(printf -- '-%s,' "${off[@]}")

if [ $# -gt 0 ]; then
    files=("$@")
else
    mapfile -t files < <(git ls-files 'lib/*.c' 'raylet/*.c' 'gcs/*.c' 'objstore/*.c' 'cmd/*.c')
fi
# One file a run: with several the analyzer of version 14 takes each va_list for uninitialized.
if printf '%s\n' "${files[@]}" | xargs -P "$(nproc)" -n 1 clang-tidy-14 --quiet -p . --checks="${checks%,}" 2>/dev/null; then
    echo "tidy: fine"
else
    echo "tidy: findings in the files above"
    exit 1
fi
