/* SPDX-License-Identifier: Apache-2.0 */
#include "raylet/channel_table.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define MAX    3u
#define DRIVER 0u

static struct channel_table *t;
static struct channel_pair ended[2];
static unsigned n_ended;

static void setup(void)
{
    t = channel_table_create(MAX);
}

static void teardown(void)
{
    channel_table_destroy(t);
}

static enum channel_way begin(uint32_t owner, uint32_t worker)
{
    return channel_table_begin(t, owner, worker, ended, &n_ended);
}

static void has_ended(unsigned i, uint32_t owner, uint32_t worker)
{
    ck_assert_uint_lt(i, n_ended);
    ck_assert_uint_eq(ended[i].owner, owner);
    ck_assert_uint_eq(ended[i].worker, worker);
}

START_TEST(a_pair_keeps_its_channel)
{
    ck_assert_int_eq(begin(DRIVER, 1), CHANNEL_NEW);
    ck_assert_int_eq(begin(DRIVER, 1), CHANNEL_KNOWN);
    channel_table_idle(t, 1);
    ck_assert_int_eq(begin(DRIVER, 1), CHANNEL_KNOWN);
    ck_assert_int_eq(begin(1, DRIVER), CHANNEL_NEW); /* the other way round is another */
    ck_assert_uint_eq(n_ended, 0);
    ck_assert_uint_eq(channel_table_count(t, DRIVER), 2);
    ck_assert_uint_eq(channel_table_count(t, 1), 2);
}
END_TEST

START_TEST(the_one_unused_for_longest_makes_room)
{
    for (uint32_t w = 1; w <= MAX; w++)
        ck_assert_int_eq(begin(DRIVER, w), CHANNEL_NEW);
    channel_table_idle(t, 2);
    channel_table_idle(t, 1);
    begin(DRIVER, 2);
    channel_table_idle(t, 2); /* used after 1 */
    ck_assert_int_eq(begin(DRIVER, 4), CHANNEL_NEW);
    ck_assert_uint_eq(n_ended, 1);
    has_ended(0, DRIVER, 1);
    ck_assert_uint_eq(channel_table_count(t, DRIVER), MAX);
    ck_assert_uint_eq(channel_table_count(t, 1), 0);
    ck_assert_int_eq(begin(DRIVER, 1), CHANNEL_NEW); /* it comes back in place of the next */
    has_ended(0, DRIVER, 2);
}
END_TEST

START_TEST(when_all_are_in_use_the_pair_gets_a_route_for_good)
{
    for (uint32_t w = 1; w <= MAX; w++)
        begin(DRIVER, w);
    ck_assert_int_eq(begin(DRIVER, 4), CHANNEL_ROUTE);
    ck_assert_uint_eq(n_ended, 0);
    ck_assert_uint_eq(channel_table_count(t, DRIVER), MAX);
    channel_table_idle(t, 1);
    channel_table_idle(t, 4);
    ck_assert_int_eq(begin(DRIVER, 4), CHANNEL_KNOWN);
    ck_assert_int_eq(begin(DRIVER, 5), CHANNEL_NEW); /* routes make no room */
    has_ended(0, DRIVER, 1);
}
END_TEST

START_TEST(a_worker_has_its_number_too)
{
    for (uint32_t o = 1; o <= MAX; o++) {
        begin(o, 9);
        channel_table_idle(t, 9);
    }
    for (uint32_t w = 1; w < MAX; w++)
        begin(DRIVER, w);
    ck_assert_int_eq(begin(DRIVER, 9), CHANNEL_NEW); /* the driver has room */
    ck_assert_uint_eq(n_ended, 1);
    has_ended(0, 1, 9);
    channel_table_idle(t, 9);
    channel_table_idle(t, 1);
    ck_assert_int_eq(begin(DRIVER, 20), CHANNEL_NEW);
    has_ended(0, DRIVER, 9);
    begin(4, 9);
    channel_table_idle(t, 9);
    channel_table_idle(t, 2);
    ck_assert_int_eq(begin(DRIVER, 9), CHANNEL_NEW); /* both are full */
    ck_assert_uint_eq(n_ended, 2);
    has_ended(0, DRIVER, 1);
    has_ended(1, 2, 9);
}
END_TEST

START_TEST(one_that_ends_for_both_ends_once)
{
    ck_assert_int_eq(begin(7, 8), CHANNEL_NEW);
    channel_table_idle(t, 8);
    for (uint32_t i = 1; i < MAX; i++) {
        begin(8, 10 + i); /* 8 owns these, 7 those: in use */
        begin(7, 20 + i);
    }
    ck_assert_int_eq(begin(8, 7), CHANNEL_NEW);
    ck_assert_uint_eq(n_ended, 1);
    has_ended(0, 7, 8);
    ck_assert_uint_eq(channel_table_count(t, 7), MAX);
    ck_assert_uint_eq(channel_table_count(t, 8), MAX);
}
END_TEST

START_TEST(nothing_ends_if_one_side_can_make_no_room)
{
    for (uint32_t w = 1; w <= MAX; w++) {
        begin(DRIVER, w);
        channel_table_idle(t, w);
        begin(9, 20 + w); /* all of 9 are in use */
    }
    ck_assert_int_eq(begin(DRIVER, 9), CHANNEL_ROUTE);
    ck_assert_uint_eq(n_ended, 0);
    ck_assert_uint_eq(channel_table_count(t, DRIVER), MAX);
}
END_TEST

