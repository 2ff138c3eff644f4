/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/worker_pool.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct worker_pool *p;
static struct worker_pool_actions out;
static uint64_t now;

static void make(unsigned start_limit, unsigned keep, unsigned max)
{
    worker_pool_destroy(p);
    p = worker_pool_create(
        &(struct worker_pool_config){.start_limit = start_limit, .keep = keep, .max = max});
}

static void setup(void)
{
    now = 1000;
    make(2, 2, 100);
}

static void teardown(void)
{
    worker_pool_selfcheck(p);
    worker_pool_destroy(p);
    p = NULL;
    free(out.v);
    out = (struct worker_pool_actions){0};
}

/* What came out since the last look, as text: "spawn 1 grant 2". */
static const char *seen(void)
{
    static const char *const names[] = {"spawn", "grant", "exit", "kill", "fail"};
    static char text[4096];
    size_t n = 0;

    text[0] = '\0';
    for (size_t i = 0; i < out.n; i++) {
        n += (size_t)
            snprintf(text + n, sizeof text - n, "%s%s", i == 0 ? "" : " ", names[out.v[i].kind]);
        if (out.v[i].kind != WORKER_POOL_FAIL)
            n += (size_t)
                snprintf(text + n, sizeof text - n, " %llu", (unsigned long long)out.v[i].token);
    }
    out.n = 0;
    worker_pool_selfcheck(p);
    return text;
}

static void request(unsigned n)
{
    while (n-- > 0)
        worker_pool_request(p, now, &out);
}

static bool registered(uint64_t token)
{
    return worker_pool_on_registered(p, token, now, &out);
}

static void gone(uint64_t token)
{
    worker_pool_on_exit(p, token, now, &out);
}

static void release(uint64_t token)
{
    worker_pool_release(p, token, now, &out);
}

static void pass(uint64_t ms)
{
    now += ms;
    worker_pool_on_time(p, now, &out);
}

/* Workers 1..n, idle, the last one used last. */
static void have_idle(unsigned n)
{
    make(n, n, 100);
    worker_pool_prestart(p, n, now, &out);
    for (unsigned i = 1; i <= n; i++)
        ck_assert(registered(i));
    out.n = 0;
}

START_TEST(a_request_starts_a_worker_and_is_granted_when_it_registers)
{
    request(1);
    ck_assert_str_eq(seen(), "spawn 1");
    ck_assert(registered(1));
    ck_assert_str_eq(seen(), "grant 1");
}
END_TEST

START_TEST(a_request_is_served_by_the_idle_worker_that_was_used_last)
{
    have_idle(3);
    request(1);
    ck_assert_str_eq(seen(), "grant 3");
    request(1);
    ck_assert_str_eq(seen(), "grant 2");
    release(3);
    request(2);
    ck_assert_str_eq(seen(), "grant 3 grant 1");
}
END_TEST

START_TEST(the_start_limit_holds_with_a_hundred_requests)
{
    struct worker_pool_stats stats;

    request(100);
    ck_assert_str_eq(seen(), "spawn 1 spawn 2");
    for (uint64_t token = 1; token <= 98; token++) {
        ck_assert(registered(token));
        worker_pool_get_stats(p, &stats);
        ck_assert_uint_eq(stats.n_starting, 2);
        out.n = 0;
    }
    ck_assert(registered(99));
    ck_assert(registered(100));
    ck_assert_str_eq(seen(), "grant 99 grant 100");
}
END_TEST

START_TEST(no_more_processes_than_the_maximum_are_ever_made)
{
    make(8, 2, 3);
    request(5);
    ck_assert_str_eq(seen(), "spawn 1 spawn 2 spawn 3");
    registered(1);
    registered(2);
    registered(3);
    ck_assert_str_eq(seen(), "grant 1 grant 2 grant 3");
    release(2);
    ck_assert_str_eq(seen(), "grant 2");
    gone(1);
    ck_assert_str_eq(seen(), "spawn 4");
}
END_TEST

