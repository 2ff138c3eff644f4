/* SPDX-License-Identifier: Apache-2.0 */
/* Work on whatever is ready first: ray_wait tells which refs are. */
#include <ray/ray.h>
#include <time.h>

#define TASKS 8

static int search(ray_call *call)
{
    int ms;

    if (ray_arg(call, 0, &ms) != RAY_OK)
        return RAY_ETYPE;
    struct timespec t = {.tv_nsec = ms * 1000000L};
    nanosleep(&t, NULL);
    return ray_return(call, 0, ms);
}
RAY_REMOTE(search);

int main(void)
{
    ray_ref refs[TASKS];
    bool ready[TASKS];
    size_t n = TASKS;

    if (ray_init(RAY_CONFIG(.num_cpus = TASKS)) != RAY_OK)
        return ray_report(stderr);
    for (int i = 0; i < TASKS; i++)
        refs[i] = ray_remote(search, 10 * ((5 * i) % TASKS + 1));
    while (n > 0) {
        if (ray_wait(refs, n, 1, RAY_FOREVER, ready) != RAY_OK)
            return ray_report(stderr);
        for (size_t i = 0; i < n; i++) {
            int ms;
            if (!ready[i])
                continue;
            if (ray_take(refs[i], &ms, RAY_FOREVER) != RAY_OK)
                return ray_report(stderr);
            printf("%d ms\n", ms);
            refs[i] = refs[--n];
            break;
        }
    }
    return ray_shutdown();
}
