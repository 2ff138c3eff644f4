/* SPDX-License-Identifier: Apache-2.0 */
/* What get, wait, submission and arguments mean, one scenario each. */
#include "tests/drivers/driver.h"

#include <math.h>
#include <pthread.h>
#include <sys/mman.h>

#define MANY 10000

static int add_one(ray_call *call)
{
    int64_t x;

    if (ray_arg(call, 0, &x) != RAY_OK)
        return -1;
    return ray_return(call, 0, x + 1);
}
RAY_REMOTE(add_one);

/* Member me of n: tells all others, then waits for all others. */
static int meet(ray_call *call)
{
    int64_t me, n;
    char name[64];

    if (ray_arg(call, 0, &me) != RAY_OK || ray_arg(call, 1, &n) != RAY_OK)
        return -1;
    for (int64_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "meet.%d", (int)i);
        if (i != me && me >= 0)
            send_event(name);
    }
    if (me >= 0) {
        snprintf(name, sizeof name, "meet.%d", (int)me);
        await_events(name, (int)n - 1);
    }
    return ray_return(call, 0, me);
}
RAY_REMOTE(meet);

static void get_all(ray_ref *refs, int n, int64_t first)
{
    for (int i = 0; i < n; i++) {
        int64_t x;
        CHECK_CODE(ray_take(refs[i], &x, RAY_FOREVER), RAY_OK);
        CHECK(x == first + i);
    }
}

static void rendezvous(int argc, char **argv)
{
    ray_ref refs[4];

    (void)argc;
    (void)argv;
    for (int i = 0; i < 4; i++)
        refs[i] = ray_remote(meet, i, 4);
    get_all(refs, 4, 0);
}

/* Short tasks make the window of their function deep; long ones of the same function must not stay
 * behind each other. */
static void spread(int argc, char **argv)
{
    ray_ref refs[4], shorts[2000];

    (void)argc;
    (void)argv;
    for (int i = 0; i < 2000; i++)
        shorts[i] = ray_remote(meet, -1, 4);
    for (int i = 0; i < 4; i++)
        refs[i] = ray_remote(meet, i, 4);
    for (int i = 0; i < 2000; i++) {
        int64_t x;
        CHECK_CODE(ray_take(shorts[i], &x, RAY_FOREVER), RAY_OK);
    }
    get_all(refs, 4, 0);
}

static int meet_and_tell(ray_call *call)
{
    int64_t me;

    if (meet(call) != 0 || ray_arg(call, 0, &me) != RAY_OK)
        return -1;
    if (me >= 0)
        send_event("met");
    return 0;
}
RAY_REMOTE(meet_and_tell);

/* Leaves tasks behind that wait for each other, in deep windows. */
static int leave(ray_call *call)
{
    ray_ref shorts[200];

    for (int i = 0; i < 200; i++)
        shorts[i] = ray_remote(meet_and_tell, -1, 4);
    for (int i = 0; i < 200; i++) {
        int64_t x;
        if (ray_take(shorts[i], &x, RAY_FOREVER) != RAY_OK)
            return -1;
    }
    for (int i = 0; i < 16; i++)
        ray_release(ray_remote(meet_and_tell, i % 4 == 0 ? i / 4 : -1, 4));
    return ray_return(call, 0, 0);
}
RAY_REMOTE(leave);

/* Who submitted them runs no body any more, and is an owner all the same. */
static void orphans(int argc, char **argv)
{
    int64_t x;

    (void)argc;
    (void)argv;
    CHECK_CODE(ray_take(ray_remote(leave), &x, RAY_FOREVER), RAY_OK);
    await_events("met", 4);
}

/* Asks for the value of the ref in the list when its owner's program waits for it elsewhere. */
static int ask_later(ray_call *call)
{
    int64_t x;
    ray_box list;
    ray_ref ref;

    if (ray_arg(call, 0, &list) != RAY_OK || ray_next(&list, &ref) != RAY_OK)
        return -1;
    send_event("holds");
    await_events("ask", 1);
    if (ray_take(ref, &x, RAY_FOREVER) == RAY_OK && x == 42)
        send_event("got");
    return ray_return(call, 0, 0);
}
RAY_REMOTE(ask_later);