START_TEST(a_worker_that_does_not_register_is_killed_and_started_again)
{
    request(1);
    ck_assert_str_eq(seen(), "spawn 1");
    ck_assert_uint_eq(worker_pool_next_deadline(p), now + WORKER_POOL_REGISTER_MS);
    pass(WORKER_POOL_REGISTER_MS - 1);
    ck_assert_str_eq(seen(), "");
    pass(1);
    ck_assert_str_eq(seen(), "kill 1 spawn 2");
    ck_assert(!registered(1)); /* too late */
    ck_assert_str_eq(seen(), "");
    gone(1);
    ck_assert_str_eq(seen(), "");
    registered(2);
    ck_assert_str_eq(seen(), "grant 2");
}
END_TEST

START_TEST(inv_18_five_failed_starts_fail_what_waits_once)
{
    request(2);
    ck_assert_str_eq(seen(), "spawn 1 spawn 2");
    for (uint64_t token = 1; token <= 4; token++) {
        gone(token);
        ck_assert_uint_eq(out.n, 1);
        ck_assert_int_eq(out.v[0].kind, WORKER_POOL_SPAWN);
        out.n = 0;
    }
    gone(5);
    ck_assert_str_eq(seen(), "fail");
    gone(6);
    ck_assert_str_eq(seen(), "");
    request(1); /* a new request is a new chance */
    ck_assert_str_eq(seen(), "spawn 7");
}
END_TEST

START_TEST(timeouts_and_exits_count_as_one_row_of_failures)
{
    request(1);
    for (uint64_t token = 1; token <= 4; token++) {
        if (token % 2 == 0) {
            gone(token);
        } else {
            pass(WORKER_POOL_REGISTER_MS);
            gone(token);
        }
    }
    out.n = 0;
    gone(5);
    ck_assert_str_eq(seen(), "fail");
}
END_TEST

START_TEST(one_that_registers_ends_the_row_of_failures)
{
    request(9);
    for (uint64_t token = 1; token <= 4; token++)
        gone(token);
    ck_assert(registered(5));
    out.n = 0;
    for (uint64_t token = 6; token <= 9; token++)
        gone(token);
    for (size_t i = 0; i < out.n; i++)
        ck_assert_int_ne(out.v[i].kind, WORKER_POOL_FAIL);
}
END_TEST

START_TEST(inv_5_a_token_that_is_unknown_or_used_is_refused)
{
    request(1);
    ck_assert(!registered(0));
    ck_assert(!registered(7));
    ck_assert(registered(1));
    ck_assert(!registered(1));
    gone(1);
    ck_assert(!registered(1));
}
END_TEST

START_TEST(a_cancel_before_the_worker_comes_leaves_it_idle)
{
    request(1);
    worker_pool_cancel(p);
    registered(1);
    ck_assert_str_eq(seen(), "spawn 1");
    request(1);
    ck_assert_str_eq(seen(), "grant 1");
}
END_TEST

START_TEST(a_cancel_of_nothing_is_ignored)
{
    worker_pool_cancel(p);
    request(1);
    worker_pool_cancel(p);
    worker_pool_cancel(p);
    request(1);
    ck_assert_str_eq(seen(), "spawn 1");
    registered(1);
    ck_assert_str_eq(seen(), "grant 1");
}
END_TEST

START_TEST(inv_10_a_worker_that_is_released_twice_is_idle_once)
{
    struct worker_pool_stats stats;

    have_idle(1);
    request(1);
    release(1);
    release(1);
    release(99);
    worker_pool_get_stats(p, &stats);
    ck_assert_uint_eq(stats.n_idle, 1);
    request(2);
    ck_assert_str_eq(seen(), "grant 1 grant 1 spawn 2");
}
END_TEST

START_TEST(a_worker_that_dies_in_any_state_is_forgotten)
{
    struct worker_pool_stats stats;

    have_idle(2);
    request(1);
    gone(2); /* leased */
    gone(1); /* idle */
    gone(1);
    worker_pool_get_stats(p, &stats);
    ck_assert_uint_eq(stats.n_idle + stats.n_leased + stats.n_starting + stats.n_exiting, 0);
}
END_TEST

