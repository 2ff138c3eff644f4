/* SPDX-License-Identifier: Apache-2.0 */
/* Tasks that call tasks: fib(n) = fib(n - 1) + fib(n - 2), each a task of its own down to a small
 * n. A task that waits gives its CPU to others, so any depth works on any number of CPUs. */
#include <ray/ray.h>
#include <stdlib.h>

static long fib_here(long n)
{
    return n < 2 ? n : fib_here(n - 1) + fib_here(n - 2);
}

static int fib(ray_call *call);
RAY_REMOTE(fib);

static int fib(ray_call *call)
{
    long n, a, b;

    if (ray_arg(call, 0, &n) != RAY_OK)
        return RAY_ETYPE;
    if (n < 20)
        return ray_return(call, 0, fib_here(n));
    ray_ref left = ray_remote(fib, n - 1), right = ray_remote(fib, n - 2); /* both run */
    if (ray_take(left, &a, RAY_FOREVER) != RAY_OK || ray_take(right, &b, RAY_FOREVER) != RAY_OK)
        return -1; /* the error of the inner task becomes ours */
    return ray_return(call, 0, a + b);
}

int main(int argc, char **argv)
{
    long n = argc > 1 ? strtol(argv[1], NULL, 10) : 24, y;

    if (ray_init(NULL) != RAY_OK || ray_take(ray_remote(fib, n), &y, RAY_FOREVER) != RAY_OK)
        return ray_report(stderr);
    printf("fib(%ld) = %ld\n", n, y);
    return ray_shutdown();
}
