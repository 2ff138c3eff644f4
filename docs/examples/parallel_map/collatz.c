/* SPDX-License-Identifier: Apache-2.0 */
/* A library that registers a task of its own: programs that link it need no RAY_REMOTE. */
#include "collatz.h"

static int collatz_longest(ray_call *call)
{
    long from, to, best = 0, most = 0;

    if (ray_arg(call, 0, &from) || ray_arg(call, 1, &to))
        return RAY_ETYPE;
    for (long i = from; i < to; i++) {
        long steps = 0;
        for (long n = i; n != 1; n = n % 2 == 0 ? n / 2 : 3 * n + 1)
            steps++;
        if (steps > most) {
            most = steps;
            best = i;
        }
    }
    return ray_return(call, 0, ray_list(best, most));
}
RAY_REMOTE(collatz_longest);
