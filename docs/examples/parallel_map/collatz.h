/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DOCS_EXAMPLES_PARALLEL_MAP_COLLATZ_H
#define DOCS_EXAMPLES_PARALLEL_MAP_COLLATZ_H
#include <ray/ray.h>

/* (long from, long to) -> [number, steps]: the longest Collatz sequence that starts in from..to-1.
 */
RAY_DECLARE(collatz_longest);

#endif /* DOCS_EXAMPLES_PARALLEL_MAP_COLLATZ_H */
