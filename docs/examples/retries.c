/* SPDX-License-Identifier: Apache-2.0 */
/* What happens when things go wrong: a task that fails says why; one whose process dies is run
 * again. */
#include <ray/ray.h>
#include <stdlib.h>

static int divide(ray_call *call)
{
    long a, b;

    if (ray_arg(call, 0, &a) || ray_arg(call, 1, &b))
        return RAY_ETYPE;
    if (b == 0)
        return ray_fail(call, "%ld by zero", a);
    return ray_return(call, 0, a / b);
}
RAY_REMOTE(divide);

/* Dies in its first two attempts, as a buggy library might. */
static int shaky(ray_call *call)
{
    ray_context c;

    if (ray_get_context(call, &c) != RAY_OK)
        return -1;
    if (c.attempt < 2)
        abort();
    return ray_return(call, 0, (long)c.attempt);
}
RAY_REMOTE(shaky);

int main(void)
{
    long y;

    if (ray_init(NULL) != RAY_OK)
        return ray_report(stderr);

    /* An error of the function: no retry, the sentence arrives. */
    if (ray_take(ray_remote(divide, 7, 0), &y, RAY_FOREVER) == RAY_ETASK)
        ray_report(stdout);

    /* An error is a value: what depends on it fails with it, and its body never runs. */
    ray_ref bad = ray_remote(divide, 1, 0);
    if (ray_take(ray_remote(divide, bad, 2), &y, RAY_FOREVER) == RAY_ETASK)
        ray_report(stdout);
    ray_release(bad);

    /* A crash: up to three retries unless told otherwise. */
    if (ray_take(ray_remote(shaky), &y, RAY_FOREVER) != RAY_OK)
        return ray_report(stderr);
    printf("shaky worked in attempt %ld\n", y);
    if (ray_take(ray_remote_with(RAY_OPTIONS(.max_retries = RAY_ZERO), shaky), &y, RAY_FOREVER)
        == RAY_ECRASH)
        printf("without retries: signal %d: %s\n", ray_error()->signal, ray_error()->text);
    return ray_shutdown();
}