static int hand_on(ray_call *call)
{
    ray_box list;
    ray_ref ref;

    if (ray_arg(call, 0, &list) != RAY_OK || ray_next(&list, &ref) != RAY_OK)
        return -1;
    ray_release(ray_remote(ask_later, ray_list(ref)));
    ray_release(ref);
    return ray_return(call, 0, 0);
}
RAY_REMOTE(hand_on);

/* An owner answers though its program is in no call and waits for no task. */
static void elsewhere(int argc, char **argv)
{
    int64_t x;
    ray_ref ref = ray_remote(add_one, 41);

    (void)argc;
    (void)argv;
    CHECK_CODE(ray_get(ref, &x, RAY_FOREVER), RAY_OK);
    CHECK_CODE(ray_take(ray_remote(hand_on, ray_list(ref)), &x, RAY_FOREVER), RAY_OK);
    await_events("holds", 1);
    send_event("ask");
    await_events("got", 1);
    ray_release(ref);
}

RAY_DECLARE(down);
static int down(ray_call *call)
{
    int64_t n, below = 0;

    if (ray_arg(call, 0, &n) != RAY_OK)
        return -1;
    if (n > 0) {
        ray_ref ref = ray_remote(down, n - 1);
        if (ray_take(ref, &below, RAY_FOREVER) != RAY_OK)
            return ray_fail(call, "level %d: %s", (int)n, ray_error()->text);
    }
    return ray_return(call, 0, below + 1);
}
RAY_REMOTE(down);

static void nested(int argc, char **argv)
{
    int64_t levels;

    (void)argc;
    (void)argv;
    CHECK_CODE(ray_take(ray_remote(down, 50), &levels, RAY_FOREVER), RAY_OK);
    CHECK(levels == 51);
}

static void get_many(int argc, char **argv)
{
    static ray_ref refs[MANY];
    static int64_t out[MANY];

    (void)argc;
    (void)argv;
    for (int i = 0; i < MANY; i++)
        refs[i] = ray_remote(add_one, i);
    CHECK_CODE(ray_get_many(refs, MANY, out, RAY_FOREVER), RAY_OK);
    for (int i = 0; i < MANY; i++) {
        CHECK(out[i] == i + 1);
        CHECK_CODE(ray_release(refs[i]), RAY_OK);
    }
}

/* The sum of all arguments; every third one is a ref. */
static int sum(ray_call *call)
{
    int64_t total = 0, x;

    for (unsigned i = 0; i < ray_n_args(call); i++) {
        if (ray_arg(call, i, &x) != RAY_OK)
            return ray_fail(call, "argument %u: %s", i, ray_error()->text);
        total += x;
    }
    return ray_return(call, 0, total);
}
RAY_REMOTE(sum);

static void many_arguments(int argc, char **argv)
{
    ray_value args[1000];
    ray_ref refs[1000] = {{0}};
    int64_t total;

    (void)argc;
    (void)argv;
    for (int i = 0; i < 1000; i++) {
        if (i % 3 == 0)
            refs[i] = ray_remote(add_one, i - 1);
        args[i] = i % 3 == 0 ? ray_v(refs[i]) : ray_v(i);
    }
    CHECK_CODE(ray_take(ray_submit(&ray_fn_sum, NULL, args, 1000), &total, RAY_FOREVER), RAY_OK);
    CHECK(total == 999 * 1000 / 2);
    for (int i = 0; i < 1000; i += 3)
        CHECK_CODE(ray_release(refs[i]), RAY_OK);
    CHECK_CODE(ray_take(ray_submit(&ray_fn_sum, NULL, NULL, 0), &total, RAY_FOREVER), RAY_OK);
    CHECK(total == 0);
}

static int hundred(ray_call *call)
{
    int64_t base;

    if (ray_arg(call, 0, &base) != RAY_OK)
        return -1;
    for (int64_t i = 99; i >= 0; i--)
        if (ray_return(call, (unsigned)i, base + i) != RAY_OK)
            return -1;
    return ray_return(call, 100, 0) == RAY_EARG ? 0 : -1;
}
RAY_REMOTE(hundred, .num_returns = 100);

