/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that does what the lines of its standard input say and answers each with a line: the
 * hands of a test that kills processes around it. An error is printed as "CODE text", never a
 * reason to end.
 */
#include "tests/drivers/driver.h"

#include <signal.h>
#include <time.h>

#define N_REFS 10000

static ray_ref refs[N_REFS];
static int n_refs;

/* What a program with a bad worker image does: the first run of this executable in a folder is the
 * driver's own. */
__attribute__((constructor)) static void at_load(void)
{
    const char *exits = getenv("HOLD_EXITS_AT_LOAD");

    if (exits == NULL)
        return;
    if (mkdir("loaded", 0700) == 0)
        return;
    printf("no licence found\n");
    fflush(stdout);
    _exit((int)strtol(exits, NULL, 10));
}

static int add_one(ray_call *call)
{
    int64_t x;

    if (ray_arg(call, 0, &x) != RAY_OK)
        return -1;
    return ray_return(call, 0, x + 1);
}
RAY_REMOTE(add_one);

static int spin_a_millisecond(ray_call *call)
{
    struct timespec a, b;

    clock_gettime(CLOCK_MONOTONIC, &a);
    do
        clock_gettime(CLOCK_MONOTONIC, &b);
    while ((b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec < 1000000L);
    return ray_return(call, 0, 1);
}
RAY_REMOTE(spin_a_millisecond);

/* As many workers as levels, each waiting for the next. */
RAY_DECLARE(descend);
static int descend(ray_call *call)
{
    int64_t levels, x = 0;

    if (ray_arg(call, 0, &levels) != RAY_OK)
        return -1;
    if (levels > 1 && ray_take(ray_remote(descend, levels - 1), &x, RAY_FOREVER) != RAY_OK)
        return -1;
    return ray_return(call, 0, x + 1);
}
RAY_REMOTE(descend);

/* As many workers as levels; each owns an object, and the ref of what the next one gives. */
RAY_DECLARE(bequeath);
static int bequeath(ray_call *call)
{
    int64_t levels;
    ray_box next;
    ray_ref own, rest;

    if (ray_arg(call, 0, &levels) != RAY_OK)
        return -1;
    own = ray_put(levels);
    if (levels == 1)
        return ray_return(call, 0, ray_list(own));
    rest = ray_remote(bequeath, levels - 1);
    if (ray_get(rest, &next, RAY_FOREVER) != RAY_OK)
        return -1;
    ray_box_drop(&next);
    if (ray_return(call, 0, ray_list(own, rest)) != RAY_OK)
        return -1;
    ray_release(rest);
    return ray_release(own);
}
RAY_REMOTE(bequeath);

/* The sum of all that was given, which is released. */
static int inherit(ray_ref from, int64_t *sum)
{
    *sum = 0;
    for (bool more = true; more;) {
        ray_box box;
        ray_ref own, rest = {0};
        int64_t x;
        int code = ray_take(from, &box, RAY_FOREVER);
        if (code != RAY_OK)
            return code;
        CHECK_CODE(ray_next(&box, &own), RAY_OK);
        more = ray_peek(&box) == RAY_REF && ray_next(&box, &rest) == RAY_OK;
        ray_box_drop(&box);
        code = ray_take(own, &x, RAY_FOREVER);
        if (code != RAY_OK)
            return code;
        *sum += x;
        from = rest;
    }
    return RAY_OK;
}

_Noreturn static void pause_for_ever(void)
{
    for (;;)
        pause();
}

/* Sleeps until killed; as hard to end as a task can make it. */
static int sleep_for_ever(ray_call *call)
{
    sigset_t all;

    (void)call;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    if (fork() == 0) {
        setsid();
        pause_for_ever();
    }
    send_event("asleep");
    pause_for_ever();
}
RAY_REMOTE(sleep_for_ever);

/* Waits for its first attempt's end; any later one is done at once. */
static int once_more(ray_call *call)
{
    ray_context context;

    if (ray_get_context(call, &context) != RAY_OK)
        return -1;
    if (context.attempt > 0)
        return ray_return(call, 0, (int64_t)context.attempt);
    send_event("asleep");
    pause_for_ever();
}
RAY_REMOTE(once_more);

static void answer(int code, int64_t value)
{
    if (code == RAY_OK)
        printf("ok %ld\n", (long)value);
    else
        printf("error %d signal %d %s\n", code, ray_error()->signal, ray_error()->text);
    fflush(stdout);
}

static void start(const char *what, int n)
{
    for (int i = 0; i < n && n_refs < N_REFS; i++) {
        if (strcmp(what, "spin") == 0)
            refs[n_refs++] = ray_remote(spin_a_millisecond);
        else if (strcmp(what, "sleep") == 0)
            refs[n_refs++] = ray_remote(sleep_for_ever);
        else if (strcmp(what, "once_more") == 0)
            refs[n_refs++] = ray_remote(once_more);
        else
            refs[n_refs++] = ray_remote(add_one, i);
    }
    printf("started %d\n", n);
    fflush(stdout);
}

static void obey(char *line)
{
    char what[32] = "", word[32] = "";
    int n = 0;
    int64_t x = 0;

    if (sscanf(line, "%31s %31s %d", what, word, &n) < 1)
        return;
    if (strcmp(what, "init") == 0) {
        n = (int)strtol(word, NULL, 10);
        int code = ray_init(RAY_CONFIG(.num_cpus = n));
        answer(code, getpid());
    } else if (strcmp(what, "task") == 0) {
        int code = ray_take(ray_remote(add_one, 41), &x, RAY_FOREVER);
        answer(code, x);
    } else if (strcmp(what, "descend") == 0) {
        n = (int)strtol(word, NULL, 10);
        int code = ray_take(ray_remote(descend, n), &x, RAY_FOREVER);
        answer(code, x);
    } else if (strcmp(what, "bequeath") == 0) {
        refs[n_refs] = ray_remote(bequeath, strtol(word, NULL, 10));
        answer(ray_wait(&refs[n_refs], 1, 1, RAY_FOREVER, &(bool){false}), 0);
        n_refs++;
    } else if (strcmp(what, "inherit") == 0) {
        int code = inherit(refs[--n_refs], &x);
        answer(code, x);
    } else if (strcmp(what, "start") == 0) {
        start(word, n);
    } else if (strcmp(what, "asleep") == 0) {
        await_events("asleep", (int)strtol(word, NULL, 10));
        printf("they sleep\n");
        fflush(stdout);
    } else if (strcmp(what, "get") == 0) {
        n = (int)strtol(word, NULL, 10);
        int code = ray_get(refs[n], &x, RAY_FOREVER);
        answer(code, x);
    } else if (strcmp(what, "session") == 0) {
        ray_context context;
        CHECK_CODE(ray_get_context(NULL, &context), RAY_OK);
        printf("session %s\n", context.session_dir);
        fflush(stdout);
    } else if (strcmp(what, "shutdown") == 0) {
        answer(ray_shutdown(), 0);
    } else if (strcmp(what, "exit") == 0) {
        exit((int)strtol(word, NULL, 10));
    } else {
        printf("what is %s?\n", what);
        fflush(stdout);
    }
}

int main(void)
{
    char line[256];

    while (fgets(line, sizeof line, stdin) != NULL)
        obey(line);
    return 0;
}
