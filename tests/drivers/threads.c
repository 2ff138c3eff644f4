/* SPDX-License-Identifier: Apache-2.0 */
/* Everything from many threads at once; made for ThreadSanitizer, true without it. */
#include "tests/drivers/driver.h"

#include <poll.h>
#include <pthread.h>

#define N_THREADS 8

static int add_one(ray_call *call)
{
    int64_t x;

    if (ray_arg(call, 0, &x) != RAY_OK)
        return -1;
    return ray_return(call, 0, x + 1);
}
RAY_REMOTE(add_one);

static int size_of(ray_call *call)
{
    char *text;

    if (ray_arg(call, 0, &text) != RAY_OK)
        return -1;
    return ray_return(call, 0, (int64_t)strlen(text));
}
RAY_REMOTE(size_of);

/* As hard to end as a cluster's end must manage. */
_Noreturn static int wait_for_ever(ray_call *call)
{
    (void)call;
    for (;;)
        pause();
}
RAY_REMOTE(wait_for_ever);

static void start_threads(pthread_t *t, int n, void *(*f)(void *))
{
    for (intptr_t i = 0; i < n; i++)
        CHECK(pthread_create(&t[i], NULL, f, (void *)i) == 0);
}

static void join_threads(const pthread_t *t, int n)
{
    for (int i = 0; i < n; i++)
        pthread_join(t[i], NULL);
}

/* --- all calls --- */

static ray_ref shared; /* got, retained and released by all */

static void *use_everything(void *arg)
{
    int64_t base = 1000 * (int64_t)(intptr_t)arg, x;
    ray_context first, c;
    ray_cluster cluster;
    ray_ref refs[20];
    bool ready[20];

    CHECK_CODE(ray_get_context(NULL, &first), RAY_OK);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 20; i++)
            refs[i] = ray_remote(add_one, base + i);
        CHECK_CODE(ray_wait(refs, 20, 7, 60000, ready), RAY_OK);
        CHECK(ray_release(refs[19]) == RAY_OK);
        refs[19] = ray_remote(add_one, refs[0]);
        for (int i = 0; i < 20; i++) {
            CHECK_CODE(ray_take(refs[i], &x, RAY_FOREVER), RAY_OK);
            CHECK(x == base + i + 1 || i == 19);
        }
        for (int i = 0; i < 100; i++) {
            ray_retain(shared);
            CHECK_CODE(ray_release(shared), RAY_OK);
        }
        ray_retain(shared);
        CHECK_CODE(ray_get(shared, &x, RAY_FOREVER), RAY_OK);
        CHECK(x == 42);
        CHECK_CODE(ray_release(shared), RAY_OK);
        CHECK_CODE(ray_get_context(NULL, &c), RAY_OK);
        CHECK(strcmp(c.session_dir, first.session_dir) == 0);
        CHECK_CODE(ray_get_cluster(&cluster), RAY_OK);
        CHECK_CODE(ray_take(ray_remote_with(RAY_OPTIONS(.num_cpus = 0.5), add_one, base), &x, -1),
                   RAY_OK);
    }
    return NULL;
}

static void *watch_some(void *arg)
{
    ray_event events[8];

    (void)arg;
    for (int round = 0; round < 50; round++) {
        ray_ref ref = ray_remote(add_one, round);
        struct pollfd p = {.fd = ray_poll_fd(), .events = POLLIN};
        int64_t x;
        int n = 0;
        CHECK_CODE(ray_watch(ref, &p), RAY_OK);
        while (n == 0)
            n = ray_poll(events, 8, RAY_FOREVER);
        CHECK(n == 1 && events[0].tag == &p && events[0].ref.word == ref.word);
        CHECK_CODE(ray_take(ref, &x, 0), RAY_OK);
        CHECK(x == round + 1);
    }
    return NULL;
}

static void everything(int argc, char **argv)
{
    pthread_t t[N_THREADS], watcher;

    (void)argc;
    (void)argv;
    shared = ray_remote(add_one, 41);
    start_threads(&watcher, 1, watch_some);
    start_threads(t, N_THREADS, use_everything);
    join_threads(t, N_THREADS);
    join_threads(&watcher, 1);
}

/* Threads of a body, beside which the helper answers the owner. */
static int with_threads(ray_call *call)
{
    pthread_t t[N_THREADS];

    shared = ray_remote(add_one, 41);
    start_threads(t, N_THREADS, use_everything);
    join_threads(t, N_THREADS);
    return ray_return(call, 0, 1);
}
RAY_REMOTE(with_threads);

static void in_a_body(int argc, char **argv)
{
    int64_t x;

    (void)argc;
    (void)argv;
    CHECK_CODE(ray_take(ray_remote(with_threads), &x, RAY_FOREVER), RAY_OK);
}

/* --- beginnings and ends --- */

static void *begin_and_end(void *arg)
{
    int64_t x;

    (void)arg;
    for (int round = 0; round < 10; round++) {
        CHECK_CODE(ray_init(RAY_CONFIG(.num_cpus = 2)), RAY_OK);
        CHECK_CODE(ray_take(ray_remote(add_one, 1), &x, RAY_FOREVER), RAY_OK);
        CHECK(x == 2);
        CHECK_CODE(ray_shutdown(), RAY_OK);
    }
    return NULL;
}