static int forgetful(ray_call *call)
{
    return ray_return(call, 0, 7);
}
RAY_REMOTE(forgetful, .num_returns = 2);

static void returns(int argc, char **argv)
{
    ray_ref refs[100], two[2];
    int64_t x;

    (void)argc;
    (void)argv;
    CHECK_CODE(ray_remote_n(refs, 100, hundred, 1000), RAY_OK);
    get_all(refs, 100, 1000);
    CHECK_CODE(ray_submit_n(two, 2, &ray_fn_forgetful, NULL, NULL, 0), RAY_OK);
    CHECK_CODE(ray_take(two[1], &x, RAY_FOREVER), RAY_ETASK);
    ray_release(two[0]);
}

/* Ends when its pipe is written to. */
static int gate(ray_call *call)
{
    const char *name;

    if (ray_arg(call, 0, &name) != RAY_OK)
        return -1;
    await_events(name, 1);
    return ray_return(call, 0, 1);
}
RAY_REMOTE(gate);

static void waits(int argc, char **argv)
{
    ray_ref r[5];
    bool ready[5];
    int64_t x;
    int keep[5];

    (void)argc;
    (void)argv;
    for (int i = 0; i < 5; i++) {
        char name[16];
        snprintf(name, sizeof name, "gate.%d", i);
        keep[i] = open_pipe(name);
        r[i] = ray_remote(gate, (const char *)name);
    }
    CHECK_CODE(ray_wait(r, 5, 1, 0, ready), RAY_ETIMEOUT);
    for (int i = 0; i < 5; i++)
        CHECK(!ready[i]);
    CHECK_CODE(ray_wait(r, 5, 0, 0, ready), RAY_EARG);
    CHECK_CODE(ray_wait(r, 5, 6, 0, ready), RAY_EARG);
    CHECK_CODE(ray_wait(r, 0, 1, 0, ready), RAY_OK);
    CHECK_CODE(ray_wait((ray_ref[]){r[0], r[1], r[0]}, 3, 1, 0, ready), RAY_EARG);
    send_event("gate.3");
    CHECK_CODE(ray_wait(r, 5, 1, RAY_FOREVER, ready), RAY_OK);
    CHECK(!ready[0] && !ready[1] && !ready[2] && ready[3] && !ready[4]);
    send_event("gate.1");
    CHECK_CODE(ray_get(r[1], &x, RAY_FOREVER), RAY_OK);
    /* two are ready: the first of them in the order of the input, and no more than asked for */
    CHECK_CODE(ray_wait(r, 5, 1, RAY_FOREVER, ready), RAY_OK);
    CHECK(!ready[0] && ready[1] && !ready[2] && !ready[3] && !ready[4]);
    CHECK_CODE(ray_wait((ray_ref[]){r[3], r[1]}, 2, 1, RAY_FOREVER, ready), RAY_OK);
    CHECK(ready[0] && !ready[1]);
    /* fewer than asked for: those that are ready are told all the same */
    CHECK_CODE(ray_wait(r, 5, 3, 20, ready), RAY_ETIMEOUT);
    CHECK(!ready[0] && ready[1] && !ready[2] && ready[3] && !ready[4]);
    CHECK_CODE(ray_release(r[3]), RAY_OK);
    CHECK_CODE(ray_wait(r, 5, 1, 0, ready), RAY_ESTALE);
    send_event("gate.0");
    send_event("gate.2");
    send_event("gate.4");
    for (int i = 0; i < 5; i++) {
        if (i != 3)
            CHECK_CODE(ray_take(r[i], &x, RAY_FOREVER), RAY_OK);
        close(keep[i]);
    }
}

static int opens(ray_call *call)
{
    const char *name;

    if (ray_arg(call, 0, &name) != RAY_OK)
        return -1;
    send_event(name);
    return 0;
}
RAY_REMOTE(opens, .num_returns = RAY_ZERO);