START_TEST(a_lost_channel_becomes_a_route_once)
{
    begin(DRIVER, 1);
    channel_table_lost(t, DRIVER, 1);
    channel_table_lost(t, DRIVER, 1);
    channel_table_lost(t, DRIVER, 2); /* never was */
    ck_assert_uint_eq(channel_table_count(t, DRIVER), 0);
    ck_assert_uint_eq(channel_table_count(t, 1), 0);
    ck_assert_int_eq(begin(DRIVER, 1), CHANNEL_ROUTE);
    ck_assert_int_eq(begin(DRIVER, 1), CHANNEL_KNOWN);
}
END_TEST

START_TEST(what_a_process_had_goes_with_it)
{
    begin(DRIVER, 1);
    begin(1, 2);
    begin(2, 3);
    channel_table_remove(t, 1);
    ck_assert_uint_eq(channel_table_count(t, DRIVER), 0);
    ck_assert_uint_eq(channel_table_count(t, 1), 0);
    ck_assert_uint_eq(channel_table_count(t, 2), 1);
    channel_table_idle(t, 2);                        /* its channel is freed */
    ck_assert_int_eq(begin(DRIVER, 1), CHANNEL_NEW); /* another process in the slot */
}
END_TEST

/* Against a model that knows pairs, uses and nothing else. */
START_TEST(any_order_of_events_keeps_the_bound)
{
    enum { N = 12, STEPS = 20000 };
    unsigned seed = (unsigned)_i + 1;
    uint64_t used[N][N] = {{0}}, clock = 0;
    bool has[N][N] = {{0}}, routed[N][N] = {{0}};
    int holder[N]; /* whose lease the worker has; -1: none */

    for (int i = 0; i < N; i++)
        holder[i] = -1;
    for (int step = 0; step < STEPS; step++) {
        uint32_t o = (uint32_t)rand_r(&seed) % N, w = (uint32_t)rand_r(&seed) % N;
        int what = rand_r(&seed) % 16;
        if (o == w)
            continue;
        if (what == 0) {
            channel_table_remove(t, w);
            for (int i = 0; i < N; i++) {
                has[w][i] = has[i][w] = routed[w][i] = routed[i][w] = false;
                if (holder[i] == (int)w)
                    holder[i] = -1;
            }
            holder[w] = -1;
        } else if (what < 6) {
            channel_table_idle(t, w);
            if (holder[w] >= 0)
                used[holder[w]][w] = ++clock;
            holder[w] = -1;
        } else {
            if (holder[w] >= 0) { /* one lease at a time */
                channel_table_idle(t, w);
                used[holder[w]][w] = ++clock;
                holder[w] = -1;
            }
            enum channel_way way = begin(o, w);
            for (unsigned i = 0; i < n_ended; i++) {
                uint32_t a = ended[i].owner, b = ended[i].worker;
                ck_assert(has[a][b] && holder[b] != (int)a);
                ck_assert(a == o || a == w || b == o || b == w);
                has[a][b] = false;
            }
            for (unsigned i = 0; i < n_ended; i++) /* none that is left is older and idle */
                for (int k = 0; k < N; k++) {
                    uint32_t a = ended[i].owner, b = ended[i].worker;
                    bool of_o = a == o || b == o, of_w = a == w || b == w;
                    uint32_t full = n_ended == 2 ? (i == 0 ? o : w) : of_o ? o : w;
                    if (n_ended == 1 && of_o && of_w)
                        continue; /* for either */
                    if (has[full][k] && holder[k] != (int)full)
                        ck_assert_uint_gt(used[full][k], used[a][b]);
                    if (has[k][full] && holder[full] != k)
                        ck_assert_uint_gt(used[k][full], used[a][b]);
                }
            ck_assert_int_eq(way,
                             has[o][w] || routed[o][w] ? CHANNEL_KNOWN
                             : way == CHANNEL_ROUTE    ? CHANNEL_ROUTE
                                                       : CHANNEL_NEW);
            has[o][w] |= way == CHANNEL_NEW;
            routed[o][w] |= way == CHANNEL_ROUTE;
            holder[w] = (int)o;
            used[o][w] = ++clock;
        }
        for (uint32_t p = 0; p < N; p++) {
            unsigned n = 0;
            for (int k = 0; k < N; k++)
                n += has[p][k] + has[k][p];
            ck_assert_uint_eq(channel_table_count(t, p), n);
            ck_assert_uint_le(n, MAX);
        }
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("channel_table");
    TCase *c = tcase_create("channel_table");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, a_pair_keeps_its_channel);
    tcase_add_test(c, the_one_unused_for_longest_makes_room);
    tcase_add_test(c, when_all_are_in_use_the_pair_gets_a_route_for_good);
    tcase_add_test(c, a_worker_has_its_number_too);
    tcase_add_test(c, one_that_ends_for_both_ends_once);
    tcase_add_test(c, nothing_ends_if_one_side_can_make_no_room);
    tcase_add_test(c, a_lost_channel_becomes_a_route_once);
    tcase_add_test(c, what_a_process_had_goes_with_it);
    tcase_add_loop_test(c, any_order_of_events_keeps_the_bound, 0, 4);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