static void begins(int argc, char **argv)
{
    pthread_t t[4];

    (void)argc;
    (void)argv;
    start_threads(t, 4, begin_and_end);
    join_threads(t, 4);
}

static ray_ref endless;

static void expect_end(int code)
{
    if (code == RAY_OK || code == RAY_ETIMEOUT) {
        fprintf(stderr, "code %d for what has no result\n", code);
        exit(1);
    }
}

static void *get_it(void *arg)
{
    int64_t x;

    send_event("inside");
    (void)arg;
    expect_end(ray_get(endless, &x, RAY_FOREVER));
    return NULL;
}

static void *wait_for_it(void *arg)
{
    bool ready;
    int64_t x;

    send_event("inside");
    (void)arg;
    if (ray_wait(&endless, 1, 1, RAY_FOREVER, &ready) == RAY_OK)
        expect_end(ray_get(endless, &x, 0));
    return NULL;
}

static void *poll_for_it(void *arg)
{
    ray_event event;
    int64_t x;

    send_event("inside");
    (void)arg;
    if (ray_poll(&event, 1, RAY_FOREVER) == 1)
        expect_end(ray_get(event.ref, &x, 0));
    return NULL;
}

static void *ask_again_and_again(void *arg)
{
    ray_cluster cluster;
    ray_context context;

    send_event("inside");
    (void)arg;
    while (ray_get_cluster(&cluster) == RAY_OK && ray_get_context(NULL, &context) == RAY_OK)
        continue;
    return NULL;
}

static void *get_long_values(void *arg)
{
    ray_ref ref = ray_put("a long value, which stays where it is while it is unpacked: "
                          "................................................................");
    char *text;

    send_event("inside");
    (void)arg;
    while (ray_get(ref, &text, 0) == RAY_OK)
        ray_free(text);
    return NULL;
}

static void start_everybody(pthread_t t[5])
{
    void *(*const f[5])(
        void *) = {get_it, wait_for_it, poll_for_it, ask_again_and_again, get_long_values};

    endless = ray_remote(wait_for_ever);
    for (int i = 0; i < 5; i++)
        start_threads(&t[i], 1, f[i]);
    await_events("inside", 5);
}

/* The cluster ends under threads that sleep in each kind of call: each is told, none is lost. */
static void ends(int argc, char **argv)
{
    pthread_t t[5];
    int64_t x;

    (void)argc;
    (void)argv;
    for (int round = 0; round < 10; round++) {
        CHECK_CODE(ray_init(RAY_CONFIG(.num_cpus = 1)), RAY_OK);
        start_everybody(t);
        CHECK_CODE(ray_shutdown(), RAY_OK);
        join_threads(t, 5);
        CHECK_CODE(ray_get(endless, &x, 0), RAY_ESTALE);
    }
}

/* The same when its raylet is killed. */
static void raylet_dies(int argc, char **argv)
{
    pthread_t t[5];

    (void)argc;
    (void)argv;
    start_everybody(t);
    printf("inside\n");
    fflush(stdout);
    join_threads(t, 4); /* what was put here stays */
    CHECK_CODE(ray_shutdown(), RAY_OK);
    join_threads(t + 4, 1);
    exit(0);
}

/* --- one gets what another must first make possible --- */

static int waits_for(ray_call *call)
{
    char *gate;

    if (ray_arg(call, 0, &gate) != RAY_OK)
        return -1;
    await_events(gate, 1);
    return ray_return(call, 0, 1);
}
RAY_REMOTE(waits_for);

static void *get_it_at_last(void *arg)
{
    int64_t x;

    (void)arg;
    CHECK_CODE(ray_get(shared, &x, RAY_FOREVER), RAY_OK);
    return NULL;
}

/* Who sleeps for an answer must not keep others from asking. */
static void asks_beside_a_get(int argc, char **argv)
{
    const size_t size = 4u << 20;
    pthread_t getter;
    ray_buffer b;

    (void)argc;
    (void)argv;
    int fd = open_pipe("gate");
    shared = ray_remote(waits_for, (const char *)"gate");
    start_threads(&getter, 1, get_it_at_last);
    for (int i = 0; i < 100; i++) { /* each needs memory that the raylet must lend */
        CHECK_CODE(ray_create(size, &b), RAY_OK);
        memset(b.data, i, size);
        CHECK_CODE(ray_release(ray_seal(&b)), RAY_OK);
    }
    send_event("gate");
    join_threads(&getter, 1);
    close(fd);
}

static const struct scenario scenarios[] = {
    {"everything", 2, NULL, everything},
    {"in_a_body", 2, NULL, in_a_body},
    {"begins", 0, NULL, begins},
    {"ends", 0, NULL, ends},
    {"raylet_dies", 1, NULL, raylet_dies},
    {"asks_beside_a_get", 2, NULL, asks_beside_a_get},
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof scenarios[0], argc, argv);
}