static void polls(int argc, char **argv)
{
    int64_t x = 5;
    bool ready;
    ray_event event;
    int keep = open_pipe("poll");
    ray_ref r = ray_remote(gate, (const char *)"poll");

    (void)argc;
    (void)argv;
    for (int i = 0; i < 100; i++)
        CHECK_CODE(ray_get(r, &x, 0), RAY_ETIMEOUT);
    CHECK_CODE(ray_get(r, &x, 5), RAY_ETIMEOUT);
    CHECK(x == 5);
    CHECK_CODE(ray_take(r, &x, 0), RAY_ETIMEOUT); /* keeps the ref */
    /* a time that has passed is not for ever, and a very long one is not over at once */
    CHECK_CODE(ray_get(r, &x, -2), RAY_EARG);
    CHECK_CODE(ray_take(r, &x, INT64_MIN), RAY_EARG);
    CHECK_CODE(ray_get_many(&r, 1, &x, -2), RAY_EARG);
    CHECK_CODE(ray_wait(&r, 1, 1, -2, &ready), RAY_EARG);
    CHECK(ray_poll(&event, 1, -2) == -1 && ray_error()->code == RAY_EARG);
    ray_remote(opens, (const char *)"poll");
    CHECK_CODE(ray_wait(&r, 1, 1, INT64_MAX, &ready), RAY_OK);
    CHECK_CODE(ray_get(r, &x, INT64_MAX), RAY_OK);
    CHECK_CODE(ray_get(r, &x, 0), RAY_OK);
    CHECK(x == 1);
    CHECK_CODE(ray_take(r, &x, 0), RAY_OK);
    close(keep);
}

static int fails(ray_call *call)
{
    return ray_fail(call, "no such %s", "luck");
}
RAY_REMOTE(fails);

static int asks(ray_call *call)
{
    int64_t x;

    return ray_take(ray_remote(fails), &x, RAY_FOREVER) == RAY_OK ? ray_return(call, 0, x) : -1;
}
RAY_REMOTE(asks);

static int returns_less(ray_call *call)
{
    return ray_return(call, 0, 1);
}
RAY_REMOTE(returns_less, .num_returns = 2);

static int leaves_a_trace(ray_call *call)
{
    note("trace", "ran\n");
    return ray_return(call, 0, 1);
}
RAY_REMOTE(leaves_a_trace);

static void error_argument(int argc, char **argv)
{
    int64_t x;
    ray_ref bad = ray_remote(fails, 0), second = ray_remote(leaves_a_trace, bad),
            third = ray_remote(leaves_a_trace, 1, second);

    (void)argc;
    (void)argv;
    CHECK_CODE(ray_get(third, &x, RAY_FOREVER), RAY_ETASK);
    CHECK(strstr(ray_error()->text, "no such luck") != NULL);
    CHECK(strcmp(ray_error()->function, "fails") == 0);
    CHECK(ray_error()->pid > 0 && ray_error()->log[0] != '\0');
    CHECK_CODE(ray_get(second, &x, RAY_FOREVER), RAY_ETASK);
    CHECK(access("trace", F_OK) != 0);
    /* a sentence that went through other tasks names where it comes from */
    CHECK_CODE(ray_take(ray_remote(asks), &x, RAY_FOREVER), RAY_ETASK);
    CHECK(strcmp(ray_error()->text, "no such luck, from fails (semantics.c)") == 0);
    CHECK(strcmp(ray_error()->function, "asks") == 0);
    CHECK_CODE(ray_take(ray_remote(add_one, "1"), &x, RAY_FOREVER), RAY_ETASK);
    CHECK(strcmp(ray_error()->text, "argument 0: the value is a string, not an integer") == 0);
    /* and is not waited for behind what takes long */
    int keep = open_pipe("long");
    int64_t got[2] = {7, 7};
    ray_ref pair[] = {ray_remote(gate, (const char *)"long"), ray_remote(fails)};
    CHECK_CODE(ray_get_many(pair, 2, got, RAY_FOREVER), RAY_ETASK);
    CHECK(strcmp(ray_error()->function, "fails") == 0);
    CHECK_CODE(ray_get_many(pair, 2, got, 0), RAY_ETIMEOUT);
    send_event("long");
    CHECK_CODE(ray_take(pair[0], &x, RAY_FOREVER), RAY_OK);
    CHECK_CODE(ray_release(pair[1]), RAY_OK);
    close(keep);
    ray_ref both[2];
    CHECK_CODE(ray_remote_n(both, 2, returns_less), RAY_OK);
    for (int i = 0; i < 2; i++) {
        CHECK_CODE(ray_take(both[i], &x, RAY_FOREVER), RAY_ETASK);
        CHECK(strstr(ray_error()->text, "ray_return(call, 1, ...)") != NULL);
    }
    /* an error that is ready before the submission */
    ray_ref fourth = ray_remote(leaves_a_trace, bad);
    CHECK_CODE(ray_take(fourth, &x, RAY_FOREVER), RAY_ETASK);
    CHECK(access("trace", F_OK) != 0);
    ray_release(bad);
    ray_release(second);
    ray_release(third);
}