START_TEST(an_idle_surplus_is_retired_the_longest_idle_first)
{
    have_idle(4);
    request(4); /* 4 3 2 1 */
    for (uint64_t token = 1; token <= 4; token++) {
        now += 100;
        release(token);
    }
    out.n = 0;
    pass(WORKER_POOL_IDLE_MS * 2);
    ck_assert_str_eq(seen(), ""); /* all four are kept */
    make(5, 2, 100);
    request(5);
    for (uint64_t token = 1; token <= 5; token++)
        registered(token);
    release(3);
    now += 10;
    release(1);
    now += 10;
    release(2);
    out.n = 0;
    ck_assert_uint_eq(worker_pool_next_deadline(p), now - 20 + WORKER_POOL_IDLE_MS);
    pass(WORKER_POOL_IDLE_MS - 11);
    ck_assert_str_eq(seen(), "exit 3");
    pass(100);
    ck_assert_str_eq(seen(), "exit 1 exit 2"); /* the leased two are what is kept */
    request(1);
    ck_assert_str_eq(seen(), "spawn 6"); /* one told to end is not to be had */
    gone(3);
    ck_assert_str_eq(seen(), "");
}
END_TEST

START_TEST(fewer_are_kept_from_now_on)
{
    make(4, 4, 100);
    worker_pool_prestart(p, 4, now, &out);
    ck_assert_str_eq(seen(), "spawn 1 spawn 2 spawn 3 spawn 4");
    for (uint64_t token = 1; token <= 4; token++)
        worker_pool_on_registered(p, token, now, &out);
    ck_assert(worker_pool_next_deadline(p) == UINT64_MAX);
    worker_pool_set_keep(p, 1); /* three other jobs came */
    ck_assert_uint_eq(worker_pool_next_deadline(p), now + WORKER_POOL_IDLE_MS);
    now += WORKER_POOL_IDLE_MS;
    worker_pool_on_time(p, now, &out);
    ck_assert_str_eq(seen(), "exit 1 exit 2 exit 3");
    worker_pool_set_keep(p, 4);
    request(1);
    ck_assert_str_eq(seen(), "grant 4");
}
END_TEST

START_TEST(a_surplus_worker_whose_objects_are_needed_stays)
{
    make(3, 1, 100);
    request(3);
    for (uint64_t token = 1; token <= 3; token++)
        registered(token);
    release(1);
    release(2);
    out.n = 0;
    pass(WORKER_POOL_IDLE_MS);
    ck_assert(out.v[0].may_stay);
    ck_assert_str_eq(seen(), "exit 1 exit 2");
    worker_pool_on_stays(p, 1, now, &out);
    worker_pool_on_stays(p, 1, now, &out);
    worker_pool_on_stays(p, 3, now, &out);
    worker_pool_on_stays(p, 99, now, &out);
    request(1);
    ck_assert_str_eq(seen(), "grant 1");
    release(1);
    pass(WORKER_POOL_IDLE_MS);
    ck_assert_str_eq(seen(), "exit 1"); /* asked again */
    pass(WORKER_POOL_EXIT_MS);
    ck_assert_str_eq(seen(), ""); /* it may be about to answer */
    ck_assert_uint_eq(worker_pool_next_deadline(p),
                      now - WORKER_POOL_EXIT_MS - WORKER_POOL_IDLE_MS + WORKER_POOL_ANSWER_MS);
    worker_pool_drain(p, now, &out);
    worker_pool_on_stays(p, 1, now, &out); /* it was asked before the drain */
    ck_assert(!out.v[0].may_stay);
    ck_assert_str_eq(seen(), "exit 1");
    worker_pool_on_stays(p, 1, now, &out);
    pass(WORKER_POOL_EXIT_MS);
    ck_assert_str_eq(seen(), "kill 1 kill 2");
    worker_pool_on_stays(p, 2, now, &out); /* too late */
    ck_assert_str_eq(seen(), "");
}
END_TEST

