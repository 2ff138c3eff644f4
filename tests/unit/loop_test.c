/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/net/loop.h"

#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/log.h"

static struct loop *l;
static struct loop_watch *watch;
static struct loop_timer *timer;
static int pair[2];
static char trace[64];

static void setup(void)
{
    struct err err;

    l = loop_create(&err);
    ck_assert_ptr_nonnull(l);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    watch = NULL;
    timer = NULL;
    trace[0] = '\0';
}

static void teardown(void)
{
    loop_unwatch(watch);
    loop_timer_end(timer);
    loop_destroy(l);
    close(pair[0]);
    close(pair[1]);
}

static void note(const char *what)
{
    strncat(trace, what, sizeof trace - strlen(trace) - 1);
}

static void turn_end(void *arg)
{
    (void)arg;
    note("|");
}

static void on_byte(void *arg, bool readable, bool writable)
{
    char c[2] = {0};

    (void)arg;
    ck_assert(!writable);
    if (readable && read(pair[0], c, 1) == 1)
        note(c);
    if (c[0] == 'z')
        loop_stop(l);
}

START_TEST(test_a_turn_ends_after_its_callbacks)
{
    watch = loop_watch_fd(l, pair[0], on_byte, NULL);
    ck_assert_int_eq(write(pair[1], "az", 2), 2);
    loop_run(l, turn_end, NULL);
    ck_assert_str_eq(trace, "a|z|");
}
END_TEST

static void on_either(void *arg, bool readable, bool writable)
{
    (void)arg;
    if (readable)
        note("r");
    if (writable) {
        note("w");
        loop_want_write(watch, false);
        ck_assert_int_eq(write(pair[1], "x", 1), 1);
    }
    if (readable)
        loop_stop(l);
}

/* Else a loop with a writable socket would never sleep. */
START_TEST(test_write_interest_is_on_demand)
{
    watch = loop_watch_fd(l, pair[0], on_either, NULL);
    loop_want_write(watch, true);
    loop_want_write(watch, true);
    loop_run(l, turn_end, NULL);
    ck_assert_str_eq(trace, "w|r|");
    loop_want_write(NULL, true);
}
END_TEST

static void on_last(void *arg, bool readable, bool writable)
{
    (void)arg;
    (void)readable;
    (void)writable;
    note("u");
    loop_unwatch(watch);
    watch = NULL;
    loop_stop(l);
}

/* Both kinds of readiness stand in one turn: the second must not find a freed watch. */
START_TEST(test_a_callback_may_end_its_own_watch)
{
    watch = loop_watch_fd(l, pair[0], on_last, NULL);
    loop_want_write(watch, true);
    ck_assert_int_eq(write(pair[1], "x", 1), 1);
    loop_run(l, turn_end, NULL);
    ck_assert_str_eq(trace, "u|");
}
END_TEST

static void on_tick(void *arg)
{
    unsigned *n = arg;

    note("t");
    if (++*n == 3)
        loop_stop(l);
}

START_TEST(test_a_timer_comes_again)
{
    unsigned n = 0;

    timer = loop_every(l, 1, on_tick, &n);
    loop_run(l, turn_end, NULL);
    ck_assert_str_eq(trace, "t|t|t|");
}
END_TEST

static void on_once(void *arg)
{
    (void)arg;
    note("o");
    loop_timer_end(timer);
    timer = loop_after(l, 1, on_once, NULL);
    if (strlen(trace) > 2)
        loop_stop(l);
}

START_TEST(test_a_timer_may_be_replaced_from_its_callback)
{
    timer = loop_after(l, 1, on_once, NULL);
    loop_run(l, turn_end, NULL);
    ck_assert_str_eq(trace, "o|o|");
}
END_TEST

static void on_far(void *arg)
{
    unsigned *n = arg;

    note("f");
    if (++*n == 3)
        loop_stop(l);
    else
        loop_timer_again(timer, 1);
}

START_TEST(test_a_timer_may_be_set_anew_before_and_after_it_fires)
{
    unsigned n = 0;

    timer = loop_after(l, 3600000, on_far, &n);
    loop_timer_again(timer, 1);
    loop_run(l, turn_end, NULL);
    ck_assert_str_eq(trace, "f|f|f|");
}
END_TEST

static void on_signal(void *arg, bool readable, bool writable)
{
    (void)arg;
    (void)writable;
    ck_assert(readable);
    note("s");
    loop_stop(l);
}

START_TEST(test_a_signal_is_an_event)
{
    watch = loop_on_signal(l, SIGUSR1, on_signal, NULL);
    raise(SIGUSR1);
    loop_run(l, turn_end, NULL);
    ck_assert_str_eq(trace, "s|");
}
END_TEST

START_TEST(test_stopped_before_it_runs)
{
    loop_stop(l);
    loop_run(l, turn_end, NULL);
    ck_assert_str_eq(trace, "");
}
END_TEST

static void on_slow(void *arg)
{
    uint64_t end_ms = loop_now_ms() + LOOP_SLOW_MS + 1;

    (void)arg;
    while (loop_now_ms() < end_ms)
        continue;
    loop_stop(l);
}

START_TEST(test_a_slow_callback_is_logged)
{
    char line[512] = "";

    log_set_fd(pair[1]);
    log_threshold = LOG_LEVEL_WARN;
    timer = loop_after(l, 1, on_slow, NULL);
    loop_run(l, turn_end, NULL);
    log_set_fd(-1);
    ck_assert_int_gt(read(pair[0], line, sizeof line - 1), 0);
    ck_assert_ptr_nonnull(strstr(line, "event=slow_callback"));
    ck_assert_ptr_nonnull(strstr(line, "ms="));
}
END_TEST

START_TEST(test_time_is_monotonic)
{
    uint64_t ns = loop_now_ns(), ms = loop_now_ms();

    ck_assert_uint_ge(loop_now_ns(), ns);
    ck_assert_uint_ge(ms, ns / 1000000u);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("loop");
    TCase *t = tcase_create("loop");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_a_turn_ends_after_its_callbacks);
    tcase_add_test(t, test_write_interest_is_on_demand);
    tcase_add_test(t, test_a_callback_may_end_its_own_watch);
    tcase_add_test(t, test_a_timer_comes_again);
    tcase_add_test(t, test_a_timer_may_be_replaced_from_its_callback);
    tcase_add_test(t, test_a_timer_may_be_set_anew_before_and_after_it_fires);
    tcase_add_test(t, test_a_signal_is_an_event);
    tcase_add_test(t, test_stopped_before_it_runs);
    tcase_add_test(t, test_a_slow_callback_is_logged);
    tcase_add_test(t, test_time_is_monotonic);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