static void stale(int argc, char **argv)
{
    int64_t x;
    bool ready;
    ray_ref r = ray_put(3), held = ray_put(4);

    (void)argc;
    (void)argv;
    CHECK_CODE(ray_get(r, &x, RAY_FOREVER), RAY_OK);
    CHECK_CODE(ray_release(r), RAY_OK);
    CHECK_CODE(ray_release(r), RAY_ESTALE);
    CHECK_CODE(ray_get(r, &x, RAY_FOREVER), RAY_ESTALE);
    CHECK_CODE(ray_wait(&r, 1, 1, RAY_FOREVER, &ready), RAY_ESTALE);
    CHECK_CODE(ray_watch(r, NULL), RAY_ESTALE);
    CHECK_CODE(ray_take(ray_remote(add_one, r), &x, RAY_FOREVER), RAY_ESTALE);
    CHECK_CODE(ray_get((ray_ref){0}, &x, RAY_FOREVER), RAY_ESTALE);
    CHECK_CODE(ray_get((ray_ref){UINT64_MAX}, &x, RAY_FOREVER), RAY_ESTALE);
    CHECK_CODE(ray_get((ray_ref){0x123456789abcdefu}, &x, RAY_FOREVER), RAY_ESTALE);
    /* its slot is used again: the old word stays stale */
    ray_ref next = ray_put(5);
    CHECK_CODE(ray_get(r, &x, 0), RAY_ESTALE);
    CHECK_CODE(ray_take(next, &x, 0), RAY_OK);
    CHECK(x == 5);
    CHECK_CODE(ray_take(held, &x, 0), RAY_OK);
    CHECK(x == 4);
    /* a ref that is released while its task runs, and one whose count a task holds */
    ray_release(ray_remote(add_one, 1));
    ray_ref argument = ray_remote(add_one, 1), user = ray_remote(add_one, argument);
    CHECK_CODE(ray_release(argument), RAY_OK);
    CHECK_CODE(ray_take(user, &x, RAY_FOREVER), RAY_OK);
    CHECK(x == 3);
}

