/* SPDX-License-Identifier: Apache-2.0 */
/* Ready refs as events in a program's own loop: one descriptor to poll, no callback on a foreign
 * thread. */
#include <poll.h>
#include <ray/ray.h>

static int cube(ray_call *call)
{
    long x;

    if (ray_arg(call, 0, &x) != RAY_OK)
        return RAY_ETYPE;
    return ray_return(call, 0, x * x * x);
}
RAY_REMOTE(cube);

int main(void)
{
    static const char *const names[] = {"one", "two", "three", "four"};
    int left = 4, turns = 0;

    if (ray_init(NULL) != RAY_OK)
        return ray_report(stderr);
    for (long i = 0; i < 4; i++)
        ray_watch(ray_remote(cube, i + 1), (void *)(uintptr_t)names[i]);
    while (left > 0) {
        /* beside a program's own descriptors */
        struct pollfd p = {.fd = ray_poll_fd(), .events = POLLIN};
        ray_event e[4];
        poll(&p, 1, -1);
        int n = ray_poll(e, 4, 0);
        for (int i = 0; i < n; i++, left--) {
            long y;
            if (ray_take(e[i].ref, &y, 0) != RAY_OK)
                return ray_report(stderr);
            printf("%s cubed is %ld\n", (const char *)e[i].tag, y);
        }
        turns++;
    }
    fprintf(stderr, "%d turns\n", turns);
    return ray_shutdown();
}