START_TEST(one_that_was_told_to_end_and_does_not_is_killed)
{
    have_idle(1);
    worker_pool_drain(p, now, &out);
    ck_assert_str_eq(seen(), "exit 1");
    ck_assert_uint_eq(worker_pool_next_deadline(p), now + WORKER_POOL_EXIT_MS);
    pass(WORKER_POOL_EXIT_MS);
    ck_assert_str_eq(seen(), "kill 1");
    pass(WORKER_POOL_EXIT_MS); /* its pid may not have been known */
    ck_assert_str_eq(seen(), "kill 1");
    gone(1);
    ck_assert_uint_eq(worker_pool_next_deadline(p), UINT64_MAX);
}
END_TEST

START_TEST(drain_completes_when_the_last_leased_worker_is_released)
{
    struct worker_pool_stats stats;

    have_idle(2);
    request(1);
    ck_assert_str_eq(seen(), "grant 2");
    request(1);
    ck_assert_str_eq(seen(), "grant 1");
    request(1);
    release(1);
    ck_assert_str_eq(seen(), "spawn 3 grant 1");
    release(1);
    worker_pool_drain(p, now, &out);
    ck_assert_str_eq(seen(), "kill 3 exit 1");
    request(1);
    ck_assert_str_eq(seen(), "fail");
    worker_pool_prestart(p, 2, now, &out);
    ck_assert_str_eq(seen(), "");
    gone(1);
    gone(3);
    release(2);
    ck_assert_str_eq(seen(), "exit 2");
    gone(2);
    worker_pool_get_stats(p, &stats);
    ck_assert_uint_eq(stats.n_starting + stats.n_idle + stats.n_leased + stats.n_exiting, 0);
}
END_TEST

START_TEST(prestarted_workers_wait_and_serve_the_first_requests)
{
    worker_pool_prestart(p, 2, now, &out);
    ck_assert_str_eq(seen(), "spawn 1 spawn 2");
    request(1);
    ck_assert_str_eq(seen(), "");
    registered(1);
    ck_assert_str_eq(seen(), "grant 1");
    registered(2);
    ck_assert_str_eq(seen(), "");
    gone(2); /* nothing is started in its place before somebody asks */
    ck_assert_str_eq(seen(), "");
}
END_TEST

/* Ten thousand legal events; a model counts what is owed. */
enum { MODEL_MAX = 64 };
struct model {
    enum { NONE, SPAWNED, IDLE, LEASED, ENDING } state[MODEL_MAX];
    uint64_t token[MODEL_MAX];
    unsigned owed;
};

static int at(const struct model *m, uint64_t token)
{
    for (int i = 0; i < MODEL_MAX; i++)
        if (m->state[i] != NONE && m->token[i] == token)
            return i;
    return -1;
}

static void apply(struct model *m)
{
    for (size_t k = 0; k < out.n; k++) {
        struct worker_pool_action a = out.v[k];
        int i = at(m, a.token);
        switch (a.kind) {
        case WORKER_POOL_SPAWN:
            ck_assert_int_eq(i, -1);
            for (i = 0; m->state[i] != NONE; i++)
                ck_assert_int_lt(i, MODEL_MAX - 1);
            m->state[i] = SPAWNED;
            m->token[i] = a.token;
            break;
        case WORKER_POOL_GRANT: /* INV-10: only an idle one */
            ck_assert_int_ge(i, 0);
            ck_assert_int_eq(m->state[i], IDLE);
            ck_assert_uint_gt(m->owed, 0);
            m->state[i] = LEASED;
            m->owed--;
            break;
        case WORKER_POOL_EXIT:
            ck_assert_int_eq(m->state[i], IDLE);
            m->state[i] = ENDING;
            break;
        case WORKER_POOL_KILL:
            ck_assert(m->state[i] == SPAWNED || m->state[i] == ENDING);
            m->state[i] = ENDING;
            break;
        case WORKER_POOL_FAIL:
            m->owed = 0;
            break;
        }
    }
    out.n = 0;
}