static void bad_options(int argc, char **argv)
{
    static char name[65536];
    int64_t x;
    const double amounts[] = {NAN, -NAN, INFINITY, -1, 1e30};

    (void)argc;
    (void)argv;
    for (size_t i = 0; i < sizeof amounts / sizeof amounts[0]; i++) {
        CHECK_CODE(ray_take(ray_remote_with(RAY_OPTIONS(.num_cpus = amounts[i]), add_one, 1),
                            &x,
                            RAY_FOREVER),
                   RAY_EARG);
        CHECK(strstr(ray_error()->text, "num_cpus") != NULL);
    }
    const char *resources[] =
        {"gpu=nan", "gpu=-1", "gpu", "=1", "gpu=1,gpu=", "gpu=1e400", "gpu=0x", ",,"};
    for (size_t i = 0; i < sizeof resources / sizeof resources[0]; i++) {
        CHECK_CODE(ray_take(ray_remote_with(RAY_OPTIONS(.resources = resources[i]), add_one, 1),
                            &x,
                            RAY_FOREVER),
                   RAY_EARG);
        CHECK(ray_error()->text[0] != '\0');
    }
    memset(name, 'n', sizeof name - 1);
    CHECK_CODE(ray_take(ray_remote_with(RAY_OPTIONS(.name = name), add_one, 1), &x, RAY_FOREVER),
               RAY_EARG);
    CHECK(strlen(ray_error()->text) < 1000);
    CHECK_CODE(ray_take(ray_remote_with(RAY_OPTIONS(.name = "two\nlines"), add_one, 1), &x, 0),
               RAY_EARG);
    CHECK(strstr(ray_error()->text, "add_one holds a control character") != NULL);
    CHECK_CODE(ray_take(ray_remote_with(RAY_OPTIONS(.resources = "CPU=2"), add_one, 1), &x, 0),
               RAY_EARG);
    CHECK(strstr(ray_error()->text, "use num_cpus") != NULL);
    CHECK_CODE(ray_take(ray_remote_with(RAY_OPTIONS(.resources = "GPU=1"), add_one, 1), &x, 0),
               RAY_EARG);
    CHECK(strstr(ray_error()->text, "another name") != NULL);
    CHECK_CODE(ray_take(ray_remote_with(RAY_OPTIONS(.resources = "memory=1"), add_one, 1), &x, 0),
               RAY_EARG);
    CHECK(strstr(ray_error()->text, "use a task's memory") != NULL);
    CHECK_CODE(ray_take(ray_remote_with(RAY_OPTIONS(.memory = -1), add_one, 1), &x, 0), RAY_EARG);
    CHECK(strstr(ray_error()->text, "memory of add_one is -1") != NULL);
    CHECK_CODE(
        ray_take(ray_remote_with(RAY_OPTIONS(.resources = name), add_one, 1), &x, RAY_FOREVER),
        RAY_EARG);
    CHECK_CODE(
        ray_take(ray_remote_with(RAY_OPTIONS(.num_returns = -5), add_one, 1), &x, RAY_FOREVER),
        RAY_EARG);
    CHECK_CODE(
        ray_take(ray_remote_with(RAY_OPTIONS(.max_retries = -7), add_one, 1), &x, RAY_FOREVER),
        RAY_EARG);
    /* nobody else is disturbed */
    CHECK_CODE(ray_take(ray_remote(add_one, 1), &x, RAY_FOREVER), RAY_OK);
}

static void bad_values(int argc, char **argv)
{
    int64_t x;
    const char *text;
    static char large[200 << 10];

    (void)argc;
    (void)argv;
    ray_ref r = ray_put("words");
    CHECK_CODE(ray_get(r, &x, RAY_FOREVER), RAY_ETYPE);
    CHECK_CODE(ray_get(r, &text, RAY_FOREVER), RAY_OK);
    CHECK(strcmp(text, "words") == 0);
    ray_free((void *)(uintptr_t)text);
    CHECK_CODE(ray_take(ray_remote(add_one, r), &x, RAY_FOREVER), RAY_ETASK);
    CHECK_CODE(ray_release(r), RAY_OK);
    CHECK_CODE(ray_take(ray_put(ray_bytes(large, sizeof large)), &x, RAY_FOREVER), RAY_ETYPE);
    CHECK_CODE(ray_take(ray_put(r), &x, RAY_FOREVER), RAY_EARG); /* as Ray's TypeError */
    CHECK_CODE(ray_take(ray_submit(&ray_fn_add_one, NULL, NULL, 0), &x, RAY_FOREVER), RAY_ETASK);
}

