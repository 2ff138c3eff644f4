/* SPDX-License-Identifier: Apache-2.0 */
/* Programs with more pairs of processes that talk than a process may have direct channels. */
#include "tests/drivers/driver.h"

#include <stdint.h>

#define BYTES_MAX 90000
#define BRANCHES  3
#define DEPTH     3
#define SHARED    77

/* A text whose every byte tells where it is, for a task whose loss or repetition would show. */
static const char *text_of(int64_t seed)
{
    static char text[BYTES_MAX + 1];
    size_t n = seed % 4 == 0 ? (size_t)(seed * 7919 % BYTES_MAX) : (size_t)(seed % 50);

    for (size_t i = 0; i < n; i++)
        text[i] = (char)('a' + (i + (size_t)seed) % 26);
    text[n] = '\0';
    return text;
}

/* The number of tasks at and below this one. Three functions, so that each process has leases of
 * three classes, which the raylet takes from one owner for the other. */
static int64_t below(int64_t depth)
{
    return depth == 0 ? 1 : 1 + BRANCHES * below(depth - 1);
}

RAY_DECLARE(spread_0);
RAY_DECLARE(spread_1);
RAY_DECLARE(spread_2);

/* shared is borrowed all the way down: what borrowers and owners tell each other travels with the
 * tasks. */
static ray_ref spread(int which, int64_t depth, int64_t seed, ray_ref shared)
{
    const char *text = text_of(seed);

    return which == 0   ? ray_remote(spread_0, depth, seed, text, ray_list(shared))
           : which == 1 ? ray_remote(spread_1, depth, seed, text, ray_list(shared))
                        : ray_remote(spread_2, depth, seed, text, ray_list(shared));
}

/* The ref in the call's argument 3, to be released; its value is checked. */
static int take_shared(ray_call *call, ray_ref *shared)
{
    int64_t x;
    ray_box list;

    if (ray_arg(call, 3, &list) != RAY_OK || ray_next(&list, shared) != RAY_OK)
        return -1;
    if (ray_get(*shared, &x, RAY_FOREVER) != RAY_OK)
        return -1;
    return x == SHARED ? 0 : ray_fail(call, "what is shared is another");
}

static int run_spread(ray_call *call)
{
    int64_t depth, seed, sum = 1, x;
    const char *text;
    ray_ref refs[BRANCHES], shared;

    if (ray_arg(call, 0, &depth) != RAY_OK || ray_arg(call, 1, &seed) != RAY_OK
        || ray_arg(call, 2, &text) != RAY_OK)
        return -1;
    if (strcmp(text, text_of(seed)) != 0)
        return ray_fail(call, "the text of %lld is another", (long long)seed);
    if (take_shared(call, &shared) != 0)
        return -1;
    for (int i = 0; depth > 0 && i < BRANCHES; i++)
        refs[i] = spread((int)((seed + i) % 3), depth - 1, seed * BRANCHES + i, shared);
    for (int i = 0; depth > 0 && i < BRANCHES; i++) {
        if (ray_take(refs[i], &x, RAY_FOREVER) != RAY_OK)
            return -1;
        sum += x;
    }
    ray_release(shared);
    return ray_return(call, 0, sum);
}

static int spread_0(ray_call *call)
{
    return run_spread(call);
}
RAY_REMOTE(spread_0, .max_retries = RAY_ZERO);
static int spread_1(ray_call *call)
{
    return run_spread(call);
}
RAY_REMOTE(spread_1, .max_retries = RAY_ZERO);
static int spread_2(ray_call *call)
{
    return run_spread(call);
}
RAY_REMOTE(spread_2, .max_retries = RAY_ZERO);

static int meet(ray_call *call)
{
    send_event("here");
    await_events("go", 1);
    return ray_return(call, 0, 1);
}
RAY_REMOTE(meet, .max_retries = RAY_ZERO);

/* churn ROUNDS: trees of tasks, whose workers lease each other; then "ready", and a task that waits
 * for "go". Nothing may be tried again. */
static void churn(int argc, char **argv)
{
    long rounds = argc > 0 ? strtol(argv[0], NULL, 10) : 1;
    ray_ref refs[4];
    int64_t x;

    for (long r = 0; r < rounds; r++) {
        ray_ref shared = ray_put(SHARED);
        for (int i = 0; i < 4; i++)
            refs[i] = spread(i % 3, DEPTH, 1000 * r + i, shared);
        ray_release(shared); /* the tasks keep it */
        for (int i = 0; i < 4; i++) {
            CHECK_CODE(ray_take(refs[i], &x, RAY_FOREVER), RAY_OK);
            CHECK(x == below(DEPTH));
        }
    }
    ray_ref last = ray_remote(meet);
    printf("ready\n");
    fflush(stdout);
    CHECK_CODE(ray_take(last, &x, RAY_FOREVER), RAY_OK);
}

/* meeting N: N tasks at once, all of which run; "ready" when they do, and they wait for "go".
 * Twice, so that the second time nobody is new. */
static void meeting(int argc, char **argv)
{
    int n = argc > 0 ? (int)strtol(argv[0], NULL, 10) : 1, here = open_pipe("here");
    ray_ref *refs = calloc((size_t)n, sizeof *refs);
    int64_t x;

    CHECK(here >= 0 && refs != NULL);
    CHECK_CODE(ray_init(RAY_CONFIG(.num_cpus = n)), RAY_OK);
    for (int round = 1; round <= 2; round++) {
        for (int i = 0; i < n; i++)
            refs[i] = ray_remote(meet);
        for (int i = 0; i < n; i++) {
            char c;
            CHECK(read(here, &c, 1) == 1);
        }
        printf("ready %d\n", round);
        fflush(stdout);
        for (int i = 0; i < n; i++) {
            CHECK_CODE(ray_take(refs[i], &x, RAY_FOREVER), RAY_OK);
            CHECK(x == 1);
        }
    }
    CHECK_CODE(ray_shutdown(), RAY_OK);
    free(refs);
}

static const struct scenario scenarios[] = {
    {"churn", 4, NULL, churn},
    {"meeting", 0, NULL, meeting},
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof scenarios[0], argc, argv);
}
