#include <ray/ray.h>
#include <stdio.h>

static int square(ray_call *call)
{
    int64_t x;
    if (ray_arg(call, 0, &x) != RAY_OK)
        return -1;
    return ray_return(call, 0, x * x);
}
RAY_REMOTE(square);

int main(void)
{
    ray_ref refs[4];

    if (ray_init(NULL) != RAY_OK)
        return ray_report(stderr);
    for (int64_t i = 0; i < 4; i++)
        refs[i] = ray_remote(square, i);
    for (int i = 0; i < 4; i++) {
        int64_t y;
        if (ray_get(refs[i], &y, RAY_FOREVER) != RAY_OK)
            return ray_report(stderr);
        printf("%ld\n", (long)y);
        ray_release(refs[i]);
    }
    return ray_shutdown();
}