/* How many bodies run at once, in a page that all map. */
struct census {
    _Atomic int now, most;
};
static struct census *open_census(void)
{
    int fd = open("census", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (fd < 0 || ftruncate(fd, 4096) != 0)
        _exit(99);
    struct census *c = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return c;
}

static int counted(ray_call *call)
{
    struct census *c = open_census();
    int now = ++c->now, most = c->most;

    while (now > most
           && !__atomic_compare_exchange_n((int *)&c->most,
                                           &most,
                                           now,
                                           false,
                                           __ATOMIC_SEQ_CST,
                                           __ATOMIC_SEQ_CST))
        continue;
    for (volatile int i = 0; i < 200000; i++)
        continue;
    c->now--;
    munmap(c, 4096);
    return ray_return(call, 0, now);
}
RAY_REMOTE(counted);

static void check_census(const ray_options *options, int most)
{
    ray_ref refs[40];
    struct census *c = open_census();

    c->most = 0;
    for (int i = 0; i < 40; i++)
        refs[i] = ray_remote_with(options, counted, i);
    for (int i = 0; i < 40; i++) {
        int64_t x;
        CHECK_CODE(ray_take(refs[i], &x, RAY_FOREVER), RAY_OK);
    }
    printf("most %d of %d\n", c->most, most);
    CHECK(c->most <= most);
    munmap(c, 4096);
}

/* n tasks with these options run at once, or the scenario hangs. */
static void check_together(const ray_options *options, int n)
{
    ray_ref refs[16];

    for (int i = 0; i < n; i++)
        refs[i] = ray_remote_with(options, meet, i, n);
    get_all(refs, n, 0);
}

static void resources(int argc, char **argv)
{
    ray_cluster facts;
    int64_t x;

    (void)argc;
    (void)argv;
    check_census(RAY_OPTIONS(.num_cpus = 2), 2);
    check_together(RAY_OPTIONS(.num_cpus = 2), 2);
    check_census(NULL, 4);
    check_together(RAY_OPTIONS(.num_cpus = 0.5), 8);
    check_together(RAY_OPTIONS(.num_cpus = RAY_ZERO), 8);
    check_census(RAY_OPTIONS(.num_cpus = RAY_ZERO, .resources = "gadget=1"), 3);
    check_together(RAY_OPTIONS(.num_cpus = RAY_ZERO, .resources = "gadget=1"), 3);
    check_together(RAY_OPTIONS(.num_cpus = RAY_ZERO, .resources = "gadget=0.5"), 6);
    check_census(RAY_OPTIONS(.resources = "gadget=3"), 1);
    CHECK_CODE(
        ray_take(ray_remote_with(RAY_OPTIONS(.num_cpus = 0.0001), add_one, 1), &x, RAY_FOREVER),
        RAY_OK);
    CHECK_CODE(ray_get_cluster(&facts), RAY_OK);
    bool has_cpu = false, has_gadget = false;
    double memory = 0;
    for (unsigned i = 0; i < facts.n_resources; i++) {
        has_cpu |= strcmp(facts.resources[i].name, "CPU") == 0 && facts.resources[i].total == 4;
        has_gadget |=
            strcmp(facts.resources[i].name, "gadget") == 0 && facts.resources[i].total == 3;
        if (strcmp(facts.resources[i].name, "memory") == 0)
            memory = facts.resources[i].total;
    }
    CHECK(has_cpu && has_gadget && facts.n_nodes == 1);
    check_census(RAY_OPTIONS(.memory = (int64_t)(memory / 3)), 3);
    check_together(RAY_OPTIONS(.memory = (int64_t)(memory / 3)), 3);
    ray_ref never = ray_remote_with(RAY_OPTIONS(.memory = 2 * (int64_t)memory), add_one, 1);
    CHECK_CODE(ray_get(never, &x, 20), RAY_ETIMEOUT); /* no node has so much */
    CHECK_CODE(ray_release(never), RAY_OK);
}

static int says(ray_call *call)
{
    const char *text;

    if (ray_arg(call, 0, &text) != RAY_OK)
        return -1;
    printf("%s to stdout\n", text);
    fprintf(stderr, "%s to stderr\n", text);
    return ray_return(call, 0, (int64_t)getpid());
}
RAY_REMOTE(says);

static int says_half(ray_call *call)
{
    printf("a line without an end");
    return ray_return(call, 0, 1);
}
RAY_REMOTE(says_half);

static void prints(int argc, char **argv)
{
    int64_t pid;

    (void)argc;
    (void)argv;
    CHECK_CODE(ray_take(ray_remote(says, (const char *)"hello"), &pid, RAY_FOREVER), RAY_OK);
    printf("worker %d\n", (int)pid);
    CHECK_CODE(
        ray_take(ray_remote_with(RAY_OPTIONS(.name = "town crier"), says, (const char *)"again"),
                 &pid,
                 RAY_FOREVER),
        RAY_OK);
    fflush(stdout);
}

static void half_lines(int argc, char **argv)
{
    int64_t x;

    (void)argc;
    (void)argv;
    CHECK_CODE(ray_take(ray_remote(says_half), &x, RAY_FOREVER), RAY_OK);
    CHECK_CODE(ray_take(ray_remote(says, (const char *)"hello"), &x, RAY_FOREVER), RAY_OK);
    CHECK_CODE(ray_take(ray_remote(says_half), &x, RAY_FOREVER), RAY_OK);
}

static void watches(int argc, char **argv)
{
    ray_ref refs[100];
    ray_event events[7];
    bool seen[100] = {false};
    int n, left = 100;

    (void)argc;
    (void)argv;
    for (int i = 0; i < 100; i++) {
        refs[i] = ray_remote(add_one, i);
        CHECK_CODE(ray_watch(refs[i], (void *)(uintptr_t)(i + 1)), RAY_OK);
    }
    CHECK(ray_poll_fd() >= 0);
    while (left > 0) {
        CHECK((n = ray_poll(events, 7, RAY_FOREVER)) > 0);
        for (int k = 0; k < n; k++) {
            int i = (int)(uintptr_t)events[k].tag - 1;
            int64_t x;
            CHECK(i >= 0 && i < 100 && !seen[i] && events[k].ref.word == refs[i].word);
            seen[i] = true;
            CHECK_CODE(ray_take(events[k].ref, &x, 0), RAY_OK);
            CHECK(x == i + 1);
        }
        left -= n;
    }
    CHECK(ray_poll(events, 7, 0) == 0);
}

static void *submit_many(void *arg)
{
    int64_t base = (int64_t)(intptr_t)arg, x;
    ray_ref refs[50];

    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 50; i++)
            refs[i] = ray_remote(add_one, base + i);
        get_all(refs, 50, base + 1);
        CHECK_CODE(ray_take(ray_remote(fails, 0), &x, RAY_FOREVER), RAY_ETASK);
        CHECK_CODE(ray_get((ray_ref){0}, &x, RAY_FOREVER), RAY_ESTALE);
    }
    return NULL;
}

