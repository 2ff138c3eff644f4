/* SPDX-License-Identifier: Apache-2.0 */
/* What a node does while the GCS does not answer. */
#include "gcs/sync_way.h"

#include <check.h>
#include <stdlib.h>

static struct sync_way w;
static uint64_t now;
static unsigned n_asks, n_dials, n_others;

static void setup(void)
{
    now = 1000;
    sync_way_heard(&w, now);
    n_asks = n_dials = n_others = 0;
}

/* By its timer; every time that is due something is to be done. */
static void pass(uint64_t ms, unsigned n_nodes)
{
    uint64_t end = now + ms;

    for (uint64_t at; (at = sync_way_due(&w, n_nodes)) <= end;) {
        now = at > now ? at : now;
        unsigned steps = sync_way_on_time(&w, now, n_nodes);
        ck_assert_uint_ne(steps, 0);
        ck_assert((steps & SYNC_WAY_DIAL) == 0 || (steps & SYNC_WAY_ASK) != 0);
        n_asks += (steps & SYNC_WAY_ASK) != 0;
        n_dials += (steps & SYNC_WAY_DIAL) != 0;
        n_others += (steps & SYNC_WAY_OTHERS) != 0;
    }
    now = end;
}

START_TEST(test_who_is_answered_does_nothing)
{
    for (int i = 0; i < 100; i++) {
        pass(SYNC_WAY_QUIET_MS - 1, 10);
        sync_way_heard(&w, now);
    }
    ck_assert_uint_eq(n_asks + n_others, 0);
    ck_assert(sync_way_is_open(&w));
}
END_TEST

START_TEST(test_the_connection_is_asked_before_it_is_given_up)
{
    pass(SYNC_WAY_QUIET_MS, 10);
    ck_assert_uint_eq(n_asks, 1);
    ck_assert_uint_eq(n_dials + n_others, 0);
    ck_assert(!sync_way_is_open(&w));
    sync_way_heard(&w, now);
    pass(SYNC_WAY_QUIET_MS - 1, 10);
    ck_assert_uint_eq(n_asks, 1);
}
END_TEST

/* Of a cable that is up half of the time, whatever its rhythm, one that is dialled then gets
 * through.
 */
START_TEST(test_flapping_is_outlived)
{
    for (uint64_t half = 100; half <= 700; half += 10)
        for (uint64_t phase = 0; phase < 2 * half; phase += 10) {
            setup();
            bool is_through = false;
            while (!is_through && now < 1000 + 6000) {
                unsigned before = n_dials;
                pass(sync_way_due(&w, 10) - now, 10);
                is_through = n_dials > before && (now + phase) / half % 2 == 0;
            }
            ck_assert_msg(is_through, "half %d phase %d", (int)half, (int)phase);
        }
}
END_TEST

START_TEST(test_others_are_asked_in_time_to_be_heard)
{
    pass(3000, 10);
    ck_assert_uint_ge(n_others, 1);
    for (int i = 0; i < 20; i++) { /* as long as they have answers, about as often as usual */
        n_others = 0;
        sync_way_heard_by_others(&w, now);
        pass(900, 10);
        ck_assert_uint_eq(n_others, 1);
    }
    ck_assert(!sync_way_is_open(&w));
    n_others = 0;
    pass(4000, 10); /* then not any more: more of them, soon */
    ck_assert_uint_ge(n_others, 3);
}
END_TEST

START_TEST(test_a_gcs_that_is_away_is_not_stormed)
{
    pass(10000, 10);
    n_asks = n_dials = n_others = 0;
    pass(3600000, 10);
    ck_assert_uint_le(n_asks, 1900);
    ck_assert_uint_ge(n_asks, 1500);
    ck_assert_uint_eq(n_dials, n_asks / 5);
    ck_assert_uint_le(n_others, 1900);
    ck_assert_uint_ge(n_others, 1500); /* it may be back for some of them */
    setup();
    pass(SYNC_WAY_QUIET_MS + 1000, 1500); /* all together: a thousand a second */
    ck_assert_uint_eq(n_dials, 0);
    pass(1000, 1500);
    ck_assert_uint_eq(n_dials, 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sync_way");
    TCase *t = tcase_create("sync_way");

    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, test_who_is_answered_does_nothing);
    tcase_add_test(t, test_the_connection_is_asked_before_it_is_given_up);
    tcase_add_test(t, test_flapping_is_outlived);
    tcase_add_test(t, test_others_are_asked_in_time_to_be_heard);
    tcase_add_test(t, test_a_gcs_that_is_away_is_not_stormed);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed == 0 ? 0 : 1;
}
