/* SPDX-License-Identifier: Apache-2.0 */
/* A parallel map over a function that lives in a library (collatz.c, built as its own .so). */
#include "collatz.h"

#define PIECES 64
#define PIECE  20000

int main(void)
{
    ray_ref refs[PIECES];
    long best = 0, most = 0;

    if (ray_init(NULL) != RAY_OK)
        return ray_report(stderr);
    for (long i = 0; i < PIECES; i++)
        refs[i] = ray_remote(collatz_longest, i * PIECE + 1, (i + 1) * PIECE + 1);
    for (int i = 0; i < PIECES; i++) {
        ray_box pair;
        long number, steps;
        if (ray_take(refs[i], &pair, RAY_FOREVER) != RAY_OK || ray_next(&pair, &number)
            || ray_next(&pair, &steps))
            return ray_report(stderr);
        ray_box_drop(&pair);
        if (steps > most) {
            most = steps;
            best = number;
        }
    }
    printf("below %d, %ld has the longest sequence: %ld steps\n", PIECES * PIECE + 1, best, most);
    return ray_shutdown();
}