static void threads(int argc, char **argv)
{
    pthread_t t[8];

    (void)argc;
    (void)argv;
    for (intptr_t i = 0; i < 8; i++)
        CHECK(pthread_create(&t[i], NULL, submit_many, (void *)(i * 1000)) == 0);
    for (int i = 0; i < 8; i++)
        pthread_join(t[i], NULL);
}

static const struct scenario scenarios[] = {
    {"rendezvous", 4, NULL, rendezvous},
    {"spread", 4, NULL, spread},
    {"orphans", 4, NULL, orphans},
    {"elsewhere", 4, NULL, elsewhere},
    {"nested", 2, NULL, nested},
    {"get_many", 4, NULL, get_many},
    {"many_arguments", 2, NULL, many_arguments},
    {"returns", 2, NULL, returns},
    {"waits", 5, NULL, waits},
    {"polls", 2, NULL, polls},
    {"error_argument", 2, NULL, error_argument},
    {"stale", 2, NULL, stale},
    {"bad_options", 2, NULL, bad_options},
    {"bad_values", 2, NULL, bad_values},
    {"resources", 4, "gadget=3", resources},
    {"prints", 2, NULL, prints},
    {"half_lines", 1, NULL, half_lines},
    {"threads", 2, NULL, threads},
    {"watches", 2, NULL, watches},
};

int main(int argc, char **argv)
{
    return run_scenario(scenarios, sizeof scenarios / sizeof scenarios[0], argc, argv);
}