START_TEST(ten_thousand_random_events_keep_inv_10_and_inv_18)
{
    struct model m = {0};
    struct worker_pool_stats stats;
    unsigned seed = 4711 + (unsigned)_i;

    printf("seed %u\n", seed);
    make(3, 4, 20);
    for (int step = 0; step < 10000; step++) {
        int i = rand_r(&seed) % MODEL_MAX, k = rand_r(&seed) % 100;
        bool dies = k < 8;
        now += (unsigned)rand_r(&seed) % 50;
        if (k >= 90) {
            m.owed++;
            request(1);
        } else if (k >= 85) {
            m.owed -= m.owed > 0;
            worker_pool_cancel(p);
        } else if (k >= 70) {
            pass((uint64_t)rand_r(&seed) % 500);
        } else if (m.state[i] != NONE && (dies || m.state[i] == ENDING)) {
            m.state[i] = NONE;
            gone(m.token[i]);
        } else if (m.state[i] == SPAWNED) {
            m.state[i] = IDLE;
            ck_assert(registered(m.token[i]));
        } else if (m.state[i] == LEASED) {
            m.state[i] = IDLE;
            release(m.token[i]);
        }
        apply(&m);
        worker_pool_get_stats(p, &stats);
        ck_assert_uint_eq(stats.n_wanted, m.owed);
        ck_assert_uint_le(stats.n_starting, 3);
        ck_assert_uint_le(stats.n_starting + stats.n_idle + stats.n_leased + stats.n_exiting, 20);
        worker_pool_selfcheck(p);
    }
    worker_pool_drain(p, now, &out);
    apply(&m);
    ck_assert_uint_eq(m.owed, 0);
    for (int i = 0; i < MODEL_MAX; i++) {
        if (m.state[i] == LEASED) {
            m.state[i] = IDLE;
            release(m.token[i]);
            apply(&m);
        }
        if (m.state[i] != NONE) {
            m.state[i] = NONE;
            gone(m.token[i]);
            apply(&m);
        }
    }
    worker_pool_get_stats(p, &stats);
    ck_assert_uint_eq(stats.n_starting + stats.n_idle + stats.n_leased + stats.n_exiting, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("worker_pool");
    TCase *c = tcase_create("worker_pool");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_set_timeout(c, 60);
    tcase_add_test(c, a_request_starts_a_worker_and_is_granted_when_it_registers);
    tcase_add_test(c, a_request_is_served_by_the_idle_worker_that_was_used_last);
    tcase_add_test(c, the_start_limit_holds_with_a_hundred_requests);
    tcase_add_test(c, no_more_processes_than_the_maximum_are_ever_made);
    tcase_add_test(c, a_worker_that_does_not_register_is_killed_and_started_again);
    tcase_add_test(c, inv_18_five_failed_starts_fail_what_waits_once);
    tcase_add_test(c, timeouts_and_exits_count_as_one_row_of_failures);
    tcase_add_test(c, one_that_registers_ends_the_row_of_failures);
    tcase_add_test(c, inv_5_a_token_that_is_unknown_or_used_is_refused);
    tcase_add_test(c, a_cancel_before_the_worker_comes_leaves_it_idle);
    tcase_add_test(c, a_cancel_of_nothing_is_ignored);
    tcase_add_test(c, inv_10_a_worker_that_is_released_twice_is_idle_once);
    tcase_add_test(c, a_worker_that_dies_in_any_state_is_forgotten);
    tcase_add_test(c, an_idle_surplus_is_retired_the_longest_idle_first);
    tcase_add_test(c, fewer_are_kept_from_now_on);
    tcase_add_test(c, a_surplus_worker_whose_objects_are_needed_stays);
    tcase_add_test(c, one_that_was_told_to_end_and_does_not_is_killed);
    tcase_add_test(c, drain_completes_when_the_last_leased_worker_is_released);
    tcase_add_test(c, prestarted_workers_wait_and_serve_the_first_requests);
    tcase_add_loop_test(c, ten_thousand_random_events_keep_inv_10_and_inv_18, 0, 4);
    suite_add_tcase(s, c);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
