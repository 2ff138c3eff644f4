/* SPDX-License-Identifier: Apache-2.0 */
/* What warm tasks cost, by the core's own counters. */
#include "lib/core/core.h"
#include "tests/drivers/driver.h"
#include <limits.h>

#define WARM   20000
#define TASKS  10000
#define ROUNDS 3
#define TRIPS  1000

static int64_t nothing(int64_t x)
{
    return x;
}
RAY_TASK(nothing, int64_t, int64_t);

/* The worker's side. */
static int worker_counters(ray_call *call)
{
    struct core_counters c;

    core_get_counters(&c);
    ray_return(call, 0, c.writes);
    ray_return(call, 1, c.thread_hops);
    ray_return(call, 2, c.allocs);
    return ray_return(call, 3, c.tasks_executed);
}
RAY_REMOTE(worker_counters, .num_returns = 4);

static void ask_worker(int64_t out[4])
{
    ray_ref refs[4];

    CHECK_CODE(ray_submit_n(refs, 4, &ray_fn_worker_counters, NULL, NULL, 0), RAY_OK);
    for (int i = 0; i < 4; i++)
        CHECK_CODE(ray_take(refs[i], &out[i], RAY_FOREVER), RAY_OK);
}

static void submit_and_get(ray_ref *refs, int n)
{
    for (int i = 0; i < n; i++)
        refs[i] = ray_remote(nothing, (int64_t)i);
    for (int i = 0; i < n; i++) {
        int64_t x;
        CHECK_CODE(ray_take(refs[i], &x, RAY_FOREVER), RAY_OK);
        CHECK(x == i);
    }
}

static void windows(int argc, char **argv)
{
    static ray_ref refs[WARM];
    struct core_counters a, before, b;
    unsigned long least = ULONG_MAX; /* a lease that is granted meanwhile, a buffer that grows on a
                                      * busy machine: one round may have one, each round cannot */

    (void)argc;
    (void)argv;
    submit_and_get(refs, WARM);
    submit_and_get(refs, WARM);
    core_get_counters(&a);
    b = a;
    for (int round = 0; round < ROUNDS; round++) {
        before = b;
        submit_and_get(refs, TASKS);
        core_get_counters(&b);
        if (b.allocs - before.allocs < least)
            least = (unsigned long)(b.allocs - before.allocs);
    }
    printf("allocs %lu\n", least);
    printf("writes a task %.4f\n", (double)(b.writes - a.writes) / (ROUNDS * TASKS));
    printf("submitted %lu\n", (unsigned long)(b.tasks_submitted - a.tasks_submitted));
    fflush(stdout);
}

static void trips(int argc, char **argv)
{
    struct core_counters a, b;
    int64_t wa[4], wb[4], x;

    (void)argc;
    (void)argv;
    for (int64_t i = 0; i < TRIPS; i++)
        CHECK_CODE(ray_take(ray_remote(nothing, i), &x, RAY_FOREVER), RAY_OK);
    ask_worker(wa);
    /* asking was another function's lease: begin ours again first */
    for (int64_t i = 0; i < 10; i++)
        CHECK_CODE(ray_take(ray_remote(nothing, i), &x, RAY_FOREVER), RAY_OK);
    core_get_counters(&a);
    for (int64_t i = 0; i < TRIPS; i++)
        CHECK_CODE(ray_take(ray_remote(nothing, i), &x, RAY_FOREVER), RAY_OK);
    core_get_counters(&b);
    ask_worker(wb);
    printf("driver writes a trip %.3f\n", (double)(b.writes - a.writes) / TRIPS);
    printf("driver hops %lu\n", (unsigned long)(b.thread_hops - a.thread_hops));
    printf("driver allocs %lu\n", (unsigned long)(b.allocs - a.allocs));
    printf("worker writes a trip %.3f\n", (double)(wb[0] - wa[0]) / (double)(wb[3] - wa[3]));
    printf("worker hops %ld\n", (long)(wb[1] - wa[1]));
    printf("worker allocs %ld\n", (long)(wb[2] - wa[2]));
    printf("worker tasks %ld\n", (long)(wb[3] - wa[3]));
    fflush(stdout);
}

/* What cannot change is not asked for. */
static void context(int argc, char **argv)
{
    struct core_counters a, b;
    ray_context first, c;

    (void)argc;
    (void)argv;
    CHECK_CODE(ray_get_context(NULL, &first), RAY_OK);
    core_get_counters(&a);
    for (int i = 0; i < TRIPS; i++) {
        CHECK_CODE(ray_get_context(NULL, &c), RAY_OK);
        CHECK(memcmp(&c, &first, sizeof c) == 0);
    }
    core_get_counters(&b);
    printf("writes %lu\n", (unsigned long)(b.writes - a.writes));
    fflush(stdout);
}

static int gives_its_own(ray_call *call)
{
    ray_ref own = ray_put(7);
    int rc = ray_return(call, 0, own);

    ray_release(own);
    return rc;
}
RAY_REMOTE(gives_its_own);

/* Who borrows is compared with the owner now and then, nobody else. */
static void digests(int argc, char **argv)
{
    struct core_counters a, b;
    ray_ref ref;
    int64_t x;

    (void)argc;
    (void)argv;
    for (int64_t i = 0; i < TRIPS; i++)
        CHECK_CODE(ray_take(ray_remote(nothing, i), &x, RAY_FOREVER), RAY_OK);
    core_get_counters(&a);
    CHECK_CODE(ray_take(ray_remote(gives_its_own), &ref, RAY_FOREVER), RAY_OK);
    do {
        CHECK_CODE(ray_take(ray_remote(nothing, 1), &x, RAY_FOREVER), RAY_OK);
        core_get_counters(&b);
    } while (b.digests == a.digests);
    CHECK_CODE(ray_get(ref, &x, RAY_FOREVER), RAY_OK);
    CHECK(x == 7);
    CHECK_CODE(ray_release(ref), RAY_OK);
    printf("digests without a borrow %lu\n", (unsigned long)a.digests);
    printf("digests %lu\n", (unsigned long)b.digests);
    fflush(stdout);
}

static const struct scenario scenarios[] = {
    {"digests", 1, NULL, digests},
    {"context", 1, NULL, context},
    {"windows", 2, NULL, windows},
    {"trips", 1, NULL, trips},
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof scenarios[0], argc, argv);
}
