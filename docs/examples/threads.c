/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that submit: every function of ray.h may be called from any thread. */
#include <pthread.h>
#include <ray/ray.h>

#define THREADS 4
#define TASKS   1000

static double half(double x)
{
    return x / 2;
}
RAY_TASK(half, double, double);

static void *sum(void *arg)
{
    double *out = arg, y;
    ray_ref refs[TASKS];

    *out = 0;
    for (int i = 0; i < TASKS; i++)
        refs[i] = ray_remote(half, (double)i);
    for (int i = 0; i < TASKS; i++) {
        if (ray_take(refs[i], &y, RAY_FOREVER) != RAY_OK)
            ray_report(stderr);
        else
            *out += y;
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    double sums[THREADS];

    if (ray_init(NULL) != RAY_OK)
        return ray_report(stderr);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, sum, &sums[i]);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        printf("thread %d: %g\n", i, sums[i]);
    }
    return ray_shutdown();
}
