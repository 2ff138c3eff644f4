/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LIB_BASE_CLOCK_H
#define LIB_BASE_CLOCK_H
/*
 * Monotonic time for the edges (loops, pollers, benches). Modules that decide never read a clock:
 * they are given now_ns.
 */
#include <stdint.h>
#include <time.h>

static inline uint64_t clock_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#endif /* LIB_BASE_CLOCK_H */
